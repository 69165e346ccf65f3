"""`sipl-qemu-system-s390x` on a terminal, and what it says where a person has to choose."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import termios

import console_guests
import pytest
from cli_lab import AT, PATIENCE, environment
from qemu_system_lab import PROGRAM, READY


@pytest.fixture
def line(signers):
    """The words of a machine with one disk, in secure mode."""

    def make(path):
        machine = f"s390-ccw-virtio,secure-boot=on,boot-certs.0.path={signers['A'].path}"
        drive = ("-drive", f"file={path},format=raw,if=none,id=d0", "-device", "virtio-blk-ccw,drive=d0,bootindex=1")
        return [*PROGRAM, "-machine", machine, "--at", AT, "-m", "64", *drive]

    return make


def qemu_of(process):
    """The number of the QEMU process."""
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as file:
        (child,) = file.read().split()
    return int(child)


def test_a_killed_qemu_leaves_the_terminal_as_it_was(signed, line):
    master, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    words = line(signed(console_guests.says_and_loops(READY)))
    words[words.index("-c") + 1] = f"import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); {words[2]}"
    process = subprocess.Popen(
        [*words, "-nographic"],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.DEVNULL,
        env=environment(),
        start_new_session=True,
    )
    try:
        seen = b""
        while READY.strip() not in seen:
            seen += os.read(master, 1024)
        assert termios.tcgetattr(terminal) != before
        os.kill(qemu_of(process), signal.SIGKILL)
        assert process.wait(PATIENCE) == 2
        assert termios.tcgetattr(terminal) == before
        assert os.get_blocking(terminal)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(terminal)


def test_a_terminal_with_a_monitor_on_its_serial_line(signed, line):
    words = [*line(signed(console_guests.says(READY))), "-nographic", "-serial", "mon:stdio"]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (0, READY)


def test_a_boot_menu_says_how_to_choose_here(signed, line):
    words = [*line(signed(console_guests.says(READY))), "-nodefaults", "-display", "none", "-boot", "menu=on"]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, env=environment(), timeout=PATIENCE, check=False
    )
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"menu-choice-needed" in done.stderr
    assert b"loadparm=N" in done.stderr
    assert b"--choose" not in done.stderr
