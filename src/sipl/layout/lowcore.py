"""Lowcore and PSW: the few places that an IPL writes, absolute addresses, and the bits of the short PSW."""

from __future__ import annotations

from typing import Final

IPL_PSW: Final = 0x00  # u64: the short PSW that the load normal reset starts
IPLB_POINTER: Final = 0x14  # u32: absolute address of the IPL parameter block
SUBSYSTEM_ID: Final = 0xB8  # u32: subsystem identification word of the boot device
IO_INTERRUPTION_PARAMETER: Final = 0xBC  # u32
LOWCORE_IPL_END: Final = 0x200  # no component may touch what lies before this address

SUBSYSTEM_ID_ONE: Final = 0x00010000  # bit that every subsystem identification word has set
SSID_SHIFT: Final = 17

PSW_ADDRESS_MASK: Final = 0x7FFFFFFF  # 31 bits of instruction address in a short PSW
PSW_BASIC_ADDRESSING: Final = 0x80000000
PSW_SHORT_64_BIT: Final = 0x0008000180000000  # a short PSW with 64-bit addressing, otherwise zero
