"""A file of the host that holds an image which is written to: locked, written at offsets, flushed on demand."""

from __future__ import annotations

import os
import stat
from typing import Final

from sipl.disk.host_file import HostFile
from sipl.disk.image_lock import ImageInUse, lock_image
from sipl.errors import ImageError, SealRefused
from sipl.reasons import SealReason

_FLAGS: Final = (
    os.O_RDWR
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


class WritableFile:
    """A regular file or block device, open for reading and writing and locked against other programs.

    What is written reaches the medium by the next `flush`, in any order. `size` in bytes grows with it.

    Raises:
        ImageError: the file cannot be opened or locked.
        SealRefused: image-in-use, image-not-writable.
        UsageError: the host has no locks.
    """

    __slots__ = ("_fd", "_grows", "identity", "path", "size")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = -1
        # What may be opened at all is decided there.
        readable = HostFile(path)
        try:
            self.path = readable.path
            self.identity = readable.identity
            self.size = readable.size
            self._open()
        except BaseException:
            self.close()
            raise
        finally:
            readable.close()

    def _open(self) -> None:
        try:
            self._fd = os.open(self.path, _FLAGS)
            found = os.fstat(self._fd)
        except OSError as error:
            raise SealRefused(
                SealReason.IMAGE_NOT_WRITABLE,
                self.path,
                f"cannot be opened for writing: {error.strerror or error}",
                "check who may write it, and whether its file system is read-only",
            ) from error
        if (found.st_dev, found.st_ino) != self.identity:
            raise ImageError(self.path, "another file took the place of the image", "try again")
        self._grows = stat.S_ISREG(found.st_mode)
        try:
            lock_image(self._fd, self.path)
        except ImageInUse as error:
            raise SealRefused(SealReason.IMAGE_IN_USE, error.where, error.why, error.hint) from None
        # It may have grown before it was locked.
        if self._grows:
            self.size = os.fstat(self._fd).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Return the `length` bytes at `offset`; what lies behind the end of the file reads as zeros.

        Raises:
            ImageError: an I/O error.
        """
        data = bytearray()
        try:
            while len(data) < length and (got := _read_at(self._fd, length - len(data), offset + len(data))):
                data += got
        except OSError as error:
            raise ImageError(self.path, f"cannot be read at byte {offset}: {error.strerror or error}") from error
        return bytes(data).ljust(length, b"\0")

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write `data` at `offset`; a regular file may grow by it.

        Raises:
            ImageError: the host cannot keep it; how much of it was kept is open.
        """
        view = memoryview(data)
        done = 0
        try:
            if not self._grows and offset + len(view) > self.size:
                raise ImageError(self.path, "the device has no room behind its end", "use a larger one")
            while done < len(view):
                done += _write_at(self._fd, view[done:], offset + done)
        except ImageError:
            raise
        except OSError as error:
            raise ImageError(
                self.path, f"cannot be written at byte {offset + done}: {error.strerror or error}", _cure(error)
            ) from error
        self.size = max(self.size, offset + len(view))

    def flush(self) -> None:
        """Have the host bring what was written to the medium, before anything that is written later.

        Raises:
            ImageError: the host reports an error.
        """
        try:
            _flush(self._fd)
        except OSError as error:
            raise ImageError(self.path, f"cannot be flushed: {error.strerror or error}", _cure(error)) from error

    def close(self) -> None:
        """Close the file, which unlocks it; closing twice is allowed."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _cure(error: OSError) -> str:
    import errno

    return "make room on the host" if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""


# What reaches the file goes through these three, one call each.


def _read_at_by_pread(fd: int, length: int, offset: int) -> bytes:
    return os.pread(fd, length, offset)


def _read_at_by_seeking(fd: int, length: int, offset: int) -> bytes:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.read(fd, length)


def _write_at_by_pwrite(fd: int, data: memoryview, offset: int) -> int:
    return os.pwrite(fd, data, offset)


def _write_at_by_seeking(fd: int, data: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)


def _flush(fd: int) -> None:
    os.fsync(fd)


_read_at = _read_at_by_pread if hasattr(os, "pread") else _read_at_by_seeking
_write_at = _write_at_by_pwrite if hasattr(os, "pwrite") else _write_at_by_seeking
