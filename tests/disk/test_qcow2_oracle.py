"""qcow2 images as QEMU writes them, against what QEMU itself reads from them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess

import pytest
from luks_lab import make_encrypted

from sipl.disk.open import open_image
from sipl.errors import ImageFormatError

SIZE = 3 << 20


@pytest.fixture(scope="module")
def qemu(need_tool):
    programs = {name: need_tool(name, "qemu-utils") for name in ("qemu-img", "qemu-io")}

    def run(name, *arguments, cwd=None):
        command = [programs[name], *map(str, arguments)]
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=cwd)
        assert ran.returncode == 0, ran.stderr + ran.stdout
        return ran.stdout

    return run


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A disk with data that compresses, data that does not, and holes."""
    chance = random.Random(5)
    content = bytearray(SIZE)
    for start in range(0, SIZE, 48 << 10):
        kind = chance.choice(["none", "text", "random"])
        length = chance.randrange(512, 48 << 10, 512)
        if kind == "text":
            content[start : start + length] = (b"%08x " % start * length)[:length]
        elif kind == "random":
            content[start : start + length] = chance.randbytes(length)
    path = tmp_path_factory.mktemp("oracle") / "source.raw"
    path.write_bytes(content[:SIZE])
    return path


def same(qemu, path, *, compare_with=None, **options):
    """Compare all of the image, and pieces of it in no order, with what QEMU reads."""
    oracle = compare_with
    if oracle is None:
        oracle = path.with_suffix(".oracle")
        # QEMU looks for a data file where it was started, not beside the image.
        qemu("qemu-img", "convert", "-O", "raw", path, oracle, cwd=path.parent)
    expected = oracle.read_bytes()
    with open_image(path, **options) as image:
        assert image.format == "qcow2"
        assert image.size == len(expected)
        assert hashlib.sha256(image.read(0, image.size)).digest() == hashlib.sha256(expected).digest()
        chance = random.Random(7)
        for _ in range(100):
            start = chance.randrange(image.size)
            length = min(chance.choice([1, 512, 4096, 70_000]), image.size - start)
            assert image.read(start, length) == expected[start : start + length]


VARIANTS = {
    **{f"cluster-{1 << bits}": f"cluster_size={1 << bits}" for bits in range(9, 22)},
    "v2": "compat=0.10",
    "v2-cluster-512": "compat=0.10,cluster_size=512",
    "v2-cluster-2M": "compat=0.10,cluster_size=2M",
    "extended-16k": "extended_l2=on,cluster_size=16k",
    "extended-64k": "extended_l2=on,cluster_size=64k",
    "extended-2M": "extended_l2=on,cluster_size=2M",
    "lazy-refcounts": "lazy_refcounts=on",
    "refcount-bits-1": "refcount_bits=1",
    "refcount-bits-64": "refcount_bits=64",
    "preallocated-metadata": "preallocation=metadata",
    "preallocated-metadata-512": "preallocation=metadata,cluster_size=512",
    "preallocated-extended": "preallocation=metadata,extended_l2=on",
    "preallocated-falloc": "preallocation=falloc",
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant(qemu, source, tmp_path, name):
    path = tmp_path / "a.qcow2"
    qemu("qemu-img", "convert", "-O", "qcow2", "-o", VARIANTS[name], source, path)
    same(qemu, path, compare_with=source)


COMPRESSED = {
    **{f"zlib-{1 << bits}": f"cluster_size={1 << bits}" for bits in (9, 12, 16, 21)},
    "zlib-v2": "compat=0.10",
    **{f"zstd-{1 << bits}": f"compression_type=zstd,cluster_size={1 << bits}" for bits in (9, 12, 16, 21)},
    "zlib-extended": "extended_l2=on",
    "zstd-extended": "extended_l2=on,compression_type=zstd,cluster_size=32k",
}


@pytest.mark.parametrize("name", COMPRESSED)
def test_compressed(qemu, source, tmp_path, name):
    path = tmp_path / "a.qcow2"
    qemu("qemu-img", "convert", "-c", "-O", "qcow2", "-o", COMPRESSED[name], source, path)
    assert json.loads(qemu("qemu-img", "check", "--output=json", path))["compressed-clusters"] > 0
    same(qemu, path, compare_with=source)


@pytest.mark.parametrize(
    "name", ["cluster_size=64k", "cluster_size=512", "extended_l2=on,cluster_size=16k", "compat=0.10"]
)
def test_written_to_and_fro(qemu, tmp_path, name):
    """Data, zeros with and without a place, and discarded data, in pieces that respect no cluster."""
    path = tmp_path / "a.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", name, path, SIZE + 1536)
    chance = random.Random(name)
    commands = []
    for _ in range(40):
        start = chance.randrange(0, SIZE, 512)
        length = min(chance.choice([512, 1536, 4096, 66048, 200 << 10]), SIZE - start)
        verb = chance.choice([f"write -P 0x{chance.randrange(1, 256):02x}", "write -z", "write -z -u", "discard"])
        commands += ["-c", f"{verb} {start} {length}"]
    qemu("qemu-io", "-f", "qcow2", "-d", "unmap", *commands, path)
    same(qemu, path)


def test_snapshots_and_saved_state_do_not_matter(qemu, tmp_path):
    path = tmp_path / "a.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", path, SIZE)
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 200k", path)
    qemu("qemu-img", "snapshot", "-c", "first", path)
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 2 64k 70k", "-c", "write -z 10k 10k", path)
    same(qemu, path)


def test_grown_and_shrunk(qemu, tmp_path):
    path = tmp_path / "a.qcow2"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=512", path, "20k")
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 1 0 20k", path)
    qemu("qemu-img", "resize", "-q", path, "10M")
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 2 9M 100k", path)
    same(qemu, path)
    qemu("qemu-img", "resize", "-q", "--shrink", path, "9M")
    path.with_suffix(".oracle").unlink()
    same(qemu, path)


@pytest.mark.parametrize("fmt", ["raw", "qcow2"])
@pytest.mark.parametrize("options", ["", "extended_l2=on,cluster_size=16k"])
def test_backing_files(qemu, source, tmp_path, fmt, options):
    base = tmp_path / "base.img"
    qemu("qemu-img", "convert", "-O", fmt, source, base)
    path = tmp_path / "a.qcow2"
    arguments = ("-o", options) if options else ()
    qemu("qemu-img", "create", "-q", "-f", "qcow2", *arguments, "-b", "base.img", "-F", fmt, path, SIZE + (1 << 20))
    qemu("qemu-io", "-f", "qcow2", "-c", "write -P 9 100k 70k", "-c", "write -z 1M 100k", path)
    same(qemu, path, allow_backing=True)
    with pytest.raises(ImageFormatError, match="backing file"):
        open_image(path)


@pytest.mark.parametrize("raw", ["off", "on"])
def test_data_files(qemu, tmp_path, raw):
    path = tmp_path / "a.qcow2"
    options = f"data_file=a.data,data_file_raw={raw}"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, SIZE, cwd=tmp_path)
    commands = ("-c", "write -P 9 0 70k", "-c", "write -P 3 1M 100k", "-c", "write -z 1M 10k")
    qemu("qemu-io", "-f", "qcow2", *commands, path, cwd=tmp_path)
    same(qemu, path, allow_backing=True)
    with pytest.raises(ImageFormatError, match="data file"):
        open_image(path)


@pytest.mark.parametrize("kind", ["luks", "aes"])
def test_encrypted(need_tool, tmp_path, kind):
    path = tmp_path / "a.qcow2"
    make_encrypted(need_tool("qemu-img", "qemu-utils"), path, kind)
    with pytest.raises(ImageFormatError, match="encrypted"):
        open_image(path)


@pytest.mark.parametrize("options", ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"])
def test_a_hundred_gibibytes_cost_what_is_read(qemu, tmp_path, reads, options):
    path = tmp_path / "a.qcow2"
    kernel = 4 << 20
    size = 100 << 30
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, path, size)
    place = 90 << 30
    qemu("qemu-io", "-f", "qcow2", "-c", f"write -P 7 {place} {kernel}", "-c", "write -P 8 0 4k", path)
    with open_image(path) as image:
        assert image.size == size
        opening = list(reads)
        assert image.read(0, 512) == b"\x08" * 512
        assert image.read(place, kernel) == b"\x07" * kernel
        assert image.read(50 << 30, 1 << 20) == bytes(1 << 20)
        assert image.read(size - 512, 512) == bytes(512)
    assert opening == [(0, 512), (0, 64 << 10)]
    assert sum(length for _, length in reads) < kernel + (1 << 20)
    assert len(reads) < 20


def test_a_raw_hole_of_a_hundred_gibibytes(tmp_path, reads):
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        file.truncate(100 << 30)
        os.pwrite(file.fileno(), b"x" * 4096, 70 << 30)
    with open_image(path) as image:
        assert image.read(70 << 30, 4096) == b"x" * 4096
    assert sum(length for _, length in reads) == 4096 + 512
