"""Normal mode: components are loaded and nothing is verified; only the firmware's own memory is protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.components import place_component
from sipl.firmware.verdict import DeviceGivenUp
from sipl.layout.boot_record import COMPONENT_EXECUTE, COMPONENT_LOAD, COMPONENT_SIGNATURE
from sipl.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.blocks import BlockReader
    from sipl.firmware.components import ComponentList
    from sipl.layout.boot_record import ComponentEntry


def load_program(
    reader: BlockReader, area: FirmwareArea, entries: Iterable[ComponentEntry], components: ComponentList
) -> int:
    """Load the components of a program; the result is the PSW of its EXEC entry.

    Raises:
        DeviceGivenUp: table-not-terminated (an entry of another type ends the table, too), segment-unreadable,
            block-out-of-range.
        MachineStops: load-address-forbidden.
    """
    for entry in entries:
        if entry.type == COMPONENT_EXECUTE:
            return int.from_bytes(entry.value, "big")
        if entry.type == COMPONENT_SIGNATURE:
            continue
        if entry.type != COMPONENT_LOAD:
            message = f"the component table ends with an entry of type {entry.type} instead of EXEC"
            raise DeviceGivenUp(Reason.TABLE_NOT_TERMINATED, message)
        component, segments = place_component(reader, area, entry, components)
        segments.read(reader, component.address)
        component.loaded = True
    raise AssertionError("unreachable: the entries of a table end with EXEC or with an exception")
