"""The IPL device: what lies in memory before an IPL, for any number of boot devices, and which flags it carries."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.errors import RefusedToStart
from sipl.machine.ipl_device import IplDevice, firmware_base
from sipl.machine.memory import GuestMemory
from sipl.reasons import Reason

MIB = 1 << 20
CHAIN = 7 * 4096
MEMORY = 16 * MIB
BASE = 13 * MIB
BLANKS = b"\x40" * 8


@pytest.fixture
def memory():
    memory = GuestMemory(MEMORY)
    memory.view[:] = b"\xee" * MEMORY
    yield memory
    memory.close()


def qipl(memory):
    """QEMU IPL parameters as a tuple: flags, position, time-out, chain length, next block."""
    return struct.unpack(">BB2x8xI2xHQ", memory.read(0xCC, 28))


@pytest.mark.parametrize(
    ("mib", "base"),
    [(16, 13 * MIB), (128, 125 * MIB), (512, 509 * MIB), (2048, 2045 * MIB), (2049, 2045 * MIB), (65536, 2045 * MIB)],
)
def test_where_the_firmware_lies(mib, base):
    assert firmware_base(mib * MIB) == base


@given(st.integers(16 * MIB, 4096 * MIB))
def test_h1_the_firmware_lies_3_mib_below_the_end(size):
    base = firmware_base(size)
    end = min(size, 2048 * MIB)
    assert base % 0x10000 == 0
    assert base <= end - 3 * MIB < base + 0x10000


@pytest.mark.parametrize("count", [1, 2, 8])
@pytest.mark.parametrize(("flags", "length"), [(0, 200), (0x20, 4096), (0x60, 4096)])
def test_the_first_ipl(memory, make_subchannel, count, flags, length):
    devices = [make_subchannel(position, "virtio-scsi" if position % 2 else "virtio-blk") for position in range(count)]
    ipl = IplDevice(devices, flags, BLANKS, None)
    assert ipl.block is None
    before = bytearray(memory.view)
    ipl.prepare_ipl(memory)
    assert struct.unpack_from(">IB", ipl.block) == (length, flags)
    assert struct.unpack_from(">H", ipl.block, 110) == (1,)
    chain = BASE - CHAIN
    assert qipl(memory) == (0, 0, 0, count - 1, chain if count > 1 else 0)
    for position in range(1, count):
        block = memory.read(chain + (position - 1) * 4096, 4096)
        kind = 0xFF if position % 2 else 0x02
        assert struct.unpack_from(">IB3xIB", block) == (length, flags, 192, kind)
        assert struct.unpack_from(">H", block, 110) == (position + 1,)
    unused = 7 - (count - 1)
    assert memory.read(BASE - unused * 4096, unused * 4096) == bytes(unused * 4096)
    before[0xCC : 0xCC + 28] = memory.read(0xCC, 28)
    before[chain:BASE] = memory.read(chain, CHAIN)
    assert bytes(memory.view) == bytes(before), "nothing else is written"


def test_each_device_has_its_own_loadparm(memory, make_subchannel):
    loadparms = [bytes([0xF0 + number]) + BLANKS[1:] for number in range(3)]
    devices = [make_subchannel(position, loadparm=loadparm) for position, loadparm in enumerate(loadparms)]
    ipl = IplDevice(devices, 0x60, BLANKS, None)
    ipl.prepare_ipl(memory)
    chain = memory.read(BASE - CHAIN, 2 * 4096)
    assert [block[16:24] for block in (ipl.block, chain[:4096], chain[4096:])] == loadparms
    assert ipl.loadparm == BLANKS


def test_more_than_eight_devices_are_not_used(memory, make_subchannel):
    """Not looked at either: the ninth would refuse the start."""
    devices = [make_subchannel(position) for position in range(8)] + [make_subchannel(8, "virtio-net")]
    ipl = IplDevice(devices, 0x60, BLANKS, None)
    ipl.prepare_ipl(memory)
    assert len(ipl.devices) == 8
    assert qipl(memory)[3] == 7


def test_without_a_device_there_is_no_block(memory):
    ipl = IplDevice([], 0, BLANKS, None)
    ipl.prepare_ipl(memory)
    assert ipl.block is None
    assert qipl(memory) == (0, 0, 0, 0, 0)


@pytest.mark.parametrize(("timeout", "flags"), [(None, 0), (0, 0x80), (5000, 0x80), (0xFFFFFFFF, 0x80)])
def test_the_boot_menu(memory, make_subchannel, timeout, flags):
    IplDevice([make_subchannel()], 0, BLANKS, timeout).prepare_ipl(memory)
    assert qipl(memory) == (flags, 0, timeout or 0, 0, 0)


@pytest.mark.parametrize("kind", ["virtio-net", "vfio-ccw", "virtio-blk-pci"])
@pytest.mark.parametrize("position", [0, 1, 7])
@pytest.mark.parametrize("flags", [0, 0x20, 0x60])
def test_t13_a_fall_back_that_is_not_eligible_refuses_the_start_too(make_subchannel, kind, position, flags):
    devices = [make_subchannel(number, kind if number == position else "virtio-blk") for number in range(8)]
    if not flags:
        assert len(IplDevice(devices, flags, BLANKS, None).devices) == 8
        return
    with pytest.raises(RefusedToStart) as caught:
        IplDevice(devices, flags, BLANKS, None)
    assert caught.value.reason is Reason.DEVICE_NOT_ELIGIBLE
    assert caught.value.where == f"disk{position}"


def test_h9_an_ipl_that_the_guest_asked_for_has_no_fall_backs(memory, make_subchannel):
    ipl = IplDevice([make_subchannel(position) for position in range(3)], 0x60, BLANKS, 7)
    ipl.prepare_ipl(memory)
    block = bytearray(ipl.block)
    block[4] = 0
    struct.pack_into(">H", block, 110, 0x1234)
    ipl.set_block(bytes(block))
    kept = ipl.block
    ipl.prepare_reipl(memory)
    assert ipl.block == kept
    assert ipl.block[4] == 0x60
    assert struct.unpack_from(">H", ipl.block, 110) == (0x1234,)
    assert qipl(memory) == (0x80, 0, 7, 0, 0)
    assert memory.read(BASE - CHAIN, CHAIN) == bytes(CHAIN)


def test_t11_the_chain_lies_where_no_component_may(memory, make_subchannel):
    from sipl.firmware.area import FirmwareArea

    ipl = IplDevice([make_subchannel(position) for position in range(8)], 0x60, BLANKS, None)
    ipl.prepare_ipl(memory)
    next_block = qipl(memory)[4]
    area = FirmwareArea(firmware_base(MEMORY), MEMORY)
    assert area.why_forbidden(next_block, 1)
    assert area.why_forbidden(next_block + CHAIN - 1, 1)
    assert not area.why_forbidden(next_block - 1, 1)
