"""What a disabled wait means: the addresses that guests stop at, as sentences (docs/embedded-engine.md)."""

from __future__ import annotations

from typing import Final

from sipl.engine.base import EndKind, GuestEnd

# Codes of our own demo guest (docs/demo-guest.md).
_KNOWN: Final = {
    0xC0FFEE: (EndKind.DONE, "the guest says that it is done"),
    0xBAD001: (EndKind.CRASHED, "the demo loader got no IPL parameter block"),
    0xBAD002: (EndKind.CRASHED, "the demo loader found no IPL report in secure mode"),
    0xBAD003: (EndKind.CRASHED, "the demo loader found its kernel not verified"),
    0xBAD00F: (EndKind.CRASHED, "the demo loader ended in a program interruption"),
    0xBAD011: (EndKind.CRASHED, "the demo kernel found no console"),
    0xBAD012: (EndKind.CRASHED, "a service call of the demo kernel failed"),
    0xBAD01F: (EndKind.CRASHED, "the demo kernel ended in a program interruption"),
}


def explain(mask: int, address: int) -> GuestEnd:
    """How the run ended, from the PSW of a disabled wait."""
    known = _KNOWN.get(address)
    where = f"disabled wait, PSW {mask:016x} {address:016x}"
    if known is not None:
        kind, sentence = known
        return GuestEnd(kind, f"{sentence} ({where})")
    return GuestEnd(EndKind.CRASHED, f"the guest stopped for a reason that it alone knows ({where})")
