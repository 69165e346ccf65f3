"""Signing files as Linux's sign-file does, and taking signatures off again (docs/signing.md).

What is signed is the payload: the file without any signature that it carries. So signing twice is signing once.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from sipl.author.host_files import NewContent, read_file
from sipl.author.signer import check_component_size, weaknesses
from sipl.crypto.appended_signature import Layer, TrailerDamaged, read_layers, trailer
from sipl.errors import SigningRefused, UsageError
from sipl.firmware.components import Component
from sipl.firmware.sclab import SclabCount, check_sclab
from sipl.firmware.verdict import Judge
from sipl.layout.boot_record import MIN_BLOCK_SIZE
from sipl.layout.diag508 import MAX_COMPONENT_LENGTH
from sipl.reasons import Mode, Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.author.signer import Signer
    from sipl.firmware.verdict import Finding
    from sipl.layout.record import Buffer

# A component that a machine can verify, with signatures around it.
MAX_FILE: Final = MAX_COMPONENT_LENGTH + (1 << 20)


T = TypeVar("T")


class FileSigned(NamedTuple):
    """What became of a file; `changed` is False where it was as it should be, and was not written."""

    path: str  # of the file that was written, or would have been
    payload_length: int  # bytes
    signature: bytes | None  # PKCS#7 in DER; None: the file has none now
    removed: int  # how many signatures were taken off
    changed: bool
    notes: tuple[str, ...]  # what is worth knowing, as sentences without a full stop


def sign_file(path: str, signer: Signer, *, output: str | None = None, force: bool = False) -> FileSigned:
    """Sign a file in place, or write the signed file to `output`; signatures that it carries are taken off first.

    A file that `signer` could have left behind stays as it is. `force` goes on where a file has no whole blocks, or no
    code loading attributes at its end.

    Raises:
        FileError: the file cannot be read or written; it is as it was.
        SigningRefused: no machine would accept the signed file.
        SigningError: the key cannot sign.
    """
    data, layers = read_signed(path)
    end = layers[-1].payload_length if layers else len(data)
    payload = memoryview(data)[:end]
    notes = check_payload(path, payload, force=force)
    check_output(path, output, force=force)
    if len(layers) == 1 and signer.has_signed(payload, layers[0].signature):
        signature = layers[0].signature
    else:
        signature = naming(path, lambda: signer.sign(payload))
    notes += weaknesses(payload, signature, signer.certificate)
    return finish(path, data, layers, signature, output, notes)


def strip_file(path: str, *, output: str | None = None, force: bool = False) -> FileSigned:
    """Take all signatures off a file, in place or to `output`; without one it stays as it is.

    `force` goes on where the file has other names (hard links), which will keep the signed file.

    Raises:
        FileError: the file cannot be read or written; it is as it was.
        SigningRefused: its end is that of a signed file, but damaged; or it has other names.
    """
    data, layers = read_signed(path)
    if layers:
        check_output(path, output, force=force)
    return finish(path, data, layers, None, output, ())


def read_signed(path: str) -> tuple[bytes, tuple[Layer, ...]]:
    """A file and the signatures that it carries, the outermost first.

    Raises:
        FileError: it cannot be read.
        SigningRefused: its end is that of a signed file, but damaged.
    """
    data = read_file(path, MAX_FILE, "a loader or a kernel")
    try:
        return data, read_layers(data)
    except TrailerDamaged as error:
        raise SigningRefused("damaged", path, error.why, error.hint) from None


def check_payload(path: str, payload: Buffer, *, force: bool = False) -> tuple[str, ...]:
    """Whether a machine could load this payload and verify it as a component; what `force` let pass is returned.

    Raises:
        SigningRefused: it could not.
    """
    naming(path, lambda: check_component_size(len(payload)))
    notes: list[str] = []
    for refusal in (_whole_blocks(path, payload), _attributes(path, payload)):
        if refusal is not None and not force:
            raise refusal
        if refusal is not None:
            notes.append(refusal.why)
    return tuple(notes)


def _whole_blocks(path: str, payload: Buffer) -> SigningRefused | None:
    """Whole blocks are loaded; what fills the last one would be verified with the rest."""
    if len(payload) % MIN_BLOCK_SIZE == 0:
        return None
    why = f"its {len(payload)} bytes are no multiple of {MIN_BLOCK_SIZE}: what is loaded would not be what was signed"
    hint = "take the unchanged file from its package; --force signs it nevertheless"
    return SigningRefused("not-whole-blocks", path, why, hint, can_be_forced=True)


class _Alone:
    """Storage that holds one component, at address 0."""

    def __init__(self, data: Buffer) -> None:
        self._data = data

    def load(self, address: int, length: int) -> bytes:
        return bytes(self._data[address : address + length])


def _attributes(path: str, payload: Buffer) -> SigningRefused | None:
    """The rules on code loading attributes, all but where they want to be loaded: nobody knows that yet."""
    found: list[Finding] = []
    judge = Judge(found.append)
    judge.mode = Mode.AUDIT
    check_sclab(_Alone(payload), Component(0, 0, len(payload)), SclabCount(), judge)
    broken = [finding for finding in found if finding.reason is not Reason.SCLAB_ADDRESS_MISMATCH]
    if not broken:
        return None
    reason = broken[0].reason
    if reason is Reason.SCLAB_MISSING:
        why = "it does not end with code loading attributes (SCLAB): no machine would boot it in secure mode"
        hint = (
            "sign the stage3.bin and the kernel image of a release that knows secure IPL; --force signs it nevertheless"
        )
    else:
        why = broken[0].message.removeprefix("component at 0x0: ")
        hint = "take the unchanged file from its package; --force signs it nevertheless"
    return SigningRefused(str(reason), path, why, hint, can_be_forced=True)


def check_output(path: str, output: str | None, *, force: bool = False) -> None:
    """Replacing a file leaves its other names (hard links) with the old content.

    Raises:
        SigningRefused: the file that is to be replaced has other names.
        UsageError: `output` is empty.
    """
    if output == "":
        raise UsageError(path, "the name of the output is empty", "name a file")
    try:
        names = os.stat(path if output is None else output).st_nlink
    except (OSError, ValueError):
        return  # nothing is there, or writing will say what is wrong
    if names > 1 and not force:
        why = f"the file has {names} names (hard links), the others would keep the old content"
        raise SigningRefused(
            "hard-links", output or path, why, "write to another file with -o, or say --force", can_be_forced=True
        )


def finish(
    path: str,
    data: bytes,
    layers: tuple[Layer, ...],
    signature: bytes | None,
    output: str | None,
    notes: tuple[str, ...],
) -> FileSigned:
    """Write the payload of a file with the signature, or without any, unless that is what is there.

    Raises:
        FileError: it cannot be written.
    """
    end = layers[-1].payload_length if layers else len(data)
    content = data[:end] if signature is None else data[:end] + trailer(signature)
    _check_result(content, end, signature)
    place = path if output is None else output
    changed = content != data
    if changed or output is not None:
        with NewContent(place, content) as new:
            new.commit(replace=True)
    removed = len(layers) if changed else 0
    return FileSigned(place, end, signature, removed, changed, notes)


def _check_result(content: bytes, end: int, signature: bytes | None) -> None:
    """What is written is read once more, as zipl will: payload and signature must be found where they belong."""
    layers = read_layers(content)
    found = [(layer.payload_length, layer.signature) for layer in layers]
    if found != ([] if signature is None else [(end, signature)]):
        raise SigningRefused("damaged", "", "the signed file would not be read as it was written")


def naming(path: str, do: Callable[[], T]) -> T:
    """The result of `do`; a refusal that names no place is one of the file.

    Raises:
        SigningRefused: as `do`.
    """
    try:
        return do()
    except SigningRefused as error:
        where = error.where or path
        raise SigningRefused(error.kind, where, error.why, error.hint, can_be_forced=error.can_be_forced) from None
