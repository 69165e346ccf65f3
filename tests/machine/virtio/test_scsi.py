from __future__ import annotations

import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.disk.block_device import BlockDevice
from sipl.disk.overlay import WritableDisk
from sipl.machine.virtio.scsi import VirtioScsi

SIZE = 256 << 10
CONTROL, EVENT, REQUEST = 0, 1, 2
HERE = bytes([1, 0, 0x40, 0]) + bytes(4)
MEDIUM_READ, MEDIUM_WRITE = (3, 0x11, 0), (3, 0x0C, 0)
INVALID_OPERATION, OUT_OF_RANGE = (5, 0x20, 0), (5, 0x21, 0)
INVALID_FIELD, NO_UNIT, PROTECTED = (5, 0x24, 0), (5, 0x25, 0), (7, 0x27, 0)


@pytest.fixture
def image(memory_image):
    return memory_image(os.urandom(SIZE))


@pytest.fixture(params=[None, 2])
def guest(request, driver, image):
    return driver(VirtioScsi(WritableDisk(image, 512), "serial-7"), request.param).set_up()


def pack_request(guest, cdb, lun=HERE):
    return lun + struct.pack(guest.order + "Q", 77) + bytes(3) + bytes(cdb).ljust(32, b"\0")


class Answer:
    def __init__(self, guest, written, buffers):
        response, *data = buffers
        fields = struct.unpack(guest.order + "IIHBB", response[:12])
        self.sense_length, self.residual, _, self.status, self.response = fields
        sense = response[12:]
        self.sense = (sense[2], sense[12], sense[13]) if self.status == 2 else None
        if self.status == 2:
            assert (self.sense_length, sense[0], sense[7]) == (18, 0x70, 10)
        else:
            assert self.sense_length == 0
        self.written = written
        self.data = b"".join(data)


def scsi(guest, cdb, *, out=(), room=(), lun=HERE):
    return Answer(guest, *guest.request(REQUEST, [pack_request(guest, cdb, lun), *out], [108, *room]))


def good(guest, cdb, **options):
    answer = scsi(guest, cdb, **options)
    assert (answer.response, answer.status) == (0, 0)
    return answer


def check(guest, cdb, **options):
    answer = scsi(guest, cdb, **options)
    assert (answer.response, answer.status) == (0, 2)
    return answer.sense


def cdb_10(operation, block, count):
    return bytes([operation, 0]) + block.to_bytes(4, "big") + b"\0" + count.to_bytes(2, "big") + b"\0"


def cdb_16(operation, block, count):
    return bytes([operation, 0]) + block.to_bytes(8, "big") + count.to_bytes(4, "big") + bytes(2)


class TestIdentification:
    def test_configuration(self, guest):
        fields = struct.unpack(guest.order + "IIIIIIIHHI", guest.do(0x22, bytes(36)))
        assert fields == (1, 254, 0xFFFF, 128, 16, 96, 32, 0, 0, 0)
        assert guest.identify()[3] == 8

    def test_inquiry(self, guest):
        answer = good(guest, [0x12, 0, 0, 0, 96], room=[96])
        assert answer.data[:36] == b"\x00\x00\x05\x12\x1f\0\0\x02SIPL    VIRTUAL DISK    1   "
        assert answer.data[36:] == b"\xee" * 60
        assert (answer.residual, answer.written) == (60, 144)
        assert good(guest, [0x12, 0, 0, 0, 5], room=[96]).data[:6] == b"\x00\x00\x05\x12\x1f\xee"
        assert good(guest, [0x12, 0, 0, 0, 96], room=[4]).data == b"\x00\x00\x05\x12"

    def test_vital_product_data(self, guest):
        assert good(guest, [0x12, 1, 0, 0, 255], room=[255]).data.startswith(b"\0\0\0\4\x00\x80\x83\xb0\xee")
        assert good(guest, [0x12, 1, 0x80, 0, 255], room=[255]).data.startswith(b"\0\x80\0\x08serial-7\xee")
        designator = b"\x02\x01\x00\x10SIPL    serial-7"
        assert good(guest, [0x12, 1, 0x83, 0, 255], room=[255]).data.startswith(b"\0\x83\0\x14" + designator + b"\xee")
        limits = good(guest, [0x12, 1, 0xB0, 0, 255], room=[255]).data
        assert limits[:64] == b"\0\xb0\0\x3c" + bytes(4) + (524288).to_bytes(4, "big") + bytes(52)
        assert check(guest, [0x12, 1, 0x84, 0, 255], room=[255]) == INVALID_FIELD
        assert check(guest, [0x12, 0, 0x80, 0, 255], room=[255]) == INVALID_FIELD

    def test_a_disk_without_a_serial_number_names_none(self, driver, image):
        guest = driver(VirtioScsi(WritableDisk(image, 512))).set_up()
        assert good(guest, [0x12, 1, 0, 0, 255], room=[255]).data.startswith(b"\0\0\0\2\x00\xb0\xee")
        assert check(guest, [0x12, 1, 0x80, 0, 255], room=[255]) == INVALID_FIELD

    def test_units_and_targets(self, guest):
        report = [0xA0, 0, 0, 0, 0, 0, 0, 0, 1, 0]
        assert good(guest, report, room=[64]).data.startswith(b"\0\0\0\x08" + bytes(12) + b"\xee")
        assert good(guest, [0xA0, 0, 1, *report[3:]], room=[64]).data.startswith(bytes(8) + b"\xee")
        assert check(guest, [0xA0, 0, 3, *report[3:]], room=[64]) == INVALID_FIELD
        unit = bytes([1, 0, 0x40, 5]) + bytes(4)
        assert good(guest, report, room=[64], lun=unit).data.startswith(b"\0\0\0\x08")
        assert good(guest, [0x12, 0, 0, 0, 36], room=[36], lun=unit).data[0] == 0x7F
        assert check(guest, [0], lun=unit) == NO_UNIT
        assert check(guest, cdb_10(0x28, 0, 1), room=[512], lun=unit) == NO_UNIT
        for lun in (bytes([1, 1, 0x40, 0]), bytes([0, 0, 0x40, 0]), b"\xc1\x01\x00\x00"):
            assert scsi(guest, [0], lun=lun + bytes(4)).response == 3

    def test_capacity(self, guest):
        assert good(guest, [0x25], room=[8]).data == struct.pack(">II", SIZE // 512 - 1, 512)
        capacity = bytes([0x9E, 0x10]) + bytes(8) + (32).to_bytes(4, "big")
        assert good(guest, capacity, room=[32]).data == struct.pack(">QI", SIZE // 512 - 1, 512) + bytes(20)
        assert check(guest, [0x9E, 0x12], room=[32]) == INVALID_FIELD

    def test_capacity_of_a_large_disk(self, driver, memory_image):
        image = memory_image(b"")
        image.size = 1 << 50
        guest = driver(VirtioScsi(WritableDisk(image, 4096))).set_up()
        assert good(guest, [0x25], room=[8]).data == struct.pack(">II", 0xFFFFFFFF, 4096)
        capacity = bytes([0x9E, 0x10]) + bytes(8) + (12).to_bytes(4, "big")
        assert good(guest, capacity, room=[32]).data[:12] == struct.pack(">QI", (1 << 38) - 1, 4096)

    def test_mode_pages(self, guest):
        caching = b"\x08\x12\x04" + bytes(17)
        for page in (0x08, 0x3F):
            assert good(guest, [0x1A, 0, page, 0, 255], room=[24]).data == b"\x17\0\0\0" + caching
            long = [0x5A, 0, page, 0, 0, 0, 0, 0, 255]
            assert good(guest, long, room=[28]).data == b"\0\x1a" + bytes(6) + caching
        assert good(guest, [0x1A, 0, 0x48, 0, 255], room=[24]).data == b"\x17\0\0\0" + b"\x08\x12" + bytes(18)
        assert check(guest, [0x1A, 0, 0x01, 0, 255], room=[24]) == INVALID_FIELD
        assert check(guest, [0x1A, 0, 0xC8, 0, 255], room=[24]) == INVALID_FIELD

    def test_commands_that_only_have_to_end_well(self, guest, image):
        for cdb in ([0x00], [0x1B, 0, 0, 0, 1], [0x1E]):
            assert good(guest, cdb).written == 108
        assert good(guest, [0x03, 0, 0, 0, 18], room=[18]).data == b"\x70" + bytes(6) + b"\x0a" + bytes(10)
        good(guest, [0x35])
        good(guest, [0x91])
        assert image.flushed == 2

    @pytest.mark.parametrize("operation", [0x04, 0x15, 0x55, 0xA3, 0xFF])
    def test_others_are_invalid(self, guest, operation):
        assert check(guest, [operation], room=[64]) == INVALID_OPERATION


class TestBlocks:
    @pytest.mark.parametrize("cdb", [cdb_10(0x28, 3, 2), cdb_16(0x88, 3, 2), [0x08, 0, 0, 3, 2]])
    def test_reading(self, guest, image, cdb):
        answer = good(guest, cdb, room=[100, 924 + 64])
        assert answer.data == image.content[3 * 512 : 5 * 512] + b"\xee" * 64
        assert (answer.residual, answer.written) == (64, 108 + 1024)

    @pytest.mark.parametrize("cdb", [cdb_10(0x2A, 3, 2), cdb_16(0x8A, 3, 2), [0x0A, 0, 0, 3, 2]])
    def test_writing(self, guest, image, cdb):
        before, data = bytes(image.content), os.urandom(1024)
        answer = good(guest, cdb, out=[data[:600], data[600:] + b"more"])
        assert image.content == before[: 3 * 512] + data + before[5 * 512 :]
        assert (answer.residual, answer.written) == (4, 108)

    def test_what_is_too_much_is_not_written(self, guest, image):
        before, data = bytes(image.content), os.urandom(512)
        assert good(guest, cdb_10(0x2A, 0, 1), out=[data + b"more", b"\x11" * 700, b"\x22" * 9]).residual == 713
        assert image.content == data + before[512:]

    def test_no_block_and_256_blocks(self, guest, image):
        assert good(guest, cdb_10(0x28, 3, 0), room=[512]).residual == 512
        assert good(guest, [0x08, 0, 0, 1, 0], room=[256 * 512]).data == image.content[512 : 257 * 512]

    @pytest.mark.parametrize(
        "cdb",
        [cdb_10(0x28, 512, 1), cdb_10(0x28, 511, 2), cdb_16(0x88, (1 << 64) - 1, 1), cdb_16(0x88, 0, 0xFFFFFFFF)],
    )
    def test_beyond_the_end(self, guest, cdb):
        assert check(guest, cdb, room=[1024]) == OUT_OF_RANGE

    def test_too_little_room(self, guest, image):
        before = bytes(image.content)
        answer = scsi(guest, cdb_10(0x28, 0, 2), room=[1023])
        assert (answer.response, answer.residual, answer.data) == (1, 1023, b"\xee" * 1023)
        assert scsi(guest, cdb_10(0x2A, 0, 2), out=[b"\x11" * 1023]).response == 1
        assert image.content == before

    def test_more_than_one_request_moves(self, driver, memory_image):
        image = memory_image(b"")
        image.size = 1 << 40
        guest = driver(VirtioScsi(WritableDisk(image, 512))).set_up()
        assert check(guest, cdb_16(0x88, 0, 524289), room=[512]) == INVALID_FIELD
        assert scsi(guest, cdb_16(0x88, 0, 524288), room=[512]).response == 1

    def test_a_host_that_fails(self, guest, image):
        image.fails = True
        assert check(guest, cdb_10(0x28, 0, 1), room=[512]) == MEDIUM_READ
        assert check(guest, cdb_10(0x2A, 0, 1), out=[bytes(512)]) == MEDIUM_WRITE
        assert check(guest, [0x35]) == MEDIUM_WRITE
        assert "broken" in str(guest.ccw_device.device.host_error)

    def test_a_disk_that_cannot_be_written(self, driver, read_only_image):
        guest = driver(VirtioScsi(BlockDevice(read_only_image(bytes(SIZE)), 512))).set_up()
        assert check(guest, cdb_10(0x2A, 0, 1), out=[bytes(512)]) == PROTECTED
        assert good(guest, [0x1A, 0, 8, 0, 255], room=[24]).data == b"\x17\0\x80\0\x08\x12" + bytes(18)
        good(guest, [0x35])

    def test_4096_byte_blocks(self, driver, image):
        guest = driver(VirtioScsi(WritableDisk(image, 4096))).set_up()
        assert good(guest, cdb_10(0x28, 2, 1), room=[4096]).data == image.content[8192:12288]
        assert good(guest, [0x25], room=[8]).data == struct.pack(">II", SIZE // 4096 - 1, 4096)


class TestOtherQueues:
    @pytest.mark.parametrize(
        ("kind", "subtype", "lun", "response"),
        [
            (0, 0, HERE, 0),
            (0, 5, HERE, 0),
            (0, 8, HERE, 11),
            (0, 5, bytes([1, 9]) + bytes(6), 3),
            (0, 5, bytes([1, 0, 0x40, 3]) + bytes(4), 12),
            (0, 5, bytes([1, 0, 0x41, 0, 9]) + bytes(3), 12),
            (0, 5, bytes([1, 0, 0x40, 0, 9]) + bytes(3), 0),
        ],
    )
    def test_task_management(self, guest, kind, subtype, lun, response):
        request = struct.pack(guest.order + "II", kind, subtype) + lun + bytes(8)
        assert guest.request(CONTROL, [request], [1]) == (1, [bytes([response])])

    def test_notifications_are_subscribed_in_vain(self, guest):
        for kind in (1, 2):
            request = struct.pack(guest.order + "I", kind) + HERE + b"\xff" * 4
            assert guest.request(CONTROL, [request], [5]) == (5, [bytes(5)])

    def test_other_control_requests(self, guest):
        assert guest.request(CONTROL, [struct.pack(guest.order + "I", 3)], [1]) == (1, [b"\x0b"])

    def test_buffers_for_events_wait(self, guest):
        guest.rings[EVENT].chain([(*guest.allocate(16), True)])
        assert guest.notify(EVENT) == 0
        assert guest.rings[EVENT].used_index == 0
        assert not guest.css.work_left
        assert not guest.interruptions.any

    @pytest.mark.parametrize(
        ("queue", "readable", "writable"), [(2, 50, 108), (2, 51, 107), (0, 3, 1), (0, 23, 1), (0, 24, 0)]
    )
    def test_requests_that_are_none(self, guest, queue, readable, writable):
        buffers = [(*guest.allocate(readable), False)]
        if writable:
            buffers.append((*guest.allocate(writable), True))
        guest.rings[queue].chain(buffers)
        assert guest.notify(queue) == 0
        assert guest.ccw_device.broken is not None


@given(
    st.binary(min_size=8, max_size=8).map(lambda b: b"\x01\x00" + b[2:])
    | st.just(HERE)
    | st.binary(min_size=8, max_size=8),
    st.sampled_from(
        [0, 3, 8, 0x0A, 0x12, 0x1A, 0x1B, 0x1E, 0x25, 0x28, 0x2A, 0x35, 0x5A, 0x88, 0x8A, 0x91, 0x9E, 0xA0, 0x7F]
    ),
    st.binary(min_size=31, max_size=31) | st.binary(max_size=4).map(lambda b: b.rjust(16, b"\0").ljust(31, b"\0")),
    st.lists(st.integers(1, 5000), max_size=3),
    st.lists(st.integers(1, 5000), max_size=3),
)
@settings(max_examples=300)
def test_every_command_is_answered(driver, memory_image, lun, operation, rest, out, room):
    guest = driver(VirtioScsi(WritableDisk(memory_image(bytes(SIZE)), 512), "x")).set_up()
    answer = scsi(guest, bytes([operation]) + rest, out=[bytes(size) for size in out], room=room, lun=lun)
    assert answer.response in {0, 1, 3}
    assert answer.status in {0, 2}
    assert answer.residual <= sum(out) + sum(room)
    assert 108 <= answer.written <= 108 + sum(room)
    assert answer.data[answer.written - 108 :] == b"\xee" * (sum(room) - answer.written + 108)
    assert guest.ccw_device.broken is None
