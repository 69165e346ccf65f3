"""The boot map of a disk and the certificate store, as typed objects (`sipl.boot-map/1`, `sipl.certificates/1`).

Every text is safe to show. Numbers are numbers, byte strings hex; block numbers count logical blocks of the disk.
"""

from __future__ import annotations

from typing import Final, NamedTuple

BOOT_MAP_SCHEMA: Final = "sipl.boot-map/1"
CERTIFICATES_SCHEMA: Final = "sipl.certificates/1"


class Run(NamedTuple):
    """Blocks of the disk that follow each other."""

    block: int
    blocks: int


class SignatureView(NamedTuple):
    """A signature entry. `signer` and `digest` are None where `fault` says why it cannot be read."""

    format: int
    length: int
    runs: tuple[Run, ...]
    signer: str | None  # issuer and serial number, or key identifier
    digest: str | None
    signature_algorithm: str | None
    key_identifier: str | None  # hex, where the signer is named by it
    signed_attributes: bool
    embedded_certificates: int
    fault: str | None


class SclabView(NamedTuple):
    """The code loading attributes at the end of a component; `fault` says why they cannot be right."""

    length: int
    format: int
    flags: tuple[str, ...]
    load_psw: str  # hex
    load_address: int
    fault: str | None


class ComponentView(NamedTuple):
    """A load entry with the signature entry in front of it. `digest` is the SHA-256 of its blocks, hex.

    `part` is what it is by the place that zipl gives it (loader, kernel, …), None where nothing tells.
    """

    address: int
    length: int
    runs: tuple[Run, ...]
    digest: str | None
    signature: SignatureView | None
    sclab: SclabView | None
    fault: str | None
    part: str | None = None


class ProgramView(NamedTuple):
    """A program of the program table; `same_as` is the number of an earlier entry with the same component table.

    `closed`: everything has a signature, and the loader forbids anything unsigned (NUC), which is all that can be said
    without verifying; None where the table is not whole. `unsigned` names the components without a signature, those
    that matter most first.
    """

    number: int
    table_block: int
    same_as: int | None
    components: tuple[ComponentView, ...]
    psw: str | None  # hex
    fault: str | None
    closed: bool | None = None
    unsigned: tuple[str, ...] = ()


class BootMapView(NamedTuple):
    """The boot map of one disk."""

    path: str
    format: str
    size: int
    block_size: int
    version: int | None
    program_table_block: int | None
    programs: tuple[ProgramView, ...]
    fault: str | None


class CertificateView(NamedTuple):
    """A certificate of the store as the guest will see it. `valid` holds for the time that was asked."""

    number: int  # origin 1, as DIAGNOSE 320 counts
    path: str
    name: str
    subject: str
    issuer: str
    serial: str  # hex
    not_before: str
    not_after: str
    key: str
    key_type: int  # of the VCE: 0 self-describing, 1 ECDSA P-521
    key_id: str | None  # hex
    sha256: str
    der_length: int
    vce_length: int  # what the guest gets at the time that was asked
    valid: bool
    why_not: str | None
