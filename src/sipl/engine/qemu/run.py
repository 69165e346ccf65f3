"""A guest in a QEMU process, from its start to its end: what is waited for, and what it means (docs/qemu-engine.md)."""

from __future__ import annotations

import re
import signal
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.engine.base import EndKind, GuestEnd
from sipl.engine.console import TYPED_LIMIT, ConsoleEnds
from sipl.engine.qemu.failed_reipl import chosen_block
from sipl.engine.qemu.harmless import stored_block
from sipl.engine.qemu.placing import place
from sipl.engine.qemu.qmp import QemuEnded, returned
from sipl.engine.waits import Stopped, explain
from sipl.layout.guest_ends import QemuEnd
from sipl.layout.stage3 import KERNEL_ADDRESS
from sipl.machine.diag308 import is_block

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.engine.qemu.guest_process import GuestProcess
    from sipl.engine.qemu.has_secure import HasSecure
    from sipl.engine.qemu.qmp import Message
    from sipl.engine.qemu.session import Session
    from sipl.engine.qemu.setup import Setup
    from sipl.firmware.hand_over import HandOver
    from sipl.machine.machine import Machine

# How often the person is looked for where nothing tells that there is one, in seconds.
_LOOK: Final = 0.2
_CHUNK: Final = 1 << 16
# A socket holds a few hundred KiB; a guest that goes on writing must not keep its end from being seen.
_LAST_WORDS: Final = 64
# How long the CPU of a stopped guest may take to store the block that it has set, in seconds.
_COLLECT_TIMEOUT: Final = 5.0
# How long a QEMU that has hung up may take to end, in seconds.
_END_TIMEOUT: Final = 10.0
# Of the faults of the host that a guest saw, so many different ones are told.
_MAX_HOST_FAULTS: Final = 16
_AFTER_RESET: Final = frozenset({QemuEnd.BLOCK_STORED, QemuEnd.NO_BLOCK, QemuEnd.IMAGE_FAULT})
# Resets that the guest asked for; the others came from outside.
_BY_GUEST: Final = frozenset({"guest-reset"})
_JUMP_ENDS: Final = {
    QemuEnd.BLOCK_REFUSED: "QEMU did not take the IPL parameter block",
    QemuEnd.BLOCK_CHANGED: "QEMU did not give the IPL parameter block back as it got it",
}
# Why QEMU says that it shuts down, and how a run ends then.
_SHUTDOWNS: Final = {
    "guest-shutdown": (EndKind.DONE, "the guest has switched itself off"),
    "guest-reset": (EndKind.DONE, "the guest asked for an IPL, and QEMU was told to end then"),
    "guest-panic": (EndKind.CRASHED, "the guest crashed, and QEMU was told to end then"),
    "host-qmp-quit": (EndKind.QUIT, "a monitor ended QEMU"),
    "host-qmp-system-reset": (EndKind.QUIT, "a monitor reset the machine, and QEMU was told to end then"),
    "host-signal": (EndKind.ENDED, "a signal ended QEMU"),
    "host-ui": (EndKind.QUIT, "a person closed QEMU's display"),
}


class RunEnd(Exception):
    """The run has ended: `end` says how."""

    def __init__(self, kind: EndKind, message: str) -> None:
        self.end = GuestEnd(kind, message)
        super().__init__(message)


class Run:
    """A guest in one QEMU process, from its start to its end."""

    def __init__(self, session: Session, setup: Setup, process: GuestProcess, machine: Machine) -> None:
        self._session = session
        self._setup = setup
        self._process = process
        self._machine = machine
        self._image_at = 0  # where QEMU put its firmware, known when the guest is placed
        self._qemu = process.qemu
        self._watched: set[int] = set()
        self._person: int | None = None
        self._shutdown: tuple[EndKind, str] | None = None
        self._stop_unexplained = False  # whether the guest was stopped, and the debugger's stub has not said why
        self.reset: str | None = None  # why the machine was reset, in QEMU's words
        self.host_faults: list[str] = []

    # What is waited for

    def go(self, state: HandOver) -> None:
        """Place the guest, start it, and go on until its run ends; always raises.

        Raises:
            RunEnd: it has ended.
            QemuEnded: QEMU has failed before the guest was placed.
            QmpError: QEMU refuses what it is asked for.
            UsageError: QEMU's machine is not the one that was verified, or somebody started it before.
        """
        try:
            self._image_at = self._place(state)
        except QemuEnded:
            end = self._ended()
            # Who ends QEMU in order could have done so a moment later, too.
            if self._shutdown is None:
                raise
            raise end from None
        try:
            self._start(state)
            while True:
                self._take_events()
                self._look()
                self._loop_turn()
        except QemuEnded:
            raise self._ended() from None

    def _place(self, state: HandOver) -> int:
        machine, position = self._machine, state.position
        booted = state.iplb_address != 0
        return place(
            self._qemu.qmp,
            self._process.ram,
            machine.memory,
            state,
            machine.devices[position] if booted else None,
            self._setup.device_ids[position] if booted else None,
        )

    def _start(self, state: HandOver) -> None:
        qmp = self._qemu.qmp
        self._qemu.listen(self._setup.complain)
        self._attach_has_secure(state)
        self._watch(qmp.fileno(), self._on_qmp)
        self._watch(self._qemu.errors, self._on_errors)
        if self._process.console is not None:
            self._watch(self._process.console.fileno(), self._on_console)
        if self._session.relays is not None:
            self._session.relays.placed(started_by_engine=not self._session.held)
        if not self._session.held:
            # Not waited for: from now on QEMU may wait for somebody to read what the guest writes.
            qmp.ask("cont")

    def _watch(self, descriptor: int, reading: Callable[[], object]) -> None:
        self._watched.add(descriptor)
        self._session.loop.watch(descriptor, reading)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.discard(descriptor)
            self._session.loop.forget(descriptor)

    def forget(self) -> None:
        """Watch nothing of this run any more."""
        for descriptor in tuple(self._watched):
            self._unwatch(descriptor)

    def _loop_turn(self) -> None:
        wait = _LOOK
        left = self._session.seconds_left()
        if left is not None:
            wait = min(wait, max(0.0, left))
        secure = self._process.has_secure
        if secure is not None and secure.active and secure.deadline is not None:
            wait = min(wait, max(0.0, secure.deadline - time.monotonic()))
        self._watch_person()
        self._session.loop.turn(wait)

    # The person and the console

    def _watch_person(self) -> None:
        """Wait for what is typed as long as there is room for it; without room it is looked at now and then."""
        room = len(self._session.typed) < TYPED_LIMIT
        person = self._session.console.descriptor() if room else None
        if person != self._person:
            if self._person is not None:
                self._unwatch(self._person)
            if person is not None:
                self._watch(person, self._look)
            self._person = person

    def _look(self) -> None:
        """The clock on the wall, the person, and the debugger's time limit."""
        left = self._session.seconds_left()
        if left is not None and left <= 0:
            given = self._session.timeout
            raise RunEnd(EndKind.TIMEOUT, f"the guest ran for {given:g} s, which is what it was given")
        typed = self._session.typed
        try:
            typed += self._session.console.read(0, TYPED_LIMIT - len(typed))
        except ConsoleEnds as end:
            raise RunEnd(EndKind.ENDED, str(end)) from None
        self._send_typed()
        secure = self._process.has_secure
        due = secure.deadline if secure is not None and secure.active else None
        if secure is not None and due is not None and time.monotonic() >= due:
            self._leave_secure(secure)

    def _send_typed(self) -> None:
        console, typed = self._process.console, self._session.typed
        if console is None or not typed:
            return
        try:
            del typed[: console.send(typed)]
        except BlockingIOError:
            return  # the next look tries again
        except OSError:
            typed.clear()

    def _on_console(self) -> bool:
        """Show what the guest has written; False if there is nothing."""
        console = self._process.console
        if console is None:
            return False
        try:
            data = console.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError:
            data = b""
        if not data:
            self._unwatch(console.fileno())
            return False
        self._session.console.write(data)
        if self._session.until.seen(data):
            raise RunEnd(EndKind.SEEN, self._session.until.sentence())
        return True

    def _on_errors(self) -> None:
        if not self._qemu.read_errors():
            self._unwatch(self._qemu.errors)

    # The debugger's stub

    def _attach_has_secure(self, state: HandOver) -> None:
        secure = self._process.has_secure
        if secure is None:
            return
        kernel = next(
            ((address, length) for address, length in state.spans if address <= KERNEL_ADDRESS < address + length),
            (KERNEL_ADDRESS, 0),
        )
        secure.attach(self._process.ram.view, kernel)
        if secure.active:
            self._watch(secure.fileno(), self._on_secure)

    def _on_secure(self) -> None:
        secure = self._process.has_secure
        if secure is not None and secure.active:
            self._stop_unexplained = False
            self._with_secure(secure, secure.on_readable)

    def _on_stop(self) -> None:
        """The guest is held: by a monitor, or by the debugger's stub."""
        secure = self._process.has_secure
        if secure is not None and secure.active:
            self._stop_unexplained = True
            # Not waited for: the stub may have had the guest run on.
            self._qemu.qmp.ask("query-status")

    def _on_answer(self, answer: Message) -> None:
        """To `cont`, or to `query-status` after a stop."""
        status = returned(answer)
        secure = self._process.has_secure
        if not isinstance(status, dict) or status.get("status") != "debug" or secure is None or not secure.active:
            return
        # If the stub has spoken since the stop, that was dealt with, and the guest may run.
        if self._stop_unexplained:
            self._with_secure(secure, secure.on_debug)

    def _with_secure(self, secure: HasSecure, deed: Callable[[], None]) -> None:
        descriptor = secure.fileno()
        deed()
        if not secure.active:
            self._unwatch(descriptor)

    def _leave_secure(self, secure: HasSecure) -> None:
        self._unwatch(secure.fileno())
        secure.leave()

    # What QEMU says

    def _on_qmp(self) -> None:
        try:
            self._qemu.qmp.receive()
        except QemuEnded:
            self._take_events()
            raise self._ended() from None

    def _take_events(self) -> None:
        events = self._qemu.qmp.events
        if events:
            self._take_last_words()
        while events:
            self._on_event(events.popleft())

    def _take_last_words(self) -> None:
        """What the guest wrote before it stopped is on its way already."""
        for _ in range(_LAST_WORDS):
            if not self._on_console():
                break

    def _on_event(self, event: Message) -> None:
        data = event.get("data")
        details: Message = data if isinstance(data, dict) else {}
        match event.get("event"):
            case None:
                self._on_answer(event)
            case "RESUME":
                if self._process.has_secure is not None:
                    self._process.has_secure.guest_runs()
            case "STOP":
                self._on_stop()
            case "RESET":
                self.reset = str(details.get("reason", "guest-reset"))
            case "SHUTDOWN":
                reason = str(details.get("reason"))
                self._shutdown = _SHUTDOWNS.get(reason, (EndKind.ENDED, f"QEMU shut the machine down ({reason})"))
            case "BLOCK_IO_ERROR":
                self._on_io_error(details)
            case "GUEST_PANICKED":
                self._on_panic(details)

    def _on_io_error(self, details: Message) -> None:
        """What the guest sees as a fault of its disk is one of the host's."""
        node = str(details.get("node-name") or details.get("device"))
        own = {f"sipl-disk-{number}": image for number, image in enumerate(self._setup.images)}
        image = own.get(node)
        place = node if image is None else image.path
        fault = f"the guest saw I/O errors that are the host's: {place}: {details.get('reason')}"
        if fault not in self.host_faults and len(self.host_faults) < _MAX_HOST_FAULTS:
            self.host_faults.append(fault)

    def _on_panic(self, details: Message) -> None:
        """All CPUs, or the only one, are in a state that they do not leave."""
        found = details.get("info")
        info: Message = found if isinstance(found, dict) else {}
        reason = str(info.get("reason"))
        numbers = [info.get(name) for name in ("core", "psw-mask", "psw-addr")]
        core, mask, address = (number if isinstance(number, int) else 0 for number in numbers)
        if reason != "disabled-wait":
            if self._session.relays is not None:
                self._session.relays.show_crash()
            self._crash(EndKind.CRASHED, f"the guest only ends in a {reason.replace('-', ' ')}")
            return
        if self.reset is not None and address in _AFTER_RESET:
            raise self._reset_end(address)
        if address in _JUMP_ENDS:
            raise RunEnd(EndKind.CRASHED, _JUMP_ENDS[QemuEnd(address)])
        ram = self._process.ram
        block = chosen_block(self._qemu.qmp, ram, self._image_at, core, mask, address, _COLLECT_TIMEOUT)
        if block is not None:
            self._choose(block)
            raise RunEnd(EndKind.REIPL, "the guest asked for an IPL")
        if any(event.get("event") == "RESET" for event in self._qemu.qmp.events):
            raise RunEnd(EndKind.RESET, "the machine was reset")
        if self._session.relays is not None:
            self._session.relays.show_crash()
        registers = self._qemu.qmp.human("info registers")
        end = explain(Stopped(mask, address, _register_14(registers), None, ram))
        self._crash(end.kind, end.message)

    def _crash(self, kind: EndKind, message: str) -> None:
        if not self._setup.stays_after_crash:
            raise RunEnd(kind, message)
        self._shutdown = (kind, message)

    def _reset_end(self, address: int) -> RunEnd:
        by_guest = self.reset in _BY_GUEST
        if by_guest and address == QemuEnd.BLOCK_STORED:
            self._choose(stored_block(self._process.ram, self._image_at))
            return RunEnd(EndKind.REIPL, "the guest asked for an IPL")
        return RunEnd(EndKind.RESET, "the machine was reset")

    def _choose(self, block: bytes) -> None:
        """The guest's wish for the next IPL: its device and loadparm; whether it may have them is decided then.

        QEMU only has blocks that are some. Another one was put there by the guest, and changes nothing.
        """
        if is_block(block):
            self._machine.ipl_device.set_block(block)

    def _ended(self) -> RunEnd:
        """QEMU has hung up, perhaps while it was asked something."""
        self._take_last_words()
        # What it said before may still be there if it took no more commands.
        with suppress(QemuEnded):
            self._qemu.qmp.receive()
        for event in self._qemu.qmp.events:
            if event.get("event") == "SHUTDOWN":
                self._on_event(event)
        status = self._qemu.wait(_END_TIMEOUT)
        if self._shutdown is not None:
            if self._shutdown[0] is EndKind.ENDED:
                try:
                    self._session.check_signals()
                except ConsoleEnds as end:
                    return RunEnd(EndKind.ENDED, str(end))
            return RunEnd(*self._shutdown)
        if status is None:
            return RunEnd(EndKind.ENDED, "QEMU does not answer")
        if status < 0:
            return RunEnd(EndKind.ENDED, f"QEMU was ended by {_signal_name(-status)}")
        complaint = self._qemu.complaint()
        return RunEnd(EndKind.ENDED, f"QEMU ended by itself{f': {complaint}' if complaint else ''}")


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have none
        return f"signal {number}"


def _register_14(registers: str) -> int:
    found = re.search(r"\bR14=([0-9a-f]{16})\b", registers)
    return int(found[1], 16) if found else 0
