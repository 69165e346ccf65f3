from __future__ import annotations

import os
import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.disk.block_device import BlockDevice
from sipl.disk.overlay import Overlay, WritableDisk
from sipl.machine.virtio import ccw
from sipl.machine.virtio.block import VirtioBlock
from sipl.machine.virtio.device import MAX_TRANSFER
from sipl.machine.virtio.entropy import VirtioEntropy

READ, WRITE, FLUSH, GET_ID = 0, 1, 4, 8
OK, IO_ERROR, UNSUPPORTED = b"\0", b"\1", b"\2"
SIZE = 64 << 10
REVISIONS = [None, 0, 1, 2]


@pytest.fixture
def image(memory_image):
    return memory_image(os.urandom(SIZE))


@pytest.fixture(params=REVISIONS)
def guest(request, driver, image):
    return driver(VirtioBlock(WritableDisk(image, 512), serial="a serial number that is long"), request.param).set_up()


def header(guest, kind, sector=0):
    return struct.pack(guest.order + "IIQ", kind, 99, sector)


class TestRequests:
    @pytest.mark.parametrize("indirect", [False, True])
    def test_reading(self, guest, image, indirect):
        head = header(guest, READ, 3)
        written, (first, second, status) = guest.request(0, [head], [512, 1024, 1], indirect=indirect)
        assert (written, status) == (1537, OK)
        assert first + second == image.content[3 * 512 : 6 * 512]
        assert guest.interrupted()

    @pytest.mark.parametrize("indirect", [False, True])
    def test_writing_and_reading_it_again(self, guest, image, indirect):
        data = os.urandom(1536)
        before = bytes(image.content)
        head = header(guest, WRITE, 5)
        written, (status,) = guest.request(0, [head, data[:1000], data[1000:]], [1], indirect=indirect)
        assert (written, status) == (1, OK)
        assert image.content == before[: 5 * 512] + data + before[8 * 512 :]
        assert guest.request(0, [header(guest, READ, 5)], [1536, 1]) == (1537, [data, OK])

    def test_any_layout(self, guest, image):
        head = header(guest, WRITE, 1)
        data = os.urandom(512)
        assert guest.request(0, [head[:3], head[3:] + data[:100], data[100:]], [1])[1] == [OK]
        assert image.content[512:1024] == data
        head = header(guest, READ, 1)
        _, (one, two) = guest.request(0, [head[:15], head[15:]], [500, 13])
        assert one + two == data + OK

    def test_flushing_and_the_serial_number(self, guest, image):
        assert guest.request(0, [header(guest, FLUSH)], [1]) == (1, [OK])
        assert image.flushed == 1
        assert guest.request(0, [header(guest, GET_ID)], [20, 1]) == (21, [b"a serial number that", OK])
        assert guest.request(0, [header(guest, GET_ID)], [4, 1]) == (5, [b"a se", OK])
        assert guest.request(0, [header(guest, GET_ID)], [30, 1]) == (20, [b"a serial number that" + b"\xee" * 10, OK])

    @pytest.mark.parametrize("kind", [2, 3, 11, 13, 0xFFFFFFFF])
    def test_what_is_not_offered(self, guest, kind):
        assert guest.request(0, [header(guest, kind), bytes(512)], [1])[1] == [UNSUPPORTED]

    @pytest.mark.parametrize(
        ("sector", "length"),
        [(128, 512), (127, 1024), (0, SIZE + 512), ((1 << 64) - 1, 512), (1 << 55, 512), (0, 511), (0, 513)],
    )
    def test_what_does_not_lie_on_the_disk_or_is_no_sector(self, guest, image, sector, length):
        before = bytes(image.content)
        assert guest.request(0, [header(guest, READ, sector)], [length, 1])[1] == [b"\xee" * length, IO_ERROR]
        assert guest.request(0, [header(guest, WRITE, sector), bytes(length)], [1])[1] == [IO_ERROR]
        assert image.content == before
        assert guest.ccw_device.device.host_error is None

    def test_the_last_sector(self, guest, image):
        assert guest.request(0, [header(guest, READ, 127)], [512, 1])[1] == [image.content[-512:], OK]

    def test_a_host_that_fails(self, guest, image):
        image.fails = True
        for kind, readable, writable in ((READ, [], [512, 1]), (WRITE, [bytes(512)], [1]), (FLUSH, [], [1])):
            assert guest.request(0, [header(guest, kind), *readable], writable)[1][-1] == IO_ERROR
        assert "broken" in str(guest.ccw_device.device.host_error)
        image.fails = False
        assert guest.request(0, [header(guest, READ)], [512, 1])[1][-1] == OK

    @pytest.mark.parametrize(("readable", "writable"), [([15], [1]), ([16], []), ([16, 512], []), ([], [17])])
    def test_a_request_that_is_none(self, guest, image, readable, writable):
        buffers = [(*guest.allocate(size), False) for size in readable]
        buffers += [(*guest.allocate(size), True) for size in writable]
        guest.rings[0].chain(buffers)
        assert guest.notify(0) == 0
        assert guest.ccw_device.broken is not None
        assert guest.rings[0].used_index == 0

    def test_many_at_once_are_told_of_once(self, guest, image):
        buffers = []
        for sector in range(40):
            buffers.append(guest.allocate(513))
            head = guest.allocate(header(guest, READ, sector))
            guest.rings[0].chain([(*head, False), (*buffers[-1], True)])
        assert guest.notify(0) == 0
        assert len(guest.rings[0].collect()) == 40
        for sector, (address, size) in enumerate(buffers):
            assert guest.memory.read(address, size) == image.content[512 * sector :][:512] + OK
        assert guest.interrupted()
        assert not guest.interruptions.any


class TestConfiguration:
    @pytest.mark.parametrize("revision", [0, 2])
    @pytest.mark.parametrize("block_size", [512, 1024, 2048, 4096])
    def test_fields(self, driver, memory_image, revision, block_size):
        blocks = 40000 * 4096 // block_size
        image = memory_image(b"")
        image.size = 40000 * 4096 + 512
        guest = driver(VirtioBlock(WritableDisk(image, block_size)), revision)
        guest.set_up()
        fields = struct.unpack(guest.order + "QIIHBBIBBHIBBHIIIIIB3x", guest.do(0x22, bytes(60)))
        capacity = blocks * block_size // 512 + (block_size == 512)
        assert fields[:11] == (capacity, 0, 254, capacity // (255 * 63), 255, 63, block_size, 0, 0, 1, 0)
        assert fields[11:] == (0, 0, 1, 0, 0, 0, 0, 0, 0)

    def test_a_disk_that_cannot_be_written_says_so(self, driver, read_only_image):
        content = os.urandom(4096)
        guest = driver(VirtioBlock(BlockDevice(read_only_image(content), 512))).set_up()
        assert guest.features() & (1 << 5 | 1 << 9) == 1 << 5
        assert guest.request(0, [header(guest, WRITE), bytes(512)], [1])[1] == [IO_ERROR]
        assert guest.request(0, [header(guest, READ)], [4096, 1])[1] == [content, OK]
        assert guest.request(0, [header(guest, FLUSH)], [1])[1] == [OK]

    def test_one_that_can_offers_to_flush(self, guest):
        assert guest.features() & (1 << 5 | 1 << 9) == 1 << 9

    def test_4096_byte_blocks(self, driver, image):
        guest = driver(VirtioBlock(WritableDisk(image, 4096))).set_up()
        assert guest.request(0, [header(guest, READ, 8)], [4096, 1])[1] == [image.content[4096:8192], OK]
        for sector, length in ((1, 4096), (8, 512), (8, 4608)):
            assert guest.request(0, [header(guest, READ, sector)], [length, 1])[1][-1] == IO_ERROR

    def test_an_overlay_keeps_what_is_written(self, driver, read_only_image):
        content = os.urandom(SIZE)
        with Overlay(read_only_image(content)) as overlay:
            disk = WritableDisk(overlay, 512)
            guest = driver(VirtioBlock(disk)).set_up()
            assert guest.request(0, [header(guest, WRITE, 7), b"\x42" * 512], [1])[1] == [OK]
            buffer = bytearray(1024)
            disk.read_blocks(6, 2, memoryview(buffer))
            assert buffer == content[6 * 512 : 7 * 512] + b"\x42" * 512


class TestBounds:
    def test_one_request_moves_no_more_than_the_largest(self, driver, memory_image):
        image = memory_image(b"")
        image.size = 1 << 40
        asked = []
        image.read_into = lambda offset, view: asked.append(len(view))
        guest = driver(VirtioBlock(WritableDisk(image, 512))).set_up()
        head = (*guest.allocate(header(guest, READ)), False)
        status = (*guest.allocate(1), True)
        table = guest.allocate(16 * 300)[0]
        for pieces, expected, moved in ((256, OK, MAX_TRANSFER), (257, IO_ERROR, 0)):
            asked.clear()
            guest.rings[0].chain([head, *[(0x200000, 1 << 20, True)] * pieces, status], indirect=table)
            assert guest.notify(0) == 0
            assert guest.memory.read(status[0], 1) == expected
            assert sum(asked) == moved

    def test_a_notification_pauses_and_the_rest_is_done_later(self, driver, image, monkeypatch):
        monkeypatch.setattr(ccw, "MAX_WORK", 4096)
        guest = driver(VirtioBlock(WritableDisk(image, 512))).set_up()
        buffers = []
        for _ in range(10):
            buffers.append(guest.allocate(2049))
            guest.rings[0].chain([(*guest.allocate(header(guest, READ)), False), (*buffers[-1], True)])
        assert guest.notify(0) == 0
        assert guest.rings[0].used_index == 2
        assert guest.css.work_left
        assert guest.notify(0) == 0
        assert guest.rings[0].used_index == 4
        rounds = 0
        while guest.css.work_left:
            guest.css.continue_work()
            rounds += 1
        assert guest.rings[0].used_index == 10
        assert rounds == 3
        assert all(guest.memory.read(*buffer)[:2048] == image.content[:2048] for buffer in buffers)
        assert guest.interrupted()

    def test_a_reset_forgets_the_rest(self, driver, image, monkeypatch):
        monkeypatch.setattr(ccw, "MAX_WORK", 1)
        guest = driver(VirtioBlock(WritableDisk(image, 512))).set_up()
        for _ in range(2):
            guest.rings[0].chain([(*guest.allocate(header(guest, READ)), False), (*guest.allocate(513), True)])
        guest.notify(0)
        guest.drain()
        guest.do(0x33)
        guest.css.continue_work()
        assert not guest.css.work_left
        assert guest.rings[0].used_index == 1

    def test_requests_that_make_the_ring_longer_do_not_hold_the_machine(self, driver, memory_image):
        """A disk block that is read over the available ring makes new requests, for ever."""
        guest = driver(VirtioBlock(WritableDisk(memory_image(bytes(4096 * 512)), 512)))
        guest.set_up()
        image = guest.ccw_device.device._image
        ring = guest.rings[0]
        # Sector n is a picture of the start of the available ring with index n + 2 and head 0 everywhere.
        for number in range(4000):
            image.content[512 * number : 512 * number + 4] = struct.pack("<HH", 0, number + 2)
        head = guest.allocate(header(guest, READ, 0))[0]
        status = guest.allocate(1)[0]
        calls = []
        original = image.read_into

        def reading(offset, view):
            calls.append(offset)
            original(offset, view)
            guest.memory.write(head + 8, struct.pack("<Q", offset // 512 + 1))

        image.read_into = reading
        ring.chain([(head, 16, False), (ring.available, 512, True), (status, 1, True)])
        assert guest.notify(0) == 0
        assert len(calls) == 256
        assert guest.css.work_left
        guest.css.continue_work()
        assert len(calls) == 512
        assert guest.ccw_device.broken is None

    def test_a_ring_of_broken_chains_ends_at_the_first(self, driver, image):
        guest = driver(VirtioBlock(WritableDisk(image, 512))).set_up()
        ring = guest.rings[0]
        for number in range(256):
            ring.descriptor(number, 0x100000, 1, 1, (number + 1) % 256)
            ring.offer(number)
        begun = time.monotonic()
        assert guest.notify(0) == 0
        assert guest.ccw_device.broken is not None
        assert time.monotonic() - begun < 2
        for _ in range(100):
            assert guest.notify(0) == 0


class TestEntropy:
    def test_no_configuration_and_no_more_than_a_buffer(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        assert guest.features() == 1 << 28
        assert guest.run(0x22, bytes(1)).status == 0x40
        written, (one, two) = guest.request(0, [], [100, 50])
        assert written == 150
        assert len(set(one + two)) > 30
        assert guest.request(0, [b"what a device reads is ignored"], [8])[0] == 8

    def test_a_huge_buffer_gets_a_part(self, driver):
        guest = driver(VirtioEntropy()).set_up()
        assert guest.request(0, [], [1 << 20])[0] == 64 << 10


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x100000, 0x100010, 0x110000, 0x10000, 0x12000, (4 << 20) - 16, 4 << 20, (1 << 64) - 1]),
            st.sampled_from([0, 1, 16, 17, 512, 513, 4096, 1 << 20, 0xFFFFFFFF]),
            st.integers(0, 7),
            st.integers(0, 12),
        ),
        min_size=1,
        max_size=12,
    ),
    st.lists(st.integers(0, 12), min_size=1, max_size=12),
    st.binary(min_size=16, max_size=64),
    st.sampled_from([None, 1, 2]),
    st.sampled_from(["block", "entropy"]),
)
@settings(max_examples=250, deadline=5000)
def test_no_ring_gets_at_the_machine(driver, memory_image, descriptors, heads, header, revision, kind):
    image = memory_image(bytes(SIZE))
    device = VirtioBlock(WritableDisk(image, 512)) if kind == "block" else VirtioEntropy()
    guest = driver(device, revision, adapter=revision == 2).set_up()
    ring = guest.rings[0]
    guest.memory.write(0x100000, header)
    for number, (address, length, flags, following) in enumerate(descriptors):
        if number < ring.size:
            ring.descriptor(number, address, length, flags, following)
    for head in heads:
        ring.offer(head)
    assert guest.notify(0) == 0
    for _ in range(20):
        guest.css.continue_work()
    broken = guest.ccw_device.broken is not None
    assert bool(guest.ccw_device.status & 0x40) == broken
    if broken:
        assert guest.notify(0) == 0
        guest.drain()
        guest.do(0x33)
        assert guest.ccw_device.broken is None
        assert guest.ccw_device.status == 0
