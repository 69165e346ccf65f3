"""The images of tests/data/disk: foreign qcow2 images, wherever the tests run."""

from __future__ import annotations

import gzip
import shutil

import pytest

from sipl.disk.open import open_image
from sipl.errors import ImageFormatError


@pytest.fixture
def expected(qcow2):
    return b"".join(qcow2.sector(i) if i < 20 or 40 <= i < 44 else bytes(512) for i in range(48))


@pytest.mark.parametrize("name", ["v2", "zlib", "zstd"])
def test_images(data, expected, name):
    with open_image(data / "disk" / f"{name}.qcow2") as image:
        assert image.format == "qcow2"
        assert image.read(0, image.size) == expected


def test_zero_clusters_that_have_a_place(data, expected):
    with open_image(data / "disk" / "v3-zero.qcow2") as image:
        assert image.read(0, image.size) == expected[: 16 * 512] + bytes(2048) + expected[20 * 512 :]


def test_extended_entries(data, expected, tmp_path):
    (tmp_path / "a").write_bytes(gzip.decompress((data / "disk" / "extended.qcow2.gz").read_bytes()))
    with open_image(tmp_path / "a") as image:
        assert image.read(0, image.size) == expected


def test_a_backing_file(data, expected, tmp_path):
    path = data / "disk" / "backed.qcow2"
    with open_image(path, allow_backing=True) as image:
        assert image.read(0, image.size) == expected[:512] + b"\x5a" * 512 + expected[1024:]
    with pytest.raises(ImageFormatError, match="--allow-backing"):
        open_image(path)
    shutil.copy(path, tmp_path)
    with (
        pytest.raises(ImageFormatError, match="--allow-backing"),
        open_image(tmp_path / "backed.qcow2"),
    ):
        pass
    shutil.copy(data / "disk" / "v2.qcow2", tmp_path)
    with open_image(tmp_path / "backed.qcow2", allow_backing=True, backing_folder=tmp_path) as image:
        assert image.read(512, 512) == b"\x5a" * 512


def test_every_truncation_is_an_error_or_a_hole(data, expected, tmp_path):
    """Whatever is missing at the end: the bytes are right, or zeros where the file ends, or refused."""
    content = (data / "disk" / "v2.qcow2").read_bytes()
    refused = 0
    for length in range(0, len(content), 256):
        (tmp_path / "a").write_bytes(content[:length])
        try:
            with open_image(tmp_path / "a") as image:
                found = image.read(0, image.size)
        except (ImageFormatError, OSError):
            refused += 1
            continue
        wrong = [i for i in range(48) if found[i * 512 : i * 512 + 512] != expected[i * 512 : i * 512 + 512]]
        assert len(wrong) <= 1
        for i in wrong:
            assert found[i * 512 : i * 512 + 256] == expected[i * 512 : i * 512 + 256]
    assert refused > len(content) // 256 - 4
