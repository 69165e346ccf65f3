"""What a device is to its subchannel, and what a channel command is to a device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from sipl.errors import SiplError
from sipl.layout.css import SENSE_COMMAND_REJECT

if TYPE_CHECKING:
    from sipl.layout.css import SenseId
    from sipl.machine.css.storage import DeviceStorage
    from sipl.machine.css.subchannel import Subchannel


class UnitCheck(SiplError):
    """The device ends the command with unit check; `sense` is sense byte 0."""

    def __init__(self, why: str, sense: int = SENSE_COMMAND_REJECT) -> None:
        self.sense = sense
        super().__init__("channel command", why)


class ChannelData:
    """The data area of one command: the parts of storage that its CCW, and those data-chained to it, name.

    `length` is the number of bytes that the program allows, `end` the end of what was transferred so far (None: the
    command transferred nothing), `overrun` whether the device had more to give than there was room for.
    """

    __slots__ = ("_parts", "_storage", "end", "length", "overrun")

    def __init__(self, storage: DeviceStorage, parts: list[tuple[int, int, bool]]) -> None:
        """Take the parts as absolute address, length in bytes, and whether what a device gives is skipped."""
        self._storage = storage
        self._parts = parts
        self.length = sum(part[1] for part in parts)
        self.end: int | None = None
        self.overrun = False

    def fetch(self, size: int, offset: int = 0) -> bytes:
        """Read `size` bytes at byte `offset` of the area.

        Raises:
            UnitCheck: the area is shorter.
            OutsideStorage: a part of it is not in storage.
        """
        if offset + size > self.length:
            raise UnitCheck(f"{offset + size} bytes are needed, the program gives {self.length}")
        self._reached(offset + size)
        pieces = self._pieces(offset, size)
        return b"".join(self._storage.fetch(address, length) for address, length, _ in pieces)

    def store(self, data: bytes, offset: int = 0) -> None:
        """Write `data` at byte `offset` of the area, or as much of it as there is room for.

        Raises:
            OutsideStorage: a part of the area is not in storage.
        """
        room = max(0, self.length - offset)
        if len(data) > room:
            self.overrun = True
            data = data[:room]
        self._reached(offset + len(data))
        done = 0
        for address, length, skip in self._pieces(offset, len(data)):
            if not skip:
                self._storage.store(address, data[done : done + length])
            done += length

    def _reached(self, end: int) -> None:
        self.end = end if self.end is None else max(self.end, end)

    def _pieces(self, offset: int, size: int) -> list[tuple[int, int, bool]]:
        pieces = []
        for address, length, skip in self._parts:
            if size <= 0:
                break
            if offset >= length:
                offset -= length
                continue
            take = min(length - offset, size)
            pieces.append((address + offset, take, skip))
            size -= take
            offset = 0
        return pieces


class ChannelDevice(ABC):
    """A device behind a subchannel; all of its commands end before they return."""

    sense_id: SenseId

    @abstractmethod
    def attached(self, subchannel: Subchannel) -> None:
        """Learn the subchannel: the way to storage and to interruptions. Called once, before everything else."""

    @abstractmethod
    def command(self, code: int, data: ChannelData) -> None:
        """Carry out a channel command.

        Raises:
            UnitCheck: the device does not know the command, or refuses it.
            OutsideStorage: the data area, or an address in it, is not in storage.
        """

    @abstractmethod
    def disabled(self) -> None:
        """Take note that the program disabled the subchannel."""

    @abstractmethod
    def reset(self) -> None:
        """Return to the state at power-on, as an I/O-system reset does; what lies on a disk stays."""
