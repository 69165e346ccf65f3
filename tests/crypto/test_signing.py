"""The author's side: keys, certificates, signatures in sign-file's profile."""

from __future__ import annotations

import subprocess

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519

from sipl.crypto.certificate import Certificate
from sipl.crypto.pkcs7 import SignedData
from sipl.crypto.signing import (
    KEY_KINDS,
    SIGNING_DIGESTS,
    SigningError,
    generate_key,
    key_pem,
    load_key,
    self_signed,
    sign_detached,
)
from sipl.crypto.verify import SignatureCheck
from sipl.errors import UsageError

DATA = b"to be signed" * 100


@pytest.fixture(scope="module")
def signer(own):
    return load_key(own("rsa2048.key")), Certificate.from_pem(own("good.pem"))


@pytest.mark.parametrize("kind", [kind for kind in KEY_KINDS if kind != "rsa4096"])
def test_a_key_its_certificate_and_a_signature(kind, now, reference):
    key = load_key(key_pem(generate_key(kind)))
    certificate = Certificate.from_pem(self_signed(key, f"maker of {kind}", now, now + 10))
    assert (certificate.not_before, certificate.not_after) == (now, now + 10)
    assert certificate.subject == certificate.issuer == f"CN=maker of {kind}"
    certificate.check_key_usage()
    signature = sign_detached(memoryview(DATA), key, certificate)
    SignatureCheck(memoryview(DATA), signature).verify(certificate, now)
    reference.verifies(True, certificate.der, signature, DATA)


@pytest.mark.parametrize("digest", SIGNING_DIGESTS)
@pytest.mark.parametrize(("key", "certificate"), [("rsa2048", "good"), ("p521", "p521"), ("dsa2048", "dsa2048")])
def test_every_digest_and_openssl_agrees(digest, key, certificate, own, now, data, need_tool, tmp_path):
    found = Certificate.from_pem(own(f"{certificate}.pem"))
    signature = sign_detached(DATA, load_key(own(f"{key}.key")), found, digest)
    check = SignatureCheck(DATA, signature)
    check.verify(found, now)
    assert check.digest_name == digest
    parsed = SignedData.parse(signature)
    assert (parsed.content_embedded, parsed.certificates, parsed.signer.attributes) == (False, 0, None)
    content, file = tmp_path / "content", tmp_path / "signature"
    content.write_bytes(DATA)
    file.write_bytes(signature)
    command = [need_tool("openssl", "openssl"), "cms", "-verify", "-binary", "-inform", "DER", "-in", file]
    options = [
        "-content",
        content,
        "-noverify",
        "-certfile",
        data / "crypto" / f"{certificate}.pem",
        "-out",
        tmp_path / "o",
    ]
    subprocess.run([*command, *options], check=True, stderr=subprocess.DEVNULL)
    content.write_bytes(DATA + b"x")
    assert subprocess.run([*command, *options], check=False, stderr=subprocess.DEVNULL).returncode != 0


def test_rsa_signatures_are_byte_for_byte_those_of_openssl(signer, own):
    assert sign_detached(own("component.bin"), *signer) == own("plain.p7s")


def test_without_key_usage(signer, now):
    certificate = Certificate.from_pem(self_signed(signer[0], "x", now, now, key_usage_digital_signature=False))
    certificate.check_key_usage()
    assert b"\x55\x1d\x0f" not in certificate.der


def test_the_key_must_be_that_of_the_certificate(own, signer):
    with pytest.raises(SigningError, match="not the key of the certificate CN=sipl test p521"):
        sign_detached(DATA, signer[0], Certificate.from_pem(own("p521.pem")))


def test_unknown_digests_and_kinds(signer):
    with pytest.raises(UsageError, match="md5"):
        sign_detached(DATA, *signer, digest="md5")
    with pytest.raises(UsageError, match="rsa1024"):
        generate_key("rsa1024")


def test_a_key_too_short_for_the_digest(forge, keys):
    certificate = Certificate.from_der(forge.certificate(forge.spki(keys["rsa768"])))
    SignatureCheck(DATA, sign_detached(DATA, keys["rsa768"], certificate, "sha512")).verify(certificate, 1780272000)


@pytest.mark.parametrize(("name", "start", "end"), [("", 0, 1), ("x" * 65, 0, 1), ("x", 5, 4), ("x", 0, 1 << 62)])
def test_certificates_that_cannot_be(name, start, end, signer):
    with pytest.raises(SigningError):
        self_signed(signer[0], name, start, end)


def test_keys_that_cannot_be_read(own, signer):
    encrypted = signer[0].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"secret")
    )
    assert load_key(encrypted, b"secret").private_numbers() == signer[0].private_numbers()
    with pytest.raises(SigningError, match="encrypted"):
        load_key(encrypted)
    with pytest.raises(SigningError, match="cannot be read"):
        load_key(encrypted, b"wrong")
    with pytest.raises(SigningError, match="not encrypted"):
        load_key(own("rsa2048.key"), b"secret")
    with pytest.raises(SigningError, match="cannot be read"):
        load_key(own("good.pem"))
    edwards = ed25519.Ed25519PrivateKey.generate()
    with pytest.raises(SigningError, match="neither"):
        load_key(
            edwards.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
