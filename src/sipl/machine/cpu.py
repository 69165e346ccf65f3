"""What of a CPU the emulated instructions see: general registers, the problem-state bit, logical storage access."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from sipl.machine.memory import GuestMemory

PREFIX_AREA: Final = 0x2000  # bytes that prefixing exchanges


class Cpu:
    """Architected state of one CPU, as far as DIAGNOSE and SERVC need it.

    `registers` are the 16 general registers, 64 bits each. Logical accesses are by real address: dynamic address
    translation is off. An engine that runs guest code gives its own `logical_read` and `logical_write`.
    """

    __slots__ = ("memory", "prefix", "problem_state", "registers")

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.registers = [0] * 16
        self.problem_state = False
        self.prefix = 0

    def absolute(self, real: int) -> int:
        """Apply prefixing to a real address."""
        if real < PREFIX_AREA:
            return real + self.prefix
        if self.prefix <= real < self.prefix + PREFIX_AREA:
            return real - self.prefix
        return real

    def logical_read(self, address: int, length: int) -> bytes:
        """Fetch a storage operand; raises the access exception as `ProgramInterruption`."""
        return b"".join(self.memory.read(at, n) for at, n in self._pieces(address, length))

    def logical_write(self, address: int, data: bytes) -> None:
        """Store a storage operand; an access exception is raised before the first byte is stored."""
        pieces = self._pieces(address, len(data))
        for at, length in pieces:
            self.memory.check(at, length)
        done = 0
        for at, length in pieces:
            self.memory.write(at, data[done : done + length])
            done += length

    def _pieces(self, address: int, length: int) -> list[tuple[int, int]]:
        """Cut `[address, address + length)` where prefixing may change the mapping; absolute address and length."""
        pieces = []
        while length > 0:
            step = min(length, PREFIX_AREA - address % PREFIX_AREA)
            pieces.append((self.absolute(address), step))
            address += step
            length -= step
        return pieces

    def require_supervisor(self) -> None:
        """Raise a privileged-operation exception in the problem state."""
        if self.problem_state:
            raise ProgramInterruption(ProgramCode.PRIVILEGED)

    def result_register(self, r1: int) -> int:
        """Number of the odd register that takes a response code; an odd `r1` is a specification exception."""
        if r1 & 1:
            raise ProgramInterruption(ProgramCode.SPECIFICATION)
        return r1 + 1
