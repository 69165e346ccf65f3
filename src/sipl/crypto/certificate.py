"""X.509 certificates: the fields that the machine uses, read strictly (docs/formats/signatures.md).

The certificate's own signature, chains, authorities, extended key usage and unknown critical extensions do not
matter: a certificate of the store is trusted because the machine's owner put it there.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from sipl.crypto.der import CONTEXT, CONTEXT_CONSTRUCTED, OCTET_STRING, SEQUENCE, Cursor, DerError, oid
from sipl.crypto.keys import EcKey, check_spki, public_key
from sipl.crypto.names import check_name, name_text, read_serial
from sipl.crypto.pem import certificate_der
from sipl.errors import SiplError

if TYPE_CHECKING:
    from sipl.crypto.keys import PublicKey

KEY_TYPE_SELF_DESCRIBING: Final = 0
KEY_TYPE_P521: Final = 1

_KEY_USAGE: Final = oid("2.5.29.15")
_ALTERNATIVE_NAMES: Final = frozenset({oid("2.5.29.17"), oid("2.5.29.18")})  # of the subject, of the issuer
_TAG_CLASS: Final = 0xC0
_DIGITAL_SIGNATURE: Final = 0x80  # bit 0 of KeyUsage
_V1: Final = 0
_V3: Final = 2
_SECONDS_PER_DAY: Final = 86400


class CertificateError(SiplError, ValueError):
    """The certificate cannot be read, or something cannot be made of it."""


class CertificateNotValid(CertificateError):
    """The time is outside the validity period: after it where `expired`, else before it."""

    def __init__(self, why: str, *, expired: bool) -> None:
        self.expired = expired
        super().__init__("", why)


class KeyUsageForbids(CertificateError):
    """There is a KeyUsage extension, and it does not allow digital signatures."""


class Certificate:
    """One certificate, read once; times are seconds since 1970 in UTC, names and keys are DER as it lies there."""

    __slots__ = (
        "_fingerprint",
        "_key",
        "_key_usage",
        "der",
        "issuer_der",
        "not_after",
        "not_before",
        "serial",
        "spki",
        "subject_der",
    )

    def __init__(self, der: bytes) -> None:
        self.der = der
        self._key: PublicKey | None = None
        self._fingerprint: bytes | None = None
        self._key_usage: bytes | None = None
        try:
            self._read()
        except DerError as error:
            raise CertificateError("", f"the certificate has {error.why}") from None

    @classmethod
    def from_der(cls, der: bytes) -> Certificate:
        """The certificate in exactly these bytes.

        Raises:
            CertificateError: they are no certificate in strict DER.
        """
        return cls(bytes(der))

    @classmethod
    def from_pem(cls, data: bytes) -> Certificate:
        """The first certificate of a PEM file.

        Raises:
            PemError: there is none (see `sipl.crypto.pem`).
            CertificateError: the block holds no certificate in strict DER.
        """
        return cls(certificate_der(data))

    def _read(self) -> None:
        outer = Cursor(self.der)
        whole = outer.within(SEQUENCE)
        outer.finish()
        body = whole.within(SEQUENCE)
        algorithm_at = whole.offset
        algorithm = whole.element(SEQUENCE)
        whole.octet_aligned_bits()
        whole.finish()

        version = _V1
        if body.peek() == CONTEXT_CONSTRUCTED:
            version = _read_version(body.within(CONTEXT_CONSTRUCTED))
        self.serial = read_serial(body)
        if body.element(SEQUENCE) != algorithm:
            raise DerError(algorithm_at, "the signature algorithms inside and outside differ")
        self.issuer_der = check_name(body)
        validity = body.within(SEQUENCE)
        self.not_before = validity.time()
        self.not_after = validity.time()
        validity.finish()
        self.subject_der = check_name(body)
        self.spki = check_spki(body)
        for number in (1, 2):  # unique identifiers of issuer and subject
            if version != _V1 and body.peek() == CONTEXT + number:
                body.skip()
        if version == _V3 and body.peek() == CONTEXT_CONSTRUCTED + 3:
            self._read_extensions(body.within(CONTEXT_CONSTRUCTED + 3))
        body.finish()

    def _read_extensions(self, wrapped: Cursor) -> None:
        extensions = wrapped.within(SEQUENCE)
        wrapped.finish()
        seen: set[bytes] = set()
        while extensions.peek() >= 0:
            at = extensions.offset
            extension = extensions.within(SEQUENCE)
            identifier = extension.oid()
            if identifier in seen:
                raise DerError(at, "an extension is there twice")
            seen.add(identifier)
            if extension.peek() != OCTET_STRING:
                extension.boolean()
            value = extension.octets()
            extension.finish()
            if identifier == _KEY_USAGE:
                self._key_usage = value
            elif identifier in _ALTERNATIVE_NAMES:
                _check_general_names(Cursor(value))

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 over the DER."""
        if self._fingerprint is None:
            self._fingerprint = hashlib.sha256(self.der).digest()
        return self._fingerprint

    @property
    def subject(self) -> str:
        """The subject's name as text that is safe to show."""
        return name_text(self.subject_der)

    @property
    def issuer(self) -> str:
        """The issuer's name as text that is safe to show."""
        return name_text(self.issuer_der)

    def public_key(self) -> PublicKey:
        """The key; one that sipl does not know is there too and has a `fault`."""
        if self._key is None:
            self._key = public_key(self.spki)
        return self._key

    @property
    def key_name(self) -> str:
        """`RSA-2048`, `P-521`, `DSA-2048`, `Ed25519`; the dotted object identifier where the kind is not known."""
        return self.public_key().name

    def key_id(self) -> bytes:
        """SHA-256 over the SubjectPublicKeyInfo, 32 bytes.

        Raises:
            CertificateError: the reference cannot read the key: an unknown kind, another curve than the NIST ones,
                a compressed point, a key that is not in DER.
        """
        fault = self.public_key().fault
        if fault is not None:
            raise CertificateError("", f"there is no key identifier for {self.key_name}: {fault}")
        return hashlib.sha256(self.spki).digest()

    def key_type(self) -> int:
        """Key type of the certificate store: 1 for an elliptic-curve key on P-521, else 0."""
        key = self.public_key()
        if isinstance(key, EcKey) and key.name == "P-521" and key.fault is None:
            return KEY_TYPE_P521
        return KEY_TYPE_SELF_DESCRIBING

    def check_time(self, now: int) -> None:
        """The time `now` must lie in the validity period, whose first and last second belong to it.

        Raises:
            CertificateNotValid: it is after the end (checked first) or before the start.
        """
        if self.not_after < now:
            raise CertificateNotValid(f"expired at {utc_text(self.not_after)}", expired=True)
        if self.not_before > now:
            raise CertificateNotValid(f"not valid before {utc_text(self.not_before)}", expired=False)

    def check_key_usage(self) -> None:
        """A KeyUsage extension, where there is one, must contain digitalSignature.

        Raises:
            KeyUsageForbids: it does not, or is not in DER.
        """
        if self._key_usage is None:
            return
        cursor = Cursor(self._key_usage)
        try:
            bits, _ = cursor.bit_string()
            cursor.finish()
        except DerError as error:
            raise KeyUsageForbids("", f"the key usage has {error.why}") from None
        if not bits or not bits[0] & _DIGITAL_SIGNATURE:
            raise KeyUsageForbids("", "the key usage does not contain digitalSignature")


def utc_text(seconds: int) -> str:
    """A time of a certificate, seconds since 1970, as `2026-11-23T02:00:00Z`; years 1 to 9999."""
    from datetime import datetime, timedelta

    days, seconds = divmod(seconds, _SECONDS_PER_DAY)
    moment = datetime(1970, 1, 1) + timedelta(days=days, seconds=seconds)
    return f"{moment.isoformat()}Z"


def _check_general_names(value: Cursor) -> None:
    """The reference looks into these names when it reads a certificate, and refuses what is no list of names."""
    at = value.offset
    names = value.within(SEQUENCE)
    value.finish()
    if names.peek() < 0:
        raise DerError(at, "the list of alternative names is empty")
    while names.peek() >= 0:
        at = names.offset
        if names.skip() & _TAG_CLASS != CONTEXT:
            raise DerError(at, "this is no alternative name")


def _read_version(cursor: Cursor) -> int:
    at = cursor.offset
    version = cursor.integer()
    cursor.finish()
    if not _V1 <= version <= _V3:
        raise DerError(at, "the version is none of 1, 2 and 3")
    return version
