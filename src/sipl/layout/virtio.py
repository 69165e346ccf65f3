"""virtio as a guest sees it: virtio-ccw's commands and blocks, split rings, configuration (docs/formats/channel-io.md).

virtio-ccw's own blocks are big endian. What the virtio layer above has (rings, configuration, requests) is little
endian since virtio 1 and in the guest's order, big endian, before; so those are `struct` formats without an order.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from sipl.layout.record import layout

CONTROL_UNIT_TYPE: Final = 0x3832  # the control-unit model is the device id
CHANNEL_PATH_TYPE: Final = 0x32

LITTLE_ENDIAN: Final = "<"
BIG_ENDIAN: Final = ">"


class DeviceId(IntEnum):
    """Kinds of virtio devices."""

    BLOCK = 2
    ENTROPY = 4
    SCSI = 8


class Command(IntEnum):
    """Channel commands of virtio-ccw."""

    WRITE_FEATURES = 0x11
    READ_FEATURES = 0x12
    SET_QUEUE = 0x13
    WRITE_CONFIG = 0x21
    READ_CONFIG = 0x22
    WRITE_STATUS = 0x31
    READ_QUEUE_CONFIG = 0x32
    RESET = 0x33
    SET_INDICATORS = 0x43
    SET_CONFIG_INDICATORS = 0x53
    READ_STATUS = 0x72
    SET_ADAPTER_INDICATORS = 0x73
    SET_REVISION = 0x83


MAX_REVISION: Final = 2

STATUS_FEATURES_OK: Final = 0x08
STATUS_DRIVER_OK: Final = 0x04
STATUS_NEEDS_RESET: Final = 0x40

FEATURE_ANY_LAYOUT: Final = 1 << 27  # legacy only; virtio 1 has no other
FEATURE_INDIRECT: Final = 1 << 28
FEATURE_VERSION_1: Final = 1 << 32
LOW_FEATURES: Final = 0xFFFFFFFF

INDICATOR_SIZE: Final = 8
CLASSIC_INDICATORS: Final = 64  # queues that have a bit in the classic indicators
LEGACY_ALIGNMENT: Final = 4096


@layout(">HH")
class RevisionBlock(NamedTuple):
    """SET_REVISION, followed by `length` bytes."""

    revision: int
    length: int


@layout(">Q4xHHQQ")
class QueueBlock(NamedTuple):
    """SET_QUEUE since revision 1; the parts of the ring by absolute address."""

    descriptors: int  # 0 takes the queue away
    queue: int
    size: int
    available: int
    used: int


@layout(">QIHH")
class LegacyQueueBlock(NamedTuple):
    """SET_QUEUE in revision 0: one address, the other parts follow."""

    address: int  # 0 takes the queue away
    alignment: int
    queue: int
    size: int


@layout(">H")
class QueueIndex(NamedTuple):
    """What READ_QUEUE_CONFIG takes; it gives the same and the largest size, 2 bytes."""

    queue: int


QUEUE_CONFIG_SIZE: Final = 4


@layout("<IB")
class FeatureBlock(NamedTuple):
    """READ_FEATURES and WRITE_FEATURES: 32 feature bits, little endian in every revision."""

    features: int
    word: int  # which 32 of all


FEATURE_WORD_OFFSET: Final = 4


@layout(">Q")
class IndicatorAddress(NamedTuple):
    """SET_INDICATORS and SET_CONFIG_INDICATORS; 0 takes them away."""

    address: int


@layout(">QQQB")
class AdapterIndicators(NamedTuple):
    """SET_ADAPTER_INDICATORS, 25 bytes."""

    summary: int  # absolute address of the summary byte
    indicators: int  # absolute address of the bits, numbered from the left
    bit: int  # of queue 0
    isc: int


NOTIFY_SUBCODE: Final = 3  # DIAGNOSE 500

DESCRIPTOR_FORMAT: Final = "QIHH"  # address, length, flags, next
DESCRIPTOR_SIZE: Final = 16
DESCRIPTOR_NEXT: Final = 1
DESCRIPTOR_WRITE: Final = 2  # the device writes
DESCRIPTOR_INDIRECT: Final = 4
DESCRIPTOR_ALIGNMENT: Final = 16
AVAILABLE_ALIGNMENT: Final = 2
AVAILABLE_NO_INTERRUPT: Final = 1
AVAILABLE_INDEX: Final = 2
AVAILABLE_RING: Final = 4
USED_ALIGNMENT: Final = 4
USED_INDEX: Final = 2
USED_RING: Final = 4
USED_ELEMENT_FORMAT: Final = "II"  # head, bytes written
USED_ELEMENT_SIZE: Final = 8
RING_EXTRA: Final = 6  # flags, index, event index: what both rings have besides their elements

BLOCK_SECTOR: Final = 512  # unit of sector numbers and of the capacity, whatever the logical block is
BLOCK_HEADER_FORMAT: Final = "IIQ"  # type, priority, sector
BLOCK_HEADER_SIZE: Final = 16
BLOCK_ID_SIZE: Final = 20
# capacity, size_max, seg_max, cylinders, heads, sectors, blk_size, physical_block_exp, alignment_offset, min_io_size,
# opt_io_size, writeback, num_queues, and discard and write-zeroes limits that are not offered
BLOCK_CONFIG_FORMAT: Final = "QIIHBBIBBHIBxH24x"
BLOCK_F_SEG_MAX: Final = 1 << 2
BLOCK_F_GEOMETRY: Final = 1 << 4
BLOCK_F_READ_ONLY: Final = 1 << 5
BLOCK_F_BLOCK_SIZE: Final = 1 << 6
BLOCK_F_FLUSH: Final = 1 << 9
BLOCK_F_TOPOLOGY: Final = 1 << 10
# The geometry of a disk that is addressed by block numbers.
GEOMETRY_HEADS: Final = 255
GEOMETRY_SECTORS: Final = 63
GEOMETRY_MAX_CYLINDERS: Final = 0xFFFF


class BlockRequest(IntEnum):
    """Types of block requests."""

    READ = 0
    WRITE = 1
    FLUSH = 4
    GET_ID = 8


class BlockStatus(IntEnum):
    """The byte that ends a block request."""

    OK = 0
    IO_ERROR = 1
    UNSUPPORTED = 2


SCSI_CDB_SIZE: Final = 32
SCSI_SENSE_SIZE: Final = 96
SCSI_REQUEST_SIZE: Final = 19 + SCSI_CDB_SIZE  # LUN 8, id 8, task attribute, priority, CRN, CDB
SCSI_CDB_OFFSET: Final = 19
SCSI_RESPONSE_FORMAT: Final = "IIHBB96s"  # sense length, residual, status qualifier, status, response, sense
SCSI_RESPONSE_SIZE: Final = 108
# num_queues, seg_max, max_sectors, cmd_per_lun, event_info_size, sense_size, cdb_size, max_channel, max_target, max_lun
SCSI_CONFIG_FORMAT: Final = "IIIIIIIHHI"
SCSI_EVENT_SIZE: Final = 16
SCSI_CONTROL_QUEUE: Final = 0
SCSI_EVENT_QUEUE: Final = 1
SCSI_TASK_MANAGEMENT: Final = 0
SCSI_TASK_MANAGEMENT_SIZE: Final = 24  # type, subtype, LUN, id
SCSI_TASK_SUBTYPES: Final = 8
SCSI_NOTIFICATION_QUERY: Final = 1
SCSI_NOTIFICATION_SUBSCRIBE: Final = 2
SCSI_NOTIFICATION_SIZE: Final = 16  # type, LUN, events
SCSI_LUN_SINGLE_LEVEL: Final = 1  # byte 0 of a LUN that names a target and a unit


class ScsiResponse(IntEnum):
    """What the host bus adapter says of a request."""

    OK = 0
    OVERRUN = 1
    BAD_TARGET = 3
    FUNCTION_REJECTED = 11
    INCORRECT_LUN = 12
