"""What goes on for the user while one QEMU process follows another: console, clock, and what is connected."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from sipl.engine.console import Awaited, Silent
from sipl.engine.qemu.loop import Loop

if TYPE_CHECKING:
    from sipl.engine.console import WatchedConsole
    from sipl.engine.qemu.relay.relays import Relays

# A signal for sipl and QEMU may end QEMU before sipl is told of it; by so much, in seconds.
_SIGNAL_DELAY: Final = 0.05


class Session:
    """The user's side of a guest, from its first IPL to its end.

    Attributes:
        console: what the guest writes to and reads from.
        typed: what the console has given and the guest's has not taken yet.
        until: the text that ends the session as soon as the console has shown it.
        timeout: seconds that the guest is given, None for any number.
        relays: the users' character devices and monitors, None without any.
        loop: what waits for all of it.
        held: whether somebody else has to start the guest; one that is IPLed again runs on.
    """

    def __init__(
        self,
        console: WatchedConsole | None = None,
        timeout: float | None = None,
        until: str | None = None,
        relays: Relays | None = None,
        loop: Loop | None = None,
        *,
        held: bool = False,
    ) -> None:
        self.console: WatchedConsole = console or Silent()
        self.typed = bytearray()
        self.until = Awaited(until)
        self.timeout = timeout
        self.relays = relays
        self.loop = loop or Loop()
        self.held = held
        self._deadline: float | None = None

    def start_clock(self) -> None:
        """The first guest is about to run; nothing if the clock runs already."""
        if self._deadline is None and self.timeout is not None:
            self._deadline = time.monotonic() + self.timeout

    def check_signals(self) -> None:
        """QEMU has ended, perhaps by a signal that is for sipl as well.

        Raises:
            ConsoleEnds: it is.
        """
        self.console.read(_SIGNAL_DELAY, 0)
        self.console.read(0, 0)

    def seconds_left(self) -> float | None:
        """Of the time that the guest was given; None without a limit."""
        return None if self._deadline is None else self._deadline - time.monotonic()
