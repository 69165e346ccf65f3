"""Running the command line as a process and on a terminal."""

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
from typing import NamedTuple

import ipl_lab

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
    clean = {k: v for k, v in os.environ.items() if k not in drop and (k == "PYTHONPATH" or not k.startswith("PYTHON"))}
    return clean | {"LC_ALL": "C.UTF-8", "PYTHONDONTWRITEBYTECODE": "1"} | more


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "sipl", *map(str, words)]


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
            env=environment(**({"TERM": "xterm-256color"} | (env or {}))),
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
