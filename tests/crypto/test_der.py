"""The DER cursor: what it accepts is what DER allows, and an error says where."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.crypto.der import (
    INTEGER,
    MAX_OID_SIZE,
    OCTET_STRING,
    SEQUENCE,
    Cursor,
    DerError,
    dotted,
    encode,
    encode_integer,
    encode_set_of,
    oid,
)


def offset_of(call):
    with pytest.raises(DerError) as caught:
        call()
    assert f"offset {caught.value.offset}" in str(caught.value)
    return caught.value.offset


@pytest.mark.parametrize(
    ("data", "why"),
    [
        ("0480", "indefinite"),
        ("04800000", "indefinite"),
        ("048101ff", "not minimal"),
        ("048200ff" + "00" * 255, "not minimal"),
        ("0485000000000100", "5 octets"),
        ("0484ffffffff", "bytes of content"),
        ("0482ff", "cut off"),
        ("04", "no length"),
        ("0402aa", "2 bytes of content, 1 are there"),
        ("", "missing"),
        ("2403040161", "instead of"),
    ],
)
def test_length_and_tag_are_strict(data, why):
    with pytest.raises(DerError, match=why):
        Cursor(bytes.fromhex(data)).octets()


@pytest.mark.parametrize("data", ["1f0100", "bf810100", "ff1f00", "0000", "2000"])
def test_long_tags_and_the_reserved_one_are_refused_even_where_any_element_may_stand(data):
    with pytest.raises(DerError):
        Cursor(bytes.fromhex(data)).skip()


def test_an_element_may_not_leave_the_one_around_it():
    inner = Cursor(bytes.fromhex("3003" + "040461" + "62636465")).within(SEQUENCE)
    assert offset_of(inner.octets) == 2


def test_offsets_count_from_the_start_of_the_input():
    data = encode(SEQUENCE, encode(SEQUENCE, encode_integer(1), b"\x02\x00"))
    inner = Cursor(data).within(SEQUENCE).within(SEQUENCE)
    assert inner.integer() == 1
    assert offset_of(inner.integer) == 7


def test_what_follows_is_found():
    cursor = Cursor(encode_integer(5) + b"\x00")
    assert cursor.integer() == 5
    assert offset_of(cursor.finish) == 3


@pytest.mark.parametrize("data", ["0200", "02020001", "0202ff80", "0202007f"])
def test_integers_are_minimal(data):
    with pytest.raises(DerError):
        Cursor(bytes.fromhex(data)).integer()


@given(st.integers(min_value=-(1 << 600), max_value=1 << 600))
def test_integers_survive_a_round_trip(value):
    cursor = Cursor(encode_integer(value))
    assert cursor.integer() == value
    cursor.finish()


@given(st.binary(max_size=40))
def test_an_integer_is_accepted_in_one_form_only(content):
    try:
        value = Cursor(encode(INTEGER, content)).integer()
    except DerError:
        return
    assert encode_integer(value) == encode(INTEGER, content)


@given(st.integers(0, 2), st.integers(0, 39), st.lists(st.integers(0, 1 << 40), max_size=6))
def test_object_identifiers_survive_a_round_trip(first, second, rest):
    text = ".".join(map(str, [first, second, *rest]))
    content = oid(text)
    assert Cursor(encode(6, content)).oid() == content
    assert dotted(content) == text


@given(st.binary(max_size=12))
def test_an_object_identifier_is_accepted_in_one_form_only(content):
    try:
        found = Cursor(encode(6, content)).oid()
    except DerError:
        return
    assert oid(dotted(found)) == content


def test_object_identifiers_are_bounded():
    assert offset_of(Cursor(encode(6, b"\x2a" + b"\x01" * MAX_OID_SIZE)).oid) == 0


@pytest.mark.parametrize("data", ["0300", "030108", "030107", "03020801", "03020180 01".replace(" ", ""), "03020101"])
def test_bad_bit_strings(data):
    cursor = Cursor(bytes.fromhex(data))
    with pytest.raises(DerError):
        cursor.bit_string()
        cursor.finish()


def test_bit_strings():
    assert Cursor(bytes.fromhex("03020780")).bit_string() == (b"\x80", 7)
    assert Cursor(bytes.fromhex("030100")).octet_aligned_bits() == b""
    with pytest.raises(DerError, match="octet"):
        Cursor(bytes.fromhex("03020780")).octet_aligned_bits()


def test_booleans_and_null():
    assert Cursor(bytes.fromhex("0101ff")).boolean() is True
    assert Cursor(bytes.fromhex("010100")).boolean() is False
    Cursor(bytes.fromhex("0500")).null()
    for bad in ("010101", "0100", "0102ffff"):
        with pytest.raises(DerError):
            Cursor(bytes.fromhex(bad)).boolean()
    with pytest.raises(DerError):
        Cursor(bytes.fromhex("050100")).null()


@pytest.mark.parametrize(
    "text",
    [
        "2001010000Z",
        "200101000000",
        "200101000000+0000",
        "201301000000Z",
        "200001000000Z",
        "200100000000Z",
        "210229000000Z",
        "200101240000Z",
        "200101006000Z",
        "200101000060Z",
        "2x0101000000Z",
        " 00101000000Z",
        "+10101000000Z",
        "",
    ],
)
def test_bad_utc_times(text):
    with pytest.raises(DerError):
        Cursor(encode(0x17, text.encode())).time()


@pytest.mark.parametrize(
    "text", ["20200101000000.5Z", "202001010000Z", "20200101000000", "00000101000000Z", "200101000000Z"]
)
def test_bad_generalized_times(text):
    with pytest.raises(DerError):
        Cursor(encode(0x18, text.encode())).time()


def test_utc_years_are_of_two_centuries():
    assert Cursor(encode(0x17, b"491231235959Z")).time() == 2524607999
    assert Cursor(encode(0x17, b"500101000000Z")).time() == -631152000


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31, 23, 59, 59)))
def test_times_are_those_of_the_calendar(moment):
    moment = moment.replace(microsecond=0, tzinfo=UTC)
    text = f"{moment.year:04}{moment:%m%d%H%M%S}Z"
    expected = int((moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds())
    assert Cursor(encode(0x18, text.encode())).time() == expected


def test_a_set_is_written_in_the_order_of_its_encodings():
    elements = [encode(OCTET_STRING, b"bb"), encode(OCTET_STRING, b"z"), encode(OCTET_STRING, b"a")]
    assert encode_set_of(elements) == encode(0x31, elements[2], elements[1], elements[0])


READERS = [
    Cursor.integer,
    Cursor.oid,
    Cursor.octets,
    Cursor.bit_string,
    Cursor.boolean,
    Cursor.null,
    Cursor.time,
    Cursor.skip,
    Cursor.element,
    lambda cursor: cursor.within(SEQUENCE),
    Cursor.finish,
]


@given(st.binary(max_size=64), st.lists(st.sampled_from(READERS), min_size=1, max_size=6))
def test_no_bytes_bring_out_anything_but_the_cursors_own_error(data, readers):
    cursor = Cursor(data)
    try:
        for reader in readers:
            before = cursor.offset
            reader(cursor)
            assert before <= cursor.offset <= len(data)
    except DerError as error:
        assert 0 <= error.offset <= len(data)
