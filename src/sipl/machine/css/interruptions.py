"""Floating I/O interruptions: pending until a CPU that is enabled for their subclass takes them."""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.css import CR6_ISC_SHIFT, INTERRUPTION_ADAPTER, INTERRUPTION_ISC_SHIFT, ISC_COUNT

ADAPTER_ID: Final = 0  # what stands in the place of a subsystem-identification word, whose bit 15 is one


class IoInterruption(NamedTuple):
    """What an I/O interruption stores in lowcore: subsystem id at 0xB8, parameter at 0xBC, word at 0xC0."""

    isc: int
    subsystem_id: int  # ADAPTER_ID for an adapter interruption
    parm: int
    word: int  # adapter bit and interruption subclass


class IoInterruptions:
    """The queue. At most one interruption per subchannel and one adapter interruption per subclass are in it.

    `pending` has one bit per interruption subclass with something in the queue, subclass 0 leftmost of eight: a CPU
    whose control register 6 (64 bits) has one of them in its bits 32 to 39 is enabled for it.
    """

    __slots__ = ("_queues", "pending")

    def __init__(self) -> None:
        self._queues: tuple[dict[int, IoInterruption], ...] = tuple({} for _ in range(ISC_COUNT))
        self.pending = 0

    @property
    def any(self) -> bool:
        """Whether there is an interruption, enabled or not."""
        return self.pending != 0

    def add(self, isc: int, subsystem_id: int, parm: int, word: int) -> None:
        """Make an interruption pending; one that the subchannel already has in this subclass keeps its place."""
        self._queues[isc][subsystem_id] = IoInterruption(isc, subsystem_id, parm, word)
        self.pending |= 0x80 >> isc

    def add_adapter(self, isc: int) -> None:
        """Make the adapter interruption of a subclass pending."""
        self.add(isc, ADAPTER_ID, 0, INTERRUPTION_ADAPTER | isc << INTERRUPTION_ISC_SHIFT)

    def first(self, cr6: int) -> IoInterruption | None:
        """The interruption that comes first of those that `cr6` enables: lowest subclass, then the oldest."""
        enabled = self.pending & cr6 >> CR6_ISC_SHIFT
        if not enabled:
            return None
        return next(iter(self._queues[ISC_COUNT - enabled.bit_length()].values()))

    def take(self, interruption: IoInterruption) -> None:
        """Remove what `first` gave; nothing happens if it is gone."""
        self._remove(interruption.isc, interruption.subsystem_id)

    def drop(self, subsystem_id: int) -> None:
        """Withdraw the interruption of a subchannel, if there is one."""
        for isc in range(ISC_COUNT):
            self._remove(isc, subsystem_id)

    def clear(self) -> None:
        """Withdraw everything, as a reset does."""
        for queue in self._queues:
            queue.clear()
        self.pending = 0

    def _remove(self, isc: int, subsystem_id: int) -> None:
        queue = self._queues[isc]
        if queue.pop(subsystem_id, None) is not None and not queue:
            self.pending &= ~(0x80 >> isc)
