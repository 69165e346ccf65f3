"""A file with the number of this process, as QEMU keeps one with -pidfile."""

from __future__ import annotations

import fcntl
import os
from typing import TYPE_CHECKING, Self

from sipl.errors import FileError

if TYPE_CHECKING:
    from types import TracebackType


class PidFile:
    """While it is entered the file is there, locked as QEMU locks it; then it is removed.

    Raises:
        FileError: when entered: it cannot be written, or another process has it.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor = -1

    def __enter__(self) -> Self:
        # Who had it before may remove it between the two steps.
        while not self._locked():
            os.close(self._descriptor)
        return self

    def _locked(self) -> bool:
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            hint = "name a file, in a folder that is there and may be written to"
            raise FileError(self._path or "-pidfile", f"cannot be opened: {error.strerror}", hint) from error
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not self._is_there():
                return False
            os.ftruncate(self._descriptor, 0)
            os.write(self._descriptor, b"%d\n" % os.getpid())
        except OSError as error:
            os.close(self._descriptor)
            if isinstance(error, BlockingIOError):
                raise FileError(self._path, "another process has it", "its guest still runs") from error
            raise FileError(self._path, f"cannot be written: {error.strerror}", "name another file") from error
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        # Removed before the lock is given up, so that it is nobody else's.
        if self._is_there():
            os.unlink(self._path)
        os.close(self._descriptor)

    def _is_there(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._descriptor))
        except OSError:
            return False
