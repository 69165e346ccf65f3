"""What a review of the engine found: ends that were told wrongly, and what was left behind (docs/qemu-engine.md)."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
from console_guests import write as write_console
from ipl_lab import HANDS_OVER, MIB
from qemu_guests import Console, block, choose, find_qemu, go_on, reboot, says, wait_for_test

from sipl.engine.base import EndKind
from sipl.engine.qemu import process as process_module
from sipl.engine.qemu import run as run_module
from sipl.engine.qemu import session as session_module
from sipl.engine.qemu.own_setup import OwnSetup
from sipl.engine.qemu.process import QemuProcess
from sipl.engine.qemu.program import QemuUnable
from sipl.engine.qemu.qmp import MAX_EVENTS, Qmp
from sipl.engine.qemu.ram import GuestRam
from sipl.settings import Disk, Settings

PATIENCE = 60.0


class Killer(Console):
    """Once the guest is ready, has it go on, waits a moment and kills its QEMU, all before anything else is read."""

    def __init__(self, number: int, *, goes_on: bool = False) -> None:
        super().__init__()
        self.number = number
        self.goes_on = goes_on
        self.engines = []

    def announce(self, engine, _) -> None:
        self.engines.append(engine)

    def write(self, data: bytes) -> None:
        super().write(data)
        if self.number and self.written.endswith(b"READY"):
            if self.goes_on:
                go_on(self.engines[-1])
                time.sleep(1)
            os.kill(self.engines[-1].pids[-1], self.number)
            self.number = 0
            self.engines[-1]._process.qemu.wait(PATIENCE)


class TestEndsOfQemu:
    def test_a_signal_without_a_name(self, lab):
        """A real-time signal: the end is told, not an internal error."""
        number = signal.SIGRTMIN + 6
        console = Killer(number)
        booted = lab.boot_qemu(wait_for_test(says(b"READY")).end(), console=console, announce=console.announce)
        assert booted.runs[0].end.kind is EndKind.ENDED
        assert booted.runs[0].end.message == f"QEMU was ended by signal {int(number)}"

    def test_last_words(self, lab):
        """What the guest wrote before its QEMU was killed is shown, and counts."""
        console = Killer(signal.SIGKILL, goes_on=True)
        asm = write_console(wait_for_test(says(b"READY")), b"LAST WORDS")
        asm.jump(asm.here)
        booted = lab.boot_qemu(asm, console=console, announce=console.announce, until="LAST WORDS")
        assert booted.console == b"READYLAST WORDS"
        assert booted.ends == ["seen"]

    def test_killed_before_it_is_asked_its_name(self, lab):
        """The command goes on with the embedded engine only after this exception."""

        def before(engine, setup):
            os.kill(engine._process.qemu._process.pid, signal.SIGKILL)
            engine._process.qemu.wait(PATIENCE)
            with pytest.raises(QemuUnable):
                engine.name()

        with pytest.raises(QemuUnable):
            lab.boot_qemu(says(b"x").end(), before=before)

    def test_one_that_hangs_is_not_waited_for_twice(self, monkeypatch):
        """Its answer and its end together have the time that a QEMU may take to close its images."""
        monkeypatch.setattr(process_module, "_QUIT_TIMEOUT", 1.0)
        qemu = QemuProcess(find_qemu(), ["-S", "-nodefaults", "-display", "none", "-machine", "none"], [])
        try:
            qemu.greet()
            os.kill(qemu._process.pid, signal.SIGSTOP)
            began = time.monotonic()
            assert qemu.quit() == -signal.SIGKILL
            assert time.monotonic() - began < 15
        finally:
            qemu.close()


class TestTime:
    def test_the_limit_counts_from_the_first_run(self, lab, monkeypatch):
        """Not from the moment on at which QEMU is started: a person may be choosing from a menu meanwhile."""
        passed = [0.0]

        class Clock:
            @staticmethod
            def monotonic() -> float:
                return time.monotonic() + passed[0]

        monkeypatch.setattr(session_module, "time", Clock)

        def before(engine, setup):
            passed[0] += 1000

        booted = lab.boot_qemu(says(b"x").end(), before=before, timeout=30)
        assert (booted.console, booted.ends) == (b"x", ["done"])


class TestChosenBlock:
    @pytest.mark.parametrize("mode", ["secure", "audit", "normal"])
    @pytest.mark.parametrize("length", [0x7FFFFFFF, 0xFFFFFFFF, 4096, 0])
    def test_a_wrong_length_of_block_0(self, lab, mode, length):
        """Nobody but the report looks at it; it is not let out of the block."""
        data = bytearray(block(1))
        data[8:12] = length.to_bytes(4, "big")
        certs = () if mode == "normal" else ("A",)
        booted = lab.boot_qemu(reboot(choose(says(b"x"), bytes(data))), mode=mode, certs=certs, until="xx")
        assert booted.verdicts == [HANDS_OVER] * 2
        assert len(booted.report.ipl_parameter_block) <= 2 * 4096

    @pytest.mark.parametrize("mode", ["secure", "audit", "normal"])
    @pytest.mark.parametrize(
        "data",
        [
            b"\xff" * 4096,
            bytes(4096),
            block(1, length=8).ljust(4096, b"\0"),
            b"\xff\xff" + block(1)[2:].ljust(4094, b"\0"),
            block(1, kind=0x55).ljust(4096, b"\0"),
        ],
        ids=["ones", "zeros", "short", "long", "type"],
    )
    def test_what_qemu_cannot_have_stored(self, lab, monkeypatch, mode, data):
        """A device that the guest had write there, say: it is no choice, and the IPL is that of the block before."""
        monkeypatch.setattr(run_module, "stored_block", lambda *_: data)
        certs = () if mode == "normal" else ("A",)
        other = lab.guest(says(b"two").end())
        booted = lab.boot_qemu(reboot(choose(says(b"x"), block(2))), other, mode=mode, certs=certs, until="xx")
        assert booted.console == b"xx"
        assert booted.ends == ["re-ipl", "seen"]


class TestDisks:
    @pytest.mark.parametrize("ready", [True, False], ids=["QEMU is ready", "QEMU starts"])
    def test_a_refused_image_that_would_be_written_to_is_closed_in_order(self, lab, tmp_path, ready):
        """A killed QEMU would leave its bitmaps unusable, and with them the next incremental backup."""
        qemu_img = shutil.which("qemu-img")
        if qemu_img is None:
            pytest.skip("qemu-img is not installed (apt-get install qemu-utils)")
        image = tmp_path / "disk.qcow2"
        disk = lab.guest(says(b"EVIL").end(), by="B")
        subprocess.run([qemu_img, "convert", "-O", "qcow2", disk.path, str(image)], check=True, timeout=60)
        subprocess.run([qemu_img, "bitmap", "--add", str(image), "backup"], check=True, timeout=60)

        # Any `before` waits until QEMU is ready; without one it is still starting when the verdict is there.
        before = (lambda engine, setup: None) if ready else None
        booted = lab.boot_qemu(disk._replace(path=str(image)), write=True, before=before)
        assert booted.verdicts == [("stops", "signature-not-verified")]
        told = subprocess.run(
            [qemu_img, "info", "--output=json", str(image)], check=True, capture_output=True, timeout=60
        )
        (bitmap,) = json.loads(told.stdout)["format-specific"]["data"]["bitmaps"]
        assert "in-use" not in bitmap["flags"]

    def test_the_block_size_stays_whatever_the_guest_writes(self, tmp_path):
        """It belongs to the device, which the guest keeps."""
        find_qemu()
        path = tmp_path / "disk.raw"
        path.write_bytes(bytes(MIB))
        setup = OwnSetup([Disk(str(path))], Settings(write=True))
        try:
            setup.open()
            first = setup.arguments()
            with Path(path).open("r+b") as file:
                file.seek(4096)
                file.write(b"EFI PART")
            setup.images[0].renew()
            assert setup.arguments() == first
        finally:
            setup.close()


class Chatterbox:
    """The end of a QMP socket at which something comes all the time."""

    def __init__(self, line: bytes) -> None:
        self.line = line
        self.reads = 0

    def settimeout(self, _: float) -> None:
        pass

    def recv(self, _: int) -> bytes:
        self.reads += 1
        assert self.reads < 10_000, "nobody else has a turn"
        return self.line


class TestTalkativeQemu:
    def test_it_does_not_keep_others_waiting(self):
        qmp = Qmp(Chatterbox(b'{"event": "RTC_CHANGE"}\n'))
        qmp.receive()
        assert qmp.events

    def test_answers_that_nobody_asked_for(self):
        qmp = Qmp(Chatterbox(b'{"return": {}, "id": 0}\n' * 100))
        for _ in range(20):
            qmp.receive()
        assert len(qmp._answers) <= MAX_EVENTS


class TestLeftovers:
    def test_memory_that_somebody_still_looks_at(self):
        """A part that an exception's traceback holds, say, keeps nothing else open and hides no exception."""
        ram = GuestRam(MIB)
        descriptor = ram.fd
        held = ram.view[:8]
        ram.close()
        with pytest.raises(OSError, match="descriptor"):
            os.fstat(descriptor)
        held.release()

    def test_a_start_that_fails_before_there_is_a_process(self):
        ours, theirs = socket.socketpair()
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(ValueError, match="null"):
            QemuProcess(find_qemu(), ["-name", "a\0b"], [theirs.fileno()])
        assert sorted(os.listdir("/proc/self/fd")) == before
        ours.close()
        theirs.close()
