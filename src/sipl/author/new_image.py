"""Writing a new disk image: sparse, beside its place, put there when it has been tried (docs/making-disks.md)."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Protocol

from sipl.disk.qcow2_create import write_qcow2
from sipl.errors import FileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import BinaryIO, Self

    from sipl.layout.record import Buffer


class Writer(Protocol):
    """Writes a virtual disk of `size` bytes that begins with `content`, the rest zero, into a file."""

    def __call__(self, file: BinaryIO, content: Buffer, size: int) -> None:
        """Write all of it."""


# What file systems leave out as a hole is a multiple of their block size.
_HOLE: Final = 1 << 16
_USUAL: Final = 0o666  # less the umask
_NEW_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


def write_raw(file: BinaryIO, content: Buffer, size: int) -> None:
    """Write a raw image; what is zero becomes a hole."""
    with memoryview(content) as view:
        for start in range(0, len(view), _HOLE):
            piece = bytes(view[start : start + _HOLE])
            if piece.strip(b"\0"):
                file.seek(start)
                file.write(piece)
    file.truncate(size)


FORMATS: Final[dict[str, Writer]] = {"raw": write_raw, "qcow2": write_qcow2}


class NewImage:
    """A file beside its place. `write` fills it, `commit` puts it there; without a commit nothing is left behind.

    `path` is the place, `temporary` the file that is written meanwhile.
    """

    def __init__(self, path: str, *, replace: bool = False) -> None:
        self.path = path
        self._replace = replace
        self._place = os.path.realpath(path)
        folder, base = os.path.split(self._place)
        self.temporary = os.path.join(folder, f".{secrets.token_hex(6)}.{base[:200]}")
        self._descriptor = -1

    def __enter__(self) -> Self:
        """Make the file, so that a place that cannot be written to is found before the work.

        Raises:
            UsageError: the place has a file already that is not to be replaced, or something that is none.
            FileError: no file can be made there.
        """
        if os.path.lexists(self._place):
            if not os.path.isfile(self._place):
                raise UsageError(self.path, "is no regular file", "name a file")
            if not self._replace:
                raise UsageError(self.path, "the file exists already", "name another one, or say --force")
        self._try(self._make)
        return self

    def write(self, writer: Writer, content: Buffer, size: int) -> None:
        """Write the disk, and wait until it is on the host's disk.

        Raises:
            FileError: it cannot be written.
        """

        def fill() -> None:
            with os.fdopen(os.dup(self._descriptor), "wb") as file:
                writer(file, content, size)
                file.flush()
                os.fsync(file.fileno())

        self._try(fill)

    def commit(self) -> None:
        """Put the file to its place, in one step.

        Raises:
            UsageError: somebody has put a file there meanwhile.
            FileError: it cannot be put there.
        """

        def put() -> None:
            if self._replace:
                os.replace(self.temporary, self._place)
                return
            # A hard link is the one way to a new name, with all of its content, that never replaces an old one.
            try:
                os.link(self.temporary, self._place)
            except FileExistsError:
                raise
            except OSError:  # a file system without links: take the name first
                os.close(os.open(self._place, _NEW_FLAGS, _USUAL))
                os.replace(self.temporary, self._place)
            else:
                os.unlink(self.temporary)

        try:
            self._try(put)
        except FileError as error:
            if isinstance(error.__cause__, FileExistsError):
                raise UsageError(self.path, "the file exists already", "name another one, or say --force") from None
            raise

    def _make(self) -> None:
        self._descriptor = os.open(self.temporary, _NEW_FLAGS, _USUAL)

    def _try(self, do: Callable[[], None]) -> None:
        try:
            do()
        except OSError as error:
            why = f"cannot be written: {error.strerror or error}"
            raise FileError(self.path, why, "check the room and who may write there") from error

    def __exit__(self, *_: object) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            with suppress(OSError):
                os.unlink(self.temporary)
