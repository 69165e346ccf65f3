"""A component whose signature was made over other bytes, without any of the known mishaps to explain it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.at_fault import follows
from sipl.doctor.case import install, problem, sign_file
from sipl.doctor.model import Rank, Step
from sipl.doctor.signer import State
from sipl.doctor.tail import Behind
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case) -> Iterator[Problem]:
    """The certificate is the right one, and the bytes are not those that were signed."""
    for suspect in case.suspects:
        judged = suspect.judged
        if judged is None or judged.state is not State.OTHER_BYTES or suspect.tail.behind is not Behind.NOTHING:
            continue
        what = "bytes and signature do not belong together: one of them was changed after it was signed"
        details = (f"its signature names {judged.signer}",) if judged.signer else ()
        if judged.by is not None:
            details = (f"its signature names {judged.signer}, which is {judged.by.name}: {judged.why}",)
        steps = (
            Step(Rank.FILE, f"take {suspect.file_text} from where you trust it"),
            sign_file(suspect),
            install(),
        )
        reasons = follows(suspect, Reason.SIGNATURE_NOT_VERIFIED)
        yield problem("changed", Level.ERROR, [suspect], reasons, what, steps, details)
