"""X.509: the fields, the strictness, key identifiers, validity and key usage."""

from __future__ import annotations

import hashlib

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed448, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.crypto.certificate import Certificate, CertificateError, CertificateNotValid, KeyUsageForbids, utc_text
from sipl.errors import SiplError

OWN = ("good", "expired", "future", "usage-signature", "usage-certsign", "rsa1024", "dsa2048", "p521")


@pytest.mark.parametrize("name", OWN)
def test_fields_are_those_that_another_reader_finds(name, own):
    found = Certificate.from_pem(own(f"{name}.pem"))
    other = x509.load_pem_x509_certificate(own(f"{name}.pem"))
    spki = other.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert found.der == other.public_bytes(serialization.Encoding.DER)
    assert found.serial == other.serial_number
    assert found.subject == other.subject.rfc4514_string()
    assert found.issuer == other.issuer.rfc4514_string()
    assert found.issuer_der == other.issuer.public_bytes()
    assert found.not_before == other.not_valid_before_utc.timestamp()
    assert found.not_after == other.not_valid_after_utc.timestamp()
    assert found.spki == spki
    assert found.key_id() == hashlib.sha256(spki).digest()
    assert found.fingerprint == hashlib.sha256(found.der).digest()


@pytest.mark.parametrize(
    ("name", "key_name", "key_type"),
    [("good", "RSA-2048", 0), ("rsa1024", "RSA-1024", 0), ("dsa2048", "DSA-2048", 0), ("p521", "P-521", 1)],
)
def test_key_name_and_key_type(name, key_name, key_type, own):
    found = Certificate.from_pem(own(f"{name}.pem"))
    assert (found.key_name, found.key_type()) == (key_name, key_type)


def test_all_certificates_of_the_reference_are_read_as_there(shared, gnutls):
    found = 0
    for path in sorted(shared.glob("**/certs/*.pem")) + sorted(shared.glob("keys/cert*.pem")):
        reference = gnutls.pem_to_der(path.read_bytes())
        if reference is None:
            with pytest.raises(SiplError):
                Certificate.from_pem(path.read_bytes())
            continue
        certificate = Certificate.from_pem(path.read_bytes())
        assert certificate.der == reference
        key_id, *times = gnutls.certificate(reference)
        assert [certificate.not_before, certificate.not_after] == times
        if key_id is None:
            with pytest.raises(CertificateError):
                certificate.key_id()
        else:
            assert certificate.key_id() == key_id
        found += 1
    assert found >= 15


class TestValidity:
    def test_first_and_last_second_belong_to_it(self, own):
        certificate = Certificate.from_pem(own("good.pem"))
        certificate.check_time(certificate.not_before)
        certificate.check_time(certificate.not_after)

    def test_expired(self, own, now):
        with pytest.raises(CertificateNotValid, match="expired at 2026-05-31T23:59:59Z") as caught:
            Certificate.from_pem(own("expired.pem")).check_time(now)
        assert caught.value.expired

    def test_not_yet(self, own, now):
        with pytest.raises(CertificateNotValid, match="not valid before 2026-06-02T00:00:00Z") as caught:
            Certificate.from_pem(own("future.pem")).check_time(now)
        assert not caught.value.expired

    def test_the_end_is_looked_at_first(self, forge, keys, now):
        der = forge.certificate(
            forge.spki(keys["p256"]), not_before=forge.utc("300101000000Z"), not_after=forge.utc("200101000000Z")
        )
        with pytest.raises(CertificateNotValid, match="expired"):
            Certificate.from_der(der).check_time(now)

    def test_times_far_away_can_be_shown(self):
        assert utc_text(-62135596800) == "0001-01-01T00:00:00Z"
        assert utc_text(253402300799) == "9999-12-31T23:59:59Z"


class TestKeyUsage:
    @pytest.mark.parametrize(
        ("bits", "unused"), [(b"\x80", 7), (b"\xa0", 5), (b"\x86", 1), (b"\x80\x80", 7), (b"\x80", 0)]
    )
    def test_with_digital_signature(self, bits, unused, forge, keys):
        self.certificate(forge, keys, forge.bits(bits, unused)).check_key_usage()

    @pytest.mark.parametrize(("bits", "unused"), [(b"\x40", 6), (b"\x04", 2), (b"", 0), (b"\x00", 0), (b"\x00\x80", 7)])
    def test_without(self, bits, unused, forge, keys, reference):
        certificate = self.certificate(forge, keys, forge.bits(bits, unused))
        with pytest.raises(KeyUsageForbids, match="digitalSignature"):
            certificate.check_key_usage()
        signature = forge.cms(keys["rsa2048"], b"data")
        reference.verifies(False, certificate.der, signature, b"data")

    @pytest.mark.parametrize(
        "value", [b"", b"\x03\x00", b"\x04\x01\x80", b"\x03\x02\x07\x80\x00", b"\x03\x81\x02\x07\x80"]
    )
    def test_malformed(self, value, forge, keys):
        with pytest.raises(KeyUsageForbids, match="malformed DER at offset"):
            self.certificate(forge, keys, value).check_key_usage()

    def test_there_is_none(self, own):
        Certificate.from_pem(own("good.pem")).check_key_usage()

    @staticmethod
    def certificate(forge, keys, value):
        extensions = [forge.extension(forge.KEY_USAGE, value, b"\x01\x01\xff")]
        return Certificate.from_der(forge.certificate(forge.spki(keys["rsa2048"]), extensions=extensions))


def explicit(forge, version):
    return forge.tlv(0xA0, forge.integer(version))


TAKEN = {
    "version 1": lambda f: {"version": b""},
    "version 2": lambda f: {"version": explicit(f, 1), "unique": f.tlv(0x81, b"\x00a") + f.tlv(0x82, b"\x00b")},
    "serial 0": lambda f: {"serial": f.integer(0)},
    "negative serial": lambda f: {"serial": f.integer(-5)},
    "serial of 40 bytes": lambda f: {"serial": f.integer(1 << 319)},
    "empty names": lambda f: {"issuer": f.seq(), "subject": f.seq()},
    "name that is no text": lambda f: {"subject": f.seq(f.set(f.seq(f.oid("2.5.4.3"), f.integer(3))))},
    "no extension in the list": lambda f: {"extensions": []},
    "unknown critical extension": lambda f: {"extensions": [f.extension("1.2.3", b"x", b"\x01\x01\xff")]},
    "critical FALSE written": lambda f: {"extensions": [f.extension("1.2.3", b"x", b"\x01\x01\x00")]},
    "unknown algorithm": lambda f: {"algorithm": f.algorithm("1.2.3")},
    "times in GeneralizedTime": lambda f: {"not_after": f.generalized("99991231235959Z")},
}

LEFT = {
    "version 4": lambda f: {"version": explicit(f, 3)},
    "negative version": lambda f: {"version": explicit(f, -1)},
    "extensions in version 1": lambda f: {"version": b"", "extensions": []},
    "extensions in version 2": lambda f: {"version": explicit(f, 1), "extensions": []},
    "serial empty": lambda f: {"serial": b"\x02\x00"},
    "serial padded": lambda f: {"serial": b"\x02\x02\x00\x01"},
    "serial too long": lambda f: {"serial": f.integer(1 << 600)},
    "algorithms differ": lambda f: {"outer_algorithm": f.algorithm("1.2.840.113549.1.1.5", f.NULL)},
    "algorithm parameters differ": lambda f: {"outer_algorithm": f.algorithm("1.2.840.113549.1.1.11")},
    "issuer is no name": lambda f: {"issuer": f.seq(f.integer(1))},
    "high tag number": lambda f: {"subject": f.seq(f.set(f.seq(f.oid("2.5.4.3"), b"\x1f\x0c\x01a")))},
    "three times": lambda f: {"validity": f.seq(*[f.utc("300101000000Z")] * 3)},
    "time without seconds": lambda f: {"not_before": f.utc("2001010000Z")},
    "30 February": lambda f: {"not_before": f.utc("200230000000Z")},
    "extension twice": lambda f: {"extensions": [f.extension("1.2.3", b"a"), f.extension("1.2.3", b"b")]},
    "extension with more": lambda f: {"extensions": [f.seq(f.oid("1.2.3"), f.octets(b""), f.NULL)]},
    "extension is no sequence": lambda f: {"extensions": [f.integer(1)]},
    "critical 01": lambda f: {"extensions": [f.extension("1.2.3", b"x", b"\x01\x01\x01")]},
    "identifier not ended": lambda f: {"extensions": [f.seq(f.tlv(6, b"\x2a\x83"), f.octets(b""))]},
    "signature is no bit string": lambda f: {"signature": f.octets(b"x")},
    "more in the body": lambda f: {"tail": f.NULL},
}


@pytest.mark.parametrize("case", TAKEN)
def test_taken(case, forge, keys, reference):
    der = forge.certificate(forge.spki(keys["p256"]), **TAKEN[case](forge))
    found = Certificate.from_der(der)
    assert found.der == der
    reference.key_id(found.key_id(), der)


@pytest.mark.parametrize("case", LEFT)
def test_left(case, forge, keys):
    with pytest.raises(CertificateError, match="malformed DER at offset"):
        Certificate.from_der(forge.certificate(forge.spki(keys["p256"]), **LEFT[case](forge)))


def test_not_in_der_or_with_more_behind(forge, keys):
    der = forge.certificate(forge.spki(keys["rsa2048"]))
    body = der[4:]
    for bad in (
        der + b"\x00",
        der[:-1],
        b"\x30\x80" + body + b"\x00\x00",
        b"\x30\x83" + len(body).to_bytes(3, "big") + body,
        forge.seq(body, forge.NULL),
        b"",
    ):
        with pytest.raises(CertificateError):
            Certificate.from_der(bad)


class TestKeyIdentifier:
    @pytest.mark.parametrize("name", ["rsa768", "rsa2048", "dsa2048", "p192", "p224", "p256", "p384", "p521"])
    def test_of_kinds_that_the_reference_reads(self, name, forge, keys, reference):
        der = forge.certificate(forge.spki(keys[name]))
        spki_hash = hashlib.sha256(forge.spki(keys[name])).digest()
        assert Certificate.from_der(der).key_id() == spki_hash
        reference.key_id(spki_hash, der)

    @pytest.mark.parametrize("key", [ed25519.Ed25519PrivateKey, ed448.Ed448PrivateKey])
    def test_of_edwards_curves(self, key, forge, reference):
        der = forge.certificate(forge.spki(key.generate()))
        found = Certificate.from_der(der)
        reference.key_id(found.key_id(), der)
        assert found.key_name.startswith("Ed")

    def test_of_rsa_pss(self, forge, keys, reference):
        numbers = keys["rsa2048"].public_key().public_numbers()
        key = forge.bits(forge.seq(forge.integer(numbers.n), forge.integer(numbers.e)))
        der = forge.certificate(forge.seq(forge.algorithm("1.2.840.113549.1.1.10"), key))
        found = Certificate.from_der(der)
        assert found.key_name == "RSA-PSS-2048"
        reference.key_id(found.key_id(), der)

    @pytest.mark.parametrize(("name", "title"), [("secp256k1", "secp256k1"), ("brainpool", "brainpoolP256r1")])
    def test_of_other_curves_there_is_none(self, name, title, forge, keys, reference):
        found = Certificate.from_der(forge.certificate(forge.spki(keys[name])))
        assert (found.key_name, found.key_type()) == (title, 0)
        with pytest.raises(CertificateError, match=f"no key identifier for {title}"):
            found.key_id()
        reference.key_id(None, found.der)

    @pytest.mark.parametrize("form", ["compressed", "hybrid", "infinity", "short", "long"])
    def test_of_other_forms_of_a_point_there_is_none(self, form, forge, keys, reference):
        point = (
            keys["p521"]
            .public_key()
            .public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
        )
        forms = {
            "compressed": bytes([2 + point[-1] % 2]) + point[1:67],
            "hybrid": bytes([6 + point[-1] % 2]) + point[1:],
            "infinity": b"\x00",
            "short": point[:-1],
            "long": point + b"\x00",
        }
        curve = forge.oid("1.3.132.0.35")
        spki = forge.seq(forge.algorithm("1.2.840.10045.2.1", curve), forge.bits(forms[form]))
        found = Certificate.from_der(forge.certificate(spki))
        with pytest.raises(CertificateError, match="point"):
            found.key_id()
        assert (found.key_name, found.key_type()) == ("P-521", 0)
        reference.key_id(None, found.der)

    @pytest.mark.parametrize(
        "case",
        ["no parameters", "negative", "three numbers", "more behind", "unused bits", "unknown", "ec without curve"],
    )
    def test_of_a_key_that_is_not_in_der_there_is_none(self, case, forge, keys):
        numbers = keys["rsa2048"].public_key().public_numbers()
        rsa, n, e = "1.2.840.113549.1.1.1", forge.integer(numbers.n), forge.integer(numbers.e)
        key = forge.seq(n, e)
        negative = forge.tlv(2, numbers.n.to_bytes(256, "big"))
        spki = {
            "no parameters": forge.seq(forge.algorithm(rsa), forge.bits(key)),
            "negative": forge.seq(forge.algorithm(rsa, forge.NULL), forge.bits(forge.seq(negative, e))),
            "three numbers": forge.seq(forge.algorithm(rsa, forge.NULL), forge.bits(forge.seq(n, e, e))),
            "more behind": forge.seq(forge.algorithm(rsa, forge.NULL), forge.bits(key + b"\x00")),
            "unused bits": forge.seq(forge.algorithm(rsa, forge.NULL), forge.bits(key[:-1] + b"\x00", 1)),
            "unknown": forge.seq(forge.algorithm("1.2.3"), forge.bits(key)),
            "ec without curve": forge.seq(forge.algorithm("1.2.840.10045.2.1"), forge.bits(b"\x04")),
        }[case]
        found = Certificate.from_der(forge.certificate(spki))
        assert found.key_type() == 0
        with pytest.raises(CertificateError, match="no key identifier"):
            found.key_id()


class TestNames:
    def test_the_last_part_comes_first_and_special_characters_are_escaped(self, forge, keys):
        parts = [("2.5.4.10", "A, B"), ("2.5.4.3", "#1 "), ("1.2.3", "x")]
        name = forge.seq(*[forge.set(forge.seq(forge.oid(o), forge.tlv(0x0C, v.encode()))) for o, v in parts])
        assert self.subject(forge, keys, name) == r"1.2.3=x,CN=\#1\ ,O=A\, B"

    def test_nothing_in_it_can_drive_a_terminal(self, forge, keys):
        shown = self.subject(forge, keys, forge.name("\x1b[2J\u202egood\r\n"))
        assert shown.isprintable()
        assert "\u202e" not in shown

    def test_other_encodings(self, forge, keys):
        def one(tag, content):
            return forge.seq(forge.set(forge.seq(forge.oid("2.5.4.3"), forge.tlv(tag, content))))

        assert self.subject(forge, keys, one(0x1E, "Žďár".encode("utf-16-be"))) == "CN=Žďár"
        assert self.subject(forge, keys, one(0x14, b"\xe9")) == "CN=é"
        assert self.subject(forge, keys, one(0x0C, b"\xff\xfe")) == "CN=#fffe"
        assert self.subject(forge, keys, one(0x13, b"\xff")) == "CN=#ff"
        assert self.subject(forge, keys, one(0x30, b"")) == "CN=#"

    def test_it_is_cut(self, forge, keys):
        many = forge.seq(*[forge.set(forge.seq(forge.oid("2.5.4.3"), forge.tlv(0x0C, b"x" * 900)))] * 50)
        assert len(self.subject(forge, keys, many)) <= 1025

    @staticmethod
    def subject(forge, keys, name):
        return Certificate.from_der(forge.certificate(forge.spki(keys["p256"]), subject=name)).subject


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_changed_what_sipl_reads_the_reference_reads_alike(own, gnutls, data):
    der = bytearray(
        Certificate.from_pem(own(data.draw(st.sampled_from(["good.pem", "p521.pem", "usage-certsign.pem"])))).der
    )
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(der) - 1))
        der[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
    try:
        found = Certificate.from_der(bytes(der))
        found.subject.encode()
        key_id = found.key_id()
    except SiplError:
        return
    # The reference shows times before 1970 as 1970, which no clock is before.
    assert gnutls.certificate(bytes(der)) == (key_id, max(0, found.not_before), max(0, found.not_after))


@settings(max_examples=200)
@given(st.binary(max_size=200))
def test_noise_brings_out_only_own_errors(data):
    with pytest.raises(CertificateError):
        Certificate.from_der(b"\x30" + data)


@pytest.mark.parametrize("last", [17, 18])
def test_alternative_names_must_be_names(own, last):
    """The reference reads these extensions when it takes a certificate: here they hold a key identifier."""
    der = bytearray(Certificate.from_pem(own("p521.pem")).der)
    at = der.index(bytes.fromhex("0603551d0e"))
    der[at + 4] = last
    with pytest.raises(CertificateError):
        Certificate.from_der(bytes(der))
