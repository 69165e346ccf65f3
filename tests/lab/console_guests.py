"""Guests for tests of the console: what they write, read and do is known to the byte. They need no kernel."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

# pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "engine" / "embedded"))

from guest_asm import EXTERNAL, EXTERNAL_NEW, ORIGIN, SUPERVISOR, WAIT, Asm, program
from ipl_lab import PSW, Execute, Load

SCCB = 0x2000
BUFFER = 0x3000
EXTERNAL_PARAMETER = 0x80
WRITE_EVENT_DATA, READ_EVENT_DATA, WRITE_EVENT_MASK = 0x00760005, 0x00770005, 0x00780005
VT220 = 0x1A
VT220_MASK = 1 << (32 - VT220)
SERVICE_SIGNAL = 0x200  # bit of control register 0
LOAD_CLEAR = 3


def padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 8) * 8, b"\0")


def service(asm: Asm, command: int, sccb: int) -> Asm:
    return asm.load(1, command).load(2, sccb).rre(0xB220, 1, 2)


def write(asm: Asm, data: bytes) -> Asm:
    """Write bytes to the VT220."""
    event = struct.pack(">HBB2x", 6 + len(data), VT220, 0) + data
    asm.put(SCCB, padded(struct.pack(">H6x", 8 + len(event)) + event))
    return service(asm, WRITE_EVENT_DATA, SCCB)


def says(data: bytes) -> Asm:
    """Writes and stops as a guest that is done."""
    return write(program(), data).end()


def says_and_crashes(data: bytes) -> Asm:
    return write(program(), data).end(0x123456)


def says_and_loops(data: bytes) -> Asm:
    """Loops without ever coming back to the machine."""
    asm = write(program(), data)
    return asm.jump(asm.here)


def says_and_reboots(data: bytes) -> Asm:
    return write(program(), data).load(2, 0).load(3, LOAD_CLEAR).diag(2, 3, 0x308)


def echoes(greeting: bytes) -> Asm:
    """Writes back what is typed; at a `q` in front it is done."""
    return echoes_until_q(greeting).end()


def echoes_until_q(greeting: bytes) -> Asm:
    """Writes back what is typed, and goes on with what is added behind it at a `q` in front."""
    asm = _echoes(greeting, ORIGIN)
    return _echoes(greeting, asm.handler)


def _echoes(greeting: bytes, handler: int) -> Asm:
    asm = program().put_psw(EXTERNAL_NEW, SUPERVISOR, handler)
    asm.load(1, SERVICE_SIGNAL).put_register(0x5000, 1).load(12, 0x5000).rxy(0xEB2F, 0, 12)  # LCTLG
    asm.put(SCCB, padded(struct.pack(">H8xHIIII", 28, 4, VT220_MASK, VT220_MASK, 0, 0)))
    service(asm, WRITE_EVENT_MASK, SCCB)
    write(asm, greeting)
    wait = asm.here
    asm.go(WAIT | EXTERNAL, wait)
    asm.handler = asm.here
    asm.load(12, EXTERNAL_PARAMETER).rxy(0xE316, 3, 12).ri(0xA71, 3, 1).jump(wait, 8)  # LLGF, TMLL: no event
    asm.put(BUFFER, struct.pack(">H6xQ", 0x1000, 0))
    service(asm, READ_EVENT_DATA, BUFFER)
    asm.load(12, BUFFER).rxy(0xE391, 3, 12, 6).ri(0xA7F, 3, 0x20).jump(wait, 7)  # LLGH, CGHI: nothing stored
    asm.rxy(0xE390, 4, 12, 15)  # LLGC: first character
    asm.rxy(0xE391, 3, 12, 8).ri(0xA7B, 3, 8).rxy(0xE370, 3, 12)  # LLGH, AGHI, STHY: length of the SCCB
    asm.rxy(0xEB52, 0, 12, 11).rxy(0xEB52, 0, 12, 2)  # MVIY: flags, function code
    service(asm, WRITE_EVENT_DATA, BUFFER)
    return asm.ri(0xA7F, 4, ord("q")).jump(wait, 7)


def components(asm: Asm) -> list:
    """Such a guest as a program of a boot map, for normal mode."""
    code = bytes(asm.code)
    return [Load(ORIGIN, code.ljust(-(-len(code) // 512) * 512, b"\0")), Execute(PSW)]
