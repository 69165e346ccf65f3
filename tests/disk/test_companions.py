from __future__ import annotations

import os

import pytest

from sipl.disk.companions import MAX_CHAIN
from sipl.disk.open import open_image
from sipl.errors import ImageError, ImageFormatError, UsageError


@pytest.fixture
def overlay(qcow2, tmp_path):
    """Writes an image that names a backing file; clusters 0 and 3 are its own, 1 is zero, the rest is not there."""

    def write(name, *, backing=b"base.img", backing_format=b"raw", kinds="D.ZD...."):
        writer = qcow2.Writer(kinds)
        if backing_format is not None:
            writer.extension(0xE2792ACA, backing_format)
        writer.header(backing=backing)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        writer.write(tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture
def base(tmp_path):
    content = bytes(range(1, 251)) * 20  # 5000 bytes, no sector of zeros
    (tmp_path / "base.img").write_bytes(content)
    return content


def test_no_other_file_is_read_unless_allowed(overlay, base, monkeypatch):
    path = overlay("a.qcow2")
    opened = []
    real = os.open
    monkeypatch.setattr(os, "open", lambda *args: opened.append(args[0]) or real(*args))
    with pytest.raises(ImageFormatError, match=r"needs the backing file base\.img.*--allow-backing"):
        open_image(path)
    assert opened == [str(path)]


def test_holes_are_filled_from_the_backing_file(qcow2, overlay, base):
    with open_image(overlay("a.qcow2"), allow_backing=True) as image:
        sectors = [image.read(i * 512, 512) for i in range(8)]
        assert image.read(0, 4096) == b"".join(sectors)
        assert image.read(700, 2000) == b"".join(sectors)[700:2700]
    assert sectors[0] == qcow2.sector(0)
    assert sectors[3] == qcow2.sector(3)
    assert sectors[2] == bytes(512)
    assert [sectors[i] for i in (1, 4, 5)] == [base[i * 512 : i * 512 + 512] for i in (1, 4, 5)]


@pytest.mark.parametrize("length", [1, 511, 700, 2048])
def test_behind_the_end_of_a_shorter_backing_file_are_zeros(tmp_path, overlay, length):
    (tmp_path / "base.img").write_bytes(b"\x55" * length)
    with open_image(overlay("a.qcow2", kinds="." * 8), allow_backing=True) as image:
        assert image.read(0, 4096) == (b"\x55" * length).ljust(4096, b"\0")
        assert image.read(length + 1, 10) == bytes(10)


def test_a_chain(qcow2, tmp_path, overlay, base):
    overlay("b.qcow2", kinds="..DD....")
    path = overlay("a.qcow2", backing=b"b.qcow2", backing_format=b"qcow2", kinds="D.......")
    with open_image(path, allow_backing=True) as image:
        assert image.read(512, 512) == base[512:1024]
        assert image.read(1024, 1024) == qcow2.pattern(2, 2)


def test_a_chain_is_closed_as_a_whole(overlay, base, open_files):
    overlay("b.qcow2")
    path = overlay("a.qcow2", backing=b"b.qcow2", backing_format=b"qcow2")
    before = open_files()
    with open_image(path, allow_backing=True):
        assert open_files() == before + 3
    assert open_files() == before


def test_subclusters_that_are_not_there_come_from_the_backing_file(qcow2, tmp_path):
    (tmp_path / "base.img").write_bytes(b"\x77" * 16384)
    writer = qcow2.Writer(["D.ZD" * 8], cluster_bits=14, extended=True)
    writer.extension(0xE2792ACA, b"raw")
    writer.header(backing=b"base.img")
    data = writer.file[-16384:]
    with open_image(writer.write(tmp_path / "a"), allow_backing=True) as image:
        found = image.read(0, 16384)
    for i, kind in enumerate("D.ZD" * 8):
        own = bytes(data[i * 512 : i * 512 + 512])
        assert found[i * 512 : i * 512 + 512] == {"D": own, ".": b"\x77" * 512, "Z": bytes(512)}[kind]


@pytest.mark.parametrize(
    "name", [b"json:{}", b"nbd:localhost:10809", b"file:base.img", b"https://example.org/a", b"a:b"]
)
def test_names_of_other_kinds_than_files(overlay, base, name):
    with pytest.raises(ImageFormatError, match="not a file of this host"):
        open_image(overlay("a.qcow2", backing=name), allow_backing=True)


@pytest.mark.parametrize("name", [b"base\0.img", b"\0"])
def test_impossible_names(overlay, base, name):
    with pytest.raises(ImageFormatError, match="no file name"):
        open_image(overlay("a.qcow2", backing=name), allow_backing=True)


def test_a_name_that_drives_the_terminal_is_shown_as_text(overlay):
    with pytest.raises(ImageFormatError) as caught:
        open_image(overlay("a.qcow2", backing=b"\x1b]0;owned\x07\xff"))
    assert str(caught.value).isprintable()


def escapes(folder):
    """Ways out of `folder`, by name; each leads to the file `secret` beside it."""
    outside = folder.parent / "secret"
    outside.write_bytes(b"s" * 512)
    (folder / "link").symlink_to(outside)
    (folder / "out").symlink_to(folder.parent)
    (folder / "two").symlink_to("link")
    return {
        "dots": b"../secret",
        "absolute": bytes(outside),
        "link": b"link",
        "folder-link": b"out/secret",
        "link-to-link": b"two",
        "winding": b"sub/../../secret",
        "like-the-folder": bytes(folder) + b"-other/secret",
    }


@pytest.mark.parametrize(
    "way", ["dots", "absolute", "link", "folder-link", "link-to-link", "winding", "like-the-folder"]
)
def test_nothing_outside_the_folder_is_read(overlay, tmp_path, way):
    folder = tmp_path / "images"
    folder.mkdir()
    other = tmp_path / "images-other"
    other.mkdir()
    (other / "secret").write_bytes(b"s" * 512)
    path = overlay("images/a.qcow2", backing=escapes(folder)[way])
    with pytest.raises(ImageFormatError, match="lies outside"):
        open_image(path, allow_backing=True)


def test_links_inside_the_folder_are_followed(overlay, tmp_path, base):
    (tmp_path / "link").symlink_to("base.img")
    with open_image(overlay("a.qcow2", backing=b"link"), allow_backing=True) as image:
        assert image.read(512, 512) == base[512:1024]


def test_the_folder_counts_as_it_really_is(overlay, tmp_path, base):
    overlay("a.qcow2")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.symlink_to(tmp_path)
    with open_image(elsewhere / "a.qcow2", allow_backing=True) as image:
        assert image.read(512, 512) == base[512:1024]


def test_an_image_named_without_folder(overlay, tmp_path, base, monkeypatch):
    overlay("a.qcow2")
    monkeypatch.chdir(tmp_path)
    with open_image("a.qcow2", allow_backing=True) as image:
        assert image.read(512, 512) == base[512:1024]


def test_another_folder_instead_of_the_own_one(overlay, tmp_path):
    bases = tmp_path / "bases"
    bases.mkdir()
    (bases / "base.img").write_bytes(b"\x11" * 4096)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "near.img").write_bytes(b"\x22" * 4096)
    far = overlay("images/a.qcow2", backing=b"../bases/base.img")
    with pytest.raises(ImageFormatError, match="lies outside"):
        open_image(far, allow_backing=True)
    with open_image(far, allow_backing=True, backing_folder=bases) as image:
        assert image.read(512, 512) == b"\x11" * 512
    near = overlay("images/b.qcow2", backing=b"near.img")
    with pytest.raises(ImageFormatError, match="lies outside"):
        open_image(near, allow_backing=True, backing_folder=bases)


def test_the_folder_holds_for_the_whole_chain(overlay, tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 512)
    overlay("images/b.qcow2", backing=b"../secret")
    path = overlay("images/a.qcow2", backing=b"b.qcow2", backing_format=b"qcow2")
    with pytest.raises(ImageFormatError, match="lies outside"):
        open_image(path, allow_backing=True)


def test_a_folder_needs_the_permission_and_must_exist(overlay, tmp_path, base):
    path = overlay("a.qcow2")
    with pytest.raises(UsageError, match="not allowed"):
        open_image(path, backing_folder=tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        open_image(path, allow_backing=True, backing_folder=tmp_path / "base.img")


def test_an_image_that_is_its_own_backing_file(overlay):
    path = overlay("a.qcow2", backing=b"a.qcow2", backing_format=b"qcow2")
    with pytest.raises(ImageFormatError, match="lead back to a file of the same image"):
        open_image(path, allow_backing=True)


def test_a_loop_of_two_through_a_hard_link(overlay, tmp_path):
    first = overlay("a.qcow2", backing=b"b.qcow2", backing_format=b"qcow2")
    overlay("b.qcow2", backing=b"c.qcow2", backing_format=b"qcow2")
    os.link(first, tmp_path / "c.qcow2")
    with pytest.raises(ImageFormatError, match="lead back"):
        open_image(first, allow_backing=True)


def test_the_chain_is_bounded(overlay, tmp_path, base):
    for number in range(MAX_CHAIN):
        last = number == MAX_CHAIN - 1
        overlay(
            f"{number}.qcow2",
            backing=b"base.img" if last else b"%d.qcow2" % (number + 1),
            backing_format=b"raw" if last else b"qcow2",
            kinds="." * 8,
        )
    with open_image(tmp_path / "1.qcow2", allow_backing=True) as image:
        assert image.read(0, 4096) == base[:4096]
    with pytest.raises(ImageFormatError, match=f"more than {MAX_CHAIN} files"):
        open_image(tmp_path / "0.qcow2", allow_backing=True)


def test_a_format_that_is_not_stated_is_not_guessed(overlay, base):
    with pytest.raises(ImageFormatError, match="does not say which format"):
        open_image(overlay("a.qcow2", backing_format=None), allow_backing=True)


def test_a_raw_backing_file_that_looks_like_qcow2_stays_raw(overlay, tmp_path):
    (tmp_path / "secret").write_bytes(b"s" * 4096)
    crafted = overlay("base.img", backing=b"secret").read_bytes()
    with open_image(overlay("a.qcow2", kinds="." * 8), allow_backing=True) as image:
        assert len(crafted) == 3584
        assert image.read(0, 4096) == crafted.ljust(4096, b"\0")


@pytest.mark.parametrize("name", [b"vmdk", b"nbd", b"", b"raw\0", b"\x1b[2J" * 99])
def test_other_backing_formats(overlay, base, name):
    path = overlay("a.qcow2", backing_format=name[:16])
    with pytest.raises(ImageFormatError, match="raw and qcow2 are read"):
        open_image(path, allow_backing=True)


def test_a_qcow2_backing_file_that_is_none(overlay, base):
    with pytest.raises(ImageFormatError, match="no qcow2 header"):
        open_image(overlay("a.qcow2", backing_format=b"qcow2"), allow_backing=True)


def test_a_missing_backing_file(overlay):
    with pytest.raises(ImageError, match=r"base\.img: cannot be opened: No such file"):
        open_image(overlay("a.qcow2"), allow_backing=True)


def test_a_backing_file_that_is_a_folder_or_a_fifo(overlay, tmp_path):
    (tmp_path / "sub").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in (b"sub", b"pipe", b"."):
        with pytest.raises(ImageError, match="not a disk image"):
            open_image(overlay("a.qcow2", backing=name), allow_backing=True)


# --- data files --------------------------------------------------------------------------------------------------


@pytest.fixture
def with_data_file(qcow2, tmp_path):
    def write(name=b"disk.data", kinds="D.DZD", moved=False):
        writer = qcow2.Writer(kinds)
        for number, kind in enumerate(kinds):
            if kind == "D":
                writer.put64(writer.entry_offset(number), (number + moved) * 512 | 1 << 63)
        writer.extension(0x44415441, name)
        writer.header(incompatible=4)
        writer.write(tmp_path / "a.qcow2")
        return tmp_path / "a.qcow2"

    return write


def test_a_data_file(qcow2, tmp_path, with_data_file):
    (tmp_path / "disk.data").write_bytes(qcow2.pattern(0, 5))
    path = with_data_file()
    with pytest.raises(ImageFormatError, match=r"needs the data file disk\.data.*--allow-backing"):
        open_image(path)
    with open_image(path, allow_backing=True) as image:
        assert [image.read(i * 512, 512) == qcow2.sector(i) for i in range(5)] == [True, False, True, False, True]
        assert image.read(512, 512) == image.read(3 * 512, 512) == bytes(512)


def test_data_at_another_place_of_the_data_file(qcow2, tmp_path, with_data_file):
    (tmp_path / "disk.data").write_bytes(qcow2.pattern(0, 9))
    with (
        open_image(with_data_file(moved=True), allow_backing=True) as image,
        pytest.raises(ImageFormatError, match="another place"),
    ):
        image.read(0, 512)


def test_a_data_file_that_is_too_short(qcow2, tmp_path, with_data_file):
    (tmp_path / "disk.data").write_bytes(qcow2.pattern(0, 2))
    with open_image(with_data_file(), allow_backing=True) as image:
        assert image.read(0, 512) == qcow2.sector(0)
        with pytest.raises(ImageFormatError, match="outside the file"):
            image.read(1024, 512)


def test_no_compressed_clusters_in_a_data_file(qcow2, tmp_path, with_data_file):
    (tmp_path / "disk.data").write_bytes(qcow2.pattern(0, 5))
    with (
        open_image(with_data_file(kinds="DC"), allow_backing=True) as image,
        pytest.raises(ImageFormatError, match="no compressed clusters"),
    ):
        image.read(512, 512)


def test_data_files_are_held_to_the_folder_too(tmp_path, with_data_file):
    for name in (b"../disk.data", b"/etc/passwd"):
        with pytest.raises(ImageFormatError, match="lies outside"):
            open_image(with_data_file(name), allow_backing=True)
    with pytest.raises(ImageFormatError, match="lead back"):
        open_image(with_data_file(b"a.qcow2"), allow_backing=True)
