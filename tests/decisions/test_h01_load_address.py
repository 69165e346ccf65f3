"""H1: no component touches the lowcore, the firmware's own memory, or what is no memory, in any mode."""

from __future__ import annotations

import struct

import pytest
from ipl_lab import FIRMWARE_BASE, FORBIDDEN_START, HANDS_OVER, KERNEL, MEMORY, MIB, Load, finish, kernel_bytes, verdict

from sipl.author.boot_record import DiskWriter, Execute

MODES = ["normal", "audit", "secure"]
GIB = 1 << 30
FORBIDDEN = ("stops", "load-address-forbidden")
HIGH_BASE = 2 * GIB - 3 * MIB
HIGH_START = HIGH_BASE - 28672


def boot_with(lab, address, memory, mode, length=512):
    """A signed component of `length` bytes at `address`, as the last one; signed, so that only H1 can object."""
    component = lab.kernel(at=address, size=length, seed=7)
    return lab.boot(lab.program(extra=[component]), mode=mode, memory=memory)


ALLOWED = [
    (0x200, MEMORY),
    (FORBIDDEN_START - 512, MEMORY),
    (0x200, 4 * GIB),
    (HIGH_START - 512, 4 * GIB),
    (2 * GIB, 4 * GIB),
    (4 * GIB - 512, 4 * GIB),
    (HIGH_START - 512, 2 * GIB),
    (2 * GIB, 2 * GIB + 4 * MIB),
]
REFUSED = [
    # lowcore
    (0, MEMORY),
    (1, MEMORY),
    (0x1FF, MEMORY),
    (0, 4 * GIB),
    (0x1FF, 4 * GIB),
    # the firmware's area, up to the end of memory
    (FORBIDDEN_START - 511, MEMORY),
    (FORBIDDEN_START, MEMORY),
    (FIRMWARE_BASE - 4096, MEMORY),
    (FIRMWARE_BASE, MEMORY),
    (MEMORY - 513, MEMORY),
    (MEMORY - 512, MEMORY),
    # half in, half out
    (MEMORY - 1, MEMORY),
    (MEMORY, MEMORY),
    (MEMORY + 4096, MEMORY),
    # above 2 GiB the area ends at 2 GiB
    (HIGH_START - 511, 4 * GIB),
    (HIGH_BASE, 4 * GIB),
    (2 * GIB - 512, 4 * GIB),
    (2 * GIB - 1, 4 * GIB),
    (4 * GIB - 511, 4 * GIB),
    (4 * GIB, 4 * GIB),
    # addresses that wrap in 31, 32 and 64 bits
    (0x80000000 + KERNEL, MEMORY),
    ((1 << 32) + KERNEL, MEMORY),
    ((1 << 63) + KERNEL, MEMORY),
    ((1 << 64) - 512, MEMORY),
    ((1 << 64) - 256, MEMORY),
    ((1 << 64) - 1, 4 * GIB),
]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("address", "memory"), ALLOWED)
def test_h01_allowed_up_to_the_edge(lab, address, memory, mode):
    report = boot_with(lab, address, memory, mode)
    assert verdict(report) == HANDS_OVER
    assert report.components[-1].address == address


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("address", "memory"), REFUSED)
def test_h01_refused_from_the_edge_on(lab, reads, address, memory, mode):
    writer = DiskWriter(512)
    entries = [e for c in lab.program()[:-1] for e in writer.add_component(c)]
    data = writer.next_block
    entries += writer.add_component(lab.kernel(at=address, size=512, seed=7)._replace(signature=None))
    entries += writer.add_component(Execute(0))
    report = lab.boot(lab.disk(finish(writer, entries)), mode=mode, memory=memory)
    assert verdict(report) == FORBIDDEN
    # Decided by the segment tables alone: the data was never asked for.
    assert data not in [block for _, block in reads]


@pytest.mark.parametrize("mode", MODES)
def test_h01_no_component_wraps_the_whole_area(lab, mode):
    """Starts below the firmware and ends behind it."""
    size = 1 * MIB
    component = Load(FORBIDDEN_START - size // 2, bytes(size))
    assert verdict(lab.boot(lab.program(extra=[component]), mode=mode)) == FORBIDDEN


@pytest.mark.parametrize("mode", MODES)
def test_h01_attack_code_over_the_firmware(lab, mode):
    """Unsigned code over the code of the firmware took over a reference machine in secure mode."""
    attack = Load(FIRMWARE_BASE, b"\x07\xf8" * 512)
    for program in (lab.program(extra=[attack]), lab.program(heap=attack)):
        assert verdict(lab.boot(program, mode=mode)) == FORBIDDEN


@pytest.mark.parametrize("mode", MODES)
def test_h01_attack_parameters_of_the_next_device(lab, mode):
    """A device that would fail rewrites the block of its fall-back first, to have it booted without secure flags."""
    block = struct.pack(">IB2xBIBB2x8s", 200, 0, 0, 192, 2, 0x80, b"\x40" * 8).ljust(4096, b"\0")
    attack = Load(FORBIDDEN_START, block)
    first = lab.program(extra=[attack, Load(KERNEL, b"", b"x", signature_format=9)])
    report = lab.boot(first, lab.program(loader=None, kernel=None), mode=mode)
    assert verdict(report) == FORBIDDEN
    assert report.devices[1].outcome == "not-tried"


def test_h01_memory_too_small_is_said(lab):
    """The same disk boots with more memory."""
    program = lab.program(extra=[Load(20 * MIB, bytes(512))])
    report = lab.boot(program, memory=16 * MIB)
    assert verdict(report) == FORBIDDEN
    (finding,) = [f for f in report.findings if f.reason == "load-address-forbidden"]
    assert "memory" in finding.message
    assert "memory" in finding.hint
    assert verdict(lab.boot(program, memory=64 * MIB)) == HANDS_OVER


@pytest.mark.parametrize("mode", MODES)
def test_h01_a_component_without_a_byte_touches_nothing(lab, mode):
    """An empty segment table: there is nothing that could be overwritten, not even at address 0."""
    report = lab.boot(lab.program(extra=[Load(0, b"")]), mode=mode)
    assert verdict(report) == (("stops", "unsigned-address-too-low") if mode == "secure" else HANDS_OVER)


def test_h01_order_h2_before_h1_before_e1_before_e2(lab):
    """One component with all the faults; each fault taken away shows the next one."""
    low = lab.kernel(at=0x200, size=512)

    def attempt(address, block_size, beyond, signed=low):
        writer = DiskWriter(512)
        entries = [e for c in lab.program(extra=[signed])[:-1] for e in writer.add_component(c)]
        (pointer,) = writer.append(kernel_bytes(size=512)[:512])
        pointer = pointer._replace(size=block_size, block=pointer.block + beyond)
        table = writer.append_segment_tables([pointer])
        (entry,) = writer.add_component(Load(address, b""))
        entries.append(entry._replace(segment_table=struct.pack(">QHH4x", *table)))
        entries += writer.add_component(Execute(0))
        return verdict(lab.boot(lab.disk(finish(writer, entries))))

    assert attempt(0x100, 1024, 0) == ("no-bootable-device", "segment-unreadable")
    assert attempt(0x100, 512, 1 << 32) == ("no-bootable-device", "block-out-of-range")
    assert attempt(0x100, 512, 0) == FORBIDDEN
    assert attempt(0x300, 512, 0) == ("stops", "address-overlap")
    assert attempt(0x400, 512, 0) == ("stops", "unsigned-address-too-low")
