"""Which digests and signature algorithms count, and what their object identifiers are (docs/formats/signatures.md).

Accepted is what the reference was measured to accept; the names of others are here so that a refusal can name them.
Identifiers that every certificate is searched for are content bytes, the others dotted text: encoding them all would
take time at every start.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from sipl.crypto.der import oid


class KeyKind(StrEnum):
    """What a key computes with."""

    RSA = "RSA"
    EC = "EC"
    DSA = "DSA"
    OTHER = "other"  # can be in a certificate, but no accepted signature can be made with it


RSA_ENCRYPTION: Final = oid("1.2.840.113549.1.1.1")
RSA_PSS: Final = oid("1.2.840.113549.1.1.10")
EC_PUBLIC_KEY: Final = oid("1.2.840.10045.2.1")
DSA_KEY: Final = oid("1.2.840.10040.4.1")
ED25519: Final = oid("1.3.101.112")
ED448: Final = oid("1.3.101.113")

# Names are those of hashlib.
DIGESTS: Final[dict[str, str]] = {
    "1.3.14.3.2.26": "sha1",
    "2.16.840.1.101.3.4.2.4": "sha224",
    "2.16.840.1.101.3.4.2.1": "sha256",
    "2.16.840.1.101.3.4.2.2": "sha384",
    "2.16.840.1.101.3.4.2.3": "sha512",
    "2.16.840.1.101.3.4.2.8": "sha3_256",
}
DIGEST_OIDS: Final = {name: identifier for identifier, name in DIGESTS.items()}

# The kind of key, and the digest where the identifier names one; without it the digestAlgorithm alone says it.
SIGNATURES: Final[dict[str, tuple[KeyKind, str | None]]] = {
    "1.2.840.113549.1.1.1": (KeyKind.RSA, None),
    "1.2.840.113549.1.1.5": (KeyKind.RSA, "sha1"),
    "1.2.840.113549.1.1.14": (KeyKind.RSA, "sha224"),
    "1.2.840.113549.1.1.11": (KeyKind.RSA, "sha256"),
    "1.2.840.113549.1.1.12": (KeyKind.RSA, "sha384"),
    "1.2.840.113549.1.1.13": (KeyKind.RSA, "sha512"),
    "2.16.840.1.101.3.4.3.14": (KeyKind.RSA, "sha3_256"),
    "1.2.840.10045.4.1": (KeyKind.EC, "sha1"),
    "1.2.840.10045.4.3.1": (KeyKind.EC, "sha224"),
    "1.2.840.10045.4.3.2": (KeyKind.EC, "sha256"),
    "1.2.840.10045.4.3.3": (KeyKind.EC, "sha384"),
    "1.2.840.10045.4.3.4": (KeyKind.EC, "sha512"),
    "2.16.840.1.101.3.4.3.10": (KeyKind.EC, "sha3_256"),
    "1.2.840.10040.4.3": (KeyKind.DSA, "sha1"),
    "2.16.840.1.101.3.4.3.1": (KeyKind.DSA, "sha224"),
    "2.16.840.1.101.3.4.3.2": (KeyKind.DSA, "sha256"),
    "2.16.840.1.101.3.4.3.3": (KeyKind.DSA, "sha384"),
    "2.16.840.1.101.3.4.3.4": (KeyKind.DSA, "sha512"),
    "2.16.840.1.101.3.4.3.6": (KeyKind.DSA, "sha3_256"),
}

_REFUSED_NAMES: Final = {
    "1.2.840.113549.2.5": "MD5",
    "1.3.36.3.2.1": "RIPEMD-160",
    "2.16.840.1.101.3.4.2.5": "SHA-512/224",
    "2.16.840.1.101.3.4.2.6": "SHA-512/256",
    "2.16.840.1.101.3.4.2.7": "SHA3-224",
    "2.16.840.1.101.3.4.2.9": "SHA3-384",
    "2.16.840.1.101.3.4.2.10": "SHA3-512",
    "1.2.840.113549.1.1.4": "RSA with MD5",
    "1.2.840.113549.1.1.10": "RSASSA-PSS",
    "1.3.101.112": "Ed25519",
    "1.3.101.113": "Ed448",
}


def name_of(identifier: str) -> str:
    """A digest or signature algorithm as people call it, accepted or not; the identifier itself where unknown."""
    digest = DIGESTS.get(identifier)
    if digest is not None:
        return digest_title(digest)
    return _REFUSED_NAMES.get(identifier, identifier)


def digest_title(name: str) -> str:
    """`SHA-256` for `sha256`, `SHA3-256` for `sha3_256`."""
    return name.replace("sha3_", "SHA3-").replace("sha", "SHA-")
