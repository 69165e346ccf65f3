"""`sipl boot` with the embedded engine: console, exit codes, options, the terminal, and where nothing can run."""

from __future__ import annotations

import fcntl
import os
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time

import console_guests
import pytest
from cli_lab import PATIENCE, command, environment
from qcow2_lab import qcow2

from sipl.author import guest as demo_guest
from sipl.cli import boot as boot_command
from sipl.cli import guest_run
from sipl.engine.base import EndKind, GuestEnd

PROMPT = 5.0  # s; a busy host takes its time, too
SAYS = b"one line\r\nGUEST-DONE\r\n"
READY = b"ready\r\n"


@pytest.fixture
def guest(lab):
    """Makes a disk with a guest of console_guests, for normal mode; gives its path."""
    pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")

    def make(asm) -> str:
        return lab.disk(console_guests.components(asm)).path

    return make


@pytest.fixture
def with_unicorn():
    pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")


def wait_for(stream, text: bytes) -> bytes:
    """Read from a pipe until the text has come."""
    got = b""
    while text not in got:
        piece = os.read(stream.fileno(), 4096)
        assert piece, f"ended without {text!r}: {got!r}"
        got += piece
    return got


@pytest.mark.usefixtures("with_unicorn")
class TestDemoDisk:
    """A signed disk, in secure mode."""

    def test_the_console_has_standard_output_and_everything_else_the_other(self, sipl, demo):
        result = sipl("boot", "--engine", "embedded", *demo.secure, demo.disk)
        assert result.code == 0
        assert result.lines[:2] == ["sipl demo guest", "mode: secure"]
        assert result.lines[-2:] == ["certificates: 0001", "GUEST-DONE"]
        said = result.err.splitlines()
        assert said[0] == f"{demo.disk}: hands over (entry PSW {demo_guest.ENTRY_PSW:016x}) in secure mode"
        assert sum(": verified (demo-cert.pem)" in line for line in said) == 2
        assert said[-1].startswith("sipl: the guest says that it is done (disabled wait, ")

    def test_the_verdict_comes_before_the_guest_runs(self, demo):
        done = subprocess.run(
            command("boot", "--engine", "embedded", "-q", *demo.secure, demo.disk), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(), timeout=PATIENCE, check=True,
        )  # fmt: skip
        lines = done.stdout.decode().splitlines()
        assert "hands over" in lines[0]
        assert (lines[1], lines[-1]) == ("sipl demo guest", "GUEST-DONE")

    def test_a_changed_byte_never_runs(self, sipl, demo, bad):
        result = sipl("boot", "--engine", "embedded", *demo.secure, bad)
        assert (result.code, result.out) == (1, "")
        lines = result.err.splitlines()
        assert lines[0] == f"{bad}: the machine stops in secure mode: signature-not-verified"
        assert lines[-1].startswith("  error: signature-not-verified: ")

    def test_json(self, sipl, demo):
        result = sipl("boot", "--engine", "embedded", "--json", *demo.secure, demo.disk)
        (report,) = result.json
        assert (result.code, report["outcome"]) == (0, "hands-over")
        lines = result.err.splitlines()
        assert (lines[0], lines[-2]) == ("sipl demo guest", "GUEST-DONE")
        assert not any("hands over" in line for line in lines)

    def test_json_of_a_refusal(self, sipl, demo, bad):
        result = sipl("boot", "--engine", "embedded", "--json", *demo.secure, bad)
        (report,) = result.json
        assert (result.code, result.err, report["reason"]) == (1, "", "signature-not-verified")

    def test_undecided(self, sipl, tmp_path):
        result = sipl("boot", "--engine", "embedded", tmp_path / "missing")
        assert (result.code, result.out) == (2, "")
        assert "undecided" in result.err

    def test_a_kernel_given_directly_runs(self, sipl, tmp_path):
        asm = console_guests.says(SAYS)
        start = (bytes(4) + asm.origin.to_bytes(4, "big")).ljust(asm.origin, b"\0")
        (tmp_path / "image").write_bytes(start + bytes(asm.code))
        result = sipl("boot", "--engine", "embedded", "--kernel", tmp_path / "image", "--timeout", "20")
        assert (result.code, result.out) == (0, "one line\nGUEST-DONE\n")
        said = result.err.splitlines()
        assert said[0] == f"guest: hands over (entry PSW {0x0008000180000000 | asm.origin:016x}) in normal mode"
        assert [line.startswith("sipl: the guest says that it is done") for line in said] == [False, True]

    def test_in_secure_mode_it_does_not(self, sipl, demo, tmp_path):
        asm = console_guests.says(SAYS)
        (tmp_path / "image").write_bytes(bytes(asm.origin) + bytes(asm.code))
        result = sipl("boot", "--engine", "embedded", "--kernel", tmp_path / "image", *demo.secure)
        assert (result.code, result.out) == (1, "")
        assert "direct-kernel-not-verified" in result.err.splitlines()[0]


class TestExitCode:
    """What the guest's end means for a script."""

    @pytest.mark.parametrize(
        ("asm", "words", "code", "why"),
        [
            (console_guests.says(SAYS), (), 0, "the guest says that it is done"),
            (console_guests.says(SAYS), ("--until", "GUEST-DONE"), 0, "the console shows 'GUEST-DONE'"),
            (console_guests.says(SAYS), ("--until", "login:"), 1, "the guest says that it is done"),
            (console_guests.says_and_crashes(SAYS), (), 1, "the guest stopped"),
            (console_guests.says_and_crashes(SAYS), ("--until", "GUEST-DONE"), 0, "the console shows"),
            (console_guests.says_and_loops(SAYS), ("--timeout", "0.5"), 1, "the guest ran for 0.5 s"),
            (console_guests.echoes(READY), ("--timeout", "0.5"), 1, "the guest ran for 0.5 s"),
            (console_guests.echoes(READY), ("--timeout", "20", "--until", "eady"), 0, "the console shows 'eady'"),
        ],
        ids=["done", "seen", "not seen", "crash", "seen before a crash", "loop", "waits", "seen and waits"],
    )
    def test_code(self, sipl, guest, asm, words, code, why):
        result = sipl("boot", "--engine", "embedded", *words, guest(asm))
        assert result.code == code
        assert result.err.splitlines()[-1].startswith(f"sipl: {why}")

    def test_until_may_hold_what_a_terminal_must_not_get(self, sipl, guest):
        result = sipl(
            "boot", "--engine", "embedded", "--until", "\x1b[31m", guest(console_guests.says(b"\x1b[31mred\r\n"))
        )
        assert (result.code, result.out) == (0, "\\x1b[31mred\n")
        assert result.err.splitlines()[-1] == "sipl: the console shows '\\x1b[31m'"

    @pytest.mark.parametrize(
        ("end", "by_key", "until", "code"),
        [
            (EndKind.ENDED, True, None, 0),
            (EndKind.ENDED, True, "x", 1),
            (EndKind.ENDED, False, None, 2),
            (EndKind.ENDED, False, "x", 2),
            (EndKind.TIMEOUT, False, None, 1),
        ],
    )
    def test_ends_by_a_person(self, sipl, demo, monkeypatch, end, by_key, until, code):
        class Run(guest_run.GuestRun):
            def run(self, machine, state):
                self.end, self.ended_by_key = GuestEnd(end, "it ended"), by_key
                return self.end

        monkeypatch.setattr(guest_run, "GuestRun", Run)
        monkeypatch.setattr(guest_run, "is_there", lambda: True)
        words = () if until is None else ("--until", until)
        result = sipl("boot", "--engine", "embedded", "-q", *words, demo.disk)
        assert result.code == code
        assert result.err.splitlines()[1:] == ["sipl: it ended"]

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    @pytest.mark.parametrize(
        "asm", [console_guests.says_and_loops(READY), console_guests.echoes(READY)], ids=["loop", "wait"]
    )
    def test_signal(self, start, guest, number, asm):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with start("boot", "--engine", "embedded", guest(asm), **pipes) as process:
            wait_for(process.stdout, b"ready\n")
            sent = time.monotonic()
            process.send_signal(number)
            assert process.wait(PATIENCE) == 2
            assert time.monotonic() - sent < PROMPT
            assert process.stderr.read().decode().splitlines()[-1] == f"sipl: ended by {number.name}"


class TestReipl:
    def test_each_has_its_verdict(self, sipl, guest):
        path = guest(console_guests.says_and_reboots(b"x"))
        result = sipl("boot", "--engine", "embedded", "-q", "--until", "xxx", path)
        assert (result.code, result.out) == (0, "xxx")
        verdict = f"{path}: hands over (entry PSW 000800008000a000) in normal mode"
        assert result.err.splitlines() == [verdict] * 3

    def test_what_happened_in_between_is_said(self, sipl, guest):
        result = sipl("boot", "--engine", "embedded", "--until", "xx", guest(console_guests.says_and_reboots(b"x")))
        said = [line for line in result.err.splitlines() if not line.startswith("  ")]
        assert said[1] == "sipl: the guest asked for an IPL"
        assert ["hands over" in line for line in said] == [True, False, True, False]

    def test_json_has_a_line_for_each(self, sipl, guest):
        result = sipl(
            "boot", "--engine", "embedded", "--json", "--until", "xx", guest(console_guests.says_and_reboots(b"x"))
        )
        assert [report["outcome"] for report in result.json] == ["hands-over", "hands-over"]


class TestInput:
    def test_a_pipe_is_typed(self, guest):
        done = subprocess.run(
            command("boot", "--engine", "embedded", guest(console_guests.echoes(READY))),
            input=b"q one\x01x\n",
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == b"ready\n\\x00q one\\x01x\n"

    def test_the_end_of_the_input_ends_nothing(self, guest):
        done = subprocess.run(
            command("boot", "--engine", "embedded", "--timeout", "1", guest(console_guests.echoes(READY))),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (1, b"ready\n")

    def test_bit_by_bit(self, start, guest):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        with start("boot", "--engine", "embedded", guest(console_guests.echoes(READY)), **pipes) as process:
            wait_for(process.stdout, b"ready\n")
            for word in (b"first", b"second"):
                process.stdin.write(word)
                process.stdin.flush()
                assert wait_for(process.stdout, word) == b"\\x00" + word
            process.stdin.write(b"q")
            process.stdin.close()
            assert process.wait(PATIENCE) == 0

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, demo, with_unicorn, closed):
        line = f"{shlex.join(command('boot', *demo.secure, demo.disk))} {closed}"
        done = subprocess.run(
            ["/bin/sh", "-c", line], capture_output=True, env=environment(), timeout=PATIENCE, check=False
        )
        assert done.returncode == 0
        assert b"Traceback" not in done.stdout + done.stderr

    def test_nobody_reads_the_console_any_more(self, start, guest):
        reader, writer = os.pipe()
        os.close(reader)
        with start(
            "boot",
            "--engine",
            "embedded",
            guest(console_guests.says_and_loops(READY)),
            stdin=subprocess.DEVNULL,
            stdout=writer,
            stderr=subprocess.PIPE,
        ) as process:
            os.close(writer)
            error = process.stderr.read().decode()
        assert process.returncode == 2
        assert "Traceback" not in error
        assert "ignored" not in error


class TestSafeOutput:
    NASTY = b"\x1b[31mRED\x1b]0;title\x07\xc2\x9b2J\xe2\x80\xae\xff\r\n"

    def test_escaped(self, sipl, guest):
        result = sipl("boot", "--engine", "embedded", guest(console_guests.says(self.NASTY)))
        assert result.out == "\\x1b[31mRED\\x1b]0;title\\x07\\x9b2J\\u202e\\xff\n"

    def test_raw_when_asked_for(self, guest):
        done = subprocess.run(
            command("boot", "--engine", "embedded", "--raw-console", guest(console_guests.says(self.NASTY))),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout == self.NASTY


class TestTerminal:
    """A person in front of a guest."""

    def mode(self, screen):
        return termios.tcgetattr(screen._master)

    def test_keys_commands_and_the_end(self, terminal, guest):
        with terminal("boot", "--engine", "embedded", guest(console_guests.echoes(READY))) as screen:
            before = self.mode(screen)
            screen.wait_for("Ctrl-A x ends the run, Ctrl-A h helps\r\n")
            screen.wait_for("ready")
            assert self.mode(screen) != before
            screen.type("hello\x03")
            screen.wait_for("\\x00hello\\x03")
            screen.type("\x01h")
            screen.wait_for("Ctrl-A x       end the run\r\n")
            screen.type("\x01\x01")
            screen.wait_for("\\x00\\x01")
            screen.type("\x01x")
            after = self.after(screen)
            result = screen.finish()
        assert result.code == 0
        assert after == before
        assert result.lines[-1] == "sipl: ended with Ctrl-A x"
        assert "hellohello" not in result.out  # the terminal echoes nothing

    def after(self, screen):
        """The terminal's mode once the process has ended; what it wrote before is read, as the end waits for that."""
        screen.wait_for("sipl: ended")
        return self.mode(screen)

    def test_ctrl_a_x_without_the_text_that_was_waited_for(self, terminal, guest):
        with terminal(
            "boot", "--engine", "embedded", "--until", "login:", guest(console_guests.echoes(READY))
        ) as screen:
            screen.wait_for("ready")
            screen.type("\x01x")
            assert screen.finish().code == 1

    def test_ends_a_guest_that_never_comes_back(self, terminal, guest):
        with terminal("boot", "--engine", "embedded", guest(console_guests.says_and_loops(READY))) as screen:
            before = self.mode(screen)
            screen.wait_for("ready")
            typed = time.monotonic()
            screen.type("\x01x")
            after = self.after(screen)
            assert time.monotonic() - typed < PROMPT
            assert screen.finish().code == 0
        assert after == before

    @pytest.mark.parametrize(
        "asm", [console_guests.says_and_loops(READY), console_guests.echoes(READY)], ids=["loop", "wait"]
    )
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_gives_the_terminal_back(self, terminal, guest, asm, number):
        with terminal("boot", "--engine", "embedded", guest(asm)) as screen:
            before = self.mode(screen)
            screen.wait_for("ready")
            assert self.mode(screen) != before
            screen.process.send_signal(number)
            after = self.after(screen)
            assert screen.finish().code == 2
        assert after == before

    def test_a_line_that_the_guest_did_not_end_is_ended(self, terminal, guest):
        with terminal(
            "boot", "--engine", "embedded", "-q", guest(console_guests.says_and_crashes(b"half a line"))
        ) as screen:
            result = screen.finish()
        assert result.code == 1
        assert result.lines[1].rstrip("\r") == "half a line"
        assert result.lines[-1].startswith("sipl: the guest stopped")

    def test_progress_where_the_console_goes_elsewhere(self, guest, tmp_path):
        words = ("boot", "--engine", "embedded", "--timeout", "2.5", guest(console_guests.says_and_loops(READY)))
        log = tmp_path / "log"
        master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        with (
            log.open("wb") as out,
            subprocess.Popen(
                command(*words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=slave,
                env=environment(),
                start_new_session=True,
            ) as process,
        ):
            os.close(slave)
            seen = b""
            try:
                while data := os.read(master, 4096):
                    seen += data
            except OSError:  # how Linux says that the other side is closed
                pass
            os.close(master)
        assert process.returncode == 1
        assert log.read_bytes() == b"ready\n"
        text = seen.decode()
        assert "\rIPL 1: the guest runs, 0:01" in text
        assert text.index("0:01") < text.index("sipl: the guest ran for 2.5 s")


class TestWrite:
    def test_arrives(self, sipl, monkeypatch, with_unicorn):
        asked = []

        def boot(_, settings, *__, **___):
            asked.append(settings.write)
            raise ZeroDivisionError

        monkeypatch.setattr(boot_command, "boot", boot)
        sipl("boot", "--engine", "embedded", "a")
        sipl("boot", "--engine", "embedded", "--write", "a")
        assert asked == [False, True]

    def test_a_qcow2_image_is_refused_with_a_way_out(self, sipl, with_unicorn, tmp_path):
        (tmp_path / "disk.qcow2").write_bytes(qcow2(bytes(4096)))
        result = sipl("boot", "--engine", "embedded", "--write", tmp_path / "disk.qcow2")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert "qcow2" in result.err
        assert "qemu-img convert" in result.err

    def test_an_image_in_use_is_refused(self, sipl, guest):
        path = guest(console_guests.says(SAYS))
        assert sipl("boot", "--engine", "embedded", "--write", path).code == 0
        with open(path, "r+b") as other:
            fcntl.flock(other, fcntl.LOCK_EX)
            result = sipl("boot", "--engine", "embedded", "--write", path)
            assert (result.code, result.err.count("\n")) == (2, 1)
            assert "another program uses the image" in result.err
            assert sipl("boot", "--engine", "embedded", path).code == 0  # nobody writes to it: an overlay will do


class TestUsage:
    @pytest.mark.parametrize("text", ["0", "0.0", "-1", "soon", "", "inf", "nan", "1e3", "9" * 30, "\u0661"])
    def test_timeout(self, sipl, text):
        result = sipl("boot", "--engine", "embedded", f"--timeout={text}", "x")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert "--timeout" in result.err

    @pytest.mark.parametrize("text", ["", "\udcff"])
    def test_until(self, sipl, text):
        result = sipl("boot", "--engine", "embedded", f"--until={text}", "x")
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert "--until" in result.err

    @pytest.mark.parametrize("words", [("--timeout", "5"), ("--until", "x"), ("--write",), ("--raw-console",)], ids=str)
    def test_what_needs_a_guest_that_runs(self, sipl, demo, words):
        result = sipl("boot", "--engine", "embedded", "--engine", "none", *words, demo.disk)
        assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
        assert f"sipl: {words[0]}: " in result.err


class TestWithoutUnicorn:
    @pytest.fixture(params=["not installed", "broken"])
    def missing(self, request, monkeypatch):
        """As on a machine for which there is no wheel, or one whose library does not load."""
        if request.param == "not installed":
            monkeypatch.setitem(sys.modules, "unicorn", None)
        else:
            monkeypatch.setattr(guest_run, "is_there", lambda: True)
        for name in [name for name in sys.modules if name.startswith("sipl.engine.embedded")]:
            monkeypatch.delitem(sys.modules, name)
        monkeypatch.setitem(sys.modules, "sipl.engine.embedded.engine", None)

    def test_one_sentence_with_the_remedy(self, sipl, demo, missing):
        result = sipl("boot", "--engine", "embedded", "-q", *demo.secure, demo.disk)
        assert (result.code, result.out) == (2, "")
        last = result.err.splitlines()[-1]
        assert last.startswith("sipl: --engine embedded: the embedded engine needs the Python package unicorn")
        assert "pip install unicorn" in last
        assert "--engine none" in last

    def test_the_verdict_is_there_all_the_same(self, sipl, demo, missing):
        result = sipl("boot", "--engine", "embedded", "-q", "--engine", "none", *demo.secure, demo.disk)
        assert (result.code, result.err, len(result.lines)) == (0, "", 1)

    def test_the_demo_shows_what_it_can(self, sipl, demo, monkeypatch):
        monkeypatch.setitem(sys.modules, "unicorn", None)
        result = sipl("demo")
        assert (result.code, result.err) == (0, "")
        assert "the guest does not run, as the Python package unicorn is missing (pip install unicorn)" in result.lines
        assert "signature-not-verified" in result.out


def test_a_real_linux(sipl, shared, with_unicorn):
    """Debian on a disk that zipl wrote, as a script would boot it."""
    disk, certificate = shared / "disks" / "good.qcow2", shared / "keys" / "certA.pem"
    if not disk.is_file():
        pytest.skip("the reference material has no disks")
    words = ("--secure-boot", "on", "--boot-certs", certificate, "--until", "Secure-IPL enabled", "--timeout", "300")
    result = sipl("boot", "--engine", "embedded", "-q", *words, disk)
    assert result.code == 0
    assert "Linux is running with Secure-IPL enabled" in result.out
