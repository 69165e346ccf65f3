"""One QEMU process: started with inherited descriptors, ended with sipl, and what it said when it failed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.program import QemuUnable
from sipl.engine.qemu.qmp import QemuEnded, Qmp, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

QMP_CHANNEL: Final = "sipl-qmp"
# How long a QEMU that was told to quit may take to close its images, in seconds.
_QUIT_TIMEOUT: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
# Of what QEMU writes on standard error only the end is shown.
_KEPT_ERRORS: Final = 4096


class QemuProcess:
    """A running QEMU whose QMP monitor sipl has for itself.

    `arguments` are those behind the program's name, without the monitor; `descriptors` are inherited besides sipl's
    own. With `own_terminal` the process has no standard input, is not reached by the keys of sipl's terminal, and what
    it complains about is kept for sipl to tell; otherwise it has sipl's standard streams.

    Raises:
        QemuUnable: it cannot be started.
    """

    def __init__(
        self, program: str, arguments: Sequence[str], descriptors: Iterable[int], *, own_terminal: bool = True
    ) -> None:
        self._program = program
        self._complaints = b""
        ours, theirs = socket.socketpair()
        self.qmp = Qmp(ours)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        self._errors = reading
        monitor = (
            "-chardev",
            f"socket,id={QMP_CHANNEL},fd={theirs.fileno()}",
            "-mon",
            f"chardev={QMP_CHANNEL},mode=control",
        )
        try:
            # Nothing that runs between fork and exec takes a lock that another thread could hold.
            self._process = subprocess.Popen(  # noqa: S603 (no shell; every argument is sipl's or was judged)
                [program, *monitor, *arguments],
                pass_fds=[*descriptors, theirs.fileno()],
                stdin=subprocess.DEVNULL if own_terminal else None,
                stdout=writing if own_terminal else None,
                stderr=writing,
                process_group=0 if own_terminal else None,
                preexec_fn=_end_with_parent(),  # noqa: PLW1509 (see above)
            )
        except BaseException as error:
            self.qmp.close()
            os.close(reading)
            if isinstance(error, OSError):
                why = f"cannot be started: {error.strerror or error}"
                raise QemuUnable(program, why, "is it a program?") from error
            raise
        finally:
            theirs.close()
            os.close(writing)

    @property
    def errors(self) -> int:
        """Descriptor to watch: readable when QEMU has complained."""
        return self._errors

    def greet(self) -> tuple[int, int, int]:
        """Wait until QEMU has made its machine, reset it once, and stands before the first instruction.

        Raises:
            QemuUnable: it has ended instead; says what QEMU says.
        """
        try:
            return self.qmp.greet()
        except (QemuEnded, QmpError) as error:
            self.kill()
            raise QemuUnable(self._program, self.complaint() or str(error), "see QEMU's documentation") from error

    def read_errors(self) -> bytes:
        """Take what QEMU has written to standard error since the last call."""
        try:
            data = os.read(self._errors, 1 << 16)
        except OSError:
            return b""
        self._complaints = (self._complaints + data)[-_KEPT_ERRORS:]
        return data

    def complaint(self) -> str:
        """The last line that QEMU has complained with, without its own name; empty if there was none."""
        while self.read_errors():
            pass
        lines = [line.strip() for line in self._complaints.decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1].removeprefix(f"{os.path.basename(self._program)}: ") if lines else ""

    def wait(self, timeout: float | None = None) -> int | None:
        """The exit status (negative: the signal that ended it), or None if it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            return None

    def quit(self) -> int:
        """Have it close its images and end; returns the exit status."""
        deadline = time.monotonic() + _QUIT_TIMEOUT
        with suppress(QmpError, QemuEnded):
            self.qmp.execute("quit", timeout=_QUIT_TIMEOUT)
        if self.wait(max(0.0, deadline - time.monotonic())) is None:
            return self.kill()
        return self._process.returncode

    def kill(self) -> int:
        """End it at once; returns the exit status."""
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        """Let go of all descriptors; a process that still runs is killed."""
        if self._process.poll() is None:
            self.kill()
        self.qmp.close()
        if self._errors >= 0:
            os.close(self._errors)
            self._errors = -1


def _end_with_parent() -> Callable[[], None]:
    """For the child: have the host kill it when sipl ends, whatever ends sipl."""
    import ctypes

    prctl = ctypes.CDLL(None, use_errno=True).prctl
    parent = os.getpid()

    def ask() -> None:
        prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
        if os.getppid() != parent:  # it has ended meanwhile
            os._exit(1)

    return ask
