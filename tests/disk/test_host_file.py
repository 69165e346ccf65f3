from __future__ import annotations

import os
import socket

import pytest

import sipl.disk.host_file
from sipl.disk.host_file import HostFile, _read_at_by_seeking
from sipl.errors import ImageError, UndecidedError


def test_reads_where_asked(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(256)))
    file = HostFile(tmp_path / "a")
    assert file.size == 256
    assert file.read(10, 5) == bytes(range(10, 15))
    buffer = bytearray(4)
    file.read_into(252, memoryview(buffer))
    assert buffer == bytes(range(252, 256))
    file.close()
    file.close()


def test_identity_is_that_of_the_file_not_of_the_name(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").symlink_to("a")
    os.link(tmp_path / "a", tmp_path / "c")
    (tmp_path / "d").write_bytes(b"a")
    one, two, three, four = (HostFile(tmp_path / name) for name in "abcd")
    assert one.identity == two.identity == three.identity != four.identity


def test_is_never_writable(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    file = HostFile(tmp_path / "a")
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.write(file._fd, b"x")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "No such file"),
        (lambda p: p.mkdir(), "a directory"),
        (os.mkfifo, "a FIFO"),
        (lambda p: p.symlink_to("/dev/null"), "a character device"),
        (lambda p: p.touch(), "empty"),
        (lambda p: p.symlink_to(p.name), "symbolic links"),
    ],
    ids=["missing", "directory", "fifo", "character-device", "empty", "link-to-itself"],
)
def test_what_is_no_image_is_refused_in_one_line(tmp_path, make, says):
    path = tmp_path / "disk.img"
    make(path)
    with pytest.raises(ImageError, match=says) as caught:
        HostFile(path)
    assert isinstance(caught.value, UndecidedError)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_socket_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a socket's name has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as end:
        end.bind("s")
        with pytest.raises(ImageError, match="a socket"):
            HostFile("s")


def test_a_fifo_that_comes_between_does_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "f")
    (tmp_path / "a").write_bytes(b"a")
    looked = (tmp_path / "a").stat()
    monkeypatch.setattr(sipl.disk.host_file.os, "stat", lambda path: looked)
    with pytest.raises(ImageError, match="a FIFO"):
        HostFile(tmp_path / "f")


def test_no_permission(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"a")

    def refuse(path, flags):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(sipl.disk.host_file.os, "open", refuse)  # root may read everything
    with pytest.raises(ImageError, match=r"Permission denied \(check who may read it\)"):
        HostFile(tmp_path / "a")


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "", "\ud800"])
def test_impossible_names(name):
    with pytest.raises(ImageError):
        HostFile(name)


def test_names_cannot_drive_the_terminal(tmp_path):
    with pytest.raises(ImageError) as caught:
        HostFile(tmp_path / "\x1b[31m\u202e")
    assert str(caught.value).isprintable()
    assert "\\x1b[31m" in str(caught.value)


def test_a_link_is_not_followed_when_told_so(tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(ImageError, match="symbolic links"):
        HostFile(tmp_path / "b", follow=False)
    assert HostFile(tmp_path / "a", follow=False).read(0, 1) == b"a"


def test_a_file_that_became_shorter(tmp_path):
    (tmp_path / "a").write_bytes(bytes(1000))
    file = HostFile(tmp_path / "a")
    os.truncate(tmp_path / "a", 600)
    assert file.read(0, 600) == bytes(600)
    with pytest.raises(ImageError, match="ends at byte 600, 400 bytes too early"):
        file.read(0, 1000)


def test_an_io_error_is_said(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(bytes(1000))
    file = HostFile(tmp_path / "a")

    def fail(fd, buffer, offset):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(sipl.disk.host_file, "_read_at", fail)
    with pytest.raises(ImageError, match="cannot be read at byte 7: Input/output error"):
        file.read(7, 1)


def test_a_closed_file_is_an_image_error(tmp_path):
    (tmp_path / "a").write_bytes(bytes(10))
    file = HostFile(tmp_path / "a")
    file.close()
    with pytest.raises(ImageError):
        file.read(0, 1)


@pytest.mark.parametrize("most", [1, 7, 4096])
def test_short_reads_are_continued(tmp_path, monkeypatch, most):
    content = bytes(range(256)) * 20
    (tmp_path / "a").write_bytes(content)
    file = HostFile(tmp_path / "a")
    real = sipl.disk.host_file._read_at
    monkeypatch.setattr(sipl.disk.host_file, "_read_at", lambda fd, buf, at: real(fd, buf[:most], at))
    assert file.read(3, 5000) == content[3:5003]


def test_hosts_without_preadv_read_the_same(tmp_path, monkeypatch):
    content = os.urandom(3 << 20)
    (tmp_path / "a").write_bytes(content)
    file = HostFile(tmp_path / "a")
    monkeypatch.setattr(sipl.disk.host_file, "_read_at", _read_at_by_seeking)
    assert file.read(5, len(content) - 5) == content[5:]
    os.truncate(tmp_path / "a", 600)
    with pytest.raises(ImageError, match="too early"):
        file.read(0, 1000)


def test_no_descriptor_is_left_open(tmp_path, open_files):
    (tmp_path / "a").write_bytes(b"")
    before = open_files()
    for _ in range(5):
        with pytest.raises(ImageError):
            HostFile(tmp_path / "a")
    (tmp_path / "a").write_bytes(b"a")
    HostFile(tmp_path / "a")  # not closed: its end closes it
    assert open_files() == before
