"""The certificate in a PEM file, as the reference finds it (docs/formats/signatures.md)."""

from __future__ import annotations

import binascii
from typing import Final

from sipl.errors import SiplError

# A certificate that the machine takes has 8000 bytes of DER at most; a bundle with a long text in front has some
# hundred KiB. Whoever reads the file must not read more than this (one byte more shows that it is too long).
MAX_CERTIFICATE_FILE: Final = 1 << 20

# "CERTIFICATE" anywhere in the file wins over an "X509 CERTIFICATE" before it: so the reference searches.
_LABELS: Final = (b"CERTIFICATE", b"X509 CERTIFICATE")
_DASHES: Final = b"-----"
_WHITE_SPACE: Final = b"\n\r\t "


class PemError(SiplError, ValueError):
    """There is no certificate in PEM form in the file."""


def certificate_der(data: bytes) -> bytes:
    """DER of the first certificate in the PEM file `data`; text around it and further certificates do not matter.

    Raises:
        PemError: no block CERTIFICATE or X509 CERTIFICATE, a broken one, or a file above `MAX_CERTIFICATE_FILE`.
    """
    if len(data) > MAX_CERTIFICATE_FILE:
        raise PemError("", f"the file has more than {MAX_CERTIFICATE_FILE} bytes")
    for label in _LABELS:
        begin = data.find(_DASHES + b"BEGIN " + label)
        if begin >= 0:
            return _decode(_body(data, begin, label))
    raise PemError("", _why_none(data), "a PEM file with a block BEGIN CERTIFICATE is needed")


def block_der(data: bytes, label: bytes) -> bytes:
    """DER of the first block in the PEM file `data` that begins with this label.

    Raises:
        PemError: there is none, or a broken one.
    """
    begin = data.find(_DASHES + b"BEGIN " + label)
    if begin < 0:
        raise PemError("", f"there is no block {label.decode()}")
    return _decode(_body(data, begin, label))


def pem_of(der: bytes, label: str = "CERTIFICATE") -> bytes:
    """PEM block with lines of 64 characters."""
    text = binascii.b2a_base64(der, newline=False)
    lines = [text[at : at + 64] + b"\n" for at in range(0, len(text), 64)]
    name = label.encode("ascii")
    return b"".join((b"-----BEGIN ", name, b"-----\n", *lines, b"-----END ", name, b"-----\n"))


def _body(data: bytes, begin: int, label: bytes) -> bytes:
    """What stands between the BEGIN line at `begin` and its END line."""
    head = _DASHES + b"BEGIN " + label + _DASHES
    # The reference takes any label that starts with the word (CERTIFICATE REQUEST) for a certificate and then fails
    # to read it. Going on to a later block would take a certificate that the machine would not.
    if not data.startswith(head, begin):
        raise PemError("", f"the first block that starts with {label.decode()} has another label")
    start = begin + len(head)
    end = data.find(_DASHES + b"END ", start)
    if end < 0 or not data.startswith(_DASHES + b"END " + label + _DASHES, end):
        raise PemError("", f"the block {label.decode()} does not end with its own END line")
    return data[start:end]


def _decode(text: bytes) -> bytes:
    body = text.translate(None, _WHITE_SPACE)
    try:
        der = binascii.a2b_base64(body, strict_mode=True)
    except binascii.Error as error:
        raise PemError("", f"the block is not base64: {error}") from None
    # Encoding it again finds what the decoder lets pass: bits behind the last octet that are not zero.
    if not der or binascii.b2a_base64(der, newline=False) != body:
        raise PemError("", "the block is empty or not canonical base64")
    return der


def _why_none(data: bytes) -> str:
    if not data:
        return "the file is empty"
    if data[:1] == b"\x30":
        return "the file is DER, not PEM"
    if b"-----BEGIN TRUSTED CERTIFICATE" in data:
        return "a TRUSTED CERTIFICATE is not accepted"
    if b"PRIVATE KEY-----" in data:
        return "the file has a private key, but no certificate"
    return "no certificate in PEM form"
