"""Program interruptions: how an instruction ends that the machine does not carry out."""

from __future__ import annotations

from enum import IntEnum


class ProgramCode(IntEnum):
    """Program-interruption codes that the emulated instructions give."""

    OPERATION = 0x01
    PRIVILEGED = 0x02
    PROTECTION = 0x04
    ADDRESSING = 0x05
    SPECIFICATION = 0x06
    SEGMENT_TRANSLATION = 0x10
    PAGE_TRANSLATION = 0x11
    OPERAND = 0x15
    ASCE_TYPE = 0x38
    REGION_FIRST_TRANSLATION = 0x39
    REGION_SECOND_TRANSLATION = 0x3A
    REGION_THIRD_TRANSLATION = 0x3B


class ProgramInterruption(Exception):
    """The instruction ends with a program interruption: no register and no response code is written."""

    def __init__(self, code: ProgramCode) -> None:
        self.code = code
        super().__init__(f"program interruption {code:#06x} ({code.name.lower()})")
