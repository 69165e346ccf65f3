"""An image that sipl and QEMU have in turn: what one writes the other reads, and nothing is found by name twice."""

from __future__ import annotations

import json
import os
import pty
import select
import socket
import subprocess
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sipl.disk.host_file
import sipl.disk.shared_image
from sipl.disk.block_size import find_block_size
from sipl.disk.host_file import HostFile
from sipl.disk.image_lock import ImageInUse, lock_image, lock_image_against_writers
from sipl.disk.overlay import DirectRaw
from sipl.disk.shared_image import ImageSpec, SharedImage, WriteMode
from sipl.engine.qemu.qmp import Qmp, QmpError
from sipl.errors import ImageError, ImageFormatError, UndecidedError, UsageError

pytestmark = pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="a host without /proc has no such engine")

KIB = 1 << 10
MIB = 1 << 20
SIZE = 4 * MIB
SET = 7


@pytest.fixture
def img(need_tool, tmp_path):
    """Runs qemu-img; its images are made of `A`s with zeros from 2 MiB on."""
    tool = need_tool("qemu-img", "qemu-utils")
    io = need_tool("qemu-io", "qemu-utils")

    def run(*words):
        return subprocess.run([tool, *map(str, words)], check=True, capture_output=True, text=True).stdout

    def write(path, form, command, *options):
        return subprocess.run([io, "-f", form, *options, "-c", command, path], check=False, capture_output=True)

    def read_only(path, form, command):
        return write(path, form, command, "-r")

    def make(name, form="raw", *options):
        path = tmp_path / name
        run("create", "-q", "-f", form, *options, path, SIZE)
        assert write(path, form, "write -q -P 0x41 0 2M").returncode == 0
        return path

    return SimpleNamespace(run=run, io=io, write=write, read_only=read_only, make=make)


@pytest.fixture
def temporary(tmp_path):
    folder = tmp_path / "temporary"
    folder.mkdir()
    yield str(folder)
    assert list(folder.iterdir()) == []


@pytest.fixture
def qemu(need_tool):
    """A QEMU without a guest that has images, as a context: `io` reads and writes, `qmp` is its monitor."""
    program = need_tool("qemu-system-s390x", "qemu-system-misc")

    @contextmanager
    def run(*images, machine="none", devices=(), blockdevs=None):
        ours, theirs = socket.socketpair()
        # What a qemu-io command says goes to standard output, at once only if that is a terminal.
        screen, terminal = pty.openpty()
        monitor = ["-chardev", f"socket,id=mon,fd={theirs.fileno()}", "-mon", "chardev=mon,mode=control"]
        nodes, arguments, inherited = [], [], [theirs.fileno()]
        for number, image in enumerate(images):
            first = SET + 10 * number
            arguments += image.add_fd(first)
            inherited += image.descriptors()
            nodes += image.blockdevs(f"disk{number}", first) if blockdevs is None else blockdevs
        for node in nodes:
            arguments += ["-blockdev", json.dumps(node)]
        for device in devices:
            arguments += ["-device", device]
        process = subprocess.Popen(
            [program, "-S", "-nodefaults", "-display", "none", "-machine", machine, *monitor, *arguments],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=terminal,
            stderr=subprocess.PIPE,
            text=True,
        )
        theirs.close()
        qmp = Qmp(ours)

        def io(command, node="disk0"):
            said = qmp.human(f'qemu-io {node} "{command}"').encode()
            while select.select([screen], [], [], 0)[0]:
                said += os.read(screen, 1 << 16)
            assert said
            return said.decode()

        def end():
            qmp.execute("quit")
            process.wait(60)

        try:
            qmp.greet()
            yield SimpleNamespace(qmp=qmp, io=io, end=end, process=process)
        finally:
            process.kill()
            said = process.communicate()[1]
            ours.close()
            os.close(screen)
            os.close(terminal)
        assert said == ""

    return run


def wrote(text):
    return text.startswith("wrote ")


def holds(image, offset, letter, length=64 * KIB):
    return image.read(offset, length) == letter * length


KINDS = {
    "raw": ("raw",),
    "qcow2": ("qcow2",),
    "version-2": ("qcow2", "-o", "compat=0.10"),
    "small-clusters": ("qcow2", "-o", "cluster_size=512"),
    "subclusters": ("qcow2", "-o", "extended_l2=on"),
}


@pytest.fixture(params=KINDS)
def disk(request, img):
    return img.make("disk.img", *KINDS[request.param])


class TestOverlay:
    def test_one_process_after_the_other_sees_what_was_written_and_the_image_stays(
        self, disk, qemu, temporary, open_files
    ):
        before, files = disk.read_bytes(), open_files()
        with SharedImage(ImageSpec(str(disk)), temporary_folder=temporary) as image:
            assert image.format == ("raw" if b"QFI" not in before[:4] else "qcow2")
            assert image.size == SIZE
            assert holds(image, 0, b"A")
            assert holds(image, 3 * MIB, b"\0")
            for turn in (b"X", b"Y"):
                with qemu(image) as guest:
                    image.lend()
                    assert wrote(guest.io(f"write -P {turn[0]} 3M 64k"))
                    assert wrote(guest.io(f"write -P {turn[0]} {'64k' if turn == b'X' else '192k'} 4k"))
                    guest.end()
                image.renew()
                assert holds(image, 3 * MIB, turn)
                assert image.read(64 * KIB, 8 * KIB) == b"X" * 4096 + b"A" * 4096
            with qemu(image) as guest:
                assert "verification failed" not in guest.io("read -P 0x59 3M 64k")
                assert "verification failed" in guest.io("read -P 0x58 3M 64k")
                assert "verification failed" not in guest.io("read -P 0x58 64k 4k")
        assert disk.read_bytes() == before
        assert open_files() == files

    def test_a_killed_process_has_written_all_once_it_was_stopped(self, img, qemu, temporary):
        with SharedImage(ImageSpec(str(img.make("disk.img"))), temporary_folder=temporary) as image:
            with qemu(image) as guest:
                assert wrote(guest.io("write -P 0x58 3M 64k"))
                guest.qmp.execute("stop")
                guest.process.kill()
            image.renew()
            assert holds(image, 3 * MIB, b"X")

    def test_zeros_and_what_is_discarded_take_no_room(self, img, qemu, temporary):
        with SharedImage(ImageSpec(str(img.make("disk.img"))), temporary_folder=temporary) as image:
            with qemu(image) as guest:
                assert wrote(guest.io("write -P 0x58 1M 1M"))
                guest.qmp.execute("stop")
                full = os.fstat(image.descriptors()[-1]).st_blocks
                assert guest.io("discard 1M 1M").startswith("discard ")
                assert wrote(guest.io("write -P 0 0 1M"))
                guest.end()
            assert os.fstat(image.descriptors()[-1]).st_blocks <= full - MIB // 512
            image.renew()
            assert holds(image, 0, b"\0", 2 * MIB)

    def test_what_ends_inside_a_sector_goes_on_with_zeros(self, tmp_path, qemu, temporary):
        path = tmp_path / "disk.img"
        path.write_bytes(b"A" * 1000)
        with SharedImage(ImageSpec(str(path)), temporary_folder=temporary) as image:
            assert image.size == 1024
            with qemu(image) as guest:
                assert "verification failed" not in guest.io("read -P 0 1000 24")
                assert wrote(guest.io("write -P 0x58 0 512"))
                guest.end()
            image.renew()
            assert image.read(0, 1024) == b"X" * 512 + b"A" * 488 + bytes(24)
        assert path.read_bytes() == b"A" * 1000

    def test_two_guests_share_an_image(self, img, qemu, temporary):
        path = str(img.make("disk.img"))
        with (
            SharedImage(ImageSpec(path), temporary_folder=temporary) as one,
            SharedImage(ImageSpec(path), temporary_folder=temporary) as other,
            qemu(one) as guest,
        ):
            with qemu(other) as second:
                assert wrote(second.io("write -P 0x59 0 64k"))
                second.end()
            assert wrote(guest.io("write -P 0x58 0 64k"))
            guest.end()
            one.renew()
            other.renew()
            assert holds(one, 0, b"X")
            assert holds(other, 0, b"Y")

    def test_no_room_for_temporary_files(self, img, tmp_path, open_files):
        path = img.make("disk.img")
        files = open_files()
        with pytest.raises(ImageError, match=r"cannot be kept: No such file.*TMPDIR"):
            SharedImage(ImageSpec(str(path)), temporary_folder=str(tmp_path / "missing"))
        assert open_files() == files

    def test_a_disk_may_be_too_large(self, img, temporary, monkeypatch):
        monkeypatch.setattr(sipl.disk.shared_image, "MAX_OVERLAID_SIZE", SIZE - 1)
        with pytest.raises(UsageError, match="too many for an overlay"):
            SharedImage(ImageSpec(str(img.make("disk.img"))), temporary_folder=temporary)

    def test_the_largest_disk_is_the_largest_that_qemu_takes(self):
        assert sipl.disk.shared_image.MAX_OVERLAID_SIZE == 2 << 50

    def test_what_the_overlay_says_is_not_believed(self, img, qemu, temporary, tmp_path):
        """A QEMU that a guest took over can write any header; what it names is not opened."""
        (tmp_path / "secret").write_bytes(b"S" * SIZE)
        with SharedImage(ImageSpec(str(img.make("disk.img"))), temporary_folder=temporary) as image:
            forged = tmp_path / "forged.qcow2"
            img.run("create", "-q", "-f", "qcow2", "-b", tmp_path / "secret", "-F", "raw", forged)
            os.pwrite(image.descriptors()[-1], forged.read_bytes(), 0)
            with pytest.raises(ImageFormatError, match="names other files than before"):
                image.renew()
            with pytest.raises(UsageError, match="lent to QEMU"):
                image.read(0, 1)

    @given(data=st.data())
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    def test_a_damaged_overlay_is_read_or_refused(self, data, tmp_path):
        path = tmp_path / "disk.img"
        path.write_bytes(b"A" * MIB)
        with SharedImage(ImageSpec(str(path)), temporary_folder=str(tmp_path)) as image:
            fd = image.descriptors()[-1]
            for _ in range(data.draw(st.integers(1, 4))):
                place = data.draw(st.integers(0, 120) | st.integers(0, 5 << 16))
                os.pwrite(fd, data.draw(st.binary(min_size=1, max_size=8)), place)
            try:
                image.renew()
                assert len(image.read(0, min(image.size, MIB))) == min(image.size, MIB)
            except UndecidedError:
                pass
        assert [file.name for file in tmp_path.iterdir()] == ["disk.img"]


class TestDirect:
    def test_the_guest_writes_to_the_image(self, disk, qemu, img):
        form = "qcow2" if disk.read_bytes()[:3] == b"QFI" else "raw"
        with SharedImage(ImageSpec(str(disk)), WriteMode.DIRECT) as image:
            assert holds(image, 0, b"A")
            for turn in (b"X", b"Y"):
                with qemu(image) as guest:
                    assert wrote(guest.io(f"write -P {turn[0]} 3M 64k"))
                    assert wrote(guest.io(f"write -P {turn[0]} 4k 4k"))
                    guest.end()
                image.renew()
                assert holds(image, 3 * MIB, turn)
                assert image.read(0, 12 * KIB) == b"A" * 4096 + turn * 4096 + b"A" * 4096
        assert b"verification failed" not in img.write(disk, form, "read -P 0x59 3M 64k").stdout
        if form == "qcow2":
            assert "No errors" in img.run("check", disk)

    def test_the_disk_may_grow(self, disk, qemu):
        with SharedImage(ImageSpec(str(disk)), WriteMode.DIRECT) as image:
            with qemu(image) as guest:
                guest.qmp.execute("block_resize", {"node-name": "disk0", "size": 8 * MIB})
                assert wrote(guest.io("write -P 0x58 7M 64k"))
                guest.end()
            image.renew()
            assert image.size == 8 * MIB
            assert holds(image, 7 * MIB, b"X")

    @pytest.mark.parametrize("stated", ["raw", None], ids=["format-stated", "format-found"])
    def test_a_raw_image_does_not_become_a_qcow2_image(self, stated, img, qemu, tmp_path):
        path = img.make("disk.img")
        secret = tmp_path / "secret"
        secret.write_bytes(b"S" * SIZE)
        forged = tmp_path / "forged.qcow2"
        img.run("create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", forged)
        with SharedImage(
            ImageSpec(str(path), stated), WriteMode.DIRECT, allow_backing=True, backing_folder=tmp_path
        ) as image:
            with qemu(image) as guest:
                assert wrote(guest.io(f"write -s {forged} 0 {64 * KIB}"))
                guest.end()
            assert path.read_bytes()[:4] == b"QFI\xfb"
            if stated is None:
                with pytest.raises(ImageFormatError, match="look like a qcow2 image"):
                    image.renew()
                return
            image.renew()
            assert image.read(0, 4) == b"QFI\xfb"
            assert holds(image, MIB, b"A")
            with qemu(image) as guest:
                assert "verification failed" not in guest.io("read -P 0x41 1M 64k")

    def test_a_header_that_names_another_file_afterwards_is_refused(self, img, tmp_path):
        (tmp_path / "secret").write_bytes(b"S" * SIZE)
        path = img.make("disk.img", "qcow2")
        with SharedImage(ImageSpec(str(path)), WriteMode.DIRECT) as image:
            changed = tmp_path / "changed.qcow2"
            changed.write_bytes(path.read_bytes())
            img.run("rebase", "-q", "-u", "-b", tmp_path / "secret", "-F", "raw", changed)
            path.write_bytes(changed.read_bytes())
            with pytest.raises(ImageFormatError, match="names other files than before"):
                image.renew()

    def test_what_ends_inside_a_sector_is_refused(self, tmp_path):
        (tmp_path / "a").write_bytes(b"A" * 1000)
        with pytest.raises(UsageError, match="ends inside a sector"):
            SharedImage(ImageSpec(str(tmp_path / "a")), WriteMode.DIRECT)

    def test_what_cannot_be_written_to(self, tmp_path, monkeypatch, open_files):
        (tmp_path / "a").write_bytes(b"A" * 1024)
        real = os.open

        def refuse(path, flags, *more):
            if flags & os.O_RDWR:
                raise OSError(30, "Read-only file system")
            return real(path, flags, *more)

        files = open_files()
        monkeypatch.setattr(sipl.disk.host_file.os, "open", refuse)
        with pytest.raises(ImageError, match="cannot be opened for writing: Read-only file system"):
            SharedImage(ImageSpec(str(tmp_path / "a")), WriteMode.DIRECT)
        assert open_files() == files


class TestReadOnly:
    def test_qemu_does_not_write(self, disk, qemu):
        before = disk.read_bytes()
        with SharedImage(ImageSpec(str(disk)), WriteMode.READ_ONLY) as image:
            with qemu(image) as guest:
                assert not wrote(guest.io("write -P 0x58 3M 64k"))
                assert "verification failed" not in guest.io("read -P 0x41 0 64k")
                with pytest.raises(QmpError):
                    guest.qmp.execute("block_resize", {"node-name": "disk0", "size": 8 * MIB})
            image.renew()
            assert holds(image, 0, b"A")
            assert not [fd for fd in image.descriptors() if _is_writable(fd)]
        assert disk.read_bytes() == before


def _is_writable(fd):
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY


class TestOtherFiles:
    @pytest.fixture
    def chain(self, img, tmp_path):
        """top.qcow2 over middle.qcow2 over base.img, a letter of each at 0, 64 KiB and 128 KiB."""
        base = img.make("base.img")
        middle, top = tmp_path / "middle.qcow2", tmp_path / "top.qcow2"
        img.run("create", "-q", "-f", "qcow2", "-b", "base.img", "-F", "raw", middle)
        img.run("create", "-q", "-f", "qcow2", "-b", "middle.qcow2", "-F", "qcow2", top)
        img.write(middle, "qcow2", "write -P 0x42 64k 128k")
        img.write(top, "qcow2", "write -P 0x43 128k 64k")
        return SimpleNamespace(base=base, middle=middle, top=top)

    def test_a_backing_file_is_not_followed_unless_allowed(self, chain, temporary, open_files):
        files = open_files()
        with pytest.raises(ImageFormatError, match="--allow-backing"):
            SharedImage(ImageSpec(str(chain.top)), temporary_folder=temporary)
        assert open_files() == files

    @pytest.mark.parametrize("mode", list(WriteMode))
    def test_the_chain_that_was_opened_is_the_one_that_qemu_has(self, mode, chain, qemu, temporary, tmp_path):
        originals = {path: path.read_bytes() for path in (chain.base, chain.middle)}
        with SharedImage(ImageSpec(str(chain.top)), mode, allow_backing=True, temporary_folder=temporary) as image:
            # Names are somebody else's from now on.
            for path in (chain.base, chain.middle, chain.top):
                path.rename(str(path) + ".old")
                path.write_bytes(b"S" * SIZE)
            for _ in range(2):
                assert [image.read(place * KIB, 1) for place in (0, 64, 128)] == [b"A", b"B", b"C"]
                with qemu(image) as guest:
                    for place, letter in ((0, 0x41), (64, 0x42), (128, 0x43)):
                        assert "verification failed" not in guest.io(f"read -P {letter} {place}k 64k")
                    if mode is not WriteMode.READ_ONLY:
                        assert wrote(guest.io("write -P 0x58 3M 64k"))
                    guest.end()
                image.renew()
            assert holds(image, 3 * MIB, b"\0" if mode is WriteMode.READ_ONLY else b"X")
        for path, content in originals.items():
            assert (tmp_path / f"{path.name}.old").read_bytes() == content

    def test_a_given_backing_file_is_the_one_whatever_the_header_names(self, chain, img, qemu, temporary, tmp_path):
        other = tmp_path / "other.img"
        other.write_bytes(b"O" * SIZE)
        spec = ImageSpec(str(chain.top), "qcow2", backing=ImageSpec(str(other), "raw"))
        with SharedImage(spec, temporary_folder=temporary) as image, qemu(image) as guest:
            assert [image.read(place * KIB, 1) for place in (0, 64, 128)] == [b"O", b"O", b"C"]
            assert "verification failed" not in guest.io("read -P 0x4f 0 128k")

    def test_a_backing_file_can_be_ignored(self, chain, qemu, temporary):
        spec = ImageSpec(str(chain.top), ignore_backing=True)
        with SharedImage(spec, temporary_folder=temporary) as image, qemu(image) as guest:
            assert [image.read(place * KIB, 1) for place in (0, 64, 128)] == [b"\0", b"\0", b"C"]
            assert "verification failed" not in guest.io("read -P 0 0 128k")

    @pytest.mark.parametrize("mode", list(WriteMode))
    def test_a_data_file(self, mode, img, qemu, temporary, tmp_path):
        path = img.make("disk.qcow2", "qcow2", "-o", f"data_file={tmp_path / 'data.img'}")
        data = tmp_path / "data.img"
        with pytest.raises(ImageFormatError, match="--allow-backing"):
            SharedImage(ImageSpec(str(path)), mode, temporary_folder=temporary)
        with SharedImage(ImageSpec(str(path)), mode, allow_backing=True, temporary_folder=temporary) as image:
            data.rename(tmp_path / "kept.img")
            data.write_bytes(b"S" * SIZE)
            with qemu(image) as guest:
                assert "verification failed" not in guest.io("read -P 0x41 0 64k")
                assert wrote(guest.io("write -P 0x58 64k 64k")) == (mode is not WriteMode.READ_ONLY)
                guest.end()
            image.renew()
            assert holds(image, 0, b"A")
            assert holds(image, 64 * KIB, b"A" if mode is WriteMode.READ_ONLY else b"X")
        kept = (tmp_path / "kept.img").read_bytes()[64 * KIB :][:1]
        assert kept == (b"X" if mode is WriteMode.DIRECT else b"A")
        assert data.read_bytes() == b"S" * SIZE

    @pytest.mark.parametrize(
        ("spec", "says"),
        [
            (lambda d: ImageSpec(d, "vmdk"), "vmdk images are not read"),
            (lambda d: ImageSpec(d, "raw", backing=ImageSpec(d, "raw")), "neither a backing nor a data file"),
            (lambda d: ImageSpec(d, "qcow2", backing=ImageSpec(d)), "format of a backing file is not found out"),
            (lambda d: ImageSpec(d, "qcow2", data_file=ImageSpec(d, "raw")), "has its data in itself"),
        ],
    )
    def test_contradictions(self, spec, says, img, temporary, open_files):
        path = str(img.make("disk.qcow2", "qcow2"))
        files = open_files()
        with pytest.raises(UsageError, match=says):
            SharedImage(spec(path), temporary_folder=temporary)
        assert open_files() == files

    def test_an_image_over_itself(self, img, temporary, open_files):
        path = str(img.make("disk.qcow2", "qcow2"))
        files = open_files()
        with pytest.raises(ImageFormatError, match="lead back"):
            SharedImage(ImageSpec(path, "qcow2", backing=ImageSpec(path, "qcow2")), temporary_folder=temporary)
        assert open_files() == files

    def test_a_stated_format_is_the_format(self, img, temporary):
        path = str(img.make("disk.qcow2", "qcow2"))
        with SharedImage(ImageSpec(path, "raw"), temporary_folder=temporary) as image:
            assert image.format == "raw"
            assert image.read(0, 4) == b"QFI\xfb"
        with pytest.raises(ImageFormatError, match="no qcow2 header"):
            SharedImage(ImageSpec(str(img.make("disk.img")), "qcow2"), temporary_folder=temporary)


class TestDescriptor:
    """A file that somebody else opened and passed on."""

    def test_is_read_and_shared_whatever_its_name(self, disk, qemu, temporary):
        fd = os.open(disk, os.O_RDONLY)
        try:
            disk.unlink()
            spec = ImageSpec("/dev/fdset/3", descriptor=fd)
            with SharedImage(spec, temporary_folder=temporary) as image:
                assert image.path == "/dev/fdset/3"
                with qemu(image) as guest:
                    assert wrote(guest.io("write -P 0x58 0 64k"))
                    guest.end()
                image.renew()
                assert holds(image, 0, b"X")
            os.fstat(fd)
        finally:
            os.close(fd)

    def test_one_for_reading_is_no_leave_to_write(self, img, open_files):
        path = img.make("disk.img")
        fd = os.open(path, os.O_RDONLY)
        files = open_files()
        try:
            with pytest.raises(ImageError, match="is not for reading and writing"):
                SharedImage(ImageSpec(str(path), descriptor=fd), WriteMode.DIRECT)
            assert open_files() == files
        finally:
            os.close(fd)

    def test_one_for_both(self, img, qemu):
        path = img.make("disk.img")
        fd = os.open(path, os.O_RDWR)
        try:
            with SharedImage(ImageSpec(str(path), descriptor=fd), WriteMode.DIRECT) as image:
                with qemu(image) as guest:
                    assert wrote(guest.io("write -P 0x58 0 64k"))
                    guest.end()
                image.renew()
                assert holds(image, 0, b"X")
        finally:
            os.close(fd)

    def test_what_is_not_open(self, open_files):
        files = open_files()
        for mode in WriteMode:
            with pytest.raises(ImageError):
                SharedImage(ImageSpec("x", descriptor=987), mode)
        assert open_files() == files

    def test_standard_input_and_output_are_left_alone(self, tmp_path, monkeypatch):
        """QEMU takes no descriptor below 3, and somebody may have started sipl without these."""
        (tmp_path / "a").write_bytes(b"a")
        monkeypatch.setattr(sipl.disk.host_file, "_LAST_STANDARD", 500)
        file = HostFile(tmp_path / "a")
        fd = file.open_again(writable=False)
        assert fd > 500
        assert not os.get_inheritable(fd)
        os.close(fd)

    def test_flags_that_qemu_sets_do_not_reach_the_reader(self, img, qemu, temporary):
        with SharedImage(ImageSpec(str(img.make("disk.img"))), WriteMode.READ_ONLY) as image:
            nodes = image.blockdevs("disk0", SET)
            nodes[0]["cache"] = {"direct": True}
            with qemu(image, blockdevs=nodes) as guest:
                assert "verification failed" not in guest.io("read -P 0x41 0 64k")
                assert image.read(1, 3) == b"AAA"


class TestLocks:
    def others(self, img, path, form):
        """Whether somebody else may write, and read."""
        writes = img.write(path, form, "write -q -P 0x5a 0 64k")
        reads = img.read_only(path, form, "read -q 0 64k")
        return writes.returncode == 0, reads.returncode == 0

    @pytest.mark.parametrize("form", ["raw", "qcow2"])
    @pytest.mark.parametrize("ending", ["quit", "kill"])
    @pytest.mark.parametrize("mode", list(WriteMode))
    def test_nobody_else_writes_before_between_and_while_qemu_runs(self, mode, ending, form, img, qemu, temporary):
        path = img.make("disk.img", form)
        assert self.others(img, path, form) == (True, True)
        lets_read = mode is not WriteMode.DIRECT
        devices = ["virtio-blk-ccw,drive=disk0"]
        with SharedImage(ImageSpec(str(path)), mode, temporary_folder=temporary) as image:
            assert self.others(img, path, form) == (False, lets_read)
            for _ in range(2):
                with qemu(image, machine="s390-ccw-virtio", devices=devices) as guest:
                    writes, reads = self.others(img, path, form)
                    assert not writes
                    assert reads or not lets_read
                    self.refuses_sipl(path, mode)
                    if ending == "quit":
                        guest.end()
                image.renew()
                assert self.others(img, path, form) == (False, lets_read)
                self.refuses_sipl(path, mode)
        assert self.others(img, path, form) == (True, True)

    @staticmethod
    def refuses_sipl(path, mode):
        fd = os.open(path, os.O_RDWR)
        try:
            with pytest.raises(ImageInUse):
                lock_image(fd, str(path))
        finally:
            os.close(fd)
        if path.read_bytes()[:3] != b"QFI":
            with pytest.raises(ImageInUse):
                DirectRaw(path)
        if mode is WriteMode.DIRECT:
            for other in WriteMode:
                with pytest.raises(ImageInUse, match="another program uses the image"):
                    SharedImage(ImageSpec(str(path)), other)

    @staticmethod
    @contextmanager
    def writer(img, path, form):
        """Another program that writes to an image until the end of the block."""
        with subprocess.Popen([img.io, "-f", form, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            other.stdin.write(b"write 0 512\n")
            other.stdin.flush()
            try:
                assert b"wrote" in other.stdout.read(16)
                yield
            finally:
                other.kill()

    def test_an_image_that_somebody_writes_to(self, img, temporary, open_files):
        path = img.make("disk.img", "qcow2")
        files = open_files()
        with self.writer(img, path, "qcow2"):
            for mode in WriteMode:
                with pytest.raises(ImageInUse):
                    SharedImage(ImageSpec(str(path)), mode, temporary_folder=temporary)
        assert open_files() == files

    def test_an_image_that_somebody_took_between_two_processes(self, img, qemu):
        path = img.make("disk.img")
        with SharedImage(ImageSpec(str(path)), WriteMode.READ_ONLY) as image:
            with qemu(image, machine="s390-ccw-virtio", devices=["virtio-blk-ccw,drive=disk0"]) as guest:
                guest.end()
            with self.writer(img, path, "raw"):
                with pytest.raises(ImageInUse):
                    image.renew()
                with pytest.raises(UsageError, match="lent"):
                    image.read(0, 1)
            image.renew()
            assert image.read(0, 1) == b"\xcd"

    @pytest.mark.parametrize("form", ["raw", "qcow2"])
    def test_nobody_takes_what_the_guest_writes_to_between_two_processes(self, form, img, qemu):
        path = img.make("disk.img", form)
        with SharedImage(ImageSpec(str(path)), WriteMode.DIRECT) as image:
            with qemu(image, machine="s390-ccw-virtio", devices=["virtio-blk-ccw,drive=disk0"]) as guest:
                guest.end()
            assert self.others(img, path, form) == (False, False)

    def test_two_readers_and_no_writer(self, tmp_path):
        (tmp_path / "a").write_bytes(b"a")
        first, second, third = (os.open(tmp_path / "a", os.O_RDWR) for _ in range(3))
        try:
            lock_image_against_writers(first, "a")
            lock_image_against_writers(second, "a")
            with pytest.raises(ImageInUse):
                lock_image(third, "a")
            os.close(third)
            os.close(first)
            third = os.open(tmp_path / "a", os.O_RDWR)
            with pytest.raises(ImageInUse):
                lock_image(third, "a")
            os.close(third)
            os.close(second)
            first, second, third = (os.open(tmp_path / "a", os.O_RDWR) for _ in range(3))
            lock_image(third, "a")
            with pytest.raises(ImageInUse):
                lock_image_against_writers(first, "a")
        finally:
            for fd in (first, second, third):
                os.close(fd)


class TestAdopted:
    """A command line with block nodes of its own gets files in place of names."""

    def test_nodes_stay_the_user_s(self, img, qemu, tmp_path):
        base = img.make("base.img")
        top = tmp_path / "top.qcow2"
        img.run("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top)
        user = [
            {"driver": "file", "filename": str(base), "node-name": "s2", "auto-read-only": True, "discard": "unmap"},
            {"driver": "raw", "file": "s2", "node-name": "f2", "read-only": True},
            {"driver": "file", "filename": str(top), "node-name": "s1", "auto-read-only": True},
            {"driver": "qcow2", "file": "s1", "node-name": "disk0", "backing": "f2", "read-only": False},
        ]
        spec = ImageSpec(str(top), "qcow2", backing=ImageSpec(str(base), "raw", name="below"), name="above")
        with SharedImage(spec, WriteMode.DIRECT) as image:
            adopted = image.adopted(SET)
            assert adopted.blockdevs == []
            changed = [
                user[0] | adopted.members["below"].file,
                user[1] | adopted.members["below"].image,
                user[2] | adopted.members["above"].file,
                user[3] | adopted.members["above"].image,
            ]
            assert [node.get("filename") for node in changed] == ["/dev/fdset/8", None, "/dev/fdset/7", None]
            assert changed[3]["backing"] == "f2"
            for path in (top, base):
                path.rename(str(path) + ".old")
            with qemu(image, blockdevs=changed) as guest:
                assert "verification failed" not in guest.io("read -P 0x41 0 64k")
                assert wrote(guest.io("write -P 0x58 0 64k"))
                guest.end()
            image.renew()
            assert holds(image, 0, b"X")
            assert holds(image, 64 * KIB, b"A")

    def test_files_that_only_images_name_get_nodes(self, img, qemu, tmp_path):
        base = img.make("base.img", "qcow2", "-o", f"data_file={tmp_path / 'data.img'}")
        top = tmp_path / "top.qcow2"
        img.run("create", "-q", "-f", "qcow2", "-b", base, "-F", "qcow2", top)
        user = [
            {"driver": "file", "filename": str(top), "node-name": "s1"},
            {"driver": "qcow2", "file": "s1", "node-name": "disk0"},
        ]
        spec = ImageSpec(str(top), "qcow2", name="above")
        with SharedImage(spec, WriteMode.DIRECT, allow_backing=True) as image:
            adopted = image.adopted(SET)
            above = adopted.members["above"]
            nodes = [*adopted.blockdevs, user[0] | above.file, user[1] | above.image]
            for path in tmp_path.iterdir():
                path.rename(str(path) + ".old")
            with qemu(image, blockdevs=nodes) as guest:
                assert "verification failed" not in guest.io("read -P 0x41 0 64k")

    def test_no_backing_is_said(self, img, qemu):
        path = img.make("disk.qcow2", "qcow2")
        with SharedImage(ImageSpec(str(path), name="it"), WriteMode.READ_ONLY) as image:
            assert image.adopted(SET).members["it"].image == {"read-only": True, "backing": None}

    def test_a_given_data_file(self, img, qemu, tmp_path):
        data = tmp_path / "data.img"
        path = img.make("disk.qcow2", "qcow2", "-o", f"data_file={data}")
        spec = ImageSpec(str(path), "qcow2", data_file=ImageSpec(str(data), "raw", name="data"), name="it")
        user = [
            {"driver": "file", "filename": str(path), "node-name": "s1"},
            {"driver": "file", "filename": str(data), "node-name": "s2"},
            {"driver": "qcow2", "file": "s1", "data-file": "s2", "node-name": "disk0"},
        ]
        with SharedImage(spec, WriteMode.DIRECT) as image:
            members = image.adopted(SET).members
            nodes = [user[0] | members["it"].file, user[1] | members["data"].file, user[2] | members["it"].image]
            with qemu(image, blockdevs=nodes) as guest:
                assert wrote(guest.io("write -P 0x58 0 64k"))
                guest.end()
        assert data.read_bytes()[:1] == b"X"

    def test_an_overlay_is_no_node_of_the_user_s(self, img, temporary):
        with (
            SharedImage(ImageSpec(str(img.make("a.img")), name="it"), temporary_folder=temporary) as image,
            pytest.raises(UsageError, match="overlay"),
        ):
            image.adopted(SET)


class TestDevices:
    @pytest.mark.parametrize("block_size", [512, 4096])
    def test_a_guest_s_disk_has_blocks_of_either_size(self, block_size, img, qemu, temporary):
        path = img.make("disk.img")
        img.write(path, "raw", "write -q -P 0 0 16k")
        with path.open("r+b") as file:
            file.seek(block_size)
            file.write(b"EFI PART")
        devices = [
            f"virtio-blk-ccw,drive=disk0,logical_block_size={block_size},physical_block_size={block_size},bootindex=0",
            "virtio-scsi-ccw,id=scsi0",
            f"scsi-hd,drive=disk1,logical_block_size={block_size},physical_block_size={block_size},bus=scsi0.0",
        ]
        with (
            SharedImage(ImageSpec(str(path)), temporary_folder=temporary) as image,
            SharedImage(ImageSpec(str(img.make("b.img", "qcow2"))), WriteMode.DIRECT) as second,
            qemu(image, second, machine="s390-ccw-virtio", devices=devices) as guest,
        ):
            assert find_block_size(image) == block_size
            found = guest.qmp.execute("query-block")
            assert [entry["inserted"]["node-name"] for entry in found] == ["disk0", "disk1"]
            assert [entry["inserted"]["ro"] for entry in found] == [False, False]

    def test_a_block_device(self, img, qemu, temporary, need_tool):
        path = img.make("disk.img")
        got = subprocess.run(
            [need_tool("losetup", "mount"), "--find", "--show", path], check=False, capture_output=True, text=True
        )
        if got.returncode:
            pytest.skip(f"no loop device: {got.stderr.strip()}")
        device = got.stdout.strip()
        try:
            with SharedImage(ImageSpec(device), WriteMode.DIRECT) as image:
                assert image.size == SIZE
                assert image.blockdevs("disk0", SET)[0]["driver"] == "host_device"
                with qemu(image) as guest:
                    assert wrote(guest.io("write -P 0x58 3M 64k"))
                    guest.end()
                image.renew()
                assert holds(image, 3 * MIB, b"X")
            with SharedImage(ImageSpec(device), temporary_folder=temporary) as image:
                with qemu(image) as guest:
                    assert wrote(guest.io("write -P 0x59 3M 64k"))
                    guest.end()
                image.renew()
                assert holds(image, 3 * MIB, b"Y")
        finally:
            subprocess.run(["losetup", "--detach", device], check=True)


class TestTurns:
    def test_nothing_is_read_while_it_is_lent(self, tmp_path, temporary):
        (tmp_path / "a").write_bytes(b"a" * 512)
        image = SharedImage(ImageSpec(str(tmp_path / "a")), temporary_folder=temporary)
        image.lend()
        with pytest.raises(UsageError, match="lent to QEMU"):
            image.read(0, 1)
        image.renew()
        assert image.read(0, 1) == b"a"
        image.close()
        image.close()
        with pytest.raises(UsageError, match="closed"):
            image.renew()
        with pytest.raises(UsageError, match="closed"):
            image.read(0, 1)

    def test_an_image_that_is_empty_afterwards(self, tmp_path, temporary):
        (tmp_path / "a").write_bytes(b"a" * 512)
        with SharedImage(ImageSpec(str(tmp_path / "a")), temporary_folder=temporary) as image:
            os.truncate(tmp_path / "a", 0)
            with pytest.raises(ImageError, match="empty"):
                image.renew()

    def test_nothing_is_left_when_it_is_forgotten(self, tmp_path, temporary, open_files):
        (tmp_path / "a").write_bytes(b"a" * 512)
        files = open_files()
        image = SharedImage(ImageSpec(str(tmp_path / "a")), temporary_folder=temporary)
        assert open_files() > files
        del image
        assert open_files() == files

    def test_opening_costs_little(self, tmp_path, temporary):
        with (tmp_path / "a").open("wb") as file:
            file.truncate(1 << 40)
        start = time.monotonic()
        with SharedImage(ImageSpec(str(tmp_path / "a")), temporary_folder=temporary) as image:
            assert time.monotonic() - start < 1
            assert os.fstat(image.descriptors()[-1]).st_size < MIB
