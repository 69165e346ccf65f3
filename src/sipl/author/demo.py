"""The demo: a key, a certificate and a disk that boots under secure IPL (docs/demo-guest.md)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from sipl.author import guest
from sipl.author.boot_record import Execute, Load, Program, write_disk
from sipl.author.partition_table import PARTITION_TYPE_LINUX, Partition, write_partition_table
from sipl.errors import ImageError, ImageFormatError, ShortRecord, UsageError
from sipl.layout.boot_record import (
    COMPONENT_ENTRY_SIZE,
    COMPONENT_EXECUTE,
    COMPONENT_LOAD,
    COMPONENT_TABLE_HEADER_SIZE,
    MIN_BLOCK_SIZE,
    PROGRAM_TABLE_HEADER_SIZE,
    ZIPL_MAGIC,
    BlockPointer,
    BootRecord,
    ComponentEntry,
)
from sipl.layout.record import unpack
from sipl.layout.stage3 import STAGE3_HEAP, STAGE3_HEAP_SIZE, STAGE3_STACK, STAGE3_STACK_SIZE

if TYPE_CHECKING:
    from typing import BinaryIO

BLOCK_SIZE: Final = MIN_BLOCK_SIZE
DISK_SIZE: Final = 24 << 20
PARMLINE: Final = b"console=ttysclp0\0"
PAGE_SIZE: Final = 0x1000

# One Linux partition from 1 MiB on: what zipl wrote lies before it, as a boot loader's own data does.
PARTITION_START: Final = (1 << 20) // BLOCK_SIZE

VALID_BEFORE: Final = 24 * 60 * 60  # seconds: a clock that is a little off does no harm
VALID_AFTER: Final = 365 * 24 * 60 * 60

ADDRESSES: Final = {"loader": guest.LOADER_ADDRESS, "kernel": guest.KERNEL_ADDRESS}


class DemoFiles(NamedTuple):
    """Paths of what `make_demo` wrote."""

    key: str  # PEM, readable for the owner only
    certificate: str  # PEM
    disk: str  # raw image, blocks of 512 bytes


def make_demo(folder: str, now: int) -> DemoFiles:
    """Write a new key, its certificate and a signed disk into `folder`, which is made where it does not exist.

    `now` is the time in seconds since 1970; the certificate is valid from a day before it for a year.

    Raises:
        UsageError: one of the files exists already.
        ImageError: a file cannot be written.
        SigningError: the time cannot be in a certificate.
    """
    # Flipping a byte needs none of this, so it does not wait for the import.
    from sipl.crypto import signing
    from sipl.crypto.certificate import Certificate

    key = signing.generate_key("p521")
    certificate = signing.self_signed(key, "sipl demo", now - VALID_BEFORE, now + VALID_AFTER)
    signer = Certificate.from_pem(certificate)

    def sign(component: bytes) -> bytes:
        return signing.sign_detached(component, key, signer)

    loader = guest.loader_component(BLOCK_SIZE)
    kernel = guest.kernel_component(BLOCK_SIZE)
    disk = demo_disk(Load(guest.LOADER_ADDRESS, loader, sign(loader)), Load(guest.KERNEL_ADDRESS, kernel, sign(kernel)))
    files = DemoFiles(*(str(Path(folder, name)) for name in ("demo-key.pem", "demo-cert.pem", "demo.raw")))
    _make_folder(folder)
    _write_new(files.key, signing.key_pem(key), mode=0o600)
    _write_new(files.certificate, certificate)
    _write_new(files.disk, disk, size=DISK_SIZE)
    return files


def demo_disk(loader: Load, kernel: Load) -> bytes:
    """Return the start of the demo's disk; all behind it, up to `DISK_SIZE` bytes, is zero.

    The table is the one that zipl writes, without the parameters of its own loader at 0x9000, which the demo's
    loader has no use for.
    """
    after_kernel = kernel.address + len(kernel.data)
    program = Program(
        [
            Load(STAGE3_HEAP, bytes(STAGE3_HEAP_SIZE)),
            Load(STAGE3_STACK, bytes(STAGE3_STACK_SIZE)),
            loader,
            kernel,
            Load(after_kernel + -after_kernel % PAGE_SIZE, PARMLINE),
            Execute(guest.ENTRY_PSW),
        ]
    )
    image = write_disk([program, program], BLOCK_SIZE)
    if len(image) > PARTITION_START * BLOCK_SIZE:
        raise UsageError("demo disk", "loader and kernel do not fit before the partition")
    blocks = DISK_SIZE // BLOCK_SIZE - PARTITION_START
    write_partition_table(image, [Partition(PARTITION_TYPE_LINUX, PARTITION_START, blocks)])
    return bytes(image)


def flip_byte(disk_path: str, where: str = "kernel") -> int:
    """Invert one byte of a component on a disk that `make_demo` wrote; return the byte's offset in the image.

    `where` is `kernel` or `loader`. Doing it twice restores the disk.

    Raises:
        UsageError: `where` is something else.
        ImageError: the image cannot be read or written.
        ImageFormatError: the image has no boot record with such a component.
    """
    if where not in ADDRESSES:
        raise UsageError("flip", f"{where!r} is no part of the demo disk", "use kernel or loader")
    try:
        with Path(disk_path).open("r+b") as disk:
            offset = _middle_of(disk, ADDRESSES[where], disk_path)
            disk.seek(offset)
            (old,) = _read_exactly(disk, 1, disk_path)
            disk.seek(offset)
            disk.write(bytes([old ^ 0xFF]))
    except OSError as error:
        raise ImageError(disk_path, error.strerror or str(error)) from error
    return offset


def _middle_of(disk: BinaryIO, address: int, path: str) -> int:
    """Offset of the middle of the first run of blocks of the default program's component at `address`."""
    try:
        record = unpack(BootRecord, _read_block(disk, 0, path))
        if record.magic != ZIPL_MAGIC:
            raise ImageFormatError(path, "no boot record of zipl in block 0")
        programs = _follow(disk, record.program_table, path)
        table = _follow(disk, programs[PROGRAM_TABLE_HEADER_SIZE:], path)
        for offset in range(COMPONENT_TABLE_HEADER_SIZE, BLOCK_SIZE, COMPONENT_ENTRY_SIZE):
            entry = unpack(ComponentEntry, table, offset)
            if entry.type == COMPONENT_EXECUTE:
                break
            if entry.type == COMPONENT_LOAD and int.from_bytes(entry.value, "big") == address:
                first = unpack(BlockPointer, _follow(disk, entry.segment_table, path))
                return first.block * BLOCK_SIZE + (first.count_less_one + 1) * BLOCK_SIZE // 2
    except ShortRecord as error:
        raise ImageFormatError(path, "the image ends inside its boot record") from error
    raise ImageFormatError(path, f"no component is loaded at {address:#x}")


def _follow(disk: BinaryIO, pointer: bytes, path: str) -> bytes:
    return _read_block(disk, unpack(BlockPointer, pointer).block, path)


def _read_block(disk: BinaryIO, block: int, path: str) -> bytes:
    offset = block * BLOCK_SIZE
    if offset >= disk.seek(0, os.SEEK_END):
        raise ImageFormatError(path, f"block {block} lies behind the end of the image")
    disk.seek(offset)
    return _read_exactly(disk, BLOCK_SIZE, path)


def _read_exactly(disk: BinaryIO, length: int, path: str) -> bytes:
    data = disk.read(length)
    if len(data) != length:
        raise ImageFormatError(path, "the image ends too early")
    return data


def _make_folder(folder: str) -> None:
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ImageError(folder, error.strerror or str(error)) from error


def _write_new(path: str, data: bytes, *, mode: int = 0o666, size: int = 0) -> None:
    """Make the file `path` of `data`, extended to `size` bytes; what exists is never replaced."""
    try:
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            if size:
                file.truncate(size)
    except FileExistsError as error:
        raise UsageError(path, "the file exists already", "name an empty folder") from error
    except OSError as error:
        raise ImageError(path, error.strerror or str(error)) from error
