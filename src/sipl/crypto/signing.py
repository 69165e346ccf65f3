"""Keys, certificates and signatures for authors (docs/formats/signatures.md).

Signatures have the profile of Linux's sign-file: detached, no certificates, no signed attributes, the signer named by
issuer and serial number. So what is signed is the payload alone, and a signature that a key made elsewhere can be put
into its PKCS#7 later (`enclose`). Nothing here is needed to verify.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

from sipl.crypto.algorithms import DIGEST_OIDS, RSA_ENCRYPTION, SIGNATURES, KeyKind, digest_title
from sipl.crypto.der import (
    CONTEXT_CONSTRUCTED,
    NULL,
    OCTET_STRING,
    OID,
    SEQUENCE,
    encode,
    encode_integer,
    encode_set_of,
    oid,
)
from sipl.crypto.keys import prehashed
from sipl.crypto.pkcs7 import DATA, SIGNED_DATA
from sipl.errors import SiplError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

    from sipl.crypto.certificate import Certificate

    PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey

KEY_KINDS: Final = ("rsa2048", "rsa3072", "rsa4096", "p256", "p521")
SIGNING_DIGESTS: Final = tuple(DIGEST_OIDS)

_RSA_EXPONENT: Final = 65537


class SigningError(SiplError):
    """A key cannot be read, or cannot sign for the certificate."""


class KeyEncrypted(SigningError):
    """The private key is encrypted, and no password was given."""


@runtime_checkable
class HeldKey(Protocol):
    """A private key that something else holds and uses, such as a token."""

    @property
    def kind(self) -> KeyKind:
        """What it computes with."""

    def sign_digest(self, digest: str, hashed: bytes) -> bytes:
        """Sign a digest of the kind `digest` (as in hashlib); the result is as a PKCS#7 holds it."""


def generate_key(kind: str) -> PrivateKey:
    """A new private key; `kind` is one of `KEY_KINDS`.

    Raises:
        UsageError: it is none of them.
    """
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    makers: dict[str, Callable[[], PrivateKey]] = {
        "rsa2048": lambda: rsa.generate_private_key(_RSA_EXPONENT, 2048),
        "rsa3072": lambda: rsa.generate_private_key(_RSA_EXPONENT, 3072),
        "rsa4096": lambda: rsa.generate_private_key(_RSA_EXPONENT, 4096),
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
    }
    if kind not in makers:
        raise UsageError("", f"no keys of the kind {kind} are made", f"use one of {', '.join(KEY_KINDS)}")
    return makers[kind]()


def key_pem(key: PrivateKey, password: bytes | None = None) -> bytes:
    """The private key as PEM (PKCS#8), encrypted if there is a password.

    Raises:
        SigningError: the password is empty, or too long for the library.
    """
    from cryptography.hazmat.primitives import serialization

    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    try:
        if password is not None:
            encryption = serialization.BestAvailableEncryption(password)
        return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    except ValueError as error:
        raise SigningError("private key", f"it cannot be encrypted: {error}", "choose another passphrase") from None


def load_key(pem: bytes, password: bytes | None = None) -> PrivateKey:
    """The private key in a PEM file.

    Raises:
        KeyEncrypted: it needs a password.
        SigningError: there is none, the password is wrong, or no accepted signature is made with it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

    try:
        key = serialization.load_pem_private_key(pem, password)
    except TypeError:
        if password is None:
            raise KeyEncrypted("private key", "it is encrypted") from None
        raise SigningError("private key", "it is not encrypted, but a password was given") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise SigningError("private key", f"it cannot be read: {error}") from None
    if isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey):
        return key
    raise SigningError("private key", "it is neither RSA nor elliptic curve nor DSA")


def self_signed(
    key: PrivateKey,
    common_name: str,
    not_before: int,
    not_after: int,
    key_usage_digital_signature: bool = True,
) -> bytes:
    """PEM of a certificate for `key`, signed by itself; times are seconds since 1970, both inclusive.

    Without `key_usage_digital_signature` there is no KeyUsage extension.

    Raises:
        SigningError: the name or the times cannot be in a certificate.
    """
    from datetime import datetime, timedelta

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.x509.oid import NameOID

    epoch = datetime(1970, 1, 1)
    long_curve = hasattr(key, "curve") and key.key_size > 384
    digest = hashes.SHA512() if long_curve else hashes.SHA256()
    try:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(epoch + timedelta(seconds=not_before))
            .not_valid_after(epoch + timedelta(seconds=not_after))
        )
        if key_usage_digital_signature:
            usage = x509.KeyUsage(
                digital_signature=True,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=False,
                crl_sign=False,
                encipher_only=False,
                decipher_only=False,
            )
            builder = builder.add_extension(usage, critical=True)
        return builder.sign(key, digest).public_bytes(serialization.Encoding.PEM)
    except (ValueError, OverflowError) as error:
        raise SigningError("certificate", f"it cannot be made: {error}") from None


def check_key(key: PrivateKey | HeldKey, certificate: Certificate) -> None:
    """The key must be that of the certificate, as far as it shows: of a key that is held elsewhere only the kind does.

    Raises:
        SigningError: it is another one.
    """
    if isinstance(key, HeldKey):
        mine, other = certificate.public_key().kind, key.kind
        if mine is not other:
            raise SigningError("private key", f"it is {other}, that of the certificate {certificate.subject} is {mine}")
        return
    from cryptography.hazmat.primitives import serialization

    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if spki != certificate.spki:
        raise SigningError("private key", f"it is not the key of the certificate {certificate.subject}")


def sign_detached(
    data: bytes | bytearray | memoryview,
    key: PrivateKey | HeldKey,
    certificate: Certificate,
    digest: str = "sha256",
) -> bytes:
    """PKCS#7 in DER with one detached signature over `data`; for RSA byte for byte what `openssl cms -sign` makes.

    Raises:
        UsageError: `digest` is none of `SIGNING_DIGESTS`.
        SigningError: the key is not that of the certificate, or the two and the digest do not go together.
    """
    hashed = digest_of(data, digest)
    check_key(key, certificate)
    signature = key.sign_digest(digest, hashed) if isinstance(key, HeldKey) else _sign(key, digest, hashed)
    return enclose(signature, certificate, digest)


def digest_of(data: bytes | bytearray | memoryview, digest: str) -> bytes:
    """The digest that is signed.

    Raises:
        UsageError: `digest` is none of `SIGNING_DIGESTS`.
    """
    if digest not in DIGEST_OIDS:
        raise UsageError(
            "", f"no signatures with the digest {digest} are made", f"use one of {', '.join(SIGNING_DIGESTS)}"
        )
    # What an old digest is worth is said where a signature is judged; the demo of its weakness needs it, too.
    return hashlib.new(digest, data, usedforsecurity=False).digest()


def enclose(signature: bytes, certificate: Certificate, digest: str) -> bytes:
    """PKCS#7 in DER around a signature that the certificate's key made over data with this digest.

    `signature` is the PKCS#1 block of an RSA key, or the DER of an ECDSA or DSA signature. It is not verified.

    Raises:
        SigningError: no signature of such a key is accepted.
    """
    kind = certificate.public_key().kind
    if kind is KeyKind.OTHER:
        raise SigningError("certificate", f"no signature of its key ({certificate.key_name}) is accepted")
    digest_algorithm = encode(SEQUENCE, encode(OID, oid(DIGEST_OIDS[digest])))
    signer = encode(
        SEQUENCE,
        encode_integer(1),
        encode(SEQUENCE, certificate.issuer_der, encode_integer(certificate.serial)),
        digest_algorithm,
        _signature_algorithm(kind, digest),
        encode(OCTET_STRING, signature),
    )
    signed_data = encode(
        SEQUENCE,
        encode_integer(1),
        encode_set_of([digest_algorithm]),
        encode(SEQUENCE, encode(OID, DATA)),
        encode_set_of([signer]),
    )
    return encode(SEQUENCE, encode(OID, SIGNED_DATA), encode(CONTEXT_CONSTRUCTED, signed_data))


def _sign(key: PrivateKey, digest: str, hashed: bytes) -> bytes:
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

    algorithm = prehashed(digest)
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            return key.sign(hashed, padding.PKCS1v15(), algorithm)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return key.sign(hashed, ec.ECDSA(algorithm))
        return key.sign(hashed, algorithm)
    except ValueError as error:
        raise SigningError("private key", f"it cannot sign with {digest_title(digest)}: {error}") from None


def _signature_algorithm(kind: KeyKind, digest: str) -> bytes:
    """AlgorithmIdentifier as OpenSSL writes it: RSA by its key's identifier, the others together with the digest."""
    if kind is KeyKind.RSA:
        return encode(SEQUENCE, encode(OID, RSA_ENCRYPTION), encode(NULL))
    identifier = next(found for found, known in SIGNATURES.items() if known == (kind, digest))
    return encode(SEQUENCE, encode(OID, oid(identifier)))
