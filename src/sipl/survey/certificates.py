"""The certificate store as the guest will see it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sipl.errors import SiplError
from sipl.layout.diag320 import VCE_INVALID_LENGTH
from sipl.machine.ebcdic import from_ebcdic
from sipl.survey.model import CertificateView
from sipl.text import printable

if TYPE_CHECKING:
    from sipl.machine.cert_store import CertStore, StoreEntry


def survey_store(store: CertStore, now: int) -> tuple[CertificateView, ...]:
    """Every certificate of a store, in its order, judged at `now` (seconds since 1970, UTC)."""
    return tuple(_certificate(number, entry, now) for number, entry in enumerate(store.entries, 1))


def _certificate(number: int, entry: StoreEntry, now: int) -> CertificateView:
    from sipl.report.build import iso_time

    certificate = entry.certificate
    key_id = why_not = None
    try:
        key_id = certificate.key_id().hex()
        certificate.check_time(now)
        certificate.check_key_usage()
    except SiplError as error:
        why_not = error.why
    usable = key_id is not None and _in_time(entry, now)
    return CertificateView(
        number=number,
        path=printable(entry.path),
        name=printable(from_ebcdic(entry.name).rstrip()),
        subject=certificate.subject,
        issuer=certificate.issuer,
        serial=f"{certificate.serial:x}",
        not_before=iso_time(certificate.not_before),
        not_after=iso_time(certificate.not_after),
        key=certificate.key_name,
        key_type=certificate.key_type() if usable else 0,
        key_id=key_id,
        sha256=certificate.fingerprint.hex(),
        der_length=len(certificate.der),
        vce_length=entry.vce_length if usable else VCE_INVALID_LENGTH,
        valid=why_not is None,
        why_not=why_not,
    )


def _in_time(entry: StoreEntry, now: int) -> bool:
    try:
        entry.certificate.check_time(now)
    except SiplError:
        return False
    return True
