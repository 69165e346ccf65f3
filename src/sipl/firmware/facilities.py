"""The support checks: what audit and secure mode need of the machine, before any device is looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.verdict import MachineStops
from sipl.layout import diag320, diag508
from sipl.layout.record import pack, unpack
from sipl.reasons import Mode, Reason

if TYPE_CHECKING:
    from sipl.firmware.area import FirmwareArea
    from sipl.firmware.platform import Platform
    from sipl.firmware.scp_info import MachineInfo

DIAGNOSE_320 = 0x320
DIAGNOSE_508 = 0x508


def check_facilities(platform: Platform, area: FirmwareArea, info: MachineInfo) -> None:
    """Check secure IPL, signature verification, certificate store and code loading attributes, in this order.

    Raises:
        MachineStops: facility-missing, with the name of the first that is not there.
    """
    if not info.sipl:
        raise _missing("secure IPL (SIPL)")
    if not platform.diagnose(DIAGNOSE_508, 0, diag508.Subcode.QUERY) & diag508.Subcode.VERIFY:
        raise _missing("signature verification (DIAGNOSE 508)")
    if not info.cstore or not _store_installed(platform, area):
        raise _missing("certificate store (DIAGNOSE 320)")
    if not info.sclaf:
        raise _missing("secure code loading attributes (SCLAF)")


def _missing(facility: str) -> MachineStops:
    return MachineStops(Reason.FACILITY_MISSING, f"the machine does not offer {facility}")


def _store_installed(platform: Platform, area: FirmwareArea) -> bool:
    platform.store(area.installed_subcodes, bytes(diag320.INSTALLED_SUBCODES_SIZE))
    platform.diagnose(DIAGNOSE_320, area.installed_subcodes, diag320.Subcode.QUERY_SUBCODES)
    installed = int.from_bytes(platform.load(area.installed_subcodes, diag320.INSTALLED_SUBCODES_SIZE), "big")
    return bool(installed & (diag320.InstalledSubcodes.VCSI | diag320.InstalledSubcodes.STORE))


def query_store(platform: Platform, area: FirmwareArea, mode: Mode) -> diag320.Vcssb:
    """Ask for the sizes of the certificate store (DIAGNOSE 320 subcode 1).

    Raises:
        MachineStops: no-certificate, where secure mode has none; facility-missing, where the query fails.
    """
    empty = unpack(diag320.Vcssb, bytes(diag320.VCSSB_SIZE))
    request = pack(empty._replace(length=diag320.VCSSB_SIZE))
    platform.store(area.storage_size_block, request)
    response = platform.diagnose(DIAGNOSE_320, area.storage_size_block, diag320.Subcode.QUERY_STORAGE)
    if response != diag320.ResponseCode.OK:
        raise MachineStops(
            Reason.FACILITY_MISSING, f"the certificate store cannot be queried (response {response:#06x})"
        )
    answer = unpack(diag320.Vcssb, platform.load(area.storage_size_block, diag320.VCSSB_SIZE))
    if answer.length == diag320.VCSSB_NO_CERTIFICATES:
        if mode is Mode.SECURE:
            raise MachineStops(Reason.NO_CERTIFICATE, "secure mode needs at least one boot certificate")
        return empty
    return answer
