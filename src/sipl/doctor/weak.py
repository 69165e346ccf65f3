"""Signatures that verify and yet should not be made any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.case import problem
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case) -> Iterator[Problem]:
    """A weak digest or key: a warning, because the machine takes it."""
    said = {f.component: f.message for f in case.report.findings if f.reason is Reason.WEAK_SIGNATURE}
    for suspect in case.suspects:
        what = said.get(suspect.component.position, "")
        if not what and suspect.judged is not None and suspect.judged.weak:
            what = "the signature is weak: the digest is SHA-1"
        if what:
            steps = case.sign([suspect])
            yield problem("weak-signature", Level.WARNING, [suspect], (Reason.WEAK_SIGNATURE,), what, steps)
