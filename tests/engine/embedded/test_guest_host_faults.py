"""A host that cannot keep or read what a guest's disk holds: the guest sees an I/O error, the end says whose it was."""

from __future__ import annotations

import pytest
from guest_asm import program
from guest_lab import EndKind
from guest_ring import NEXT, WRITE, Ring

import sipl
from sipl.disk.overlay import Overlay
from sipl.errors import ImageError

IO_ERROR = 1


def writer(reboots: bool = False):
    """Writes a sector of its disk."""
    ring = Ring()
    ring.request(kind=1, sector=100)
    ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 512, NEXT, 2), (Ring.STATUS, 1, WRITE, 0))
    ring.asm.put(Ring.STATUS, b"\xff" * 8)
    ring.available(1, 0)
    asm = ring.notify()
    return asm.load(2, 0).load(6, 3).diag(2, 6, 0x308) if reboots else asm.end()


@pytest.fixture
def full(monkeypatch):
    """No room on the host for anything that a guest writes."""

    def write_from(self, offset, buffer):
        raise ImageError(self.path, "what the guest writes cannot be kept: No space left on device", "make room")

    monkeypatch.setattr(Overlay, "write_from", write_from)


def sentence(disk) -> str:
    why = "what the guest writes cannot be kept: No space left on device (make room)"
    return f"the guest saw I/O errors that are the host's: {disk.path}: {why}"


@pytest.mark.usefixtures("full")
class TestFull:
    def test_the_end_says_so(self, lab):
        disk = lab.disk(lab.components(bytes(writer().code)), size=1 << 20)
        (left,), _ = lab.boot_disk(disk)
        assert left.bytes(Ring.STATUS, 1) == bytes([IO_ERROR])
        assert left.end.kind is EndKind.DONE
        assert left.end.host_faults == (sentence(disk),)

    def test_every_run_says_so(self, lab):
        disk = lab.disk(lab.components(bytes(writer(reboots=True).code)), size=1 << 20)
        runs, _ = lab.boot_disk(disk, timeout=1)
        assert len(runs) > 1
        assert {run.end.host_faults for run in runs[:-1]} == {(sentence(disk),)}

    def test_from_python(self, lab):
        disk = lab.disk(lab.components(bytes(writer().code)), size=1 << 20)
        with sipl.Machine(disk, settings=lab.settings(memory=16 << 20), timeout=10) as machine:
            machine.boot()
            assert machine.end.host_faults == (sentence(disk),)


def test_errors_of_the_guest_s_own_are_not_the_host_s(lab):
    """A sector behind the end of the disk."""
    ring = Ring()
    ring.request(sector=1 << 30)
    ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, 512, NEXT | WRITE, 2), (Ring.STATUS, 1, WRITE, 0))
    ring.available(1, 0)
    left = lab.run(ring.notify().end())
    assert (left.bytes(Ring.STATUS, 1), left.end.host_faults) == (bytes([IO_ERROR]), ())


def test_without_faults(lab):
    assert lab.run(program().end()).end.host_faults == ()
