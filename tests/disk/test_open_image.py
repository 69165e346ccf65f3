from __future__ import annotations

import os

import pytest

from sipl.disk.open import open_image
from sipl.errors import ImageError, ImageFormatError, UndecidedError
from sipl.reasons import Reason


def test_formats_by_their_first_bytes(qcow2, tmp_path):
    with open_image(qcow2.Writer("D").write(tmp_path / "a")) as image:
        assert image.format == "qcow2"
    (tmp_path / "b").write_bytes(b"zIPL" + bytes(2000))
    with open_image(tmp_path / "b") as image:
        assert (image.format, image.size) == ("raw", 2048)


CONTAINERS = {
    "vmdk": b"KDMV\x01\0\0\0",
    "vmdk-descriptor": b"# Disk DescriptorFile\nversion=1\n",
    "vhdx": b"vhdxfile" + bytes(8),
    "vhd": b"conectix" + bytes(8),
    "vdi": b"<<< Oracle VM VirtualBox Disk Image >>>\n".ljust(64, b"\0") + b"\x7f\x10\xda\xbe",
    "qed": b"QED\0",
    "luks": b"LUKS\xba\xbe\0\x02",
}


@pytest.mark.parametrize("name", CONTAINERS)
def test_other_containers_are_named_and_refused(tmp_path, name):
    (tmp_path / "a").write_bytes(CONTAINERS[name] + bytes(5000))
    with pytest.raises(ImageFormatError, match=r"image; raw and qcow2.*qemu-img convert -O qcow2") as caught:
        open_image(tmp_path / "a")
    assert name.split("-")[0].upper() in str(caught.value)
    assert caught.value.reason is Reason.IMAGE_INVALID


@pytest.mark.parametrize("fmt", ["vmdk", "vhdx", "vpc", "vdi", "qed"])
def test_containers_as_qemu_makes_them(need_tool, tmp_path, fmt):
    import subprocess

    path = tmp_path / "a"
    qemu_img = need_tool("qemu-img", "qemu-utils")
    made = subprocess.run([qemu_img, "create", "-q", "-f", fmt, path, "1M"], capture_output=True, check=False)
    if made.returncode:
        pytest.skip(f"this qemu-img does not make {fmt}")
    with pytest.raises(ImageFormatError, match="qemu-img convert"):
        open_image(path)


def test_a_boot_record_is_never_taken_for_a_container(tmp_path):
    """zipl leaves bytes from 0x98 on as they are, and a guest can write what it likes behind the magic."""
    (tmp_path / "a").write_bytes(b"zIPL".ljust(64, b"\0") + b"\x7f\x10\xda\xbe" + bytes(1000))
    with open_image(tmp_path / "a") as image:
        assert image.format == "raw"


def test_what_cannot_be_opened_is_undecided(tmp_path):
    (tmp_path / "empty").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("missing", "empty", "folder", "pipe"):
        with pytest.raises(ImageError) as caught:
            open_image(tmp_path / name)
        assert isinstance(caught.value, UndecidedError)
        assert caught.value.reason is Reason.IMAGE_UNREADABLE


@pytest.mark.parametrize("length", [4, 72, 103, 600])
def test_a_truncated_qcow2_image_is_no_raw_image(qcow2, tmp_path, length):
    (tmp_path / "a").write_bytes(qcow2.Writer("D").file[:length])
    with pytest.raises(ImageFormatError):
        open_image(tmp_path / "a")


def test_a_file_is_opened_once(qcow2, tmp_path, monkeypatch):
    path = qcow2.Writer("DC").write(tmp_path / "a")
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args) or real(*args))
    with open_image(path) as image:
        image.read(0, 1024)
    assert [args[0] for args in opened] == [path]
    assert opened[0][1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) == 0
    assert opened[0][1] & os.O_CLOEXEC


def test_a_refused_image_is_closed(qcow2, tmp_path, open_files):
    writer = qcow2.Writer("D")
    writer.header(crypt=1)
    path = writer.write(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"KDMV" + bytes(600))
    before = open_files()
    for name in (path, tmp_path / "b"):
        with pytest.raises(ImageFormatError):
            open_image(name)
    assert open_files() == before
