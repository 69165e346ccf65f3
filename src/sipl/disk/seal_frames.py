"""The frames that `sipl seal` writes: making them, and telling them from all else (docs/formats/seal-room.md)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple

from sipl.layout.record import pack, size_of, unpack
from sipl.layout.seal_room import FRAME_MAGIC, FRAME_SECTORS, FRAME_VERSION, SECTOR, SECTOR_DIGEST_SIZE, FrameHeader

if TYPE_CHECKING:
    from sipl.layout.record import Buffer

_DIGEST_SIZE = hashlib.sha256().digest_size


class Frame(NamedTuple):
    """A frame that lies at `block`; `digests` are those of the sectors of its content, in order."""

    block: int
    blocks: int  # of content, behind the header's block
    generation: int
    digests: tuple[bytes, ...]

    @property
    def end(self) -> int:
        """First block behind it."""
        return self.block + 1 + self.blocks


def most_blocks(block_size: int) -> int:
    """How many blocks of content one frame can have."""
    return FRAME_SECTORS * SECTOR // block_size


def sector_digest(sector: Buffer) -> bytes:
    """What a header says of a sector."""
    return hashlib.sha256(sector).digest()[:SECTOR_DIGEST_SIZE]


def make_header(block: int, block_size: int, content: Buffer, generation: int) -> bytes:
    """The header of a frame at `block` with this content, whole blocks and not more than a frame can have."""
    digests = b"".join(sector_digest(content[at : at + SECTOR]) for at in range(0, len(content), SECTOR))
    header = FrameHeader(
        FRAME_MAGIC, FRAME_VERSION, block_size, block, len(content) // block_size, generation, digests, b""
    )
    counted = pack(header)[:-_DIGEST_SIZE]
    return counted + hashlib.sha256(counted).digest()


def read_header(sector: Buffer, block: int, block_size: int) -> Frame | None:
    """The frame whose header is `sector`, read at `block`; None if it is none, or one of another place."""
    if bytes(sector[: len(FRAME_MAGIC)]) != FRAME_MAGIC:
        return None
    header = unpack(FrameHeader, sector)
    if hashlib.sha256(sector[: size_of(FrameHeader) - _DIGEST_SIZE]).digest() != header.digest:
        return None
    if (header.version, header.block_size, header.own_block) != (FRAME_VERSION, block_size, block):
        return None
    if not 0 < header.blocks <= most_blocks(block_size):
        return None
    sectors = header.blocks * block_size // SECTOR
    digests = header.sector_digests[: sectors * SECTOR_DIGEST_SIZE]
    parts = tuple(digests[at : at + SECTOR_DIGEST_SIZE] for at in range(0, len(digests), SECTOR_DIGEST_SIZE))
    return Frame(block, header.blocks, header.generation, parts)
