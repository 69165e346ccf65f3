"""`sipl demo`: the whole way, and the refusal."""

from __future__ import annotations

import os


def test_boots_and_refuses_the_changed_disk(sipl, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    import tempfile

    monkeypatch.setattr(tempfile, "tempdir", None)
    result = sipl("demo")
    assert (result.code, result.err) == (0, "")
    assert ": hands over (entry PSW 000800008000a000) in secure mode" in result.out
    assert ": the machine stops in secure mode: signature-not-verified" in result.out
    assert os.listdir(tmp_path) == []  # nothing is left behind


def test_keep_leaves_files_that_boot(sipl, tmp_path):
    folder = tmp_path / "kept"
    result = sipl("demo", "--keep", folder)
    assert result.code == 0
    assert sorted(os.listdir(folder)) == ["demo-cert.pem", "demo-key.pem", "demo.raw"]
    assert (folder / "demo-key.pem").stat().st_mode & 0o077 == 0
    assert sipl("verify", "-q", "--boot-certs", folder / "demo-cert.pem", folder / "demo.raw").code == 0


def test_keep_never_replaces_a_file(sipl, tmp_path):
    (tmp_path / "demo-key.pem").write_text("precious")
    result = sipl("demo", "--keep", tmp_path)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "exists already" in result.err
    assert (tmp_path / "demo-key.pem").read_text() == "precious"


def test_a_folder_that_cannot_be_made(sipl, tmp_path):
    (tmp_path / "file").write_text("")
    result = sipl("demo", "--keep", tmp_path / "file" / "folder")
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert str(tmp_path / "file") in result.err


def test_quiet(sipl):
    lines = sipl("demo", "-q").lines
    assert sum(" in secure mode" in line for line in lines) == 2
    assert not any("component" in line for line in lines)
