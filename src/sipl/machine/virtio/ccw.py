"""virtio-ccw: the transport of virtio over channel I/O, revisions 0 to 2 (docs/formats/channel-io.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.css import ISC_COUNT, SenseId
from sipl.layout.record import pack, size_of, unpack
from sipl.layout.virtio import (
    BIG_ENDIAN,
    CLASSIC_INDICATORS,
    CONTROL_UNIT_TYPE,
    FEATURE_ANY_LAYOUT,
    FEATURE_INDIRECT,
    FEATURE_VERSION_1,
    FEATURE_WORD_OFFSET,
    INDICATOR_SIZE,
    LEGACY_ALIGNMENT,
    LITTLE_ENDIAN,
    LOW_FEATURES,
    MAX_REVISION,
    QUEUE_CONFIG_SIZE,
    STATUS_DRIVER_OK,
    STATUS_FEATURES_OK,
    STATUS_NEEDS_RESET,
    AdapterIndicators,
    Command,
    FeatureBlock,
    IndicatorAddress,
    LegacyQueueBlock,
    QueueBlock,
    QueueIndex,
    RevisionBlock,
)
from sipl.machine.css.device import ChannelDevice, UnitCheck
from sipl.machine.virtio.device import MAX_TRANSFER
from sipl.machine.virtio.queue import QueueBroken, Virtqueue

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.machine.css.device import ChannelData
    from sipl.machine.css.subchannel import Subchannel
    from sipl.machine.css.subsystem import ChannelSubsystem
    from sipl.machine.virtio.device import VirtioDevice

# Bytes that one notification moves before it pauses, a fraction of a second. What is left is done after other guest
# instructions had their turn. Linux has a few MiB under way.
MAX_WORK: Final = MAX_TRANSFER

NOT_OPERATIONAL: Final = -22  # what a notification gives for a subchannel or queue that there is not
COOKIE: Final = 0  # a hint for the next notification that this machine has no use for


class VirtioCcw(ChannelDevice):
    """The virtio proxy device behind a subchannel. `broken` says what the driver did wrong, None if nothing."""

    def __init__(self, device: VirtioDevice) -> None:
        self.device = device
        self.sense_id = SenseId(0xFF, CONTROL_UNIT_TYPE, device.device_id, 0, 0)
        self._commands: dict[int, Callable[[ChannelData], None]] = {
            Command.SET_QUEUE: self._set_queue,
            Command.RESET: self._reset_command,
            Command.READ_FEATURES: self._read_features,
            Command.WRITE_FEATURES: self._write_features,
            Command.READ_CONFIG: self._read_config,
            Command.WRITE_CONFIG: self._write_config,
            Command.READ_STATUS: self._read_status,
            Command.WRITE_STATUS: self._write_status,
            Command.SET_INDICATORS: self._set_indicators,
            Command.SET_CONFIG_INDICATORS: self._set_config_indicators,
            Command.SET_ADAPTER_INDICATORS: self._set_adapter_indicators,
            Command.READ_QUEUE_CONFIG: self._read_queue_config,
            Command.SET_REVISION: self._set_revision,
        }
        self._revision: int | None = None  # None until the driver sets it: as revision 0

    def attached(self, subchannel: Subchannel) -> None:
        """See `ChannelDevice.attached`."""
        self._subchannel = subchannel
        self._storage = subchannel.storage
        self.queues = [Virtqueue(self._storage, size) for size in self.device.queue_sizes]
        self._reset_device()

    def disabled(self) -> None:
        """The revision lasts as long as the subchannel is enabled."""
        self._revision = None

    def reset(self) -> None:
        """See `ChannelDevice.reset`."""
        self._revision = None
        self._reset_device()

    @property
    def status(self) -> int:
        """The device status that the driver reads."""
        return self._status

    @property
    def order(self) -> str:
        """Byte order of everything above the transport: the guest's before virtio 1."""
        return LITTLE_ENDIAN if self._modern else BIG_ENDIAN

    @property
    def offered(self) -> int:
        """Features that the driver may accept in the revision that it chose."""
        common = self.device.features | FEATURE_INDIRECT
        return common | FEATURE_VERSION_1 if self._modern else common & LOW_FEATURES | FEATURE_ANY_LAYOUT

    def command(self, code: int, data: ChannelData) -> None:
        """See `ChannelDevice.command`."""
        handler = self._commands.get(code)
        if handler is None:
            raise UnitCheck(f"{code:#04x} is no command of virtio-ccw")
        handler(data)

    def notify(self, queue: int) -> bool:
        """Do what a queue has to do, or a part of it.

        Returns:
            Whether something is left; the next call goes on.
        """
        if self.broken is not None or not 0 <= queue < len(self.queues) or not self.device.takes(queue):
            return False
        if self._modern and not self._status & STATUS_DRIVER_OK:
            return False
        ring = self.queues[queue]
        moved, used = 0, False
        try:
            # As many as the ring has: a request may make the device write new ones into the ring, for ever.
            for _ in range(ring.size):
                chain = ring.pop()
                if chain is None:
                    break
                ring.push(chain.head, self.device.handle(queue, chain))
                used = True
                moved += chain.length
                if moved > MAX_WORK:
                    break
        except QueueBroken as error:
            self._break(error)
        if used and ring.wants_interruption:
            self._indicate(queue)
        return self.broken is None and ring.work_left

    @property
    def _modern(self) -> bool:
        return bool(self._revision)

    def _reset_device(self) -> None:
        self._status = 0
        self._accepted = 0
        self._indicators = 0  # absolute addresses; 0 is none
        self._config_indicators = 0
        self._adapter: AdapterIndicators | None = None
        self.broken: QueueBroken | None = None
        for queue in self.queues:
            queue.disable()

    def _break(self, error: QueueBroken) -> None:
        self.broken = error
        self._status |= STATUS_NEEDS_RESET
        if self._config_indicators:
            self._set_bits(self._config_indicators + INDICATOR_SIZE - 1, 1)
            self._subchannel.alert()

    def _indicate(self, queue: int) -> None:
        """Tell the driver that a queue has used requests."""
        if self._adapter is not None:
            bit = self._adapter.bit + queue
            self._set_bits(self._adapter.indicators + bit // 8, 0x80 >> bit % 8)
            if not self._set_bits(self._adapter.summary, 1):
                self._subchannel.interruptions.add_adapter(self._adapter.isc)
        elif self._indicators:
            self._set_bits(self._indicators + INDICATOR_SIZE - 1 - queue // 8, 1 << queue % 8)
            self._subchannel.alert()

    def _set_bits(self, address: int, bits: int) -> int:
        """Set bits of a byte; returns what was there."""
        byte = self._storage.writable(address, 1)
        old = byte[0]
        byte[0] = old | bits
        return old

    def _set_revision(self, data: ChannelData) -> None:
        block = unpack(RevisionBlock, data.fetch(size_of(RevisionBlock)))
        # No revision has more to say, but one that says it is to be understood.
        data.fetch(block.length, size_of(RevisionBlock))
        if self._revision is not None or block.revision > MAX_REVISION or block.length:
            raise UnitCheck(f"revision {block.revision} is not there, or it is too late to ask for one")
        self._revision = block.revision

    def _reset_command(self, data: ChannelData) -> None:
        del data
        self._reset_device()

    def _read_features(self, data: ChannelData) -> None:
        word = data.fetch(1, FEATURE_WORD_OFFSET)[0]
        data.store(pack(FeatureBlock(self.offered >> 32 * word & LOW_FEATURES, word)))

    def _write_features(self, data: ChannelData) -> None:
        block = unpack(FeatureBlock, data.fetch(size_of(FeatureBlock)))
        if block.word < 2:
            shift = 32 * block.word
            self._accepted = self._accepted & ~(LOW_FEATURES << shift) | block.features << shift
        elif block.features:
            raise UnitCheck("features that were not offered")

    def _read_config(self, data: ChannelData) -> None:
        # Less than everything may be read, so that only a wish for more counts as an incorrect length.
        data.store(self.device.config(self.order)[: data.length])

    def _write_config(self, data: ChannelData) -> None:
        data.fetch(min(data.length, len(self.device.config(self.order))))

    def _read_status(self, data: ChannelData) -> None:
        data.store(bytes([self._status]))

    def _write_status(self, data: ChannelData) -> None:
        status = data.fetch(1)[0]
        if not status:
            self._reset_device()
            return
        if status & STATUS_FEATURES_OK and not self._status & STATUS_FEATURES_OK:
            lacks_version = self._modern and not self._accepted & FEATURE_VERSION_1
            if self._accepted & ~self.offered or lacks_version:
                raise UnitCheck("these features do not go together")
        self._status = status | self._status & STATUS_NEEDS_RESET

    def _read_queue_config(self, data: ChannelData) -> None:
        queue = unpack(QueueIndex, data.fetch(QUEUE_CONFIG_SIZE)).queue
        size = self.queues[queue].max_size if queue < len(self.queues) else 0
        data.store(size.to_bytes(2, "big"), size_of(QueueIndex))

    def _set_queue(self, data: ChannelData) -> None:
        try:
            if self._modern:
                block = unpack(QueueBlock, data.fetch(size_of(QueueBlock)))
                ring = self._queue(block.queue)
                ring.disable()
                if block.descriptors:
                    ring.set_up(block.descriptors, block.available, block.used, block.size, LITTLE_ENDIAN)
                return
            old = unpack(LegacyQueueBlock, data.fetch(size_of(LegacyQueueBlock)))
            ring = self._queue(old.queue)
            ring.disable()
            if old.address:
                if old.alignment != LEGACY_ALIGNMENT or old.size < ring.max_size:
                    raise UnitCheck("an alignment or a size that the device does not have")
                ring.set_up_legacy(old.address, BIG_ENDIAN)
        except QueueBroken as error:
            raise UnitCheck(error.why) from error

    def _queue(self, index: int) -> Virtqueue:
        if index >= len(self.queues):
            raise UnitCheck(f"there is no queue {index}")
        return self.queues[index]

    def _set_indicators(self, data: ChannelData) -> None:
        if self._adapter is not None or len(self.queues) > CLASSIC_INDICATORS:
            raise UnitCheck("the device uses adapter interruptions")
        self._indicators = self._indicator_address(data)

    def _set_config_indicators(self, data: ChannelData) -> None:
        self._config_indicators = self._indicator_address(data)

    def _indicator_address(self, data: ChannelData) -> int:
        address = unpack(IndicatorAddress, data.fetch(size_of(IndicatorAddress))).address
        self._storage.check(address, INDICATOR_SIZE)
        return address

    def _set_adapter_indicators(self, data: ChannelData) -> None:
        block = unpack(AdapterIndicators, data.fetch(size_of(AdapterIndicators)))
        if self._indicators or block.isc >= ISC_COUNT:
            raise UnitCheck("the device uses classic indicators, or there is no such interruption subclass")
        if not block.summary or not block.indicators:
            self._adapter = None
            return
        self._storage.check(block.summary, 1)
        self._storage.check(block.indicators, (block.bit + len(self.queues) - 1) // 8 + 1)
        self._adapter = block


def notify(subsystem: ChannelSubsystem, subsystem_id: int, queue: int, cookie: int) -> int:
    """DIAGNOSE 500 subcode 3: general registers 2, 3 and 4; returns what general register 2 holds afterwards.

    That is a cookie for the next notification, or `NOT_OPERATIONAL`. Requests are carried out before it returns, up to
    `MAX_WORK`; `ChannelSubsystem.work_left` tells of the rest.
    """
    del cookie
    subchannel = subsystem.find(subsystem_id & 0xFFFFFFFF)
    device = subchannel.device if subchannel is not None else None
    if not isinstance(device, VirtioCcw) or not 0 <= queue < len(device.queues):
        return NOT_OPERATIONAL
    _work(subsystem, device, queue)
    return COOKIE


def _work(subsystem: ChannelSubsystem, device: VirtioCcw, queue: int) -> None:
    if device.notify(queue):
        subsystem.defer((device, queue), lambda: _work(subsystem, device, queue))
