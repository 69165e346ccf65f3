"""A guest that writes without end, a QEMU that complains without end or is ended early: all of it ends in order."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from console_guests import SCCB, WRITE_EVENT_DATA, says, service, write
from guest_asm import program
from ipl_lab import AT
from qemu_guests import Console, find_qemu
from qemu_system_lab import QUIET, Peer, disk_words, hang_up, started

from sipl.engine.console import ConsoleEnds
from sipl.engine.qemu import qmp as qmp_module
from sipl.engine.qemu.process import QemuProcess
from sipl.engine.qemu.program import QemuUnable
from sipl.engine.qemu.qmp import Qmp, QmpError, returned
from sipl.engine.qemu.run import Run

# Half of what a QEMU may take that has to be killed, and the longest that an end in order takes on a busy host.
PROMPT = 8.0
PATIENCE = 60.0
STANDING = ("-S", "-nodefaults", "-display", "none", "-machine", "none")
MUCH = 3000


def floods():
    """Writes as much as fits in a control block, again and again."""
    asm = write(program(), b"x" * MUCH)
    again = asm.here
    asm.load(12, SCCB).rxy(0xEB52, 0, 12, 11)  # MVIY: flags of the event
    return service(asm, WRITE_EVENT_DATA, SCCB).jump(again)


class Person(Console):
    """Ends the run when enough was written."""

    def read(self, timeout: float, room: int) -> bytes:
        if len(self.written) > 100 * MUCH:
            raise ConsoleEnds("ended by a person")
        return b""


@pytest.fixture
def kills(monkeypatch):
    """The processes that had to be killed."""
    killed = []
    kill = QemuProcess.kill
    monkeypatch.setattr(QemuProcess, "kill", lambda self: (killed.append(self), kill(self))[1])
    return killed


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Puts a shell script in the place of QEMU, which is `$QEMU` there."""

    def make(text: str) -> str:
        qemu = find_qemu()
        path = tmp_path / "script"
        path.write_text(f"#!/bin/sh\nQEMU={shlex.quote(qemu)}\n{text}\n")
        path.chmod(0o755)
        monkeypatch.setenv("SIPL_QEMU", str(path))
        return str(path)

    return make


class TestGuestThatWritesWithoutEnd:
    @pytest.mark.parametrize(
        ("how", "end"),
        [({"timeout": 1}, "timeout"), ({"until": "xxxx"}, "seen"), ({"console": Person()}, "ended")],
        ids=["timeout", "until", "person"],
    )
    def test_is_ended_in_order(self, lab, kills, how, end):
        booted = lab.boot_qemu(floods(), **how)
        assert booted.ends == [end]
        assert not kills

    def test_the_image_is_closed_in_order(self, lab, tmp_path, need_tool):
        """A killed QEMU leaves its bitmaps unusable."""
        image = tmp_path / "disk.qcow2"
        tool = need_tool("qemu-img", "qemu-utils")
        disk = lab.guest(floods())
        subprocess.run([tool, "convert", "-O", "qcow2", disk.path, str(image)], check=True, timeout=PATIENCE)
        subprocess.run([tool, "bitmap", "--add", str(image), "backup"], check=True, timeout=PATIENCE)
        assert lab.boot_qemu(disk._replace(path=str(image)), write=True, timeout=1).ends == ["timeout"]
        told = subprocess.run(
            [tool, "info", "--output=json", str(image)], check=True, capture_output=True, timeout=PATIENCE
        )
        (bitmap,) = json.loads(told.stdout)["format-specific"]["data"]["bitmaps"]
        assert "in-use" not in bitmap["flags"]

    @pytest.mark.parametrize("reads", [True, False], ids=["read", "not read"])
    def test_at_a_user_s_socket(self, lab, signers, tmp_path, reads):
        """Whoever reads it or not: a signal ends all, and a monitor hears of it."""
        disk = lab.guest(floods())
        words = ["-machine", f"s390-ccw-virtio,secure-boot=on,boot-certs.0.path={signers['A'].path}", "--at", f"@{AT}"]
        words += [*QUIET, *disk_words(disk.path), "-S", "-qmp", f"unix:{tmp_path}/mon,server=on,wait=off"]
        words += ["-chardev", f"socket,id=con,path={tmp_path}/con,server=on,wait=off"]
        try:
            with started(*words, "-device", "sclpconsole,chardev=con") as process:
                console, monitor = Peer(tmp_path / "con"), Peer(tmp_path / "mon")
                monitor.until(b'"QMP"')
                monitor.command("qmp_capabilities")
                monitor.command("cont")
                console.until(b"xxxx")
                if reads:
                    console.until(b"x" * 10 * MUCH)
                else:
                    time.sleep(1)  # until all that is between the guest and its user is full
                process.send_signal(signal.SIGTERM)
                assert process.wait(PROMPT) == 2
                monitor.rest()
                assert monitor.messages()[-1]["event"] == "SHUTDOWN"
        finally:
            hang_up()

    def test_is_started_without_waiting_for_it(self, lab, monkeypatch):
        """QEMU answers `cont` only once somebody reads what the guest writes."""
        monkeypatch.setattr(qmp_module, "ANSWER_TIMEOUT", 3.0)
        monkeypatch.setattr(Qmp.execute, "__defaults__", (None, 3.0))
        for _ in range(3):
            assert lab.boot_qemu(floods(), until="x" * MUCH).ends == ["seen"]


class TestQuestionsThatNobodyWaitsFor:
    def test_their_answers_come_among_the_events(self):
        ours, theirs = socket.socketpair()
        with theirs:
            qmp = Qmp(ours)
            qmp.ask("cont")
            qmp.ask("nonsense")
            lines = [{"event": "RESUME"}, {"return": {}, "id": 1}, {"error": {"desc": "why"}, "id": 2}]
            theirs.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, {"return": 5, "id": 3}]))
            assert qmp.execute("query-status") == 5
            assert list(qmp.events) == lines
            assert returned(qmp.events[1]) == {}
            with pytest.raises(QmpError, match="why"):
                returned(qmp.events[2])
            qmp.close()

    @pytest.mark.parametrize(("stub_speaks", "deeds"), [(False, ["debug"]), (True, ["readable"])])
    def test_why_the_guest_was_stopped(self, stub_speaks, deeds):
        """Where the debugger's stub has dealt with a stop meanwhile, the guest may run, and is not stopped for it."""
        done = []
        secure = SimpleNamespace(
            active=True,
            fileno=lambda: -1,
            on_debug=lambda: done.append("debug"),
            on_readable=lambda: done.append("readable"),
        )
        ours, theirs = socket.socketpair()
        with theirs:
            qmp = Qmp(ours)
            process = SimpleNamespace(qemu=SimpleNamespace(qmp=qmp), has_secure=secure, console=None)
            run = Run(None, None, process, None)
            qmp.events.append({"event": "STOP"})
            run._take_events()
            assert json.loads(theirs.recv(1000)) == {"execute": "query-status", "id": 1}
            if stub_speaks:
                run._on_secure()
            theirs.sendall(b'{"return": {"status": "debug"}, "id": 1}\n')
            qmp.receive()
            run._take_events()
            qmp.close()
        assert done == deeds

    def test_a_guest_that_cannot_be_started(self, lab, monkeypatch):
        """What QEMU says against it is told."""
        ask = Qmp.ask
        monkeypatch.setattr(Qmp, "ask", lambda self, _: ask(self, "nonsense"))
        with pytest.raises(QemuUnable, match="nonsense"):
            lab.boot_qemu(says(b"x"))


class TestQemuThatComplainsWithoutEnd:
    @pytest.mark.parametrize("when", ["before", "after"])
    def test_runs_its_guest(self, lab, script, when):
        """The pipe between them holds 64 KiB."""
        script({"before": 'yes "it is no matter" | head -c 1000000 >&2\n', "after": ""}[when] + 'exec "$QEMU" "$@"')
        more = ("-trace", "*") if when == "after" else ()
        booted = lab.boot_qemu(says(b"x"), more=more)
        assert (booted.console, booted.ends) == (b"x", ["done"])

    def test_is_told_of_in_few_words(self, script):
        qemu = QemuProcess(script('yes "it is broken" | head -c 50000000 | tr "\\n" " " >&2'), STANDING, [])
        try:
            with pytest.raises(QemuUnable) as raised:
                qemu.greet()
        finally:
            qemu.close()
        assert "is broken" in str(raised.value)
        assert len(str(raised.value)) < 500

    def test_ends_in_order_where_nobody_can_be_told(self, script, kills):
        """Standard error may be a pipe that nobody reads any more."""

        broken = []

        def complain(_):
            if broken:
                raise BrokenPipeError

        qemu = QemuProcess(script('"$QEMU" "$@"; echo late >&2'), STANDING, [])
        try:
            qemu.greet()
            qemu.listen(complain)
            broken.append(True)
            assert qemu.quit() == 0
            assert qemu.complaint() == "late"
            assert not kills
        finally:
            qemu.close()

    def test_what_it_said_before_is_passed_on(self, script):
        qemu = QemuProcess(script('echo early >&2; exec "$QEMU" "$@"'), STANDING, [])
        heard = []
        try:
            qemu.greet()
            qemu.listen(heard.append)
            qemu.quit()
            qemu.complaint()
        finally:
            qemu.close()
        assert b"".join(heard).splitlines()[0] == b"early"  # some QEMUs warn of -mon behind that


class TestComplaint:
    """Which of its lines tells why it has ended."""

    @pytest.mark.parametrize(
        ("lines", "told"),
        [
            (["warning of nobody", "script: it is broken", "script: hint"], "it is broken"),
            (["qemu-system-s390x: warning: old", "qemu-system-s390x: it is broken", "Aborted"], "it is broken"),
            (["script: -mon chardev=x,mode=control: warning: old", "script: it is broken"], "it is broken"),
            (["script: info: fine", "one", "two"], "two"),
            (["see script: what", "last"], "last"),
        ],
    )
    def test_line(self, script, lines, told):
        said = "\n".join(f"echo {shlex.quote(line)} >&2" for line in lines)
        qemu = QemuProcess(script(said), STANDING, [])
        try:
            with pytest.raises(QemuUnable) as raised:
                qemu.greet()
        finally:
            qemu.close()
        assert f": {told} (" in str(raised.value)


class TestEndedBeforeTheGuestIsThere:
    """By who could have ended it a moment later, too: that is told, and not that QEMU was unable."""

    @pytest.mark.parametrize(("how", "end"), [("quit", "quit"), ("SIGTERM", "ended")])
    def test_while_it_is_verified(self, lab, how, end):
        def announce(engine, _):
            engine.wait_until_ready()
            qemu = engine._process.qemu
            if how == "quit":
                engine.setup.monitor().execute("quit")
            else:
                os.kill(qemu._process.pid, signal.SIGTERM)
            assert qemu.wait(PATIENCE) == 0

        booted = lab.boot_qemu(says(b"EVIL").end(), announce=announce)
        assert (booted.console, booted.ends) == (b"", [end])

    def test_before_it_is_asked_its_name(self, lab):
        """By a key at the terminal that it shares with sipl."""

        def before(engine, setup):
            setup.own_terminal = False
            setup.monitor().execute("quit")
            engine._process.qemu.wait(PATIENCE)
            assert engine.name().startswith("QEMU ")

        assert lab.boot_qemu(says(b"EVIL").end(), before=before).ends == ["quit"]

    def test_by_a_signal_for_all(self, lab, signers, script):
        """As `timeout` and a terminal send it: to QEMU and to sipl."""
        script("kill -TERM 0")
        disk = lab.guest(says(b"x"))
        words = ["-machine", f"s390-ccw-virtio,secure-boot=on,boot-certs.0.path={signers['A'].path}", "--at", f"@{AT}"]
        with started(*words, *QUIET, *disk_words(disk.path), start_new_session=True) as process:
            _, told = process.communicate(timeout=PATIENCE)
            assert process.returncode == 2
            assert told.splitlines()[-1].endswith(b"ended by SIGTERM")


def is_there(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_child_of_a_script_is_killed_with_it(script, tmp_path):
    qemu = QemuProcess(script(f'"$QEMU" "$@" &\necho $! > {tmp_path}/pid\nwait'), STANDING, [])
    try:
        qemu.greet()
        pid = int((tmp_path / "pid").read_text())
        assert is_there(pid)
    finally:
        qemu.close()
    try:
        deadline = time.monotonic() + PROMPT
        while is_there(pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not is_there(pid)
    finally:
        if is_there(pid):
            os.kill(pid, signal.SIGKILL)
