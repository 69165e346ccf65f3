from __future__ import annotations

import struct

import pytest

from sipl.disk.block_device import BlockDevice
from sipl.machine.virtio.block import VirtioBlock
from sipl.machine.virtio.ccw import NOT_OPERATIONAL, notify
from sipl.machine.virtio.entropy import VirtioEntropy

MEMORY = 4 << 20
REVISIONS = [None, 0, 1, 2]
CONFIG_INDICATORS = 0x1808


@pytest.fixture
def block(read_only_image):
    return VirtioBlock(BlockDevice(read_only_image(bytes(8192)), 512))


class TestRevision:
    @pytest.mark.parametrize("revision", [0, 1, 2])
    def test_it_is_set_once_until_the_subchannel_is_disabled(self, driver, block, revision):
        guest = driver(block)
        guest.enable()
        guest.do(0x83, struct.pack(">HH", revision, 0))
        guest.reject(0x83, struct.pack(">HH", 0, 0))
        guest.do(0x33)
        guest.reject(0x83, struct.pack(">HH", 0, 0))
        guest.disable()
        guest.enable()
        guest.do(0x83, struct.pack(">HH", 0, 0))

    def test_one_that_is_not_there_leaves_the_choice_open(self, driver, block):
        guest = driver(block)
        guest.enable()
        guest.reject(0x83, struct.pack(">HH", 3, 0))
        guest.reject(0x83, struct.pack(">HH", 1, 4), count=4)
        guest.reject(0x83, struct.pack(">HHI", 1, 4, 0))
        guest.do(0x83, struct.pack(">HH", 2, 0))

    @pytest.mark.parametrize("revision", REVISIONS)
    def test_features(self, driver, block, revision):
        guest = driver(block, revision)
        guest.enable()
        if revision is not None:
            guest.do(0x83, struct.pack(">HH", revision, 0))
        common = 1 << 2 | 1 << 4 | 1 << 5 | 1 << 6 | 1 << 10 | 1 << 28
        if revision:
            assert (guest.features(0), guest.features(1), guest.features(2)) == (common, 1, 0)
        else:
            assert (guest.features(0), guest.features(1)) == (common | 1 << 27, 0)


class TestCommands:
    def test_sense_id_names_the_device(self, driver, block):
        for device, model in ((block, 2), (VirtioEntropy(), 4)):
            guest = driver(device)
            guest.enable()
            assert guest.identify() == bytes([0xFF, 0x38, 0x32, model, 0, 0, 0])

    @pytest.mark.parametrize("command", [0x02, 0x14, 0x74, 0xFF])
    def test_others_are_rejected(self, driver, block, command):
        guest = driver(block)
        guest.enable()
        guest.reject(command, bytes(8))

    @pytest.mark.parametrize(
        ("command", "size"),
        [(0x83, 4), (0x12, 5), (0x11, 5), (0x31, 1), (0x32, 4), (0x43, 8), (0x53, 8), (0x73, 25), (0x13, 32)],
    )
    def test_a_block_that_is_too_short_is_rejected_and_one_too_long_has_the_wrong_length(
        self, driver, block, command, size
    ):
        guest = driver(block, revision=1)
        guest.enable()
        if command != 0x83:
            guest.do(0x83, struct.pack(">HH", 1, 0))
        guest.reject(command, bytes(size - 1))
        guest.reject(command, bytes(size - 1), flags=0x20)
        result = guest.run(command, bytes(size + 1))
        assert (result.device, result.status, result.residual) == (0x0C, 0x40, 1)

    def test_status(self, driver, block):
        guest = driver(block)
        guest.enable()
        guest.do(0x83, struct.pack(">HH", 2, 0))
        assert guest.read_status() == 0
        guest.write_status(3)
        assert guest.read_status() == 3
        guest.reject(0x31, bytes([11]))  # virtio 1 without its feature
        assert guest.read_status() == 3
        guest.accept(1, 1)
        guest.accept(1 << 9)  # flush, which a read-only disk does not offer
        guest.reject(0x31, bytes([11]))
        guest.accept(1 << 6)
        guest.write_status(11)
        assert guest.read_status() == 11
        guest.write_status(0)
        assert guest.read_status() == 0
        guest.reject(0x31, bytes([11]))
        guest.accept(0, 2)
        guest.reject(0x11, struct.pack("<IB", 1, 2))

    def test_configuration_is_read_in_pieces_and_never_written(self, driver, block):
        guest = driver(block)
        guest.enable()
        guest.do(0x83, struct.pack(">HH", 1, 0))
        whole = guest.do(0x22, bytes(60))
        assert guest.do(0x22, bytes(8)) == whole[:8] == struct.pack("<Q", 16)
        result = guest.run(0x22, bytes(61))
        assert (result.status, result.residual) == (0x40, 1)
        assert guest.run(0x22, bytes(61), flags=0x20).residual == 1
        guest.do(0x21, b"\xff" * 60)
        assert guest.do(0x22, bytes(60)) == whole

    def test_queue_configuration(self, driver, block):
        guest = driver(block)
        guest.enable()
        assert guest.do(0x32, b"\x00\x00\xff\xff") == struct.pack(">HH", 0, 256)
        assert guest.do(0x32, b"\x00\x01\xff\xff") == struct.pack(">HH", 1, 0)
        assert guest.do(0x32, b"\xff\xff\xff\xff") == struct.pack(">HH", 0xFFFF, 0)

    @pytest.mark.parametrize(
        "change",
        [
            {"index": 1},
            {"index": 0xFFFF},
            {"size": 0},
            {"size": 3},
            {"size": 512},
            {"size": 0x8000},
            {"desc": 0x10008},
            {"avail": 0x12001},
            {"used": 0x13002},
            {"desc": MEMORY - 4080},
            {"avail": MEMORY - 16},
            {"used": MEMORY - 1024},
            {"desc": 0xFFFFFFFFFFFFFFF0},
        ],
    )
    def test_rings_that_cannot_be(self, driver, block, change):
        guest = driver(block)
        guest.enable()
        guest.do(0x83, struct.pack(">HH", 1, 0))
        place = {"desc": 0x10000, "index": 0, "size": 256, "avail": 0x12000, "used": 0x13000}

        def block_of(fields):
            return struct.pack(
                ">QIHHQQ", fields["desc"], 0, fields["index"], fields["size"], fields["avail"], fields["used"]
            )

        guest.do(0x13, block_of(place))
        assert guest.ccw_device.queues[0].ready
        guest.reject(0x13, block_of(place | change))
        guest.do(0x13, block_of(place))
        guest.do(0x13, block_of(place | {"desc": 0, "size": 0}))
        assert not guest.ccw_device.queues[0].ready

    @pytest.mark.parametrize(
        ("address", "alignment", "index", "size"),
        [
            (0x10000, 2048, 0, 256),
            (0x10000, 4096, 1, 256),
            (0x10000, 4096, 0, 128),
            (0x10008, 4096, 0, 256),
            (MEMORY - 4096, 4096, 0, 256),
            (1 << 63, 4096, 0, 256),
        ],
    )
    def test_legacy_rings_that_cannot_be(self, driver, block, address, alignment, index, size):
        guest = driver(block)
        guest.enable()
        guest.do(0x13, struct.pack(">QIHH", 0x10000, 4096, 0, 256))
        guest.reject(0x13, struct.pack(">QIHH", address, alignment, index, size))
        guest.do(0x13, struct.pack(">QIHH", 0, 0, 0, 0))

    def test_indicators_have_to_be_in_storage(self, driver, block):
        guest = driver(block)
        guest.enable()
        for command, data in (
            (0x43, (MEMORY - 7).to_bytes(8, "big")),
            (0x53, (1 << 63).to_bytes(8, "big")),
            (0x73, struct.pack(">QQQB", MEMORY, 0x1800, 0, 0)),
            (0x73, struct.pack(">QQQB", 0x1800, MEMORY - 1, 8, 0)),
            (0x73, struct.pack(">QQQB", 0x1800, 0x1800, (1 << 64) - 1, 0)),
        ):
            assert guest.run(command, data).status == 0x20
        guest.reject(0x73, struct.pack(">QQQB", 0x1800, 0x1800, 0, 8))
        guest.do(0x73, struct.pack(">QQQB", MEMORY - 1, MEMORY - 1, 7, 7))

    def test_the_two_kinds_of_indicators_exclude_each_other_until_taken_away(self, driver, block):
        guest = driver(block)
        guest.enable()
        classic, adapter = (0x1800).to_bytes(8, "big"), struct.pack(">QQQB", 0x1810, 0x1818, 0, 1)
        guest.do(0x43, classic)
        guest.reject(0x73, adapter)
        guest.do(0x43, bytes(8))
        guest.do(0x73, adapter)
        guest.reject(0x43, classic)
        guest.do(0x73, bytes(25))
        guest.do(0x43, classic)
        guest.do(0x33)
        guest.do(0x73, adapter)


class TestNotification:
    def test_to_nowhere(self, driver, block):
        guest = driver(block).set_up()
        assert guest.notify(1) == NOT_OPERATIONAL
        assert guest.notify(1 << 40) == NOT_OPERATIONAL
        for sid in (0, guest.sid + 1, 0x00090000, 0x00030000):
            assert notify(guest.css, sid, 0, 0) == NOT_OPERATIONAL
        assert notify(guest.css, guest.sid, 0, 77) == 0
        assert not guest.interruptions.any

    @pytest.mark.parametrize("adapter", [False, True])
    @pytest.mark.parametrize("revision", REVISIONS)
    def test_what_is_used_is_told(self, driver, revision, adapter):
        guest = driver(VirtioEntropy(), revision, adapter=adapter).set_up()
        for _ in range(300):  # more often than the ring is large, and than a byte counts
            written, (data,) = guest.request(0, [], [64])
            assert written == 64
            assert data != b"\xee" * 64
            assert guest.interrupted()
            assert not guest.interruptions.any

    @pytest.mark.parametrize("adapter", [False, True])
    def test_a_driver_that_does_not_listen_is_not_told(self, driver, adapter):
        guest = driver(VirtioEntropy(), adapter=adapter).set_up()
        guest.memory.write(guest.rings[0].available, b"\x01\x00")
        guest.request(0, [], [64])
        assert not guest.interruptions.any
        guest.memory.write(guest.rings[0].available, b"\x00\x00")
        guest.request(0, [], [64])
        assert guest.interrupted()

    def test_a_summary_that_is_set_already_needs_no_interruption(self, driver):
        guest = driver(VirtioEntropy(), adapter=True).set_up()
        guest.memory.write(0x1810, b"\x01")
        guest.request(0, [], [64])
        assert not guest.interruptions.any
        assert guest.memory.read(0x1820, 2) == b"\x00\x04"  # bit 13

    def test_without_indicators_only_the_ring_tells(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        guest.do(0x43, bytes(8))
        guest.request(0, [], [64])
        assert not guest.interruptions.any

    def test_nothing_happens_before_the_driver_is_ready(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        guest.write_status(11)
        guest.rings[0].chain([(*guest.allocate(64), True)])
        assert guest.notify(0) == 0
        assert guest.rings[0].used_index == 0
        guest.write_status(15)
        assert guest.notify(0) == 0
        assert guest.rings[0].used_index == 1

    def test_devices_tell_what_they_store(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        guest.stored.clear()
        guest.request(0, [], [64])
        ring = guest.rings[0]
        buffers = [entry for entry in guest.stored if entry[0] >= 0x100000]
        assert [n for _, n in buffers] == [64]
        assert {(ring.used + 4, 8), (ring.used + 2, 2), (0x1807, 1)} < set(guest.stored)

    def test_a_reset_takes_everything_away(self, driver):
        guest = driver(VirtioEntropy(), size=8)
        guest.set_up()
        guest.request(0, [], [64])
        guest.css.reset()
        assert not guest.interruptions.any
        assert not guest.ccw_device.queues[0].ready
        assert guest.ccw_device.status == 0
        guest.rings.clear()
        guest.memory.write(0x10000, bytes(0x10000))
        guest.set_up()
        guest.request(0, [], [64])


class TestBroken:
    def test_the_driver_is_told_to_reset_the_device(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        ring = guest.rings[0]
        ring.offer(200)
        assert guest.notify(0) == 0
        assert "200" in guest.ccw_device.broken.why
        assert ring.used_index == 0
        assert guest.memory.read(CONFIG_INDICATORS, 8) == b"\0" * 7 + b"\1"
        assert guest.css.tsch(guest.sid)[1][2:4] == b"\x00\x11"
        assert guest.read_status() == 15 | 0x40
        guest.write_status(15)
        assert guest.read_status() == 15 | 0x40
        ring.chain([(*guest.allocate(64), True)])
        assert guest.notify(0) == 0
        assert ring.used_index == 0
        guest.write_status(0)
        assert guest.read_status() == 0
        assert guest.ccw_device.broken is None

    def test_what_was_used_before_is_told_too(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        guest.rings[0].chain([(*guest.allocate(64), True)])
        guest.rings[0].offer(200)
        assert guest.notify(0) == 0
        assert guest.rings[0].used_index == 1
        assert guest.memory.read(0x1800, 8) == b"\0" * 7 + b"\1"
