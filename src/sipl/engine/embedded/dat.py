"""Dynamic address translation for the operands of emulated instructions: the address, or which exception it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from sipl.machine.memory import GuestMemory

_DESIGNATION_REAL_SPACE: Final = 0x20
_ORIGIN: Final = ~0xFFF
_INVALID: Final = 0x20
_TABLE_LENGTH: Final = 3
_TABLE_OFFSET: Final = 0xC0
_FORMAT_CONTROL: Final = 0x400
_PAGE_INVALID: Final = 0x400
_PAGE_PROTECTED: Final = 0x200
_SEGMENT_PAGE_TABLE: Final = ~0x7FF
_REGION_FIRST: Final = 3
_EXCEPTIONS: Final = {
    3: ProgramCode.REGION_FIRST_TRANSLATION,
    2: ProgramCode.REGION_SECOND_TRANSLATION,
    1: ProgramCode.REGION_THIRD_TRANSLATION,
    0: ProgramCode.SEGMENT_TRANSLATION,
}


class TranslationException(ProgramInterruption):
    """An address has no translation; `address` is the virtual one, for the translation-exception identification."""

    def __init__(self, code: ProgramCode, address: int) -> None:
        self.address = address
        super().__init__(code)


def walk(memory: GuestMemory, designation: int, address: int, *, store: bool) -> int:
    """Real address of a virtual one, by the tables that an address-space-control element designates.

    Raises:
        TranslationException: ASCE type, region, segment, page translation, or protection for a store.
        ProgramInterruption: addressing; a table does not lie in memory.
    """
    if designation & _DESIGNATION_REAL_SPACE:
        return address
    level = designation >> 2 & 3
    if level < _REGION_FIRST and address >> (31 + 11 * level):
        raise TranslationException(ProgramCode.ASCE_TYPE, address)
    entry = _segment_entry(memory, designation, address, level)
    if entry & _FORMAT_CONTROL:
        return entry & ~0xFFFFF | address & 0xFFFFF
    page = int.from_bytes(memory.read((entry & _SEGMENT_PAGE_TABLE) + (address >> 12 & 0xFF) * 8, 8), "big")
    if page & _PAGE_INVALID:
        raise TranslationException(ProgramCode.PAGE_TRANSLATION, address)
    if store and (page | entry) & _PAGE_PROTECTED:
        raise TranslationException(ProgramCode.PROTECTION, address)
    return page & _ORIGIN | address & 0xFFF


def _segment_entry(memory: GuestMemory, designation: int, address: int, level: int) -> int:
    """The segment-table entry that an address leads to, through at most three region tables."""
    origin, length, offset = designation & _ORIGIN, designation & _TABLE_LENGTH, 0
    while True:
        index = address >> (20 + 11 * level) & 0x7FF
        if not offset <= index >> 9 <= length:
            raise TranslationException(_EXCEPTIONS[level], address)
        entry = int.from_bytes(memory.read(origin + index * 8, 8), "big")
        if entry & _INVALID:
            raise TranslationException(_EXCEPTIONS[level], address)
        if level == 0:
            return entry
        origin, length, offset = entry & _ORIGIN, entry & _TABLE_LENGTH, (entry & _TABLE_OFFSET) >> 6
        level -= 1
