"""What a guest writes to its console, made safe to show: nothing of it can drive the terminal."""

from __future__ import annotations

import re
from codecs import getincrementaldecoder
from typing import Final

from sipl.text import printable

# Line ends, tabulator and backspace move within what the guest wrote itself.
_FOREIGN: Final = re.compile(r"[^\n\r\t\b]+")


class ConsoleText:
    r"""Turns the bytes of a console into text, piece by piece.

    Printable UTF-8, line feed, carriage return, tabulator and backspace stay; every other character and every byte that
    is no UTF-8 becomes an escape as `printable` writes it. Carriage return and line feed together are one line end.
    """

    def __init__(self) -> None:
        self._decoder = getincrementaldecoder("utf-8")("backslashreplace")
        self._return = False  # a carriage return is kept back: a line feed may follow

    def feed(self, data: bytes, *, last: bool = False) -> str:
        """Text that can be shown now; half a character or line end waits for the next piece, unless it is the last."""
        text = self._decoder.decode(data, last)
        if self._return:
            text = f"\r{text}"
        self._return = text.endswith("\r") and not last
        if self._return:
            text = text[:-1]
        return _FOREIGN.sub(_shown, text.replace("\r\n", "\n"))


def _shown(found: re.Match[str]) -> str:
    return printable(found[0])
