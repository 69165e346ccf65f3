"""The reader of appended signatures: every layer, whatever the bytes are."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.crypto.appended_signature import (
    MAX_LAYERS,
    TrailerDamaged,
    payload_length,
    read_layer,
    read_layers,
    trailer,
)
from sipl.layout.module_signature import MODULE_SIGNATURE_MARKER

RECORD = bytes.fromhex("0000020000000000")


def signed(payload, signature=b"0123", record=None):
    record = RECORD + len(signature).to_bytes(4, "big") if record is None else record
    return payload + signature + record + MODULE_SIGNATURE_MARKER


def test_what_sign_file_writes_is_read():
    data = signed(b"payload", b"signature")
    layer = read_layer(data)
    assert (layer.payload_length, layer.signature) == (7, b"signature")
    assert data == b"payload" + trailer(b"signature")


def test_a_file_without_marker_is_not_signed():
    for data in (b"", b"x", MODULE_SIGNATURE_MARKER[:-1], signed(b"p") + b"\n", signed(b"p")[:-1]):
        assert read_layer(data) is None
        assert payload_length(data) == len(data)


def test_an_empty_payload_is_one():
    assert read_layer(signed(b"")).payload_length == 0


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (MODULE_SIGNATURE_MARKER, "too short for its record"),
        (b"x" * 11 + MODULE_SIGNATURE_MARKER, "too short for its record"),
        (signed(b"p", record=bytes.fromhex("0000010000000000") + b"\0\0\0\4"), "type 1"),
        (signed(b"p", record=bytes(12)), "type 0"),
        (signed(b"", b"", record=RECORD + bytes(4)), "0 bytes by its record"),
        (signed(b"p", b"0123", record=RECORD + b"\0\0\0\6"), "6 bytes by its record, 5 bytes are there"),
        (signed(b"p", b"0123", record=RECORD + b"\xff" * 4), "4294967295 bytes"),
    ],
)
def test_a_marker_with_no_signature_before_it_is_damage(data, why):
    with pytest.raises(TrailerDamaged, match=why):
        read_layer(data)


def test_layers_are_told_apart():
    inner = signed(b"payload", b"inner")
    data = signed(inner, b"outer")
    assert [(layer.payload_length, layer.signature) for layer in read_layers(data)] == [
        (len(inner), b"outer"),
        (7, b"inner"),
    ]
    assert payload_length(data) == 7


def test_damage_inside_is_found():
    with pytest.raises(TrailerDamaged, match="type 9"):
        read_layers(signed(signed(b"p", record=b"\0\0\x09" + bytes(9))))


def test_layers_are_bounded():
    data = b"payload"
    for _ in range(MAX_LAYERS):
        data = signed(data, b"s")
    assert len(read_layers(data)) == MAX_LAYERS
    with pytest.raises(TrailerDamaged, match="more than 64"):
        read_layers(signed(data, b"s"))


@given(st.binary(max_size=200), st.binary(max_size=60), st.integers(0, 5))
@settings(max_examples=300)
def test_any_bytes(head, record, layers):
    """Nothing but the package's own error comes out, and what is read lies within the bytes."""
    data = head + record + MODULE_SIGNATURE_MARKER
    for _ in range(layers):
        data = signed(data, b"s")
    try:
        found = read_layers(data)
    except TrailerDamaged as error:
        assert str(error).isprintable()
        return
    end = len(data)
    for layer in found:
        assert data[layer.payload_length :].startswith(layer.signature)
        assert 0 <= layer.payload_length == end - 40 - len(layer.signature)
        end = layer.payload_length
    assert not data[:end].endswith(MODULE_SIGNATURE_MARKER)


@given(st.binary(max_size=100), st.lists(st.binary(min_size=1, max_size=50), max_size=6))
@settings(max_examples=200)
def test_what_is_appended_is_read(payload, signatures):
    if payload.endswith(MODULE_SIGNATURE_MARKER):
        payload += b"."
    data = payload
    for signature in signatures:
        data += trailer(signature)
    assert [layer.signature for layer in read_layers(memoryview(data))] == signatures[::-1]
    assert payload_length(bytearray(data)) == len(payload)
