"""H2 to H5: whatever a disk says, what is read stays on the disk, in its buffer, in its component, and ends."""

from __future__ import annotations

import struct
import time

import pytest
from ipl_lab import (
    GLOBAL,
    HANDS_OVER,
    KERNEL,
    LOADER,
    MIB,
    PSW,
    Load,
    code,
    finish,
    image_of,
    kernel_bytes,
    loader_bytes,
    reasons,
    verdict,
)

from sipl.author.boot_record import DiskWriter, Execute
from sipl.crypto import signing
from sipl.layout.boot_record import BlockPointer, ComponentEntry
from sipl.layout.record import pack

MODES = ["normal", "audit", "secure"]
GIVEN_UP = "no-bootable-device"
BEYOND = [1 << 32, 1 << 33, 1 << 63, (1 << 64) - (1 << 32)]


# H2


def patched(image, places, offset):
    """An image with `offset` added to the block number at each of the byte positions."""
    data = bytearray(image)
    for place in places:
        (block,) = struct.unpack_from(">Q", data, place)
        struct.pack_into(">Q", data, place, block + offset & (1 << 64) - 1)
    return bytes(data)


def pointer_places(image, block_size=512):
    """Byte positions of one pointer of each kind of the base disk."""
    (program_table,) = struct.unpack_from(">Q", image, 16)
    entry = program_table * block_size + 16
    (component_table,) = struct.unpack_from(">Q", image, entry)
    signature = component_table * block_size + 32 + 32
    assert image[signature + 23] == 3
    load = signature + 32
    tables = [struct.unpack_from(">Q", image, at)[0] * block_size for at in (signature, load)]
    return {
        "program-table": 16,
        "component-table": entry,
        "signature-table": signature,
        "segment-table": load,
        "signature-data": tables[0],
        "data": tables[1],
    }


KINDS = ["program-table", "component-table", "signature-table", "segment-table", "signature-data", "data"]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("beyond", BEYOND)
@pytest.mark.parametrize("kind", KINDS)
def test_h02_block_numbers_have_64_bits(lab, kind, beyond, mode):
    """The reference reads block n for n + 2**32: what a reader of the disk sees is not what boots."""
    image = image_of(lab.program())
    bad = patched(image, [pointer_places(image)[kind]], beyond)
    report = lab.boot(lab.disk(bad), mode=mode)
    if mode == "normal" and kind.startswith("signature"):
        assert verdict(report) == HANDS_OVER  # normal mode reads no signature
    else:
        assert verdict(report) == (GIVEN_UP, "block-out-of-range")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_h02_last_block_of_the_disk(lab, mode, count):
    """The last block is there, the one behind it is not, and a count does not lead past it."""

    def disk(block_of_end):
        writer = DiskWriter(512)
        entries = [e for c in lab.program()[:-1] for e in writer.add_component(c)]
        table = writer.append_segment_tables([BlockPointer(1, 512, 0)])
        entries.append(ComponentEntry(pack(table), 2, struct.pack(">Q", 0x1000000)))
        entries += writer.add_component(Execute(PSW))
        image = bytearray(finish(writer, entries))
        end = len(image) // 512
        struct.pack_into(">QHH", image, table.block * 512, end + block_of_end, 512, count - 1)
        return lab.disk(bytes(image))

    assert verdict(lab.boot(disk(-count), mode=mode)) == HANDS_OVER
    assert verdict(lab.boot(disk(1 - count), mode=mode)) == (GIVEN_UP, "block-out-of-range")


# H3


def signature_disk(lab, blocks, length=None, merged=True):
    """The kernel's signature takes `blocks` blocks on disk, zeros behind it."""
    kernel = kernel_bytes()
    signature = lab.signers["A"].sign(kernel)
    load = Load(KERNEL, kernel, signature.ljust(blocks * 512, b"\0"), signature_length=length or len(signature))
    return lab.disk(lab.program(kernel=load), merged=merged)


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("mode", ["audit", "secure"])
def test_h03_eight_blocks_are_loaded(lab, mode, merged):
    assert verdict(lab.boot(signature_disk(lab, 8, merged=merged), mode=mode)) == HANDS_OVER


@pytest.mark.parametrize("merged", [True, False])
@pytest.mark.parametrize("blocks", [9, 31, 32, 200])
def test_h03_larger_segment_is_not_loaded_although_its_length_is_fine(lab, reads, blocks, merged):
    disk = signature_disk(lab, blocks, merged=merged)
    audit = lab.boot(disk, mode="audit")
    assert verdict(audit) == HANDS_OVER
    assert reasons(audit) == ["signature-too-large", "signature-not-verified"]
    kernel = audit.components[3]
    assert (kernel.address, kernel.flags, kernel.signed, kernel.verified) == (KERNEL, 0x80, True, False)
    secure = lab.boot(disk)
    assert verdict(secure) == ("stops", "signature-not-verified")
    assert reasons(secure) == ["signature-too-large", "signature-not-verified"]


def test_h03_a_large_segment_does_not_reach_memory(lab):
    """What would be behind the 4096 bytes of the buffer stays as it was."""
    seen = []
    mark = b"overrun!" * 64
    kernel = kernel_bytes()
    signature = lab.signers["A"].sign(kernel).ljust(4096, b"\0") + mark
    load = Load(KERNEL, kernel, signature, signature_length=100)

    def look(machine, state):
        seen.append(machine.memory.view[:].tobytes().count(mark))

    report = lab.boot(lab.program(kernel=load), mode="audit", look=look, memory=16 * MIB)
    assert verdict(report) == HANDS_OVER
    assert seen == [0]


def test_h03_a_former_signature_does_not_stand_in_for_a_large_one(lab):
    """The same component twice: the signature that is not loaded leaves the good one of before in the buffer."""
    data = kernel_bytes()
    signature = lab.signers["A"].sign(data)
    large = Load(KERNEL, data, signature.ljust(9 * 512, b"\0"), signature_length=len(signature))
    program = lab.program(kernel=Load(0x30000, data, signature), extra=[large])
    report = lab.boot(program, mode="audit")
    assert [(c.address, c.verified) for c in report.components if c.signed] == [
        (LOADER, True),
        (0x30000, True),
        (KERNEL, False),
    ]
    assert verdict(lab.boot(program)) == ("stops", "signature-not-verified")


@pytest.mark.parametrize("length", [4097, 0xFFFFFFFF])
def test_h03_length_field_over_4096(lab, length):
    disk = signature_disk(lab, 2, length=length)
    audit = lab.boot(disk, mode="audit")
    assert reasons(audit) == ["signature-not-verified"]
    assert audit.components[3].flags == 0x80
    assert verdict(lab.boot(disk)) == ("stops", "signature-not-verified")


def test_h03_a_former_signature_does_not_complete_one(lab):
    """The same component twice, the second time with half of its signature: the other half is still in the buffer."""
    data = kernel_bytes()
    signer = lab.signers.make("rsa3072", signing.generate_key("rsa3072"))
    signature = signer.sign(data)
    assert len(signature) > 512
    whole = Load(0x30000, data, signature)
    part = Load(KERNEL, data, signature[:512], signature_length=len(signature))
    report = lab.boot(lab.program(kernel=whole, extra=[part]), mode="audit", certs=["A", "rsa3072"])
    assert [(c.address, c.verified) for c in report.components if c.signed] == [
        (LOADER, True),
        (0x30000, True),
        (KERNEL, False),
    ]


# H4


@pytest.mark.parametrize("mode", ["audit", "secure"])
@pytest.mark.parametrize("stated", [1025, 1056, 4096, 0x8000, 0xFFFF])
def test_h04_sclab_lies_inside_its_component(lab, mode, stated):
    program = lab.program(loader=lab.loader(stated_length=stated))
    report = lab.boot(program, mode=mode)
    if mode == "secure":
        assert verdict(report) == ("stops", "sclab-length")
        return
    assert reasons(report) == ["sclab-length", "no-global-sclab"]
    assert report.components[1].error_indicators == 0xC0000000
    assert report.error_indicators == 0x2000


def test_h04_attack_attributes_from_the_component_below(lab):
    """Attributes in unsigned bytes below a signed component would choose the PSW for it."""
    below = b"".join([bytes(512 - 32), struct.pack(">BxH4xQQ8x", 0, GLOBAL, PSW, LOADER)])
    loader = loader_bytes(size=512, stated_length=512 + 32)
    program = lab.program(heap=Load(LOADER - 512, below), parameters=None, loader=lab.signed(LOADER, loader))
    assert verdict(lab.boot(program)) == ("stops", "sclab-length")


@pytest.mark.parametrize("size", [512, 1024])
def test_h04_a_sclab_may_be_the_whole_component(lab, size):
    """The attributes are then the first bytes of the loader."""
    loader = bytearray(code(size, 1))
    loader[:24] = struct.pack(">BxH4xQQ", 0, GLOBAL, PSW, LOADER)
    loader[-8:] = struct.pack(">2xH4s", size, b"zIPL")
    assert verdict(lab.boot(lab.program(loader=lab.signed(LOADER, bytes(loader))))) == HANDS_OVER


# H5


def chain_disk(lab, links, block_size=512):
    """A component whose segment tables are linked as `links` says: table i is followed by table links[i].

    A table is full of pointers to one block of data; None ends the chain.
    """
    writer = DiskWriter(block_size)
    entries = [e for c in lab.program(block_size=block_size)[:-1] for e in writer.add_component(c)]
    (data,) = writer.append(bytes(block_size))
    first = writer.next_block
    slots = block_size // 16 - 1
    for link in links:
        last = BlockPointer(0, 0, 0) if link is None else BlockPointer(first + link, block_size, 0)
        writer.append_block(pack(data) * slots + pack(last))
    entries.append(ComponentEntry(pack(BlockPointer(first, block_size, 0)), 2, struct.pack(">Q", 0x1000000)))
    entries += writer.add_component(Execute(PSW))
    return lab.disk(finish(writer, entries), block_size)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("block_size", [512, 4096])
@pytest.mark.parametrize("links", [[0], [1, 0], [1, 1], [1, 2, 3, 1]])
def test_h05_a_segment_table_met_twice(lab, reads, links, block_size, mode):
    disk = chain_disk(lab, links, block_size)
    started = time.monotonic()
    report = lab.boot(disk, mode=mode)
    assert verdict(report) == (GIVEN_UP, "segment-unreadable")
    assert time.monotonic() - started < 5
    assert len(reads) == len(set(reads))


@pytest.mark.parametrize("mode", MODES)
def test_h05_a_long_chain_is_no_loop(lab, mode):
    """Some 31 MB in 2000 tables, one block per pointer: allowed, and every block of it is loaded."""
    report = lab.boot(chain_disk(lab, [*range(1, 2000), None]), mode=mode)
    assert verdict(report) == HANDS_OVER
    assert report.components[-1].length == 2000 * 31 * 512


@pytest.mark.parametrize("mode", MODES)
def test_h05_a_chain_for_more_than_all_memory_ends(lab, reads, mode):
    """16 MiB of memory need 1058 tables at most; the walk stops soon behind them, on a disk with far more."""
    report = lab.boot(chain_disk(lab, [*range(1, 5000), None]), mode=mode, memory=16 * MIB)
    assert report.outcome in ("no-bootable-device", "stops")
    assert report.reason in ("segment-unreadable", "load-address-forbidden")
    assert len(reads) < 1200


def test_h05_loop_in_the_tables_of_a_signature(lab):
    writer = DiskWriter(512)
    entries = [e for c in lab.program()[:-1] for e in writer.add_component(c)]
    (data,) = writer.append(bytes(512))
    table = writer.next_block
    writer.append_block(pack(data) * 31 + pack(BlockPointer(table, 512, 0)))
    signature = next(i for i, entry in enumerate(entries) if entry.type == 3)
    entries[signature] = entries[signature]._replace(segment_table=pack(BlockPointer(table, 512, 0)))
    entries += writer.add_component(Execute(PSW))
    for mode in ("audit", "secure"):
        assert verdict(lab.boot(lab.disk(finish(writer, entries)), mode=mode)) == (GIVEN_UP, "segment-unreadable")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("block_size", "slots"), [(512, 15), (1024, 31), (2048, 63), (4096, 127)])
def test_h05_component_table_without_exec(lab, block_size, slots, mode):
    """Full of loads; what follows the block on disk, an EXEC entry even, is not part of the table."""
    writer = DiskWriter(block_size)
    (entry,) = writer.add_component(Load(0x200000, b"x"))
    table = writer.append_component_table([entry] * slots)
    writer.append_block((bytes(23) + b"\1" + struct.pack(">Q", PSW)) * (block_size // 32))
    writer.write_boot_record(writer.append_program_table([table, table]))
    report = lab.boot(lab.disk(bytes(writer.finish()), block_size), mode=mode)
    assert verdict(report) == (GIVEN_UP, "table-not-terminated")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("block_size", "slots"), [(512, 15), (1024, 31), (2048, 63), (4096, 127)])
def test_h05_exec_in_the_last_slot(lab, block_size, slots, mode):
    loader = lab.signed(LOADER, loader_bytes(size=4096))
    loads = [Load(0x200000 + 0x1000 * n, b"x") for n in range(slots - 3)]
    report = lab.boot(lab.disk([loader, *loads, Execute(PSW)], block_size), mode=mode)
    assert verdict(report) == HANDS_OVER
    assert len(report.components) == slots - 2


@pytest.mark.parametrize("mode", MODES)
def test_h05_pointer_to_block_0_as_segment_table(lab, mode):
    """Block 0 is read as any other block: a boot record is a table that starts with a very large block number."""

    def change(entries):
        entries[0] = entries[0]._replace(segment_table=bytes(16))
        return entries

    report = lab.boot(lab.disk(lab.program(), change=change), mode=mode)
    assert report.outcome == GIVEN_UP
    assert report.reason in ("segment-unreadable", "block-out-of-range")
