"""All that the boot side sees of its machine: what guest code has, and nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence


class Device(Protocol):
    """A boot device as a channel program finds it."""

    @property
    def kind(self) -> str:
        """Kind of the device (`virtio-blk`, `virtio-scsi`, `scsi-cd`, …)."""

    @property
    def label(self) -> str:
        """Name of the device in messages."""

    @property
    def position(self) -> int:
        """Place in the boot order, origin 0."""

    @property
    def subsystem_id(self) -> int:
        """Subsystem identification word of its subchannel."""

    @property
    def block_size(self) -> int:
        """Bytes of a logical block; 0 for a device without blocks."""

    @property
    def blocks(self) -> int:
        """Number of logical blocks."""


class Storage(Protocol):
    """The part that looking at what was loaded needs."""

    def load(self, address: int, length: int) -> bytes:
        """Fetch bytes from absolute storage."""


class BlockPlatform(Storage, Protocol):
    """The part that reading a disk needs: channel I/O and memory to read to."""

    def read_blocks(self, subsystem_id: int, block: int, count: int, address: int) -> None:
        """Have a device store blocks into memory; the caller has checked that they exist and where they land."""


class Platform(BlockPlatform, Protocol):
    """Guest memory, DIAGNOSE, SERVC and channel I/O."""

    @property
    def firmware_base(self) -> int:
        """Absolute address that the firmware was loaded at."""

    def store(self, address: int, data: bytes) -> None:
        """Store bytes into absolute storage."""

    def diagnose(self, function: int, address: int, subcode: int) -> int:
        """Issue a DIAGNOSE with an even-odd register pair; the result is what the odd register holds afterwards."""

    def service_call(self, command: int, address: int) -> None:
        """Issue SERVC for the SCCB at an absolute address."""

    def find_device(self, ssid: int, devno: int) -> Device | None:
        """The device with this subchannel-set identifier and device number."""


class Console(Protocol):
    """The person in front of the machine."""

    def choose(self, entries: Sequence[int], timeout: int) -> int:
        """Show the boot menu: the non-empty entries of the program table, entry 0 being the default.

        `timeout` is in milliseconds, 0 for none. Returns the number of the chosen entry.

        Raises:
            UndecidedError: nobody is there to choose.
        """
