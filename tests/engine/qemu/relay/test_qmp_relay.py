"""Monitors that outlive the single QEMU processes: one greeting, one negotiation, no way around the verification."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.engine.qemu.loop import Loop
from sipl.engine.qemu.relay.monitor import MAX_ANSWER, MonitorView
from sipl.engine.qemu.relay.monitor_rules import CommandRefused, judge, judge_human
from sipl.engine.qemu.relay.pty_end import Pty
from sipl.engine.qemu.relay.qmp_messages import MAX_DEPTH, MAX_MESSAGE, MessageReader, NoMessage
from sipl.engine.qemu.relay.qmp_relay import QmpRelay
from sipl.engine.qemu.relay.relays import Relays
from sipl.engine.qemu.relay.socket_ends import Connected, listen_unix

GREETING = {"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": ["oob"]}}
CRASH = {"action": "pause", "info": {"type": "s390", "core": 0, "reason": "disabled-wait"}}


class Peer:
    """One end of a socket that speaks JSON by lines, while the loop turns."""

    def __init__(self, loop, end):
        self.loop = loop
        self.end = end
        self.end.setblocking(False)
        self.data = b""
        self.closed = False

    def send(self, *messages):
        for message in messages:
            self.raw(json.dumps(message).encode() + b"\n")

    def raw(self, data):
        deadline = time.monotonic() + 10
        while data:
            assert time.monotonic() < deadline
            try:
                data = data[self.end.send(data) :]
            except BlockingIOError:
                self.loop.turn(0.01)

    def take(self):
        try:
            data = self.end.recv(1 << 20)
            self.data += data
            self.closed = self.closed or not data
        except BlockingIOError:
            pass
        except ConnectionError:
            self.closed = True

    def line(self, seconds=10.0):
        deadline = time.monotonic() + seconds
        while b"\n" not in self.data:
            assert not self.closed, "hung up"
            assert time.monotonic() < deadline, "silence"
            self.loop.turn(0.02)
            self.take()
        line, _, self.data = self.data.partition(b"\n")
        return json.loads(line)

    def silent(self):
        for _ in range(10):
            self.loop.turn(0.005)
            self.take()
        return not self.data and not self.closed

    def text(self, ending):
        deadline = time.monotonic() + 10
        while not self.data.endswith(ending):
            assert time.monotonic() < deadline, self.data
            self.loop.turn(0.02)
            self.take()
        text, self.data = self.data.decode(), b""
        return text

    def ask(self, command, **arguments):
        self.send({"execute": command, "arguments": arguments, "id": "asked"})
        while "event" in (answer := self.line()):
            pass
        assert answer["id"] == "asked"
        return answer.get("return", answer.get("error"))


class World:
    """A relay, its user, and QEMUs made of a socket."""

    def __init__(self, guarded=True, human=False):
        self.loop = Loop()
        ours, users = socket.socketpair()
        self.relays = Relays(self.loop)
        self.view = self.relays.view
        add = self.relays.add_human if human else self.relays.add_qmp
        add("mon", Connected(ours), guarded=guarded)
        self.relays.start()
        self.user = Peer(self.loop, users)
        self.qemu = None

    def boot(self, negotiate=True, started_by_engine=True):
        self.qemu = Peer(self.loop, self.relays.renew()["mon"])
        self.qemu.send(GREETING)
        self.relays.placed(started_by_engine=started_by_engine)
        if negotiate:
            command = self.qemu.line()
            assert command["execute"] == "qmp_capabilities"
            self.answer(command, {})

    def answer(self, command, value):
        self.qemu.send({"return": value, "id": command["id"]})

    def greet(self):
        assert self.user.line()["QMP"]["capabilities"] == []
        self.user.send({"execute": "qmp_capabilities"})
        assert self.user.line() == {"return": {}}

    def end(self, reason="guest-reset"):
        self.qemu.end.close()
        self.relays.ended(reason)


@contextmanager
def world(**how):
    here = World(**how)
    try:
        yield here
    finally:
        here.relays.close()
        here.user.end.close()
        if here.qemu is not None:
            here.qemu.end.close()
        here.loop.close()


@pytest.fixture
def ready():
    """A user who has negotiated, on a guest that runs."""
    with world() as here:
        here.boot()
        here.greet()
        yield here


def event(name, data=None):
    stamp = {"seconds": 1, "microseconds": 2}
    return {"timestamp": stamp, "event": name, **({"data": data} if data is not None else {})}


def test_one_greeting_and_one_negotiation_for_two_qemus(ready):
    for _ in range(3):
        ready.end()
        assert ready.user.line()["event"] == "RESET"
        ready.boot()
        assert ready.user.silent()
        ready.user.send({"execute": "query-status", "id": 7})
        command = ready.qemu.line()
        assert command["execute"] == "query-status"
        ready.answer(command, {"running": True})
        assert ready.user.line() == {"return": {"running": True}, "id": 7}


def test_a_user_sees_nothing_before_the_guest_is_placed():
    with world() as here:
        here.user.send({"execute": "qmp_capabilities"}, {"execute": "query-version", "id": 1})
        assert here.user.silent()
        here.boot()
        assert "QMP" in here.user.line()
        assert here.user.line() == {"return": {}}
        assert here.qemu.line()["execute"] == "query-version"


def test_a_command_during_the_load_waits_for_the_new_qemu(ready):
    ready.end()
    assert ready.user.line()["event"] == "RESET"
    ready.user.send({"execute": "query-status", "id": "early"})
    assert ready.user.silent()
    ready.boot()
    command = ready.qemu.line()
    ready.answer(command, 1)
    assert ready.user.line() == {"return": 1, "id": "early"}


def test_an_outstanding_command_is_answered_with_an_error_that_keeps_the_id(ready):
    ready.user.send({"execute": "query-block", "id": {"any": ["id"]}})
    ready.qemu.line()
    ready.end()
    assert ready.user.line()["event"] == "RESET"
    answer = ready.user.line()
    assert answer["id"] == {"any": ["id"]}
    assert "loaded again" in answer["error"]["desc"]


def test_an_answer_of_the_old_qemu_that_was_already_written_arrives(ready):
    ready.user.send({"execute": "query-block", "id": 1}, {"execute": "query-status", "id": 2})
    ready.answer(ready.qemu.line(), [])
    ready.end()
    assert ready.user.line() == {"return": [], "id": 1}
    assert ready.user.line()["event"] == "RESET"
    ready.boot()
    ready.answer(ready.qemu.line(), {})
    assert ready.user.line() == {"return": {}, "id": 2}


def test_a_reset_shows_one_reset_whether_qemu_tells_of_it_or_not(ready):
    ready.end("guest-reset")
    shown = ready.user.line()
    assert shown["data"] == {"guest": True, "reason": "guest-reset"}
    assert abs(shown["timestamp"]["seconds"] - time.time()) < 60
    ready.boot()
    ready.qemu.send(event("RESET", {"guest": False, "reason": "host-qmp-system-reset"}))
    assert ready.user.line()["data"]["reason"] == "host-qmp-system-reset"
    ready.end("host-qmp-system-reset")
    ready.boot()
    assert ready.user.silent()


def test_the_harmless_images_wait_is_no_crash_to_the_user(ready):
    ready.qemu.send(event("RESET", {"guest": True, "reason": "guest-reset"}), event("GUEST_PANICKED", CRASH))
    ready.qemu.send(event("STOP"), event("SHUTDOWN", {"guest": False, "reason": "host-signal"}))
    assert ready.user.line()["event"] == "RESET"
    assert ready.user.silent()
    ready.end()
    ready.boot()
    assert ready.user.silent()


@pytest.mark.parametrize("engine_first", [False, True])
def test_a_crash_of_the_guest_is_shown_when_the_engine_says_so(ready, engine_first):
    if engine_first:
        ready.relays.show_crash()
    ready.qemu.send(event("GUEST_PANICKED", CRASH), event("STOP"))
    if not engine_first:
        assert ready.user.silent()
        ready.relays.show_crash()
    assert ready.user.line() == event("GUEST_PANICKED", CRASH)
    assert ready.user.line() == event("STOP")
    ready.qemu.send(event("GUEST_PANICKED", CRASH))
    assert ready.user.silent(), "each crash is judged"


def test_a_crash_that_ends_the_run_is_shown(ready):
    ready.qemu.send(event("GUEST_PANICKED", CRASH), event("STOP"))
    ready.user.silent()
    ready.end(None)
    assert [ready.user.line()["event"] for _ in range(2)] == ["GUEST_PANICKED", "STOP"]
    assert ready.user.silent(), "no RESET"


def test_the_engines_own_start_is_not_shown_and_the_users_is(ready):
    ready.qemu.send(event("RESUME"), event("BALLOON_CHANGE", {"actual": 1}))
    assert ready.user.line()["event"] == "BALLOON_CHANGE"
    ready.qemu.send(event("STOP"), event("RESUME"))
    assert [ready.user.line()["event"] for _ in range(2)] == ["STOP", "RESUME"]
    ready.end()
    assert ready.user.line()["event"] == "RESET"
    ready.boot(started_by_engine=False)
    ready.qemu.send(event("RESUME"))
    assert ready.user.line()["event"] == "RESUME"


def test_a_client_that_leaves_and_comes_back_is_greeted_again(tmp_path):
    loop = Loop()
    relays = Relays(loop)
    relays.add_qmp("mon", listen_unix(str(tmp_path / "s")))
    relays.start()

    def come():
        end = socket.socket(socket.AF_UNIX)
        end.connect(str(tmp_path / "s"))
        return Peer(loop, end)

    first = come()
    qemu = Peer(loop, relays.renew()["mon"])
    qemu.send(GREETING)
    relays.placed()
    qemu.send({"return": {}, "id": qemu.line()["id"]})
    assert "QMP" in first.line()
    first.send({"execute": "qmp_capabilities"}, {"execute": "query-status", "id": "first"})
    assert first.line() == {"return": {}}
    command = qemu.line()
    first.end.close()
    second = come()
    assert "QMP" in second.line()
    qemu.send(event("BALLOON_CHANGE", {"actual": 1}), {"return": "for the first", "id": command["id"]})
    second.send({"execute": "query-name"})
    assert second.line()["error"]["class"] == "CommandNotFound"
    second.send({"execute": "qmp_capabilities", "id": 1}, {"execute": "query-name", "id": 2})
    assert second.line() == {"return": {}, "id": 1}
    qemu.send({"return": {}, "id": qemu.line()["id"]})
    assert second.line() == {"return": {}, "id": 2}
    second.end.close()
    # Also while there is no QEMU.
    qemu.end.close()
    relays.ended("guest-reset")
    third = come()
    assert "QMP" in third.line()
    third.end.close()
    relays.close()
    loop.close()


def test_negotiation_is_as_with_qemu(ready):
    ready.user.send({"execute": "qmp_capabilities", "id": 1})
    assert ready.user.line()["error"]["class"] == "CommandNotFound"
    with world() as here:
        here.boot()
        here.user.line()
        here.user.send({"execute": "qmp_capabilities", "arguments": {"enable": ["oob"]}, "id": 1})
        assert "error" in here.user.line()
        here.user.send({"execute": "qmp_capabilities", "id": 2})
        assert here.user.line() == {"return": {}, "id": 2}


def test_answers_keep_the_order_of_the_commands(ready):
    ready.user.raw(b'{"execute":"query-name","id":1}{"execute":"loadvm","id":2}[]{"execute":\n"query-status",\n"id":3}')
    command = ready.qemu.line()
    assert ready.user.silent()
    ready.answer(command, {})
    assert [ready.user.line().get("id") for _ in range(3)] == [1, 2, None]
    ready.answer(ready.qemu.line(), {})
    assert ready.user.line() == {"return": {}, "id": 3}


def test_errors_of_qemu_arrive_and_arguments_are_passed_as_they_are(ready):
    ready.user.send({"execute": "device_del", "arguments": {"id": "no\u00e9\u20ac"}, "id": None})
    command = ready.qemu.line()
    assert command["arguments"] == {"id": "no\u00e9\u20ac"}
    ready.qemu.send({"error": {"class": "DeviceNotFound", "desc": "x"}, "id": command["id"]})
    assert ready.user.line() == {"error": {"class": "DeviceNotFound", "desc": "x"}, "id": None}
    ready.user.send({"execute": "query-name"})
    assert "arguments" not in ready.qemu.line()
    # QEMU could not read it, so its answer has no number.
    ready.qemu.send({"error": {"class": "GenericError", "desc": "parse"}})
    assert ready.user.line()["error"]["desc"] == "parse"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (b'{"execute": 1}', "execute"),
        (b'{"arguments": {}}', "execute"),
        (b'{"execute": "query-name", "arguments": []}', "arguments"),
        (b'{"exec-oob": "query-name"}', "exec-oob"),
        (b'{"execute": "query-name", "x": 1}', "member x"),
        (b'{"execute": "query-name", "id": NaN}', "no JSON"),
        (b'{"execute": "query-name", "arguments": {"a": 1e999}}', "no JSON"),
        (b'{"execute": "query-name", "id": 1e999}', "no JSON"),
        (b'{"execute": "query-name", "id": -1e999}', "no JSON"),
        (b'{"execute": \xff"query-name"}', "no JSON"),
        (b"[1]", "no JSON object"),
        (b"hello }]\n", "no JSON object"),
        (b"{'execute': 'query-name'}\n", "no JSON"),
        (b"[" * (MAX_DEPTH + 1) + b"\n", "brackets"),
        (b'{"' + b"x" * (MAX_MESSAGE + 10) + b"\n", "at most"),
    ],
)
def test_what_is_no_command_costs_an_error_and_nothing_else(ready, text, why):
    ready.user.raw(text)
    assert why in ready.user.line()["error"]["desc"]
    ready.user.send({"execute": "query-name", "id": 1})
    ready.answer(ready.qemu.line(), {})
    assert ready.user.line() == {"return": {}, "id": 1}


def test_what_qemu_reads_is_what_was_judged(ready):
    ready.user.raw(b'{"execute": "loadvm", "execute": "query-name", "arguments": {"a": "\\u0000", "a": 2}}')
    assert ready.qemu.line() == {"execute": "query-name", "arguments": {"a": 2}, "id": 2}
    ready.qemu.send({"return": {}, "id": 2})
    ready.user.line()
    ready.user.raw(b'{"execute": "query-name", "execute": "\\u006coadvm"}')
    assert "verified" in ready.user.line()["error"]["desc"]
    assert ready.qemu.silent()


def test_a_client_that_never_reads_does_not_grow_memory_or_stop_the_engine(ready):
    ready.user.end.setblocking(False)
    sent = stopped = 0
    while stopped < 50:
        try:
            sent += ready.user.end.send(b"1\n" * 1000)
            stopped = 0
        except BlockingIOError:
            stopped += 1
        begin = time.monotonic()
        ready.loop.turn(0.001)
        assert time.monotonic() - begin < 2
        assert sent < 32 << 20
    for _ in range(100):
        ready.qemu.end.setblocking(False)
        with suppress(BlockingIOError):
            ready.qemu.end.send((json.dumps(event("RTC_CHANGE")) + "\n").encode() * 1000)
        ready.loop.turn(0.001)
    assert ready.relays._relays["mon"].undelivered < 4 << 20


def test_a_qemu_that_speaks_no_qmp_is_not_listened_to(ready):
    for nonsense in (b"no json\n", b"[]\n", b"{" * 1000 + b"\n", b"\xff\xfe\n"):
        ready.qemu.raw(nonsense)
        ready.qemu.send(event("BALLOON_CHANGE"))
        assert ready.user.silent()
        assert not ready.relays._relays["mon"].attached
        ready.end()
        assert ready.user.line()["event"] == "RESET"
        ready.boot()
        ready.user.silent()


def test_an_answer_without_end_is_bounded(ready):
    relay = ready.relays._relays["mon"]
    chunk = b" " * 65536
    for _ in range(MAX_ANSWER // len(chunk) + 3):
        if not relay.attached:
            break
        ready.qemu.raw(chunk)
        ready.loop.turn(0)
    ready.user.silent()
    assert not relay.attached


def test_descriptors_go_with_their_command(tmp_path):
    loop = Loop()
    relays = Relays(loop)
    relays.add_qmp("mon", listen_unix(str(tmp_path / "s")))
    relays.start()
    user = socket.socket(socket.AF_UNIX)
    user.connect(str(tmp_path / "s"))
    peer = Peer(loop, user)
    qemu = Peer(loop, relays.renew()["mon"])
    qemu.send(GREETING)
    relays.placed()
    qemu.send({"return": {}, "id": qemu.line()["id"]})
    peer.line()
    peer.send({"execute": "qmp_capabilities"})
    peer.line()
    before = len(os.listdir("/proc/self/fd"))
    reading, writing = os.pipe()
    peer.send({"execute": "query-name"})
    message = b'{"execute": "getfd", "arguments": {"fdname": "x"}, "id": 5}\r\n'
    socket.send_fds(user, [message], [writing])
    qemu.send({"return": {}, "id": qemu.line()["id"]})
    assert peer.line() == {"return": {}}
    for _ in range(20):
        loop.turn(0.005)
    data, descriptors, _, _ = socket.recv_fds(qemu.end, 1000, 4)
    assert json.loads(data)["execute"] == "getfd"
    assert len(descriptors) == 1
    os.write(descriptors[0], b"through")
    assert os.read(reading, 10) == b"through"
    os.close(descriptors[0])
    qemu.send({"return": {}, "id": json.loads(data)["id"]})
    assert peer.line() == {"return": {}, "id": 5}
    # Those of a command that is refused, of nonsense, and of none at all are closed.
    socket.send_fds(user, [b'{"execute": "loadvm"}'], [writing])
    peer.line()
    socket.send_fds(user, [b"nonsense\n"], [writing, reading])
    peer.line()
    for _ in range(40):
        socket.send_fds(user, [b" "], [writing] * 16)
        loop.turn(0.01)
    user.close()
    for _ in range(20):
        loop.turn(0.005)
    os.close(reading)
    os.close(writing)
    assert len(os.listdir("/proc/self/fd")) <= before
    qemu.end.close()
    relays.close()
    loop.close()


def test_set_action_is_the_engines_where_it_concerns_resets_and_crashes(ready):
    assert ready.user.ask("set-action", reboot="shutdown", panic="pause") == {}
    assert ready.view.actions == {"reboot": "shutdown", "panic": "pause"}
    assert ready.qemu.silent()
    ready.user.send({"execute": "set-action", "arguments": {"reboot": "reset", "shutdown": "pause"}, "id": 1})
    command = ready.qemu.line()
    assert command["arguments"] == {"shutdown": "pause"}
    ready.answer(command, {})
    assert ready.user.line() == {"return": {}, "id": 1}
    assert ready.view.actions == {"reboot": "reset", "panic": "pause", "shutdown": "pause"}
    assert "reboot takes" in ready.user.ask("set-action", reboot="run")["desc"]
    assert ready.view.actions["reboot"] == "reset"


def test_a_reset_that_is_to_end_the_guest_is_shown_as_a_shutdown(ready):
    ready.user.ask("set-action", reboot="shutdown")
    ready.qemu.send(event("RESET", {"guest": True, "reason": "guest-reset"}))
    shown = ready.user.line()
    assert shown["event"] == "SHUTDOWN"
    assert shown["data"]["reason"] == "guest-reset"


def test_devices_that_were_plugged_in_are_gone_after_the_load(ready):
    for name in ("kept", "pulled", "failed"):
        ready.user.send({"execute": "device_add", "arguments": {"driver": "virtio-rng-ccw", "id": name}})
        command = ready.qemu.line()
        if name == "failed":
            ready.qemu.send({"error": {"class": "GenericError", "desc": "no"}, "id": command["id"]})
        else:
            ready.answer(command, {})
        ready.user.line()
    ready.qemu.send(event("DEVICE_DELETED", {"device": "pulled", "path": "/machine/peripheral/pulled"}))
    assert ready.user.line()["event"] == "DEVICE_DELETED"
    ready.end()
    assert ready.user.line()["event"] == "RESET"
    gone = ready.user.line()
    assert gone["event"] == "DEVICE_DELETED"
    assert gone["data"] == {"device": "kept", "path": "/machine/peripheral/kept"}
    ready.boot()
    assert ready.user.silent()
    ready.end()
    assert ready.user.line()["event"] == "RESET"
    assert ready.user.silent()


def test_query_chardev_shows_the_users_ends():
    with world() as here:
        pty = Pty()
        here.view.ends["charserial0"] = pty
        here.view.own.add("sipl-qmp")
        here.boot()
        here.greet()
        here.user.send({"execute": "query-chardev", "id": 1})
        answer = [
            {"label": "charserial0", "filename": "unix:", "frontend-open": True},
            {"label": "sipl-qmp", "filename": "unix:", "frontend-open": True},
            {"label": "other", "filename": "null", "frontend-open": True},
        ]
        here.answer(here.qemu.line(), answer)
        shown = here.user.line()["return"]
        assert [device["label"] for device in shown] == ["charserial0", "other"]
        assert shown[0]["filename"] == f"pty:{pty.name}"
        assert pty.name.startswith("/dev/pts/")
        pty.close()


REFUSED = [
    ("migrate-incoming", {"uri": "exec:cat x"}),
    ("migrate", {"uri": "unix:/x"}),
    ("snapshot-load", {"job-id": "j", "tag": "t", "vmstate": "d", "devices": []}),
    ("xen-load-devices-state", {"filename": "x"}),
    ("replay-seek", {"icount": 1}),
    ("x-exit-preconfig", {}),
    ("x-anything-new", {}),
    ("load-firmware", {}),
    ("chardev-change", {"id": "sipl-qmp", "backend": {}}),
    ("yank", {"instances": []}),
    ("blockdev-mirror", {}),
    ("blockdev-snapshot-sync", {}),
    ("blockdev-reopen", {}),
    ("block-commit", {}),
    ("device_add", {"driver": "loader", "id": "x", "file": "/x"}),
    ("device_add", {"driver": "guest-loader"}),
    ("device_add", {"driver": "s390-ipl"}),
    ("device_add", {"driver": "fw_cfg_mem"}),
    ("device_add", {"driver": ["virtio-rng-ccw"]}),
    ("device_add", {"driver": "virtio-rng-ccw,loader"}),
    ("device_add", {}),
    ("device_add", {"driver": "vfio-ccw"}),
    ("device_add", {"driver": "vfio-user-pci"}),
    ("device_add", {"driver": "vhost-scsi-ccw"}),
    ("device_add", {"driver": "vhost-user-blk-ccw"}),
    ("device_add", {"driver": "scsi-generic"}),
    ("device_add", {"driver": "vhost-vsock-ccw", "vhostfd": "17"}),
    ("object-add", {"qom-type": "memory-backend-file", "mem-path": "/proc/self/fd/7"}),
    ("netdev_add", {"type": "vhost-user", "id": "n"}),
    ("netdev_add", {"type": "passt", "id": "n", "path": "/bin/sh"}),
    ("netdev_add", {"type": "bridge", "id": "n", "helper": "/bin/sh -c id"}),
    ("netdev_add", {"type": "tap", "id": "n", "script": "/tmp/x", "downscript": "no"}),
    ("netdev_add", {"type": "tap", "id": "n", "script": "no", "downscript": "/tmp/x"}),
    ("netdev_add", {"type": "tap", "id": "n", "script": ["no"]}),
    ("netdev_add", {"type": "user", "id": "n", "guestfwd": [{"str": "tcp:10.0.2.9:9-cmd:id"}]}),
    ("netdev_add", {"type": "user", "id": "n", "smb": "/"}),
    ("netdev_add", {"type": "tap", "id": "n", "fd": "7"}),
    ("netdev_add", {"type": "tap", "id": "n", "fds": "a:7"}),
    ("netdev_add", {"type": "tap", "id": "n", "fd": 7}),
    ("netdev_add", {"type": "tap", "id": "n", "fd": ""}),
    ("netdev_add", {"type": "tap", "id": "n", "fd": "a", "vhostfd": "8"}),
    ("netdev_add", {"type": "dgram", "id": "n", "local": {"type": "fd", "str": "17"}}),
    ("netdev_add", {"type": "stream", "id": "n", "addr": {"type": "fd", "str": "17"}}),
    (
        "chardev-add",
        {"id": "c", "backend": {"type": "socket", "data": {"addr": {"type": "fd", "data": {"str": "17"}}}}},
    ),
    ("nbd-server-start", {"addr": {"type": "fd", "data": {"str": "17"}}}),
    ("nbd-server-start", {"addr": {"type": "fd"}}),
    ("blockdev-add", {"driver": "virtio-blk-vhost-user", "node-name": "n", "path": "/x"}),
    ("blockdev-add", {"driver": "vvfat", "dir": "/", "node-name": "n"}),
    ("blockdev-add", {"driver": "raw", "file": {"driver": "nvme", "device": "0"}}),
    ("blockdev-add", {"driver": "quorum", "children": [{"driver": ["file"]}]}),
    ("object-add", {"qom-type": "qtest", "id": "q"}),
    ("object-add", {"qom-type": "x-remote-object"}),
    ("object-add", {"qom-type": "secret\n"}),
    ("qom-set", {"path": "/machine", "property": "loadparm", "value": "2"}),
    ("qom-set", {"path": "/machine/unattached/device[0]", "property": "start-powered-off", "value": True}),
    ("qom-set", {"path": "/machine/peripheral/d/hotplug-handler", "property": "firmware", "value": ""}),
    ("qom-set", {"path": "machine", "property": "firmware", "value": ""}),
    ("qom-set", {"path": "/machine/peripheral/d", "property": "drive", "value": "other"}),
    ("qom-set", {"path": "/machine/peripheral/sipl-boot-0", "property": "serial", "value": "x"}),
    ("qom-set", {"path": "/objects/sipl-ram", "property": "prealloc", "value": True}),
    ("add_client", {"protocol": "sipl-qmp", "fdname": "x"}),
    ("transaction", {"actions": [{"type": "abort"}, {"type": "blockdev-snapshot", "data": {}}]}),
    ("transaction", {"actions": [1]}),
    ("human-monitor-command", {"command-line": "gdbserver tcp::1234"}),
    ("human-monitor-command", {"command-line": "  loadvm x"}),
    ("human-monitor-command", {"command-line": "\tloadvm x"}),
    ("human-monitor-command", {"command-line": "\x0bloadvm x"}),
    ("human-monitor-command", {"command-line": "info x\nloadvm x"}),
    ("human-monitor-command", {"command-line": "o/b 1 2"}),
    ("human-monitor-command", {"command-line": ["info"]}),
    ("human-monitor-command", {}),
    ("human-monitor-command", {"command-line": "device_add loader"}),
    ("human-monitor-command", {"command-line": "qom-set /machine loadparm 2"}),
    ("human-monitor-command", {"command-line": "migrate_incoming tcp:0:1"}),
]

PASSED = [
    ("cont", {}),
    ("system_reset", {}),
    ("quit", {}),
    ("query-status", {}),
    ("x-query-roms", {}),
    ("device_add", {"driver": "virtio-blk-ccw", "drive": "d", "id": "v"}),
    ("device_add", {"driver": "host-s390x-cpu", "core-id": 1}),
    ("device_add", {"driver": "vhost-vsock-ccw", "guest-cid": 7, "vhostfd": "vsock"}),
    ("netdev_add", {"type": "user", "id": "n", "hostfwd": [{"str": "tcp::2222-:22"}]}),
    ("netdev_add", {"type": "tap", "id": "n", "fd": "fd-net0", "vhost": True, "vhostfd": "vhostfd-net0"}),
    ("netdev_add", {"type": "tap", "id": "n", "fds": "a:b", "script": "no", "downscript": "no"}),
    ("netdev_add", {"type": "dgram", "id": "n", "local": {"type": "fd", "str": "name"}}),
    ("chardev-add", {"id": "c", "backend": {"type": "null", "data": {}}}),
    ("blockdev-add", {"driver": "qcow2", "node-name": "n", "file": {"driver": "file", "filename": "/x"}}),
    ("blockdev-add", {"driver": "raw", "node-name": "n", "file": "other"}),
    ("inject-nmi", {}),
    ("object-add", {"qom-type": "iothread", "id": "i"}),
    ("object-add", {"qom-type": "memory-backend-ram", "id": "m", "size": 1}),
    ("qom-set", {"path": "/machine/peripheral/balloon0", "property": "guest-stats-polling-interval", "value": 2}),
    ("qom-set", {"path": "/objects/iothread1", "property": "poll-max-ns", "value": 2}),
    ("add_client", {"protocol": "vnc", "fdname": "x"}),
    ("transaction", {"actions": [{"type": "block-dirty-bitmap-add", "data": {}}, {"type": "blockdev-backup"}]}),
    ("migrate-set-capabilities", {"capabilities": [{"capability": "events", "state": True}]}),
    ("human-monitor-command", {"command-line": "info registers"}),
    ("human-monitor-command", {"command-line": "x/10i 0"}),
]


@pytest.mark.parametrize(("command", "arguments"), REFUSED)
def test_refused(ready, command, arguments):
    refusal = ready.user.ask(command, **arguments)
    assert refusal["class"] == "GenericError"
    assert refusal["desc"].startswith("sipl: ")
    assert ready.qemu.silent()


@pytest.mark.parametrize(("command", "arguments"), PASSED)
def test_passed(ready, command, arguments):
    ready.user.send({"execute": command, "arguments": arguments})
    passed = ready.qemu.line()
    assert (passed["execute"], passed["arguments"]) == (command, arguments)


def test_the_descriptors_of_the_guests_disks_are_not_exchanged(ready):
    ready.view.descriptor_sets.add(3)
    assert "holds a disk" in ready.user.ask("add-fd", **{"fdset-id": 3})["desc"]
    assert "holds a disk" in ready.user.ask("remove-fd", **{"fdset-id": 3, "fd": 20})["desc"]
    ready.user.send({"execute": "add-fd", "arguments": {"fdset-id": 4}})
    assert ready.qemu.line()["arguments"] == {"fdset-id": 4}


NMI = {"execute": "inject-nmi", "arguments": {}}


@pytest.mark.parametrize("how", ["command", "line", "event"])
def test_no_nmi_comes_ahead_of_the_ipl_after_a_reset(ready, how):
    """It would start the handler of the guest before, and what the reset is to end would go on."""
    if how == "event":
        ready.qemu.send(event("RESET", {"guest": True, "reason": "guest-reset"}))
        assert ready.user.line()["event"] == "RESET"
    else:
        line = {"execute": "human-monitor-command", "arguments": {"command-line": "\tsystem_reset"}}
        ready.user.send(line if how == "line" else {"execute": "system_reset"})
        ready.answer(ready.qemu.line(), {})
        ready.user.line()
    assert "not verified yet" in ready.user.ask("inject-nmi")["desc"]
    assert "not verified yet" in ready.user.ask("human-monitor-command", **{"command-line": " nmi"})["desc"]
    ready.end()
    ready.boot()
    ready.user.send(NMI)
    assert ready.qemu.line()["execute"] == "inject-nmi"


def test_nor_from_another_monitor():
    with world(human=True) as here:
        here.boot()
        here.user.text(b"(qemu) ")
        here.view.resetting = True
        here.user.raw(b"nmi\n")
        assert "not verified yet" in here.user.text(b"(qemu) ")


def test_without_a_guard_everything_passes():
    with world(guarded=False) as here:
        here.boot()
        here.greet()
        here.user.send({"execute": "migrate-incoming", "arguments": {"uri": "x"}})
        assert here.qemu.line()["execute"] == "migrate-incoming"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


NAMES = st.sampled_from(sorted({name for name, _ in REFUSED + PASSED} | {"add-fd", "set-action"})) | st.text(
    max_size=30
)
MEMBERS = st.sampled_from(
    [
        "driver",
        "qom-type",
        "path",
        "protocol",
        "actions",
        "command-line",
        "fdset-id",
        "reboot",
        "shutdown",
        "id",
        "action",
    ]
)


@settings(max_examples=120, deadline=None)
@given(NAMES, st.dictionaries(MEMBERS, JSON | st.lists(st.fixed_dictionaries({"type": JSON})), max_size=4), JSON)
def test_any_command_is_answered_or_passed_on(name, arguments, value):
    with world() as here:
        here.boot()
        here.view.descriptor_sets.add(1)
        here.greet()
        here.user.send({"execute": name, "arguments": arguments, "id": 1})
        for _ in range(3):
            here.loop.turn(0.001)
            here.qemu.take()
        if here.qemu.data:
            judge(name, arguments)
            here.answer(here.qemu.line(), value)
        answer = here.user.line()
        assert answer["id"] == 1
        if "error" in answer:
            assert answer["error"]["desc"]


WORDS = st.sampled_from(["loadvm", "gdbserver", "o", "info", "x", "qom-set", "device_add", "migrate", "help", ""])
BETWEEN = st.sampled_from([" ", "\t", "\n", "\r", "\v", "\f", "/", "\xa0", "\0", "\u2028", "", "-"])


@settings(max_examples=300)
@given(st.lists(st.tuples(BETWEEN, WORDS), max_size=4) | st.lists(st.tuples(st.text(max_size=9)), max_size=2))
def test_of_any_line_qemu_sees_the_name_that_was_judged(parts):
    line = "".join(map("".join, parts))
    try:
        judge_human(line)
    except CommandRefused as refused:
        assert "\n" not in str(refused)
        return
    # The name as QEMU finds it: behind what C calls space, up to space or a slash.
    assert re.match(r"[ \t\n\v\f\r]*([^ \t\n\v\f\r/]*)", line)[1] in {"info", "x", "help", "?", "c", "s", "q", "p"}


@settings(max_examples=100)
@given(st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=5), st.data())
def test_messages_are_found_however_they_are_cut(messages, data):
    ensure_ascii = data.draw(st.booleans())
    space = data.draw(st.sampled_from(["", " ", "\n", "\r\n\t"]))
    text = "".join(
        json.dumps(message, ensure_ascii=ensure_ascii, indent=data.draw(st.sampled_from([None, 1]))) + space
        for message in messages
    ).encode(errors="replace")
    reader = MessageReader()
    found = []
    while text:
        size = data.draw(st.integers(1, len(text)))
        reader.feed(text[:size])
        text = text[size:]
        while (message := reader.next()) is not None:
            found.append(message)
    assert len(found) == len(messages)
    if ensure_ascii:
        assert found == messages
    assert reader.taken == reader.end


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40) | st.sampled_from([b"{", b"}", b'"', b"\\", b"\n", b"[", b"{}"]), max_size=20))
def test_nonsense_is_read_in_bounded_steps_and_then_commands_are(chunks):
    reader = MessageReader()
    fed = sum(map(len, chunks))
    steps = 0

    def everything():
        nonlocal steps
        found = []
        while True:
            steps += 1
            assert steps <= 2 * fed + 50
            try:
                if (message := reader.next()) is None:
                    return found
                found.append(message)
            except NoMessage:
                pass

    for chunk in chunks:
        reader.feed(chunk)
        everything()
    # A string and brackets may be open: this ends them, or begins anew.
    reader.feed(b'"' + b"]}" * (fed + 1) + b'\n"\n' + b"]}" * (fed + 1) + b"\n")
    everything()
    reader.feed(b'{"execute": 1}')
    assert {"execute": 1} in everything()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=60), max_size=8), st.booleans())
def test_garbage_of_users_and_of_qemu_raises_nothing(chunks, from_user):
    loop = Loop()
    ours, theirs = socket.socketpair()
    mine, qemu = socket.socketpair()
    relay = QmpRelay(loop, Connected(ours), MonitorView())
    relay.start()
    qemu.sendall(json.dumps(GREETING).encode() + b"\n")
    relay.attach(mine)
    qemu.sendall(b'{"return": {}, "id": 1}\n')
    theirs.sendall(b'{"execute": "qmp_capabilities"}')
    loop.turn(0.01)
    for chunk in chunks:
        (theirs if from_user else qemu).sendall(chunk + b"\n")
        loop.turn(0.001)
        if not relay.attached:
            break
    loop.turn(0.001)
    assert theirs.recv(1 << 20).startswith(b'{"QMP"')
    relay.close()
    for end in (theirs, qemu):
        end.close()
    loop.close()


def human():
    return world(human=True)


def test_lines_for_people_are_judged_and_given_to_qemu():
    with human() as here:
        here.user.raw(b"info st\x7fatus\r\n")
        here.boot()
        assert "QEMU 7.2.22" in here.user.text(b"(qemu) info st\b \batus\r\n")
        command = here.qemu.line()
        assert command["execute"] == "human-monitor-command"
        assert command["arguments"] == {"command-line": "info satus"}
        here.answer(command, "VM status: running\r\n")
        assert here.user.text(b"(qemu) ") == "VM status: running\r\n(qemu) "
        here.user.raw("loadvm \u00e9\x7fx\n".encode())
        assert "sipl: loadvm: it puts memory" in here.user.text(b"(qemu) ")
        here.user.raw(b"gdb\x1b[1;5A\x1bOA\x1bxserver\n")
        assert "sipl: gdbserver" in here.user.text(b"(qemu) ")
        here.user.raw(b"loadvm\x15stop\n")
        assert here.qemu.line()["arguments"] == {"command-line": "stop"}


def test_a_line_that_qemu_did_not_answer_before_the_load():
    with human() as here:
        here.boot()
        here.user.text(b"(qemu) ")
        here.user.raw(b"info block\nstop\n")
        here.qemu.line()
        here.end()
        assert "loaded again" in here.user.text(b"(qemu) ")
        assert here.user.silent()
        here.boot()
        assert here.qemu.line()["arguments"] == {"command-line": "stop"}
        here.qemu.send(event("STOP"))
        assert here.user.text(b"stop\r\n") == "stop\r\n"
        assert here.user.silent(), "people see no events"


@settings(max_examples=100, deadline=None)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_whatever_is_typed_no_line_that_is_refused_arrives(chunks):
    with human() as here:
        here.boot()
        for chunk in chunks:
            here.user.raw(chunk + b"\n")
            here.loop.turn(0.001)
            here.qemu.take()
            for line in here.qemu.data.splitlines():
                command = json.loads(line)
                judge_human(command["arguments"]["command-line"])
                here.answer(command, "")
            here.qemu.data = b""
        here.user.take()
        assert here.user.data


# With the QEMU of this host.


class RealQemu:
    """A real QEMU without any machine code, its monitors on the ends that a relay has made."""

    def __init__(self, program, ends, *arguments):
        self.own, theirs = socket.socketpair()
        options = []
        for label, end in {**ends, "own": theirs}.items():
            options += ["-chardev", f"socket,id={label},fd={end.fileno()}", "-mon", f"chardev={label},mode=control"]
        self.process = subprocess.Popen(
            [
                program,
                "-S",
                "-nodefaults",
                "-display",
                "none",
                "-machine",
                "s390-ccw-virtio",
                "-m",
                "64",
                *options,
                *arguments,
            ],
            pass_fds=[end.fileno() for end in (*ends.values(), theirs)],
            stdin=subprocess.DEVNULL,
        )
        for end in (*ends.values(), theirs):
            end.close()

    def greeted(self, loop):
        peer = Peer(loop, self.own)
        assert "QMP" in peer.line(60)
        peer.send({"execute": "qmp_capabilities"})
        assert peer.line() == {"return": {}}
        return peer

    def end(self):
        self.process.kill()
        self.process.wait()
        self.own.close()


def test_real_qemus_one_after_the_other(need_tool, tmp_path):
    program = need_tool("qemu-system-s390x", "qemu-system-misc")
    loop = Loop()
    relays = Relays(loop)
    relays.add_qmp("mon", listen_unix(str(tmp_path / "qmp")))
    relays.add_human("hmp", listen_unix(str(tmp_path / "hmp")))
    relays.view.own.add("own")
    relays.start()
    users = {}
    for name in ("qmp", "hmp"):
        end = socket.socket(socket.AF_UNIX)
        end.connect(str(tmp_path / name))
        users[name] = Peer(loop, end)
    user, person = users["qmp"], users["hmp"]
    user.send({"execute": "qmp_capabilities", "id": "early"})

    for number in range(2):
        qemu = RealQemu(program, relays.renew())
        try:
            own = qemu.greeted(loop)
            relays.placed(started_by_engine=False)
            if not number:
                assert user.line()["QMP"]["capabilities"] == []
                assert user.line() == {"return": {}, "id": "early"}
                assert person.text(b"(qemu) ").startswith("Monitor of QEMU ")
            assert user.ask("query-status")["status"] == "prelaunch"
            chardevs = {device["label"]: device["filename"] for device in user.ask("query-chardev")}
            assert chardevs == {
                "mon": f"unix:{tmp_path / 'qmp'},server=on",
                "hmp": f"unix:{tmp_path / 'hmp'},server=on",
            }
            # Larger than every buffer between.
            assert len(user.ask("query-qmp-schema")) > 500
            assert user.ask("device_add", driver="virtio-rng-ccw", id="rng") == {}
            assert "sipl: device_add loader" in user.ask("device_add", driver="loader", id="x")["desc"]
            assert user.ask("device_add", driver="virtio-nonsense", id="x")["class"] == "GenericError"
            person.raw(b"info status\n")
            assert "paused" in person.text(b"(qemu) ")
            person.raw(b"help gdbserver\n")
            assert "gdbserver" in person.text(b"(qemu) ")
            person.raw(b"gdbserver\n")
            assert "sipl: gdbserver" in person.text(b"(qemu) ")
            if number:
                user.send({"execute": "system_reset", "id": 1})
                seen = [user.line(), user.line()]
                assert {"return": {}, "id": 1} in seen
                assert "RESET" in [message.get("event") for message in seen]
            own.send({"execute": "query-name", "id": "the engine's own"})
            while own.line().get("id") != "the engine's own":
                pass
        finally:
            qemu.end()
        relays.ended("guest-reset" if not number else "host-qmp-system-reset")
        if not number:
            assert user.line()["event"] == "RESET"
        gone = user.line()
        assert (gone["event"], gone["data"]["device"]) == ("DEVICE_DELETED", "rng")
    assert user.silent()
    assert person.silent()
    relays.finish()
    user.take()
    person.take()
    assert user.closed
    assert person.closed
    for peer in (user, person):
        peer.end.close()
    loop.close()


def test_a_real_qemu_that_is_told_to_quit_says_goodbye(need_tool, tmp_path):
    program = need_tool("qemu-system-s390x", "qemu-system-misc")
    loop = Loop()
    relays = Relays(loop)
    relays.add_qmp("mon", listen_unix(str(tmp_path / "qmp")))
    relays.start()
    end = socket.socket(socket.AF_UNIX)
    end.connect(str(tmp_path / "qmp"))
    user = Peer(loop, end)
    qemu = RealQemu(program, relays.renew())
    try:
        qemu.greeted(loop)
        relays.placed()
        user.line()
        user.send({"execute": "qmp_capabilities"}, {"execute": "quit"})
        assert user.line() == {"return": {}}
        # QEMU itself gives the event first.
        last = sorted([user.line(), user.line()], key=len)
        assert last[0] == {"return": {}}
        assert last[1]["data"] == {"guest": False, "reason": "host-qmp-quit"}
        qemu.process.wait(30)
    finally:
        qemu.end()
    relays.finish()
    end.close()
    loop.close()


def test_every_command_of_this_qemu_has_been_looked_at(need_tool):
    """A command without a reason of its own is refused as not known; those of the QEMU at hand are few."""
    program = need_tool("qemu-system-s390x", "qemu-system-misc")
    loop = Loop()
    qemu = RealQemu(program, {})
    try:
        names = [command["name"] for command in qemu.greeted(loop).ask("query-commands")]
    finally:
        qemu.end()
        loop.close()
    unknown = []
    for name in names:
        try:
            judge(name, {})
        except CommandRefused as refused:
            if "does not know" in str(refused) and refused.where == name:
                unknown.append(name)
    assert "query-status" in names
    known_to_be_for_others = ("x-", "xen-", "replay-", "query-")
    assert not [
        name
        for name in unknown
        if not name.startswith(known_to_be_for_others)
        and name not in {"qmp_capabilities", "set-numa-node", "rtc-reset-reinjection"}
    ], "look at these, and allow or refuse them"
