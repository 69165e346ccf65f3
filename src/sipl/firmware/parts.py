"""What the components of a program are, told by their places (docs/formats/boot-record.md, "What zipl writes").

A name is for people: nothing is decided by it, and whoever writes a disk can put anything anywhere.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from sipl.firmware.stage3 import known_parameters
from sipl.layout.lowcore import PSW_ADDRESS_MASK
from sipl.layout.stage3 import (
    KERNEL_ADDRESS,
    STAGE3_ENTRY,
    STAGE3_HEAP,
    STAGE3_PARAMETERS,
    STAGE3_STACK,
    UNSPECIFIED_ADDRESS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


class Part(StrEnum):
    """The parts of a program, those first that matter most when nobody signed them."""

    LOADER = "loader"
    KERNEL = "kernel"
    PARAMETERS = "parameters"
    COMMAND_LINE = "command line"
    INITRD = "initrd"
    ENVIRONMENT = "environment block"
    HEAP = "heap"
    STACK = "stack"


_PARTS = tuple(Part)


def name_parts(psw: int | None, spans: Sequence[tuple[int, int]], parameters: bytes) -> tuple[Part | None, ...]:
    """The part that each component is, None where nothing tells it.

    `psw` is that of the EXEC entry, `spans` are address and length of each component, `parameters` the first bytes of
    the one at 0x9000, empty if there is none.
    """
    entry = STAGE3_ENTRY if psw is None else psw & PSW_ADDRESS_MASK
    loader = next((address for address, length in spans if address <= entry < address + max(1, length)), None)
    places: dict[int, Part] = {}
    if loader == STAGE3_ENTRY:
        places = {STAGE3_HEAP: Part.HEAP, STAGE3_STACK: Part.STACK, STAGE3_PARAMETERS: Part.PARAMETERS}
        places |= _named_by_parameters(parameters)
    if loader is not None:
        places[loader] = Part.LOADER
    return tuple(places.get(address) for address, _ in spans)


def _named_by_parameters(data: bytes) -> dict[int, Part]:
    found = known_parameters(data)
    if found is None:
        return {KERNEL_ADDRESS: Part.KERNEL}
    kernel = KERNEL_ADDRESS if found.kernel_address == UNSPECIFIED_ADDRESS else found.kernel_address
    return {
        found.environment_address: Part.ENVIRONMENT,
        found.initrd_address: Part.INITRD,
        found.parmline_address: Part.COMMAND_LINE,
        kernel: Part.KERNEL,
    }


def part_title(part: Part | None, address: int) -> str:
    """How a component is called: by its part, else by its load address."""
    return f"component at {address:#x}" if part is None else part.value


def in_order_of_weight(parts: Iterable[tuple[Part | None, int]]) -> tuple[str, ...]:
    """Titles of components, given as part and address: those that matter most first, those without a part last."""
    ranked = sorted(parts, key=lambda pair: len(_PARTS) if pair[0] is None else _PARTS.index(pair[0]))
    return tuple(dict.fromkeys(part_title(part, address) for part, address in ranked))
