"""What a run waits for, in one place: descriptors that become ready, and moments that come.

One thread does all of it. Who is called back takes what is there without waiting, and returns.
"""

from __future__ import annotations

import heapq
import selectors
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    Action: TypeAlias = Callable[[], object]


class Timer:
    """A moment that is waited for, until `cancel`."""

    __slots__ = ("action",)

    def __init__(self, action: Action) -> None:
        self.action: Action | None = action

    def cancel(self) -> None:
        """Do nothing when the moment comes."""
        self.action = None


class _Watch:
    __slots__ = ("reading", "writing")

    def __init__(self) -> None:
        self.reading: Action | None = None
        self.writing: Action | None = None

    def mask(self) -> int:
        return (selectors.EVENT_READ if self.reading else 0) | (selectors.EVENT_WRITE if self.writing else 0)


class Loop:
    """Descriptors with what is called when they are ready, and timers."""

    def __init__(self) -> None:
        # poll, as epoll takes no regular file and no /dev/null, which standard input may be.
        self._selector = selectors.PollSelector()
        self._watched: dict[int, _Watch] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._counted = 0

    def watch(self, descriptor: int, reading: Action | None = None, writing: Action | None = None) -> None:
        """Call `reading` whenever there is something to read or the other end is gone, `writing` when there is room.

        This replaces what was said about the descriptor before; with neither, it is forgotten.
        """
        watch = self._watched.get(descriptor)
        before = watch.mask() if watch is not None else 0
        if watch is None:
            watch = self._watched[descriptor] = _Watch()
        watch.reading, watch.writing = reading, writing
        mask = watch.mask()
        if mask == before and mask:
            return
        if before:
            if mask:
                self._selector.modify(descriptor, mask, watch)
                return
            self._selector.unregister(descriptor)
        elif mask:
            self._selector.register(descriptor, mask, watch)
        if not mask:
            del self._watched[descriptor]

    def forget(self, descriptor: int) -> None:
        """Watch the descriptor no more; to be called before it is closed."""
        self.watch(descriptor)

    def after(self, seconds: float, action: Action) -> Timer:
        """Call `action` once, in so many seconds."""
        timer = Timer(action)
        self._counted += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._counted, timer))
        return timer

    def turn(self, timeout: float | None = None) -> None:
        """Wait for something up to `timeout` seconds (None: as long as it takes), and make the calls that it means."""
        while self._timers and self._timers[0][2].action is None:
            heapq.heappop(self._timers)
        if self._timers:
            left = max(0.0, self._timers[0][0] - time.monotonic())
            timeout = left if timeout is None else min(timeout, left)
        for key, mask in self._selector.select(timeout):
            watch: _Watch = key.data
            # An earlier call of this turn may have closed the descriptor, and its number may be another's by now.
            if mask & selectors.EVENT_READ and self._watched.get(key.fd) is watch and watch.reading:
                watch.reading()
            if mask & selectors.EVENT_WRITE and self._watched.get(key.fd) is watch and watch.writing:
                watch.writing()
        now = time.monotonic()
        due = []
        while self._timers and self._timers[0][0] <= now:
            due.append(heapq.heappop(self._timers)[2])
        for timer in due:
            if timer.action is not None:
                timer.action()

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()
        self._watched.clear()
        self._timers.clear()
