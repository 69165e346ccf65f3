"""Attacks by the guest and by other monitors: whatever is done, no code runs that was not verified."""

from __future__ import annotations

import os
import select
import struct
import time
from pathlib import Path

import ipl_lab
import pytest
from console_guests import LOAD_CLEAR
from console_guests import write as write_console
from guest_asm import PROBLEM, PROGRAM_CHECK, PROGRAM_NEW, SUPERVISOR, WAIT, Asm, program
from guest_ring import NEXT, WRITE, Ring
from ipl_lab import HANDS_OVER, KERNEL, MIB, kernel_bytes
from qemu_guests import (
    BLOCK,
    FCP_TYPE,
    MEMORY,
    PLACES,
    SPARE,
    Console,
    block,
    choose,
    component_page,
    copy_everywhere,
    diagnose,
    dump,
    evil_page,
    find_qemu,
    forgive_checks,
    go_on,
    reboot,
    says,
    wait_for_test,
    write_sectors,
)

from sipl.engine.qemu.code import BLOCK_OFFSET
from sipl.engine.qemu.harmless import build_image, find_image
from sipl.engine.qemu.own_setup import OwnSetup
from sipl.engine.qemu.placing import StartedTooEarly
from sipl.engine.qemu.process import QemuProcess
from sipl.engine.qemu.qmp import QemuEnded
from sipl.engine.qemu.ram import PAGE, GuestRam
from sipl.layout.guest_ends import QemuEnd
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.memory import GuestMemory

REFUSED = ("stops", "signature-not-verified")
NOT_ELIGIBLE = ("stops", "device-not-eligible")
SPECIFICATION, PRIVILEGED_OPERATION = 6, 2
PATIENCE = 60.0


def damage(path: str, data: bytes = kernel_bytes()[:64]) -> None:
    """Change a byte of the signed kernel on a disk."""
    with Path(path).open("r+b") as file:
        at = file.read().index(data)
        file.seek(at + 5)
        file.write(b"\xa5")


class ByHand:
    """A QEMU with the harmless image that nothing was placed into."""

    def __init__(self, *words: str) -> None:
        self.ram = GuestRam(MEMORY)
        image = os.memfd_create("image")
        os.write(image, build_image())
        arguments = ["-S", "-nodefaults", "-display", "none", "-machine", "s390-ccw-virtio,memory-backend=ram"]
        arguments += ["-accel", "tcg", "-cpu", "max", "-m", f"{MEMORY >> 20}M"]
        place = f"mem-path=/proc/self/fd/{self.ram.fd}"
        arguments += ["-object", f"memory-backend-file,id=ram,size={MEMORY},share=on,{place}"]
        arguments += ["-action", "panic=pause,reboot=reset", "-bios", f"/proc/self/fd/{image}", *words]
        self.process = QemuProcess(find_qemu(), arguments, [self.ram.fd, image])
        os.close(image)
        self.qmp = self.process.qmp
        self.process.greet()
        self.image_at = find_image(self.ram)

    def stops_at(self) -> int:
        """Address of the disabled wait that it ends in."""
        deadline = time.monotonic() + PATIENCE
        while True:
            while self.qmp.events:
                event = self.qmp.events.popleft()
                if event["event"] == "GUEST_PANICKED":
                    assert event["data"]["info"]["reason"] == "disabled-wait"
                    return event["data"]["info"]["psw-addr"]
            assert select.select([self.qmp], [], [], max(0.0, deadline - time.monotonic()))[0]
            self.qmp.receive()

    def close(self) -> None:
        self.process.close()
        self.ram.close()


@pytest.fixture
def by_hand():
    made = []

    def start(*words: str) -> ByHand:
        made.append(ByHand(*words))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.fixture
def bootable(lab):
    """A disk whose guest says EVIL, which a firmware that asks nobody would start."""
    return lab.guest(says(b"EVIL").end())


def drive(path: str, index: int = 1) -> tuple[str, ...]:
    node = f'{{"driver":"raw","node-name":"disk","file":{{"driver":"file","filename":"{path}"}}}}'
    return ("-blockdev", node, "-device", f"virtio-blk-ccw,drive=disk,id=disk0,bootindex={index}")


class TestHarmlessImage:
    """What QEMU has in place of its firmware, before sipl writes the jump and after every reset."""

    def test_started_too_early(self, by_hand):
        qemu = by_hand()
        qemu.qmp.execute("cont")
        # Without any boot device it depends on the version whether there is a block.
        assert qemu.stops_at() in (QemuEnd.BLOCK_STORED, QemuEnd.NO_BLOCK)

    def test_a_boot_device_of_qemu_s_own(self, by_hand, bootable):
        """It has a block for the device, and reads nothing from it."""
        qemu = by_hand(*drive(bootable.path))
        qemu.qmp.execute("cont")
        assert qemu.stops_at() == QemuEnd.BLOCK_STORED
        assert qemu.ram.read(qemu.image_at + BLOCK_OFFSET + 12, 1) == b"\2"
        (stats,) = [one["stats"] for one in qemu.qmp.execute("query-blockstats") if "disk0" in one["qdev"]]
        assert (stats["rd_operations"], stats["wr_operations"]) == (0, 0)

    @pytest.mark.parametrize("command", ["system_reset", "stop", "nmi"])
    def test_and_again(self, by_hand, bootable, command):
        qemu = by_hand(*drive(bootable.path))
        for _ in range(3):
            qemu.qmp.execute("system_reset")
            qemu.qmp.execute("cont")
            assert qemu.stops_at() == QemuEnd.BLOCK_STORED

    def test_a_device_of_the_network(self, by_hand):
        """QEMU loads a program of its own for it, which is not entered."""
        qemu = by_hand("-netdev", "hubport,id=net,hubid=0", "-device", "virtio-net-ccw,netdev=net,bootindex=1")
        qemu.qmp.execute("cont")
        assert qemu.stops_at() in (QemuEnd.BLOCK_STORED, QemuEnd.NO_BLOCK)

    def test_written_over_and_reset(self, by_hand):
        """QEMU puts it back; what was there instead does not run."""
        qemu = by_hand()
        qemu.ram.write(qemu.image_at, evil_page() * 2)
        qemu.qmp.execute("system_reset")
        assert find_image(qemu.ram) == qemu.image_at
        qemu.qmp.execute("cont")
        assert qemu.stops_at() in (QemuEnd.BLOCK_STORED, QemuEnd.NO_BLOCK)

    def test_lies_where_a_firmware_does(self, by_hand):
        qemu = by_hand()
        assert MEMORY - qemu.image_at in PLACES


class TestBeforeTheHandOver:
    """Another monitor acts while sipl verifies, or right before the guest starts."""

    @pytest.mark.parametrize(
        "commands",
        [["cont"], ["system_reset"], ["system_reset", "cont"], ["cont", "stop"], ["cont", "system_reset", "stop"]],
        ids="-".join,
    )
    def test_a_start_is_noticed(self, lab, commands):
        console = Console()

        def attack(engine, setup):
            for command in commands:
                setup.monitor().execute(command)

        with pytest.raises(StartedTooEarly, match="before the guest was verified; only the harmless image ran"):
            lab.boot_qemu(says(b"GUEST").end(), console=console, before=attack)
        assert console.written == b""

    def test_set_action_alone_changes_nothing(self, lab):
        def attack(engine, setup):
            setup.monitor().execute("set-action", {"reboot": "reset", "panic": "none", "shutdown": "pause"})

        booted = lab.boot_qemu(says(b"GUEST").end(), before=attack, until="GUEST")
        assert (booted.console, booted.ends) == (b"GUEST", ["seen"])

    @pytest.mark.parametrize("commands", [["system_reset"], ["system_reset", "cont"]], ids="-".join)
    def test_between_jump_and_start(self, lab, commands):
        """The reset takes the jump away: the start of the guest starts the harmless image, and all begins anew."""
        found = []

        def attack(engine):
            if not found:
                found.append(engine)
                for command in commands:
                    engine.setup.monitor().execute(command)

        booted = lab.boot_qemu(says(b"GUEST").end(), placed=attack)
        assert booted.ends == ["reset", "done"]
        assert booted.verdicts == [HANDS_OVER] * 2
        assert booted.console == b"GUEST"
        assert len(set(booted.pids)) == 2

    def test_a_start_before_sipl_s_own(self, lab):
        """Everything is in its place by then."""

        def attack(engine):
            engine.setup.monitor().execute("cont")

        booted = lab.boot_qemu(says(b"GUEST").end(), placed=attack, until="GUEST")
        assert (booted.console, booted.ends) == (b"GUEST", ["seen"])


class TestReset:
    """`system_reset` while the guest runs."""

    @pytest.mark.parametrize("commands", [["system_reset"], ["stop", "system_reset", "cont"]], ids="-".join)
    def test_verifies_again(self, lab, commands):
        disk = lab.guest(wait_for_test(says(b"READY")).end())
        console = Console()
        engines = []

        def attack():
            for command in commands:
                engines[-1].setup.monitor().execute(command)

        console.actions[b"READY"] = attack
        console.actions[b"READYREADY"] = lambda: go_on(engines[-1])
        booted = lab.boot_qemu(disk, console=console, announce=lambda engine, _: engines.append(engine))
        assert booted.ends == ["reset", "done"]
        assert booted.verdicts == [HANDS_OVER] * 2
        assert len(set(booted.pids)) == 2

    @pytest.mark.parametrize("boot_order", [False, True], ids=["", "of QEMU's, too"])
    def test_is_as_the_first_start(self, lab, boot_order):
        """The boot order counts, and not what the guest chose for an IPL of its own."""
        asm = wait_for_test(write_console(choose(program(), block(0x77)), b"READY"))
        console, engines = Console(), []
        console.actions[b"READY"] = lambda: engines[-1].setup.monitor().execute("system_reset")
        console.actions[b"READYREADY"] = lambda: go_on(engines[-1])
        disks = lab.disk(bytes(MIB)), lab.guest(asm.end())
        booted = lab.boot_qemu(
            *disks, console=console, announce=lambda engine, _: engines.append(engine), boot_order=boot_order
        )
        assert booted.ends == ["reset", "done"]
        found = [[one.outcome for one in report.devices] for report in booted.announced]
        assert found == [["given-up", "hands-over"]] * 2

    @pytest.mark.parametrize("way", ["system_reset", "reboot"])
    def test_and_a_disk_that_was_changed_meanwhile_does_not_run(self, lab, way):
        disk = lab.guest(reboot(wait_for_test(says(b"READY"))))
        console = Console()
        engines = []

        def attack():
            damage(disk.path)
            if way == "reboot":
                go_on(engines[-1])
            else:
                engines[-1].setup.monitor().execute("system_reset")

        console.actions[b"READY"] = attack
        booted = lab.boot_qemu(disk, console=console, announce=lambda engine, _: engines.append(engine))
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert booted.console == b"READY"
        assert len(booted.pids) == 1

    @pytest.mark.parametrize(
        "action",
        [
            {"reboot": "reset"},
            {"reboot": "shutdown"},
            {"reboot": "reset", "panic": "none"},
            {"reboot": "reset", "panic": "shutdown"},
            {"reboot": "reset", "panic": "pause", "shutdown": "pause"},
            {"reboot": "shutdown", "shutdown": "pause"},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("way", ["system_reset", "reboot"])
    def test_set_action(self, lab, action, way):
        """However QEMU was told to behave: what was changed on the disk does not run."""
        disk = lab.guest(reboot(wait_for_test(says(b"READY"))))
        console = Console()
        engines = []

        def attack():
            monitor = engines[-1].setup.monitor()
            monitor.execute("set-action", action)
            damage(disk.path)
            if way == "reboot":
                go_on(engines[-1])
            else:
                monitor.execute("system_reset")

        console.actions[b"READY"] = attack
        booted = lab.boot_qemu(disk, console=console, timeout=3, announce=lambda engine, _: engines.append(engine))
        assert booted.console == b"READY"
        assert len(booted.pids) == 1
        assert booted.verdicts in ([HANDS_OVER, REFUSED], [HANDS_OVER])
        assert booted.verdicts[1:] or booted.ends not in (["re-ipl"], ["reset"])

    def test_cont_after_the_end_finds_nobody(self, lab):
        """The process of an IPL is gone when the next one begins."""
        disk = lab.guest(reboot(says(b"x")))
        monitors = []

        def attack(engine, runs):
            if runs == 1:
                monitors.append(engine.setup.monitors[0])
                with pytest.raises(QemuEnded):
                    monitors[0].execute("cont")

        booted = lab.boot_qemu(disk, between=attack, until="xx")
        assert monitors
        assert booted.ends == ["re-ipl", "seen"]


def end_of_memory(asm: Asm, first: int) -> Asm:
    return copy_everywhere(asm, first, MEMORY)


class TestMemory:
    """The guest owns all its memory, that of the jump included."""

    @pytest.mark.parametrize("first", [MEMORY - 4 * MIB, 4 * MIB], ids=["the image's places", "nearly all"])
    def test_code_in_the_image_s_place_does_not_outlive_a_reset(self, lab, first):
        guest = lab.guest(reboot(end_of_memory(says(b"x"), first)), extra=[component_page(evil_page())])
        booted = lab.boot_qemu(guest, until="xxx")
        assert booted.console == b"xxx"
        assert booted.ends == ["re-ipl", "re-ipl", "seen"]
        assert booted.verdicts == [HANDS_OVER] * 3

    def test_the_page_would_run_if_it_were_entered(self, lab):
        """The same code, by a branch: the attacks of this class are able to do something."""
        place = MEMORY - PLACES[0]
        asm = end_of_memory(says(b"x"), MEMORY - 4 * MIB)
        asm.go(SUPERVISOR, place)
        booted = lab.boot_qemu(lab.guest(asm, extra=[component_page(evil_page())]))
        assert booted.console == b"xEVIL"
        assert booted.ends == ["crashed"]

    def test_a_reset_by_a_monitor_after_it(self, lab):
        asm = wait_for_test(write_console(end_of_memory(program(), MEMORY - 4 * MIB), b"READY"))
        guest = lab.guest(asm.end(), extra=[component_page(evil_page())])
        console, engines = Console(), []
        console.actions[b"READY"] = lambda: engines[-1].setup.monitor().execute("system_reset")
        console.actions[b"READYREADY"] = lambda: go_on(engines[-1])
        booted = lab.boot_qemu(guest, console=console, announce=lambda engine, _: engines.append(engine))
        assert booted.console == b"READYREADY"
        assert booted.ends == ["reset", "done"]

    def test_lowcore_full_of_psws_that_lead_to_it(self, lab):
        """Whichever interruption would come before or after the reset."""
        asm = end_of_memory(says(b"x"), 4 * MIB)
        target = 5 * MIB
        for new in range(0x1A0, 0x200, 16):
            asm.put_psw(new, SUPERVISOR, target)
        asm.put(0, struct.pack(">II", 0x00080000, 0x80000000 | target))
        guest = lab.guest(reboot(asm), extra=[component_page(evil_page())])
        booted = lab.boot_qemu(guest, until="xx")
        assert (booted.console, booted.ends) == (b"xx", ["re-ipl", "seen"])

    def test_memory_of_the_run_before_is_gone(self, lab):
        """A fresh process has fresh memory."""
        asm = program().load(12, SPARE).lg(7, 12).put_register(SPARE + 8, 7).put(SPARE, b"the past")
        booted = lab.boot_qemu(lab.guest(reboot(write_console(asm, b"x"))), until="xx")
        assert [run.bytes(SPARE, 16) for run in booted.runs] == [b"the past" + bytes(8)] * 2

    @pytest.fixture
    def transfer(self, lab):
        """A guest that tells its disk to fill the image's places, and goes on with `then`."""

        def make(then):
            ring = Ring()
            ring.request(kind=0, sector=1024)
            chain = [(Ring.HEADER, 16, NEXT, 1)]
            chain += [(MEMORY - place, 8192, NEXT | WRITE, 2 + n) for n, place in enumerate(PLACES)]
            ring.descriptors(*chain, (Ring.STATUS, 1, WRITE, 0))
            ring.available(1, 0)
            disk = lab.guest(then(write_console(ring.asm, b"x") and ring.notify()), size=2 * MIB)
            with Path(disk.path).open("r+b") as file:
                file.seek(1024 * 512)
                file.write(evil_page() * 4)
            return disk

        return make

    def test_a_transfer_that_ends_after_the_reset(self, lab, transfer):
        """The reset does not wait for it."""
        booted = lab.boot_qemu(transfer(reboot), until="x" * 8)
        assert booted.console == b"x" * 8
        assert booted.ends == ["re-ipl"] * 7 + ["seen"]

    def test_the_transfer_gets_there(self, lab, transfer):
        """The same one, and a branch to what it brings."""

        def enter(asm):
            asm.load(5, 10_000_000)
            asm.ri(0xA77, 5, 0)  # BRCTG to itself
            return asm.go(SUPERVISOR, MEMORY - PLACES[0])

        booted = lab.boot_qemu(transfer(enter))
        assert (booted.console, booted.ends) == (b"xEVIL", ["crashed"])

    def test_another_cpu_writes_all_the_time(self, lab):
        """The second CPU fills the image's places with its own code while the first one resets."""
        asm = says(b"x")
        entry, count = 0x140000, 2_000_000
        filler = copy_everywhere(Asm(entry).put(SPARE, b"it is on"), MEMORY - 4 * MIB, MEMORY)
        filler.jump(entry)
        asm.put(entry, bytes(filler.code).ljust(-(-len(filler.code) // 8) * 8, b"\0"))
        asm.put_psw(0x1A0, SUPERVISOR, entry)
        asm.load(1, 0).load(3, 1).rs(0xAE, 1, 3, 0, 6)  # SIGP restart
        wait = asm.here
        asm.load(12, SPARE).lg(3, 12).ri(0xA7F, 3, 0).jump(wait, 8)  # CGHI
        asm.load(5, count).ri(0xA77, 5, 0)  # BRCTG to itself
        guest = lab.guest(reboot(asm), extra=[component_page(evil_page())])
        booted = lab.boot_qemu(guest, until="xxxx", cpus=2)
        assert (booted.console, booted.ends) == (b"xxxx", ["re-ipl"] * 3 + ["seen"])
        assert booted.runs[0].bytes(SPARE, 8) == b"it is on"


class TestSubcodes:
    """DIAGNOSE 308 in every subcode."""

    @pytest.mark.parametrize("subcode", [0, 1])
    def test_a_jump_to_the_psw_at_0_is_the_guest_s_own(self, lab, subcode):
        """No IPL: the guest goes on with its own code in its own memory."""
        asm = says(b"one ")
        short = struct.pack(">II", 0x00080000, 0x80000000 | 0x140000)
        second = bytes(write_console(Asm(0x140000).raw("010E"), b"two").end().code)
        asm.put(0x140000, second.ljust(-(-len(second) // 8) * 8, b"\0")).put(0, short)
        booted = lab.boot_qemu(diagnose(asm, subcode, 0).end(0xBAD))
        assert booted.console == b"one two"
        assert booted.ends == ["done"]
        assert booted.verdicts == [HANDS_OVER]

    @pytest.mark.parametrize("subcode", [0, 1])
    def test_and_leaves_no_jump_to_sipl_s_own(self, lab, subcode):
        """A PSW at 0 that leads to where the jump lay, now with code of the guest: again its own."""
        asm = end_of_memory(says(b"x"), MEMORY - 4 * MIB)
        asm.put(0, struct.pack(">II", 0x00080000, 0x80000000 | MEMORY - PLACES[0]))
        guest = lab.guest(diagnose(asm, subcode, 0), extra=[component_page(evil_page(b"MINE"))])
        booted = lab.boot_qemu(guest)
        assert (booted.console, booted.ends) == (b"xMINE", ["crashed"])

    @pytest.mark.parametrize("subcode", [3, 4])
    def test_an_ipl_is_verified(self, lab, subcode):
        booted = lab.boot_qemu(reboot(says(b"x"), subcode), until="xxx")
        assert booted.ends == ["re-ipl", "re-ipl", "seen"]
        assert booted.verdicts == [HANDS_OVER] * 3
        assert len(set(booted.pids)) == 3

    @pytest.mark.parametrize("subcode", [3, 4])
    def test_and_refused_if_the_disk_was_changed(self, lab, subcode):
        disk = lab.guest(reboot(says(b"x"), subcode))
        booted = lab.boot_qemu(disk, between=lambda engine, runs: damage(disk.path))
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert (booted.console, len(booted.pids)) == (b"x", 1)

    @pytest.mark.parametrize("subcode", [2, 7, 8, 9, 10, 11, 0x1000, 0x10005, 1 << 32, (1 << 64) - 1])
    def test_the_others_are_specification_exceptions(self, lab, subcode):
        """8 to 10 would start an image that nobody here can verify: QEMU is told not to have them."""
        asm = forgive_checks(program()).load(9, 0xFFFF)
        asm = diagnose(asm, subcode).put_register(SPARE, 9)
        booted = lab.boot_qemu(write_console(asm, b"x").end())
        assert booted.runs[0].number(SPARE) == SPECIFICATION
        assert (booted.console, booted.ends) == (b"x", ["done"])

    @pytest.mark.parametrize("cpu", ["qemu", "z15", "z16", "z17", "z16,unpack=on"])
    def test_protected_guests_are_switched_off(self, lab, cpu):
        """Whatever the CPU could do: where QEMU has a real one, it could start an image that nobody verified."""
        setup = OwnSetup([lab.guest(says(b"x").end())], lab.settings(cpu=cpu))
        setup.open()
        try:
            words = setup.arguments()
        finally:
            setup.close()
        model = words[words.index("-cpu") + 1].split(",")
        assert model[-1] == "unpack=off"
        assert words.count("-cpu") == 1

    @pytest.mark.parametrize("address", [BLOCK + 8, MEMORY, MEMORY - 8, 1 << 40])
    @pytest.mark.parametrize("subcode", [5, 6])
    def test_bad_addresses(self, lab, subcode, address):
        """An interruption, and the next IPL is the one that it would have been."""
        asm = forgive_checks(program()).load(9, 0)
        asm = diagnose(asm, subcode, address).put_register(SPARE, 9)
        booted = lab.boot_qemu(reboot(write_console(asm, b"x")), until="xx")
        assert booted.runs[0].number(SPARE) in (SPECIFICATION, 5)
        assert booted.ends == ["re-ipl", "seen"]

    def test_problem_state(self, lab):
        """A privileged operation, no way to an IPL."""
        asm = forgive_checks(program()).load(9, 0).go(PROBLEM)
        booted = lab.boot_qemu(diagnose(asm, LOAD_CLEAR).put_register(SPARE, 9).svc(1))
        assert booted.runs[0].number(SPARE) == PRIVILEGED_OPERATION
        assert booted.ends == ["crashed"]


class TestChosenDevice:
    """The block that the guest sets for its next IPL."""

    def test_another_disk_of_the_boot_order_is_verified(self, lab):
        first = lab.guest(reboot(choose(says(b"one "), block(2))))
        second = lab.guest(says(b"two").end())
        booted = lab.boot_qemu(first, second)
        assert (booted.console, booted.ends) == (b"one two", ["re-ipl", "done"])
        used = [[one.path for one in report.devices if one.outcome == "hands-over"] for report in booted.announced]
        assert used == [[first.path], [second.path]]
        assert booted.runs[0].number(SPARE) == 1

    def test_one_that_nobody_signed_for_this_machine_is_refused(self, lab):
        first = lab.guest(reboot(choose(says(b"one "), block(2))))
        second = lab.guest(says(b"EVIL").end(), by="B")
        booted = lab.boot_qemu(first, second)
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert (booted.console, len(booted.pids)) == (b"one ", 1)

    def test_flags_that_the_guest_leaves_out_are_the_machine_s(self, lab):
        """Secure mode is not left by a block without its flags, nor by one of normal mode's length."""
        first = lab.guest(reboot(choose(says(b"one "), block(2, flags=0))))
        second = lab.guest(diagnose(says(b"two"), 6).end())
        booted = lab.boot_qemu(first, second)
        assert booted.report.mode == "secure"
        assert booted.runs[1].bytes(BLOCK, 5) == bytes.fromhex("00001000 60")

    def test_audit_mode_is_no_secure_mode_because_the_guest_says_so(self, lab):
        asm = write_console(diagnose(program(), 6, SPARE), b"x")
        asm = reboot(choose(asm, block(1, flags=0x60), SPARE + 0x1000))
        booted = lab.boot_qemu(asm, mode="audit", certs=("B",), until="xx")
        assert [report.mode for report in booted.announced] == ["audit"] * 2
        assert [run.bytes(SPARE + 4, 1) for run in booted.runs[1:]] == [b"\x20"]

    @pytest.mark.parametrize(
        "data",
        [block(0x77), block(1, ssid=1), block(0xFFFE), block(0), block(0xFFFF, ssid=3)],
        ids=["absent", "other set", "entropy", "0000", "last"],
    )
    def test_no_disk_of_the_boot_order(self, lab, data):
        booted = lab.boot_qemu(reboot(choose(says(b"x"), data)), lab.guest(says(b"EVIL").end()))
        assert booted.verdicts == [HANDS_OVER, NOT_ELIGIBLE]
        assert (booted.console, len(booted.pids)) == (b"x", 1)

    def test_hot_plugged_disk(self, lab, bootable):
        """It is even signed; but it is none that was verified, and nobody looks at it."""
        console, engines = Console(), []

        def plug():
            monitor = engines[-1].setup.monitor()
            file = {"driver": "file", "filename": bootable.path}
            monitor.execute("blockdev-add", {"driver": "raw", "node-name": "plugged", "file": file})
            device = {"driver": "virtio-blk-ccw", "drive": "plugged", "devno": "fe.0.0005", "id": "plugged"}
            monitor.execute("device_add", device)
            go_on(engines[-1])

        console.actions[b"READY"] = plug
        asm = reboot(choose(wait_for_test(says(b"READY")), block(5)))
        booted = lab.boot_qemu(asm, console=console, announce=lambda engine, _: engines.append(engine))
        assert booted.verdicts == [HANDS_OVER, NOT_ELIGIBLE]
        assert (booted.console, len(booted.pids)) == (b"READY", 1)

    @pytest.mark.parametrize("length", [384, 4096])
    def test_type_fcp(self, lab, length):
        asm = reboot(choose(says(b"x"), block(1, kind=FCP_TYPE, length=length)))
        booted = lab.boot_qemu(asm)
        assert booted.verdicts == [HANDS_OVER, NOT_ELIGIBLE]
        assert booted.console == b"x"

    @pytest.mark.parametrize(
        "data",
        [
            bytes(208),
            b"\xff" * 208,
            block(2, length=16),
            block(2, length=4104),
            block(2, kind=0x55),
            block(2, kind=5, length=4096),
        ],
        ids=["zeros", "ones", "short", "long", "type", "protected"],
    )
    def test_what_is_no_block_is_not_taken(self, lab, data):
        """QEMU refuses it, and the IPL is that of the block before."""
        other = lab.guest(says(b"two").end())
        booted = lab.boot_qemu(reboot(choose(says(b"x"), data)), other, until="xx")
        assert booted.runs[0].number(SPARE) != 1
        assert booted.console == b"xx"
        assert booted.ends == ["re-ipl", "seen"]

    def test_scsi_block_of_qemu_s_own_type(self, lab):
        """Versions take it or not; then the device that its number names is verified, or there is none."""
        other = lab.guest(says(b"two").end())
        booted = lab.boot_qemu(reboot(choose(says(b"x"), block(2, kind=0xFF))), other, until="xx")
        if booted.runs[0].number(SPARE) == 1:
            assert booted.verdicts in ([HANDS_OVER] * 2, [HANDS_OVER, NOT_ELIGIBLE])
        else:
            assert booted.console == b"xx"

    def test_loadparm(self, lab):
        """It chooses another program of the same disk, which is verified as the first one is."""
        booted = lab.boot_qemu(two_programs(lab, "A"), console=Console())
        assert (booted.console, booted.ends) == (b"one two", ["re-ipl", "done"])
        assert [report.devices[0].program for report in booted.announced] == [0, 2]

    def test_loadparm_that_chooses_what_nobody_signed(self, lab):
        booted = lab.boot_qemu(two_programs(lab, "B"))
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert (booted.console, len(booted.pids)) == (b"one ", 1)

    def test_loadparm_without_a_program(self, lab):
        booted = lab.boot_qemu(two_programs(lab, "A", b"\xf9"))
        assert booted.verdicts == [HANDS_OVER, ("stops", "loadparm-invalid")]
        assert booted.console == b"one "

    @pytest.mark.parametrize("loadparm", [b"\0" * 8, b"\xff" * 8, b"\x40" * 8])
    def test_other_loadparms(self, lab, loadparm):
        """Bytes that are no characters: verified, or refused."""
        booted = lab.boot_qemu(reboot(choose(says(b"x"), block(1, loadparm=loadparm))), until="xx")
        assert booted.verdicts[0] == HANDS_OVER
        assert booted.verdicts[1] in (HANDS_OVER, ("stops", "loadparm-invalid"))
        assert booted.console in (b"x", b"xx")

    def test_virtio_scsi_chosen_by_its_adapter(self, lab):
        disk = lab.guest(reboot(choose(says(b"x"), block(1))))._replace(kind=DeviceKind.VIRTIO_SCSI)
        booted = lab.boot_qemu(disk, until="xx")
        assert booted.ends == ["re-ipl", "seen"]

    def test_subcode_4_with_a_chosen_device(self, lab):
        """The way of Linux's reboot, which QEMU ends in an interruption: the block counts all the same."""
        first = lab.guest(reboot(choose(says(b"one "), block(2)), 4))
        booted = lab.boot_qemu(first, lab.guest(says(b"two").end()))
        assert (booted.console, booted.ends) == (b"one two", ["re-ipl", "done"])

    def test_subcode_4_with_a_device_that_is_not_there(self, lab):
        booted = lab.boot_qemu(reboot(choose(says(b"x"), block(0x77)), 4))
        assert booted.verdicts == [HANDS_OVER, NOT_ELIGIBLE]


def two_programs(lab, by: str, number: bytes = b"\xf2"):
    """A disk whose first program asks for another one by its number."""
    from sipl.author.boot_record import Program, write_disk

    def components(asm, signer):
        kernel = lab.signed(KERNEL, kernel_bytes())
        return Program(lab.components(bytes(asm.code), signer, extra=[kernel]))

    first = reboot(choose(says(b"one "), block(1, loadparm=number.ljust(8, b"\x40"))))
    programs = [components(first, "A"), None, components(says(b"two").end(), by)]
    return lab.disk(bytes(write_disk(programs, 512)))


class TestPanic:
    """Guests that crash stay crashed."""

    @pytest.mark.parametrize(
        "address", [0, 1, 0x123456, *(int(end) for end in QemuEnd), *(int(end) + 2 for end in QemuEnd)], ids=hex
    )
    def test_disabled_wait(self, lab, address):
        """Also one at the address at which the harmless image stops, which means nothing without a reset."""
        booted = lab.boot_qemu(says(b"x").end(address))
        assert booted.ends == ["crashed"]
        assert booted.verdicts == [HANDS_OVER]

    @pytest.mark.parametrize("end", QemuEnd, ids=hex)
    @pytest.mark.parametrize("subcode", [0, 1])
    def test_forged_wait_after_a_jump_of_its_own(self, lab, subcode, end):
        """With a block in the image's place that names another disk."""
        page = bytes(write_console(Asm().raw("010E"), b"x").end(end).code).ljust(4096, b"\0")
        asm = copy_everywhere(program(), MEMORY - 4 * MIB, MEMORY)
        for place in PLACES:
            asm.put(MEMORY - place + BLOCK_OFFSET, block(2))
        asm.put(0, struct.pack(">II", 0x00080000, 0x80000000 | MEMORY - PLACES[0]))
        guest = lab.guest(diagnose(asm, subcode, 0), extra=[component_page(page)])
        booted = lab.boot_qemu(guest, lab.guest(says(b"EVIL").end(), by="B"))
        assert booted.ends == ["crashed"]
        assert (booted.console, booted.verdicts) == (b"x", [HANDS_OVER])

    def test_forged_interruption(self, lab):
        """Who pretends to have asked for an IPL gets one that is verified, as who asks for it does."""
        asm = says(b"x").put(BLOCK + 0x1000, bytes.fromhex("8326030800000000"))
        asm.put(0x88, bytes.fromhex("0000000000040006")).put_psw(0x150, SUPERVISOR, BLOCK + 0x1004)
        booted = lab.boot_qemu(asm.end(0x123456), until="xx")
        assert booted.ends == ["re-ipl", "seen"]
        assert booted.verdicts == [HANDS_OVER] * 2

    def test_program_check_loop(self, lab):
        """Without KVM, QEMU does not see that the CPU only ends in it; the time limit does."""
        asm = says(b"x").put_psw(PROGRAM_NEW, SUPERVISOR, SPARE).raw("0000")
        booted = lab.boot_qemu(asm, timeout=1.5)
        assert booted.ends in (["timeout"], ["crashed"])
        assert (booted.console, booted.verdicts) == (b"x", [HANDS_OVER])

    def test_program_check_with_an_invalid_new_psw(self, lab):
        asm = says(b"x").put_psw(PROGRAM_NEW, (1 << 64) - 1, 0).raw("0000")
        booted = lab.boot_qemu(asm, timeout=1.5)
        assert booted.ends in (["timeout"], ["crashed"])
        assert (booted.console, booted.verdicts) == (b"x", [HANDS_OVER])

    def test_all_cpus_stopped(self, lab):
        asm = says(b"x").load(1, 0).load(3, 0).rs(0xAE, 1, 3, 0, 5)  # SIGP stop to itself
        asm.jump(asm.here)
        booted = lab.boot_qemu(asm)
        assert booted.ends == ["done"]

    def test_wait_without_an_end(self, lab):
        """Enabled, but nothing will come."""
        booted = lab.boot_qemu(says(b"x").go(WAIT | 1 << 57, PROGRAM_CHECK), timeout=1)
        assert booted.ends == ["timeout"]


class TestDamagedDisk:
    """A guest that writes over its kernel does not come back, wherever its writes go."""

    @pytest.fixture
    def vandal(self, lab):
        def make(subcode=LOAD_CLEAR):
            def disk(sector):
                return lab.guest(reboot(write_console(write_sectors(sector).asm, b"x"), subcode))

            sector, within = divmod(Path(disk(0).path).read_bytes().index(kernel_bytes()[:512]), 512)
            assert within == 0
            made = disk(sector)
            assert Path(made.path).read_bytes()[sector * 512 :].startswith(kernel_bytes()[:512])
            return made, sector

        return make

    @pytest.mark.parametrize("subcode", [3, 4])
    @pytest.mark.parametrize("write", [False, True], ids=["overlay", "image"])
    def test_raw(self, lab, vandal, write, subcode):
        disk, sector = vandal(subcode)
        before = Path(disk.path).read_bytes()
        booted = lab.boot_qemu(disk, write=write)
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert (booted.console, booted.ends, len(booted.pids)) == (b"x", ["re-ipl"], 1)
        assert booted.runs[0].bytes(Ring.STATUS, 1) == b"\0"
        changed = before[: sector * 512] + bytes(512) + before[sector * 512 + 512 :]
        assert Path(disk.path).read_bytes() == (changed if write else before)
        assert lab.boot_qemu(disk, until="x").verdicts == ([REFUSED] if write else [HANDS_OVER])

    def test_qcow2_with_write(self, lab, vandal, need_tool):
        import subprocess

        disk, _ = vandal()
        path = disk.path + ".qcow2"
        convert = [need_tool("qemu-img", "qemu-utils"), "convert", "-O", "qcow2", disk.path, path]
        subprocess.run(convert, check=True, capture_output=True)
        booted = lab.boot_qemu(disk._replace(path=path), write=True)
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert lab.boot_qemu(disk._replace(path=path)).verdicts == [REFUSED]

    def test_reset_by_a_monitor_after_it(self, lab):
        """What the guest wrote stays, in an overlay that outlives the process."""

        def disk(sector):
            return lab.guest(wait_for_test(write_console(write_sectors(sector).asm, b"READY")).end())

        sector = Path(disk(0).path).read_bytes().index(kernel_bytes()[:512]) // 512
        console, engines = Console(), []
        console.actions[b"READY"] = lambda: engines[-1].setup.monitor().execute("system_reset")
        made = disk(sector)
        booted = lab.boot_qemu(made, console=console, announce=lambda engine, _: engines.append(engine))
        assert booted.verdicts == [HANDS_OVER, REFUSED]
        assert booted.console == b"READY"


class TestSameFile:
    """What was verified is what QEMU has: the file, not its name."""

    def test_replaced_by_rename_between_verification_and_run(self, lab, tmp_path):
        """The guest reads its first sector; another file has the name by then."""
        asm = dump(write_sectors(0, 0x600000, kind=0).asm, 0x600000, 16)
        disk = lab.guest(asm.end())
        original = Path(disk.path).read_bytes()
        inode = os.stat(disk.path).st_ino
        found = []

        def swap(engine, report):
            other = tmp_path / "other"
            other.write_bytes(b"E" * len(original))
            other.rename(disk.path)
            engine.wait_until_ready()
            folder = f"/proc/{engine._process.qemu._process.pid}/fd"
            found.extend(os.stat(f"{folder}/{name}").st_ino for name in os.listdir(folder))

        booted = lab.boot_qemu(disk, announce=swap)
        assert booted.ends == ["done"]
        assert booted.console == original[:16]
        assert inode in found
        assert os.stat(disk.path).st_ino not in found

    def test_replaced_between_two_ipls(self, lab, tmp_path):
        """The guest's disk is the file that it was: it comes back, and the new file waits for another start."""
        disk = lab.guest(reboot(says(b"x")))
        evil = lab.guest(says(b"EVIL").end())

        def swap(engine, runs):
            if runs == 1:
                Path(evil.path).rename(disk.path)

        booted = lab.boot_qemu(disk, between=swap, until="xx")
        assert (booted.console, booted.ends) == (b"xx", ["re-ipl", "seen"])

    def test_changed_in_place_between_verification_and_run(self, lab):
        """What runs is the bytes that were verified, as they lie in memory."""
        disk = lab.guest(says(b"verified").end())
        booted = lab.boot_qemu(disk, announce=lambda engine, _: damage(disk.path, b"\x01\x0e"))
        assert (booted.console, booted.ends) == (b"verified", ["done"])


class TestPlacing:
    def test_pages_of_zeros_are_zero(self):
        """Whatever QEMU itself put there before."""
        ram, memory = GuestRam(4 * MIB), GuestMemory(4 * MIB)
        try:
            ram.write(MIB, b"\xaa" * PAGE * 2)
            ram.place(memory, MIB, PAGE * 2)
            assert ram.read(MIB, PAGE * 2) == bytes(PAGE * 2)
        finally:
            ram.close()
            memory.close()

    def test_component_in_the_image_s_place(self, lab):
        """It cannot be there together with the jump; nothing is started."""
        from sipl.errors import UsageError

        extra = [ipl_lab.Load(MEMORY - place, b"component") for place in PLACES]
        # sipl's own boot side keeps its room free, as a firmware does.
        try:
            booted = lab.boot_qemu(lab.guest(says(b"x").end(), extra=extra))
        except UsageError as error:
            assert "needs the place of its firmware" in str(error)
        else:
            assert booted.verdicts[0][0] == "stops"
            assert booted.pids == []
