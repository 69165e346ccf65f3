"""What every virtio device offers to its transport."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from sipl.layout.virtio import DeviceId
    from sipl.machine.virtio.queue import Chain

# Bytes that one request moves at most. A chain can name the guest's memory a thousand times over; the firmware reads
# 65536 blocks of 4096 bytes at once, Linux some MiB.
MAX_TRANSFER: Final = 256 << 20


class VirtioDevice(ABC):
    """A device. `queue_sizes` has the largest size of each queue, `features` the bits of the device's own."""

    device_id: DeviceId
    queue_sizes: tuple[int, ...]
    features: int

    @abstractmethod
    def config(self, order: str) -> bytes:
        """The configuration space, fields in `order`. None of it can be written."""

    def takes(self, queue: int) -> bool:
        """Whether the device takes requests from a queue as they come; otherwise they wait for something to tell."""
        return 0 <= queue < len(self.queue_sizes)

    @abstractmethod
    def handle(self, queue: int, chain: Chain) -> int:
        """Carry out a request; returns how many bytes were written, from the first one on.

        Raises:
            QueueBroken: the request lacks parts that every request has.
        """
