"""STSI: the blocks as stock QEMU stores them, condition codes, and the machine types of the CPU models."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.machine.cpu_model import model_names, parse_cpu
from sipl.machine.cpu_type import cpu_type
from sipl.machine.interruption import ProgramInterruption
from sipl.machine.stsi import Configuration, store_system_information

QEMU = parse_cpu("qemu")
UUID = bytes(range(16))
TWO = Configuration(2, "vmnamelong99", UUID)


def stsi(function, selector1=0, selector2=0, configuration=TWO, model=QEMU, cpu=0):
    return store_system_information(model, configuration, function << 28 | selector1, selector2, cpu)


def expected(**at):
    """A block of zeros with fields; `x20=...` is at offset 0x20, text becomes EBCDIC."""
    block = bytearray(4096)
    for name, value in at.items():
        data = value.encode("cp037") if isinstance(value, str) else value
        offset = int(name[1:], 16)
        block[offset : offset + len(data)] = data
    return bytes(block)


# As a QEMU 7.2 with two CPUs, a name and a UUID stored them.
BLOCKS = {
    (1, 1, 1): expected(x20="QEMU".ljust(16), x30="8561", x40="QEMU".ljust(16), x50="QEMU".ljust(16), x60="QEMU"),
    (1, 2, 1): expected(x50="QEMU" * 4, x60="QEMU"),
    (1, 2, 2): expected(x20=bytes.fromhex("443afc29 0002 0002")),
    (2, 2, 1): expected(x50="QEMU" * 4, x60="QEMU"),
    (2, 2, 2): expected(
        x20=bytes.fromhex("00000080 0002 0002"), x2c="QEMU".ljust(8), x34=bytes.fromhex("000003e8"), x48=b"\0\2"
    ),
    (3, 2, 2): expected(
        x1f=b"\1",
        x24=bytes.fromhex("0002 0002"),
        x2c="vmnamelo",
        x34=bytes.fromhex("000003e8"),
        x38="KVM/Linux".ljust(16),
        x4b=b"\2",
        x50=UUID,
        x800=b"vmnamelong99",
    ),
}


@pytest.mark.parametrize("which", BLOCKS)
def test_blocks(which):
    r0 = which[0] << 28 | which[1]
    assert stsi(*which) == (0, r0, BLOCKS[which])


def test_the_current_level_goes_into_the_low_half_of_the_register():
    assert store_system_information(QEMU, TWO, 0xAAAA_BBBB_0000_0000, 0) == (0, 0xAAAA_BBBB_3000_0000, None)
    assert store_system_information(QEMU, TWO, 0xFF, 0xFFFF) == (0, 0x3000_0000, None)


@pytest.mark.parametrize(
    "which", [(1, 0, 0), (1, 1, 2), (1, 2, 3), (2, 1, 1), (2, 2, 3), (3, 1, 1), (3, 2, 1), (3, 2, 0x102), (1, 0xFF, 1)]
)
def test_what_is_not_there(which):
    assert stsi(*which) == (3, which[0] << 28 | which[1], None)


@pytest.mark.parametrize("function", [4, 14, 15])
def test_levels_above_are_refused_before_anything_is_looked_at(function):
    assert store_system_information(QEMU, TWO, function << 28 | 0xFFFFF00, 0xFFFF0000)[0] == 3


@pytest.mark.parametrize(("r0", "r1"), [(1 << 28 | 0x100, 0), (0x08000000, 0), (0, 0x10000), (1 << 28 | 1, 1 << 31)])
def test_reserved_bits(r0, r1):
    with pytest.raises(ProgramInterruption, match="specification"):
        store_system_information(QEMU, TWO, r0, r1)


def test_the_high_halves_of_the_registers_do_not_matter():
    high = 0xFFFF_FFFF_0000_0000
    got = store_system_information(QEMU, TWO, high | 0x10000001, high | 1)
    assert got == (0, high | 0x10000001, BLOCKS[1, 1, 1])


def test_the_number_of_the_cpu():
    assert stsi(1, 2, 1, cpu=3).block[0x64:0x68] == bytes.fromhex("00030000")
    assert stsi(2, 2, 1, cpu=3).block[0x64:0x68] == bytes.fromhex("00030003")


@given(st.text(max_size=400), st.binary(max_size=40))
def test_any_name(name, uuid):
    block = stsi(3, 2, 2, Configuration(1, name, uuid)).block
    assert len(block) == 4096
    assert block[0x50:0x60] == uuid[:16].ljust(16, b"\0")
    long = block[0x800:0x900]
    shown = name.encode("utf-8", "replace")
    assert long.rstrip(b"\0").decode("utf-8") == shown[: len(long.rstrip(b"\0"))].decode("utf-8")
    assert len(long.rstrip(b"\0")) > 252 or long.rstrip(b"\0") == shown.rstrip(b"\0")
    assert not any(block[0x900:])


@pytest.mark.parametrize(
    ("name", "number", "generation"),
    [
        ("qemu", 0x8561, 15),
        ("max", 0x8561, 15),
        ("z900.3", 0x2064, 7),
        ("z10BC.2", 0x2098, 10),
        ("z13s", 0x2965, 13),
        ("z14ZR1-base", 0x3907, 14),
        ("z14.2-base", 0x3906, 14),
        ("gen15b", 0x8562, 15),
        ("z16", 0x3931, 16),
        ("gen16b", 0x3932, 16),
        ("z17", 0x9175, 17),
    ],
)
def test_machine_types(name, number, generation):
    model = parse_cpu(name)
    assert cpu_type(model) == (number, generation)
    assert cpu_type(model).cpu_id == number << 16
    assert stsi(1, 1, 1, model=model).block[0x30:0x34].decode("cp037") == f"{number:04X}"


def test_every_model_has_its_own_type():
    """No name falls through to what `qemu` says; the generations rise in the order of the models."""
    everything = {"qemu", "max"}
    named = [cpu_type(parse_cpu(name)) for name in model_names() if name not in everything]
    assert [one.generation for one in named] == sorted(one.generation for one in named)
    z15 = {name for name in model_names() if cpu_type(parse_cpu(name)).number == 0x8561}
    assert z15 == everything | {"gen15a", "z15"}


def test_the_number_of_the_machine_is_where_stidp_has_it():
    assert struct.pack(">Q", cpu_type(QEMU).cpu_id) == bytes.fromhex("00000000 8561 0000")
