"""A small assembler: guest programs from Python, without binutils.

An `Asm` is a program that grows; its methods are instructions, named with their mnemonics, and a few sequences that
every test needs. Registers 11 to 15 belong to the sequences. Storage operands are `disp(base)` as two numbers.
"""

from __future__ import annotations

MASK_64 = (1 << 64) - 1
ORIGIN = 0xA000

# PSW masks, 64-bit addressing.
SUPERVISOR = 0x0000000180000000
PROBLEM = 0x0001000180000000
WAIT = 0x0002000180000000
DAT = 0x0400000180000000
IO = 0x0200000000000000
EXTERNAL = 0x0100000000000000

PROGRAM_NEW = 0x1D0
PROGRAM_OLD = 0x150
PROGRAM_CODE = 0x8E
PROGRAM_LENGTH = 0x8D
SVC_NEW = 0x1C0
EXTERNAL_NEW = 0x1B0
IO_NEW = 0x1F0

# Addresses of the disabled-wait PSWs that programs end with.
DONE = 0xC0FFEE
PROGRAM_CHECK = 0x9C0
SVC_SEEN = 0x5BC
EXTERNAL_SEEN = 0xE17
IO_SEEN = 0x10
NOT_REACHED = 0xDEAD


PUT_SIZE = 30  # code that stores eight bytes
PUT_PSW_SIZE = 2 * PUT_SIZE
GO_SIZE = PUT_PSW_SIZE + 12 + 4


class Asm:
    """A program at `ORIGIN`; `code` is its bytes so far."""

    def __init__(self, origin: int = ORIGIN) -> None:
        self.origin = origin
        self.code = bytearray()

    @property
    def here(self) -> int:
        """Address of the next instruction."""
        return self.origin + len(self.code)

    def raw(self, data: bytes | str) -> Asm:
        self.code += bytes.fromhex(data) if isinstance(data, str) else data
        return self

    def align(self, boundary: int) -> Asm:
        while self.here % boundary:
            self.raw("0707")  # BCR 0,7
        return self

    # Formats

    def rr(self, op: int, r1: int, r2: int) -> Asm:
        return self.raw(bytes([op, r1 << 4 | r2]))

    def rre(self, op: int, r1: int = 0, r2: int = 0) -> Asm:
        return self.raw(op.to_bytes(2, "big") + bytes([0, r1 << 4 | r2]))

    def ri(self, op: int, r1: int, immediate: int) -> Asm:
        """`op` with its extension as three digits: 0xA7B is AGHI."""
        return self.raw(bytes([op >> 4, r1 << 4 | op & 0xF]) + (immediate & 0xFFFF).to_bytes(2, "big"))

    def ril(self, op: int, r1: int, immediate: int) -> Asm:
        return self.raw(bytes([op >> 4, r1 << 4 | op & 0xF]) + (immediate & 0xFFFFFFFF).to_bytes(4, "big"))

    def rs(self, op: int, r1: int, r3: int, base: int, disp: int = 0) -> Asm:
        return self.raw(bytes([op, r1 << 4 | r3, base << 4 | disp >> 8, disp & 0xFF]))

    def rxy(self, op: int, r1: int, base: int, disp: int = 0, index: int = 0) -> Asm:
        """Also RSY with the third register in place of the index."""
        return self.raw(
            bytes([op >> 8, r1 << 4 | index, base << 4 | disp >> 8 & 0xF, disp & 0xFF, disp >> 12 & 0xFF, op & 0xFF])
        )

    def s(self, op: int, base: int = 0, disp: int = 0) -> Asm:
        return self.raw(op.to_bytes(2, "big") + bytes([base << 4 | disp >> 8, disp & 0xFF]))

    # Instructions

    def diag(self, r1: int, r3: int, function: int) -> Asm:
        return self.rs(0x83, r1, r3, 0, function)

    def svc(self, number: int) -> Asm:
        return self.raw(bytes([0x0A, number]))

    def jump(self, target: int, mask: int = 15) -> Asm:
        return self.ril(0xC04, mask, (target - self.here) // 2)

    def stg(self, r1: int, base: int, disp: int = 0) -> Asm:
        return self.rxy(0xE324, r1, base, disp)

    def lg(self, r1: int, base: int, disp: int = 0) -> Asm:
        return self.rxy(0xE304, r1, base, disp)

    def ipm(self, r1: int) -> Asm:
        """The condition code to bits 34 and 35, nothing else in the register."""
        return self.load(r1, 0).rre(0xB222, r1)

    # Sequences

    def load(self, r1: int, value: int) -> Asm:
        """A register by two immediates."""
        value &= MASK_64
        return self.ril(0xC0E, r1, value >> 32).ril(0xC09, r1, value)

    def put(self, address: int, data: bytes) -> Asm:
        """Store bytes, a multiple of eight."""
        assert len(data) % 8 == 0
        for at in range(0, len(data), 8):
            self.load(15, int.from_bytes(data[at : at + 8], "big")).load(14, address + at).stg(15, 14)
        return self

    def put_psw(self, address: int, mask: int, target: int) -> Asm:
        return self.put(address, mask.to_bytes(8, "big") + target.to_bytes(8, "big"))

    def go(self, mask: int, target: int | None = None) -> Asm:
        """Load a PSW; without a target it is the next instruction's."""
        target = self.here + GO_SIZE if target is None else target
        return self.put_psw(0x4000, mask, target).load(14, 0x4000).s(0xB2B2, 14)

    def end(self, address: int = DONE) -> Asm:
        """Stop with a disabled wait at an address."""
        return self.go(WAIT, address)

    def keep_cc(self, address: int) -> Asm:
        """The condition code, as a doubleword in storage."""
        self.load(13, 0)
        return self.rre(0xB222, 13).rxy(0xEB0C, 13, 0, 28, 13).put_register(address, 13)  # IPM, SRLG by 28

    def put_register(self, address: int, r1: int) -> Asm:
        return self.load(14, address).stg(r1, 14)

    def s_at(self, op: int, address: int) -> Asm:
        """An S instruction on an address."""
        return self.load(12, address).s(op, 12)


def program() -> Asm:
    """A program in 64-bit mode whose interruptions end it, each at an address of its own."""
    asm = Asm().raw("010E")  # SAM64
    for new, address in (
        (PROGRAM_NEW, PROGRAM_CHECK),
        (SVC_NEW, SVC_SEEN),
        (EXTERNAL_NEW, EXTERNAL_SEEN),
        (IO_NEW, IO_SEEN),
    ):
        asm.put_psw(new, WAIT, address)
    return asm
