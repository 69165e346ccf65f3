"""Going on in the background, as QEMU does with -daemonize."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.cli.main import EXIT_UNDECIDED, EXIT_YES, guarded

if TYPE_CHECKING:
    from collections.abc import Callable

_STANDARD_ERROR: Final = 2
_NO_EXIT_CODE: Final = range(-signal.NSIG, 0)  # ended by a signal


def in_background(work: Callable[[Callable[[], None]], int]) -> int:
    """Run `work` in a process of its own, without a terminal; it is given what it calls when it needs nobody any more.

    Returns in the process that has called: 0 as soon as `work` has made that call, otherwise the exit code with which
    it has ended. Until then it can complain to standard error. The folder stays the same: names on the command line are
    looked up at each IPL.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    reading, writing = os.pipe()
    child = 0
    try:
        child = os.fork()
        if child == 0:
            os.close(reading)
            os._exit(guarded(lambda: work(_leave_terminal(writing))))
        os.close(writing)
        with open(reading, "rb") as pipe:
            released = bool(pipe.read(1))
        if released:
            return EXIT_YES
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        if child:
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)
        raise
    return EXIT_UNDECIDED if code in _NO_EXIT_CODE else code


def _leave_terminal(writing: int) -> Callable[[], None]:
    """Have a session without a terminal; the result lets go of standard error, too, and of who waits.

    It raises BrokenPipeError where nobody waits any more.
    """
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in range(_STANDARD_ERROR):
        os.dup2(null, stream)

    def release() -> None:
        sys.stderr.flush()
        os.dup2(null, _STANDARD_ERROR)
        os.write(writing, b"\1")
        os.close(writing)

    return release
