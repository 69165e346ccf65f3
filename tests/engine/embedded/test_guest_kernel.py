"""A kernel given directly: it runs, at every IPL that it asks for anew, and what refuses it holds each time."""

from __future__ import annotations

from pathlib import Path

import pytest
from guest_asm import DONE, ORIGIN, program
from guest_lab import MEMORY, SPARE, Console, EndKind, LookingEngine
from guest_ring import NEXT, WRITE, Ring

from sipl import ipl
from sipl.reasons import Outcome, Reason

NO_BLOCK = 0x0102


def image(asm) -> bytes:
    """A kernel of another kind than Linux: a short PSW whose address is all that counts, and code."""
    return (bytes(4) + ORIGIN.to_bytes(4, "big")).ljust(ORIGIN, b"\0") + bytes(asm.code)


def again(subcode: int = 3):
    return program().load(2, 0).load(6, subcode).diag(2, 6, 0x308)


class Started:
    """What `boot` of a kernel left behind."""

    def __init__(self, lab, asm, *disks, mode="normal", between=None, **settings) -> None:
        self.path = Path(lab.file(image(asm)))
        self.announced = []
        self.engine = LookingEngine(
            between and (lambda machine, run: between(self.path, run)), console=Console(), timeout=10
        )
        certs = () if mode == "normal" else ("A",)
        asked = lab.settings(mode, certs=certs, memory=MEMORY, kernel=str(self.path), **settings)
        self.report = ipl.boot(disks, asked, self.engine, self.announced.append)

    @property
    def ends(self):
        return [run.end.kind for run in self.engine.runs]


def test_runs(lab):
    asm = program().load(2, SPARE).load(3, 0).load(6, 6).diag(2, 6, 0x308).end()
    started = Started(lab, asm)
    assert (started.ends, started.engine.runs[0].stopped_at) == ([EndKind.DONE], DONE)
    assert started.announced == [started.report]
    assert (started.report.outcome, started.report.psw) == (Outcome.HANDS_OVER, f"{0x0008000180000000 | ORIGIN:016x}")
    assert started.engine.runs[0].registers[3] == NO_BLOCK  # no device was booted from


def test_audit_mode_warns_and_runs(lab):
    started = Started(lab, program().end(), mode="audit")
    assert started.ends == [EndKind.DONE]
    assert [finding.reason for finding in started.report.findings] == [Reason.DIRECT_KERNEL_NOT_VERIFIED]


def test_secure_mode_never_runs_it(lab):
    started = Started(lab, program().end(), mode="secure")
    assert (started.ends, started.announced) == ([], [])
    assert (started.report.outcome, started.report.reason) == (
        Outcome.REFUSED_TO_START,
        Reason.DIRECT_KERNEL_NOT_VERIFIED,
    )


@pytest.mark.parametrize("subcode", [3, 4])
def test_every_ipl_reads_it_anew(lab, subcode):
    def change(path, run):
        if run == 2:
            path.write_bytes(image(program().end()))

    started = Started(lab, again(subcode), between=change, mode="audit")
    assert started.ends == [EndKind.REIPL, EndKind.REIPL, EndKind.DONE]
    assert len(started.announced) == 3
    for report in started.announced:
        assert [finding.reason for finding in report.findings] == [Reason.DIRECT_KERNEL_NOT_VERIFIED]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(None, Reason.IMAGE_UNREADABLE), (b"\x7fELF" + bytes(100), Reason.IMAGE_INVALID), (b"", Reason.IMAGE_UNREADABLE)],
    ids=["gone", "ELF", "empty"],
)
def test_a_file_that_has_become_something_else_is_no_kernel_any_more(lab, data, reason):
    def change(path, run):
        path.unlink() if data is None else path.write_bytes(data)

    started = Started(lab, again(), between=change)
    assert started.ends == [EndKind.REIPL]
    assert len(started.announced) == 1
    assert (started.report.outcome, started.report.reason) == (Outcome.UNDECIDED, reason)


def test_memory_is_cleared_before_the_next_start(lab):
    asm = program().load(14, SPARE).lg(9, 14).load(8, 1).stg(8, 14)
    asm.raw(bytes(again().code[len(program().code) :]))
    left = []

    def look(path, run):
        left.append(run)
        if run == 2:
            path.write_bytes(image(program().end()))

    started = Started(lab, asm, between=look)
    assert [run.registers[9] for run in started.engine.runs[:2]] == [0, 0]


def test_it_can_use_the_disks(lab):
    ring = Ring()
    ring.request()
    ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 512, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
    ring.available(1, 0)
    started = Started(lab, ring.notify().end(), lab.disk(b"a disk".ljust(4096, b".")))
    assert started.ends == [EndKind.DONE]
    assert started.engine.runs[0].bytes(Ring.BUFFER, 8) == b"a disk.."
    assert started.report.devices == ()


def test_no_engine_opens_no_disk(lab):
    kernel = lab.file(image(program().end()))
    disk = lab.disk(bytes(512))
    Path(disk.path).unlink()
    report = ipl.boot([disk], lab.settings("normal", certs=(), kernel=kernel))
    assert report.outcome is Outcome.HANDS_OVER
