from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.machine.interruption import ProgramCode, ProgramInterruption

AT = 0x3000


def call(guest, length, command, *words):
    guest.memory.write(AT, struct.pack(">HH", length, command) + b"".join(w.to_bytes(4, "big") for w in words))
    assert guest.css.chsc(AT) == 0
    size, code, word = struct.unpack(">HHI", guest.memory.read(AT + length, 8))
    return code, word, guest.memory.read(AT + length + 8, size - 8)


def test_characteristics(guest):
    code, _, data = call(guest, 16, 0x0010)
    assert code == 1
    assert len(data) == 4072
    assert int.from_bytes(data, "big") == 1 << (4072 * 8 - 1 - 46)  # nothing but bit 46, channel-path common bit


@pytest.mark.parametrize(
    ("length", "word", "expected"),
    [(24, 0, 3), (16, 0x00010000, 7), (16, 0x20000000, 8), (16, 0x00000100, 8), (16, 1, 3), (16, 0x80000000, 3)],
)
def test_characteristics_that_are_not_there(guest, length, word, expected):
    assert call(guest, length, 0x0010, word) == (expected, 0, b"")


def test_channel_path_description(guest):
    assert call(guest, 16, 0x0002) == (1, 0, bytes.fromhex("80003200 00000000"))
    description = bytes.fromhex("80003200").ljust(32, b"\0")
    assert call(guest, 16, 0x0002, 0x10000100, 0x000000FF) == (1, 1, description)
    assert call(guest, 16, 0x0002, 0x00000001, 0x00000001) == (1, 0, b"")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((0x80000000, 0), 3),
        ((0, 0x100), 3),
        ((0, 0, 1), 3),
        ((5, 4), 3),
        ((0x01000000, 0), 7),
        ((0x00000200, 0), 7),
        ((0x20000000, 0), 8),
        ((0x00010000, 0), 8),
    ],
)
def test_channel_path_descriptions_that_are_not_there(guest, words, expected):
    assert call(guest, 16, 0x0002, *words) == (expected, 0, b"")


def test_set_domain_attribute(guest):
    assert call(guest, 0x400, 0x0031, 2) == (1, 0, b"")
    assert call(guest, 0x400, 0x0031, 0) == (0x0101, 0, b"")
    assert call(guest, 0x400, 0x0031, 1) == (3, 0, b"")
    assert call(guest, 0x400, 0x0031, 0x01000002) == (7, 0, b"")
    assert call(guest, 0x10, 0x0031, 2) == (3, 0, b"")


def test_only_the_domain_attribute_opens_the_other_sets(guest):
    for length, command, word in ((16, 0x0010, 0), (0x400, 0x0031, 0), (16, 0x0002, 0), (16, 0x000E, 0)):
        call(guest, length, command, word)
        with pytest.raises(ProgramInterruption):
            guest.css.stsch(0x00030000)
    call(guest, 0x400, 0x0031, 2)
    assert guest.css.stsch(0x00030000)[0] == 3


def test_no_event_and_no_other_command(guest):
    assert call(guest, 16, 0x000E) == (5, 0, b"")
    for command in (0x0004, 0x0022, 0x0034, 0xFFFF):
        assert call(guest, 32, command) == (4, 0, b"")


@pytest.mark.parametrize(
    ("address", "code"),
    [
        (AT + 8, ProgramCode.SPECIFICATION),
        (1 << 20, ProgramCode.ADDRESSING),
        (AT, ProgramCode.OPERAND),  # length 0
    ],
)
def test_program_interruptions(guest, address, code):
    with pytest.raises(ProgramInterruption) as caught:
        guest.css.chsc(address)
    assert caught.value.code is code


@pytest.mark.parametrize("length", [0, 8, 15, 17, 20, 4089, 4096, 0xFFF8])
def test_lengths_that_no_request_has(guest, length):
    guest.memory.write(AT, length.to_bytes(2, "big"))
    with pytest.raises(ProgramInterruption) as caught:
        guest.css.chsc(AT)
    assert caught.value.code is ProgramCode.OPERAND


@given(
    st.integers(2, 511).map(lambda n: 8 * n),
    st.sampled_from([0x0002, 0x0010, 0x0031, 0x000E, 0x0004]),
    st.lists(st.integers(0, (1 << 32) - 1), min_size=3, max_size=3),
)
@settings(max_examples=200)
def test_a_response_stays_in_its_block_behind_the_request(new_guest, length, command, words):
    guest = new_guest()
    guest.memory.write(AT, b"\xaa" * 4096)
    guest.memory.write(AT + 4096, b"\xbb" * 64)
    request = struct.pack(">HHIII", length, command, *words)
    guest.memory.write(AT, request)
    assert guest.css.chsc(AT) == 0
    assert guest.memory.read(AT, 16) == request
    assert guest.memory.read(AT + 16, length - 16) == b"\xaa" * (length - 16)
    size, code = struct.unpack(">HH", guest.memory.read(AT + length, 4))
    assert 8 <= size <= 4096 - length
    assert code in {1, 3, 4, 5, 7, 8, 0x0101}
    assert guest.memory.read(AT + length + size, 4096 - length - size) == b"\xaa" * (4096 - length - size)
    assert guest.memory.read(AT + 4096, 64) == b"\xbb" * 64
