"""Block sizes, kinds of devices, and what happens with several of them."""

from __future__ import annotations

import struct

import pytest
from ipl_lab import HANDS_OVER, KERNEL, LOADER, PSW, Load, finish, kernel_bytes, loader_bytes, reasons, verdict

from sipl.author.boot_record import DiskWriter, Execute

MODES = ["normal", "audit", "secure"]
BLOCK_SIZES = [512, 1024, 2048, 4096]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_block_sizes(lab, block_size, merged, mode):
    """A kernel that fills one segment table and one block of the next."""
    size = (block_size // 16) * block_size
    kernel = lab.signed(0x100000, kernel_bytes(size=size))
    program = lab.program(kernel=kernel, block_size=block_size)
    report = lab.boot(lab.disk(program, block_size, merged=merged), mode=mode)
    assert verdict(report) == HANDS_OVER
    assert [c.length for c in report.components] == [
        4096,
        max(1024, block_size),
        block_size,
        size,
        block_size,
    ]


@pytest.mark.parametrize("blocks", [1, 30, 31, 32, 62, 63])
def test_segment_tables_around_their_capacity(lab, blocks):
    kernel = lab.signed(0x100000, kernel_bytes(size=blocks * 512))
    report = lab.boot(lab.disk(lab.program(kernel=kernel), merged=False))
    assert verdict(report) == HANDS_OVER
    assert report.components[3].length == blocks * 512


def last_slot(lab, block_size, count):
    """A disk whose kernel has a full first table, the last slot of which says `count` blocks."""
    slots = block_size // 16
    kernel = lab.signed(0x100000, kernel_bytes(size=slots * block_size))
    writer = DiskWriter(block_size)
    parts = lab.program(block_size=block_size, kernel=None)
    entries = [e for c in parts[:-1] for e in writer.add_component(c)]
    signature, load = writer.add_component(kernel, merged=False)
    (table,) = struct.unpack_from(">Q", load.segment_table)
    struct.pack_into(">H", writer.image, table * block_size + block_size - 6, count - 1)
    entries += [signature, load, *writer.add_component(parts[-1])]
    return lab.disk(finish(writer, entries), block_size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2, 65536])
def test_last_slot_of_a_4096_byte_table_is_a_link_by_its_place(lab, count, mode):
    assert verdict(lab.boot(last_slot(lab, 4096, count), mode=mode)) == HANDS_OVER


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block_size", [512, 1024, 2048])
def test_last_slot_of_a_smaller_table_is_a_link_by_its_count(lab, block_size, mode):
    """With another count it is data, and the filler behind the block is read as a pointer, which it is not."""
    assert verdict(lab.boot(last_slot(lab, block_size, 1), mode=mode)) == HANDS_OVER
    report = lab.boot(last_slot(lab, block_size, 2), mode=mode)
    assert verdict(report) == ("no-bootable-device", "segment-unreadable")


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_wrong_block_size_is_given_up(lab, block_size):
    disk = lab.disk(lab.program(block_size=block_size), block_size)
    for other in BLOCK_SIZES:
        report = lab.boot(disk._replace(block_size=other))
        if other == block_size:
            assert verdict(report) == HANDS_OVER
        else:
            assert report.outcome == "no-bootable-device"


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
def test_block_size_is_found_out(lab, block_size):
    disk = lab.disk(lab.program(block_size=block_size), block_size)
    assert verdict(lab.boot(disk._replace(block_size=None))) == HANDS_OVER


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
def test_kinds_that_boot(lab, kind, mode):
    seen = []

    def look(machine, state):
        block = machine.load(state.iplb_address, 112)
        seen.append((block[12], struct.unpack(">H", block[110:112])[0]))

    report = lab.boot(lab.disk(bytes(4096), kind=kind), lab.disk(lab.program(), kind=kind), mode=mode, look=look)
    assert verdict(report) == HANDS_OVER
    # Of a SCSI device the guest gets the boot position, of the other kind the device number.
    assert seen == [(0xFF, 1) if kind == "virtio-scsi" else (2, 2)]


def test_cdrom_is_given_up_in_normal_mode(lab):
    report = lab.boot(lab.disk(lab.program(), kind="scsi-cd"), lab.program(), mode="normal")
    assert verdict(report) == HANDS_OVER
    assert report.devices[0].outcome == "given-up"


@pytest.mark.parametrize("mode", MODES)
def test_no_boot_device(lab, mode):
    assert verdict(lab.boot(mode=mode)) == ("refused-to-start", "no-boot-device")


# several devices


def broken_kernel(lab):
    kernel = lab.kernel()
    return lab.program(kernel=kernel._replace(data=kernel.data[:100] + b"?" + kernel.data[101:]))


def given_up(lab):
    return lab.program(kernel=Load(KERNEL, kernel_bytes(), b"x", signature_format=9))


def test_given_up_devices_are_passed_over(lab):
    report = lab.boot(given_up(lab), lab.disk(bytes(1024)), lab.program(), lab.program())
    assert verdict(report) == HANDS_OVER
    assert [(d.outcome, d.reason) for d in report.devices] == [
        ("given-up", "signature-format"),
        ("given-up", "not-a-zipl-disk"),
        ("hands-over", None),
        ("not-tried", None),
    ]
    assert [f.device for f in report.findings if f.level == "error"] == [0, 1]


def test_reason_of_the_last_device_when_all_are_given_up(lab):
    report = lab.boot(given_up(lab), lab.disk(bytes(1024)))
    assert verdict(report) == ("no-bootable-device", "not-a-zipl-disk")
    report = lab.boot(lab.disk(bytes(1024)), given_up(lab))
    assert verdict(report) == ("no-bootable-device", "signature-format")


def test_a_stop_is_final(lab):
    """A disk with a changed kernel must not lead to another disk, which the attacker may have put there."""
    report = lab.boot(broken_kernel(lab), lab.program())
    assert verdict(report) == ("stops", "signature-not-verified")
    assert [d.outcome for d in report.devices] == ["stops", "not-tried"]
    audit = lab.boot(broken_kernel(lab), lab.program(), mode="audit")
    assert [d.outcome for d in audit.devices] == ["hands-over", "not-tried"]


def test_nothing_of_a_device_that_was_given_up_counts_for_the_next(lab):
    """The first disk brings a verified global loader and is given up; the second has none of its own."""
    first = lab.program(initrd=None, extra=[Load(0x30000, b"x", b"x", signature_format=9)])
    second = [lab.kernel(), Execute(PSW)]
    assert verdict(lab.boot(first, second)) == ("stops", "no-global-sclab")
    audit = lab.boot(first, second, mode="audit")
    assert reasons(audit) == ["signature-format", "no-global-sclab"]
    assert [c.address for c in audit.components] == [KERNEL]
    # A pending signature does not, either.
    pending = lab.program(heap=lab.kernel(), loader=None)
    swallowed = lab.disk(pending, change=lambda entries: [entries[0], entries[0]])
    assert verdict(lab.boot(swallowed, [Load(LOADER, loader_bytes()), Execute(PSW)])) == (
        "stops",
        "no-signed-component",
    )


def test_eight_devices_and_no_more(lab):
    blank = lab.disk(bytes(512))
    report = lab.boot(*[blank] * 7, lab.program())
    assert verdict(report) == HANDS_OVER
    assert [d.outcome for d in report.devices] == ["given-up"] * 7 + ["hands-over"]
    more = lab.boot(*[blank] * 8, lab.program())
    assert verdict(more) == ("no-bootable-device", "not-a-zipl-disk")
    assert [d.outcome for d in more.devices] == ["given-up"] * 8 + ["not-tried"]
    assert "too-many-boot-devices" in reasons(more, "warning")


# hand-over


@pytest.mark.parametrize("mode", MODES)
def test_state_in_which_the_loader_is_entered(lab, mode):
    seen = {}

    def look(machine, state):
        seen.update(
            psw=machine.load(0, 8),
            iplb=int.from_bytes(machine.load(0x14, 4), "big"),
            subsystem=machine.load(0xB8, 8),
            state=state,
            length=int.from_bytes(machine.load(state.iplb_address, 4), "big"),
            memory=[machine.load(LOADER, 1024), machine.load(KERNEL, 2048)],
        )

    report = lab.boot(lab.disk(bytes(512)), lab.program(), mode=mode, look=look)
    assert verdict(report) == HANDS_OVER
    assert seen["psw"] == struct.pack(">Q", PSW)
    assert report.psw == f"{PSW:016x}"
    assert seen["iplb"] == seen["state"].iplb_address
    assert seen["iplb"] % 4096 == 0
    assert seen["subsystem"] == struct.pack(">II", 0x00010001, 0)
    assert seen["length"] == (200 if mode == "normal" else 4096)
    assert seen["memory"] == [loader_bytes(), kernel_bytes()]
    assert seen["state"].report_address == (0 if mode == "normal" else seen["iplb"] + 4096)


def test_normal_mode_has_no_report(lab):
    report = lab.boot(lab.program(), mode="normal")
    assert report.ipl_report is None
    assert len(bytes.fromhex(report.ipl_parameter_block)) == 200
    assert report.error_indicators is None
    assert report.certificates == ()
