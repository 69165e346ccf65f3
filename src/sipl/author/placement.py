"""Where the parts of a program are loaded: as zipl places them (docs/making-disks.md, "Addresses")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# Below lie lowcore, the loader and what belongs to it; at the end 31-bit addresses end.
LOWEST_ADDRESS: Final = 0x10000
HIGHEST_END: Final = 0x80000000
PAGE: Final = 0x1000
INITRD_ALIGNMENT: Final = 0x10000
# Kept free for a command line, however short it is: zipl's loader copies as much as a kernel takes.
COMMAND_LINE_ROOM: Final = 0x10000


class Span(NamedTuple):
    """A part that has its place."""

    address: int
    size: int  # bytes


class Floating(NamedTuple):
    """A part that is to be placed."""

    title: str
    size: int  # bytes
    alignment: int = PAGE


def place(fixed: Iterable[Span], floating: Sequence[Floating]) -> list[int]:
    """Addresses of the floating parts, in their order: each gets the lowest gap that it fits into.

    Sizes count as whole pages.

    Raises:
        UsageError: a part does not fit below 2 GiB any more.
    """
    taken = sorted((span.address, span.address + _whole_pages(span.size)) for span in fixed)
    addresses = []
    for part in floating:
        size = _whole_pages(part.size)
        address = _aligned(LOWEST_ADDRESS, part.alignment)
        for start, end in taken:
            if address + size <= start:
                break
            address = max(address, _aligned(end, part.alignment))
        if address + size > HIGHEST_END:
            raise UsageError(part.title, f"{part.size} bytes do not fit below 2 GiB", "use smaller files")
        addresses.append(address)
        taken = sorted([*taken, (address, address + size)])
    return addresses


def _whole_pages(size: int) -> int:
    return _aligned(size, PAGE)


def _aligned(value: int, alignment: int) -> int:
    return value + -value % alignment
