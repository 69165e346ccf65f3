"""A file whose payload is no multiple of the block size: what is loaded is longer than what was signed."""

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
    """Filling, or the start of the signature itself, stands between the SCLAB and the end of the last block."""
    block_size = case.evidence.block_size
    for suspect in to_be_signed(case):
        behind, extra, _ = suspect.tail
        if behind not in (Behind.ZEROS, Behind.OWN_SIGNATURE):
            continue
        length = suspect.component.length - extra
        filling = "zeros" if behind is Behind.ZEROS else "bytes of its signature"
        what = (
            f"its file has {length} bytes, no multiple of the block size {block_size}: "
            f"the disk loads {extra} {filling} behind its SCLAB, which must be its last bytes"
            if length % block_size
            else f"{extra} {filling} stand behind its SCLAB, which must be its last bytes"
        )
        steps = (
            Step(
                Rank.FILE,
                f"take {suspect.file_text} as its package ships it, or fill it up to a multiple of {block_size} bytes "
                "in front of its SCLAB",
            ),
            sign_file(suspect),
            install(),
        )
        reasons = follows(suspect, Reason.SCLAB_MISSING, Reason.SIGNATURE_NOT_VERIFIED)
        details = good_over(case, suspect, length)
        yield problem("padded", Level.ERROR, [suspect], reasons, what, steps, details)
