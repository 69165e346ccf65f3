"""A SCSI disk: one logical unit, and the commands that guests send (docs/formats/channel-io.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.overlay import WritableDisk
from sipl.errors import SiplError
from sipl.layout.scsi import (
    BLOCK_LIMITS_LENGTH,
    CACHING_LENGTH,
    CACHING_WRITE_CACHE,
    DESIGNATOR_ASCII,
    DESIGNATOR_VENDOR,
    INQUIRY_FORMAT,
    INQUIRY_LENGTH,
    INQUIRY_PAGES,
    INQUIRY_QUEUES,
    INQUIRY_VERSION,
    MODE_CHANGEABLE,
    MODE_PAGE_ALL,
    MODE_PAGE_CACHING,
    MODE_SAVED,
    MODE_WRITE_PROTECTED,
    NO_UNIT,
    PAGE_BLOCK_LIMITS,
    PAGE_IDENTIFICATION,
    PAGE_LIST,
    PAGE_SERIAL,
    READ_CAPACITY_16,
    SENSE_FIXED,
    SENSE_LENGTH,
    Operation,
    Sense,
)
from sipl.machine.virtio.device import MAX_TRANSFER

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.disk.block_device import BlockDevice

_VENDOR: Final = b"SIPL    "
_PRODUCT: Final = b"VIRTUAL DISK    "
_REVISION: Final = b"1   "
_MAX_SERIAL: Final = 20
# What is answered although there is no logical unit, or whatever unit is named.
_ANY_UNIT: Final = frozenset({Operation.INQUIRY, Operation.REPORT_LUNS, Operation.REQUEST_SENSE})


class CheckCondition(Exception):
    """The command ends with sense data."""

    def __init__(self, sense: Sense) -> None:
        self.sense = sense
        super().__init__(sense.name)


class Transfer(NamedTuple):
    """Blocks that a command moves; `write` from the guest to the disk."""

    block: int
    blocks: int
    write: bool


class ScsiDisk:
    """The disk behind a logical unit; read-only unless `disk` is a `WritableDisk`.

    A command is taken apart by `execute`; what moves blocks is done by `read` and `write`, straight from and to where
    the guest wants it. `host_error` is the last fault of the host or the image, None if there was none.
    """

    def __init__(self, disk: BlockDevice, serial: str = "") -> None:
        self._disk = disk
        self._writable = disk.writable if isinstance(disk, WritableDisk) else None
        self._serial = serial.encode("ascii", "replace")[:_MAX_SERIAL]
        self.host_error: SiplError | None = None
        self._commands: dict[int, Callable[[bytes], bytes]] = {
            Operation.TEST_UNIT_READY: lambda _: b"",
            Operation.START_STOP_UNIT: lambda _: b"",
            Operation.PREVENT_ALLOW_REMOVAL: lambda _: b"",
            Operation.REQUEST_SENSE: lambda cdb: sense_data(Sense.NONE)[: cdb[4]],
            Operation.INQUIRY: self._inquiry,
            Operation.MODE_SENSE_6: self._mode_sense_6,
            Operation.MODE_SENSE_10: self._mode_sense_10,
            Operation.READ_CAPACITY_10: self._read_capacity_10,
            Operation.SERVICE_ACTION_IN_16: self._service_action_in,
            Operation.REPORT_LUNS: self._report_luns,
            Operation.SYNCHRONIZE_CACHE_10: self._synchronize,
            Operation.SYNCHRONIZE_CACHE_16: self._synchronize,
        }

    @property
    def block_size(self) -> int:
        """Bytes of a logical block."""
        return self._disk.block_size

    def execute(self, cdb: bytes, unit: int) -> bytes | Transfer:
        """Take a command of 32 bytes for a logical unit: what it gives to the guest, or the blocks that it moves.

        Raises:
            CheckCondition: it cannot be carried out.
        """
        if unit and cdb[0] not in _ANY_UNIT:
            raise CheckCondition(Sense.NO_SUCH_UNIT)
        if unit and cdb[0] == Operation.INQUIRY and not cdb[1] & INQUIRY_PAGES:
            return bytes([NO_UNIT]).ljust(INQUIRY_LENGTH, b"\0")[: int.from_bytes(cdb[3:5], "big")]
        if cdb[0] in self._commands:
            return self._commands[cdb[0]](cdb)
        transfer = _transfer(cdb)
        if transfer.write and self._writable is None:
            raise CheckCondition(Sense.WRITE_PROTECTED)
        if transfer.block + transfer.blocks > self._disk.blocks:
            raise CheckCondition(Sense.BLOCK_OUT_OF_RANGE)
        if transfer.blocks * self._disk.block_size > MAX_TRANSFER:
            raise CheckCondition(Sense.INVALID_FIELD)
        return transfer

    def read(self, transfer: Transfer, views: list[memoryview]) -> None:
        """Read the blocks of a transfer into `views`, which together are as long.

        Raises:
            CheckCondition: the disk cannot be read.
        """
        offset = transfer.block * self._disk.block_size
        try:
            for view in views:
                self._disk.image.read_into(offset, view)
                offset += len(view)
        except SiplError as error:
            self.host_error = error
            raise CheckCondition(Sense.READ_ERROR) from error

    def write(self, transfer: Transfer, views: list[memoryview]) -> None:
        """Write `views`, which together are as long, to the blocks of a transfer.

        Raises:
            CheckCondition: the disk is read-only, or the host cannot keep them.
        """
        if self._writable is None:
            raise CheckCondition(Sense.WRITE_PROTECTED)
        offset = transfer.block * self._disk.block_size
        try:
            for view in views:
                self._writable.write_from(offset, view)
                offset += len(view)
        except SiplError as error:
            self.host_error = error
            raise CheckCondition(Sense.WRITE_ERROR) from error

    def _synchronize(self, cdb: bytes) -> bytes:
        del cdb
        try:
            if self._writable is not None:
                self._writable.flush()
        except SiplError as error:
            self.host_error = error
            raise CheckCondition(Sense.WRITE_ERROR) from error
        return b""

    def _inquiry(self, cdb: bytes) -> bytes:
        allocated = int.from_bytes(cdb[3:5], "big")
        if cdb[1] & INQUIRY_PAGES:
            page = self._pages().get(cdb[2])
            if page is None:
                raise CheckCondition(Sense.INVALID_FIELD)
            return (bytes([0, cdb[2]]) + len(page).to_bytes(2, "big") + page)[:allocated]
        if cdb[2]:
            raise CheckCondition(Sense.INVALID_FIELD)
        head = bytes([0, 0, INQUIRY_VERSION, INQUIRY_FORMAT, INQUIRY_LENGTH - 5, 0, 0, INQUIRY_QUEUES])
        return (head + _VENDOR + _PRODUCT + _REVISION)[:allocated]

    def _pages(self) -> dict[int, bytes]:
        """Vital-product-data pages by number, without their headers."""
        most = MAX_TRANSFER // self._disk.block_size
        pages = {PAGE_BLOCK_LIMITS: (bytes(4) + most.to_bytes(4, "big")).ljust(BLOCK_LIMITS_LENGTH, b"\0")}
        if self._serial:  # without one, nothing tells this disk from others
            name = _VENDOR + self._serial
            pages[PAGE_SERIAL] = self._serial
            pages[PAGE_IDENTIFICATION] = bytes([DESIGNATOR_ASCII, DESIGNATOR_VENDOR, 0, len(name)]) + name
        pages[PAGE_LIST] = bytes(sorted([PAGE_LIST, *pages]))
        return pages

    def _mode_sense_6(self, cdb: bytes) -> bytes:
        pages = self._mode_pages(cdb)
        return (bytes([3 + len(pages), 0, self._mode_flags(), 0]) + pages)[: cdb[4]]

    def _mode_sense_10(self, cdb: bytes) -> bytes:
        pages = self._mode_pages(cdb)
        head = (6 + len(pages)).to_bytes(2, "big") + bytes([0, self._mode_flags(), 0, 0, 0, 0])
        return (head + pages)[: int.from_bytes(cdb[7:9], "big")]

    def _mode_flags(self) -> int:
        return MODE_WRITE_PROTECTED if self._writable is None else 0

    def _mode_pages(self, cdb: bytes) -> bytes:
        control, page = cdb[2] >> 6, cdb[2] & 0x3F
        if page not in {MODE_PAGE_CACHING, MODE_PAGE_ALL} or control == MODE_SAVED:
            raise CheckCondition(Sense.INVALID_FIELD)
        caching = CACHING_WRITE_CACHE if self._writable is not None and control != MODE_CHANGEABLE else 0
        return bytes([MODE_PAGE_CACHING, CACHING_LENGTH, caching]).ljust(2 + CACHING_LENGTH, b"\0")

    def _read_capacity_10(self, cdb: bytes) -> bytes:
        del cdb
        last = min(max(self._disk.blocks - 1, 0), 0xFFFFFFFF)
        return last.to_bytes(4, "big") + self._disk.block_size.to_bytes(4, "big")

    def _service_action_in(self, cdb: bytes) -> bytes:
        if cdb[1] & 0x1F != READ_CAPACITY_16:
            raise CheckCondition(Sense.INVALID_FIELD)
        last = max(self._disk.blocks - 1, 0)
        capacity = last.to_bytes(8, "big") + self._disk.block_size.to_bytes(4, "big") + bytes(20)
        return capacity[: int.from_bytes(cdb[10:14], "big")]

    def _report_luns(self, cdb: bytes) -> bytes:
        if cdb[2] > 2:
            raise CheckCondition(Sense.INVALID_FIELD)
        well_known_only = cdb[2] == 1  # of which there are none
        units = b"" if well_known_only else bytes(8)
        return (len(units).to_bytes(4, "big") + bytes(4) + units)[: int.from_bytes(cdb[6:10], "big")]


def sense_data(sense: Sense) -> bytes:
    """Fixed-format sense data, 18 bytes."""
    key, code, qualifier = sense.to_bytes(3, "big")
    head = bytes([SENSE_FIXED, 0, key, 0, 0, 0, 0, SENSE_LENGTH - 8, 0, 0, 0, 0, code, qualifier])
    return head.ljust(SENSE_LENGTH, b"\0")


def _transfer(cdb: bytes) -> Transfer:
    operation = cdb[0]
    match operation:
        case Operation.READ_6 | Operation.WRITE_6:
            block = int.from_bytes(cdb[1:4], "big") & 0x1FFFFF
            return Transfer(block, cdb[4] or 256, operation == Operation.WRITE_6)
        case Operation.READ_10 | Operation.WRITE_10:
            count = int.from_bytes(cdb[7:9], "big")
            return Transfer(int.from_bytes(cdb[2:6], "big"), count, operation == Operation.WRITE_10)
        case Operation.READ_16 | Operation.WRITE_16:
            count = int.from_bytes(cdb[10:14], "big")
            return Transfer(int.from_bytes(cdb[2:10], "big"), count, operation == Operation.WRITE_16)
    raise CheckCondition(Sense.INVALID_OPERATION)
