"""has_secure: what is changed in memory; the stub's part, made up and QEMU's own; a Linux that reads it."""

from __future__ import annotations

import os
import select
import signal
import socket
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sipl
import sipl.engine.qemu.has_secure as module
from sipl.engine.base import EndKind, GuestEnd
from sipl.engine.qemu.gdb_remote import GdbTrouble, packet
from sipl.engine.qemu.harmless import build_image, build_jump, find_image
from sipl.engine.qemu.has_secure import (
    BOOT_CODE_ROOM,
    MAX_BREAKPOINTS,
    HasSecure,
    ServiceCall,
    complete_scp_info,
    find_service_calls,
)
from sipl.engine.qemu.process import QemuProcess
from sipl.engine.qemu.ram import GuestRam
from sipl.machine.options import MachineOptions
from sipl.settings import Disk, Settings

KERNEL = 0x10000
SCCB = 0x4000
MIB = 1 << 20


def memory(size=MIB):
    return memoryview(bytearray(size))


def scp_info(cpus, *, offset=128, length=4096, response=0x0010):
    """What READ SCP INFO stores, as a stock QEMU does."""
    sccb = bytearray(length)
    sccb[0:2] = length.to_bytes(2, "big")
    sccb[6:8] = response.to_bytes(2, "big")
    sccb[16:18] = cpus.to_bytes(2, "big")
    sccb[18:20] = offset.to_bytes(2, "big")
    for number in range(cpus):
        at = offset + 16 * number
        sccb[at : at + 16] = bytes([number, 1, *range(14)])
    return sccb


class TestCompletedAnswer:
    @pytest.mark.parametrize("cpus", [1, 4, 247])
    def test_entries_move_and_the_bit_is_set(self, cpus):
        ram, sccb = memory(), scp_info(cpus)
        ram[SCCB : SCCB + 4096] = sccb
        assert complete_scp_info(ram, SCCB)
        wanted = scp_info(cpus, offset=144)
        wanted[136] = 0x40
        assert ram[SCCB : SCCB + 4096] == wanted
        assert not any(ram[:SCCB])
        assert not any(ram[SCCB + 4096 :])

    def test_entries_that_start_late_enough_stay(self):
        ram, sccb = memory(), scp_info(4, offset=144)
        sccb[134], sccb[136] = 0x80, 0x10
        ram[SCCB : SCCB + 4096] = sccb
        assert complete_scp_info(ram, SCCB)
        sccb[136] = 0x50
        assert ram[SCCB : SCCB + 4096] == sccb

    def test_at_the_end_of_memory(self):
        ram = memory()
        ram[MIB - 160 :] = scp_info(1, length=160)
        assert complete_scp_info(ram, MIB - 160)

    @pytest.mark.parametrize(
        ("sccb", "why"),
        [
            (scp_info(1, response=0x0000), "no response"),
            (scp_info(1, response=0x0300), "refused"),
            (scp_info(1, response=0x0030), "another success"),
            (scp_info(248), "no room for the last entry"),
            (scp_info(1, length=159), "no room for the only entry"),
            (scp_info(0, length=143), "no room for the bit"),
            (scp_info(0, length=136, offset=144), "no room for the bit, entries behind it"),
            (scp_info(0, length=8, offset=0), "a header"),
            (scp_info(1, offset=112), "entries over what is known"),
            (scp_info(1, offset=132), "entries at no place"),
        ],
        ids=lambda value: value if isinstance(value, str) else "",
    )
    def test_others_stay_as_they_are(self, sccb, why):
        ram = memory()
        ram[SCCB : SCCB + len(sccb)] = sccb
        before = bytes(ram)
        assert not complete_scp_info(ram, SCCB)
        assert ram == before

    @pytest.mark.parametrize(
        "address", [MIB - 152, MIB - 8, MIB - 7, MIB, MIB + 8, 1 << 31, SCCB + 4, (1 << 63) + SCCB]
    )
    def test_places_that_are_no_control_block_s(self, address):
        ram = memory()
        at = address % (1 << 31)
        sccb = scp_info(1, length=160)[: max(0, MIB - at)]
        ram[at : at + len(sccb)] = sccb
        before = bytes(ram)
        assert not complete_scp_info(ram, address)
        assert ram == before

    @given(
        st.integers(0, 2**64 - 1) | st.integers(0, 600).map(lambda number: number * 8),
        st.binary(max_size=64),
        st.integers(0, 0x1100),
        st.sampled_from([0, 1, 4, 100, 0xFFFF]),
        st.sampled_from([0, 127, 128, 143, 144, 160, 0xFFFF]),
    )
    def test_nothing_but_the_control_block_changes(self, address, noise, length, cpus, offset):
        ram = memory(4096)
        header = length.to_bytes(2, "big") + bytes(4) + b"\0\x10" + noise[:8].ljust(8, b"\0")
        header += cpus.to_bytes(2, "big") + offset.to_bytes(2, "big") + noise
        at = min(address, 4096)
        ram[at : at + len(header)] = header[: 4096 - at]
        before = bytes(ram)
        if complete_scp_info(ram, address):
            assert ram[address + 136] & 0x40
            assert ram[address : address + 16] == before[address : address + 16]
            assert ram[:address] == before[:address]
            assert ram[address + length :] == before[address + length :]
        else:
            assert ram == before


def linux(code=b"", size=0x1000):
    """A kernel image from its entry on."""
    return (bytes(8) + b"S390EP\0\1" + code).ljust(size, b"\0")


class TestServiceCalls:
    CALL = bytes.fromhex("b2200023")

    def found(self, image, start=KERNEL, length=None):
        ram = memory(4 * MIB)
        ram[start : start + len(image)] = image
        return list(find_service_calls(ram, start, len(image) if length is None else length))

    def test_in_place(self):
        assert self.found(linux(self.CALL)) == [ServiceCall(0x10010, self.CALL)]

    def test_as_the_file_is(self):
        """stage3 moves the kernel down."""
        assert self.found(bytes(0x10000) + linux(self.CALL)) == [ServiceCall(0x10010, self.CALL)]
        assert self.found(bytes(0x10000) + linux(self.CALL), start=0) == [ServiceCall(0x10010, self.CALL)]

    def test_registers(self):
        registers = module.Registers(0, 0, tuple(0xFFFF_0000_0000 + number for number in range(16)))
        (call,) = self.found(linux(bytes.fromhex("b22000c7")))
        assert call.command(registers) == 12
        assert call.sccb(registers) == 0xFFFF_0000_0007
        assert call.next == 0x10014

    @pytest.mark.parametrize(
        "image", [b"", bytes(0x11000), b"S390EP" + CALL, linux()[:12], bytes(0x10000) + linux()[:12]]
    )
    def test_no_linux(self, image):
        assert self.found(image + self.CALL) == []

    @pytest.mark.parametrize("code", [b"\0" + CALL, bytes.fromhex("b2200123"), bytes.fromhex("b2210023"), CALL[:3]])
    def test_no_service_call(self, code):
        image = linux()[:16] + code
        assert self.found(image) == []

    def test_one_directly_behind_another(self):
        """Of two whose breakpoints would meet, one is enough."""
        assert [call.address for call in self.found(linux(self.CALL * 3))] == [0x10010, 0x10018]

    def test_not_behind_the_boot_code(self):
        last = linux(size=BOOT_CODE_ROOM - 4) + self.CALL
        assert len(self.found(last)) == 1
        assert self.found(bytes(2) + last[2:-4] + bytes(2) + self.CALL) == []

    def test_not_behind_the_kernel(self):
        assert self.found(linux(self.CALL), length=19) == []
        assert len(self.found(linux(self.CALL), length=20)) == 1

    def test_kernel_that_is_not_in_memory(self):
        assert list(find_service_calls(memory(), 8 * MIB, 0x1000)) == []

    @given(st.binary(max_size=200), st.integers(0, 3 * MIB), st.integers(0, 3 * MIB))
    def test_foreign_bytes(self, code, start, length):
        ram = memory(2 * MIB)
        image = linux(code)
        ram[start : start + len(image)] = image[: max(0, 2 * MIB - start)]
        for call in find_service_calls(ram, start, length):
            assert call.code[:3] == b"\xb2\x20\0"
            assert KERNEL <= call.address < KERNEL + BOOT_CODE_ROOM


class Stub:
    """The stub's end of a `HasSecure`'s line: says what it is told to, keeps what it hears."""

    def __init__(self, secure):
        self.end = socket.socket(fileno=os.dup(secure.descriptor))
        self.end.settimeout(5)

    def says(self, *texts):
        self.end.sendall(b"".join(text if text == b"+" else packet(text) for text in texts))

    def heard(self):
        """All that has been said until sipl hangs up, or falls silent."""
        text = b""
        self.end.settimeout(0.2)
        try:
            while part := self.end.recv(4096):
                text += part
        except TimeoutError:
            pass
        return text


@pytest.fixture
def made_up(monkeypatch):
    monkeypatch.setattr(module, "_ANSWER_TIME", 0.2)
    secure = HasSecure()
    stub = Stub(secure)
    yield secure, stub
    secure.close()
    stub.end.close()


CALL_AT = 0x10010


def kernel_memory(code=TestServiceCalls.CALL):
    ram = memory()
    image = linux(code)
    ram[KERNEL : KERNEL + len(image)] = image
    return ram


def registers(mask=0x180000000, address=CALL_AT + 4, command=0x120001, sccb=SCCB):
    general = [0] * 16
    general[2], general[3] = command, sccb
    return b"".join(b"%016x" % value for value in (mask, address, *general))


DETACHED = packet(b"?") + packet(b"D")


class TestStubsOfManyKinds:
    def attach(self, secure, stub, ram=None):
        stub.says(b"+", b"OK")
        ram = kernel_memory() if ram is None else ram
        secure.attach(ram, (KERNEL, 0x1000))
        return ram

    def stop(self, secure, stub, answer):
        stub.says(b"T05thread:01;", b"+", answer, b"+", b"T05thread:01;", b"+", b"OK")
        secure.on_readable()

    def test_it_is_told(self, made_up):
        secure, stub = made_up
        ram = self.attach(secure, stub)
        assert secure.active
        ram[SCCB : SCCB + 4096] = scp_info(1)
        self.stop(secure, stub, registers())
        assert ram[SCCB + 136] == 0x40
        assert secure.told
        assert not secure.active
        assert stub.heard() == packet(b"Z1,10014,4") + b"+" + b"+" + packet(b"g") + b"+" + DETACHED

    @pytest.mark.parametrize(
        "answer",
        [
            registers(mask=0x0400000180000000),
            registers(mask=0x0001000180000000),
            registers(address=0x20000),
            b"E01",
            b"",
        ],
        ids=["address translation", "problem state", "elsewhere", "no registers", "no answer"],
    )
    def test_memory_stays_as_it_is(self, made_up, answer):
        secure, stub = made_up
        ram = self.attach(secure, stub)
        ram[SCCB : SCCB + 4096] = scp_info(1)
        before = bytes(ram)
        self.stop(secure, stub, answer)
        assert ram == before
        assert not secure.told
        assert not secure.active
        assert stub.heard().endswith(DETACHED)

    def test_other_command_is_passed_over(self, made_up):
        """The next stop is at the instruction itself, before it stores anything."""
        secure, stub = made_up
        ram = self.attach(secure, stub)
        ram[SCCB : SCCB + 4096] = scp_info(1)
        before = bytes(ram)
        moved = [b"+", b"OK", b"+", b"OK", b"+"]
        stub.says(b"T05thread:01;", b"+", registers(command=0x10001), *moved)
        secure.on_readable()
        stub.says(b"T05thread:01;", b"+", registers(address=CALL_AT), *moved)
        secure.on_readable()
        assert ram == before
        assert not secure.told
        assert secure.active
        said = stub.heard().replace(b"+", b"")
        there, back = (
            packet(b"z1,%x,4" % one) + packet(b"Z1,%x,4" % other) + packet(b"c")
            for one, other in ((CALL_AT + 4, CALL_AT), (CALL_AT, CALL_AT + 4))
        )
        assert said == packet(b"Z1,10014,4") + packet(b"g") + there + packet(b"g") + back
        self.stop(secure, stub, registers())
        assert secure.told

    def test_code_that_is_no_longer_there(self, made_up):
        secure, stub = made_up
        ram = self.attach(secure, stub)
        ram[SCCB : SCCB + 4096] = scp_info(1)
        ram[CALL_AT] ^= 1
        self.stop(secure, stub, registers())
        assert not secure.told
        assert stub.heard().endswith(DETACHED)

    def test_breakpoint_that_is_refused(self, made_up):
        """The guest was not started, and is not by this."""
        secure, stub = made_up
        stub.says(b"+", b"E22")
        secure.attach(kernel_memory(), (KERNEL, 0x1000))
        assert not secure.active
        assert stub.heard() == packet(b"Z1,10014,4") + b"+" + packet(b"?")

    def test_silent_stub(self, made_up):
        secure, stub = made_up
        start = time.monotonic()
        secure.attach(kernel_memory(), (KERNEL, 0x1000))
        assert time.monotonic() - start < 2
        assert not secure.active
        assert stub.heard() == packet(b"Z1,10014,4") + packet(b"?")

    @pytest.mark.parametrize("kernel", [(KERNEL, 0), (0x40000, 0x1000), (2 * MIB, 1)])
    def test_no_linux(self, made_up, kernel):
        secure, stub = made_up
        secure.attach(kernel_memory(), kernel)
        assert not secure.active
        assert stub.heard() == packet(b"?")

    def test_not_more_breakpoints_than_hardware_has(self, made_up):
        secure, stub = made_up
        stub.says(*[b"+", b"OK"] * (MAX_BREAKPOINTS + 4))
        secure.attach(kernel_memory((TestServiceCalls.CALL + bytes(4)) * (MAX_BREAKPOINTS + 4)), (KERNEL, 0x1000))
        assert stub.heard().count(b"$Z1,") == MAX_BREAKPOINTS

    def test_stub_that_does_not_stop_talking(self, made_up, monkeypatch):
        secure, stub = made_up
        self.attach(secure, stub)
        monkeypatch.setattr(secure._remote, "receive", lambda: b"T02thread:01;")
        monkeypatch.setattr(secure._remote, "wait", lambda deadline: b"T02thread:01;")
        start = time.monotonic()
        secure.on_readable()
        assert time.monotonic() - start < 3
        assert not secure.active
        assert stub.heard().endswith(DETACHED)

    def test_stub_that_goes(self, made_up):
        secure, stub = made_up
        self.attach(secure, stub)
        stub.end.close()
        secure.on_readable()
        assert not secure.active
        secure.leave()
        secure.close()

    def test_before_it_is_attached(self, made_up):
        secure, _ = made_up
        assert secure.arguments() == [
            "-chardev",
            f"socket,id=sipl-gdb,fd={secure.descriptor}",
            "-gdb",
            "chardev:sipl-gdb",
        ]
        assert secure.deadline is None
        secure.guest_runs()
        first = secure.deadline
        secure.guest_runs()
        assert secure.deadline == first
        secure.close()
        secure.attach(kernel_memory(), (KERNEL, 0x1000))
        assert not secure.active

    @given(st.lists(st.binary(max_size=60) | st.binary(max_size=60).map(packet), max_size=6), st.booleans())
    def test_foreign_bytes(self, pieces, stopped):
        secure = HasSecure()
        stub = Stub(secure)
        self.attach(secure, stub)
        stub.end.sendall((packet(b"T05") + b"+" if stopped else b"") + b"".join(pieces))
        stub.end.close()
        for _ in range(len(pieces) + 2):
            if secure.active:
                secure.on_readable()
        assert not secure.active
        assert not secure.told


# What QEMU starts with: brings the CPU to the kernel. LLILF 1,0x10000; BR 1.
TO_KERNEL = bytes.fromhex("c01f00010000 07f1")
RAN_ON = 0x4FF0


def calling_kernel(others, command=0x120001, forever=False):
    """A kernel that makes so many other service calls, then one with `command`, all by one SERVC, and says that it ran.

    Its entry branches to 0x20 behind it. The service calls' interruptions stay pending.
    """
    code = bytes.fromhex("a758") + others.to_bytes(2, "big")  # LHI 5,others
    code += bytes.fromhex("c03f") + SCCB.to_bytes(4, "big")  # LLILF 3,SCCB
    code += bytes.fromhex("c02f00012345")  # LLILF 2,no command
    code += bytes.fromhex("a75e0000 a7740005")  # CHI 5,0; JNE over the next
    code += bytes.fromhex("c02f") + command.to_bytes(4, "big")  # LLILF 2,command
    code += bytes.fromhex("b2200023")  # SERVC 2,3
    code += bytes.fromhex("a75affff")  # AHI 5,-1
    # BRC not low (or always): back to the first LLILF 2
    code += bytes.fromhex("a7f4" if forever else "a7a4") + ((-28 // 2) & 0xFFFF).to_bytes(2, "big")
    code += bytes.fromhex("a7780001 50703ff0 a7f40000")  # LHI 7,1; ST 7,0xff0(3); J here
    return bytes.fromhex("a7f40010 00000000") + b"S390EP\0\1".ljust(24, b"\0") + code


class Qemu:
    """A QEMU that is to enter a kernel at 0x10000; `arguments` are added to its own."""

    def __init__(self, program, kernel, cpus=1, megabytes=256, arguments=(), descriptors=()):
        self.ram = GuestRam(megabytes * MIB)
        self.secure = HasSecure()
        image = os.memfd_create("image")
        os.write(image, build_image())
        arguments = [*arguments, "-S", "-nodefaults", "-display", "none", "-cpu", "max", "-smp", str(cpus)]
        arguments += ["-m", f"{megabytes}M", "-machine", "s390-ccw-virtio,memory-backend=ram", "-action", "panic=pause"]
        place = f"mem-path=/proc/self/fd/{self.ram.fd}"
        arguments += ["-object", f"memory-backend-file,id=ram,size={megabytes}M,share=on,{place}"]
        arguments += ["-bios", f"/proc/self/fd/{image}", *self.secure.arguments()]
        self.process = QemuProcess(program, arguments, [self.ram.fd, image, self.secure.descriptor, *descriptors])
        os.close(image)
        self.process.greet()
        self.qmp = self.process.qmp
        self.image_at = find_image(self.ram)
        self.ram.write(self.image_at, TO_KERNEL)
        self.ram.write(KERNEL, kernel)
        self.ram.write(SCCB, (4096).to_bytes(2, "big"))

    def attach(self, size=0x1000):
        self.secure.attach(self.ram.view, (KERNEL, size))

    def start(self):
        self.qmp.execute("cont")
        self.secure.guest_runs()

    def serve(self, seconds=5.0):
        """As an event loop does: until sipl has let go, or time is up."""
        end = time.monotonic() + seconds
        while self.secure.active and (left := end - time.monotonic()) > 0:
            if select.select([self.secure], [], [], left)[0]:
                self.secure.on_readable()

    def status(self):
        answer = self.qmp.execute("query-status")
        assert isinstance(answer, dict)
        return answer["status"]

    def ran_on(self, seconds=5.0):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.ram.read(RAN_ON, 4) == b"\0\0\0\1":
                return True
            time.sleep(0.01)
        return False

    def pass_breakpoint(self):
        """Whether the guest can go through the service calls without being held: no breakpoint is left."""
        return self.ran_on() and self.status() == "running"

    def close(self):
        self.process.close()
        self.secure.close()
        self.ram.close()


@pytest.fixture
def start_qemu(need_tool):
    program = need_tool("qemu-system-s390x", "qemu-system-misc")
    started = []

    def start(kernel, cpus=1):
        started.append(Qemu(program, kernel, cpus))
        return started[-1]

    yield start
    for qemu in started:
        qemu.close()


class TestQemu:
    @pytest.mark.parametrize("command", [0x120001, 0x20001])
    @pytest.mark.parametrize("others", [0, 3])
    def test_it_is_told(self, start_qemu, others, command):
        qemu = start_qemu(calling_kernel(others, command))
        qemu.attach()
        assert qemu.secure.active
        code = qemu.ram.read(KERNEL, 0x1000)
        qemu.start()
        qemu.serve()
        assert qemu.secure.told
        assert qemu.pass_breakpoint()
        assert qemu.ram.read(SCCB + 18, 2) == b"\0\x90"
        assert qemu.ram.read(SCCB + 136, 1) == b"\x40"
        assert qemu.ram.read(KERNEL, 0x1000) == code

    def test_many_cpus(self, start_qemu):
        plain, qemu = (start_qemu(calling_kernel(0), 40) for _ in range(2))
        plain.secure.close()
        plain.start()
        assert plain.ran_on()
        qemu.attach()
        qemu.start()
        qemu.serve()
        assert qemu.secure.told
        assert qemu.ran_on()
        ours, theirs = (each.ram.read(SCCB, 4096) for each in (qemu, plain))
        assert (ours[16:20], theirs[16:20]) == (b"\0\x28\0\x90", b"\0\x28\0\x80")
        assert ours[144 : 144 + 40 * 16] == theirs[128 : 128 + 40 * 16]
        assert len({ours[at] for at in range(144, 144 + 40 * 16, 16)}) == 40

    def test_started_by_another_monitor(self, start_qemu):
        """The human monitor's `cont` is what a user has."""
        qemu = start_qemu(calling_kernel(0))
        qemu.attach()
        qemu.qmp.human("cont")
        qemu.serve()
        assert qemu.secure.told
        assert qemu.pass_breakpoint()

    def test_guest_that_never_asks(self, start_qemu):
        qemu = start_qemu(bytes.fromhex("a7f40000 00000000") + b"S390EP\0\1" + TestServiceCalls.CALL)
        qemu.attach()
        qemu.start()
        assert qemu.secure.deadline is not None
        qemu.serve(0.2)
        assert qemu.secure.active
        qemu.secure.leave()
        assert not qemu.secure.active
        assert qemu.status() == "running"

    def test_guest_that_asks_for_something_else_for_ever(self, start_qemu):
        qemu = start_qemu(calling_kernel(0, command=0x12345, forever=True))
        qemu.attach()
        qemu.start()
        qemu.serve(20)
        assert not qemu.secure.active
        assert not qemu.secure.told
        assert qemu.status() == "running"

    def test_answer_that_says_no(self, start_qemu):
        """A control block that is too short: the kernel may ask again, which is up to it."""
        qemu = start_qemu(calling_kernel(0))
        qemu.ram.write(SCCB, (100).to_bytes(2, "big"))
        qemu.attach()
        qemu.start()
        qemu.serve(0.5)
        assert not qemu.secure.told
        assert qemu.secure.active
        assert qemu.ran_on()
        qemu.secure.leave()
        assert qemu.status() == "running"

    def test_guest_that_never_gets_there_before_the_end(self, start_qemu):
        qemu = start_qemu(calling_kernel(0))
        qemu.attach()
        qemu.process.kill()
        qemu.serve()
        assert not qemu.secure.active

    def test_trouble_while_the_guest_is_held(self, start_qemu, monkeypatch):
        qemu = start_qemu(calling_kernel(2))
        qemu.attach()

        def refuse(deadline):
            raise GdbTrouble("made up")

        monkeypatch.setattr(qemu.secure._remote, "registers", refuse)
        qemu.start()
        qemu.serve()
        assert not qemu.secure.active
        assert not qemu.secure.told
        assert qemu.pass_breakpoint()

    def test_qemu_that_hangs_while_the_guest_is_held(self, start_qemu, monkeypatch):
        """It hears later that the guest is to run on."""
        monkeypatch.setattr(module, "_ANSWER_TIME", 0.2)
        qemu = start_qemu(calling_kernel(2))
        qemu.attach()
        qemu.start()
        assert select.select([qemu.secure], [], [], 5)[0]
        os.kill(qemu.process._process.pid, signal.SIGSTOP)
        start = time.monotonic()
        qemu.secure.on_readable()
        assert time.monotonic() - start < 3
        assert not qemu.secure.active
        os.kill(qemu.process._process.pid, signal.SIGCONT)
        assert qemu.pass_breakpoint()

    def test_user_pauses_the_guest_and_has_it_run_on(self, start_qemu):
        qemu = start_qemu(bytes.fromhex("a7f40000 00000000") + b"S390EP\0\1" + TestServiceCalls.CALL)
        qemu.attach()
        qemu.start()
        qemu.qmp.execute("stop")
        qemu.serve(0.3)
        assert qemu.secure.active
        assert qemu.status() == "paused"
        qemu.qmp.execute("cont")
        qemu.secure.leave()
        assert not qemu.secure.active
        assert qemu.status() == "running"

    @pytest.mark.parametrize("heard", [False, True])
    def test_guest_that_the_user_has_paused_stays_so(self, start_qemu, heard):
        qemu = start_qemu(bytes.fromhex("a7f40000 00000000") + b"S390EP\0\1" + TestServiceCalls.CALL)
        qemu.attach()
        qemu.start()
        qemu.qmp.execute("stop")
        if heard:
            qemu.serve(0.3)
        qemu.secure.leave()
        assert not qemu.secure.active
        assert qemu.status() == "paused"
        # No breakpoint is left: a kernel that makes service calls now is not held.
        qemu.ram.write(KERNEL, calling_kernel(1))
        qemu.qmp.execute("system_reset")
        qemu.ram.write(qemu.image_at, TO_KERNEL)
        qemu.qmp.execute("cont")
        assert qemu.pass_breakpoint()

    def test_user_has_the_guest_run_on_where_it_is_held(self, start_qemu):
        """Before sipl has looked why it is."""
        qemu = start_qemu(calling_kernel(2))
        qemu.attach()
        qemu.start()
        assert select.select([qemu.secure], [], [], 5)[0]
        qemu.qmp.human("cont")
        qemu.serve()
        assert not qemu.secure.active
        assert qemu.pass_breakpoint()

    def test_not_attached_at_all(self, start_qemu):
        """A guest that is no Linux runs without a debugger, and its user can pause it."""
        qemu = start_qemu(bytes.fromhex("a7f40000"))
        qemu.attach()
        assert not qemu.secure.active
        assert qemu.status() == "prelaunch"
        qemu.start()
        assert qemu.status() == "running"
        qemu.qmp.execute("stop")
        qemu.qmp.execute("cont")
        assert qemu.status() == "running"


class LinuxUntilDone:
    """An engine that keeps what a Linux says until it is done, and whether it was told."""

    def __init__(self, program, cpus):
        self.program, self.cpus = program, cpus
        self.said = b""
        self.told = False

    def run(self, machine, state):
        console, theirs = socket.socketpair()
        arguments = ["-chardev", f"socket,id=con,fd={theirs.fileno()}", "-device", "sclpconsole,chardev=con"]
        size = machine.memory.size
        qemu = Qemu(self.program, b"", self.cpus, size // MIB, arguments, [theirs.fileno()])
        theirs.close()
        try:
            qemu.ram.place(machine.memory, 0, size)
            qemu.ram.write(qemu.image_at, build_jump(state.iplb_address))
            qemu.attach(machine.memory.size - KERNEL)
            qemu.start()
            qemu.serve(60)
            self.told = qemu.secure.told
            console.settimeout(120)
            while b"GUEST-DONE" not in self.said and (part := console.recv(4096)):
                self.said += part
        finally:
            qemu.close()
            console.close()
        return GuestEnd(EndKind.DONE, "")


@pytest.mark.slow
@pytest.mark.parametrize("cpus", [1, 4])
def test_linux_finds_a_machine_that_can_do_secure_ipl(shared, need_tool, cpus):
    engine = LinuxUntilDone(need_tool("qemu-system-s390x", "qemu-system-misc"), cpus)
    options = MachineOptions(secure_boot=True, boot_certs=(str(shared / "keys" / "certA.pem"),), memory=512 * MIB)
    sipl.boot([Disk(str(shared / "disks" / "good.qcow2"))], Settings(machine=options), engine)
    assert engine.told
    assert b"/sys/firmware/ipl/has_secure: 1" in engine.said
    assert b"/sys/firmware/ipl/secure: 1" in engine.said
    assert f"{cpus} configured CPUs, 0 standby CPUs".encode() in engine.said
