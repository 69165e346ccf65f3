"""SCLP: the service call's control block and what READ SCP INFO stores (docs/formats/sclp.md)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from sipl.layout.record import layout


class Command(IntEnum):
    """Command words of the service call."""

    READ_SCP_INFO = 0x00020001
    READ_SCP_INFO_FORCED = 0x00120001


class ResponseCode(IntEnum):
    """Response code in the header of the SCCB."""

    OK = 0x0010
    BOUNDARY_VIOLATION = 0x0100
    INVALID_COMMAND = 0x01F0
    INSUFFICIENT_LENGTH = 0x0300


@layout(">HB3xH")
class SccbHeader(NamedTuple):
    """First 8 bytes of every SCCB."""

    length: int
    function_code: int
    response_code: int


SCCB_MIN_LENGTH: Final = 8
SCCB_MAX_LENGTH: Final = 4096
RESPONSE_CODE_OFFSET: Final = 6

INCREMENTS_OFFSET: Final = 8  # u16: storage increments
INCREMENT_SIZE_OFFSET: Final = 10  # u8: MiB of one increment
CPU_COUNT_OFFSET: Final = 16  # u16
CPU_OFFSET_OFFSET: Final = 18  # u16: where the CPU entries start
LOADPARM_OFFSET: Final = 24
LOADPARM_SIZE: Final = 8
CSTORE_OFFSET: Final = 134
CSTORE: Final = 0x04
IPL_FACILITIES_OFFSET: Final = 136  # u16
SIPL: Final = 0x4000
SCLAF: Final = 0x1000

CPU_ENTRIES: Final = 128  # offset of the CPU entries without extended-length SCCBs
CPU_ENTRIES_EXTENDED: Final = 144  # with them
CPU_ENTRY_SIZE: Final = 16
