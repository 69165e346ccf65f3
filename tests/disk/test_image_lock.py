"""Locks: QEMU and sipl keep each other away from an image, and so does flock."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from sipl.disk.image_lock import ImageInUse, lock_image
from sipl.disk.open_writer import open_writer
from sipl.disk.writable_file import WritableFile
from sipl.errors import ImageError, SealRefused
from sipl.reasons import SealReason

fcntl = pytest.importorskip("fcntl", reason="a host without file locks writes to no image")
pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="no locks by open file description here")

PATIENCE = 60


@pytest.fixture(params=["raw", "qcow2"])
def image(request, tmp_path, need_tool):
    path = tmp_path / f"disk.{request.param}"
    tool = need_tool("qemu-img", "qemu-utils")
    subprocess.run([tool, "create", "-q", "-f", request.param, path, "1M"], check=True)
    return path


def locks(path) -> set[int]:
    """Bytes of a file on which somebody has a lock."""
    number = path.stat().st_ino
    found: set[int] = set()
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "OFDLCK" in words and words[-3].endswith(f":{number}"):
            found |= set(range(int(words[-2]), int(words[-1]) + 1))
    return found


@contextmanager
def held(path, command):
    """A program that has the image until the end of the block."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as program:
        deadline = time.monotonic() + PATIENCE
        while not locks(path):
            assert program.poll() is None, "the program has ended"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        try:
            yield program
        finally:
            program.kill()
            program.wait()


def is_refused(path):
    before = path.read_bytes()
    with pytest.raises(SealRefused) as caught:
        open_writer(path)
    assert caught.value.reason is SealReason.IMAGE_IN_USE
    assert path.read_bytes() == before


@pytest.mark.parametrize("read_only", [False, True], ids=["written", "read"])
def test_qemu_io_has_the_image(image, need_tool, read_only):
    tool = need_tool("qemu-io", "qemu-utils")
    command = [tool, *(["-r"] if read_only else []), "-f", image.suffix[1:], str(image)]
    with held(image, command):
        is_refused(image)
    open_writer(image).close()


def test_qemu_nbd_has_the_image(image, need_tool, tmp_path):
    tool = need_tool("qemu-nbd", "qemu-utils")
    with held(image, [tool, "-t", "-k", str(tmp_path / "socket"), "-f", image.suffix[1:], str(image)]):
        is_refused(image)
    open_writer(image).close()


def test_a_guest_has_the_image(image, need_tool):
    tool = need_tool("qemu-system-s390x", "qemu-system-misc")
    drive = f"file={image},format={image.suffix[1:]},if=none,id=d"
    command = [tool, "-M", "s390-ccw-virtio,accel=tcg", "-m", "64", "-nodefaults", "-display", "none", "-S"]
    with held(image, [*command, "-drive", drive, "-device", "virtio-blk-ccw,drive=d"]):
        is_refused(image)
    open_writer(image).close()


@pytest.mark.parametrize("arguments", [["-c", "write 0 512"], ["-r", "-c", "read 0 512"]], ids=["write", "read"])
def test_qemu_is_kept_out(image, need_tool, arguments):
    tool = need_tool("qemu-io", "qemu-utils")
    command = [tool, "-f", image.suffix[1:], *arguments, str(image)]
    with open_writer(image):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "lock" in done.stdout + done.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_bytes_that_are_locked(image):
    with open_writer(image):
        assert locks(image) == {100, 101, 102, 103, 200, 201, 202, 203}
    assert locks(image) == set()


def test_two_writers(image):
    with open_writer(image):
        is_refused(image)
    open_writer(image).close()


def test_flock(image):
    with image.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        is_refused(image)
    with open_writer(image), image.open("rb") as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)


def test_locks_of_other_bytes_are_none_of_our_business(image):
    code = (
        "import fcntl, sys; f = open(sys.argv[1], 'r+b'); fcntl.lockf(f, fcntl.LOCK_EX, 10, 300); "
        "print(flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(image)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        other.stdout.readline()
        open_writer(image).close()
        other.stdin.close()


def test_a_host_that_cannot_lock(image, monkeypatch):
    def no_locks(*arguments):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "fcntl", no_locks)
    with pytest.raises(ImageError, match="cannot be locked: Operation not supported"):
        open_writer(image)


def test_the_lock_of_a_file_that_is_read_only_by_itself(image):
    """The lock belongs to the open file, not to its name."""
    fd = os.open(image, os.O_RDWR)
    try:
        lock_image(fd, "name")
        with pytest.raises(ImageInUse, match="another program uses the image"):
            other = os.open(image, os.O_RDWR)
            try:
                lock_image(other, "name")
            finally:
                os.close(other)
    finally:
        os.close(fd)
    file = WritableFile(image)
    file.close()
    file.close()
