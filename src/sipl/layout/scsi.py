"""SCSI as a disk speaks it: operation codes, sense keys, pages (docs/formats/channel-io.md). Big endian."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Operation(IntEnum):
    """Operation codes, byte 0 of a command descriptor block."""

    TEST_UNIT_READY = 0x00
    REQUEST_SENSE = 0x03
    READ_6 = 0x08
    WRITE_6 = 0x0A
    INQUIRY = 0x12
    MODE_SENSE_6 = 0x1A
    START_STOP_UNIT = 0x1B
    PREVENT_ALLOW_REMOVAL = 0x1E
    READ_CAPACITY_10 = 0x25
    READ_10 = 0x28
    WRITE_10 = 0x2A
    SYNCHRONIZE_CACHE_10 = 0x35
    MODE_SENSE_10 = 0x5A
    READ_16 = 0x88
    WRITE_16 = 0x8A
    SYNCHRONIZE_CACHE_16 = 0x91
    SERVICE_ACTION_IN_16 = 0x9E
    REPORT_LUNS = 0xA0


READ_CAPACITY_16: Final = 0x10  # service action


class Status(IntEnum):
    """How a command ended."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02


class Sense(IntEnum):
    """Sense key, additional sense code and its qualifier, a byte each."""

    NONE = 0x000000
    READ_ERROR = 0x031100
    WRITE_ERROR = 0x030C00
    INVALID_OPERATION = 0x052000
    BLOCK_OUT_OF_RANGE = 0x052100
    INVALID_FIELD = 0x052400
    NO_SUCH_UNIT = 0x052500
    WRITE_PROTECTED = 0x072700


SENSE_FIXED: Final = 0x70  # response code: fixed format, current error
SENSE_LENGTH: Final = 18

INQUIRY_LENGTH: Final = 36
INQUIRY_VERSION: Final = 0x05  # SPC-3
INQUIRY_FORMAT: Final = 0x12  # response format 2, hierarchical LUNs
INQUIRY_QUEUES: Final = 0x02
INQUIRY_PAGES: Final = 0x01  # EVPD in the command
NO_UNIT: Final = 0x7F  # peripheral qualifier and type where there is no unit
PAGE_LIST: Final = 0x00
PAGE_SERIAL: Final = 0x80
PAGE_IDENTIFICATION: Final = 0x83
PAGE_BLOCK_LIMITS: Final = 0xB0
BLOCK_LIMITS_LENGTH: Final = 60
DESIGNATOR_ASCII: Final = 0x02
DESIGNATOR_VENDOR: Final = 0x01  # type: vendor identification, then what the vendor likes

MODE_PAGE_CACHING: Final = 0x08
MODE_PAGE_ALL: Final = 0x3F
MODE_CHANGEABLE: Final = 1  # page control: which fields can be changed
MODE_SAVED: Final = 3
MODE_WRITE_PROTECTED: Final = 0x80
CACHING_LENGTH: Final = 18
CACHING_WRITE_CACHE: Final = 0x04
