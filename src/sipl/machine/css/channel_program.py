"""The interpreter of command-mode channel programs (docs/formats/channel-io.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.errors import SiplError
from sipl.layout.css import (
    CCW_CHAIN_COMMAND,
    CCW_CHAIN_DATA,
    CCW_IDA,
    CCW_MIDA,
    CCW_PCI,
    CCW_SIZE,
    CCW_SKIP,
    CCW_SLI,
    CCW_SUSPEND,
    COMMAND_TIC,
    DEVICE_CHANNEL_END,
    DEVICE_DEVICE_END,
    DEVICE_UNIT_CHECK,
    ORB_FORMAT_1,
    ORB_IDAW_2K,
    ORB_IDAW_FORMAT_2,
    ORB_LENGTH_SUPPRESSION,
    ORB_NO_SUSPEND_INTERRUPTION,
    ORB_SUSPEND,
    SUBCHANNEL_INCORRECT_LENGTH,
    SUBCHANNEL_PCI,
    SUBCHANNEL_PROGRAM_CHECK,
    Ccw0,
    Ccw1,
)
from sipl.layout.record import unpack
from sipl.machine.css.device import ChannelData, UnitCheck
from sipl.machine.css.storage import OutsideStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.layout.css import Orb
    from sipl.machine.css.storage import DeviceStorage

# A transfer in channel can lead back for ever. Drivers of virtio devices chain two commands at most; this many take
# some ten milliseconds.
MAX_CCWS: Final = 4096

_FORMAT_0_LIMIT: Final = 1 << 24  # addresses in format-0 CCWs
_FORMAT_1_LIMIT: Final = 1 << 31
_SMALL_BLOCK: Final = 2048  # what one format-1 IDAW, or a format-2 one on request, describes
_LARGE_BLOCK: Final = 4096


class ProgramCheck(SiplError):
    """The channel program is not valid."""

    def __init__(self, why: str) -> None:
        super().__init__("channel program", why)


class Ending(NamedTuple):
    """How a channel program ended, or paused."""

    ccw_address: int  # of the last CCW, plus 8
    residual: int  # bytes
    device_status: int
    subchannel_status: int
    sense: int | None = None  # byte 0, with unit check
    suspended: bool = False
    quiet: bool = False  # the suspension makes no interruption


class _Window(NamedTuple):
    """One CCW of a data chain: where it stands, and where what it describes ends in the data area."""

    address: int
    ccw: Ccw1
    end: int


class ChannelProgram:
    """A channel program; `run` goes on where a suspended one paused."""

    __slots__ = ("_address", "_budget", "_orb", "_pci", "_started", "_storage")

    def __init__(self, storage: DeviceStorage, orb: Orb) -> None:
        self._storage = storage
        self._orb = orb
        self._address = orb.program
        self._budget = MAX_CCWS
        self._started = False  # a transfer in channel cannot be the first CCW
        self._pci = 0

    def run(self, execute: Callable[[int, ChannelData], None]) -> Ending:
        """Carry out the program; `execute` is given command codes with their data areas.

        Whatever is wrong with the program is in the result; nothing but errors of the host is raised.
        """
        self._pci = 0
        try:
            while True:
                ending = self._command(execute)
                if ending is not None:
                    return ending
        except (ProgramCheck, OutsideStorage):
            return Ending(self._address + CCW_SIZE, 0, 0, SUBCHANNEL_PROGRAM_CHECK | self._pci)

    def _command(self, execute: Callable[[int, ChannelData], None]) -> Ending | None:
        """Carry out one command; None if another one follows."""
        ccw = self._fetch(chained=False)
        if ccw.flags & CCW_SUSPEND:
            if not self._orb.control & ORB_SUSPEND:
                raise ProgramCheck("suspend flag without suspend control")
            quiet = bool(self._orb.control & ORB_NO_SUSPEND_INTERRUPTION)
            return Ending(self._address + CCW_SIZE, 0, 0, self._pci, suspended=True, quiet=quiet)
        if not ccw.command & 0x0F:
            raise ProgramCheck(f"command {ccw.command:#04x} is not valid")
        self._started = True
        windows, data = self._data_area(ccw)
        try:
            execute(ccw.command, data)
        except UnitCheck as check:
            window = windows[-1]
            return Ending(window.address + CCW_SIZE, window.ccw.byte_count, DEVICE_UNIT_CHECK, self._pci, check.sense)
        end = data.end or 0
        window = next((window for window in windows if window.end > end), windows[-1])
        residual = window.end - end
        wrong = self._wrong_length(window.ccw, residual, data)
        flags = window.ccw.flags
        if flags & CCW_CHAIN_COMMAND and not flags & CCW_CHAIN_DATA and not wrong:
            self._address = window.address + CCW_SIZE
            return None
        status = (SUBCHANNEL_INCORRECT_LENGTH if wrong else 0) | self._pci
        ended = DEVICE_CHANNEL_END | DEVICE_DEVICE_END
        return Ending(window.address + CCW_SIZE, residual, ended, status)

    def _wrong_length(self, ccw: Ccw1, residual: int, data: ChannelData) -> bool:
        if data.end is None:  # an immediate operation
            format_1 = self._orb.control & ORB_FORMAT_1
            if not format_1 or self._orb.extension & ORB_LENGTH_SUPPRESSION:
                return False
        suppressed = ccw.flags & CCW_SLI and not ccw.flags & CCW_CHAIN_DATA
        return bool((residual or data.overrun) and not suppressed)

    def _data_area(self, ccw: Ccw1) -> tuple[list[_Window], ChannelData]:
        windows: list[_Window] = []
        parts: list[tuple[int, int, bool]] = []
        total = 0
        while True:
            if not ccw.byte_count and (windows or ccw.flags & CCW_CHAIN_DATA or not self._orb.control & ORB_FORMAT_1):
                raise ProgramCheck("a count is zero")
            if ccw.flags & CCW_MIDA:
                raise ProgramCheck("modified indirect data addressing is not there")
            if ccw.flags & CCW_PCI:
                self._pci = SUBCHANNEL_PCI
            skip = bool(ccw.flags & CCW_SKIP)
            areas = self._indirect(ccw) if ccw.flags & CCW_IDA else [(ccw.address, ccw.byte_count)]
            parts += [(address, length, skip) for address, length in areas]
            total += ccw.byte_count
            windows.append(_Window(self._address, ccw, total))
            if not ccw.flags & CCW_CHAIN_DATA:
                return windows, ChannelData(self._storage, parts)
            self._address += CCW_SIZE
            ccw = self._fetch(chained=True)

    def _indirect(self, ccw: Ccw1) -> list[tuple[int, int]]:
        """The areas that a list of indirect-data-address words describes."""
        large = bool(self._orb.control & ORB_IDAW_FORMAT_2)
        width = 8 if large else 4
        block = _LARGE_BLOCK if large and not self._orb.control & ORB_IDAW_2K else _SMALL_BLOCK
        if ccw.address % width:
            raise ProgramCheck("an indirect-data-address list is not aligned")
        areas: list[tuple[int, int]] = []
        at, left = ccw.address, ccw.byte_count
        while left:
            address = int.from_bytes(self._storage.fetch(at, width), "big")
            if areas and address % block:
                raise ProgramCheck("an indirect-data-address word does not name the start of a block")
            if not large and address >= _FORMAT_1_LIMIT:
                raise ProgramCheck("an indirect-data-address word has bit 0 on")
            length = min(left, block - address % block)
            areas.append((address, length))
            left -= length
            at += width
        return areas

    def _fetch(self, *, chained: bool) -> Ccw1:
        """The CCW at the current address, or the one that a transfer in channel there leads to."""
        transferred = False
        while True:
            self._budget -= 1
            if self._budget < 0:
                raise ProgramCheck(f"more than {MAX_CCWS} CCWs")
            ccw = self._decode()
            if ccw.command != COMMAND_TIC:
                return ccw
            if transferred or not (self._started or chained):
                raise ProgramCheck("a transfer in channel that may not stand there")
            transferred = True
            self._address = ccw.address

    def _decode(self) -> Ccw1:
        if self._address % CCW_SIZE:
            raise ProgramCheck("a CCW is not aligned")
        record = self._storage.fetch(self._address, CCW_SIZE)
        if not self._orb.control & ORB_FORMAT_1:
            if self._address >= _FORMAT_0_LIMIT:
                raise ProgramCheck("a format-0 CCW lies above 16 MiB")
            short = unpack(Ccw0, record)
            command = short.command_address >> 24
            address = short.command_address & (_FORMAT_0_LIMIT - 1)
            if command & 0x0F == COMMAND_TIC:  # everything else in it is ignored
                return Ccw1(COMMAND_TIC, 0, 0, address)
            return Ccw1(command, short.flags, short.byte_count, address)
        ccw = unpack(Ccw1, record)
        if ccw.address >= _FORMAT_1_LIMIT:
            raise ProgramCheck("an address has bit 0 on")
        if ccw.command & 0x0F == COMMAND_TIC and (ccw.command, ccw.flags, ccw.byte_count) != (COMMAND_TIC, 0, 0):
            raise ProgramCheck("a transfer in channel with something in its reserved bits")
        return ccw
