"""An image without room for new signatures: sealing is not possible, the files must be signed in the guest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.case import problem
from sipl.doctor.model import Rank
from sipl.reasons import Level

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case, known: Sequence[Problem]) -> Iterator[Problem]:
    """Something is to be signed that `sipl seal` would have signed on the image itself."""
    signing = [found for found in known if any(step.rank is Rank.SIGN for step in found.steps)]
    if signing and case.no_gap and not case.files_at_fault:
        steps = [step for found in signing for step in found.steps]
        what = f"there is no gap to seal into, so that the files must be signed in the guest: {case.no_gap}"
        yield problem("no-gap", Level.WARNING, (), (), what, dict.fromkeys(steps))
