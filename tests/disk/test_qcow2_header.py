from __future__ import annotations

import os
import struct

import pytest

from sipl.disk.host_file import HostFile
from sipl.disk.qcow2_header import MAX_HEADER_EXTENSIONS, read_header
from sipl.errors import ImageFormatError


@pytest.fixture
def check(tmp_path):
    def read(writer):
        return read_header(HostFile(writer.write(tmp_path / "a.qcow2")))

    return read


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("bits", [9, 12, 16, 21])
def test_what_the_header_says(qcow2, check, version, bits):
    found = check(qcow2.Writer("D.", cluster_bits=bits, version=version))
    assert (found.version, found.cluster_bits, found.size) == (version, bits, 2 << bits)
    assert found.l1_offset == 3 << bits
    assert found.areas == (
        ("header", 0, 1 << bits),
        ("L1 table", 3 << bits, (3 << bits) + 8),
        ("refcount table", 1 << bits, 2 << bits),
    )
    assert (found.extended, found.compression, found.dirty) == (False, 0, False)
    assert (found.backing_name, found.backing_format, found.data_file_name) == (None, None, None)


def test_a_size_is_cut_to_whole_sectors(qcow2, check):
    writer = qcow2.Writer("DD")
    writer.header(size=1000)
    assert check(writer).size == 512


def test_a_dirty_image_is_read(qcow2, check):
    writer = qcow2.Writer("D")
    writer.header(incompatible=1)
    assert check(writer).dirty


def test_compatible_and_autoclear_bits_are_no_reason_to_refuse(qcow2, check):
    writer = qcow2.Writer("D")
    writer.header(compatible=(1 << 64) - 1, autoclear=(1 << 64) - 1, snapshots=99, snapshots_offset=77)
    assert check(writer).size == 512


@pytest.mark.parametrize("length", [104, 112, 120, 256])
def test_header_lengths_that_are_allowed(qcow2, check, length):
    writer = qcow2.Writer("D")
    writer.header(header_length=length)
    assert check(writer).compression == 0


BAD = {
    "magic": ({"magic": b"QFI\0"}, "no qcow2 header"),
    "version-1": ({"version": 1}, "qcow version 1"),
    "version-4": ({"version": 4}, "qcow version 4"),
    "header-length-short": ({"header_length": 96}, "impossible length of 96"),
    "header-length-odd": ({"header_length": 105}, "impossible length"),
    "header-length-huge": ({"header_length": 0xFFFF_FFF8}, "impossible length"),
    "header-longer-than-cluster": ({"header_length": 520}, "longer than a cluster"),
    "refcount-order": ({"refcount_order": 7}, "refcount order 7"),
    "corrupt": ({"incompatible": 2}, "marked as corrupt"),
    "unknown-bit-5": ({"incompatible": 1 << 5}, "incompatible bit 5"),
    "unknown-bit-63": ({"incompatible": 1 << 63 | 1}, "incompatible bit 63"),
    "cluster-bits-0": ({"cluster_bits": 0}, r"2\^0"),
    "cluster-bits-8": ({"cluster_bits": 8}, r"2\^8"),
    "cluster-bits-22": ({"cluster_bits": 22}, r"2\^22"),
    "cluster-bits-huge": ({"cluster_bits": 0xFFFF_FFFF}, r"2\^4294967295"),
    "extended-with-small-clusters": ({"incompatible": 16}, "too small for subclusters"),
    "compression-unknown": ({"compression": 2, "incompatible": 8}, "compression type 2 is unknown"),
    "compression-without-bit": ({"compression": 1}, "contradicts incompatible bit 3"),
    "bit-without-compression": ({"incompatible": 8}, "contradicts incompatible bit 3"),
    "size-0": ({"size": 0}, "less than one sector"),
    "size-511": ({"size": 511}, "less than one sector"),
    "size-over-64-PiB": ({"size": (1 << 56) + 512}, "more than 64 PiB"),
    "size-all-ones": ({"size": (1 << 64) - 1}, "more than 64 PiB"),
    "l1-too-small": ({"size": 512 * 64 + 1}, "L1 table has 1 entries, the virtual disk needs 2"),
    "l1-empty": ({"l1_size": 0}, "L1 table has 0 entries"),
    "l1-huge": ({"l1_size": 0xFFFF_FFFF}, "over 32 MiB"),
    "l1-unaligned": ({"l1_offset": 3 * 512 + 8}, "L1 table at byte 1544 does not begin with a cluster"),
    "l1-outside": ({"l1_offset": 1 << 40}, "L1 table .* outside the file"),
    "l1-past-64-bit": ({"l1_offset": (1 << 64) - 512}, "L1 table .* outside the file"),
    "l1-ends-outside": ({"l1_size": 1000}, "L1 table .* outside the file"),
    "l1-is-header": ({"l1_offset": 0}, "L1 table at byte 0 overlaps the header"),
    "l1-is-refcount-table": ({"l1_offset": 512}, "overlaps the L1 table"),
    "refcount-table-is-header": ({"refcount_offset": 0}, "refcount table at byte 0 overlaps the header"),
    "refcount-table-over-l1": ({"refcount_clusters": 3}, "refcount table at byte 512 overlaps the L1 table"),
    "refcount-table-unaligned": ({"refcount_offset": 513}, "does not begin with a cluster"),
    "refcount-table-outside": ({"refcount_offset": 1 << 50}, "refcount table .* outside the file"),
    "refcount-table-empty": ({"refcount_clusters": 0}, "refcount table of 0 clusters"),
    "refcount-table-huge": ({"refcount_clusters": 0xFFFF_FFFF}, "refcount table of 4294967295 clusters"),
    "aes": ({"crypt": 1}, "encrypted"),
    "luks": ({"crypt": 2}, "encrypted"),
    "data-file-without-name": ({"incompatible": 4}, "does not say in which"),
    "backing-name-in-header": ({"backing_offset": 8, "backing_size": 5}, "cannot be the name"),
    "backing-name-outside-cluster": ({"backing_offset": 500, "backing_size": 100}, "cannot be the name"),
    "backing-name-empty": ({"backing_offset": 120, "backing_size": 0}, "cannot be the name"),
    "backing-name-too-long": ({"backing_offset": 120, "backing_size": 1024}, "cannot be the name"),
    "backing-name-far": ({"backing_offset": (1 << 64) - 1, "backing_size": 5}, "cannot be the name|do not end|not fit"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_header(qcow2, check, name):
    changes, says = BAD[name]
    writer = qcow2.Writer("DD")
    writer.header(**changes)
    with pytest.raises(ImageFormatError, match=says) as caught:
        check(writer)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("length", [4, 71, 72, 103])
def test_a_file_that_ends_in_its_header(qcow2, tmp_path, length):
    path = tmp_path / "a.qcow2"
    path.write_bytes(qcow2.Writer("D").file[:length])
    with pytest.raises(ImageFormatError):
        read_header(HostFile(path))


def test_the_encryption_header_alone_is_encryption(qcow2, check):
    writer = qcow2.Writer("D")
    writer.extension(0x0537BE77, bytes(16))
    with pytest.raises(ImageFormatError, match="encrypted"):
        check(writer)


def test_unknown_extensions_are_passed_over(qcow2, check):
    writer = qcow2.Writer("D")
    writer.extension(0x6803F857, b"x" * 13)
    writer.extension(0xE2792ACA, b"raw")
    assert check(writer).backing_format == b"raw"


def test_an_extension_that_appears_twice(qcow2, check):
    writer = qcow2.Writer("D")
    writer.extension(0xE2792ACA, b"raw")
    writer.extension(0xE2792ACA, b"qcow2")
    with pytest.raises(ImageFormatError, match="twice"):
        check(writer)


@pytest.mark.parametrize("length", [393, 512, 0xFFFF_FFFF])
def test_an_extension_that_does_not_fit(qcow2, check, length):
    writer = qcow2.Writer("D")
    writer.file[112:120] = struct.pack(">II", 1, length)
    with pytest.raises(ImageFormatError, match="does not fit"):
        check(writer)


def test_an_extension_may_fill_the_cluster(qcow2, check):
    writer = qcow2.Writer("D")
    writer.file[112:120] = struct.pack(">II", 1, 392)
    assert check(writer).size == 512


def test_extensions_without_end(qcow2, check):
    writer = qcow2.Writer("D", cluster_bits=16)
    area = struct.pack(">II", 1, 0)
    for count, allowed in ((MAX_HEADER_EXTENSIONS - 1, True), (MAX_HEADER_EXTENSIONS, False)):
        writer.extensions = area * count
        writer.header()
        if allowed:
            assert check(writer).cluster_bits == 16
        else:
            with pytest.raises(ImageFormatError, match="do not end"):
                check(writer)


def test_the_extension_area_ends_with_the_backing_name(qcow2, check):
    writer = qcow2.Writer("D")
    writer.extension(0xE2792ACA, b"qcow2")
    writer.header(backing=b"base.qcow2")
    found = check(writer)
    assert (found.backing_name, found.backing_format) == (b"base.qcow2", b"qcow2")


def test_the_name_of_the_data_file(qcow2, check):
    writer = qcow2.Writer("D")
    writer.extension(0x44415441, b"disk.data")
    assert check(writer).data_file_name is None  # the bit decides, not the name
    writer.header(incompatible=4)
    assert check(writer).data_file_name == b"disk.data"


def test_a_data_file_name_that_is_too_long(qcow2, check):
    writer = qcow2.Writer("D", cluster_bits=12)
    writer.extension(0x44415441, b"x" * 1024)
    writer.header(incompatible=4)
    with pytest.raises(ImageFormatError, match="1024 bytes"):
        check(writer)


def test_the_header_is_read_in_one_piece_and_bounded(qcow2, tmp_path, reads):
    path = qcow2.Writer("D", cluster_bits=21).write(tmp_path / "a")
    os.truncate(path, 1 << 30)
    read_header(HostFile(path))
    assert reads == [(0, 65536)]
