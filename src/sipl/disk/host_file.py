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
_AGAIN_FLAGS: Final = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOCTTY", 0) | getattr(os, "O_BINARY", 0)
# The host's list of what this process has open; to open an entry is to open the same file, whatever has its name now.
_OPEN_FILES: Final = "/proc/self/fd/{}"
_LAST_STANDARD: Final = 2
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

    `size` is in bytes, as it was at opening; `identity` is the same for two names of one file. With `descriptor` it is
    the file that is open there already, for whatever; that descriptor stays the caller's, and `path` is its name only
    in messages.

    Raises:
        ImageError: missing, not to be read, empty, or neither a regular file nor a block device.
    """

    __slots__ = ("_fd", "identity", "is_device", "path", "size")

    def __init__(self, path: str | os.PathLike[str], *, follow: bool = True, descriptor: int | None = None) -> None:
        self._fd = -1
        self.path = os.fspath(path)
        name = self.path if descriptor is None else _OPEN_FILES.format(descriptor)
        try:
            # Opening alone can do harm to some devices, so the kind is looked at before; what counts is the look after.
            self._check_kind(os.stat(name))
            self._fd = os.open(name, _FLAGS if follow else _FLAGS | _NO_FOLLOW)
            found = os.fstat(self._fd)
            self._check_kind(found)
            self.identity = (found.st_dev, found.st_ino)
            self.is_device = stat.S_ISBLK(found.st_mode)
            self.size = self._find_size()
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

    def _find_size(self) -> int:
        # A block device has its size nowhere but in the end of its offsets.
        size = os.lseek(self._fd, 0, os.SEEK_END) if self.is_device else os.fstat(self._fd).st_size
        if size == 0:
            raise ImageError(self.path, "the image is empty", "0 bytes; was it copied or created to the end?")
        return size

    def renew(self) -> None:
        """Find `size` again, after somebody wrote to the file.

        Raises:
            ImageError: it is empty now, or the host reports an error.
        """
        try:
            self.size = self._find_size()
        except ImageError:
            raise
        except OSError as error:
            raise ImageError(self.path, f"its size cannot be found: {_text(error)}") from error

    def open_again(self, *, writable: bool) -> int:
        """Return a descriptor for this very file that shares nothing with this object's, above those for standard I/O.

        It is the caller's to close, and not inherited unless somebody sees to it.

        Raises:
            ImageError: the file is not to be written to, or the host does not list open files in /proc.
        """
        access = os.O_RDWR if writable else os.O_RDONLY
        fd = -1
        try:
            fd = os.open(_OPEN_FILES.format(self._fd), access | _AGAIN_FLAGS)
            found = os.fstat(fd)
            if (found.st_dev, found.st_ino) != self.identity:
                raise ImageError(self.path, "another file took the place of the image", "try again")
            if fd <= _LAST_STANDARD:
                import fcntl

                low, fd = fd, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LAST_STANDARD + 1)
                os.close(low)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            if isinstance(error, ImageError):
                raise
            what = "for writing" if writable else "once more"
            raise ImageError(self.path, f"cannot be opened {what}: {_text(error)}", _cure_again(error)) from error
        return fd

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


def _cure_again(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "is /proc mounted?"
    return "check who may write it, and whether its file system is read-only"
