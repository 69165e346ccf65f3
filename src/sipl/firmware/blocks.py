"""Reading the boot device: one metadata block at a time, and runs of data blocks straight to where they belong."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.verdict import DeviceGivenUp
from sipl.layout.boot_record import MAX_BLOCK_SIZE, MIN_BLOCK_SIZE
from sipl.reasons import Reason

if TYPE_CHECKING:
    from sipl.firmware.platform import BlockPlatform, Device


class BlockReader:
    """Bounded reads of one device; `buffer` is the absolute address that metadata blocks are read to."""

    def __init__(self, platform: BlockPlatform, device: Device, buffer: int) -> None:
        if not MIN_BLOCK_SIZE <= device.block_size <= MAX_BLOCK_SIZE:
            raise DeviceGivenUp(
                Reason.NOT_A_ZIPL_DISK, f"the device has no blocks of {MIN_BLOCK_SIZE} to {MAX_BLOCK_SIZE} bytes"
            )
        self.block_size = device.block_size
        self.blocks = device.blocks
        self._platform = platform
        self._subsystem_id = device.subsystem_id
        self._buffer = buffer

    def check(self, block: int, count: int, what: str) -> None:
        """Give the device up if `count` blocks from `block` do not all lie on it."""
        if block + count > self.blocks:
            raise DeviceGivenUp(
                Reason.BLOCK_OUT_OF_RANGE,
                f"{what} points to block {block + count - 1}, the disk has {self.blocks} blocks",
            )

    def metadata(self, block: int, what: str) -> bytes:
        """Read the one block that a metadata object takes.

        Raises:
            DeviceGivenUp: block-out-of-range.
        """
        self.check(block, 1, what)
        self._platform.read_blocks(self._subsystem_id, block, 1, self._buffer)
        return self._platform.load(self._buffer, self.block_size)

    def data(self, block: int, count: int, address: int) -> None:
        """Read blocks that were checked before to an absolute address."""
        self._platform.read_blocks(self._subsystem_id, block, count, address)
