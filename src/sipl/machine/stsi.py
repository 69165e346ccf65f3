"""STORE SYSTEM INFORMATION: what the guest learns of machine, partition and hypervisor (docs/machine-options.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.machine.cpu_type import cpu_type
from sipl.machine.ebcdic import to_ebcdic
from sipl.machine.interruption import ProgramCode, ProgramInterruption

if TYPE_CHECKING:
    from collections.abc import Callable

    from sipl.machine.cpu_model import CpuModel

BLOCK_SIZE: Final = 4096
NAME_LENGTH: Final = 8  # of a virtual machine, in EBCDIC
LONG_NAME_LENGTH: Final = 256  # in UTF-8
UUID_LENGTH: Final = 16
DEFAULT_NAME: Final = "sipl"

_FUNCTION_SHIFT: Final = 28  # in general register 0
_CURRENT_LEVEL: Final = 0
_HIGHEST_LEVEL: Final = 3  # a virtual machine
_RESERVED_R0: Final = 0x0FFFFF00
_RESERVED_R1: Final = 0xFFFF0000
_LOW: Final = 0xFFFFFFFF

_CC_STORED: Final = 0
_CC_NOT_AVAILABLE: Final = 3

# Guests know by these that their CPU is emulated and that they run under such a hypervisor.
_MANUFACTURER: Final = "QEMU"
_CONTROL_PROGRAM: Final = "KVM/Linux"
# Relative to a machine of 1000: nothing is capped.
_FULL_CAPABILITY: Final = 1000
_CPU_CAPABILITY: Final = 0x443AFC29
_DEDICATED: Final = 0x80
_UTF_8: Final = 2  # encoding of the long name


class Configuration(NamedTuple):
    """What STSI tells besides the CPU model. `name` and `uuid` are the virtual machine's, `uuid` has 16 bytes."""

    cpus: int
    name: str = DEFAULT_NAME
    uuid: bytes = bytes(UUID_LENGTH)


class SystemInformation(NamedTuple):
    """How the instruction ends: condition code, general register 0 (64 bits), 4096 bytes to store or None."""

    condition_code: int
    r0: int
    block: bytes | None


def store_system_information(
    model: CpuModel, configuration: Configuration, r0: int, r1: int, cpu_address: int = 0
) -> SystemInformation:
    """STSI by the general registers 0 and 1 (64 bits each).

    That the operand lies on a page boundary and is there is the caller's to check, and only if there is a block.

    Raises:
        ProgramInterruption: specification, for bits that must be zero.
    """
    function = (r0 & _LOW) >> _FUNCTION_SHIFT
    if function > _HIGHEST_LEVEL:
        return SystemInformation(_CC_NOT_AVAILABLE, r0, None)
    if r0 & _RESERVED_R0 or r1 & _RESERVED_R1:
        raise ProgramInterruption(ProgramCode.SPECIFICATION)
    if function == _CURRENT_LEVEL:
        return SystemInformation(_CC_STORED, r0 & ~_LOW | _HIGHEST_LEVEL << _FUNCTION_SHIFT, None)
    describe = _BLOCKS.get((function, r0 & 0xFF, r1 & 0xFFFF))
    if describe is None:
        return SystemInformation(_CC_NOT_AVAILABLE, r0, None)
    block = bytearray(BLOCK_SIZE)
    describe(block, model, configuration, cpu_address)
    return SystemInformation(_CC_STORED, r0, bytes(block))


def _machine(block: bytearray, model: CpuModel, _: Configuration, __: int) -> None:
    """1.1.1: the machine."""
    _text(block, 0x20, _MANUFACTURER, 16)
    _text(block, 0x30, f"{cpu_type(model).number:04X}", 4)
    _text(block, 0x40, _MANUFACTURER, 16)  # model and capacity
    _text(block, 0x50, _MANUFACTURER, 16)  # sequence code
    _text(block, 0x60, _MANUFACTURER, 4)  # plant


def _machine_cpu(block: bytearray, _: CpuModel, __: Configuration, cpu_address: int) -> None:
    """1.2.1: one CPU of the machine."""
    _text(block, 0x50, _MANUFACTURER * 4, 16)  # sequence code
    _text(block, 0x60, _MANUFACTURER, 4)  # plant
    _number(block, 0x64, cpu_address, 2)


def _partition_cpu(block: bytearray, model: CpuModel, configuration: Configuration, cpu_address: int) -> None:
    """2.2.1: one CPU of the partition."""
    _machine_cpu(block, model, configuration, cpu_address)  # whose number is also its identification
    _number(block, 0x66, cpu_address, 2)


def _machine_cpus(block: bytearray, _: CpuModel, configuration: Configuration, __: int) -> None:
    """1.2.2: the CPUs of the machine."""
    _number(block, 0x20, _CPU_CAPABILITY, 4)
    _counts(block, configuration)


def _partition_cpus(block: bytearray, _: CpuModel, configuration: Configuration, __: int) -> None:
    """2.2.2: the CPUs of the partition."""
    _number(block, 0x23, _DEDICATED, 1)
    _counts(block, configuration)
    _text(block, 0x2C, _MANUFACTURER, NAME_LENGTH)
    _number(block, 0x34, _FULL_CAPABILITY, 4)
    _number(block, 0x48, configuration.cpus, 2)  # dedicated ones


def _virtual_machine(block: bytearray, _: CpuModel, configuration: Configuration, __: int) -> None:
    """3.2.2: the CPUs of the virtual machine, of which there is one level."""
    block[0x1F] = 1
    _counts(block, configuration)
    _text(block, 0x2C, configuration.name, NAME_LENGTH)
    _number(block, 0x34, _FULL_CAPABILITY, 4)
    _text(block, 0x38, _CONTROL_PROGRAM, 16)
    block[0x4B] = _UTF_8
    block[0x50 : 0x50 + UUID_LENGTH] = configuration.uuid[:UUID_LENGTH].ljust(UUID_LENGTH, b"\0")
    name = configuration.name.encode("utf-8", "replace")[:LONG_NAME_LENGTH]
    # A character that was cut in the middle is left out.
    name = name.decode("utf-8", "ignore").encode("utf-8")
    block[0x800 : 0x800 + LONG_NAME_LENGTH] = name.ljust(LONG_NAME_LENGTH, b"\0")


_BLOCKS: Final[dict[tuple[int, int, int], Callable[[bytearray, CpuModel, Configuration, int], None]]] = {
    (1, 1, 1): _machine,
    (1, 2, 1): _machine_cpu,
    (1, 2, 2): _machine_cpus,
    (2, 2, 1): _partition_cpu,
    (2, 2, 2): _partition_cpus,
    (3, 2, 2): _virtual_machine,
}


def _counts(block: bytearray, configuration: Configuration) -> None:
    """How many CPUs there are, and how many of them are configured: all."""
    _number(block, 0x24, configuration.cpus, 2)
    _number(block, 0x26, configuration.cpus, 2)


def _text(block: bytearray, offset: int, text: str, length: int) -> None:
    field = text.encode("ascii", "replace")[:length].ljust(length, b" ")
    block[offset : offset + length] = to_ebcdic(field)


def _number(block: bytearray, offset: int, value: int, length: int) -> None:
    block[offset : offset + length] = value.to_bytes(length, "big")
