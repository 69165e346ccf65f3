"""The IPL parameter block and the QEMU IPL parameters (docs/formats/iplb.md)."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Final, NamedTuple

from sipl.layout.record import layout

IPLB_SIZE: Final = 4096  # what the block takes in memory, and its length field in audit and secure mode
IPLB_HEADER_SIZE: Final = 8  # the length of block 0 does not count these
IPLB_CCW_LENGTH: Final = 200
IPLB_FCP_MIN_LENGTH: Final = 384
IPLB_DEVNO_OFFSET: Final = 110
IPLB_LOADPARM_OFFSET: Final = 16
IPLB_LOADPARM_SIZE: Final = 8
IPLB_FLAGS_OFFSET: Final = 4
LOADPARM_VALID: Final = 0x80

MAX_BOOT_DEVICES: Final = 8
# The blocks of the second to eighth boot device lie directly below the firmware, unused ones zero.
IPLB_CHAIN_SIZE: Final = (MAX_BOOT_DEVICES - 1) * IPLB_SIZE

SSID_MASK: Final = 3


class IplbType(IntEnum):
    """Type of block 0."""

    FCP = 0x00
    CCW = 0x02
    QEMU_SCSI = 0xFF


class IplbFlags(IntFlag):
    """Flags in the header: what the machine was started with."""

    SIPL = 0x40  # secure IPL
    IPLIR = 0x20  # an IPL report is wanted


@layout(">IB2xBIBB2x8s")
class IplbHeader(NamedTuple):
    """Header and start of block 0, 24 bytes; what follows depends on the type."""

    length: int
    flags: int
    version: int
    block0_length: int
    type: int
    block0_flags: int
    loadparm: bytes  # EBCDIC


@layout(">85xBH")
class CcwBlock(NamedTuple):
    """Bytes 24 to 111 of a block of type CCW."""

    ssid: int
    devno: int


@layout(">IHH77xBH")
class QemuScsiBlock(NamedTuple):
    """Bytes 24 to 111 of a block of type QEMU SCSI; `devno` is that of the host bus adapter."""

    lun: int
    target: int
    channel: int
    ssid: int
    devno: int


IPLB_DEVICE_OFFSET: Final = 24

QIPL_ADDRESS: Final = 0xCC


class QiplFlags(IntFlag):
    """Boot menu: asked for by the machine's options, or by the disk."""

    MENU_COMMAND = 0x80
    MENU_ZIPL = 0x40


@layout(">BB2x8xI2xHQ")
class QiplParameters(NamedTuple):
    """QEMU IPL parameters, 28 bytes at absolute 0xCC."""

    flags: int  # QiplFlags
    boot_position: int  # of the device that is tried
    menu_timeout: int  # milliseconds
    chain_length: int  # how many boot devices follow the first
    next_iplb: int  # absolute address of the second device's block
