"""The boot map of a disk that is to be sealed: what each program loads, where it lies, what of it can be signed.

Read with the boot side's own readers, by block numbers alone: nothing is known of file systems.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.author import loader
from sipl.author.linux_image import read_linux_image
from sipl.errors import ImageError, SealRefused, UsageError
from sipl.firmware.blocks import BlockReader
from sipl.firmware.boot_map import component_entries, read_program_table
from sipl.firmware.offline import OfflineDisk
from sipl.firmware.sclab import located_length, sclab_at_end
from sipl.firmware.segments import walk_segment_tables
from sipl.firmware.verdict import FirmwareStop, Judge
from sipl.layout.boot_record import (
    COMPONENT_EXECUTE,
    COMPONENT_LOAD,
    COMPONENT_SIGNATURE,
    POINTER_SIZE,
    PROGRAM_TABLE_ENTRIES,
    PROGRAM_TABLE_HEADER_SIZE,
    BlockPointer,
    BootRecord,
    SignatureInfo,
)
from sipl.layout.diag508 import MAX_SIGNATURE_LENGTH
from sipl.layout.linux import LINUX_AREA_OFFSET, LINUX_ENTRY_OFFSET
from sipl.layout.lowcore import PSW_ADDRESS_MASK
from sipl.layout.record import unpack
from sipl.layout.sclab import Sclab, SclabFlags
from sipl.layout.stage3 import KERNEL_ADDRESS, STAGE3_ENTRY, STAGE3_LENGTH, STAGE3_PSW
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.firmware.offline import Blocks
    from sipl.firmware.segments import Segments
    from sipl.layout.boot_record import ComponentEntry

    Runs = tuple[tuple[int, int], ...]

# All that a guest can load below the firmware, and what one disk may cost to read: programs share most components.
MAX_PROGRAM_SIZE: Final = 2 << 30
MAX_TOTAL_SIZE: Final = 8 << 30
# Blocks of tables, in bytes: two million pointers, and what they name is kept in memory. A component of 2 GiB in pieces
# of 4 KiB needs a quarter of it, 31 full programs of small components on 4096-byte blocks half.
MAX_TABLES_SIZE: Final = 32 << 20


class FoundSignature(NamedTuple):
    """A signature entry with what it leads to; `der` is empty where it has length 0, which counts as none."""

    entry: ComponentEntry
    runs: Runs
    der: bytes


class FoundComponent(NamedTuple):
    """A load entry. `sclab` is None where the last bytes are none, `linux` is the version of a kernel, else None."""

    entry: ComponentEntry
    address: int
    segments: Segments
    digest: str  # SHA-256, hex
    sclab: Sclab | None
    linux: str | None
    signature: FoundSignature | None

    @property
    def length(self) -> int:
        """Bytes."""
        return self.segments.length

    @property
    def runs(self) -> Runs:
        """First block and number of blocks of each run."""
        return tuple(self.segments.runs())


class FoundProgram(NamedTuple):
    """A program that is read; `numbers` are the entries of the program table that lead to it.

    One that is not `wanted` is carried over as it is, as its table lies in room that is needed.
    """

    numbers: tuple[int, ...]
    wanted: bool
    table: int  # block
    components: tuple[FoundComponent, ...]
    execute: ComponentEntry

    @property
    def psw(self) -> int:
        """PSW of the EXEC entry."""
        return int.from_bytes(self.execute.value, "big")

    def is_loader(self, component: FoundComponent) -> bool:
        """Whether it carries a global SCLAB and is entered first."""
        if component.sclab is None or not component.sclab.flags & SclabFlags.OPSW:
            return False
        entry = self.psw & PSW_ADDRESS_MASK
        return component.address <= entry < component.address + component.length

    def title(self, component: FoundComponent) -> str:
        """What a component that carries a SCLAB is."""
        if self.is_loader(component):
            if component.digest in _own_loaders():
                return "sipl's loader"
            place = (component.address, component.length, self.psw)
            return "stage3, zipl's loader" if place == (STAGE3_ENTRY, STAGE3_LENGTH, STAGE3_PSW) else "loader"
        if component.linux is not None:
            return f"Linux {component.linux}" if component.linux else "Linux, of an unknown version"
        return "unknown code"


def _own_loaders() -> set[str]:
    return {hashlib.sha256(loader.component(closed=closed)).hexdigest() for closed in (False, True)}


def is_kernel(component: FoundComponent) -> bool:
    """Whether it is Linux, at the one place at which stage3 starts it in secure mode."""
    return component.sclab is not None and component.linux is not None and component.address == KERNEL_ADDRESS


class Source(NamedTuple):
    """What a disk boots now, without the programs that are left out and stay where they are."""

    block0: bytes
    pointers: tuple[BlockPointer, ...]  # of the program table, all 31
    programs: tuple[FoundProgram, ...]
    blocks: frozenset[int]  # all that tables lie in
    runs: frozenset[tuple[int, int]]  # all that data lies in


class SourceReader:
    """Reads the disk of the image at `path`.

    `progress` gets the number of bytes that were read since its last call. Without `look`, components are found and
    not looked at.
    """

    def __init__(
        self, device: Blocks, path: str, progress: Callable[[int], object] | None = None, *, look: bool = True
    ) -> None:
        self._device = device
        self._path = path
        self._disk = _Recorder(device, path)
        self._progress = progress
        self._look = look
        self._left = MAX_TOTAL_SIZE
        self._known: dict[Runs, tuple[str, Sclab | None, str | None]] = {}
        self._runs: set[tuple[int, int]] = set()
        self._walked: dict[tuple[int, int], Segments] = {}

    def read(self, wanted: frozenset[int] | None, room: range) -> Source:
        """Read boot record, program table, and the programs with these numbers; None is all.

        `room` are blocks that will be written to: programs with their table there are read, too.

        Raises:
            SealRefused: boot-map-unusable, component-too-large.
            UsageError: there is no program with one of these numbers.
            UndecidedError: the image cannot be read.
        """
        reader = self._reader()
        try:
            table = read_program_table(reader, Judge(lambda _: None))
            block0 = reader.metadata(0, "the boot record")
            record = unpack(BootRecord, block0)
            content = reader.metadata(unpack(BlockPointer, record.program_table).block, "the program table pointer")
        except FirmwareStop as stop:
            raise self._unusable(stop, "") from None
        there = table.programs
        for number in sorted(wanted or ()):
            if number not in there:
                names = ", ".join(map(str, there))
                raise UsageError("--entry", f"the disk has no program {number}", f"it has {names}")
        by_table: dict[int, list[int]] = {}
        for number in there:
            by_table.setdefault(table.tables[number], []).append(number)
        programs = []
        for block, numbers in by_table.items():
            is_wanted = wanted is None or bool(wanted & set(numbers))
            if is_wanted or block in room:
                programs.append(self._program(reader, tuple(numbers), block, wanted=is_wanted))
        return Source(
            block0,
            tuple(
                unpack(BlockPointer, content, PROGRAM_TABLE_HEADER_SIZE + number * POINTER_SIZE)
                for number in range(PROGRAM_TABLE_ENTRIES)
            ),
            tuple(programs),
            frozenset(self._disk.met),
            frozenset(self._runs),
        )

    def used_blocks(self, record: bytes) -> tuple[frozenset[int], frozenset[tuple[int, int]]]:
        """Blocks and runs that another boot record leads to, as far as that can be read."""
        other = SourceReader(_WithRecord(self._device, record), self._path, look=False)
        for number in range(PROGRAM_TABLE_ENTRIES):
            try:
                other.read(frozenset({number}), range(0))
            except (SealRefused, UsageError):
                # What cannot be read is used by nobody; what was not read could be.
                if other._disk.exhausted:
                    raise
        return frozenset(other._disk.met), frozenset(other._runs)

    def content(self, component: FoundComponent) -> bytearray:
        """All bytes of a component: the very bytes that were looked at, or none.

        Raises:
            ImageError: the image has changed since.
            UndecidedError: the image cannot be read.
        """
        data = self._all(component.segments)
        if hashlib.sha256(data).hexdigest() != component.digest:
            raise ImageError(
                self._path,
                f"the component at {component.address:#x} has changed since it was looked at",
                "who else writes to the image?",
            )
        return data

    def _all(self, segments: Segments) -> bytearray:
        data = bytearray()
        for chunk in self._disk.chunks(segments):
            data += chunk
        return data

    def part(self, segments: Segments, offset: int, length: int) -> bytes:
        """Some bytes of a component.

        Raises:
            UndecidedError: the image cannot be read.
        """
        size = self._device.block_size
        first = offset // size
        data = bytearray()
        for chunk in self._disk.chunks(segments, first):
            data += chunk
            if len(data) >= offset + length - first * size:
                break
        start = offset - first * size
        return bytes(data[start : start + length])

    def _reader(self) -> BlockReader:
        return BlockReader(self._disk, self._disk, 0)

    def _unusable(self, stop: FirmwareStop, where: str) -> SealRefused:
        return SealRefused(
            SealReason.BOOT_MAP_UNUSABLE,
            self._path,
            f"{where}{stop.reason}: {stop.why}",
            "run zipl in the guest, check --block-size, or leave this program out with --entry",
        )

    def _program(self, reader: BlockReader, numbers: tuple[int, ...], table: int, *, wanted: bool) -> FoundProgram:
        components: list[FoundComponent] = []
        signature: FoundSignature | None = None
        try:
            for entry in component_entries(reader, table):
                if entry.type == COMPONENT_EXECUTE:
                    return FoundProgram(numbers, wanted, table, tuple(components), entry)
                if entry.type == COMPONENT_SIGNATURE:
                    signature = self._signature(reader, entry)
                elif entry.type == COMPONENT_LOAD:
                    components.append(self._component(reader, entry, signature))
                    signature = None
                else:
                    raise self._bad(numbers, f"an entry has the unknown type {entry.type}")
        except FirmwareStop as stop:
            raise self._unusable(stop, f"program {numbers[0]}: ") from None
        raise AssertionError("unreachable: the entries of a table end with EXEC or with an exception")

    def _bad(self, numbers: tuple[int, ...], why: str) -> SealRefused:
        return SealRefused(SealReason.BOOT_MAP_UNUSABLE, self._path, f"program {numbers[0]}: {why}", "run zipl again")

    def _signature(self, reader: BlockReader, entry: ComponentEntry) -> FoundSignature:
        info = unpack(SignatureInfo, entry.value)
        segments = self._segments(reader, entry, MAX_SIGNATURE_LENGTH)
        runs = tuple(segments.runs())
        self._runs.update(runs)
        if max(segments.length, info.length) > MAX_SIGNATURE_LENGTH:
            return FoundSignature(entry, runs, b"\0")
        return FoundSignature(entry, runs, bytes(self._all(segments)[: info.length]))

    def _component(
        self, reader: BlockReader, entry: ComponentEntry, signature: FoundSignature | None
    ) -> FoundComponent:
        address = int.from_bytes(entry.value, "big")
        room = min(MAX_PROGRAM_SIZE, self._device.blocks * self._device.block_size)
        segments = self._segments(reader, entry, room)
        if segments.length > room:
            raise SealRefused(
                SealReason.COMPONENT_TOO_LARGE,
                self._path,
                f"the component at {address:#x} has {segments.length} bytes, more than a guest or the disk has",
            )
        runs = tuple(segments.runs())
        self._runs.update(runs)
        if runs not in self._known:
            self._known[runs] = self._look_at(segments)
        return FoundComponent(entry, address, segments, *self._known[runs], signature)

    def _segments(self, reader: BlockReader, entry: ComponentEntry, room: int) -> Segments:
        """What an entry leads to; menus name the same tables again and again."""
        table = unpack(BlockPointer, entry.segment_table).block
        if (table, room) not in self._walked:
            self._walked[table, room] = walk_segment_tables(reader, table, room)
        return self._walked[table, room]

    def _look_at(self, segments: Segments) -> tuple[str, Sclab | None, str | None]:
        """SHA-256, SCLAB and version of Linux of a component."""
        if not self._look:
            return "", None, None
        self._left -= segments.length
        if self._left < 0:
            raise SealRefused(
                SealReason.COMPONENT_TOO_LARGE,
                self._path,
                f"the components of the disk have more than {MAX_TOTAL_SIZE >> 30} GiB",
            )
        digest = hashlib.sha256()
        head, tail = bytearray(), b""
        for chunk in self._disk.chunks(segments):
            digest.update(chunk)
            if len(head) < _HEAD:
                head += chunk
            tail = (tail + bytes(chunk[-_LARGEST_SCLAB:]))[-_LARGEST_SCLAB:]
            if self._progress is not None:
                self._progress(len(chunk))
        return digest.hexdigest(), read_sclab(tail), _linux_version(head)


# The locator's length field has 16 bits.
_LARGEST_SCLAB: Final = 0xFFFF
# As much of a kernel as what it says of itself lies in.
_HEAD: Final = 4 << 20


def read_sclab(tail: bytes) -> Sclab | None:
    """The SCLAB whose locator is the end of `tail`; a length that is not possible gives one of zeros."""
    length = located_length(tail)
    return None if length is None else sclab_at_end(tail, length) or Sclab(0, 0, 0, 0)


def _linux_version(head: bytearray) -> str | None:
    if len(head) < LINUX_ENTRY_OFFSET + LINUX_AREA_OFFSET:
        return None
    try:
        return read_linux_image(head, "").version
    except UsageError:
        return None


class _Recorder(OfflineDisk):
    """Remembers which blocks of metadata were read, and bounds how many."""

    def __init__(self, device: Blocks, label: str) -> None:
        super().__init__(device, label)
        self.met: set[int] = set()
        self._left = MAX_TABLES_SIZE

    @property
    def exhausted(self) -> bool:
        """Whether something was not read because there was enough before."""
        return self._left < 0

    def read_blocks(self, subsystem_id: int, block: int, count: int, address: int) -> None:
        self._left -= count * self.block_size
        if self._left < 0:
            raise SealRefused(
                SealReason.BOOT_MAP_UNUSABLE,
                self.label,
                f"the tables of its boot map have more than {MAX_TABLES_SIZE >> 20} MiB",
                "run zipl in the guest, or leave programs out with --entry",
            )
        self.met.update(range(block, block + count))
        super().read_blocks(subsystem_id, block, count, address)


class _WithRecord:
    """A disk that has another boot record."""

    def __init__(self, device: Blocks, record: bytes) -> None:
        self.block_size = device.block_size
        self.blocks = device.blocks
        self._device = device
        self._record = record

    def read_blocks(self, block: int, count: int, buffer: memoryview) -> None:
        self._device.read_blocks(block, count, buffer)
        if not block:
            buffer[: len(self._record)] = self._record
