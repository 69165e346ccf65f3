"""A guest that starts itself again is verified again, in the mode that the machine was started in."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
from guest_asm import Asm, program
from guest_lab import SPARE, EndKind, WritableDisk
from guest_ring import NEXT, WRITE, Ring

from sipl.engine.embedded import unicorn_cpu
from sipl.reasons import Outcome, Reason

BLOCK = 0x110000
FIRST = 0x40  # the last character of a blank loadparm, which nobody else looks at: there the guest counts


def counting(times: int, subcode: int = 3, clear: bool = True) -> Asm:
    """Starts itself again `times` times, with a block whose flags it clears, and stops."""
    asm = program().load(2, BLOCK).load(3, 0).load(6, 6).diag(2, 6, 0x308)
    asm.load(14, BLOCK).rxy(0xE390, 9, 14, 23).rxy(0xE390, 8, 14, 4)  # LLGC: counter, flags
    asm.put_register(SPARE, 9).put_register(SPARE + 8, 8).load(4, FIRST + times).rre(0xB921, 9, 4)  # CLGR
    skip = asm.here
    asm.ril(0xC04, 0, 0).raw("41909001").load(14, BLOCK).raw("4290E017")  # LA, STC
    if clear:
        asm.raw("9200E004")  # MVI
    asm.load(2, BLOCK).load(3, 0).load(6, 5).diag(2, 6, 0x308).load(6, subcode).diag(2, 6, 0x308)
    asm.code[skip - asm.origin : skip - asm.origin + 6] = Asm(skip).jump(asm.here, 11).code  # not lower
    return asm.end()


@pytest.mark.parametrize("subcode", [3, 4])
@pytest.mark.parametrize("clear", [False, True], ids=["flags kept", "flags cleared"])
def test_three_times(lab, clear, subcode):
    seen = []
    disk = lab.disk(lab.components(bytes(counting(3, subcode, clear).code)))
    runs, report = lab.boot_disk(disk, between=lambda machine, _: seen.append(len(machine.verifications)))
    assert [run.end.kind for run in runs] == [EndKind.REIPL] * 3 + [EndKind.DONE]
    assert [run.number(SPARE) for run in runs] == [FIRST, FIRST + 1, FIRST + 2, FIRST + 3]
    assert [run.number(SPARE + 8) for run in runs] == [0x60] * 4
    assert seen == [1] * 4
    assert (report.mode, report.outcome) == ("secure", Outcome.HANDS_OVER)


def test_the_cpu_of_an_ipl_is_given_back_before_the_next(lab, monkeypatch):
    """A guest that starts itself again for ever takes no more of the host than one that does not."""
    made, alive = [], []

    real = unicorn_cpu.Uc

    def counted(*words):
        cpu = real(*words)
        made.append(weakref.ref(cpu))
        return cpu

    monkeypatch.setattr(unicorn_cpu, "Uc", counted)
    gc.disable()
    try:
        disk = lab.disk(lab.components(bytes(counting(5).code)))
        lab.boot_disk(disk, between=lambda *_: alive.append(sum(cpu() is not None for cpu in made)))
    finally:
        gc.enable()
    assert len(made) >= 6
    assert alive == [1] * 6


@pytest.mark.parametrize("subcode", [3, 4])
def test_memory_is_cleared(lab, subcode):
    asm = counting(1, subcode)
    disk = lab.disk(lab.components(bytes(asm.code)))
    left = []

    def look(machine, run):
        left.append(machine.load(0x300000, 8))
        machine.store(0x300000, b"the past")

    lab.boot_disk(disk, between=look)
    assert left == [bytes(8), bytes(8)]


def test_a_changed_disk_is_refused(lab):
    """What counts is what the guest sees: the overlay, not the image."""
    disk = lab.disk(lab.components(bytes(counting(3).code)), size=1 << 20)
    image = Path(disk.path).read_bytes()

    def change(machine, run):
        if run == 2:
            overlay = machine.devices[0].disk
            assert isinstance(overlay, WritableDisk)
            at = image.index(bytes.fromhex("010E"))
            block, within = divmod(at, overlay.block_size)
            data = bytearray(image[block * 512 : block * 512 + 512])
            data[within + 1] ^= 1
            overlay.write_blocks(block, 1, memoryview(data))

    runs, report = lab.boot_disk(disk, between=change)
    assert [run.end.kind for run in runs] == [EndKind.REIPL] * 2
    assert (report.outcome, report.reason) == (Outcome.STOPS, Reason.SIGNATURE_NOT_VERIFIED)
    assert Path(disk.path).read_bytes() == image


def test_audit_mode_stays_audit(lab):
    disk = lab.disk(lab.components(bytes(counting(1).code)))
    runs, report = lab.boot_disk(disk, mode="audit", certs=("B",))
    assert [run.number(SPARE + 8) for run in runs] == [0x20] * 2
    assert report.mode == "audit"


def test_normal_mode(lab):
    disk = lab.disk(lab.components(bytes(counting(2).code)))
    runs, report = lab.boot_disk(disk, mode="normal", certs=())
    assert [run.number(SPARE + 8) for run in runs] == [0] * 3
    assert report.mode == "normal"


def test_a_limit_holds_over_all_ipls(lab):
    """A guest that starts itself again for ever is ended, too."""
    disk = lab.disk(lab.components(bytes(counting(1000).code)))
    runs, _ = lab.boot_disk(disk, timeout=2)
    assert runs[-1].end.kind is EndKind.TIMEOUT
    assert len(runs) > 2


def writes_over_itself(sector: int) -> bytes:
    """Overwrites a sector of its disk with zeros, through virtio-blk, and starts itself again."""
    ring = Ring()
    ring.request(kind=1, sector=sector)
    ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 512, NEXT, 2), (Ring.STATUS, 1, WRITE, 0))
    ring.available(1, 0)
    asm = ring.notify().load(2, 0).load(6, 3)
    return bytes(asm.diag(2, 6, 0x308).end().code)


@pytest.mark.parametrize("write", [False, True], ids=["overlay", "image"])
def test_a_guest_that_wrote_over_its_loader_is_refused(lab, write):
    """Wherever the writes go: the image changes only where that was asked for."""
    program_0 = writes_over_itself(0)
    layout = Path(lab.disk(lab.components(program_0), size=1 << 20).path).read_bytes()
    sector = layout.index(program_0[:512]) // 512
    disk = lab.disk(lab.components(writes_over_itself(sector)), size=1 << 20)
    before = Path(disk.path).read_bytes()
    runs, report = lab.boot_disk(disk, write=write)
    assert [run.end.kind for run in runs] == [EndKind.REIPL]
    assert (report.outcome, report.reason) == (Outcome.STOPS, Reason.SIGNATURE_NOT_VERIFIED)
    changed = before[: sector * 512] + bytes(512) + before[sector * 512 + 512 :]
    assert Path(disk.path).read_bytes() == (changed if write else before)
