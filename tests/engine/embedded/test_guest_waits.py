"""How a disabled wait is explained: by real loaders, firmware and kernels, and not where something else waits so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from guest_asm import WAIT, program
from guest_lab import EndKind
from ipl_lab import LOADER, PARAMETERS, PSW, Execute, Load, code, kernel_bytes, loader_bytes

from sipl import ipl
from sipl.disk.open import open_image
from sipl.engine.embedded.engine import EmbeddedEngine
from sipl.engine.waits import Stopped, explain
from sipl.layout.guest_ends import DemoEnd, LoaderEnd
from sipl.machine.memory import GuestMemory
from sipl.machine.options import MachineOptions
from sipl.settings import Settings

UNKNOWN = "the guest stopped for a reason that it alone knows"
NOT_SECURE = "zipl's loader refused the kernel, as its own check of secure IPL found no verified one where it starts"
WAIT_31 = 0x0002000080000000
MIB = 1 << 20


def said(end):
    """The sentence without the PSW behind it."""
    assert end.kind is EndKind.CRASHED, end
    return re.fullmatch(r"(.*) \(disabled wait, PSW [0-9a-f]{16} [0-9a-f]{16}\)", end.message)[1]


class FromDisk:
    """Pieces of the disks that zipl wrote, found by their dumps."""

    def __init__(self, shared, name):
        self._path = str(shared / "disks" / f"{name}.qcow2")
        self._layout = (shared / "disks" / f"{name}.layout.txt").read_text()

    def component(self, address: int) -> bytes:
        part = self._layout[self._layout.index(f"compdat {address:016x}") :]
        block, count = map(int, re.search(r"segs \[\((\d+), 512, (\d+)\)\]", part).groups())
        with open_image(self._path) as image:
            return image.read(block * 512, (count + 1) * 512)


class TestLoader:
    """zipl's own, signed anew, in secure mode."""

    @pytest.fixture
    def start(self, lab, shared):
        disk = FromDisk(shared, "good")
        stage3, parameters = disk.component(LOADER), bytearray(disk.component(PARAMETERS))

        def start(kernel, changes=()):
            for offset, value in changes:
                parameters[offset : offset + 8] = value.to_bytes(8, "big")
            content = [lab.signed(LOADER, stage3), Load(PARAMETERS, bytes(parameters)), kernel, Execute(PSW)]
            (left,), _ = lab.boot_disk(lab.disk(content), timeout=5)
            return said(left.end)

        return start

    def test_a_kernel_without_signature(self, start):
        assert start(Load(0x10000, code(4096, 1))) == NOT_SECURE

    @pytest.mark.parametrize("change", [(24, 0x0008000080010010), (56, 0x11000)], ids=["PSW", "address"])
    def test_a_kernel_that_is_verified_and_starts_elsewhere(self, lab, start, change):
        assert start(lab.signed(0x10000, kernel_bytes(4096)), [change]) == NOT_SECURE


class TestFirmware:
    def test_debian_s_with_an_empty_disk(self, lab):
        firmware = Path("/usr/share/qemu/s390-ccw.img")
        if not firmware.is_file():
            pytest.skip(f"{firmware} is missing (apt-get install qemu-system-data)")
        (left,), _ = lab.boot_disk(lab.disk(bytes(MIB)), mode="normal", certs=(), firmware=str(firmware))
        assert (
            said(left.end)
            == "the firmware stopped, as it found nothing to boot or had to give up; the console says why"
        )


class TestLinux:
    """Debian's kernel, started without a disk and with too little for it."""

    def end(self, shared, tmp_path, memory):
        (tmp_path / "vmlinuz").write_bytes(FromDisk(shared, "unsigned").component(0x10000))
        ends = []

        class Keeps(EmbeddedEngine):
            def run(self, machine, state):
                ends.append(super().run(machine, state))
                return ends[-1]

        settings = Settings(machine=MachineOptions(memory=memory), kernel=str(tmp_path / "vmlinuz"))
        ipl.boot([], settings, Keeps(timeout=120))
        return said(ends[0])

    def test_that_cannot_unpack_itself(self, shared, tmp_path):
        said = "Linux stopped while it was unpacking itself, before its kernel ran; the console says why"
        assert self.end(shared, tmp_path, 20 * MIB) == said

    @pytest.mark.slow
    def test_that_panics(self, shared, tmp_path):
        said = "Linux stopped itself, as it does after a panic; the console says why"
        assert self.end(shared, tmp_path, 64 * MIB) == said


class TestOthers:
    """The same PSW means nothing where the one whose code it is has not run."""

    @pytest.mark.parametrize("address", [0, 0x4512, 0x23CE4, 0x001FFFFFFE4C93EA])
    @pytest.mark.parametrize("mask", [WAIT, WAIT_31])
    def test_a_guest_of_another_kind(self, lab, mask, address):
        if mask == WAIT_31 and address >> 31:
            address = 0x4500
        left = lab.run(program().end(address) if mask == WAIT else program().go(WAIT_31, address))
        assert said(left.end) == UNKNOWN
        assert left.end.message.endswith(f"{mask:016x} {address:016x})")


class TestEvidence:
    """Each kind by hand, and what must not be taken for it."""

    FIRMWARE = 13 * MIB

    @pytest.fixture
    def memory(self):
        memory = GuestMemory(16 * MIB)
        yield memory
        memory.close()

    def test_loader(self, memory):
        memory.write(LOADER, loader_bytes(0x4000))
        assert said(explain(Stopped(WAIT_31, 0x4512, LOADER + 8, None, memory))) == NOT_SECURE
        assert (
            said(explain(Stopped(WAIT_31, 0x4501, LOADER + 8, None, memory)))
            == "zipl's loader stopped with code 0x4501"
        )
        for mask, back in ((WAIT, LOADER + 8), (WAIT_31, LOADER - 2), (WAIT_31, LOADER + 0x4000)):
            assert said(explain(Stopped(mask, 0x4512, back, None, memory))) == UNKNOWN

    def test_firmware(self, memory):
        assert "firmware" in said(explain(Stopped(WAIT, 0, self.FIRMWARE + 4, self.FIRMWARE, memory)))
        for mask, address, back, base in (
            (WAIT, 0, self.FIRMWARE + 4, None),
            (WAIT, 8, self.FIRMWARE + 4, self.FIRMWARE),
            (WAIT_31, 0, self.FIRMWARE + 4, self.FIRMWARE),
            (WAIT, 0, self.FIRMWARE - 4, self.FIRMWARE),
            (WAIT, 0, 1 << 40, self.FIRMWARE),
        ):
            assert said(explain(Stopped(mask, address, back, base, memory))) == UNKNOWN

    @pytest.mark.parametrize("pointer", [0, 0x2000, 16 * MIB - 4, 1 << 63])
    def test_linux_with_a_block_that_is_no_block(self, memory, pointer):
        memory.write(0xE18, pointer.to_bytes(8, "big"))
        assert said(explain(Stopped(WAIT, 1 << 52, 0, None, memory))) == UNKNOWN

    @pytest.mark.parametrize("condition_code", [0, 0x0000300000000000])
    def test_linux(self, memory, condition_code):
        memory.write(0x10008, b"S390EP")
        unpacking = said(explain(Stopped(WAIT | condition_code, 0x20000, 0, None, memory)))
        assert unpacking.startswith("Linux stopped while it was unpacking itself")
        assert said(explain(Stopped(WAIT, 0x8000, 0, None, memory))) == UNKNOWN
        memory.write(0xE18, (0x3000).to_bytes(8, "big"))
        memory.write(0x3000, b"OSINFOSZ")
        panic = said(explain(Stopped(WAIT | condition_code, 1 << 52, 0, None, memory)))
        assert panic.startswith("Linux stopped itself")
        assert said(explain(Stopped(WAIT, 0x20000, 0, None, memory))) == UNKNOWN


@pytest.mark.parametrize("end", [*DemoEnd, *LoaderEnd], ids=lambda end: f"{type(end).__name__}-{end.name}")
def test_our_own_programs_are_known_by_their_codes(end):
    told = explain(Stopped(0x0002000180000000, end, 0, None, GuestMemory(MIB)))
    assert (told.kind is EndKind.DONE) is (end is DemoEnd.DONE)
    assert UNKNOWN not in told.message
    assert ("sipl's loader" in told.message) is isinstance(end, LoaderEnd)
