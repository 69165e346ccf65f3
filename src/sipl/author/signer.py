"""Who signs: a private key and its certificate, of which no signature leaves that a machine would not accept.

All that sipl signs goes through `Signer.sign`: files, and the components of a disk. The rules are those of the machine
(docs/formats/signatures.md); each refusal names the one that would be broken (docs/signing.md).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sipl.author.host_files import read_file
from sipl.crypto.certificate import Certificate, CertificateNotValid, KeyUsageForbids
from sipl.crypto.pem import MAX_CERTIFICATE_FILE
from sipl.crypto.pkcs11_uri import is_pkcs11_uri, parse_pkcs11_uri
from sipl.crypto.verify import RejectionKind, SignatureCheck, SignatureRejected
from sipl.errors import FileError, SigningRefused, SiplError, UsageError
from sipl.layout.diag508 import MAX_COMPONENT_LENGTH, MAX_SIGNATURE_LENGTH
from sipl.machine.cert_store import MAX_DER_SIZE, ceil4

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from sipl.crypto.signing import PrivateKey
    from sipl.crypto.token_key import TokenKey
    from sipl.layout.record import Buffer

    # Asked with what the passphrase is for, only if one is needed.
    AskPassphrase = Callable[[str], bytes]

# Others are accepted by the machine, but there is no reason to make new ones: SHA-1 is weak, the rest are in no tool.
DIGESTS: Final = ("sha256", "sha384", "sha512")
# An encrypted RSA key of 16384 bits has some 20 KiB; a file may hold certificates, too.
MAX_KEY_FILE: Final = 1 << 20
# What the libraries take for a passphrase.
MAX_PASSPHRASE: Final = 1023


class Signer:
    """A private key with its certificate; makes detached signatures in sign-file's profile, each verified.

    `now` is the time, in seconds since 1970, at which the certificate must be valid; `force` lets an expired one and
    one that is not valid yet sign nevertheless. A context manager: a token's session ends with it.

    Raises:
        UsageError: `digest` is none of `DIGESTS`.
        SigningRefused: no machine would accept a signature of this certificate, or the key is not its own.
    """

    def __init__(
        self,
        key: PrivateKey | TokenKey,
        certificate: Certificate,
        digest: str = DIGESTS[0],
        *,
        now: int | None = None,
        force: bool = False,
    ) -> None:
        self.certificate = certificate
        self.digest = digest
        self._key = key
        self._time = check_certificate(certificate, now, force=force)
        check_digest(digest)
        from sipl.crypto.signing import SigningError, check_key

        try:
            check_key(key, certificate)
        except SigningError as error:
            raise _other_key(error.why) from None

    def sign(self, data: Buffer) -> bytes:
        """PKCS#7 in DER with one detached signature over `data`.

        Raises:
            SigningRefused: no machine would accept it.
            SigningError: the key cannot sign with this digest, or a token refuses.
        """
        from sipl.crypto.signing import sign_detached

        check_component_size(len(data))
        signature = sign_detached(data, self._key, self.certificate, self.digest)
        try:
            accept(data, signature, self.certificate, self._time)
        except SigningRefused as error:
            if error.kind == RejectionKind.BAD_SIGNATURE:  # it was made over these very bytes
                raise _other_key(f"it is not the key of the certificate {self.certificate.subject}") from None
            raise
        return signature

    def has_signed(self, data: Buffer, signature: bytes) -> bool:
        """Whether `signature` is one over `data` that `sign` could have made."""
        try:
            found = SignatureCheck(data, signature)
            found.verify(self.certificate, self._time)
        except SignatureRejected:
            return False
        signed, signer = found.signed_data, found.signed_data.signer
        return (
            len(signature) <= MAX_SIGNATURE_LENGTH
            and found.digest_name == self.digest
            and (signer.issuer_der, signer.serial) == (self.certificate.issuer_der, self.certificate.serial)
            and (signed.signers, signed.certificates, signed.content_embedded) == (1, 0, False)
            and signer.attributes is None
        )

    def close(self) -> None:
        """End the session with a token, if there is one; closing twice is allowed."""
        close = getattr(self._key, "close", None)
        if close is not None:
            close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_signer(
    key: str,
    certificate: str,
    digest: str = DIGESTS[0],
    *,
    passphrase: bytes | AskPassphrase | None = None,
    now: int | None = None,
    force: bool = False,
) -> Signer:
    """A signer from the names of a key and a certificate.

    `key` is a PEM file or a PKCS#11 URI, `certificate` a PEM or DER file. `passphrase` is for an encrypted key or for a
    token that wants a PIN; a function is called only then, with a text that says what it is for. `digest`, `now` and
    `force` are as for `Signer`.

    Raises:
        FileError: a file cannot be read.
        SigningError: the key cannot be used, or its passphrase is wrong.
        SigningRefused, UsageError: as `Signer`.
    """
    read = load_certificate(certificate)
    check_digest(digest)
    # Whoever has the wrong certificate should not be asked for a passphrase first.
    check_certificate(read, now, force=force)
    opened = load_private_key(key, _constant(passphrase) if isinstance(passphrase, bytes) else passphrase)
    try:
        return Signer(opened, read, digest, now=now, force=force)
    except BaseException:
        if hasattr(opened, "close"):
            opened.close()
        raise


def load_certificate(path: str) -> Certificate:
    """The certificate in a file: the first one in PEM, or exactly one in DER.

    Raises:
        FileError: it cannot be read, or is none.
    """
    data = read_file(path, MAX_CERTIFICATE_FILE, "a certificate")
    try:
        return Certificate.from_der(data) if data[:1] == b"\x30" else Certificate.from_pem(data)
    except SiplError as error:
        raise FileError(path, error.why, error.hint or "name an X.509 certificate, in PEM or DER") from None


def load_private_key(name: str, passphrase: AskPassphrase | None = None) -> PrivateKey | TokenKey:
    """The private key in a PEM file, or on the token that a PKCS#11 URI names.

    Raises:
        FileError: the file cannot be read.
        UsageError: the URI is malformed, or a passphrase is needed and there is nobody to ask.
        SigningError: there is no such key, or its passphrase is wrong.
    """
    ask = passphrase or _nobody
    if is_pkcs11_uri(name):
        from sipl.crypto.token_key import TokenKey

        uri = parse_pkcs11_uri(name)
        source = uri.pin_file
        if source is not None:
            return TokenKey(uri, lambda _: read_passphrase(source))
        return TokenKey(uri, lambda label: ask(f"the PIN of the token {label}"))
    from sipl.crypto.signing import KeyEncrypted, SigningError, load_key

    data = read_file(name, MAX_KEY_FILE, "a private key")
    try:
        try:
            return load_key(data)
        except KeyEncrypted:
            return load_key(data, ask(f"the passphrase of {name}"))
    except SigningError as error:
        hint = "" if b"ENCRYPTED" in data else "name a private key in PEM, or a PKCS#11 URI"
        raise SigningError(name, error.why, error.hint or hint) from None


def read_passphrase(path: str) -> bytes:
    """The passphrase in a file: its first line.

    Raises:
        UsageError: the file cannot be read, its first line is empty, or it is too long.
    """
    try:
        # Not only regular files: shells give secrets as descriptors (/dev/fd/3).
        with open(path, "rb") as file:
            line = file.readline(MAX_PASSPHRASE + 2)
    except (OSError, ValueError) as error:
        why = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise UsageError(path, f"the passphrase cannot be read: {why}", "check the name and who may read it") from error
    return check_passphrase(line.removesuffix(b"\n").removesuffix(b"\r"), path)


def check_passphrase(passphrase: bytes, where: str) -> bytes:
    """The passphrase itself, if it can be one.

    Raises:
        UsageError: it is empty, or longer than `MAX_PASSPHRASE` bytes.
    """
    if not passphrase:
        raise UsageError(where, "the passphrase is empty", "the first line counts")
    if len(passphrase) > MAX_PASSPHRASE:
        raise UsageError(where, f"the passphrase is longer than {MAX_PASSPHRASE} bytes", "the first line counts")
    return passphrase


def check_digest(digest: str) -> None:
    """New signatures are made with SHA-2 only.

    Raises:
        UsageError: `digest` is none of `DIGESTS`.
    """
    if digest not in DIGESTS:
        raise UsageError("--digest", f"no signatures are made with {digest}", f"one of {', '.join(DIGESTS)}")


def check_certificate(certificate: Certificate, now: int | None = None, *, force: bool = False) -> int:
    """Return the time at which signatures are verified: now, or the nearest time at which the certificate is valid.

    Raises:
        SigningRefused: it is too large for a machine's store, may not sign, or is not valid at `now`; the last one
            can be forced.
    """
    where = f"certificate {certificate.subject}"
    size = len(certificate.der)
    if ceil4(size) > MAX_DER_SIZE:
        why = f"it has {size} bytes, a machine takes at most {MAX_DER_SIZE}"
        raise SigningRefused("certificate-too-large", where, why, "use one with a smaller key or fewer extensions")
    try:
        certificate.check_key_usage()
    except KeyUsageForbids as error:
        hint = "use a certificate with the key usage digitalSignature, such as sipl keygen makes"
        raise SigningRefused(RejectionKind.KEY_USAGE, where, error.why, hint) from None
    when = int(time.time()) if now is None else now
    try:
        certificate.check_time(when)
    except CertificateNotValid as error:
        if not force:
            kind = RejectionKind.EXPIRED if error.expired else RejectionKind.NOT_YET_VALID
            hint = "use a certificate that is valid when the guest boots, or say --force"
            raise SigningRefused(kind, where, error.why, hint, can_be_forced=True) from None
    return min(max(when, certificate.not_before), certificate.not_after)


def check_component_size(size: int) -> None:
    """A machine verifies components of 1 byte to 256 MiB.

    Raises:
        SigningRefused: it would not verify this one.
    """
    if not size:
        raise SigningRefused(
            "empty", "", "there is nothing to sign: it has no bytes", "name the file that is to be booted"
        )
    if size > MAX_COMPONENT_LENGTH:
        why = f"it has {size} bytes, a machine verifies at most {MAX_COMPONENT_LENGTH}"
        raise SigningRefused("too-large", "", why, "make it smaller")


def accept(data: Buffer, signature: bytes, certificate: Certificate, now: int) -> SignatureCheck:
    """Return if a machine that has this certificate would take `signature` for one over `data`.

    Raises:
        SigningRefused: it would not.
    """
    if len(signature) > MAX_SIGNATURE_LENGTH:
        why = f"the signature has {len(signature)} bytes, a machine takes at most {MAX_SIGNATURE_LENGTH}"
        hint = "sign without embedded certificates, with a certificate whose issuer has a shorter name"
        raise SigningRefused("signature-too-large", "", why, hint)
    try:
        check = SignatureCheck(data, signature)
        check.verify(certificate, now)
    except SignatureRejected as error:
        why = f"the signature would not verify: {error.why}"
        raise SigningRefused(error.kind, "", why, "check which key and which certificate belong together") from None
    return check


def weaknesses(data: Buffer, signature: bytes, certificate: Certificate) -> tuple[str, ...]:
    """What is weak about a signature that `accept` let pass, as sentences; a machine warns of it and boots."""
    return tuple(f"weak-signature: {what}" for what in SignatureCheck(data, signature).weaknesses(certificate))


def _other_key(why: str) -> SigningRefused:
    return SigningRefused("other-key", "private key", why, "name the certificate of this key, or the key of this one")


def _constant(passphrase: bytes) -> AskPassphrase:
    return lambda _: passphrase


def _nobody(what: str) -> bytes:
    raise UsageError("", f"{what} is needed", "give it with --passphrase-file, in $SIPL_PASSPHRASE or at the prompt")
