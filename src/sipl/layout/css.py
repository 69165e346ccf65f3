"""The channel subsystem's blocks in guest memory (docs/formats/channel-io.md).

The names are those of z/Architecture: ORB, CCW, SCHIB with PMCW and SCSW, IRB. Fields that instructions test all the
time are plain integers with named masks: an `IntFlag` makes an object for every test.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sipl.layout.record import layout

# The subsystem-identification word: CSS id 0-7, M 12, SSID 13-14, one 15, subchannel number 16-31.
SID_ONE: Final = 0x00010000
SID_SSID: Final = 0x00060000
SID_SSID_SHIFT: Final = 17
SID_NUMBER: Final = 0x0000FFFF
SID_RESERVED: Final = 0xFFF80000  # CSS id and M belong to the multiple-channel-subsystems facility, which is not there

MAX_SSID: Final = 3


@layout(">IHBBI")
class Orb(NamedTuple):
    """Operation-request block, 12 bytes: words 0 to 2, all that a command-mode program without extension has."""

    parameter: int  # interruption parameter
    control: int  # ORB_*
    path_mask: int  # LPM
    extension: int  # ORB_LENGTH_SUPPRESSION, ORB_MIDA, …
    program: int  # absolute address of the first CCW


ORB_SUSPEND: Final = 0x0800
ORB_FORMAT_1: Final = 0x0080
ORB_NO_SUSPEND_INTERRUPTION: Final = 0x0008
ORB_TRANSPORT: Final = 0x0004
ORB_IDAW_FORMAT_2: Final = 0x0002
ORB_IDAW_2K: Final = 0x0001
ORB_LENGTH_SUPPRESSION: Final = 0x80  # of incorrect length, immediate operations
ORB_MIDA: Final = 0x40
ORB_EXTENSION_RESERVED: Final = 0x3E
ORB_PROGRAM_RESERVED: Final = 0x80000000

CCW_SIZE: Final = 8


@layout(">BBHI")
class Ccw1(NamedTuple):
    """Format-1 channel-command word."""

    command: int
    flags: int  # CCW_*
    byte_count: int
    address: int  # absolute; bit 0 is reserved


@layout(">IBxH")
class Ccw0(NamedTuple):
    """Format-0 channel-command word."""

    command_address: int  # command 0-7, absolute address 8-31
    flags: int
    byte_count: int


CCW_CHAIN_DATA: Final = 0x80
CCW_CHAIN_COMMAND: Final = 0x40
CCW_SLI: Final = 0x20  # suppress length indication
CCW_SKIP: Final = 0x10
CCW_PCI: Final = 0x08  # program-controlled interruption
CCW_IDA: Final = 0x04  # indirect data addressing
CCW_SUSPEND: Final = 0x02
CCW_MIDA: Final = 0x01

COMMAND_NOP: Final = 0x03
COMMAND_BASIC_SENSE: Final = 0x04
COMMAND_TIC: Final = 0x08  # transfer in channel
COMMAND_SENSE_ID: Final = 0xE4


@layout(">IHHBBBBHBB8sI")
class Pmcw(NamedTuple):
    """Path-management-control word, 28 bytes."""

    parameter: int  # interruption parameter
    flags: int  # PMCW_*
    device_number: int
    logical_path_mask: int
    path_not_operational: int
    last_path_used: int
    path_installed: int
    measurement_index: int
    path_operational: int
    path_available: int
    chpids: bytes  # one per path
    characteristics: int  # PMCW_CHAR_*


PMCW_ISC: Final = 0x3800
PMCW_ISC_SHIFT: Final = 11
PMCW_ENABLED: Final = 0x0080
PMCW_LIMIT: Final = 0x0060
PMCW_MEASUREMENT: Final = 0x0018
PMCW_MULTIPATH: Final = 0x0004
PMCW_TIMING: Final = 0x0002
PMCW_DEVICE_VALID: Final = 0x0001
PMCW_RESERVED: Final = 0xC700
# What MODIFY SUBCHANNEL changes; the rest of the flags belongs to the subchannel.
PMCW_MODIFIABLE: Final = PMCW_ISC | PMCW_ENABLED | PMCW_LIMIT | PMCW_MEASUREMENT | PMCW_MULTIPATH
PMCW_CHAR_BLOCK_FORMAT: Final = 0x00000004  # format of the measurement block
PMCW_CHAR_EXTENDED_MEASUREMENT: Final = 0x00000002
PMCW_CHAR_CONCURRENT_SENSE: Final = 0x00000001
PMCW_CHAR_RESERVED: Final = 0xFF1FFFF8
PMCW_CHAR_MODIFIABLE: Final = PMCW_CHAR_BLOCK_FORMAT | PMCW_CHAR_CONCURRENT_SENSE
MEASUREMENT_BLOCK_ALIGNMENT: Final = 64  # of a format-1 measurement block


@layout(">HHIBBH")
class Scsw(NamedTuple):
    """Subchannel-status word, 12 bytes."""

    flags: int  # SCSW_FLAG_*, the rest comes from the ORB
    control: int  # SCSW_FUNCTION_*, SCSW_ACTIVITY_*, SCSW_STATUS_*
    ccw_address: int  # of the last CCW, plus 8
    device_status: int  # DEVICE_*
    subchannel_status: int  # SUBCHANNEL_*
    residual: int  # bytes


SCSW_FLAG_ORB: Final = 0xF8F8  # key, S, format, prefetch, initial status, address limit, U: as the ORB has them
SCSW_FLAG_EXTENDED_STATUS: Final = 0x0400  # L: extended-status word holds something
SCSW_FLAG_EXTENDED_CONTROL: Final = 0x0002  # E: extended-control word holds something
SCSW_FUNCTION: Final = 0x7000
SCSW_FUNCTION_START: Final = 0x4000
SCSW_FUNCTION_HALT: Final = 0x2000
SCSW_FUNCTION_CLEAR: Final = 0x1000
SCSW_ACTIVITY_RESUME_PENDING: Final = 0x0800
SCSW_ACTIVITY_SUSPENDED: Final = 0x0020
SCSW_ACTIVITY: Final = 0x0FE0
SCSW_STATUS: Final = 0x001F
SCSW_STATUS_ALERT: Final = 0x0010
SCSW_STATUS_INTERMEDIATE: Final = 0x0008
SCSW_STATUS_PRIMARY: Final = 0x0004
SCSW_STATUS_SECONDARY: Final = 0x0002
SCSW_STATUS_PENDING: Final = 0x0001

DEVICE_CHANNEL_END: Final = 0x08
DEVICE_DEVICE_END: Final = 0x04
DEVICE_UNIT_CHECK: Final = 0x02
SUBCHANNEL_PCI: Final = 0x80
SUBCHANNEL_INCORRECT_LENGTH: Final = 0x40
SUBCHANNEL_PROGRAM_CHECK: Final = 0x20

SCHIB_SIZE: Final = 52
MEASUREMENT_ADDRESS_OFFSET: Final = 40  # u64, behind PMCW and SCSW

IRB_SIZE: Final = 64  # SCSW 12, extended-status word 20, extended-control word 32; the measurement word is not offered
EXTENDED_STATUS_SIZE: Final = 20
SENSE_SIZE: Final = 32  # what basic sense gives, and what fits into the extended-control word
SENSE_COMMAND_REJECT: Final = 0x80  # sense byte 0

# Word 0 of the extended-status word, format 1: the last-path-used mask in bits 8-15.
ESW_PATH_SHIFT: Final = 16
# Word 1, the extended-report word: concurrent sense, and how many sense bytes the extended-control word has.
ERW_CONCURRENT_SENSE: Final = 0x01000000
ERW_SENSE_COUNT_SHIFT: Final = 16


@layout(">BHBHB")
class SenseId(NamedTuple):
    """What the sense-ID command gives, 7 bytes: the basic part."""

    always_ff: int
    control_unit_type: int
    control_unit_model: int
    device_type: int
    device_model: int


@layout(">HHIII")
class ChscRequest(NamedTuple):
    """Start of a CHANNEL SUBSYSTEM CALL block: header and three words of parameters."""

    length: int  # of the request; the response follows
    command: int  # CHSC_*
    word_1: int
    word_2: int
    word_3: int


@layout(">HHI")
class ChscResponse(NamedTuple):
    """Start of a response."""

    length: int
    code: int  # CHSC_RESPONSE_*
    word: int


CHSC_BLOCK_SIZE: Final = 4096
CHSC_MIN_REQUEST: Final = 16
CHSC_MAX_REQUEST: Final = 4088
CHSC_MIN_RESPONSE: Final = 8

CHSC_CHANNEL_PATH_DESCRIPTION: Final = 0x0002
CHSC_EVENT_INFORMATION: Final = 0x000E
CHSC_CHARACTERISTICS: Final = 0x0010
CHSC_SET_DOMAIN_ATTRIBUTE: Final = 0x0031

CHSC_RESPONSE_OK: Final = 0x0001
CHSC_RESPONSE_INVALID_REQUEST: Final = 0x0003
CHSC_RESPONSE_UNSUPPORTED: Final = 0x0004
CHSC_RESPONSE_NO_EVENT: Final = 0x0005
CHSC_RESPONSE_INVALID_FORMAT: Final = 0x0007
CHSC_RESPONSE_INVALID_CSS: Final = 0x0008
CHSC_RESPONSE_NO_SUCH_FACILITY: Final = 0x0101

# Store channel-path description, word 1: M 2, C 3, format 4-7, CSS id 8-15, response format 20-23, first CHPID 24-31.
CHP_RESERVED_1: Final = 0xC000F000
CHP_CSS: Final = 0x20FF0000
CHP_COMMON: Final = 0x10000000
CHP_FORMAT: Final = 0x0F000000
CHP_RESPONSE_FORMAT_SHIFT: Final = 8
CHP_RESERVED_2: Final = 0xFFFFFF00
CHP_VALID: Final = 0x80000000  # word 0 of a description; channel-path type 16-23, CHPID 24-31
CHP_TYPE_SHIFT: Final = 8
CHP_DESCRIPTION_SIZES: Final = (8, 32)  # by response format

# Store channel-subsystem characteristics, word 1: M 2, format 12-15, CSS id 16-23.
CHARACTERISTICS_RESERVED: Final = 0xDFF000FF
CHARACTERISTICS_FORMAT: Final = 0x000F0000
CHARACTERISTICS_CSS: Final = 0x2000FF00
CHARACTERISTICS_GENERAL_SIZE: Final = 510 * 4
CHARACTERISTICS_CHSC_SIZE: Final = 508 * 4
# General characteristics, word 1: C may be one in the store-channel-path-description command.
GENERAL_WORD_1: Final = 0x00020000

SDA_REQUEST_LENGTH: Final = 0x0400
SDA_RESERVED: Final = 0xF0FF0000
SDA_FORMAT: Final = 0x0F000000
SDA_OPERATION: Final = 0x0000FFFF
SDA_MULTIPLE_CSS: Final = 0x0000
SDA_MULTIPLE_SETS: Final = 0x0002

# Channel-report word: S 1, reporting-source code 4-7, error-recovery code 10-15, reporting-source id 16-31.
CRW_SOLICITED: Final = 0x40000000
CRW_OVERFLOW: Final = 0x20000000
CRW_CHANNEL_PATH: Final = 0x04000000
CRW_INITIALIZED: Final = 0x00020000

# The I/O-interruption word: A 0, interruption subclass 2-4.
INTERRUPTION_ADAPTER: Final = 0x80000000
INTERRUPTION_ISC_SHIFT: Final = 27
ISC_COUNT: Final = 8
# Control register 6: bit 32 + n of its 64 enables interruption subclass n.
CR6_ISC_SHIFT: Final = 24

# Reserved bits of general registers 1 and 2.
RCHP_RESERVED: Final = 0xFF00FF00
RCHP_CSS: Final = 0x00FF0000
RCHP_CHPID: Final = 0x000000FF
SAL_RESERVED: Final = 0x8000FFFF
SCHM_RESERVED: Final = 0x0FFFFFFC
SCHM_MEASUREMENT: Final = 0x00000002
SCHM_ORIGIN_RESERVED: Final = 0x1F
