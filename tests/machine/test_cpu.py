"""The CPU as DIAGNOSE and SERVC see it: prefixing, access exceptions, privilege, register pairs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.machine.cpu import Cpu
from sipl.machine.interruption import ProgramCode, ProgramInterruption
from sipl.machine.memory import GuestMemory

SIZE = 1 << 18
AREA = 0x2000
PREFIXES = st.integers(0, SIZE // AREA - 1).map(lambda number: number * AREA)


@pytest.fixture(scope="module")
def memory():
    memory = GuestMemory(SIZE)
    yield memory
    memory.close()


def cpu_with(memory, prefix=0):
    cpu = Cpu(memory)
    cpu.prefix = prefix
    return cpu


def code_of(call, *arguments):
    with pytest.raises(ProgramInterruption) as caught:
        call(*arguments)
    return caught.value.code


def test_a_new_cpu_is_in_supervisor_state_with_prefix_and_registers_zero(memory):
    cpu = Cpu(memory)
    cpu.require_supervisor()
    assert cpu.registers == [0] * 16
    assert cpu.absolute(0x123) == 0x123


def test_prefixing_exchanges_the_first_8_kib_with_those_at_the_prefix(memory):
    cpu = cpu_with(memory, 0x10000)
    pairs = {0: 0x10000, 0x1FFF: 0x11FFF, 0x2000: 0x2000, 0xFFFF: 0xFFFF, 0x10000: 0, 0x11FFF: 0x1FFF, 0x12000: 0x12000}
    assert {real: cpu.absolute(real) for real in pairs} == pairs


@given(prefix=PREFIXES, address=st.integers(0, SIZE - 1))
def test_prefixing_twice_gives_the_address_again(memory, prefix, address):
    cpu = cpu_with(memory, prefix)
    assert cpu.absolute(cpu.absolute(address)) == address


@given(prefix=PREFIXES, address=st.integers(0, SIZE - 1), length=st.integers(0, 3 * AREA), fill=st.integers(1, 255))
def test_an_operand_is_accessed_byte_by_byte_through_the_prefix(memory, prefix, address, length, fill):
    cpu = cpu_with(memory, prefix)
    data = bytes([fill]) * length
    before = bytearray(memory.view)
    if address + length > SIZE:
        assert code_of(cpu.logical_write, address, data) is ProgramCode.ADDRESSING
        assert code_of(cpu.logical_read, address, length) is ProgramCode.ADDRESSING
        assert bytes(memory.view) == bytes(before)
        return
    cpu.logical_write(address, data)
    for real in range(address, address + length):
        before[cpu.absolute(real)] = fill
    assert bytes(memory.view) == bytes(before)
    assert cpu.logical_read(address, length) == data


def test_a_prefix_area_outside_the_memory_is_an_addressing_exception(memory):
    cpu = cpu_with(memory, SIZE)
    assert code_of(cpu.logical_read, 0, 1) is ProgramCode.ADDRESSING
    before = bytes(memory.view)
    # The bytes from real 0x2000 on are there, those before are not: nothing is stored.
    assert code_of(cpu.logical_write, 0x1FF8, bytes(range(1, 17))) is ProgramCode.ADDRESSING
    assert bytes(memory.view) == before


def test_problem_state_gives_a_privileged_operation_exception(memory):
    cpu = Cpu(memory)
    cpu.problem_state = True
    assert code_of(cpu.require_supervisor) is ProgramCode.PRIVILEGED


@pytest.mark.parametrize("register", range(16))
def test_a_result_needs_an_even_register(memory, register):
    cpu = Cpu(memory)
    if register % 2:
        assert code_of(cpu.result_register, register) is ProgramCode.SPECIFICATION
    else:
        assert cpu.result_register(register) == register + 1


def test_an_interruption_tells_its_code():
    interruption = ProgramInterruption(ProgramCode.ADDRESSING)
    assert interruption.code == 5
    assert str(interruption) == "program interruption 0x0005 (addressing)"
