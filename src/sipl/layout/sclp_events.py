"""SCLP event facility: events, masks, console messages and READ CPU INFO (docs/formats/sclp-console.md)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from sipl.layout.record import layout


class EventCommand(IntEnum):
    """Command words of the service call that a machine with a console knows besides those of `sipl.layout.sclp`."""

    READ_CPU_INFO = 0x00010001
    WRITE_EVENT_DATA = 0x00760005
    READ_EVENT_DATA = 0x00770005
    WRITE_EVENT_MASK = 0x00780005


EVENT_COMMANDS: Final = frozenset(EventCommand)


class EventResponse(IntEnum):
    """Response codes of the event commands, besides those of `sipl.layout.sclp`."""

    OK = 0x0020
    INVALID_FUNCTION = 0x40F0
    NO_EVENT_STORED = 0x60F0
    INVALID_SELECTION_MASK = 0x70F0
    INCONSISTENT_LENGTHS = 0x72F0
    EVENT_SYNTAX_ERROR = 0x73F0
    INVALID_MASK_LENGTH = 0x74F0


class EventType(IntEnum):
    """Type of an event buffer; bit `type - 1` of a mask stands for it, bit 0 being the leftmost."""

    OPERATOR_COMMAND = 0x01  # line mode, from the operator
    MESSAGE = 0x02  # line mode, to the operator
    STATE_CHANGE = 0x08
    PRIORITY_MESSAGE = 0x09  # as 1 and 2
    CONTROL_PROGRAM_ID = 0x0B
    VT220 = 0x1A  # ASCII console, both ways
    QUIESCE = 0x1D


FUNCTION_CODE_OFFSET: Final = 2
CONTROL_MASK_OFFSET: Final = 5  # third byte of the control mask
VARIABLE_LENGTH: Final = 0x80  # in it: the SCCB may be answered with a shorter length

WRITE_NORMAL: Final = 0x00  # function codes
READ_UNCONDITIONAL: Final = 0x00
READ_SELECTIVE: Final = 0x01

EVENTS_OFFSET: Final = 8  # of the first event buffer, and of the mask of a selective read
EVENT_ACCEPTED: Final = 0x80  # flag that the SCLP sets in the events that it took


@layout(">HBB2x")
class EventHeader(NamedTuple):
    """First 6 bytes of an event buffer; `length` counts them too."""

    length: int
    type: int
    flags: int


MASK_LENGTH_OFFSET: Final = 10  # u16, behind a reserved halfword
MASKS_OFFSET: Final = 12  # program receives, program sends, SCLP receives, SCLP sends
MASK_LENGTH_DEFAULT: Final = 4
MASK_LENGTH_MAX: Final = 1021  # four masks fill the page
MASK_BYTES_KNOWN: Final = 8  # all event types are in the first 64 bits


# Line mode, to the operator


@layout(">HHII")
class MessageDataBlock(NamedTuple):
    """Head of what a message carries; `length` counts the objects behind it too."""

    length: int
    type: int
    tag: int
    revision: int


@layout(">HH")
class MessageObject(NamedTuple):
    """First 4 bytes of an object in a message; `length` counts them too."""

    length: int
    type: int


GENERAL_OBJECT: Final = 1
TEXT_OBJECT: Final = 4


class LineType(IntFlag):
    """What a line of a message is."""

    CONTROL = 0x8000
    LABEL = 0x4000
    DATA = 0x2000
    END = 0x1000
    PROMPT = 0x0800


@layout(">HHHB3x")
class TextObject(NamedTuple):
    """Head of a line of text, which follows in EBCDIC."""

    length: int
    type: int
    line_type: int
    alarm: int


# Line mode, from the operator: vectors within vectors, the lengths count their own heads


@layout(">HH")
class GdsVector(NamedTuple):
    """Head of a vector of general data stream."""

    length: int
    identifier: int


@layout(">BB")
class GdsSubvector(NamedTuple):
    """Head of a subvector: its length has one byte."""

    length: int
    key: int


MESSAGE_UNIT: Final = 0x1310
CONTROL_POINT_UNIT: Final = 0x1212
TEXT_COMMAND: Final = 0x1320
SELF_DEFINING_TEXT: Final = 0x31
TEXT_MESSAGE: Final = 0x30
SUBVECTOR_MAX: Final = 0xFF


# ASCII console, from the operator: this byte, then the characters

SESSION_DATA: Final = 0x00


# Other events


class StateValid(IntFlag):
    """Which fields of a state change hold."""

    FACILITIES = 0x8000
    RECEIVE_MASK = 0x4000
    SEND_MASK = 0x2000


@layout(">HHQ")
class StateChange(NamedTuple):
    """What the SCLP offers has changed; two masks of `mask_length` bytes follow: it receives, it sends."""

    valid: int
    mask_length: int
    facilities: int


STATE_CHANGE_TAIL: Final = 4  # bytes behind the masks: the mask of read functions


@layout(">HB")
class Quiesce(NamedTuple):
    """The operator asks the guest to shut down within a time; 0 is no limit."""

    timeout: int
    unit: int


@layout(">Bx8s8x8s8xQ8x8s16x")
class ControlProgramId(NamedTuple):
    """How the guest introduces itself; names in EBCDIC."""

    format: int
    system_type: bytes
    system_name: bytes
    system_level: int
    sysplex_name: bytes


# READ CPU INFO and what READ SCP INFO says about it

CPU_INFO_OFFSET: Final = 8
CPU_INFO_ENTRIES: Final = 24


@layout(">HHHH")
class CpuInfo(NamedTuple):
    """Where the entries are, which are those of READ SCP INFO."""

    configured: int
    configured_offset: int
    standby: int
    standby_offset: int


FACILITIES_OFFSET: Final = 48  # u64 in READ SCP INFO
HAS_CPU_INFO: Final = 0x0800000000000000
HIGHEST_CPU_OFFSET: Final = 120  # u16
