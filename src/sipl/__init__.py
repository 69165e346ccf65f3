"""Secure IPL for Linux on IBM Z (s390x): verify, inspect and boot disk images from any host.

    import sipl

    settings = sipl.Settings(machine=sipl.MachineOptions(boot_certs=("cert.pem",)))
    report = sipl.verify(sipl.Disk("disk.qcow2"), settings)
    if not report.would_boot:
        for finding in report.findings:
            print(finding.reason, finding.message, finding.hint)

Everything that sipl raises on purpose is a `SiplError`. What belongs to the guest, its disks or its certificates does
not raise: the report says it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Final

from sipl._version import __version__

if TYPE_CHECKING:
    from sipl.engine.base import EndKind, Engine, GuestEnd
    from sipl.engine.embedded.engine import EmbeddedEngine
    from sipl.errors import ImageError, ImageFormatError, RefusedToStart, SiplError, UndecidedError, UsageError
    from sipl.firmware.hand_over import HandOver
    from sipl.guest_machine import Machine
    from sipl.inspection import certificates, inspect
    from sipl.ipl import boot, verify
    from sipl.machine.boot_devices import DeviceKind
    from sipl.machine.options import MachineOptions, parse_machine
    from sipl.reasons import Level, Mode, Outcome, Reason
    from sipl.report.json_form import to_dict, to_json
    from sipl.report.model import CertificateReport, ComponentReport, DeviceReport, FindingReport, Report
    from sipl.settings import Disk, Settings
    from sipl.survey.model import BootMapView, CertificateView

__all__ = [
    "BootMapView",
    "CertificateReport",
    "CertificateView",
    "ComponentReport",
    "DeviceKind",
    "DeviceReport",
    "Disk",
    "EmbeddedEngine",
    "EndKind",
    "Engine",
    "FindingReport",
    "GuestEnd",
    "HandOver",
    "ImageError",
    "ImageFormatError",
    "Level",
    "Machine",
    "MachineOptions",
    "Mode",
    "Outcome",
    "Reason",
    "RefusedToStart",
    "Report",
    "Settings",
    "SiplError",
    "UndecidedError",
    "UsageError",
    "__version__",
    "boot",
    "certificates",
    "inspect",
    "parse_machine",
    "to_dict",
    "to_json",
    "verify",
]

# Where each public name lives. A name is imported when it is first used: `sipl --help` needs none of them.
_PLACES: Final = {
    "sipl.engine.base": "EndKind Engine GuestEnd",
    "sipl.engine.embedded.engine": "EmbeddedEngine",
    "sipl.errors": "ImageError ImageFormatError RefusedToStart SiplError UndecidedError UsageError",
    "sipl.firmware.hand_over": "HandOver",
    "sipl.guest_machine": "Machine",
    "sipl.inspection": "certificates inspect",
    "sipl.ipl": "boot verify",
    "sipl.machine.boot_devices": "DeviceKind",
    "sipl.machine.options": "MachineOptions parse_machine",
    "sipl.report.json_form": "to_dict to_json",
    "sipl.reasons": "Level Mode Outcome Reason",
    "sipl.report.model": "CertificateReport ComponentReport DeviceReport FindingReport Report",
    "sipl.settings": "Disk Settings",
    "sipl.survey.model": "BootMapView CertificateView",
}


if not TYPE_CHECKING:
    # A type checker would take every name for one that is there.
    def __getattr__(name: str) -> object:
        for module, names in _PLACES.items():
            if name in names.split():
                return getattr(import_module(module), name)
        raise AttributeError(f"module 'sipl' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
