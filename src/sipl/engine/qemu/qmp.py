"""QEMU's machine protocol (QMP), over a socket that nobody else has: commands, their answers, and events.

QEMU is a program of the host that the guest may have taken over. So its lines are bounded, and it is not waited for
for ever.
"""

from __future__ import annotations

import json
import select
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Mapping

Message = dict[str, object]

# The longest answer that sipl asks for is a few KiB of memory in words.
MAX_LINE: Final = 1 << 20
# Events that come while nobody looks: a guest can cause some (RTC_CHANGE, WATCHDOG), the last ones are what counts.
MAX_EVENTS: Final = 1024
# QEMU answers within milliseconds, or has stopped working.
ANSWER_TIMEOUT: Final = 30.0
_CHUNK: Final = 1 << 16
# So often it is read at once: who goes on talking must not keep others waiting.
_READS: Final = 64


class QmpError(Exception):
    """QEMU refused a command; the text is QEMU's."""


class QemuEnded(Exception):
    """Nobody is at the other end any more, or it does not speak QMP."""


class Qmp:
    """The client's end of a QMP socket.

    `beside` are descriptors that are read while an answer is waited for, as a QEMU that cannot write does not answer;
    each with what reads it, and says whether more may come.

    Attributes:
        events: those that have come, and the answers to what was asked by `ask`; the oldest first.
    """

    def __init__(self, end: socket.socket, beside: Mapping[int, Callable[[], object]] | None = None) -> None:
        self._socket = end
        self._beside = dict(beside or {})
        self._buffer = bytearray()
        self._answers: deque[Message] = deque(maxlen=MAX_EVENTS)
        self._number = 0
        self._asked: set[int] = set()
        self.events: deque[Message] = deque(maxlen=MAX_EVENTS)

    def fileno(self) -> int:
        """For `select`: readable when there is something to `receive`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        self._socket.close()

    def greet(self, timeout: float = ANSWER_TIMEOUT) -> tuple[int, int, int]:
        """Wait for QEMU's greeting and answer it; the result is QEMU's version.

        Raises:
            QemuEnded: it has gone, does not speak QMP, or says nothing for `timeout` seconds.
        """
        version = self._version(self._next_answer(time.monotonic() + timeout))
        self.execute("qmp_capabilities")
        return version

    def _version(self, greeting: Message) -> tuple[int, int, int]:
        node: object = greeting
        for name in ("QMP", "version", "qemu"):
            node = node.get(name) if isinstance(node, dict) else None
        if isinstance(node, dict):
            parts = [node.get(name) for name in ("major", "minor", "micro")]
            if all(isinstance(part, int) for part in parts):
                major, minor, micro = (int(str(part)) for part in parts)
                return major, minor, micro
        raise QemuEnded("QEMU does not greet as QMP wants it")

    def execute(
        self, command: str, arguments: Mapping[str, object] | None = None, timeout: float = ANSWER_TIMEOUT
    ) -> object:
        """Have a command carried out; the result is what it returns. Events that come meanwhile go to `events`.

        Raises:
            QmpError: QEMU refuses it.
            QemuEnded: QEMU has gone, or does not answer.
        """
        deadline = time.monotonic() + timeout
        number = self._send(command, arguments, timeout)
        while True:
            answer = self._next_answer(deadline)
            if answer.get("id") == number:
                return returned(answer)

    def ask(self, command: str) -> None:
        """Have a command carried out, and do not wait for it: its answer comes among the `events`.

        Raises:
            QemuEnded: QEMU has gone.
        """
        self._asked.add(self._send(command, None, ANSWER_TIMEOUT))

    def _send(self, command: str, arguments: Mapping[str, object] | None, timeout: float) -> int:
        """Returns the command's number."""
        self._number += 1
        message: Message = {"execute": command, "id": self._number}
        if arguments is not None:
            message["arguments"] = arguments
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise QemuEnded(f"QEMU takes no commands: {error.strerror or error}") from error
        return self._number

    def human(self, line: str, cpu: int | None = None) -> str:
        """The answer to a line for QEMU's human monitor; raises as `execute`."""
        arguments: Message = {"command-line": line}
        if cpu is not None:
            arguments["cpu-index"] = cpu
        return str(self.execute("human-monitor-command", arguments))

    def receive(self) -> None:
        """Take what is there, without waiting, up to some MiB; what comes is in `events`.

        Raises:
            QemuEnded: QEMU has gone.
        """
        for _ in range(_READS):
            if not self._read():
                return

    def _next_answer(self, deadline: float) -> Message:
        while not self._answers:
            left = deadline - time.monotonic()
            if left <= 0:
                raise QemuEnded("QEMU does not answer")
            self._wait(left)
            self._read()
        return self._answers.popleft()

    def _wait(self, timeout: float) -> None:
        """Wait for something to read, here or beside, up to `timeout` seconds."""
        waiting = select.poll()
        for descriptor in (self.fileno(), *self._beside):
            waiting.register(descriptor, select.POLLIN)
        for descriptor, _ in waiting.poll(timeout * 1000):
            read = self._beside.get(descriptor)
            if read is not None and not read():
                del self._beside[descriptor]

    def _read(self) -> bool:
        """Read once, without waiting; False if nothing was there."""
        try:
            self._socket.settimeout(0)
            data = self._socket.recv(_CHUNK)
        except BlockingIOError:
            return False
        except OSError as error:
            raise QemuEnded(f"QEMU has hung up: {error.strerror or error}") from error
        if not data:
            raise QemuEnded("QEMU has ended")
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            self._take(line)
        if len(self._buffer) > MAX_LINE:
            raise QemuEnded("QEMU sends a line without end")
        return True

    def _take(self, line: bytes) -> None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise QemuEnded("QEMU sends what is no QMP") from None
        if not isinstance(message, dict):
            raise QemuEnded("QEMU sends what is no QMP")
        number = message.get("id")
        if isinstance(number, int) and number in self._asked:
            self._asked.discard(number)
            self.events.append(message)
        elif "event" in message:
            self.events.append(message)
        else:
            self._answers.append(message)


def returned(answer: Message) -> object:
    """What a command has returned, by its answer.

    Raises:
        QmpError: QEMU has refused it.
    """
    if "return" in answer:
        return answer["return"]
    reason = answer.get("error")
    text = reason.get("desc") if isinstance(reason, dict) else None
    raise QmpError(str(text or "QEMU gives no reason"))
