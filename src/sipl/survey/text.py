"""Boot maps and certificate stores as plain lines."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.text import some_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sipl.survey.model import (
        BootMapView,
        CertificateView,
        ProgramView,
        Run,
        SclabView,
        SignatureView,
    )

_RUNS_SHOWN: Final = 4


def boot_map_lines(view: BootMapView, *, verbose: bool) -> Iterator[str]:
    """One line for the disk, then its programs."""
    what = f"{view.path}: {view.format}, {view.size} bytes in blocks of {view.block_size}"
    if view.fault is not None:
        yield f"{what}: {view.fault}"
        return
    yield f"{what}, boot record version {view.version}, program table in block {view.program_table_block}"
    for program in view.programs:
        yield from _program_lines(program, verbose=verbose)


def program_title(program: ProgramView) -> str:
    """What a program is, in a line."""
    default = " (default)" if program.number == 0 else ""
    title = f"program {program.number}{default}, component table in block {program.table_block}"
    return title if program.same_as is None else f"{title}: the same as program {program.same_as}"


def _program_lines(program: ProgramView, *, verbose: bool) -> Iterator[str]:
    yield f"  {program_title(program)}"
    for component in program.components:
        where = runs_text(component.runs, verbose=verbose)
        part = "" if component.part is None else f" ({component.part})"
        yield f"    component {component.address:#x}{part}: {component.length} bytes, {where}"
        if component.digest is not None:
            yield f"      sha256 {component.digest}"
        if component.signature is not None:
            yield f"      {signature_text(component.signature)}"
        if component.sclab is not None:
            yield f"      {sclab_text(component.sclab)}"
        if component.fault is not None:
            yield f"      fault: {component.fault}"
    if program.psw is not None:
        yield f"    entry PSW {program.psw}"
    closed = closed_text(program)
    if closed:
        yield f"    {closed}"
    if program.fault is not None:
        yield f"    fault: {program.fault}"


def closed_text(program: ProgramView) -> str:
    """Whether a program is closed, or what of it is not signed; empty where that is not known."""
    if program.closed:
        return "closed if the signatures are good: everything is signed, and the loader forbids anything else (NUC)"
    if program.unsigned:
        return f"not signed: {some_of(program.unsigned)}"
    if program.closed is False and program.components:
        return "not closed: everything is signed, but the loader would take unsigned components, too (no NUC)"
    return ""


def runs_text(runs: Sequence[Run], *, verbose: bool) -> str:
    """Where on the disk something lies."""
    shown = runs if verbose else runs[:_RUNS_SHOWN]
    parts = [f"{run.block}-{run.block + run.blocks - 1}" if run.blocks > 1 else f"{run.block}" for run in shown]
    more = f" and {len(runs) - len(shown)} more" if len(shown) < len(runs) else ""
    noun = "block" if len(runs) == 1 and runs[0].blocks == 1 else "blocks"
    return f"{noun} {', '.join(parts)}{more}" if parts else "no blocks"


def signature_text(signature: SignatureView) -> str:
    """A signature in a line."""
    if signature.fault is not None:
        return f"signature of {signature.length} bytes, format {signature.format}: {signature.fault}"
    extras = [f"{signature.digest} with {signature.signature_algorithm}"]
    if signature.signed_attributes:
        extras.append("signed attributes")
    if signature.embedded_certificates:
        extras.append(f"{signature.embedded_certificates} embedded certificates")
    return f"signature of {signature.length} bytes by {signature.signer}, {', '.join(extras)}"


def sclab_text(sclab: SclabView) -> str:
    """A SCLAB in a line."""
    if sclab.fault is not None:
        return f"SCLAB of length {sclab.length}: {sclab.fault}"
    flags = "+".join(sclab.flags) or "no flags"
    place = f", PSW {sclab.load_psw}, address {sclab.load_address:#x}" if "OPSW" in sclab.flags else ""
    return f"{'global ' if 'OPSW' in sclab.flags else ''}SCLAB of length {sclab.length}, {flags}{place}"


def certificate_lines(views: Sequence[CertificateView], *, quiet: bool, verbose: bool) -> Iterator[str]:
    """A line per certificate, and with `verbose` what the guest will see of each."""
    yield f"{len(views)} certificates" if len(views) != 1 else "1 certificate"
    for view in views if not quiet else ():
        state = "valid" if view.valid else view.why_not
        yield f"  {view.number} {view.name}: {view.subject}, {view.key}, {state}"
        if verbose:
            yield f"    from {view.path}, serial {view.serial}, issued by {view.issuer}"
            yield f"    valid {view.not_before} to {view.not_after}"
            yield f"    sha256 {view.sha256}"
            yield f"    key id {view.key_id or 'none: the guest gets an invalid entry'}, key type {view.key_type}"
            yield f"    DER {view.der_length} bytes, entry in the guest {view.vce_length} bytes"
