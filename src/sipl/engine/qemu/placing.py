"""Placing a verified guest into a QEMU that stands before its first instruction (docs/qemu-engine.md, "Hand-over").

The order is what keeps unverified code from running: as long as the harmless image is in its place, whoever starts the
guest starts that. The jump is the last thing that is written, when all that it leads to is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.code import CODE_SIZE
from sipl.engine.qemu.harmless import build_jump, find_image
from sipl.errors import UsageError
from sipl.layout.iplb import IPLB_DEVICE_OFFSET, IPLB_SIZE, CcwBlock, IplbHeader, IplbType
from sipl.layout.lowcore import SSID_SHIFT, SUBSYSTEM_ID, SUBSYSTEM_ID_ONE
from sipl.layout.record import pack, size_of, unpack

if TYPE_CHECKING:
    from sipl.engine.qemu.qmp import Qmp
    from sipl.engine.qemu.ram import GuestRam
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.boot_devices import Subchannel
    from sipl.machine.memory import GuestMemory

_NOT_STARTED: Final = frozenset({"prelaunch", "paused"})
# As QEMU writes device numbers and subchannel numbers: channel-subsystem image, subchannel set, number.
_NUMBER: Final = re.compile(r"[0-9a-f]{1,2}\.([0-3])\.([0-9a-f]{4})", re.ASCII | re.IGNORECASE)


class StartedTooEarly(UsageError):
    """Somebody started the guest before it was placed. What ran was the harmless image."""


def place(
    qmp: Qmp, ram: GuestRam, memory: GuestMemory, state: HandOver, device: Subchannel | None, device_id: str | None
) -> int:
    """Take over what was verified, and write the jump; the result is the address of the image that it replaces.

    `device` is the one that was booted from, `device_id` QEMU's name for it; without them there is none.

    Raises:
        StartedTooEarly: the guest does not stand before its first instruction any more.
        UsageError: QEMU's machine is not the one that was verified.
        QmpError, QemuEnded: QEMU does not answer as it should.
    """
    _check_not_started(qmp)
    image_at = find_image(ram)
    if memory.read(image_at, CODE_SIZE).strip(b"\0"):
        why = f"what was loaded needs the place of its firmware at {image_at:#x}"
        raise UsageError("QEMU", why, "give the guest more or less --memory, or use --engine embedded")
    for address, length in state.spans:
        # The harmless image stays where it is until the jump takes its place.
        end = address + length
        for start, stop in ((address, min(end, image_at)), (max(address, image_at + CODE_SIZE), end)):
            if start < stop:
                ram.place(memory, start, stop - start)
    ram.seal()
    if device is not None and device_id is not None:
        _name_device(qmp, ram, state.iplb_address, device, device_id)
    ram.write(image_at, build_jump(state.iplb_address))
    _check_not_started(qmp)
    return image_at


def _check_not_started(qmp: Qmp) -> None:
    status = qmp.execute("query-status")
    started = any(event.get("event") in ("RESUME", "RESET") for event in qmp.events)
    if started or not isinstance(status, dict) or status.get("status") not in _NOT_STARTED:
        why = "somebody started or reset it before the guest was verified; only the harmless image ran"
        raise StartedTooEarly("QEMU", why, "leave the start to sipl, or give QEMU -S and start it later")


def _name_device(qmp: Qmp, ram: GuestRam, block_at: int, device: Subchannel, device_id: str) -> None:
    """Have block and lowcore name the device by QEMU's numbers.

    The block becomes one of type CCW, also for a disk behind a SCSI adapter: QEMU's DIAGNOSE 308 takes no other that
    keeps its flags.
    """
    ssid, devno = device_number(qmp, device_id)
    if (ssid, devno) != (device.ssid, device.devno):
        why = f"the device 0.{device.ssid}.{device.devno:04x} that was verified is 0.{ssid}.{devno:04x} there"
        raise UsageError("QEMU", why, "give the device its number with devno=")
    set_id, subchannel = _number(qmp, device_id, "subch_id")
    header = unpack(IplbHeader, ram.view[block_at : block_at + IPLB_SIZE])._replace(type=IplbType.CCW)
    place = CcwBlock(ssid, devno)
    ram.write(block_at, pack(header) + pack(place))
    rest = IPLB_DEVICE_OFFSET + size_of(CcwBlock)
    ram.write(block_at + rest, bytes(IPLB_SIZE - rest))
    ram.write(SUBSYSTEM_ID, (SUBSYSTEM_ID_ONE | set_id << SSID_SHIFT | subchannel).to_bytes(4, "big"))


def device_number(qmp: Qmp, device_id: str) -> tuple[int, int]:
    """Subchannel set and number of a channel device, by QEMU's name for it.

    Raises:
        UsageError: it has none.
        QmpError, QemuEnded: QEMU does not know it, or does not answer.
    """
    return _number(qmp, device_id, "dev_id")


def _number(qmp: Qmp, device_id: str, name: str) -> tuple[int, int]:
    value = qmp.execute("qom-get", {"path": f"/machine/peripheral/{device_id}", "property": name})
    found = _NUMBER.fullmatch(str(value))
    if found is None:
        raise UsageError("QEMU", f"the device {device_id} has no {name}", "it is no channel device")
    return int(found[1]), int(found[2], 16)
