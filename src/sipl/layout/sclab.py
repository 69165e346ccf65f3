"""The SCLAB, secure code loading attributes block (docs/formats/sclab.md).

A signed component ends with a locator of 8 bytes; the length in it says how far before the component's end the
attributes start. Attributes and locator together are 32 bytes or more.
"""

from __future__ import annotations

from enum import IntFlag
from typing import Final, NamedTuple

from sipl.layout.record import layout

SCLAB_MAGIC: Final = b"zIPL"
SCLAB_MIN_LENGTH: Final = 32


class SclabFlags(IntFlag):
    """Flags of the SCLAB; other bits have no meaning."""

    OPSW = 0x8000  # override PSW: marks the global SCLAB
    OLA = 0x4000  # override load address
    NUC = 0x2000  # no unsigned components
    SC = 0x1000  # single component


@layout(">2xH4s")
class SclabLocator(NamedTuple):
    """Last 8 bytes of the component."""

    length: int  # bytes from the start of the SCLAB to the end of the component
    magic: bytes


@layout(">BxH4xQQ")
class Sclab(NamedTuple):
    """The attributes; what follows up to the locator is reserved."""

    format: int
    flags: int  # SclabFlags
    load_psw: int
    load_address: int
