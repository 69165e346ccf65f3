"""Writing into the free room of a disk: where blocks go, frames around them, and the saved boot record.

The format is in docs/formats/seal-room.md. What a seal needs is laid out as a list of blocks whose numbers need not
follow each other; frames of a header and blocks of content stand one behind the other wherever there is room.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sipl.author.boot_record import DiskWriter
from sipl.disk.seal_frames import make_header, most_blocks
from sipl.errors import SealRefused, ShortRecord
from sipl.layout.boot_record import BOOT_RECORD_SIZE, BlockPointer
from sipl.layout.record import pack, size_of, unpack
from sipl.layout.seal_room import SAVED_MAGIC, SAVED_VERSION, SavedRecord
from sipl.reasons import SealReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sipl.disk.free_room import FreeRoom
    from sipl.disk.image import Image
    from sipl.disk.seal_frames import Frame
    from sipl.layout.record import Buffer

_DIGEST_SIZE = hashlib.sha256().digest_size


class Write(NamedTuple):
    """Bytes that go to a byte of the disk; `what` says what they are."""

    offset: int
    data: bytes
    what: str


class Saved(NamedTuple):
    """A saved boot record that was found: bytes 0 to 0x97 of block 0 before, and as a seal has written them."""

    generation: int
    former: bytes
    written: bytes


def make_saved(former: bytes, written: bytes) -> bytes:
    """The block in which a seal keeps the boot record that it replaces, without its padding."""
    counted = pack(SavedRecord(SAVED_MAGIC, SAVED_VERSION, former, written, b""))[:-_DIGEST_SIZE]
    return counted + hashlib.sha256(counted).digest()


def find_saved(image: Image, block_size: int, frames: Iterable[Frame], block0: bytes) -> Saved | None:
    """The saved record of the seal that wrote the boot record in `block0`; None if no seal that is here did.

    Raises:
        ImageError: the image cannot be read.
        ImageFormatError: the image contradicts its format.
    """
    for frame in frames:
        saved = _read_saved(image.read((frame.block + 1) * block_size, block_size), frame.generation)
        if saved is not None and saved.written == block0[:BOOT_RECORD_SIZE]:
            return saved
    return None


def _read_saved(block: bytes, generation: int) -> Saved | None:
    try:
        record = unpack(SavedRecord, block)
    except ShortRecord:
        return None
    counted = block[: size_of(SavedRecord) - _DIGEST_SIZE]
    if (record.magic, record.version) != (SAVED_MAGIC, SAVED_VERSION):
        return None
    if hashlib.sha256(counted).digest() != record.digest:
        return None
    return Saved(generation, record.former, record.written)


class Allotment(NamedTuple):
    """Room for a seal: block of each frame's header and how many blocks of content it has."""

    frames: tuple[tuple[int, int], ...]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the blocks of content, in order."""
        return [header + 1 + n for header, count in self.frames for n in range(count)]


def allot(path: str, room: FreeRoom, kept: Iterable[Frame], blocks: int, block_size: int) -> Allotment:
    """Find room for `blocks` blocks of content; the frames of `kept` stay.

    Raises:
        SealRefused: no-gap.
    """
    frames: list[tuple[int, int]] = []
    left = blocks
    for start, end in _between(room, kept):
        place = start
        while left and end - place >= 2:
            count = min(left, most_blocks(block_size), end - place - 1)
            frames.append((place, count))
            place += 1 + count
            left -= count
    if left:
        free = sum(end - start for start, end in _between(room, kept))
        needed = blocks + -(-blocks // most_blocks(block_size))
        raise SealRefused(
            SealReason.NO_GAP,
            path,
            f"{needed} blocks are needed in front of the first partition, {free} are free",
            "leave programs out with --entry, or sign the files in the guest and run zipl --secure 1",
        )
    return Allotment(tuple(frames))


def _between(room: FreeRoom, kept: Iterable[Frame]) -> Iterator[tuple[int, int]]:
    """The stretches of a room that lie between the frames that stay."""
    start = room.first
    for frame in sorted(kept):
        if frame.block > start:
            yield start, frame.block
        start = max(start, frame.end)
    if start < room.end:
        yield start, room.end


class Numbers(Protocol):
    """Numbers of blocks, by place in the content."""

    def __getitem__(self, place: int, /) -> int:
        """Number of the block at a place."""


class RoomWriter(DiskWriter):
    """Writes the tables of a boot map to blocks with these numbers, one after the other; `image` is their content."""

    __slots__ = ("_numbers",)

    def __init__(self, block_size: int, numbers: Numbers) -> None:
        super().__init__(block_size)
        self.image = bytearray()
        self._numbers = numbers

    @property
    def next_block(self) -> int:
        """Number of the block that is written next."""
        return self._numbers[len(self.image) // self.block_size]

    def append(self, data: Buffer, merged: bool = True) -> list[BlockPointer]:
        """Write `data`, padded with zeros to whole blocks; return the pointers to its blocks, in order."""
        pointers: list[BlockPointer] = []
        for at in range(0, len(data), self.block_size):
            pointer = self.append_block(data[at : at + self.block_size])
            last = pointers[-1] if pointers and merged else None
            if last is not None and last.block + last.count_less_one + 1 == pointer.block:
                pointers[-1] = last._replace(count_less_one=last.count_less_one + 1)
            else:
                pointers.append(pointer)
        return pointers


def frame_writes(
    allotment: Allotment, content: bytes, block_size: int, generation: int
) -> tuple[list[Write], list[Write]]:
    """The writes of headers, and those of content; the content may follow only when the headers are on the medium."""
    headers, contents = [], []
    at = 0
    for block, count in allotment.frames:
        part = content[at : at + count * block_size]
        at += len(part)
        header = make_header(block, block_size, part, generation).ljust(block_size, b"\0")
        headers.append(Write(block * block_size, header, f"header of blocks {block + 1} to {block + count}"))
        contents.append(
            Write((block + 1) * block_size, part, f"tables and signatures, blocks {block + 1} to {block + count}")
        )
    return headers, contents


def wipe_writes(frames: Iterable[Frame], block_size: int) -> tuple[list[Write], list[Write]]:
    """Zeros over the content of frames, and then over their headers, by which the rest is known as ours until then."""
    contents, headers = [], []
    for frame in frames:
        blocks = f"blocks {frame.block + 1} to {frame.end - 1}"
        contents.append(Write((frame.block + 1) * block_size, bytes(frame.blocks * block_size), f"zeros, {blocks}"))
        headers.append(Write(frame.block * block_size, bytes(block_size), f"zeros, block {frame.block}"))
    return contents, headers
