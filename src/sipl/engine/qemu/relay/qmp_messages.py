"""The messages in what somebody writes to a QMP monitor.

QMP is a row of JSON values. QEMU takes them as soon as they are complete, over several lines or many on one, and some
clients never end a line; so they are told apart by their brackets. The writer is not trusted: length and depth are
bounded, and what is no JSON costs one fault, not the connection.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final, NoReturn

Message = dict[str, object]

# The longest command; the longest that tools send are a few KiB.
MAX_MESSAGE: Final = 1 << 20
# Of brackets in brackets; the nodes of a block device come to about ten.
MAX_DEPTH: Final = 64

_STRUCTURE: Final = re.compile(rb'["{}\[\]]')
_IN_STRING: Final = re.compile(rb'["\\]')
_BEGIN: Final = re.compile(rb"[^ \t\r\n]")
_RESUME: Final = re.compile(rb"[{\n]")
_END_OF_LINE: Final = re.compile(rb"\n")


class NoMessage(Exception):
    """What was written is no QMP message; the text says why."""


class MessageReader:
    """Takes bytes as they come and gives messages. `taken` counts the bytes of all that was given or thrown away."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.taken = 0
        self._restart()
        # Inside of something that was found to be no message: until the end of the line, or also a new beginning.
        self._skipping: re.Pattern[bytes] | None = None

    def __len__(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes."""
        self._buffer += data

    @property
    def end(self) -> int:
        """How many bytes were ever fed."""
        return self.taken + len(self._buffer)

    def next(self) -> Message | None:
        """The next message, None if it is not complete yet.

        Raises:
            NoMessage: there is something else; the next call goes on behind it.
        """
        if not self._skip():
            return None
        if not self._depth:
            begin = _BEGIN.search(self._buffer)
            self._drop(begin.start() if begin else len(self._buffer))
            if begin is None:
                return None
            if self._buffer[0] not in b"{[":
                self._fault(_RESUME, "this is no JSON object")
        end = self._scan()
        if end is None:
            if len(self._buffer) > MAX_MESSAGE:
                self._fault(_END_OF_LINE, f"a command has at most {MAX_MESSAGE} bytes")
            return None
        text = bytes(self._buffer[:end])
        self._drop(end)
        self._restart()
        return parsed(text)

    def _restart(self) -> None:
        self._at = 0
        self._depth = 0
        self._in_string = False

    def _drop(self, count: int) -> None:
        del self._buffer[:count]
        self.taken += count

    def _fault(self, until: re.Pattern[bytes], why: str) -> NoReturn:
        self._skipping = until
        self._restart()
        raise NoMessage(why)

    def _skip(self) -> bool:
        """Throw away what belongs to a fault; False if it has not ended yet."""
        if self._skipping is not None:
            found = self._skipping.search(self._buffer)
            self._drop(found.start() if found else len(self._buffer))
            if found is None:
                return False
            self._skipping = None
        return True

    def _scan(self) -> int | None:
        """The offset behind the value that the buffer begins with, None as long as it has no end."""
        while True:
            found = (_IN_STRING if self._in_string else _STRUCTURE).search(self._buffer, self._at)
            if found is None:
                self._at = len(self._buffer)
                return None
            self._at = found.end()
            sign = found[0]
            if sign == b"\\":
                if found.end() == len(self._buffer):
                    # What is escaped has not come yet.
                    self._at = found.start()
                    return None
                self._at += 1
            elif sign == b'"':
                self._in_string = not self._in_string
            elif sign in b"{[":
                self._depth += 1
                if self._depth > MAX_DEPTH:
                    self._fault(_END_OF_LINE, f"a command has at most {MAX_DEPTH} brackets in brackets")
            else:
                self._depth -= 1
                if not self._depth:
                    return self._at


def parsed(text: bytes) -> Message:
    """A JSON object. Raises NoMessage."""
    try:
        message = json.loads(text.decode(), parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError):
        raise NoMessage("this is no JSON") from None
    if not isinstance(message, dict):
        raise NoMessage("this is no JSON object")
    return message


def written(message: Message) -> bytes:
    """A message as one line, as QEMU ends it. Raises NoMessage for a number that JSON does not have."""
    try:
        return json.dumps(message, allow_nan=False).encode() + b"\r\n"
    except (ValueError, RecursionError):
        raise NoMessage("there is a number that JSON does not have") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(name)


def _finite(text: str) -> float:
    """A number that can be written again; one that is too large would become infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(text)
    return number
