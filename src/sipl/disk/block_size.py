"""The logical block size that a disk was written for (docs/formats/qcow2.md, section "Block size").

An image file does not state it: it belongs to the device that the guest had. What was written with block numbers
gives it away.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.boot_record import (
    ISO_MAGIC,
    ISO_MAGIC_OFFSET,
    MIN_BLOCK_SIZE,
    ZIPL_MAGIC,
    BlockPointer,
    BootRecord,
)
from sipl.layout.record import size_of, unpack

if TYPE_CHECKING:
    from sipl.disk.image import Image

BLOCK_SIZES: Final = (512, 1024, 2048, 4096)
GPT_MAGIC: Final = b"EFI PART"  # start of block 1
ISO_BLOCK_SIZE: Final = 2048


def find_block_size(image: Image) -> int:
    """Return the logical block size in bytes: 512, 1024, 2048 or 4096.

    The first of these that says something decides: the pointer to the program table in a zIPL boot record, the place
    of the GPT, the magic of an ISO file system. Without any it is 512.

    Raises:
        ImageError: the image cannot be read.
        ImageFormatError: the image contradicts its format.
    """
    return _from_boot_record(image) or _from_partition_table(image) or _from_file_system(image) or MIN_BLOCK_SIZE


def _from_boot_record(image: Image) -> int | None:
    record = unpack(BootRecord, image.read(0, size_of(BootRecord)))
    pointer = unpack(BlockPointer, record.program_table)
    plausible = pointer.size in BLOCK_SIZES and 0 < pointer.block < image.size // pointer.size
    return pointer.size if record.magic == ZIPL_MAGIC and plausible else None


def _from_partition_table(image: Image) -> int | None:
    return next((size for size in BLOCK_SIZES if _holds(image, size, GPT_MAGIC)), None)


def _from_file_system(image: Image) -> int | None:
    return ISO_BLOCK_SIZE if _holds(image, ISO_MAGIC_OFFSET, ISO_MAGIC) else None


def _holds(image: Image, offset: int, magic: bytes) -> bool:
    return offset + len(magic) <= image.size and image.read(offset, len(magic)) == magic
