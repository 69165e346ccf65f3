"""The IPL report, IIRB (docs/formats/iirb.md): behind the IPL parameter block, read by Linux."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from sipl.layout.record import layout


class ReportBlockType(IntEnum):
    """Type of an information block of the report."""

    CERTIFICATES = 1
    COMPONENTS = 2


class ComponentFlags(IntFlag):
    """Flags of a component entry."""

    SIGNED = 0x80  # SC: a signature was there
    VERIFIED = 0x40  # CSV: a certificate of the store verified it


class Iiei(IntFlag):
    """IPL information error indicators, of the component block."""

    NO_SIGNED_COMPONENT = 0x8000
    NO_SCLAB = 0x4000
    NO_GLOBAL_SCLAB = 0x2000
    SEVERAL_GLOBAL_SCLABS = 0x1000
    UNSIGNED_COMPONENT = 0x0800
    NOT_SINGLE_COMPONENT = 0x0400


class Cei(IntFlag):
    """Component error indicators, of a component entry."""

    INVALID_SCLAB = 0x80000000
    SCLAB_LENGTH = 0x40000000
    SCLAB_FORMAT = 0x20000000
    LOAD_ADDRESS_MISMATCH = 0x10000000
    LOAD_PSW_MISMATCH = 0x08000000
    INVALID_LOAD_PSW = 0x04000000
    NUC_NOT_GLOBAL = 0x02000000
    OLA_NOT_ONE = 0x01000000
    SC_NOT_GLOBAL = 0x00800000
    LOAD_ADDRESS_NOT_ZERO = 0x00400000
    LOAD_PSW_NOT_ZERO = 0x00200000
    UNSIGNED_ADDRESS_TOO_LOW = 0x00100000


@layout(">IB11x")
class ReportHeader(NamedTuple):
    """Start of the report."""

    length: int  # of the whole report
    flags: int


@layout(">IB3xH6x")
class ReportBlockHeader(NamedTuple):
    """Start of an information block."""

    length: int  # this header and the entries
    type: int  # ReportBlockType
    error_indicators: int  # Iiei


@layout(">QQ")
class CertificateEntry(NamedTuple):
    """Where the DER of a certificate lies in memory."""

    address: int
    length: int


@layout(">QQB5xHI4x")
class ReportComponent(NamedTuple):
    """A component, or the PSW entry (length 0, the address is the PSW)."""

    address: int
    length: int
    flags: int  # ComponentFlags
    certificate_index: int  # position in the certificate block, origin 0
    error_indicators: int  # Cei


# The most that one 4096-byte component table can hold (126 load entries) and the PSW entry.
MAX_REPORT_COMPONENTS: Final = 127
MAX_REPORT_CERTIFICATES: Final = 64
# Linux looks at a block only while more than a header's length follows it: an empty last block needs these bytes.
EMPTY_LAST_BLOCK_PADDING: Final = 8
