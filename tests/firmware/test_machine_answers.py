"""What the boot side makes of a machine that answers strangely: it never goes on without a verification."""

from __future__ import annotations

import struct

import pytest
from ipl_lab import HANDS_OVER, MIB, verdict

from sipl import ipl
from sipl.firmware.area import FirmwareArea
from sipl.firmware.certificates import CertificateList
from sipl.firmware.facilities import query_store
from sipl.firmware.flow import boot_mode
from sipl.firmware.verdict import DeviceGivenUp, MachineStops
from sipl.reasons import Mode, Reason

BASE = 13 * MIB
AREA = FirmwareArea(BASE, 16 * MIB)


@pytest.mark.parametrize(
    ("flags", "mode"),
    [
        (0, "normal"),
        (0x20, "audit"),
        (0x60, "secure"),
        (0x40, "normal"),
        (0x80, "normal"),
        (0xA0, "audit"),
        (0xFF, "secure"),
    ],
)
def test_mode_of_the_flags(flags, mode):
    assert boot_mode(flags) == mode


@pytest.mark.parametrize(("mode", "expected"), [("normal", HANDS_OVER), ("secure", ("stops", "facility-missing"))])
def test_so_many_cpus_that_read_scp_info_has_no_room(lab, mode, expected):
    """The answer is too short for the facilities: secure mode stops, normal mode still knows its memory."""
    settings = lab.settings(mode)
    settings = settings._replace(machine=settings.machine._replace(cpus=300))
    assert verdict(ipl.boot([lab.disk(lab.program())], settings)) == expected
    assert verdict(ipl.boot([lab.disk(lab.program())], settings._replace(cpu="z13"))) == expected


def test_the_firmwares_area_is_forbidden_without_read_scp_info_too(lab):
    from ipl_lab import FIRMWARE_BASE, Load

    settings = lab.settings("normal")
    settings = settings._replace(machine=settings.machine._replace(cpus=300))
    for address in (FIRMWARE_BASE, 128 * MIB - 512, 128 * MIB):
        disk = lab.disk(lab.program(extra=[Load(address, b"x")]))
        assert verdict(ipl.boot([disk], settings)) == ("stops", "load-address-forbidden")


class Store:
    """A platform whose DIAGNOSE answers what a test wants: a response code and what it writes to the block."""

    def __init__(self, response=1, block=b""):
        self.memory = bytearray(16 * MIB)
        self.response = response
        self.block = block
        self.calls = 0

    def load(self, address, length):
        return bytes(self.memory[address : address + length])

    def store(self, address, data):
        self.memory[address : address + len(data)] = data

    def diagnose(self, function, address, subcode):
        self.calls += 1
        self.store(address, self.block)
        return self.response


def certificate_block(length=64 + 192 + 8, stored=1, remaining=0, flags=0x80, entry=200, offset=192, size=5):
    header = struct.pack(">I28xI4xHH20x", 4096, length, stored, remaining)
    vce = bytearray(200)
    struct.pack_into(">IB", vce, 0, entry, flags)
    struct.pack_into(">I", vce, 84, size)
    struct.pack_into(">HH", vce, 96, 160, offset)
    vce[192:197] = b"\x30\x03abc"
    return header + bytes(vce)


def fetched(platform, length=4096):
    return CertificateList(platform, AREA, length).position_of(0)


def test_certificate_is_fetched_once():
    platform = Store(block=certificate_block())
    certificates = CertificateList(platform, AREA, 4096)
    assert [certificates.position_of(0), certificates.position_of(0)] == [0, 0]
    assert platform.calls == 1
    (entry,) = certificates.entries
    assert platform.load(entry.address, entry.length) == b"\x30\x03abc"


@pytest.mark.parametrize(
    "platform",
    [
        Store(response=0x0204, block=certificate_block()),
        Store(response=0, block=certificate_block()),
        Store(block=certificate_block(length=64, stored=0)),
        Store(block=certificate_block(remaining=1)),
        Store(block=certificate_block(flags=0)),
        Store(block=certificate_block(entry=196)),
        Store(block=certificate_block(offset=196)),
        Store(block=certificate_block(size=0xFFFFFFFF)),
    ],
)
def test_certificate_that_is_not_there_gives_the_device_up(platform):
    with pytest.raises(DeviceGivenUp) as stop:
        fetched(platform)
    assert stop.value.reason is Reason.CERTIFICATE_NOT_AVAILABLE


@pytest.mark.parametrize("length", [0, 0x20001, 0xFFFFFFFF])
def test_certificate_block_of_an_impossible_size(length):
    platform = Store(block=certificate_block())
    with pytest.raises(DeviceGivenUp):
        fetched(platform, length)
    assert platform.calls == 0


def test_certificates_do_not_leave_their_area():
    """More certificates than there is room for, though every one of them is possible."""
    size = 0x1F000
    block = certificate_block(length=64 + 192 + size, entry=192 + size, size=size)
    platform = Store(block=block)
    certificates = CertificateList(platform, AREA, 0x20000)
    with pytest.raises(DeviceGivenUp):
        for number in range(64):
            certificates.position_of(number)
    assert certificates.entries
    end = max(entry.address + entry.length for entry in certificates.entries)
    assert end <= AREA.certificates_end <= AREA.end


@pytest.mark.parametrize("mode", [Mode.AUDIT, Mode.SECURE])
def test_store_that_cannot_be_queried_stops(mode):
    with pytest.raises(MachineStops) as stop:
        query_store(Store(response=0x0202), AREA, mode)
    assert stop.value.reason is Reason.FACILITY_MISSING


def test_empty_store_stops_secure_mode_alone():
    empty = struct.pack(">I", 4)
    with pytest.raises(MachineStops) as stop:
        query_store(Store(block=empty), AREA, Mode.SECURE)
    assert stop.value.reason is Reason.NO_CERTIFICATE
    assert query_store(Store(block=empty), AREA, Mode.AUDIT).max_single_vcb_length == 0
