"""PKCS#7 signed data (CMS), read strictly: who signed, how, and what the signature covers.

Of several signers only the first in DER order counts; embedded certificates, revocation lists, content and
attributes that are not signed are bounded and stepped over (docs/formats/signatures.md).
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.crypto.der import (
    CONTEXT,
    CONTEXT_CONSTRUCTED,
    NULL,
    OCTET_STRING,
    SEQUENCE,
    SET,
    Cursor,
    DerError,
    encode_set_of,
    oid,
)
from sipl.crypto.names import check_name, name_text, read_serial

# The machine takes 4096 bytes; files may hold more, with embedded certificates, and must be inspectable.
MAX_PKCS7_SIZE: Final = 1 << 16

SIGNED_DATA: Final = oid("1.2.840.113549.1.7.2")
DATA: Final = oid("1.2.840.113549.1.7.1")
CONTENT_TYPE: Final = oid("1.2.840.113549.1.9.3")
MESSAGE_DIGEST: Final = oid("1.2.840.113549.1.9.4")

_DATA_VERSIONS: Final = (1, 3, 4, 5)
_SIGNER_VERSIONS: Final = (1, 3)


class Algorithm(NamedTuple):
    """An AlgorithmIdentifier."""

    identifier: bytes  # content bytes of the object identifier
    plain: bool  # no parameters, or NULL: so it is with every algorithm that counts


class SignedAttributes(NamedTuple):
    """What the signer signed instead of the content."""

    encoded: bytes  # the SET OF in DER order, over which the signature is made
    content_type: bytes  # object identifier
    message_digest: bytes


class SignerInfo(NamedTuple):
    """One signer."""

    issuer_der: bytes | None  # Name; None where the signer is named by a key identifier
    serial: int | None
    key_identifier: bytes | None  # None where the signer is named by issuer and serial number
    digest: Algorithm
    attributes: SignedAttributes | None
    algorithm: Algorithm
    signature: bytes

    def text(self) -> str:
        """Who signed, safe to show."""
        if self.issuer_der is None or self.serial is None:
            return f"key identifier {(self.key_identifier or b'').hex()}"
        return f"{name_text(self.issuer_der)}, serial number {self.serial:#x}"


class SignedData(NamedTuple):
    """A ContentInfo with signed data."""

    content_type: bytes  # object identifier of the signed content
    content_embedded: bool
    certificates: int  # how many are embedded
    signers: int
    signer: SignerInfo  # the first in DER order

    @staticmethod
    def parse(der: bytes) -> SignedData:
        """Read exactly these bytes.

        Raises:
            DerError: they are no signed data with a signer in strict DER, or something follows.
        """
        if len(der) > MAX_PKCS7_SIZE:
            raise DerError(MAX_PKCS7_SIZE, f"a signature has {MAX_PKCS7_SIZE} bytes at most")
        outer = Cursor(der)
        info = outer.within(SEQUENCE)
        outer.finish()
        _expect_oid(info, SIGNED_DATA, "the content is not signed data")
        wrapped = info.within(CONTEXT_CONSTRUCTED)
        info.finish()
        data = wrapped.within(SEQUENCE)
        wrapped.finish()
        return _read_signed_data(data)


def _read_signed_data(data: Cursor) -> SignedData:
    _expect_version(data, _DATA_VERSIONS)
    algorithms = data.within(SET)
    while algorithms.peek() >= 0:
        _read_algorithm(algorithms)
    content = data.within(SEQUENCE)
    content_type = content.oid()
    embedded = content.peek() >= 0
    if embedded:
        wrapped = content.within(CONTEXT_CONSTRUCTED)
        wrapped.content(OCTET_STRING)
        wrapped.finish()
    content.finish()
    certificates = _count(data, CONTEXT_CONSTRUCTED)
    _count(data, CONTEXT_CONSTRUCTED + 1)  # revocation lists
    at = data.offset
    signers = data.within(SET)
    data.finish()
    # The reference writes the set anew, in DER order, before it takes the first.
    found: list[tuple[bytes, SignerInfo]] = []
    while signers.peek() >= 0:
        start = signers.offset
        signer = _read_signer(signers.within(SEQUENCE))
        found.append((signers.since(start), signer))
    if not found:
        raise DerError(at, "there is no signer")
    first = min(found, key=lambda pair: pair[0])[1]
    return SignedData(content_type, embedded, certificates, len(found), first)


def _read_signer(info: Cursor) -> SignerInfo:
    _expect_version(info, _SIGNER_VERSIONS)
    issuer: bytes | None = None
    serial: int | None = None
    identifier: bytes | None = None
    if info.peek() == SEQUENCE:
        named = info.within(SEQUENCE)
        issuer = check_name(named)
        serial = read_serial(named)
        named.finish()
    else:
        identifier = info.content(CONTEXT)
    digest = _read_algorithm(info)
    attributes: SignedAttributes | None = None
    if info.peek() == CONTEXT_CONSTRUCTED:
        attributes = _read_signed_attributes(info)
    algorithm = _read_algorithm(info)
    signature = info.octets()
    if info.peek() == CONTEXT_CONSTRUCTED + 1:
        _read_attributes(info.within(CONTEXT_CONSTRUCTED + 1))
    info.finish()
    return SignerInfo(issuer, serial, identifier, digest, attributes, algorithm, signature)


def _read_algorithm(cursor: Cursor) -> Algorithm:
    algorithm = cursor.within(SEQUENCE)
    identifier = algorithm.oid()
    plain = algorithm.peek() < 0
    if algorithm.peek() == NULL:
        algorithm.null()
        plain = True
    elif not plain:
        algorithm.skip()
    algorithm.finish()
    return Algorithm(identifier, plain)


def _read_signed_attributes(info: Cursor) -> SignedAttributes:
    at = info.offset
    elements, values = _read_attributes(info.within(CONTEXT_CONSTRUCTED))
    if CONTENT_TYPE not in values or MESSAGE_DIGEST not in values:
        raise DerError(at, "the signed attributes have no content type or no message digest")
    content_type = values[CONTENT_TYPE].oid()
    digest = values[MESSAGE_DIGEST].octets()
    values[CONTENT_TYPE].finish()
    values[MESSAGE_DIGEST].finish()
    return SignedAttributes(encode_set_of(elements), content_type, digest)


def _read_attributes(attributes: Cursor) -> tuple[list[bytes], dict[bytes, Cursor]]:
    """The attributes as they lie there, and a cursor over the values of each by its type."""
    elements: list[bytes] = []
    values: dict[bytes, Cursor] = {}
    at = attributes.offset
    while attributes.peek() >= 0:
        at = attributes.offset
        attribute = attributes.within(SEQUENCE)
        identifier = attribute.oid()
        if identifier in values:
            raise DerError(at, "an attribute is there twice")
        values_at = attribute.offset
        values[identifier] = attribute.within(SET)
        attribute.finish()
        _check_order(values[identifier].copy(), values_at)
        elements.append(attributes.since(at))
    if not elements:
        raise DerError(at, "the set of attributes is empty")
    return elements, values


def _check_order(values: Cursor, at: int) -> None:
    """A set of values must be in DER order: the reference sorts it before it computes the digest of the attributes."""
    found: list[bytes] = []
    while values.peek() >= 0:
        found.append(values.element())
    if not found or found != sorted(found):
        raise DerError(at, "the values of an attribute are missing or not in order")


def _count(data: Cursor, tag: int) -> int:
    """How many elements the optional set with this tag byte holds; they are bounded, but not looked into."""
    if data.peek() != tag:
        return 0
    elements = data.within(tag)
    count = 0
    while elements.peek() >= 0:
        elements.skip()
        count += 1
    return count


def _expect_oid(cursor: Cursor, expected: bytes, otherwise: str) -> None:
    at = cursor.offset
    if cursor.oid() != expected:
        raise DerError(at, otherwise)


def _expect_version(cursor: Cursor, accepted: tuple[int, ...]) -> None:
    at = cursor.offset
    if cursor.integer() not in accepted:
        raise DerError(at, f"the version is none of {', '.join(map(str, accepted))}")
