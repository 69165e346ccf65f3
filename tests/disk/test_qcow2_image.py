from __future__ import annotations

import os
import struct
import sys
import tracemalloc
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.disk.open import open_image
from sipl.errors import ImageError, ImageFormatError, UsageError

KINDS = "DDD..ZZADCCD.CADD"


@pytest.fixture
def opened(tmp_path):
    images = []

    def write_and_open(writer):
        images.append(open_image(writer.write(tmp_path / "a.qcow2")))
        return images[-1]

    yield write_and_open
    for image in images:
        image.close()


def whole(image) -> bytes:
    return image.read(0, image.size)


@pytest.mark.parametrize("bits", [9, 12, 16, 17])
@pytest.mark.parametrize("scatter", [False, True])
def test_all_kinds_of_clusters(qcow2, opened, bits, scatter):
    writer = qcow2.Writer(KINDS, cluster_bits=bits, scatter=scatter)
    image = opened(writer)
    assert (image.format, image.size) == ("qcow2", len(KINDS) << bits)
    assert whole(image) == writer.expected


@pytest.mark.parametrize("kinds", ["D.D", "DZDZZD", "DD..DD.D", ".D.D", "D" + "." * 70 + "D"])
def test_neighbours_in_the_file_that_are_none_on_the_disk(qcow2, opened, kinds):
    writer = qcow2.Writer(kinds)
    assert whole(opened(writer)) == writer.expected


def test_neighbours_on_the_disk_that_are_none_in_the_file(qcow2, opened):
    writer = qcow2.Writer("DDDD")
    entries = [writer.entry(number) for number in range(4)]
    for number, entry in enumerate(reversed(entries)):
        writer.put64(writer.entry_offset(number), entry)
    assert whole(opened(writer)) == b"".join(qcow2.sector(number) for number in (3, 2, 1, 0))


def test_version_2(qcow2, opened):
    writer = qcow2.Writer("DD..CDC", version=2)
    assert whole(opened(writer)) == writer.expected


def test_zstd(qcow2, opened):
    writer = qcow2.Writer("CCDC.C", compression=1, cluster_bits=12)
    assert whole(opened(writer)) == writer.expected


@pytest.mark.parametrize("compression", [0, 1])
def test_extended_entries(qcow2, opened, compression):
    kinds = ["D" * 32, "D.Z" * 10 + "DD", "." * 32, "Z" * 32, "." * 31 + "D", "D", "C", ".", "Z", "A", "D" * 31 + "."]
    writer = qcow2.Writer(kinds, cluster_bits=14, extended=True, compression=compression)
    assert whole(opened(writer)) == writer.expected


def test_several_l2_tables_and_missing_ones(qcow2, opened):
    kinds = ["D"] * 70 + ["."] * 100 + ["D"] * 60
    writer = qcow2.Writer(kinds)
    writer.put64(writer.l1_offset + 8, 0)
    writer.expected[64 * 512 : 128 * 512] = bytes(64 * 512)
    assert whole(opened(writer)) == writer.expected


def test_a_disk_that_ends_inside_a_cluster(qcow2, opened):
    writer = qcow2.Writer("DCD", cluster_bits=12, size=2 * 4096 + 1536)
    image = opened(writer)
    assert image.size == 9728
    assert whole(image) == writer.expected
    with pytest.raises(UsageError):
        image.read(9728, 1)


@pytest.fixture(scope="module", params=["plain", "extended"])
def mixed(request, qcow2, tmp_path_factory):
    if request.param == "plain":
        writer = qcow2.Writer(KINDS * 8)
    else:
        writer = qcow2.Writer(["D", "D.ZD" * 8, "C", "D", ".", "ZZDD" * 8], cluster_bits=14, extended=True)
    with open_image(writer.write(tmp_path_factory.mktemp("mixed") / "a.qcow2")) as image:
        yield image, bytes(writer.expected)


@given(st.data())
@settings(max_examples=150)
def test_every_piece_is_that_of_the_disk(mixed, data):
    image, expected = mixed
    start = data.draw(st.integers(0, image.size))
    end = data.draw(st.integers(start, image.size))
    buffer = bytearray(b"\xaa" * (end - start))
    image.read_into(start, memoryview(buffer))
    assert buffer == expected[start:end]


def test_data_in_one_piece_is_read_in_one_piece(qcow2, opened, reads):
    writer = qcow2.Writer("D" * 160 + "..", cluster_bits=16)
    image = opened(writer)
    reads.clear()
    buffer = bytearray(160 << 16)
    image.read_into(0, memoryview(buffer))
    assert len(reads) == 3  # L1 table, a page of the L2 table, the data
    assert buffer == writer.expected[: 160 << 16]
    reads.clear()
    image.read_into(1000, memoryview(bytearray(3 << 20)))
    assert reads == [((writer.entry(0) & 0xFFFF_FFFF) + 1000, 3 << 20)]


def test_subclusters_in_one_piece_are_read_in_one_piece(qcow2, opened, reads):
    writer = qcow2.Writer("D" * 100, cluster_bits=14, extended=True)
    image = opened(writer)
    reads.clear()
    assert whole(image) == writer.expected
    assert len(reads) == 3


def test_a_compressed_cluster_is_expanded_once(qcow2, opened, reads):
    writer = qcow2.Writer("CC", cluster_bits=16)
    image = opened(writer)
    image.read(0, 512)
    reads.clear()
    for block in range(128):
        assert image.read(block * 512, 512) == writer.expected[block * 512 : block * 512 + 512]
    assert reads == []


def test_holes_are_not_read(qcow2, opened, reads):
    image = opened(qcow2.Writer("." * 100 + "Z" * 100 + "A" * 10, cluster_bits=12))
    assert whole(image) == bytes(210 << 12)
    assert sum(size for _, size in reads) < 200_000  # header and tables alone


def test_the_last_cluster_of_the_file_need_not_be_complete(qcow2, tmp_path):
    writer = qcow2.Writer("DD", cluster_bits=12)
    path = tmp_path / "a"
    path.write_bytes(writer.file[: len(writer.file) - 3000])
    with open_image(path) as image:
        assert whole(image) == writer.expected[:-3000] + bytes(3000)


def test_dirty_is_said(qcow2, opened):
    writer = qcow2.Writer("D")
    writer.header(incompatible=1)
    image = opened(writer)
    assert image.notes == ("the image was not closed cleanly (dirty bit)",)
    assert whole(image) == writer.expected


def test_the_image_is_never_changed(qcow2, tmp_path):
    writer = qcow2.Writer(KINDS)
    path = tmp_path / "a"
    writer.write(path)
    before = path.stat().st_mtime_ns
    with open_image(path) as image:
        whole(image)
    assert path.read_bytes() == writer.file
    assert path.stat().st_mtime_ns == before


# --- tables that cannot be ---------------------------------------------------------------------------------------

C = 512  # cluster size below; the file is: header, refcount table, refcount block, L1, L2, data
BAD_L1 = {
    "reserved-low": (lambda w: 4 * C | 1, "reserved bits"),
    "reserved-high": (lambda w: 4 * C | 1 << 56, "reserved bits"),
    "header-is-no-table": (lambda w: 1 << 63, None),
    "l1-itself": (lambda w: 3 * C, "points into the L1 table"),
    "refcount-table": (lambda w: C, "points into the refcount table"),
    "outside": (lambda w: 1 << 40, "outside the file"),
    "ends-outside": (lambda w: len(w.file), "outside the file"),
    "far-outside": (lambda w: 0x00FF_FFFF_FFFF_FE00, "outside the file"),
}


@pytest.mark.parametrize("name", BAD_L1)
def test_bad_l1_entries(qcow2, opened, name):
    entry, says = BAD_L1[name]
    writer = qcow2.Writer("DDDD")
    writer.put64(writer.l1_offset, entry(writer))
    image = opened(writer)
    if says is None:  # offset 0 is "no table", whatever bit 63 says
        assert whole(image) == bytes(4 * C)
        return
    with pytest.raises(ImageFormatError, match=f"L1 entry 0x[0-9a-f]{{16}} of L2 table 0: .*{says}"):
        whole(image)


def test_an_l2_table_in_the_middle_of_a_cluster(qcow2, opened):
    writer = qcow2.Writer("DDDD", cluster_bits=12)
    writer.put64(writer.l1_offset, writer.l2_offsets[0] + 512)
    with pytest.raises(ImageFormatError, match="does not begin with a cluster"):
        whole(opened(writer))


BAD_L2 = {
    "reserved-1": (lambda w: 5 * 4096 | 2, "reserved bits"),
    "reserved-8": (lambda w: 5 * 4096 | 1 << 8, "reserved bits"),
    "reserved-56": (lambda w: 5 * 4096 | 1 << 56, "reserved bits"),
    "unaligned": (lambda w: 5 * 4096 + 512, "does not begin with a cluster"),
    "zero-unaligned": (lambda w: 5 * 4096 + 512 | 1, "does not begin with a cluster"),
    "l1": (lambda w: w.l1_offset, "points into the L1 table"),
    "refcount-table": (lambda w: 4096, "points into the refcount table"),
    "its-own-table": (lambda w: w.l2_offsets[0], "points into its own L2 table"),
    "outside": (lambda w: len(w.file), "outside the file"),
    "far": (lambda w: 0x00FF_FFFF_FFFF_F000, "outside the file"),
    "compressed-outside": (lambda w: 1 << 62 | len(w.file), "outside the file"),
    "compressed-far": (lambda w: (1 << 63) - 1, "outside the file"),
    "compressed-copied": (lambda w: 3 << 62 | 5 * 4096, "reserved bits"),
    "compressed-header": (lambda w: 1 << 62 | 100, "points into the header"),
    "compressed-into-l1": (lambda w: 1 << 62 | w.l1_offset - 1 | 1 << 58, "points into the (L1|refcount) table"),
    "compressed-own-table": (lambda w: 1 << 62 | w.l2_offsets[0] + 5, "points into its own L2 table"),
}


@pytest.mark.parametrize("name", BAD_L2)
def test_bad_l2_entries(qcow2, opened, name):
    entry, says = BAD_L2[name]
    writer = qcow2.Writer("DDD", cluster_bits=12)
    writer.put64(writer.entry_offset(1), entry(writer))
    image = opened(writer)
    assert image.read(0, 4096) == writer.expected[:4096]
    with pytest.raises(ImageFormatError, match=f"L2 entry 0x[0-9a-f]{{16}} of cluster 1: .*{says}"):
        image.read(4096, 1)


def test_a_run_that_goes_on_into_nothing(qcow2, tmp_path):
    writer = qcow2.Writer("D" * 20)
    path = tmp_path / "a"
    path.write_bytes(writer.file[: len(writer.file) - 5 * 512])
    with open_image(path) as image:
        assert image.read(0, 15 * 512) == writer.expected[: 15 * 512]
        with pytest.raises(ImageFormatError, match="outside the file"):
            image.read(14 * 512, 2 * 512)


def test_a_zero_cluster_is_no_part_of_version_2(qcow2, opened):
    writer = qcow2.Writer("Z", version=2)
    with pytest.raises(ImageFormatError, match="reserved bits"):
        whole(opened(writer))


BAD_EXTENDED = {
    "data-and-zero": (lambda host: (host, 1 << 32 | 1), "data and zero at once"),
    "allocated-nowhere": (lambda host: (0, 1), "allocated, but the cluster is not"),
    "zero-bit": (lambda host: (host | 1, 1), "reserved bits"),
    "compressed-with-bitmap": (lambda host: (1 << 62 | host, 1), "no subclusters"),
}


@pytest.mark.parametrize("name", BAD_EXTENDED)
def test_bad_extended_entries(qcow2, opened, name):
    make, says = BAD_EXTENDED[name]
    writer = qcow2.Writer("DDD", cluster_bits=14, extended=True)
    entry, bitmap = make(writer.entry(1) & 0xFFFF_FFFF)
    writer.put64(writer.entry_offset(1), entry)
    writer.put64(writer.entry_offset(1) + 8, bitmap)
    image = opened(writer)
    with pytest.raises(ImageFormatError, match=says):
        image.read(1 << 14, 512)


def test_two_l1_entries_may_share_a_table(qcow2, opened):
    """Reading needs no reference counts: what a table says is said twice, and nothing goes round."""
    writer = qcow2.Writer("D" * 128)
    writer.put64(writer.l1_offset + 8, writer.l2_offsets[0])
    assert whole(opened(writer)) == writer.expected[: 64 * 512] * 2


def test_reference_counts_are_not_looked_at(qcow2, opened):
    writer = qcow2.Writer("DC")
    writer.put64(writer.refcount_offset, 0xFFFF_FFFF_FFFF_FFFF)
    writer.put64(2 * 512, 0xDEAD_BEEF)
    assert whole(opened(writer)) == writer.expected


# --- compressed clusters that are not what they should be --------------------------------------------------------


def deflate(data: bytes, wbits: int = -15) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, wbits)
    return packer.compress(data) + packer.flush()


def with_stream(qcow2, stream: bytes, compression: int = 0, cluster_bits: int = 12):
    writer = qcow2.Writer("C", cluster_bits=cluster_bits, compression=compression)
    host = len(writer.file)
    sectors = -(-len(stream) // 512) - 1
    writer.file += stream + bytes(-len(stream) % 512)
    writer.put64(writer.entry_offset(0), 1 << 62 | host | sectors << (70 - cluster_bits))
    return writer


def zstd(data: bytes, **options) -> bytes:
    import zstandard

    return zstandard.ZstdCompressor(**options).compress(data)


def test_a_stream_with_a_large_window(qcow2, opened):
    far = os.urandom(20000)
    data = (far + far)[: 1 << 15]
    assert whole(opened(with_stream(qcow2, deflate(data), cluster_bits=15))) == data


def test_a_zstd_stream_that_does_not_say_its_size(qcow2, opened):
    data = qcow2.pattern(0, 8)
    stream = zstd(data, write_content_size=False)
    assert whole(opened(with_stream(qcow2, stream, 1))) == data


BAD_STREAMS = {
    "zlib-short": (lambda: deflate(bytes(4000)), 0, "expands to 4000 bytes instead of 4096"),
    "zlib-empty": (lambda: deflate(b""), 0, "expands to 0 bytes"),
    "zlib-garbage": (lambda: b"\xff" * 512, 0, "damaged"),
    "zlib-with-header": (lambda: zlib.compress(bytes(4096)), 0, "damaged|expands"),
    "zlib-cut": (lambda: deflate(os.urandom(4096))[:1024], 0, "expands to 1[0-9]{3} bytes|damaged"),
    "zstd-short": (lambda: zstd(bytes(4000)), 1, "claims to expand to 4000 bytes"),
    "zstd-bomb": (lambda: zstd(bytes(1 << 28)), 1, "claims to expand to 268435456 bytes"),
    "zstd-silent-bomb": (lambda: zstd(bytes(1 << 28), write_content_size=False), 1, "damaged"),
    "zstd-silent-short": (lambda: zstd(bytes(4000), write_content_size=False), 1, "damaged|4000"),
    "zstd-garbage": (lambda: b"\xff" * 512, 1, "damaged"),
    "zstd-cut": (lambda: zstd(os.urandom(4096))[:1024], 1, "damaged"),
    "zstd-claims-2^63": (lambda: b"\x28\xb5\x2f\xfd\xe0" + struct.pack("<Q", 1 << 63) + bytes(20), 1, "claims|damaged"),
    "zstd-window-128-mib": (lambda: b"\x28\xb5\x2f\xfd\x00\x88" + b"\x01\x00\x00", 1, "too much memory"),
}


@pytest.mark.parametrize("name", BAD_STREAMS)
def test_bad_streams(qcow2, opened, name):
    stream, compression, says = BAD_STREAMS[name]
    image = opened(with_stream(qcow2, stream(), compression))
    tracemalloc.start()
    try:
        with pytest.raises(ImageFormatError, match=f"a compressed cluster.*({says})") as caught:
            whole(image)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
    assert "\n" not in str(caught.value)


def test_a_deflate_bomb_expands_to_one_cluster(qcow2, opened):
    """More than a cluster is what follows it in the file as well: only the cluster's own bytes count."""
    image = opened(with_stream(qcow2, deflate(bytes(1 << 22))))
    tracemalloc.start()
    try:
        assert whole(image) == bytes(4096)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_expanding_is_in_proportion_to_what_is_read(qcow2, tmp_path, monkeypatch):
    monkeypatch.setattr("sipl.disk.qcow2.EXPANDED_FREE", 40 << 16)
    monkeypatch.setattr("sipl.disk.qcow2.EXPANDED_CACHE_SIZE", 1 << 16)
    path = qcow2.Writer("CCCC", cluster_bits=16).write(tmp_path / "a")
    with open_image(path) as image:
        for _ in range(100):  # whole clusters may be read as often as one likes
            image.read(0, image.size)
    with open_image(path) as image:
        done = 0
        with pytest.raises(ImageFormatError, match=r"too many compressed clusters.*without compression"):
            for done in range(100):
                image.read((done % 4) << 16, 512)
        assert 40 <= done < 50


def test_zstd_where_the_package_is_missing(qcow2, opened, monkeypatch):
    image = opened(qcow2.Writer("C", compression=1))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(ImageError, match="pip install zstandard"):
        whole(image)


def test_zstandard_is_not_imported_without_need(qcow2, tmp_path):
    import subprocess

    path = qcow2.Writer("DC.").write(tmp_path / "a")
    code = (
        "import sys; from sipl.disk.open import open_image; i = open_image(sys.argv[1]); i.read(0, i.size);"
        "print([m for m in ('zstandard', 'dataclasses', 'inspect', 'json', 'pathlib', 'logging') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
