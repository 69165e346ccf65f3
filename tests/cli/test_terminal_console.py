"""The console's own parts: what is shown of a guest's bytes, keys and commands, pipes, signals."""

from __future__ import annotations

import io
import os
import pty
import select
import signal
import subprocess
import sys
import termios
import time
import unicodedata
from itertools import pairwise

import pytest
from cli_lab import environment
from hypothesis import given
from hypothesis import strategies as st

from sipl.cli import terminal_console
from sipl.cli.console_text import ConsoleText
from sipl.cli.progress import Progress, has_room
from sipl.cli.terminal_console import (
    HELP,
    Console,
    ConsoleEnded,
    Input,
    Output,
    PipeInput,
    Signals,
    TerminalInput,
    ThreadInput,
    find_input,
)

ROOM = 4096
TYPIST = """\
import os
from sipl.cli.terminal_console import TerminalInput
source = TerminalInput(0, print)
with source:
    print(f"runs as {os.getpid()}.", flush=True)
    while True:
        keys = source.read(0.1, 4096)
        if keys:
            print(f"got {keys}", flush=True)
"""


def shown(*pieces: bytes) -> str:
    text = ConsoleText()
    return "".join(text.feed(piece) for piece in pieces) + text.feed(b"", last=True)


class TestText:
    @pytest.mark.parametrize(
        ("data", "text"),
        [
            (b"plain\r\n", "plain\n"),
            (b"50%\r60%\ta\x08b\n", "50%\r60%\ta\bb\n"),
            ("Grüße €".encode(), "Grüße €"),
            (b"\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
            (b"\x0b\x0c\x00\x7f", "\\x0b\\x0c\\x00\\x7f"),
            ("\u202eevil\u200b\u2028\x9b2J".encode(), "\\u202eevil\\u200b\\u2028\\x9b2J"),
            (b"\xff\xc3(", "\\xff\\xc3("),
            (b"cut \xe2\x82", "cut \\xe2\\x82"),
            (b"end\r", "end\r"),
        ],
    )
    def test_what_is_shown(self, data, text):
        assert shown(data) == text

    @given(st.binary(max_size=200))
    def test_nothing_that_acts_comes_through(self, data):
        acting = {c for c in shown(data) if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}}
        assert acting <= set("\n\r\t\b")

    @given(st.binary(max_size=60), st.lists(st.integers(0, 60)))
    def test_pieces_do_not_matter(self, data, cuts):
        at = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
        pieces = [data[start:end] for start, end in pairwise(at)]
        assert shown(*pieces) == shown(data)

    @given(st.text())
    def test_printable_text_stays(self, text):
        plain = "".join(c for c in text if c.isascii() and (c.isprintable() or c in "\n\t\b"))
        assert shown(plain.encode()) == plain


class TestOutput:
    def stream(self, encoding="utf-8"):
        return io.TextIOWrapper(io.BytesIO(), encoding, newline="")

    def test_shows_at_once(self):
        stream = self.stream()
        Output(stream).write(b"login: \x1b[0m")
        assert stream.buffer.getvalue() == b"login: \\x1b[0m"

    def test_raw_shows_the_bytes(self):
        stream = self.stream()
        stream.write("before ")
        output = Output(stream, raw=True)
        output.write(b"\xff\x1b[2J\r\n")
        output.finish()
        assert stream.buffer.getvalue() == b"before \xff\x1b[2J\r\n"

    def test_an_encoding_that_cannot_show_it(self):
        stream = self.stream("ascii")
        Output(stream).write("é".encode())
        assert stream.buffer.getvalue() == b"\\xe9"

    def test_a_pipe_gets_no_line_end_of_ours(self):
        stream = self.stream()
        output = Output(stream)
        output.write(b"half a line\r")
        output.finish()
        assert stream.buffer.getvalue() == b"half a line\r"


@pytest.fixture
def tty():
    """Both ends of a pseudo terminal: the person's, ours."""
    ends = pty.openpty()
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


class TestTerminal:
    def typed(self, tty, keys: bytes, tell=lambda _: None) -> bytes:
        """What the guest gets of some keys."""
        person, ours = tty
        source = TerminalInput(ours, tell)
        with source:
            os.write(person, keys)
            return source.read(5, ROOM)

    @pytest.mark.parametrize(
        "keys", [b"ls\r", b"\x03", b"\x04", b"\x1a", b"\x11\x13", b"\x1b[A", "ü".encode(), b"\x16"]
    )
    def test_keys_go_to_the_guest_as_they_are(self, tty, keys):
        assert self.typed(tty, keys) == keys

    @pytest.mark.parametrize("keys", [b"a\x01\x01b", b"a\x01ab", b"a\x01Ab"])
    def test_ctrl_a_itself(self, tty, keys):
        assert self.typed(tty, keys) == b"a\x01b"

    @pytest.mark.parametrize("keys", [b"\x01x", b"ab\x01Xcd"])
    def test_ending(self, tty, keys):
        with pytest.raises(ConsoleEnded) as caught:
            self.typed(tty, keys)
        assert caught.value.asked

    def test_help_goes_to_the_person(self, tty):
        said = []
        assert self.typed(tty, b"a\x01hb", said.append) == b"ab"
        assert tuple(said) == HELP

    def test_an_unknown_command_does_nothing(self, tty):
        assert self.typed(tty, b"a\x01zb") == b"ab"

    def test_a_command_in_two_pieces(self, tty):
        person, ours = tty
        source = TerminalInput(ours, lambda _: None)
        with source:
            os.write(person, b"\x01")
            assert source.read(5, ROOM) == b""
            os.write(person, b"x")
            with pytest.raises(ConsoleEnded):
                source.read(5, ROOM)

    def test_keys_that_find_no_room_are_lost_and_commands_are_not(self, tty):
        person, ours = tty
        source = TerminalInput(ours, lambda _: None)
        with source:
            os.write(person, b"abcdef")
            assert source.read(5, 4) == b"abcd"
            os.write(person, b"gh")
            assert source.read(5, 0) == b""
            assert source.read(0, ROOM) == b""
            os.write(person, b"ij\x01x")
            with pytest.raises(ConsoleEnded):
                source.read(5, 0)

    def test_nothing_typed(self, tty):
        source = TerminalInput(tty[1], lambda _: None)
        with source:
            assert source.read(0, ROOM) == b""

    def test_nothing_is_echoed(self, tty):
        person, _ = tty
        self.typed(tty, b"secret")
        os.set_blocking(person, False)
        with pytest.raises(BlockingIOError):
            os.read(person, 100)

    @pytest.mark.parametrize("error", [None, ZeroDivisionError, KeyboardInterrupt, SystemExit])
    def test_the_terminal_is_given_back(self, tty, error):
        ours = tty[1]
        before = termios.tcgetattr(ours)
        console = Console(TerminalInput(ours, lambda _: None), None)

        def run():
            with console:
                assert termios.tcgetattr(ours) != before
                if error is not None:
                    raise error

        for _ in range(2):  # a guest may be started again
            if error is None:
                run()
            else:
                with pytest.raises(error):
                    run()
            assert termios.tcgetattr(ours) == before

    def test_a_terminal_that_goes_away(self, tty):
        person, ours = tty
        source = TerminalInput(ours, lambda _: None)
        with source:
            os.close(person)
            with pytest.raises(ConsoleEnded) as caught:
                source.read(5, ROOM)
        assert not caught.value.asked

    def test_a_shell_has_set_the_terminal_anew(self, tty):
        """As after SIGSTOP and `fg`."""
        person, ours = tty
        source = TerminalInput(ours, print)
        cooked = termios.tcgetattr(ours)
        with source:
            raw = termios.tcgetattr(ours)
            termios.tcsetattr(ours, termios.TCSANOW, cooked)
            source.read(0, ROOM)
            assert termios.tcgetattr(ours) == raw
            os.write(person, b"k")
            assert source.read(5, ROOM) == b"k"
        assert termios.tcgetattr(ours) == cooked

    def test_from_the_background_it_is_not_touched(self, tty, monkeypatch):
        _, ours = tty
        source = TerminalInput(ours, print)
        cooked = termios.tcgetattr(ours)
        cooked[3] ^= termios.ECHOE  # to be told from what was there before
        with source:
            monkeypatch.setattr(terminal_console, "_in_front", lambda _: False)
            termios.tcsetattr(ours, termios.TCSANOW, cooked)
            source.read(0, ROOM)
            assert termios.tcgetattr(ours) == cooked
        assert termios.tcgetattr(ours) == cooked

    def test_stopped_and_brought_to_the_foreground_by_a_shell(self, need_tool):
        bash = need_tool("bash", "bash")
        process, person = pty.fork()
        if process == 0:
            os.execve(bash, [bash, "--norc", "--noprofile", "-i"], environment(PROMPT="$ ", TYPIST=TYPIST))
        shown = b""

        def until(text: bytes) -> None:
            nonlocal shown
            while text not in shown:
                assert select.select([person], [], [], 30)[0], shown
                shown += os.read(person, 4096)
            shown = shown.partition(text)[2]

        try:
            os.write(person, f'{sys.executable} -c "$TYPIST"\n'.encode())
            until(b"runs as ")
            until(b".")
            os.write(person, b"a")
            until(b"got b'a'")
            os.kill(os.tcgetpgrp(person), signal.SIGSTOP)
            until(b"Stopped")
            os.write(person, b"stty sane; fg\n")
            until(b"sane; fg")
            time.sleep(0.5)  # nothing says when the shell has done it
            os.write(person, b"k")
            until(b"got b'k'")
        finally:
            os.kill(os.tcgetpgrp(person), signal.SIGKILL)
            os.kill(process, signal.SIGKILL)
            os.close(person)
            os.waitpid(process, 0)


@pytest.fixture
def pipe():
    ends = list(os.pipe())
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError:
            continue


class TestPipe:
    @pytest.mark.parametrize("kind", [PipeInput, ThreadInput])
    def test_comes_as_it_is_and_its_end_ends_nothing(self, pipe, kind):
        reader, writer = pipe
        source = kind(reader)
        with source:
            assert source.read(0, ROOM) == b""
            os.write(writer, b"a\x01x")
            assert source.read(5, ROOM) == b"a\x01x"
            os.close(writer)
            assert [source.read(0.01, ROOM), source.read(0, ROOM)] == [b"", b""]

    @pytest.mark.parametrize("kind", [PipeInput, ThreadInput])
    def test_a_large_one_comes_whole(self, tmp_path, kind):
        content = os.urandom(50_000)
        (tmp_path / "typed").write_bytes(content)
        with open(tmp_path / "typed", "rb") as file:
            source = kind(file.fileno())
            got = b""
            with source:
                deadline = time.monotonic() + 20
                while len(got) < len(content) and time.monotonic() < deadline:
                    got += source.read(0.1, ROOM)
        assert got == content

    @pytest.mark.parametrize("kind", [PipeInput, ThreadInput])
    def test_what_finds_no_room_comes_later(self, pipe, kind):
        reader, writer = pipe
        source = kind(reader)
        with source:
            os.write(writer, b"0123456789")
            assert source.read(0.05, 0) == b""
            assert [source.read(5, 4), source.read(5, 4), source.read(5, 4)] == [b"0123", b"4567", b"89"]

    @pytest.mark.parametrize("kind", [PipeInput, ThreadInput])
    def test_without_room_it_waits_all_the_same(self, pipe, kind):
        reader, writer = pipe
        source = kind(reader)
        with source:
            os.write(writer, b"x")
            started = time.monotonic()
            source.read(0.05, 0)
            assert time.monotonic() - started > 0.04

    @pytest.mark.parametrize("source", [Input, lambda: PipeInput(os.open("/dev/null", os.O_RDONLY))])
    def test_waiting_takes_its_time(self, source):
        source = source()
        source.read(0, ROOM)
        started = time.monotonic()
        assert source.read(0.05, ROOM) == b""
        assert time.monotonic() - started > 0.04


class TestFindInput:
    def test_nothing(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", None)
        assert type(find_input(print)) is Input

    def test_no_file(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.StringIO("text"))
        assert type(find_input(print)) is Input

    def test_file(self, monkeypatch):
        with open(__file__) as file:
            monkeypatch.setattr(sys, "stdin", file)
            assert type(find_input(print)) is PipeInput
            monkeypatch.setattr(terminal_console, "TERMINALS", False)
            assert type(find_input(print)) is ThreadInput

    @pytest.mark.parametrize("group", ["mine", "another", "none"])
    def test_terminal_in_front(self, monkeypatch, tty, group):
        def in_front(_):
            if group == "none":
                raise OSError
            return os.getpgrp() + (group == "another")

        with open(tty[1], closefd=False) as file:
            monkeypatch.setattr(sys, "stdin", file)
            monkeypatch.setattr(os, "tcgetpgrp", in_front)
            assert type(find_input(print)) is (Input if group == "another" else TerminalInput)


class TestSignals:
    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_one_ends_the_run_and_only_that(self, number):
        before = signal.getsignal(number)
        console = Console(Input(), None)
        with console:
            assert console.read(0, ROOM) == b""
            os.kill(os.getpid(), number)
            with pytest.raises(ConsoleEnded, match=number.name) as caught:
                console.read(0, ROOM)
        assert not caught.value.asked
        assert signal.getsignal(number) is before
        assert signal.set_wakeup_fd(-1) == -1

    def test_who_ignores_it_keeps_that(self):
        before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        try:
            console = Console(Input(), None)
            with console:
                os.kill(os.getpid(), signal.SIGHUP)
                assert console.read(0, ROOM) == b""
        finally:
            signal.signal(signal.SIGHUP, before)

    def test_another_signal_is_no_reason(self):
        signals = Signals(lambda: None)
        before = signal.signal(signal.SIGUSR1, lambda *_: None)
        try:
            with signals:
                os.kill(os.getpid(), signal.SIGUSR1)
                assert signals.came is None
        finally:
            signal.signal(signal.SIGUSR1, before)

    def test_in_another_thread_it_runs_without(self):
        from threading import Thread

        got = []

        def work():
            console = Console(Input(), None)
            with console:
                got.append(console.read(0, ROOM))

        thread = Thread(target=work)
        thread.start()
        thread.join()
        assert got == [b""]

    def test_a_second_one_ends_the_process_and_gives_the_terminal_back(self, tty):
        """Where nobody looks at the first one, as in a guest's service that takes for ever."""
        program = (
            "import time; from sipl.cli.terminal_console import *\n"
            "with Console(TerminalInput(0, print), None):\n"
            "    print('ready', flush=True)\n"
            "    while True: time.sleep(0.01)\n"
        )
        before = termios.tcgetattr(tty[1])
        with subprocess.Popen(
            [sys.executable, "-c", program], stdin=tty[1], stdout=subprocess.PIPE, env=environment()
        ) as process:
            assert process.stdout.readline() == b"ready\n"
            assert termios.tcgetattr(tty[1]) != before
            process.send_signal(signal.SIGTERM)
            time.sleep(0.3)
            assert process.poll() is None
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == -signal.SIGTERM
        assert termios.tcgetattr(tty[1]) == before


class TestProgress:
    def test_one_line_in_its_place(self, monkeypatch):
        now = [100.0]
        monkeypatch.setattr("sipl.cli.progress.time.monotonic", lambda: now[0])
        stream = io.StringIO()
        progress = Progress(stream)
        progress.ipl = 1
        progress.tick()
        assert stream.getvalue() == ""
        for now[0] in (101.0, 101.5, 175.2):
            progress.tick()
        progress.clear()
        progress.clear()
        lines = stream.getvalue().split("\r")
        assert lines == ["", "IPL 1: the guest runs, 0:01", "IPL 1: the guest runs, 1:15", " " * 27, ""]

    def test_nobody_looks(self, monkeypatch):
        now = [0.0]
        monkeypatch.setattr("sipl.cli.progress.time.monotonic", lambda: now[0])
        with open("/dev/full", "w") as full:
            progress = Progress(full)
            for now[0] in (1.0, 2.0):
                progress.tick()
            monkeypatch.undo()
            with pytest.raises(OSError, match="No space"):
                full.close()

    def test_only_where_the_console_is_not(self, tty):
        other = pty.openpty()
        streams = [open(fd, "w", closefd=False) for fd in (tty[1], tty[1], other[1])]  # noqa: SIM115 (closed below)
        here, same, elsewhere = streams
        try:
            assert not has_room(here, same)
            assert has_room(here, elsewhere)
            assert has_room(here, io.StringIO())
            assert not has_room(io.StringIO(), here)
        finally:
            for stream in streams:
                stream.close()
            for fd in other:
                os.close(fd)
