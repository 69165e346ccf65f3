"""Writing to qcow2 images: QEMU finds them in order and reads what was written."""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from luks_lab import make_encrypted

import sipl.disk.qcow2_owners as qcow2_owners
import sipl.disk.writable_file as writable_file
from sipl.disk.open import open_image
from sipl.disk.open_writer import open_writer
from sipl.errors import ImageError, ImageFormatError, SealRefused, SiplError, UsageError
from sipl.reasons import SealReason

DISK = (1 << 20) + 512 * 3

FORMS = {
    "default": ([], False),
    "512-byte clusters": (["cluster_size=512"], False),
    "2-MiB clusters": (["cluster_size=2M"], False),
    "version 2": (["compat=0.10"], False),
    "subclusters": (["extended_l2=on", "cluster_size=32k"], False),
    "compressed": (["cluster_size=4096"], True),
    "compressed with zstd": (["compression_type=zstd", "cluster_size=16384"], True),
    "compressed, version 2": (["compat=0.10", "cluster_size=8192"], True),
    "subclusters, compressed": (["extended_l2=on", "cluster_size=16384"], True),
    "lazy counts": (["lazy_refcounts=on"], False),
} | {f"{bits}-bit counts": ([f"refcount_bits={bits}", "cluster_size=4096"], True) for bits in (2, 4, 8, 16, 32, 64)}


@pytest.fixture
def qemu_img(need_tool):
    return need_tool("qemu-img", "qemu-utils")


@pytest.fixture
def disk():
    """Data, holes, and data that compresses."""
    chance = random.Random(0)
    image = bytearray(DISK)
    for start in range(0, DISK, 40960):
        kind = start // 40960 % 3
        if kind == 0:
            image[start : start + 20000] = chance.randbytes(min(20000, DISK - start))
        elif kind == 1:
            image[start : start + 30000] = (b"sipl" * 8000)[: min(30000, DISK - start)]
    return bytes(image[:DISK])


@pytest.fixture
def make(tmp_path, qemu_img, disk):
    def build(form):
        raw, path = tmp_path / "disk.raw", tmp_path / "disk.qcow2"
        raw.write_bytes(disk)
        options, compressed = FORMS[form]
        extra = [word for option in options for word in ("-o", option)] + (["-c"] if compressed else [])
        subprocess.run([qemu_img, "convert", "-f", "raw", "-O", "qcow2", *extra, raw, path], check=True)
        return path

    return build


@pytest.fixture
def images(make, tmp_path):
    """Paths by form."""
    forms = ("compressed", "512-byte clusters", "subclusters, compressed", "2-bit counts")
    return {form: shutil.copy(make(form), tmp_path / form) for form in forms}


def content(path) -> bytes:
    with open_image(str(path)) as image:
        return image.read(0, image.size)


def in_order(qemu_img, path, expected, tmp_path):
    """QEMU finds no error and no leak, and reads the same bytes as we do."""
    done = subprocess.run([qemu_img, "check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    raw = tmp_path / "expected.raw"
    raw.write_bytes(expected)
    command = [qemu_img, "compare", "-f", "qcow2", "-F", "raw", path, raw]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert content(path) == expected


@pytest.mark.parametrize("form", FORMS)
def test_writes_anywhere(make, qemu_img, disk, form, tmp_path):
    path = make(form)
    chance = random.Random(form)
    expected = bytearray(disk)
    with open_writer(path) as image:
        assert image.size == DISK
        for _ in range(40):
            length = chance.choice((1, 80, 512, 512, 3000, 70000))
            offset = chance.randrange(DISK - length + 1)
            data = chance.randbytes(length)
            image.write_from(offset, memoryview(data))
            expected[offset : offset + length] = data
            assert image.read(offset, length) == data
        image.flush()
        assert image.read(0, DISK) == expected
    in_order(qemu_img, path, bytes(expected), tmp_path)


@pytest.mark.parametrize("form", FORMS)
def test_private_parts_are_overwritten_in_place(make, qemu_img, disk, form, tmp_path, monkeypatch):
    path = make(form)
    for start in (0, 24576, 102400, DISK - 512):
        with open_writer(path) as image:
            image.make_private(start, 512)
            image.flush()
            assert image.read(0, DISK) == disk
            calls = []

            def write_at(fd, data, offset, calls=calls, write=writable_file._write_at):
                calls.append(offset)
                return write(fd, data, offset)

            monkeypatch.setattr(writable_file, "_write_at", write_at)
            size = path.stat().st_size
            image.write_from(start, memoryview(disk[start : start + 512]))
            monkeypatch.undo()
            assert len(calls) == 1
            assert path.stat().st_size == size
    in_order(qemu_img, path, disk, tmp_path)


def test_what_is_private_stays_as_it_is(make, disk):
    path = make("default")
    with open_writer(path) as image:
        image.make_private(0, DISK)
    before = path.read_bytes()
    with open_writer(path) as image:
        image.make_private(0, DISK)
        image.write_from(0, memoryview(disk[:512]))
    assert path.read_bytes() == before


def test_an_image_without_any_table(tmp_path, qemu_img):
    path = tmp_path / "empty.qcow2"
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "10M"], check=True)
    with open_writer(path) as image:
        image.write_from(9 << 20, memoryview(b"x" * 1000))
    expected = bytearray(10 << 20)
    expected[9 << 20 : (9 << 20) + 1000] = b"x" * 1000
    in_order(qemu_img, path, bytes(expected), tmp_path)


def test_more_refcount_blocks_than_there_were(tmp_path, qemu_img):
    """With counts of 64 bits a block of 512 bytes counts 64 clusters."""
    path = tmp_path / "small.qcow2"
    options = ["-o", "cluster_size=512", "-o", "refcount_bits=64"]
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
    data = os.urandom(200 * 512)
    with open_writer(path) as image:
        image.write_from(512, memoryview(data))
    in_order(qemu_img, path, bytes(512) + data + bytes((1 << 20) - 512 - len(data)), tmp_path)


def test_a_full_refcount_table(tmp_path, qemu_img):
    path = tmp_path / "small.qcow2"
    options = ["-o", "cluster_size=512", "-o", "refcount_bits=64"]
    subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", *options, path, "8M"], check=True)
    with open_writer(path) as image, pytest.raises(SealRefused, match="refcount table is full") as caught:
        image.write_from(0, memoryview(bytes(range(256)) * (1 << 14)))
    assert caught.value.reason is SealReason.QCOW2_REFCOUNTS
    assert subprocess.run([qemu_img, "check", "-q", path], capture_output=True, check=False).returncode in (0, 3)


def test_a_backing_file_is_read_and_not_written(tmp_path, qemu_img, disk):
    base, path = tmp_path / "base.raw", tmp_path / "top.qcow2"
    base.write_bytes(disk)
    command = [qemu_img, "create", "-q", "-f", "qcow2", "-b", "base.raw", "-F", "raw", path]
    subprocess.run(command, check=True, cwd=tmp_path)
    with pytest.raises(ImageFormatError, match="allow"):
        open_writer(path)
    with open_writer(path, allow_backing=True) as image:
        image.write_from(100, memoryview(b"new"))
        assert image.read(0, DISK) == disk[:100] + b"new" + disk[103:]
    assert base.read_bytes() == disk
    assert subprocess.run([qemu_img, "check", "-q", path], check=False).returncode == 0
    with open_image(path, allow_backing=True) as image:
        assert image.read(0, DISK) == disk[:100] + b"new" + disk[103:]


def test_a_file_that_ends_inside_its_last_cluster(make, disk):
    """What is written behind its end is there at once."""
    path = make("512-byte clusters")
    with open(path, "r+b") as file:
        file.truncate(path.stat().st_size - 100)
    with open_writer(path) as image:
        (place,) = [at for at in range(0, DISK, 512) if disk[at : at + 512] != image.read(at, 512)]
        image.write_from(place + 450, memoryview(b"there"))
        assert image.read(place + 450, 5) == b"there"
    expected = disk[place : place + 412].ljust(450, b"\0") + b"there" + bytes(57)
    assert content(path)[place : place + 512] == expected


class TestRefusals:
    """By name, and the file stays as it is."""

    def refused(self, path, reason):
        before = path.read_bytes()
        with pytest.raises(SealRefused) as caught:
            open_writer(path)
        assert caught.value.reason is reason
        assert path.read_bytes() == before

    def test_snapshots(self, make, qemu_img):
        path = make("default")
        subprocess.run([qemu_img, "snapshot", "-c", "one", path], check=True)
        self.refused(path, SealReason.QCOW2_SNAPSHOTS)
        subprocess.run([qemu_img, "snapshot", "-d", "one", path], check=True)
        with open_writer(path) as image:
            image.write_from(0, memoryview(b"x"))
        assert subprocess.run([qemu_img, "check", "-q", path], check=False).returncode == 0

    def test_bitmaps(self, make, qemu_img):
        path = make("default")
        subprocess.run([qemu_img, "bitmap", "--add", path, "one"], check=True)
        self.refused(path, SealReason.QCOW2_BITMAPS)

    def test_a_data_file(self, tmp_path, qemu_img):
        path = tmp_path / "top.qcow2"
        options = ["-o", f"data_file={tmp_path / 'data.raw'}"]
        subprocess.run([qemu_img, "create", "-q", "-f", "qcow2", *options, path, "1M"], check=True)
        self.refused(path, SealReason.QCOW2_DATA_FILE)

    def test_encryption(self, tmp_path, qemu_img):
        path = tmp_path / "secret.qcow2"
        make_encrypted(qemu_img, path)
        self.refused(path, SealReason.QCOW2_ENCRYPTED)

    @pytest.mark.parametrize(
        ("offset", "value", "reason"),
        [
            (79, 1, SealReason.QCOW2_DIRTY),
            (79, 2, SealReason.QCOW2_CORRUPT),
            (79, 4, None),
            (95, 4, SealReason.QCOW2_FEATURE),
            (95, 1, SealReason.QCOW2_BITMAPS),
        ],
        ids=["dirty", "corrupt", "data file without name", "unknown", "bitmap bit"],
    )
    def test_feature_bits(self, make, offset, value, reason):
        path = make("default")
        data = bytearray(path.read_bytes())
        data[offset] |= value
        path.write_bytes(data)
        if reason is None:
            with pytest.raises(ImageFormatError):
                open_writer(path)
            assert path.read_bytes() == data
        else:
            self.refused(path, reason)

    def test_another_container(self, tmp_path):
        path = tmp_path / "disk.vhdx"
        path.write_bytes(b"vhdxfile".ljust(4096, b"\0"))
        with pytest.raises(ImageFormatError, match="VHDX"):
            open_writer(path)

    def test_a_raw_image_that_ends_inside_a_sector(self, tmp_path):
        path = tmp_path / "disk.raw"
        path.write_bytes(bytes(1000))
        with pytest.raises(ImageFormatError, match="ends inside a sector"):
            open_writer(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ImageError):
            open_writer(tmp_path / "none")


class TestWrongCounts:
    """Who trusts a wrong count overwrites what is in use."""

    def tables(self, path):
        data = bytearray(path.read_bytes())
        l1, counts = struct.unpack_from(">QQ", data, 40)
        (l2,) = struct.unpack_from(">Q", data, l1)
        (block,) = struct.unpack_from(">Q", data, counts)
        return data, l1, l2 & ~(1 << 63), block

    def refused(self, path, data):
        path.write_bytes(data)
        with pytest.raises(SealRefused) as caught, open_writer(path) as image:
            image.write_from(0, memoryview(b"x"))
        assert caught.value.reason is SealReason.QCOW2_REFCOUNTS
        assert path.read_bytes() == data

    @pytest.mark.parametrize("count", [0, 2])
    def test_of_data(self, make, count):
        path = make("default")
        data, _, l2, block = self.tables(path)
        cluster = (struct.unpack_from(">Q", data, l2)[0] & ~(1 << 63)) >> 16
        struct.pack_into(">H", data, block + 2 * cluster, count)
        self.refused(path, data)

    @pytest.mark.parametrize("count", [0, 2])
    def test_of_a_table(self, make, count):
        path = make("default")
        data, _, l2, block = self.tables(path)
        struct.pack_into(">H", data, block + 2 * (l2 >> 16), count)
        self.refused(path, data)

    def test_of_compressed_data(self, make, tmp_path):
        path = make("compressed")
        data, _, l2, block = self.tables(path)
        (entry,) = struct.unpack_from(">Q", data, l2 + 8 * 10)
        assert entry >> 62 & 1
        host = entry & ((1 << 58) - 1)
        struct.pack_into(">H", data, block + 2 * (host >> 12), 0)
        path.write_bytes(data)
        with pytest.raises(SealRefused) as caught, open_writer(path) as image:
            image.write_from(10 * 4096, memoryview(b"x"))
        assert caught.value.reason is SealReason.QCOW2_REFCOUNTS

    def test_not_marked_as_copied(self, make):
        path = make("default")
        data, _, l2, _ = self.tables(path)
        data[l2] &= 0x7F
        self.refused(path, data)

    def test_data_over_a_table(self, make):
        """The reader does not know refcount blocks; the writer does."""
        path = make("default")
        data, _, l2, block = self.tables(path)
        struct.pack_into(">Q", data, l2, block | 1 << 63)
        self.refused(path, data)

    def test_a_cluster_for_two_tables(self, make):
        path = make("512-byte clusters")
        data, l1, l2, _ = self.tables(path)
        struct.pack_into(">Q", data, l1 + 8, l2 | 1 << 63)
        self.refused(path, data)

    def test_a_cluster_with_two_owners(self, make):
        """Who writes to one would change the other; count and marks look right for each."""
        path = make("default")
        data, _, l2, _ = self.tables(path)
        one, other = [at for at in range(l2, l2 + 8 * (DISK >> 16), 8) if data[at] == 0x80][:2]
        data[other : other + 8] = data[one : one + 8]
        self.refused(path, data)

    def test_data_behind_the_end_of_the_file(self, make):
        """The next new cluster would lie there."""
        path = make("default")
        data, _, l2, _ = self.tables(path)
        struct.pack_into(">Q", data, l2 + 8 * 3, -(-len(data) >> 16 << 16) | 1 << 63)
        self.refused(path, data)

    def test_a_table_behind_the_end_of_the_file(self, make):
        path = make("512-byte clusters")
        data, l1, _, _ = self.tables(path)
        struct.pack_into(">Q", data, l1 + 8 * 3, len(data) + -len(data) % 512 | 1 << 63)
        self.refused(path, data)

    def test_compressed_data_over_other_data(self, make):
        path = make("512-byte clusters")
        data, _, l2, _ = self.tables(path)
        host = struct.unpack_from(">Q", data, l2)[0] & ~(1 << 63)
        for before in (0, 512):
            changed = bytearray(data)
            struct.pack_into(">Q", changed, l2 + 8 * 9, 1 << 62 | (before // 512) << 61 | (host - before))
            self.refused(path, changed)

    def test_a_table_of_counts_that_the_file_does_not_hold(self, make):
        """New clusters would lie in it."""
        path = make("default")
        data, *_ = self.tables(path)
        end = len(data) + -len(data) % 65536
        data += bytes(end - len(data) + 512)
        data[end : end + 512] = data[struct.unpack_from(">Q", data, 48)[0] :][:512]
        struct.pack_into(">QI", data, 48, end, 3)
        self.refused(path, data)

    @pytest.mark.parametrize("limit", ["MAX_CLUSTERS", "MAX_TABLES"])
    def test_more_than_can_be_looked_through(self, make, monkeypatch, limit):
        path = make("default")
        data, *_ = self.tables(path)
        monkeypatch.setattr(qcow2_owners, limit, 1)
        self.refused(path, data)

    def test_reserved_bits_and_places_outside(self, make):
        for value in (1, 0x100, 1 << 50, 1 << 15, 1 << 63):
            path = make("default")
            data = bytearray(path.read_bytes())
            (counts,) = struct.unpack_from(">Q", data, 48)
            (entry,) = struct.unpack_from(">Q", data, counts)
            struct.pack_into(">Q", data, counts, entry ^ value)
            path.write_bytes(data)
            with pytest.raises(SealRefused) as caught:
                open_writer(path)
            assert caught.value.reason is SealReason.QCOW2_REFCOUNTS


def test_bounds(make):
    with open_writer(make("default")) as image:
        for offset, length in ((DISK, 1), (-1, 1), (DISK - 1, 2)):
            with pytest.raises(UsageError):
                image.write_from(offset, memoryview(bytes(length)))
            with pytest.raises(UsageError):
                image.make_private(offset, length)


def test_a_file_that_is_put_in_its_place_is_not_taken_for_it(make, tmp_path):
    path = make("compressed")
    with open_writer(path) as image:
        other = tmp_path / "other"
        shutil.copy(path, other)
        other.replace(path)
        with pytest.raises(ImageError, match="another file took the place"):
            image.write_from(10 * 4096, memoryview(b"x"))


def test_a_header_of_another_file_is_not_taken(make, tmp_path, monkeypatch):
    """One that is in its place for a moment only, between two looks."""
    import sipl.disk.open_writer as module
    import sipl.disk.qcow2  # noqa: F401 - must have its own read_header before that is replaced
    import sipl.disk.qcow2_header as header

    path, other, aside = make("default"), tmp_path / "other", tmp_path / "aside"
    shutil.copy(path, other)
    real = header.read_header

    def swap(*_):
        path.rename(aside)
        other.rename(path)

    def read_and_swap_back(file):
        found = real(file)
        aside.replace(path)
        return found

    monkeypatch.setattr(module, "_check_marks", swap)
    monkeypatch.setattr(header, "read_header", read_and_swap_back)
    with pytest.raises(ImageError, match="another file took the place"):
        open_writer(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    form=st.sampled_from(("compressed", "512-byte clusters", "subclusters, compressed", "2-bit counts")),
    changes=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=8)), max_size=4),
    where=st.integers(0, DISK - 1000),
)
def test_any_image(images, tmp_path, form, changes, where):
    """An error of ours, or what was written is there."""
    path = tmp_path / "changed.qcow2"
    data = bytearray(images[form].read_bytes())
    tables = min(len(data), 1 << 16)
    for at, new in changes:
        start = int(at * (tables - len(new)))
        data[start : start + len(new)] = new
    path.write_bytes(data)
    try:
        with open_writer(path) as image:
            image.write_from(where, memoryview(b"x" * 1000))
            image.make_private(0, 512)
            image.flush()
            assert image.read(where, 1000) == b"x" * 1000
    except SiplError:
        return


class TestRaw:
    def test_writes_and_flushes(self, tmp_path):
        path = tmp_path / "disk.raw"
        path.write_bytes(bytes(4096))
        with open_writer(path) as image:
            image.write_from(100, memoryview(b"abc"))
            image.make_private(0, 4096)
            image.flush()
            assert image.read(99, 5) == b"\0abc\0"
            with pytest.raises(UsageError):
                image.write_from(4095, memoryview(b"xx"))
        assert path.read_bytes() == b"\0" * 100 + b"abc" + bytes(3993)

    def test_a_host_that_writes_in_pieces(self, tmp_path, monkeypatch):
        path = tmp_path / "disk.raw"
        path.write_bytes(bytes(4096))
        monkeypatch.setattr(writable_file, "_write_at", lambda fd, data, offset: os.pwrite(fd, data[:7], offset))
        monkeypatch.setattr(writable_file, "_read_at", lambda fd, length, offset: os.pread(fd, min(9, length), offset))
        with open_writer(path) as image:
            image.write_from(1000, memoryview(b"x" * 100))
            assert image.read(990, 120) == bytes(10) + b"x" * 100 + bytes(10)

    def test_a_host_without_positioned_access(self, tmp_path, monkeypatch):
        path = tmp_path / "disk.raw"
        path.write_bytes(bytes(4096))
        monkeypatch.setattr(writable_file, "_write_at", writable_file._write_at_by_seeking)
        monkeypatch.setattr(writable_file, "_read_at", writable_file._read_at_by_seeking)
        with open_writer(path) as image:
            image.write_from(1000, memoryview(b"x" * 100))
            assert image.read(990, 120) == bytes(10) + b"x" * 100 + bytes(10)

    def test_a_host_that_fails(self, tmp_path, monkeypatch):
        path = tmp_path / "disk.raw"
        path.write_bytes(bytes(4096))
        with open_writer(path) as image:

            def fails(*arguments):
                raise OSError(5, "Input/output error")

            monkeypatch.setattr(writable_file, "_write_at", fails)
            monkeypatch.setattr(writable_file, "_flush", fails)
            monkeypatch.setattr(writable_file, "_read_at", fails)
            with pytest.raises(ImageError, match="cannot be written at byte 5: Input/output error"):
                image.write_from(5, memoryview(b"x"))
            with pytest.raises(ImageError, match="cannot be flushed"):
                image.flush()
            with pytest.raises(ImageError, match="cannot be read"):
                image.read(0, 1)
