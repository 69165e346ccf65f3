"""A client of the GDB remote serial protocol: as much of it as sipl says to QEMU's stub (docs/qemu-engine.md).

A packet is `$text#cc`, cc being the sum of the text's bytes modulo 256 in two hexadecimal digits. Each one is
acknowledged with `+`; QEMU knows no way to leave that out. A stop of the guest comes as a packet that nobody asked for.

The guest may have taken QEMU over, so packets are bounded and nothing is waited for for ever.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    import socket

# The longest answer that is asked for is the registers': 18 of 16 digits.
MAX_PACKET: Final = 1024
# More than this is never on its way: an answer, and a few stops that others made meanwhile.
_MAX_WAITING: Final = 16 * MAX_PACKET
_CHUNK: Final = 4096
_DIGITS: Final = b"0123456789abcdefABCDEF"
_START, _END = b"$", b"#"

TAKEN: Final = b"+"
# What the stub does to its own packets is nothing that sipl's requests need: escapes and repetitions.
_REWRITTEN: Final = b"}*"


class GdbTrouble(Exception):
    """The stub does not say what the protocol lets it say, or says nothing in time."""


class GdbEnded(GdbTrouble):
    """Nobody is at the other end any more."""


class Registers(NamedTuple):
    """The PSW and the general registers of the CPU that stopped."""

    mask: int
    address: int
    general: tuple[int, ...]


GENERAL_REGISTERS: Final = 16
_REGISTER_DIGITS: Final = 16
_CORE_REGISTERS: Final = 2 + GENERAL_REGISTERS


def packet(text: bytes) -> bytes:
    """`text` as it goes over the line."""
    return b"$%b#%02x" % (text, sum(text) & 0xFF)


class GdbRemote:
    """The client's end of a socket to QEMU's stub. Deadlines are points of `time.monotonic`."""

    def __init__(self, end: socket.socket) -> None:
        self._socket = end
        self._buffer = bytearray()

    def fileno(self) -> int:
        """For `select`: readable when there is something to `receive`."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up. What has been sent reaches the stub."""
        self._socket.close()

    def send(self, line: bytes, deadline: float) -> None:
        """Send bytes as they are.

        Raises:
            GdbTrouble: the other end does not take them.
        """
        try:
            self._socket.settimeout(max(0.0, deadline - time.monotonic()))
            self._socket.sendall(line)
        except (BlockingIOError, TimeoutError) as error:
            raise GdbTrouble("the stub takes nothing") from error
        except OSError as error:
            raise GdbEnded(f"the stub has hung up: {error.strerror or error}") from error

    def receive(self) -> bytes | None:
        """The next that has come, without waiting: `TAKEN`, or the text of a packet; None if nothing whole is there.

        Raises:
            GdbTrouble: what has come is no such thing.
        """
        return self._next(0.0)

    def wait(self, deadline: float) -> bytes:
        """As `receive`, but wait for it.

        Raises:
            GdbTrouble: what comes is no such thing, or nothing comes in time.
        """
        while (found := self._next(max(0.0, deadline - time.monotonic()))) is None:
            if time.monotonic() >= deadline:
                raise GdbTrouble("the stub does not answer")
        return found

    def order(self, text: bytes, deadline: float) -> None:
        """Send a packet to which there is no answer, and see that it is taken.

        Raises:
            GdbTrouble: it is not.
        """
        self.send(packet(text), deadline)
        if self.wait(deadline) != TAKEN:
            raise GdbTrouble("the stub does not take a packet")

    def ask(self, text: bytes, deadline: float) -> bytes:
        """Send a packet; the result is the text of its answer.

        Raises:
            GdbTrouble: there is none, or something comes between.
        """
        self.order(text, deadline)
        answer = self.wait(deadline)
        if answer == TAKEN:
            raise GdbTrouble("the stub takes a packet twice")
        self.send(TAKEN, deadline)
        return answer

    def demand(self, text: bytes, deadline: float) -> None:
        """Send a packet whose answer must be OK.

        Raises:
            GdbTrouble: it is not.
        """
        if self.ask(text, deadline) != b"OK":
            raise GdbTrouble("the stub refuses a request")

    def registers(self, deadline: float) -> Registers:
        """Registers of the CPU that stopped.

        Raises:
            GdbTrouble: they do not come.
        """
        return read_registers(self.ask(b"g", deadline))

    def _next(self, timeout: float) -> bytes | None:
        found = self._take()
        if found is None and self._read(timeout):
            found = self._take()
        return found

    def _read(self, timeout: float) -> bool:
        try:
            self._socket.settimeout(timeout)
            data = self._socket.recv(_CHUNK)
        except (BlockingIOError, TimeoutError):
            return False
        except OSError as error:
            raise GdbEnded(f"the stub has hung up: {error.strerror or error}") from error
        if not data:
            raise GdbEnded("the stub has hung up")
        self._buffer += data
        if len(self._buffer) > _MAX_WAITING:
            raise GdbTrouble("the stub sends too much")
        return True

    def _take(self) -> bytes | None:
        """Cut the first thing off what has come; None if it is not whole."""
        buffer = self._buffer
        if buffer.startswith(TAKEN):
            del buffer[:1]
            return TAKEN
        if not buffer:
            return None
        if not buffer.startswith(_START):
            raise GdbTrouble("the stub sends what is no packet")
        end = buffer.find(_END, 1, MAX_PACKET)
        if end < 0:
            if len(buffer) >= MAX_PACKET:
                raise GdbTrouble("the stub sends a packet without end")
            return None
        if len(buffer) < end + 3:
            return None
        text, digits = bytes(buffer[1:end]), bytes(buffer[end + 1 : end + 3])
        del buffer[: end + 3]
        if any(byte not in _DIGITS for byte in digits) or int(digits, 16) != sum(text) & 0xFF:
            raise GdbTrouble("the stub sends a packet with a wrong sum")
        if any(byte in _REWRITTEN for byte in text) or text == TAKEN:
            raise GdbTrouble("the stub sends a packet of a form that was not asked for")
        return text


def read_registers(answer: bytes) -> Registers:
    """PSW mask, PSW address and general registers from the answer to `g`, which is all hexadecimal digits.

    Raises:
        GdbTrouble: it is something else.
    """
    end = _CORE_REGISTERS * _REGISTER_DIGITS
    if len(answer) < end or any(byte not in _DIGITS for byte in answer[:end]):
        raise GdbTrouble("the stub does not tell the registers")
    mask, address, *general = (int(answer[at : at + _REGISTER_DIGITS], 16) for at in range(0, end, _REGISTER_DIGITS))
    return Registers(mask, address, tuple(general))


def is_stop(text: bytes) -> bool:
    """Whether a packet says that the guest stopped: T or S, then a signal's number in two digits."""
    return text[:1] in (b"T", b"S") and len(text) >= 3 and all(byte in _DIGITS for byte in text[1:3])


def is_breakpoint(text: bytes) -> bool:
    """Whether a stop was a breakpoint's; other numbers are stops that somebody else made, or the end of the guest."""
    return is_stop(text) and int(text[1:3], 16) == _TRAP


_TRAP: Final = 5
