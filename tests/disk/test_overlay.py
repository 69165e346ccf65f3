from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sipl.disk.overlay as overlay_module
from sipl.disk.block_device import BlockOutOfRange
from sipl.disk.host_file import HostFile
from sipl.disk.open import open_image
from sipl.disk.overlay import CHUNK_SIZE, DirectRaw, Overlay, WritableDisk
from sipl.disk.raw import RawImage
from sipl.errors import ImageError, ImageFormatError, UsageError

fcntl = pytest.importorskip("fcntl", reason="a host without file locks writes to no image")
DISK = 4 * CHUNK_SIZE + 512 * 5


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk.img"
    path.write_bytes(os.urandom(DISK))
    return path


@pytest.fixture
def overlay(path):
    with Overlay(RawImage(HostFile(path))) as image:
        yield image


def put(image, offset, data):
    image.write_from(offset, memoryview(data))


class TestOverlay:
    def test_it_looks_like_the_image(self, overlay, path):
        assert (overlay.path, overlay.size, overlay.format) == (str(path), DISK, "raw")
        assert overlay.read(0, DISK) == path.read_bytes()
        assert overlay.kept == 0

    def test_reads_see_writes_and_the_image_does_not(self, overlay, path):
        before = path.read_bytes()
        put(overlay, 1000, b"new")
        overlay.flush()
        assert overlay.read(990, 30) == before[990:1000] + b"new" + before[1003:1020]
        assert overlay.read(0, DISK) == before[:1000] + b"new" + before[1003:]
        assert path.read_bytes() == before
        assert overlay.kept == CHUNK_SIZE

    def test_a_write_over_everything_and_one_at_the_end(self, overlay):
        data = os.urandom(DISK)
        put(overlay, 0, data)
        assert overlay.read(0, DISK) == data
        put(overlay, DISK - 1, b"\x42")
        assert overlay.read(DISK - 4, 4) == data[-4:-1] + b"\x42"
        assert overlay.kept == 5 * CHUNK_SIZE

    def test_it_keeps_no_more_than_the_disk_has(self, overlay):
        for _ in range(50):
            put(overlay, 0, bytes(DISK))
            put(overlay, CHUNK_SIZE - 1, b"ab")
        assert overlay.kept == 5 * CHUNK_SIZE
        assert os.fstat(overlay._file.fileno()).st_size <= 5 * CHUNK_SIZE

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (DISK, 1), (DISK - 1, 2), (0, DISK + 1), (1 << 64, 1)])
    def test_outside_the_disk(self, overlay, offset, length):
        with pytest.raises(UsageError):
            put(overlay, offset, bytes(length))
        with pytest.raises(UsageError):
            overlay.read(offset, length)
        assert overlay.kept == 0

    def test_nothing_at_all(self, overlay):
        put(overlay, DISK, b"")
        put(overlay, 5, b"")
        assert overlay.kept == 0

    def test_no_file_before_the_first_write_and_none_with_a_name_after_it(self, path, tmp_path):
        folder = tmp_path / "temporary"
        folder.mkdir()
        with Overlay(RawImage(HostFile(path)), str(folder)) as image:
            image.read(0, 10)
            put(image, 0, b"x")
            assert list(folder.iterdir()) == []
        image.close()

    def test_a_host_without_room(self, overlay, monkeypatch):
        put(overlay, 0, b"kept")
        before = overlay.read(0, DISK)

        def full(fd, data, offset):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(overlay_module, "_write_at", full)
        for offset in (0, CHUNK_SIZE, CHUNK_SIZE + 5):
            with pytest.raises(ImageError, match=r"cannot be kept: No space left on device .*TMPDIR"):
                put(overlay, offset, bytes(CHUNK_SIZE))
        monkeypatch.undo()
        assert overlay.read(0, DISK) == before
        assert overlay.kept == CHUNK_SIZE

    def test_a_folder_that_is_not_there(self, path, tmp_path):
        with Overlay(RawImage(HostFile(path)), str(tmp_path / "no")) as image, pytest.raises(ImageError):
            put(image, 0, b"x")

    def test_a_temporary_file_that_somebody_cut(self, overlay):
        put(overlay, 0, b"x")
        os.ftruncate(overlay._file.fileno(), 100)
        with pytest.raises(ImageError, match="not there any more"):
            overlay.read(0, 200)

    def test_an_image_that_became_shorter(self, overlay, path):
        os.truncate(path, CHUNK_SIZE)
        with pytest.raises(ImageError):
            put(overlay, CHUNK_SIZE + 1, b"x")
        assert overlay.kept == 0

    def test_a_host_that_reads_and_writes_in_pieces(self, overlay, monkeypatch):
        monkeypatch.setattr(overlay_module, "_read_at", lambda fd, b, o: os.preadv(fd, (b[:1000],), o))
        monkeypatch.setattr(overlay_module, "_write_at", lambda fd, b, o: os.pwrite(fd, b[:777], o))
        data = os.urandom(DISK)
        put(overlay, 0, data)
        assert overlay.read(0, DISK) == data

    def test_a_host_without_positioned_access(self, overlay, monkeypatch):
        monkeypatch.setattr(overlay_module, "_read_at", overlay_module._read_by_seeking)
        monkeypatch.setattr(overlay_module, "_write_at", overlay_module._write_by_seeking)
        data = os.urandom(DISK)
        put(overlay, 0, data)
        put(overlay, 70000, b"abc")
        assert overlay.read(0, DISK) == data[:70000] + b"abc" + data[70003:]

    def test_over_qcow2(self, data):
        with open_image(data / "disk" / "zlib.qcow2") as plain:
            before = plain.read(0, plain.size)
        with Overlay(open_image(data / "disk" / "zlib.qcow2")) as image:
            assert image.format == "qcow2"
            put(image, 600, b"new")
            assert image.read(0, image.size) == before[:600] + b"new" + before[603:]


@given(st.lists(st.tuples(st.integers(0, DISK), st.integers(0, DISK), st.booleans()), max_size=12))
@settings(max_examples=150, deadline=None)
def test_an_overlay_is_a_disk(tmp_path_factory, steps):
    folder = tmp_path_factory.getbasetemp() / "overlay"
    folder.mkdir(exist_ok=True)
    content = bytes(range(256)) * (DISK // 256)
    (folder / "disk").write_bytes(content)
    model = bytearray(content)
    with Overlay(RawImage(HostFile(folder / "disk"))) as image:
        for number, (start, end, write) in enumerate(steps):
            low, high = min(start, end), max(start, end)
            if write:
                piece = bytes([number]) * (high - low)
                put(image, low, piece)
                model[low:high] = piece
            assert image.read(low, high - low) == model[low:high]
        assert image.read(0, DISK) == model
    assert (folder / "disk").read_bytes() == content


class TestWritableDisk:
    @pytest.mark.parametrize("block_size", [512, 4096])
    def test_blocks(self, overlay, path, block_size):
        disk = WritableDisk(overlay, block_size)
        data = os.urandom(3 * block_size)
        disk.write_blocks(2, 3, memoryview(data))
        disk.flush()
        buffer = bytearray(5 * block_size)
        disk.read_blocks(1, 5, memoryview(buffer))
        content = path.read_bytes()
        assert buffer == content[block_size : 2 * block_size] + data + content[5 * block_size : 6 * block_size]

    @pytest.mark.parametrize(("block", "count"), [(-1, 1), (0, -1), (65, 1), (64, 2), (1 << 64, 1)])
    def test_blocks_that_are_not_there(self, overlay, block, count):
        disk = WritableDisk(overlay, 4096)
        assert disk.blocks == 64
        with pytest.raises(BlockOutOfRange):
            disk.write_blocks(block, count, memoryview(bytes(max(0, count) * 4096)))

    def test_a_buffer_of_another_length(self, overlay):
        with pytest.raises(UsageError, match="are not 2 blocks"):
            WritableDisk(overlay, 512).write_blocks(0, 2, memoryview(bytes(512)))
        assert overlay.kept == 0


class TestDirectRaw:
    def test_writes_reach_the_file(self, path):
        before = path.read_bytes()
        with DirectRaw(path) as image:
            assert (image.path, image.size, image.format) == (str(path), DISK, "raw")
            put(image, 1000, b"new")
            assert image.read(999, 5) == before[999:1000] + b"new" + before[1003:1004]
            image.flush()
            assert path.read_bytes() == before[:1000] + b"new" + before[1003:]
            with pytest.raises(UsageError):
                put(image, DISK - 1, b"xx")
        assert path.stat().st_size == DISK
        image.close()

    def test_a_second_one_and_other_programs_are_kept_out(self, path):
        with DirectRaw(path):
            with pytest.raises(UsageError, match="another program uses the image"):
                DirectRaw(path)
            with open(path, "r+b") as other, pytest.raises(BlockingIOError):
                fcntl.flock(other, fcntl.LOCK_SH | fcntl.LOCK_NB)
        DirectRaw(path).close()

    def test_a_lock_of_another_program_is_respected(self, path):
        with open(path, "rb") as other:
            fcntl.flock(other, fcntl.LOCK_SH)
            with pytest.raises(UsageError, match="another program uses the image"):
                DirectRaw(path)
        DirectRaw(path).close()

    @pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="the host has no locks by open file description")
    def test_a_lock_of_single_bytes_is_respected(self, path):
        """As QEMU has it: shared locks on bytes from 100 on."""
        code = (
            "import fcntl, sys\n"
            "file = open(sys.argv[1], 'rb')\n"
            "fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB, 1, 100)\n"
            "print('locked', flush=True)\n"
            "sys.stdin.read()\n"
        )
        with subprocess.Popen(
            [sys.executable, "-c", code, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as other:
            assert other.stdout.readline() == "locked\n"
            with pytest.raises(UsageError, match="another program uses the image"):
                DirectRaw(path)
            other.stdin.close()
        DirectRaw(path).close()

    def test_qemu_is_kept_out(self, path, need_tool):
        tool = need_tool("qemu-io", "qemu-utils")
        command = [tool, "-f", "raw", "-c", "write 0 512", str(path)]
        with DirectRaw(path):
            refused = subprocess.run(command, capture_output=True, text=True, check=False)
        assert "lock" in refused.stdout + refused.stderr
        assert subprocess.run(command, capture_output=True, check=False).returncode == 0

    def test_qcow2_and_other_containers(self, data, tmp_path):
        copy = tmp_path / "disk.qcow2"
        shutil.copy(data / "disk" / "zlib.qcow2", copy)
        with pytest.raises(UsageError, match="a qcow2 image is not written to"):
            DirectRaw(copy)
        other = tmp_path / "disk.vhdx"
        other.write_bytes(b"vhdxfile".ljust(4096, b"\0"))
        with pytest.raises(ImageFormatError):
            DirectRaw(other)

    def test_a_file_that_ends_inside_a_sector(self, tmp_path):
        path = tmp_path / "disk"
        path.write_bytes(bytes(1000))
        with pytest.raises(UsageError, match="inside a sector"):
            DirectRaw(path)

    def test_a_file_that_may_not_be_written(self, path, monkeypatch):
        real = os.open

        def refuse(name, flags, *more, **how):
            if flags & os.O_RDWR:
                raise PermissionError(13, "Permission denied")
            return real(name, flags, *more, **how)

        monkeypatch.setattr(os, "open", refuse)
        with pytest.raises(ImageError, match="cannot be opened for writing"):
            DirectRaw(path)

    def test_a_file_that_is_not_there(self, tmp_path):
        with pytest.raises(ImageError):
            DirectRaw(tmp_path / "no")

    def test_a_raw_image_does_not_become_a_qcow2_image(self, path):
        before = path.read_bytes()
        with DirectRaw(path) as image:
            with pytest.raises(ImageError, match="look like a qcow2 image"):
                put(image, 0, b"QFI\xfb" + bytes(508))
            put(image, 0, b"QFI")
            with pytest.raises(ImageError, match="look like a qcow2 image"):
                put(image, 3, b"\xfb" + bytes(508))
            put(image, 1, b"FI\xfa")
            put(image, 4, b"QFI\xfb")
        assert path.read_bytes() == b"QFI\xfaQFI\xfb" + before[8:]

    def test_a_host_that_fails(self, path, monkeypatch):
        with DirectRaw(path) as image:

            def fails(*arguments):
                raise OSError(errno.EIO, "Input/output error")

            monkeypatch.setattr(overlay_module, "_write_at", fails)
            monkeypatch.setattr(os, "fsync", fails)
            with pytest.raises(ImageError, match="cannot be written to: Input/output error"):
                put(image, 0, b"x")
            with pytest.raises(ImageError, match="cannot be flushed: Input/output error"):
                image.flush()

    def test_it_is_fast_enough_to_be_of_use(self, path):
        data = memoryview(bytes(CHUNK_SIZE))
        begun = time.monotonic()
        with DirectRaw(path) as image:
            for _ in range(1000):
                image.write_from(0, data)
        assert time.monotonic() - begun < 5
