"""Records: what is packed is unpacked, and nothing is read that is not there."""

from __future__ import annotations

import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.errors import ShortRecord, SiplError
from sipl.layout.record import layout, pack, size_of, unpack


@layout(">BxH4xQ3s")
class Sample(NamedTuple):
    small: int
    half: int
    large: int
    text: bytes


samples = st.builds(
    Sample,
    st.integers(0, 0xFF),
    st.integers(0, 0xFFFF),
    st.integers(0, (1 << 64) - 1),
    st.binary(min_size=3, max_size=3),
)


@given(samples)
def test_round_trip(sample):
    data = pack(sample)
    assert len(data) == size_of(Sample) == 19
    assert unpack(Sample, data) == sample
    assert data[1:2] == bytes(1)
    assert data[4:8] == bytes(4)
    assert int.from_bytes(data[8:16], "big") == sample.large


@given(samples, st.binary(max_size=20), st.binary(max_size=20), st.sampled_from([bytes, bytearray, memoryview]))
def test_offset(sample, before, behind, kind):
    assert unpack(Sample, kind(before + pack(sample) + behind), len(before)) == sample


@given(st.binary(max_size=40), st.integers(-40, 60))
def test_nothing_outside_is_read(data, offset):
    """A negative offset is no offset from the end."""
    if 0 <= offset <= len(data) - 19:
        assert unpack(Sample, data, offset) == Sample(*struct.unpack_from(">BxH4xQ3s", data, offset))
        return
    with pytest.raises(ShortRecord) as error:
        unpack(Sample, data, offset)
    assert error.value.needed == 19
    assert 0 <= error.value.present <= len(data)


def test_short_record_is_an_error_of_the_package():
    with pytest.raises(SiplError) as error:
        unpack(Sample, bytes(7))
    assert isinstance(error.value, ValueError)
    assert str(error.value) == "Sample: 19 bytes are needed, 7 are there"


def test_values_that_do_not_fit_are_not_cut():
    with pytest.raises(struct.error):
        pack(Sample(256, 0, 0, b"abc"))
