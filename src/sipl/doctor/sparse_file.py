"""A component whose segments lead to wrong blocks, because its file has holes and zipl lost count."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.doctor.at_fault import follows
from sipl.doctor.case import install, problem, sign_file
from sipl.doctor.model import Rank, Step
from sipl.doctor.sparse_defect import find_sparse_defect
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case
    from sipl.doctor.model import Problem


def find(case: Case) -> Iterator[Problem]:
    """Not for what is verified: its bytes are those that were signed, wherever they come from."""
    for suspect in case.suspects:
        runs = suspect.component.segments.runs()
        defect = None if suspect.verified else find_sparse_defect(runs, case.evidence.block_size)
        if defect is None:
            continue
        signs = [f"{defect.twice} blocks are named twice"] if defect.twice else []
        signs += [f"{defect.early} runs begin too early"] if defect.early else []
        what = (
            "zipl mapped the file to wrong blocks, its defect with sparse files: "
            f"{' and '.join(signs)}, beside {defect.holes} that stand for holes"
        )
        steps = [
            Step(
                Rank.FILE,
                f"write the file of the {suspect.title} anew without holes",
                f"cp --sparse=never {suspect.file} NEW && mv NEW {suspect.file}",
            )
        ]
        details: tuple[str, ...] = ()
        if suspect.signed:
            details = ("the file is not at fault and needs no other signature: the disk loads something else",)
        else:
            steps.append(sign_file(suspect))
        steps.append(install())
        reasons = follows(suspect, Reason.SIGNATURE_NOT_VERIFIED, Reason.SCLAB_MISSING)
        yield problem("sparse-defect", Level.ERROR, [suspect], reasons, what, steps, details)
