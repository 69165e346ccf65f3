"""The user's end of a character device, whatever kind it has.

It belongs to sipl for the whole run, so whoever is connected stays so while one QEMU process follows another. What it
does is what QEMU's own socket and pty devices do: docs/qemu-engine.md.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.stream import Stream


class UserEnd(ABC):
    """Where users come from. `stream` is the connection of the present one; `must_wait` while the start waits for one.

    Attributes:
        takes_descriptors: whether descriptors that come with the bytes are kept (a QMP monitor does).
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.must_wait = False
        self.takes_descriptors = False
        self._loop: Loop | None = None
        self._came: Callable[[], None] | None = None

    @property
    @abstractmethod
    def filename(self) -> str:
        """What `query-chardev` shows of it."""

    def start(self, loop: Loop, came: Callable[[], None]) -> None:
        """Begin to take users; `came` is called when there is one, with `stream` set.

        Raises:
            FileError: a connection that was to be made at the start was not.
        """
        self._loop, self._came = loop, came
        self._wait()

    def drop(self) -> None:
        """The present user has left, or is sent away; the next one may come."""
        if self.stream is None or self._loop is None:
            return
        self._loop.forget(self.stream.fileno())
        self.stream.close()
        self.stream = None
        self._wait()

    def look(self) -> bool:
        """Whether there is a user, found out at once where it is noticed only now and then."""
        return self.stream is not None

    def close(self) -> None:
        """Send the user away and take no more."""
        if self.stream is not None and self._loop is not None:
            self._loop.forget(self.stream.fileno())
            self.stream.close()
            self.stream = None

    @abstractmethod
    def _wait(self) -> None:
        """Wait for the next user."""

    def _take(self, stream: Stream) -> None:
        self.stream = stream
        self.must_wait = False
        if self._came is not None:
            self._came()

    def _shown(self, name: str) -> str:
        return name if self.stream is not None else f"disconnected:{name}"
