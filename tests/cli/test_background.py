"""-daemonize and -pidfile: the guest runs on in the background, where it is verified as in front."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import console_guests
import pytest
import qemu_system_lab
from cli_lab import PATIENCE
from qemu_system_lab import QUIET, READY, Peer, damage, disk_words, run


@pytest.fixture(autouse=True)
def _hang_up():
    yield
    qemu_system_lab.hang_up()


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return "gone"


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + PATIENCE
    while state_of(pid) not in ("gone", "Z"):
        assert time.monotonic() < deadline, state_of(pid)
        time.sleep(0.02)


@contextmanager
def in_background(machine, path, *more):
    """A guest in the background, with its console and a monitor on sockets beside its disk."""
    folder = Path(path).parent
    words = ["-daemonize", "-pidfile", f"{folder}/pid", *machine, *QUIET, *disk_words(path)]
    words += ["-chardev", f"socket,id=con,path={folder}/con,server=on,wait=off", "-device", "sclpconsole,chardev=con"]
    code, out, err = run(*words, "-qmp", f"unix:{folder}/mon,server=on,wait=off", *more)
    try:
        yield code, out, err
    finally:
        if (folder / "pid").exists():
            pid = int((folder / "pid").read_text())
            os.kill(pid, signal.SIGKILL)
            wait_until_gone(pid)


def test_it_runs_on(signed, machine, tmp_path):
    path = signed(console_guests.echoes(READY))
    with in_background(machine, path) as (code, out, err):
        assert (code, out) == (0, b"")
        assert "(TCG) runs the guest" in err
        pid = int((Path(path).parent / "pid").read_text())
        assert os.getsid(pid) == pid
        assert {os.readlink(f"/proc/{pid}/fd/{number}") for number in range(3)} == {os.devnull}
        monitor = Peer(Path(path).parent / "mon")
        monitor.until(b'"QMP"')
        monitor.command("qmp_capabilities")
        monitor.command("query-status")
        assert b'"running"' in monitor.until(b'"status"')
        monitor.command("quit")
        wait_until_gone(pid)
        assert sorted(each.name for each in Path(path).parent.iterdir() if each.name in ("pid", "con", "mon")) == []


def test_a_guest_that_is_damaged_later_does_not_come_back(signed, machine):
    path = signed(console_guests.says_and_loops(READY))
    with in_background(machine, path, "-S") as (code, _, _):
        assert code == 0
        pid = int((Path(path).parent / "pid").read_text())
        console, monitor = (Peer(Path(path).parent / name) for name in ("con", "mon"))
        monitor.until(b'"QMP"')
        monitor.command("qmp_capabilities")
        monitor.command("cont")
        console.until(READY)
        monitor.command("system_reset")
        console.until(READY, 2)
        damage(path)
        monitor.command("system_reset")
        wait_until_gone(pid)
        assert console.rest() == READY * 2


def test_what_does_not_boot_is_told_in_front(signed, machine):
    path = signed(console_guests.says(READY))
    damage(path)
    with in_background(machine, path) as (code, out, err):
        assert (code, out) == (1, b"")
        assert "signature-not-verified" in err
        assert not (Path(path).parent / "pid").exists()


def test_what_qemu_refuses_is_told_in_front(signed, machine):
    path = signed(console_guests.says(READY))
    with in_background(machine, path, "-device", "virtio-net-ccw,netdev=none") as (code, out, err):
        assert (code, out, err.count("\n")) == (2, b"", 1)


def test_a_number_file_that_is_in_use(signed, machine):
    path = signed(console_guests.echoes(READY))
    with in_background(machine, path) as (code, _, _):
        assert code == 0
        number = Path(path).parent / "pid"
        before = number.read_text()
        again, _, err = run(*machine, *QUIET, *disk_words(path, "x"), "-pidfile", number)
        assert (again, err.count("\n")) == (2, 1)
        assert f"{number}: another process has it" in err
        assert number.read_text() == before


def test_a_signal_ends_it(signed, machine):
    path = signed(console_guests.echoes(READY))
    with in_background(machine, path) as (code, _, _):
        assert code == 0
        number = Path(path).parent / "pid"
        pid = int(number.read_text())
        (qemu,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(pid, signal.SIGTERM)
        wait_until_gone(pid)
        wait_until_gone(int(qemu))
        assert not number.exists()


@pytest.mark.parametrize("words", [("-nographic",), ("-serial", "stdio"), ("-monitor", "stdio")])
def test_nothing_of_it_can_be_at_the_terminal(signed, machine, words):
    path = signed(console_guests.says(READY))
    code, out, err = run("-daemonize", *machine, "-m", "64", "-display", "none", *disk_words(path), *words)
    assert (code, out) == (2, b"")
    assert err == "sipl: -daemonize: stdio needs the terminal (leave out -nographic and stdio)\n"


class TestWhoWaits:
    """`in_background` itself, with work that needs no guest."""

    SCRIPT = """\
import os, sys, time
from sipl.cli.background import in_background
def work(released):
    print("working", file=sys.stderr, flush=True)
    {work}
    return 7
sys.exit(in_background(work))
"""

    def script(self, work):
        return [sys.executable, "-c", self.SCRIPT.format(work=work)]

    def run(self, work):
        done = subprocess.run(self.script(work), capture_output=True, text=True, timeout=PATIENCE, check=False)
        return done.returncode, done.stderr

    def test_work_that_ends_before(self):
        assert self.run("pass") == (7, "working\n")

    def test_work_that_is_released(self):
        assert self.run("released(); print('unseen', file=sys.stderr)") == (0, "working\n")

    def test_work_that_is_killed(self):
        assert self.run("os.kill(os.getpid(), 9)") == (2, "working\n")

    def test_work_that_fails(self):
        code, said = self.run("raise RuntimeError('x')")
        assert code == 2
        assert said.splitlines()[1].startswith("sipl: internal error")

    def test_who_waits_is_interrupted(self):
        with subprocess.Popen(
            self.script("print(os.getpid(), flush=True, file=sys.stderr); time.sleep(600)"), stderr=subprocess.PIPE
        ) as process:
            assert process.stderr.readline() == b"working\n"
            pid = int(process.stderr.readline())
            time.sleep(0.2)  # both run from the same moment on
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE)
            wait_until_gone(pid)

    def test_who_waits_is_killed(self):
        """Then nobody asked for a guest in the background."""
        work = "print(os.getpid(), flush=True, file=sys.stderr); time.sleep(1); released(); time.sleep(600)"
        with subprocess.Popen(self.script(work), stderr=subprocess.PIPE) as process:
            assert process.stderr.readline() == b"working\n"
            pid = int(process.stderr.readline())
            process.kill()
            wait_until_gone(pid)
