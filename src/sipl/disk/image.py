"""What every disk image offers, whatever its format: bytes of the virtual disk, read-only."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final, Self

from sipl.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

SECTOR_SIZE: Final = 512  # a virtual disk is a whole number of these, whatever its block size
_ZEROS: Final = bytes(1 << 16)


class Image(ABC):
    """A disk image. `size` is the size of the virtual disk in bytes, a multiple of 512.

    `notes` are sentences on what is odd about the image and yet no reason not to read it.
    """

    __slots__ = ("format", "notes", "path", "size")

    def __init__(self, path: str, size: int, format_name: str, notes: tuple[str, ...] = ()) -> None:
        self.path = path
        self.size = size
        self.format = format_name
        self.notes = notes

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (bytes, writable) with what the virtual disk holds at byte `offset`.

        Raises:
            ImageError: the file cannot be read, or has become shorter.
            ImageFormatError: the file contradicts its format.
            UsageError: what is asked for does not lie on the virtual disk.
        """

    @abstractmethod
    def close(self) -> None:
        """Close all files of the image; closing twice is allowed."""

    def read(self, offset: int, length: int) -> bytes:
        """Return `length` bytes at byte `offset` of the virtual disk.

        Raises:
            ImageError: the file cannot be read, or has become shorter.
            ImageFormatError: the file contradicts its format.
            UsageError: what is asked for does not lie on the virtual disk.
        """
        self._check_range(offset, length)
        data = bytearray(length)
        with memoryview(data) as view:
            self.read_into(offset, view)
        return bytes(data)

    def _check_range(self, offset: int, length: int) -> None:
        if offset < 0 or length < 0 or length > self.size - offset:
            raise UsageError(
                self.path, f"{length} bytes at byte {offset} do not lie on the disk", f"it has {self.size} bytes"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def fill_with_zeros(buffer: memoryview) -> None:
    """Write zeros over all of `buffer`, without an object of the same size."""
    for start in range(0, len(buffer), len(_ZEROS)):
        part = buffer[start : start + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]
