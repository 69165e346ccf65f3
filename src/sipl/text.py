"""Text that came from outside, made safe to show.

A disk, a certificate, a guest or a file name may carry characters that drive a terminal (escape sequences, carriage
returns) or that reorder what a person reads (bidirectional overrides). `printable` shows them as escapes instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

# What is not shown as it is although `str.isprintable` may allow it: characters that change the direction or the
# joining of the text around them, or that take no room at all.
_INVISIBLE = frozenset(
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180e\u3164\ufeff\uffa0"
    "\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e"
    "\u2060\u2061\u2062\u2063\u2064\u2065\u2066\u2067\u2068\u2069\u206a\u206b\u206c\u206d\u206e\u206f"
)


def printable(text: str, limit: int | None = None) -> str:
    r"""Return `text` with every control, escape, bidirectional and unassigned character written as an escape.

    Backslashes stay as they are: the result is for people, not for a parser. With `limit`, at most that many
    characters of the original are shown and `…` follows.
    """
    if limit is not None and len(text) > limit:
        return printable(text[:limit]) + "…"
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() and c not in _INVISIBLE else _escape(c) for c in text)


def some_of(items: Sequence[str], limit: int = 12) -> str:
    """The first items of a list in a line, and how many more there are: a disk can have a hundred of anything."""
    more = f" and {len(items) - limit} more" if len(items) > limit else ""
    return ", ".join(items[:limit]) + more


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"
