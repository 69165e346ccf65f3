"""Writing the boot record of a zipl disk, SCSI scheme (docs/formats/boot-record.md).

`write_disk` makes an image of programs. `DiskWriter` is the layer below: each of its methods writes one structure and
returns the pointer to it, and takes the records that go into it as they are, so that a disk with any field wrong can
be made by changing a record on its way:

    writer = DiskWriter(512)
    entries = writer.add_component(Load(0xA000, loader))
    entries[0] = entries[0]._replace(type=4)
    table = writer.append_component_table([*entries, *writer.add_component(Execute(psw))])
    writer.write_boot_record(writer.append_program_table([table]))
    image = writer.finish()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.layout.boot_record import (
    BOOT_RECORD_SIZE,
    BOOT_RECORD_VERSION,
    COMPONENT_ENTRY_SIZE,
    COMPONENT_EXECUTE,
    COMPONENT_LOAD,
    COMPONENT_SIGNATURE,
    COMPONENT_TABLE_HEADER_SIZE,
    COMPONENT_TABLE_TYPE_IPL,
    MAX_BLOCK_SIZE,
    MIN_BLOCK_SIZE,
    POINTER_SIZE,
    PROGRAM_TABLE_ENTRIES,
    SIGNATURE_FORMAT_DER,
    ZIPL_MAGIC,
    BlockPointer,
    BootRecord,
    ComponentEntry,
    ComponentTableHeader,
    ProgramTableHeader,
    SignatureInfo,
)
from sipl.layout.record import pack

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sipl.layout.record import Buffer

# zipl joins neighbouring blocks up to this many in one pointer.
MAX_MERGED_BLOCKS: Final = 65535
NO_BLOCK: Final = BlockPointer(0, 0, 0)


class Load(NamedTuple):
    """A component that is loaded; `signature` goes in an entry of its own before it."""

    address: int
    data: bytes  # padded with zeros to whole blocks on disk
    signature: bytes | None = None
    signature_format: int = SIGNATURE_FORMAT_DER
    signature_length: int | None = None  # as stated; None for the true length


class Execute(NamedTuple):
    """The end of a component table."""

    psw: int  # 8-byte short PSW


class Program(NamedTuple):
    """What one entry of the program table leads to."""

    components: Sequence[Load | Execute]
    table_type: int = COMPONENT_TABLE_TYPE_IPL
    merged: bool = True  # neighbouring blocks share a pointer; otherwise each block has its own


class DiskWriter:
    """A disk image that grows block by block; block 0 is kept for the boot record.

    Raises:
        UsageError: `block_size` is none of 512, 1024, 2048, 4096.
    """

    __slots__ = ("block_size", "image")

    def __init__(self, block_size: int) -> None:
        if not MIN_BLOCK_SIZE <= block_size <= MAX_BLOCK_SIZE or block_size & (block_size - 1):
            raise UsageError("block size", f"{block_size} is not possible", "use 512, 1024, 2048 or 4096")
        self.block_size = block_size
        self.image = bytearray(block_size)

    @property
    def next_block(self) -> int:
        """Number of the block that is written next."""
        return len(self.image) // self.block_size

    def append(self, data: Buffer, merged: bool = True) -> list[BlockPointer]:
        """Write `data`, padded with zeros to whole blocks; return the pointers to its blocks, in order."""
        first = self.next_block
        self.image += data
        self.image += bytes(-len(data) % self.block_size)
        step = MAX_MERGED_BLOCKS if merged else 1
        end = self.next_block
        return [BlockPointer(block, self.block_size, min(step, end - block) - 1) for block in range(first, end, step)]

    def append_block(self, data: Buffer) -> BlockPointer:
        """Write one block of `data` and zeros; return the pointer to it.

        Raises:
            UsageError: `data` is longer than a block.
        """
        if len(data) > self.block_size:
            raise UsageError("boot record", f"{len(data)} bytes do not fit into a block of {self.block_size}")
        block = self.next_block
        self.image += bytes(data).ljust(self.block_size, b"\0")
        return BlockPointer(block, self.block_size, 0)

    def append_segment_tables(self, pointers: Sequence[BlockPointer]) -> BlockPointer:
        """Write as many segment tables as `pointers` need; return the pointer to the first table.

        The last slot of a table is the link to the next one, or zero. All tables but the last are full.
        """
        slots = self.block_size // POINTER_SIZE - 1
        link = NO_BLOCK
        # Back to front, as each table holds the place of the one behind it.
        for start in reversed(range(0, max(1, len(pointers)), slots)):
            table = b"".join(pack(pointer) for pointer in pointers[start : start + slots])
            link = self.append_block(table.ljust(slots * POINTER_SIZE, b"\0") + pack(link))
        return link

    def append_data(self, data: bytes, merged: bool = True) -> BlockPointer:
        """Write `data` and the segment tables that lead to it; return the pointer to the first table."""
        return self.append_segment_tables(self.append(data, merged))

    def append_component_table(
        self,
        entries: Iterable[ComponentEntry],
        table_type: int = COMPONENT_TABLE_TYPE_IPL,
        magic: bytes = ZIPL_MAGIC,
    ) -> BlockPointer:
        """Write a component table; return the pointer to it.

        Raises:
            UsageError: there are more entries than one block holds.
        """
        packed = [pack(entry) for entry in entries]
        room = (self.block_size - COMPONENT_TABLE_HEADER_SIZE) // COMPONENT_ENTRY_SIZE
        if len(packed) > room:
            raise UsageError(
                "component table",
                f"{len(packed)} entries do not fit into a block of {self.block_size} bytes",
                f"{room} do; signatures count too",
            )
        return self.append_block(pack(ComponentTableHeader(magic, table_type)) + b"".join(packed))

    def append_program_table(self, pointers: Iterable[BlockPointer | None], magic: bytes = ZIPL_MAGIC) -> BlockPointer:
        """Write a program table, entry 0 first, None for an empty entry; return the pointer to it.

        Raises:
            UsageError: there are more than 31 entries.
        """
        packed = [pack(pointer or NO_BLOCK) for pointer in pointers]
        if len(packed) > PROGRAM_TABLE_ENTRIES:
            raise UsageError(
                "program table", f"{len(packed)} programs are too many", f"{PROGRAM_TABLE_ENTRIES} is the most"
            )
        return self.append_block(pack(ProgramTableHeader(magic)) + b"".join(packed))

    def write_boot_record(
        self, program_table: BlockPointer, magic: bytes = ZIPL_MAGIC, version: int = BOOT_RECORD_VERSION
    ) -> None:
        """Write the first 0x98 bytes of block 0; what lies behind them stays as it is."""
        record = pack(BootRecord(magic, version, pack(program_table)))
        self.image[:BOOT_RECORD_SIZE] = record.ljust(BOOT_RECORD_SIZE, b"\0")

    def add_component(self, component: Load | Execute, merged: bool = True) -> list[ComponentEntry]:
        """Write a component's data and segment tables, and its signature's before; return the entries for the table.

        Raises:
            UsageError: an address, a PSW, or the signature's format or length does not fit into its field.
        """
        if isinstance(component, Execute):
            return [ComponentEntry(pack(NO_BLOCK), COMPONENT_EXECUTE, _doubleword("PSW", component.psw))]
        entries = []
        if component.signature is not None:
            length = len(component.signature) if component.signature_length is None else component.signature_length
            if not (0 <= component.signature_format <= 0xFF and 0 <= length < 1 << 32):
                raise UsageError("signature", "its format or length does not fit into its field")
            info = pack(SignatureInfo(component.signature_format, length))
            entries.append(self._entry(COMPONENT_SIGNATURE, component.signature, info, merged))
        address = _doubleword("load address", component.address)
        entries.append(self._entry(COMPONENT_LOAD, component.data, address, merged))
        return entries

    def add_program(self, program: Program) -> BlockPointer:
        """Write all components of a program and its component table; return the pointer to the table.

        Raises:
            UsageError: the table does not fit into one block, or a value does not fit into its field.
        """
        entries = [entry for c in program.components for entry in self.add_component(c, program.merged)]
        return self.append_component_table(entries, program.table_type)

    def finish(self, size: int | None = None) -> bytearray:
        """Return the image, extended with zeros to `size` bytes.

        Raises:
            UsageError: `size` is no multiple of the block size, or less than what was written.
        """
        if size is not None:
            if size % self.block_size or size < len(self.image):
                raise UsageError(
                    "disk size",
                    f"{size} is not possible",
                    f"use a multiple of {self.block_size}, at least {len(self.image)}",
                )
            self.image += bytes(size - len(self.image))
        return self.image

    def _entry(self, entry_type: int, data: bytes, value: bytes, merged: bool) -> ComponentEntry:
        return ComponentEntry(pack(self.append_data(data, merged)), entry_type, value)


def write_disk(programs: Sequence[Program | None], block_size: int, size: int | None = None) -> bytearray:
    """Return a disk image with a boot record: entry i of the program table is `programs[i]`, None is an empty entry.

    A program that stands in the list more than once is written once, as zipl does with the default, entry 0. `size`
    is in bytes; without it the image ends with the last block that was written.

    Raises:
        UsageError: the block size or the size is not possible, a table does not fit, or a value does not.
    """
    writer = DiskWriter(block_size)
    written: dict[int, BlockPointer] = {}
    pointers: list[BlockPointer | None] = []
    for program in programs:
        if program is None:
            pointers.append(None)
            continue
        if id(program) not in written:
            written[id(program)] = writer.add_program(program)
        pointers.append(written[id(program)])
    writer.write_boot_record(writer.append_program_table(pointers))
    return writer.finish(size)


def _doubleword(name: str, value: int) -> bytes:
    if not 0 <= value < 1 << 64:
        raise UsageError(name, f"{value:#x} is no 64-bit number")
    return value.to_bytes(8, "big")
