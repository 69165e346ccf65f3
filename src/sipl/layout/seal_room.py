"""What `sipl seal` writes into the free room in front of the first partition (docs/formats/seal-room.md).

Frames of a header and the blocks that it describes. Everything is big endian.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

SECTOR: Final = 512  # what a disk writes as a whole or not at all

FRAME_MAGIC: Final = b"siplSEAL"
FRAME_VERSION: Final = 1
SECTOR_DIGEST_SIZE: Final = 8  # bytes of the SHA-256 of a sector
FRAME_SECTORS: Final = 55  # the header is one sector: it is there or it is not

SAVED_MAGIC: Final = b"siplBOOT"
SAVED_VERSION: Final = 1


@layout(">8sH2xIQI4xQ440s32s")
class FrameHeader(NamedTuple):
    """First sector of a frame."""

    magic: bytes
    version: int
    block_size: int
    own_block: int  # block that this header lies in
    blocks: int  # how many blocks of content follow
    generation: int  # of the seal; frames of one seal have the same
    sector_digests: bytes  # 8 bytes for each sector of the content, in order
    digest: bytes  # SHA-256 of all before


@layout(">8sH22x152s152s32s")
class SavedRecord(NamedTuple):
    """The boot record that was there, and the one that took its place: bytes 0 to 0x97 of block 0."""

    magic: bytes
    version: int
    former: bytes
    written: bytes
    digest: bytes  # SHA-256 of all before
