"""A user's QMP monitor (`-qmp`, `-mon mode=control`) that outlives the single QEMU processes of a run.

The user sees one QEMU: its greeting, one negotiation, and where the guest was loaded again, what a reset of it shows.
A command that came while a guest is being loaded waits. Commands are refused as `monitor_rules` says, with QMP's own
error. There is no out-of-band execution, so the greeting does not offer it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.engine.qemu.relay.monitor import Monitor, MonitorView, error
from sipl.engine.qemu.relay.monitor_rules import CommandRefused, judge
from sipl.engine.qemu.relay.qmp_messages import MAX_MESSAGE, MessageReader, NoMessage, written
from sipl.engine.qemu.relay.relay import HIGH_WATER
from sipl.engine.qemu.relay.stream import MAX_DESCRIPTORS, close_all

if TYPE_CHECKING:
    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.qmp_messages import Message
    from sipl.engine.qemu.relay.user_end import UserEnd

# What `set-action` takes for what the engine does itself.
_ENGINE_ACTIONS: Final = {"reboot": ("reset", "shutdown"), "panic": ("pause", "shutdown", "exit-failure", "none")}
_MEMBERS: Final = frozenset({"execute", "arguments", "id"})


class _Command(NamedTuple):
    name: str
    arguments: Message
    # As the user wrote it, so that what is not there is not added.
    given: bool
    # `id` and its value, or nothing.
    id: Message
    descriptors: list[int]


class QmpRelay(Monitor):
    """QMP on the user's side, too. With `guarded=False` every command is passed on."""

    def __init__(self, loop: Loop, user: UserEnd, view: MonitorView, *, guarded: bool = True) -> None:
        super().__init__(loop, user, view, guarded=guarded)
        user.takes_descriptors = True
        self._reader = MessageReader()
        self._session = 0
        self._welcomed = False
        self._negotiated_by_user = False
        self._next: _Command | None = None
        # Descriptors that have come, and the offset up to which what they came with reaches.
        self._came: list[int] = []
        self._came_until = 0

    # The user.

    def _new_session(self) -> None:
        self._session += 1
        self._reader = MessageReader()
        self._welcomed = self._negotiated_by_user = False
        if self._next is not None:
            close_all(self._next.descriptors)
            self._next = None
        close_all(self._came)

    def close(self) -> None:
        """Hang up on both sides."""
        self._new_session()
        super().close()

    def _welcome(self) -> None:
        if self.greeting is None or self._welcomed or self.user.stream is None:
            return
        self._welcomed = True
        greeting = self.greeting["QMP"]
        self._say({"QMP": {**greeting, "capabilities": []} if isinstance(greeting, dict) else greeting})

    def _say(self, message: Message) -> None:
        if self.user.stream is not None:
            self._tell(written(message))

    def _show_event(self, event: Message) -> None:
        if self._negotiated_by_user:
            self._say(event)

    def _takes_from_user(self) -> bool:
        return len(self._reader) <= MAX_MESSAGE and len(self._to_user) < HIGH_WATER

    def _from_user(self, data: bytes) -> None:
        self._reader.feed(data)
        stream = self.user.stream
        if stream is not None and stream.descriptors:
            self._came += stream.descriptors
            stream.descriptors.clear()
            excess = self._came[:-MAX_DESCRIPTORS]
            del self._came[: len(excess)]
            close_all(excess)
            self._came_until = self._reader.end - (len(data) - len(data.rstrip()))

    # Commands.

    def _serve(self) -> None:
        while self._welcomed and self.user.stream is not None and len(self._to_user) < HIGH_WATER:
            command = self._next
            if command is None:
                try:
                    command = self._command()
                except _Invalid as fault:
                    self._say({"error": fault.error, **fault.id})
                    continue
            if command is None:
                return
            self._next = None
            if not self._carry_out(command):
                self._next = command
                return

    def _command(self) -> _Command | None:
        try:
            message = self._reader.next()
        except NoMessage as fault:
            self._take_descriptors()
            raise _Invalid(error(f"QMP: {fault}"), {}) from None
        if message is None:
            return None
        descriptors = self._take_descriptors()
        try:
            return _command(message, descriptors)
        except _Invalid:
            close_all(descriptors)
            raise

    def _take_descriptors(self) -> list[int]:
        """Those that came with the message that was read last."""
        if self._came_until > self._reader.taken:
            return []
        taken, self._came = self._came, []
        return taken

    def _carry_out(self, command: _Command) -> bool:
        """Answer a command, or pass it on; False if it has to wait."""
        if not self._negotiated_by_user:
            self._negotiate(command)
        elif command.name == "qmp_capabilities":
            self._say({"error": error("capabilities were negotiated before", "CommandNotFound"), **command.id})
        elif self._then is not None:
            return False
        else:
            try:
                if self.guarded:
                    judge(command.name, command.arguments, resetting=self.view.resetting)
                self._keep_disks(command)
                if command.name == "set-action":
                    return self._set_action(command)
                if not self._can_ask:
                    return False
                self._pass_on(command)
            except (CommandRefused, NoMessage) as fault:
                self._say({"error": error(f"sipl: {fault}"), **command.id})
        close_all(command.descriptors)
        return True

    def _keep_disks(self, command: _Command) -> None:
        number = command.arguments.get("fdset-id")
        if command.name in {"add-fd", "remove-fd"} and any(number == own for own in self.view.descriptor_sets):
            raise CommandRefused(f"{command.name} {number}", "this set is sipl's own and holds a disk of the guest")

    def _negotiate(self, command: _Command) -> None:
        if command.name != "qmp_capabilities":
            self._say({"error": error("qmp_capabilities comes first", "CommandNotFound"), **command.id})
        elif command.arguments.get("enable"):
            self._say({"error": error("sipl: no capability is offered"), **command.id})
        else:
            self._negotiated_by_user = True
            self._say({"return": {}, **command.id})

    def _set_action(self, command: _Command) -> bool:
        """What concerns resets and crashes is for the engine, so that each of them stays an IPL of its own."""
        own = {name: value for name, value in command.arguments.items() if name in _ENGINE_ACTIONS}
        for name, value in own.items():
            if value not in _ENGINE_ACTIONS[name]:
                self._say({"error": error(f"sipl: {name} takes {', '.join(_ENGINE_ACTIONS[name])}"), **command.id})
                return True
        rest = {name: value for name, value in command.arguments.items() if name not in own}
        if rest:
            if not self._can_ask:
                return False
            self._pass_on(command._replace(arguments=rest), remember=own)
        else:
            self._remember(own)
            self._say({"return": {}, **command.id})
        return True

    def _remember(self, actions: Message) -> None:
        self.view.actions.update({name: str(value) for name, value in actions.items()})

    def _pass_on(self, command: _Command, remember: Message | None = None) -> None:
        session = self._session

        def then(answer: Message) -> None:
            if "return" in answer:
                if remember is not None:
                    self._remember({**command.arguments, **remember})
                self._note(command)
                if session == self._session:
                    self._say({"return": self._seen(command.name, answer["return"]), **command.id})
            elif session == self._session:
                self._say({"error": answer.get("error", error("QEMU gives no reason")), **command.id})

        descriptors, kept = list(command.descriptors), command.descriptors
        self._ask(command.name, command.arguments if command.given else None, then, descriptors)
        kept.clear()

    def _note(self, command: _Command) -> None:
        """What a command that was carried out means for the next QEMU process."""
        if command.name == "device_add" and isinstance(device := command.arguments.get("id"), str):
            self.view.hot_plugged[device] = None
        elif command.name == "watchdog-set-action":
            self._remember({"watchdog": command.arguments.get("action")})

    def _seen(self, name: str, value: object) -> object:
        """An answer as the user should see it: the user's ends of character devices, without sipl's own."""
        if name != "query-chardev" or not isinstance(value, list):
            return value
        shown = []
        for device in value:
            label = device.get("label") if isinstance(device, dict) else None
            if not isinstance(label, str) or label not in self.view.own | self.view.ends.keys():
                shown.append(device)
            elif label in self.view.ends:
                shown.append({**device, "filename": self.view.ends[label].filename})
        return shown


class _Invalid(Exception):
    """A message that is no command."""

    def __init__(self, problem: Message, number: Message) -> None:
        super().__init__()
        self.error = problem
        self.id = number


def _command(message: Message, descriptors: list[int]) -> _Command:
    number = {"id": message["id"]} if "id" in message else {}
    name, arguments = message.get("execute"), message.get("arguments", {})
    if strange := message.keys() - _MEMBERS:
        raise _Invalid(error(f"QMP: a command has no member {min(strange)}"), number)
    if not isinstance(name, str):
        raise _Invalid(error("QMP: execute is missing, or no string"), number)
    if not isinstance(arguments, dict):
        raise _Invalid(error("QMP: arguments is no object"), number)
    return _Command(name, arguments, "arguments" in message, number, descriptors)
