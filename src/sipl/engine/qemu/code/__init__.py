"""The programs that sipl has a QEMU run in the place of its firmware (docs/qemu-engine.md, "The harmless image").

Each `.S` file is the source, the `.bin` file beside it the bytes that `build` makes of it with binutils for s390x.
`sipl.layout.guest_ends.QemuEnd` names the disabled waits that they end in.
"""

from __future__ import annotations

import os
from typing import Final

# Code in the first page, room for an IPL parameter block in the second.
CODE_SIZE: Final = 0x2000
BLOCK_OFFSET: Final = 0x1000


def code(name: str) -> bytes:
    """The bytes of `harmless`, `jump` or `collect`: 8192 of them."""
    with open(os.path.join(os.path.dirname(__file__), f"{name}.bin"), "rb") as file:
        return file.read()
