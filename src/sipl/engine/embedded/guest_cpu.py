"""The guest's CPU as the machine's instructions see it: registers and logical storage access over Unicorn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.dat import walk
from sipl.engine.embedded.unicorn_cpu import CR0, FETCH, PC, PSWM, R0, STORE, UnicornCpu
from sipl.machine.cpu import Cpu

if TYPE_CHECKING:
    from sipl.machine.memory import GuestMemory

MASK_64: Final = 0xFFFF_FFFF_FFFF_FFFF
PSW_DAT: Final = 0x0400000000000000
PSW_IO: Final = 0x0200000000000000
PSW_EXTERNAL: Final = 0x0100000000000000
PSW_WAIT: Final = 0x0002000000000000
PSW_PROBLEM: Final = 0x0001000000000000
PSW_ASC: Final = 0x0000C00000000000
PSW_CC: Final = 0x0000300000000000
PSW_EA_BA: Final = 0x0000000180000000
_CC_SHIFT: Final = 44
_ASC_SHIFT: Final = 46
_PAGE: Final = 0x1000
# Control registers that hold the designation of the address space: primary, AR mode (as primary), secondary, home.
_ASCE: Final = (1, 1, 7, 13)


class _Registers:
    """The general registers as a list."""

    def __init__(self, unicorn: UnicornCpu) -> None:
        self._unicorn = unicorn

    def __getitem__(self, number: int) -> int:
        return self._unicorn.read(R0 + number)

    def __setitem__(self, number: int, value: int) -> None:
        self._unicorn.write(R0 + number, value & MASK_64)


class GuestCpu(Cpu):
    """A CPU whose state lies in Unicorn. `prefix` follows SET PREFIX."""

    def __init__(self, memory: GuestMemory) -> None:
        self.memory = memory
        self.unicorn = UnicornCpu(memory)
        self.registers = _Registers(self.unicorn)  # type: ignore[assignment] # a sequence of 16, as the list is
        self.prefix = 0
        # By page of absolute storage: whether code may have been translated there.
        self.code_pages = bytearray(-(-memory.size // _PAGE))

    @property
    def problem_state(self) -> bool:  # type: ignore[override] # it lies in the PSW
        """Whether the CPU is in the problem state."""
        return bool(self.unicorn.read(PSWM) & PSW_PROBLEM)

    @property
    def mask(self) -> int:
        """Mask word of the PSW, the condition code in it."""
        return self.unicorn.read(PSWM)

    @property
    def address(self) -> int:
        """Instruction address of the PSW."""
        return self.unicorn.read(PC)

    def control(self, number: int) -> int:
        """A control register."""
        return self.unicorn.read(CR0 + number)

    def set_cc(self, cc: int) -> None:
        """Set the condition code."""
        mask = self.unicorn.read(PSWM)
        self.unicorn.write(PSWM, mask & ~PSW_CC | cc << _CC_SHIFT)

    def wrap(self, address: int) -> int:
        """Apply the addressing mode to an effective address."""
        mode = self.unicorn.read(PSWM) & PSW_EA_BA
        if mode == PSW_EA_BA:
            return address & MASK_64
        return address & (0x7FFFFFFF if mode & 0x80000000 else 0xFFFFFF)

    def effective(self, base: int, displacement: int) -> int:
        """Effective address of a base and a displacement."""
        return self.wrap((self.registers[base] if base else 0) + displacement)

    def real(self, address: int, *, store: bool = False) -> int:
        """Real address of a logical one; raises the translation exception."""
        mask = self.unicorn.read(PSWM)
        if not mask & PSW_DAT:
            return address
        designation = self.unicorn.read(CR0 + _ASCE[(mask & PSW_ASC) >> _ASC_SHIFT])
        return walk(self.memory, designation, address, store=store)

    def _logical(self, address: int, length: int, *, store: bool) -> list[tuple[int, int]]:
        pieces = []
        while length > 0:
            step = min(length, _PAGE - address % _PAGE)
            at = self.unicorn.translate(address, STORE if store else FETCH)
            if at is None:
                # Which exception it is, the walk says.
                at = self.absolute(self.real(address, store=store))
                self.memory.check(at, step)
            pieces.append((at, step))
            address = self.wrap(address + step)
            length -= step
        return pieces

    def logical_read(self, address: int, length: int) -> bytes:
        """Fetch a storage operand; raises the access exception."""
        return b"".join(self.memory.read(at, n) for at, n in self._logical(address, length, store=False))

    def check_store(self, address: int, length: int) -> None:
        """Raise the access exception that storing an operand would give."""
        self._logical(address, length, store=True)

    def logical_write(self, address: int, data: bytes) -> None:
        """Store a storage operand; raises the access exception before the first byte is stored."""
        done = 0
        for at, length in self._logical(address, len(data), store=True):
            self.memory.write(at, data[done : done + length])
            done += length

    def written(self, address: int, length: int) -> None:
        """Absolute storage was changed behind the CPU's back: translations of code there are void."""
        if not any(self.code_pages[address // _PAGE : (address + length - 1) // _PAGE + 1]):
            return
        mask = self.unicorn.read(PSWM)
        if mask & PSW_DAT:
            self.unicorn.write(PSWM, mask & ~PSW_DAT)
        # With translation off, addresses are real ones.
        self.unicorn.forget_code(self.absolute(address), self.absolute(address) + length)
        if mask & PSW_DAT:
            self.unicorn.write(PSWM, mask)
