"""Files of the host as authors read and write them: read whole, within a bound, and replaced as a whole or not at all.

What is written lies in a file beside its place until all of it is on the disk; then it is renamed. So at each moment,
whatever happens, the place holds what it held before, or all of the new content.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.errors import FileError, UsageError

if TYPE_CHECKING:
    from typing import Self

# Not every system has all of them.
_READ_FLAGS: Final = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_NEW_FLAGS: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_EXCL | sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"))
)
_CHUNK: Final = 1 << 20
# The longest name that usual file systems take has 255 bytes; what is put around it must fit, too.
_LONGEST_BASE: Final = 200
# Attributes that say something about the bytes themselves, which are about to change.
_OF_THE_CONTENT: Final = frozenset({"security.ima", "security.evm", "security.capability"})

OWNER_ONLY: Final = 0o600
USUAL: Final = 0o666  # less the umask


def read_file(path: str, limit: int, what: str) -> bytes:
    """Return the content of a regular file; `what` it is stands in the message.

    Raises:
        FileError: it cannot be read, is no regular file, or has more than `limit` bytes.
    """
    try:
        descriptor = os.open(path, _READ_FLAGS)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise FileError(path, "is no regular file", f"name {what}")
            if found.st_size > limit:
                raise FileError(path, f"has {found.st_size} bytes, {limit} are possible", f"is it {what}?")
            return _read_all(descriptor, path, limit, what)
        finally:
            os.close(descriptor)
    except FileError:
        raise
    except (OSError, ValueError) as error:
        raise FileError(path, f"cannot be read: {_text(error)}", "check the name and who may read it") from error


def _read_all(descriptor: int, path: str, limit: int, what: str) -> bytes:
    data = bytearray()
    while chunk := os.read(descriptor, _CHUNK):
        data += chunk
        if len(data) > limit:
            raise FileError(path, f"has more than {limit} bytes", f"is it {what}?")
    return bytes(data)


class NewContent:
    """Content that waits beside its place, on the disk already; `commit` puts it there, leaving the block drops it.

    If the place holds a file, the new one gets its mode, owner and extended attributes; else it gets `mode`, less the
    umask where that is `USUAL`. With `fresh` it gets `mode` in any case. A symbolic link stays one, what it leads to
    is replaced; with `fresh` it is not followed.

    Raises:
        FileError: it cannot be written, or mode and owner cannot be kept.
    """

    def __init__(self, path: str, data: bytes, *, mode: int = USUAL, fresh: bool = False) -> None:
        self._shown = path
        self._temporary = ""
        try:
            folder, base = os.path.split(path)
            # A secret goes where it was said, not where a link leads that somebody may have put there.
            self._place = os.path.join(os.path.realpath(folder or "."), base) if fresh else os.path.realpath(path)
            old = None if fresh else self._old()
            folder, base = os.path.split(self._place)
            name = f".{base[:_LONGEST_BASE]}.{secrets.token_hex(6)}.sipl"
            temporary = os.path.join(folder, name)
            # Nobody else looks at it before it is complete and has its owner.
            descriptor = os.open(temporary, _NEW_FLAGS, mode if old is None else OWNER_ONLY)
            self._temporary = temporary
            try:
                _write_all(descriptor, data)
                if old is not None:
                    self._keep(descriptor, old)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except BaseException as error:
            self._drop()
            if isinstance(error, OSError | ValueError) and not isinstance(error, FileError):
                why = f"cannot be written: {_text(error)}"
                raise FileError(path, why, "nothing was changed; check the room and who may write there") from error
            raise

    def _old(self) -> os.stat_result | None:
        try:
            found = os.stat(self._place)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise FileError(self._shown, "is no regular file", "name a file")
        return found

    def _keep(self, descriptor: int, old: os.stat_result) -> None:
        """Give the new file what the old one has."""
        new = os.fstat(descriptor)
        if hasattr(os, "fchown") and (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid):
            try:
                os.fchown(descriptor, old.st_uid, old.st_gid)
            except OSError as error:
                why = f"its owner cannot be kept: {_text(error)}"
                raise FileError(self._shown, why, "do it as its owner, or write to another file with -o") from error
        if hasattr(os, "fchmod"):
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        if hasattr(os, "listxattr"):
            # Labels and access lists, as far as this user may set them and the file system has them.
            with suppress(OSError):
                for name in os.listxattr(self._place):
                    if name not in _OF_THE_CONTENT:
                        with suppress(OSError):
                            os.setxattr(descriptor, name, os.getxattr(self._place, name))

    def commit(self, *, replace: bool) -> None:
        """Put the content to its place; without `replace` nothing may be there.

        Raises:
            UsageError: something is.
            FileError: it cannot be put there.
        """
        try:
            if replace:
                os.replace(self._temporary, self._place)
                self._temporary = ""
            else:
                _reserve(self._place)
                try:
                    os.replace(self._temporary, self._place)
                    self._temporary = ""
                except BaseException:
                    with suppress(OSError):
                        os.unlink(self._place)
                    raise
            _sync_folder(os.path.dirname(self._place))
        except FileExistsError as error:
            raise UsageError(self._shown, "the file exists already", "name another one, or say --force") from error
        except OSError as error:
            raise FileError(self._shown, f"cannot be written: {_text(error)}", "nothing was changed") from error

    def _drop(self) -> None:
        temporary, self._temporary = self._temporary, ""
        if temporary:
            with suppress(OSError):
                os.unlink(temporary)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._drop()


def replace_file(path: str, data: bytes) -> None:
    """Write a file, in place of one that may be there.

    Raises:
        FileError: it cannot be written; what was there is there still.
    """
    with NewContent(path, data) as new:
        new.commit(replace=True)


def same_file(path: str, other: str) -> bool:
    """Whether two names are those of one file that is there."""
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def _reserve(path: str) -> None:
    """Make the name ours, in one step that fails if it is somebody else's."""
    os.close(os.open(path, _NEW_FLAGS, OWNER_ONLY))


def _write_all(descriptor: int, data: bytes) -> None:
    with memoryview(data) as view:
        done = 0
        while done < len(view):
            done += os.write(descriptor, view[done:])


def _sync_folder(folder: str) -> None:
    """Have the new name on the disk, too, where the system lets folders be opened."""
    with suppress(OSError):
        descriptor = os.open(folder or ".", os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _text(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
