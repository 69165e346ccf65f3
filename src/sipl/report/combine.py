"""The two passes of `verify` as one report: the verdict of secure mode, the findings of the pass that went on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.firmware.parts import Part
from sipl.reasons import MODE_RULES, Level, Reason

if TYPE_CHECKING:
    from sipl.report.model import FindingReport, Report


def combine(verdict: Report, complete: Report) -> Report:
    """Join a secure pass that did not hand over with the pass without secure-boot over the same disk.

    A rule that the second pass only warned about is an error here, because that is what it is in secure mode. What only
    the secure pass found stands first.
    """
    findings = tuple(as_in_secure_mode(finding) for finding in complete.findings)
    if verdict.reason is Reason.NO_CERTIFICATE:
        findings = tuple(finding for finding in findings if not _for_want_of_certificates(finding, complete))
    known = {(finding.reason, finding.component) for finding in findings}
    own = tuple(finding for finding in verdict.findings if (finding.reason, finding.component) not in known)
    # The components belong to the program that the complete pass chose; the verdict may have come before any choice.
    devices = tuple(
        device._replace(program=other.program) if device.program is None else device
        for device, other in zip(verdict.devices, complete.devices, strict=True)
    )
    return verdict._replace(
        devices=devices,
        psw=complete.psw,
        components=complete.components,
        error_indicators=complete.error_indicators,
        psw_error_indicators=complete.psw_error_indicators,
        certificates=complete.certificates,
        findings=own + findings,
        closed=complete.closed,
        unsigned=complete.unsigned,
    )


def _for_want_of_certificates(finding: FindingReport, complete: Report) -> bool:
    """Whether a finding only says again that there is no certificate, and nothing about the disk."""
    if finding.reason is Reason.LOADER_WILL_REFUSE:
        return any(component.part == Part.KERNEL and component.signed for component in complete.components)
    return finding.reason is Reason.SIGNATURE_NOT_VERIFIED


def as_in_secure_mode(finding: FindingReport) -> FindingReport:
    """A finding with the level that secure mode gives it."""
    if finding.reason in MODE_RULES:
        return finding._replace(level=Level.ERROR)
    if finding.reason is Reason.LOADER_WILL_REFUSE:
        return finding._replace(level=Level.WARNING)
    return finding
