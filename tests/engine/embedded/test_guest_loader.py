"""sipl's own loader, run: what it hands to the kernel, and how it ends where the parameters are not in order."""

from __future__ import annotations

import struct

import pytest
from guest_lab import Console, LookingEngine
from ipl_lab import KERNEL, LOADER, PARAMETERS, Execute, Load, verdict
from linux_lab import (
    COMMAND_LINE,
    COMMAND_LINE_AT,
    ENTERED,
    ENVIRONMENT,
    INITRD,
    INITRD_LENGTH,
    KERNEL_SIZE,
    NOTHING,
    program,
    tiny_linux,
)

from sipl import ipl
from sipl.author.environment import expand
from sipl.author.loader import End

ALL = 0xFFFFFFFFFFFFFFFF
GIB = 1 << 30


@pytest.fixture
def run(lab):
    """Boots the program of linux_lab with changes; returns what its run left."""

    def start(mode="secure", tamper=None, **changes):
        return boot(lab, program(lab, **changes), mode, tamper)

    return start


def boot(lab, components, mode="secure", tamper=None):
    class Tampering(LookingEngine):
        def run(self, machine, state):
            if tamper is not None:
                tamper(machine)
            return super().run(machine, state)

    engine = Tampering(console=Console(), timeout=20.0)
    disk = lab.disk(components)
    certs = () if mode == "normal" else ("A",)
    report = ipl.boot([disk], lab.settings(mode, certs=certs, memory=16 << 20), engine)
    assert report.mode == mode
    assert engine.runs, verdict(report)
    return engine.runs[-1]


def line_of(left) -> bytes:
    return left.bytes(COMMAND_LINE_AT, 256).partition(b"\0")[0]


def area_of(left) -> tuple:
    """Address and length of the RAM disk as the kernel finds them."""
    return struct.unpack(">QQ", left.bytes(0x10408, 16))


class TestHandOver:
    @pytest.mark.parametrize("mode", ["secure", "audit", "normal"])
    @pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
    def test_kernel_finds_what_was_meant_for_it(self, run, mode, closed):
        left = run(mode, closed=closed)
        assert left.stopped_at == ENTERED
        assert line_of(left) == b"quiet"
        assert area_of(left) == (INITRD, INITRD_LENGTH)
        assert left.bytes(INITRD, INITRD_LENGTH) == bytes(range(250)) * 4
        # The subchannel of the boot device, and the version field and what follows untouched.
        assert left.number(0x10400) == left.number(0xB8, 4) != 0
        moved = tiny_linux()[0x10000:]
        assert left.bytes(0x10000, 0x400) == moved[:0x400]
        assert left.bytes(0x10418, 0x68) == moved[0x418:0x480]
        assert left.bytes(0x10580, len(moved) - 0x580) == moved[0x580:]

    def test_psw_for_program_interruptions_is_as_it_was(self, run):
        assert run().bytes(0x1D0, 16) == bytes(16)

    def test_without_any_of_it(self, run):
        left = run(**NOTHING)
        assert left.stopped_at == ENTERED
        assert line_of(left) == b"built in"
        assert area_of(left) == (0, 0)

    def test_kernel_that_does_not_say_how_long_its_command_line_may_be(self, run):
        kernel = tiny_linux(command_line_size=0)
        assert run(kernel=kernel, line=b"x" * 895 + b"\0").stopped_at == ENTERED
        assert run(kernel=kernel, line=b"x" * 896 + b"\0").stopped_at == End.COMMAND_LINE_TOO_LONG

    def test_longest_command_line(self, run):
        left = run(line=b"x" * 255 + b"\0")
        assert left.stopped_at == ENTERED
        assert line_of(left) == b"x" * 255

    def test_length_of_a_file_with_its_signature(self, run):
        assert run(kernel_length=KERNEL_SIZE + 4096 + 40).stopped_at == ENTERED
        assert run(kernel_length=KERNEL_SIZE - 4095).stopped_at == ENTERED

    def test_in_normal_mode_the_parameters_say_how_long_the_kernel_is(self, run):
        left = run("normal", kernel_length=0x11100)
        assert left.stopped_at == ENTERED
        assert left.bytes(0x11100, 0x100) == tiny_linux()[0x1100:0x1200]


VARIABLES = {"A": "1", "AB": "two", "EMPTY": "", "DOLLAR": "${A}", "_X9": "a=b"}


class TestEnvironment:
    @pytest.mark.parametrize(
        "line",
        [
            "${A}${AB}${A}",
            "a=${A} ${NONE}b ${EMPTY}. ${DOLLAR} ${_X9}",
            "$ $A ${ ${} ${a} ${A ${A-B} $${A} }",
            "${A",
            "$",
            "",
        ],
    )
    def test_is_put_in_as_python_puts_it_in(self, run, line):
        left = run(line=line.encode() + b"\0", environment=VARIABLES)
        assert left.stopped_at == ENTERED
        assert line_of(left).decode() == expand(line, VARIABLES)

    def test_without_a_block_references_are_removed(self, run):
        left = run(line=b"a${A}b\0", environment_address=ALL)
        assert line_of(left) == b"ab"

    def test_lines_that_others_wrote(self, lab):
        text = b"# zIPL Environment Block\n# A=comment\nAA=no\n\nA=first\nA =no\n=no\nA=last\nB=end"
        for block, expected in ((text, b"last end"), (text + b"\nA=very last\n" + b"\0A=behind", b"very last end")):
            components = program(lab, line=b"${A} ${B}\0", environment_length=len(block))
            components = [Load(ENVIRONMENT, block) if c[0] == ENVIRONMENT else c for c in components]
            assert line_of(boot(lab, components)) == expected

    def test_value_that_makes_the_line_too_long(self, run):
        assert run(line=b"${A}\0", environment={"A": "x" * 255}).stopped_at == ENTERED
        left = run(line=b"${A}\0", environment={"A": "x" * 256})
        assert left.stopped_at == End.COMMAND_LINE_TOO_LONG


KERNEL_END = KERNEL + KERNEL_SIZE
MISPLACED = {
    "the kernel": KERNEL,
    "the kernel's last byte": KERNEL_END - 1,
    "the loader": LOADER,
    "lowcore": 0,
    "beyond 2 GiB": 2 * GIB,
    "beyond 4 GiB": (4 * GIB) + INITRD,
    "the last byte there is": ALL - 1,
}


class TestSecureMode:
    @pytest.mark.parametrize(
        "changes",
        [
            {"kernel_address": 0x20000},
            {"kernel_address": ALL},
            {"kernel_psw": 0x0008000080010010},
            {"kernel_psw": 0x0008000080010000 | 1 << 48},
            {"kernel_psw": 0x0008000000010000},
            {"kernel_psw": 0x0008000080000000 | COMMAND_LINE},
            {"extra_parameters": 1},
            {"flags": 2 << 48},
            {"flags": 3 << 48},
            {"flags": 1},
        ],
        ids=str,
    )
    def test_parameters_that_ask_for_something_else(self, run, changes):
        assert run(**changes).stopped_at == End.PARAMETERS_UNKNOWN

    def test_no_parameters(self, run):
        assert run(without=(PARAMETERS,)).stopped_at == End.PARAMETERS_NOT_LOADED

    def test_kernel_that_nobody_signed(self, lab):
        components = [Load(KERNEL, c.data) if c[0] == KERNEL else c for c in program(lab)]
        left = boot(lab, components)
        assert left.stopped_at == End.KERNEL_NOT_VERIFIED
        assert left.bytes(KERNEL, 16) == tiny_linux()[:16]  # not moved

    def test_verified_component_elsewhere_is_no_kernel(self, lab):
        """The parameters cannot make the loader enter another verified component."""
        other = lab.signed(0x60000, tiny_linux())
        components = [c for c in program(lab) if c[0] != KERNEL]
        assert boot(lab, [other, *components]).stopped_at == End.KERNEL_NOT_VERIFIED

    @pytest.mark.parametrize(
        "length", [0, 1, 0x10000, KERNEL_SIZE - 4096, KERNEL_SIZE + 4137, GIB, 2 * GIB, 1 << 63, ALL]
    )
    def test_kernel_length_that_does_not_fit_the_verified_kernel(self, run, length):
        left = run(kernel_length=length)
        assert left.stopped_at == End.KERNEL_LENGTH
        assert left.bytes(KERNEL, KERNEL_SIZE) == tiny_linux()

    def test_verified_kernel_without_room_for_its_area(self, run):
        assert run(kernel=tiny_linux(0x10400)).stopped_at == End.KERNEL_LENGTH

    @pytest.mark.parametrize(
        "kernel",
        [
            tiny_linux(magic=b"S390EQ"),
            tiny_linux(command_line_size=KERNEL_SIZE - 0x10480 + 1),
            tiny_linux(0x10600, command_line_size=4096),
        ],
        ids=["magic", "area beyond the end", "short"],
    )
    def test_verified_component_that_is_no_linux(self, run, kernel):
        assert run(kernel=kernel).stopped_at == End.NOT_LINUX

    def test_command_line_area_up_to_the_end(self, run):
        assert run(kernel=tiny_linux(command_line_size=KERNEL_SIZE - 0x10480)).stopped_at == ENTERED

    @pytest.mark.parametrize("address", MISPLACED.values(), ids=MISPLACED)
    def test_parts_that_lie_where_they_must_not(self, run, address):
        assert run(initrd_address=address).stopped_at == End.INITRD_MISPLACED
        assert run(environment_address=address).stopped_at == End.ENVIRONMENT_MISPLACED
        left = run(parmline_address=address)
        assert left.stopped_at == End.COMMAND_LINE_MISPLACED
        assert left.bytes(KERNEL, KERNEL_SIZE) == tiny_linux()

    @pytest.mark.parametrize("length", [2 * GIB, 2 * GIB - INITRD + 1, ALL, ALL - INITRD + 1])
    def test_lengths_that_lead_too_far(self, run, length):
        assert run(initrd_length=length).stopped_at == End.INITRD_MISPLACED
        assert run(environment_length=length).stopped_at == End.ENVIRONMENT_MISPLACED

    @pytest.mark.parametrize(
        "changes",
        [
            {"initrd_length": 1025},
            {"initrd_address": INITRD + 25},
            {"initrd_address": INITRD - 1},
            {"initrd_address": 0x80000},
            {"initrd_length": 2 * GIB - INITRD},
        ],
        ids=str,
    )
    def test_initrd_that_is_not_in_one_component(self, run, changes):
        assert run(**changes).stopped_at == End.INITRD_NOT_LOADED

    def test_initrd_that_fills_its_blocks(self, run):
        assert run(initrd_length=1024).stopped_at == ENTERED

    def test_command_line_that_nobody_loaded(self, run):
        assert run(parmline_address=0x80000).stopped_at == End.COMMAND_LINE_NOT_LOADED
        assert run(without=(COMMAND_LINE,)).stopped_at == End.COMMAND_LINE_NOT_LOADED

    def test_command_line_too_long(self, run):
        assert run(line=b"x" * 256 + b"\0").stopped_at == End.COMMAND_LINE_TOO_LONG

    def test_command_line_without_an_end(self, run):
        """It ends with its component, not with the next zero in memory."""
        assert run(line=b"x" * 512).stopped_at == End.COMMAND_LINE_TOO_LONG
        assert run(line=b"${" * 0x8000).stopped_at == End.COMMAND_LINE_TOO_LONG
        assert run(line=b"x" * 0x10000 + b"\0").stopped_at == End.COMMAND_LINE_TOO_LONG

    def test_environment(self, run):
        assert run(environment_address=0x80000).stopped_at == End.ENVIRONMENT_NOT_LOADED
        assert run(environment_length=4097).stopped_at == End.ENVIRONMENT_NOT_LOADED
        assert run(environment_length=24).stopped_at == End.ENVIRONMENT_UNKNOWN
        assert run(environment_address=INITRD, environment_length=512).stopped_at == End.ENVIRONMENT_UNKNOWN


class TestNormalMode:
    """Nothing was verified; what would damage the kernel is refused nevertheless."""

    def test_nothing_is_looked_up_in_a_report(self, run):
        assert run("normal", initrd_address=0x80000).stopped_at == ENTERED
        assert run("audit", without=(INITRD,)).stopped_at == ENTERED

    def test_what_lies_in_the_way(self, run):
        assert run("normal", initrd_address=KERNEL_END - 1).stopped_at == End.INITRD_MISPLACED
        assert run("normal", kernel_length=GIB * 2).stopped_at == End.KERNEL_LENGTH
        assert run("normal", kernel_length=0x10480).stopped_at == End.KERNEL_LENGTH
        assert run("normal", kernel_length=ALL).stopped_at == End.KERNEL_LENGTH


def report_at(machine) -> int:
    """Address of the IPL report."""
    block = number(machine, 0x14, 4)
    return block + number(machine, block, 4)


def number(machine, address, length) -> int:
    return int.from_bytes(machine.memory.read(address, length), "big")


def entries(machine) -> dict[int, int]:
    """Place of the component entries, by load address."""
    start = report_at(machine) + 16
    length = number(machine, start, 4)
    assert number(machine, start + 4, 1) == 2
    return {number(machine, at, 8): at for at in range(start + 16, start + length, 32)}


def flags(machine, value: int) -> None:
    """Change the flags of the parameter block that the guest will be given."""
    block = bytearray(machine.ipl_device.block)
    block[4] = value
    machine.ipl_device.block = bytes(block)


class TestClosed:
    """A firmware that does not know NUC: the loader looks for itself."""

    @pytest.mark.parametrize(
        ("address", "end"),
        [
            (PARAMETERS, End.PARAMETERS_NOT_LOADED),
            (KERNEL, End.KERNEL_NOT_VERIFIED),
            (INITRD, End.INITRD_NOT_LOADED),
            (COMMAND_LINE, End.COMMAND_LINE_NOT_LOADED),
            (ENVIRONMENT, End.ENVIRONMENT_NOT_LOADED),
        ],
    )
    @pytest.mark.parametrize("flags", [0x00, 0x40, 0x80])
    def test_each_part_must_be_verified(self, run, address, end, flags):
        def take_away(machine):
            machine.memory.write(entries(machine)[address] + 16, bytes([flags]))

        assert run(closed=True, tamper=take_away).stopped_at == end

    @pytest.mark.parametrize("address", [PARAMETERS, INITRD, COMMAND_LINE, ENVIRONMENT])
    def test_an_open_loader_takes_them_as_they_are(self, run, address):
        def take_away(machine):
            machine.memory.write(entries(machine)[address] + 16, b"\0")

        assert run(tamper=take_away).stopped_at == ENTERED

    def test_firmware_refuses_an_unsigned_component(self, lab):
        components = program(lab, closed=True)
        report = lab.verify(lab.disk([*components[:-1], Load(0x80000, b"more"), components[-1]]))
        assert verdict(report) == ("stops", "unsigned-not-allowed")

    def test_without_zeros_behind_it_the_attributes_are_no_part_of_the_line(self, run):
        """The line's own zero ends it."""
        assert line_of(run(closed=True, line=b"x\0")) == b"x"


class TestReport:
    @pytest.mark.parametrize(
        ("offset", "data"),
        [(0, 0), (0, 15), (0, 0xFFFFFFF0)],
    )
    def test_malformed(self, run, offset, data):
        def damage(machine):
            machine.memory.write(report_at(machine) + 16 + offset, data.to_bytes(4, "big"))

        assert run(tamper=damage).stopped_at == End.REPORT_MALFORMED

    def test_empty(self, run):
        def damage(machine):
            machine.memory.write(report_at(machine), (16).to_bytes(4, "big"))

        assert run(tamper=damage).stopped_at == End.PARAMETERS_NOT_LOADED

    def test_one_that_leads_out_of_memory(self, run):
        def damage(machine):
            at = report_at(machine)
            machine.memory.write(at, b"\xff" * 4)
            machine.memory.write(at + 16, (0xF0000000).to_bytes(4, "big") + b"\x07")

        assert run(tamper=damage).stopped_at == End.FAULT

    def test_secure_ipl_without_one(self, run):
        assert run(tamper=lambda machine: flags(machine, 0x40)).stopped_at == End.NO_REPORT

    def test_without_the_flag_of_secure_ipl_nothing_is_asked_for(self, run):
        """The flags are those that DIAGNOSE 308 gives, not what lies in memory."""
        assert run(tamper=lambda machine: flags(machine, 0x20), without=(PARAMETERS,)).stopped_at != ENTERED
        assert run(tamper=lambda machine: flags(machine, 0x20), initrd_address=0x80000).stopped_at == ENTERED

    def test_parameter_block_of_another_version(self, run):
        def newer(machine):
            block = bytearray(machine.ipl_device.block)
            block[7] = 1
            machine.ipl_device.block = bytes(block)

        assert run(tamper=newer).stopped_at == End.NO_IPL_PARAMETERS

    def test_start_without_an_ipl(self, run):
        def none(machine):
            machine.ipl_device.block = None

        assert run(tamper=none, initrd_address=0x80000).stopped_at == ENTERED

    def test_entry_that_wraps_around_holds_nothing(self, run):
        def damage(machine):
            machine.memory.write(entries(machine)[INITRD] + 8, b"\xff" * 8)

        assert run(tamper=damage).stopped_at == End.INITRD_NOT_LOADED


def test_nobody_needs_the_entry_psw_to_be_a_component(lab):
    """The PSW entry of the report has no length: nothing lies in it."""
    components = program(lab, initrd_address=0x000800008000A000, initrd_length=1)
    assert boot(lab, components).stopped_at == End.INITRD_MISPLACED
    assert isinstance(components[-1], Execute)
