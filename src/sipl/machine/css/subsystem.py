"""The I/O instructions of z/Architecture (docs/formats/channel-io.md)."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from sipl.errors import UsageError
from sipl.layout.css import (
    CHSC_BLOCK_SIZE,
    CRW_CHANNEL_PATH,
    CRW_INITIALIZED,
    CRW_OVERFLOW,
    CRW_SOLICITED,
    MAX_SSID,
    MEASUREMENT_ADDRESS_OFFSET,
    MEASUREMENT_BLOCK_ALIGNMENT,
    ORB_EXTENSION_RESERVED,
    ORB_MIDA,
    ORB_PROGRAM_RESERVED,
    ORB_TRANSPORT,
    PMCW_CHAR_BLOCK_FORMAT,
    PMCW_CHAR_EXTENDED_MEASUREMENT,
    PMCW_CHAR_RESERVED,
    PMCW_LIMIT,
    PMCW_RESERVED,
    RCHP_CHPID,
    RCHP_CSS,
    RCHP_RESERVED,
    SAL_RESERVED,
    SCHIB_SIZE,
    SCHM_MEASUREMENT,
    SCHM_ORIGIN_RESERVED,
    SCHM_RESERVED,
    SID_NUMBER,
    SID_ONE,
    SID_RESERVED,
    SID_SSID,
    SID_SSID_SHIFT,
    Orb,
    Pmcw,
)
from sipl.layout.record import unpack
from sipl.machine.css.chsc import answer
from sipl.machine.css.storage import DeviceStorage
from sipl.machine.css.subchannel import CHPID, Subchannel
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    from sipl.machine.css.device import ChannelDevice
    from sipl.machine.css.interruptions import IoInterruption, IoInterruptions
    from sipl.machine.memory import GuestMemory

MAX_SUBCHANNELS: Final = SID_NUMBER + 1  # of one set
MAX_DEVICE_NUMBER: Final = 0xFFFF
# Only RESET CHANNEL PATH makes channel reports, and a guest may issue it for ever without reading one.
MAX_CHANNEL_REPORTS: Final = 16


class ChannelSubsystem:
    """Subchannels and the instructions on them.

    Instructions take a subsystem-identification word (bits 32 to 63 of general register 1) and give a condition code,
    with condition code 3 where there is no such subchannel. They raise `ProgramInterruption`: operand, specification,
    addressing. Operands in storage come and go as bytes; the CPU checks that it can reach them first, because an
    instruction that ends with an access exception must change nothing. The CPU also sees to privilege and alignment.
    """

    def __init__(
        self, memory: GuestMemory, interruptions: IoInterruptions, stored: Callable[[int, int], None] | None = None
    ) -> None:
        """Start without subchannels; `stored` is told what devices write, see `DeviceStorage`."""
        self.interruptions = interruptions
        self.storage = DeviceStorage(memory, stored)
        self._sets: tuple[list[Subchannel], ...] = tuple([] for _ in range(MAX_SSID + 1))
        self._several_sets = False
        self._reports: deque[int] = deque(maxlen=MAX_CHANNEL_REPORTS)
        self._deferred: dict[Hashable, Callable[[], None]] = {}

    def attach(self, device: ChannelDevice, device_number: int, ssid: int = 0) -> Subchannel:
        """Give a device the next subchannel of a subchannel set.

        Raises:
            UsageError: the device number is in use or no 16-bit number, there is no such set, or it is full.
        """
        where = f"device 0.{ssid}.{device_number:04x}"
        if not 0 <= ssid <= MAX_SSID or not 0 <= device_number <= MAX_DEVICE_NUMBER:
            raise UsageError(where, "there is no such device number", "0.0.0000 to 0.3.ffff")
        subchannels = self._sets[ssid]
        if any(other.device_number == device_number for other in subchannels):
            raise UsageError(where, "the device number is in use", "choose another one")
        if len(subchannels) == MAX_SUBCHANNELS:
            raise UsageError(where, "the subchannel set is full")
        number = len(subchannels)
        subchannel = Subchannel(device, ssid, number, device_number, self.storage, self.interruptions)
        subchannels.append(subchannel)
        device.attached(subchannel)
        return subchannel

    def subchannels(self) -> Iterator[Subchannel]:
        """All subchannels, set by set."""
        for subchannels in self._sets:
            yield from subchannels

    def find(self, subsystem_id: int) -> Subchannel | None:
        """The subchannel of a subsystem-identification word, None if there is none or the word is not valid."""
        if subsystem_id & SID_RESERVED or not subsystem_id & SID_ONE:
            return None
        subchannels = self._sets[(subsystem_id & SID_SSID) >> SID_SSID_SHIFT]
        number = subsystem_id & SID_NUMBER
        return subchannels[number] if number < len(subchannels) else None

    def reset(self) -> None:
        """I/O-system reset, as DIAGNOSE 308 and every IPL perform it: subchannels are disabled, devices reset."""
        self._deferred.clear()
        for subchannel in self.subchannels():
            subchannel.reset()
        self.interruptions.clear()
        self._reports.clear()
        self._several_sets = False

    @property
    def work_left(self) -> bool:
        """Whether a device stopped in the middle of what it was told, so as not to take too long at a time."""
        return bool(self._deferred)

    def defer(self, key: Hashable, work: Callable[[], None]) -> None:
        """Keep work of a device for the next `continue_work`; what is already kept under `key` stays in its place."""
        self._deferred.setdefault(key, work)

    def continue_work(self) -> None:
        """Do one piece of what was deferred; to be called between guest instructions as long as `work_left`."""
        if self._deferred:
            self._deferred.pop(next(iter(self._deferred)))()

    def stsch(self, sid: int) -> tuple[int, bytes]:
        """STORE SUBCHANNEL: condition code, SCHIB (52 bytes, none with condition code 3)."""
        subchannel = self._subchannel(sid)
        return (3, b"") if subchannel is None else (0, subchannel.store())

    def msch(self, sid: int, schib: bytes) -> int:
        """MODIFY SUBCHANNEL with a SCHIB of 52 bytes."""
        pmcw = unpack(Pmcw, schib)
        subchannel = self._subchannel(sid)
        origin = int.from_bytes(schib[MEASUREMENT_ADDRESS_OFFSET : MEASUREMENT_ADDRESS_OFFSET + 8], "big")
        _require(
            len(schib) >= SCHIB_SIZE
            and not pmcw.flags & PMCW_RESERVED
            and pmcw.flags & PMCW_LIMIT != PMCW_LIMIT
            and not pmcw.characteristics & (PMCW_CHAR_RESERVED | PMCW_CHAR_EXTENDED_MEASUREMENT)
            and not (pmcw.characteristics & PMCW_CHAR_BLOCK_FORMAT and origin % MEASUREMENT_BLOCK_ALIGNMENT)
        )
        return 3 if subchannel is None else subchannel.modify(schib)

    def ssch(self, sid: int, orb: bytes) -> int:
        """START SUBCHANNEL with an ORB, of which 12 bytes count."""
        request = unpack(Orb, orb)
        subchannel = self._subchannel(sid)
        _require(
            not request.control & ORB_TRANSPORT
            and not request.extension & (ORB_MIDA | ORB_EXTENSION_RESERVED)
            and not request.program & ORB_PROGRAM_RESERVED
        )
        return 3 if subchannel is None else subchannel.start(request)

    def tsch(self, sid: int) -> tuple[int, bytes]:
        """TEST SUBCHANNEL: condition code, IRB (64 bytes, none with condition code 3)."""
        subchannel = self._subchannel(sid)
        return (3, b"") if subchannel is None else subchannel.test()

    def csch(self, sid: int) -> int:
        """CLEAR SUBCHANNEL."""
        subchannel = self._subchannel(sid)
        return 3 if subchannel is None else subchannel.clear()

    def hsch(self, sid: int) -> int:
        """HALT SUBCHANNEL."""
        subchannel = self._subchannel(sid)
        return 3 if subchannel is None else subchannel.halt()

    def rsch(self, sid: int) -> int:
        """RESUME SUBCHANNEL."""
        subchannel = self._subchannel(sid)
        return 3 if subchannel is None else subchannel.resume()

    def xsch(self, sid: int) -> int:
        """CANCEL SUBCHANNEL."""
        subchannel = self._subchannel(sid)
        return 3 if subchannel is None else subchannel.cancel()

    def tpi(self, cr6: int) -> IoInterruption | None:
        """TEST PENDING INTERRUPTION: takes the interruption that comes first; condition code 0 is None, 1 is not."""
        interruption = self.interruptions.first(cr6)
        if interruption is not None:
            self.interruptions.take(interruption)
        return interruption

    @property
    def report_pending(self) -> bool:
        """Whether a channel-report-pending machine check is due."""
        return bool(self._reports)

    def stcrw(self) -> tuple[int, int]:
        """STORE CHANNEL REPORT WORD: condition code, channel-report word (0 with condition code 1)."""
        return (0, self._reports.popleft()) if self._reports else (1, 0)

    def schm(self, register_1: int, register_2: int) -> None:
        """SET CHANNEL MONITOR: accepted; nothing is measured, as a device that is never busy has it."""
        _require(not register_1 & SCHM_RESERVED)
        _require(not (register_1 & SCHM_MEASUREMENT and register_2 & SCHM_ORIGIN_RESERVED))

    def rchp(self, register_1: int) -> int:
        """RESET CHANNEL PATH: the only one needs no reset, and reports that it had it."""
        _require(not register_1 & (RCHP_RESERVED | RCHP_CSS))
        if register_1 & RCHP_CHPID != CHPID or not any(self._sets):
            return 3
        overflow = CRW_OVERFLOW if len(self._reports) == MAX_CHANNEL_REPORTS else 0
        self._reports.append(CRW_SOLICITED | overflow | CRW_CHANNEL_PATH | CRW_INITIALIZED | CHPID)
        return 0

    def sal(self, register_1: int) -> None:
        """SET ADDRESS LIMIT: accepted; no device is subject to it."""
        _require(not register_1 & SAL_RESERVED)

    def chsc(self, block_address: int) -> int:
        """CHANNEL SUBSYSTEM CALL with a block of 4096 bytes at an absolute address.

        Raises:
            ProgramInterruption: specification (not at a page), addressing, operand (length of the request).
        """
        if block_address % CHSC_BLOCK_SIZE:
            raise ProgramInterruption(ProgramCode.SPECIFICATION)
        if block_address + CHSC_BLOCK_SIZE > self.storage.size:
            raise ProgramInterruption(ProgramCode.ADDRESSING)
        reply = answer(self.storage.fetch(block_address, CHSC_BLOCK_SIZE), paths=any(self._sets))
        self._several_sets |= reply.several_sets
        self.storage.store(block_address + reply.offset, reply.data)
        return 0

    def _subchannel(self, sid: int) -> Subchannel | None:
        sid &= 0xFFFFFFFF
        _require(bool(sid & SID_ONE) and not sid & SID_RESERVED)
        _require(self._several_sets or not sid & SID_SSID)
        return self.find(sid)


def _require(valid: bool) -> None:
    """Raise an operand exception unless a reserved bit, or a combination, is valid."""
    if not valid:
        raise ProgramInterruption(ProgramCode.OPERAND)
