"""The components of a program as they are loaded: where they go, and what the report will say of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.segments import walk_segment_tables
from sipl.firmware.verdict import FirmwareFault, MachineStops
from sipl.layout.boot_record import MAX_COMPONENT_ENTRIES, BlockPointer
from sipl.layout.iirb import ComponentFlags
from sipl.layout.record import unpack
from sipl.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.blocks import BlockReader
    from sipl.firmware.segments import Segments
    from sipl.layout.boot_record import ComponentEntry


class Component:
    """A component in memory. `flags` and `error_indicators` are those of its report entry.

    `store_index` is the position in the certificate store of the certificate that verified it, `certificate_index`
    that in the report; `signature_length` is in bytes, 0 without a signature; `loaded` once its bytes are in memory.
    """

    __slots__ = (
        "address",
        "certificate_index",
        "error_indicators",
        "flags",
        "length",
        "loaded",
        "position",
        "signature_length",
        "store_index",
    )

    def __init__(self, position: int, address: int, length: int) -> None:
        self.position = position
        self.address = address
        self.length = length
        self.loaded = False
        self.flags = 0
        self.error_indicators = 0
        self.certificate_index = 0
        self.store_index: int | None = None
        self.signature_length = 0

    @property
    def end(self) -> int:
        """Address of the first byte behind it."""
        return self.address + self.length

    @property
    def signed(self) -> bool:
        """Whether it came with a signature."""
        return bool(self.flags & ComponentFlags.SIGNED)

    @property
    def verified(self) -> bool:
        """Whether a certificate of the store verified it."""
        return bool(self.flags & ComponentFlags.VERIFIED)


class ComponentList:
    """The components of the program that is being loaded, in table order; the PSW entry takes the last place."""

    def __init__(self) -> None:
        self._components: list[Component] = []

    def __iter__(self) -> Iterator[Component]:
        return iter(self._components)

    def __len__(self) -> int:
        return len(self._components)

    def add(self, address: int, length: int) -> Component:
        """Append a component; more than one table can hold is an error of the firmware itself."""
        if len(self._components) >= MAX_COMPONENT_ENTRIES:
            raise FirmwareFault("component list", "more components than a component table can hold")
        component = Component(len(self._components), address, length)
        self._components.append(component)
        return component

    @property
    def signed(self) -> list[Component]:
        """Those that came with a signature."""
        return [component for component in self._components if component.signed]

    def signed_at(self, address: int, length: int) -> Component | None:
        """The first signed component that `[address, address + length)` meets."""
        end = address + length
        for component in self._components:
            if component.signed and component.address < end and address < component.end:
                return component
        return None


def place_component(
    reader: BlockReader, area: FirmwareArea, entry: ComponentEntry, components: ComponentList
) -> tuple[Component, Segments]:
    """Find out what a load entry names and where it goes, and append it; nothing is read to its place yet.

    Raises:
        DeviceGivenUp: segment-unreadable, block-out-of-range.
        MachineStops: load-address-forbidden, in every mode.
    """
    address = int.from_bytes(entry.value, "big")
    table = unpack(BlockPointer, entry.segment_table).block
    segments = walk_segment_tables(reader, table, area.memory_size)
    component = components.add(address, segments.length)
    why = area.why_forbidden(address, segments.length)
    if why:
        raise MachineStops(
            Reason.LOAD_ADDRESS_FORBIDDEN,
            f"a component of {segments.length:#x} bytes cannot be loaded at {address:#x}: {why}",
            component.position,
        )
    return component, segments
