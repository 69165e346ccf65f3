"""A guest's own driver for virtio-blk, as far as the tests need one."""

from __future__ import annotations

import struct

from guest_asm import Asm, program
from guest_lab import SPARE

from sipl.layout.virtio import Command

NEXT, WRITE, INDIRECT = 1, 2, 4


class Ring:
    """A virtio-blk device set up by channel programs, with a ring of `size` in guest storage.

    With a ring of 128 it may be a balloon, too.
    """

    DESCRIPTORS, AVAILABLE, USED = 0x220000, 0x222000, 0x223000
    HEADER, BUFFER, STATUS = 0x230000, 0x231000, 0x230800
    CCWS, BLOCKS = 0x240000, 0x241000

    def __init__(self, revision: int = 1, size: int = 256) -> None:
        self.asm = program()
        self.asm.load(1, 0x10000)
        self.asm.s_at(0xB234, SPARE)  # STSCH
        self.asm.load(14, SPARE).raw("9600E004").raw("9681E005")  # OI: enabled
        self.asm.s_at(0xB232, SPARE)  # MSCH
        self.asm.put(0x4100, struct.pack(">IHBB", 0, 0x0080, 0xFF, 0) + struct.pack(">II", self.CCWS, 0))
        self.command(Command.SET_REVISION, struct.pack(">HH", revision, 0))
        self.command(Command.WRITE_STATUS, b"\x01")
        self.command(Command.WRITE_STATUS, b"\x03")
        self.command(Command.WRITE_FEATURES, struct.pack("<IB", 0, 0))
        self.command(Command.WRITE_FEATURES, struct.pack("<IB", 1, 1))
        self.command(Command.WRITE_STATUS, b"\x0b")
        self.command(Command.SET_QUEUE, struct.pack(">Q4xHHQQ", self.DESCRIPTORS, 0, size, self.AVAILABLE, self.USED))
        self.command(Command.WRITE_STATUS, b"\x0f")

    def command(self, code: int, data: bytes, expect_cc: bool = True) -> None:
        """One channel command: SSCH, TSCH."""
        padded = data.ljust(-(-len(data) // 8) * 8, b"\0")
        self.asm.put(self.BLOCKS, padded)
        self.asm.put(self.CCWS, struct.pack(">BBHI", int(code), 0x20, len(data), self.BLOCKS))
        self.asm.load(1, 0x10000).s_at(0xB233, 0x4100).s_at(0xB235, SPARE + 0x200)

    def descriptors(self, *entries: tuple[int, int, int, int]) -> None:
        data = b"".join(struct.pack("<QIHH", *entry) for entry in entries)
        self.asm.put(self.DESCRIPTORS, data)

    def available(self, index: int, *heads: int) -> None:
        data = struct.pack("<HH", 0, index) + b"".join(struct.pack("<H", head) for head in heads)
        self.asm.put(self.AVAILABLE, data.ljust(-(-len(data) // 8) * 8, b"\0"))

    def request(self, kind: int = 0, sector: int = 0) -> None:
        self.asm.put(self.HEADER, struct.pack("<IIQ", kind, 0, sector))

    def notify(self, queue: int = 0) -> Asm:
        self.asm.load(1, 3).load(2, 0x10000).load(3, queue).load(4, 0)
        return self.asm.rs(0x83, 2, 4, 0, 0x500)
