"""sipl's own loader for Linux, in the place of zipl's stage3 (docs/formats/loader.md).

`loader.S` is the source, `loader.bin` the bytes that `build` makes of it with binutils for s390x.
"""

from __future__ import annotations

import os

from sipl.author import sclab
from sipl.layout.guest_ends import LoaderEnd as End
from sipl.layout.sclab import SclabFlags
from sipl.layout.stage3 import STAGE3_ENTRY, STAGE3_LENGTH, STAGE3_PSW

__all__ = ["End", "code", "component"]


def code() -> bytes:
    """The loader's instructions and data, without padding and SCLAB."""
    with open(os.path.join(os.path.dirname(__file__), "loader.bin"), "rb") as file:
        return file.read()


def component(*, closed: bool = False) -> bytes:
    """The loader as it is signed and loaded: 0x4000 bytes with the global SCLAB at their end.

    A `closed` one carries NUC. The firmware then refuses every unsigned component, and the loader, which looks at
    its own SCLAB, takes parameters, command line, RAM disk and environment from verified components only.
    """
    flags = SclabFlags.OPSW | SclabFlags.OLA
    if closed:
        flags |= SclabFlags.NUC
    return sclab.overwrite(code().ljust(STAGE3_LENGTH, b"\0"), sclab.build(flags, STAGE3_PSW, STAGE3_ENTRY))
