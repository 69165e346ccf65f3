"""`sipl seal` and `sipl unseal`: words, output, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import seal_lab
from seal_lab import disk, linux, program

from sipl.author.seal_report import SealReport, UnsealReport
from sipl.crypto import signing

AT = f"@{seal_lab.AT}"


class Desk:
    """A key, its certificate and a disk, as files."""

    def __init__(self, folder: Path, key, pem: bytes) -> None:
        self.key, self.cert, self.disk = (str(folder / name) for name in ("key.pem", "cert.pem", "disk.raw"))
        Path(self.key).write_bytes(signing.key_pem(key))
        Path(self.cert).write_bytes(pem)
        Path(self.disk).write_bytes(disk([program(linux("6.1.0-cli"))], order=(0, 0)))

    @property
    def words(self) -> tuple[str, ...]:
        return ("--key", self.key, "--cert", self.cert, "--at", AT)


@pytest.fixture(scope="module")
def pair():
    key = signing.generate_key("p521")
    return key, signing.self_signed(key, "cli", seal_lab.AT - seal_lab.YEAR, seal_lab.AT + seal_lab.YEAR)


@pytest.fixture
def desk(tmp_path, pair):
    return Desk(tmp_path, *pair)


def test_seal_and_unseal(sipl, desk):
    before = Path(desk.disk).read_bytes()
    result = sipl("seal", *desk.words, desk.disk)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == f"{desk.disk}: sealed; would boot in secure mode, verified"
    assert result.lines[2] == "  program 0 (default), 1, entry PSW 000800008000a000"
    assert "    component 0x10000: 69632 bytes, Linux 6.1.0-cli: signed" in result.lines
    assert result.lines[-1] == "  stays unsigned: parameters, command line, initrd, environment block, heap"
    assert sipl("verify", "-q", "--boot-certs", desk.cert, "--at", AT, desk.disk).code == 0
    result = sipl("unseal", desk.disk)
    assert (result.code, result.lines) == (
        0,
        [f"{desk.disk}: unsealed; the boot record is the one from before it was sealed"],
    )
    assert Path(desk.disk).read_bytes()[:512] == before[:512]
    result = sipl("unseal", desk.disk)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(f"sipl: not-sealed: {desk.disk}: ")


def test_dry_run(sipl, desk):
    before = Path(desk.disk).read_bytes()
    result = sipl("seal", "--dry-run", *desk.words, desk.disk)
    assert result.code == 0
    assert result.lines[0] == f"{desk.disk}: nothing was written; sealed like this it would boot in secure mode"
    assert any(line.startswith("  would write, in step 1: 512 bytes at byte 0x200") for line in result.lines)
    assert Path(desk.disk).read_bytes() == before
    sipl("seal", *desk.words, desk.disk)
    before = Path(desk.disk).read_bytes()
    assert sipl("unseal", "--dry-run", desk.disk).code == 0
    assert Path(desk.disk).read_bytes() == before


def test_quiet_and_verbose(sipl, desk):
    assert len(sipl("seal", "-q", *desk.words, desk.disk).lines) == 1
    assert any("wrote, in step" in line for line in sipl("-v", "seal", *desk.words, desk.disk).lines)


def test_json(sipl, desk):
    result = sipl("seal", "--json", *desk.words, desk.disk)
    report = json.loads(result.out)
    assert list(report) == ["schema", *SealReport._fields]
    assert (report["schema"], report["done"], report["path"]) == ("sipl.seal/1", True, desk.disk)
    assert report["programs"][0]["numbers"] == [0, 1]
    result = sipl("unseal", "--json", desk.disk)
    report = json.loads(result.out)
    assert list(report) == ["schema", *UnsealReport._fields]
    result = sipl("unseal", "--json", desk.disk)
    assert result.code == 1
    refusal = json.loads(result.out)
    assert list(refusal) == ["schema", "path", "done", "reason", "message", "hint"]
    assert (refusal["done"], refusal["reason"]) == (False, "not-sealed")


def test_several_disks(sipl, desk, tmp_path):
    blank = tmp_path / "blank.raw"
    blank.write_bytes(bytes(1 << 20))
    result = sipl("seal", "-q", *desk.words, blank, desk.disk)
    assert result.code == 1
    assert result.err.startswith(f"sipl: no-partition-table: {blank}: ")
    assert result.lines == [f"{desk.disk}: sealed; would boot in secure mode, verified"]


def test_component(sipl, desk):
    result = sipl("seal", "--component", "0x50000", *desk.words, desk.disk)
    assert result.code == 1
    assert "component-not-found" in result.err
    assert sipl("seal", "--component", "65536", *desk.words, desk.disk).code == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--entry", "x"), "'x' is no number of a program"),
        (("--entry", "31"), "'31' is no number of a program"),
        (("--entry", "5"), "no program 5"),
        (("--component", "kernel"), "'kernel' is no address"),
        (("--component=-1",), "'-1' is no address"),
        (("--component", "0x10000000000000000"), "is no address"),
        (("--digest", "sha1"), "no signatures are made with sha1"),
        (("--block-size", "300"), "'300' is not possible"),
    ],
)
def test_wrong_words(sipl, desk, words, message):
    before = Path(desk.disk).read_bytes()
    result = sipl("seal", *desk.words, *words, desk.disk)
    assert (result.code, result.out) == (2, "")
    assert message in result.err
    assert Path(desk.disk).read_bytes() == before


def test_what_must_be_named(sipl, desk):
    assert "--key and --cert are needed" in sipl("seal", desk.disk).err
    assert "no disk is named" in sipl("seal", *desk.words).err
    assert "no disk is named" in sipl("unseal").err


def test_files_that_are_not_there(sipl, desk, tmp_path):
    assert sipl("seal", *desk.words, tmp_path / "none").code == 2
    assert sipl("unseal", tmp_path / "none").code == 2
    assert sipl("seal", "--key", tmp_path / "none", "--cert", desk.cert, desk.disk).code == 2


def test_an_expired_certificate(sipl, desk):
    result = sipl("seal", "--key", desk.key, "--cert", desk.cert, "--at", "2090-01-01T00:00:00Z", desk.disk)
    assert result.code == 1
    assert "expired" in result.err


def test_a_certificate_store_that_no_machine_takes(sipl, desk, tmp_path):
    other = tmp_path / "cert.crt"
    other.write_bytes(b"")
    result = sipl("seal", "--boot-certs", other, *desk.words, desk.disk)
    assert result.code == 1
    assert "certificate-not-pem" in result.err


def test_progress_on_a_terminal(terminal, desk):
    shown = terminal("seal", *desk.words, desk.disk).finish()
    assert shown.code == 0
    assert "look at the disk" in shown.out
    assert "sealed; would boot in secure mode, verified" in shown.out


def test_a_name_that_drives_a_terminal(sipl, desk, tmp_path):
    path = tmp_path / "disk\x1b[2J.raw"
    path.write_bytes(Path(desk.disk).read_bytes())
    result = sipl("seal", *desk.words, path)
    assert result.code == 0
    assert "\x1b" not in result.out
    assert "\x1b" not in sipl("unseal", path).out
