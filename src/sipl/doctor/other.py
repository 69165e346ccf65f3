"""Every finding of `verify` that no other rule explains, with its cure (docs/reasons.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.doctor.model import Problem, Rank, Step
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sipl.doctor.case import Case
    from sipl.report.model import FindingReport, Report

_IMAGE: Final = frozenset(
    {
        Reason.IMAGE_INVALID,
        Reason.IMAGE_NOTE,
        Reason.IMAGE_UNREADABLE,
        Reason.BLOCK_OUT_OF_RANGE,
        Reason.SEGMENT_UNREADABLE,
    }
)
_MACHINE: Final = frozenset(
    {
        Reason.CDROM_NOT_ELIGIBLE,
        Reason.CERTIFICATE_DIRECTORY_EMPTY,
        Reason.CERTIFICATE_NOT_PEM,
        Reason.CERTIFICATE_PATH,
        Reason.CERTIFICATE_SKIPPED,
        Reason.CERTIFICATE_TOO_LARGE,
        Reason.CERTIFICATE_UNREADABLE,
        Reason.CPU_FEATURE_DEPENDENCY,
        Reason.DEVICE_NOT_ELIGIBLE,
        Reason.FACILITY_MISSING,
        Reason.LOADPARM_INVALID,
        Reason.LOAD_ADDRESS_FORBIDDEN,
        Reason.MENU_CHOICE_NEEDED,
        Reason.NOT_A_ZIPL_DISK,
        Reason.NO_BOOT_DEVICE,
        Reason.SCHEME_NOT_SUPPORTED,
        Reason.TOO_MANY_CERTIFICATES,
    }
)

# For the findings that have no advice of their own.
_REMEDIES: Final = {
    Reason.CPU_FEATURE_DEPENDENCY: "switch the features on together in --cpu, or leave it away",
    Reason.IMAGE_NOTE: "look at the image with qemu-img check",
}


def find(case: Case, known: Sequence[Problem]) -> Iterator[Problem]:
    """One problem per finding that is left."""
    titles = {suspect.component.position: suspect.title for suspect in case.suspects}
    yield from unexplained(case.report, known, titles)


def unexplained(report: Report, known: Sequence[Problem], titles: dict[int, str]) -> Iterator[Problem]:
    """Warnings and errors of a report that `known` problems do not explain; `titles` name components by position."""
    for finding in report.findings:
        if finding.level is Level.INFO or any(_explains(problem, finding) for problem in known):
            continue
        components = () if finding.component is None else (finding.component,)
        parts = tuple(titles[position] for position in components if position in titles)
        level = finding.level if report.would_boot is not False else Level.ERROR
        if finding.level is Level.WARNING and finding.reason is not Reason.LOADER_WILL_REFUSE:
            level = Level.WARNING
        what, steps = _without_place(finding, report), (_step(finding),)
        yield Problem(str(finding.reason), level, parts, components, (finding.reason,), what, (), steps)


def _without_place(finding: FindingReport, report: Report) -> str:
    """The message of a finding, without the place that stands in front of it as its part anyway."""
    if finding.component is None or finding.component >= len(report.components):
        return finding.message
    return finding.message.removeprefix(f"component at {report.components[finding.component].address:#x}: ")


def _explains(problem: Problem, finding: FindingReport) -> bool:
    if finding.reason not in problem.reasons:
        return False
    return finding.component is None or not problem.components or finding.component in problem.components


def _step(finding: FindingReport) -> Step:
    rank = Rank.INSTALL
    if finding.reason in _IMAGE:
        rank = Rank.IMAGE
    elif finding.reason in _MACHINE:
        rank = Rank.MACHINE
    return Step(rank, finding.hint or _REMEDIES.get(finding.reason, "mend what the sentence says"))
