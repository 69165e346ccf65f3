"""A new key and its certificate, as files (docs/signing.md)."""

from __future__ import annotations

import os
import time
from typing import Final, NamedTuple

from sipl.author.host_files import OWNER_ONLY, USUAL, NewContent
from sipl.author.signer import check_certificate, check_passphrase
from sipl.errors import UsageError

KINDS: Final = ("rsa2048", "rsa3072", "rsa4096", "p521")
COMMON_NAME: Final = "Secure IPL signing key"
# A guest stops booting when the certificate expires: as long as a machine is kept.
DAYS: Final = 3650
MAX_DAYS: Final = 36500
# A clock that is a little off does no harm.
VALID_BEFORE: Final = 24 * 60 * 60
_SECONDS_PER_DAY: Final = 24 * 60 * 60


class KeyFiles(NamedTuple):
    """What `make_key` wrote; the certificate is valid from the first second of `not_before` to `not_after` (UTC)."""

    key: str
    certificate: str
    key_name: str  # such as RSA-2048
    subject: str
    not_before: str
    not_after: str
    encrypted: bool


def make_key(
    key: str,
    certificate: str,
    kind: str = KINDS[0],
    *,
    common_name: str = COMMON_NAME,
    days: int = DAYS,
    passphrase: bytes | None = None,
    now: int | None = None,
    force: bool = False,
) -> KeyFiles:
    """Make a private key and a certificate for it, signed by itself, that may sign and nothing else.

    Both files are PEM; the key is PKCS#8, readable for its owner only, and encrypted if there is a `passphrase`. The
    certificate is valid from a day before `now` for `days` days from `now` on. Without `force` no file is replaced.

    Raises:
        UsageError: a value is not possible, or a file exists already; nothing was written then.
        FileError: a file cannot be written.
        SigningError: the name cannot be in a certificate.
    """
    _check(key, certificate, kind, days)
    if passphrase is not None:
        check_passphrase(passphrase, "passphrase")
    for path in (key, certificate):
        if os.path.lexists(path) and not force:
            raise UsageError(path, "the file exists already", "name another one, or say --force")
    from sipl.crypto import signing
    from sipl.crypto.certificate import Certificate, utc_text

    start = int(time.time()) if now is None else now
    made = signing.generate_key(kind)
    pem = signing.self_signed(made, common_name, start - VALID_BEFORE, start + days * _SECONDS_PER_DAY)
    found = Certificate.from_pem(pem)
    check_certificate(found, start)
    secret = signing.key_pem(made, passphrase)
    # Both are on the disk before one gets its name. The key comes last: no half of a pair is left to be used.
    with (
        NewContent(key, secret, mode=OWNER_ONLY, fresh=True) as new_key,
        NewContent(certificate, pem, mode=USUAL, fresh=True) as new_certificate,
    ):
        new_certificate.commit(replace=force)
        try:
            new_key.commit(replace=force)
        except BaseException:
            if not force:
                os.unlink(certificate)
            raise
    validity = utc_text(found.not_before), utc_text(found.not_after)
    return KeyFiles(key, certificate, found.key_name, found.subject, *validity, passphrase is not None)


def _check(key: str, certificate: str, kind: str, days: int) -> None:
    if kind not in KINDS:
        raise UsageError("--kind", f"no keys of the kind {kind} are made", f"one of {', '.join(KINDS)}")
    if not 1 <= days <= MAX_DAYS:
        raise UsageError("--days", f"{days} days are not possible", f"a number from 1 to {MAX_DAYS}")
    for option, path in (("--key", key), ("--cert", certificate)):
        if not path:
            raise UsageError(option, "the name of the file is empty", "name a file")
    if os.path.abspath(key) == os.path.abspath(certificate):
        raise UsageError("--cert", "key and certificate cannot be in one file", "name two files")
