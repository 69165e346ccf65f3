"""From a case to a diagnosis: every rule is asked, what they say is joined, and the steps are put in order."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.doctor import (
    certificates,
    changed,
    lost_sclab,
    no_gap,
    old_signature,
    other,
    padding,
    sparse_file,
    unsigned,
    weak,
)
from sipl.doctor.model import Diagnosis, Problem, VerifiedPart
from sipl.reasons import Level

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from sipl.doctor.case import Case
    from sipl.report.model import Report

# Rules on what is in the files: a disk that breaks one of them needs new files, whatever its signatures are.
_ON_FILES: Final[tuple[Callable[[Case], Iterator[Problem]], ...]] = (
    sparse_file.find,
    old_signature.find,
    padding.find,
    lost_sclab.find,
    changed.find,
)
_ON_SIGNATURES: Final[tuple[Callable[[Case], Iterator[Problem]], ...]] = (unsigned.find, certificates.find)


def examine(case: Case) -> Diagnosis:
    """Ask every rule."""
    problems: list[Problem] = []
    if case.report.would_boot is False:
        for rule in _ON_FILES:
            problems += [found for found in rule(case) if not _known(found, problems)]
        case = case._replace(files_at_fault=bool(problems))
        for rule in _ON_SIGNATURES:
            problems += rule(case)
    problems += weak.find(case)
    problems += no_gap.find(case, problems)
    problems += other.find(case, problems)
    return diagnosis(case.report, problems)


def _known(found: Problem, problems: Sequence[Problem]) -> bool:
    """Whether a rule before has explained what is wrong with the same component."""
    return any(set(found.components) & set(problem.components) for problem in problems)


def diagnosis(report: Report, problems: Iterable[Problem]) -> Diagnosis:
    """Join problems that say the same of several components, errors first, and put all steps in order."""
    joined: list[Problem] = []
    for problem in sorted(problems, key=lambda problem: problem.level is not Level.ERROR):
        for at, other_one in enumerate(joined):
            if _same(problem, other_one):
                joined[at] = _join(other_one, problem)
                break
        else:
            joined.append(problem)
    steps = sorted(dict.fromkeys(step for problem in joined for step in problem.steps), key=lambda step: step.rank)
    names = {certificate.sha256: certificate.name for certificate in report.certificates}
    verified = (
        VerifiedPart(component.part or f"component at {component.address:#x}", names.get(component.certificate, ""))
        for component in report.components
        if component.certificate is not None
    )
    return Diagnosis(
        path=", ".join(device.path for device in report.devices),
        mode=report.mode,
        outcome=report.outcome,
        reason=report.reason,
        would_boot=report.would_boot,
        closed=report.closed,
        verified=tuple(verified),
        unsigned=report.unsigned,
        problems=tuple(joined),
        steps=tuple(steps),
    )


def _same(one: Problem, two: Problem) -> bool:
    return (one.name, one.level, one.what, one.details) == (two.name, two.level, two.what, two.details)


def _join(one: Problem, two: Problem) -> Problem:
    return one._replace(
        parts=tuple(dict.fromkeys(one.parts + two.parts)),
        components=one.components + two.components,
        reasons=tuple(dict.fromkeys(one.reasons + two.reasons)),
        steps=tuple(sorted(dict.fromkeys(one.steps + two.steps), key=lambda step: step.rank)),
    )
