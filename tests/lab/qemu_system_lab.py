"""QEMU command lines that run, and the users of their sockets."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from cli_lab import PATIENCE, environment
from ipl_lab import kernel_bytes

PROGRAM = [sys.executable, "-c", "from sipl.cli.qemu_system import entry; entry()"]
READY = b"the guest is up\r\n"


def disk_words(path, node="d0", **device):
    members = "".join(f",{key}={value}" for key, value in ({"bootindex": 1} | device).items())
    drive = f"file={path},format=raw,if=none,id={node}"
    return ("-drive", drive, "-device", f"virtio-blk-ccw,drive={node}{members}")


QUIET = ("-nodefaults", "-display", "none", "-m", "64")
CONSOLE = ("-chardev", "stdio,id=con", "-device", "sclpconsole,chardev=con")


def run(*words, **how):
    """Run a line to its end: exit code, what the guest wrote, what was said."""
    options = {"env": environment(), "stdin": subprocess.DEVNULL, "timeout": PATIENCE} | how
    done = subprocess.run([*PROGRAM, *map(str, words)], capture_output=True, check=False, **options)
    return done.returncode, done.stdout, done.stderr.decode()


@contextmanager
def started(*words, **how):
    """A line that runs; it has ended when the test has."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | how
    process = subprocess.Popen([*PROGRAM, *map(str, words)], env=environment(), **options)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def damage(path):
    """Change one byte of the kernel."""
    with open(path, "r+b") as disk:
        disk.seek(Path(path).read_bytes().index(kernel_bytes()[:512]) + 5)
        (byte,) = disk.read(1)
        disk.seek(-1, os.SEEK_CUR)
        disk.write(bytes([byte ^ 0x10]))


PEERS = []


def hang_up():
    """Close what is left of all connections."""
    while PEERS:
        PEERS.pop().socket.close()


class Peer:
    """A user at the other end of a socket."""

    def __init__(self, path):
        deadline = time.monotonic() + PATIENCE
        self.socket = socket.socket(socket.AF_UNIX)
        PEERS.append(self)
        while True:
            try:
                self.socket.connect(os.fspath(path))
                break
            except OSError:
                assert time.monotonic() < deadline
                time.sleep(0.02)
        self.socket.settimeout(PATIENCE)
        self.seen = b""

    def until(self, text: bytes, times: int = 1) -> bytes:
        while self.seen.count(text) < times:
            data = self.socket.recv(65536)
            assert data, f"closed after {self.seen!r}"
            self.seen += data
        return self.seen

    def rest(self) -> bytes:
        while data := self.socket.recv(65536):
            self.seen += data
        return self.seen

    def command(self, name, **arguments):
        self.socket.sendall(json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n")

    def messages(self):
        return [json.loads(line) for line in self.seen.splitlines()]


@contextmanager
def watched(machine, path, *more, extra=()):
    """A guest with its console and a monitor on sockets beside its disk."""
    folder = Path(path).parent
    words = [*machine, *QUIET, *disk_words(path)]
    words += ["-chardev", f"socket,id=con,path={folder}/con,server=on,wait=off"]
    words += ["-device", "sclpconsole,chardev=con", "-qmp", f"unix:{folder}/mon,server=on,wait=off", "-S", *more]
    with started(*words, **dict(extra)) as process:
        console, monitor = Peer(folder / "con"), Peer(folder / "mon")
        monitor.until(b'"QMP"')
        monitor.command("qmp_capabilities")
        yield process, console, monitor
