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
    from sipl.author.file_signature import FileSignature, show_signature
    from sipl.author.key_files import KeyFiles, make_key
    from sipl.author.mkdisk import MadeComponent, MadeDisk, MadeEntry, WouldNotBoot, make_disk
    from sipl.author.recipe import BootEntry, Recipe, make_recipe, read_recipe
    from sipl.author.seal_report import SealReport, UnsealReport
    from sipl.author.sealing import SealOptions, seal, unseal
    from sipl.author.signed_file import FileSigned, sign_file, strip_file
    from sipl.author.signer import Signer, open_signer
    from sipl.author.two_step import attach_signature, prepare_signature
    from sipl.crypto.signing import SigningError
    from sipl.diagnosis import diagnose
    from sipl.doctor.model import Diagnosis
    from sipl.engine.base import EndKind, Engine, GuestEnd
    from sipl.engine.embedded.engine import EmbeddedEngine
    from sipl.errors import (
        FileError,
        ImageError,
        ImageFormatError,
        RefusedToStart,
        SealRefused,
        SigningRefused,
        SiplError,
        UndecidedError,
        UsageError,
    )
    from sipl.firmware.hand_over import HandOver
    from sipl.guest_machine import Machine
    from sipl.inspection import certificates, inspect
    from sipl.ipl import boot, verify
    from sipl.machine.boot_devices import DeviceKind
    from sipl.machine.options import MachineOptions, parse_machine
    from sipl.reasons import Level, Mode, Outcome, Reason, SealReason
    from sipl.report.json_form import to_dict, to_json
    from sipl.report.model import CertificateReport, ComponentReport, DeviceReport, FindingReport, Report
    from sipl.settings import Disk, Settings
    from sipl.survey.model import BootMapView, CertificateView

__all__ = [
    "BootEntry",
    "BootMapView",
    "CertificateReport",
    "CertificateView",
    "ComponentReport",
    "DeviceKind",
    "DeviceReport",
    "Diagnosis",
    "Disk",
    "EmbeddedEngine",
    "EndKind",
    "Engine",
    "FileError",
    "FileSignature",
    "FileSigned",
    "FindingReport",
    "GuestEnd",
    "HandOver",
    "ImageError",
    "ImageFormatError",
    "KeyFiles",
    "Level",
    "Machine",
    "MachineOptions",
    "MadeComponent",
    "MadeDisk",
    "MadeEntry",
    "Mode",
    "Outcome",
    "Reason",
    "Recipe",
    "RefusedToStart",
    "Report",
    "SealOptions",
    "SealReason",
    "SealRefused",
    "SealReport",
    "Settings",
    "Signer",
    "SigningError",
    "SigningRefused",
    "SiplError",
    "UndecidedError",
    "UnsealReport",
    "UsageError",
    "WouldNotBoot",
    "__version__",
    "attach_signature",
    "boot",
    "certificates",
    "diagnose",
    "inspect",
    "make_disk",
    "make_key",
    "make_recipe",
    "open_signer",
    "parse_machine",
    "prepare_signature",
    "read_recipe",
    "seal",
    "show_signature",
    "sign_file",
    "strip_file",
    "to_dict",
    "to_json",
    "unseal",
    "verify",
]

# Where each public name lives. A name is imported when it is first used: `sipl --help` needs none of them.
_PLACES: Final = {
    "sipl.author.file_signature": "FileSignature show_signature",
    "sipl.author.key_files": "KeyFiles make_key",
    "sipl.author.mkdisk": "MadeComponent MadeDisk MadeEntry WouldNotBoot make_disk",
    "sipl.author.recipe": "BootEntry Recipe make_recipe read_recipe",
    "sipl.author.seal_report": "SealReport UnsealReport",
    "sipl.author.sealing": "SealOptions seal unseal",
    "sipl.author.signed_file": "FileSigned sign_file strip_file",
    "sipl.author.signer": "Signer open_signer",
    "sipl.author.two_step": "attach_signature prepare_signature",
    "sipl.crypto.signing": "SigningError",
    "sipl.diagnosis": "diagnose",
    "sipl.doctor.model": "Diagnosis",
    "sipl.engine.base": "EndKind Engine GuestEnd",
    "sipl.engine.embedded.engine": "EmbeddedEngine",
    "sipl.errors": (
        "FileError ImageError ImageFormatError RefusedToStart SealRefused SigningRefused SiplError UndecidedError "
        "UsageError"
    ),
    "sipl.firmware.hand_over": "HandOver",
    "sipl.guest_machine": "Machine",
    "sipl.inspection": "certificates inspect",
    "sipl.ipl": "boot verify",
    "sipl.machine.boot_devices": "DeviceKind",
    "sipl.machine.options": "MachineOptions parse_machine",
    "sipl.report.json_form": "to_dict to_json",
    "sipl.reasons": "Level Mode Outcome Reason SealReason",
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
