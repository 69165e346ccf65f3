"""QEMU's machine protocol (QMP), over a socket that nobody else has: commands, their answers, and events.

QEMU is a program of the host that the guest may have taken over. So its lines are bounded, and it is not waited for
for ever.
"""

from __future__ import annotations

import json
import time
from collections import deque
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

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
    """The client's end of a QMP socket. `events` are those that have come, the oldest first."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()
        self._answers: deque[Message] = deque(maxlen=MAX_EVENTS)
        self._number = 0
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
        self._number += 1
        message: Message = {"execute": command, "id": self._number}
        if arguments is not None:
            message["arguments"] = arguments
        deadline = time.monotonic() + timeout
        try:
            self._socket.settimeout(timeout)
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except OSError as error:
            raise QemuEnded(f"QEMU takes no commands: {error.strerror or error}") from error
        while True:
            answer = self._next_answer(deadline)
            if answer.get("id") != self._number:
                continue
            if "return" in answer:
                return answer["return"]
            reason = answer.get("error")
            text = reason.get("desc") if isinstance(reason, dict) else None
            raise QmpError(str(text or "QEMU gives no reason"))

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
            if not self._read(0):
                return

    def _next_answer(self, deadline: float) -> Message:
        while not self._answers:
            left = deadline - time.monotonic()
            if left <= 0 or not self._read(left):
                raise QemuEnded("QEMU does not answer")
        return self._answers.popleft()

    def _read(self, timeout: float) -> bool:
        """Read once, waiting up to `timeout` seconds; False if nothing came."""
        try:
            self._socket.settimeout(timeout)
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, TimeoutError):
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
        if "event" in message:
            self.events.append(message)
        else:
            self._answers.append(message)
