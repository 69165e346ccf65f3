"""DIAGNOSE 308: resets, set and store of the IPL parameter block, and the flags that no guest can change (T12)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipl.machine.diag308 import GuestReset

DIAGNOSE, SET, STORE = 0x308, 5, 6
OK, NO_CONFIGURATION, INVALID = [0x0001], [0x0102], [0x0402]
AT = 0x20000
MEMORY = 16 << 20
FCP, CCW, SCSI = 0x00, 0x02, 0xFF
SIPL, IPLIR = 0x40, 0x20
BLANKS = b"\x40" * 8
LINUX = "LINUX   ".encode("cp037")
MODES = {"normal": (False, 0, 0), "audit": (False, 1, IPLIR), "secure": (True, 1, SIPL | IPLIR)}


def iplb(kind, length, flags=0, loadparm=BLANKS, valid=0x80, devno=0, body=0x11):
    """A block of 4096 bytes as a guest writes it; everything that has no meaning here holds `body`."""
    block = bytearray([body]) * 4096
    struct.pack_into(">IB", block, 0, length, flags)
    struct.pack_into(">IBB", block, 8, max(length - 8, 0), kind, valid)
    block[16:24] = loadparm
    struct.pack_into(">BH", block, 109, 0, devno)
    return bytes(block)


@pytest.fixture
def started(guest_with, entry, make_subchannel):
    """A machine after its first IPL, in a mode by name."""

    def make(mode="secure", kinds=("virtio-blk",), **options):
        secure, certificates, _ = MODES[mode]
        devices = [
            make_subchannel(position, kind, loadparm=b"\xf7" + BLANKS[1:]) for position, kind in enumerate(kinds)
        ]
        guest = guest_with([entry("good")] * certificates, devices=devices, secure_boot=secure, **options)
        guest.machine.ipl_device.prepare_ipl(guest.memory)
        return guest

    return make


def stored(guest, at=AT + 0x10000):
    """What the guest gets with subcode 6, on a page of 0xAA."""
    guest.put(at, b"\xaa" * 4096)
    assert guest.call(DIAGNOSE, STORE, at) == OK
    return guest.get(at, 4096)


def mode_flags(guest):
    return stored(guest)[4] & (SIPL | IPLIR)


# Order of the checks


@pytest.mark.parametrize("subcode", [0, 1, 3, 5, 6, 7, 0x10000])
def test_problem_state_comes_before_everything(started, codes, subcode):
    guest = started()
    guest.cpu.problem_state = True
    assert guest.call(DIAGNOSE, subcode, AT + 1, r1=3) == codes.privileged


@pytest.mark.parametrize("subcode", [2, 7, 8, 9, 10, 11, 0xFFFF, 0x10000, 0x10005, (1 << 32) + 6, (1 << 64) - 1])
def test_other_subcodes_are_a_specification_exception(started, codes, subcode):
    guest = started()
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, AT) == codes.specification
    assert same()


@pytest.mark.parametrize("subcode", [SET, STORE])
@pytest.mark.parametrize(
    ("address", "r1"),
    [(AT, 3), (AT + 1, 2), (AT + 8, 2), (AT + 0x800, 2), (MEMORY + 8, 2), (MEMORY, 3), ((1 << 64) - 1, 2)],
)
def test_register_and_alignment_come_before_accessibility(started, codes, subcode, address, r1):
    guest = started()
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, subcode, address, r1=r1) == codes.specification
    assert same()


@pytest.mark.parametrize("subcode", [SET, STORE])
@pytest.mark.parametrize("address", [MEMORY, MEMORY + 4096, (1 << 32) + AT, (1 << 64) - 4096])
@pytest.mark.parametrize("mode", MODES)
def test_4096_bytes_must_be_there(started, codes, subcode, address, mode):
    guest = started(mode)
    assert guest.call(DIAGNOSE, subcode, address) == codes.addressing


def test_accessibility_comes_before_the_missing_configuration(guest_with, codes):
    guest = guest_with()
    assert guest.call(DIAGNOSE, STORE, MEMORY) == codes.addressing
    assert guest.call(DIAGNOSE, STORE, AT) == NO_CONFIGURATION


def test_addresses_are_absolute(started):
    guest = started()
    guest.cpu.prefix = AT
    guest.put(0x1000, iplb(CCW, 200))
    assert guest.call(DIAGNOSE, SET, 0x1000) == OK
    guest.put(AT + 0x1000, b"\xaa" * 4096)
    assert guest.call(DIAGNOSE, STORE, 0x1000) == OK
    assert guest.get(AT + 0x1000, 4096) == b"\xaa" * 4096


# Resets


@pytest.mark.parametrize("subcode", [0, 1, 3])
@pytest.mark.parametrize("r1", [2, 3])
def test_resets_are_for_whoever_runs_the_guest(started, subcode, r1):
    guest = started()
    same = guest.unchanged()
    with pytest.raises(GuestReset) as caught:
        guest.call(DIAGNOSE, subcode, AT + 1, r1=r1)
    assert caught.value.subcode == subcode
    assert same()


# Store


def test_without_a_block_there_is_nothing_to_store(guest_with):
    guest = guest_with()
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, STORE, AT) == NO_CONFIGURATION
    assert same()


@pytest.mark.parametrize(("mode", "length"), [("normal", 200), ("audit", 4096), ("secure", 4096)])
def test_store_writes_as_much_as_the_block_says(started, mode, length):
    guest = started(mode)
    block = stored(guest)
    assert struct.unpack_from(">IB", block) == (length, MODES[mode][2])
    assert struct.unpack_from(">IBB2x8s", block, 8) == (192, CCW, 0x80, b"\xf7" + BLANKS[1:])
    assert struct.unpack_from(">BH", block, 109) == (0, 1)
    assert block[length:] == b"\xaa" * (4096 - length)


def test_store_at_the_end_of_memory(started):
    guest = started()
    assert stored(guest, MEMORY - 4096)[:4] == struct.pack(">I", 4096)


# Set


@pytest.mark.parametrize(
    ("kind", "length", "valid"),
    [
        (CCW, 199, False),
        (CCW, 200, True),
        (CCW, 4096, True),
        (CCW, 4097, False),
        (FCP, 200, False),
        (FCP, 383, False),
        (FCP, 384, True),
        (FCP, 4096, True),
        (FCP, 4097, False),
        (SCSI, 12, False),  # ends before the type
        (SCSI, 13, True),
        (SCSI, 200, True),
        (SCSI, 4096, True),
        (SCSI, 4097, False),
        (SCSI, 0xFFFFFFFF, False),
        (0x04, 4096, False),
        (0x05, 4096, False),
        (0x01, 4096, False),
        (CCW, 0, False),
        (FCP, 0, False),
    ],
)
@pytest.mark.parametrize("mode", MODES)
def test_which_blocks_are_taken(started, mode, kind, length, valid):
    guest = started(mode)
    before = stored(guest)
    guest.put(AT, iplb(kind, length, devno=99))
    same = guest.unchanged()
    assert guest.call(DIAGNOSE, SET, AT) == (OK if valid else INVALID)
    assert same()
    if not valid:
        assert stored(guest) == before


@pytest.mark.parametrize("length", [200, 300, 4096])
def test_in_normal_mode_a_block_comes_back_as_it_was_set(started, length):
    guest = started("normal")
    block = iplb(CCW, length, devno=0x4711)
    guest.put(AT, block)
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert stored(guest) == block[:length] + b"\xaa" * (4096 - length)


@pytest.mark.parametrize("mode", ["audit", "secure"])
@pytest.mark.parametrize("length", [200, 300, 4096])
def test_what_is_behind_the_length_is_not_taken(started, mode, length):
    guest = started(mode)
    guest.put(AT, iplb(CCW, length))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    block = stored(guest)
    assert block[24:109] == b"\x11" * 85
    assert block[112:] == b"\x11" * (length - 112) + bytes(4096 - length)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("flags", [0x00, IPLIR, SIPL, SIPL | IPLIR, 0x9F, 0xFF])
@pytest.mark.parametrize(("kind", "length"), [(CCW, 200), (CCW, 4096), (FCP, 384), (SCSI, 200)])
@pytest.mark.parametrize("devno", [0, 9])
def test_t12_flags_are_the_machines_whatever_the_guest_sets(started, mode, flags, kind, length, devno):
    guest = started(mode, ("virtio-scsi",))
    guest.put(AT, iplb(kind, length, flags, devno=devno))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    block = stored(guest)
    rebuilt = kind == SCSI and devno == 0
    assert block[4] == MODES[mode][2] | (0 if rebuilt else flags & 0x9F)
    expected = 4096 if mode != "normal" else 200 if rebuilt else length
    assert struct.unpack_from(">I", block) == (expected,)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    mode=st.sampled_from(sorted(MODES)),
    calls=st.lists(
        st.tuples(
            st.sampled_from([CCW, FCP, SCSI, 4, 5]),
            st.sampled_from([0, 13, 199, 200, 384, 4096, 4097]) | st.integers(0, 4200),
            st.integers(0, 255),
            st.sampled_from([0, 1, 2, 9, 256, 65535]),
            st.binary(min_size=8, max_size=8),
        ),
        max_size=5,
    ),
)
def test_t12_no_sequence_of_blocks_leaves_the_mode(started, mode, calls):
    guest = started(mode, ("virtio-scsi", "virtio-blk"))
    for kind, length, flags, devno, loadparm in calls:
        guest.put(AT, iplb(kind, length, flags, loadparm, devno=devno))
        assert guest.call(DIAGNOSE, SET, AT) in (OK, INVALID)
        assert guest.machine.ipl_device.block[4] & (SIPL | IPLIR) == MODES[mode][2]
        assert len(guest.machine.ipl_device.block) == 4096
        guest.machine.ipl_device.prepare_reipl(guest.memory)
    assert mode == "normal" or mode_flags(guest) == MODES[mode][2]
    guest.machine.close()


@pytest.mark.parametrize("mode", MODES)
def test_t12_a_reset_from_outside_starts_with_a_new_block(started, mode):
    guest = started(mode)
    first = stored(guest)
    guest.put(AT, iplb(CCW, 4096, devno=0x1234))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert stored(guest) != first
    guest.machine.ipl_device.prepare_ipl(guest.memory)
    assert stored(guest) == first


# Blocks of SCSI devices


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_a_scsi_block_is_built_anew_from_its_boot_position(started, mode, position):
    guest = started(mode, ("virtio-scsi", "virtio-scsi", "virtio-blk"))
    guest.put(AT, iplb(SCSI, 200, 0xFF, LINUX, devno=position))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    block = stored(guest)[:200]
    kind = CCW if position == 2 else SCSI
    head = struct.pack(
        ">IB3xIBB2x8s", 200 if mode == "normal" else 4096, MODES[mode][2], 192, kind, 0x80, b"\xf7" + BLANKS[1:]
    )
    assert block == (head + bytes(85) + struct.pack(">BH", 0, position + 1)).ljust(200, b"\0")


def test_a_position_that_was_found_stays_in_force(started):
    guest = started("secure", ("virtio-scsi", "virtio-scsi"))
    for position in (1, 0, 77):
        guest.put(AT, iplb(SCSI, 200, devno=position))
        assert guest.call(DIAGNOSE, SET, AT) == OK
        assert struct.unpack_from(">H", stored(guest), 110) == (2,)
    guest.machine.ipl_device.prepare_ipl(guest.memory)
    guest.put(AT, iplb(SCSI, 200, devno=0))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert struct.unpack_from(">H", stored(guest), 110) == (1,)


@pytest.mark.parametrize("position", [2, 0x0100, 0xFFFF])
def test_a_position_without_a_device_keeps_the_block(started, position):
    guest = started("secure", ("virtio-scsi", "virtio-scsi"))
    block = iplb(SCSI, 200, devno=position)
    guest.put(AT, block)
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert stored(guest)[24:200] == block[24:200]
    guest.put(AT, iplb(SCSI, 200, devno=1))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert struct.unpack_from(">H", stored(guest), 110) == (2,)


# Loadparm


def machine_loadparm(guest):
    """The machine's loadparm as SCLP tells it."""
    guest.put(AT + 0x4000, struct.pack(">H", 4096).ljust(4096, b"\0"))
    guest.machine.execute_service_call(guest.cpu, 0x00020001, AT + 0x4000)
    return guest.get(AT + 0x4000 + 24, 8)


@pytest.mark.parametrize(("kind", "length"), [(CCW, 200), (FCP, 384), (SCSI, 200)])
def test_a_valid_loadparm_becomes_the_machines(started, kind, length):
    guest = started("secure", loadparm="3")
    assert machine_loadparm(guest) == b"\xf3" + BLANKS[1:]
    guest.put(AT, iplb(kind, length, loadparm=LINUX, devno=9))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert machine_loadparm(guest) == LINUX


def test_a_loadparm_that_is_not_marked_valid_changes_nothing(started):
    guest = started("secure", loadparm="3")
    guest.put(AT, iplb(CCW, 200, loadparm=LINUX, valid=0x7F))
    assert guest.call(DIAGNOSE, SET, AT) == OK
    assert machine_loadparm(guest) == b"\xf3" + BLANKS[1:]


def test_a_block_that_is_not_taken_changes_no_loadparm(started):
    guest = started("secure", loadparm="3")
    guest.put(AT, iplb(CCW, 199, loadparm=LINUX))
    assert guest.call(DIAGNOSE, SET, AT) == INVALID
    assert machine_loadparm(guest) == b"\xf3" + BLANKS[1:]
