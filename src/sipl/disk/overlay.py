"""Disks that a guest writes to: into a temporary overlay, or on request into a raw image (docs/formats/channel-io.md).

An overlay is what a guest gets by default: nothing that it does reaches the image. It lives as long as the process,
so that a guest that restarts itself is verified with what it wrote.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from typing import TYPE_CHECKING, Final

from sipl.disk.block_device import BlockDevice, BlockOutOfRange
from sipl.disk.host_file import HostFile
from sipl.disk.image import SECTOR_SIZE, Image
from sipl.disk.image_lock import lock_image
from sipl.disk.open import open_image
from sipl.disk.raw import RawImage
from sipl.errors import ImageError, UsageError
from sipl.layout.qcow2 import QCOW2_MAGIC

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

# What is copied at the first write: file systems write 4 KiB, journals and page clusters a multiple of that. Smaller
# chunks make larger tables, larger ones copy more.
CHUNK_SIZE: Final = 64 << 10

_WRITE_FLAGS: Final = (
    os.O_RDWR
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_BINARY", 0)
)


class WritableImage(Image):
    """An image that takes writes; reads see them at once."""

    __slots__ = ()

    @abstractmethod
    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write `buffer` (bytes) at byte `offset` of the virtual disk.

        Raises:
            ImageError: the host cannot keep it; how much of it was kept is open.
            ImageFormatError: the image below contradicts its format.
            UsageError: what is written does not lie on the virtual disk.
        """

    @abstractmethod
    def flush(self) -> None:
        """Make what was written before survive the end of the host's power, where it is to survive at all.

        Raises:
            ImageError: the host reports an error.
        """


class WritableDisk(BlockDevice):
    """A `BlockDevice` whose image takes writes.

    Raises:
        UsageError: the block size is not 512, 1024, 2048 or 4096.
    """

    __slots__ = ("writable",)

    def __init__(self, image: WritableImage, block_size: int) -> None:
        super().__init__(image, block_size)
        self.writable = image

    def write_blocks(self, block: int, count: int, buffer: memoryview) -> None:
        """Write `buffer`, `count` * `block_size` bytes, to the blocks from number `block` on.

        Raises:
            BlockOutOfRange: not all of them are on the disk; nothing was written.
            ImageError: the host cannot keep it.
            ImageFormatError: the image below contradicts its format.
            UsageError: the buffer has another length.
        """
        if block < 0 or count < 0 or count > self.blocks - block:
            raise BlockOutOfRange(self.image.path, block, count, self.blocks)
        if len(buffer) != count * self.block_size:
            raise UsageError(self.image.path, f"{len(buffer)} bytes are not {count} blocks of {self.block_size}")
        self.writable.write_from(block * self.block_size, buffer)

    def flush(self) -> None:
        """See `WritableImage.flush`."""
        self.writable.flush()


class Overlay(WritableImage):
    """An image, and what was written over it: chunks in an unnamed temporary file, each of them at most once.

    The file grows with the chunks that are written to, so that it never becomes larger than the disk. It lies in
    `folder`, or where temporary files of the host lie, and is gone with the process.
    """

    __slots__ = ("_base", "_file", "_folder", "_slots")

    def __init__(self, image: Image, folder: str | None = None) -> None:
        super().__init__(image.path, image.size, image.format, image.notes)
        self._base = image
        self._folder = folder
        self._file: BinaryIO | None = None
        self._slots: dict[int, int] = {}  # chunk of the disk: place in the file, both counted in chunks

    @property
    def kept(self) -> int:
        """How many bytes of the temporary file are in use."""
        return len(self._slots) * CHUNK_SIZE

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`."""
        self._check_range(offset, len(buffer))
        if not self._slots:
            self._base.read_into(offset, buffer)
            return
        for start, length, place in self._runs(offset, len(buffer)):
            part = buffer[start - offset : start - offset + length]
            if place is None:
                self._base.read_into(start, part)
            else:
                self._read_kept(place, part)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write `buffer` at `offset`; see `WritableImage.write_from`."""
        self._check_range(offset, len(buffer))
        # A list: writing changes what the runs are made of.
        for start, length, place in list(self._runs(offset, len(buffer))):
            part = buffer[start - offset : start - offset + length]
            if place is None:
                self._add(start, part)
            else:
                self._write_kept(place, part)

    def flush(self) -> None:
        """Nothing to do: what an overlay keeps ends with the process."""

    def close(self) -> None:
        """Close the image, and forget what was written."""
        self._base.close()
        self._slots.clear()
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _runs(self, offset: int, length: int) -> Iterator[tuple[int, int, int | None]]:
        """Pieces of a range of the disk, each in one piece either below or in the file.

        Gives byte of the disk, length, byte of the file or None.
        """
        end = offset + length
        while offset < end:
            chunk, within = divmod(offset, CHUNK_SIZE)
            slot = self._slots.get(chunk)
            following, expected = chunk + 1, slot
            while following * CHUNK_SIZE < end:
                if expected is not None:
                    expected += 1
                if self._slots.get(following) != expected:
                    break
                following += 1
            stop = min(end, following * CHUNK_SIZE)
            yield offset, stop - offset, None if slot is None else slot * CHUNK_SIZE + within
            offset = stop

    def _add(self, offset: int, buffer: memoryview) -> None:
        """Keep a range of which no chunk is in the file yet."""
        position = 0
        while position < len(buffer):
            chunk, within = divmod(offset + position, CHUNK_SIZE)
            left = len(buffer) - position
            present = min(CHUNK_SIZE, self.size - chunk * CHUNK_SIZE)
            if within or left < present:
                step = min(left, present - within)
                copy = memoryview(bytearray(present))
                self._base.read_into(chunk * CHUNK_SIZE, copy)
                copy[within : within + step] = buffer[position : position + step]
                self._append(chunk, copy)
            else:  # whole chunks; the last one of the disk may be a short one
                step = left if offset + len(buffer) == self.size else left - left % CHUNK_SIZE
                self._append(chunk, buffer[position : position + step])
            position += step

    def _append(self, chunk: int, data: memoryview) -> None:
        slot = len(self._slots)
        self._write_kept(slot * CHUNK_SIZE, data)
        for number in range(-(-len(data) // CHUNK_SIZE)):
            self._slots[chunk + number] = slot + number

    def _write_kept(self, place: int, data: memoryview) -> None:
        try:
            if self._file is None:
                import tempfile

                # `close` closes it: it lives as long as the overlay.
                self._file = tempfile.TemporaryFile(buffering=0, prefix="sipl-", dir=self._folder)  # noqa: SIM115 (kept open)
            _write_all(self._file.fileno(), data, place)
        except OSError as error:
            raise ImageError(
                self.path,
                f"what the guest writes cannot be kept: {error.strerror or error}",
                "is there room for temporary files? TMPDIR names another place",
            ) from error

    def _read_kept(self, place: int, buffer: memoryview) -> None:
        done = 0
        try:
            while self._file is not None and done < len(buffer):
                got = _read_at(self._file.fileno(), buffer[done:], place + done)
                if not got:
                    break
                done += got
        except OSError as error:
            raise ImageError(self.path, f"what the guest wrote cannot be read: {error.strerror or error}") from error
        if done < len(buffer):
            raise ImageError(self.path, "what the guest wrote is not there any more", "who shortened the file?")


class DirectRaw(WritableImage):
    """A raw image that is written to itself, locked against other programs.

    What would make the file look like a qcow2 image is not written: whoever opens it next would take the guest's
    bytes for a description of the host's files.

    Raises:
        ImageError: the file cannot be opened for reading and writing, or read.
        ImageFormatError: the file is an image of another format.
        UsageError: the file is qcow2, ends inside a sector, or is in use.
    """

    __slots__ = ("_fd", "_image")

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._fd = -1
        name = os.fspath(path)
        with open_image(name) as found:
            if found.format != "raw":
                raise UsageError(
                    name, f"a {found.format} image is not written to", "make a raw one with qemu-img convert -O raw"
                )
        file = HostFile(name)
        self._image = RawImage(file)
        try:
            super().__init__(name, self._image.size, self._image.format, self._image.notes)
            if file.size % SECTOR_SIZE:
                raise UsageError(name, "the image ends inside a sector", "make it larger with truncate --size=%512")
            self._fd = os.open(name, _WRITE_FLAGS)
            opened = os.fstat(self._fd)
            if (opened.st_dev, opened.st_ino) != file.identity:
                raise UsageError(name, "another file took the place of the image", "try again")
            lock_image(self._fd, name)
        except OSError as error:
            self.close()
            if isinstance(error, ImageError):
                raise
            raise ImageError(
                name, f"cannot be opened for writing: {error.strerror or error}", "check who may write it"
            ) from error
        except UsageError:
            self.close()
            raise

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes at `offset`; see `Image.read_into`."""
        self._image.read_into(offset, buffer)

    def write_from(self, offset: int, buffer: memoryview) -> None:
        """Write `buffer` at `offset`; see `WritableImage.write_from`."""
        self._check_range(offset, len(buffer))
        if offset < len(QCOW2_MAGIC) and self._looks_like_qcow2(offset, buffer):
            raise ImageError(self.path, "the guest tried to make the image look like a qcow2 image")
        try:
            _write_all(self._fd, buffer, offset)
        except OSError as error:
            raise ImageError(self.path, f"cannot be written to: {error.strerror or error}") from error

    def flush(self) -> None:
        """Have the host write everything to the medium; see `WritableImage.flush`."""
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise ImageError(self.path, f"cannot be flushed: {error.strerror or error}") from error

    def close(self) -> None:
        """Close the file, which unlocks it."""
        self._image.close()
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _looks_like_qcow2(self, offset: int, buffer: memoryview) -> bool:
        start = bytearray(self._image.read(0, len(QCOW2_MAGIC)))
        new = bytes(buffer[: len(start) - offset])
        start[offset : offset + len(new)] = new
        return bytes(start) == QCOW2_MAGIC


def _write_all(fd: int, data: memoryview, offset: int) -> None:
    done = 0
    while done < len(data):
        done += _write_at(fd, data[done:] if done else data, offset + done)


def _read_by_preadv(fd: int, buffer: memoryview, offset: int) -> int:
    return os.preadv(fd, (buffer,), offset)


def _read_by_seeking(fd: int, buffer: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    data = os.read(fd, min(len(buffer), CHUNK_SIZE))
    buffer[: len(data)] = data
    return len(data)


def _write_by_pwrite(fd: int, data: memoryview, offset: int) -> int:
    return os.pwrite(fd, data, offset)


def _write_by_seeking(fd: int, data: memoryview, offset: int) -> int:
    os.lseek(fd, offset, os.SEEK_SET)
    return os.write(fd, data)


_read_at = _read_by_preadv if hasattr(os, "preadv") else _read_by_seeking
_write_at = _write_by_pwrite if hasattr(os, "pwrite") else _write_by_seeking
