"""An image as the guest's disk: logical blocks by number, 64 bit."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.disk.block_size import BLOCK_SIZES
from sipl.errors import SiplError, UsageError
from sipl.reasons import Reason

if TYPE_CHECKING:
    from sipl.disk.image import Image


class BlockOutOfRange(SiplError):
    """The guest asked for blocks that its disk does not have; the host and the image file are not at fault."""

    reason = Reason.BLOCK_OUT_OF_RANGE

    def __init__(self, where: str, block: int, count: int, blocks: int) -> None:
        self.block = block
        self.count = count
        self.blocks = blocks
        super().__init__(where, f"{count} blocks from block {block} on are asked for, the disk has {blocks}")


class BlockDevice:
    """A disk of `blocks` blocks of `block_size` bytes; what follows the last whole block is not part of it.

    Raises:
        UsageError: the block size is not 512, 1024, 2048 or 4096.
    """

    __slots__ = ("block_size", "blocks", "image")

    def __init__(self, image: Image, block_size: int) -> None:
        if block_size not in BLOCK_SIZES:
            raise UsageError(
                image.path, f"{block_size} is no block size", f"choose one of {', '.join(map(str, BLOCK_SIZES))}"
            )
        self.image = image
        self.block_size = block_size
        self.blocks = image.size // block_size

    def read_blocks(self, block: int, count: int, buffer: memoryview) -> None:
        """Fill `buffer`, `count` * `block_size` bytes, with the blocks from number `block` on.

        Raises:
            BlockOutOfRange: not all of them are on the disk; nothing was read.
            ImageError: the image cannot be read.
            ImageFormatError: the image contradicts its format.
            UsageError: the buffer has another length.
        """
        if block < 0 or count < 0 or count > self.blocks - block:
            raise BlockOutOfRange(self.image.path, block, count, self.blocks)
        if len(buffer) != count * self.block_size:
            raise UsageError(self.image.path, f"{len(buffer)} bytes cannot take {count} blocks of {self.block_size}")
        self.image.read_into(block * self.block_size, buffer)
