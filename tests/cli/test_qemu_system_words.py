"""What `sipl-qemu-system-s390x` says: one line with where, why and what to do, and never more than is true."""

from __future__ import annotations

import os
import resource
import subprocess
import sys

import console_guests
import pytest
import qemu_system_lab
from cli_lab import PATIENCE, environment
from qemu_system_lab import CONSOLE, PROGRAM, QUIET, READY, Peer, disk_words, run, started

from sipl.engine.qemu.program import NAMES

SECURE = ("-machine", "s390-ccw-virtio,secure-boot=on,boot-certs.0.path=/certs")


@pytest.fixture(autouse=True)
def _hang_up():
    yield
    qemu_system_lab.hang_up()


def line_of(*words, **how):
    """The one line about a command line that is wrong."""
    code, out, err = run(*words, **how)
    assert (code, out, err.count("\n")) == (2, b"", 1), err
    return err


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / "disk.raw"
    path.write_bytes(bytes(1 << 20))
    return disk_words(path)


class TestNoQemu:
    def test_help_is_there_nevertheless(self):
        code, out, err = run("--help", env=environment(SIPL_QEMU="/nonexistent/qemu"))
        assert (code, err.count("\n")) == (0, 1)
        assert b"--allow-backing" in out
        assert b"What follows is what QEMU says" not in out
        assert "there is no program /nonexistent/qemu" in err

    def test_help_that_cannot_be_written(self):
        with open("/dev/full", "wb") as full:
            env = environment(SIPL_QEMU="/nonexistent/qemu")
            done = subprocess.run(
                [*PROGRAM, "-help"], stdout=full, stderr=subprocess.PIPE, env=env, timeout=PATIENCE, check=False
            )
        assert (done.returncode, done.stderr.count(b"\n")) == (2, 1)

    def test_the_version_is_that_of_a_qemu(self):
        assert "there is no program" in line_of("-version", env=environment(SIPL_QEMU="/nonexistent/qemu"))

    def test_the_advice_is_for_this_command(self):
        if os.path.exists(NAMES[1]):
            pytest.skip("a QEMU is found without PATH here")
        line = line_of("-version", env=environment(SIPL_QEMU="", PATH="/nonexistent"))
        assert "install qemu-system-s390x" in line
        assert "--engine" not in line


def test_too_few_descriptors_are_told_for_what_they_are(disk):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (9, 9))

    line = line_of(*SECURE, *QUIET, *disk, preexec_fn=few)
    assert line == "sipl: this process: too many open files (raise the limit: ulimit -n)\n"


def test_who_is_waited_for_is_told_where_to_come(tmp_path, disk):
    """Not by the name that sipl has given to the -serial."""
    words = ("-serial", f"unix:{tmp_path}/con,server=on", "-qmp", "tcp:127.0.0.1:0,server=on")
    with started(*SECURE, *QUIET, *disk, *words) as process:
        line = process.stderr.readline().decode()
        assert f"waiting for a connection to unix:{tmp_path}/con,server=on, tcp:127.0.0.1:" in line
        assert "sipl-" not in line
        Peer(tmp_path / "con")


SIGNALLED = """\
import os, signal
from sipl.cli import qemu_system
from sipl.qemu_command.line_setup import LineSetup
close = LineSetup.close
def signalled(setup):
    os.kill(os.getpid(), signal.{0})
    close(setup)
LineSetup.close = signalled
qemu_system.entry()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_at_the_very_end_changes_nothing(tmp_path, signed, machine, name):
    """It denied the verdict, or left the socket behind."""
    path = signed(console_guests.says(READY))
    words = (*machine, *QUIET, *CONSOLE, *disk_words(path), "-qmp", f"unix:{tmp_path}/s,server=on,wait=off")
    program = [sys.executable, "-c", SIGNALLED.format(name), *words]
    how = {"stdin": subprocess.DEVNULL, "capture_output": True, "env": environment(), "timeout": PATIENCE}
    done = subprocess.run(program, check=False, **how)
    assert (done.returncode, done.stdout) == (0, READY)
    assert b"interrupted" not in done.stderr
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-qmp", "unix:{0}/none"], "sipl: unix:{0}/none: cannot be connected to: No such file or directory ("),
        (["-qmp", "unix:{0}/none/q,server=on"], "cannot be listened at: No such file or directory ("),
        (["-serial", "tcp:127.0.0.1:1"], "cannot be connected to: Connection refused (start who listens there"),
        (["-serial", "tcp:192.0.2.1:1,server=on"], "(take an address of this host, and a free port)"),
        (["-serial", "unix:/" + 150 * "x"], "(put it in a folder with a shorter name)"),
        (["-serial", "unix:"], "sipl: '': is no path of a socket"),
        (["-pidfile", "{0}"], "cannot be opened: Is a directory (name a file"),
        (["-pidfile", "{0}/none/p"], "cannot be opened: No such file or directory (name a file"),
        (["-pidfile", ""], "-pidfile: cannot be opened"),
        (["-m"], "-m: the value is missing (write it as the next word)"),
        (["-drive", "file=x,if=none,id=d0"], "there are two drives 'd0' (give each a name of its own)"),
        (["-balloon", "x"], "there is no such option that sipl knows (see -help)"),
        ([""], "disk image: the name of an image is empty (name a file)"),
        (["-hda", ""], "-hda: the name of an image is empty (name a file)"),
    ],
)
def test_what_to_do(tmp_path, disk, words, told):
    line = line_of(*SECURE, *QUIET, *disk, *(word.format(tmp_path) for word in words))
    assert told.format(tmp_path) in line
    assert line.endswith(")\n")
