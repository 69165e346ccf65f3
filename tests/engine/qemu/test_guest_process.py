"""What a QEMU process has of sipl's, and what nobody can do to it through /proc."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os

import pytest
import qemu_guests

from sipl.engine.qemu.guest_process import GuestProcess
from sipl.engine.qemu.harmless import build_image, find_image
from sipl.engine.qemu.own_setup import OwnSetup
from sipl.engine.qemu.ram import GuestRam
from sipl.errors import UsageError
from sipl.machine.options import MachineOptions
from sipl.settings import Settings


@pytest.fixture
def guest():
    qemu_guests.find_qemu()
    setup = OwnSetup([], Settings(machine=MachineOptions(memory=qemu_guests.MEMORY)))
    setup.open()
    process = GuestProcess(setup)
    try:
        process.qemu.greet()
        yield process
    finally:
        process.close()
        setup.close()


def descriptor(guest, name):
    """The path by which QEMU, or who has its rights, opens a descriptor of its own once more."""
    folder = f"/proc/{guest.qemu._process.pid}/fd"
    found = [number for number in os.listdir(folder) if f"memfd:{name}" in os.readlink(f"{folder}/{number}")]
    return f"{folder}/{found[0]}"


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_RDWR | os.O_TRUNC])
def test_the_harmless_image_cannot_be_changed(guest, flags):
    """QEMU puts it back from there at a reset: a disk whose data file is this descriptor would be boot code."""
    path = descriptor(guest, "sipl-harmless")
    with pytest.raises(PermissionError):
        os.write(os.open(path, flags), b"EVIL")
    with open(path, "rb") as image:
        assert image.read() == build_image()


def test_the_memory_keeps_its_size(guest):
    """Who looked at a page that is not there any more would be killed."""
    path = descriptor(guest, "sipl-guest")
    for size in (0, qemu_guests.MEMORY * 2):
        with pytest.raises(PermissionError):
            os.truncate(path, size)
    assert find_image(guest.ram)


def test_sealed_memory_is_written_through_the_maps_alone(guest):
    """QEMU opens files anew for whoever asks its monitor, its own descriptors included."""
    path = descriptor(guest, "sipl-guest")
    guest.ram.seal()
    with open(path, "r+b", buffering=0) as file:
        with pytest.raises(PermissionError):
            file.write(b"EVIL")
        with pytest.raises(PermissionError):
            mmap.mmap(file.fileno(), 0x1000)
    guest.ram.write(0x2000, b"good")
    assert guest.ram.read(0x2000, 4) == b"good"
    assert "0x676f6f64" in guest.qemu.qmp.human("xp /1xw 0x2000")


def test_a_host_that_does_not_seal_memory(monkeypatch):
    ram = GuestRam(1 << 20)

    def refuse(*_):
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(UsageError, match="does not seal"):
        ram.seal()
    ram.close()


def test_nothing_else_of_sipls_is_inherited(guest):
    folder = f"/proc/{guest.qemu._process.pid}/fd"
    places = [os.readlink(f"{folder}/{number}") for number in sorted(os.listdir(folder), key=int)]
    own = [place for place in places if place.startswith(("/memfd:sipl", "/tmp", "/dev/shm", "/home", "/root"))]
    own = [place for place in own if not place.endswith("/dev/urandom")]  # QEMU's own, where it lives in a chroot
    assert sorted(set(own)) == ["/memfd:sipl-guest (deleted)", "/memfd:sipl-harmless (deleted)"]
