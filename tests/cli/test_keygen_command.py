"""`sipl keygen`: a key and its certificate."""

from __future__ import annotations

import os
import stat

import pytest
from signing_lab import left_behind

from sipl.author.signer import load_certificate, load_private_key

QUICK = ("--kind", "p521")
NAMES = ("--key", "key.pem", "--cert", "cert.pem")


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIPL_PASSPHRASE", raising=False)


def test_lines(sipl):
    result = sipl("keygen", "--cn", "Example images", *NAMES)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == "made the key key.pem: RSA-2048, not encrypted"
    assert result.lines[1].startswith("made the certificate cert.pem: CN=Example images, valid until 20")
    assert stat.S_IMODE(os.stat("key.pem").st_mode) == 0o600
    assert load_private_key("key.pem").key_size == 2048


def test_days(sipl):
    assert sipl("keygen", "-q", *QUICK, "--days", "1", *NAMES).out == ""
    certificate = load_certificate("cert.pem")
    assert certificate.not_after - certificate.not_before == 2 * 24 * 3600


def test_files_are_not_replaced(sipl):
    sipl("keygen", *QUICK, *NAMES)
    with open("key.pem", "rb") as file:
        before = file.read()
    result = sipl("keygen", *QUICK, *NAMES)
    assert result.code == 2
    assert result.err == "sipl: key.pem: the file exists already (name another one, or say --force)\n"
    with open("key.pem", "rb") as file:
        assert file.read() == before
    assert sipl("keygen", *QUICK, "--force", *NAMES).code == 0


class TestEncrypted:
    def test_by_a_file(self, sipl, tmp_path):
        """Who names a passphrase does not want the key in the clear."""
        (tmp_path / "secret").write_text("open sesame\n")
        result = sipl("keygen", *QUICK, "--passphrase-file", "secret", *NAMES)
        assert result.lines[0] == "made the key key.pem: P-521, encrypted"
        assert load_private_key("key.pem", lambda what: b"open sesame")

    def test_by_the_environment(self, sipl, monkeypatch):
        monkeypatch.setenv("SIPL_PASSPHRASE", "from outside")
        assert sipl("keygen", *QUICK, "--encrypt", *NAMES).code == 0
        assert load_private_key("key.pem", lambda what: b"from outside")

    def test_the_environment_alone_encrypts_nothing(self, sipl, monkeypatch):
        monkeypatch.setenv("SIPL_PASSPHRASE", "from outside")
        assert "not encrypted" in sipl("keygen", *QUICK, *NAMES).out

    def test_by_a_person(self, terminal, tmp_path):
        with terminal("keygen", *QUICK, "--encrypt", *NAMES) as screen:
            screen.wait_for("a passphrase for the new key: ")
            screen.type("open sesame\n")
            screen.wait_for("once more: ")
            screen.type("open sesame\n")
            result = screen.finish()
        assert result.code == 0
        assert "sesame" not in result.out
        assert load_private_key("key.pem", lambda what: b"open sesame")

    def test_by_a_person_who_errs(self, terminal, tmp_path):
        with terminal("keygen", *QUICK, "--encrypt", *NAMES) as screen:
            screen.wait_for("new key: ")
            screen.type("open sesame\n")
            screen.wait_for("once more: ")
            screen.type("open barley\n")
            result = screen.finish()
        assert result.code == 2
        assert "the two passphrases differ" in result.out
        assert left_behind(tmp_path) == set()

    def test_with_nobody_to_ask(self, sipl_process, tmp_path):
        result = sipl_process("keygen", *QUICK, "--encrypt", *NAMES, start_new_session=True)
        assert result.code == 2
        assert "there is no terminal to ask at (give it with --passphrase-file or in $SIPL_PASSPHRASE)" in result.err
        assert left_behind(tmp_path) == set()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ((), "the following arguments are required: --key, --cert"),
        (("--key", "k"), "required: --cert"),
        ((*NAMES, "--kind", "rsa1024"), "--kind: no keys of the kind rsa1024 are made"),
        ((*NAMES, "--days", "x"), "--days: 'x' is no number of days"),
        ((*NAMES, "--days", "0"), "--days: 0 days are not possible"),
        ((*NAMES, "--cn", ""), "certificate: it cannot be made"),
        ((*NAMES, "--passphrase-file", "missing"), "missing: the passphrase cannot be read"),
        ((*NAMES, "--passphrase", "secret"), "unrecognized arguments: --passphrase"),
        (("--key", "no/such/key", "--cert", "c"), "no/such/key: cannot be written"),
    ],
)
def test_wrong_usage(sipl, words, why, tmp_path):
    result = sipl("keygen", *QUICK, *words)
    assert (result.code, result.out) == (2, "")
    assert why in result.err
    assert len(result.err.splitlines()) == 1
    assert left_behind(tmp_path) == set()
