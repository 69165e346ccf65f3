"""`sipl.text.printable`: nothing that drives a terminal or reorders what a person reads gets through."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.text import printable

# Control, format (bidirectional among them), surrogate, private, unassigned, line and paragraph separators.
NEVER = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
# Characters of other categories that take no room or look like a blank.
INVISIBLE = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u3164\uffa0"


def anything():
    """Any text, surrogates included, rich in what matters here."""
    nasty = st.sampled_from(["\x1b[31m", "\x9b31m", "\r", "\n", "\x00", "\x7f", "\u202e", "\u2066", "\ufeff", "\ud800"])
    return st.lists(st.one_of(nasty, st.characters(codec=None)), max_size=30).map("".join)


@given(anything())
def test_the_output_has_nothing_that_acts(text):
    shown = printable(text)
    assert not {unicodedata.category(character) for character in shown} & NEVER
    assert not set(shown) & set(INVISIBLE)
    assert shown.isprintable()
    shown.encode("utf-8")


def test_every_code_point():
    shown = printable("".join(map(chr, range(0x110000))))
    assert not {unicodedata.category(character) for character in set(shown)} & NEVER


@given(st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E)))
def test_ascii_stays(text):
    assert printable(text) == text


@given(anything())
def test_what_is_safe_stays_as_it_is(text):
    assert printable(printable(text)) == printable(text)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J", "\\x1b[2J"),
        ("a\nb\rc\td", "a\\x0ab\\x0dc\\x09d"),
        ("\x9b31m", "\\x9b31m"),
        ("\u202egpj.exe", "\\u202egpj.exe"),
        ("\u2066x\u2069", "\\u2066x\\u2069"),
        ("\ufeff\u200b\u3164", "\\ufeff\\u200b\\u3164"),
        ("\U000e0041", "\\U000e0041"),
        ("\udc80", "\\udc80"),
        ("\u00a0", "\\xa0"),
        ("Grüße, 世界 🙂", "Grüße, 世界 🙂"),
        ("C:\\x1b", "C:\\x1b"),
        ("", ""),
    ],
)
def test_examples(text, shown):
    assert printable(text) == shown


@given(anything(), st.integers(0, 20))
def test_limit_counts_characters_of_the_original(text, limit):
    shown = printable(text, limit)
    if len(text) <= limit:
        assert shown == printable(text)
    else:
        assert shown == printable(text[:limit]) + "…"
