"""Bad input gets one clear line or a report, never a traceback; images are never changed."""

from __future__ import annotations

import os
import shlex
import signal
import stat
import subprocess
import time
import zlib

import pytest
from cli_lab import PATIENCE, command, environment
from qcow2_lab import CLUSTER, COPIED, PIECES, qcow2

BOOT = ("boot", "--engine", "none")


@pytest.fixture(scope="session")
def content(demo) -> bytes:
    with open(demo.disk, "rb") as disk:
        return disk.read(1 << 20)


def _good(content):
    return qcow2(content)


def _l1_beyond_the_end(content):
    return qcow2(content, l1_offset=1 << 40)


def _l1_not_aligned(content):
    return qcow2(content, l1_offset=CLUSTER + 512)


def _data_in_its_own_table(content):
    """The L1 table leads to an L2 table that leads to itself: a loop of what is metadata and what is data."""
    return qcow2(content, l2=[2 * CLUSTER | COPIED] * PIECES)


def _data_beyond_the_end(content):
    return qcow2(content, l2=[(1 << 40) | COPIED] * PIECES)


def _encrypted(content):
    return qcow2(content, encryption=1)


def _backed_by_itself(content):
    return qcow2(content, backing=b"image")


def _backed_by_missing(content):
    return qcow2(content, backing=b"missing.raw")


def _version_9(content):
    return qcow2(content, version=9)


def _compressed_garbage(content):
    return qcow2(content, l2=[1 << 62 | 5 * CLUSTER] * PIECES)


def _short_header(content):
    return qcow2(content)[:40]


def _cut(content):
    """Nothing of the data is there; an image may end inside its last cluster only."""
    return qcow2(content)[: 5 * CLUSTER]


def _vmdk(content):
    return b"KDMV" + content[4:]


BROKEN_IMAGES = {
    image.__name__.strip("_"): image
    for image in (
        _l1_beyond_the_end,
        _l1_not_aligned,
        _data_in_its_own_table,
        _data_beyond_the_end,
        _encrypted,
        _backed_by_itself,
        _backed_by_missing,
        _version_9,
        _compressed_garbage,
        _short_header,
        _cut,
        _vmdk,
    )
}


def one_line(text: str) -> str:
    """The only line of a text."""
    assert text.endswith("\n")
    assert text.count("\n") == 1
    assert "Traceback" not in text
    return text[:-1]


def check_undecided(sipl, demo, path):
    """Every command says where and why in one line; boot and verify as a report, also in JSON."""
    for words in ((*BOOT, *demo.secure), ("verify", *demo.trusted)):
        result = sipl(*words, path)
        assert (result.code, result.err, len(result.lines)) == (2, "", 2)
        assert result.lines[1].startswith("  error: image-")
        assert os.path.basename(path) in result.lines[1]
        (report,) = sipl(*words, "--json", path).json
        assert (report["outcome"], report["would_boot"]) == ("undecided", None)
        assert report["reason"] in ("image-unreadable", "image-invalid")
        assert report["findings"][-1]["message"]
    for words in (("inspect",), ("inspect", "--json")):
        result = sipl(*words, path)
        assert (result.code, result.out) == (2, "")
        assert one_line(result.err).startswith(f"sipl: {path}: ")


def test_the_maker_of_images_makes_good_ones(sipl, demo, content, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(_good(content))
    assert sipl("verify", *demo.trusted, path).code == 0
    assert sipl("inspect", "--json", path).json[0]["format"] == "qcow2"


@pytest.mark.parametrize("make", BROKEN_IMAGES.values(), ids=BROKEN_IMAGES)
def test_a_broken_image(sipl, demo, content, tmp_path, make):
    path = tmp_path / "image"
    path.write_bytes(make(content))
    started = time.monotonic()
    check_undecided(sipl, demo, str(path))
    assert time.monotonic() - started < 20


def test_wrong_refcounts_are_no_reason_not_to_read(sipl, demo, content, tmp_path):
    """Who only reads needs no refcounts; docs/formats/qcow2.md says so."""
    image = bytearray(_good(content))
    image[4 * CLUSTER : 4 * CLUSTER + 42] = b"\xff\xff" * 21
    path = tmp_path / "image"
    path.write_bytes(image)
    assert sipl("verify", *demo.trusted, path).code == 0


def test_backing_file_in_the_folder_only_when_allowed(sipl, demo, content, tmp_path):
    (tmp_path / "base.raw").write_bytes(content)
    path = tmp_path / "image"
    path.write_bytes(qcow2(b"", l2=[0] * PIECES, backing=b"base.raw"))
    assert sipl("verify", *demo.trusted, path).code == 2
    assert sipl("verify", "--allow-backing", *demo.trusted, path).code == 0
    assert sipl("inspect", path).code == 2
    assert sipl("inspect", "--allow-backing", path).code == 0


def test_backing_file_elsewhere_only_in_the_folder_named(sipl, demo, content, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "base.raw").write_bytes(content)
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "image"
    path.write_bytes(qcow2(b"", l2=[0] * PIECES, backing=str(elsewhere / "base.raw").encode()))
    assert sipl("verify", "--allow-backing", *demo.trusted, path).code == 2
    assert sipl("verify", "--backing-folder", elsewhere, *demo.trusted, path).code == 0


def test_missing(sipl, demo, tmp_path):
    check_undecided(sipl, demo, str(tmp_path / "missing.raw"))


def test_empty(sipl, demo, tmp_path):
    (tmp_path / "empty.raw").write_bytes(b"")
    check_undecided(sipl, demo, str(tmp_path / "empty.raw"))


def test_directory(sipl, demo, tmp_path):
    check_undecided(sipl, demo, str(tmp_path))


def test_fifo_is_not_waited_for(sipl, demo, tmp_path):
    os.mkfifo(tmp_path / "fifo")
    check_undecided(sipl, demo, str(tmp_path / "fifo"))


def test_character_device(sipl, demo):
    check_undecided(sipl, demo, "/dev/zero")


def test_name_with_a_zero_byte_or_too_long(sipl, demo):
    assert sipl(*BOOT, "a\0b").code == 2
    result = sipl(*BOOT, "x" * 5000)
    assert (result.code, len(result.lines)) == (2, 2)


def test_no_permission(sipl, demo, monkeypatch, tmp_path):
    path = tmp_path / "image"
    path.write_bytes(bytes(4096))
    original = os.open

    def refuse(name, *rest, **more):
        if os.fspath(name) == str(path):
            raise PermissionError(13, "Permission denied", name)
        return original(name, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    check_undecided(sipl, demo, str(path))


@pytest.mark.parametrize("size", [1, 100, 511, 512, 1000, 20000, 28500])
def test_truncated(sipl, demo, content, tmp_path, size):
    """A raw disk that is too short is the disk's fault, not the image's: its tables lead to blocks that are not there.

    Less than a boot record is no zipl disk at all.
    """
    path = tmp_path / "cut.raw"
    path.write_bytes(content[:size])
    result = sipl(*BOOT, *demo.secure, path)
    assert (result.code, result.err) == (1, "")
    assert "block-out-of-range" in result.lines[0] or "not-a-zipl-disk" in result.lines[0]
    assert sipl("verify", *demo.trusted, path).code == 1
    result = sipl("inspect", path)
    assert result.code == 1
    assert "Traceback" not in result.out + result.err


def test_a_file_that_shrinks_while_it_is_read(sipl, demo, content, tmp_path, monkeypatch):
    from sipl.disk.host_file import HostFile

    path = tmp_path / "image"
    path.write_bytes(content)
    original = HostFile.read_into

    def shrink(self, offset, buffer):
        if offset > 20000:
            os.truncate(path, 20000)
        original(self, offset, buffer)

    monkeypatch.setattr(HostFile, "read_into", shrink)
    (report,) = sipl(*BOOT, "--json", *demo.secure, path).json
    assert (report["outcome"], report["reason"]) == ("undecided", "image-unreadable")


class TestImagesAreNeverChanged:
    COMMANDS = ("boot", "verify", "inspect")

    @pytest.mark.parametrize("kind", ["raw", "qcow2"])
    def test_content_and_times_stay(self, sipl, demo, content, tmp_path, kind):
        path = tmp_path / "image"
        path.write_bytes(content if kind == "raw" else _good(content))
        before, status = path.read_bytes(), path.stat()
        for name in self.COMMANDS:
            sipl(name, *(() if name == "inspect" else demo.trusted), path)
        after = path.stat()
        assert path.read_bytes() == before
        assert (after.st_mtime_ns, after.st_ctime_ns, after.st_size) == (
            status.st_mtime_ns,
            status.st_ctime_ns,
            status.st_size,
        )

    def test_every_file_is_opened_for_reading_only(self, sipl, demo, content, tmp_path, monkeypatch):
        path = tmp_path / "image"
        path.write_bytes(_good(content))
        opened = []
        original = os.open

        def watch(name, flags, *rest, **more):
            opened.append((os.fspath(name), flags))
            return original(name, flags, *rest, **more)

        monkeypatch.setattr(os, "open", watch)
        for name in self.COMMANDS:
            engine = ("--engine", "embedded") if name == "boot" else ()
            sipl(name, *engine, *(() if name == "inspect" else demo.trusted), path)
        assert [name for name, _ in opened].count(str(path)) == len(self.COMMANDS)
        writing = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
        assert [name for name, flags in opened if flags & writing] == []

    def test_a_read_only_file_in_a_read_only_folder_is_enough(self, sipl, demo, content, tmp_path):
        folder = tmp_path / "read-only"
        folder.mkdir()
        path = folder / "image"
        path.write_bytes(content)
        path.chmod(stat.S_IRUSR)
        folder.chmod(stat.S_IRUSR | stat.S_IXUSR)
        try:
            assert sipl("verify", *demo.trusted, path).code == 0
        finally:
            folder.chmod(stat.S_IRWXU)
        assert os.listdir(folder) == ["image"]


class TestClosedPipe:
    """Who stops reading has seen enough: no message, no complaint of the interpreter at its end."""

    @pytest.mark.parametrize(
        "words",
        ["--help", "--version", "boot --help", "inspect", "inspect --json", "verify", "verify --json", "demo"],
    )
    def test_nobody_reads(self, start, demo, words):
        line = words.split()
        if line[0] == "verify":
            line += demo.trusted
        if line[0] in ("inspect", "verify"):
            line.append(demo.disk)
        reader, writer = os.pipe()
        os.close(reader)
        with start(*line, stdout=writer, stderr=subprocess.PIPE) as process:
            os.close(writer)
            assert process.stderr.read() == b""
        assert process.returncode in (0, 2)

    def test_head(self, start, demo):
        disks = [demo.disk] * 200  # more than fits into a pipe
        with start("inspect", *disks, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout.readline().startswith(demo.disk.encode())
            process.stdout.close()
            assert process.stderr.read() == b""
        assert process.returncode == 2

    def test_nobody_reads_the_error(self, start):
        reader, writer = os.pipe()
        os.close(reader)
        with start("boot", "--frob", stdout=writer, stderr=writer) as process:
            os.close(writer)
        assert process.returncode == 2

    def test_full_disk(self, start, demo):
        with open("/dev/full", "wb") as full, start("inspect", demo.disk, stdout=full, stderr=subprocess.PIPE) as done:
            error = done.stderr.read().decode()
        assert done.returncode == 2
        assert one_line(error) == "sipl: standard output: cannot be written: No space left on device"

    @pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
    def test_closed_streams_do_not_change_the_answer(self, demo, bad, closed):
        for disk, code in ((demo.disk, 0), (bad, 1)):
            line = f"{shlex.join(command('verify', *demo.trusted, disk))} {closed}"
            done = subprocess.run(
                ["/bin/sh", "-c", line], capture_output=True, env=environment(), timeout=PATIENCE, check=False
            )
            assert done.returncode == code
            assert b"Traceback" not in done.stdout + done.stderr


def test_interrupted_while_it_works(start, demo):
    """SIGINT in the middle of many disks: one line, exit code 2."""
    with start(
        "verify", "-q", *demo.trusted, *[demo.disk] * 5000, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 2
    assert one_line(error.decode()) == "sipl: interrupted: there is no verdict"


def test_compressed_clusters_that_are_no_deflate_stream_are_not_taken_for_zeros(content):
    """The fixture above would prove nothing if its bytes were a valid stream."""
    with pytest.raises(zlib.error):
        zlib.decompress(_compressed_garbage(content)[5 * CLUSTER :], -12)
