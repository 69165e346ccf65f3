"""A character device that outlives the single QEMU processes of a run.

The user is connected to sipl, and each QEMU process gets one end of a fresh socket pair as its character device
(`-chardev socket,id=X,fd=N`). A relay moves bytes between the two: without waiting, with bounded buffers, and who does
not read is not read from either. What the guest writes while nobody is connected is dropped, as by QEMU itself. What
the user writes while there is no guest waits for the next one.

A telnet, websocket or TLS device is not relayed: it belongs to the one process and ends with it.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.relay.stream import CHUNK, Gone, close_all

if TYPE_CHECKING:
    from sipl.engine.qemu.loop import Loop
    from sipl.engine.qemu.relay.user_end import UserEnd

# From this many bytes in a direction on, the sender waits: enough for full speed, little enough for a hundred devices.
HIGH_WATER: Final = 4 * CHUNK
# What a QEMU that has ended may have left in its socket: more than the largest buffer of a socket pair holds.
_MAX_LEFT: Final = 4 << 20


class Relay:
    """Bytes between the user and the present QEMU process, unchanged."""

    def __init__(self, loop: Loop, user: UserEnd) -> None:
        self.loop = loop
        self.user = user
        self._to_user = bytearray()
        self._to_qemu = bytearray()
        # Descriptors that go with the first byte to QEMU.
        self._descriptors: list[int] = []
        self._qemu: socket.socket | None = None

    def start(self) -> None:
        """Begin to take users. Raises FileError where a connection that is made at the start cannot be made."""
        self.user.start(self.loop, self._user_came)

    @property
    def undelivered(self) -> int:
        """How many bytes the present user has still to take."""
        return len(self._to_user)

    @property
    def attached(self) -> bool:
        """Whether there is a QEMU process at the other end."""
        return self._qemu is not None

    def attach(self, end: socket.socket, *, started_by_engine: bool = True) -> None:
        """A guest has been placed in a fresh QEMU: connect the user to it. The end belongs to the relay from here on.

        `started_by_engine` says that sipl starts the guest, and not the user's own `cont`.
        """
        self._detach()
        end.setblocking(False)
        self._qemu = end
        self._attached(started_by_engine)
        self._go_on()
        self._arm()

    def detach(self, reason: str | None = None) -> None:
        """The QEMU process has ended, or is about to: deliver what it had written, and stay connected to the user.

        `reason` is QEMU's word for why the guest is loaded again (`guest-reset`), None if it is not.
        """
        if self._qemu is not None:
            # From here on nothing is given to it any more.
            end, self._qemu = self._qemu, None
            self.loop.forget(end.fileno())
            left = _MAX_LEFT
            with suppress(OSError), end:
                while left > 0 and (data := end.recv(CHUNK)):
                    left -= len(data)
                    self._from_qemu(data)
        self._detach()
        self._detached(reason)
        self._arm()

    def close(self) -> None:
        """Hang up on both sides."""
        self._detach()
        self.user.close()

    # What the monitors do in another way.

    def _user_came(self) -> None:
        self._arm()

    def _user_left(self) -> None:
        """The user is gone; what was sent before still goes to the guest."""

    def _attached(self, started_by_engine: bool) -> None:
        """There is a new QEMU."""

    def _detached(self, reason: str | None) -> None:
        """There is no QEMU any more."""

    def _from_user(self, data: bytes) -> None:
        self._to_qemu += data

    def _from_qemu(self, data: bytes) -> None:
        self._tell(data)

    def _takes_from_user(self) -> bool:
        return len(self._to_qemu) < HIGH_WATER

    def _takes_from_qemu(self) -> bool:
        return len(self._to_user) < HIGH_WATER

    def _go_on(self) -> None:
        """Something has moved: do what may have become possible."""

    def _tell(self, data: bytes) -> None:
        """To the user, if there is one."""
        if self.user.look():
            self._to_user += data

    # The moving.

    def _arm(self) -> None:
        stream = self.user.stream
        if stream is not None:
            self.loop.watch(
                stream.fileno(),
                self._user_readable if self._takes_from_user() else None,
                self._user_writable if self._to_user else None,
            )
        if self._qemu is not None:
            self.loop.watch(
                self._qemu.fileno(),
                self._qemu_readable if self._takes_from_qemu() else None,
                self._qemu_writable if self._to_qemu else None,
            )

    def _user_readable(self) -> None:
        stream = self.user.stream
        if stream is None:
            return
        try:
            data = stream.read()
        except Gone:
            self._lose_user()
        else:
            self._from_user(data)
        self._go_on()
        self._arm()

    def _user_writable(self) -> None:
        stream = self.user.stream
        if stream is None:
            return
        try:
            del self._to_user[: stream.write(self._to_user[:CHUNK])]
        except Gone:
            self._lose_user()
        self._go_on()
        self._arm()

    def _lose_user(self) -> None:
        self._to_user.clear()
        self._user_left()
        self.user.drop()

    def _qemu_readable(self) -> None:
        if self._qemu is None:
            return
        try:
            data = self._qemu.recv(CHUNK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if data:
            self._from_qemu(data)
        else:
            self._detach()
        self._go_on()
        self._arm()

    def _qemu_writable(self) -> None:
        if self._qemu is None:
            return
        try:
            if self._descriptors:
                sent = socket.send_fds(self._qemu, [self._to_qemu[:CHUNK]], self._descriptors)
                close_all(self._descriptors)
            else:
                sent = self._qemu.send(self._to_qemu[:CHUNK])
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # Its last words are still to be read; the end of them is what counts.
            self._to_qemu.clear()
            close_all(self._descriptors)
        else:
            del self._to_qemu[:sent]
        self._go_on()
        self._arm()

    def _detach(self) -> None:
        if self._qemu is not None:
            self.loop.forget(self._qemu.fileno())
            self._qemu.close()
            self._qemu = None
        close_all(self._descriptors)
