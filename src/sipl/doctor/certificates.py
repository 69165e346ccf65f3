"""A signature that no certificate of the store verifies: whose it is, and what the store has instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.doctor.at_fault import follows
from sipl.doctor.case import problem
from sipl.doctor.model import Rank, Step
from sipl.doctor.signer import State
from sipl.doctor.tail import Behind
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.doctor.case import Case, Suspect
    from sipl.doctor.model import Problem
    from sipl.doctor.signer import Judged


def find(case: Case) -> Iterator[Problem]:
    """One problem per component; without any certificate, the one that the machine stops at."""
    waiting = [(s, s.judged) for s in case.suspects if s.judged is not None and not s.verified]
    if case.report.reason is Reason.NO_CERTIFICATE:
        yield _no_certificate(case, waiting)
    again = "; ".join(step.text for step in case.sign(suspect for suspect, _ in waiting))
    for suspect, judged in waiting:
        found = _of_one(case, suspect, judged, again)
        if found is not None:
            yield found


def _no_certificate(case: Case, waiting: list[tuple[Suspect, Judged]]) -> Problem:
    signers = dict.fromkeys(judged.signer for _, judged in waiting if judged.signer)
    what = "name the certificate of that signer, if you trust it" if signers else "name the certificate of your key"
    return problem(
        "no-certificate",
        Level.ERROR,
        [suspect for suspect, judged in waiting if judged.signer],
        (Reason.NO_CERTIFICATE,),
        "the machine has no certificate, so that nothing can be verified",
        (Step(Rank.TRUST, what, _NAME_IT),),
        (f"signed by {signer}" for signer in signers),
    )


def _of_one(case: Case, suspect: Suspect, judged: Judged, again: str) -> Problem | None:
    reasons = follows(suspect, Reason.SIGNATURE_NOT_VERIFIED)
    if judged.state is State.UNUSABLE:
        name, what, steps = "signature-unusable", f"the signature is of no use: {judged.why}", case.sign([suspect])
        reasons = (*reasons, Reason.SIGNATURE_TOO_LARGE)
    elif judged.state is State.UNKNOWN_SIGNER and case.certificates and suspect.tail.behind is Behind.NOTHING:
        name = "signer-unknown"
        what = f"signed by {judged.signer}, and no certificate of the store is that signer's"
        steps = (Step(Rank.TRUST, "name the certificate of that signer, if you trust it", _NAME_IT, again),)
    elif judged.by is not None and judged.state in _OF_THE_CERTIFICATE:
        name, remedy = _OF_THE_CERTIFICATE[judged.state]
        what = f"signed by {judged.signer}, whose certificate {judged.by.name} does not count: {judged.why}"
        steps = (Step(Rank.TRUST, remedy, instead=again),)
    else:
        return None
    details = judged.tried if judged.by is None else ()
    return problem(name, Level.ERROR, [suspect], reasons, what, steps, details)


_NAME_IT: Final = "--boot-certs FILE.pem"
_OF_THE_CERTIFICATE: Final = {
    State.EXPIRED: (
        "certificate-expired",
        "name a certificate that was renewed for the same key: the signatures stay good",
    ),
    State.NOT_YET_VALID: (
        "certificate-not-yet-valid",
        "check the clock, or --at; else name a certificate of the same key that is valid now",
    ),
    State.KEY_USAGE: (
        "certificate-key-usage",
        "name a certificate of the same key whose key usage has digitalSignature, or none at all",
    ),
    State.KEY_UNSUPPORTED: (
        "certificate-key",
        "use another key: RSA with 2048 bits or more, or P-521",
    ),
}
