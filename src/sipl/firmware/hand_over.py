"""The hand-over: what lies in memory when the loader is entered (docs/how-it-works.md, "Hand-over")."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.firmware.verdict import FirmwareFault
from sipl.layout.diag308 import ResponseCode, Subcode
from sipl.layout.iplb import IPLB_DEVNO_OFFSET, IPLB_SIZE, IplbHeader, IplbType
from sipl.layout.lowcore import IO_INTERRUPTION_PARAMETER, IPL_PSW, IPLB_POINTER, LOWCORE_IPL_END, SUBSYSTEM_ID
from sipl.layout.record import unpack

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.components import Component
    from sipl.firmware.platform import Device, Platform

DIAGNOSE_308: Final = 0x308


class HandOver(NamedTuple):
    """The state in which the load normal reset starts the loader."""

    psw: int  # short PSW, at absolute 0 too
    iplb_address: int  # absolute, at 0x14 too
    report_address: int  # absolute, 0 without a report
    report_length: int
    position: int = 0  # of the device in the boot order
    # Address and length of all that the guest may find in memory: components, and what the boot side left for it.
    # Whatever else was loaded on the way, for a device that was given up say, is not among it.
    spans: tuple[tuple[int, int], ...] = ()


def hand_over(
    platform: Platform,
    area: FirmwareArea,
    device: Device,
    iplb: bytes,
    report: bytes | None,
    psw: int,
    components: Iterable[Component],
) -> HandOver:
    """Write the report and the lowcore, and hand the IPL parameter block back to the machine.

    Raises:
        FirmwareFault: the machine does not take the block back, or the report would not lie where Linux looks for it.
    """
    block = bytearray(iplb)
    if unpack(IplbHeader, iplb).type == IplbType.QEMU_SCSI:
        block[IPLB_DEVNO_OFFSET : IPLB_DEVNO_OFFSET + 2] = device.position.to_bytes(2, "big")
    platform.store(area.iplb, bytes(block))
    if report is not None:
        if unpack(IplbHeader, iplb).length != IPLB_SIZE:
            raise FirmwareFault("IPL parameter block", "its length does not lead to the report behind it")
        platform.store(area.report, report)
    platform.store(IPLB_POINTER, area.iplb.to_bytes(4, "big"))
    platform.store(SUBSYSTEM_ID, device.subsystem_id.to_bytes(4, "big"))
    platform.store(IO_INTERRUPTION_PARAMETER, bytes(4))
    platform.store(IPL_PSW, psw.to_bytes(8, "big"))
    response = platform.diagnose(DIAGNOSE_308, area.iplb, Subcode.SET)
    if response != ResponseCode.OK:
        raise FirmwareFault("DIAGNOSE 308", f"the IPL parameter block is not taken back (response {response:#06x})")
    return HandOver(
        psw=psw,
        iplb_address=area.iplb,
        report_address=area.report if report is not None else 0,
        report_length=len(report) if report is not None else 0,
        position=device.position,
        spans=(
            (0, LOWCORE_IPL_END),
            (area.iplb, IPLB_SIZE + len(report or b"")),
            (area.certificates, area.certificates_end - area.certificates),
            *((component.address, component.length) for component in components),
        ),
    )
