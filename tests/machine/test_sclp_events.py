"""SCLP event facility: masks, both consoles, the service signal; blocks are built and read by this file's own code."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.machine.cpu import Cpu
from sipl.machine.cpu_model import parse_cpu
from sipl.machine.memory import GuestMemory
from sipl.machine.sclp import ScpInfo, service_call
from sipl.machine.sclp_events import INPUT_LIMIT, LINE_LIMIT, Consoles, EventFacility

READ_CPUS, WRITE_DATA, READ_DATA, WRITE_MASK, READ_SCP = 0x00010001, 0x00760005, 0x00770005, 0x00780005, 0x00020001
OPCMD, MSG, STATE, PRIORITY, CPI, VT220, QUIESCE = 0x01, 0x02, 0x08, 0x09, 0x0B, 0x1A, 0x1D
AT = 0x20000
BOTH = Consoles.VT220 | Consoles.LINE


def bits(*events, length=4):
    """A mask: event type 1 is its leftmost bit."""
    return sum(1 << (8 * length - event) for event in events).to_bytes(length, "big")


class Operator:
    """An event facility behind the service call, what it wrote, and how often it signalled."""

    def __init__(self, consoles=Consoles.VT220, cpus=1, cpu="qemu"):
        self.written = []
        self.signals = 0
        self.memory = GuestMemory(1 << 20)
        self.cpu = Cpu(self.memory)
        self.info = ScpInfo(1 << 20, cpus, b"\x40" * 8, parse_cpu(cpu))
        self.events = EventFacility(self.written.append, consoles, self.signal)

    def signal(self):
        self.signals += 1

    @property
    def output(self):
        return b"".join(self.written)

    def call(self, command, block, at=AT):
        """The service call; returns the response code and the block afterwards."""
        self.memory.write(at, bytes(block))
        service_call(self.cpu, self.info, command, at, self.events)
        after = self.memory.read(at, len(block))
        return struct.unpack_from(">H", after, 6)[0], after

    def masks(self, receive, send=b"\0\0\0\0", length=None, block=4096):
        length = length or len(receive)
        data = struct.pack(">H6xHH", block, 0, length) + receive.ljust(length, b"\0") + send.ljust(length, b"\0")
        code, after = self.call(WRITE_MASK, data.ljust(block, b"\0"))
        return code, after[12 + 2 * length : 12 + 3 * length], after[12 + 3 * length : 12 + 4 * length]

    def write(self, *events, function=0):
        body = b"".join(events)
        return self.call(WRITE_DATA, struct.pack(">HB5x", 8 + len(body), function) + body)

    def read(self, function=0, mask=b"", variable=True):
        """Response code and the events: type and payload."""
        block = struct.pack(">HB2xB2x", 4096, function, 0x80 if variable else 0) + mask
        code, after = self.call(READ_DATA, block.ljust(4096, b"\xee"))
        length = struct.unpack_from(">H", after)[0]
        assert after[5] == 0
        events, offset = [], 8
        while offset + 6 <= length:
            size, event = struct.unpack_from(">HB", after, offset)
            if not size:
                break
            events.append((event, after[offset + 6 : offset + size]))
            offset += size
        assert not any(after[offset:]), "nothing of the guest's block is left behind the events"
        if variable:
            assert offset == length
        else:
            assert length == 4096
        return code, events


def event(kind, payload=b""):
    return struct.pack(">HBBH", 6 + len(payload), kind, 0, 0) + payload


def text_object(text, line_type=0x1000):
    return struct.pack(">HHHB3x", 10 + len(text), 4, line_type, 0) + text


GENERAL = struct.pack(">HH", 56, 1) + bytes(52)


def message(*objects):
    body = b"".join(objects)
    return struct.pack(">HHII", 12 + len(body), 1, 0xD4C4C240, 1) + body


def command_text(payload):
    """The text of an operator command, found the way a guest looks for it: vector in vector, by identifier and key."""
    for identifier in (0x1310, 0x1212, 0x1320):
        length, found = struct.unpack_from(">HH", payload)
        assert (length, found) == (len(payload), identifier)
        payload = payload[4:]
    for wanted in (0x31, 0x30):
        length, key = struct.unpack_from(">BB", payload)
        assert (length, key) == (len(payload), wanted)
        payload = payload[2:]
    return payload.decode("cp500")


# WRITE EVENT MASK


@pytest.mark.parametrize(
    ("consoles", "receives", "sends"),
    [
        (Consoles.NONE, [CPI], [STATE, QUIESCE]),
        (Consoles.VT220, [CPI, VT220], [STATE, QUIESCE, VT220]),
        (Consoles.LINE, [CPI, MSG, PRIORITY], [STATE, QUIESCE, OPCMD, PRIORITY]),
        (BOTH, [CPI, VT220, MSG, PRIORITY], [STATE, QUIESCE, VT220, OPCMD, PRIORITY]),
    ],
)
@pytest.mark.parametrize("length", [4, 8, 13, 1021])
def test_the_sclp_tells_its_masks(consoles, receives, sends, length):
    operator = Operator(consoles)
    expected = (0x0020, bits(*receives, length=length), bits(*sends, length=length))
    assert operator.masks(bits(VT220, length=length), length=length) == expected


def test_a_mask_of_one_byte_is_cut():
    assert Operator(Consoles.LINE).masks(b"\xff", length=1, block=16) == (0x0020, b"\x40", b"\x81")


@pytest.mark.parametrize("length", [0, 1022, 0xFFFF])
def test_a_mask_of_an_impossible_length(length):
    operator = Operator()
    block = struct.pack(">H6xHH", 4096, 0, length).ljust(4096, b"\xff")
    code, after = operator.call(WRITE_MASK, block)
    assert code == 0x74F0
    assert after[8:] == block[8:]


@pytest.mark.parametrize("short", [8, 11, 12, 27])
def test_a_block_too_short_for_its_masks(short):
    operator = Operator()
    block = struct.pack(">H6xHH", short, 0, 4).ljust(28, b"\xff")[:short]
    assert operator.call(WRITE_MASK, block)[0] == 0x0300
    assert operator.read() == (0x60F0, [])
    assert operator.events.feed(b"x") == 1
    assert operator.read() == (0x60F0, [])  # the mask was not taken


def test_the_block_of_real_firmware_is_28_bytes_long():
    assert Operator().masks(bits(), bits(VT220), block=28)[0] == 0x0020


# VT220


def test_bytes_go_to_the_console_as_they_are():
    operator = Operator()
    code, after = operator.write(event(VT220, b"\x1b[1mhi\r\n\x00\xff"))
    assert code == 0x0020
    assert operator.output == b"\x1b[1mhi\r\n\x00\xff"
    assert after[11] == 0x80


def test_several_events_in_one_block():
    operator = Operator(BOTH)
    code, after = operator.write(
        event(VT220, b"a"), event(MSG, message(text_object("B".encode("cp500")))), event(VT220)
    )
    assert code == 0x0020
    assert operator.written == [b"a", b"B\r\n"]
    assert [after[at] for at in (11, 11 + 7, 11 + 7 + 6 + 23)] == [0x80] * 3


def test_a_block_without_events():
    assert Operator().write()[0] == 0x0020


def test_after_an_error_the_rest_is_not_accepted():
    operator = Operator()
    flagged = bytearray(event(VT220, b"b"))
    flagged[3] = 0x80
    code, after = operator.write(event(VT220, b"a"), event(0x55), bytes(flagged))
    assert code == 0x40F0
    assert operator.output == b"a"
    assert [after[11], after[18], after[24]] == [0x80, 0, 0]


@pytest.mark.parametrize("kind", [0, OPCMD, 0x04, STATE, QUIESCE, 0x40, 0x41, 0xFF])
def test_an_event_that_nobody_takes(kind):
    assert Operator(BOTH).write(event(kind, b"abc"))[0] == 0x40F0


@pytest.mark.parametrize(("offered", "kind"), [(Consoles.LINE, VT220), (Consoles.VT220, MSG), (Consoles.NONE, VT220)])
def test_a_console_that_is_not_there(offered, kind):
    operator = Operator(offered)
    assert operator.write(event(kind, message(text_object(b"\xc1"))))[0] == 0x40F0
    assert not operator.written


@pytest.mark.parametrize("function", [1, 0x80, 0xFF])
def test_write_has_one_function(function):
    operator = Operator()
    assert operator.write(event(VT220, b"a"), function=function)[0] == 0x40F0
    assert not operator.written


@pytest.mark.parametrize(
    "body", [b"\0", b"\0" * 5, b"\0\5" + bytes(4), b"\0\7" + bytes(4), b"\xff\xff" + bytes(9), b"\0\0" + bytes(9)]
)
def test_lengths_of_events_are_checked_before_anything_is_shown(body):
    operator = Operator()
    assert operator.write(event(VT220, b"shown?"), body)[0] == 0x73F0
    assert not operator.written


# Line mode, to the operator


@pytest.mark.parametrize("kind", [MSG, PRIORITY])
def test_lines_of_a_message(kind):
    operator = Operator(Consoles.LINE)
    lines = ["Linux version 7.2.13", "", "[    0.012345] {a|b}!^~", "\u00e4\u00f6\u00fc"]
    objects = [text_object(line.encode("cp500")) for line in lines]
    assert operator.write(event(kind, message(GENERAL, *objects)))[0] == 0x0020
    assert operator.written == ["".join(line + "\r\n" for line in lines).encode()]


@pytest.mark.parametrize("line_type", [0x8000, 0x4000, 0x2000, 0x1000, 0x0800, 0])
def test_every_kind_of_line_is_a_line(line_type):
    operator = Operator(Consoles.LINE)
    operator.write(event(MSG, message(text_object(b"\xc1", line_type), text_object(b"\xc2", line_type))))
    assert operator.output == b"A\r\nB\r\n"


def test_new_lines_within_a_line():
    operator = Operator(Consoles.LINE)
    operator.write(event(MSG, message(text_object(b"\xc1\x15\xc2\x25\xc3"))))
    assert operator.output == b"A\r\nB\r\nC\r\n"


def test_any_byte_can_be_shown():
    operator = Operator(Consoles.LINE)
    assert operator.write(event(MSG, message(text_object(bytes(range(256))))))[0] == 0x0020
    assert len(operator.output.decode("utf-8").replace("\r\n", "\n")) == 257


def test_a_message_without_text():
    operator = Operator(Consoles.LINE)
    assert operator.write(event(MSG, message()), event(MSG, message(GENERAL)))[0] == 0x0020
    assert not operator.written


def test_what_follows_the_message_in_its_event_is_not_looked_at():
    operator = Operator(Consoles.LINE)
    assert operator.write(event(MSG, message(text_object(b"\xc1")) + b"\xff" * 7))[0] == 0x0020
    assert operator.output == b"A\r\n"


TEXT = text_object(b"\xc1\xc2\xc3")


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        bytes(11),
        struct.pack(">HHII", 11, 1, 0, 1),
        struct.pack(">HHII", 13, 1, 0, 1),
        struct.pack(">HHII", 13, 1, 0, 1) + b"x",
        struct.pack(">HHII", 12 + 3, 1, 0, 1) + bytes(3),
        message(struct.pack(">HH", 0, 1)),
        message(struct.pack(">HH", 3, 1)),
        message(struct.pack(">HH", 5, 1)),
        message(struct.pack(">HH", 9, 4) + bytes(5)),
        message(TEXT, struct.pack(">HH", 14, 4) + bytes(9)),
        message(TEXT)[:-1],
    ],
)
def test_lengths_of_a_message_are_checked_before_anything_is_shown(payload):
    operator = Operator(Consoles.LINE)
    code, after = operator.write(event(MSG, payload))
    assert code == 0x72F0
    assert not operator.written
    assert after[11] == 0


# READ EVENT DATA


def test_there_is_nothing_to_read():
    operator = Operator()
    assert operator.read() == (0x60F0, [])
    operator.masks(bits(VT220))
    assert operator.read() == (0x60F0, [])
    operator.events.feed(b"abc")
    assert operator.read() == (0x0020, [(VT220, b"\0abc")])
    assert operator.read() == (0x60F0, [])


@pytest.mark.parametrize("length", [8, 28, 4095])
def test_a_read_needs_the_whole_page(length):
    operator = Operator()
    operator.masks(bits(VT220))
    operator.events.feed(b"abc")
    assert operator.call(READ_DATA, struct.pack(">H", length).ljust(length, b"\0"))[0] == 0x0300
    assert operator.read() == (0x0020, [(VT220, b"\0abc")])


def test_the_length_is_changed_only_if_the_guest_allows_it():
    operator = Operator()
    operator.masks(bits(VT220))
    operator.events.feed(b"abc")
    assert operator.read(variable=False) == (0x0020, [(VT220, b"\0abc")])


@pytest.mark.parametrize("function", [2, 0x80])
def test_read_has_two_functions(function):
    operator = Operator()
    assert operator.call(READ_DATA, struct.pack(">HB", 4096, function).ljust(4096, b"\0"))[0] == 0x40F0


@pytest.mark.parametrize("length", [4, 8, 16])
def test_a_selective_read(length):
    operator = Operator(Consoles.VT220)
    operator.masks(bits(VT220, QUIESCE, length=length))
    operator.events.feed(b"abc")
    assert operator.events.quiesce()
    assert operator.read(1, bits(QUIESCE, length=length)) == (0x0020, [(QUIESCE, b"\0\0\0")])
    assert operator.read(1, bits(QUIESCE, length=length)) == (0x60F0, [])
    assert operator.read(1, bits(VT220, length=length)) == (0x0020, [(VT220, b"\0abc")])


def test_a_selective_read_of_what_is_not_received():
    operator = Operator()
    block = struct.pack(">HB5x", 4096, 1) + bits(VT220)
    assert operator.call(READ_DATA, block.ljust(4096, b"\0"))[0] == 0x70F0
    operator.masks(bits(VT220))
    block = struct.pack(">HB5x", 4096, 1) + bits(VT220, QUIESCE)
    assert operator.call(READ_DATA, block.ljust(4096, b"\0"))[0] == 0x70F0


def test_more_input_than_a_block_holds():
    operator = Operator()
    operator.masks(bits(VT220))
    typed = bytes(range(256)) * 40
    assert operator.events.feed(typed) == len(typed)
    operator.events.take_service_signal()
    got = b""
    while (read := operator.read())[0] == 0x0020:
        ((kind, payload),) = read[1]
        assert kind == VT220
        assert payload[:1] == b"\0"
        got += payload[1:]
        more = operator.events.take_service_signal() & 1
        assert more == (got != typed)
    assert got == typed


def test_input_is_bounded():
    operator = Operator()
    assert operator.events.feed(b"x" * INPUT_LIMIT + b"yz") == INPUT_LIMIT
    assert operator.events.feed(b"yz") == 0
    assert operator.events.input_waiting == INPUT_LIMIT
    operator.masks(bits(VT220))
    operator.read()
    assert operator.events.feed(b"yz") == 2


# Line mode, from the operator


def test_a_line_is_an_operator_command():
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD, PRIORITY))
    operator.events.feed(b"root")
    assert operator.read() == (0x60F0, [])
    operator.events.feed(b"\r")
    code, ((kind, payload),) = operator.read()
    assert (code, kind, command_text(payload)) == (0x0020, OPCMD, "root")
    assert operator.read() == (0x60F0, [])


def test_a_guest_that_takes_priority_commands_only():
    operator = Operator(Consoles.LINE)
    operator.masks(bits(PRIORITY))
    operator.events.feed(b"x\n")
    _, ((kind, payload),) = operator.read()
    assert (kind, command_text(payload)) == (PRIORITY, "x")


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"a\nb\nc"], ["a", "b"]),
        ([b"a\r\nb\r\n"], ["a", "b"]),
        ([b"a\r", b"\nb\n"], ["a", "b"]),
        ([b"\n", b"\r\r"], ["", "", ""]),
        ([b"a\n\r\n"], ["a", ""]),
        (["{ä|ö}[]!\n".encode()], ["{ä|ö}[]!"]),
        (["日\n".encode(), b"\xff\n"], ["?", "?"]),
    ],
)
def test_where_lines_end(pieces, lines):
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD))
    got = []
    for piece in pieces:
        operator.events.feed(piece)
        got += [command_text(payload) for _, payload in operator.read()[1]]
    assert got == lines


@pytest.mark.parametrize(
    ("typed", "kept"), [(LINE_LIMIT, LINE_LIMIT), (LINE_LIMIT + 1, LINE_LIMIT), (5000, LINE_LIMIT)]
)
def test_a_long_line_is_cut(typed, kept):
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD))
    operator.events.feed(b"x" * typed + b"\nnext\n")
    assert [command_text(payload) for _, payload in operator.read()[1]] == ["x" * kept, "next"]


def test_input_without_an_end_does_not_block_for_ever():
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD))
    operator.events.feed(b"x" * INPUT_LIMIT)
    assert [command_text(payload) for _, payload in operator.read()[1]] == ["x" * LINE_LIMIT]
    assert operator.events.input_waiting == 0


def test_more_lines_than_a_block_holds():
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD))
    lines = [str(number) * 9 for number in range(300)]
    operator.events.feed("\n".join(lines).encode() + b"\n")
    got = []
    while (read := operator.read())[0] == 0x0020:
        got += [command_text(payload) for _, payload in read[1]]
    assert got == lines


def test_the_vt220_has_the_input_if_the_guest_listens_there():
    operator = Operator(BOTH)
    operator.masks(bits(OPCMD, VT220))
    operator.events.feed(b"a\n")
    assert operator.read() == (0x0020, [(VT220, b"\0a\n")])
    operator.masks(bits(OPCMD))
    operator.events.feed(b"a\n")
    assert [kind for kind, _ in operator.read()[1]] == [OPCMD]


# Other events


def test_quiesce():
    operator = Operator()
    assert not operator.events.quiesce()
    operator.masks(bits(QUIESCE))
    assert operator.events.quiesce()
    assert operator.events.quiesce()
    assert operator.read() == (0x0020, [(QUIESCE, b"\0\0\0")])


@pytest.mark.parametrize("length", [4, 8])
def test_a_state_change(length):
    operator = Operator(Consoles.VT220)
    operator.masks(bits(STATE, VT220, length=length))
    operator.events.offer(Consoles.VT220)
    assert operator.read() == (0x60F0, [])
    operator.events.offer(Consoles.LINE)
    assert operator.events.consoles == Consoles.LINE
    code, ((kind, payload),) = operator.read()
    assert (code, kind) == (0x0020, STATE)
    masks = bits(CPI, MSG, PRIORITY, length=length) + bits(STATE, QUIESCE, OPCMD, PRIORITY, length=length)
    assert payload == struct.pack(">HHQ", 0x6000, length, 0) + masks + bytes(4)


def test_the_latest_state_is_told_once():
    operator = Operator(Consoles.VT220)
    operator.masks(bits(STATE))
    operator.events.offer(Consoles.LINE)
    operator.events.offer(BOTH)
    _, ((_, payload),) = operator.read()
    assert payload[12:16] == bits(CPI, VT220, MSG, PRIORITY)
    operator.events.offer(Consoles.LINE)
    assert operator.masks(bits(STATE))[1] == bits(CPI, MSG, PRIORITY)
    assert operator.read() == (0x60F0, [])


def test_the_guest_introduces_itself():
    operator = Operator()
    names = ["LINUX   ", "guest   ", "plex    "]
    fields = [name.encode("cp500") for name in names]
    payload = struct.pack(">Bx8s8x8s8xQ8x8s16x", 0, fields[0], fields[1], 0x0702_0D00, fields[2])
    assert len(payload) == 74
    assert operator.write(event(CPI, payload[:-1]))[0] == 0x73F0
    assert operator.events.control_program is None
    assert operator.write(event(CPI, payload))[0] == 0x0020
    assert operator.events.control_program == (0, fields[0], fields[1], 0x0702_0D00, fields[2])


# The service-signal interruption


def test_a_completed_command_is_signalled_once():
    operator = Operator()
    assert operator.events.pending_parameter is None
    operator.write(event(VT220, b"a"))
    assert operator.signals == 1
    assert operator.events.pending_parameter == AT
    assert operator.events.take_service_signal() == AT
    assert operator.events.take_service_signal() is None


def test_one_interruption_is_pending_at_most():
    operator = Operator()
    operator.call(WRITE_DATA, struct.pack(">H6x", 8), at=0x3000)
    operator.call(0x12345678, struct.pack(">H6x", 8), at=0x4000)
    assert operator.events.take_service_signal() == 0x4000
    assert operator.events.take_service_signal() is None


def test_input_is_signalled_to_who_listens():
    operator = Operator()
    operator.events.feed(b"a")
    assert (operator.signals, operator.events.take_service_signal()) == (0, None)
    operator.masks(bits(VT220))
    assert operator.events.take_service_signal() == AT | 1
    assert operator.events.take_service_signal() is None, "said once"
    signals = operator.signals
    operator.events.feed(b"b")
    assert operator.signals == signals + 1
    assert operator.events.take_service_signal() == 1
    assert operator.read() == (0x0020, [(VT220, b"\0ab")])
    assert operator.events.take_service_signal() == AT


def test_what_was_read_meanwhile_is_not_signalled():
    operator = Operator()
    operator.masks(bits(VT220))
    operator.events.take_service_signal()
    operator.events.feed(b"a")
    operator.read()
    operator.events.take_service_signal()
    assert operator.events.pending_parameter is None


def test_half_a_line_is_not_signalled():
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD))
    operator.events.take_service_signal()
    operator.events.feed(b"half")
    assert operator.events.pending_parameter is None
    operator.events.feed(b"\n")
    assert operator.events.take_service_signal() == 1


def test_reset():
    operator = Operator()
    operator.masks(bits(VT220, QUIESCE, length=8))
    operator.events.feed(b"abc")
    operator.events.quiesce()
    operator.events.reset()
    assert operator.events.pending_parameter is None
    assert operator.events.input_waiting == 0
    assert not operator.events.quiesce()
    operator.masks(bits(VT220, QUIESCE))
    assert operator.read() == (0x60F0, [])


# The service call around it


@pytest.mark.parametrize("command", [WRITE_DATA, READ_DATA, WRITE_MASK])
def test_an_event_block_does_not_cross_a_page(command):
    operator = Operator()
    block = struct.pack(">H", 4096).ljust(4096, b"\x55")
    code, after = operator.call(command, block, at=AT + 8)
    assert code == 0x0100
    assert after[8:] == block[8:]


def test_another_command():
    operator = Operator()
    assert operator.call(0x00040001, struct.pack(">H", 4096).ljust(4096, b"\0"), at=AT + 8)[0] == 0x01F0
    assert operator.events.take_service_signal() == AT + 8


@pytest.mark.parametrize("cpus", [1, 3])
def test_read_cpu_info(cpus):
    operator = Operator(cpus=cpus)
    code, after = operator.call(READ_CPUS, struct.pack(">H", 4096).ljust(4096, b"\xff"))
    assert code == 0x0010
    end = 24 + 16 * cpus
    assert struct.unpack_from(">HHHH", after, 8) == (cpus, 24, 0, end)
    assert after[16:end] == bytes(8) + b"".join(bytes([number]) + bytes(15) for number in range(cpus))
    assert after[end:] == b"\xff" * (4096 - end)


def test_read_cpu_info_needs_room_for_every_cpu():
    operator = Operator(cpus=2)
    assert operator.call(READ_CPUS, struct.pack(">H", 55).ljust(55, b"\0"))[0] == 0x0300
    assert operator.call(READ_CPUS, struct.pack(">H", 56).ljust(56, b"\0"))[0] == 0x0010


@pytest.mark.parametrize(("cpu", "expected"), [("qemu", 0x0010), ("z16", 0x0100)])
def test_read_cpu_info_across_a_page_needs_extended_length(cpu, expected):
    operator = Operator(cpu=cpu)
    assert operator.call(READ_CPUS, struct.pack(">H", 8192).ljust(8192, b"\0"))[0] == expected


def test_read_scp_info_says_that_there_is_cpu_info():
    operator = Operator(cpus=3)
    code, after = operator.call(READ_SCP, struct.pack(">H", 4096).ljust(4096, b"\0"))
    assert code == 0x0010
    assert struct.unpack_from(">Q", after, 48) == (0x0800_0000_0000_0000,)
    assert struct.unpack_from(">H", after, 120) == (2,)
    assert (after[134], struct.unpack_from(">H", after, 136)[0]) == (0x04, 0x5000)
    assert operator.call(READ_SCP, struct.pack(">H", 64).ljust(64, b"\0"))[1][48:56] == bytes(8)


# Whatever a guest says

KNOWN = {0x0010, 0x0020, 0x0100, 0x01F0, 0x0300, 0x40F0, 0x60F0, 0x70F0, 0x72F0, 0x73F0, 0x74F0}
payloads = st.one_of(
    st.binary(max_size=64),
    st.lists(st.binary(max_size=20).map(text_object), max_size=4).map(lambda objects: message(*objects)),
)
blocks = st.one_of(
    st.binary(max_size=128),
    st.lists(st.tuples(st.sampled_from([MSG, PRIORITY, VT220, CPI, 0x33]), payloads), max_size=4).map(
        lambda events: b"".join(event(*one) for one in events)
    ),
    st.binary(max_size=40).map(lambda masks: struct.pack(">HH", 0, len(masks) // 4) + masks),
)
commands = st.sampled_from([WRITE_DATA, READ_DATA, WRITE_MASK, READ_CPUS, READ_SCP, 5])


@given(st.lists(st.tuples(commands, st.integers(0, 255), blocks, st.booleans(), st.binary(max_size=9)), max_size=6))
def test_any_guest_gets_a_known_answer(calls):
    operator = Operator(BOTH)
    for command, function, body, page, typed in calls:
        length = 4096 if page else 8 + len(body)
        block = (struct.pack(">HB2xB2x", length, function & 1, function) + body).ljust(length, b"\0")
        shown = len(operator.output)
        code, after = operator.call(command, block)
        assert code in KNOWN
        assert struct.unpack_from(">H", after)[0] <= length
        assert len(operator.output) - shown <= 3 * length
        assert operator.events.take_service_signal() & ~1 == AT
        operator.events.feed(typed)


@given(st.lists(st.binary(max_size=50), max_size=8))
def test_what_is_typed_arrives(pieces):
    operator = Operator()
    operator.masks(bits(VT220))
    got = b""
    for piece in pieces:
        operator.events.feed(piece)
        got += b"".join(payload[1:] for _, payload in operator.read()[1])
    assert got == b"".join(pieces)


@given(st.text(alphabet=[chr(code) for code in range(0x20, 0x7F)], max_size=200))
def test_a_line_looks_the_same_both_ways(text):
    operator = Operator(Consoles.LINE)
    operator.masks(bits(OPCMD))
    operator.events.feed(text.encode() + b"\n")
    (payload,) = [payload for _, payload in operator.read()[1]]
    assert command_text(payload) == text
    operator.write(event(MSG, message(text_object(command_text(payload).encode("cp500")))))
    assert operator.output == text.encode() + b"\r\n"
