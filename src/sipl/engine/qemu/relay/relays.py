"""All that the users of a run are connected to, and its moments: a fresh QEMU, a guest placed in it, its end.

relays.start()                          # before the first QEMU; users may connect from here on
for label, end in relays.renew().items():   # for each QEMU process: its ends, as -chardev socket,id=label,fd=end
relays.placed()                         # the guest is placed: users and guest are connected
relays.ending()                         # QEMU is about to be told to end: only monitors hear more from it
relays.ended("guest-reset")             # QEMU has ended or is killed, the guest will be loaded again; or None
relays.finish()                         # the run is over
"""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.relay.human_relay import HumanRelay
from sipl.engine.qemu.relay.monitor import Monitor, MonitorView
from sipl.engine.qemu.relay.qmp_relay import QmpRelay
from sipl.engine.qemu.relay.relay import Relay

if TYPE_CHECKING:
    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.user_end import UserEnd

# How long users may take to read the last words; who reads reads them at once.
_LAST_WORDS: Final = 1.0


class Relays:
    """The relays of a run, by the labels of their character devices.

    Attributes:
        view: what monitors show; labels of sipl's own character devices go to `view.own`.
    """

    def __init__(self, loop: Loop) -> None:
        self.view = MonitorView()
        self._loop = loop
        self._relays: dict[str, Relay] = {}
        self._ours: dict[str, socket.socket] = {}

    def add(self, label: str, user: UserEnd) -> None:
        """A character device whose bytes are relayed."""
        self._add(label, user, Relay(self._loop, user))

    def add_qmp(self, label: str, user: UserEnd, *, guarded: bool = True) -> None:
        """A QMP monitor: QEMU gets `-mon chardev=label,mode=control`."""
        self._add(label, user, QmpRelay(self._loop, user, self.view, guarded=guarded))

    def add_human(self, label: str, user: UserEnd, *, guarded: bool = True) -> None:
        """A monitor for people: QEMU gets `-mon chardev=label,mode=control` as well."""
        self._add(label, user, HumanRelay(self._loop, user, self.view, guarded=guarded))

    def _add(self, label: str, user: UserEnd, relay: Relay) -> None:
        self.view.ends[label] = user
        self._relays[label] = relay

    def start(self) -> None:
        """Take users from now on. Raises FileError where a connection that is made at the start cannot be made."""
        for relay in self._relays.values():
            relay.start()

    @property
    def waiting(self) -> list[str]:
        """Labels of those for whose first user the start has to wait (`wait=on`)."""
        return [label for label, relay in self._relays.items() if relay.user.must_wait]

    def renew(self) -> dict[str, socket.socket]:
        """The ends for a fresh QEMU process, by label; the caller lets QEMU inherit them and closes its own."""
        self._drop_ours()
        theirs = {}
        for label in self._relays:
            self._ours[label], theirs[label] = socket.socketpair()
        return theirs

    def placed(self, *, started_by_engine: bool = True) -> None:
        """The guest is placed in the QEMU that has the ends of the last `renew`.

        `started_by_engine` says that sipl starts the guest, and not the user's own `cont`.
        """
        self.view.hot_plugged.clear()
        self.view.resetting = False
        for label, relay in self._relays.items():
            if label in self._ours:
                relay.attach(self._ours.pop(label), started_by_engine=started_by_engine)

    def show_crash(self) -> None:
        """The crash that QEMU has told of is the guest's own: the monitors show it."""
        for relay in self._relays.values():
            if isinstance(relay, Monitor):
                relay.show_crash()

    def ending(self) -> None:
        """The present QEMU process is about to be told to end: take what the guest wrote, and hang up on the guest.

        Who does not read would hold up QEMU at what the guest writes. Monitors do not, and show how QEMU ends.
        """
        for relay in self._relays.values():
            if not isinstance(relay, Monitor):
                relay.detach()

    def ended(self, reason: str | None) -> None:
        """The present QEMU process has ended: after this only the users' ends are left.

        `reason` is QEMU's word for why the guest is loaded again (`guest-reset`, `host-qmp-system-reset`), None if it
        is not.
        """
        self._drop_ours()
        for relay in self._relays.values():
            relay.detach(reason)

    def finish(self, timeout: float = _LAST_WORDS) -> None:
        """Let the users read the last words, for `timeout` seconds at most, and close everything."""
        self.ended(None)
        deadline = time.monotonic() + timeout
        while any(relay.undelivered for relay in self._relays.values()) and time.monotonic() < deadline:
            self._loop.turn(max(0.0, deadline - time.monotonic()))
        self.close()

    def close(self) -> None:
        """Close everything at once."""
        self._drop_ours()
        for relay in self._relays.values():
            relay.close()

    def _drop_ours(self) -> None:
        for end in self._ours.values():
            end.close()
        self._ours.clear()
