"""SCLABs as the author builds them: every field at its offset, the locator flush with the component's end."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.author import sclab
from sipl.errors import UsageError


@pytest.mark.parametrize("length", [32, 40, 64])
def test_fields_lie_where_the_format_says(length):
    block = sclab.build(0xC000, 0x000800008000A000, 0xA000, length)
    assert len(block) == length
    assert block[0] == 0
    assert struct.unpack_from(">H", block, 2) == (0xC000,)
    assert struct.unpack_from(">QQ", block, 8) == (0x000800008000A000, 0xA000)
    assert block[24 : length - 6] == bytes(length - 30)
    assert struct.unpack(">H4s", block[-6:]) == (length, b"zIPL")


def test_default_has_no_attributes():
    assert sclab.build() == bytes(26) + b"\x00\x20zIPL"


def test_wrong_fields_can_be_had():
    block = sclab.build(stated_length=31, sclab_format=1, magic=b"ZIPL")
    assert block[0] == 1
    assert block[-6:] == b"\x00\x1fZIPL"


@pytest.mark.parametrize(
    "wrong",
    [
        {"length": 31},
        {"flags": 0x10000},
        {"flags": -1},
        {"psw": 1 << 64},
        {"address": -1},
        {"stated_length": 0x10000},
        {"sclab_format": 256},
        {"magic": b"zIP"},
        {"length": 0x10000},
    ],
)
def test_what_fits_into_no_field_is_refused(wrong):
    with pytest.raises(UsageError):
        sclab.build(**wrong)


@given(st.binary(max_size=3000), st.sampled_from([512, 1024, 4096]), st.sampled_from([32, 40, 512]))
def test_component_is_whole_blocks_and_ends_with_the_sclab(payload, block_size, length):
    block = sclab.build(0x8000, 1, 2, length)
    component = sclab.append(payload, block, block_size)
    assert len(component) % block_size == 0
    assert len(component) - len(payload) - length < block_size
    assert component.startswith(payload)
    assert component.endswith(block)
    assert not any(component[len(payload) : -length])


def test_overwrite_keeps_the_length():
    assert sclab.overwrite(b"\x11" * 40, sclab.build()) == b"\x11" * 8 + sclab.build()
    with pytest.raises(UsageError, match="31 bytes cannot hold 32"):
        sclab.overwrite(bytes(31), sclab.build())
    with pytest.raises(UsageError):
        sclab.append(b"", sclab.build(), 0)
