"""How long a guest has been running, as one line on standard error that is updated in its place."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from typing import TextIO

# A guest that takes less than this needs no comfort; more often the eye does not look.
_INTERVAL: Final = 1.0


class Progress:
    """Shows the number of the IPL and the seconds since the first one."""

    def __init__(self, stream: TextIO) -> None:
        self.ipl = 0
        self._stream = stream
        self._start = time.monotonic()
        self._next = self._start + _INTERVAL
        self._width = 0

    def tick(self) -> None:
        """Update the line if it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + _INTERVAL
        minutes, seconds = divmod(int(now - self._start), 60)
        line = f"IPL {self.ipl}: the guest runs, {minutes}:{seconds:02}"
        self._show(f"\r{line.ljust(self._width)}")
        self._width = len(line)

    def clear(self) -> None:
        """Take the line away, for others to follow."""
        if self._width:
            self._show(f"\r{' ' * self._width}\r")
            self._width = 0

    def _show(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # nobody looks any more, which is no reason to end a guest
            self._next = float("inf")


def has_room(stream: TextIO, console: TextIO) -> bool:
    """Whether `stream` is a terminal, and another one than that which shows the console."""
    if not stream.isatty():
        return False
    if not console.isatty():
        return True
    one, other = os.fstat(stream.fileno()), os.fstat(console.fileno())
    return (one.st_dev, one.st_rdev) != (other.st_dev, other.st_rdev)
