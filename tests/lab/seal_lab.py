"""A laboratory for seals: small partitioned disks with a boot map in a partition, signers, and power that fails."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import zlib
from pathlib import Path
from types import SimpleNamespace

import ipl_lab

import sipl.disk.writable_file as writable_file
from sipl.author import sclab
from sipl.author.boot_record import DiskWriter, Execute, Load, Program
from sipl.author.partition_table import Partition, write_partition_table
from sipl.author.sealing import SealOptions, seal, unseal
from sipl.author.signer import Signer
from sipl.crypto.certificate import Certificate
from sipl.crypto.signing import self_signed
from sipl.disk.open import open_image
from sipl.ipl import verify
from sipl.layout.sclab import SclabFlags
from sipl.machine.options import MachineOptions
from sipl.settings import Disk, Settings

AT = ipl_lab.AT
YEAR = ipl_lab.YEAR
PSW = 0x000800008000A000
LOADER, PARAMETERS, KERNEL = 0xA000, 0x9000, 0x10000
GLOBAL = SclabFlags.OPSW | SclabFlags.OLA
KERNEL_SIZE = 0x11000
RECORD = 0x98
FIRST = 64  # block at which the partition begins, unless a test says otherwise
LINUX_FILESYSTEM = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
BIOS_BOOT = b"Hah!IdontNeedEFI"


def linux(version: str = "6.1.0-test", size: int = KERNEL_SIZE, seed: int = 1) -> bytes:
    """A component that says of itself that it is Linux, and does nothing."""
    data = bytearray(ipl_lab.code(size, seed))
    data[0x10008:0x10010] = b"S390EP\0\1"
    data[0x10400:0x10438] = struct.pack(">7Q", 0, 0, 0, 0, 0, 0x200, 896)
    text = version.encode() + b"\0"
    data[0x200 : 0x200 + len(text)] = text
    return sclab.overwrite(bytes(data), sclab.build())


def stage3(psw: int = PSW, address: int = LOADER, flags: int = GLOBAL) -> bytes:
    """A loader of the size and with the SCLAB of zipl's."""
    return sclab.overwrite(ipl_lab.code(0x4000, 0xA000), sclab.build(flags, psw, address))


def parameters(kernel_length: int, **fields: int) -> bytes:
    values = {
        "parmline": 0x40000, "initrd": 0x50000, "initrd_length": 512, "kernel_psw": 0x0008000080010000, "extra": 0,
        "flags": 1 << 48, "kernel_length": kernel_length, "kernel": KERNEL, "environment": 0x60000,
        "environment_length": 512,
    } | fields  # fmt: skip
    return struct.pack(">10Q", *values.values())


def program(kernel: bytes | None = None, loader: bytes | None = None, **parts) -> list[Load | Execute]:
    """What zipl writes for one entry, unsigned; a part is replaced by naming it, or left out by naming it as None."""
    kernel = linux() if kernel is None else kernel
    standard = {
        "heap": Load(0x2000, bytes(0x4000)),
        "loader": Load(LOADER, stage3() if loader is None else loader),
        "parameters": Load(PARAMETERS, parameters(len(kernel))),
        "kernel": Load(KERNEL, kernel),
        "parmline": Load(0x40000, b"root=/dev/vda1\0"),
        "initrd": Load(0x50000, ipl_lab.code(512, 0x5000)),
        "environment": Load(0x60000, b"# an environment block\n"),
    } | parts
    return [*(part for part in standard.values() if part is not None), Execute(PSW)]


def disk(
    programs: list[list[Load | Execute]] | None = None,
    block_size: int = 512,
    first: int = FIRST,
    table: str = "mbr",
    blocks: int | None = None,
    order: tuple[int | None, ...] | None = None,
) -> bytearray:
    """A disk with one partition in which the boot map lies; `order` says which program each entry leads to."""
    programs = [program()] if programs is None else programs
    order = tuple(range(len(programs))) if order is None else order
    writer = DiskWriter(block_size)
    writer.image += bytes((first - 1) * block_size)
    tables = [writer.add_program(Program(components)) for components in programs]
    writer.write_boot_record(writer.append_program_table([None if n is None else tables[n] for n in order]))
    image = writer.finish()
    image += bytes((-len(image)) % (64 * block_size) + 64 * block_size)
    if blocks is not None:
        image += bytes(blocks * block_size - len(image))
    total = len(image) // block_size
    if table == "mbr":
        write_partition_table(image, [Partition(0x83, first, total - first)])
    elif table == "gpt":
        write_gpt(image, block_size, [(LINUX_FILESYSTEM, first, total - 40)])
    return image


def write_gpt(
    image: bytearray, block_size: int, partitions, array_entries: int = 128, stride: int = 128, **fields
) -> None:
    """A GPT with both copies, and the protective MBR; `fields` changes the header of the first copy."""
    total = len(image) // block_size
    array = bytearray(array_entries * stride)
    for number, (kind, first, last) in enumerate(partitions):
        struct.pack_into("<16s16sQQ", array, number * stride, kind, bytes([number + 1] * 16), first, last)
    span = -(-len(array) // block_size)
    for own, other, at in ((1, total - 1, 2), (total - 1, 1, total - 1 - span)):
        values = {
            "magic": b"EFI PART", "revision": 0x10000, "size": 92, "crc": 0, "own": own, "other": other,
            "first": 2 + span, "last": total - 2 - span, "disk": b"D" * 16, "at": at, "entries": array_entries,
            "entry_size": stride, "entries_crc": zlib.crc32(array),
        } | (fields if own == 1 else {})  # fmt: skip
        header = bytearray(struct.pack("<8sIII4xQQQQ16sQIII", *values.values()))
        if "crc" not in fields or own != 1:
            header[16:20] = struct.pack("<I", zlib.crc32(header[: values["size"]]))
        image[own * block_size : own * block_size + len(header)] = header
        image[at * block_size : at * block_size + len(array)] = array
    write_partition_table(image, [Partition(0xEE, 1, min(total - 1, 0xFFFFFFFF))])


class SealSigner:
    """A signer whose certificate is valid at AT, and the file in which the certificate lies."""

    def __init__(self, folder: Path, name: str, key) -> None:
        pem = self_signed(key, f"seal {name}", AT - YEAR, AT + YEAR)
        self.path = str(folder / f"seal-{name}.pem")
        Path(self.path).write_bytes(pem)
        self.signer = Signer(key, Certificate.from_pem(pem), now=AT)


def options(**fields) -> SealOptions:
    return SealOptions(at=AT)._replace(**fields)


def seal_file(path, signer: SealSigner, block_size: int | None = None, **fields):
    return seal(Disk(str(path), block_size=block_size), signer.signer, options(**fields))


def unseal_file(path, **fields):
    return unseal(Disk(str(path)), options(**fields))


def judge(path, *signers: SealSigner, loadparm: str = "", memory: int = 128 << 20):
    """Verdict of a secure IPL of one program."""
    machine = MachineOptions(boot_certs=tuple(s.path for s in signers), loadparm=loadparm, memory=memory)
    report = verify(Disk(str(path)), Settings(machine=machine, at=AT))
    return SimpleNamespace(boots=report.would_boot, reason=report.reason, report=report)


def record_of(path) -> bytes:
    with open_image(str(path)) as image:
        return image.read(0, RECORD)


class Tape:
    """Everything that reaches files through `WritableFile`, in order: (offset, bytes), or None for a flush."""

    def __init__(self, monkeypatch) -> None:
        self.events: list[tuple[int, bytes] | None] = []
        write, flush = writable_file._write_at, writable_file._flush

        def write_at(fd, data, offset):
            done = write(fd, data, offset)
            self.events.append((offset, bytes(data[:done])))
            return done

        def flushed(fd):
            flush(fd)
            self.events.append(None)

        monkeypatch.setattr(writable_file, "_write_at", write_at)
        monkeypatch.setattr(writable_file, "_flush", flushed)


def apply(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset + len(data):
        image.extend(bytes(offset + len(data) - len(image)))
    image[offset : offset + len(data)] = data


def states_after_a_cut(before: bytes, events, seed: int = 0):
    """Every content that the medium can have when power ends at each event.

    What was flushed is there. Of what was not, all, nothing, or any sectors: some combinations of them are tried.
    """
    chance = random.Random(seed)
    durable = bytearray(before)
    pending: list[tuple[int, bytes]] = []
    seen: set[bytes] = set()

    def fresh(image: bytearray) -> bool:
        key = zlib.crc32(image).to_bytes(4, "big") + len(image).to_bytes(8, "big")
        if key in seen:
            return False
        seen.add(key)
        return True

    for event in [*events, None]:
        if event is not None:
            pending.append(event)
        sectors = [
            (offset + at, data[at : at + 512 - (offset + at) % 512])
            for offset, data in pending
            for at in _sector_starts(offset, data)
        ]
        choices = [lambda: True, lambda: False, lambda: chance.random() < 0.5, lambda: chance.random() < 0.2]
        for choose in choices:
            image = bytearray(durable)
            for offset, sector in sectors:
                if choose():
                    apply(image, offset, sector)
            if fresh(image):
                yield bytes(image)
        if event is None:
            for offset, data in pending:
                apply(durable, offset, data)
            pending = []


def _sector_starts(offset: int, data: bytes):
    at = 0
    while at < len(data):
        yield at
        at += 512 - (offset + at) % 512


def convert(raw: Path, out: Path, tool: str, *settings: str, compress: bool = False) -> Path:
    """A qcow2 image of a raw one, made by QEMU."""
    extra = [word for setting in settings for word in ("-o", setting)] + (["-c"] if compress else [])
    subprocess.run([tool, "convert", "-f", "raw", "-O", "qcow2", *extra, raw, out], check=True)
    return out


def check(path, tool: str) -> int:
    """Exit code of `qemu-img check`: 0 in order, 3 leaked clusters only, 2 damaged."""
    return subprocess.run([tool, "check", "-q", str(path)], capture_output=True, check=False).returncode


def same_outside(before: bytes, path, block_size: int, first: int) -> bool:
    """Whether nothing of the disk changed but bytes 0 to 0x97 and the gap between table and first partition."""
    with open_image(str(path)) as image:
        now = image.read(0, image.size)
    gap = range(block_size, first * block_size)
    return now[RECORD:block_size] == before[RECORD:block_size] and now[gap.stop :] == before[gap.stop :]


def copy(path, folder: Path, name: str = "copy") -> Path:
    place = folder / name
    shutil.copy(path, place)
    place.chmod(0o644)
    return place
