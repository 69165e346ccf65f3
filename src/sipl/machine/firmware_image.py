"""A real s390-ccw firmware: an ELF image, relocated (docs/embedded-engine.md, "Real firmware").

The image is foreign: it is read with bounds, and one that is not wholly understood is not loaded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.disk.host_file import HostFile
from sipl.errors import ImageFormatError, RefusedToStart, ShortRecord
from sipl.layout import elf
from sipl.layout.record import size_of, unpack
from sipl.reasons import Level, Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sipl.layout.iplb import IplbFlags
    from sipl.machine.memory import GuestMemory

# What lies between the base of the firmware and the end of memory, on every machine.
MAX_IMAGE_SIZE: Final = 3 << 20
# An image has less than 200 KiB; one that was built for a debugger has some MiB of symbols.
MAX_FILE_SIZE: Final = 16 << 20
# Linkers make about ten.
MAX_SEGMENTS: Final = 64
# A dynamic section has about fifteen entries.
MAX_DYNAMIC_ENTRIES: Final = 256

_HINT: Final = "name s390-ccw.img as QEMU brings it"
_SHORT_PSW: Final = 0x0008000180000000  # 64-bit addressing, all interruptions off
_RELOCATION_SIZE: Final = size_of(elf.Relocation)
_ADDRESS_SIZE: Final = 8
_INSTRUCTION_ALIGNMENT: Final = 2


class FirmwareImage(NamedTuple):
    """A position-independent image: `content` and all addresses count from its virtual address 0."""

    content: bytes
    entry: int
    relocations: tuple[tuple[int, int], ...]  # address of a doubleword, and what is added to the base there

    def place(self, memory: GuestMemory, base: int) -> int:
        """Store the image at absolute address `base`, relocated; the result is the short PSW that starts it.

        Raises:
            ProgramInterruption: addressing; the memory is not there.
        """
        memory.write(base, self.content)
        for address, addend in self.relocations:
            value = base + addend & 0xFFFF_FFFF_FFFF_FFFF
            memory.write(base + address, value.to_bytes(_ADDRESS_SIZE, "big"))
        return _SHORT_PSW | base + self.entry


def check_trust(path: str, flags: IplbFlags, tell: Callable[[Reason, Level, str, str], None], *, trusted: bool) -> None:
    """Refuse a real firmware in audit and secure mode unless it is trusted, and say that it decides alone.

    `flags` are those of the machine.

    Raises:
        RefusedToStart: firmware-not-trusted.
    """
    if flags and not trusted:
        raise RefusedToStart(
            Reason.FIRMWARE_NOT_TRUSTED,
            path,
            "a firmware of its own decides what boots, and sipl verifies nothing of it",
            "boot without --firmware, or say --trust-firmware and rely on it alone",
        )
    tell(
        Reason.FIRMWARE_DECIDES,
        Level.WARNING if flags else Level.INFO,
        path,
        "this firmware decides what boots: sipl vouches for nothing",
    )


def read_firmware(path: str) -> FirmwareImage:
    """Read a firmware from a file.

    Raises:
        ImageError: the file is empty or cannot be read.
        ImageFormatError: it is no firmware that can be placed into memory.
    """
    file = HostFile(path)
    try:
        if file.size > MAX_FILE_SIZE:
            raise ImageFormatError(path, f"a firmware has not more than {MAX_FILE_SIZE >> 20} MiB", _HINT)
        data = bytes(file.read(0, file.size))
    finally:
        file.close()
    return parse_firmware(data, path)


def parse_firmware(data: bytes, path: str) -> FirmwareImage:
    """Understand the bytes of a firmware file; `path` names it in errors.

    Raises:
        ImageFormatError: it is no firmware that can be placed into memory.
    """
    try:
        return _Reader(data).image()
    except ShortRecord as short:
        raise ImageFormatError(path, f"the firmware is cut off: {short.why}", _HINT) from short
    except _Unfit as unfit:
        raise ImageFormatError(path, str(unfit), _HINT) from unfit


class _Unfit(Exception):
    """Why the image is not acceptable."""


class _Reader:
    """The parts of one ELF file."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._header = self._read_header()
        self._segments = list(self._read_segments())
        self._loaded = sorted(
            (segment for segment in self._segments if segment.type == elf.SegmentType.LOAD and segment.memory_size),
            key=lambda segment: segment.address,
        )

    def image(self) -> FirmwareImage:
        content = self._content()
        entry = self._header.entry
        if not any(segment.address <= entry < segment.address + segment.file_size for segment in self._loaded):
            raise _Unfit(f"the entry of the firmware ({entry:#x}) lies in none of its segments")
        if entry % _INSTRUCTION_ALIGNMENT:
            raise _Unfit(f"the entry of the firmware ({entry:#x}) is at an odd address")
        return FirmwareImage(bytes(content), entry, tuple(self._relocations(content)))

    def _read_header(self) -> elf.ElfHeader:
        if not self._data.startswith(elf.ELF_MAGIC):
            raise _Unfit("the firmware is no ELF file")
        header = unpack(elf.ElfHeader, self._data)
        if (header.word_size, header.byte_order) != (elf.CLASS_64, elf.DATA_BIG_ENDIAN):
            raise _Unfit("the firmware is no big-endian 64-bit ELF file")
        if header.machine != elf.MACHINE_S390:
            raise _Unfit(f"the firmware is for another machine than s390x (ELF machine {header.machine})")
        if header.type != elf.TYPE_DYNAMIC:
            raise _Unfit(f"the firmware is not position independent (ELF type {header.type})")
        return header

    def _read_segments(self) -> Iterator[elf.ProgramHeader]:
        header = self._header
        if header.program_header_size != size_of(elf.ProgramHeader):
            raise _Unfit(f"the firmware has program headers of {header.program_header_size} bytes")
        if not 0 < header.program_header_count <= MAX_SEGMENTS:
            raise _Unfit(f"the firmware has {header.program_header_count} segments, 1 to {MAX_SEGMENTS} are possible")
        for number in range(header.program_header_count):
            yield unpack(elf.ProgramHeader, self._data, header.program_headers + number * size_of(elf.ProgramHeader))

    def _content(self) -> bytearray:
        """Every segment at its address."""
        content = bytearray()
        for segment in self._loaded:
            end = segment.address + segment.memory_size
            if segment.address < len(content):
                raise _Unfit(f"two segments of the firmware overlap at {segment.address:#x}")
            if end > MAX_IMAGE_SIZE:
                raise _Unfit(f"the firmware ends at {end:#x}, there is room for {MAX_IMAGE_SIZE:#x} bytes")
            if segment.file_size > segment.memory_size:
                raise _Unfit(f"the segment at {segment.address:#x} is longer in the file than in memory")
            content = content.ljust(segment.address, b"\0") + self._bytes(segment)
            content = content.ljust(end, b"\0")
        return content

    def _bytes(self, segment: elf.ProgramHeader) -> bytes:
        data = self._data[segment.offset : segment.offset + segment.file_size]
        if len(data) < segment.file_size:
            raise _Unfit(f"the firmware is cut off: the segment at {segment.address:#x} is not all there")
        return data

    def _dynamic(self) -> dict[int, int]:
        """The dynamic section; empty where there is none, as in an image without relocations."""
        found: dict[int, int] = {}
        for segment in self._segments:
            if segment.type != elf.SegmentType.DYNAMIC:
                continue
            data = self._bytes(segment)
            for number in range(MAX_DYNAMIC_ENTRIES):
                entry = unpack(elf.DynamicEntry, data, number * size_of(elf.DynamicEntry))
                if entry.tag == elf.DynamicTag.NULL:
                    break
                if entry.tag in found and entry.tag in set(elf.DynamicTag):
                    raise _Unfit(f"the firmware has two dynamic entries {entry.tag}")
                found[entry.tag] = entry.value
            else:
                raise _Unfit(f"the dynamic section of the firmware has more than {MAX_DYNAMIC_ENTRIES} entries")
        return found

    def _relocations(self, content: bytearray) -> Iterator[tuple[int, int]]:
        dynamic = self._dynamic()
        if dynamic.keys() & {elf.DynamicTag.REL, elf.DynamicTag.RELR} or dynamic.get(
            elf.DynamicTag.PLT_RELOCATIONS_SIZE
        ):
            raise _Unfit("the firmware has relocations of a form that sipl does not know")
        start, size = dynamic.get(elf.DynamicTag.RELA), dynamic.get(elf.DynamicTag.RELA_SIZE, 0)
        if start is None or not size:
            return
        if dynamic.get(elf.DynamicTag.RELA_ENTRY_SIZE, _RELOCATION_SIZE) != _RELOCATION_SIZE or size % _RELOCATION_SIZE:
            raise _Unfit("the firmware has relocations of another size than 24 bytes")
        if start + size > len(content):
            raise _Unfit("the relocations of the firmware lie outside of it")
        for at in range(start, start + size, _RELOCATION_SIZE):
            relocation = unpack(elf.Relocation, content, at)
            kind = relocation.info & elf.RELOCATION_TYPE_MASK
            if kind == elf.RelocationType.NONE:
                continue
            if kind != elf.RelocationType.RELATIVE:
                raise _Unfit(f"the firmware has a relocation of type {kind}, which needs a symbol")
            if relocation.address + _ADDRESS_SIZE > len(content):
                raise _Unfit(f"a relocation at {relocation.address:#x} lies outside of the firmware")
            yield relocation.address, relocation.addend
