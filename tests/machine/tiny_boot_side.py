"""A second boot side, for tests: loads what a zipl disk names and has it verified, by DIAGNOSE and SCLP alone.

It shares no code with `sipl.firmware` or `sipl.layout`, and knows nothing of SCLABs, PSWs, reports and menus: it tells
what lies where after loading, and which certificate the machine says verified it. `Machine.find_device` and
`Machine.read_blocks` stand in for the channel subsystem.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from sipl.machine.cpu import Cpu

R1, R3 = 8, 13
LOAD, EXECUTE, SIGNATURE = 2, 1, 3
PAGE = 4096


class NextDevice(Exception):
    """This device does not boot."""


class Stops(Exception):
    """No later device is tried."""


class Part(NamedTuple):
    """A component: `der` is the certificate that the machine says verified it, at position `index` of the store."""

    address: int
    length: int
    signed: bool = False
    verified: bool = False
    index: int | None = None
    der: bytes | None = None


class TinyBootSide:
    """One IPL; `parts` are the components of the device that was tried last, `outcome` says how it ended."""

    def __init__(self, machine):
        self.machine = machine
        self.memory = machine.memory
        self.cpu = Cpu(machine.memory)
        base = machine.firmware_base
        self.room = base + 0x200000  # nothing else lies here
        self.forbidden = (base - 7 * PAGE, 0)
        self.parts = []
        self.outcome = ""
        self.position = None
        self.certificates = {}
        self.vcb_length = 0

    def ipl(self):
        """Try one device after the other; the result is the outcome."""
        try:
            self.outcome = self._ipl()
        except Stops:
            self.outcome = "stops"
        return self.outcome

    def _ipl(self):
        self._ask_sclp()
        block = self.room
        assert self._diagnose(0x308, block, 6) == 1
        iplb = self._get(block, PAGE)
        self.verifying = bool(iplb[4] & 0x20)
        if self.verifying:
            self._check_machine(secure=bool(iplb[4] & 0x40))
        chain_length, chain = struct.unpack(">HQ", self._get(0xCC + 18, 10))
        blocks = [iplb, *(self._get(chain + PAGE * number, PAGE) for number in range(chain_length))]
        for one in blocks:
            self.parts = []
            try:
                self._boot(one)
            except NextDevice:
                continue
            return "hands-over"
        return "no-bootable-device"

    # The machine

    def _get(self, address, length):
        return bytes(self.memory.view[address : address + length])

    def _put(self, address, data):
        self.memory.view[address : address + len(data)] = data

    def _diagnose(self, function, address, subcode):
        self.cpu.registers[R1], self.cpu.registers[R3] = address, subcode
        self.machine.execute_diagnose(self.cpu, function, R1, R3)
        return self.cpu.registers[R1 + 1]

    def _ask_sclp(self):
        sccb = self.room + PAGE
        self._put(sccb, struct.pack(">H", PAGE).ljust(PAGE, b"\0"))
        self.machine.execute_service_call(self.cpu, 0x00020001, sccb)
        answer = self._get(sccb, PAGE)
        assert struct.unpack_from(">H", answer, 6) == (0x0010,)
        increments, mib = struct.unpack_from(">HB", answer, 8)
        self.size = increments * mib << 20
        self.forbidden = (self.forbidden[0], min(self.size, 1 << 31))
        self.loadparm = answer[24:32]
        (entries,) = struct.unpack_from(">H", answer, 18)
        self.facilities = (answer[134], struct.unpack_from(">H", answer, 136)[0]) if entries >= 144 else (0, 0)

    def _check_machine(self, secure):
        cstore, others = self.facilities
        if not others & 0x4000 or not self._diagnose(0x508, 0, 0) & 0x8000:
            raise Stops
        installed = self.room + 2 * PAGE
        if not cstore & 0x04 or self._diagnose(0x320, installed, 0) != 1:
            raise Stops
        if not struct.unpack(">I", self._get(installed, 4))[0] & 0x60000000 or not others & 0x1000:
            raise Stops
        self._put(installed, struct.pack(">I124x", 128))
        assert self._diagnose(0x320, installed, 1) == 1
        length, self.vcb_length = struct.unpack(">I76xI", self._get(installed, 84))
        if length == 4 and secure:
            raise Stops
        self.vcb_length = -(-self.vcb_length // PAGE) * PAGE

    def _verify(self, part, signature_length):
        """The part as the machine judges it, with the certificate that it names."""
        block = self.room + 3 * PAGE
        values = (part.length, part.address, signature_length, self.room + 4 * PAGE)
        self._put(block, struct.pack(">I28xQQQQ", 64, *values))
        if self._diagnose(0x508, block, 0x8000) != 1:
            return part._replace(signed=True)
        index, length = struct.unpack(">B7xQ", self._get(block + 16, 16))
        if index not in self.certificates:
            self.certificates[index] = self._fetch(index, length)
        return part._replace(signed=True, verified=True, index=index, der=self.certificates[index])

    def _fetch(self, index, length):
        block = self.room + 8 * PAGE
        self._put(block, struct.pack(">I4xHH52x", self.vcb_length, index + 1, index + 1))
        assert self._diagnose(0x320, block, 2) == 1
        used, stored, remaining = struct.unpack(">I4xHH", self._get(block + 32, 12))
        entry = self._get(block + 64, used - 64)
        if (stored, remaining, len(entry) >= 192 and entry[4]) != (1, 0, 0x80):
            raise NextDevice
        der_length, at = struct.unpack_from(">I10xH", entry, 84)
        assert der_length == length
        return entry[at : at + der_length]

    # The disk

    def _boot(self, iplb):
        kind, ssid = iplb[12], iplb[109] & 3
        (devno,) = struct.unpack_from(">H", iplb, 110)
        self.disk = self.machine.find_device(ssid, devno)
        give_up = Stops if self.verifying else NextDevice
        if kind not in (0x02, 0xFF) or self.disk is None or str(self.disk.kind) not in ("virtio-blk", "virtio-scsi"):
            raise give_up
        self.position = self.disk.position
        first = self._block(0)
        if first[:4] != b"zIPL":
            raise give_up if self._other_scheme(first) else NextDevice
        (table,) = struct.unpack_from(">Q", first, 16)
        programs = self._magic_block(table)
        pointers = [struct.unpack_from(">Q", programs, 16 + 16 * number)[0] for number in range(31)]
        if not any(pointers):
            raise NextDevice
        loadparm = iplb[16:24] if any(iplb[16:24]) else self.loadparm
        digits = loadparm.decode("cp037")
        number = int(digits[: len(digits) - len(digits.lstrip("0123456789"))] or "0")
        if number >= 31 or not pointers[number]:
            raise Stops
        self._load_program(pointers[number])

    def _load_program(self, block):
        table = self._magic_block(block)
        if table[4]:
            raise NextDevice
        pending = None
        for at in range(32, len(table) - 31, 32):
            segments, kind, value = struct.unpack_from(">Q15xBQ", table, at)
            if kind == EXECUTE:
                return
            if kind == SIGNATURE and self.verifying:
                pending = self._load_signature(segments, table[at + 24], value & 0xFFFFFFFF, pending)
            elif kind == LOAD:
                self._load(segments, value, pending)
                pending = None
            elif kind != SIGNATURE:
                raise NextDevice
        raise NextDevice

    def _load_signature(self, segments, form, length, pending):
        """Length of the signature in the buffer, 0 for one that is too large, None for none."""
        if pending is not None or form != 1:
            raise NextDevice
        blocks = list(self._segments(segments))
        if len(blocks) * self.disk.block_size > PAGE:
            return 0
        self._put(self.room + 4 * PAGE, bytes(2 * PAGE))
        self._read(blocks, self.room + 4 * PAGE)
        return length or None

    def _load(self, segments, address, pending):
        blocks = list(self._segments(segments))
        part = Part(address, len(blocks) * self.disk.block_size)
        end = address + part.length
        self.parts.append(part)
        start, stop = self.forbidden
        if end > self.size or (part.length and (address < 0x200 or (start < end and address < stop))):
            raise Stops
        self._read(blocks, address)
        if pending is not None:
            self.parts[-1] = self._verify(part, pending) if pending else part._replace(signed=True)

    def _segments(self, table):
        """Numbers of the blocks of a component, one by one."""
        size, seen = self.disk.block_size, set()
        while table is not None:
            if table in seen:
                raise NextDevice
            seen.add(table)
            slots = [
                struct.unpack_from(">QHH", self._block(table) + b"\xaa" * 32, at) for at in range(0, size + 32, 16)
            ]
            table = None
            for number, (block, block_size, more) in enumerate(slots):
                if not block:
                    break
                filler_follows = number + 1 < len(slots) and slots[number + 1] == (0xAAAAAAAAAAAAAAAA, 0xAAAA, 0xAAAA)
                if number == 255 or (not more and filler_follows):
                    table = block
                    break
                if block_size != size or block + more >= self.disk.blocks:
                    raise NextDevice
                yield from range(block, block + more + 1)

    def _read(self, blocks, address):
        """Neighbours with one request."""
        size, start = self.disk.block_size, 0
        while start < len(blocks):
            stop = start + 1
            while stop < len(blocks) and blocks[stop] == blocks[stop - 1] + 1:
                stop += 1
            where = address + start * size
            self.machine.read_blocks(self.disk.subsystem_id, blocks[start], stop - start, where)
            start = stop

    def _block(self, number):
        if number >= self.disk.blocks:
            raise NextDevice
        where = self.room + 6 * PAGE
        self.machine.read_blocks(self.disk.subsystem_id, number, 1, where)
        return self._get(where, self.disk.block_size)

    def _magic_block(self, number):
        block = self._block(number) if number else b""
        if block[:4] != b"zIPL":
            raise NextDevice
        return block

    def _other_scheme(self, first):
        number, offset = divmod(32769, self.disk.block_size)
        labels = ["VOL1".encode("cp037"), "LNX1".encode("cp037"), "CMS1".encode("cp037")]
        return (
            first[:4] == "IPL1".encode("cp037")
            or (self.disk.blocks > 2 and self._block(2)[:4] in labels)
            or (self.disk.blocks > number and self._block(number)[offset : offset + 5] == b"CD001")
        )
