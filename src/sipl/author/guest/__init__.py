"""The demo guest: a loader and a kernel of a few hundred bytes (docs/demo-guest.md).

`loader.S` and `kernel.S` are the source, `loader.bin` and `kernel.bin` the bytes that `build` makes of them with
binutils for s390x.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from sipl.author import sclab
from sipl.layout.guest_ends import DemoEnd as End
from sipl.layout.sclab import SclabFlags
from sipl.layout.stage3 import KERNEL_ADDRESS, STAGE3_ENTRY, STAGE3_PSW

# The same places and the same EXEC PSW as zipl gives its own loader, so that the disk is like a real one.
LOADER_ADDRESS: Final = STAGE3_ENTRY
ENTRY_PSW: Final = STAGE3_PSW

__all__ = [
    "ENTRY_PSW",
    "KERNEL_ADDRESS",
    "LOADER_ADDRESS",
    "End",
    "kernel",
    "kernel_component",
    "loader",
    "loader_component",
]


def loader() -> bytes:
    """The loader's instructions and data, without padding and SCLAB."""
    return _read("loader.bin")


def kernel() -> bytes:
    """The kernel's instructions and data, without padding and SCLAB."""
    return _read("kernel.bin")


def loader_component(block_size: int) -> bytes:
    """The loader as it is signed and loaded at `LOADER_ADDRESS`: padded, with the global SCLAB at its end."""
    flags = SclabFlags.OPSW | SclabFlags.OLA
    return sclab.append(loader(), sclab.build(flags, ENTRY_PSW, LOADER_ADDRESS), block_size)


def kernel_component(block_size: int) -> bytes:
    """The kernel as it is signed and loaded at `KERNEL_ADDRESS`: padded, with a SCLAB without any flag at its end."""
    return sclab.append(kernel(), sclab.build(), block_size)


def _read(name: str) -> bytes:
    return Path(__file__).with_name(name).read_bytes()
