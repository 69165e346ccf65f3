"""Disks: image files as block devices, read-only (docs/formats/qcow2.md).

`open` finds the format of an image file and opens it, `block_size` finds the logical block size that it was written
for, and `block_device` is what the machine reads blocks from. What is wrong with the file or the host leaves here as
`UndecidedError`; what the guest asks for in vain as `BlockOutOfRange`.
"""
