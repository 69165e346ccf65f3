"""Whether a disk boots securely, and if not what is to be done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sipl.errors import UndecidedError
from sipl.reasons import Mode, Outcome, Reason
from sipl.settings import Settings

if TYPE_CHECKING:
    from sipl.disk.block_device import BlockDevice
    from sipl.doctor.case import Suspect
    from sipl.doctor.evidence import ComponentEvidence, Evidence
    from sipl.doctor.model import Diagnosis
    from sipl.doctor.signer import Judged, Trusted
    from sipl.report.model import Report
    from sipl.settings import Disk

_DEFAULTS: Final = Settings()


def diagnose(disk: Disk, settings: Settings = _DEFAULTS) -> Diagnosis:
    """Judge one disk for secure mode as `verify` does, and find out what is to be done about all that it finds.

    Raises:
        UsageError: the settings are not possible.
    """
    from sipl.doctor.examine import diagnosis
    from sipl.doctor.other import unexplained
    from sipl.ipl import verify

    report = verify(disk, settings, Mode.SECURE)
    if report.outcome in (Outcome.UNDECIDED, Outcome.REFUSED_TO_START):
        return diagnosis(report, unexplained(report, (), {}))
    try:
        return _examined(disk, settings, report)
    except UndecidedError as fault:
        # It could be read a moment ago.
        undecided = report._replace(outcome=Outcome.UNDECIDED, reason=fault.reason, would_boot=None)
        return diagnosis(undecided, unexplained(undecided, (), {}))


def _examined(disk: Disk, settings: Settings, report: Report) -> Diagnosis:
    from sipl.disk.block_device import BlockDevice
    from sipl.disk.block_size import find_block_size
    from sipl.disk.open import open_image
    from sipl.doctor.case import Case
    from sipl.doctor.evidence import Evidence
    from sipl.doctor.examine import examine

    with open_image(disk.path, allow_backing=settings.allow_backing, backing_folder=settings.backing_folder) as image:
        device = BlockDevice(image, disk.block_size or find_block_size(image))
        program = report.devices[0].program
        wanted = 0 if program is None else len(report.components)
        evidence = Evidence(device, program or 0, wanted, settings.machine.memory)
        now = int(time.time()) if settings.at is None else settings.at
        certificates = _certificates(settings)
        suspects = tuple(_suspect(evidence, c, report, certificates, now) for c in evidence.components)
        to_sign = report.would_boot is False or any(f.reason is Reason.WEAK_SIGNATURE for f in report.findings)
        no_gap = _why_no_gap(device) if to_sign else ""
        return examine(Case(disk.path, report, evidence, suspects, certificates, now, no_gap))


def _certificates(settings: Settings) -> tuple[Trusted, ...]:
    from sipl.doctor.signer import Trusted
    from sipl.machine.cert_store import CertStore
    from sipl.machine.ebcdic import from_ebcdic
    from sipl.text import printable

    # Each warning is in the report already.
    store = CertStore.load(settings.machine.boot_certs, lambda *_: None)
    return tuple(Trusted(printable(from_ebcdic(entry.name).rstrip()), entry.certificate) for entry in store.entries)


def _suspect(
    evidence: Evidence, component: ComponentEvidence, report: Report, certificates: tuple[Trusted, ...], now: int
) -> Suspect:
    from sipl.doctor.case import suspect_of

    reported = report.components[component.position]
    title = reported.part or f"component at {component.address:#x}"
    judged = _judged(evidence, component, certificates, now) if reported.signed else None
    return suspect_of(component, title, reported, judged)


def _judged(
    evidence: Evidence, component: ComponentEvidence, certificates: tuple[Trusted, ...], now: int
) -> Judged | None:
    from sipl.doctor.evidence import TooMuchToRead
    from sipl.doctor.signer import judge_signature, not_loaded

    if component.signature is None:
        return not_loaded()
    try:
        return judge_signature(
            component.signature, lambda name: evidence.digest(component, name, component.length), certificates, now
        )
    except TooMuchToRead:
        return None


def _why_no_gap(device: BlockDevice) -> str:
    """Why `sipl seal` finds no room on a disk, empty if it does."""
    from sipl.disk.free_room import find_free_room
    from sipl.errors import SealRefused

    try:
        find_free_room(device.image, device.block_size)
    except SealRefused as refused:
        return refused.why
    return ""
