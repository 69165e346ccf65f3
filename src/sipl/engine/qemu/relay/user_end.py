"""The user's end of a character device: a socket that listens or connects, one that was inherited, a pty.

It belongs to sipl for the whole run, so whoever is connected stays so while one QEMU process follows another. What it
does is what QEMU's own socket and pty devices do: docs/qemu-engine.md.
"""

from __future__ import annotations

import os
import select
import socket
import stat
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Final

from sipl.errors import FileError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from sipl.engine.qemu.loop import Loop, Timer

    # Family and address, as `socket.connect` takes them.
    Address: TypeAlias = tuple[int, object]

# The longest read: what is in flight per descriptor and turn.
CHUNK: Final = 1 << 16
# QEMU takes no more descriptors with one message.
MAX_DESCRIPTORS: Final = 16
# What a single connection attempt may take before the run begins; QEMU itself waits as long as the host lets it.
_CONNECT_TIMEOUT: Final = 30.0
# A host without descriptors to spare is asked again after a pause, not in a circle.
_ACCEPT_PAUSE: Final = 1.0
# How soon is noticed that somebody has opened a pty; a write looks at once.
_PTY_PAUSE: Final = 0.25
# The room for a path in a socket's address on Linux.
_MAX_PATH: Final = 108


class Gone(Exception):
    """Nobody is at the other end any more."""


class Stream:
    """A connection: bytes in both directions, without waiting. `descriptors` are those that came with what was read."""

    def __init__(self, end: socket.socket, *, takes_descriptors: bool = False) -> None:
        end.setblocking(False)
        self._socket = end
        self._takes_descriptors = takes_descriptors and end.family == socket.AF_UNIX
        self.descriptors: list[int] = []

    def fileno(self) -> int:
        """For the loop."""
        return self._socket.fileno()

    def read(self) -> bytes:
        """What is there, up to CHUNK bytes; nothing if there is nothing yet.

        Raises:
            Gone: there will be nothing more.
        """
        try:
            if self._takes_descriptors:
                data, descriptors, _, _ = socket.recv_fds(self._socket, CHUNK, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
                self.descriptors += descriptors
            else:
                data = self._socket.recv(CHUNK)
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
            return self._socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            raise Gone from error

    def close(self) -> None:
        """Hang up."""
        close_all(self.descriptors)
        self._socket.close()


class _PtyStream(Stream):
    """The master of a pty, while somebody has opened the other side."""

    def __init__(self, master: int) -> None:
        self._master = master
        self.descriptors = []

    def fileno(self) -> int:
        return self._master

    def read(self) -> bytes:
        try:
            data = os.read(self._master, CHUNK)
        except (BlockingIOError, InterruptedError):
            return b""
        except OSError as error:
            # EIO is how Linux says that the other side was closed.
            raise Gone from error
        if not data:
            raise Gone
        return data

    def write(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._master, data)
        except (BlockingIOError, InterruptedError):
            # Poll reports a hang-up as room, too; without this look it would be found again and again.
            if not _is_open(self._master):
                raise Gone from None
            return 0
        except OSError as error:
            raise Gone from error

    def close(self) -> None:
        """Nothing: the master stays for the next one who opens the other side."""


def close_all(descriptors: list[int]) -> None:
    """Close descriptors that nobody wants, and forget them."""
    while descriptors:
        os.close(descriptors.pop())


class UserEnd(ABC):
    """Where users come from. `stream` is the connection of the present one; `must_wait` while the start waits for one.

    Attributes:
        takes_descriptors: whether descriptors that come with the bytes are kept (a QMP monitor does).
    """

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.must_wait = False
        self.takes_descriptors = False
        self._loop: Loop | None = None
        self._came: Callable[[], None] | None = None

    @property
    @abstractmethod
    def filename(self) -> str:
        """What `query-chardev` shows of it."""

    def start(self, loop: Loop, came: Callable[[], None]) -> None:
        """Begin to take users; `came` is called when there is one, with `stream` set.

        Raises:
            FileError: a connection that was to be made at the start was not.
        """
        self._loop, self._came = loop, came
        self._wait()

    def drop(self) -> None:
        """The present user has left, or is sent away; the next one may come."""
        if self.stream is None or self._loop is None:
            return
        self._loop.forget(self.stream.fileno())
        self.stream.close()
        self.stream = None
        self._wait()

    def look(self) -> bool:
        """Whether there is a user, found out at once where it is noticed only now and then."""
        return self.stream is not None

    def close(self) -> None:
        """Send the user away and take no more."""
        if self.stream is not None and self._loop is not None:
            self._loop.forget(self.stream.fileno())
            self.stream.close()
            self.stream = None

    @abstractmethod
    def _wait(self) -> None:
        """Wait for the next user."""

    def _take(self, stream: Stream) -> None:
        self.stream = stream
        self.must_wait = False
        if self._came is not None:
            self._came()

    def _shown(self, name: str) -> str:
        return name if self.stream is not None else f"disconnected:{name}"


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
        self._name = _name_of(listener)
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
        self._take(Stream(end, takes_descriptors=self.takes_descriptors))


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
        return self._shown(_name(*self._addresses[0]))

    def start(self, loop: Loop, came: Callable[[], None]) -> None:
        """Connect, or begin to try."""
        self._loop, self._came = loop, came
        if self._reconnect:
            self._try()
        else:
            self._take(Stream(self._connected(), takes_descriptors=self.takes_descriptors))

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
        raise FileError(_name(*self._addresses[0]) if self._addresses else "", f"cannot be connected to: {fault}")

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
            self._take(Stream(end, takes_descriptors=self.takes_descriptors))

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
        self._name = _name_of(end)

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
            self._take(Stream(end, takes_descriptors=self.takes_descriptors))


class Pty(UserEnd):
    """A pseudo-terminal of sipl's own, raw; `name` is the path of the side that users open.

    `link` is a path that becomes a symbolic link to it, and is removed at the end.
    """

    def __init__(self, link: str = "") -> None:
        import tty

        super().__init__()
        try:
            self._master, slave = os.openpty()
        except OSError as error:
            raise FileError("pty", f"the host gives no pseudo-terminal: {error.strerror}") from error
        try:
            self.name = os.ttyname(slave)
            tty.setraw(slave)
        finally:
            os.close(slave)
        os.set_blocking(self._master, False)
        self._link = ""
        self._timer: Timer | None = None
        if link:
            try:
                os.symlink(self.name, link)
            except OSError as error:
                os.close(self._master)
                raise FileError(link, f"cannot be made a link to the pty: {error.strerror}") from error
            self._link = link

    @property
    def filename(self) -> str:
        """As `query-chardev` shows it; libvirt reads the path from here."""
        return f"pty:{self.name}"

    def look(self) -> bool:
        """Whether somebody has opened it."""
        if self.stream is None and self._master >= 0 and _is_open(self._master):
            if self._timer is not None:
                self._timer.cancel()
            self._take(_PtyStream(self._master))
        return self.stream is not None

    def close(self) -> None:
        """Hang up for good."""
        super().close()
        if self._timer is not None:
            self._timer.cancel()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
        if self._link:
            if os.path.islink(self._link) and os.readlink(self._link) == self.name:
                os.unlink(self._link)
            self._link = ""

    def _wait(self) -> None:
        # Nothing but a look shows that a pty was opened.
        if self._loop is not None:
            self._timer = self._loop.after(_PTY_PAUSE, self._again)

    def _again(self) -> None:
        if not self.look():
            self._wait()


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
        raise FileError(path, f"cannot be listened at: {error.strerror}") from error
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
    raise FileError(f"{host}:{port}", f"cannot be listened at: {fault}")


def tcp_addresses(host: str, port: str, *, family: int = 0, passive: bool = False) -> list[Address]:
    """The addresses of a host and port, names looked up now and never again. Raises FileError."""
    try:
        found = socket.getaddrinfo(
            host or None, port or None, family, socket.SOCK_STREAM, flags=socket.AI_PASSIVE if passive else 0
        )
    except OSError as error:
        raise FileError(f"{host}:{port}", f"is no address: {error.strerror}") from error
    return [(kind, address) for kind, _, _, _, address in found]


def unix_address(path: str, *, abstract: bool = False, tight: bool = True) -> bytes:
    """The address of a Unix socket; an abstract name is padded with zeros unless it is `tight`. Raises UsageError."""
    name = os.fsencode(path)
    if abstract:
        name = b"\0" + name
        if not tight:
            name = name.ljust(_MAX_PATH, b"\0")
    if not path or b"\0" in os.fsencode(path) or len(name) > _MAX_PATH - (0 if abstract else 1):
        raise UsageError(path, f"is no path of a socket: 1 to {_MAX_PATH - 1} bytes are")
    return name


def inherited(descriptor: int, *, wait: bool = False) -> UserEnd:
    """A socket that sipl was started with, whether it listens or is connected. Raises UsageError."""
    try:
        end = socket.socket(fileno=descriptor)
        kind = end.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE)
        listens = end.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise UsageError(f"fd={descriptor}", f"is no socket that was inherited: {error.strerror}") from error
    if kind != socket.SOCK_STREAM:
        end.detach()
        raise UsageError(f"fd={descriptor}", "is no stream socket")
    os.set_inheritable(descriptor, False)
    return Listening(end, wait=wait) if listens else Connected(end)


def _is_open(master: int) -> bool:
    """Whether somebody has the other side of a pty open."""
    poll = select.poll()
    poll.register(master, select.POLLIN)
    return not any(event & select.POLLHUP for _, event in poll.poll(0))


def _path_of(listener: socket.socket) -> str:
    address = listener.getsockname()
    return address if listener.family == socket.AF_UNIX and isinstance(address, str) else ""


def _file_at(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path) if path else None
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found is not None and stat.S_ISSOCK(found.st_mode) else None


def _name_of(end: socket.socket) -> str:
    return _name(end.family, end.getsockname())


def _name(family: int, address: object) -> str:
    if family == socket.AF_UNIX:
        if isinstance(address, bytes):
            return f"unix:{os.fsdecode(address.strip(bytes(1)))},abstract=on"
        return f"unix:{address}"
    if isinstance(address, tuple) and len(address) >= 2:
        return f"tcp:[{address[0]}]:{address[1]}" if family == socket.AF_INET6 else f"tcp:{address[0]}:{address[1]}"
    return "socket"
