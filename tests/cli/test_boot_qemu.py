"""`sipl boot` with QEMU: which engine runs, how runs end, QEMUs that cannot, and that nothing is left of any."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import console_guests
import pytest
import qemu_guests
from cli_lab import PATIENCE, command, environment
from guest_asm import program

from sipl.engine.qemu.qmp import Qmp

SAYS = b"one line\r\nGUEST-DONE\r\n"
READY = b"ready\r\n"
PROMPT = 5.0  # s; a busy host takes its time, too
DEFAULT_NAMES = ("/usr/libexec/qemu-kvm",)
PIPES = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@pytest.fixture(autouse=True)
def qemu():
    pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")
    return qemu_guests.find_qemu()


@pytest.fixture(autouse=True)
def tidy(tmp_path, monkeypatch):
    """Nothing is left in the folder for temporary files or in shared memory, and no QEMU of this test runs on."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr("tempfile.tempdir", None)
    before = in_shared_memory()
    yield
    assert list(folder.iterdir()) == []
    assert in_shared_memory() <= before
    deadline = time.monotonic() + PROMPT
    while found := [pid for pid, line in qemus().items() if str(folder) in environment_of(pid)]:
        assert time.monotonic() < deadline, found
        time.sleep(0.02)


def in_shared_memory() -> set[str]:
    """Names there that are sipl's or QEMU's, without those of the fuzz targets, whose tests run at the same time."""
    names = {name for name in os.listdir("/dev/shm") if "sipl" in name or "qemu" in name}
    return {name for name in names if not name.startswith("sipl-fuzz-")}


def environment_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def qemus() -> dict[int, str]:
    """Command lines of running processes that have sipl's monitor, by number."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                line = Path(f"/proc/{name}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
                parent = Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if "id=sipl-qmp" in line and parent[0] != "Z":
                found[int(name)] = line
    return found


def qemu_of(process) -> int:
    """Number of the only QEMU that a process has started."""
    mine = [pid for pid in qemus() if parent_of(pid) == process.pid]
    assert len(mine) == 1
    return mine[0]


def parent_of(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def gone(pid: int) -> bool:
    """Whether a process ends within a moment."""
    deadline = time.monotonic() + PROMPT
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


@pytest.fixture
def guest(lab):
    """Makes a disk with a guest of console_guests, for normal mode; gives its path."""

    def make(asm) -> str:
        return lab.disk(console_guests.components(asm)).path

    return make


@pytest.fixture
def signed(tmp_path, signers):
    """Makes a disk with a signed guest; gives its path and the words for a secure IPL."""
    lab = qemu_guests.QemuLab(tmp_path, signers)

    def make(asm):
        path = lab.guest(asm).path
        return path, ("--secure-boot", "on", "--boot-certs", signers["A"].path, "--at", f"@{qemu_guests.ipl_lab.AT}")

    return make


def wait_for(stream, text: bytes) -> bytes:
    """Read from a pipe until the text has come."""
    got = b""
    while text not in got:
        piece = os.read(stream.fileno(), 4096)
        assert piece, f"ended without {text!r}: {got!r}"
        got += piece
    return got


BOOT = ("boot", "--engine", "qemu", "--has-secure", "off")


class TestDemoDisk:
    def test_secure(self, sipl, demo):
        result = sipl("boot", "--engine", "qemu", *demo.secure, demo.disk)
        assert result.code == 0
        embedded = sipl("boot", "--engine", "embedded", *demo.secure, demo.disk)
        assert result.out == embedded.out != ""
        assert result.err == embedded.err
        assert result.err.splitlines()[0].startswith(f"{demo.disk}: hands over")

    def test_a_changed_byte_never_runs(self, sipl, demo, bad):
        result = sipl(*BOOT, *demo.secure, bad)
        assert (result.code, result.out) == (1, "")
        assert "signature-not-verified" in result.err

    def test_json(self, sipl, demo):
        result = sipl(*BOOT, "--json", *demo.secure, demo.disk)
        (report,) = result.json
        assert (result.code, report["outcome"], report["mode"]) == (0, "hands-over", "secure")
        assert result.err.count("\n") > 1  # the console

    def test_json_of_a_refusal(self, sipl, demo, bad):
        result = sipl(*BOOT, "--json", *demo.secure, bad)
        assert (result.code, [report["reason"] for report in result.json]) == (1, ["signature-not-verified"])

    def test_has_secure_changes_nothing_else(self, sipl, demo):
        for words in (("--has-secure", "on"), ("--has-secure", "off"), ()):
            assert sipl("boot", "--engine", "qemu", *words, *demo.secure, demo.disk).code == 0


class TestAuto:
    """The default: QEMU, where there is one that can."""

    def test_says_that_qemu_runs_it(self, sipl, guest):
        result = sipl("boot", guest(console_guests.says(SAYS)))
        assert (result.code, result.out) == (0, "one line\nGUEST-DONE\n")
        (line,) = [line for line in result.err.splitlines() if "runs the guest" in line]
        assert line.startswith("sipl: QEMU ")

    def test_quiet(self, sipl, guest):
        result = sipl("boot", "-q", guest(console_guests.says(SAYS)))
        assert "runs the guest" not in result.err

    def test_no_qemu(self, sipl_process, guest):
        """It goes on with the embedded engine, and says so in one line."""
        if any(map(os.path.exists, DEFAULT_NAMES)):
            pytest.skip("a QEMU is found without PATH here")
        result = sipl_process("boot", guest(console_guests.says(SAYS)), env={"PATH": "/nonexistent", "SIPL_QEMU": ""})
        assert (result.code, result.out) == (0, "one line\nGUEST-DONE\n")
        said = [line for line in result.err.splitlines() if line.startswith("sipl:")]
        assert said[0].startswith("sipl: QEMU: no qemu-system-s390x is installed")
        assert said[0].endswith("; going on with the embedded engine")
        assert said[1] == "sipl: the embedded engine runs the guest"

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("exit 3", "QEMU has ended"),
            ("echo it is broken >&2; exit 1", "it is broken"),
            ('exec {qemu} "$@" -device nonsense', "nonsense"),
        ],
        ids=["exits", "complains", "refuses"],
    )
    def test_one_that_does_not_start(self, sipl, guest, fake, script, why):
        fake(script)
        result = sipl("boot", guest(console_guests.says(SAYS)))
        assert (result.code, result.out) == (0, "one line\nGUEST-DONE\n")
        line = result.err.splitlines()[0]
        assert why in line
        assert line.endswith("; going on with the embedded engine")

    def test_one_that_is_too_old(self, sipl, guest, old_qemu):
        result = sipl("boot", guest(console_guests.says(SAYS)))
        assert (result.code, result.out) == (0, "one line\nGUEST-DONE\n")
        assert "version 5.2.0 is too old" in result.err.splitlines()[0]

    def test_a_verdict_needs_no_qemu(self, sipl, demo, bad, fake):
        fake("exit 3")
        result = sipl("boot", "-q", *demo.secure, bad)
        assert (result.code, result.out) == (1, "")


@pytest.fixture
def fake(tmp_path, monkeypatch, qemu):
    """Puts a shell script in the place of QEMU."""

    def make(script: str, interpreter: str = "/bin/sh") -> str:
        path = tmp_path / "fake-qemu"
        path.write_text(f"#!{interpreter}\n{script.replace('{qemu}', shlex.quote(qemu))}\n")
        path.chmod(0o755)
        monkeypatch.setenv("SIPL_QEMU", str(path))
        return str(path)

    return make


@pytest.fixture
def old_qemu(fake):
    """Speaks QMP as a QEMU of version 5.2 does."""
    return fake(
        """
import json, re, socket, sys
number = next(re.search(r"fd=(\\d+)", word)[1] for word in sys.argv if "id=sipl-qmp" in word)
end = socket.socket(fileno=int(number))
version = {"qemu": {"major": 5, "minor": 2, "micro": 0}, "package": ""}
end.sendall(json.dumps({"QMP": {"version": version, "capabilities": []}}).encode() + b"\\r\\n")
for line in end.makefile():
    end.sendall(json.dumps({"return": {}, "id": json.loads(line)["id"]}).encode() + b"\\r\\n")
""",
        sys.executable,
    )


class TestQemuThatCannot:
    """`--engine qemu`: one line, exit code 2, and nothing has run."""

    def refused(self, result) -> str:
        assert (result.code, result.out) == (2, "")
        (line,) = result.err.splitlines()
        assert line.startswith("sipl: ")
        return line

    def test_missing(self, sipl_process, guest):
        if any(map(os.path.exists, DEFAULT_NAMES)):
            pytest.skip("a QEMU is found without PATH here")
        result = sipl_process(*BOOT, guest(console_guests.says(SAYS)), env={"PATH": "/nonexistent", "SIPL_QEMU": ""})
        line = self.refused(result)
        assert "no qemu-system-s390x is installed" in line
        assert "qemu-system-misc" in line

    def test_named_and_missing(self, sipl, guest, monkeypatch):
        monkeypatch.setenv("SIPL_QEMU", "/nonexistent/qemu")
        assert "SIPL_QEMU: there is no program /nonexistent/qemu" in self.refused(
            sipl(*BOOT, guest(console_guests.says(SAYS)))
        )

    def test_too_old(self, sipl, guest, old_qemu):
        line = self.refused(sipl(*BOOT, guest(console_guests.says(SAYS))))
        assert "version 5.2.0 is too old (take 7.2 or later, or use --engine embedded)" in line

    @pytest.mark.parametrize(
        ("script", "why"),
        [
            ("exit 3", "QEMU"),
            ("kill -9 $$", "QEMU"),
            ("echo first; echo second >&2; exit 1", "second"),
            ('exec {qemu} "$@" -device nonsense', "'nonsense' is not a valid device model name"),
            ('exec {qemu} "$@" -nonsense', "-nonsense: invalid option"),
            ("printf '\\033[31mred\\n' >&2; exit 1", "\\x1b[31mred"),
            ("echo no QMP; exec sleep 0.1", "QEMU"),
        ],
        ids=["exits", "killed", "complains", "device", "option", "colours", "ends later"],
    )
    def test_does_not_start(self, sipl, guest, fake, script, why):
        path = fake(script)
        line = self.refused(sipl(*BOOT, guest(console_guests.says(SAYS))))
        assert why in line
        assert path in line

    def test_is_no_program(self, sipl, guest, tmp_path, monkeypatch):
        path = tmp_path / "text"
        path.write_bytes(b"\x7fELF no program")
        path.chmod(0o755)
        monkeypatch.setenv("SIPL_QEMU", str(path))
        assert "cannot be started" in self.refused(sipl(*BOOT, guest(console_guests.says(SAYS))))

    def test_speaks_something_else(self, sipl, guest, fake):
        fake(
            """
import re, socket, sys, time
number = next(re.search(r"fd=(\\d+)", word)[1] for word in sys.argv if "id=sipl-qmp" in word)
socket.socket(fileno=int(number)).sendall(b"220 hello\\r\\n")
time.sleep(100)
""",
            sys.executable,
        )
        self.refused(sipl(*BOOT, guest(console_guests.says(SAYS))))

    def test_hangs(self, sipl, guest, fake, monkeypatch):
        """It is not waited for as long as it likes."""
        monkeypatch.setattr(Qmp.greet, "__defaults__", (0.5,))
        fake("exec sleep 1000")
        started = time.monotonic()
        assert "QEMU does not answer" in self.refused(sipl(*BOOT, guest(console_guests.says(SAYS))))
        assert time.monotonic() - started < PROMPT

    def test_answers_nothing_but_its_version(self, sipl, guest, fake):
        """It hangs up at the first question about its machine."""
        fake(
            """
import json, re, socket, sys
number = next(re.search(r"fd=(\\d+)", word)[1] for word in sys.argv if "id=sipl-qmp" in word)
end = socket.socket(fileno=int(number))
version = {"qemu": {"major": 9, "minor": 0, "micro": 0}, "package": ""}
end.sendall(json.dumps({"QMP": {"version": version, "capabilities": []}}).encode() + b"\\r\\n")
for line in end.makefile():
    if "qmp_capabilities" not in line:
        break
    end.sendall(json.dumps({"return": {}, "id": json.loads(line)["id"]}).encode() + b"\\r\\n")
""",
            sys.executable,
        )
        self.refused(sipl(*BOOT, guest(console_guests.says(SAYS))))

    def test_a_firmware_is_for_the_other_engine(self, sipl, guest, tmp_path):
        path = tmp_path / "firmware"
        path.write_bytes(b"x")
        line = self.refused(sipl(*BOOT, "--firmware", path, guest(console_guests.says(SAYS))))
        assert "use --engine embedded" in line

    def test_disk_is_in_use(self, sipl, guest):
        path = guest(console_guests.says_and_loops(READY))
        with subprocess.Popen(command(*BOOT, "--write", path), env=environment(), **PIPES) as process:
            try:
                wait_for(process.stdout, b"ready")
                result = sipl(*BOOT, "--write", path)
                assert (result.code, result.out) == (2, "")
                assert "another program" in result.err
                assert "Traceback" not in result.err
            finally:
                process.terminate()


class TestExitCode:
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
        result = sipl(*BOOT, *words, guest(asm))
        assert result.code == code
        assert result.err.splitlines()[-1].startswith(f"sipl: {why}")

    def test_all_that_a_guest_says_before_it_ends_is_shown(self, sipl, guest):
        lines = [b"line %03d\r\n" % number for number in range(200)]
        asm = program()
        for first in range(0, len(lines), 50):
            console_guests.write(asm, b"".join(lines[first : first + 50]))
        result = sipl(*BOOT, guest(asm.end()))
        assert result.out == b"".join(lines).decode().replace("\r", "")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    @pytest.mark.parametrize(
        "asm", [console_guests.says_and_loops(READY), console_guests.echoes(READY)], ids=["loop", "wait"]
    )
    def test_signal(self, start, guest, number, asm):
        with start(*BOOT, guest(asm), **PIPES) as process:
            wait_for(process.stdout, b"ready\n")
            pid = qemu_of(process)
            sent = time.monotonic()
            process.send_signal(number)
            assert process.wait(PATIENCE) == 2
            assert time.monotonic() - sent < PROMPT
            assert process.stderr.read().decode().splitlines()[-1] == f"sipl: ended by {number.name}"
            assert gone(pid)

    def test_sigkill_takes_qemu_along(self, start, guest):
        with start(*BOOT, guest(console_guests.says_and_loops(READY)), **PIPES) as process:
            wait_for(process.stdout, b"ready\n")
            pid = qemu_of(process)
            process.kill()
            process.wait(PATIENCE)
            assert gone(pid)

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV])
    def test_qemu_is_killed(self, start, guest, number):
        with start(*BOOT, guest(console_guests.says_and_loops(READY)), **PIPES) as process:
            wait_for(process.stdout, b"ready\n")
            os.kill(qemu_of(process), number)
            assert process.wait(PATIENCE) == 2
            said = process.stderr.read().decode()
        assert "Traceback" not in said
        last = said.splitlines()[-1]
        assert last in (f"sipl: QEMU was ended by {number.name}", "sipl: a signal ended QEMU")

    def test_qemu_that_has_stopped_working(self, start, guest):
        """A second signal does not wait for it."""
        with start(*BOOT, guest(console_guests.says_and_loops(READY)), **PIPES) as process:
            wait_for(process.stdout, b"ready\n")
            pid = qemu_of(process)
            os.kill(pid, signal.SIGSTOP)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
            assert time.monotonic() - sent < PROMPT
            assert gone(pid)

    @pytest.mark.parametrize("delay", [0.0, 0.1, 0.2, 0.3])
    def test_signal_at_any_time(self, start, guest, delay):
        """Also before there is a guest."""
        with start(*BOOT, guest(console_guests.says_and_loops(READY)), **PIPES) as process:
            time.sleep(delay)
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) in (2, -signal.SIGTERM)
            assert b"Traceback" not in process.stderr.read()


class TestReipl:
    def test_each_has_its_verdict(self, sipl, guest):
        path = guest(console_guests.says_and_reboots(b"x"))
        result = sipl(*BOOT, "-q", "--until", "xxx", path)
        assert (result.code, result.out) == (0, "xxx")
        verdict = f"{path}: hands over (entry PSW 000800008000a000) in normal mode"
        assert result.err.splitlines() == [verdict] * 3

    def test_what_happened_in_between_is_said(self, sipl, guest):
        result = sipl(*BOOT, "--until", "xx", guest(console_guests.says_and_reboots(b"x")))
        said = [line for line in result.err.splitlines() if not line.startswith("  ")]
        assert said[1] == "sipl: the guest asked for an IPL"
        assert ["hands over" in line for line in said] == [True, False, True, False]

    def test_json_has_a_line_for_each(self, sipl, signed):
        path, words = signed(console_guests.says_and_reboots(b"x"))
        result = sipl(*BOOT, "--json", "--until", "xxx", *words, path)
        found = [(report["outcome"], report["mode"]) for report in result.json]
        assert (result.code, found) == (0, [("hands-over", "secure")] * 3)

    def test_a_limit_holds_over_all_of_them(self, sipl, guest):
        started = time.monotonic()
        result = sipl(*BOOT, "-q", "--timeout", "1", guest(console_guests.says_and_reboots(b"x")))
        assert (result.code, result.err.splitlines()[-1]) == (
            1,
            "sipl: the guest ran for 1 s, which is what it was given",
        )
        assert len(result.out) > 2
        assert time.monotonic() - started < PROMPT

    def test_descriptors_and_processes(self, sipl, guest):
        """As many after several IPLs, and several guests, as before."""
        path = guest(console_guests.says_and_reboots(b"x"))
        sipl(*BOOT, "-q", "--until", "x", path)
        before = sorted(os.listdir("/proc/self/fd"))
        for _ in range(2):
            assert sipl(*BOOT, "-q", "--until", "xxxxx", path).out == "xxxxx"
        assert sorted(os.listdir("/proc/self/fd")) == before
        assert [pid for pid in qemus() if parent_of(pid) == os.getpid()] == []

    def test_descriptors_while_it_runs(self, start, guest):
        """Neither sipl nor the QEMU of a later IPL has more of them than the first one."""
        path = guest(qemu_guests.reboot(console_guests.echoes_until_q(READY)))
        counts = []
        with start(*BOOT, path, **PIPES) as process:
            for _ in range(5):
                wait_for(process.stdout, b"ready\n")
                pid = qemu_of(process)
                counts.append((len(os.listdir(f"/proc/{process.pid}/fd")), len(os.listdir(f"/proc/{pid}/fd"))))
                process.stdin.write(b"q")
                process.stdin.flush()
            process.terminate()
            process.wait(PATIENCE)
        assert len(set(counts[1:])) == 1, counts

    def test_qemu_has_no_more_than_it_needs(self, start, guest):
        """No descriptor of sipl's: not its standard input, not its end of a monitor."""
        with start(*BOOT, guest(console_guests.says_and_loops(READY)), **PIPES) as process:
            wait_for(process.stdout, b"ready\n")
            mine = {os.readlink(f"/proc/{process.pid}/fd/{n}") for n in range(3)}
            folder = f"/proc/{qemu_of(process)}/fd"
            theirs = {os.readlink(f"{folder}/{name}") for name in os.listdir(folder)}
            process.terminate()
            process.wait(PATIENCE)
        assert not mine & theirs


class TestInput:
    def test_a_pipe_is_typed(self, guest):
        done = subprocess.run(
            command(*BOOT, guest(console_guests.echoes(READY))),
            input=b"q one\x01x\n",
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            check=True,
        )
        assert done.stdout.replace(b"\\x00", b"").startswith(b"ready\nq")

    def test_bit_by_bit(self, start, guest):
        with start(*BOOT, guest(console_guests.echoes(READY)), **PIPES) as process:
            wait_for(process.stdout, b"ready\n")
            for word in (b"first", b"second"):
                process.stdin.write(word)
                process.stdin.flush()
                got = b""
                while got.replace(b"\\x00", b"") != word:
                    got += os.read(process.stdout.fileno(), 100)
            process.stdin.write(b"q")
            process.stdin.close()
            assert process.wait(PATIENCE) == 0

    def test_the_end_of_the_input_ends_nothing(self, sipl_process, guest):
        result = sipl_process(*BOOT, "--timeout", "1", guest(console_guests.echoes(READY)))
        assert (result.code, result.out) == (1, "ready\n")

    @pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
    def test_closed_streams(self, demo, closed):
        """Numbers that are free then are taken by other files, which nobody must mistake for a stream."""
        line = f"{shlex.join(command('boot', '--engine', 'qemu', *demo.secure, demo.disk))} {closed}"
        done = subprocess.run(
            ["/bin/sh", "-c", line], capture_output=True, env=environment(), timeout=PATIENCE, check=False
        )
        assert b"Traceback" not in done.stdout + done.stderr
        assert done.returncode == 0

    def test_nobody_reads_the_console_any_more(self, start, guest):
        reader, writer = os.pipe()
        os.close(reader)
        asm = console_guests.says_and_loops(READY)
        with start(*BOOT, guest(asm), stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.PIPE) as process:
            os.close(writer)
            error = process.stderr.read().decode()
        assert process.returncode == 2
        assert "Traceback" not in error
        assert "ignored" not in error

    def test_no_room_for_the_console(self, start, guest):
        with open("/dev/full", "wb") as full:
            asm = console_guests.says_and_loops(READY)
            with start(*BOOT, guest(asm), stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE) as process:
                error = process.stderr.read().decode()
        assert process.returncode == 2
        assert "Traceback" not in error


class TestTerminal:
    """A person in front of a guest."""

    @pytest.mark.parametrize(
        "asm", [console_guests.says_and_loops(READY), console_guests.echoes(READY)], ids=["loop", "wait"]
    )
    def test_keys_and_the_end(self, terminal, guest, asm):
        import termios

        with terminal(*BOOT, guest(asm)) as screen:
            before = termios.tcgetattr(screen._master)
            screen.wait_for("Ctrl-A x ends the run, Ctrl-A h helps\r\n")
            screen.wait_for("ready")
            pid = qemu_of(screen.process)
            screen.type("\x01h")
            screen.wait_for("Ctrl-A x       end the run\r\n")
            typed = time.monotonic()
            screen.type("\x03\x01x")
            screen.wait_for("sipl: ended")
            assert time.monotonic() - typed < PROMPT
            assert termios.tcgetattr(screen._master) == before
            result = screen.finish()
        assert result.code == 0
        assert result.lines[-1] == "sipl: ended with Ctrl-A x"
        assert gone(pid)

    def test_typed(self, terminal, guest):
        with terminal(*BOOT, guest(console_guests.echoes(READY))) as screen:
            screen.wait_for("ready")
            screen.type("hello\x03")
            screen.wait_for("\\x03")
            assert "hello" in screen.output.replace("\\x00", "")
            screen.type("q")
            assert screen.finish().code == 0

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_a_signal_gives_the_terminal_back(self, terminal, guest, number):
        import termios

        with terminal(*BOOT, guest(console_guests.says_and_loops(READY))) as screen:
            before = termios.tcgetattr(screen._master)
            screen.wait_for("ready")
            pid = qemu_of(screen.process)
            screen.process.send_signal(number)
            screen.wait_for("sipl: ended")
            assert screen.finish().code == 2
            assert gone(pid)
            assert termios.tcgetattr(screen._master) == before

    def test_the_terminal_goes_away(self, guest):
        """As when its window is closed."""
        import pty

        master, slave = pty.openpty()
        process = subprocess.Popen(
            command(*BOOT, guest(console_guests.says_and_loops(READY))),
            stdin=slave,
            stdout=slave,
            stderr=subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        os.close(slave)
        with process:
            got = b""
            while b"ready" not in got:
                got += os.read(master, 4096)
            pid = qemu_of(process)
            os.close(master)
            assert process.wait(PATIENCE) == 2
            assert b"Traceback" not in process.stderr.read()
        assert gone(pid)


def fills_its_disk():
    """Writes 512 sectors of its disk, and says what the device said."""
    asm = qemu_guests.write_sectors(100, 0x10000, 512).asm
    asm.load(12, qemu_guests.Ring.STATUS).rxy(0xE390, 4, 12)  # LLGC
    asm.ri(0xA7F, 4, 0)  # CGHI
    over = asm.here
    asm.ril(0xC04, 8, 0)
    console_guests.write(asm, b"I/O error").end()
    asm.code[over - asm.origin : over - asm.origin + 6] = type(asm)(over).jump(asm.here, 8).code
    return console_guests.write(asm, b"no error").end()


class TestHostWithoutRoom:
    def small_room(self, words, size: str):
        """Run in a name space of its own, where the folder for temporary files has little room."""
        unshare = shutil.which("unshare")
        if unshare is None:
            pytest.skip("unshare is not installed (apt-get install util-linux)")
        folder = os.environ["TMPDIR"]
        line = f"mount -t tmpfs -o size={size} none {shlex.quote(folder)} || exit 77; exec {shlex.join(words)}"
        done = subprocess.run(
            [unshare, "-m", *(() if os.getuid() == 0 else ("-r",)), "/bin/sh", "-c", line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
        if done.returncode in (77, 1) and b"ermitted" in done.stderr:
            pytest.skip("nothing can be mounted here")
        return done.returncode, done.stdout.decode(), done.stderr.decode()

    def test_for_what_the_guest_writes(self, tmp_path, signers):
        lab = qemu_guests.QemuLab(tmp_path, signers)
        path = lab.guest(fills_its_disk(), size=1 << 20).path
        code, out, _ = self.small_room(command(*BOOT, path), "100%")
        assert (code, out) == (0, "no error")
        code, out, err = self.small_room(command(*BOOT, path), "512k")
        assert (code, out) == (0, "I/O error"), err
        (line,) = [line for line in err.splitlines() if "the host's" in line]
        assert line.startswith("sipl: the guest saw I/O errors that are the host's: ")

    def test_for_an_overlay(self, guest):
        code, out, err = self.small_room(command(*BOOT, guest(console_guests.says(SAYS))), "4k")
        assert (code, out) == (2, "")
        assert "what the guest writes cannot be kept: No space left on device" in err
        assert "Traceback" not in err

    def test_for_the_guest_s_memory(self, guest):
        """The limit of a file's size holds for memory that is one."""
        line = f"ulimit -f 1000; exec {shlex.join(command(*BOOT, guest(console_guests.says(SAYS))))}"
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(),
            timeout=PATIENCE,
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, b"")
        (said,) = done.stderr.decode().splitlines()
        assert said.startswith("sipl: --memory: the host has no room for a guest of")
