"""Partitioned disks as zipl leaves them, to be sealed: with a partition table, room in front, and a boot map behind.

What is changed before a program is written is decided here; fuzz.mutate changes the boot map, and `disturb` the table
and what lies in the room.
"""

from __future__ import annotations

import hashlib
import random
import struct
import zlib

from fuzz.disks import interesting_address
from sipl.author import sclab
from sipl.author.boot_record import DiskWriter, Execute, Load
from sipl.author.seal_room import Allotment, RoomWriter, frame_writes, make_saved

LOADER, PARAMETERS, KERNEL = 0xA000, 0x9000, 0x10000
HEAP, PARMLINE, INITRD, ENVIRONMENT = 0x2000, 0x40000, 0x50000, 0x60000
PSW = 0x0008_0000_8000_A000
KERNEL_PSW = 0x0008_0000_8001_0000
OPSW, OLA, NUC, SC = 0x8000, 0x4000, 0x2000, 0x1000
LINUX_FILESYSTEM = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
BIOS_BOOT = b"Hah!IdontNeedEFI"
LOADER_SIZE, KERNEL_SIZE = 0x4000, 0x11000
RECORD = 0x98
FRAME_MAGIC = b"siplSEAL"
SIGNED_PARTS = (LOADER, KERNEL, PARAMETERS, PARMLINE)
ENTRIES = 4  # of the array of a GPT


def linux(size=KERNEL_SIZE, seed=1):
    """A component that says of itself that it is Linux."""
    data = bytearray(random.Random(seed).randbytes(size))
    data[0x10008:0x10010] = b"S390EP\0\1"
    data[0x10400:0x10438] = struct.pack(">7Q", 0, 0, 0, 0, 0, 0x200, 896)
    data[0x200:0x20B] = b"6.1.0-fuzz\0"
    return sclab.overwrite(bytes(data), sclab.build())


def stage3(**fields):
    """A component of the size and with the SCLAB of zipl's loader."""
    attributes = {"flags": OPSW | OLA, "psw": PSW, "address": LOADER} | fields
    return sclab.overwrite(random.Random(3).randbytes(LOADER_SIZE), sclab.build(**attributes))


_LINUX = linux()
_STAGE3 = stage3()


def parameters(**fields):
    values = {
        "parmline": PARMLINE, "initrd": INITRD, "initrd_length": 512, "kernel_psw": KERNEL_PSW, "extra": 0,
        "flags": 1 << 48, "kernel_length": KERNEL_SIZE, "kernel": KERNEL, "environment": ENVIRONMENT,
        "environment_length": 512,
    } | fields  # fmt: skip
    return struct.pack(">10Q", *(value % (1 << 64) for value in values.values()))


class SealProgram:
    """Parts by name, in the order of loading, and a PSW; changed before they are written."""

    def __init__(self, choices, shop, block_size):
        self.choices = choices
        self.shop = shop
        self.block_size = block_size
        self.psw = PSW
        self.parts = {
            "heap": Load(HEAP, bytes(0x4000)),
            "loader": Load(LOADER, _STAGE3),
            "parameters": Load(PARAMETERS, parameters()),
            "kernel": Load(KERNEL, _LINUX),
            "parmline": Load(PARMLINE, b"root=/dev/vda1\0"),
            "initrd": Load(INITRD, b"initrd" * 80),
            "environment": Load(ENVIRONMENT, b"# an environment block\n"),
        }
        for _ in range(choices.pick((0, 0, 0, 1, 1, 2, 3))):
            choices.pick(CHANGES)(self)

    def name(self):
        return self.choices.pick(tuple(self.parts))

    def change(self, name, **fields):
        if name in self.parts:
            self.parts[name] = self.parts[name]._replace(**fields)

    def padded(self, part):
        return part.data + bytes(-len(part.data) % self.block_size)

    def entries(self, writer):
        found = []
        for part in self.parts.values():
            found += writer.add_component(part, merged=not self.choices.chance(24))
        room = (self.block_size - 32) // 32 - 1
        return [*found[:room], *writer.add_component(Execute(self.psw))]


def _sign_part(program):
    """A signature that is there already: good, of another content, empty, junk."""
    choices, name = program.choices, program.choices.pick(("kernel", "loader", "parameters", "parmline"))
    if name not in program.parts:
        return
    part = program.parts[name]
    if name in ("parameters", "parmline"):
        data = part.data.ljust(1024, b"\0")
        part = part._replace(data=sclab.overwrite(data, sclab.build()))
    signer = choices.pick(("ec", "rsa", "stranger", "expired", "usage"))
    content = program.padded(part) if not choices.chance(48) else b"another"
    signature = program.shop.sign(content, signer)
    if choices.chance(48):
        signature = choices.pick((b"", b"\0", bytes(4096), bytes(5000), signature + b"\0"))
    program.parts[name] = part._replace(
        signature=signature, signature_length=choices.pick((None, None, None, None, 0, 4096, 4097, len(signature) + 1))
    )


def _end_with_sclab(program):
    """One more part that could be signed."""
    choices, name = program.choices, program.choices.pick(("parmline", "parameters", "initrd", "environment", "heap"))
    if name in program.parts:
        attributes = {} if choices.chance(160) else {"flags": choices.pick((OLA, OPSW | OLA, NUC, SC, 0xFFFF))}
        data = program.parts[name].data.ljust(1024, b"\0")
        program.change(name, data=sclab.overwrite(data, sclab.build(**attributes)))


def _move_part(program):
    ranges = [(part.address, part.address + len(program.padded(part))) for part in program.parts.values()]
    program.change(program.name(), address=interesting_address(program.choices, ranges))


def _drop_part(program):
    if len(program.parts) > 1:
        del program.parts[program.name()]


def _parameters(program):
    choices = program.choices
    field = choices.pick(("kernel_length", "kernel", "kernel_psw", "extra", "flags", "initrd_length", "parmline"))
    near = KERNEL_SIZE + choices.below(1024) - 512
    value = choices.pick((near, 0, 1, 1 << 16, 1 << 48, 1 << 63, (1 << 64) - 1, KERNEL_PSW, near + 440))
    program.change("parameters", data=parameters(**{field: value}))


def _resize(program):
    """Contents that are shorter, longer, or empty; so the kernel may be none any more."""
    choices, name = program.choices, program.name()
    data = program.parts[name].data
    length = choices.pick((0, 1, len(data) - 1, len(data) - 512, len(data) + 512, len(data) + 40, 512, 80, 79))
    program.change(name, data=data[: max(0, length)].ljust(max(0, length), b"\0"))


def _loader(program):
    choices = program.choices
    fields = choices.pick(
        (
            {"flags": OPSW | OLA | NUC},
            {"flags": OPSW | OLA | SC},
            {"flags": OLA, "psw": 0},
            {"psw": PSW + 2},
            {"address": KERNEL},
            {"length": 64},
            {"stated_length": choices.pick((0, 31, 0xFFFF))},
            {"sclab_format": 1},
        )
    )
    program.change("loader", data=stage3(**fields))


def _psw(program):
    program.psw = program.choices.pick((PSW + 2, 0, KERNEL_PSW, 0x0008_0000_8000_0000, (1 << 64) - 1))


def _zeros(program):
    """Contents of zeros look like free room."""
    name = program.name()
    program.change(name, data=bytes(len(program.parts[name].data)))


def _same_content(program):
    one, other = program.name(), program.name()
    program.change(one, data=program.parts[other].data)


CHANGES = (
    _sign_part,
    _sign_part,
    _end_with_sclab,
    _move_part,
    _drop_part,
    _parameters,
    _resize,
    _loader,
    _psw,
    _zeros,
    _same_content,
)


def make_partitioned(choices, shop):
    """A disk with one or two programs behind its partition table; returns (image, block size, first block of it)."""
    block_size = choices.pick((512, 512, 512, 4096, 1024, 2048))
    kind = "none" if choices.chance(6) else choices.pick(("mbr", "gpt"))
    first = choices.pick((64, 64, 64, 24, 128, 300)) * 512 // block_size + 8
    writer = DiskWriter(block_size)
    writer.image += bytes((first - 1) * block_size)
    programs = [SealProgram(choices, shop, block_size)]
    if choices.chance(64):
        programs.append(SealProgram(choices, shop, block_size))
    tables = [writer.append_component_table(program.entries(writer)) for program in programs]
    order = choices.pick(((0,), (0, 0), (0, None, 0))) if len(tables) == 1 else choices.pick(((0, 1), (1, 0, 1)))
    writer.write_boot_record(writer.append_program_table([None if n is None else tables[n] for n in order]))
    image = writer.finish()
    image += bytes(-len(image) % (16 * block_size) + 16 * block_size)
    write_table(choices, image, block_size, kind, first)
    return image, block_size, first


def write_table(choices, image, block_size, kind, first):
    """A partition table of one to four partitions, of which the first begins at `first`."""
    total = len(image) // block_size
    middle = (first + total) // 2
    last = total - 1 - -(-ENTRIES * 128 // block_size) - 1
    good = ([(first, last)], [(first, middle - 1), (middle, last)], [(middle, last), (first, middle - 1)])
    ranges = choices.pick(good)
    if choices.chance(12):
        ranges = choices.pick(([(first, middle), (middle, last)], [(first, total + 5)], [(1, last)], []))
    if kind == "mbr":
        write_mbr(image, [(0, 0x83, start, end - start + 1) for start, end in ranges])
    elif kind == "gpt":
        types = [BIOS_BOOT if choices.chance(8) else LINUX_FILESYSTEM for _ in ranges]
        write_gpt(image, block_size, [(t, *r) for t, r in zip(types, ranges, strict=True)])


def write_mbr(image, entries):
    for number, fields in enumerate(entries):
        struct.pack_into("<B3xB3xII", image, 446 + 16 * number, *(field % (1 << 32) for field in fields))
    image[510:512] = b"\x55\xaa"


def write_gpt(image, block_size, partitions, array_block=2):
    """Both copies, and the protective MBR."""
    total = len(image) // block_size
    array = bytearray(ENTRIES * 128)
    for number, (kind, first, last) in enumerate(partitions):
        struct.pack_into("<16s16sQQ", array, number * 128, kind, bytes([number + 1] * 16), first, last)
    span = -(-len(array) // block_size)
    for own, other, at in ((1, total - 1, array_block), (total - 1, 1, total - 1 - span)):
        fields = (own, other, array_block + span, total - 2 - span, b"D" * 16, at, ENTRIES, 128, zlib.crc32(array))
        header = bytearray(struct.pack("<8sIII4xQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, *fields))
        struct.pack_into("<I", header, 16, zlib.crc32(header))
        image[own * block_size : own * block_size + len(header)] = header
        image[at * block_size : at * block_size + len(array)] = array
    write_mbr(image, [(0, 0xEE, 1, total - 1)])


def mend_checksums(image, block_size):
    """Make the checksums of the GPT and of frames right again, so that what they cover is looked at."""
    at = block_size
    if image[at : at + 8] == b"EFI PART" and len(image) >= at + 512:
        (array_block, entries, size) = struct.unpack_from("<QII", image, at + 72)
        array = image[array_block * block_size : array_block * block_size + min(entries * size, 1 << 16)]
        struct.pack_into("<I", image, at + 88, zlib.crc32(array))
        struct.pack_into("<I", image, at + 16, 0)
        length = min(int.from_bytes(image[at + 12 : at + 16], "little"), block_size)
        struct.pack_into("<I", image, at + 16, zlib.crc32(image[at : at + length]))
    at = image.find(FRAME_MAGIC)
    while at >= 0:
        if at % block_size == 0 and at + 512 <= len(image):
            image[at + 480 : at + 512] = hashlib.sha256(image[at : at + 480]).digest()
        at = image.find(FRAME_MAGIC, at + 8)


def write_frame(image, block_size, block, blocks, generation, seed=1):
    """A frame with content, of which the first block is the saved record of what the disk boots now."""
    writer = RoomWriter(block_size, range(block + 1, block + 1 + blocks))
    record = bytes(image[:RECORD])
    writer.append_block(make_saved(record[:16] + bytes(16) + record[32:], record))
    writer.append(random.Random(seed).randbytes((blocks - 1) * block_size))
    for writes in frame_writes(Allotment(((block, blocks),)), bytes(writer.image), block_size, generation):
        for write in writes:
            image[write.offset : write.offset + len(write.data)] = write.data


def disturb(choices, image, block_size, first):
    """Change the partition table, or what lies in front of the first partition."""
    end = min(first * block_size, len(image))
    for _ in range(choices.pick((0, 0, 1, 1, 2, 3))):
        kind = choices.below(6)
        if kind == 0:
            at = choices.pick((446, 450, 454, 458, 462, 470, 510, block_size + 16 + choices.below(76)))
            image[at] ^= 1 << choices.below(8)
        elif kind == 1:
            at = block_size + choices.below(max(1, end - block_size))
            image[at] ^= 1 << choices.below(8)
        elif kind == 2:
            source, target = (choices.below(first) * block_size for _ in range(2))
            image[target : target + block_size] = image[source : source + block_size]
        elif kind == 3:
            at = choices.below(first) * block_size
            image[at : at + block_size] = bytes(block_size)
        elif kind == 4:
            frames = [at for at in range(block_size, end, block_size) if image[at : at + 8] == FRAME_MAGIC]
            if frames:
                at = choices.pick(frames) + choices.pick((9, 14, 15, 23, 27, 27, 39, 40 + choices.below(440)))
                image[at] = choices.below(256)
        else:
            at = choices.below(RECORD)
            image[at] ^= 1 << choices.below(8)
    if choices.chance(128):
        mend_checksums(image, block_size)
