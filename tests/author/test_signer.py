"""Who signs: each refusal names what a machine would not accept."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from signing_lab import CERT, DATA, KEY, NOW, certificate, signer

from sipl.author.signer import (
    DIGESTS,
    MAX_PASSPHRASE,
    Signer,
    accept,
    check_certificate,
    load_certificate,
    load_private_key,
    open_signer,
    read_passphrase,
    weaknesses,
)
from sipl.crypto import signing
from sipl.crypto.certificate import Certificate
from sipl.crypto.signing import SigningError
from sipl.crypto.verify import SignatureCheck
from sipl.errors import FileError, SigningRefused, UsageError
from sipl.machine.cert_store import MAX_DER_SIZE

COMPONENT = b"component" * 57
YEAR = 365 * 24 * 3600


def refused(kind, match, do, *, can_be_forced=False):
    with pytest.raises(SigningRefused, match=match) as caught:
        do()
    assert (caught.value.kind, caught.value.can_be_forced) == (kind, can_be_forced)
    assert caught.value.hint


@pytest.mark.parametrize("digest", DIGESTS)
@pytest.mark.parametrize(("key", "cert"), [("rsa2048", "good"), ("rsa2048", "usage-signature"), ("p521", "p521")])
def test_signs(key, cert, digest):
    made = signer(key, cert, digest)
    signature = made.sign(memoryview(COMPONENT))
    SignatureCheck(COMPONENT, signature).verify(certificate(cert), NOW)
    assert made.has_signed(COMPONENT, signature)
    assert not made.has_signed(COMPONENT + b"x", signature)
    assert not made.has_signed(COMPONENT, b"no signature")


def test_has_signed_means_just_as_it_would_sign():
    made = signer()
    assert not signer(digest="sha512").has_signed(COMPONENT, made.sign(COMPONENT))
    assert not signer(cert="usage-signature").has_signed(COMPONENT, made.sign(COMPONENT))
    assert not made.has_signed((DATA / "component.bin").read_bytes(), (DATA / "attributes.p7s").read_bytes())
    assert made.has_signed((DATA / "component.bin").read_bytes(), (DATA / "plain.p7s").read_bytes())


class TestRefusals:
    def test_another_key(self):
        refused("other-key", "not the key of the certificate", lambda: signer("p521", "good"))
        refused("other-key", "not the key of the certificate", lambda: signer("rsa1024", "good"))

    def test_another_key_that_shows_only_when_it_signs(self):
        """A token does not tell its public key."""

        class Held:
            kind = certificate().public_key().kind

            def sign_digest(self, digest, hashed):
                return signing._sign(load_private_key(str(DATA / "rsa1024.key")), digest, hashed)

        refused(
            "other-key", "not the key of the certificate", lambda: Signer(Held(), certificate(), now=NOW).sign(b"x")
        )

    @pytest.mark.parametrize(("cert", "kind"), [("expired", "expired"), ("future", "not-yet-valid")])
    def test_time(self, cert, kind):
        refused(kind, "expired at|not valid before", lambda: signer(cert=cert), can_be_forced=True)
        made = signer(cert=cert, force=True)
        assert made.has_signed(b"x", made.sign(b"x"))

    def test_time_is_now_by_default(self):
        pem = signing.self_signed(load_private_key(KEY), "long gone", 0, 1000)
        refused("expired", "1970", lambda: check_certificate(Certificate.from_pem(pem)), can_be_forced=True)
        assert check_certificate(Certificate.from_pem(pem), force=True) == 1000
        assert check_certificate(Certificate.from_pem(pem), 500) == 500

    def test_key_usage(self):
        for force in (False, True):
            refused("key-usage", "digitalSignature", lambda force=force: signer(cert="usage-certsign", force=force))

    def test_a_certificate_too_large_for_a_machine(self):
        found = Certificate.from_pem(_certificate(MAX_DER_SIZE + 1))
        assert len(found.der) == MAX_DER_SIZE + 1
        for force in (False, True):
            refused(
                "certificate-too-large",
                "it has 8001 bytes, a machine takes at most 8000",
                lambda force=force: check_certificate(found, NOW, force=force),
            )
        check_certificate(Certificate.from_pem(_certificate(MAX_DER_SIZE)), NOW)

    def test_a_signature_too_large_for_a_machine(self):
        """The name of the issuer is in every signature."""
        found = Certificate.from_pem(_certificate(7000, 52))
        for force in (False, True):
            made = Signer(load_private_key(KEY), found, now=NOW, force=force)
            refused("signature-too-large", "at most 4096", lambda made=made: made.sign(b"x"))

    def test_a_key_that_no_machine_takes(self):
        key = ec.generate_private_key(ec.SECP256K1())
        found = Certificate.from_pem(signing.self_signed(key, "odd curve", NOW, NOW + YEAR))
        with pytest.raises((SigningRefused, SigningError), match=r"secp256k1.* accepted"):
            Signer(key, found, now=NOW).sign(b"x")

    def test_sizes(self):
        refused("empty", "no bytes", lambda: signer().sign(b""))

        class Huge:
            def __len__(self):
                return (256 << 20) + 1

        refused("too-large", "at most 268435456", lambda: signer().sign(Huge()))

    @pytest.mark.parametrize("digest", ["sha1", "md5", "SHA256", ""])
    def test_digest(self, digest):
        with pytest.raises(UsageError, match="one of sha256, sha384, sha512"):
            signer(digest=digest)

    def test_a_bad_signature(self):
        other = signer().sign(b"other")
        refused("bad-signature", "made over other bytes", lambda: accept(b"x", other, certificate(), NOW))
        refused("malformed", "malformed DER", lambda: accept(b"x", other[:-1], certificate(), NOW))


def test_weak_is_said():
    made = signer("rsa1024", "rsa1024")
    assert weaknesses(b"x", made.sign(b"x"), made.certificate) == (
        "weak-signature: the key is RSA-1024, shorter than 2048 bits",
    )
    assert weaknesses(b"x", signer().sign(b"x"), certificate()) == ()


class TestFiles:
    def test_open_signer(self):
        with open_signer(KEY, CERT, now=NOW) as made:
            assert made.sign(b"x") == signer().sign(b"x")
            made.close()

    def test_certificates_in_pem_and_der(self, tmp_path):
        (tmp_path / "der").write_bytes(certificate().der)
        assert load_certificate(str(tmp_path / "der")).der == certificate().der

    @pytest.mark.parametrize("data", [b"", b"\x30\x03abc", b"-----BEGIN CERTIFICATE-----\n", b"text", b"\xff" * 9])
    def test_what_is_no_certificate(self, tmp_path, data):
        (tmp_path / "cert").write_bytes(data)
        with pytest.raises(FileError, match="cert: "):
            load_certificate(str(tmp_path / "cert"))

    @pytest.mark.parametrize("data", [b"", b"text", b"\xff" * 9, (DATA / "good.pem").read_bytes()])
    def test_what_is_no_key(self, tmp_path, data):
        (tmp_path / "key").write_bytes(data)
        with pytest.raises(SigningError, match=r"key: .* \(name a private key in PEM, or a PKCS#11 URI\)"):
            load_private_key(str(tmp_path / "key"))

    def test_key_and_certificate_in_one_file(self, tmp_path):
        """So the kernel's build makes them."""
        both = tmp_path / "signing_key.pem"
        both.write_bytes((DATA / "rsa2048.key").read_bytes() + (DATA / "good.pem").read_bytes())
        with open_signer(str(both), str(both), now=NOW) as made:
            assert made.sign(b"x") == signer().sign(b"x")

    def test_a_wrong_certificate_is_told_before_a_passphrase_is_asked_for(self, encrypted):
        def ask(what):
            raise AssertionError

        for name in ("expired", "usage-certsign"):
            with pytest.raises(SigningRefused):
                open_signer(encrypted, str(DATA / f"{name}.pem"), passphrase=ask, now=NOW)


@pytest.fixture(params=["pkcs8", "traditional"])
def encrypted(tmp_path, request):
    form = {"pkcs8": "PKCS8", "traditional": "TraditionalOpenSSL"}[request.param]
    pem = load_private_key(KEY).private_bytes(
        serialization.Encoding.PEM,
        getattr(serialization.PrivateFormat, form),
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    (tmp_path / "encrypted.pem").write_bytes(pem)
    return str(tmp_path / "encrypted.pem")


class TestPassphrases:
    def test_asked_for_only_if_needed(self, encrypted):
        asked = []

        def ask(what):
            asked.append(what)
            return b"open sesame"

        load_private_key(KEY, ask)
        assert asked == []
        assert load_private_key(encrypted, ask).private_numbers() == load_private_key(KEY).private_numbers()
        assert asked == [f"the passphrase of {encrypted}"]

    def test_as_bytes(self, encrypted):
        with open_signer(encrypted, CERT, passphrase=b"open sesame", now=NOW) as made:
            assert made.sign(b"x")

    def test_wrong(self, encrypted):
        with pytest.raises(SigningError) as caught:
            load_private_key(encrypted, lambda what: b"open barley")
        assert "barley" not in str(caught.value)

    def test_nobody_to_ask(self, encrypted):
        with pytest.raises(UsageError, match=r"the passphrase of .* is needed \(give it with --passphrase-file"):
            load_private_key(encrypted)

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            (b"secret", b"secret"),
            (b"secret\n", b"secret"),
            (b"secret\r\nmore\n", b"secret"),
            (b" secret \n", b" secret "),
            (b"x" * MAX_PASSPHRASE + b"\n", b"x" * MAX_PASSPHRASE),
        ],
    )
    def test_file(self, tmp_path, content, expected):
        (tmp_path / "file").write_bytes(content)
        assert read_passphrase(str(tmp_path / "file")) == expected

    @pytest.mark.parametrize("content", [b"", b"\nsecret", b"x" * (MAX_PASSPHRASE + 1), b"x" * 100_000])
    def test_bad_file(self, tmp_path, content):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UsageError, match="the passphrase is"):
            read_passphrase(str(tmp_path / "file"))

    def test_missing_file(self, tmp_path):
        with pytest.raises(UsageError, match="cannot be read: No such file"):
            read_passphrase(str(tmp_path / "file"))


def _certificate(size: int, issuer_parts: int = 1) -> bytes:
    """A certificate of exactly `size` bytes of DER, whose issuer's name has parts of about 75 bytes."""
    made = _with_filler(1000, issuer_parts)
    return _pem(_with_filler(1000 + size - len(made), issuer_parts))


def _with_filler(filler: int, issuer_parts: int) -> bytes:
    from datetime import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.x509.oid import NameOID

    key = load_private_key(KEY)
    unit = NameOID.ORGANIZATIONAL_UNIT_NAME
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "large")]))
        .issuer_name(x509.Name([x509.NameAttribute(unit, f"{part:064}") for part in range(issuer_parts)]))
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2026, 1, 1))
        .not_valid_after(datetime(2036, 1, 1))
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), bytes(filler)), critical=False
        )
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER)


def _pem(der: bytes) -> bytes:
    from sipl.crypto.pem import pem_of

    return pem_of(der)
