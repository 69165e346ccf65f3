"""The guest's console at this process: what it writes to a stream, what is typed or piped to it, how a person ends it.

docs/embedded-engine.md, "Use", describes it.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Final

from sipl.cli.console_text import ConsoleText

try:
    import termios
except ImportError:  # Windows
    TERMINALS = False
else:
    TERMINALS = True

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType, TracebackType
    from typing import TextIO

    from sipl.cli.progress import Progress

ESCAPE_KEY: Final = 0x01  # Ctrl-A
HELP: Final = (
    "Ctrl-A x       end the run",
    "Ctrl-A h       show this",
    "Ctrl-A Ctrl-A  send Ctrl-A to the guest, as Ctrl-A a does",
    "All other keys are the guest's, Ctrl-C too.",
)
# Keys that are taken from a terminal at once; more wait there.
_CHUNK: Final = 1024
# With these the process is asked to end; not every host has all of them.
_ENDING: Final = ("SIGINT", "SIGTERM", "SIGHUP")


class ConsoleEnded(Exception):
    """The person in front of the console has ended the run. `asked` tells a key for it from a signal or a hang-up."""

    def __init__(self, why: str, *, asked: bool) -> None:
        self.asked = asked
        super().__init__(why)


class Input:
    """Where the guest's input comes from, entered around its run; here nobody types."""

    def __enter__(self) -> None:
        """The run begins."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The run ends, however that may be."""

    def read(self, timeout: float, room: int) -> bytes:
        """What there is for the guest after at most `timeout` seconds, at most `room` bytes; b"" if there is nothing.

        Raises:
            ConsoleEnded: a person ends the run.
        """
        if timeout > 0:
            time.sleep(timeout)
        return b""

    def descriptor(self) -> int | None:
        """What becomes readable when there is something; None if there will be nothing, or it cannot be told."""
        return None


class PipeInput(Input):
    """A pipe or a file whose bytes are typed for the guest; its end ends nothing."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._more = True

    def read(self, timeout: float, room: int) -> bytes:
        """See `Input.read`; what finds no room waits in the pipe."""
        if not self._more or not room:
            return super().read(timeout, room)
        if not _readable(self._fd, timeout):
            return b""
        try:
            data = os.read(self._fd, room)
        except OSError:  # a directory, or what it came from is gone
            data = b""
        self._more = bool(data)
        return data

    def descriptor(self) -> int | None:
        """See `Input.descriptor`."""
        return self._fd if self._more else None


class ThreadInput(Input):
    """A pipe, a file or a terminal on a host that cannot wait for one: a thread reads."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._piece = b""  # what there was no room for

    def __enter__(self) -> None:
        """Begin to read; a second run goes on with what the first one left."""
        if not hasattr(self, "_pieces"):
            from queue import Queue
            from threading import Thread

            # What the guest does not take stays where it is.
            self._pieces: Queue[bytes] = Queue(maxsize=1)
            # Of its own: the thread may still read when the number of the other one means something else.
            self._fd = os.dup(self._fd)
            Thread(target=self._gather, daemon=True).start()

    def _gather(self) -> None:
        while True:
            try:
                data = os.read(self._fd, _CHUNK)
            except OSError:
                return
            if not data:
                return
            self._pieces.put(data)

    def read(self, timeout: float, room: int) -> bytes:
        """See `Input.read`; what finds no room waits here, and in the pipe."""
        from queue import Empty

        if not room:
            return super().read(timeout, room)
        if not self._piece:
            try:
                self._piece = self._pieces.get(timeout > 0, timeout if timeout > 0 else None)
            except Empty:
                return b""
        data, self._piece = self._piece[:room], self._piece[room:]
        return data


class TerminalInput(Input):
    """A terminal whose keys go to the guest one by one, until the run ends; Ctrl-A begins a command.

    Keys that find no room are lost: behind them may come the command that ends a guest which reads none. `tell` shows a
    line of help.
    """

    def __init__(self, fd: int, tell: Callable[[str], object]) -> None:
        self._fd = fd
        self._tell = tell
        self._before: list[int | list[bytes | int]] | None = None
        self._command = False

    def __enter__(self) -> None:
        """Have the terminal give every key at once, and show none of them."""
        self._before = termios.tcgetattr(self._fd)
        self._take()

    def _take(self) -> None:
        mode = termios.tcgetattr(self._fd)
        mode[0] &= ~(termios.BRKINT | termios.ICRNL | termios.INLCR | termios.IGNCR | termios.ISTRIP | termios.IXON)
        mode[3] &= ~(termios.ECHO | termios.ICANON | termios.IEXTEN | termios.ISIG)
        mode[6][termios.VMIN], mode[6][termios.VTIME] = 1, 0
        # Output stays as it is: messages of sipl's own go to the same terminal.
        termios.tcsetattr(self._fd, termios.TCSANOW, mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the terminal back as it was."""
        before, self._before = self._before, None
        if before is None or not _in_front(self._fd):
            return
        try:
            # Without waiting for output: somebody may have stopped it.
            termios.tcsetattr(self._fd, termios.TCSANOW, before)
        except termios.error:  # the terminal is gone
            return

    def read(self, timeout: float, room: int) -> bytes:
        """See `Input.read`."""
        self._take_again()
        if not _readable(self._fd, timeout):
            return b""
        try:
            keys = os.read(self._fd, _CHUNK)
        except OSError:
            keys = b""
        if not keys:
            raise ConsoleEnded("the terminal is gone", asked=False)
        return self._without_commands(keys)[:room]

    def descriptor(self) -> int | None:
        """See `Input.descriptor`."""
        return self._fd

    def _take_again(self) -> None:
        """Who was stopped finds the terminal as the shell has it, once it is in the foreground again.

        A look at each read, as a shell need not send SIGCONT for that to a process that went on in the background.
        """
        try:
            cooked = termios.tcgetattr(self._fd)[3] & termios.ICANON
            if self._before is not None and cooked and _in_front(self._fd):
                self._take()
        except termios.error:  # the terminal is gone, which reading tells
            return

    def _without_commands(self, keys: bytes) -> bytes:
        typed = bytearray()
        for key in keys:
            if self._command:
                self._command = False
                match key:
                    case 0x01 | 0x61 | 0x41:  # Ctrl-A, a, A
                        typed.append(ESCAPE_KEY)
                    case 0x78 | 0x58:  # x, X
                        raise ConsoleEnded("ended with Ctrl-A x", asked=True)
                    case 0x68 | 0x48 | 0x3F:  # h, H, ?
                        for line in HELP:
                            self._tell(line)
            elif key == ESCAPE_KEY:
                self._command = True
            else:
                typed.append(key)
        return bytes(typed)


def _readable(fd: int, timeout: float) -> bool:
    import select

    return bool(select.select([fd], [], [], max(0, timeout))[0])


def _in_front(fd: int) -> bool:
    """Whether this process may touch the terminal: from the background that would stop it."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:  # a terminal of another session, which has no background here
        return True


def find_input(tell: Callable[[str], object]) -> Input:
    """What suits standard input: a terminal in whose foreground this process is, a pipe, or nothing."""
    try:
        fd = sys.stdin.fileno()
    except (AttributeError, OSError, ValueError):  # closed, or replaced by something that is no file
        return Input()
    if not TERMINALS:
        return ThreadInput(fd)
    if not os.isatty(fd):
        return PipeInput(fd)
    return TerminalInput(fd, tell) if _in_front(fd) else Input()


class Output:
    """A stream that shows what the guest writes: as safe text, or with `raw` the bytes as they are."""

    def __init__(self, stream: TextIO, *, raw: bool = False) -> None:
        self._stream = stream
        self._text = None if raw else ConsoleText()
        self._ends = "\n"  # the last of what was shown

    def write(self, data: bytes) -> None:
        """Show at once.

        Raises:
            OSError: the stream takes no more.
        """
        if self._text is None:
            self._show_bytes(data)
        else:
            self._show(self._text.feed(data))

    def finish(self) -> None:
        """Show what was kept back; on a terminal end the line, as other lines follow."""
        if self._text is not None:
            self._show(self._text.feed(b"", last=True))
        if self._ends != "\n" and self._stream.isatty():
            self._show("\n")

    def _show(self, text: str) -> None:
        if text:
            self._ends = text[-1]
            encoding = self._stream.encoding or "utf-8"
            self._stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
            self._stream.flush()

    def _show_bytes(self, data: bytes) -> None:
        self._ends = chr(data[-1])
        self._stream.flush()
        self._stream.buffer.write(data)
        self._stream.buffer.flush()


class Signals:
    """Signals that ask the process to end, noted while a guest runs.

    A second one ends the process at once, after `restore`.
    """

    def __init__(self, restore: Callable[[], object]) -> None:
        self.came: str | None = None  # name of the first one
        self._restore = restore
        self._before: dict[int, object] = {}

    def __enter__(self) -> None:
        """Begin to note; another thread than the main one is sent no signals."""
        for name in _ENDING:
            number = getattr(signal, name, None)
            # Who has them ignored, as nohup does, keeps that.
            if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
                try:
                    self._before[number] = signal.signal(number, self._handle)
                except ValueError:
                    return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the signals to whom they were left before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # as signal.signal gave it
        self._before.clear()

    def _handle(self, number: int, _: FrameType | None) -> None:
        if self.came is None:
            self.came = signal.Signals(number).name
            return
        self._restore()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)


@contextmanager
def interrupted_by_signals() -> Iterator[None]:
    """Have signals that ask the process to end raise KeyboardInterrupt, so that what is open is closed in order.

    For what happens around the runs of a guest; another thread than the main one is sent no signals.
    """

    def interrupt(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {}
    for name in _ENDING:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is signal.SIG_DFL:
            with suppress(ValueError):
                before[number] = signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Console:
    """The console of a guest, to be entered around its run: an `Input`, an `Output` or none, and a progress line."""

    def __init__(self, source: Input, output: Output | None, progress: Progress | None = None) -> None:
        self._source = source
        self._output = output
        self._progress = progress
        self._signals = Signals(lambda: source.__exit__(None, None, None))
        self._stack = ExitStack()

    def __enter__(self) -> None:
        """Get ready: signals first, so that one that comes in between leaves no terminal behind."""
        with ExitStack() as stack:
            stack.enter_context(self._signals)
            stack.enter_context(self._source)
            self._stack = stack.pop_all()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Restore everything, then show what was kept back."""
        self._stack.close()
        if self._progress is not None:
            self._progress.clear()
        if self._output is not None and error is None:
            self._output.finish()

    def write(self, data: bytes) -> None:
        """The guest writes; see `GuestConsole.write`."""
        if self._output is not None and data:
            self._output.write(data)

    def read(self, timeout: float, room: int) -> bytes:
        """What was typed, in whichever thread asks; see `GuestConsole.read`.

        Raises:
            ConsoleEnded: a person or a signal ends the run.
        """
        came = self._signals.came
        if came is not None:
            raise ConsoleEnded(f"ended by {came}", asked=False)
        if self._progress is not None:
            self._progress.tick()
        return self._source.read(timeout, room)

    def descriptor(self) -> int | None:
        """See `Input.descriptor`."""
        return self._source.descriptor()
