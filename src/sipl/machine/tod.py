"""TOD clock, CPU timer and clock comparator of a guest (docs/how-it-works.md).

All values are in units of the TOD clock: bit 51 is one microsecond, so a unit is 1/4096 of it. The clock began on
1 January 1900, 00:00 UTC.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from collections.abc import Callable

UNITS_PER_MICROSECOND: Final = 4096
UNITS_PER_SECOND: Final = 1_000_000 * UNITS_PER_MICROSECOND
_SECONDS_1900_TO_1970: Final = 2_208_988_800
# 4096 units in 1000 nanoseconds, reduced.
_UNITS: Final = 512
_NANOSECONDS: Final = 125

# Measured on Debian: at a quarter of real time a CPU that is that much slower than a real one takes fewer timer
# interruptions, and nothing is gained below it.
DEFAULT_SCALE: Final = 0.25

_WORD: Final = 1 << 64
_MASK: Final = _WORD - 1
_SIGN: Final = 1 << 63
# Behind the 104 bits of the clock in what STCKE stores: they must not all be zero.
_UNIQUE: Final = 0x01


def tod_from_unix(nanoseconds: int) -> int:
    """TOD clock value, 64 bits, of a time given in nanoseconds since 1970 (UTC)."""
    return (_SECONDS_1900_TO_1970 * UNITS_PER_SECOND + nanoseconds * _UNITS // _NANOSECONDS) & _MASK


class TodClock:
    """A TOD clock that runs at a fraction of real time and can jump over the time that a guest only waits.

    `host_clock` gives nanoseconds and never runs backwards (`time.monotonic_ns`); `start` is the TOD clock value that
    the guest begins with; `scale`, greater than 0, is the guest's time over real time. The clock is in the set state:
    condition code 0.
    """

    __slots__ = ("_divisor", "_factor", "_host_clock", "_jumped", "_last", "_offset", "_origin", "scale")

    def __init__(self, host_clock: Callable[[], int], start: int, scale: float = DEFAULT_SCALE) -> None:
        self.scale = scale
        # Whole numbers from here on: a nanosecond of the host is not lost however long the guest runs.
        numerator, denominator = scale.as_integer_ratio()
        self._factor = numerator * _UNITS
        self._divisor = denominator * _NANOSECONDS
        self._host_clock = host_clock
        self._origin = host_clock()
        self._jumped = 0
        self._offset = start & _MASK
        self._last = -1  # what was stored last, not yet cut to 64 bits

    def elapsed(self) -> int:
        """Units that went by since the start, jumps included. Setting the clock does not change it."""
        return (self._host_clock() - self._origin) * self._factor // self._divisor + self._jumped

    def now(self) -> int:
        """The clock as it stands: 64 bits. Compares with the clock comparator; may be given twice."""
        return (self.elapsed() + self._offset) & _MASK

    def store(self) -> int:
        """STCK: 64 bits, greater each time, unless the clock was set or began anew."""
        value = self.elapsed() + self._offset
        if value <= self._last:
            value = self._last + 1
        self._last = value
        return value & _MASK

    def store_fast(self) -> int:
        """STCKF: 64 bits, never less than what was stored before, but perhaps the same."""
        value = self.elapsed() + self._offset
        return max(value, self._last) & _MASK

    def store_extended(self, programmable: int = 0) -> bytes:
        """STCKE: 16 bytes: epoch index (one epoch: 0), 104 bits of clock, the TOD programmable field."""
        clock = self.store().to_bytes(8, "big")
        return b"\0" + clock + bytes((0, 0, 0, 0, _UNIQUE)) + (programmable & 0xFFFF).to_bytes(2, "big")

    def set(self, value: int) -> None:
        """SCK: the clock goes on from `value`. CPU timers do not notice."""
        self._offset = (value & _MASK) - self.elapsed()
        self._last = (value & _MASK) - 1

    def jump_to(self, clock_comparator: int) -> int:
        """Go forward to just beyond a clock-comparator value, where its interruption is pending.

        Returns the units that were left out: 0 if the clock is already beyond, or never will be.
        """
        return self.skip(self.units_until(clock_comparator) or 0)

    def skip(self, units: int) -> int:
        """Let `units` go by at once; returns them."""
        skipped = max(0, units)
        self._jumped += skipped
        return skipped

    def units_until(self, clock_comparator: int) -> int | None:
        """Units until the clock is beyond a clock-comparator value; 0 if it is, None if there is nothing beyond."""
        return None if clock_comparator == _MASK else max(0, clock_comparator + 1 - self.now())

    def comparator_pending(self, clock_comparator: int) -> bool:
        """Whether the clock is beyond the value: the clock-comparator interruption is pending."""
        return self.now() > clock_comparator

    def nanoseconds(self, units: int) -> int:
        """Real time that `units` take if nobody jumps, rounded up."""
        return -(-units * self._divisor // self._factor)


class CpuTimer:
    """CPU timer of one CPU: 64 bits signed, counts down with the TOD clock, pending while it is negative."""

    __slots__ = ("_clock", "_expiry")

    def __init__(self, clock: TodClock) -> None:
        self._clock = clock
        self._expiry = 0
        self.set(0)

    def set(self, value: int) -> None:
        """SPT: `value` is 64 bits, two's complement."""
        self._expiry = self._clock.elapsed() + (((value & _MASK) ^ _SIGN) - _SIGN)

    def store(self) -> int:
        """STPT: 64 bits, two's complement."""
        return self._remaining() & _MASK

    @property
    def pending(self) -> bool:
        """Whether the timer is negative: its interruption is pending."""
        return self._remaining() < 0

    def units_until_pending(self) -> int:
        """Units until the timer is negative; 0 if it is."""
        return 0 if self.pending else self._remaining() + 1

    def _remaining(self) -> int:
        # It wraps: after 2**63 units below zero, which is 71 years, it is positive again.
        return ((self._expiry - self._clock.elapsed()) & _MASK ^ _SIGN) - _SIGN


class TimingCode(IntEnum):
    """Functions of PTFF that are available."""

    QUERY_AVAILABLE = 0
    QUERY_OFFSET = 1
    QUERY_PHYSICAL = 3


_CC_DONE: Final = 0
_CC_NOT_AVAILABLE: Final = 3


class TimingFunction(NamedTuple):
    """How PTFF ends: condition code, and the parameter block to store at general register 1."""

    condition_code: int
    block: bytes


def perform_timing_function(clock: TodClock, r0: int) -> TimingFunction:
    """PTFF by general register 0: the query functions; those that steer the clock are not available.

    Raises:
        ProgramInterruption: specification, where bit 56 of the register is not zero.
    """
    if r0 & 0x80:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    match r0 & 0x7F:
        case TimingCode.QUERY_AVAILABLE:  # a mask of 128 bits
            mask = sum(1 << 127 - function for function in TimingCode)
            return TimingFunction(_CC_DONE, mask.to_bytes(16, "big"))
        case TimingCode.QUERY_OFFSET:  # the guest's clock is the physical one: all offsets are zero
            return TimingFunction(_CC_DONE, clock.now().to_bytes(8, "big") + bytes(24))
        case TimingCode.QUERY_PHYSICAL:
            return TimingFunction(_CC_DONE, clock.now().to_bytes(8, "big"))
        case _:
            return TimingFunction(_CC_NOT_AVAILABLE, b"")
