"""From machine and boot side to the report: what each of them knows, joined.

The boot side knows what guest code can know; the machine adds what the host knows, above all why a signature did not
verify, and the digests that verification has computed already.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

from sipl.advice import hint
from sipl.firmware.parts import in_order_of_weight, name_parts
from sipl.layout.iplb import IPLB_HEADER_SIZE, IPLB_SIZE, IplbHeader
from sipl.layout.record import size_of, unpack
from sipl.layout.stage3 import STAGE3_PARAMETERS, Stage3Parameters
from sipl.machine.cpu_model import hint_for
from sipl.machine.ebcdic import from_ebcdic
from sipl.reasons import Level, Mode, Outcome, Reason
from sipl.report.model import CertificateReport, ComponentReport, DeviceReport, FindingReport, Report
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.errors import RefusedToStart, UndecidedError
    from sipl.firmware.components import Component
    from sipl.firmware.flow import Firmware
    from sipl.firmware.parts import Part
    from sipl.firmware.verdict import Finding
    from sipl.machine.diag508 import Verification
    from sipl.machine.machine import Machine
    from sipl.settings import Disk

_DIGEST = "sha256"


class FindingLog:
    """The findings of one IPL in the order in which they were made, each with its hint."""

    def __init__(self) -> None:
        self.findings: list[FindingReport] = []
        # Digests that verification has computed, by component of the program that is being loaded.
        self.digests: dict[Component, bytes] = {}
        self._machine: Machine | None = None
        self._firmware: Firmware | None = None

    def copy(self) -> FindingLog:
        """A log that starts with the same findings."""
        other = FindingLog()
        other.findings = list(self.findings)
        return other

    def watch(self, machine: Machine, firmware: Firmware) -> None:
        """Say whose findings `observe` will get."""
        self._machine = machine
        self._firmware = firmware

    def host(self, reason: Reason, level: Level, where: str, why: str, what_to_do: str = "") -> None:
        """Add a finding of the host, about no device."""
        message = printable(f"{where}: {why}" if where else why)
        self.findings.append(FindingReport(reason, level, None, None, message, printable(what_to_do) or hint(reason)))

    def refuse(self, refusal: RefusedToStart) -> None:
        """Add why the machine does not start."""
        self.host(refusal.reason, Level.ERROR, refusal.where, refusal.why, refusal.hint)

    def undecided(self, fault: UndecidedError) -> None:
        """Add why there is no verdict."""
        self.host(fault.reason, Level.ERROR, fault.where, fault.why, fault.hint)

    def observe(self, finding: Finding) -> None:
        """Add a finding of the boot side, with what the machine knows about it."""
        message = finding.message
        verification = self._verification_of(finding)
        if verification is not None and verification.why:
            message = f"{message}: {verification.why}"
        advice = hint(finding.reason)
        if finding.reason is Reason.FACILITY_MISSING and self._machine is not None:
            advice = hint_for(["sipl"], self._machine.model)
        self.findings.append(
            FindingReport(
                finding.reason, finding.level, finding.device, finding.component, printable(message), printable(advice)
            )
        )
        for weakness in verification.weaknesses if verification is not None else ():
            weak = Reason.WEAK_SIGNATURE
            text = printable(f"the signature is weak: {weakness}")
            report = FindingReport(weak, Level.WARNING, finding.device, finding.component, text, hint(weak))
            self.findings.append(report)

    def _verification_of(self, finding: Finding) -> Verification | None:
        """What the machine knows of the verification that a finding is about."""
        if finding.reason not in (Reason.SIGNATURE_NOT_VERIFIED, Reason.COMPONENT_VERIFIED):
            return None
        if self._machine is None or self._firmware is None or not self._machine.verifications:
            return None
        last = self._machine.verifications[-1]
        for component in self._firmware.components:
            is_it = component.position == finding.component
            if is_it and (component.address, component.length) == (last.address, last.length):
                if _DIGEST in last.digests:
                    self.digests[component] = last.digests[_DIGEST]
                return last
        return None


def plain_report(mode: Mode, disks: Sequence[Disk], outcome: Outcome, reason: Reason | None, log: FindingLog) -> Report:
    """The report of a machine that did not start."""
    devices = tuple(DeviceReport(printable(disk.path), disk.kind, "not-tried", None, None) for disk in disks)
    return Report(
        mode=mode,
        outcome=outcome,
        reason=reason,
        psw=None,
        devices=devices,
        components=(),
        error_indicators=None,
        psw_error_indicators=None,
        would_boot=_would_boot(outcome),
        certificates=(),
        findings=tuple(log.findings),
        ipl_parameter_block=None,
        ipl_report=None,
    )


def direct_kernel_report(mode: Mode, psw: int, log: FindingLog) -> Report:
    """The report of a kernel that is started without a disk."""
    return plain_report(mode, (), Outcome.HANDS_OVER, None, log)._replace(psw=f"{psw:016x}")


def ipl_report(machine: Machine, firmware: Firmware, disks: Sequence[Disk], log: FindingLog) -> Report:
    """The report of an IPL that the boot side has ended, one way or the other."""
    state = firmware.hand_over
    block = report = None
    if state is not None:
        header = unpack(IplbHeader, machine.load(state.iplb_address, size_of(IplbHeader)))
        # A guest may have set this block, and nobody asks for this length but the reports.
        length = min(IPLB_HEADER_SIZE + header.block0_length, IPLB_SIZE)
        block = machine.load(state.iplb_address, length).hex()
        if state.report_length:
            report = machine.load(state.report_address, state.report_length).hex()
    parts = _parts(machine, firmware)
    return Report(
        mode=firmware.mode,
        outcome=firmware.outcome,
        reason=firmware.reason,
        psw=None if firmware.psw is None else f"{firmware.psw:016x}",
        devices=_devices(firmware, disks),
        components=tuple(
            _component(machine, component, part, log)
            for component, part in zip(firmware.components, parts, strict=True)
        ),
        error_indicators=firmware.error_indicators,
        psw_error_indicators=firmware.psw_entry.error_indicators if firmware.psw_entry is not None else None,
        would_boot=_would_boot(firmware.outcome),
        certificates=_certificates(machine, firmware),
        findings=tuple(log.findings),
        ipl_parameter_block=block,
        ipl_report=report,
        closed=_closed(machine, firmware),
        unsigned=_unsigned(firmware, parts),
    )


def _would_boot(outcome: Outcome) -> bool | None:
    return None if outcome is Outcome.UNDECIDED else outcome is Outcome.HANDS_OVER


def _devices(firmware: Firmware, disks: Sequence[Disk]) -> tuple[DeviceReport, ...]:
    attempts = {attempt.position: attempt for attempt in firmware.attempts}
    devices = []
    for position, disk in enumerate(disks):
        attempt = attempts.get(position)
        path = printable(disk.path)
        if attempt is None:
            devices.append(DeviceReport(path, disk.kind, "not-tried", None, None))
        else:
            devices.append(DeviceReport(path, disk.kind, attempt.outcome, attempt.reason, attempt.program))
    return tuple(devices)


def _parts(machine: Machine, firmware: Firmware) -> tuple[Part | None, ...]:
    parameters = b""
    for component in firmware.components:
        if component.address == STAGE3_PARAMETERS and component.loaded:
            parameters = machine.load(STAGE3_PARAMETERS, min(component.length, size_of(Stage3Parameters)))
    return name_parts(firmware.psw, [(c.address, c.length) for c in firmware.components], parameters)


def _closed(machine: Machine, firmware: Firmware) -> bool | None:
    """Whether nothing unsigned is loaded and nothing unsigned ever could be; None where nobody can say."""
    if firmware.mode is Mode.NORMAL or firmware.psw is None:
        return None
    if not firmware.forbids_unsigned or not all(component.signed for component in firmware.components):
        return False
    if not machine.certificates.count:
        return None
    return all(component.verified for component in firmware.components)


def _unsigned(firmware: Firmware, parts: tuple[Part | None, ...]) -> tuple[str, ...]:
    if firmware.mode is Mode.NORMAL:
        return ()
    pairs = zip(firmware.components, parts, strict=True)
    return in_order_of_weight((part, component.address) for component, part in pairs if not component.signed)


def _component(machine: Machine, component: Component, part: Part | None, log: FindingLog) -> ComponentReport:
    certificate = None
    if component.store_index is not None:
        certificate = machine.certificates.entries[component.store_index].certificate.fingerprint.hex()
    return ComponentReport(
        address=component.address,
        length=component.length,
        flags=int(component.flags),
        signed=component.signed,
        verified=component.verified,
        certificate=certificate,
        error_indicators=int(component.error_indicators),
        digest=_digest(machine, component, log),
        part=None if part is None else part.value,
    )


def _digest(machine: Machine, component: Component, log: FindingLog) -> str | None:
    if component in log.digests:
        return log.digests[component].hex()
    if not component.loaded:
        return None
    return hashlib.sha256(machine.memory.span(component.address, component.length)).hexdigest()


def _certificates(machine: Machine, firmware: Firmware) -> tuple[CertificateReport, ...]:
    if firmware.certificates is None:
        return ()
    reports = []
    for index, store_index in enumerate(firmware.certificates.store_indices):
        entry = machine.certificates.entries[store_index]
        certificate = entry.certificate
        reports.append(
            CertificateReport(
                report_index=index,
                store_index=store_index,
                name=printable(from_ebcdic(entry.name).rstrip()),
                subject=certificate.subject,
                not_before=iso_time(certificate.not_before),
                not_after=iso_time(certificate.not_after),
                sha256=certificate.fingerprint.hex(),
                length=len(certificate.der),
            )
        )
    return tuple(reports)


def iso_time(seconds: int) -> str:
    """A point in time, seconds since 1970 (UTC), as ISO 8601."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
