"""Public keys: what a SubjectPublicKeyInfo holds, and whether a key made a signature (docs/formats/signatures.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sipl.crypto.algorithms import (
    DIGEST_OIDS,
    DSA_KEY,
    EC_PUBLIC_KEY,
    ED448,
    ED25519,
    RSA_ENCRYPTION,
    RSA_PSS,
    KeyKind,
    digest_title,
)
from sipl.crypto.der import NULL, OCTET_STRING, OID, SEQUENCE, Cursor, DerError, dotted, encode, oid
from sipl.errors import SiplError

if TYPE_CHECKING:
    from collections.abc import Callable

    from cryptography.hazmat.primitives.asymmetric.dsa import DSAPublicKey
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

# The shortest key that the list of accepted signatures names; keys of 512 bits are factored in hours.
MIN_RSA_BITS: Final = 768
# A certificate that fits into the machine's store (8000 bytes) could carry a modulus of 60000 bits. OpenSSL has the
# same limit; a verification at it takes about 50 ms.
MAX_RSA_BITS: Final = 16384
# The exponent sets the number of multiplications. OpenSSL has this limit for long keys; 17 bits (65537) are usual.
MAX_RSA_EXPONENT_BITS: Final = 64

_PKCS1_MIN_PADDING: Final = 8  # octets FF (RFC 8017, 9.2)
_UNCOMPRESSED: Final = 0x04  # first octet of an elliptic-curve point with both coordinates
_EDWARDS_SIZES: Final = {ED25519: ("Ed25519", 32), ED448: ("Ed448", 57)}


class _Curve:
    """A named curve: what people call it, octets of a coordinate, and its class in `cryptography`."""

    __slots__ = ("octets", "provider", "title")

    def __init__(self, title: str, octets: int, provider: str | None) -> None:
        self.title = title
        self.octets = octets
        self.provider = provider  # None: a key identifier can be made, but no signature is accepted


_CURVES: Final = {
    oid("1.2.840.10045.3.1.1"): _Curve("P-192", 24, None),
    oid("1.3.132.0.33"): _Curve("P-224", 28, "SECP224R1"),
    oid("1.2.840.10045.3.1.7"): _Curve("P-256", 32, "SECP256R1"),
    oid("1.3.132.0.34"): _Curve("P-384", 48, "SECP384R1"),
    oid("1.3.132.0.35"): _Curve("P-521", 66, "SECP521R1"),
}
_REFUSED_CURVES: Final = {
    "1.3.132.0.10": "secp256k1",
    "1.3.36.3.3.2.8.1.1.7": "brainpoolP256r1",
    "1.3.36.3.3.2.8.1.1.11": "brainpoolP384r1",
    "1.3.36.3.3.2.8.1.1.13": "brainpoolP512r1",
}


class KeyUnsupported(SiplError):
    """No accepted signature can be made with this key."""


class BadSignature(SiplError):
    """The key did not make this signature over this digest."""


class PublicKey:
    """A public key that says what it is; only the kinds below verify signatures.

    `name` is for people (`RSA-2048`, `P-521`). `fault` says why the reference cannot read the key and so makes no key
    identifier of it; None where it can.
    """

    __slots__ = ("bits", "fault", "kind", "name")

    def __init__(self, kind: KeyKind, name: str, bits: int = 0, fault: str | None = None) -> None:
        self.kind = kind
        self.name = name
        self.bits = bits
        self.fault = fault

    def verify(self, digest_name: str, digest: bytes, signature: bytes) -> None:
        """Return if the key made `signature` over `digest`, which is of the kind `digest_name` (as in hashlib).

        Raises:
            KeyUnsupported: no signature of such a key is accepted.
            BadSignature: it did not.
        """
        del digest_name, digest, signature
        raise KeyUnsupported("", f"no signature of {a_key(self.name)} is accepted")


class RsaKey(PublicKey):
    """RSA; signatures in PKCS#1 version 1.5."""

    __slots__ = ("exponent", "modulus")

    def __init__(self, modulus: int, exponent: int) -> None:
        super().__init__(KeyKind.RSA, f"RSA-{modulus.bit_length()}", modulus.bit_length())
        self.modulus = modulus
        self.exponent = exponent

    def verify(self, digest_name: str, digest: bytes, signature: bytes) -> None:
        """See `PublicKey.verify`.

        No secret takes part, so plain integers do: the signature to the power of the exponent must be the one block
        that PKCS#1 prescribes for the digest. It is compared as a whole and never parsed, which leaves no room for
        forged padding. The libraries differ in the smallest RSA key and in the digests they still take; this does
        not, and it keeps `cryptography` out of the start-up.
        """
        if not MIN_RSA_BITS <= self.bits <= MAX_RSA_BITS:
            raise KeyUnsupported("", f"{self.name} is not between {MIN_RSA_BITS} and {MAX_RSA_BITS} bits")
        if self.exponent.bit_length() > MAX_RSA_EXPONENT_BITS:
            raise KeyUnsupported("", f"the exponent of {self.name} has more than {MAX_RSA_EXPONENT_BITS} bits")
        if self.exponent < 3 or not self.exponent & self.modulus & 1:
            raise KeyUnsupported("", f"{self.name} has an even modulus, or an even exponent or 1")
        size = (self.bits + 7) // 8
        number = int.from_bytes(signature, "big")
        if len(signature) != size or number >= self.modulus:
            raise BadSignature("", f"{len(signature)} bytes are no signature of {a_key(self.name)}")
        block = pow(number, self.exponent, self.modulus).to_bytes(size, "big")
        if block != _pkcs1_block(digest_name, digest, size):
            raise BadSignature("", f"this {self.name} key did not make it")


class EcKey(PublicKey):
    """Elliptic curve; ECDSA signatures."""

    __slots__ = ("_curve", "_point", "_provided")

    def __init__(self, curve: _Curve, point: bytes) -> None:
        well_formed = len(point) == 1 + 2 * curve.octets and point[0] == _UNCOMPRESSED
        fault = None if well_formed else "the point is not an uncompressed one"
        super().__init__(KeyKind.EC, curve.title, int(curve.title[2:]), fault)
        self._curve = curve
        self._point = point
        self._provided: EllipticCurvePublicKey | None = None

    def verify(self, digest_name: str, digest: bytes, signature: bytes) -> None:
        """See `PublicKey.verify`."""
        if self._curve.provider is None or self.fault:
            raise KeyUnsupported("", self.fault or f"no signature of {a_key(self.name)} is accepted")
        from cryptography.hazmat.primitives.asymmetric import ec

        curve: type[ec.EllipticCurve] = getattr(ec, self._curve.provider)
        if self._provided is None:
            self._provided = _provide(
                self.name, lambda: ec.EllipticCurvePublicKey.from_encoded_point(curve(), self._point)
            )
        provided = self._provided
        _check(self.name, lambda: provided.verify(signature, digest, ec.ECDSA(prehashed(digest_name))))


class DsaKey(PublicKey):
    """DSA."""

    __slots__ = ("_numbers", "_provided")

    def __init__(self, p: int, q: int, g: int, y: int) -> None:
        super().__init__(KeyKind.DSA, f"DSA-{p.bit_length()}", p.bit_length())
        self._numbers = (p, q, g, y)
        self._provided: DSAPublicKey | None = None

    def verify(self, digest_name: str, digest: bytes, signature: bytes) -> None:
        """See `PublicKey.verify`; p has 1024, 2048, 3072 or 4096 bits, which bounds the time."""
        from cryptography.hazmat.primitives.asymmetric import dsa

        if self._provided is None:
            p, q, g, y = self._numbers
            numbers = dsa.DSAPublicNumbers(y, dsa.DSAParameterNumbers(p, q, g))
            self._provided = _provide(self.name, numbers.public_key)
        provided = self._provided
        _check(self.name, lambda: provided.verify(signature, digest, prehashed(digest_name)))


def prehashed(digest_name: str) -> Prehashed:
    """What tells `cryptography` that it gets a digest of this kind (as in hashlib) and not the data."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    algorithm: type[hashes.HashAlgorithm] = getattr(hashes, digest_name.upper())
    return Prehashed(algorithm())


def digest_info(digest_name: str, digest: bytes) -> bytes:
    """DigestInfo of RFC 8017, 9.2: what an RSA key signs, without its padding."""
    algorithm = encode(SEQUENCE, encode(OID, oid(DIGEST_OIDS[digest_name])), encode(NULL))
    return encode(SEQUENCE, algorithm, encode(OCTET_STRING, digest))


def public_key(spki: bytes) -> PublicKey:
    """The key in a SubjectPublicKeyInfo that `check_spki` returned; an unknown or broken one has a `fault`."""
    identifier, parameters, bits = _parts(Cursor(spki))
    name = dotted(identifier)
    reader = _READERS.get(identifier)
    try:
        if reader is not None:
            return reader(identifier, parameters, bits)
    except DerError as error:
        return PublicKey(KeyKind.OTHER, _KEY_TITLES.get(identifier, name), fault=f"malformed key: {error.detail}")
    return PublicKey(KeyKind.OTHER, name, fault="the algorithm is not known")


def check_spki(cursor: Cursor) -> bytes:
    """Step over a SubjectPublicKeyInfo, checking its outer form, and return it as it lies there.

    Raises:
        DerError: it has another form.
    """
    start = cursor.offset
    _parts(cursor)
    return cursor.since(start)


def a_key(name: str) -> str:
    """A key's name with the article that people say."""
    return f"{'an' if name[:1] in 'REe' else 'a'} {name} key"


def _parts(cursor: Cursor) -> tuple[bytes, bytes, tuple[bytes, int]]:
    info = cursor.within(SEQUENCE)
    algorithm = info.within(SEQUENCE)
    identifier = algorithm.oid()
    parameters = algorithm.element() if algorithm.peek() >= 0 else b""
    algorithm.finish()
    bits = info.bit_string()
    info.finish()
    return identifier, parameters, bits


def _aligned(bits: tuple[bytes, int]) -> bytes:
    content, unused = bits
    if unused:
        raise DerError(0, "the key does not end on an octet")
    return content


def _read_rsa(identifier: bytes, parameters: bytes, bits: tuple[bytes, int]) -> PublicKey:
    content = Cursor(_aligned(bits))
    numbers = content.within(SEQUENCE)
    content.finish()
    modulus = _positive(numbers)
    exponent = _positive(numbers)
    numbers.finish()
    key = RsaKey(modulus, exponent)
    if identifier == RSA_PSS:
        # The reference makes a key identifier of it, but verifies no PSS signature.
        return PublicKey(KeyKind.OTHER, f"RSA-PSS-{key.bits}", key.bits)
    if parameters != encode(NULL):
        raise DerError(0, "the parameters of an RSA key are not NULL")
    return key


def _read_ec(identifier: bytes, parameters: bytes, bits: tuple[bytes, int]) -> PublicKey:
    del identifier
    named = Cursor(parameters).oid()
    curve = _CURVES.get(named)
    if curve is None:
        text = dotted(named)
        title = _REFUSED_CURVES.get(text, f"EC {text}")
        return PublicKey(KeyKind.OTHER, title, fault="the curve is not supported")
    return EcKey(curve, _aligned(bits))


def _read_dsa(identifier: bytes, parameters: bytes, bits: tuple[bytes, int]) -> PublicKey:
    del identifier
    domain = Cursor(parameters).within(SEQUENCE)
    p, q, g = _positive(domain), _positive(domain), _positive(domain)
    domain.finish()
    value = Cursor(_aligned(bits))
    y = _positive(value)
    value.finish()
    return DsaKey(p, q, g, y)


def _read_edwards(identifier: bytes, parameters: bytes, bits: tuple[bytes, int]) -> PublicKey:
    name, size = _EDWARDS_SIZES[identifier]
    if parameters or len(_aligned(bits)) != size:
        raise DerError(0, f"no {name} key")
    return PublicKey(KeyKind.OTHER, name, 8 * size)


def _positive(cursor: Cursor) -> int:
    at = cursor.offset
    value = cursor.integer()
    if value <= 0:
        raise DerError(at, "a number of the key is not positive")
    return value


_READERS: Final[dict[bytes, Callable[[bytes, bytes, tuple[bytes, int]], PublicKey]]] = {
    RSA_ENCRYPTION: _read_rsa,
    RSA_PSS: _read_rsa,
    EC_PUBLIC_KEY: _read_ec,
    DSA_KEY: _read_dsa,
    ED25519: _read_edwards,
    ED448: _read_edwards,
}
_KEY_TITLES: Final = {RSA_ENCRYPTION: "RSA", RSA_PSS: "RSA-PSS", EC_PUBLIC_KEY: "EC", DSA_KEY: "DSA"}


def _pkcs1_block(digest_name: str, digest: bytes, size: int) -> bytes:
    """EMSA-PKCS1-v1_5 of RFC 8017, 9.2: 00 01, FF…, 00, DigestInfo."""
    info = digest_info(digest_name, digest)
    padding = size - len(info) - 3
    if padding < _PKCS1_MIN_PADDING:
        raise BadSignature("", f"the key is too short for {digest_title(digest_name)}")
    return b"\x00\x01" + b"\xff" * padding + b"\x00" + info


def _provide(name: str, make: Callable[[], Any]) -> Any:  # noqa: ANN401 - the key classes share no base
    """Have `cryptography` build a key.

    Raises:
        KeyUnsupported: it refuses the numbers, for instance a point that is not on its curve.
    """
    from cryptography.exceptions import UnsupportedAlgorithm

    try:
        return make()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnsupported("", f"{a_key(name)} that no signature can be checked with: {error}") from None


def _check(name: str, verify: Callable[[], None]) -> None:
    """Have `cryptography` verify a signature.

    Raises:
        BadSignature: it is none of this key.
        KeyUnsupported: the library does not offer the combination.
    """
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

    try:
        verify()
    except InvalidSignature:
        raise BadSignature("", f"this {name} key did not make it") from None
    except (ValueError, UnsupportedAlgorithm) as error:
        raise KeyUnsupported("", f"{a_key(name)} that no signature can be checked with: {error}") from None
