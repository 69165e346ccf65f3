"""The machine as a whole: its mode, what it dispatches, how boot side and guest code reach it."""

from __future__ import annotations

import struct

import pytest

from sipl.errors import RefusedToStart, UsageError
from sipl.machine.diag308 import GuestReset
from sipl.machine.interruption import ProgramInterruption
from sipl.machine.machine import Machine

AT = 0x20000


@pytest.mark.parametrize(
    ("secure", "certificates", "flags", "length"),
    [(False, 0, 0x00, 200), (False, 1, 0x20, 4096), (True, 0, 0x60, 4096), (True, 2, 0x60, 4096)],
)
def test_the_mode_comes_from_options_and_loaded_certificates(
    guest_with, entry, make_subchannel, secure, certificates, flags, length
):
    guest = guest_with([entry("good")] * certificates, devices=[make_subchannel()], secure_boot=secure)
    guest.machine.ipl_device.prepare_ipl(guest.memory)
    assert guest.call(0x308, 6, AT) == [0x0001]
    assert struct.unpack(">IB", guest.get(AT, 5)) == (length, flags)


@pytest.mark.parametrize(("secure", "certificates"), [(True, 0), (False, 1), (True, 1)])
@pytest.mark.parametrize("kind", ["virtio-net", "vfio-ccw", "virtio-blk-pci"])
def test_t13_the_machine_does_not_start_with_an_ineligible_device(
    guest_with, entry, make_subchannel, secure, certificates, kind
):
    devices = [make_subchannel(), make_subchannel(1, kind)]
    with pytest.raises(RefusedToStart):
        guest_with([entry("good")] * certificates, devices=devices, secure_boot=secure)
    assert guest_with(devices=devices).machine.devices == tuple(devices)


@pytest.mark.parametrize("function", [0x0, 0x9C, 0x300, 0x318, 0x321, 0x500, 0x509, 0xFFFF])
def test_a_diagnose_that_does_not_exist(guest_with, codes, function):
    guest = guest_with()
    assert guest.call(function, 0, AT) == codes.specification
    guest.cpu.problem_state = True
    assert guest.call(function, 0, AT) == codes.privileged


@pytest.mark.parametrize("function", [0x10320, 0xFFFFFFFFFFFF0320])
def test_only_16_bits_of_the_function_code_count(guest_with, function):
    guest = guest_with()
    assert guest.call(function, 0, AT) == [0x0001]
    assert guest.get(AT, 4) == bytes.fromhex("e0000000")


def test_the_boot_side_gets_the_same_instructions(guest_with, codes, make_subchannel):
    guest = guest_with(devices=[make_subchannel()], secure_boot=True)
    machine = guest.machine
    machine.ipl_device.prepare_ipl(guest.memory)
    assert machine.diagnose(0x508, AT, 0) == 0x8000
    assert machine.diagnose(0x308, AT, 6) == 0x0001
    assert machine.diagnose(0x320, AT, 7) == 0x0102
    with pytest.raises(ProgramInterruption) as caught:
        machine.diagnose(0x508, AT, 1)
    assert caught.value.code == codes.specification
    with pytest.raises(GuestReset):
        machine.diagnose(0x308, 0, 1)
    machine.store(AT, struct.pack(">H6x", 4096))
    machine.service_call(0x00020001, AT)
    assert machine.load(AT + 134, 1) == b"\x04"
    with pytest.raises(ProgramInterruption):
        machine.load(guest.memory.size, 1)
    with pytest.raises(ProgramInterruption):
        machine.store(guest.memory.size - 1, b"xx")


def test_the_clock_is_looked_at_for_each_call(entry, guest_with, svb, data):
    """A certificate that expires between two verifications no longer verifies."""
    times = [entry("good").certificate.not_after, entry("good").certificate.not_after + 1]
    template = guest_with([entry("good")]).machine
    machine = Machine(template.options, template.model, [], template.certificates, b"\x40" * 8, lambda: times.pop(0))
    component, signature = ((data / "crypto" / name).read_bytes() for name in ("component.bin", "plain.p7s"))
    machine.store(0x30000, component)
    machine.store(0x40000, signature)
    machine.store(AT, svb((0x30000, len(component)), (0x40000, len(signature))))
    assert machine.diagnose(0x508, AT, 0x8000) == 0x0001
    assert machine.diagnose(0x508, AT, 0x8000) == 0x0402
    machine.close()


def test_devices_are_found_by_their_number(guest_with, make_subchannel):
    devices = [make_subchannel(0), make_subchannel(1, ssid=1), make_subchannel(2, devno=1, ssid=2)]
    machine = guest_with(devices=devices).machine
    assert [machine.find_device(*where) for where in ((0, 1), (1, 2), (2, 1))] == devices
    assert machine.find_device(0, 2) is None
    assert machine.find_device(1, 1) is None


def test_blocks_come_from_the_device_of_the_subchannel(guest_with, make_subchannel, codes):
    devices = [make_subchannel(number, data=bytes([number + 1]) * 1024) for number in range(2)]
    guest = guest_with(devices=devices)
    guest.machine.read_blocks(devices[1].subsystem_id, 1, 1, AT)
    guest.machine.read_blocks(devices[0].subsystem_id, 0, 1, AT + 512)
    assert guest.get(AT, 1025) == b"\x02" * 512 + b"\x01" * 512 + b"\0"
    with pytest.raises(ProgramInterruption) as caught:
        guest.machine.read_blocks(0x00010007, 0, 1, AT)
    assert caught.value.code == codes.operand


@pytest.mark.parametrize(("mib", "base"), [(16, 0xD00000), (512, 0x1FD00000), (4096, 0x7FD00000)])
def test_firmware_base(guest_with, mib, base):
    assert guest_with(memory=mib << 20).machine.firmware_base == base


def test_a_host_without_memory_is_a_usage_error(guest_with):
    with pytest.raises(UsageError, match="--memory"):
        guest_with(memory=1 << 62)


def test_cpus_share_machine_and_store_but_not_their_state(guest_with, entry):
    """`execute_diagnose` works on the registers of the CPU that it is given."""
    from sipl.machine.cpu import Cpu

    guest = guest_with([entry("good")])
    other = Cpu(guest.memory)
    other.prefix = 0x40000
    other.registers[2], other.registers[6] = 0x100, 0
    guest.machine.execute_diagnose(other, 0x320, 2, 6)
    assert other.registers[3] == 0x0001
    assert guest.cpu.registers == [0] * 16
    assert guest.get(0x40100, 4) == bytes.fromhex("e0000000")
