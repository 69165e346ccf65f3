"""A guest of protected virtualization sees none of the facilities of secure IPL (T19)."""

from __future__ import annotations

import struct

import pytest

AT, SECOND = 0x20000, 0x30000
CPUS = ["qemu", "max", "z16,els=on,cstore=on,sipl=on,sclaf=on"]


@pytest.fixture(params=CPUS)
def pair(request, guest_with, entry):
    """The same machine twice: as an ordinary and as a protected guest."""
    store = [entry("good")]
    return guest_with(store, cpu=request.param), guest_with(store, cpu=request.param, protected=True)


def read_scp_info(guest):
    guest.put(AT, struct.pack(">H", 4096) + b"\xff" * 4094)
    guest.machine.execute_service_call(guest.cpu, 0x00020001, AT)
    block = guest.get(AT, 4096)
    assert struct.unpack_from(">H", block, 6) == (0x0010,)
    return block


def test_sclp_does_not_show_them(pair):
    ordinary, protected = map(read_scp_info, pair)
    assert (ordinary[134], struct.unpack_from(">H", ordinary, 136)) == (0x04, (0x5000,))
    assert (protected[134], struct.unpack_from(">H", protected, 136)) == (0, (0,))
    assert ordinary[:134] == protected[:134], "all else is the same"
    assert ordinary[138:] == protected[138:]


@pytest.mark.parametrize("subcode", [0, 1, 2, 3, 0xFF])
def test_diagnose_320_does_not_exist(pair, codes, subcode):
    ordinary, protected = pair
    for guest in pair:
        guest.put(AT, struct.pack(">I4xHH", 128 if subcode == 1 else 4096, 1, 1))
    assert ordinary.call(0x320, subcode, AT)[0] in (0x0001, 0x0102)
    same = protected.unchanged()
    assert protected.call(0x320, subcode, AT) == codes.specification
    assert same()


@pytest.mark.parametrize("subcode", [0, 0x8000])
def test_diagnose_508_does_not_exist(pair, codes, subcode, svb):
    ordinary, protected = pair
    for guest in pair:
        guest.put(AT, svb((SECOND, 10), (SECOND, 10)))
    assert ordinary.call(0x508, subcode, AT) == [0x0402 if subcode else 0x8000]
    same = protected.unchanged()
    assert protected.call(0x508, subcode, AT) == codes.specification
    assert same()
    assert not protected.machine.verifications


def test_problem_state_still_comes_first(pair, codes):
    for guest in pair:
        guest.cpu.problem_state = True
        assert guest.call(0x320, 0, AT) == codes.privileged
        assert guest.call(0x508, 0, AT) == codes.privileged


def test_the_model_has_nothing_to_show(pair):
    ordinary, protected = (guest.machine.model for guest in pair)
    assert (ordinary.els, ordinary.cstore, ordinary.sipl, ordinary.sclaf) == (True, True, True, True)
    assert (protected.els, protected.cstore, protected.sipl, protected.sclaf) == (True, False, False, False)
    assert ordinary.features - protected.features == {"cstore", "sipl", "sclaf"}


@pytest.mark.parametrize("cpu", ["qemu,cstore=off", "z16", "z15", "z16,els=on,sipl=on"])
def test_protection_adds_nothing_either(guest_with, cpu):
    guest = guest_with(cpu=cpu, protected=True)
    block = read_scp_info(guest)
    model = guest.machine.model
    assert not (model.cstore or model.sipl or model.sclaf)
    if model.els:
        assert (block[134], block[136], block[137]) == (0, 0, 0)


def test_becoming_protected_takes_them_away(guest_with, entry, codes):
    """The switch that a guest makes while it runs; leaving it brings them back."""
    guest = guest_with([entry("good")])
    assert guest.call(0x320, 0, AT) == [0x0001]
    guest.machine.protected = True
    assert guest.call(0x320, 0, AT) == codes.specification
    assert guest.call(0x508, 0, AT) == codes.specification
    guest.machine.protected = False
    assert guest.call(0x508, 0, AT) == [0x8000]


@pytest.mark.parametrize("secure", [True, False])
def test_the_boot_side_of_a_protected_guest_stops(guest_with, entry, make_subchannel, secure):
    """T5 and this together: no audit or secure IPL goes on without the facilities."""
    from sipl.firmware.flow import Firmware
    from sipl.reasons import Outcome, Reason

    guest = guest_with(
        [entry("good")], devices=[make_subchannel(data=bytes(1 << 20))], secure_boot=secure, protected=True
    )
    guest.machine.ipl_device.prepare_ipl(guest.memory)
    firmware = Firmware(guest.machine, None, lambda finding: None)
    assert firmware.ipl() is Outcome.STOPS
    assert firmware.reason is Reason.FACILITY_MISSING
