"""A re-IPL that QEMU does not do: DIAGNOSE 308 subcode 4, after which the guest stops as if it had crashed.

Without KVM, QEMU ends this subcode with a specification exception. Linux, which sets the block of the device that it
wants and then uses subcode 4 for a device of type CCW, goes on to a disabled wait. What it wanted is still there: the
interruption in its lowcore, and the block in QEMU (docs/qemu-engine.md, "A re-IPL that QEMU does not do").
"""

from __future__ import annotations

import re
import select
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.engine.dat import walk
from sipl.engine.qemu.code import BLOCK_OFFSET, CODE_SIZE, code
from sipl.engine.qemu.qmp import QmpError
from sipl.layout.guest_ends import QemuEnd
from sipl.layout.iplb import IPLB_SIZE
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sipl.engine.qemu.qmp import Message, Qmp
    from sipl.engine.qemu.ram import GuestRam

PREFIX_AREA: Final = 0x2000

# In the prefix area.
_PROGRAM_LENGTH: Final = 0x8D
_PROGRAM_CODE: Final = 0x8E
_PROGRAM_OLD_PSW: Final = 0x150
_RESTART_NEW_PSW: Final = 0x1A0
_PSW_SIZE: Final = 16

_PSW_DAT: Final = 1 << 58
_PSW_64_BIT: Final = 3 << 31
_PSW_31_BIT: Final = 1 << 31
_PSW_SPACE_SHIFT: Final = 46
_HOME_SPACE: Final = 3
_PRIMARY_CONTROL: Final = "C01"
_HOME_CONTROL: Final = "C13"

# 83 xx 03 08, whichever registers it names.
_DIAGNOSE: Final = 0x83
_DIAGNOSE_308: Final = 0x0308
_DIAGNOSE_LENGTH: Final = 4

# As the human monitor writes them: "PSW=mask 0002… addr 0000…", "C00=0000…", "gpa: 0x1fcfc000".
_REGISTER: Final = re.compile(r"\b(mask|addr|C[01][0-9])[ =]([0-9a-f]{16})\b")
_ABSOLUTE: Final = re.compile(r"gpa: (?:0x)?([0-9a-f]{1,16})\s*")

# QEMU tells of a guest that has stopped, and stops its machine within microseconds after that.
_POLL: Final = 0.001


class _NoEvidence(Exception):
    """The guest has crashed, for all that can be seen."""


class _Storage:
    """Absolute storage of a guest that may name any address."""

    def __init__(self, ram: GuestRam) -> None:
        self._ram = ram

    def read(self, address: int, length: int) -> bytes:
        if address < 0 or address + length > self._ram.size:
            raise ProgramInterruption(ProgramCode.ADDRESSING)
        return self._ram.read(address, length)


class _Interruption(NamedTuple):
    """The last program interruption of a CPU."""

    length: int  # of the instruction
    code: int
    mask: int
    address: int  # behind the instruction


def chosen_block(
    qmp: Qmp, ram: GuestRam, image_at: int, core: int, mask: int, address: int, timeout: float
) -> bytes | None:
    """The IPL parameter block that a stopped guest has set for its next IPL, 4096 bytes; None: it has just crashed.

    `core`, `mask` and `address` are those of the event GUEST_PANICKED, with reason disabled-wait; `image_at` is where
    QEMU put its firmware. To read the block, the guest's CPU runs `collect` for at most `timeout` seconds, in memory of
    the guest. The machine is stopped in the end, whatever comes of it, and what comes is the guest's word alone.
    Events that are not about this remain in `qmp.events`.

    Raises:
        QemuEnded: QEMU has gone, or does not answer.
    """
    deadline = time.monotonic() + timeout
    try:
        _wait_until_stopped(qmp, deadline)
        cpu = _cpu_index(qmp, core)
        registers = _registers(qmp, cpu)
        # Linux waits without translation; with it, the prefix could not be asked for as below.
        if (registers["mask"], registers["addr"]) != (mask, address) or mask & _PSW_DAT:
            return None
        prefix = _prefix(qmp, ram, cpu)
        if not asked_for_ipl(_Storage(ram), registers, prefix):
            return None
        return _collect(qmp, ram, image_at, cpu, prefix, deadline)
    except (QmpError, _NoEvidence):
        return None


def asked_for_ipl(storage: _Storage, registers: Mapping[str, int], prefix: int) -> bool:
    """Whether a CPU's last program interruption was a specification exception at DIAGNOSE 308.

    `registers` are control registers by the names C00 to C15, `prefix` is the CPU's. All else is the guest's, and never
    more than a few words of it are looked at.

    The subcode is not asked for, as the guest may have used its register since. It is not needed: of the subcodes that
    QEMU refuses so, only 4 is one that a kernel would stop after. And who forges all this, or gives a bad operand to
    another subcode, gains what any guest has that asks for an IPL: one that is verified.
    """
    try:
        last = _last_interruption(storage, prefix)
        if (last.length, last.code) != (_DIAGNOSE_LENGTH, ProgramCode.SPECIFICATION):
            return False
        # One halfword after the other: the second may lie in another page.
        first, second = (
            int.from_bytes(storage.read(_absolute(storage, registers, last, back, prefix), 2), "big") for back in (4, 2)
        )
    except ProgramInterruption:
        return False
    return first >> 8 == _DIAGNOSE and second == _DIAGNOSE_308


def _last_interruption(storage: _Storage, prefix: int) -> _Interruption:
    psw = storage.read(prefix + _PROGRAM_OLD_PSW, _PSW_SIZE)
    return _Interruption(
        length=storage.read(prefix + _PROGRAM_LENGTH, 1)[0],
        code=int.from_bytes(storage.read(prefix + _PROGRAM_CODE, 2), "big"),
        mask=int.from_bytes(psw[:8], "big"),
        address=int.from_bytes(psw[8:], "big"),
    )


def _absolute(storage: _Storage, registers: Mapping[str, int], last: _Interruption, back: int, prefix: int) -> int:
    """Absolute address of what lies `back` bytes before the address of a PSW, as instructions are fetched.

    Raises:
        ProgramInterruption: it has none.
    """
    address = (last.address - back) & _address_bits(last.mask)
    if last.mask & _PSW_DAT:
        home = last.mask >> _PSW_SPACE_SHIFT & 3 == _HOME_SPACE
        address = walk(storage, registers[_HOME_CONTROL if home else _PRIMARY_CONTROL], address, store=False)
    if address < PREFIX_AREA:
        return address + prefix
    if prefix <= address < prefix + PREFIX_AREA:
        return address - prefix
    return address


def _address_bits(mask: int) -> int:
    if mask & _PSW_64_BIT == _PSW_64_BIT:
        return (1 << 64) - 1
    return 0x7FFFFFFF if mask & _PSW_31_BIT else 0xFFFFFF


# What QEMU says


def _wait_until_stopped(qmp: Qmp, deadline: float) -> None:
    """The event comes from the CPU; the machine stops a moment later, and would stop again what is started before."""
    while True:
        status = qmp.execute("query-status")
        if not isinstance(status, dict):
            raise _NoEvidence
        if status.get("running") is False:
            return
        if time.monotonic() > deadline:
            raise _NoEvidence
        time.sleep(_POLL)


def _cpu_index(qmp: Qmp, core: int) -> int:
    """QEMU's number of the CPU with an address."""
    cpus = qmp.execute("query-cpus-fast")
    for cpu in cpus if isinstance(cpus, list) else ():
        properties = cpu.get("props") if isinstance(cpu, dict) else None
        if isinstance(properties, dict) and properties.get("core-id") == core:
            index = cpu.get("cpu-index")
            if isinstance(index, int):
                return index
    raise _NoEvidence


def _registers(qmp: Qmp, cpu: int) -> dict[str, int]:
    """The PSW as `mask` and `addr`, and all control registers."""
    found = {name: int(value, 16) for name, value in _REGISTER.findall(qmp.human("info registers", cpu))}
    if not {"mask", "addr", _PRIMARY_CONTROL, _HOME_CONTROL} <= found.keys():
        raise _NoEvidence
    return found


def _prefix(qmp: Qmp, ram: GuestRam, cpu: int) -> int:
    """Where a CPU without translation has its lowcore: the absolute address of its address 0."""
    found = _ABSOLUTE.fullmatch(qmp.human("gva2gpa 0", cpu))
    prefix = int(found[1], 16) if found else -1
    if prefix < 0 or prefix % PREFIX_AREA or prefix + PREFIX_AREA > ram.size:
        raise _NoEvidence
    return prefix


# Reading the block


def _collect(qmp: Qmp, ram: GuestRam, image_at: int, cpu: int, prefix: int, deadline: float) -> bytes | None:
    """Have the CPU store the block, and read it.

    No other CPU runs: QEMU reports a disabled wait when the last one has stopped, and the collector starts none. What a
    hostile guest can have left behind, a transfer of a device that ends now, say, spoils its own re-IPL at worst.
    """
    at = _collector_place(ram, image_at, prefix)
    ram.write(at, code("collect"))
    ram.write(prefix + _RESTART_NEW_PSW, _PSW_64_BIT.to_bytes(8, "big") + at.to_bytes(8, "big"))
    earlier = list(qmp.events)
    qmp.events.clear()
    others: list[Message] = []
    try:
        # It answers only if it fails.
        if qmp.human("nmi", cpu).strip():
            return None
        qmp.execute("cont")
        stored = _has_stored(qmp, others, deadline)
    finally:
        # In the order in which they came; where they are too many, the oldest are lost.
        events = [*earlier, *others, *qmp.events]
        qmp.events.clear()
        qmp.events.extend(events)
        # Also after the event: the machine stops a moment later by itself.
        with suppress(QmpError):
            qmp.execute("stop")
    return ram.read(at + BLOCK_OFFSET, IPLB_SIZE) if stored else None


def _collector_place(ram: GuestRam, image_at: int, prefix: int) -> int:
    """Behind the image's place.

    Not in it: QEMU keeps what it translated of the jump, which lay there, and does not see that sipl changes memory.
    Nor in the CPU's prefix area, whose real addresses are other absolute ones.
    """
    at = image_at + CODE_SIZE
    while at < prefix + PREFIX_AREA and prefix < at + CODE_SIZE:
        at += CODE_SIZE
    if at + CODE_SIZE > ram.size:
        raise _NoEvidence
    return at


def _has_stored(qmp: Qmp, others: list[Message], deadline: float) -> bool:
    """Wait until the guest has stopped; whether it did so where the collector does. Other events go to `others`."""
    poll = select.poll()
    poll.register(qmp.fileno(), select.POLLIN)
    while True:
        while qmp.events:
            event = qmp.events.popleft()
            name = event.get("event")
            if name == "GUEST_PANICKED":
                return _wait_address(event) == QemuEnd.CHOICE_STORED
            if name not in {"RESUME", "STOP"}:
                others.append(event)
            if name in {"RESET", "SHUTDOWN"}:
                return False
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        poll.poll(left * 1000)
        qmp.receive()


def _wait_address(event: Message) -> object:
    node: object = event
    for name in ("data", "info", "psw-addr"):
        node = node.get(name) if isinstance(node, dict) else None
    return node
