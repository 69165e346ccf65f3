"""The errors of the package: each says where, why and what to do, in one line.

Everything that sipl raises on purpose derives from `SiplError`. A text that came from a disk, a certificate, a guest
or a file name is passed through `sipl.text.printable` before it is put into a message.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.reasons import Reason
from sipl.text import printable

if TYPE_CHECKING:
    from sipl.reasons import SealReason


class SiplError(Exception):
    """Base of all errors of the package.

    `where` names the place (a file, a device, an option), `why` is a sentence without a full stop, `hint` says what to
    do and may be empty.
    """

    def __init__(self, where: str, why: str, hint: str = "") -> None:
        self.where = printable(where)
        self.why = printable(why)
        self.hint = printable(hint)
        super().__init__(str(self))

    def __str__(self) -> str:
        text = f"{self.where}: {self.why}" if self.where else self.why
        return f"{text} ({self.hint})" if self.hint else text


class UsageError(SiplError):
    """An option, a value or a combination of them is not acceptable. Exit code 2."""


class UndecidedError(SiplError):
    """The image file or the host is at fault, so that no verdict on the guest's disk is possible. Exit code 2."""

    reason = Reason.IMAGE_UNREADABLE


class ImageError(UndecidedError, OSError):
    """An image file cannot be opened or read: missing, a directory, no permission, an I/O error, a short read."""


class ImageFormatError(UndecidedError, ValueError):
    """An image file is no valid raw or qcow2 image, or one that sipl does not open (encrypted, backing file)."""

    reason = Reason.IMAGE_INVALID


class FileError(SiplError, OSError):
    """A file that is no disk image (a key, a certificate, a kernel) cannot be read or written. Exit code 2."""


class SigningRefused(SiplError):
    """A signature is not made or taken, as no machine would accept it later. Exit code 1.

    `kind` is a short name of the reason; `can_be_forced` says whether the caller may go on nevertheless.
    """

    def __init__(self, kind: str, where: str, why: str, hint: str = "", *, can_be_forced: bool = False) -> None:
        self.kind = kind
        self.can_be_forced = can_be_forced
        super().__init__(where, why, hint)


class ShortRecord(SiplError, ValueError):
    """A record does not fit into the bytes that are there."""

    def __init__(self, record: str, needed: int, present: int) -> None:
        self.needed = needed
        self.present = present
        super().__init__(record, f"{needed} bytes are needed, {present} are there")


class RefusedToStart(SiplError):
    """The machine does not start: options, certificates or devices are not acceptable. Exit code 1."""

    def __init__(self, reason: Reason, where: str, why: str, hint: str = "") -> None:
        self.reason = reason
        super().__init__(where, why, hint)


class SealRefused(SiplError):
    """A disk is not sealed, or its seal is not taken away: nothing of it was changed. Exit code 1."""

    def __init__(self, reason: SealReason, where: str, why: str, hint: str = "") -> None:
        self.reason = reason
        super().__init__(where, why, hint)
