"""The demo guest, executed by a stock QEMU: from disk in normal mode, and with an IPL report put before it."""

from __future__ import annotations

import re
import struct
import subprocess

import pytest

from sipl.author import demo, guest
from sipl.author.boot_record import Execute, Load, Program, write_disk
from sipl.author.guest import End

IPLB = 0x100000
REPORT = IPLB + 0x1000
STUB = IPLB + 0x4000
LINE_MODE = "sclplmconsole"
SCREEN = "sclpconsole"
SIGNED, VERIFIED = 0x80, 0x40
GOOD = [
    (0x2000, 0x4000, 0),
    (0xA000, 0x200, SIGNED | VERIFIED),
    (0x10000, 0x123456789ABCDEF0, SIGNED | VERIFIED),
    (0x000800008000A000, 0, 0),
]


@pytest.fixture
def run(need_tool, tmp_path):
    """Runs QEMU; returns the lines on its console and the address of the PSW that it ended with."""
    qemu = need_tool("qemu-system-s390x", "qemu-system-misc")

    def start(*arguments, console=LINE_MODE):
        log = tmp_path / "log"
        command = [qemu, "-M", "s390-ccw-virtio,accel=tcg", "-m", "128", "-nodefaults", "-display", "none"]
        command += ["-d", "guest_errors", "-D", log, "-chardev", "stdio,id=c", *arguments]
        command += ["-device", f"{console},chardev=c"] if console else []
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False)
        end = re.search(r"PSW: 0x0002000180000000 0x([0-9a-f]{16})", log.read_text())
        assert end, (done, log.read_text())
        return done.stdout.decode("ascii").replace("\r", "").strip("\n").split("\n"), int(end[1], 16)

    return start


@pytest.fixture
def enter(run, tmp_path):
    """Runs loader and kernel in a machine that was given an IPL parameter block and a report by a stub."""

    def start(flags, report, at=guest.LOADER_ADDRESS, console=LINE_MODE):
        image = elf(
            {
                guest.LOADER_ADDRESS: guest.loader_component(512),
                guest.KERNEL_ADDRESS: guest.kernel_component(512),
                IPLB: parameter_block(flags) if flags is not None else bytes(8),
                REPORT: report,
                STUB: stub(at, set_block=flags is not None),
            },
            STUB,
        )
        (tmp_path / "machine.elf").write_bytes(image)
        return run("-kernel", tmp_path / "machine.elf", console=console)

    return start


def stub(entry, set_block):
    """DIAGNOSE 308 subcode 5, address of the block to lowcore, LPSW: what a firmware does last."""
    code = bytes.fromhex("a52e0010 a7490005") + (bytes.fromhex("83240308") if set_block else bytes.fromhex("18441844"))
    code += bytes.fromhex("50200014 c01000000008 82001000")
    return code.ljust(0x20, b"\0") + struct.pack(">Q", 0x0008000080000000 | entry)


def parameter_block(flags):
    block = struct.pack(">IB2xBIB", 4096, flags, 0, 192, 2)
    return block.ljust(4096, b"\0")


def report(*blocks, length=None):
    body = b"".join(blocks)
    return struct.pack(">I12x", 16 + len(body) if length is None else length) + body


def components(entries):
    body = b"".join(struct.pack(">QQB15x", *entry) for entry in entries)
    return struct.pack(">IB11x", 16 + len(body), 2) + body


def certificates(count):
    return struct.pack(">IB11x", 16 + 16 * count, 1) + bytes(16 * count)


def elf(segments, entry):
    """An ELF file for s390x with one loadable segment for each address."""
    header = bytes.fromhex("7f454c46 02 02 01 00").ljust(16, b"\0")
    header += struct.pack(">HHIQQQIHHHHHH", 2, 22, 1, entry, 64, 0, 0, 64, 56, len(segments), 0, 0, 0)
    offset = 64 + 56 * len(segments)
    body = b""
    for address, data in segments.items():
        place = offset + len(body)
        header += struct.pack(">IIQQQQQQ", 1, 7, place, address, address, len(data), len(data), 1)
        body += data
    return header + body


def line(address, length, flags):
    return f"component {address:016X} length {length:016X} flags {flags:02X}"


NORMAL = ["sipl demo guest", "mode: normal", "report: none", "certificates: 0000", "GUEST-DONE"]


@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("merged", [True, False])
def test_boots_from_a_disk_in_normal_mode(run, tmp_path, block_size, merged):
    program = Program(
        [
            Load(0x2000, bytes(0x4000)),
            Load(0xF000, bytes(0x1000)),
            Load(guest.LOADER_ADDRESS, guest.loader_component(block_size), b"signature"),
            # Behind the kernel so much that a second segment table is needed.
            Load(guest.KERNEL_ADDRESS, guest.kernel_component(block_size) + bytes(260 * block_size), b"signature"),
            Execute(guest.ENTRY_PSW),
        ],
        merged=merged,
    )
    disk = tmp_path / "disk.raw"
    disk.write_bytes(write_disk([program, program], block_size, 4 << 20))
    lines, end = run(
        *("-drive", f"file={disk},format=raw,if=none,id=d,readonly=on"),
        *("-device", f"virtio-blk-ccw,drive=d,bootindex=0,logical_block_size={block_size},physical_block_size=4096"),
    )
    assert lines == NORMAL
    assert end == End.DONE


def test_boots_from_the_disk_of_the_demo(run, tmp_path):
    files = demo.make_demo(str(tmp_path), 1_790_000_000)
    drive = f"file={files.disk},format=raw,if=none,id=d,readonly=on"
    assert run("-drive", drive, "-device", "virtio-blk-ccw,drive=d,bootindex=0") == (NORMAL, End.DONE)


def test_without_a_parameter_block_it_is_a_normal_start(enter):
    assert enter(None, report(components([]))) == (NORMAL, End.DONE)


@pytest.mark.parametrize("console", [LINE_MODE, SCREEN])
@pytest.mark.parametrize(("flags", "mode"), [(0x60, "secure"), (0x20, "audit")])
def test_says_what_the_report_says(enter, flags, mode, console):
    lines, end = enter(flags, report(components(GOOD), certificates(2)), console=console)
    assert lines == [
        "sipl demo guest",
        f"mode: {mode}",
        *(line(*entry) for entry in GOOD),
        "certificates: 0002",
        "GUEST-DONE",
    ]
    assert end == End.DONE


def test_other_blocks_and_another_order_are_no_obstacle(enter):
    other = struct.pack(">IB11x", 24, 7) + bytes(8)
    lines, end = enter(0x60, report(certificates(1), other, components(GOOD)))
    assert lines[2:] == [*(line(*entry) for entry in GOOD), "certificates: 0001", "GUEST-DONE"]
    assert end == End.DONE


@pytest.mark.parametrize(
    "entries",
    [
        [(0x10000, 0x200, SIGNED)],
        [(0x10000, 0x200, VERIFIED)],
        [(0x10000, 0x200, 0)],
        [(0x10000, 0, SIGNED | VERIFIED)],
        [(0x11000, 0x200, SIGNED | VERIFIED)],
        [(0x100010000, 0x200, SIGNED | VERIFIED)],
        [],
    ],
    ids=["signed only", "verified only", "unsigned", "empty", "elsewhere", "4 GiB higher", "none"],
)
def test_secure_loader_refuses_a_kernel_that_is_not_verified(enter, entries):
    assert enter(0x60, report(components(entries), certificates(1))) == ([""], End.KERNEL_NOT_VERIFIED)


def test_in_audit_mode_the_loader_checks_nothing(enter):
    lines, end = enter(0x20, report(components([(0x10000, 0x200, SIGNED)])))
    assert lines[1:3] == ["mode: audit", line(0x10000, 0x200, SIGNED)]
    assert end == End.DONE


def test_a_verified_entry_behind_another_one_counts(enter):
    assert enter(0x60, report(components([(0x10000, 0x200, 0), *GOOD])))[1] == End.DONE


@pytest.mark.parametrize(
    "broken",
    [
        report(length=0),
        report(components(GOOD), length=16),
        report(components(GOOD), length=40),
        report(struct.pack(">IB11x", 0, 2), components(GOOD)),
        report(struct.pack(">IB11x", 15, 7), components(GOOD)),
        report(struct.pack(">IB11x", 0xFFFFFFF0, 2), components(GOOD)),
        report(struct.pack(">IB11x", 16, 7) + components(GOOD), length=64),
    ],
    ids=["no length", "only a header", "cut", "length 0", "length 15", "length 4 GiB", "second cut"],
)
def test_secure_loader_refuses_a_broken_report(enter, broken):
    assert enter(0x60, broken) == ([""], End.KERNEL_NOT_VERIFIED)


def test_secure_loader_refuses_without_a_report(enter):
    assert enter(0x40, report(components(GOOD))) == ([""], End.NO_REPORT)


def test_a_report_that_leads_out_of_memory_ends_in_a_known_state(enter):
    beyond = report(struct.pack(">IB11x", 0xF0000000, 2), length=0xFFFFFFFF)
    assert enter(0x60, beyond) == ([""], End.LOADER_FAULT)
    beyond = report(struct.pack(">IB11x", 0xF0000000, 1), length=0xFFFFFFFF)
    assert enter(0x60, beyond, at=guest.KERNEL_ADDRESS) == (["sipl demo guest", "mode: secure"], End.KERNEL_FAULT)


def test_kernel_says_when_a_report_is_malformed(enter):
    lines, end = enter(0x20, report(certificates(3), struct.pack(">IB11x", 8, 2)))
    assert lines == ["sipl demo guest", "mode: audit", "report: malformed", "certificates: 0003", "GUEST-DONE"]
    assert end == End.DONE


def test_without_a_console_it_ends_with_a_code_of_its_own(enter):
    assert enter(0x60, report(components(GOOD)), console=None) == ([""], End.NO_CONSOLE)
