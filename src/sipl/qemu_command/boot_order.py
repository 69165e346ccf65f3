"""The devices of a command line, and which of them boot in which order (docs/qemu-command.md).

As in QEMU only a bootindex makes a boot device, the lowest comes first. A virtio-blk-ccw is a channel device itself; a
SCSI disk is behind the one of its controller.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import UsageError
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.options import parse_loadparm
from sipl.qemu_command.allowed import OWN_PREFIX, check_device, check_id
from sipl.qemu_command.values import number, read_opts_or_json
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.qemu_command.values import OptionValue
    from sipl.qemu_command.words import CommandLine

OPTIONS: Final = ("device",)

_KINDS: Final = {
    "virtio-blk-ccw": DeviceKind.VIRTIO_BLK,
    "scsi-hd": DeviceKind.VIRTIO_SCSI,
    "scsi-cd": DeviceKind.SCSI_CD,
    "virtio-net-ccw": DeviceKind.VIRTIO_NET,
    "virtio-net-pci": DeviceKind.VIRTIO_NET,
    "virtio-blk-pci": DeviceKind.VIRTIO_BLK_PCI,
}
_SCSI_DISKS: Final = frozenset({"scsi-hd", "scsi-cd"})
_CONTROLLER: Final = "virtio-scsi-ccw"
_BLOCK_SIZES: Final = (512, 1024, 2048, 4096)
_MAX_BOOT_INDEX: Final = (1 << 31) - 1
_DEVNO: Final = re.compile(r"([0-9a-fA-F]{1,2})\.([0-3])\.([0-9a-fA-F]{1,4})", re.ASCII)
# What names an image or a channel, none of which may be sipl's own.
_REFERENCES: Final = ("drive", "chardev")
_VIRTUAL_CSSID: Final = 0xFE
_SHOWN: Final = 80


class ScsiAddress(NamedTuple):
    """Where a SCSI disk is behind its controller; None is left to QEMU."""

    channel: int
    target: int | None
    lun: int | None


class DeviceWord(NamedTuple):
    """One -device: its driver's main name, its id (empty if it has none), and all that was said."""

    driver: str
    id: str
    value: OptionValue


class BootWord(NamedTuple):
    """A device of the boot order as the line describes it.

    `device_id` names the channel device, None for kinds without blocks; `drive` its image; `block_size` None is left to
    the image; `where` names the device in messages.
    """

    kind: DeviceKind
    where: str
    device_id: str | None
    drive: str
    block_size: int | None
    loadparm: str
    ssid: int
    devno: int | None
    scsi: ScsiAddress | None


class Devices:
    """All devices of a line, with a name for each that boots or that a disk could boot behind.

    Raises:
        UsageError: one is not allowed, or what it says about booting is not possible.
    """

    def __init__(self, line: CommandLine) -> None:
        self._devices = [_read(word.where, word.value) for word in line.of("device")]
        names = [device.id for device in self._devices if device.id]
        for name in names:
            check_id("-device", name)
            if names.count(name) > 1:
                why = f"there are two devices '{printable(name, _SHOWN)}'"
                raise UsageError("-device", why, "give each an id of its own")
        if any(device.driver in _SCSI_DISKS and _boot_index(device) is not None for device in self._devices):
            self._name_controllers()
        self.boot = self._boot_order()

    def write(self) -> list[str]:
        """The words for all devices. A loadparm is for the IPL alone, and not every QEMU knows it."""
        words: list[str] = []
        for device in self._devices:
            value = device.value.without("loadparm")
            if device.driver == "vhost-vsock-ccw":
                value = value.without("vhostfd")
            words += ["-device", value.write()]
        return words

    def drop_notes(self) -> list[str]:
        """Sentences about what is not passed on."""
        return [
            "-device vhost-vsock-ccw: 'vhostfd' is good for one QEMU process only; each opens its own"
            for device in self._devices
            if "vhostfd" in device.value.members
        ]

    def _name_controllers(self) -> None:
        """Give every SCSI controller an id. That changes the name of its bus, and would change those of the others."""
        renamed: dict[str, str] = {}
        for position, device in enumerate(self._devices):
            if device.driver == _CONTROLLER and not device.id:
                name = f"{OWN_PREFIX}scsi-{len(renamed)}"
                renamed[f"scsi.{len(renamed)}"] = f"{name}.0"
                self._devices[position] = device._replace(id=name, value=device.value.having(id=name))
        for position, device in enumerate(self._devices):
            bus = device.value.text("bus")
            if device.driver in _SCSI_DISKS and bus in renamed:
                self._devices[position] = device._replace(value=device.value.having(bus=renamed[bus]))

    def _boot_order(self) -> tuple[BootWord, ...]:
        found: dict[int, BootWord] = {}
        for position, device in enumerate(self._devices):
            index = _boot_index(device)
            if index is None:
                continue
            if device.driver == "virtio-blk-ccw" and not device.id:
                name = f"{OWN_PREFIX}boot-{position}"
                device = device._replace(id=name, value=device.value.having(id=name))  # noqa: PLW2901 (with its name)
                self._devices[position] = device
            if index in found:
                raise UsageError("-device", f"two devices have bootindex {index}", "give each its own")
            found[index] = self._boot_word(device)
        return tuple(found[index] for index in sorted(found))

    def _boot_word(self, device: DeviceWord) -> BootWord:
        value, kind = device.value, _KINDS[device.driver]
        where = f"-device {device.driver}" + (f" {device.id}" if device.id else "")
        channel: DeviceWord | None = device
        scsi = None
        if device.driver in _SCSI_DISKS:
            channel = self._controller(where, value.text("bus"))
            scsi = _scsi_address(value)
        elif kind is not DeviceKind.VIRTIO_BLK:
            channel = None
        ssid, devno = _device_number(channel.value.text("devno")) if channel else (0, None)
        drive = value.text("drive")
        if channel is not None and not drive:
            raise UsageError(where, "it has no drive to boot from", "add drive=NAME")
        return BootWord(
            kind=kind,
            where=where,
            device_id=channel.id if channel else None,
            drive=drive,
            block_size=_block_size(value, kind),
            loadparm=parse_loadparm(value.text("loadparm"), f"{where} loadparm"),
            ssid=ssid,
            devno=devno,
            scsi=scsi,
        )

    def _controller(self, where: str, bus: str) -> DeviceWord:
        controllers = [device for device in self._devices if device.driver == _CONTROLLER]
        if bus:
            controllers = [device for device in controllers if f"{device.id}.0" == bus]
        if len(controllers) != 1:
            why = (
                "there is no virtio-scsi-ccw for it" if not controllers else "it does not say which controller it is on"
            )
            raise UsageError(where, why, "add bus=NAME.0 with the id of a -device virtio-scsi-ccw")
        return controllers[0]


def _read(where: str, text: str) -> DeviceWord:
    value = read_opts_or_json(where, text, "driver")
    driver = check_device(where, value.text("driver"), value.members)
    for key in value.members:
        if key not in ("iothread-vq-mapping", "outputs"):
            value.text(key)
    for key in _REFERENCES:
        check_id(where, value.text(key))
    return DeviceWord(driver, value.text("id"), value)


def _boot_index(device: DeviceWord) -> int | None:
    text = device.value.text("bootindex", "-1")
    if text == "-1":
        return None
    return number(f"-device {device.driver}", "bootindex", text, _MAX_BOOT_INDEX)


def _block_size(value: OptionValue, kind: DeviceKind) -> int | None:
    """What was said; None where nothing was."""
    text = value.text("logical_block_size")
    if kind not in (DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI, DeviceKind.SCSI_CD) or not text or text == "0":
        return None
    sizes: Iterable[str] = map(str, _BLOCK_SIZES)
    if text not in sizes:
        shown = ", ".join(map(str, _BLOCK_SIZES))
        raise UsageError(
            value.where, f"a boot device cannot have blocks of {printable(text, _SHOWN)}", f"one of {shown}"
        )
    return int(text)


def _device_number(text: str) -> tuple[int, int | None]:
    """Subchannel set and device number; without a number, or in another channel subsystem, QEMU tells it later."""
    found = _DEVNO.fullmatch(text)
    if found is None or int(found[1], 16) != _VIRTUAL_CSSID:
        return 0, None
    return int(found[2]), int(found[3], 16)


def _scsi_address(value: OptionValue) -> ScsiAddress:
    parts: list[int | None] = []
    for key in ("channel", "scsi-id", "lun"):
        text = value.text(key, "-1")
        parts.append(None if text == "-1" else number(value.where, key, text, 0xFFFF))
    return ScsiAddress(parts[0] or 0, parts[1], parts[2])
