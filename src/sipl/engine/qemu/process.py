"""One QEMU process: started with inherited descriptors, ended with sipl, and what it said when it failed."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.program import NAMES, QemuUnable
from sipl.engine.qemu.qmp import QemuEnded, Qmp, QmpError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

QMP_CHANNEL: Final = "sipl-qmp"
# How long a QEMU that was told to quit may take to close its images, in seconds.
_QUIT_TIMEOUT: Final = 10.0
_PR_SET_PDEATHSIG: Final = 1
# Of what QEMU writes on standard error before somebody listens, the last bytes are kept; a pipe holds as many.
_KEPT_ERRORS: Final = 1 << 16
# So often the pipe is read at once: who goes on complaining must not keep others waiting.
_READS: Final = 64
# How long a complaint that is told may be, in characters.
_COMPLAINT: Final = 300
# How often a QEMU that still complains is looked at whether it has ended, in seconds.
_LOOK: Final = 0.02


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
        self._complain: Callable[[bytes], object] | None = None
        self._own_group = own_terminal
        ours, theirs = socket.socketpair()
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        os.set_blocking(writing, True)
        self._errors = reading
        self.qmp = Qmp(ours, {reading: self.read_errors})
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

    def listen(self, complain: Callable[[bytes], object]) -> None:
        """From here on hand what QEMU complains with to `complain`, what is kept from before at once.

        What it said before is no reason for what fails from here on.
        """
        kept, self._complaints = self._complaints, b""
        self._complain = complain
        if kept:
            complain(kept)

    def read_errors(self) -> bool:
        """Take what QEMU has written to standard error; False if there is nothing."""
        try:
            data = os.read(self._errors, 1 << 16)
        except OSError:
            return False
        self._complaints = (self._complaints + data)[-_KEPT_ERRORS:]
        if self._complain is not None and data:
            self._complain(data)
        return bool(data)

    def complaint(self) -> str:
        """Why QEMU has ended, in its own words and without its name; empty if it has said nothing.

        QEMU may say more behind that, and who has started it, a script say, too: what counts is its first line that is
        no mere warning, else the last line.
        """
        for _ in range(_READS):
            if not self.read_errors():
                break
        names = "|".join(re.escape(os.path.basename(name)) for name in (self._program, *NAMES))
        lines = [line.strip() for line in self._complaints.decode("utf-8", "replace").splitlines() if line.strip()]
        # A warning may have the option that it is about in front.
        fault = re.compile(rf"(?:{names}): (?!(?:[^:]*: )?(?:warning|info): )(.+)")
        own = (found[1] for line in lines if (found := fault.match(line)))
        told = next(own, lines[-1] if lines else "")
        return told if len(told) <= _COMPLAINT else told[: _COMPLAINT - 1] + "…"

    def wait(self, timeout: float) -> int | None:
        """The exit status (negative: the signal that ended it), or None if it still runs after `timeout` seconds.

        What it complains with meanwhile is read, as it could not end otherwise.
        """
        deadline = time.monotonic() + timeout
        errors = select.poll()
        errors.register(self._errors, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0 and self._process.poll() is None:
            if errors.poll(min(left, _LOOK) * 1000) and not self.read_errors():
                break  # it has closed its standard error, as it does when it ends
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(max(0.0, deadline - time.monotonic()))
        return self._process.returncode

    def quit(self) -> int:
        """Have it close its images and end; returns the exit status."""
        deadline = time.monotonic() + _QUIT_TIMEOUT
        self._complain = None  # it ends in order also where that can be told to nobody any more
        with suppress(QmpError, QemuEnded):
            self.qmp.execute("quit", timeout=_QUIT_TIMEOUT)
        status = self.wait(max(0.0, deadline - time.monotonic()))
        return self.kill() if status is None else status

    def kill(self) -> int:
        """End it at once; returns the exit status.

        With a process group of its own all of that is ended: the program may be a script, and QEMU its child.
        """
        if not self._own_group:
            self._process.kill()
        elif self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
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
