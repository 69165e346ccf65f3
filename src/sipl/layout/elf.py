"""An ELF file for s390x, as far as a firmware needs it.

See docs/embedded-engine.md, "Real firmware", and docs/qemu-engine.md, "The harmless image".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from sipl.layout.record import layout

ELF_MAGIC: Final = b"\x7fELF"
CLASS_64: Final = 2
DATA_BIG_ENDIAN: Final = 2
ELF_VERSION: Final = 1
TYPE_EXECUTABLE: Final = 2
TYPE_DYNAMIC: Final = 3  # position independent
MACHINE_S390: Final = 22

RELOCATION_TYPE_MASK: Final = 0xFFFFFFFF  # of `Relocation.info`; the symbol stands above it


class SegmentType(IntEnum):
    """Program headers that matter to who loads."""

    LOAD = 1
    DYNAMIC = 2


class DynamicTag(IntEnum):
    """Entries of the dynamic section that say where relocations lie."""

    NULL = 0
    PLT_RELOCATIONS_SIZE = 2
    RELA = 7
    RELA_SIZE = 8
    RELA_ENTRY_SIZE = 9
    REL = 17
    RELR = 36


class RelocationType(IntEnum):
    """Relocations that need no symbol."""

    NONE = 0
    RELATIVE = 12


@layout(">4sBBB9xHHIQQ12xHHH6x")
class ElfHeader(NamedTuple):
    """The first 64 bytes of the file."""

    magic: bytes
    word_size: int
    byte_order: int
    header_version: int
    type: int
    machine: int
    version: int
    entry: int  # virtual address
    program_headers: int  # offset in the file
    header_size: int
    program_header_size: int
    program_header_count: int


@layout(">IIQQ8xQQQ")
class ProgramHeader(NamedTuple):
    """One segment, 56 bytes."""

    type: int
    flags: int
    offset: int  # in the file
    address: int  # virtual
    file_size: int
    memory_size: int  # what is longer than in the file is zero
    alignment: int


@layout(">QQ")
class DynamicEntry(NamedTuple):
    """One entry of the dynamic section, 16 bytes."""

    tag: int
    value: int


@layout(">QQQ")
class Relocation(NamedTuple):
    """One relocation with addend, 24 bytes."""

    address: int  # virtual, of the doubleword that is changed
    info: int
    addend: int  # two's complement
