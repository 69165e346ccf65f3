"""Keys, certificates and signatures for authors (docs/formats/signatures.md).

Signatures have the profile of Linux's sign-file: detached, no certificates, no signed attributes, the signer named by
issuer and serial number. Nothing here is needed to verify.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

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


def key_pem(key: PrivateKey) -> bytes:
    """The private key as PEM (PKCS#8), not encrypted."""
    from cryptography.hazmat.primitives import serialization

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_key(pem: bytes, password: bytes | None = None) -> PrivateKey:
    """The private key in a PEM file.

    Raises:
        SigningError: there is none, the password is missing or wrong, or no accepted signature is made with it.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa

    try:
        key = serialization.load_pem_private_key(pem, password)
    except TypeError:
        why = "it is encrypted" if password is None else "it is not encrypted, but a password was given"
        raise SigningError("private key", why) from None
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


def sign_detached(
    data: bytes | bytearray | memoryview, key: PrivateKey, certificate: Certificate, digest: str = "sha256"
) -> bytes:
    """PKCS#7 in DER with one detached signature over `data`; for RSA byte for byte what `openssl cms -sign` makes.

    Raises:
        UsageError: `digest` is none of `SIGNING_DIGESTS`.
        SigningError: the key is not that of the certificate, or the two and the digest do not go together.
    """
    from cryptography.hazmat.primitives import serialization

    if digest not in DIGEST_OIDS:
        raise UsageError(
            "", f"no signatures with the digest {digest} are made", f"use one of {', '.join(SIGNING_DIGESTS)}"
        )
    spki = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    if spki != certificate.spki:
        raise SigningError("private key", f"it is not the key of the certificate {certificate.subject}")
    hashed = hashlib.new(digest, data, usedforsecurity=False).digest()
    digest_algorithm = encode(SEQUENCE, encode(OID, oid(DIGEST_OIDS[digest])))
    kind, signature = _sign(key, digest, hashed)
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


def _sign(key: PrivateKey, digest: str, hashed: bytes) -> tuple[KeyKind, bytes]:
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, padding, rsa

    algorithm = prehashed(digest)
    try:
        if isinstance(key, rsa.RSAPrivateKey):
            return KeyKind.RSA, key.sign(hashed, padding.PKCS1v15(), algorithm)
        if isinstance(key, ec.EllipticCurvePrivateKey):
            return KeyKind.EC, key.sign(hashed, ec.ECDSA(algorithm))
        if isinstance(key, dsa.DSAPrivateKey):
            return KeyKind.DSA, key.sign(hashed, algorithm)
    except ValueError as error:
        raise SigningError("private key", f"it cannot sign with {digest_title(digest)}: {error}") from None
    raise SigningError("private key", "it is neither RSA nor elliptic curve nor DSA")


def _signature_algorithm(kind: KeyKind, digest: str) -> bytes:
    """AlgorithmIdentifier as OpenSSL writes it: RSA by its key's identifier, the others together with the digest."""
    if kind is KeyKind.RSA:
        return encode(SEQUENCE, encode(OID, RSA_ENCRYPTION), encode(NULL))
    identifier = next(found for found, known in SIGNATURES.items() if known == (kind, digest))
    return encode(SEQUENCE, encode(OID, oid(identifier)))
