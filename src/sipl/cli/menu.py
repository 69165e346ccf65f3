"""The boot menu on a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_ENTRY: Final = 0


def ask(entries: Sequence[int], timeout: int) -> int:
    """Show the programs of a disk and read a choice; an empty line, an end of input or a time-out take the default.

    `timeout` is in milliseconds, 0 waits for ever.
    """
    sys.stderr.write("boot menu:\n")
    for entry in entries:
        sys.stderr.write(f"  [{entry}]{' default' if entry == DEFAULT_ENTRY else ''}\n")
    while True:
        sys.stderr.write(f"boot which program? [{DEFAULT_ENTRY}] ")
        sys.stderr.flush()
        if timeout and not _answer_within(timeout):
            sys.stderr.write("\n")
            return DEFAULT_ENTRY
        answer = sys.stdin.readline().strip()
        if not answer:
            return DEFAULT_ENTRY
        if answer.isascii() and answer.isdigit() and int(answer) in entries:
            return int(answer)
        sys.stderr.write("there is no such program\n")


def _answer_within(timeout: int) -> bool:
    import select

    return bool(select.select([sys.stdin], [], [], timeout / 1000)[0])
