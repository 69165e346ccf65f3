"""Opening an image whose format only the file itself tells."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sipl.disk.companions import Companions
from sipl.disk.host_file import HostFile
from sipl.disk.raw import RawImage
from sipl.errors import ImageFormatError, UsageError
from sipl.layout.qcow2 import QCOW2_MAGIC

if TYPE_CHECKING:
    from sipl.disk.image import Image

# Other containers by what stands where in their first bytes. None of it can stand in a disk that zipl wrote, whose
# first four bytes are its own magic.
_CONTAINERS: Final = (
    ("VMDK", ((0, b"KDMV"),)),
    ("VMDK", ((0, b"COWD"),)),
    ("VMDK", ((0, b"# Disk DescriptorFile"),)),
    ("VHDX", ((0, b"vhdxfile"),)),
    ("VHD", ((0, b"conectix"),)),
    ("VDI", ((0, b"<<<"), (64, b"\x7f\x10\xda\xbe"))),
    ("QED", ((0, b"QED\0"),)),
    ("LUKS", ((0, b"LUKS\xba\xbe"),)),
)
_LOOK: Final = 512


def open_image(
    path: str | os.PathLike[str], *, allow_backing: bool = False, backing_folder: str | os.PathLike[str] | None = None
) -> Image:
    """Open a disk image read-only: qcow2 by its magic, everything else that is no known container as raw.

    With `allow_backing`, the backing and data files that a qcow2 image names are opened if they lie, with symbolic
    links followed, inside the folder of the image, or inside `backing_folder` instead if that is given.

    Raises:
        ImageError: the file cannot be opened or read, is empty, or is no file.
        ImageFormatError: the image is damaged, or asks for something that sipl does not read or was not allowed.
        UsageError: `backing_folder` without `allow_backing`, or no folder.
    """
    folder = companions_folder(path, allow_backing=allow_backing, backing_folder=backing_folder)
    file = HostFile(path)
    try:
        if find_format(file) == "raw":
            return RawImage(file)
        companions = Companions(folder)
        companions.enter(file)
    except BaseException:
        file.close()
        raise
    from sipl.disk.qcow2 import open_qcow2

    return open_qcow2(file, companions)


def companions_folder(
    path: str | os.PathLike[str], *, allow_backing: bool, backing_folder: str | os.PathLike[str] | None
) -> str | None:
    """Return the folder in which other files of the image at `path` may lie; None allows none.

    Raises:
        UsageError: `backing_folder` without `allow_backing`, or no folder.
    """
    if backing_folder is None:
        return os.path.split(os.fspath(path))[0] or os.curdir if allow_backing else None
    folder = os.fspath(backing_folder)
    if not allow_backing:
        raise UsageError(folder, "a folder for backing files is given, but they are not allowed", "allow them too")
    if not os.path.isdir(folder):
        raise UsageError(folder, "the folder for backing files is no folder")
    return folder


def find_format(file: HostFile) -> str:
    """Return "qcow2" for a file with its magic, "raw" for everything else that is no known container.

    Raises:
        ImageError: the file cannot be read.
        ImageFormatError: it is another container.
    """
    start = bytes(file.read(0, min(file.size, _LOOK)))
    if start.startswith(QCOW2_MAGIC):
        return "qcow2"
    _refuse_containers(file.path, start)
    return "raw"


def _refuse_containers(path: str, start: bytes) -> None:
    for name, marks in _CONTAINERS:
        if all(start[offset : offset + len(mark)] == mark for offset, mark in marks):
            raise ImageFormatError(
                path, f"this is a {name} image; raw and qcow2 are read", "convert it with qemu-img convert -O qcow2"
            )
