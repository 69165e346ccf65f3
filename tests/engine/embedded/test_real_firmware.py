"""A real firmware runs on the machine as guest code: one made by hand, which looks around, and Debian's."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")

import elf_lab
from elf_lab import CODE, DATA
from guest_asm import DONE, PROGRAM_CHECK, PROGRAM_NEW, SUPERVISOR, WAIT, Asm, program
from guest_lab import MEMORY, SPARE, TIMEOUT, Console, EndKind, LookingEngine
from ipl_lab import MIB, Execute, Load

from sipl import ipl
from sipl.engine.embedded.engine import EmbeddedEngine
from sipl.errors import UsageError
from sipl.layout.iplb import IPLB_CHAIN_SIZE, IPLB_SIZE
from sipl.machine.options import MachineOptions
from sipl.reasons import Outcome, Reason
from sipl.settings import Disk, Settings

DEBIAN = Path("/usr/share/qemu/s390-ccw.img")
BASE = 13 * MIB  # of a machine with `MEMORY`
BLOCK = 0x110000
COUNTER = BLOCK + 23  # the last character of the loadparm, which nobody looks at while it is blank
BLANK = 0x40
LOADED_PSW = 0x000800008000A000


def counting(asm: Asm, times: int) -> Asm:
    """Starts itself again `times` times: the loadparm of the IPL parameter block is what survives."""
    asm.load(2, BLOCK).load(3, 0).load(6, 6).diag(2, 6, 0x308)
    asm.load(14, COUNTER).rxy(0xE390, 9, 14).put_register(SPARE, 9).load(4, BLANK + times).rre(
        0xB921, 9, 4
    )  # LLGC, CLGR
    skip = asm.here
    asm.ril(0xC04, 0, 0).raw("41909001").load(14, COUNTER).raw("4290E000")  # LA, STC
    asm.load(2, BLOCK).load(3, 0).load(6, 5).diag(2, 6, 0x308).load(6, 3).diag(2, 6, 0x308)
    asm.code[skip - asm.origin : skip - asm.origin + 6] = Asm(skip).jump(asm.here, 11).code  # not lower
    return asm


@pytest.fixture
def boot(lab):
    """Boot a disk with a firmware; the runs and the report."""

    def call(disk, firmware, *, mode="normal", console=None, between=None, timeout=TIMEOUT, until=None, **others):
        engine = LookingEngine(between, console=console or Console(), timeout=timeout, until=until)
        disks = disk if isinstance(disk, list) else [disk]
        menu_timeout = others.pop("menu_timeout_ms", 0)
        settings = lab.settings(mode, memory=MEMORY, firmware=str(firmware), timeout=menu_timeout, **others)
        return engine.runs, ipl.boot(disks, settings, engine)

    return call


class TestByHand:
    """A firmware of a few instructions."""

    @staticmethod
    def looks(tmp_path, times=0):
        asm = Asm(CODE).put_psw(PROGRAM_NEW, WAIT, PROGRAM_CHECK)
        asm.raw("0DA0").put_register(SPARE + 8, 10).rre(0xB98D, 4, 5)  # BASR, EPSW
        asm.put_register(SPARE + 16, 4).put_register(SPARE + 24, 5)
        asm.ril(0xC00, 9, (DATA - asm.here) // 2).lg(9, 9).put_register(SPARE + 32, 9)  # LARL
        path = tmp_path / "fw.img"
        path.write_bytes(elf_lab.firmware(bytes(counting(asm, times).end().code)))
        return path

    def test_it_starts_at_its_entry_and_is_relocated(self, lab, boot, tmp_path):
        (left,), _ = boot(lab.disk(lab.program()), self.looks(tmp_path))
        assert (left.stopped_at, left.number(SPARE)) == (DONE, BLANK)
        assert BASE + CODE < left.number(SPARE + 8) < BASE + CODE + 64
        assert (left.number(SPARE + 16) & 0xFFFFCFFF) << 32 | left.number(SPARE + 24) & 0xFFFFFFFF == SUPERVISOR
        assert left.number(SPARE + 32) == BASE + 0x1008

    def test_the_ipl_device_is_prepared(self, lab, boot, tmp_path):
        disks = [lab.disk(lab.program()) for _ in range(3)]
        (left,), _ = boot(disks, self.looks(tmp_path))
        assert left.bytes(0xCC, 28) == bytes(18) + (2).to_bytes(2, "big") + (BASE - IPLB_CHAIN_SIZE).to_bytes(8, "big")
        devnos = [left.number(at + 110, 2) for at in (BLOCK, *range(BASE - IPLB_CHAIN_SIZE, BASE, IPLB_SIZE))]
        assert devnos == [1, 2, 3, 0, 0, 0, 0, 0]

    def test_every_ipl_comes_back_to_the_same_image_in_cleared_memory(self, lab, boot, tmp_path):
        path = self.looks(tmp_path, times=3)
        found = []

        def change(machine, run):
            found.append(machine.load(0x300000, 8))
            machine.store(0x300000, b"the past")
            machine.store(BASE, bytes(0x3000))
            path.write_bytes(b"something else")

        runs, _ = boot(lab.disk(lab.program()), path, between=change)
        assert [run.end.kind for run in runs] == [EndKind.REIPL] * 3 + [EndKind.DONE]
        assert [run.number(SPARE) for run in runs] == [BLANK, BLANK + 1, BLANK + 2, BLANK + 3]
        assert [run.number(SPARE + 32) for run in runs] == [BASE + 0x1008] * 4
        assert found == [bytes(8)] * 4

    def test_there_is_no_verdict(self, lab, boot, tmp_path):
        disk = lab.disk(lab.program())
        _, report = boot(disk, self.looks(tmp_path))
        assert (report.mode, report.outcome, report.reason) == ("normal", Outcome.UNDECIDED, Reason.FIRMWARE_DECIDES)
        assert (report.would_boot, report.psw, report.components, report.certificates) == (None, None, (), ())
        assert [(device.path, device.outcome) for device in report.devices] == [(disk.path, "not-tried")]
        assert [(finding.reason, finding.level) for finding in report.findings] == [(Reason.FIRMWARE_DECIDES, "info")]

    @pytest.mark.parametrize(("mode", "flags"), [("audit", 0x20), ("secure", 0x60)])
    def test_other_modes_need_trust(self, lab, boot, tmp_path, mode, flags):
        disk, path = lab.disk(lab.program()), self.looks(tmp_path)
        runs, report = boot(disk, path, mode=mode)
        assert (runs, report.outcome, report.reason) == ([], Outcome.REFUSED_TO_START, Reason.FIRMWARE_NOT_TRUSTED)
        (left,), report = boot(disk, path, mode=mode, trust_firmware=True)
        assert (report.mode, report.outcome, report.would_boot) == (mode, Outcome.UNDECIDED, None)
        assert [(finding.reason, finding.level) for finding in report.findings] == [
            (Reason.FIRMWARE_DECIDES, "warning")
        ]
        assert left.number(BLOCK + 4, 1) == flags

    def test_every_ipl_is_announced(self, lab, tmp_path):
        said = []
        settings = lab.settings("normal", memory=MEMORY, firmware=str(self.looks(tmp_path, times=2)))
        report = ipl.boot([lab.disk(lab.program())], settings, EmbeddedEngine(timeout=TIMEOUT), said.append)
        assert said == [report] * 3

    def test_a_file_that_is_no_firmware(self, lab, boot, tmp_path):
        path = tmp_path / "fw.img"
        path.write_bytes(b"nothing")
        runs, report = boot(lab.disk(lab.program()), path)
        assert (runs, report.outcome, report.reason) == ([], Outcome.UNDECIDED, Reason.IMAGE_INVALID)

    def test_what_makes_no_sense(self, lab, boot, tmp_path):
        disk, path = lab.disk(lab.program()), self.looks(tmp_path)
        settings = lab.settings("normal", memory=MEMORY, firmware=str(path))
        for call in (lambda: ipl.boot([disk], settings), lambda: ipl.verify(disk, settings)):
            with pytest.raises(UsageError, match="nobody runs it"):
                call()
        with pytest.raises(UsageError, match="a kernel is named"):
            boot(disk, path, kernel=disk.path)


@pytest.fixture
def debian():
    if not DEBIAN.is_file():
        pytest.skip(f"{DEBIAN} is missing (apt-get install qemu-system-data)")
    return DEBIAN


class Typist(Console):
    """Types a key when it sees what the key answers: this firmware takes one and forgets what comes with it."""

    def __init__(self, *answers: tuple[bytes, bytes]) -> None:
        super().__init__()
        self.answers = list(answers)
        self.read_to = 0

    def read(self, timeout: float, room: int) -> bytes:
        if not self.answers or self.answers[0][0] not in self.written[self.read_to :]:
            return b""
        self.read_to = len(self.written)
        return self.answers.pop(0)[1]


class TestDebian:
    """The firmware that QEMU brings, without secure IPL; its disks hold programs of ours."""

    @staticmethod
    def disk(lab, asm, **how):
        return lab.disk([Load(0xA000, bytes(asm.code).ljust(512, b"\0")), Execute(LOADED_PSW)], size=1 << 20, **how)

    @pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
    @pytest.mark.parametrize("block_size", [512, 4096])
    def test_it_boots_what_our_own_boot_side_boots(self, lab, boot, debian, kind, block_size):
        size = {"block_size": block_size, "kind": kind}
        disk = lab.disk(
            [Load(0xA000, bytes(program().end().code).ljust(block_size, b"\0")), Execute(LOADED_PSW)],
            size=1 << 20,
            **size,
        )
        console = Console()
        (left,), _ = boot(disk, debian, console=console)
        (own,), report = lab.boot_disk(disk, mode="normal", certs=())
        assert report.outcome is Outcome.HANDS_OVER
        assert (left.stopped_at, own.stopped_at) == (DONE, DONE)
        assert b"LOADPARM=[        ]" in console.written
        loaded = slice(0xA000, 0xA000 + block_size)
        assert left.memory[loaded] == own.memory[loaded]
        assert left.number(0xB8) == own.number(0xB8)  # subsystem identification word, interruption parameter
        blocks = [bytearray(one.bytes(one.number(0x14, 4), 200)) for one in (left, own)]
        if kind == "virtio-scsi":
            # A firmware of before fall-backs makes a block of type CCW of it, a later one names the boot position.
            assert [block[12] for block in blocks] == [0x02, 0xFF]
            blocks = [block[:12] + block[13:110] + block[112:] for block in blocks]
        assert blocks[0] == blocks[1]

    @pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
    def test_every_ipl_goes_through_it(self, lab, boot, debian, kind):
        console = Console()
        runs, _ = boot(self.disk(lab, counting(program(), 2).end(), kind=kind), debian, console=console)
        assert [run.number(SPARE) for run in runs] == [BLANK, BLANK + 1, BLANK + 2]
        assert [run.end.kind for run in runs] == [EndKind.REIPL, EndKind.REIPL, EndKind.DONE]
        assert console.written.count(b"LOADPARM=[") == 3

    def test_a_disk_without_a_program_stops_it(self, lab, boot, debian):
        runs, report = boot(lab.disk(bytes(1 << 20)), debian)
        assert [(run.end.kind, run.psw[0] & WAIT) for run in runs] == [(EndKind.CRASHED, WAIT)]
        assert report.reason is Reason.FIRMWARE_DECIDES

    def test_its_menu_is_answered_on_the_console(self, lab, boot, debian):
        console = Typist((b"Please choose", b"7"), (b"7", b"\r"), (b"Please choose", b"1"), (b"1", b"\r"))
        (left,), _ = boot(self.disk(lab, program().end()), debian, console=console, loadparm="PROMPT")
        assert left.stopped_at == DONE

    def test_its_menu_waits_as_long_as_it_is_told(self, lab, boot, debian):
        console = Console()
        (left,), _ = boot(self.disk(lab, program().end()), debian, console=console, menu=True, menu_timeout_ms=2000)
        assert left.stopped_at == DONE
        assert b"2 seconds" in console.written

    def test_trusted_it_boots_anything(self, lab, boot, debian):
        """What `--trust-firmware` means: this firmware knows no secure IPL."""
        (left,), report = boot(self.disk(lab, program().end()), debian, mode="secure", trust_firmware=True)
        assert left.stopped_at == DONE
        assert (report.mode, report.would_boot) == ("secure", None)


class Quiet(Console):
    """A console at which nobody types."""

    def read(self, timeout: float, room: int) -> bytes:
        time.sleep(timeout)
        return b""


@pytest.mark.slow
def test_linux_says_the_same_whoever_boots_it(shared, debian):
    """All that Linux's user space finds and says, but for times."""
    disk = Disk(str(shared / "disks" / "unsigned.qcow2"))

    def lines(**settings):
        console = Quiet()
        ipl.boot(
            [disk],
            Settings(machine=MachineOptions(), **settings),
            EmbeddedEngine(console, timeout=180, until="GUEST-DONE\r"),
        )
        text = console.written.decode("utf-8", "replace")
        return re.findall(
            r"^(?:GUEST-|CMDLINE|IPL|LOCKDOWN|DMESG).*$", re.sub(r"\[ *\d+\.\d+\]", "[]", text), re.MULTILINE
        )

    own, real = lines(), lines(firmware=str(debian))
    assert own[-1].strip() == "GUEST-DONE"
    assert len(own) > 8
    assert real == own
