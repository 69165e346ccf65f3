"""What is shown of the signature that a file carries."""

from __future__ import annotations

import hashlib
import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing_lab import CERT, DATA, EC_CERT, NOW, PAYLOAD, signer, wrap

from sipl.author.file_signature import FileSignature, show_signature, signature_dict, signature_lines
from sipl.errors import FileError, RefusedToStart

RECORD = bytes.fromhex("0000020000000000")


@pytest.fixture
def look(tmp_path):
    def call(data: bytes, *certs: str, at: int = NOW) -> FileSignature:
        (tmp_path / "file").write_bytes(data)
        return show_signature(str(tmp_path / "file"), certs, at)

    return call


@pytest.fixture(scope="module")
def signed():
    return wrap(PAYLOAD, signer().sign(PAYLOAD))


def test_a_signed_file(look, signed):
    view = look(signed)
    assert (view.size, view.payload_length, view.signatures) == (len(signed), 512, 1)
    assert view.payload_sha256 == hashlib.sha256(PAYLOAD).hexdigest()
    assert view.signature.signer.startswith("CN=sipl test good, serial number ")
    assert (view.signature.digest, view.signature.signature_algorithm) == ("SHA-256", "RSA")
    assert "OPSW" in view.sclab.flags
    assert (view.verified_by, view.why_not, view.faults, view.good) == (None, None, (), True)


def test_a_file_that_is_not_signed(look):
    view = look(PAYLOAD)
    assert (view.signature, view.signatures, view.payload_length, view.good) == (None, 0, 512, False)
    assert list(signature_lines(view, quiet=True, verbose=False)) == [f"{view.path}: not signed, 512 bytes of payload"]


def test_verified(look, signed):
    assert look(signed, EC_CERT, CERT).verified_by == CERT
    assert look(signed, EC_CERT, CERT).good


def test_not_verified(look, signed):
    for view in (look(signed, EC_CERT), look(signed, CERT, at=NOW * 2), look(wrap(PAYLOAD, b"x"), CERT)):
        assert view.verified_by is None and view.why_not and not view.good
        first, *rest = signature_lines(view, quiet=False, verbose=True)
        assert first.endswith("signed, NOT VERIFIED, 512 bytes of payload")
        assert any(line.startswith("  error: not verified: ") for line in rest)


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (wrap(wrap(PAYLOAD, b"inner"), signer().sign(b"x")), "signed 2 times"),
        (wrap(PAYLOAD, b"no PKCS#7"), "the signature cannot be read: "),
        (wrap(PAYLOAD, bytes(4097)), "4097 bytes, a machine takes at most 4096"),
        (wrap(PAYLOAD[1:], b"x"), "511 bytes are no multiple of 512"),
        (wrap(bytes(512), b"x"), "does not end with code loading attributes"),
        (wrap(PAYLOAD, b"x", b"\1" + RECORD[1:] + b"\0\0\0\1"), "must be zero are not"),
        (wrap(PAYLOAD, b"x", b"\1" * 12), "of type 1"),
    ],
)
def test_faults(look, data, fault):
    view = look(data)
    assert any(fault in text for text in view.faults), view.faults
    assert not view.good
    assert any(fault in line for line in signature_lines(view, quiet=False, verbose=False))


def test_the_outermost_signature_counts(look, signed):
    view = look(wrap(signed, signer("p521", "p521").sign(signed)), EC_CERT)
    assert view.signature.signature_algorithm == "ECDSA"
    assert (view.verified_by, view.signatures, view.payload_length) == (EC_CERT, 2, 512)
    assert view.sclab is None  # of what zipl would load
    assert not view.good


def test_json(look, signed):
    value = signature_dict(look(signed, CERT))
    assert value["schema"] == "sipl.signature/1"
    assert list(value)[1:] == list(FileSignature._fields)
    assert json.loads(json.dumps(value))["signature"]["length"] == len(signer().sign(PAYLOAD))


def test_what_cannot_be_looked_at(tmp_path, look, signed):
    with pytest.raises(FileError):
        show_signature(str(tmp_path))
    with pytest.raises(RefusedToStart):
        look(signed, str(DATA / "rsa2048.key"))


@given(st.binary(max_size=600), st.booleans())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_file(look, data, marked):
    view = look(wrap(data, b"", data[:12].ljust(12, b"\0")) if marked else data, CERT)
    for line in signature_lines(view, quiet=False, verbose=True):
        assert line.isprintable()
    json.dumps(signature_dict(view))
