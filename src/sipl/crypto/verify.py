"""Whether a certificate's key signed a component (docs/formats/signatures.md).

A signature is read once, each digest of the component is computed once, however many certificates are tried.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from sipl.crypto.algorithms import DIGESTS, SIGNATURES, KeyKind, digest_title, name_of
from sipl.crypto.certificate import CertificateNotValid, KeyUsageForbids
from sipl.crypto.der import DerError, dotted
from sipl.crypto.keys import BadSignature, KeyUnsupported, a_key
from sipl.crypto.pkcs7 import SignedData
from sipl.errors import SiplError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sipl.crypto.certificate import Certificate
    from sipl.crypto.keys import PublicKey

# What gives the warning `weak-signature`: NIST SP 800-131A allows neither for new signatures, FIPS 186-5 no DSA.
WEAK_DIGESTS: Final = frozenset({"sha1"})
WEAK_BELOW_RSA_BITS: Final = 2048


class RejectionKind(StrEnum):
    """Why a signature is not accepted."""

    MALFORMED = "malformed"  # no strict DER, no signed data, no signer
    DIGEST = "digest"  # the digest is not accepted, or is named in two ways
    ALGORITHM = "algorithm"  # the signature algorithm is not accepted
    DIGEST_MISMATCH = "digest-mismatch"  # the signed attributes belong to other bytes
    NO_KEY_MATCH = "no-key-match"  # the certificate's key did not make the signature
    BAD_SIGNATURE = "bad-signature"  # the same, although the signature names this very certificate
    KEY_UNSUPPORTED = "key-unsupported"  # no signature of this key is accepted
    EXPIRED = "expired"
    NOT_YET_VALID = "not-yet-valid"
    KEY_USAGE = "key-usage"


class SignatureRejected(SiplError):
    """The signature does not make the component a verified one."""

    def __init__(self, kind: RejectionKind, why: str) -> None:
        self.kind = kind
        super().__init__("", why)


class SignatureCheck:
    """A component, its signature, and the answer for one certificate after the other.

    Raises:
        SignatureRejected: no certificate can help: the signature is malformed, or its algorithms are not accepted.
    """

    def __init__(self, component: bytes | bytearray | memoryview, signature: bytes) -> None:
        self._component = component
        try:
            self.signed_data = SignedData.parse(bytes(signature))
        except DerError as error:
            raise SignatureRejected(RejectionKind.MALFORMED, error.why) from None
        self._signer = self.signed_data.signer
        self.digest_name, self._key_kind = self._accepted_algorithms()
        attributes = self._signer.attributes
        if attributes is not None and attributes.content_type != self.signed_data.content_type:
            raise SignatureRejected(RejectionKind.MALFORMED, "the signed content type is not that of the content")
        self.digests: dict[str, bytes] = {}  # of the component, by hashlib's name, as far as computed
        self._signed_digest: bytes | None = None
        self._answers: dict[bytes, BadSignature | KeyUnsupported | None] = {}  # by public key
        self._made_with: bytes | None = None  # the public key, as soon as it is known

    def _accepted_algorithms(self) -> tuple[str, KeyKind]:
        """Digest and kind of key of the signature; what is on no list is not accepted."""
        digest, algorithm = self._signer.digest, self._signer.algorithm
        digest_text, algorithm_text = dotted(digest.identifier), dotted(algorithm.identifier)
        if digest_text not in DIGESTS or not digest.plain:
            raise SignatureRejected(RejectionKind.DIGEST, f"the digest {name_of(digest_text)} is not accepted")
        if algorithm_text not in SIGNATURES or not algorithm.plain:
            raise SignatureRejected(
                RejectionKind.ALGORITHM, f"the signature algorithm {name_of(algorithm_text)} is not accepted"
            )
        digest_name = DIGESTS[digest_text]
        kind, other_digest = SIGNATURES[algorithm_text]
        if other_digest is not None and other_digest != digest_name:
            raise SignatureRejected(
                RejectionKind.DIGEST,
                f"it names two digests, {digest_title(digest_name)} and {digest_title(other_digest)}",
            )
        return digest_name, kind

    def verify(self, certificate: Certificate, now: int) -> None:
        """Return if the certificate's key made the signature over the component, and may have.

        The key comes first, so that a certificate which has nothing to do with the signature does not hide the real
        reason. `now` is in seconds since 1970.

        Raises:
            SignatureRejected: `kind` and `why` say what failed.
        """
        self._check_key(certificate)
        try:
            certificate.check_time(now)
            certificate.check_key_usage()
        except CertificateNotValid as error:
            kind = RejectionKind.EXPIRED if error.expired else RejectionKind.NOT_YET_VALID
            raise SignatureRejected(kind, error.why) from None
        except KeyUsageForbids as error:
            raise SignatureRejected(RejectionKind.KEY_USAGE, error.why) from None

    def look_at_named(self, certificates: Iterable[Certificate]) -> None:
        """Find the key among the certificates that the signature names, so that no other key has to be tried.

        A signature that one key made does not verify with another one, unless somebody made that key for the purpose.
        So what `verify` answers is the same as without this, and a full store costs no more than one certificate.
        """
        for certificate in certificates:
            if self._made_with is None and self._names(certificate):
                with suppress(SignatureRejected):
                    self._check_key(certificate)

    def weaknesses(self, certificate: Certificate) -> list[str]:
        """What is weak about the signature although it verifies with `certificate`; empty where nothing is."""
        found: list[str] = []
        key = certificate.public_key()
        if self.digest_name in WEAK_DIGESTS:
            found.append(f"the digest is {digest_title(self.digest_name)}")
        if key.kind is KeyKind.RSA and key.bits < WEAK_BELOW_RSA_BITS:
            found.append(f"the key is {key.name}, shorter than {WEAK_BELOW_RSA_BITS} bits")
        if key.kind is KeyKind.DSA:
            found.append(f"the key is {key.name}, and DSA is no longer approved for signatures")
        return found

    def digest(self, name: str) -> bytes:
        """Digest of the component, by hashlib's name; computed once."""
        found = self.digests.get(name)
        if found is None:
            # Old digests are not for security here: what they are worth is said by `weaknesses`.
            found = hashlib.new(name, self._component, usedforsecurity=False).digest()
            self.digests[name] = found
        return found

    def _digest_to_sign(self) -> bytes:
        """Digest that the signature is made over: of the component, or of the signed attributes that name it."""
        if self._signed_digest is None:
            digest = self.digest(self.digest_name)
            attributes = self._signer.attributes
            if attributes is not None:
                if attributes.message_digest != digest:
                    raise SignatureRejected(
                        RejectionKind.DIGEST_MISMATCH, "the signed attributes hold the digest of other bytes"
                    )
                digest = hashlib.new(self.digest_name, attributes.encoded, usedforsecurity=False).digest()
            self._signed_digest = digest
        return self._signed_digest

    def _check_key(self, certificate: Certificate) -> None:
        digest = self._digest_to_sign()
        key = certificate.public_key()
        if key.kind is not self._key_kind:
            if key.kind is KeyKind.OTHER:
                raise SignatureRejected(RejectionKind.KEY_UNSUPPORTED, f"no signature of {a_key(key.name)} is accepted")
            raise SignatureRejected(
                RejectionKind.NO_KEY_MATCH, f"it was made with {self._key_kind}, the certificate has {a_key(key.name)}"
            )
        if self._made_with not in (None, certificate.spki):
            raise SignatureRejected(RejectionKind.NO_KEY_MATCH, "it was made with another key")
        # Stores often hold one key many times, in renewed certificates.
        if certificate.spki not in self._answers:
            self._answers[certificate.spki] = self._ask(key, digest)
        answer = self._answers[certificate.spki]
        if isinstance(answer, KeyUnsupported):
            raise SignatureRejected(RejectionKind.KEY_UNSUPPORTED, answer.why)
        if answer is not None and self._names(certificate):
            raise SignatureRejected(
                RejectionKind.BAD_SIGNATURE, "the signature names this certificate, but was made over other bytes"
            )
        if answer is not None:
            raise SignatureRejected(RejectionKind.NO_KEY_MATCH, answer.why)
        self._made_with = certificate.spki

    def _ask(self, key: PublicKey, digest: bytes) -> BadSignature | KeyUnsupported | None:
        """Why the key did not make the signature, or None where it did; only `_check_key` asks."""
        try:
            key.verify(self.digest_name, digest, self._signer.signature)
        except (BadSignature, KeyUnsupported) as error:
            return error.with_traceback(None)
        return None

    def _names(self, certificate: Certificate) -> bool:
        """Does the signature name this certificate? That only helps to explain; anybody can write any name there."""
        signer = self._signer
        return signer.issuer_der == certificate.issuer_der and signer.serial == certificate.serial


# What tells most about a refusal: that the key of a certificate did sign, before "no certificate matches".
_MOST_TELLING: Final = (
    RejectionKind.KEY_USAGE,
    RejectionKind.EXPIRED,
    RejectionKind.NOT_YET_VALID,
    RejectionKind.DIGEST_MISMATCH,
    RejectionKind.BAD_SIGNATURE,
    RejectionKind.KEY_UNSUPPORTED,
)


def find_signer(check: SignatureCheck, certificates: Sequence[Certificate], now: int) -> int:
    """Index of the first certificate with which the signature verifies; `now` is in seconds since 1970.

    Raises:
        SignatureRejected: there is none; of all reasons the one that tells most.
    """
    check.look_at_named(certificates)
    # Texts, not exceptions: their frames would keep the view on the component alive.
    refusals: dict[RejectionKind, str] = {}
    for index, certificate in enumerate(certificates):
        try:
            check.verify(certificate, now)
        except SignatureRejected as error:
            refusals.setdefault(error.kind, error.why)
        else:
            return index
    kind = next((kind for kind in _MOST_TELLING if kind in refusals), RejectionKind.NO_KEY_MATCH)
    raise SignatureRejected(kind, refusals[kind] if kind in _MOST_TELLING else "no certificate of the store matches")
