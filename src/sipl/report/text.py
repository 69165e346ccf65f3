"""The report as plain lines, for pipes and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.reasons import Level, Outcome, Reason
from sipl.text import some_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.report.model import ComponentReport, FindingReport, Report

# The device with one of these outcomes is the one that the verdict is about; without any it is about all of them.
_DECIDES: Final = frozenset({Outcome.HANDS_OVER, Outcome.STOPS, Outcome.UNDECIDED})


def verdict(report: Report, command: str) -> str:
    """The one line that counts: what, the answer, in which mode, why."""
    decided = [device for device in report.devices if device.outcome in _DECIDES]
    what = ", ".join(device.path for device in decided or report.devices) or "guest"
    answer = _verify_answer(report) if command == "verify" else _boot_answer(report)
    why = f": {report.reason}" if report.reason is not None else ""
    return f"{what}: {answer} in {report.mode} mode{why}"


def _verify_answer(report: Report) -> str:
    if report.would_boot is None:
        return "undecided"
    if report.would_boot:
        return "would boot"
    return "the loader would refuse to go on" if report.outcome is Outcome.HANDS_OVER else "would not boot"


def _boot_answer(report: Report) -> str:
    answers = {
        Outcome.UNDECIDED: "undecided",
        Outcome.HANDS_OVER: f"hands over (entry PSW {report.psw})",
        Outcome.STOPS: "the machine stops",
        Outcome.NO_BOOTABLE_DEVICE: "no bootable device",
        Outcome.REFUSED_TO_START: "the machine refuses to start",
    }
    return answers[report.outcome]


def component_state(component: ComponentReport, reason: Reason | None = None) -> str:
    """What a component is worth, in a word or two; `reason` is the report's."""
    if component.verified:
        return "verified"
    if not component.signed:
        return "not signed"
    return "signed, no certificate to verify it" if reason is Reason.NO_CERTIFICATE else "signed, NOT VERIFIED"


def closed_line(report: Report) -> str:
    """Whether the disk is closed, or what on it is not signed; empty where nobody looked."""
    if report.closed:
        return "closed: all that is loaded is signed and verified, and the loader forbids anything else"
    if report.unsigned:
        return f"not signed: {some_of(report.unsigned)}"
    if report.closed is False and all(component.verified for component in report.components):
        return "not closed: all that is loaded is signed, but the loader would take unsigned components, too (no NUC)"
    return ""


def finding_message(report: Report, finding: FindingReport) -> str:
    """The sentence of a finding, with its device in front where there are several."""
    if finding.device is None or len(report.devices) < 2:
        return finding.message
    return f"{report.devices[finding.device].path}: {finding.message}"


def report_lines(report: Report, command: str, *, verbose: bool) -> Iterator[str]:
    """Verdict, components, then findings; info findings, certificates and digests only when verbose."""
    yield verdict(report, command)
    names = {certificate.sha256: certificate.name for certificate in report.certificates}
    for component in report.components:
        end = component.address + component.length
        state = component_state(component, report.reason)
        line = f"  component {component.address:#x}-{end:#x} {component.length} bytes: {state}"
        if component.certificate is not None:
            line += f" ({names.get(component.certificate, component.certificate)})"
        if component.error_indicators:
            line += f", error indicators {component.error_indicators:#010x}"
        if verbose and component.digest is not None:
            line += f", sha256 {component.digest}"
        yield line
    closed = closed_line(report) if command == "verify" else ""
    if closed:
        yield f"  {closed}"
    if verbose:
        for certificate in report.certificates:
            until = f"valid {certificate.not_before} to {certificate.not_after}"
            yield f"  certificate {certificate.name}: {certificate.subject}, {until}, sha256 {certificate.sha256}"
    for finding in report.findings:
        if verbose or finding.level is not Level.INFO:
            advice = f" ({finding.hint})" if finding.hint else ""
            yield f"  {finding.level}: {finding.reason}: {finding_message(report, finding)}{advice}"
