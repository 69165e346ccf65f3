"""`sipl certs`: the certificate store as the guest will see it."""

from __future__ import annotations

import shutil

import pytest

AT = "@1800000000"
KEYS = (
    "number path name subject issuer serial not_before not_after key key_type key_id sha256 der_length vce_length "
    "valid why_not"
)


@pytest.fixture
def store(tmp_path, signers):
    """A directory with two certificates and something else."""
    folder = tmp_path / "certs"
    folder.mkdir()
    shutil.copy(signers["B"].path, folder / "b.pem")
    shutil.copy(signers["A"].path, folder / "a.pem")
    (folder / "README").write_text("not a certificate")
    return folder


def test_lines(sipl, signers):
    result = sipl("certs", "--at", AT, signers["A"].path, signers["C"].path)
    assert (result.code, result.err) == (0, "")
    assert result.lines == [
        "2 certificates",
        "  1 A.pem: CN=sipl test A, P-256, valid",
        "  2 C.pem: CN=sipl test C, RSA-2048, valid",
    ]


def test_directory_is_sorted_and_what_is_skipped_is_said(sipl, store):
    result = sipl("certs", "--at", AT, store)
    assert result.code == 0
    assert [line.split()[1] for line in result.lines[1:3]] == ["a.pem:", "b.pem:"]
    assert result.lines[3].startswith(f"warning: certificate-skipped: {store}/README: ")


def test_json_keys_are_stable(sipl, store):
    (view,) = sipl("certs", "--json", "--at", AT, store).json
    assert list(view) == ["schema", "reason", "certificates", "notes"]
    assert (view["schema"], view["reason"], len(view["notes"])) == ("sipl.certificates/1", None, 1)
    assert all(list(certificate) == KEYS.split() for certificate in view["certificates"])
    assert [certificate["number"] for certificate in view["certificates"]] == [1, 2]
    assert [certificate["key"] for certificate in view["certificates"]] == ["P-256", "P-521"]
    assert [certificate["key_type"] for certificate in view["certificates"]] == [0, 1]
    for certificate in view["certificates"]:
        assert certificate["valid"]
        # The header (128 bytes), 32 bytes each for key identifier and hash, the certificate in whole words.
        assert certificate["vce_length"] == 192 + -(-certificate["der_length"] // 4) * 4


def test_an_expired_certificate_is_shown_with_what_the_guest_gets(sipl, signers):
    result = sipl("certs", "--at", "2040-01-01T00:00:00Z", signers["A"].path)
    assert result.code == 1
    assert "valid" not in result.lines[1].split(", ")[-1].split()
    (view,) = sipl("certs", "--json", "--at", "2040-01-01T00:00:00Z", signers["A"].path).json
    (certificate,) = view["certificates"]
    assert (certificate["valid"], certificate["vce_length"], certificate["key_type"]) == (False, 72, 0)
    assert "expired" in certificate["why_not"]


def test_verbose(sipl, signers):
    result = sipl("certs", "-v", "--at", AT, signers["A"].path)
    assert f"from {signers['A'].path}" in result.out
    assert f"sha256 {signers['A'].certificate.fingerprint.hex()}" in result.out
    assert "entry in the guest " in result.out


REFUSED = {
    "missing": ("missing.pem", None, "certificate-path"),
    "suffix": ("cert.crt", b"x", "certificate-not-pem"),
    "empty": ("empty.pem", b"", "certificate-unreadable"),
    "bad PEM": (
        "bad.pem",
        b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n",
        "certificate-unreadable",
    ),
    "bad DER": (
        "der.pem",
        b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n",
        "certificate-unreadable",
    ),
    "unended": ("cut.pem", b"-----BEGIN CERTIFICATE-----\nMAMCAQE=\n", "certificate-unreadable"),
    "key": (
        "key.pem",
        b"-----BEGIN PRIVATE KEY-----\nMAMCAQE=\n-----END PRIVATE KEY-----\n",
        "certificate-unreadable",
    ),
}


@pytest.mark.parametrize(("name", "content", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_refused_store_is_one_line_with_place_reason_and_cure(sipl, signers, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = sipl("certs", signers["A"].path, path)
    assert (result.code, result.err) == (1, "")
    errors = [line for line in result.lines if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith(f"error: {reason}: {path}: ")
    assert errors[0].endswith(")")
    (view,) = sipl("certs", "--json", signers["A"].path, path).json
    assert (view["reason"], view["certificates"]) == (reason, [])
    assert view["notes"] == errors


def test_too_many(sipl, signers):
    result = sipl("certs", *[signers["A"].path] * 65)
    assert result.code == 1
    assert "error: too-many-certificates: " in result.out
    assert sipl("certs", "-q", "--at", AT, *[signers["A"].path] * 64).lines == ["64 certificates"]


def test_empty_directory(sipl, tmp_path):
    result = sipl("certs", tmp_path)
    assert result.code == 1
    assert result.lines[0] == "0 certificates"
    assert result.lines[1].startswith(f"warning: certificate-directory-empty: {tmp_path}: ")
