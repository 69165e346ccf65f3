"""The user's end that is a pseudo-terminal."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.relay.stream import CHUNK, Gone, Stream
from sipl.engine.qemu.relay.user_end import UserEnd
from sipl.errors import FileError

if TYPE_CHECKING:
    from sipl.engine.qemu.loop import Timer

# How soon is noticed that somebody has opened a pty; a write looks at once.
_PTY_PAUSE: Final = 0.25


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
            why = f"the host gives no pseudo-terminal: {error.strerror}"
            raise FileError("pty", why, "see /proc/sys/kernel/pty, or take a socket") from error
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
                why = f"cannot be made a link to the pty: {error.strerror}"
                raise FileError(link, why, "take a name that is free, in a folder that may be written to") from error
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


class _PtyStream(Stream):
    """The master of a pty, while somebody has opened the other side."""

    def __init__(self, master: int) -> None:
        super().__init__()
        self._master = master

    def fileno(self) -> int:
        return self._master

    def _receive(self) -> bytes:
        # EIO is how Linux says that the other side was closed.
        return os.read(self._master, CHUNK)

    def _send(self, data: bytes | bytearray) -> int:
        try:
            return os.write(self._master, data)
        except BlockingIOError:
            # Poll reports a hang-up as room, too; without this look it would be found again and again.
            if not _is_open(self._master):
                raise Gone from None
            raise

    def close(self) -> None:
        """Nothing: the master stays for the next one who opens the other side."""


def _is_open(master: int) -> bool:
    """Whether somebody has the other side of a pty open."""
    poll = select.poll()
    poll.register(master, select.POLLIN)
    return not any(event & select.POLLHUP for _, event in poll.poll(0))
