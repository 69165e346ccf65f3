"""What a command is doing, as one line on standard error that is updated in its place; only on a terminal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sipl.text import printable

if TYPE_CHECKING:
    from typing import TextIO

# More often the eye does not look.
_INTERVAL: Final = 0.2
_MIB: Final = 1 << 20


class StepProgress:
    """Shows the step that a disk is at, and in it how much was read."""

    def __init__(self, stream: TextIO, what: str, *, shown: bool) -> None:
        self._stream = stream
        self._what = printable(what, 40)
        self._shown = shown and stream.isatty()
        self._step = ""
        self._read = 0
        self._next = 0.0
        self._width = 0

    def step(self, text: str) -> None:
        """Begin another step."""
        self._step = text
        self._read = 0
        self._next = 0.0
        self._update()

    def read(self, count: int) -> None:
        """So many bytes more were read."""
        self._read += count
        self._update()

    def clear(self) -> None:
        """Take the line away, for others to follow."""
        if self._width:
            self._show(f"\r{' ' * self._width}\r")
            self._width = 0

    def _update(self) -> None:
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _INTERVAL
        amount = f", {self._read / _MIB:.0f} MiB" if self._read else ""
        line = f"{self._what}: {self._step}{amount}"
        self._show(f"\r{line.ljust(self._width)}")
        self._width = len(line)

    def _show(self, text: str) -> None:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:  # nobody looks any more, which is no reason to end
            self._shown = False
