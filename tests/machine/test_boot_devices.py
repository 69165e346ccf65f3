"""Boot devices: kinds and their names, who may take part in secure IPL (T13), the block of each, reading."""

from __future__ import annotations

import struct

import pytest

from sipl.disk.block_device import BlockOutOfRange
from sipl.errors import RefusedToStart, UsageError
from sipl.machine.boot_devices import DeviceKind, build_iplb, check_eligible, device_kind
from sipl.machine.interruption import ProgramInterruption
from sipl.reasons import Reason

NAMES = {
    "virtio-blk": "virtio-blk",
    "virtio-blk-ccw": "virtio-blk",
    "virtio-scsi": "virtio-scsi",
    "virtio-scsi-ccw": "virtio-scsi",
    "scsi-hd": "virtio-scsi",
    "scsi-cd": "scsi-cd",
    "virtio-net": "virtio-net",
    "virtio-net-ccw": "virtio-net",
    "vfio-ccw": "vfio-ccw",
    "virtio-blk-pci": "virtio-blk-pci",
}
MAY_BOOT = {"virtio-blk", "virtio-scsi", "scsi-cd"}
LOADPARM = "LINUX  2".encode("cp037")


@pytest.mark.parametrize("name", NAMES)
def test_names_of_kinds(name):
    assert device_kind(name) == NAMES[name]


@pytest.mark.parametrize("name", ["", "nvme", "VIRTIO-BLK", "virtio-blk ", "virtio-blk\x1b[31m"])
def test_other_names(name):
    with pytest.raises(UsageError, match="there is no device kind") as caught:
        device_kind(name)
    assert "virtio-blk, virtio-scsi, scsi-cd" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("kind", list(DeviceKind))
def test_t13_who_may_take_part(make_subchannel, kind):
    device = make_subchannel(kind=kind)
    if kind in MAY_BOOT:
        check_eligible(device)
        return
    with pytest.raises(RefusedToStart, match=kind) as caught:
        check_eligible(device)
    assert caught.value.reason is Reason.DEVICE_NOT_ELIGIBLE
    assert caught.value.where == "disk0"
    assert "virtio-blk-ccw" in caught.value.hint


@pytest.mark.parametrize(("flags", "length"), [(0, 200), (0x20, 4096), (0x60, 4096)])
@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi", "scsi-cd"])
def test_the_block_of_a_device(make_subchannel, kind, flags, length):
    block = build_iplb(make_subchannel(3, kind, loadparm=LOADPARM, ssid=1, devno=0xABCD), flags)
    expected = bytearray(4096)
    struct.pack_into(">IB2xBI", expected, 0, length, flags, 0, 192)
    struct.pack_into(">BB2x8s", expected, 12, 0x02 if kind == "virtio-blk" else 0xFF, 0x80, LOADPARM)
    struct.pack_into(">BH", expected, 109, 1, 0xABCD)
    assert block == bytes(expected)


@pytest.mark.parametrize(
    ("position", "ssid", "word"), [(0, 0, 0x00010000), (7, 0, 0x00010007), (1, 1, 0x00030001), (2, 3, 0x00070002)]
)
def test_subsystem_identification_word(make_subchannel, position, ssid, word):
    assert make_subchannel(position, ssid=ssid).subsystem_id == word


@pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
def test_blocks_are_read_into_memory(guest_with, make_subchannel, block_size):
    data = b"".join(bytes([number]) * block_size for number in range(1, 8))
    device = make_subchannel(data=data, block_size=block_size)
    memory = guest_with().memory
    assert (device.block_size, device.blocks) == (block_size, 7)
    device.read_blocks(memory, 2, 3, 0x20000)
    expected = bytearray(memory.size)
    expected[0x20000 : 0x20000 + 3 * block_size] = data[2 * block_size : 5 * block_size]
    assert bytes(memory.view) == bytes(expected)


@pytest.mark.parametrize(("block", "count"), [(7, 1), (6, 2), (0, 8), (1 << 32, 1), ((1 << 64) - 1, 1)])
def test_h2_blocks_beyond_the_disk_are_not_read(guest_with, make_subchannel, block, count):
    guest = guest_with()
    same = guest.unchanged()
    with pytest.raises(BlockOutOfRange) as caught:
        make_subchannel(data=b"\xff" * 7 * 512).read_blocks(guest.memory, block, count, 0x20000)
    assert caught.value.reason is Reason.BLOCK_OUT_OF_RANGE
    assert same()


def test_blocks_need_memory(guest_with, make_subchannel, codes):
    guest = guest_with()
    with pytest.raises(ProgramInterruption) as caught:
        make_subchannel(data=bytes(2048)).read_blocks(guest.memory, 0, 2, guest.memory.size - 1023)
    assert caught.value.code == codes.addressing


@pytest.mark.parametrize("kind", ["virtio-net", "vfio-ccw", "virtio-blk-pci"])
def test_a_device_without_blocks(guest_with, make_subchannel, kind):
    device = make_subchannel(kind=kind)
    assert (device.block_size, device.blocks) == (0, 0)
    with pytest.raises(UsageError, match="no blocks"):
        device.read_blocks(guest_with().memory, 0, 1, 0x20000)
