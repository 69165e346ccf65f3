"""Damaged and hostile qcow2 images: only the package's own errors, little memory, and never other bytes than QEMU's."""

from __future__ import annotations

import struct
import subprocess
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipl.disk.block_size import find_block_size
from sipl.disk.open import open_image
from sipl.errors import SiplError

# Caches, one cluster and its compressed form, the header area, and what is asked for at once.
MEMORY = 12 << 20
PIECE = 1 << 20


@pytest.fixture(scope="module")
def bases(qcow2):
    plain = qcow2.Writer("DDD..ZACCD.CDD" * 5)
    second = qcow2.Writer("DC.DD" * 4, version=2)
    zstd = qcow2.Writer("DCC.DZ" * 4, compression=1, cluster_bits=12)
    extended = qcow2.Writer(["D", "D.ZD" * 8, "C", ".", "D", "A"], cluster_bits=14, extended=True)
    backed = qcow2.Writer("D..D")
    backed.extension(0xE2792ACA, b"raw")
    backed.header(backing=b"a.qcow2")
    return [plain, second, zstd, extended, backed]


def words(writer) -> list[int]:
    """Where numbers stand that decide something: header, extensions, tables."""
    tables = [*range(writer.l1_offset, writer.l1_offset + 32, 8)]
    for table in writer.l2_offsets:
        tables += range(table, table + min(writer.cluster, 512), 8)
    return [*range(0, 144, 4), *tables * 2]


def interesting(writer):
    """Numbers that mean something in an image like this one."""
    cluster = writer.cluster
    known = [0, 1, cluster, writer.l1_offset, writer.l2_offsets[0], len(writer.file), len(writer.file) - cluster, 9, 21]
    numbers = st.one_of(
        st.sampled_from(known),
        st.integers(0, len(writer.file) // cluster + 2).map(lambda n: n * cluster),
        st.integers(0, 63).map(lambda n: 1 << n),
        st.integers(0, (1 << 64) - 1),
        st.integers(0, len(writer.file) * 2).map(lambda n: n | 1 << 62),
    )
    flags = st.sampled_from([0, 0, 0, 1, 1 << 63, 1 << 62, 1 << 56, 3 << 62])
    return st.builds(lambda n, f: n | f, numbers, flags)


@st.composite
def damages(draw, writer):
    file = bytearray(writer.file)
    for _ in range(draw(st.integers(1, 4))):
        how = draw(st.sampled_from(["word", "word", "half", "byte", "cut", "copy"]))
        if how in ("word", "half"):
            place = draw(st.sampled_from(words(writer)))
            value = draw(interesting(writer))
            width, code = (8, ">Q") if how == "word" else (4, ">I")
            if place + width <= len(file):
                struct.pack_into(code, file, place, value & ((1 << 8 * width) - 1))
        elif how == "byte" and file:
            file[draw(st.integers(0, len(file) - 1))] = draw(st.integers(0, 255))
        elif how == "cut":
            del file[draw(st.integers(4, max(4, len(file)))) :]
        elif len(file) > 16:
            start, to = draw(st.integers(0, len(file) - 16)), draw(st.integers(0, len(file) - 16))
            file[to : to + 16] = file[start : start + 16]
    return bytes(file)


def read_some(path, **options) -> None:
    with open_image(path, **options) as image:
        find_block_size(image)
        ends = {0, max(0, image.size - PIECE), image.size // 2 // 512 * 512}
        for start in ends:
            image.read(start, min(PIECE, image.size - start))


@given(st.data())
@settings(max_examples=300, deadline=5000, suppress_health_check=[HealthCheck.too_slow])
def test_only_own_errors_and_bounded_memory(bases, tmp_path_factory, data):
    writer = data.draw(st.sampled_from(bases))
    path = tmp_path_factory.getbasetemp() / "a.qcow2"
    path.write_bytes(data.draw(damages(writer)))
    tracemalloc.start()
    try:
        read_some(path, allow_backing=data.draw(st.booleans()))
    except SiplError as error:
        assert str(error).isprintable()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < MEMORY


@given(st.binary(max_size=2000), st.booleans())
@settings(max_examples=100)
def test_anything_behind_the_magic(tmp_path_factory, tail, version_3):
    path = tmp_path_factory.getbasetemp() / "b.qcow2"
    path.write_bytes(b"QFI\xfb" + struct.pack(">I", 2 + version_3) + tail)
    with pytest.raises(SiplError):
        read_some(path)


@given(st.data())
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_never_other_bytes_than_qemu(bases, need_tool, tmp_path_factory, data):
    """Where tables are mutated and both read the image, both read the same."""
    qemu_img = need_tool("qemu-img", "qemu-utils")
    writer = data.draw(st.sampled_from(bases[:4]))
    file = bytearray(writer.file)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.sampled_from([p for p in words(writer) if p >= writer.l1_offset]))
        struct.pack_into(">Q", file, place, data.draw(interesting(writer)))
    folder = tmp_path_factory.getbasetemp()
    path, oracle = folder / "c.qcow2", folder / "c.raw"
    path.write_bytes(file)
    oracle.unlink(missing_ok=True)
    ran = subprocess.run(
        [qemu_img, "convert", "-f", "qcow2", "-O", "raw", path, oracle], capture_output=True, check=False, timeout=60
    )
    try:
        with open_image(path) as image:
            found = image.read(0, image.size)
    except SiplError:
        return
    assert ran.returncode == 0, ran.stderr  # what we read is nothing that QEMU refuses
    assert found == oracle.read_bytes()
