"""Running the command line: in this process, as a process of its own, and on a terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from sipl.author.demo import make_demo
from sipl.cli.main import run

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import ipl_lab  # noqa: E402 -- pytest's importlib mode puts nothing on the path

# Long enough for a loaded machine; no test waits for it unless it is about to fail.
PATIENCE = 60
AT = f"@{ipl_lab.AT}"


class Result(NamedTuple):
    """What a command line left behind."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def json(self) -> list:
        """One object per line of the output."""
        return [json.loads(line) for line in self.lines]


def environment(**more: str) -> dict[str, str]:
    """The environment of this process without what changes how output is written."""
    drop = ("NO_COLOR", "FORCE_COLOR", "COLUMNS", "LINES", "TERM", "COLORTERM", "LC_ALL", "LANG", "LC_CTYPE")
    clean = {k: v for k, v in os.environ.items() if k not in drop and not k.startswith("PYTHON")}
    return clean | {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"} | more


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sipl", *map(str, words)]


@pytest.fixture
def sipl(capsys):
    """Run a command line in this process."""

    def call(*words: object) -> Result:
        code = run([str(word) for word in words])
        written = capsys.readouterr()
        return Result(code, written.out, written.err)

    return call


@pytest.fixture
def sipl_process():
    """Run a command line as a process of its own; standard input is empty."""

    def call(*words: object, env: dict[str, str] | None = None, **how) -> Result:
        done = subprocess.run(
            command(*words),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            env=environment(**(env or {})),
            timeout=PATIENCE,
            check=False,
            **how,
        )
        return Result(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8"))

    return call


class Terminal:
    """A command line on a pseudo terminal of 160 columns."""

    def __init__(self, *words: object, env: dict[str, str] | None = None, stdin: int | None = None) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 160, 0, 0))
        self.process = subprocess.Popen(
            command(*words),
            stdin=slave if stdin is None else stdin,
            stdout=slave,
            stderr=slave,
            env=environment(TERM="xterm-256color", **(env or {})),
            start_new_session=True,
        )
        os.close(slave)
        self.output = ""

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _read(self, deadline: float) -> bool:
        """Take what is there; False at the end."""
        ready, _, _ = select.select([self._master], [], [], max(0, deadline - time.monotonic()))
        assert ready, f"nothing more within {PATIENCE} s after {self.output!r}"
        try:
            data = os.read(self._master, 65536)
        except OSError:  # how Linux says that the other side is closed
            return False
        self.output += data.decode("utf-8", "replace")
        return bool(data)

    def wait_for(self, text: str) -> None:
        deadline = time.monotonic() + PATIENCE
        while text not in self.output:
            assert self._read(deadline), f"ended without {text!r}: {self.output!r}"

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def finish(self) -> Result:
        deadline = time.monotonic() + PATIENCE
        while self._read(deadline):
            pass
        return Result(self.process.wait(PATIENCE), self.output.replace("\r\n", "\n"), "")


@pytest.fixture
def terminal():
    return Terminal


@pytest.fixture
def start():
    """Start a command line and leave it to the test."""

    def call(*words: object, **how) -> subprocess.Popen:
        return subprocess.Popen(command(*words), env=environment(), **how)

    return call


class Demo(NamedTuple):
    """The demo disk, whose certificate is valid at `AT`."""

    disk: str
    certificate: str

    @property
    def secure(self) -> tuple[str, ...]:
        """Options of a secure IPL."""
        return ("--secure-boot", "on", "--boot-certs", self.certificate, "--at", AT)

    @property
    def trusted(self) -> tuple[str, ...]:
        """Options that let `verify` say yes."""
        return ("--boot-certs", self.certificate, "--at", AT)


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Demo:
    files = make_demo(str(tmp_path_factory.mktemp("demo")), ipl_lab.AT)
    return Demo(files.disk, files.certificate)


@pytest.fixture(scope="session")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    return ipl_lab.Lab(tmp_path, signers)


@pytest.fixture
def bad(demo, tmp_path) -> str:
    """A copy of the first MiB of the demo disk with one byte of the kernel changed."""
    from sipl.author.demo import flip_byte

    path = tmp_path / "bad.raw"
    with open(demo.disk, "rb") as disk:
        path.write_bytes(disk.read(1 << 20))
    flip_byte(str(path))
    return str(path)
