"""What the firmware learns from READ SCP INFO: memory size, loadparm, facilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sipl.layout import sclp
from sipl.layout.record import pack, unpack

if TYPE_CHECKING:
    from sipl.firmware.platform import Platform


class MachineInfo(NamedTuple):
    """The part of READ SCP INFO that an IPL needs."""

    memory_size: int
    loadparm: bytes  # EBCDIC
    cstore: bool
    sipl: bool
    sclaf: bool


def read_scp_info(platform: Platform, sccb: int) -> MachineInfo:
    """Ask SCLP; `sccb` is the absolute address of a free page.

    A machine with so many CPUs that a page does not hold its answer shows no facility, and no memory size either: that
    is taken from where the firmware lies, which is 3 MiB below the end of memory.
    """
    platform.store(sccb, pack(sclp.SccbHeader(sclp.SCCB_MAX_LENGTH, 0, 0)).ljust(sclp.SCCB_MAX_LENGTH, b"\0"))
    platform.service_call(sclp.Command.READ_SCP_INFO, sccb)
    answer = platform.load(sccb, sclp.SCCB_MAX_LENGTH)
    if unpack(sclp.SccbHeader, answer).response_code != sclp.ResponseCode.OK:
        return MachineInfo(0, b"\x40" * sclp.LOADPARM_SIZE, cstore=False, sipl=False, sclaf=False)
    increments = int.from_bytes(answer[sclp.INCREMENTS_OFFSET : sclp.INCREMENTS_OFFSET + 2], "big")
    facilities = int.from_bytes(answer[sclp.IPL_FACILITIES_OFFSET : sclp.IPL_FACILITIES_OFFSET + 2], "big")
    extended = int.from_bytes(answer[sclp.CPU_OFFSET_OFFSET : sclp.CPU_OFFSET_OFFSET + 2], "big") > sclp.CPU_ENTRIES
    return MachineInfo(
        memory_size=increments * answer[sclp.INCREMENT_SIZE_OFFSET] << 20,
        loadparm=answer[sclp.LOADPARM_OFFSET : sclp.LOADPARM_OFFSET + sclp.LOADPARM_SIZE],
        cstore=extended and bool(answer[sclp.CSTORE_OFFSET] & sclp.CSTORE),
        sipl=extended and bool(facilities & sclp.SIPL),
        sclaf=extended and bool(facilities & sclp.SCLAF),
    )
