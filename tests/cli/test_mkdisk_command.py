"""`sipl mkdisk`: its options, what it prints, how it ends."""

from __future__ import annotations

import re

import pytest
from ipl_lab import AT, loader_bytes
from linux_lab import tiny_linux

from sipl.crypto import signing

YEAR = 365 * 86400


@pytest.fixture
def desk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    key = signing.generate_key("p256")
    (tmp_path / "key.pem").write_bytes(signing.key_pem(key))
    (tmp_path / "secret.pem").write_bytes(signing.key_pem(key, b"open sesame"))
    (tmp_path / "cert.pem").write_bytes(signing.self_signed(key, "mine", AT - YEAR, AT + YEAR))
    (tmp_path / "vmlinuz").write_bytes(tiny_linux())
    (tmp_path / "initrd").write_bytes(b"initrd")
    (tmp_path / "stage3.bin").write_bytes(loader_bytes(0x4000))
    (tmp_path / "pass").write_text("open sesame\n")
    return tmp_path


@pytest.fixture
def mkdisk(sipl, desk):
    def call(*words, sign=True):
        signed = ("--key", "key.pem", "--cert", "cert.pem", "--at", f"@{AT}") if sign else ()
        return sipl("mkdisk", "-o", "new.raw", *signed, *words)

    return call


def lines(result):
    assert (result.code, result.err) == (0, ""), result
    return re.sub(r"sha256 [0-9a-f]{16}…", "sha256 …", result.out).splitlines()


KERNEL = ("--kernel", "vmlinuz")


def test_open(mkdisk):
    shown = lines(mkdisk(*KERNEL, "--initrd", "initrd", "--cmdline", "a=${B}", "--env", "B=c"))
    assert shown == [
        "new.raw: raw, 2 MiB in blocks of 512; boots in secure mode",
        "  entry 1 (default)",
        "    loader at 0xa000: 16384 bytes, sha256 …, signed (sipl's own)",
        "    parameters at 0x9000: 512 bytes, sha256 …, not signed",
        "    kernel at 0x10000: 77824 bytes, sha256 …, signed (Linux 6.1.0-tiny (somebody@example) #1 SMP)",
        "    command line at 0x24000: 512 bytes, sha256 …, not signed (a=${B})",
        "    initrd at 0x40000: 512 bytes, sha256 …, not signed",
        "    environment block at 0x34000: 4096 bytes, sha256 …, not signed (B)",
        "  not signed: parameters, command line, initrd, environment block",
    ]


def test_closed(mkdisk, sipl):
    shown = lines(mkdisk(*KERNEL, "--initrd", "initrd", "--closed", "--block-size", 4096, "--size", "4M"))
    assert shown[0] == "new.raw: raw, 4 MiB in blocks of 4096; closed, boots in secure mode"
    assert shown[-1] == "  not signed: nothing"
    assert not any("not signed" in line for line in shown[1:-1])
    verified = sipl("verify", "--boot-certs", "cert.pem", "--at", f"@{AT}", "new.raw")
    assert verified.code == 0
    assert "closed" in verified.out


def test_unsigned(mkdisk):
    shown = lines(mkdisk(*KERNEL, sign=False))
    assert shown[0] == "new.raw: raw, 2 MiB in blocks of 512; not signed, boots in normal mode only"
    assert not shown[-1].startswith("  not signed:")


def test_quiet(mkdisk):
    assert len(lines(mkdisk("-q", *KERNEL))) == 1


@pytest.mark.parametrize("text", ["4194304", "4096K", "4M", "4m"])
def test_sizes(mkdisk, desk, text):
    mkdisk("-q", *KERNEL, "--size", text)
    assert (desk / "new.raw").stat().st_size == 4 << 20


def test_odd_size(mkdisk):
    assert "4194816 bytes in blocks" in lines(mkdisk("-q", *KERNEL, "--size", 4194816))[0]


def test_entries(mkdisk, sipl):
    words = (*KERNEL, "--name", "a", "--cmdline", "one", *KERNEL, "--initrd", "initrd", "--name", "b\x1b")
    shown = lines(mkdisk(*words, "--default", "b\x1b"))
    assert [line for line in shown if "entry" in line] == ["  entry 1 a", "  entry 2 b\\x1b (default)"]
    assert sipl("inspect", "new.raw").out.count("the same as program 0") == 1


def test_config(mkdisk, desk):
    (desk / "disk.toml").write_text(
        "default = 2\n[environment]\nA = 'x'\n[[entry]]\nkernel = 'vmlinuz'\ncmdline = '${A}${B}'\n"
        "[[entry]]\nkernel = 'vmlinuz'\nname = 'second'\n"
    )
    shown = lines(mkdisk("--config", "disk.toml", "--env", "B=y"))
    assert "  entry 2 second (default)" in shown
    assert shown[6].endswith("not signed (A, B)")
    shown = lines(mkdisk("--config", "disk.toml", "--default", "1", "--force"))
    assert "  entry 1 (default)" in shown
    assert shown[6].endswith("not signed (A)")


def test_environment_file(mkdisk, desk):
    (desk / "env").write_text("A=1\nB=2\n")
    shown = lines(mkdisk(*KERNEL, "--cmdline", "${A}", "--envblk", "env", "--env", "A=3"))
    assert shown[-2].endswith("not signed (A, B)")


def test_passphrase(sipl, desk):
    words = ("mkdisk", "-q", "-o", "new.raw", *KERNEL, "--key", "secret.pem", "--cert", "cert.pem", "--at", f"@{AT}")
    assert lines(sipl(*words, "--passphrase-file", "pass"))


def test_format_and_loader(mkdisk, sipl):
    shown = lines(mkdisk(*KERNEL, "--format", "qcow2", "--loader", "stage3.bin", "--digest", "sha384"))
    assert shown[0].startswith("new.raw: qcow2, ")
    assert "(sipl's own)" not in "".join(shown)
    assert "SHA-384" in sipl("inspect", "new.raw").out


def test_kept(mkdisk, sipl, desk):
    sign = ("--key", "key.pem", "--cert", "cert.pem", "--at", f"@{AT}")
    assert sipl("sign", *sign, "vmlinuz", "stage3.bin").code == 0
    words = ("--keep-signatures", "--cert", "cert.pem", "--at", f"@{AT}", "--loader", "stage3.bin")
    shown = lines(mkdisk(*KERNEL, *words, sign=False))
    assert sum("signature kept" in line for line in shown) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "it has no entry (name a kernel)"),
        (("--initrd", "initrd", *KERNEL), "there is no entry that it belongs to (name the kernel before it)"),
        ((*KERNEL, "--cmdline", "a", "--cmdline", "b"), "it is said twice of one entry"),
        ((*KERNEL, "--size", "big"), "'big' is no size"),
        ((*KERNEL, "--size", "1K"), "1024 bytes are not possible"),
        ((*KERNEL, "--block-size", "500"), "invalid choice"),
        ((*KERNEL, "--format", "vmdk"), "invalid choice"),
        ((*KERNEL, "--config", "x.toml"), "entries are named with --kernel, too"),
        (("--config", "none.toml"), "none.toml: cannot be read"),
        ((*KERNEL, "--env", "A"), "'A' sets nothing"),
        ((*KERNEL, "--default", "3"), "there is no entry '3'"),
        ((*KERNEL, "--closed", "--loader", "stage3.bin"), "takes its parameters from anybody"),
        (("--kernel", "none"), "none: cannot be read"),
        (("--kernel", "vmlinuz", "more"), "unrecognized arguments: more"),
        ((*KERNEL, "--digest", "md5"), "no signatures are made with md5"),
    ],
    ids=range(15),
)
def test_wrong_usage(mkdisk, desk, words, message):
    result = mkdisk(*words)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert result.err.count("\n") == 1
    assert not (desk / "new.raw").exists()


def test_not_without_a_place(sipl, desk):
    result = sipl("mkdisk", *KERNEL)
    assert result.code == 2
    assert "-o" in result.err


def test_what_is_refused(mkdisk, desk):
    (desk / "vmlinuz").write_bytes(tiny_linux()[:-32])
    result = mkdisk(*KERNEL)
    assert (result.code, result.out) == (1, "")
    assert "vmlinuz: its 77792 bytes are no multiple of 512" in result.err
    assert not (desk / "new.raw").exists()


def test_what_would_not_boot(mkdisk, desk):
    from sipl.author import sclab

    (desk / "vmlinuz").write_bytes(sclab.overwrite(tiny_linux(), sclab.build(0x4000, 0, 0x20000)))
    result = mkdisk(*KERNEL)
    assert (result.code, result.out) == (1, "")
    assert "entry 0 would not boot, nothing was written: sclab-address-mismatch" in result.err
    assert [path.name for path in desk.iterdir() if "new.raw" in path.name] == []


def test_nothing_is_replaced(mkdisk, desk):
    (desk / "new.raw").write_bytes(b"mine")
    result = mkdisk(*KERNEL)
    assert (result.code, (desk / "new.raw").read_bytes()) == (2, b"mine")
    assert "say --force" in result.err
    assert mkdisk(*KERNEL, "--force").code == 0
