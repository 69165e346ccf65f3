"""The promise of secure mode on disks that hypothesis makes: mutated bytes, and rearranged, overlapping components.

Whatever is on the disk, only the outcomes of an IPL come out. And where secure mode hands over, the EXEC PSW lies in a
component whose bytes in guest memory this session has signed, nothing that was verified has changed since, and the
report says so. The check looks at guest memory alone and knows what was signed, as it has made every signature there
is; it shares nothing with the boot side.
"""

from __future__ import annotations

import struct

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipl_lab import (
    HEAP,
    INITRD,
    KERNEL,
    LOADER,
    PARAMETERS,
    PSW,
    PSW_MASK,
    Load,
    code,
    image_of,
    kernel_bytes,
    loader_bytes,
)

from sipl.author.boot_record import DiskWriter, Execute
from sipl.layout.boot_record import BlockPointer
from sipl.layout.record import pack

SETTINGS = settings(
    max_examples=200,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
SMALL = 16 << 20
OUTCOMES = {"hands-over", "stops", "no-bootable-device"}

# Everything that was ever signed with a key of the store.
SIGNED = [
    loader_bytes(),
    kernel_bytes(),
    kernel_bytes(seed=0x3333, size=512),
    loader_bytes(psw=PSW_MASK | 0x40010, address=0x40000, size=512),
]


class Promise:
    """Looks at guest memory at the hand-over; `kept` counts how often it did."""

    def __init__(self):
        self.kept = 0

    def __call__(self, machine, state):
        iplb = int.from_bytes(machine.load(0x14, 4), "big")
        length, flags = struct.unpack(">IB", machine.load(iplb, 5))
        assert flags & 0x60 == 0x60
        report = iplb + length
        total = int.from_bytes(machine.load(report, 4), "big")
        size, kind, indicators = struct.unpack(">IB3xH", machine.load(report + 16, 10))
        assert (kind, indicators) == (2, 0)
        assert size <= total
        entries = [struct.unpack(">QQB5xHI", machine.load(report + at, 28)) for at in range(32, 16 + size, 32)]
        psw = int.from_bytes(machine.load(0, 8), "big")
        assert entries.pop() == (psw, 0, 0, 0, 0)
        verified = []
        for address, span, component_flags, _, error in entries:
            assert error == 0
            assert component_flags in (0, 0xC0)
            if component_flags:
                assert machine.load(address, span) in SIGNED
                verified.append(range(address, address + span))
        assert any(psw & 0x7FFFFFFF in place for place in verified)
        self.kept += 1


def boot(lab, image):
    """One secure and one audit IPL of an image; returns whether secure mode handed over."""
    disk = lab.disk(image)
    promise = Promise()
    secure = lab.boot(disk, memory=SMALL, look=promise)
    audit = lab.boot(disk, mode="audit", memory=SMALL)
    assert {secure.outcome, audit.outcome} <= OUTCOMES
    assert (secure.outcome == "hands-over") == (promise.kept == 1)
    if secure.outcome == "hands-over":
        # What secure mode starts, audit mode has nothing to say against.
        assert audit.outcome == "hands-over"
        assert audit.error_indicators == 0
        assert [c.flags for c in audit.components] == [c.flags for c in secure.components]
    return promise.kept == 1


@pytest.fixture(scope="module")
def base(signers, tmp_path_factory):
    """The base disk, and the length of its part with tables and components."""
    from ipl_lab import Lab

    lab = Lab(tmp_path_factory.mktemp("base"), signers)
    return image_of(lab.program())


values = st.sampled_from([0, 1, 2, 3, 4, 0x7F, 0x80, 0xAA, 0xFF]) | st.integers(0, 255)


@SETTINGS
@given(data=st.data())
def test_mutated_bytes(lab, base, data):
    image = bytearray(base)
    for _ in range(data.draw(st.integers(1, 8), "changes")):
        offset = data.draw(st.integers(0, len(image) - 1), "offset")
        image[offset] = data.draw(values, "value")
    boot(lab, bytes(image))


@SETTINGS
@given(data=st.data())
def test_mutated_words_in_tables(lab, base, data):
    """Numbers where numbers are: pointers, types, addresses, lengths of the tables."""
    image = bytearray(base)
    tables = [n for n in range(len(image) // 512) if image[n * 512 : n * 512 + 4] == b"zIPL" or is_table(image, n)]
    numbers = st.sampled_from(
        [0, 1, 2, 3, 511, 512, 513, 0x1FF, 0x200, LOADER, KERNEL, PSW, 1 << 32, 1 << 63, (1 << 64) - 512]
    )
    for _ in range(data.draw(st.integers(1, 4), "changes")):
        block = data.draw(st.sampled_from(tables), "table")
        word = data.draw(st.integers(0, 63), "word")
        struct.pack_into(">Q", image, block * 512 + word * 8, data.draw(numbers | st.integers(0, 99), "number"))
    boot(lab, bytes(image))


def is_table(image, block):
    number, size = struct.unpack_from(">QH", image, block * 512)
    return size == 512 and 0 < number < len(image) // 512


@SETTINGS
@given(data=st.data())
def test_blocks_exchanged_and_cut_off(lab, base, data):
    blocks = [base[n : n + 512] for n in range(0, len(base), 512)]
    place = st.integers(0, len(blocks) - 1)
    for _ in range(data.draw(st.integers(0, 3), "changes")):
        blocks[data.draw(place, "to")] = blocks[data.draw(place, "from")]
    end = data.draw(st.none() | st.integers(1, len(blocks)), "end")
    boot(lab, b"".join(blocks[:end]))


near = st.sampled_from([HEAP, PARAMETERS, LOADER, LOADER + 512, LOADER + 1024, KERNEL, KERNEL - 512, INITRD, 0x40000])
addresses = near | st.builds(lambda a, d: max(0, a + d), near, st.integers(-1500, 1500)) | st.integers(0, SMALL)


@SETTINGS
@given(data=st.data())
def test_rearranged_components(lab, data):
    """Any order, place and pairing of what is signed, of signatures, and of unsigned bytes."""
    payloads = [*SIGNED, code(512, 0x6666), bytes(1024)]
    signatures = [lab.signers["A"].sign(payload) for payload in SIGNED]
    own = {0: LOADER, 1: KERNEL, 2: 0x30000, 3: 0x40000}
    components = []
    for _ in range(data.draw(st.integers(1, 6), "components")):
        which = data.draw(st.integers(0, len(payloads) - 1), "payload")
        good = which < len(SIGNED) and data.draw(st.integers(0, 3), "good")
        if good:
            components.append(Load(own[which], payloads[which], signatures[which]))
            continue
        signature = data.draw(st.none() | st.sampled_from(signatures), "signature")
        components.append(Load(data.draw(addresses, "address"), payloads[which], signature))
    psw = data.draw(
        st.sampled_from([PSW, PSW, PSW_MASK | 0x40010]) | st.builds(lambda a: PSW_MASK | a, addresses), "psw"
    )
    writer = DiskWriter(512)
    entries = [e for c in components for e in writer.add_component(c)] + writer.add_component(Execute(psw))
    if len(entries) > 15:
        entries = [*entries[:14], entries[-1]]
    boot(lab, finished(writer, entries))


def finished(writer, entries):
    table = writer.append_component_table(entries)
    writer.write_boot_record(writer.append_program_table([table]))
    return bytes(writer.finish())


@SETTINGS
@given(data=st.data())
def test_segment_tables_of_any_kind(lab, data):
    """Tables whose slots are numbers from a small set: runs, links, loops, ends, wrong sizes."""
    writer = DiskWriter(512)
    entries = [e for c in lab.program()[:-1] for e in writer.add_component(c)]
    first = writer.next_block
    tables = data.draw(st.integers(1, 4), "tables")
    pointer = st.builds(
        BlockPointer,
        st.sampled_from([0, 1, 2, *range(first, first + tables)]),
        st.sampled_from([512, 512, 512, 512, 0, 1024, 0xAAAA]),
        st.sampled_from([0, 0, 0, 1, 7]),
    )
    for _ in range(tables):
        start = data.draw(st.lists(pointer, max_size=32), "slots")
        rest = data.draw(st.sampled_from([BlockPointer(0, 0, 0), BlockPointer(1, 512, 0)]), "rest")
        writer.append_block(b"".join(map(pack, [*start, *[rest] * (32 - len(start))])))
    which = data.draw(st.integers(0, len(entries) - 1), "entry")
    entries[which] = entries[which]._replace(segment_table=pack(BlockPointer(first, 512, 0)))
    boot(lab, finished(writer, entries + writer.add_component(Execute(PSW))))


def test_the_promise_is_looked_at(lab, base):
    """The base disk hands over, so the check above is made; a payload that nobody signed makes it fail."""
    assert boot(lab, base)
    foreign = kernel_bytes(seed=0x7777)
    with pytest.raises(AssertionError):
        boot(lab, image_of(lab.program(kernel=lab.signed(KERNEL, foreign))))
