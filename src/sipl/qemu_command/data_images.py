"""Disks that do not boot: QEMU opens them itself, so nothing may stand in them that leads it elsewhere.

A name in the header of an image is followed by QEMU with all that its user may do: to a file of the host, to what sipl
and QEMU have open (/proc/self/fd), to another host (docs/qemu-command.md, "Images").
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sipl.disk.host_file import HostFile
from sipl.disk.open import find_format, open_image
from sipl.disk.qcow2_header import read_header
from sipl.errors import ImageFormatError

if TYPE_CHECKING:
    from sipl.qemu_command.images import OtherImage


def check_data_image(image: OtherImage, *, allow_backing: bool) -> None:
    """Refuse an image whose header names another file that the line does not describe.

    With `allow_backing` it may name files in its own folder.

    Raises:
        ImageError: it cannot be opened or read.
        ImageFormatError: it names one, it is damaged, or it is of another format than raw and qcow2.
    """
    path = image.spec.path
    file = HostFile(path, descriptor=image.spec.descriptor)
    try:
        if find_format(file) != "qcow2":
            return
        parameters = read_header(file)
    finally:
        file.close()
    names = {"backing": parameters.backing_name, "data-file": parameters.data_file_name}
    found = [(role, name) for role, name in names.items() if name is not None and role not in image.described]
    if not found:
        return
    if allow_backing:
        open_image(path, allow_backing=True).close()
        return
    role, name = found[0]
    raise ImageFormatError(
        path,
        f"the image names the {role} file {os.fsdecode(name)}, which the command line does not",
        f"describe it there with {role}=NODE, or allow files of its folder with --allow-backing",
    )
