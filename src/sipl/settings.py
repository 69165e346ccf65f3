"""What an IPL is asked for: the disks in boot order and the machine's settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sipl.machine.boot_devices import DeviceKind
from sipl.machine.options import MachineOptions

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Disk(NamedTuple):
    """One device of the boot order. `block_size` None is found out; an empty `loadparm` leaves it to the machine.

    `ssid` and `devno` are its device number; without one it is 0.0.0001 for the first device, 0.0.0002 for the second.
    """

    path: str
    kind: DeviceKind = DeviceKind.VIRTIO_BLK
    block_size: int | None = None
    loadparm: str = ""
    ssid: int = 0
    devno: int | None = None


class Settings(NamedTuple):
    """Everything else.

    `at` is the time that certificates are judged at (seconds since 1970, UTC; None is now). `choose` answers the boot
    menu: it gets the entries and a time-out in milliseconds (0 is none) and returns the number of one. `write` lets
    what a running guest writes reach its raw image; otherwise it goes to a temporary overlay. `allow_backing` lets a
    qcow2 image name a backing or data file in its own folder or in `backing_folder`. `firmware` is a real s390-ccw
    firmware that boots instead of sipl's own boot side; it decides for itself, so audit and secure mode take it with
    `trust_firmware` only.
    """

    machine: MachineOptions = MachineOptions()
    cpu: str = "qemu"
    kernel: str | None = None
    at: int | None = None
    choose: Callable[[Sequence[int], int], int] | None = None
    write: bool = False
    allow_backing: bool = False
    backing_folder: str | None = None
    firmware: str | None = None
    trust_firmware: bool = False
