"""The client of the GDB protocol against stubs that are made up here, well-behaved and other."""

from __future__ import annotations

import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.engine.qemu.gdb_remote import (
    MAX_PACKET,
    TAKEN,
    GdbEnded,
    GdbRemote,
    GdbTrouble,
    Registers,
    is_breakpoint,
    is_stop,
    packet,
    read_registers,
)

GENERAL = tuple(range(0x1000, 0x1010))
REGISTERS = b"".join(b"%016x" % value for value in (0x180000000, 0x16580, *GENERAL))


@pytest.fixture
def line():
    """The client, and the stub's end of the line."""
    ours, stub = socket.socketpair()
    remote = GdbRemote(ours)
    yield remote, stub
    remote.close()
    stub.close()


def soon(seconds=5.0):
    return time.monotonic() + seconds


class TestPackets:
    def test_form(self):
        assert packet(b"g") == b"$g#67"
        assert packet(b"") == b"$#00"
        assert packet(b"Z1,10,4") == b"$Z1,10,4#%02x" % (sum(b"Z1,10,4") % 256)

    def test_request(self, line):
        remote, stub = line
        stub.sendall(b"+" + packet(b"OK"))
        assert remote.ask(b"z1,10,4", soon()) == b"OK"
        assert stub.recv(100) == packet(b"z1,10,4") + TAKEN

    def test_packet_in_pieces(self, line):
        remote, stub = line
        for piece in (b"+$", b"T05thre", b"ad:01;", b"#0"):
            stub.sendall(piece)
        assert remote.receive() == TAKEN
        assert remote.receive() is None
        stub.sendall(b"7")
        assert remote.receive() == b"T05thread:01;"
        assert remote.receive() is None

    def test_wait_is_over_when_it_comes(self, line):
        remote, stub = line
        threading.Timer(0.1, lambda: stub.sendall(packet(b"OK"))).start()
        assert remote.wait(soon()) == b"OK"

    def test_demand_takes_nothing_but_ok(self, line):
        remote, stub = line
        for answer in (b"E22", b"", b"OK!"):
            stub.sendall(b"+" + packet(answer))
            with pytest.raises(GdbTrouble, match="refuses"):
                remote.demand(b"Z1,10,4", soon())

    def test_request_that_is_not_taken(self, line):
        remote, stub = line
        stub.sendall(packet(b"T02thread:01;"))
        with pytest.raises(GdbTrouble, match="does not take"):
            remote.ask(b"g", soon())

    def test_request_that_is_taken_twice(self, line):
        remote, stub = line
        stub.sendall(b"++")
        with pytest.raises(GdbTrouble, match="twice"):
            remote.ask(b"g", soon())

    def test_silence(self, line):
        remote, _ = line
        start = time.monotonic()
        with pytest.raises(GdbTrouble, match="does not answer"):
            remote.ask(b"g", soon(0.1))
        assert 0.09 < time.monotonic() - start < 2

    def test_stub_that_reads_nothing(self, line):
        remote, _ = line
        with pytest.raises(GdbTrouble, match="takes nothing"):
            remote.send(bytes(1 << 24), soon(0.1))

    def test_stub_that_is_gone(self, line):
        remote, stub = line
        stub.sendall(b"+")
        stub.close()
        assert remote.receive() == TAKEN
        with pytest.raises(GdbEnded):
            remote.receive()
        with pytest.raises(GdbEnded):
            remote.send(b"x", soon())


class TestBounds:
    def test_longest_packet(self, line):
        remote, stub = line
        text = b"0" * (MAX_PACKET - 2)
        stub.sendall(packet(text))
        assert remote.wait(soon()) == text

    def test_packet_that_is_too_long(self, line):
        remote, stub = line
        stub.sendall(packet(b"0" * (MAX_PACKET - 1)))
        with pytest.raises(GdbTrouble, match="without end"):
            remote.wait(soon())

    @pytest.mark.parametrize("sent", [b"$OK#00", b"$OK#zz", b"$OK#+9", b"$OK# 9"])
    def test_wrong_sum(self, line, sent):
        remote, stub = line
        stub.sendall(sent)
        with pytest.raises(GdbTrouble, match="wrong sum"):
            remote.wait(soon())

    @pytest.mark.parametrize("text", [b"0* ", b"}\x03", b"+"])
    def test_forms_that_were_not_asked_for(self, line, text):
        """A packet `+` would look like what was taken."""
        remote, stub = line
        stub.sendall(packet(text))
        with pytest.raises(GdbTrouble, match="form"):
            remote.wait(soon())

    @pytest.mark.parametrize("sent", [b"-", b"OK", b"\x03", b"#00", b"%Stop:T05#00"])
    def test_no_packet(self, line, sent):
        remote, stub = line
        stub.sendall(sent)
        with pytest.raises(GdbTrouble, match="no packet"):
            remote.wait(soon())

    @given(st.lists(st.binary(max_size=40) | st.binary(max_size=40).map(packet) | st.just(TAKEN), max_size=12))
    def test_whatever_comes(self, pieces):
        ours, stub = socket.socketpair()
        remote = GdbRemote(ours)
        stub.sendall(b"".join(pieces))
        stub.close()
        seen = []
        with pytest.raises(GdbTrouble):
            # None where what has come is not whole yet; the end of the line comes after that.
            for _ in range(len(pieces) * 40 + 2):
                said = remote.receive()
                seen += [said] if said is not None else []
        if all(piece == TAKEN or packet(piece[1:-3]) == piece for piece in pieces):
            # Up to the first that is not plain, all of them were understood.
            plain = [piece if piece == TAKEN else piece[1:-3] for piece in pieces]
            assert plain[: len(seen)] == seen
        remote.close()


class TestRegisters:
    def test_all_of_them(self):
        assert read_registers(REGISTERS) == Registers(0x180000000, 0x16580, GENERAL)

    def test_more_is_passed_over(self):
        assert read_registers(REGISTERS + b"xx") == Registers(0x180000000, 0x16580, GENERAL)

    @pytest.mark.parametrize(
        "answer", [b"", b"E01", REGISTERS[:-1], b"x" * len(REGISTERS), b"_" + REGISTERS[1:], b" " + REGISTERS[1:]]
    )
    def test_something_else(self, answer):
        with pytest.raises(GdbTrouble, match="registers"):
            read_registers(answer)

    @given(st.binary(max_size=400))
    def test_foreign_bytes(self, answer):
        try:
            found = read_registers(answer)
        except GdbTrouble:
            return
        assert all(0 <= value < 1 << 64 for value in (found.mask, found.address, *found.general))

    def test_asked_for(self, line):
        remote, stub = line
        stub.sendall(b"+" + packet(REGISTERS))
        assert remote.registers(soon()).address == 0x16580
        assert stub.recv(100) == packet(b"g") + TAKEN


@pytest.mark.parametrize(
    ("text", "stop", "breakpoint_"),
    [
        (b"T05thread:01;", True, True),
        (b"S05", True, True),
        (b"T02thread:01;", True, False),
        (b"T8fthread:01;", True, False),
        (b"T0", False, False),
        (b"Txx", False, False),
        (b"T+5", False, False),
        (b"W00", False, False),
        (b"OK", False, False),
        (b"", False, False),
    ],
)
def test_stops(text, stop, breakpoint_):
    assert (is_stop(text), is_breakpoint(text)) == (stop, breakpoint_)
