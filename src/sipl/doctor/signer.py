"""Who signed a component, and why no certificate of the store says so (docs/formats/signatures.md)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from sipl.crypto.verify import WEAK_DIGESTS, RejectionKind, SignatureCheck, SignatureRejected
from sipl.layout.diag508 import MAX_SIGNATURE_LENGTH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sipl.crypto.certificate import Certificate


class State(Enum):
    """What the certificates make of a signature."""

    GOOD = "good"
    UNUSABLE = "unusable"  # malformed, or of a form that no machine takes
    OTHER_BYTES = "other bytes"
    EXPIRED = "expired"
    NOT_YET_VALID = "not yet valid"
    KEY_USAGE = "key usage"
    KEY_UNSUPPORTED = "key unsupported"
    UNKNOWN_SIGNER = "unknown signer"


class Trusted(NamedTuple):
    """A certificate of the store; `name` is its file."""

    name: str
    certificate: Certificate


class Judged(NamedTuple):
    """A signature held against every certificate.

    `signer` is whom it names. `by` is the certificate whose key made it, or that it names; None without one. `tried`
    has a line per certificate that did not make it.
    """

    state: State
    signer: str
    why: str
    by: Trusted | None
    tried: tuple[str, ...]
    weak: bool


_STATES = {
    RejectionKind.KEY_USAGE: State.KEY_USAGE,
    RejectionKind.EXPIRED: State.EXPIRED,
    RejectionKind.NOT_YET_VALID: State.NOT_YET_VALID,
    RejectionKind.DIGEST_MISMATCH: State.OTHER_BYTES,
    RejectionKind.BAD_SIGNATURE: State.OTHER_BYTES,
}


def judge_signature(
    signature: bytes, digest: Callable[[str], bytes], certificates: Sequence[Trusted], now: int
) -> Judged:
    """Hold a signature in DER against every certificate; `digest` gives that of the component by hashlib's name.

    Raises:
        TooMuchToRead: from `digest`.
    """
    try:
        check = SignatureCheck(b"", signature)
    except SignatureRejected as error:
        return Judged(State.UNUSABLE, "", error.why, None, (), False)
    check.digests[check.digest_name] = digest(check.digest_name)
    check.look_at_named(trusted.certificate for trusted in certificates)
    signer = check.signed_data.signer.text()
    weak = check.digest_name in WEAK_DIGESTS
    refusals: dict[State, tuple[Trusted, str]] = {}
    tried = []
    for trusted in certificates:
        try:
            check.verify(trusted.certificate, now)
        except SignatureRejected as error:
            state = _STATES.get(error.kind, State.UNKNOWN_SIGNER)
            if error.kind is RejectionKind.KEY_UNSUPPORTED and _names(check, trusted.certificate):
                state = State.KEY_UNSUPPORTED
            refusals.setdefault(state, (trusted, error.why))
            serial = f"{trusted.certificate.serial:#x}"
            tried.append(f"tried {trusted.name}: {trusted.certificate.subject}, serial number {serial}: {error.why}")
        else:
            return Judged(State.GOOD, signer, "", trusted, (), weak)
    for state in (*_STATES.values(), State.KEY_UNSUPPORTED):
        if state in refusals:
            by, why = refusals[state]
            return Judged(state, signer, why, by, tuple(tried), weak)
    return Judged(State.UNKNOWN_SIGNER, signer, "", None, tuple(tried), weak)


def _names(check: SignatureCheck, certificate: Certificate) -> bool:
    signer = check.signed_data.signer
    return (signer.issuer_der, signer.serial) == (certificate.issuer_der, certificate.serial)


def not_loaded() -> Judged:
    """What there is to say of a signature that the boot side did not load."""
    why = f"it has more than the {MAX_SIGNATURE_LENGTH} bytes that a machine takes"
    return Judged(State.UNUSABLE, "", why, None, (), False)
