"""The boot side's reader on a disk without a machine: one device, and memory for one block.

Who looks at a disk without booting it walks its tables with the same code that boots it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from sipl.layout.boot_record import MAX_BLOCK_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.firmware.segments import Segments

# How much of a component is read at once.
_CHUNK: Final = 1 << 20


class Blocks(Protocol):
    """A disk as blocks."""

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""

    @property
    def blocks(self) -> int:
        """Number of logical blocks."""

    def read_blocks(self, block: int, count: int, buffer: memoryview) -> None:
        """Fill `buffer`, `count` * `block_size` bytes, with the blocks from number `block` on."""


class OfflineDisk:
    """A disk as a `BlockReader` wants it, platform and device in one; metadata goes to address 0."""

    kind = "virtio-blk"
    position = 0
    subsystem_id = 0

    def __init__(self, device: Blocks, label: str) -> None:
        self._device = device
        self._buffer = memoryview(bytearray(MAX_BLOCK_SIZE))
        self.label = label
        self.block_size = device.block_size
        self.blocks = device.blocks

    def read_blocks(self, subsystem_id: int, block: int, count: int, address: int) -> None:
        """Read blocks of metadata."""
        self._device.read_blocks(block, count, self._buffer[address : address + count * self.block_size])

    def load(self, address: int, length: int) -> bytes:
        """Fetch what was read."""
        return bytes(self._buffer[address : address + length])

    def chunks(self, segments: Segments, first: int = 0) -> Iterator[memoryview]:
        """The bytes of a component in order, without its `first` blocks, in a buffer that the next chunk overwrites."""
        buffer = memoryview(bytearray(_CHUNK))
        step = _CHUNK // self.block_size
        skip = first
        for block, count in segments.runs():
            start, end = block + min(skip, count), block + count
            skip -= start - block
            while start < end:
                blocks = min(step, end - start)
                chunk = buffer[: blocks * self.block_size]
                self._device.read_blocks(start, blocks, chunk)
                yield chunk
                start += blocks
