"""Keeping other programs away from an image that is in use (docs/formats/qcow2.md, section "Locks").

QEMU says what it does with an image, and what it lets others do, by shared locks on single bytes of the file: byte
100 + n means "I do n", byte 200 + n means "nobody else may do n". Whoever wants to do n looks for a lock on 200 + n,
whoever wants nobody to do n looks for one on 100 + n. Other programs lock the whole file with flock. Both are taken.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from typing import TYPE_CHECKING, Final

from sipl.errors import ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

DOES: Final = 100
FORBIDS: Final = 200
# Read what is consistent, write, write what is there already, change the size.
ACTIONS: Final = range(4)
READ, WRITE, _WRITE_UNCHANGED, RESIZE = ACTIONS
# Shared bytes of struct flock: type, whence, start, length, process (0 for locks by open file description).
_FLOCK: Final = "hhqqi0q"


class ImageInUse(UsageError):
    """Another program has the image."""


def lock_image(fd: int, path: str) -> None:
    """Lock an open image for its holder alone, until `fd` is closed.

    Raises:
        ImageInUse: another program uses the image.
        UsageError: the host has no locks.
        ImageError: the file cannot be locked.
    """
    _lock(fd, path, ACTIONS, ACTIONS, alone=True)


def lock_image_against_writers(fd: int, path: str) -> None:
    """Lock an open image so that others may read it but nobody may write to it, until `fd` is closed.

    Raises:
        ImageInUse: another program writes to the image, or lets nobody read it.
        UsageError: the host has no locks.
        ImageError: the file cannot be locked.
    """
    _lock(fd, path, (READ,), (WRITE, RESIZE), alone=False)


def _lock(fd: int, path: str, does: Sequence[int], forbids: Sequence[int], *, alone: bool) -> None:
    try:
        import fcntl
    except ImportError:
        raise UsageError(path, "this host cannot lock a file", "copy the image to one that can") from None
    try:
        fcntl.flock(fd, (fcntl.LOCK_EX if alone else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        _lock_as_qemu(fd, path, does, forbids)
    except (BlockingIOError, PermissionError):
        raise _in_use(path) from None
    except OSError as error:
        if error.errno == errno.EACCES:
            raise _in_use(path) from None
        raise ImageError(path, f"cannot be locked: {error.strerror or error}") from error


def _lock_as_qemu(fd: int, path: str, does: Sequence[int], forbids: Sequence[int]) -> None:
    """Say what is done and what nobody else may do; then see whether anybody said otherwise before."""
    import fcntl

    set_lock, get_lock = getattr(fcntl, "F_OFD_SETLK", None), getattr(fcntl, "F_OFD_GETLK", None)
    if set_lock is None or get_lock is None or sys.maxsize <= 1 << 32:
        return  # neither has QEMU these locks there
    for place in (*(DOES + action for action in does), *(FORBIDS + action for action in forbids)):
        fcntl.fcntl(fd, set_lock, struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, place, 1, 0))
    for place in (*(DOES + action for action in forbids), *(FORBIDS + action for action in does)):
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, place, 1, 0)
        (kind, *_) = struct.unpack(_FLOCK, fcntl.fcntl(fd, get_lock, asked))
        if kind != fcntl.F_UNLCK:
            raise _in_use(path)


def _in_use(path: str) -> ImageInUse:
    return ImageInUse(path, "another program uses the image", "shut the guest down, or end what has it open")
