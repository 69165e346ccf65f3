"""Dynamic address translation, where no CPU does it: the address, or which exception it gives."""

from __future__ import annotations

from typing import Final, Protocol

from sipl.machine.interruption import ProgramCode, ProgramInterruption

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
_SEGMENT_SHIFT: Final = 20
_INDEX_BITS: Final = 11
_EXCEPTIONS: Final = {
    3: ProgramCode.REGION_FIRST_TRANSLATION,
    2: ProgramCode.REGION_SECOND_TRANSLATION,
    1: ProgramCode.REGION_THIRD_TRANSLATION,
    0: ProgramCode.SEGMENT_TRANSLATION,
}


class Storage(Protocol):
    """Absolute storage, which raises an addressing exception for what is not there."""

    def read(self, address: int, length: int, /) -> bytes:
        """The bytes at an absolute address."""


class TranslationException(ProgramInterruption):
    """An address has no translation; `address` is the virtual one, for the translation-exception identification."""

    def __init__(self, code: ProgramCode, address: int) -> None:
        self.address = address
        super().__init__(code)


def walk(memory: Storage, designation: int, address: int, *, store: bool) -> int:
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
    entry, level = _last_entry(memory, designation, address, level)
    if entry & _FORMAT_CONTROL:
        within = (1 << _SEGMENT_SHIFT + _INDEX_BITS * level) - 1
        if store and entry & _PAGE_PROTECTED:
            raise TranslationException(ProgramCode.PROTECTION, address)
        return entry & ~within | address & within
    page = int.from_bytes(memory.read((entry & _SEGMENT_PAGE_TABLE) + (address >> 12 & 0xFF) * 8, 8), "big")
    if page & _PAGE_INVALID:
        raise TranslationException(ProgramCode.PAGE_TRANSLATION, address)
    if store and (page | entry) & _PAGE_PROTECTED:
        raise TranslationException(ProgramCode.PROTECTION, address)
    return page & _ORIGIN | address & 0xFFF


def _last_entry(memory: Storage, designation: int, address: int, level: int) -> tuple[int, int]:
    """The entry that an address leads to through at most three region tables, and the level of its table.

    It is a segment-table entry (level 0), or a region-third-table entry (level 1) of a frame of 2 GiB.
    """
    origin, length, offset = designation & _ORIGIN, designation & _TABLE_LENGTH, 0
    while True:
        index = address >> (_SEGMENT_SHIFT + _INDEX_BITS * level) & 0x7FF
        if not offset <= index >> 9 <= length:
            raise TranslationException(_EXCEPTIONS[level], address)
        entry = int.from_bytes(memory.read(origin + index * 8, 8), "big")
        if entry & _INVALID:
            raise TranslationException(_EXCEPTIONS[level], address)
        if level == 0 or (level == 1 and entry & _FORMAT_CONTROL):
            return entry, level
        origin, length, offset = entry & _ORIGIN, entry & _TABLE_LENGTH, (entry & _TABLE_OFFSET) >> 6
        level -= 1
