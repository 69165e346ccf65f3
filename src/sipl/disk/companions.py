"""Files that an image names: its backing file, its data file (docs/formats/qcow2.md, section "Other files").

An image comes from whoever made it, and a name in it can be any file that the reader of the image may read. So no name
is followed unless the user asks for it, and then only to files inside one folder.
"""

from __future__ import annotations

import os.path
from typing import Final

from sipl.disk.host_file import HostFile
from sipl.errors import ImageFormatError

# Image, backing file, its backing file...: each takes caches and a step per read. Chains of snapshots are shorter.
MAX_CHAIN: Final = 16

Identity = tuple[int, int]


class Companions:
    """Which other files may be opened on behalf of one image.

    `folder` is where they must lie, with all symbolic links followed; None allows none at all.
    """

    __slots__ = ("_folder", "_seen")

    def __init__(self, folder: str | None) -> None:
        self._folder = None if folder is None else os.path.realpath(folder)
        self._seen: set[Identity] = set()

    def enter(self, file: HostFile) -> None:
        """Take a file into the chain.

        Raises:
            ImageFormatError: it is in the chain already, or the chain is too long.
        """
        if file.identity in self._seen:
            raise ImageFormatError(file.path, "backing and data files lead back to a file of the same image")
        if len(self._seen) == MAX_CHAIN:
            raise ImageFormatError(
                file.path, f"the image is made of more than {MAX_CHAIN} files", "flatten it with qemu-img convert"
            )
        self._seen.add(file.identity)

    def open(self, image_path: str, name: bytes, role: str) -> HostFile:
        """Open the file that the image at `image_path` names; `role` is "backing file" or "data file".

        Relative names count from the folder of that image.

        Raises:
            ImageFormatError: other files are not allowed, or not this one.
            ImageError: it cannot be opened.
        """
        text = os.fsdecode(name)
        if self._folder is None:
            raise ImageFormatError(
                image_path,
                f"the image needs the {role} {text}, which is not read unless it is allowed",
                "allow it with --allow-backing, or put all into one file with qemu-img convert -O qcow2",
            )
        if not text or "\0" in text:
            raise ImageFormatError(image_path, f"the name of the {role} is no file name: {text!r}")
        if ":" in text.split("/", 1)[0]:
            raise ImageFormatError(
                image_path, f"the {role} {text} is not a file of this host", "only plain file names are followed"
            )
        place = os.path.realpath(os.path.join(os.path.dirname(image_path), text))
        if os.path.commonpath((self._folder, place)) != self._folder:
            raise ImageFormatError(
                image_path,
                f"the {role} {text} lies outside {self._folder}",
                "name its folder with --backing-folder if the image is to be trusted",
            )
        # The name has no link left in it; one that appears now is somebody's attempt.
        file = HostFile(place, follow=False)
        try:
            self.enter(file)
        except ImageFormatError:
            file.close()
            raise
        return file
