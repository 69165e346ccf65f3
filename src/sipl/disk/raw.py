"""Raw images: the file is the disk (docs/formats/qcow2.md, section "Raw images")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.disk.image import SECTOR_SIZE, Image, fill_with_zeros

if TYPE_CHECKING:
    from sipl.disk.host_file import HostFile


class RawImage(Image):
    """A raw image. A file that ends inside a sector reads as if zeros filled that sector up."""

    __slots__ = ("_file",)

    def __init__(self, file: HostFile) -> None:
        super().__init__(file.path, -(-file.size // SECTOR_SIZE) * SECTOR_SIZE, "raw")
        self._file = file

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`."""
        self._check_range(offset, len(buffer))
        present = max(0, self._file.size - offset)
        if len(buffer) <= present:
            self._file.read_into(offset, buffer)
            return
        self._file.read_into(offset, buffer[:present])
        fill_with_zeros(buffer[present:])

    def close(self) -> None:
        """Close the file."""
        self._file.close()
