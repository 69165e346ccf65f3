"""A diagnosis as plain lines, for pipes and logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.text import some_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.model import Diagnosis, Problem


def answer(diagnosis: Diagnosis) -> str:
    """The one line that counts."""
    words = {
        True: "will boot in secure mode",
        False: "will not boot in secure mode",
        None: "could not be examined",
    }
    return f"{diagnosis.path}: {words[diagnosis.would_boot]}"


def verified_line(diagnosis: Diagnosis) -> str:
    """What is signed and by whom, empty if nothing was verified."""
    by_name: dict[str, list[str]] = {}
    for verified in diagnosis.verified:
        by_name.setdefault(verified.certificate, []).append(verified.part)
    return "; ".join(f"{some_of(parts)} ({name})" for name, parts in by_name.items())


def closed_text(diagnosis: Diagnosis) -> str:
    """Whether the disk is closed, or what on it is not signed; empty where nobody looked."""
    if diagnosis.closed:
        return "closed: nothing on it is unsigned, and nothing unsigned would be loaded"
    return f"not signed: {some_of(diagnosis.unsigned)}" if diagnosis.unsigned else ""


def problem_title(problem: Problem) -> str:
    """A problem in a line."""
    parts = f"{some_of(problem.parts)}: " if problem.parts else ""
    return f"{problem.name}: {parts}{problem.what}"


def diagnosis_lines(diagnosis: Diagnosis, *, verbose: bool) -> Iterator[str]:
    """The answer, the state of the disk, each problem, and what to do; facts about a problem only when verbose."""
    yield answer(diagnosis)
    verified = verified_line(diagnosis)
    if verified:
        yield f"  verified: {verified}"
    closed = closed_text(diagnosis)
    if closed:
        yield f"  {closed}"
    for problem in diagnosis.problems:
        yield f"  {problem.level}: {problem_title(problem)}"
        yield from (f"    {detail}" for detail in problem.details)
        if verbose and problem.reasons:
            yield f"    findings: {', '.join(problem.reasons)}"
    if diagnosis.steps:
        yield "  what to do:"
    for number, step in enumerate(diagnosis.steps, 1):
        yield f"    {number}. {step.text}"
        if step.instead:
            yield f"       or {step.instead}"
