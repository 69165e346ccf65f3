"""Ending the run of a guest that comes to no interruption point: a loop without traps never leaves Unicorn by itself.

A thread watches the time, signals, and, while the guest is silent, the console. It can end a run for good and nothing
else: stopped from outside, Unicorn does not tell at which instruction the guest is, so that it could not go on.
"""

from __future__ import annotations

import select
import signal
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

# How long the thread sleeps at most, and so how late it notices that the guest is silent, in seconds.
_TICK: Final = 0.5
# Not every host has all of them.
_ENDING: Final = frozenset(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Watch:
    """Calls `stop`, again and again, once time is up, a signal came, or somebody wants the run to end.

    All three functions are called on the thread of the watch: `left` gives the seconds that are left, None without a
    limit; `ends` says whether the run is to end.
    """

    def __init__(self, stop: Callable[[], None], left: Callable[[], float | None], ends: Callable[[], bool]) -> None:
        self._stop = stop
        self._left = left
        self._ends = ends
        self._quit = False
        self.stopped = False  # a signal that ends programs came
        self._thread = threading.Thread(target=self._watch, name="sipl-watch", daemon=True)
        # Sockets, as some hosts can wait for nothing else.
        self._read, self._write = socket.socketpair()
        self._old_wakeup = -1

    def __enter__(self) -> Self:
        self._read.setblocking(False)
        self._write.setblocking(False)
        # Python runs its signal handlers between its own instructions: this wakes the thread at once.
        with suppress(ValueError):  # not in the main thread, which gets no signals then
            self._old_wakeup = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ValueError):
            signal.set_wakeup_fd(self._old_wakeup)
        self._quit = True
        with suppress(OSError):
            self._write.send(b"\0")
        self._thread.join()
        self._read.close()
        self._write.close()

    def _watch(self) -> None:
        while not self._quit:
            left = self._left()
            tick = _TICK if left is None else max(0.0, min(_TICK, left))
            signalled = bool(select.select([self._read], [], [], tick)[0])
            if self._quit:
                return
            if signalled:
                with suppress(OSError):
                    signalled = not _ENDING.isdisjoint(self._read.recv(64))
            left = self._left()
            self.stopped = self.stopped or signalled
            if self.stopped or (left is not None and left <= 0) or self._ends():
                self._stop()
