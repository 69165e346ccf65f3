"""The demo's files: a disk that a reader of its own and openssl find in order, and what is refused."""

from __future__ import annotations

import stat
import struct
import subprocess
from pathlib import Path

import pytest

from sipl.author import demo, guest
from sipl.author.boot_record import Execute, Load, Program, write_disk
from sipl.errors import ImageError, ImageFormatError, UsageError

NOW = 1_790_000_000


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return demo.make_demo(str(tmp_path_factory.mktemp("demo") / "new"), NOW)


def entries(image):
    """[(type, bytes of the component as loaded, value)] of the default program; all pointers are merged ones."""

    def block_at(offset):
        return struct.unpack_from(">Q", image, offset)[0] * 512

    table = block_at(block_at(16) + 16)
    found = []
    for offset in range(table + 32, table + 512, 32):
        kind, value = struct.unpack_from(">23xB8s", image, offset)
        if kind == 1:
            return [*found, (kind, b"", value)]
        start, size, count = struct.unpack_from(">QHH", image, block_at(offset))
        assert size == 512
        assert struct.unpack_from(">Q", image, block_at(offset) + 16) == (0,)
        found.append((kind, image[start * 512 : (start + count + 1) * 512], value))
    raise AssertionError("no EXEC entry")


def read(path):
    return Path(path).read_bytes()


def test_table_is_like_that_of_zipl(files):
    table = entries(read(files.disk))
    assert [(kind, int.from_bytes(value, "big")) for kind, _, value in table if kind != 3] == [
        (2, 0x2000),
        (2, 0xF000),
        (2, 0xA000),
        (2, 0x10000),
        (2, 0x11000),
        (1, 0x000800008000A000),
    ]
    assert [kind for kind, _, _ in table] == [2, 2, 3, 2, 3, 2, 2, 1]
    assert table[0][1] == bytes(0x4000)
    assert table[1][1] == bytes(0x1000)
    assert table[3][1] == guest.loader_component(512)
    assert table[5][1] == guest.kernel_component(512)
    assert table[6][1].rstrip(b"\0") == b"console=ttysclp0"


def test_it_is_not_taken_for_stage_3(files):
    table = entries(read(files.disk))
    assert all(int.from_bytes(value, "big") != 0x9000 for kind, _, value in table if kind == 2)
    assert len(table[3][1]) != 0x4000


def test_image_looks_like_a_partitioned_disk(files):
    image = read(files.disk)
    assert len(image) == 24 << 20
    assert image[510:512] == b"\x55\xaa"
    start, blocks = struct.unpack_from("<II", image, 446 + 8)
    assert image[446 + 4] == 0x83
    assert (start + blocks) * 512 == len(image)
    assert not any(image[start * 512 :])
    assert not any(image[0x98:446])
    assert not any(image[462:510])


def test_openssl_verifies_the_signatures(files, need_tool, tmp_path):
    openssl = need_tool("openssl", "openssl")
    table = entries(read(files.disk))
    pairs = [(table[i], table[i + 1][1]) for i in range(len(table)) if table[i][0] == 3]
    assert len(pairs) == 2
    for (_, signature, info), component in pairs:
        kind, length = struct.unpack(">B3xI", info)
        assert kind == 1
        assert not any(signature[length:])
        (tmp_path / "sig").write_bytes(signature[:length])

        def verify(content):
            (tmp_path / "content").write_bytes(content)
            command = [openssl, "cms", "-verify", "-binary", "-inform", "DER", "-in", tmp_path / "sig", "-noverify"]
            command += ["-content", tmp_path / "content", "-certfile", files.certificate, "-out", tmp_path / "out"]
            return subprocess.run(command, capture_output=True, timeout=30, check=False).returncode

        assert verify(component) == 0
        assert verify(bytes([component[0] ^ 1]) + component[1:]) != 0


def test_certificate_is_for_the_key_and_for_now(files, need_tool):
    openssl = need_tool("openssl", "openssl")

    def run(*arguments):
        return subprocess.run([openssl, *arguments], capture_output=True, timeout=30, check=True).stdout

    assert run("pkey", "-in", files.key, "-pubout") == run("x509", "-in", files.certificate, "-noout", "-pubkey")
    for at, good in ((NOW, True), (NOW - 86400, True), (NOW - 86402, False), (NOW + 366 * 86400, False)):
        done = subprocess.run(
            [openssl, "verify", "-attime", str(at), "-CAfile", files.certificate, files.certificate],
            capture_output=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode == 0) is good, (at, done)


def test_only_the_owner_reads_the_key(files):
    assert stat.S_IMODE(Path(files.key).stat().st_mode) == 0o600
    assert read(files.key).startswith(b"-----BEGIN")


def test_nothing_is_overwritten(files):
    before = read(files.key)
    with pytest.raises(UsageError, match="exists already"):
        demo.make_demo(str(Path(files.key).parent), NOW)
    assert read(files.key) == before


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ImageError, match="file/below"):
        demo.make_demo(str(tmp_path / "file" / "below"), NOW)


@pytest.fixture
def disk(tmp_path):
    """A disk like the demo's, with bytes that are no signatures."""
    loader = Load(guest.LOADER_ADDRESS, guest.loader_component(512), b"no")
    kernel = Load(guest.KERNEL_ADDRESS, guest.kernel_component(512), b"no")
    path = tmp_path / "demo.raw"
    path.write_bytes(demo.demo_disk(loader, kernel))
    return path


@pytest.mark.parametrize(("where", "index"), [("loader", 3), ("kernel", 5)])
def test_one_byte_of_the_component_is_flipped(disk, where, index):
    before = disk.read_bytes()
    offset = demo.flip_byte(str(disk), where)
    after = disk.read_bytes()
    assert [i for i in range(len(before)) if before[i] != after[i]] == [offset]
    assert before[offset] ^ after[offset] == 0xFF
    assert [i for i, (old, new) in enumerate(zip(entries(before), entries(after), strict=True)) if old != new] == [
        index
    ]
    assert demo.flip_byte(str(disk), where) == offset
    assert disk.read_bytes() == before


def test_default_is_the_kernel(disk):
    assert demo.flip_byte(str(disk)) == demo.flip_byte(str(disk), "kernel")


def test_flip_refuses_what_is_no_demo_disk(disk, tmp_path):
    image = disk.read_bytes()
    with pytest.raises(UsageError, match="initrd"):
        demo.flip_byte(str(disk), "initrd")
    with pytest.raises(ImageError, match="No such file"):
        demo.flip_byte(str(tmp_path / "none"))
    with pytest.raises(ImageError):
        demo.flip_byte(str(tmp_path))
    (program_table,) = struct.unpack_from(">Q", image, 16)
    broken = {
        "empty": b"",
        "short": image[:100],
        "blank": bytes(4096),
        "cut": image[: program_table * 512],
        "cut in a block": image[: program_table * 512 + 100],
        "far": image[:16] + b"\xff" * 8 + image[24:],
        "other": bytes(write_disk([Program([Load(0x20000, b"x"), Execute(0)])], 512)),
        "no end": bytes(write_disk([Program([Load(0x20000, b"x")] * 15)], 512)),
    }
    for name, content in broken.items():
        disk.write_bytes(content)
        with pytest.raises(ImageFormatError):
            demo.flip_byte(str(disk))
        assert disk.read_bytes() == content, name
