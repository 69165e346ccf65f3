"""Users' ends that are stream sockets: one that listens, one that connects, one that was inherited."""

from __future__ import annotations

import os
import socket
import stat
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.relay.addresses import name_of, shown, tcp_addresses, unix_address
from sipl.engine.qemu.relay.stream import SocketStream
from sipl.engine.qemu.relay.user_end import UserEnd
from sipl.errors import FileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sipl.engine.qemu.loop import Loop, Timer
    from sipl.engine.qemu.relay.addresses import Address

# What a single connection attempt may take before the run begins; QEMU itself waits as long as the host lets it.
_CONNECT_TIMEOUT: Final = 30.0
# A host without descriptors to spare is asked again after a pause, not in a circle.
_ACCEPT_PAUSE: Final = 1.0


class Listening(UserEnd):
    """A socket to which users connect, one at a time; the next is taken when that one has left.

    The socket may have been inherited. `wait` is for a start that waits for the first user. The path of a Unix socket
    is removed at the end, unless something else is there by then.
    """

    def __init__(self, listener: socket.socket, *, wait: bool = False, nodelay: bool = False) -> None:
        super().__init__()
        listener.setblocking(False)
        self.must_wait = wait
        self._listener = listener
        self._nodelay = nodelay
        self._name = name_of(listener)
        self._path = _path_of(listener)
        self._file = _file_at(self._path)
        self._pause: Timer | None = None

    @property
    def filename(self) -> str:
        """As `query-chardev` shows it."""
        return self._shown(f"{self._name},server=on")

    def close(self) -> None:
        """Send the user away and take no more."""
        super().close()
        if self._loop is not None and self._listener.fileno() >= 0:
            self._loop.forget(self._listener.fileno())
        if self._pause is not None:
            self._pause.cancel()
        self._listener.close()
        if self._path and self._file is not None and _file_at(self._path) == self._file:
            os.unlink(self._path)
            self._file = None

    def _wait(self) -> None:
        if self._loop is not None and self._listener.fileno() >= 0:
            self._loop.watch(self._listener.fileno(), reading=self._accept)

    def _accept(self) -> None:
        if self._loop is None:
            return
        try:
            end, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionError):
            return
        except OSError:
            self._loop.forget(self._listener.fileno())
            self._pause = self._loop.after(_ACCEPT_PAUSE, self._wait)
            return
        self._loop.forget(self._listener.fileno())
        if self._nodelay and end.family != socket.AF_UNIX:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._take(SocketStream(end, takes_descriptors=self.takes_descriptors))


class Connecting(UserEnd):
    """A connection that sipl makes to where a user listens.

    Without `reconnect` it is made at the start, and when it ends it has ended. With it, it is tried again after so many
    seconds, from the start on.
    """

    def __init__(self, addresses: Sequence[Address], *, reconnect: float = 0, nodelay: bool = False) -> None:
        super().__init__()
        self._addresses = list(addresses)
        self._reconnect = reconnect
        self._nodelay = nodelay
        self._trying: socket.socket | None = None
        self._attempts = 0
        self._timer: Timer | None = None

    @property
    def filename(self) -> str:
        """As `query-chardev` shows it."""
        return self._shown(shown(*self._addresses[0]))

    def start(self, loop: Loop, came: Callable[[], None]) -> None:
        """Connect, or begin to try."""
        self._loop, self._came = loop, came
        if self._reconnect:
            self._try()
        else:
            self._take(SocketStream(self._connected(), takes_descriptors=self.takes_descriptors))

    def close(self) -> None:
        """Hang up and try no more."""
        super().close()
        self._give_up()
        if self._timer is not None:
            self._timer.cancel()

    def _connected(self) -> socket.socket:
        fault = "there is no address"
        for family, address in self._addresses:
            end = self._new(family)
            end.settimeout(_CONNECT_TIMEOUT)
            try:
                end.connect(address)  # type: ignore[arg-type]  # family and address belong together
            except OSError as error:
                end.close()
                fault = error.strerror or str(error)
            else:
                return end
        where = shown(*self._addresses[0]) if self._addresses else "socket"
        raise FileError(where, f"cannot be connected to: {fault}", "start who listens there first, or add server=on")

    def _new(self, family: int) -> socket.socket:
        end = socket.socket(family, socket.SOCK_STREAM)
        if self._nodelay and family != socket.AF_UNIX:
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return end

    def _wait(self) -> None:
        if self._reconnect and self._loop is not None:
            self._timer = self._loop.after(self._reconnect, self._try)

    def _try(self) -> None:
        if self._loop is None:
            return
        family, address = self._addresses[self._attempts % len(self._addresses)]
        self._attempts += 1
        try:
            end = self._new(family)
        except OSError:
            self._wait()
            return
        end.setblocking(False)
        try:
            end.connect(address)  # type: ignore[arg-type]  # family and address belong together
        except BlockingIOError:
            if family == socket.AF_UNIX:
                # The listener's queue is full: such a socket never becomes connected by itself.
                end.close()
                self._wait()
                return
        except OSError:
            end.close()
            self._wait()
            return
        self._trying = end
        self._loop.watch(end.fileno(), writing=self._tried)

    def _tried(self) -> None:
        if self._trying is None or self._loop is None:
            return
        end, self._trying = self._trying, None
        self._loop.forget(end.fileno())
        if end.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            end.close()
            self._wait()
        else:
            self._take(SocketStream(end, takes_descriptors=self.takes_descriptors))

    def _give_up(self) -> None:
        if self._trying is not None and self._loop is not None:
            self._loop.forget(self._trying.fileno())
            self._trying.close()
            self._trying = None


class Connected(UserEnd):
    """A connection that was inherited; when it ends it has ended."""

    def __init__(self, end: socket.socket) -> None:
        super().__init__()
        self._given: socket.socket | None = end
        self._name = name_of(end)

    @property
    def filename(self) -> str:
        """As `query-chardev` shows it."""
        return self._shown(self._name)

    def close(self) -> None:
        """Hang up."""
        super().close()
        if self._given is not None:
            self._given.close()
            self._given = None

    def _wait(self) -> None:
        if self._given is not None:
            end, self._given = self._given, None
            self._take(SocketStream(end, takes_descriptors=self.takes_descriptors))


def listen_unix(path: str, *, wait: bool = False, abstract: bool = False, tight: bool = True) -> Listening:
    """Listen at a path, where a socket is replaced and nothing else is; or at an abstract name of the host.

    Raises:
        FileError: the host does not allow it, or there is a file that is no socket.
        UsageError: the path is too long.
    """
    name = unix_address(path, abstract=abstract, tight=tight)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if not abstract:
            found = os.lstat(path) if os.path.lexists(path) else None
            if found is not None and not stat.S_ISSOCK(found.st_mode):
                raise FileError(path, "is there already and is no socket", "sipl replaces nothing but sockets")
            if found is not None:
                os.unlink(path)
        listener.bind(name)
        listener.listen(1)
    except OSError as error:
        listener.close()
        if isinstance(error, FileError):
            raise
        hint = "it takes a folder that is there and may be written to"
        raise FileError(path, f"cannot be listened at: {error.strerror}", hint) from error
    return Listening(listener, wait=wait)


def listen_tcp(host: str, port: str, *, wait: bool = False, nodelay: bool = False, family: int = 0) -> Listening:
    """Listen at a TCP port; no host means every address of this one. Raises FileError."""
    fault = "there is no such address"
    for found, address in tcp_addresses(host, port, family=family, passive=True):
        listener = socket.socket(found, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)  # type: ignore[arg-type]  # family and address belong together
            listener.listen(1)
        except OSError as error:
            listener.close()
            fault = error.strerror or str(error)
        else:
            return Listening(listener, wait=wait, nodelay=nodelay)
    raise FileError(
        f"{host}:{port}", f"cannot be listened at: {fault}", "take an address of this host, and a free port"
    )


def inherited(descriptor: int, *, wait: bool = False) -> UserEnd:
    """A socket that sipl was started with, whether it listens or is connected. Raises UsageError."""
    try:
        end = socket.socket(fileno=descriptor)
        kind = end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        listens = end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        why = f"is no socket that was inherited: {error.strerror}"
        raise UsageError(f"fd={descriptor}", why, "hand over one that listens or is connected") from error
    if kind != socket.SOCK_STREAM:
        end.detach()
        raise UsageError(f"fd={descriptor}", "is no stream socket", "hand over one of SOCK_STREAM")
    os.set_inheritable(descriptor, False)
    return Listening(end, wait=wait) if listens else Connected(end)


def _path_of(listener: socket.socket) -> str:
    address = listener.getsockname()
    return address if listener.family == socket.AF_UNIX and isinstance(address, str) else ""


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path) if path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found is not None and stat.S_ISSOCK(found.st_mode) else None
