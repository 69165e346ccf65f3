"""The machine of `sipl boot` on QEMU: the devices that the embedded engine has, too (docs/qemu-engine.md)."""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final

from sipl.disk.block_size import find_block_size
from sipl.disk.shared_image import ImageSpec, SharedImage, WriteMode
from sipl.engine.qemu.program import accelerator, find_qemu
from sipl.engine.qemu.setup import RAM_ID, first_set
from sipl.layout.iplb import MAX_BOOT_DEVICES
from sipl.machine.boot_devices import FIRST_DEVNO, DeviceKind
from sipl.machine.cpu_model import FACILITIES, parse_cpu

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sipl.settings import Disk, Settings

_ENTROPY_DEVNO: Final = 0xFFFE
_CD_BLOCK_SIZE: Final = 2048
# What people call a model, and what QEMU calls it.
_QEMU_NAMES: Final = {"z15": "gen15a", "z16": "gen16a", "z17": "gen17a"}
# Starting a guest of protected virtualization means to start an image that is encrypted for the machine: nobody here
# can verify it.
UNPACK_OFF: Final = "unpack=off"


def qemu_cpu(text: str, accelerated_by: str) -> str:
    """The value of `-cpu` for a CPU model as sipl takes it, less the facilities that sipl brings itself.

    Raises:
        UsageError: there is no such model.
    """
    name = parse_cpu(text).name
    switches = [part for part in text.split(",")[1:] if part.lstrip("+-").partition("=")[0] not in FACILITIES]
    if name == "qemu":
        name = "host" if accelerated_by == "kvm" else "max"
    return ",".join([_QEMU_NAMES.get(name, name), *switches, UNPACK_OFF])


class OwnSetup:
    """See `Setup`.

    Raises:
        QemuUnable: there is no QEMU.
        UsageError: there is no such CPU.
    """

    has_console = own_terminal = True
    held = False
    stays_after_crash = False

    def __init__(self, disks: Sequence[Disk], settings: Settings, *, has_secure: bool = True) -> None:
        self.program = find_qemu()
        self.memory = settings.machine.memory
        self.memory_properties: Mapping[str, bool] = {}
        self.has_secure = has_secure
        self.images: list[SharedImage | None] = []
        self.device_ids: list[str | None] = []
        self._settings = settings
        self._accelerator = accelerator()
        self._cpu = qemu_cpu(settings.cpu, self._accelerator)
        self._disks = disks[:MAX_BOOT_DEVICES]
        self._block_sizes: list[int] = []
        self._stack = ExitStack()

    def open(self) -> None:
        """See `Setup.open`."""
        if self.images:
            return
        with ExitStack() as stack:
            images = [self._open(disk, stack) for disk in self._disks]
            # A disk keeps its own over all IPLs, whatever the guest writes to it.
            self._block_sizes = [
                0 if image is None else _block_size(disk, image)
                for disk, image in zip(self._disks, images, strict=True)
            ]
            self._stack = stack.pop_all()
        self.images = images
        self.device_ids = [None if image is None else f"sipl-{number}" for number, image in enumerate(images)]

    def close(self) -> None:
        """Close the images."""
        self._stack.close()

    def _open(self, disk: Disk, stack: ExitStack) -> SharedImage | None:
        if disk.kind is DeviceKind.SCSI_CD:
            mode = WriteMode.READ_ONLY
        elif disk.kind in (DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI):
            mode = WriteMode.DIRECT if self._settings.write else WriteMode.OVERLAY
        else:
            return None
        settings = self._settings
        image = SharedImage(
            ImageSpec(disk.path),
            mode,
            allow_backing=settings.allow_backing,
            backing_folder=settings.backing_folder,
        )
        return stack.enter_context(image)

    def arguments(self) -> list[str]:
        """See `Setup.arguments`."""
        machine = self._settings.machine
        loadparm = f",loadparm={machine.loadparm}" if machine.loadparm else ""
        words = ["-nodefaults", "-no-user-config", "-display", "none"]
        words += ["-machine", f"{machine.type},memory-backend={RAM_ID}{loadparm}"]
        words += ["-accel", self._accelerator, "-cpu", self._cpu, "-smp", str(machine.cpus)]
        words += ["-m", f"{self.memory >> 20}M"]
        for position, (disk, image) in enumerate(zip(self._disks, self.images, strict=True)):
            if image is not None:
                words += self._disk_arguments(position, disk, image)
        words += ["-object", _object("rng-random", id="sipl-rng", filename="/dev/urandom")]
        words += ["-device", _device("virtio-rng-ccw", "sipl-entropy", _ENTROPY_DEVNO, rng="sipl-rng")]
        return words

    def _disk_arguments(self, position: int, disk: Disk, image: SharedImage) -> list[str]:
        name, node = f"sipl-{position}", f"sipl-disk-{position}"
        devno = FIRST_DEVNO + position if disk.devno is None else disk.devno
        size = self._block_sizes[position]
        words = image.add_fd(first_set(position))
        for block in image.blockdevs(node, first_set(position)):
            words += ["-blockdev", json.dumps(block)]
        # A full disk of the host is the guest's I/O error, as on the embedded engine; else QEMU would stop the guest.
        members = {"drive": node, "logical_block_size": size, "physical_block_size": size, "werror": "report"}
        if disk.kind is DeviceKind.VIRTIO_BLK:
            return [*words, "-device", _device("virtio-blk-ccw", name, devno, **members)]
        kind = "scsi-cd" if disk.kind is DeviceKind.SCSI_CD else "scsi-hd"
        words += ["-device", _device("virtio-scsi-ccw", name, devno)]
        return [
            *words,
            "-device",
            _object(kind, "driver", bus=f"{name}.0", serial=f"sipl{devno:04x}", **members),
        ]

    def descriptors(self) -> list[int]:
        """See `Setup.descriptors`."""
        return [number for image in self.images if image is not None for number in image.descriptors()]

    def complain(self, data: bytes) -> None:
        """See `Setup.complain`; nobody asked for what QEMU says, unless it fails."""

    def started(self) -> None:
        """See `Setup.started`."""


def _block_size(disk: Disk, image: SharedImage) -> int:
    return disk.block_size or (_CD_BLOCK_SIZE if disk.kind is DeviceKind.SCSI_CD else find_block_size(image))


def _object(kind: str, key: str = "qom-type", **members: object) -> str:
    return json.dumps({key: kind, **members})


def _device(kind: str, name: str, devno: int, **members: object) -> str:
    return _object(kind, "driver", id=name, devno=f"fe.0.{devno:04x}", **members)
