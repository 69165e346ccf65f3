"""A new key and its certificate: what they are, and who may read them."""

from __future__ import annotations

import errno
import os
import stat
import subprocess

import pytest
from signing_lab import NOW, left_behind

from sipl.author.key_files import KINDS, make_key
from sipl.author.signer import load_certificate, load_private_key, open_signer
from sipl.crypto.signing import SigningError
from sipl.errors import FileError, UsageError

DAY = 24 * 3600


@pytest.fixture
def names(tmp_path):
    return str(tmp_path / "key.pem"), str(tmp_path / "cert.pem")


def quick(key, cert, **how):
    return make_key(key, cert, "p521", **({"now": NOW} | how))


@pytest.mark.parametrize("kind", KINDS)
def test_kinds(names, kind, need_tool):
    made = make_key(*names, kind, common_name="Example", days=2, now=NOW)
    certificate = load_certificate(names[1])
    expected = {"rsa2048": "RSA-2048", "rsa3072": "RSA-3072", "rsa4096": "RSA-4096", "p521": "P-521"}[kind]
    assert (made.key_name, made.subject, made.encrypted) == (expected, "CN=Example", False)
    assert certificate.key_name == expected
    assert (certificate.not_before, certificate.not_after) == (NOW - DAY, NOW + 2 * DAY)
    assert (made.not_before, made.not_after) == ("2026-05-31T00:00:00Z", "2026-06-03T00:00:00Z")
    with open_signer(*names, now=NOW) as signer:
        assert signer.sign(b"x")
    openssl = need_tool("openssl", "openssl")
    usage = subprocess.run(
        [openssl, "x509", "-in", names[1], "-noout", "-ext", "keyUsage"], capture_output=True, text=True, check=True
    )
    assert usage.stdout.split("\n")[0] == "X509v3 Key Usage: critical"
    assert usage.stdout.split("\n")[1].strip() == "Digital Signature"
    subprocess.run([openssl, "pkey", "-in", names[0], "-check", "-noout"], capture_output=True, check=True)


def test_modes(names):
    old = os.umask(0)
    try:
        quick(*names)
    finally:
        os.umask(old)
    assert [stat.S_IMODE(os.stat(name).st_mode) for name in names] == [0o600, 0o666]


def test_encrypted(names, need_tool):
    assert quick(*names, passphrase=b"open sesame").encrypted
    with open(names[0], "rb") as file:
        assert file.readline() == b"-----BEGIN ENCRYPTED PRIVATE KEY-----\n"
    assert load_private_key(names[0], lambda what: b"open sesame")
    with pytest.raises(SigningError):
        load_private_key(names[0], lambda what: b"open barley")
    command = [need_tool("openssl", "openssl"), "pkey", "-in", names[0], "-noout", "-passin"]
    subprocess.run([*command, "pass:open sesame"], check=True)
    assert subprocess.run([*command, "pass:open barley"], check=False, capture_output=True).returncode


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_is_replaced_unasked(names, which, tmp_path):
    with open(names[which], "wb") as file:
        file.write(b"precious")
    with pytest.raises(UsageError, match=r"exists already \(name another one, or say --force\)"):
        quick(*names)
    assert left_behind(tmp_path) == {os.path.basename(names[which])}
    with open(names[which], "rb") as file:
        assert file.read() == b"precious"
    os.chmod(names[which], 0o644)
    quick(*names, force=True)
    assert stat.S_IMODE(os.stat(names[0]).st_mode) == 0o600
    assert open_signer(*names, now=NOW)


def test_a_link_is_not_followed(names, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    os.symlink("elsewhere/key", names[0])
    with pytest.raises(UsageError):
        quick(*names)
    quick(*names, force=True)
    assert not os.path.islink(names[0])
    assert os.listdir(tmp_path / "elsewhere") == []


def test_a_name_that_is_taken_meanwhile(names, tmp_path, monkeypatch):
    """Another process makes the key between the look and the writing: neither file is left."""
    real = os.path.lexists
    monkeypatch.setattr(os.path, "lexists", lambda path: False)
    with open(names[0], "wb") as file:
        file.write(b"precious")
    with pytest.raises(UsageError, match="exists already"):
        quick(*names)
    monkeypatch.setattr(os.path, "lexists", real)
    assert left_behind(tmp_path) == {"key.pem"}
    with open(names[0], "rb") as file:
        assert file.read() == b"precious"


def test_a_full_disk_leaves_nothing(names, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(FileError, match="No space left"):
        quick(*names)
    monkeypatch.undo()
    assert left_behind(tmp_path) == set()


@pytest.mark.parametrize(
    ("how", "where"),
    [
        ({"kind": "rsa1024"}, "--kind"),
        ({"kind": "p256"}, "--kind"),
        ({"days": 0}, "--days"),
        ({"days": 36501}, "--days"),
        ({"passphrase": b""}, "passphrase"),
        ({"passphrase": b"x" * 1024}, "passphrase"),
        ({"key": ""}, "--key"),
        ({"certificate": ""}, "--cert"),
    ],
)
def test_values(names, tmp_path, how, where):
    with pytest.raises(UsageError) as caught:
        make_key(**({"key": names[0], "certificate": names[1], "kind": "p521", "now": NOW} | how))
    assert caught.value.where == where
    assert left_behind(tmp_path) == set()


def test_key_and_certificate_are_two_files(names):
    with pytest.raises(UsageError, match="two files"):
        quick(names[0], f"{os.path.dirname(names[0])}/./key.pem")


@pytest.mark.parametrize("name", ["", "x" * 65])
def test_names_that_no_certificate_can_have(names, name, tmp_path):
    with pytest.raises(SigningError):
        quick(*names, common_name=name)
    assert left_behind(tmp_path) == set()
