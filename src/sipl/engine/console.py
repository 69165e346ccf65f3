"""The other end of a guest's console, as every engine wants it."""

from __future__ import annotations

import time
from typing import Final, Protocol

# What was typed and the guest's console has not taken, in bytes: a look at the keyboard seldom finds more. The console
# keeps 64 KiB for a guest that does not read; what comes then waits where it comes from, or is lost as on any terminal.
TYPED_LIMIT: Final = 4096


class GuestConsole(Protocol):
    """The other end of the guest's console."""

    def write(self, data: bytes) -> None:
        """The guest writes, in bytes as a terminal takes them."""

    def read(self, timeout: float, room: int) -> bytes:
        """What was typed for the guest, at most `room` bytes; waits up to `timeout` seconds. b"" if there is nothing.

        It is called without room, too: a person may want to end the run of a guest that does not read.

        Raises:
            ConsoleEnds: the person ends the run.
        """


class WatchedConsole(GuestConsole, Protocol):
    """A console that is waited for together with other things."""

    def descriptor(self) -> int | None:
        """What becomes readable when something was typed; None if nothing will be, or nobody can tell."""


class ConsoleEnds(Exception):
    """The person in front of the console has ended the run; the text says how."""


class Silent:
    """A console without a person."""

    def write(self, data: bytes) -> None:
        """Nobody reads."""

    def read(self, timeout: float, room: int) -> bytes:
        """Nobody types."""
        time.sleep(timeout)
        return b""

    def descriptor(self) -> int | None:
        """Nobody types."""
        return None


class Awaited:
    """A text that ends a run as soon as the console has shown it; without a text nothing does."""

    def __init__(self, text: str | None) -> None:
        self.text = text
        self._bytes = b"" if text is None else text.encode()
        self._shown = b""

    def seen(self, data: bytes) -> bool:
        """Whether the text is complete with `data`, which the console shows next."""
        if self.text is None:
            return False
        self._shown = (self._shown + data)[-len(self._bytes) - len(data) :]
        return self._bytes in self._shown

    def sentence(self) -> str:
        """What to say of a run that it has ended."""
        return f"the console shows '{self.text}'"
