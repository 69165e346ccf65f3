"""Boot devices: the channel's view of a disk, who may boot, and the block of each (docs/formats/iplb.md)."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import RefusedToStart, UsageError
from sipl.layout.iplb import (
    IPLB_CCW_LENGTH,
    IPLB_HEADER_SIZE,
    IPLB_SIZE,
    LOADPARM_VALID,
    CcwBlock,
    IplbHeader,
    IplbType,
    QemuScsiBlock,
)
from sipl.layout.lowcore import SSID_SHIFT, SUBSYSTEM_ID_ONE
from sipl.layout.record import pack
from sipl.reasons import Reason

if TYPE_CHECKING:
    from sipl.disk.block_device import BlockDevice
    from sipl.machine.memory import GuestMemory


class DeviceKind(StrEnum):
    """Kinds of devices that a boot order can name."""

    VIRTIO_BLK = "virtio-blk"
    VIRTIO_SCSI = "virtio-scsi"
    SCSI_CD = "scsi-cd"
    VIRTIO_NET = "virtio-net"
    VFIO_CCW = "vfio-ccw"
    VIRTIO_BLK_PCI = "virtio-blk-pci"


# What people write for a kind on QEMU's command line.
_OTHER_NAMES: Final = {
    "virtio-blk-ccw": DeviceKind.VIRTIO_BLK,
    "virtio-scsi-ccw": DeviceKind.VIRTIO_SCSI,
    "scsi-hd": DeviceKind.VIRTIO_SCSI,
    "virtio-net-ccw": DeviceKind.VIRTIO_NET,
}

# Disks behind a channel device: the only ones that secure IPL is for. A CD-ROM gets as far as the firmware.
ELIGIBLE: Final = frozenset({DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI, DeviceKind.SCSI_CD})
_SCSI: Final = frozenset({DeviceKind.VIRTIO_SCSI, DeviceKind.SCSI_CD})

FIRST_DEVNO: Final = 1  # the disks of the boot order are 0.0.0001, 0.0.0002, …


def device_kind(text: str) -> DeviceKind:
    """The kind that a name stands for; also takes the names of QEMU's devices.

    Raises:
        UsageError: there is no such kind.
    """
    if text in _OTHER_NAMES:
        return _OTHER_NAMES[text]
    try:
        return DeviceKind(text)
    except ValueError:
        raise UsageError("--device", f"there is no device kind '{text}'", f"one of {', '.join(DeviceKind)}") from None


class Subchannel(NamedTuple):
    """A boot device as the channel subsystem shows it, position in the boot order included.

    `disk` is None for a kind that has no blocks to read. `label` names the device in messages.
    """

    position: int
    kind: DeviceKind
    disk: BlockDevice | None
    label: str
    loadparm: bytes  # 8 bytes EBCDIC, of the device's own option or of the machine
    ssid: int
    devno: int

    @property
    def subsystem_id(self) -> int:
        """Subsystem identification word: the subchannels of the boot devices are numbered from 0."""
        return SUBSYSTEM_ID_ONE | self.ssid << SSID_SHIFT | self.position

    @property
    def block_size(self) -> int:
        """Bytes of a logical block, 0 where there are none."""
        return self.disk.block_size if self.disk is not None else 0

    @property
    def blocks(self) -> int:
        """Number of logical blocks."""
        return self.disk.blocks if self.disk is not None else 0

    def read_blocks(self, memory: GuestMemory, block: int, count: int, address: int) -> None:
        """Read blocks of the disk into guest memory.

        Raises:
            BlockOutOfRange: a block lies beyond the end of the disk.
            UndecidedError: the image or the host is at fault.
            ProgramInterruption: addressing; the memory is not there.
        """
        if self.disk is None:
            raise UsageError(self.label, f"a {self.kind} device has no blocks")
        self.disk.read_blocks(block, count, memory.span(address, count * self.disk.block_size))


def check_eligible(device: Subchannel) -> None:
    """Refuse, in audit and secure mode, whatever is no virtio disk behind a channel device.

    Raises:
        RefusedToStart: device-not-eligible.
    """
    if device.kind not in ELIGIBLE:
        raise RefusedToStart(
            Reason.DEVICE_NOT_ELIGIBLE,
            device.label,
            f"a {device.kind} device cannot take part in secure IPL",
            "use virtio-blk-ccw or a disk on virtio-scsi-ccw, or take it out of the boot order",
        )


def build_iplb(device: Subchannel, flags: int) -> bytes:
    """The IPL parameter block of a boot device, 4096 bytes; `flags` are those of the machine (`IplbFlags`)."""
    scsi = device.kind in _SCSI
    header = IplbHeader(
        length=IPLB_SIZE if flags else IPLB_CCW_LENGTH,
        flags=flags,
        version=0,
        block0_length=IPLB_CCW_LENGTH - IPLB_HEADER_SIZE,
        type=IplbType.QEMU_SCSI if scsi else IplbType.CCW,
        block0_flags=LOADPARM_VALID,
        loadparm=device.loadparm,
    )
    where = QemuScsiBlock(0, 0, 0, device.ssid, device.devno) if scsi else CcwBlock(device.ssid, device.devno)
    return (pack(header) + pack(where)).ljust(IPLB_SIZE, b"\0")
