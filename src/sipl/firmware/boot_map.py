"""The boot map of a zipl disk: boot record, program table, component table (docs/formats/boot-record.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sipl.firmware.scheme import not_zipl
from sipl.firmware.verdict import DeviceGivenUp, MachineStops
from sipl.layout.boot_record import (
    BOOT_RECORD_VERSION,
    COMPONENT_ENTRY_SIZE,
    COMPONENT_EXECUTE,
    COMPONENT_TABLE_HEADER_SIZE,
    COMPONENT_TABLE_TYPE_IPL,
    POINTER_SIZE,
    PROGRAM_TABLE_ENTRIES,
    PROGRAM_TABLE_HEADER_SIZE,
    ZIPL_MAGIC,
    BlockPointer,
    BootRecord,
    ComponentEntry,
    ComponentTableHeader,
    ProgramTableHeader,
)
from sipl.layout.record import unpack
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.firmware.blocks import BlockReader
    from sipl.firmware.verdict import Judge


class ProgramTable(NamedTuple):
    """Blocks of the component tables by number of the program; 0 stands for an empty entry."""

    tables: tuple[int, ...]

    @property
    def programs(self) -> tuple[int, ...]:
        """Numbers of the entries that are not empty."""
        return tuple(number for number, block in enumerate(self.tables) if block)

    def component_table(self, number: int) -> int:
        """Block of the component table of a program.

        Raises:
            MachineStops: loadparm-invalid; there is no such program.
        """
        if not 0 <= number < PROGRAM_TABLE_ENTRIES:
            raise MachineStops(
                Reason.LOADPARM_INVALID, f"there is no program {number}, a disk has 0 to {PROGRAM_TABLE_ENTRIES - 1}"
            )
        if not self.tables[number]:
            there = ", ".join(map(str, self.programs))
            raise MachineStops(Reason.LOADPARM_INVALID, f"the disk has no program {number} (it has {there})")
        return self.tables[number]


def read_program_table(reader: BlockReader, judge: Judge) -> ProgramTable:
    """Read block 0 and the program table.

    Raises:
        DeviceGivenUp: not-a-zipl-disk, boot-record-invalid, block-out-of-range; scheme-not-supported in normal mode.
        MachineStops: scheme-not-supported in audit and secure mode.
    """
    block0 = reader.metadata(0, "the boot record")
    record = unpack(BootRecord, block0)
    if record.magic != ZIPL_MAGIC:
        raise not_zipl(reader, block0, judge.mode)
    if record.version != BOOT_RECORD_VERSION:
        judge.add(
            Reason.BOOT_RECORD_VERSION,
            Level.WARNING,
            f"the boot record has version {record.version}, only {BOOT_RECORD_VERSION} is known",
        )
    pointer = unpack(BlockPointer, record.program_table)
    if not pointer.block:
        raise DeviceGivenUp(Reason.BOOT_RECORD_INVALID, "the boot record points to no program table")
    table = reader.metadata(pointer.block, "the program table pointer")
    if unpack(ProgramTableHeader, table).magic != ZIPL_MAGIC:
        raise DeviceGivenUp(Reason.BOOT_RECORD_INVALID, f"block {pointer.block} is no program table (no zIPL magic)")
    entries = (
        unpack(BlockPointer, table, PROGRAM_TABLE_HEADER_SIZE + number * POINTER_SIZE).block
        for number in range(PROGRAM_TABLE_ENTRIES)
    )
    programs = ProgramTable(tuple(entries))
    if not programs.programs:
        raise DeviceGivenUp(Reason.BOOT_RECORD_INVALID, "the program table is empty")
    return programs


def component_entries(reader: BlockReader, table: int) -> Iterator[ComponentEntry]:
    """The entries of a component table in order; the last one is the EXEC entry.

    Raises:
        DeviceGivenUp: boot-record-invalid (no such table, or one for a dump), block-out-of-range,
            table-not-terminated, when the walk comes to the end of the block.
    """
    content = reader.metadata(table, "the component table pointer")
    header = unpack(ComponentTableHeader, content)
    if header.magic != ZIPL_MAGIC:
        raise DeviceGivenUp(Reason.BOOT_RECORD_INVALID, f"block {table} is no component table (no zIPL magic)")
    if header.type != COMPONENT_TABLE_TYPE_IPL:
        raise DeviceGivenUp(
            Reason.BOOT_RECORD_INVALID,
            f"the component table at block {table} has type {header.type}, only 0 (IPL) boots",
        )
    for offset in range(COMPONENT_TABLE_HEADER_SIZE, len(content) - COMPONENT_ENTRY_SIZE + 1, COMPONENT_ENTRY_SIZE):
        entry = unpack(ComponentEntry, content, offset)
        yield entry
        if entry.type == COMPONENT_EXECUTE:
            return
    raise DeviceGivenUp(Reason.TABLE_NOT_TERMINATED, f"the component table at block {table} ends without an EXEC entry")
