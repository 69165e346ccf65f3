"""Which components can be the cause, and which findings follow from a faulty one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case, Suspect

_OF_THE_LOADER = (Reason.NO_SCLAB, Reason.NO_GLOBAL_SCLAB)


def to_be_signed(case: Case) -> Iterator[Suspect]:
    """What a machine, or the loader behind it, wants to have signed: loader and kernel, and what has a signature."""
    kernel_too = case.found(Reason.LOADER_WILL_REFUSE, Reason.NO_SIGNED_COMPONENT)
    for suspect in case.suspects:
        if suspect.signed or suspect.title == "loader" or (suspect.title == "kernel" and kernel_too):
            yield suspect


def follows(suspect: Suspect, *reasons: Reason) -> tuple[Reason, ...]:
    """The findings that a faulty component explains: `reasons`, and what the whole program lacks without it."""
    if suspect.title == "loader":
        return (*reasons, *_OF_THE_LOADER)
    return (*reasons, Reason.LOADER_WILL_REFUSE) if suspect.title == "kernel" else reasons
