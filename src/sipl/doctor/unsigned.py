"""Loader or kernel without a signature, or anything where the loader forbids what is not signed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.at_fault import follows, to_be_signed
from sipl.doctor.case import KEY_AND_CERTIFICATE, problem
from sipl.doctor.model import Rank, Step
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case) -> Iterator[Problem]:
    """No signature where one is needed."""
    bare = [suspect for suspect in to_be_signed(case) if not suspect.signed]
    for suspect in bare:
        reasons = [*follows(suspect, Reason.PSW_OUTSIDE_SIGNED_CODE), Reason.NO_SIGNED_COMPONENT]
        what = "without a signature"
        if suspect.title == "kernel" and len(bare) == 1:
            what = "without a signature, so that the loader would refuse to start it"
        yield problem("not-signed", Level.ERROR, [suspect], reasons, what, case.sign(bare))
    if not case.found(Reason.UNSIGNED_NOT_ALLOWED):
        return
    others = [suspect for suspect in case.suspects if not suspect.signed and suspect not in bare]
    what = "without a signature, which the loader forbids (NUC)"
    steps = (
        Step(
            Rank.INSTALL,
            "make a disk on which everything is signed",
            f"sipl mkdisk --closed {KEY_AND_CERTIFICATE}",
            "sign a loader that does not forbid it",
        ),
    )
    for suspect in others:
        yield problem("not-signed", Level.ERROR, [suspect], (Reason.UNSIGNED_NOT_ALLOWED,), what, steps)
