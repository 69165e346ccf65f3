"""What stands behind the code loading attributes of a component, where nothing should (docs/formats/sclab.md)."""

from __future__ import annotations

from enum import Enum
from typing import Final, NamedTuple

from sipl.layout.module_signature import MODULE_SIGNATURE_MARKER
from sipl.layout.record import size_of, unpack
from sipl.layout.sclab import SCLAB_MAGIC, SCLAB_MIN_LENGTH, Sclab, SclabFlags, SclabLocator

# Longer than any SCLAB that is made, and short enough that text with the magic in it is not taken for one.
_LONGEST: Final = 256
# The object identifier of PKCS#7 signed data, and how far behind the start of a signature it stands at most.
_SIGNED_DATA: Final = bytes.fromhex("06092a864886f70d010702")
_SIGNED_DATA_WITHIN: Final = 8
_DER_SEQUENCE: Final = 0x30
# What is shorter than the identifier and the lengths around it is no signature, and could stand anywhere.
_SHORT: Final = 16


class Behind(Enum):
    """What the bytes behind the SCLAB are."""

    NOTHING = "nothing"
    ZEROS = "zeros"
    OLD_SIGNATURE = "an older signature"
    OWN_SIGNATURE = "the start of its own signature"
    OTHER = "other bytes"
    NO_SCLAB = "no SCLAB at all"


class Tail(NamedTuple):
    """`extra` is how many bytes stand behind the SCLAB; `old_end`, where an older signature ends, counts from there."""

    behind: Behind
    extra: int
    old_end: int | None = None


def look_behind(tail: bytes, signature: bytes | None) -> Tail:
    """Find the SCLAB in the last bytes of a component, and tell what stands behind it.

    `signature` is the DER that the boot map has for the component, None without one.
    """
    if tail.endswith(SCLAB_MAGIC):
        # Whether its fields are right is for the firmware's own rules.
        return Tail(Behind.NOTHING, 0)
    end = _last_sclab(tail)
    if end is None:
        return Tail(Behind.OLD_SIGNATURE if MODULE_SIGNATURE_MARKER in tail else Behind.NO_SCLAB, 0)
    return _tell(tail[end:], signature)


def _tell(rest: bytes, signature: bytes | None) -> Tail:
    if not any(rest):
        return Tail(Behind.ZEROS, len(rest))
    marker = rest.rfind(MODULE_SIGNATURE_MARKER)
    if marker >= 0:
        return Tail(Behind.OLD_SIGNATURE, len(rest), marker + len(MODULE_SIGNATURE_MARKER))
    if signature is not None and len(signature) > _SHORT and rest[: len(signature)] == signature[: len(rest)]:
        return Tail(Behind.OWN_SIGNATURE, len(rest))
    if rest[0] == _DER_SEQUENCE and 0 <= rest.find(_SIGNED_DATA) <= _SIGNED_DATA_WITHIN:
        return Tail(Behind.OLD_SIGNATURE, len(rest))
    return Tail(Behind.OTHER, len(rest))


def _last_sclab(tail: bytes) -> int | None:
    """Where the last thing that can be a SCLAB ends."""
    at = len(tail)
    while (at := tail.rfind(SCLAB_MAGIC, 0, at)) >= 0:
        end = at + len(SCLAB_MAGIC)
        if end < SCLAB_MIN_LENGTH:
            return None
        locator = unpack(SclabLocator, tail, end - size_of(SclabLocator))
        if SCLAB_MIN_LENGTH <= locator.length <= min(end, _LONGEST) and _plausible(tail, end - locator.length):
            return end
        at += len(SCLAB_MAGIC) - 1
    return None


def _plausible(tail: bytes, start: int) -> bool:
    sclab = unpack(Sclab, tail, start)
    known = SclabFlags.OPSW | SclabFlags.OLA | SclabFlags.NUC | SclabFlags.SC
    return sclab.format == 0 and not sclab.flags & ~known
