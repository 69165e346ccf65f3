"""A file that was signed on top of a signature: zipl takes off the outer one, the inner one becomes payload."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.at_fault import follows, to_be_signed
from sipl.doctor.case import install, problem, sign_file
from sipl.doctor.good_over import good_over
from sipl.doctor.model import Rank, Step
from sipl.doctor.tail import Behind
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case) -> Iterator[Problem]:
    """An older signature stands where the SCLAB should end."""
    for suspect in to_be_signed(case):
        tail = suspect.tail
        if tail.behind is not Behind.OLD_SIGNATURE:
            continue
        what = "signed on top of an older signature, which is now part of what is loaded, behind the SCLAB"
        details: tuple[str, ...] = ()
        if tail.old_end is not None:
            details = good_over(case, suspect, suspect.component.length - tail.extra + tail.old_end)
        steps = (
            Step(Rank.FILE, f"take every signature off the file of the {suspect.title}", f"sipl strip {suspect.file}"),
            sign_file(suspect),
            install(),
        )
        reasons = follows(suspect, Reason.SCLAB_MISSING, Reason.SIGNATURE_NOT_VERIFIED)
        yield problem("signed-twice", Level.ERROR, [suspect], reasons, what, steps, details)
