"""DIAGNOSE 308: IPL functions (docs/formats/diag308.md)."""

from __future__ import annotations

from enum import IntEnum


class Subcode(IntEnum):
    """Subcodes of DIAGNOSE 308."""

    RESET_MODIFIED_CLEAR = 0
    RESET_LOAD_NORMAL = 1
    LOAD_CLEAR = 3
    LOAD_NORMAL_DUMP = 4
    SET = 5
    STORE = 6
    PV_SET = 8
    PV_STORE = 9
    PV_START = 10


class ResponseCode(IntEnum):
    """What is left in the odd register."""

    OK = 0x0001
    NO_CONFIGURATION = 0x0102
    INVALID = 0x0402
    NO_PV_CONFIGURATION = 0x0902
    INVALID_FOR_PV = 0x0A02
