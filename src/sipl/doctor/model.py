"""What the doctor says of one disk, `sipl.diagnosis/1` (docs/doctor.md): typed objects, every text safe to show."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from sipl.reasons import Level, Mode, Outcome, Reason

SCHEMA: Final = "sipl.diagnosis/1"


class Rank(IntEnum):
    """The order in which steps are taken: a file is brought in order before it is signed, and signed before zipl."""

    IMAGE = 0
    MACHINE = 1
    FILE = 2
    SIGN = 3
    INSTALL = 4
    SEAL = 5
    TRUST = 6


class Step(NamedTuple):
    """One thing to do, in words; `command` as it is typed and `instead`, what would do as well, can be empty."""

    rank: Rank
    what: str
    command: str = ""
    instead: str = ""

    @property
    def text(self) -> str:
        """What and how, in a line."""
        return f"{self.what}: {self.command}" if self.command else self.what


class Problem(NamedTuple):
    """One trouble. An error keeps the disk from booting, a warning does not.

    `parts` names the components that it is about and `components` gives their positions, origin 0; `reasons` are those
    findings of `verify` that it explains. `details` are lines of facts.
    """

    name: str
    level: Level
    parts: tuple[str, ...]
    components: tuple[int, ...]
    reasons: tuple[Reason, ...]
    what: str
    details: tuple[str, ...]
    steps: tuple[Step, ...]


class VerifiedPart(NamedTuple):
    """A component that a certificate verified; `certificate` is its name in the store."""

    part: str
    certificate: str


class Diagnosis(NamedTuple):
    """One disk: the verdict of `verify`, why, and in `steps` everything that is to be done, in order.

    `closed` and `unsigned` as in `sipl.report/1`. `would_boot` is what the exit code says: True is 0, False 1, None 2.
    """

    path: str
    mode: Mode
    outcome: Outcome
    reason: Reason | None
    would_boot: bool | None
    closed: bool | None
    verified: tuple[VerifiedPart, ...]
    unsigned: tuple[str, ...]
    problems: tuple[Problem, ...]
    steps: tuple[Step, ...]

    @property
    def exit_code(self) -> int:
        """0 yes, 1 no, 2 could not decide."""
        return 2 if self.would_boot is None else int(not self.would_boot)
