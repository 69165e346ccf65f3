"""The harmless image: an ELF file for QEMU's `-bios`, and where QEMU has put it (docs/qemu-engine.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sipl.engine.qemu.code import BLOCK_OFFSET, CODE_SIZE, code
from sipl.errors import UsageError
from sipl.layout.elf import (
    CLASS_64,
    DATA_BIG_ENDIAN,
    ELF_MAGIC,
    ELF_VERSION,
    MACHINE_S390,
    TYPE_EXECUTABLE,
    ElfHeader,
    ProgramHeader,
    SegmentType,
)
from sipl.layout.iplb import IPLB_SIZE
from sipl.layout.record import pack, size_of

if TYPE_CHECKING:
    from sipl.engine.qemu.ram import GuestRam

# Versions of QEMU put it 2 MiB (7.2) or 3 MiB (11.1) below the end of memory or of its first 2 GiB.
_SEARCHED: Final = 16 << 20
_STEP: Final = 0x1000
_LIMIT: Final = 2 << 30
_EXECUTABLE: Final = 7  # read, write, execute
_JUMP_ADDRESS_WORD: Final = 0x0FFC


def build_image() -> bytes:
    """The file for `-bios`: one segment at 0, entered at 0."""
    content = code("harmless")
    headers = pack(
        ElfHeader(
            magic=ELF_MAGIC,
            word_size=CLASS_64,
            byte_order=DATA_BIG_ENDIAN,
            header_version=ELF_VERSION,
            type=TYPE_EXECUTABLE,
            machine=MACHINE_S390,
            version=ELF_VERSION,
            entry=0,
            program_headers=size_of(ElfHeader),
            header_size=size_of(ElfHeader),
            program_header_size=size_of(ProgramHeader),
            program_header_count=1,
        )
    ) + pack(
        ProgramHeader(
            type=SegmentType.LOAD,
            flags=_EXECUTABLE,
            offset=CODE_SIZE,
            address=0,
            file_size=len(content),
            memory_size=len(content),
            alignment=_STEP,
        )
    )
    return headers.ljust(CODE_SIZE, b"\0") + content


def find_image(ram: GuestRam) -> int:
    """Absolute address of the image in a QEMU that has been reset and has not run.

    Raises:
        UsageError: it is not where a firmware can be.
    """
    content = code("harmless")
    end = min(ram.size, _LIMIT)
    for address in range(end - CODE_SIZE, max(0, end - _SEARCHED) - 1, -_STEP):
        if ram.read(address, CODE_SIZE) == content:
            return address
    raise UsageError("QEMU", "the firmware that it was given is not in the guest's memory", "use --engine embedded")


def build_jump(block_address: int) -> bytes:
    """What takes the image's place: gives the IPL parameter block at `block_address` to QEMU, and enters the guest.

    With the address 0 there is no block.
    """
    jump = bytearray(code("jump"))
    jump[_JUMP_ADDRESS_WORD : _JUMP_ADDRESS_WORD + 4] = block_address.to_bytes(4, "big")
    return bytes(jump)


def stored_block(ram: GuestRam, image_at: int) -> bytes:
    """The IPL parameter block that the image has stored behind itself, 4096 bytes."""
    return ram.read(image_at + BLOCK_OFFSET, IPLB_SIZE)
