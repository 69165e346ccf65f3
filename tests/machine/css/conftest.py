"""A guest in front of a channel subsystem, and a device that does as it is told."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import pytest

from sipl.layout.css import SenseId
from sipl.machine.css.device import ChannelDevice, UnitCheck
from sipl.machine.css.interruptions import IoInterruptions
from sipl.machine.css.subsystem import ChannelSubsystem
from sipl.machine.memory import GuestMemory

MEMORY = 1 << 20
SID = 0x00010000
ORB_AT, CCW_AT, DATA_AT = 0x1000, 0x2000, 0x8000
FORMAT_1 = 0x0080


class Puppet(ChannelDevice):
    """02 gives `payload`, 01 takes `wanted` bytes, 0B does nothing, 32 answers two bytes, the rest is rejected."""

    sense_id = SenseId(0xFF, 0x3832, 2, 0, 0)

    def __init__(self):
        self.payload = b"0123456789"
        self.wanted = 4
        self.taken = []
        self.calls = []
        self.subchannel = None

    def attached(self, subchannel):
        self.subchannel = subchannel

    def command(self, code, data):
        self.calls.append(code)
        if code == 0x02:
            data.store(self.payload)
        elif code == 0x01:
            self.taken.append(data.fetch(self.wanted))
        elif code == 0x32:
            number = int.from_bytes(data.fetch(2), "big")
            data.store((number + 1).to_bytes(2, "big"), 2)
        elif code != 0x0B:
            raise UnitCheck("the puppet does not know this")

    def disabled(self):
        self.calls.append("disabled")

    def reset(self):
        self.calls.append("reset")


def irb_fields(irb):
    flags, control, address, device, status, residual = struct.unpack(">HHIBBH", irb[:12])
    return SimpleNamespace(
        flags=flags, control=control, address=address, device=device, status=status, residual=residual, raw=irb
    )


class Guest:
    def __init__(self, memory=MEMORY):
        self.memory = GuestMemory(memory)
        self.interruptions = IoInterruptions()
        self.stored = []
        self.css = ChannelSubsystem(self.memory, self.interruptions, lambda at, n: self.stored.append((at, n)))
        self.device = Puppet()
        self.subchannel = self.css.attach(self.device, 0x0001)

    def schib(self, sid=SID):
        cc, schib = self.css.stsch(sid)
        assert cc == 0
        assert len(schib) == 52
        return bytearray(schib)

    def enable(self, *, isc=3, sense=False, parm=0xCAFE):
        schib = self.schib()
        flags = int.from_bytes(schib[4:6], "big") | 0x80 | isc << 11
        schib[0:4] = parm.to_bytes(4, "big")
        schib[4:6] = flags.to_bytes(2, "big")
        schib[27] |= sense
        assert self.css.msch(SID, bytes(schib)) == 0

    def ccw(self, number, command, flags, count, address):
        self.memory.write(CCW_AT + 8 * number, struct.pack(">BBHI", command, flags, count, address))

    def orb(self, *, control=FORMAT_1, lpm=0x80, extension=0, program=CCW_AT, parm=0x1234):
        return struct.pack(">IHBBI", parm, control, lpm, extension, program)

    def start(self, **orb):
        return self.css.ssch(SID, self.orb(**orb))

    def run(self, **orb):
        """Start the program at CCW_AT and collect its status."""
        assert self.start(**orb) == 0
        assert self.interruptions.any
        cc, irb = self.css.tsch(SID)
        assert cc == 0
        assert len(irb) == 64
        assert not self.interruptions.any
        return irb_fields(irb)


@pytest.fixture
def guest():
    return Guest()


@pytest.fixture(scope="session")
def new_guest():
    return Guest
