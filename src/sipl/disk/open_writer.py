"""Opening an image to be written to: raw or qcow2, by the same rules as for reading."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.disk.host_file import HostFile
from sipl.disk.open import open_image
from sipl.disk.raw_writer import RawWriter
from sipl.disk.writable_file import WritableFile
from sipl.errors import ImageError, SealRefused
from sipl.layout.qcow2 import (
    HEADER_V2_SIZE,
    HEADER_V3_SIZE,
    INCOMPATIBLE_CORRUPT,
    QCOW2_MAGIC,
    Qcow2Header,
    Qcow2HeaderV3,
)
from sipl.layout.record import unpack
from sipl.reasons import SealReason

if TYPE_CHECKING:
    import os

    from sipl.disk.image import Image
    from sipl.disk.raw_writer import OrderedImage


def open_writer(
    path: str | os.PathLike[str], *, allow_backing: bool = False, backing_folder: str | os.PathLike[str] | None = None
) -> OrderedImage:
    """Open and lock a disk image for reading and writing; backing files are only read.

    Raises:
        ImageError: the file cannot be opened, read or locked.
        ImageFormatError: the image is damaged, or asks for something that sipl does not read or was not allowed.
        SealRefused: image-in-use, image-not-writable, one of the reasons of a qcow2 image.
        UsageError: as `open_image`; the host has no locks.
    """
    file = WritableFile(path)
    try:

        def reopen() -> Image:
            image = open_image(file.path, allow_backing=allow_backing, backing_folder=backing_folder)
            try:
                _open_same(file).close()
            except BaseException:
                image.close()
                raise
            return image

        start = file.read(0, HEADER_V3_SIZE)
        if not start.startswith(QCOW2_MAGIC):
            reopen().close()  # knows the other containers
            return RawWriter(file)
        _check_marks(file.path, start)
        from sipl.disk.qcow2_header import read_header
        from sipl.disk.qcow2_writer import Qcow2Writer

        readable = _open_same(file)
        try:
            parameters = read_header(readable)
        finally:
            readable.close()
        return Qcow2Writer(file, parameters, reopen)
    except BaseException:
        file.close()
        raise


def _open_same(file: WritableFile) -> HostFile:
    """The file that is written to, opened once more for reading."""
    found = HostFile(file.path)
    if found.identity != file.identity:
        found.close()
        raise ImageError(file.path, "another file took the place of the image", "try again")
    return found


def _check_marks(path: str, start: bytes) -> None:
    """Name what no reader opens either."""
    header = unpack(Qcow2Header, start)
    if header.crypt_method:
        raise SealRefused(
            SealReason.QCOW2_ENCRYPTED, path, "the image is encrypted", "decrypt it with qemu-img convert"
        )
    if header.version > 2 and unpack(Qcow2HeaderV3, start, HEADER_V2_SIZE).incompatible & INCOMPATIBLE_CORRUPT:
        raise SealRefused(
            SealReason.QCOW2_CORRUPT, path, "the image is marked as corrupt", "repair it with qemu-img check -r all"
        )
