"""Signing where the key is: first what must be signed is written, later the signature is taken back (docs/signing.md).

The first step needs no key, and the second neither: it verifies the signature against file and certificate before it
appends it. So a key may be on a machine without a network, or in a service that signs digests.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.author.host_files import read_file
from sipl.author.signed_file import check_output, check_payload, finish, naming, read_signed
from sipl.author.signer import DIGESTS, accept, check_certificate, check_digest, load_certificate, weaknesses
from sipl.crypto.algorithms import KeyKind, digest_title
from sipl.crypto.keys import digest_info
from sipl.crypto.pem import PemError, block_der
from sipl.crypto.pkcs7 import MAX_PKCS7_SIZE, SIGNED_DATA
from sipl.crypto.signing import digest_of, enclose
from sipl.errors import SigningRefused, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sipl.author.signed_file import FileSigned
    from sipl.crypto.certificate import Certificate
    from sipl.layout.record import Buffer

# `payload`: for whoever computes the digest himself; `digest`: its bytes; `digest-info`: the digest with its
# identifier in front, which RSA keys of tokens sign.
FORMS: Final = ("payload", "digest", "digest-info")
# Labels of a PKCS#7 in PEM.
_PKCS7_LABELS: Final = (b"PKCS7", b"CMS")
# A PKCS#7 begins with three headers of 4 bytes at most, and its identifier.
_HEAD: Final = 32
_POINT_PARTS: Final = 2


def prepare_signature(path: str, form: str = FORMS[0], digest: str = DIGESTS[0], *, force: bool = False) -> bytes:
    """What must be signed for a file: its payload without any signature, or a digest of it.

    Raises:
        UsageError: `form` is none of `FORMS`, or `digest` none of `DIGESTS`.
        FileError: the file cannot be read.
        SigningRefused: no machine would accept the signed file.
    """
    if form not in FORMS:
        raise UsageError("--form", f"nothing is written as {form}", f"one of {', '.join(FORMS)}")
    check_digest(digest)
    data, layers = read_signed(path)
    payload = data[: layers[-1].payload_length] if layers else data
    check_payload(path, payload, force=force)
    if form == "payload":
        return payload
    hashed = digest_of(payload, digest)
    return hashed if form == "digest" else digest_info(digest, hashed)


def attach_signature(
    path: str,
    signature: str,
    certificate: str,
    digest: str | None = None,
    *,
    output: str | None = None,
    now: int | None = None,
    force: bool = False,
) -> FileSigned:
    """Append a signature that was made elsewhere, in the file `signature`, after verifying it with `certificate`.

    It is a whole PKCS#7 in DER or PEM, or the bare signature: of an RSA key as it is, of an elliptic-curve key in DER
    or as r and s one behind the other. Without `digest` the one that it was made with is found out. Any older
    signature of the file is taken off. `now` and `force` are as for `Signer` and `sign_file`.

    Raises:
        FileError: a file cannot be read or written.
        SigningRefused: the signature does not belong to the file and the certificate, or no machine would accept it.
    """
    if digest is not None:
        check_digest(digest)
    trusted = load_certificate(certificate)
    when = check_certificate(trusted, now, force=force)
    data, layers = read_signed(path)
    payload = memoryview(data)[: layers[-1].payload_length if layers else len(data)]
    notes = check_payload(path, payload, force=force)
    check_output(path, output, force=force)
    given = _pkcs7_of_pem(read_file(signature, MAX_PKCS7_SIZE, "a signature"))
    # One that is not well-formed is told as such, and not taken for a bare one.
    if SIGNED_DATA in given[:_HEAD]:
        naming(signature, lambda: accept(payload, given, trusted, when))
        made = given
    else:
        found = naming(signature, lambda: _find(payload, given, trusted, digest, when))
        if found is None:
            raise SigningRefused("not-verified", signature, _why_not(data, payload, given, trusted, when), _HINT)
        made = found
    notes += weaknesses(payload, made, trusted)
    return finish(path, data, layers, made, output, notes)


_HINT: Final = "sign what sipl sign --prepare writes, with the key of this certificate"


def _find(payload: Buffer, given: bytes, certificate: Certificate, digest: str | None, now: int) -> bytes | None:
    """The PKCS#7 around a bare signature, if that is one over the payload; a large one is refused by `accept`."""
    for name in DIGESTS if digest is None else (digest,):
        for signature in _forms(given, certificate):
            made = enclose(signature, certificate, name)
            try:
                accept(payload, made, certificate, now)
            except SigningRefused as error:
                if error.kind == "signature-too-large":
                    raise
                continue
            return made
    return None


def _forms(given: bytes, certificate: Certificate) -> Iterator[bytes]:
    """The signature as a PKCS#7 may hold it: those of tokens and services need their DER."""
    yield given
    key = certificate.public_key()
    if key.kind is KeyKind.EC and len(given) == _POINT_PARTS * ((key.bits + 7) // 8):
        from sipl.crypto.token_key import as_der

        yield as_der(given)


def _why_not(data: bytes, payload: Buffer, given: bytes, certificate: Certificate, now: int) -> str:
    """What the signature was made over instead, if that is one of the usual mistakes."""
    if len(payload) != len(data) and _find(data, given, certificate, None, now) is not None:
        return "it was made over the file with its old signature, not over the payload"
    for name in DIGESTS:
        hashed = digest_of(payload, name)
        for what, mistaken in (
            (f"the {digest_title(name)} digest", hashed),
            ("the digest info", digest_info(name, hashed)),
        ):
            if _find(mistaken, given, certificate, None, now) is not None:
                return f"it was made over {what}, of which the signer computed a digest once more"
    found = _find(payload, given, certificate, None, now)
    if found is not None:
        name = digest_title(accept(payload, found, certificate, now).digest_name)
        return f"it was made with {name}, not with the digest that was named"
    return f"it is no signature of the key of {certificate.subject} over this file ({len(given)} bytes)"


def _pkcs7_of_pem(given: bytes) -> bytes:
    for label in _PKCS7_LABELS:
        if b"-----BEGIN " + label + b"-----" in given:
            try:
                return block_der(given, label)
            except PemError as error:
                raise SigningRefused("malformed", "signature", error.why, "give the PKCS#7 in DER") from None
    return given
