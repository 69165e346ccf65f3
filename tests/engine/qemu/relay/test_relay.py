"""What the user is connected to outlives the single QEMU processes: bytes, users who come and go, the host's names."""

from __future__ import annotations

import os
import socket
import stat
import time
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.engine.qemu.loop import Loop
from sipl.engine.qemu.relay.addresses import shown, tcp_addresses, unix_address
from sipl.engine.qemu.relay.pty_end import Pty
from sipl.engine.qemu.relay.relay import HIGH_WATER, Relay
from sipl.engine.qemu.relay.relays import Relays
from sipl.engine.qemu.relay.socket_ends import Connected, Connecting, Listening, inherited, listen_tcp, listen_unix
from sipl.errors import FileError, UsageError


def until(loop, happened, seconds=10.0):
    """Turn the loop until something has happened."""
    deadline = time.monotonic() + seconds
    while not (result := happened()):
        assert time.monotonic() < deadline, "it did not happen"
        loop.turn(0.02)
    return result


def settle(loop):
    """Turn the loop until there is nothing to do for a moment."""
    for _ in range(20):
        loop.turn(0.005)


def read(loop, end, count):
    """So many bytes from a socket, while the loop turns."""
    end.setblocking(False)
    data = b""

    def more():
        nonlocal data
        with suppress(BlockingIOError):
            data += end.recv(count - len(data))
        return len(data) >= count

    until(loop, more)
    return data


def is_closed(end):
    end.setblocking(False)
    try:
        return end.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True


@contextmanager
def running(user):
    loop = Loop()
    relay = Relay(loop, user)
    relay.start()
    try:
        yield loop, relay
    finally:
        relay.close()
        loop.close()


@contextmanager
def at_path(path, **how):
    with running(listen_unix(str(path), **how)) as (loop, relay):
        yield loop, relay


def connect(path):
    end = socket.socket(socket.AF_UNIX)
    end.connect(str(path))
    end.settimeout(5)
    return end


def attach(relay, **how):
    ours, theirs = socket.socketpair()
    relay.attach(ours, **how)
    theirs.settimeout(5)
    return theirs


def test_bytes_go_both_ways_and_the_connection_stays_when_qemu_is_replaced(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), connect(tmp_path / "s") as user:
        for words in (b"first", b"second"):
            with attach(relay) as qemu:
                qemu.sendall(b"guest " + words)
                assert read(loop, user, 6 + len(words)) == b"guest " + words
                user.sendall(b"user " + words)
                assert read(loop, qemu, 5 + len(words)) == b"user " + words
                relay.detach("guest-reset")
        assert not is_closed(user)


def test_last_words_of_a_qemu_are_delivered(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), connect(tmp_path / "s") as user:
        qemu = attach(relay)
        until(loop, lambda: relay.user.stream)
        qemu.sendall(b"x" * 100_000)
        qemu.close()
        relay.detach()
        assert read(loop, user, 100_000) == b"x" * 100_000


def test_a_qemu_that_dies_by_itself_is_no_busy_descriptor(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), connect(tmp_path / "s"):
        attach(relay).close()
        until(loop, lambda: not relay.attached)
        begin = time.monotonic()
        loop.turn(0.1)
        assert time.monotonic() - begin >= 0.09


def test_before_a_guest_is_placed_the_users_bytes_wait(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), connect(tmp_path / "s") as user:
        user.sendall(b"early")
        settle(loop)
        with attach(relay) as qemu:
            assert read(loop, qemu, 5) == b"early"


def test_what_the_guest_writes_while_nobody_is_there_is_dropped(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), attach(relay) as qemu:
        qemu.settimeout(0)
        for _ in range(100):
            qemu.send(b"n" * 10_000)
            loop.turn(0.01)
        settle(loop)
        with connect(tmp_path / "s") as user:
            until(loop, lambda: relay.user.stream)
            qemu.sendall(b"now")
            assert read(loop, user, 3) == b"now"


def test_one_user_at_a_time_and_the_next_when_that_one_has_left(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), attach(relay) as qemu:
        first = connect(tmp_path / "s")
        until(loop, lambda: relay.user.stream)
        second = connect(tmp_path / "s")
        second.sendall(b"second")
        settle(loop)
        qemu.setblocking(False)
        with pytest.raises(BlockingIOError):
            qemu.recv(1)
        first.close()
        assert read(loop, qemu, 6) == b"second"
        second.close()


def test_a_user_who_leaves_does_not_end_the_guest_and_what_was_sent_arrives(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), attach(relay) as qemu:
        with connect(tmp_path / "s") as user:
            user.sendall(b"bye")
        assert read(loop, qemu, 3) == b"bye"
        settle(loop)
        assert relay.attached
        assert not is_closed(qemu)


def test_a_slow_reader_stops_the_guest_and_not_the_memory(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), connect(tmp_path / "s") as user, attach(relay) as qemu:
        until(loop, lambda: relay.user.stream)
        qemu.setblocking(False)
        sent = 0
        stopped = 0
        while stopped < 50:
            try:
                sent += qemu.send(b"s" * 65536)
                stopped = 0
            except BlockingIOError:
                stopped += 1
            loop.turn(0.001)
            assert sent < 32 << 20, "nobody stops the guest"
        assert relay.undelivered <= 2 * HIGH_WATER
        begin = time.monotonic()
        loop.turn(0.05)
        assert time.monotonic() - begin >= 0.04, "a full relay turns in a circle"
        assert read(loop, user, sent) == b"s" * sent


def test_a_guest_that_does_not_read_stops_the_user_and_not_the_memory(tmp_path):
    with at_path(tmp_path / "s") as (loop, relay), connect(tmp_path / "s") as user, attach(relay) as qemu:
        user.setblocking(False)
        sent = 0
        stopped = 0
        while stopped < 50:
            try:
                sent += user.send(b"u" * 65536)
                stopped = 0
            except BlockingIOError:
                stopped += 1
            loop.turn(0.001)
            assert sent < 32 << 20, "nobody stops the user"
        assert read(loop, qemu, sent) == b"u" * sent


def test_a_start_that_waits_has_waited_when_somebody_comes(tmp_path):
    loop = Loop()
    relays = Relays(loop)
    relays.add("console", listen_unix(str(tmp_path / "s"), wait=True))
    relays.add("other", listen_unix(str(tmp_path / "o")))
    relays.start()
    assert relays.waiting == ["console"]
    with connect(tmp_path / "s"):
        until(loop, lambda: not relays.waiting)
    until(loop, lambda: relays.view.ends["console"].stream is None)
    assert not relays.waiting
    relays.close()


def test_a_socket_is_replaced_and_removed_at_the_end(tmp_path):
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert path.exists()
    with at_path(path):
        assert stat.S_ISSOCK(path.stat().st_mode)
        connect(path).close()
    assert not path.exists()


def test_a_file_that_is_no_socket_stays(tmp_path):
    path = tmp_path / "s"
    path.write_text("mine")
    with pytest.raises(FileError, match="no socket"):
        listen_unix(str(path))
    assert path.read_text() == "mine"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileError, match="no socket"):
        listen_unix(str(link))
    assert link.is_symlink()


def test_what_took_the_sockets_place_stays(tmp_path):
    path = tmp_path / "s"
    with at_path(path):
        path.unlink()
        path.write_text("mine")
    assert path.read_text() == "mine"


def test_an_inherited_listener_is_taken_and_its_path_removed(tmp_path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    listener.listen(1)
    user_end = inherited(listener.detach())
    assert isinstance(user_end, Listening)
    assert user_end.filename == f"disconnected:unix:{tmp_path / 's'},server=on"
    with running(user_end) as (loop, relay), connect(tmp_path / "s") as user, attach(relay) as qemu:
        user.sendall(b"hello")
        assert read(loop, qemu, 5) == b"hello"
        assert user_end.filename == f"unix:{tmp_path / 's'},server=on"
    assert not (tmp_path / "s").exists()


def test_an_inherited_connection_ends_once():
    user, given_end = socket.socketpair()
    user_end = inherited(given_end.detach())
    assert isinstance(user_end, Connected)
    with running(user_end) as (loop, relay), attach(relay) as qemu:
        user.sendall(b"hello")
        assert read(loop, qemu, 5) == b"hello"
        user.close()
        until(loop, lambda: user_end.stream is None)
        qemu.sendall(b"nobody")
        settle(loop)
        assert relay.undelivered == 0


def test_what_was_inherited_and_is_no_stream_socket_is_said(tmp_path):
    with (tmp_path / "f").open("wb") as file, pytest.raises(UsageError, match="no socket"):
        inherited(file.fileno())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as end, pytest.raises(UsageError, match="no stream"):
        inherited(end.fileno())


def test_tcp(tmp_path):
    user_end = listen_tcp("127.0.0.1", "0", nodelay=True)
    port = int(user_end.filename.split(":")[-1].partition(",")[0])
    with running(user_end) as (loop, relay), attach(relay) as qemu, socket.create_connection(("127.0.0.1", port)) as u:
        u.sendall(b"tcp")
        assert read(loop, qemu, 3) == b"tcp"
        with pytest.raises(FileError, match="cannot be listened at"):
            listen_tcp("127.0.0.1", str(port))
    with pytest.raises(FileError):
        listen_tcp("127.0.0.1", "no-such-service")


def test_a_path_is_not_shown_as_an_abstract_name():
    for path in ("/run/who", b"/run/who"):
        assert shown(socket.AF_UNIX, path) == "unix:/run/who"
    for name in ("\0who", b"\0who", b"\0who".ljust(108, b"\0")):
        assert shown(socket.AF_UNIX, name) == "unix:who,abstract=on"


def test_an_abstract_name_and_a_path_that_is_too_long():
    name = f"sipl-test-{os.getpid()}"
    user_end = listen_unix(name, abstract=True)
    assert user_end.filename == f"disconnected:unix:{name},abstract=on,server=on"
    with running(user_end) as (loop, relay), attach(relay) as qemu, socket.socket(socket.AF_UNIX) as user:
        user.connect(b"\0" + name.encode())
        user.sendall(b"a")
        assert read(loop, qemu, 1) == b"a"
    assert len(unix_address(name, abstract=True, tight=False)) == 108
    for path in ("", "x" * 108, "a\0b"):
        with pytest.raises(UsageError, match="path of a socket"):
            unix_address(path)


def test_a_connection_that_cannot_be_made_is_said_at_the_start(tmp_path):
    loop = Loop()
    relay = Relay(loop, Connecting([(socket.AF_UNIX, unix_address(str(tmp_path / "none")))]))
    with pytest.raises(FileError, match="cannot be connected to"):
        relay.start()
    relay.close()


def test_a_connection_is_made_again(tmp_path):
    path = tmp_path / "s"
    user_end = Connecting([(socket.AF_UNIX, unix_address(str(path)))], reconnect=0.05)
    with running(user_end) as (loop, relay), attach(relay) as qemu, socket.socket(socket.AF_UNIX) as listener:
        settle(loop)
        listener.bind(str(path))
        listener.listen(1)
        listener.setblocking(False)
        for words in (b"one", b"two"):
            until(loop, lambda: user_end.stream)
            user, _ = listener.accept()
            with user:
                user.sendall(words)
                assert read(loop, qemu, 3) == words
            until(loop, lambda: user_end.stream is None)


def test_a_tcp_connection_is_made_again():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    user_end = Connecting(tcp_addresses("127.0.0.1", str(port)), reconnect=0.05, nodelay=True)
    with running(user_end) as (loop, relay), attach(relay) as qemu:
        settle(loop)
        assert user_end.stream is None
        assert user_end.filename == f"disconnected:tcp:127.0.0.1:{port}"
        with socket.create_server(("127.0.0.1", port)) as listener:
            until(loop, lambda: user_end.stream)
            user, _ = listener.accept()
            with user:
                user.sendall(b"tcp")
                assert read(loop, qemu, 3) == b"tcp"


def test_a_pty_is_raw_survives_its_users_and_says_its_name(tmp_path):
    user_end = Pty(str(tmp_path / "link"))
    assert user_end.filename == f"pty:{user_end.name}"
    with running(user_end) as (loop, relay), attach(relay) as qemu:
        qemu.sendall(b"nobody hears this")
        settle(loop)
        for words in (b"one\r\n", b"t\x03o\n"):
            user = os.open(tmp_path / "link", os.O_RDWR | os.O_NOCTTY)
            # Without a look of the timer: what the guest writes finds who has just come.
            qemu.sendall(words)
            until(loop, lambda: relay.user.stream)
            until(loop, lambda: not relay.undelivered)
            assert os.read(user, 100) == words
            os.write(user, words)
            assert read(loop, qemu, len(words)) == words
            os.close(user)
            until(loop, lambda: user_end.stream is None)
            begin = time.monotonic()
            loop.turn(0.1)
            assert time.monotonic() - begin >= 0.09, "a pty without a user turns in a circle"
    assert not (tmp_path / "link").is_symlink()


def test_a_pty_whose_user_does_not_read_stops_the_guest_and_a_hang_up_lets_it_go_on():
    user_end = Pty()
    with running(user_end) as (loop, relay), attach(relay) as qemu:
        user = os.open(user_end.name, os.O_RDWR | os.O_NOCTTY)
        until(loop, lambda: user_end.stream)
        qemu.setblocking(False)
        stopped = 0
        while stopped < 20:
            try:
                qemu.send(b"s" * 65536)
                stopped = 0
            except BlockingIOError:
                stopped += 1
            loop.turn(0.001)
        assert relay.undelivered >= HIGH_WATER
        os.close(user)


def test_a_link_is_not_put_over_a_file(tmp_path):
    (tmp_path / "link").write_text("mine")
    with pytest.raises(FileError, match="cannot be made a link"):
        Pty(str(tmp_path / "link"))
    assert (tmp_path / "link").read_text() == "mine"


def test_nothing_reaches_a_qemu_before_its_guest_is_placed(tmp_path):
    loop = Loop()
    relays = Relays(loop)
    relays.add("console", listen_unix(str(tmp_path / "s")))
    relays.start()
    with connect(tmp_path / "s") as user:
        user.sendall(b"early")
        for _ in range(2):
            qemu = relays.renew()["console"]
            qemu.setblocking(False)
            settle(loop)
            with pytest.raises(BlockingIOError):
                qemu.recv(1)
            relays.placed()
            qemu.sendall(b"up")
            assert read(loop, user, 2) == b"up"
            user.sendall(b"later")
            assert read(loop, qemu, 5) in {b"early", b"later"}
            relays.ended("guest-reset")
            qemu.close()
        relays.finish()
        assert is_closed(user)
    assert not (tmp_path / "s").exists()
    loop.close()


def test_finish_delivers_and_does_not_wait_for_who_does_not_read(tmp_path):
    loop = Loop()
    relays = Relays(loop)
    relays.add("a", listen_unix(str(tmp_path / "a")))
    relays.add("b", listen_unix(str(tmp_path / "b")))
    relays.start()
    with connect(tmp_path / "a") as reader, connect(tmp_path / "b"):
        ends = relays.renew()
        relays.placed()
        until(loop, lambda: all(end.stream for end in relays.view.ends.values()))
        ends["a"].sendall(b"last words")
        ends["b"].setblocking(False)
        for _ in range(200):
            try:
                ends["b"].send(b"x" * 65536)
            except BlockingIOError:
                loop.turn(0)
        for end in ends.values():
            end.close()
        begin = time.monotonic()
        relays.finish(0.3)
        assert 0.2 < time.monotonic() - begin < 3
        assert reader.recv(100) == b"last words"
        assert reader.recv(100) == b""
    loop.close()


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["user", "guest", "detach", "attach"]), st.binary(min_size=1, max_size=300)),
        max_size=30,
    )
)
def test_whatever_is_said_arrives_in_order(moments):
    ours, user = socket.socketpair()
    with running(Connected(ours)) as (loop, relay), user:
        qemu = attach(relay)
        from_user, from_guest = b"", b""
        arrived = b""
        for what, data in moments:
            if what == "user":
                user.sendall(data)
                from_user += data
                if qemu is not None:
                    arrived += read(loop, qemu, len(from_user) - len(arrived))
            elif what == "guest" and qemu is not None:
                qemu.sendall(data)
                from_guest += data
            elif what == "detach" and qemu is not None:
                relay.detach("guest-reset")
                qemu.close()
                qemu = None
            elif what == "attach" and qemu is None:
                qemu = attach(relay)
                arrived += read(loop, qemu, len(from_user) - len(arrived))
        assert read(loop, user, len(from_guest)) == from_guest
        assert arrived == from_user[: len(arrived)]
        if qemu is not None:
            assert arrived == from_user
            qemu.close()


def test_timers_come_in_order_and_cancelled_ones_do_not():
    loop = Loop()
    came = []
    loop.after(0.02, lambda: came.append("second"))
    loop.after(0.01, lambda: came.append("first"))
    loop.after(0.0, lambda: came.append("never")).cancel()
    until(loop, lambda: len(came) == 2)
    assert came == ["first", "second"]
    loop.close()


def test_a_descriptor_that_was_closed_in_this_turn_is_not_called_for():
    loop = Loop()
    one, other = socket.socketpair()
    third, fourth = socket.socketpair()
    called = []

    def close_both(mine, its):
        def action():
            called.append(mine)
            loop.forget(one.fileno())
            loop.forget(third.fileno())
            its.close()

        return action

    loop.watch(one.fileno(), close_both(one, third))
    loop.watch(third.fileno(), close_both(third, one))
    other.send(b"x")
    fourth.send(b"x")
    loop.turn(1)
    assert len(called) == 1
    for end in (one, other, third, fourth):
        end.close()
    loop.close()


def test_standard_input_may_be_a_file():
    loop = Loop()
    with open(os.devnull, "rb") as nothing:
        read_something = []
        loop.watch(nothing.fileno(), lambda: read_something.append(nothing.read(1)))
        loop.turn(1)
        loop.forget(nothing.fileno())
    assert read_something == [b""]
    loop.close()
