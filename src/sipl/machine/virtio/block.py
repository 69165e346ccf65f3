"""virtio-blk: a disk (docs/formats/channel-io.md)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sipl.disk.overlay import WritableDisk
from sipl.errors import SiplError
from sipl.layout.virtio import (
    BIG_ENDIAN,
    BLOCK_CONFIG_FORMAT,
    BLOCK_F_BLOCK_SIZE,
    BLOCK_F_FLUSH,
    BLOCK_F_GEOMETRY,
    BLOCK_F_READ_ONLY,
    BLOCK_F_SEG_MAX,
    BLOCK_F_TOPOLOGY,
    BLOCK_HEADER_FORMAT,
    BLOCK_HEADER_SIZE,
    BLOCK_ID_SIZE,
    BLOCK_SECTOR,
    GEOMETRY_HEADS,
    GEOMETRY_MAX_CYLINDERS,
    GEOMETRY_SECTORS,
    LITTLE_ENDIAN,
    BlockRequest,
    BlockStatus,
    DeviceId,
)
from sipl.machine.virtio.device import MAX_TRANSFER, VirtioDevice
from sipl.machine.virtio.queue import QueueBroken

if TYPE_CHECKING:
    from sipl.disk.block_device import BlockDevice
    from sipl.machine.virtio.queue import Chain

QUEUE_SIZE: Final = 256
MAX_SEGMENTS: Final = QUEUE_SIZE - 2  # a request has a header and a status besides

_HEADER: Final = {order: struct.Struct(order + BLOCK_HEADER_FORMAT) for order in (LITTLE_ENDIAN, BIG_ENDIAN)}


class VirtioBlock(VirtioDevice):
    """A disk with one queue; read-only unless `disk` is a `WritableDisk`. `serial` has at most 20 characters, ASCII.

    `host_error` is the last fault of the host or the image that the guest saw as an I/O error, None if there was none.
    """

    device_id = DeviceId.BLOCK
    queue_sizes = (QUEUE_SIZE,)

    def __init__(self, disk: BlockDevice, serial: str = "") -> None:
        self._disk = disk
        self._image = disk.image
        self._writable = disk.writable if isinstance(disk, WritableDisk) else None
        self._serial = serial.encode("ascii", "replace")[:BLOCK_ID_SIZE].ljust(BLOCK_ID_SIZE, b"\0")
        self._size = disk.blocks * disk.block_size
        self.host_error: SiplError | None = None
        common = BLOCK_F_SEG_MAX | BLOCK_F_GEOMETRY | BLOCK_F_BLOCK_SIZE | BLOCK_F_TOPOLOGY
        self.features = common | (BLOCK_F_FLUSH if self._writable is not None else BLOCK_F_READ_ONLY)

    def config(self, order: str) -> bytes:
        """See `VirtioDevice.config`."""
        sectors = self._size // BLOCK_SECTOR
        cylinders = min(sectors // (GEOMETRY_HEADS * GEOMETRY_SECTORS), GEOMETRY_MAX_CYLINDERS)
        geometry = cylinders, GEOMETRY_HEADS, GEOMETRY_SECTORS
        # A physical block is a logical one, aligned; transfers have no best size; no write cache; one queue.
        topology = 0, 0, 1, 0
        format_ = order + BLOCK_CONFIG_FORMAT
        return struct.pack(format_, sectors, 0, MAX_SEGMENTS, *geometry, self._disk.block_size, *topology, 0, 1)

    def handle(self, queue: int, chain: Chain) -> int:
        """Carry out a request; see `VirtioDevice.handle`."""
        del queue
        kind, _, sector = _HEADER[chain.order].unpack(chain.take(BLOCK_HEADER_SIZE))
        room = chain.writable_length - 1  # the last byte is the status
        if room < 0:
            raise QueueBroken("a request without room for its status")
        written = 0
        try:
            match kind:
                case BlockRequest.READ:
                    status = self._read(sector * BLOCK_SECTOR, room, chain)
                    written = room if status is BlockStatus.OK else 0
                case BlockRequest.WRITE:
                    status = self._write(sector * BLOCK_SECTOR, chain)
                case BlockRequest.FLUSH:
                    status = self._flush()
                case BlockRequest.GET_ID:
                    written = chain.fill(self._serial[:room])
                    status = BlockStatus.OK
                case _:
                    status = BlockStatus.UNSUPPORTED
        except SiplError as error:
            if isinstance(error, QueueBroken):
                raise
            self.host_error = error
            status = BlockStatus.IO_ERROR
        chain.fill(bytes([status]), room)
        # What counts is how far the device wrote from the start without a gap; the status follows what was read.
        return written + 1 if written == room else written

    def _fits(self, offset: int, length: int) -> bool:
        block = self._disk.block_size
        if length > MAX_TRANSFER:
            return False
        return offset % block == 0 and length % block == 0 and offset + length <= self._size

    def _read(self, offset: int, length: int, chain: Chain) -> BlockStatus:
        if not self._fits(offset, length):
            return BlockStatus.IO_ERROR
        for view in chain.writable(0, length):
            self._image.read_into(offset, view)
            offset += len(view)
        return BlockStatus.OK

    def _write(self, offset: int, chain: Chain) -> BlockStatus:
        if self._writable is None or not self._fits(offset, sum(map(len, chain.readable))):
            return BlockStatus.IO_ERROR
        for view in chain.readable:
            self._writable.write_from(offset, view)
            offset += len(view)
        return BlockStatus.OK

    def _flush(self) -> BlockStatus:
        if self._writable is not None:
            self._writable.flush()
        return BlockStatus.OK
