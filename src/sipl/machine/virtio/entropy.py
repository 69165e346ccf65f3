"""virtio-rng: random numbers of the host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from sipl.layout.virtio import DeviceId
from sipl.machine.virtio.device import VirtioDevice

if TYPE_CHECKING:
    from sipl.machine.virtio.queue import Chain

QUEUE_SIZE: Final = 8
# A device may give less than was asked for. Linux asks for 64 bytes or less at a time.
MAX_ENTROPY: Final = 64 << 10


class VirtioEntropy(VirtioDevice):
    """The entropy device: one queue of empty buffers, no configuration."""

    device_id = DeviceId.ENTROPY
    queue_sizes = (QUEUE_SIZE,)
    features = 0

    def config(self, order: str) -> bytes:
        """There is none."""
        del order
        return b""

    def handle(self, queue: int, chain: Chain) -> int:
        """Fill the buffers, or the start of them."""
        del queue
        return chain.fill(os.urandom(min(chain.writable_length, MAX_ENTROPY)))
