"""Whether a signature is good over fewer bytes than the disk loads, which proves what was added."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.evidence import TooMuchToRead
from sipl.doctor.signer import State, judge_signature

if TYPE_CHECKING:
    from sipl.doctor.case import Case, Suspect


def good_over(case: Case, suspect: Suspect, length: int) -> tuple[str, ...]:
    """A line that says so, if a certificate of the store verifies the first `length` bytes of a component."""
    component = suspect.component
    if component.signature is None or suspect.verified or not 0 < length < component.length:
        return ()
    try:
        judged = judge_signature(
            component.signature,
            lambda name: case.evidence.digest(component, name, length),
            case.certificates,
            case.now,
        )
    except TooMuchToRead:
        return ()
    if judged.state is not State.GOOD or judged.by is None:
        return ()
    return (f"{judged.by.name} verifies its first {length} bytes; the disk loads {component.length}",)
