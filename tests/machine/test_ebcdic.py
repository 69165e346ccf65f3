"""EBCDIC names and loadparm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.errors import UsageError
from sipl.machine import ebcdic


def test_seven_bit_characters_are_code_page_037_but_for_two():
    expected = bytearray(bytes(range(128)).decode("ascii").encode("cp037"))
    expected[0x0A] = 0x15
    expected[0x1C] = 0x22
    assert ebcdic.to_ebcdic(bytes(range(128))) == bytes(expected)


def test_bytes_above_are_substituted_but_for_four():
    translated = ebcdic.to_ebcdic(bytes(range(0x80, 0x100)))
    known = {0x80 + position: code for position, code in enumerate(translated) if code != 0x3F}
    assert known == {0xE1: 0x59, 0xF8: 0x90, 0xFD: 0xEA, 0xFF: 0xFF}


@pytest.mark.parametrize(
    ("character", "code"), [("[", 0xBA), ("]", 0xBB), ("^", 0xB0), ("|", 0x4F), ("!", 0x5A), (" ", 0x40)]
)
def test_characters_that_code_pages_disagree_on(character, code):
    assert ebcdic.to_ebcdic(character.encode()) == bytes([code])


def test_certificate_name_is_padded_cut_and_taken_byte_by_byte():
    assert ebcdic.certificate_name(b"certA.pem") == "certA.pem".encode("cp037") + b"\x40" * 55
    assert ebcdic.certificate_name(b"x" * 70 + b".pem") == b"\xa7" * 64
    assert ebcdic.certificate_name("ü.pem".encode())[:6] == b"\x3f\x3f" + ".pem".encode("cp037")


def test_loadparm():
    assert ebcdic.loadparm_to_ebcdic("") == b"\x40" * 8
    assert ebcdic.loadparm_to_ebcdic("PROMPT") == "PROMPT  ".encode("cp037")
    assert ebcdic.loadparm_from_ebcdic(b"\xf1\xf2" + b"\x40" * 6) == "12"
    assert ebcdic.loadparm_from_ebcdic(bytes([0x41]) * 8) == "\ufffd" * 8


@pytest.mark.parametrize("text", ["123456789", "\u00fc"])
def test_loadparm_that_does_not_fit(text):
    with pytest.raises(UsageError, match="does not fit"):
        ebcdic.loadparm_to_ebcdic(text)


@given(st.text(st.characters(max_codepoint=127)))
def test_seven_bit_text_comes_back(text):
    assert ebcdic.from_ebcdic(ebcdic.to_ebcdic(text.encode("ascii"))) == text


@given(st.binary(max_size=64))
def test_anything_can_be_translated(data):
    assert len(ebcdic.to_ebcdic(data)) == len(ebcdic.from_ebcdic(data)) == len(data)
