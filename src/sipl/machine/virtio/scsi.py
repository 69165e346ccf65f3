"""virtio-scsi: a host bus adapter with one target that has one disk (docs/formats/channel-io.md)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from sipl.layout.scsi import Sense, Status
from sipl.layout.virtio import (
    SCSI_CDB_OFFSET,
    SCSI_CDB_SIZE,
    SCSI_CONFIG_FORMAT,
    SCSI_CONTROL_QUEUE,
    SCSI_EVENT_QUEUE,
    SCSI_EVENT_SIZE,
    SCSI_LUN_SINGLE_LEVEL,
    SCSI_NOTIFICATION_QUERY,
    SCSI_NOTIFICATION_SIZE,
    SCSI_NOTIFICATION_SUBSCRIBE,
    SCSI_REQUEST_SIZE,
    SCSI_RESPONSE_FORMAT,
    SCSI_RESPONSE_SIZE,
    SCSI_SENSE_SIZE,
    SCSI_TASK_MANAGEMENT,
    SCSI_TASK_MANAGEMENT_SIZE,
    SCSI_TASK_SUBTYPES,
    DeviceId,
    ScsiResponse,
)
from sipl.machine.virtio.device import VirtioDevice
from sipl.machine.virtio.queue import QueueBroken
from sipl.machine.virtio.scsi_disk import CheckCondition, ScsiDisk, Transfer, sense_data

if TYPE_CHECKING:
    from sipl.disk.block_device import BlockDevice
    from sipl.errors import SiplError
    from sipl.machine.virtio.queue import Chain

QUEUE_SIZE: Final = 256
MAX_SEGMENTS: Final = QUEUE_SIZE - 2
_MAX_SECTORS: Final = 0xFFFF
_COMMANDS_PER_UNIT: Final = 128
_TARGET: Final = 0
_UNIT_MASK: Final = 0x3FFF  # the two bits above name the addressing method


class VirtioScsi(VirtioDevice):
    """The adapter: control queue, event queue, and one request queue. Target 0 has logical unit 0, the disk."""

    device_id = DeviceId.SCSI
    queue_sizes = (QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE)
    features = 0

    def __init__(self, disk: BlockDevice, serial: str = "") -> None:
        self.disk = ScsiDisk(disk, serial)

    @property
    def host_error(self) -> SiplError | None:
        """The last fault of the host or the image that the guest saw as a medium error."""
        return self.disk.host_error

    def config(self, order: str) -> bytes:
        """See `VirtioDevice.config`."""
        limits = MAX_SEGMENTS, _MAX_SECTORS, _COMMANDS_PER_UNIT
        sizes = SCSI_EVENT_SIZE, SCSI_SENSE_SIZE, SCSI_CDB_SIZE
        return struct.pack(order + SCSI_CONFIG_FORMAT, 1, *limits, *sizes, 0, _TARGET, 0)

    def takes(self, queue: int) -> bool:
        """Buffers for events wait: nothing ever changes."""
        return queue != SCSI_EVENT_QUEUE and super().takes(queue)

    def handle(self, queue: int, chain: Chain) -> int:
        """Carry out a request; see `VirtioDevice.handle`."""
        return self._control(chain) if queue == SCSI_CONTROL_QUEUE else self._request(chain)

    def _control(self, chain: Chain) -> int:
        kind = int.from_bytes(chain.take(4), "big" if chain.order == ">" else "little")
        if kind == SCSI_TASK_MANAGEMENT:
            rest = chain.take(SCSI_TASK_MANAGEMENT_SIZE - 4)
            subtype = struct.unpack_from(chain.order + "I", rest)[0]
            # Every command ends before the next one is looked at, so that nothing is left to abort.
            known = ScsiResponse.OK if subtype < SCSI_TASK_SUBTYPES else ScsiResponse.FUNCTION_REJECTED
            answer = bytes([_fault(rest[4:12]) or known])
        elif kind in {SCSI_NOTIFICATION_QUERY, SCSI_NOTIFICATION_SUBSCRIBE}:
            rest = chain.take(SCSI_NOTIFICATION_SIZE - 4)
            answer = bytes(4) + bytes([_fault(rest[:8])])
        else:
            answer = bytes([ScsiResponse.FUNCTION_REJECTED])
        if chain.fill(answer) != len(answer):
            raise QueueBroken("a control request without room for its response")
        return len(answer)

    def _request(self, chain: Chain) -> int:
        request = chain.take(SCSI_REQUEST_SIZE)
        room = chain.writable_length - SCSI_RESPONSE_SIZE
        if room < 0:
            raise QueueBroken("a request without room for its response")
        outgoing = sum(map(len, chain.readable))
        response, sense, moved, incoming = _fault(request[:8], units=True), Sense.NONE, 0, 0
        if not response:
            unit = int.from_bytes(request[2:4], "big") & _UNIT_MASK
            try:
                result = self.disk.execute(request[SCSI_CDB_OFFSET:], unit)
                if not isinstance(result, Transfer):
                    incoming = moved = chain.fill(result[:room], SCSI_RESPONSE_SIZE)
                elif result.blocks * self.disk.block_size > (outgoing if result.write else room):
                    response = ScsiResponse.OVERRUN
                else:
                    moved = self._move(result, chain)
                    incoming = 0 if result.write else moved
            except CheckCondition as check:
                sense = check.sense
        status = Status.CHECK_CONDITION if sense is not Sense.NONE else Status.GOOD
        details = sense_data(sense) if status is Status.CHECK_CONDITION else b""
        residual = room + outgoing - moved
        head = len(details), min(residual, 0xFFFFFFFF), 0, status, response, details
        chain.fill(struct.pack(chain.order + SCSI_RESPONSE_FORMAT, *head))
        return SCSI_RESPONSE_SIZE + incoming

    def _move(self, transfer: Transfer, chain: Chain) -> int:
        """Move blocks, for which there is room; returns how many bytes."""
        length = transfer.blocks * self.disk.block_size
        if transfer.write:
            views, left = [], length
            for view in chain.readable:
                if left <= 0:
                    break
                views.append(view[:left])
                left -= len(view)
            self.disk.write(transfer, views)
        else:
            self.disk.read(transfer, chain.writable(SCSI_RESPONSE_SIZE, SCSI_RESPONSE_SIZE + length))
        return length


def _fault(lun: bytes, *, units: bool = False) -> int:
    """What is wrong with the LUN of a request: 0, or the response; `units` allows those that there are not."""
    if lun[0] != SCSI_LUN_SINGLE_LEVEL or lun[1] != _TARGET:
        return ScsiResponse.BAD_TARGET
    if not units and int.from_bytes(lun[2:4], "big") & _UNIT_MASK:
        return ScsiResponse.INCORRECT_LUN
    return 0
