"""Which entry of the program table boots: loadparm and the boot menu."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.layout.iplb import QiplFlags

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sipl.firmware.platform import Console
    from sipl.layout.iplb import QiplParameters

_DIGIT_ZERO: Final = 0xF0  # EBCDIC
_BLANK: Final = 0x40
_PROMPT: Final = bytes.fromhex("d7d9d6d4d7e34040")  # "PROMPT  "


def effective_loadparm(of_block: bytes, of_machine: bytes) -> bytes:
    """The loadparm of the IPL parameter block, or the machine's where that has none (all zero); EBCDIC."""
    return of_block if any(of_block) else of_machine


def number(loadparm: bytes) -> int:
    """The decimal number that a loadparm starts with, 0 where it starts with none."""
    value = 0
    for character in loadparm:
        if not _DIGIT_ZERO <= character <= _DIGIT_ZERO + 9:
            break
        value = value * 10 + character - _DIGIT_ZERO
    return value


def choose_program(loadparm: bytes, qipl: QiplParameters, entries: Sequence[int], console: Console) -> int:
    """Number of the program to boot. `entries` are those of the program table that are not empty.

    PROMPT asks without a time-out, a blank loadparm asks where the machine was given a boot menu, any other
    value is a number.

    Raises:
        UndecidedError: a choice is needed and nobody is there to make it.
    """
    if loadparm == _PROMPT:
        return console.choose(entries, 0)
    if all(character in (_BLANK, 0) for character in loadparm) and qipl.flags & QiplFlags.MENU_COMMAND:
        return console.choose(entries, qipl.menu_timeout)
    return number(loadparm)
