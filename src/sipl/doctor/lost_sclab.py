"""A component that should end with a SCLAB, and does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.at_fault import follows, to_be_signed
from sipl.doctor.case import install, problem, sign_file
from sipl.doctor.model import Rank, Step
from sipl.doctor.tail import Behind
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case) -> Iterator[Problem]:
    """There is no SCLAB in the last bytes, or something that nobody knows stands behind it."""
    for suspect in to_be_signed(case):
        behind, extra, _ = suspect.tail
        if behind is Behind.OTHER:
            what = f"{extra} bytes stand behind its SCLAB, which must be its last bytes: something was appended to it"
        elif behind is Behind.NO_SCLAB:
            what = "its last bytes are no SCLAB: its release does not know secure IPL, or its end was cut off"
        else:
            continue
        steps = (
            Step(
                Rank.FILE,
                f"take {suspect.file_text} unchanged from a package that knows secure IPL",
            ),
            sign_file(suspect),
            install(),
        )
        reasons = follows(suspect, Reason.SCLAB_MISSING, Reason.SIGNATURE_NOT_VERIFIED)
        yield problem("sclab-lost", Level.ERROR, [suspect], reasons, what, steps)
