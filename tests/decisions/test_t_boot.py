"""Decisions about the boot side: T5 to T16 of docs/differences.md."""

from __future__ import annotations

import struct

import pytest
from ipl_lab import (
    FORBIDDEN_START,
    GLOBAL,
    HANDS_OVER,
    HEAP,
    INITRD,
    KERNEL,
    LOADER,
    MEMORY,
    PSW,
    PSW_MASK,
    Load,
    finish,
    kernel_bytes,
    loader_bytes,
    reasons,
    verdict,
)

from sipl.author.boot_record import DiskWriter, Execute
from sipl.layout.sclab import SclabFlags
from sipl.machine.machine import Machine

MODES = ["audit", "secure"]
GIVEN_UP = "no-bootable-device"


# T5


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", ["sipl", "cstore", "sclaf", "els"])
def test_t05_every_facility_is_needed_before_any_device(lab, reads, mode, missing):
    report = lab.boot(lab.program(), lab.program(), mode=mode, cpu=f"qemu,{missing}=off")
    assert verdict(report) == ("stops", "facility-missing")
    assert [device.outcome for device in report.devices] == ["not-tried", "not-tried"]
    assert reads == []


@pytest.mark.parametrize("missing", ["sipl", "cstore", "sclaf"])
def test_t05_before_the_certificates_too(lab, missing):
    report = lab.boot(lab.program(), certs=[], cpu=f"qemu,{missing}=off")
    assert verdict(report) == ("stops", "facility-missing")
    assert verdict(lab.boot(lab.program(), certs=[])) == ("stops", "no-certificate")


def test_t05_normal_mode_needs_none(lab):
    assert verdict(lab.boot(lab.program(), mode="normal", cpu="z13")) == HANDS_OVER


# T6


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("signature_format", [0, 2, 255])
def test_t06_signature_of_another_format_gives_the_device_up_unread(lab, reads, mode, signature_format):
    loader = loader_bytes()
    bad = Load(LOADER, loader, lab.signers["A"].sign(loader), signature_format=signature_format)
    block = []

    def note(entries):
        block.extend(struct.unpack(">Q", e.segment_table[:8])[0] for e in entries if e.type == 3)
        return entries

    report = lab.boot(lab.disk(lab.program(loader=bad), change=note), lab.program(), mode=mode)
    assert verdict(report) == HANDS_OVER
    assert [d.outcome for d in report.devices] == ["given-up", "hands-over"]
    assert report.devices[0].reason == "signature-format"
    assert (report.devices[0].path, block[0]) not in reads


# T7


@pytest.mark.parametrize("sclab_psw", [0, PSW, PSW + 2])
@pytest.mark.parametrize("psw", [PSW, PSW_MASK | INITRD, 0])
def test_t07_psw_rules_hold_whenever_there_is_a_global_sclab(lab, psw, sclab_psw):
    program = lab.program(psw=psw, loader=lab.loader(psw=sclab_psw))
    audit = lab.boot(program, mode="audit")
    outside = psw != PSW or sclab_psw == 0
    expected = (0x04000000 if outside else 0) | (0x08000000 if psw != sclab_psw else 0)
    assert audit.psw_error_indicators == expected
    secure = lab.boot(program)
    if outside:
        assert verdict(secure) == ("stops", "psw-outside-signed-code")
    elif psw != sclab_psw:
        assert verdict(secure) == ("stops", "psw-mismatch")
    else:
        assert verdict(secure) == HANDS_OVER


def test_t07_no_global_sclab_no_psw_entry(lab):
    report = lab.boot(lab.program(loader=lab.loader(flags=0, psw=0, address=0)), mode="audit")
    assert report.psw_error_indicators is None
    entries = report_entries(report)
    assert [length for _, length, *_ in entries].count(0) == 0
    assert len(entries) == len(report.components) == 5


def report_entries(report):
    """(address, length, flags, certificate index, CEI) of every component entry of the report in memory."""
    data = bytes.fromhex(report.ipl_report)
    length, kind = struct.unpack_from(">IB", data, 16)
    assert kind == 2
    return [struct.unpack_from(">QQB5xHI", data, offset) for offset in range(32, 16 + length, 32)]


# T8


@pytest.mark.parametrize(
    ("parts", "violated"),
    [
        ({"kernel": None, "heap": None, "parameters": None, "initrd": None}, False),
        ({"kernel": None, "heap": None, "parameters": None}, True),
        ({"heap": None, "parameters": None, "initrd": None}, True),
    ],
)
def test_t08_single_component_is_one_signed_and_no_unsigned(lab, parts, violated):
    program = lab.program(loader=lab.loader(flags=GLOBAL | SclabFlags.SC), **parts)
    assert verdict(lab.boot(program)) == (("stops", "single-component-violated") if violated else HANDS_OVER)
    audit = lab.boot(program, mode="audit")
    assert audit.error_indicators == (0x0400 if violated else 0)


# T9


def test_t09_audit_mode_says_that_a_sclab_is_missing(lab):
    program = lab.program(kernel=lab.signed(KERNEL, bytes(1024)))
    audit = lab.boot(program, mode="audit")
    assert verdict(audit) == HANDS_OVER
    assert reasons(audit) == ["sclab-missing"]
    assert [c.error_indicators for c in audit.components] == [0, 0, 0, 0x80000000, 0]
    assert verdict(lab.boot(program)) == ("stops", "sclab-missing")


# T10


def large_program(lab, loads, signed_last=False):
    """As many loads as asked for, one block each; the loader is the last of them, or the first."""
    others = [Load(0x100000 + 0x1000 * n, bytes([n + 1]) * 4096) for n in range(loads - 1)]
    loader = lab.loader(size=4096)
    return [*others, loader, Execute(PSW)] if signed_last else [loader, *others, Execute(PSW)]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loads", [63, 64, 65, 125])
def test_t10_the_report_has_room_for_every_component(lab, mode, loads):
    report = lab.boot(lab.disk(large_program(lab, loads, signed_last=True), 4096), mode=mode)
    assert verdict(report) == HANDS_OVER
    assert reasons(report) == []
    entries = report_entries(report)
    assert len(entries) == loads + 1
    assert entries[-1] == (PSW, 0, 0, 0, 0)
    assert entries[-2][:3] == (LOADER, 4096, 0xC0)


def test_t10_a_full_table_and_the_psw_entry_just_fit(lab):
    """126 loads and EXEC; none of them can be signed, as a signature needs an entry of its own."""
    loads = [Load(0x100000 + 0x1000 * n, bytes(4096)) for n in range(126)]
    report = lab.boot(lab.disk([*loads, Execute(PSW)], 4096), mode="audit")
    assert verdict(report) == HANDS_OVER
    assert len(report_entries(report)) == 126


@pytest.mark.parametrize("mode", [*MODES, "normal"])
def test_t10_more_loads_than_a_table_can_end_behind(lab, mode):
    loads = [Load(0x100000 + 0x1000 * n, bytes(4096)) for n in range(127)]
    report = lab.boot(lab.disk(loads, 4096), mode=mode)
    assert verdict(report) == (GIVEN_UP, "table-not-terminated")


# T11


@pytest.mark.parametrize("mode", MODES)
def test_t11_everything_that_the_firmware_keeps_is_out_of_reach(lab, monkeypatch, mode):
    """Whatever the boot side stores while it decides lies in the area that H1 forbids to components."""
    stored = []
    original = Machine.store

    def store(self, address, data):
        stored.append((address, address + len(data)))
        original(self, address, data)

    monkeypatch.setattr(Machine, "store", store)
    seen = []

    def look(machine, state):
        report = machine.load(state.report_address, state.report_length)
        seen.extend([state.iplb_address, state.report_address, state.report_address + state.report_length])
        components = struct.unpack_from(">I", report, 16)[0]
        for offset in range(16 + components + 16, len(report), 16):
            address, length = struct.unpack_from(">QQ", report, offset)
            seen.extend([address, address + length])

    program = lab.program(kernel=lab.kernel(by="B"))
    given_up = lab.disk(lab.program(kernel=Load(KERNEL, b"k", b"s", signature_format=7)))
    report = lab.boot(given_up, program, mode=mode, certs=["A", "B"], look=look)
    assert verdict(report) == HANDS_OVER
    assert len(seen) == 3 + 2 * 2
    assert all(FORBIDDEN_START <= address <= MEMORY for address in seen)
    outside = [(first, end) for first, end in stored if not (first >= FORBIDDEN_START and end <= MEMORY)]
    assert outside
    assert all(end <= 0x200 for _, end in outside)


def test_t11_certificate_index_of_what_is_not_verified_is_zero(lab):
    loader = loader_bytes()
    program = lab.program(loader=Load(LOADER, loader, lab.signers["C"].sign(loader)), kernel=lab.kernel(by="B"))
    extra = lab.kernel(at=0x30000, by="A", seed=7)
    report = lab.boot([*program[:-1], extra, program[-1]], mode="audit", certs=["A", "B"])
    assert [(flags, index) for _, _, flags, index, _ in report_entries(report)] == [
        (0, 0),
        (0x80, 0),
        (0, 0),
        (0xC0, 0),
        (0, 0),
        (0xC0, 1),
        (0, 0),
    ]


def test_t11_chain_of_parameter_blocks_lies_in_the_area(lab):
    chain = []

    def look(machine, state):
        chain.append(struct.unpack(">HQ", machine.load(0xCC, 28)[18:]))

    lab.boot(*[lab.program()] * 3, look=look)
    ((length, address),) = chain
    assert (length, address) == (2, FORBIDDEN_START)


# T12: see also H9


@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
@pytest.mark.parametrize(("mode", "flags"), [("audit", 0x20), ("secure", 0x60), ("normal", 0)])
def test_t12_flags_are_the_machines_after_every_set(lab, kind, mode, flags):
    seen = []

    def look(machine, state):
        for wanted in (0, 0x20, 0x40, 0x60, 0xFF):
            block = bytearray(machine.load(state.iplb_address, 4096))
            block[:5] = struct.pack(">IB", 200, wanted)
            machine.store(0x30000, bytes(block))
            assert machine.diagnose(0x308, 0x30000, 5) == 1
            machine.store(0x40000, bytes(4096))
            assert machine.diagnose(0x308, 0x40000, 6) == 1
            seen.append(struct.unpack(">IB", machine.load(0x40000, 5)))

    lab.boot(lab.disk(lab.program(), kind=kind), mode=mode, look=look)
    assert [got & 0x60 for _, got in seen] == [flags] * 5
    assert [length for length, _ in seen] == [4096 if flags else 200] * 5


# T13


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", [0, 1])
@pytest.mark.parametrize("kind", ["virtio-net", "vfio-ccw", "virtio-blk-pci"])
def test_t13_other_devices_refuse_the_start_even_as_fall_back(lab, reads, mode, position, kind):
    disks = [lab.disk(lab.program()), lab.disk(lab.program())]
    disks[position] = disks[position]._replace(kind=lab.disk(b"", kind=kind).kind)
    assert verdict(lab.boot(*disks, mode=mode)) == ("refused-to-start", "device-not-eligible")
    assert reads == []


@pytest.mark.parametrize("kind", ["virtio-net", "vfio-ccw", "virtio-blk-pci"])
def test_t13_normal_mode_tries_the_next(lab, kind):
    disks = [lab.disk(lab.program(), kind=kind), lab.disk(lab.program())]
    report = lab.boot(*disks, mode="normal")
    assert verdict(report) == HANDS_OVER
    assert (report.devices[0].outcome, report.devices[0].reason) == ("given-up", "device-not-eligible")


@pytest.mark.parametrize("mode", MODES)
def test_t13_cdrom_stops_the_boot(lab, reads, mode):
    report = lab.boot(lab.disk(lab.program(), kind="scsi-cd"), lab.program(), mode=mode)
    assert verdict(report) == ("stops", "cdrom-not-eligible")
    assert [d.outcome for d in report.devices] == ["stops", "not-tried"]
    assert reads == []


# T14


def other_scheme(name, block_size):
    """A disk of another scheme that carries a good zipl disk's data nowhere."""
    image = bytearray(64 * 1024)
    if name == "IPL1":
        image[:4] = name.encode("cp037")
    elif name == "CD001":
        image[32769:32774] = b"CD001"
    else:
        image[2 * block_size : 2 * block_size + 4] = name.encode("cp037")
    return bytes(image)


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("scheme", ["VOL1", "LNX1", "CMS1", "IPL1", "CD001"])
def test_t14_another_scheme_stops_audit_and_secure_mode(lab, scheme, block_size):
    other = lab.disk(other_scheme(scheme, block_size), block_size)
    good = lab.disk(lab.program())
    for mode in MODES:
        report = lab.boot(other, good, mode=mode)
        assert verdict(report) == ("stops", "scheme-not-supported")
        assert [d.outcome for d in report.devices] == ["stops", "not-tried"]
    normal = lab.boot(other, good, mode="normal")
    assert verdict(normal) == HANDS_OVER
    assert (normal.devices[0].outcome, normal.devices[0].reason) == ("given-up", "scheme-not-supported")


@pytest.mark.parametrize("mode", [*MODES, "normal"])
@pytest.mark.parametrize("size", [512, 1536, 65536])
def test_t14_a_disk_that_nobody_wrote_is_given_up(lab, mode, size):
    blank = lab.disk(bytes(size))
    assert verdict(lab.boot(blank, mode=mode)) == (GIVEN_UP, "not-a-zipl-disk")
    report = lab.boot(blank, lab.program(), mode=mode)
    assert verdict(report) == HANDS_OVER
    assert report.devices[0].reason == "not-a-zipl-disk"


def test_t14_marks_of_other_schemes_do_not_matter_on_a_zipl_disk(lab):
    """A partition with a volume label or an ISO image in it is a guest's own business."""
    writer = DiskWriter(512)
    for _ in range(1, 65):
        writer.append_block(b"CD001".rjust(6, b"\1"))
    entries = [entry for c in lab.program() for entry in writer.add_component(c)]
    image = bytearray(finish(writer, entries))
    image[1024:1028] = "VOL1".encode("cp037")
    assert image[32769:32774] == b"CD001"
    assert verdict(lab.boot(lab.disk(bytes(image)))) == HANDS_OVER


# T15


def test_t15_no_sclab_does_not_imply_no_global_sclab(lab):
    nothing = [Load(HEAP, bytes(512)), lab.signed(LOADER, bytes(512)), Execute(PSW)]
    report = lab.boot(nothing, mode="audit")
    assert report.error_indicators == 0x4000
    assert reasons(report) == ["sclab-missing", "no-sclab"]
    local = [Load(HEAP, bytes(512)), lab.signed(LOADER, kernel_bytes()), Execute(PSW)]
    report = lab.boot(local, mode="audit")
    assert report.error_indicators == 0x2000
    assert reasons(report) == ["no-global-sclab"]


# T16


@pytest.mark.parametrize("second_flags", [GLOBAL, GLOBAL | SclabFlags.NUC | SclabFlags.SC])
def test_t16_several_globals_are_said_at_the_end(lab, second_flags):
    second = lab.kernel(flags=second_flags, psw=PSW_MASK | KERNEL, address=KERNEL)
    program = lab.program(kernel=second)
    audit = lab.boot(program, mode="audit")
    assert reasons(audit) == ["several-global-sclabs"]
    assert audit.error_indicators == 0x1000
    assert audit.psw_error_indicators == 0
    assert verdict(lab.boot(program)) == ("stops", "several-global-sclabs")


def test_t16_the_first_counts(lab):
    """The EXEC PSW is that of the second one: the first one's PSW is what it is compared with."""
    second = lab.kernel(flags=GLOBAL, psw=PSW_MASK | KERNEL, address=KERNEL)
    report = lab.boot(lab.program(psw=PSW_MASK | KERNEL, kernel=second), mode="audit")
    assert reasons(report) == ["psw-mismatch", "several-global-sclabs"]
