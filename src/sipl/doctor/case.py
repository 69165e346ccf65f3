"""A disk under examination: what the boot side reported, and what lies on the disk behind it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.doctor.model import Problem, Rank, Step
from sipl.doctor.tail import look_behind
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sipl.doctor.evidence import ComponentEvidence, Evidence
    from sipl.doctor.signer import Judged, Trusted
    from sipl.doctor.tail import Tail
    from sipl.reasons import Level, Reason
    from sipl.report.model import ComponentReport, Report

# Where s390-tools and Linux keep the files that zipl puts on the disk.
_FILES: Final = {"loader": "/lib/s390-tools/stage3.bin", "kernel": "/boot/vmlinuz"}
KEY_AND_CERTIFICATE: Final = "--key key.pem --cert cert.pem"


class Suspect(NamedTuple):
    """A component. `title` is its part or its address; `judged` is None where it has no signature to judge."""

    component: ComponentEvidence
    title: str
    signed: bool
    verified: bool
    tail: Tail
    judged: Judged | None

    @property
    def file(self) -> str:
        """The file that it was made from, as a word of a command."""
        return _FILES.get(self.title, "FILE")

    @property
    def file_text(self) -> str:
        """The file that it was made from, in words."""
        usual = f" ({self.file})" if self.title in _FILES else ""
        return f"the file of the {self.title}{usual}"


class Case(NamedTuple):
    """All that the rules look at. `no_gap` says why nothing can be sealed into the image, empty if it can be."""

    path: str  # as it was named
    report: Report
    evidence: Evidence
    suspects: tuple[Suspect, ...]
    certificates: tuple[Trusted, ...]
    now: int
    no_gap: str
    files_at_fault: bool = False  # the files must be installed again, so that sealing the image would not do

    @property
    def by_sealing(self) -> bool:
        """Whether signatures can go to the image as it is."""
        return not self.files_at_fault and not self.no_gap

    def found(self, *reasons: Reason) -> bool:
        """Whether `verify` found one of these."""
        return any(finding.reason in reasons for finding in self.report.findings)

    def sign(self, suspects: Iterable[Suspect]) -> tuple[Step, ...]:
        """The steps that give components new signatures."""
        if self.by_sealing:
            command = f"sipl seal {KEY_AND_CERTIFICATE} {shlex.quote(printable(self.path))}"
            return (Step(Rank.SEAL, "sign loader and kernel on the image itself, with your key", command),)
        return (*(sign_file(suspect) for suspect in suspects), install())


def sign_file(suspect: Suspect) -> Step:
    """Sign the file that a component was made from."""
    command = f"sipl sign {KEY_AND_CERTIFICATE} {suspect.file}"
    return Step(Rank.SIGN, f"sign the file of the {suspect.title} with your key", command)


def install() -> Step:
    """Bring signed files to the disk."""
    return Step(Rank.INSTALL, "write the boot map anew, in the guest", "zipl --secure 1")


def problem(
    name: str,
    level: Level,
    suspects: Iterable[Suspect],
    reasons: Iterable[Reason],
    what: str,
    steps: Iterable[Step],
    details: Iterable[str] = (),
) -> Problem:
    """A problem of some components."""
    those = tuple(suspects)
    return Problem(
        name,
        level,
        tuple(suspect.title for suspect in those),
        tuple(suspect.component.position for suspect in those),
        tuple(reasons),
        what,
        tuple(details),
        tuple(steps),
    )


def suspect_of(component: ComponentEvidence, title: str, reported: ComponentReport, judged: Judged | None) -> Suspect:
    """A component with what the boot side says of it and what its last bytes tell."""
    tail = look_behind(component.tail, component.signature)
    return Suspect(component, title, reported.signed, reported.verified, tail, judged)
