"""A file of the host that holds a disk or a part of one: opened once, read-only, never waited for."""

from __future__ import annotations

import os
import stat
from typing import Final

from sipl.errors import ImageError

# Nonblocking, so that a FIFO that takes a file's place between the look and the opening does not hold us up.
_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)
_NO_FOLLOW: Final = getattr(os, "O_NOFOLLOW", 0)
# What one call reads where the host has no preadv and the bytes pass through an object of their own.
_COPY_SIZE: Final = 1 << 20

_KINDS: Final = (
    (stat.S_ISDIR, "a directory"),
    (stat.S_ISFIFO, "a FIFO"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a character device"),
)


class HostFile:
    """A regular file or block device, open for reading.

    `size` is in bytes, as it was at opening; `identity` is the same for two names of one file.

    Raises:
        ImageError: missing, not to be read, empty, or neither a regular file nor a block device.
    """

    __slots__ = ("_fd", "identity", "path", "size")

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = True) -> None:
        self._fd = -1
        self.path = os.fspath(path)
        try:
            # Opening alone can do harm to some devices, so the kind is looked at before; what counts is the look after.
            self._check_kind(os.stat(self.path))
            self._fd = os.open(self.path, _FLAGS if follow else _FLAGS | _NO_FOLLOW)
            found = os.fstat(self._fd)
            self._check_kind(found)
            self.identity = (found.st_dev, found.st_ino)
            # A block device has its size nowhere but in the end of its offsets.
            self.size = found.st_size if stat.S_ISREG(found.st_mode) else os.lseek(self._fd, 0, os.SEEK_END)
            if self.size == 0:
                raise ImageError(self.path, "the image is empty", "0 bytes; was it copied or created to the end?")
        except ImageError:
            self.close()
            raise
        except (OSError, ValueError) as error:
            self.close()
            raise ImageError(self.path, f"cannot be opened: {_text(error)}", _cure(error)) from error

    def _check_kind(self, found: os.stat_result) -> None:
        if stat.S_ISREG(found.st_mode) or stat.S_ISBLK(found.st_mode):
            return
        kind = next((name for test, name in _KINDS if test(found.st_mode)), "no file")
        raise ImageError(self.path, f"this is {kind}, not a disk image", "name an image file or a block device")

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`, all of which lie below `size`.

        Raises:
            ImageError: an I/O error, or the file has become shorter.
        """
        done, wanted = 0, len(buffer)
        try:
            while done < wanted:
                got = _read_at(self._fd, buffer[done:] if done else buffer, offset + done)
                if got == 0:
                    raise ImageError(
                        self.path,
                        f"the file ends at byte {offset + done}, {wanted - done} bytes too early",
                        "is something writing to it? copy the image again",
                    )
                done += got
        except ImageError:
            raise
        except (OSError, ValueError, OverflowError) as error:
            raise ImageError(self.path, f"cannot be read at byte {offset + done}: {_text(error)}") from error

    def read(self, offset: int, length: int) -> bytearray:
        """Return the `length` bytes at `offset`, all of which lie below `size`.

        Raises:
            ImageError: an I/O error, or the file has become shorter.
        """
        data = bytearray(length)
        with memoryview(data) as view:
            self.read_into(offset, view)
        return data

    def close(self) -> None:
        """Close the file; closing twice is allowed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        if getattr(self, "_fd", -1) >= 0:
            self.close()


def _read_at_by_preadv(fd: int, buffer: memoryview, offset: int) -> int:
    return os.preadv(fd, (buffer,), offset)


def _read_at_by_seeking(fd: int, buffer: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(len(buffer), _COPY_SIZE))
    buffer[: len(data)] = data
    return len(data)


_read_at = _read_at_by_preadv if hasattr(os, "preadv") else _read_at_by_seeking


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _cure(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "check the name"
    return "check who may read it" if isinstance(error, PermissionError) else ""
