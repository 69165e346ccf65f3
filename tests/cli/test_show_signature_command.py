"""`sipl show-signature`: the signature that a file carries."""

from __future__ import annotations

import pytest
from signing_lab import AT, CERT, EC_CERT, PAYLOAD, signer, wrap


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "signed").write_bytes(wrap(PAYLOAD, signer().sign(PAYLOAD)))
    (tmp_path / "plain").write_bytes(PAYLOAD)
    (tmp_path / "twice").write_bytes(wrap(wrap(PAYLOAD, b"1"), signer().sign(wrap(PAYLOAD, b"1"))))
    return tmp_path


def test_lines(sipl):
    result = sipl("show-signature", "signed")
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == "signed: signed, 512 bytes of payload"
    assert result.lines[1].startswith("  signature of ")
    assert " by CN=sipl test good, serial number " in result.lines[1]
    assert result.lines[1].endswith(", SHA-256 with RSA")
    assert result.lines[2] == "  global SCLAB of length 32, OPSW+OLA, PSW 000800008000a000, address 0xa000"
    assert len(result.lines) == 3


def test_verified(sipl):
    result = sipl("show-signature", "--boot-certs", CERT, "--at", AT, "signed")
    assert (result.code, result.lines[0]) == (0, f"signed: verified ({CERT}), 512 bytes of payload")
    result = sipl("show-signature", "--boot-certs", EC_CERT, "--at", AT, "signed")
    assert result.code == 1
    assert result.lines[0] == "signed: signed, NOT VERIFIED, 512 bytes of payload"


def test_several_files(sipl):
    result = sipl("show-signature", "-q", "signed", "plain", "twice")
    assert result.code == 1
    assert [line.split(",")[0] for line in result.lines] == ["signed: signed", "plain: not signed", "twice: signed"]
    result = sipl("show-signature", "-q", "missing", "plain")
    assert (result.code, len(result.lines)) == (2, 1)


def test_verbose(sipl):
    assert "  sha256 71d5098cfbe3a0a6" in sipl("show-signature", "-v", "signed").out


def test_json(sipl):
    result = sipl("show-signature", "--json", "signed", "plain", "twice")
    assert result.code == 1
    assert [(view["path"], view["signatures"]) for view in result.json] == [("signed", 1), ("plain", 0), ("twice", 2)]
    assert [bool(view["faults"]) for view in result.json] == [False, False, True]
    assert {view["schema"] for view in result.json} == {"sipl.signature/1"}


def test_what_a_name_does_to_the_terminal(sipl, folder):
    (folder / "a\x1b[31m").write_bytes(PAYLOAD)
    for words in (("show-signature",), ("strip",), ("show-signature", "--json")):
        result = sipl(*words, "a\x1b[31m")
        assert "\x1b" not in result.out + result.err


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ((), 2, "required: FILE"),
        (("--at", "x", "signed"), 2, "x"),
        (("--boot-certs", "missing.pem", "signed"), 1, "certificate-path: missing.pem"),
        (("--boot-certs", "plain", "signed"), 1, "certificate-not-pem: plain"),
    ],
)
def test_wrong_usage(sipl, words, code, why):
    result = sipl("show-signature", *words)
    assert (result.code, result.out) == (code, "")
    assert why in result.err
