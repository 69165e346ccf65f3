"""What sealing and unsealing did, as objects, as JSON and as lines (docs/sealing.md)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from sipl.layout.boot_record import BOOT_RECORD_SIZE
from sipl.reasons import Level
from sipl.report.json_form import plain
from sipl.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sipl.author.seal import PlannedComponent, PlannedProgram, SealPlan, Stage
    from sipl.author.seal_room import Write
    from sipl.crypto.certificate import Certificate
    from sipl.errors import SealRefused
    from sipl.report.model import Report
    from sipl.settings import Disk

SEAL_SCHEMA: Final = "sipl.seal/1"
UNSEAL_SCHEMA: Final = "sipl.unseal/1"


class SealedComponent(NamedTuple):
    """A component of a sealed program. `what` is empty where nothing tells; `state` is signed, kept or unsigned.

    `adapted`: the loader's parameters, in which the length of the kernel's file fits the new signature.
    """

    address: int
    length: int
    sha256: str  # hex, of what is loaded
    what: str
    state: str
    adapted: bool


class SealedProgram(NamedTuple):
    """A program; `numbers` are its entries in the program table. One that is not `sealed` was carried over as it is."""

    numbers: tuple[int, ...]
    sealed: bool
    psw: str  # hex
    components: tuple[SealedComponent, ...]


class SealWrite(NamedTuple):
    """Bytes of the disk that are written; `stage` counts flushes, origin 0: what has one number has no order."""

    stage: int
    offset: int
    length: int
    what: str


class SealReport(NamedTuple):
    """What sealing did, or with `dry_run` would do. `done`: the disk is sealed, and verified.

    `signer` and `certificate` (SHA-256, hex) are those of the signatures. `unsigned` names what is loaded without a
    signature, those parts first that matter most; `warnings` are what the boot side has to say all the same.
    """

    path: str
    format: str
    block_size: int
    dry_run: bool
    done: bool
    signer: str
    certificate: str
    programs: tuple[SealedProgram, ...]
    writes: tuple[SealWrite, ...]
    unsigned: tuple[str, ...]
    warnings: tuple[str, ...]


class UnsealReport(NamedTuple):
    """What unsealing did, or with `dry_run` would do: bytes 0 to 0x97 of block 0 are `record` again, hex."""

    path: str
    format: str
    block_size: int
    dry_run: bool
    done: bool
    record: str


def make_report(
    path: str, image_format: str, certificate: Certificate, plan: SealPlan, reports: Iterable[Report], *, dry_run: bool
) -> SealReport:
    """The report of a plan that was carried out, or tried; `reports` are those of the boot side, by sealed program."""
    parts: list[dict[int, str]] = []
    unsigned: dict[str, None] = {}
    warnings: dict[str, None] = {}
    for report in reports:
        parts.append({c.address: str(c.part) for c in report.components if c.part is not None})
        unsigned |= dict.fromkeys(report.unsigned)
        warnings |= {f"{f.reason}: {f.message}": None for f in report.findings if f.level is not Level.INFO}
    named = iter(parts)
    programs = tuple(_sealed(p, next(named) if p.found.wanted else {}) for p in plan.programs)
    return SealReport(
        path=printable(path),
        format=image_format,
        block_size=plan.block_size,
        dry_run=dry_run,
        done=not dry_run,
        signer=certificate.subject,
        certificate=certificate.fingerprint.hex(),
        programs=programs,
        writes=tuple(_writes(plan)),
        unsigned=tuple(unsigned),
        warnings=tuple(warnings),
    )


def _sealed(program: PlannedProgram, parts: dict[int, str]) -> SealedProgram:
    components = tuple(_sealed_component(component, parts) for component in program.components)
    return SealedProgram(program.found.numbers, program.found.wanted, f"{program.found.psw:016x}", components)


def _sealed_component(component: PlannedComponent, parts: dict[int, str]) -> SealedComponent:
    found = component.found
    state = "unsigned" if component.signature is None else "signed" if component.new else "kept"
    digest = content_digest(component)
    what = component.title or parts.get(found.address, "")
    return SealedComponent(found.address, found.length, digest, what, state, digest != found.digest)


def content_digest(component: PlannedComponent) -> str:
    """SHA-256, hex, of what is loaded."""
    if component.data is None:
        return component.found.digest
    return hashlib.sha256(component.data).hexdigest()


def _writes(plan: SealPlan) -> Iterable[SealWrite]:
    stages: list[tuple[Stage | None, Sequence[Write]]] = [(stage, stage.writes) for stage in plan.stages]
    for number, (_, writes) in enumerate([*stages, (None, [plan.last])]):
        for write in writes:
            length = len(write.data) if write is not writes[-1] or number < len(stages) else BOOT_RECORD_SIZE
            yield SealWrite(number, write.offset, length, write.what)


def seal_dict(report: SealReport) -> dict[str, Any]:
    """The report as JSON knows it."""
    return {"schema": SEAL_SCHEMA} | {name: plain(value) for name, value in report._asdict().items()}


def unseal_dict(report: UnsealReport) -> dict[str, Any]:
    """The report as JSON knows it."""
    return {"schema": UNSEAL_SCHEMA} | {name: plain(value) for name, value in report._asdict().items()}


def refusal_dict(schema: str, disk: Disk, refusal: SealRefused) -> dict[str, Any]:
    """What takes the place of a report where a disk stays as it is."""
    return {
        "schema": schema,
        "path": printable(disk.path),
        "done": False,
        "reason": refusal.reason,
        "message": refusal.why,
        "hint": refusal.hint,
    }


def seal_lines(report: SealReport, *, quiet: bool, verbose: bool) -> Iterator[str]:
    """The report as plain lines."""
    if report.done:
        yield f"{report.path}: sealed; would boot in secure mode, verified"
    else:
        yield f"{report.path}: nothing was written; sealed like this it would boot in secure mode"
    if quiet:
        return
    yield f"  signed by {report.signer}, certificate sha256 {report.certificate}"
    for program in report.programs:
        yield from _program_lines(program)
    if report.dry_run or verbose:
        for write in report.writes:
            yield f"  {_write_title(report, write)}: {write.length} bytes at byte {write.offset:#x}: {write.what}"
    if report.unsigned:
        yield f"  stays unsigned: {', '.join(report.unsigned)}"
    for warning in report.warnings:
        yield f"  warning: {warning}"


def _write_title(report: SealReport, write: SealWrite) -> str:
    return f"{'would write' if report.dry_run else 'wrote'}, in step {write.stage + 1}"


_STATES: Final = {"signed": "signed", "kept": "keeps its signature", "unsigned": "not signed"}


def _program_lines(program: SealedProgram) -> Iterator[str]:
    numbers = ", ".join(f"{number} (default)" if number == 0 else str(number) for number in program.numbers)
    left = "" if program.sealed else ", left as it is"
    yield f"  program {numbers}, entry PSW {program.psw}{left}"
    for component in program.components:
        what = f", {component.what}" if component.what else ""
        adapted = ", adapted to the signature" if component.adapted else ""
        yield (
            f"    component {component.address:#x}: {component.length} bytes{what}: {_STATES[component.state]}{adapted}"
        )
        yield f"      sha256 {component.sha256}"


def unseal_lines(report: UnsealReport) -> Iterator[str]:
    """The report as plain lines."""
    if report.done:
        yield f"{report.path}: unsealed; the boot record is the one from before it was sealed"
    else:
        yield f"{report.path}: nothing was written; the boot record from before it was sealed is there"
