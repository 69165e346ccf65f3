"""A user's monitor that outlives the single QEMU processes of a run: the side of QEMU.

Each QEMU process is greeted by sipl; one command is in its hands at a time. What kind of monitor the user sees is in
`qmp_relay` and `human_relay`: both speak QMP with QEMU.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.relay.monitor_rules import resets
from sipl.engine.qemu.relay.qmp_messages import NoMessage, parsed, written
from sipl.engine.qemu.relay.relay import HIGH_WATER, Relay
from sipl.engine.qemu.relay.stream import close_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.qmp_messages import Message
    from sipl.engine.qemu.relay.user_end import UserEnd

    # Called with QEMU's answer: a message with either `return` or `error`.
    Then: TypeAlias = Callable[[Message], None]

# The longest answer; query-qmp-schema has some hundred KiB, a list of very many devices or disks may have more.
MAX_ANSWER: Final = 16 << 20


class MonitorView:
    """What all monitors of a run know together.

    Attributes:
        ends: the user's ends of character devices, by label; `query-chardev` shows these and not the socket pairs.
        own: labels of sipl's own character devices, which are not shown.
        descriptor_sets: numbers of sipl's own sets (`-add-fd`), behind which the guest's disks are.
        actions: what users have set by `set-action`, by its members' names. `reboot` and `panic` are for the engine to
            follow, QEMU never hears of them; the others are for the next QEMU process, too.
        quit_asked: whether a user has told QEMU to quit. A guest that is loaded again just then does not start.
        resetting: whether the machine was reset, or is about to be, and its next guest is not placed yet.
        hot_plugged: ids of devices that users added to the present QEMU process; the next one does not have them.
    """

    def __init__(self) -> None:
        self.ends: dict[str, UserEnd] = {}
        self.own: set[str] = set()
        self.descriptor_sets: set[int] = set()
        self.actions: dict[str, str] = {}
        self.quit_asked = False
        self.resetting = False
        self.hot_plugged: dict[str, None] = {}


class Monitor(Relay, ABC):
    """Speaks QMP with the present QEMU; see `Relay` for what the engine calls.

    When the guest stops in a crash, nothing that QEMU says from then on is shown until the engine has decided whether
    this was one (`show_crash`) or the harmless image after a reset (`detach`).
    """

    def __init__(self, loop: Loop, user: UserEnd, view: MonitorView, *, guarded: bool = True) -> None:
        super().__init__(loop, user)
        self.view = view
        self.guarded = guarded
        self.greeting: Message | None = None
        self._lines = bytearray()
        self._searched = 0
        self._ready = False
        self._number = 0
        self._then: Then | None = None
        self._crash: Message | None = None
        self._crashes = 0
        self._shown_crashes = 0
        self._start_to_come = False
        self._reset_seen = False

    def show_crash(self) -> None:
        """The guest's present crash is the guest's own: the user may see it, and what comes after it."""
        self._shown_crashes += 1
        if self._crash is not None and self._shown_crashes >= self._crashes:
            crash, self._crash = self._crash, None
            self._show_event(crash)
            self._go_on()
            self._arm()

    # What a kind of monitor adds.

    @abstractmethod
    def _new_session(self) -> None:
        """Forget all that the user before has said; an answer to what he asked for is nobody's."""

    @abstractmethod
    def _welcome(self) -> None:
        """Greet the user, once, as soon as QEMU's own greeting is known."""

    @abstractmethod
    def _show_event(self, event: Message) -> None:
        """Tell the user of an event."""

    @abstractmethod
    def _serve(self) -> None:
        """Do what the user has asked for, as far as it can be done now."""

    # Users.

    def _user_came(self) -> None:
        self._new_session()
        self._welcome()
        self._go_on()
        self._arm()

    def _user_left(self) -> None:
        self._new_session()

    # Commands.

    @property
    def _can_ask(self) -> bool:
        return self._ready and self._then is None and self.attached

    def _ask(self, command: str, arguments: Message | None, then: Then, descriptors: Sequence[int] = ()) -> None:
        """Send a command; `then` gets the answer, or an error if QEMU goes before. Raises NoMessage."""
        message: Message = {"execute": command, "id": self._number + 1}
        if arguments is not None:
            message["arguments"] = arguments
        line = written(message)
        if command == "quit" or (command == "human-monitor-command" and _quits(arguments)):
            self.view.quit_asked = True
        if resets(command, arguments or {}):
            self.view.resetting = True
        self._number += 1
        self._then = then
        self._to_qemu += line
        self._descriptors += descriptors

    # What comes from QEMU.

    def _attached(self, started_by_engine: bool) -> None:
        self._forget_session()
        self._start_to_come = started_by_engine

    def _forget_session(self) -> None:
        self._lines.clear()
        self._searched = 0
        self._ready = False
        self._then = None
        self._to_qemu.clear()
        close_all(self._descriptors)
        self._crash = None
        self._crashes = self._shown_crashes = 0
        self._reset_seen = False

    def _detached(self, reason: str | None) -> None:
        # Its last words, however slow the user is; behind a crash they tell of the harmless image.
        while self._crash is None and self._take_next():
            pass
        if self._crash is not None and reason is None:
            self._shown_crashes = self._crashes
            self._show_event(self._crash)
            self._crash = None
            while self._take_next():
                pass
        if reason is not None and not self._reset_seen:
            self._event("RESET", {"guest": reason.startswith("guest"), "reason": reason})
        then, self._then = self._then, None
        if then is not None:
            why = "the guest is loaded again, in a new QEMU process" if reason else "QEMU has ended"
            then({"error": error(f"{why}; whether the command was carried out is not known")})
        if reason is not None:
            for device in self.view.hot_plugged:
                self._event("DEVICE_DELETED", {"device": device, "path": f"/machine/peripheral/{device}"})
        self._forget_session()
        self._go_on()

    def _event(self, name: str, data: Message) -> None:
        now = time.time_ns()
        stamp = {"seconds": now // 10**9, "microseconds": now % 10**9 // 1000}
        self._show_event({"timestamp": stamp, "event": name, "data": data})

    def _from_qemu(self, data: bytes) -> None:
        self._lines += data

    def _takes_from_qemu(self) -> bool:
        return self._crash is None and len(self._to_user) < HIGH_WATER

    def _go_on(self) -> None:
        while self._takes_from_qemu() and self._take_next():
            pass
        self._serve()

    def _take_next(self) -> bool:
        """Deal with one message of QEMU; False if there is none."""
        end = self._lines.find(b"\n", self._searched)
        if end < 0:
            self._searched = len(self._lines)
            if self._searched > MAX_ANSWER:
                self._forget_qemu()
            return False
        line = bytes(self._lines[:end])
        del self._lines[: end + 1]
        self._searched = 0
        try:
            self._take(parsed(line))
        except NoMessage:
            self._forget_qemu()
            return False
        return True

    def _forget_qemu(self) -> None:
        """What is there does not speak QMP: no word of it is passed on any more."""
        self._lines.clear()
        self._searched = 0
        self._ready = False
        self._detach()

    def _take(self, message: Message) -> None:
        if "event" in message:
            self._take_event(message)
        elif "QMP" in message:
            if self._ready or self._then is not None:
                raise NoMessage
            first = self.greeting is None
            self.greeting = message
            self._ask("qmp_capabilities", None, self._negotiated)
            if first:
                self._welcome()
        # A command that QEMU itself could not read is answered without a number.
        elif self._then is not None and message.get("id", self._number) == self._number:
            then, self._then = self._then, None
            then(message)

    def _negotiated(self, answer: Message) -> None:
        self._ready = "return" in answer

    def _take_event(self, event: Message) -> None:
        name = event["event"]
        if name == "STOP":
            self._start_to_come = False
        elif name == "RESUME" and self._start_to_come:
            # sipl's own `cont`, of which a user would see nothing on a reset, nor at the start.
            self._start_to_come = False
            return
        elif name == "GUEST_PANICKED":
            self._crashes += 1
            if self._crashes > self._shown_crashes:
                self._crash = event
                return
        elif name == "RESET":
            self._reset_seen = self.view.resetting = True
            if self.view.actions.get("reboot") == "shutdown":
                event = {**event, "event": "SHUTDOWN"}
        elif name == "DEVICE_DELETED":
            data = event.get("data")
            self.view.hot_plugged.pop(str(data.get("device")) if isinstance(data, dict) else "", None)
        self._show_event(event)


def _quits(arguments: Message | None) -> bool:
    return str((arguments or {}).get("command-line", "")).split()[:1] in (["quit"], ["q"], ["exit"])


def error(text: str, kind: str = "GenericError") -> Message:
    """The `error` member of an answer."""
    return {"class": kind, "desc": text}
