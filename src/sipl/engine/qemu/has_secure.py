"""`/sys/firmware/ipl/has_secure`: the guest finds a machine that can do secure IPL (docs/qemu-engine.md, "has_secure").

A stock QEMU does not say so in what READ SCP INFO stores. So the first time that the boot code of the verified kernel
has read it, the guest is held, what was stored is completed, and it runs on. QEMU is asked for the stop through its GDB
stub, over a socket pair that nobody else has; memory is sipl's own view of it. Breakpoints are those of the hardware,
which change nothing in memory, under KVM neither.

Nothing here decides about security: what goes wrong leaves the guest with a has_secure of 0. And the guest cannot gain:
only bytes of its own memory are changed, and only for its own supervisor with address translation off.
"""

from __future__ import annotations

import re
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.engine.qemu.gdb_remote import (
    TAKEN,
    GdbEnded,
    GdbRemote,
    GdbTrouble,
    Registers,
    is_breakpoint,
    is_stop,
    packet,
)
from sipl.layout import sclp
from sipl.layout.linux import LINUX_ENTRY_OFFSET, LINUX_MAGIC, LINUX_MAGIC_OFFSET
from sipl.layout.record import unpack
from sipl.layout.stage3 import KERNEL_ADDRESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

GDB_CHANNEL: Final = "sipl-gdb"

# SERVC R1,R2: the command word is in R1, the SCCB's absolute address in R2; bits 16 to 23 are zero.
_SERVICE_CALL: Final = re.compile(rb"\xb2\x20\x00[\x00-\xff]")
_SERVICE_CALL_SIZE: Final = 4
# The boot code of a kernel lies before the packed rest, in which the four bytes come about by chance. Debian's have
# theirs within 100 KiB.
BOOT_CODE_ROOM: Final = 1 << 20
# KVM has as many breakpoints of the hardware. Debian's kernels need 4.
MAX_BREAKPOINTS: Final = 16
# Linux reads it at its first or second service call; a kernel that talks at length before has at most some dozen.
MAX_STOPS: Final = 64
# From the guest's start to the end of this, in seconds. Debian's kernel is there after 0.03 s under TCG.
TIME_LIMIT: Final = 10.0
# A QEMU whose guest is held has nothing else to do than to answer.
_ANSWER_TIME: Final = 1.0

_TRANSLATION: Final = 1 << (63 - 5)
_PROBLEM_STATE: Final = 1 << (63 - 15)
_READ_SCP_INFO: Final = frozenset({sclp.Command.READ_SCP_INFO, sclp.Command.READ_SCP_INFO_FORCED})
_SCCB_ADDRESSES: Final = 0x7FFFFFF8

# Removes all breakpoints, then detaches, which lets the guest run. A guest that is running takes the first byte as the
# wish to stop it and passes over the rest of the first packet.
_FORGET: Final = packet(b"?")
_DETACH: Final = packet(b"D")


class ServiceCall(NamedTuple):
    """A SERVC instruction: the absolute address at which it runs, and its bytes."""

    address: int
    code: bytes

    @property
    def next(self) -> int:
        """Address of the instruction behind it."""
        return self.address + _SERVICE_CALL_SIZE

    def command(self, registers: Registers) -> int:
        """The command word, 32 bits."""
        return registers.general[self.code[3] >> 4] & 0xFFFFFFFF

    def sccb(self, registers: Registers) -> int:
        """Absolute address of the control block."""
        return registers.general[self.code[3] & 0xF]


def find_service_calls(ram: memoryview, start: int, length: int) -> Iterator[ServiceCall]:
    """The SERVC instructions of a Linux's boot code, with the addresses at which they run; none of any other kernel.

    `start` and `length` (bytes) tell where the verified kernel lies. It may lie there as its file is, with 64 KiB in
    front that stage3 takes away, or without them. Either way its entry runs at 0x10000.
    """
    for entry in (LINUX_ENTRY_OFFSET, 0):
        code = bytes(ram[start + entry : start + min(length, entry + BOOT_CODE_ROOM)])
        if code.startswith(LINUX_MAGIC, LINUX_MAGIC_OFFSET):
            break
    else:
        return
    last = None
    for match in _SERVICE_CALL.finditer(code):
        at = match.start()
        # One that begins where the last one ends would need a breakpoint that is already taken.
        if at % 2 == 0 and at != last:
            yield ServiceCall(KERNEL_ADDRESS + at, match.group())
            last = at + _SERVICE_CALL_SIZE


def complete_scp_info(ram: memoryview, address: int) -> bool:
    """Have what READ SCP INFO stored at an absolute address say that the machine can do secure IPL.

    The bit is in a field of which Linux takes notice where the CPU entries start behind it: entries at 128 are moved to
    144, and the new fields are zero. Returns whether it was done; nothing is changed if the control block is not in
    memory, tells of no success, or has no room.
    """
    if address & ~_SCCB_ADDRESSES or len(ram) - address < sclp.SCCB_MIN_LENGTH:
        return False
    header = unpack(sclp.SccbHeader, ram[address : address + sclp.SCCB_MIN_LENGTH])
    sccb = ram[address : address + header.length]
    if header.response_code != sclp.ResponseCode.OK or len(sccb) < header.length:
        return False
    if header.length < sclp.CPU_ENTRIES_EXTENDED:
        return False
    entries = int.from_bytes(sccb[sclp.CPU_OFFSET_OFFSET : sclp.CPU_OFFSET_OFFSET + 2], "big")
    size = sclp.CPU_ENTRY_SIZE * int.from_bytes(sccb[sclp.CPU_COUNT_OFFSET : sclp.CPU_COUNT_OFFSET + 2], "big")
    if entries == sclp.CPU_ENTRIES:
        end = sclp.CPU_ENTRIES_EXTENDED + size
        if end > header.length:
            return False
        sccb[sclp.CPU_ENTRIES_EXTENDED : end] = bytes(sccb[entries : entries + size])
        sccb[entries : sclp.CPU_ENTRIES_EXTENDED] = bytes(sclp.CPU_ENTRIES_EXTENDED - entries)
        sccb[sclp.CPU_OFFSET_OFFSET : sclp.CPU_OFFSET_OFFSET + 2] = sclp.CPU_ENTRIES_EXTENDED.to_bytes(2, "big")
    elif entries < sclp.CPU_ENTRIES_EXTENDED:
        return False
    sccb[sclp.IPL_FACILITIES_OFFSET] |= sclp.SIPL >> 8
    return True


class HasSecure:
    """One QEMU's GDB stub, from its start until the guest has read what READ SCP INFO stores.

    Before QEMU's start: `arguments()` for it, and `descriptor`, which it inherits. Then `attach` while the guest has
    not been started, `guest_runs` when it has been, by whomever. While `active`: `on_readable` when `fileno()` is
    readable, `on_debug` when QEMU's monitor says that a debugger holds the guest, `leave` when `deadline`
    (`time.monotonic`) has come. `told` says whether has_secure is 1.
    """

    def __init__(self) -> None:
        ours, self._theirs = socket.socketpair()
        self._remote = GdbRemote(ours)
        self._ram = memoryview(b"")
        self._calls: dict[int, ServiceCall] = {}  # by the address at which the breakpoint is now
        self._stops = 0
        self._held_by_other = False
        self.active = True
        self.told = False
        self.deadline: float | None = None

    @property
    def descriptor(self) -> int:
        """QEMU's end of the socket pair, to be inherited under this number."""
        return self._theirs.fileno()

    def arguments(self) -> list[str]:
        """QEMU's arguments, which name `descriptor`."""
        return ["-chardev", f"socket,id={GDB_CHANNEL},fd={self.descriptor}", "-gdb", f"chardev:{GDB_CHANNEL}"]

    def fileno(self) -> int:
        """For `select`, while `active`."""
        return self._remote.fileno()

    def attach(self, ram: memoryview, kernel: tuple[int, int]) -> None:
        """Set the breakpoints; not `active` any more if that is not possible.

        QEMU stands before the guest's first instruction. `ram` is the guest's memory, writable, with all that is to run
        in its place; `kernel` is absolute address and length of the verified kernel.
        """
        self._theirs.close()
        if not self.active:
            return
        self._ram = ram
        deadline = time.monotonic() + _ANSWER_TIME
        try:
            for call in find_service_calls(ram, *kernel):
                if len(self._calls) < MAX_BREAKPOINTS:
                    self._remote.demand(b"Z1,%x,%x" % (call.next, _SERVICE_CALL_SIZE), deadline)
                    self._calls[call.next] = call
        except GdbTrouble:
            self._withdraw()
        else:
            if not self._calls:
                self._withdraw()

    def guest_runs(self) -> None:
        """The guest has been started; only the first time counts."""
        if self.deadline is None:
            self.deadline = time.monotonic() + TIME_LIMIT

    def on_readable(self) -> None:
        """Deal with what QEMU says; takes milliseconds, or two seconds where QEMU does not answer."""
        self._deal(self._listen)

    def on_debug(self) -> None:
        """QEMU's monitor says that the guest is held for a debugger.

        From version 8.1 on a stub tells of a stop only whom it was that let the guest run. Where it has told, this
        changes nothing.
        """
        before = self._stops
        self.on_readable()
        if self.active and self._stops == before:
            self._deal(self._at_breakpoint)

    def _deal(self, deed: Callable[[float], None]) -> None:
        try:
            deed(time.monotonic() + _ANSWER_TIME)
        except GdbEnded:
            self.close()
        except GdbTrouble:
            self._detach()

    def _listen(self, deadline: float) -> None:
        while self.active and (said := self._hear(deadline)) is not None:
            if is_breakpoint(said):
                self._remote.send(TAKEN, deadline)
                self._at_breakpoint(deadline)
            elif is_stop(said):
                # Whoever stopped the guest will have it run again, without telling this end.
                self._held_by_other = True
            elif said != TAKEN:
                raise GdbTrouble("the stub says what is no stop")

    def leave(self) -> None:
        """Have QEMU forget breakpoints and debugger. A guest that runs is held for a moment; one that was paused by
        somebody else, or has panicked, stays as it is.
        """
        if not self.active:
            return
        try:
            self._hear_of_others()
            if self._held_by_other and self._is_held():
                self._withdraw()
                return
        except GdbEnded:
            self.close()
            return
        except GdbTrouble:
            self._held_by_other = False
        self._detach()

    def close(self) -> None:
        """Hang up without a word: when QEMU has ended or is about to."""
        self._remote.close()
        self._theirs.close()
        self._ram = memoryview(b"")
        self.active = False
        self.deadline = None

    def _at_breakpoint(self, deadline: float) -> None:
        self._held_by_other = False
        self._stops += 1
        registers = self._remote.registers(deadline)
        call = self._calls.get(registers.address)
        if call is None or self._stops > MAX_STOPS or not self._in_boot_code(call, registers):
            self._detach()
            return
        behind = registers.address == call.next
        if behind and call.command(registers) in _READ_SCP_INFO and complete_scp_info(self._ram, call.sccb(registers)):
            self.told = True
            self._detach()
            return
        # The CPU would stop again where it stands: the next stop is at the call itself, the one after that behind it.
        there = call.address if behind else call.next
        self._remote.demand(b"z1,%x,%x" % (registers.address, _SERVICE_CALL_SIZE), deadline)
        del self._calls[registers.address]
        self._remote.demand(b"Z1,%x,%x" % (there, _SERVICE_CALL_SIZE), deadline)
        self._calls[there] = call
        self._remote.order(b"c", deadline)

    def _in_boot_code(self, call: ServiceCall, registers: Registers) -> bool:
        """Whether it is the verified instruction that was met, and not some other at the same address later on."""
        if registers.mask & (_TRANSLATION | _PROBLEM_STATE):
            return False
        return self._ram[call.address : call.next] == call.code

    def _hear_of_others(self) -> None:
        """Take note of stops that are still on their way to this end."""
        deadline = time.monotonic() + _ANSWER_TIME
        while (said := self._hear(deadline)) is not None:
            if is_stop(said):
                self._held_by_other = not is_breakpoint(said)

    def _hear(self, deadline: float) -> bytes | None:
        """What has come, if anything has; a stub that goes on talking until the deadline is in trouble."""
        said = self._remote.receive()
        if said is not None and time.monotonic() > deadline:
            raise GdbTrouble("the stub does not stop talking")
        return said

    def _is_held(self) -> bool:
        """Whether the guest still is: then the packet is taken, whereas a guest that runs is stopped by it."""
        deadline = time.monotonic() + _ANSWER_TIME
        self._remote.send(_FORGET, deadline)
        return self._remote.wait(deadline) == TAKEN

    def _withdraw(self) -> None:
        """Have a QEMU whose guest is held, and is to stay so, forget the breakpoints, and hang up.

        What a stub reads once the guest runs, it takes as the wish to hold it: so it has to be read before that.
        """
        deadline = time.monotonic() + _ANSWER_TIME
        with suppress(GdbTrouble):
            self._remote.send(_FORGET, deadline)
            self._remote.wait(deadline)
        self.close()

    def _detach(self) -> None:
        """Have QEMU forget the breakpoints and the debugger, and the guest run on, whatever it does; then hang up.

        QEMU hears it even if it answers late. Nothing may follow: a stub without a debugger does not bear questions.
        """
        deadline = time.monotonic() + _ANSWER_TIME
        with suppress(GdbTrouble):
            self._remote.send(_FORGET + _DETACH, deadline)
            while self._remote.wait(deadline) != b"OK" and time.monotonic() < deadline:
                pass
        self.close()
