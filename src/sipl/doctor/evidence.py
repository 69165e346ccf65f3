"""What lies on the disk behind a report: each component's blocks, its last bytes, its signature."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import SiplError
from sipl.firmware.blocks import BlockReader
from sipl.firmware.boot_map import component_entries, read_program_table
from sipl.firmware.offline import OfflineDisk
from sipl.firmware.segments import Segments, walk_segment_tables
from sipl.firmware.verdict import FirmwareStop, Judge
from sipl.layout.boot_record import COMPONENT_LOAD, COMPONENT_SIGNATURE, BlockPointer, SignatureInfo
from sipl.layout.diag508 import MAX_SIGNATURE_LENGTH
from sipl.layout.record import unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.firmware.offline import Blocks
    from sipl.layout.boot_record import ComponentEntry

# Behind a SCLAB there can be a block of padding and an appended signature of the most that a machine takes; this is
# room for several of them.
TAIL_SIZE: Final = 64 << 10
# A kernel has some ten MiB, and a digest of it is computed a few times. A disk can name its blocks again and again.
MAX_READ: Final = 2 << 30


class TooMuchToRead(SiplError):
    """The components of this disk have more bytes than a look at them is worth."""


class ComponentEvidence(NamedTuple):
    """A load entry. `tail` is its last bytes, `signature` the DER that belongs to it, None without one."""

    position: int
    address: int
    length: int
    segments: Segments
    tail: bytes
    signature: bytes | None


class Evidence:
    """The components of one program, as far as its tables can be read."""

    def __init__(self, device: Blocks, program: int, wanted: int, room: int) -> None:
        """Read the tables of a program; `wanted` components at most, of `room` bytes at most.

        Raises:
            UndecidedError: the image cannot be read.
        """
        self._disk = OfflineDisk(device, "")
        self._left = MAX_READ
        self._digests: dict[tuple[int, str, int], bytes] = {}
        self.block_size = device.block_size
        self.components: list[ComponentEvidence] = []
        try:
            reader = BlockReader(self._disk, self._disk, 0)
            table = read_program_table(reader, Judge(lambda _: None)).component_table(program)
            self._read(reader, component_entries(reader, table), wanted, room)
        except FirmwareStop:
            # What is wrong with the tables, the report says.
            return

    def _read(self, reader: BlockReader, entries: Iterable[ComponentEntry], wanted: int, room: int) -> None:
        signature: bytes | None = None
        for entry in entries:
            if len(self.components) == wanted:
                return
            table = unpack(BlockPointer, entry.segment_table).block
            if entry.type == COMPONENT_SIGNATURE:
                signature = self._signature(reader, entry, table)
            elif entry.type == COMPONENT_LOAD:
                segments = walk_segment_tables(reader, table, room)
                address = int.from_bytes(entry.value, "big")
                position = len(self.components)
                tail = b"".join(bytes(chunk) for chunk in self._last_chunks(segments))[-TAIL_SIZE:]
                component = ComponentEvidence(position, address, segments.length, segments, tail, signature)
                self.components.append(component)
                signature = None

    def _last_chunks(self, segments: Segments) -> Iterable[memoryview]:
        return self._disk.chunks(segments, max(0, segments.blocks - TAIL_SIZE // self.block_size))

    def _signature(self, reader: BlockReader, entry: ComponentEntry, table: int) -> bytes | None:
        length = unpack(SignatureInfo, entry.value).length
        segments = walk_segment_tables(reader, table, MAX_SIGNATURE_LENGTH)
        if not length or max(length, segments.length) > MAX_SIGNATURE_LENGTH:
            return None
        return b"".join(bytes(chunk) for chunk in self._disk.chunks(segments))[:length]

    def digest(self, component: ComponentEvidence, name: str, length: int) -> bytes:
        """Digest, by hashlib's name, of the first `length` bytes of a component; each is computed once.

        Raises:
            TooMuchToRead: there was enough to read before.
            UndecidedError: the image cannot be read.
        """
        key = component.position, name, length
        if key not in self._digests:
            self._left -= length
            if self._left < 0:
                raise TooMuchToRead("", f"the components have more than {MAX_READ >> 30} GiB")
            # Old digests are not for security here: what they are worth is said by the rule on weak signatures.
            digest = hashlib.new(name, usedforsecurity=False)
            left = length
            for chunk in self._disk.chunks(component.segments):
                digest.update(chunk[:left])
                left -= min(left, len(chunk))
                if not left:
                    break
            self._digests[key] = digest.digest()
        return self._digests[key]
