"""A connection of a user: bytes in both directions, and descriptors that come with them."""

from __future__ import annotations

import os
import socket
from abc import ABC, abstractmethod
from typing import Final

# The longest read: what is in flight per descriptor and turn.
CHUNK: Final = 1 << 16
# QEMU takes no more descriptors with one message.
MAX_DESCRIPTORS: Final = 16


class Gone(Exception):
    """Nobody is at the other end any more."""


class Stream(ABC):
    """A connection: bytes in both directions, without waiting. `descriptors` are those that came with what was read."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []

    @abstractmethod
    def fileno(self) -> int:
        """For the loop."""

    def read(self) -> bytes:
        """What is there, up to CHUNK bytes; nothing if there is nothing yet.

        Raises:
            Gone: there will be nothing more.
        """
        try:
            data = self._receive()
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            raise Gone from error
        if not data:
            raise Gone
        return data

    def write(self, data: bytes | bytearray) -> int:
        """How many bytes were taken, 0 if there is no room. Raises as `read`."""
        try:
            return self._send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise Gone from error

    @abstractmethod
    def close(self) -> None:
        """Hang up."""

    @abstractmethod
    def _receive(self) -> bytes:
        """As `os.read`."""

    @abstractmethod
    def _send(self, data: bytes | bytearray) -> int:
        """As `os.write`."""


class SocketStream(Stream):
    """A connected socket."""

    def __init__(self, end: socket.socket, *, takes_descriptors: bool = False) -> None:
        super().__init__()
        end.setblocking(False)
        self._socket = end
        self._takes_descriptors = takes_descriptors and end.family == socket.AF_UNIX

    def fileno(self) -> int:
        """For the loop."""
        return self._socket.fileno()

    def close(self) -> None:
        """Hang up."""
        close_all(self.descriptors)
        self._socket.close()

    def _receive(self) -> bytes:
        if not self._takes_descriptors:
            return self._socket.recv(CHUNK)
        data, descriptors, _, _ = socket.recv_fds(self._socket, CHUNK, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
        self.descriptors += descriptors
        return data

    def _send(self, data: bytes | bytearray) -> int:
        return self._socket.send(data)


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody wants, and forget them."""
    while descriptors:
        os.close(descriptors.pop())
