"""Writing to raw images and block devices in an order that survives the end of power."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING

from sipl.disk.image import SECTOR_SIZE
from sipl.disk.overlay import WritableImage
from sipl.errors import ImageFormatError

if TYPE_CHECKING:
    from sipl.disk.writable_file import WritableFile


class OrderedImage(WritableImage):
    """An image that is written to with barriers: what comes before a `flush` is on the medium before what follows."""

    __slots__ = ()

    @abstractmethod
    def make_private(self, offset: int, length: int) -> None:
        """From now on, have writes to this range of the disk change nothing in the file but the bytes of this range.

        Raises:
            ImageError: the host cannot keep it.
            ImageFormatError: the image contradicts its format.
            UsageError: the range does not lie on the virtual disk.
        """


class RawWriter(OrderedImage):
    """A raw image; the file is the disk.

    Raises:
        ImageFormatError: the file ends inside a sector.
    """

    __slots__ = ("_file",)

    def __init__(self, file: WritableFile) -> None:
        if file.size % SECTOR_SIZE:
            raise ImageFormatError(
                file.path, "the image ends inside a sector", "make it larger with truncate --size=%512"
            )
        super().__init__(file.path, file.size, "raw")
        self._file = file

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`."""
        self._check_range(offset, len(buffer))
        buffer[:] = self._file.read(offset, len(buffer))

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write `buffer` at `offset`; see `WritableImage.write_from`."""
        self._check_range(offset, len(buffer))
        self._file.write(offset, buffer)

    def flush(self) -> None:
        """See `WritableImage.flush`."""
        self._file.flush()

    def make_private(self, offset: int, length: int) -> None:
        """Nothing to do: a raw image is all in place."""
        self._check_range(offset, length)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
