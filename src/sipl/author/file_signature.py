"""The signature that a file carries, as a typed object, plain lines and JSON (`sipl.signature/1`).

Every text is safe to show.
"""

from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sipl.author.host_files import read_file
from sipl.author.signed_file import MAX_FILE
from sipl.crypto.appended_signature import Layer, TrailerDamaged, read_layers
from sipl.layout.boot_record import MIN_BLOCK_SIZE
from sipl.layout.diag508 import MAX_SIGNATURE_LENGTH
from sipl.layout.module_signature import MODULE_SIGNATURE_PKCS7, ModuleSignature
from sipl.machine.cert_store import CertStore
from sipl.report.json_form import plain
from sipl.survey.boot_map import read_sclab, read_signature
from sipl.survey.model import SclabView, SignatureView
from sipl.survey.text import sclab_text, signature_text
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SIGNATURE_SCHEMA: Final = "sipl.signature/1"

_FORMAT_DER: Final = 1  # as zipl writes the signature to a disk


class FileSignature(NamedTuple):
    """A file and the signature at its end; lengths are in bytes.

    `signature` is None for a file that is not signed. `verified_by` names the certificate that verified it; `why_not`
    says why none did, None where no certificate was asked. `faults` say what would keep a machine from accepting it.
    """

    path: str
    size: int
    payload_length: int  # without any signature
    payload_sha256: str  # hex
    signatures: int  # how many lie one around the other; only the outermost counts
    signature: SignatureView | None
    sclab: SclabView | None  # at the end of the payload that the outermost signature covers
    verified_by: str | None
    why_not: str | None
    faults: tuple[str, ...]

    @property
    def good(self) -> bool:
        """Whether it is signed, nothing speaks against it, and a certificate verified it, if one was asked."""
        return self.signature is not None and not self.faults and self.why_not is None


def show_signature(path: str, boot_certs: Sequence[str] = (), at: int | None = None) -> FileSignature:
    """Show the signature that a file carries; with `boot_certs` it is verified as at `at` (None is now).

    Raises:
        FileError: the file cannot be read.
        RefusedToStart: a machine would not start with these certificates.
    """
    store = CertStore.load(boot_certs, lambda *_: None) if boot_certs else None
    data = read_file(path, MAX_FILE, "a loader or a kernel")
    faults: list[str] = []
    layers: tuple[Layer, ...] = ()
    try:
        layers = read_layers(data)
    except TrailerDamaged as error:
        faults.append(error.why)
    payload = memoryview(data)[: layers[-1].payload_length if layers else len(data)]
    covered = memoryview(data)[: layers[0].payload_length if layers else len(data)]
    sclab = read_sclab(bytes(covered[-0xFFFF:]))
    signature = _signature(layers[0]) if layers else None
    if signature is not None:
        faults += _faults(layers, len(covered), signature, sclab)
    verified_by, why_not = (None, None)
    if layers and store is not None:
        verified_by, why_not = _verify(covered, layers[0].signature, store, int(time.time()) if at is None else at)
    return FileSignature(
        printable(path),
        len(data),
        len(payload),
        hashlib.sha256(payload).hexdigest(),
        len(layers),
        signature,
        sclab,
        verified_by,
        why_not,
        tuple(faults),
    )


def _signature(layer: Layer) -> SignatureView:
    view = SignatureView(_FORMAT_DER, len(layer.signature), (), None, None, None, None, False, 0, None)
    return read_signature(view, layer.signature)


def _faults(
    layers: tuple[Layer, ...], covered: int, signature: SignatureView, sclab: SclabView | None
) -> Iterator[str]:
    if len(layers) > 1:
        yield (
            f"it was signed {len(layers)} times, one signature around the other: the inner ones are taken for payload "
            "(sipl sign takes them off)"
        )
    if signature.length > MAX_SIGNATURE_LENGTH:
        yield f"the signature has {signature.length} bytes, a machine takes at most {MAX_SIGNATURE_LENGTH}"
    if signature.fault is not None:
        yield f"the signature cannot be read: {signature.fault}"
    if covered % MIN_BLOCK_SIZE:
        yield f"the signed {covered} bytes are no multiple of {MIN_BLOCK_SIZE}"
    if sclab is None:
        yield "what is signed does not end with code loading attributes (SCLAB)"
    if layers[0].record != ModuleSignature(0, 0, MODULE_SIGNATURE_PKCS7, 0, 0, signature.length):
        yield "fields of the trailer that must be zero are not: zipl takes it, Linux's kexec does not"


def _verify(covered: memoryview, signature: bytes, store: CertStore, now: int) -> tuple[str | None, str | None]:
    """Name of the certificate that verifies, and why none does."""
    from sipl.crypto.verify import SignatureCheck, SignatureRejected, find_signer

    try:
        check = SignatureCheck(covered, signature)
        index = find_signer(check, [entry.certificate for entry in store.entries], now)
    except SignatureRejected as error:
        return None, error.why
    return printable(store.entries[index].path), None


def signature_dict(view: FileSignature) -> dict[str, Any]:
    """A file's signature as JSON knows it."""
    return {"schema": SIGNATURE_SCHEMA} | {name: plain(value) for name, value in view._asdict().items()}


def signature_lines(view: FileSignature, *, quiet: bool, verbose: bool) -> Iterator[str]:
    """A line for the file, then what its signature and its attributes say."""
    yield f"{view.path}: {_verdict(view)}, {view.payload_length} bytes of payload"
    if quiet:
        return
    if verbose:
        yield f"  sha256 {view.payload_sha256}"
    if view.signature is not None:
        yield f"  {signature_text(view.signature)}"
    if view.sclab is not None:
        yield f"  {sclab_text(view.sclab)}"
    if view.why_not is not None:
        yield f"  error: not verified: {view.why_not}"
    for fault in view.faults:
        yield f"  error: {fault}"


def _verdict(view: FileSignature) -> str:
    if view.signature is None:
        return "damaged" if view.faults else "not signed"
    if view.verified_by is not None:
        return f"verified ({view.verified_by})"
    return "signed, NOT VERIFIED" if view.why_not is not None else "signed"
