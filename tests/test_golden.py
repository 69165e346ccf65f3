"""The IPL report byte for byte as a reference QEMU left it in guest memory, apart from what is decided otherwise.

`allowed_ranges` walks the golden report and names each range of bytes that may differ, and why. Every other byte, the
IPL parameter block, and the certificates at the addresses that the report gives, must be equal.
"""

from __future__ import annotations

import json
import struct

import pytest

from sipl.ipl import boot
from sipl.machine.ipl_device import firmware_base
from sipl.machine.options import DEFAULT_MEMORY, MachineOptions, parse_time
from sipl.settings import Disk, Settings

AT = "2026-11-23T04:00:00Z"
NAMES = ("good.secure.A", "mixed.audit.A")
VERIFIED = 0x40
UNVERIFIED = (
    "T11: the certificate index of an entry that is not verified is 0; the reference leaves another number there"
)
PSW_ENTRY = "T11 for the PSW entry of T7: its certificate index is 0, in the reference 0xffff"
WHERE = "T11: certificates lie in the area that no component may touch, in the reference on the heap of its firmware"


def blocks(report):
    """(type, offset of the first entry, offset of the end) of each block."""
    total = struct.unpack_from(">I", report)[0]
    assert total == len(report)
    offset = 16
    while offset < total:
        length, kind = struct.unpack_from(">IB", report, offset)
        assert length >= 16
        yield kind, offset + 16, offset + length
        offset += length


def allowed_ranges(golden):
    """{(first, end): why} of the bytes that may differ."""
    allowed = {}
    for kind, first, end in blocks(golden):
        if kind == 2:
            for entry in range(first, end, 32):
                _, length, flags = struct.unpack_from(">QQB", golden, entry)
                if not flags & VERIFIED:
                    allowed[entry + 22, entry + 24] = UNVERIFIED if length else PSW_ENTRY
        if kind == 1:
            for entry in range(first, end, 16):
                allowed[entry, entry + 8] = WHERE
    return allowed


def certificate_entries(report):
    for kind, first, end in blocks(report):
        if kind == 1:
            return [struct.unpack_from(">QQ", report, entry) for entry in range(first, end, 16)]
    raise AssertionError("no certificate block")


class Look:
    """Takes the certificates out of guest memory at the hand-over, by the addresses in the report."""

    def __init__(self):
        self.certificates = []
        self.memory_size = 0

    def run(self, machine, state):
        report = machine.load(state.report_address, state.report_length)
        self.certificates = [machine.load(address, length) for address, length in certificate_entries(report)]
        self.memory_size = machine.memory.size


@pytest.fixture(params=NAMES)
def run(request, shared):
    """(golden case, our report, what the engine saw)."""
    path = shared / "disks" / "golden" / f"{request.param}.json"
    if not path.is_file():
        pytest.skip(f"there is no {path}")
    machine = MachineOptions(
        secure_boot="secure" in request.param, boot_certs=(str(shared / "keys" / "certA.pem"),), memory=DEFAULT_MEMORY
    )
    disk = Disk(str(shared / "disks" / f"{request.param.split('.')[0]}.qcow2"))
    look = Look()
    report = boot([disk], Settings(machine=machine, at=parse_time(AT)), look)
    return json.loads(path.read_text("utf-8")), report, look


def test_report(run):
    golden_case, report, _ = run
    golden, ours = bytes.fromhex(golden_case["iirb"]), bytes.fromhex(report.ipl_report)
    assert len(ours) == len(golden) == golden_case["iirb_len"]
    allowed = allowed_ranges(golden)
    free = {offset for first, end in allowed for offset in range(first, end)}
    assert {i: (ours[i], golden[i]) for i in range(len(golden)) if i not in free and ours[i] != golden[i]} == {}
    # What may differ is not free, it is decided.
    for (first, end), why in allowed.items():
        if why is WHERE:
            address = int.from_bytes(ours[first:end], "big")
            base = firmware_base(DEFAULT_MEMORY)
            assert base - 28672 <= address < base + (3 << 20)
        else:
            assert ours[first:end] == b"\0\0"


def test_each_allowed_range_is_needed(run):
    """No difference is allowed that is not there: the list of differences from QEMU is not longer than the truth."""
    golden_case, report, _ = run
    golden, ours = bytes.fromhex(golden_case["iirb"]), bytes.fromhex(report.ipl_report)
    allowed = allowed_ranges(golden)
    differ = {why for (first, end), why in allowed.items() if ours[first:end] != golden[first:end]}
    assert differ == {UNVERIFIED, PSW_ENTRY, WHERE}


def test_certificates(run):
    golden_case, report, look = run
    assert [der.hex() for der in look.certificates] == golden_case["certs"]
    assert [c.length for c in report.certificates] == [len(c) // 2 for c in golden_case["certs"]]


def test_parameter_block(run):
    golden_case, report, _ = run
    assert report.ipl_parameter_block == golden_case["iplb"]
