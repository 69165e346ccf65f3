"""A user's monitor for people (`-monitor`, `-mon mode=readline`) that outlives the single QEMU processes of a run.

QEMU's own line editor cannot be judged from outside: what it will take for a line depends on its history and its
completion. So the line is put together here, judged as it is, and given to QEMU through QMP. Editing is backspace,
Ctrl-U and Ctrl-C; there is no history, and no command that asks back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.relay.monitor import Monitor
from sipl.engine.qemu.relay.monitor_rules import CommandRefused, judge_human
from sipl.engine.qemu.relay.relay import HIGH_WATER

if TYPE_CHECKING:
    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.monitor import MonitorView
    from sipl.engine.qemu.relay.qmp_messages import Message
    from sipl.engine.qemu.relay.user_end import UserEnd

# As long as a line of QEMU's own.
MAX_LINE: Final = 4095
_PROMPT: Final = "(qemu) "
_BACKSPACE: Final = b"\b\x7f"
_FORGET_LINE: Final = b"\x03\x15"
_ESCAPE: Final = 0x1B
# An escape sequence of a terminal ends with one of these; those before are its parameters.
_FINAL: Final = range(0x40, 0x7F)


class HumanRelay(Monitor):
    """Lines of text on the user's side."""

    def __init__(self, loop: Loop, user: UserEnd, view: MonitorView, *, guarded: bool = True) -> None:
        super().__init__(loop, user, view, guarded=guarded)
        self._session = 0
        self._new_session()

    def _new_session(self) -> None:
        self._session += 1
        self._typed = bytearray()
        self._line = bytearray()
        # How far an escape sequence has come: ESC, or its parameters.
        self._escape = self._parameters = False
        self._after_return = False
        self._welcomed = False

    def _welcome(self) -> None:
        if self.greeting is None or self._welcomed or self.user.stream is None:
            return
        self._welcomed = True
        self._print(f"Monitor of {_version(self.greeting)}, through sipl: 'help' lists the commands\n{_PROMPT}")

    def _print(self, text: str) -> None:
        self._tell(text.replace("\n", "\r\n").encode(errors="replace"))

    def _show_event(self, event: Message) -> None:
        """People see no events."""

    def _takes_from_user(self) -> bool:
        return len(self._typed) < MAX_LINE and len(self._to_user) < HIGH_WATER

    def _from_user(self, data: bytes) -> None:
        self._typed += data

    def _serve(self) -> None:
        # What is typed during a command, or while a guest is loaded, is taken (and echoed) afterwards.
        while self._welcomed and self._typed and self._can_ask and len(self._to_user) < HIGH_WATER:
            key = self._typed[0]
            del self._typed[0]
            self._key(key)

    def _key(self, key: int) -> None:
        after_return, self._after_return = self._after_return, key == ord("\r")
        if self._escape:
            self._escape, self._parameters = False, key in b"[O"
        elif self._parameters:
            self._parameters = key not in _FINAL
        elif key == _ESCAPE:
            self._escape = True
        elif key in b"\r\n":
            if not (key == ord("\n") and after_return):
                self._enter()
        elif key in _BACKSPACE:
            self._rub_out()
        elif key in _FORGET_LINE:
            self._line.clear()
            self._print(f"\n{_PROMPT}")
        elif (key >= 0x20 or key == ord("\t")) and len(self._line) < MAX_LINE:
            self._line.append(key)
            self._tell(bytes([key]))

    def _rub_out(self) -> None:
        if not self._line:
            return
        # One character may have several bytes; its first is none of 0x80 to 0xbf.
        while len(self._line) > 1 and self._line[-1] & 0xC0 == 0x80:
            del self._line[-1]
        del self._line[-1]
        self._tell(b"\b \b")

    def _enter(self) -> None:
        line = self._line.decode(errors="replace")
        self._line.clear()
        self._print("\n")
        if not line.strip():
            self._print(_PROMPT)
            return
        try:
            if self.guarded:
                judge_human(line, resetting=self.view.resetting)
        except CommandRefused as refused:
            self._print(f"sipl: {refused}\n{_PROMPT}")
            return
        session = self._session

        def then(answer: Message) -> None:
            if session != self._session:
                return
            problem = answer.get("error")
            if isinstance(problem, dict):
                self._print(f"Error: {problem.get('desc')}\n{_PROMPT}")
            else:
                text = str(answer.get("return") or "").replace("\r\n", "\n")
                self._print(text + ("" if not text or text.endswith("\n") else "\n") + _PROMPT)

        self._ask("human-monitor-command", {"command-line": line}, then)


def _version(greeting: Message) -> str:
    """QEMU and its version, as far as the greeting has it."""
    node: object = greeting
    for name in ("QMP", "version", "qemu"):
        node = node.get(name) if isinstance(node, dict) else None
    parts = [node.get(name) for name in ("major", "minor", "micro")] if isinstance(node, dict) else []
    return "QEMU " + ".".join(str(part) for part in parts if isinstance(part, int)) if parts else "QEMU"
