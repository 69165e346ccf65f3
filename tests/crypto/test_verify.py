"""Which signatures verify: the list of docs/formats/signatures.md, on keys, digests, forms and changes."""

from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, utils
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.crypto.certificate import Certificate
from sipl.crypto.pkcs7 import MAX_PKCS7_SIZE, SignedData
from sipl.crypto.verify import RejectionKind, SignatureCheck, SignatureRejected
from sipl.errors import SiplError

DATA = b"a component"
DIGESTS = ("sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256")
# Measured as accepted by the reference, but not in the list that sipl follows.
BEYOND_THE_LIST = ("sha3_224", "sha3_384", "sha3_512")
KEYS = ("rsa768", "rsa1024", "rsa2048", "dsa2048", "p224", "p256", "p384", "p521")


def rejection(component, signature, certificate, now):
    """Kind and text of the refusal, wherever it comes from; fails where there is none."""
    with pytest.raises(SignatureRejected) as caught:
        SignatureCheck(memoryview(component), signature).verify(certificate, now)
    return caught.value.kind, caught.value.why


def verifies(component, signature, certificate, now):
    try:
        SignatureCheck(memoryview(component), signature).verify(certificate, now)
    except SignatureRejected:
        return False
    return True


@pytest.fixture(scope="session")
def certificates(forge, keys):
    return {name: Certificate.from_der(forge.certificate(forge.spki(key))) for name, key in keys.items()}


@pytest.fixture(scope="session")
def rsa(keys):
    return keys["rsa2048"]


@pytest.fixture(scope="session")
def rsa_certificate(certificates):
    return certificates["rsa2048"]


class TestOwnFiles:
    @pytest.mark.parametrize(
        ("signature", "certificate", "digest"),
        [("plain", "good", "sha256"), ("attributes", "good", "sha512"), ("keyid", "p521", "sha384")],
    )
    def test_signatures_made_by_openssl(self, signature, certificate, digest, own, now):
        component = own("component.bin")
        check = SignatureCheck(memoryview(component), own(f"{signature}.p7s"))
        certificate = Certificate.from_pem(own(f"{certificate}.pem"))
        check.verify(certificate, now)
        assert check.digest_name == digest
        assert check.digests == {digest: hashlib.new(digest, component).digest()}
        assert check.weaknesses(certificate) == []

    @pytest.mark.parametrize(
        ("certificate", "kind", "why"),
        [
            ("expired", RejectionKind.EXPIRED, "expired at 2026-05-31T23:59:59Z"),
            ("future", RejectionKind.NOT_YET_VALID, "not valid before 2026-06-02"),
            ("usage-certsign", RejectionKind.KEY_USAGE, "digitalSignature"),
            ("rsa1024", RejectionKind.NO_KEY_MATCH, "no signature of an RSA-1024 key"),
            ("p521", RejectionKind.NO_KEY_MATCH, "made with RSA, the certificate has a P-521 key"),
        ],
    )
    def test_certificates_that_do_not_count(self, certificate, kind, why, own, now, reference):
        certificate = Certificate.from_pem(own(f"{certificate}.pem"))
        found = rejection(own("component.bin"), own("plain.p7s"), certificate, now)
        assert found[0] is kind
        assert why in found[1]
        reference.verifies(False, certificate.der, own("plain.p7s"), own("component.bin"))

    @pytest.mark.parametrize("certificate", ["good", "usage-signature"])
    def test_certificates_that_count(self, certificate, own, now, reference):
        certificate = Certificate.from_pem(own(f"{certificate}.pem"))
        assert verifies(own("component.bin"), own("plain.p7s"), certificate, now)
        reference.verifies(True, certificate.der, own("plain.p7s"), own("component.bin"))

    def test_a_changed_component(self, own, now):
        component = bytearray(own("component.bin"))
        component[500] ^= 1
        certificate = Certificate.from_pem(own("good.pem"))
        assert rejection(component, own("plain.p7s"), certificate, now)[0] is RejectionKind.BAD_SIGNATURE
        assert rejection(component, own("attributes.p7s"), certificate, now)[0] is RejectionKind.DIGEST_MISMATCH


class TestList:
    @pytest.mark.parametrize("digest", DIGESTS)
    @pytest.mark.parametrize("name", KEYS)
    def test_accepted(self, name, digest, forge, keys, certificates, now, reference):
        signature = forge.cms(keys[name], DATA, digest)
        assert verifies(DATA, signature, certificates[name], now)
        assert not verifies(DATA + b"x", signature, certificates[name], now)
        reference.verifies(True, certificates[name].der, signature, DATA)

    @pytest.mark.parametrize("digest", DIGESTS)
    def test_accepted_with_the_keys_identifier_as_algorithm(self, digest, forge, rsa, rsa_certificate, now):
        algorithm = forge.algorithm("1.2.840.113549.1.1.1", forge.NULL)
        assert verifies(DATA, forge.cms(rsa, DATA, digest, algorithm=algorithm), rsa_certificate, now)

    @pytest.mark.parametrize("digest", ["md5", "sha512_256", *BEYOND_THE_LIST])
    def test_other_digests_are_refused(self, digest, forge, rsa, rsa_certificate, now, reference):
        algorithm = forge.algorithm("1.2.840.113549.1.1.1", forge.NULL)
        signature = forge.cms(rsa, DATA, digest, algorithm=algorithm)
        kind, why = rejection(DATA, signature, rsa_certificate, now)
        assert kind is RejectionKind.DIGEST
        assert digest.replace("sha3_", "SHA3-").replace("md", "MD").replace("sha512_", "SHA-512/") in why
        reference.verifies(digest in BEYOND_THE_LIST, rsa_certificate.der, signature, DATA)

    @pytest.mark.parametrize(("name", "title"), [("secp256k1", "secp256k1"), ("brainpool", "brainpoolP256r1")])
    def test_other_curves_are_refused(self, name, title, forge, keys, certificates, now, reference):
        signature = forge.cms(keys[name], DATA)
        kind, why = rejection(DATA, signature, certificates[name], now)
        assert (kind, title in why) == (RejectionKind.KEY_UNSUPPORTED, True)
        reference.verifies(False, certificates[name].der, signature, DATA)

    def test_p192_is_in_no_row_and_refused(self, forge, keys, certificates, now):
        assert (
            rejection(DATA, forge.cms(keys["p192"], DATA), certificates["p192"], now)[0]
            is RejectionKind.KEY_UNSUPPORTED
        )

    def test_rsa_pss_is_refused(self, forge, rsa, rsa_certificate, now):
        pss = padding.PSS(padding.MGF1(hashes.SHA256()), 32)
        signature = forge.cms(
            rsa,
            DATA,
            algorithm=forge.algorithm("1.2.840.113549.1.1.10", forge.seq()),
            signature=rsa.sign(DATA, pss, hashes.SHA256()),
        )
        kind, why = rejection(DATA, signature, rsa_certificate, now)
        assert (kind, "RSASSA-PSS" in why) == (RejectionKind.ALGORITHM, True)

    def test_eddsa_is_refused(self, forge, rsa, now):
        key = ed25519.Ed25519PrivateKey.generate()
        certificate = Certificate.from_der(forge.certificate(forge.spki(key)))
        parts = {"algorithm": forge.algorithm("1.3.101.112"), "signature": key.sign(DATA)}
        kind, why = rejection(DATA, forge.cms(rsa, DATA, **parts), certificate, now)
        assert (kind, "Ed25519" in why) == (RejectionKind.ALGORITHM, True)

    def test_a_key_that_signs_nothing_accepted_is_named(self, forge, rsa, now):
        certificate = Certificate.from_der(forge.certificate(forge.spki(ed25519.Ed25519PrivateKey.generate())))
        kind, why = rejection(DATA, forge.cms(rsa, DATA), certificate, now)
        assert (kind, why) == (RejectionKind.KEY_UNSUPPORTED, "no signature of an Ed25519 key is accepted")

    def test_two_digests_are_refused(self, forge, rsa, rsa_certificate, now):
        signature = forge.cms(rsa, DATA, digest_algorithm=forge.algorithm(forge.DIGESTS["sha512"]))
        assert rejection(DATA, signature, rsa_certificate, now)[0] is RejectionKind.DIGEST

    def test_parameters_other_than_null_are_refused(self, forge, rsa, rsa_certificate, now):
        junk = forge.seq(forge.integer(1))
        digest = forge.algorithm(forge.DIGESTS["sha256"], junk)
        algorithm = forge.algorithm("1.2.840.113549.1.1.11", junk)
        assert (
            rejection(DATA, forge.cms(rsa, DATA, digest_algorithm=digest), rsa_certificate, now)[0]
            is RejectionKind.DIGEST
        )
        assert (
            rejection(DATA, forge.cms(rsa, DATA, algorithm=algorithm), rsa_certificate, now)[0]
            is RejectionKind.ALGORITHM
        )


class TestRsa:
    """The check with plain integers: only the one block that PKCS#1 prescribes is good."""

    @pytest.fixture
    def signs(self, forge, rsa, rsa_certificate, now, reference):
        def check(block):
            numbers = rsa.private_numbers()
            value = pow(int.from_bytes(block, "big"), numbers.d, numbers.public_numbers.n).to_bytes(256, "big")
            signature = forge.cms(rsa, DATA, signature=value)
            found = verifies(DATA, signature, rsa_certificate, now)
            reference.verifies(found, rsa_certificate.der, signature, DATA)
            return found

        return check

    @staticmethod
    def info(forge, parameters=b"\x05\x00", digest=None):
        hashed = hashlib.sha256(DATA).digest() if digest is None else digest
        return forge.seq(forge.algorithm(forge.DIGESTS["sha256"], parameters), forge.octets(hashed))

    @staticmethod
    def block(info, kind=1, pad=b"\xff", tail=b"", count=None):
        count = 256 - 3 - len(info) - len(tail) if count is None else count
        return b"\x00" + bytes([kind]) + pad * count + b"\x00" + info + tail

    def test_the_block(self, signs, forge):
        assert signs(self.block(self.info(forge)))

    def test_other_blocks(self, signs, forge):
        info = self.info(forge)
        filler = b"z" * (256 - 3 - 8 - len(info))
        assert not signs(self.block(self.info(forge, b"")))
        assert not signs(self.block(info, kind=2))
        assert not signs(self.block(info, pad=b"\xfe"))
        assert not signs(self.block(info, tail=filler, count=8))
        assert not signs(self.block(self.info(forge, digest=hashlib.sha256(b"").digest())))
        assert not signs(self.block(forge.seq(forge.algorithm(forge.DIGESTS["sha512"], b"\x05\x00"), info[-34:])))

    def test_a_value_has_exactly_the_length_of_the_key_and_is_below_it(self, forge, rsa, rsa_certificate, now):
        value = forge.sign(rsa, DATA, "sha256")
        n = rsa.public_key().public_numbers().n
        larger = int.from_bytes(value, "big") + n
        for bad in (b"\x00" + value, value[1:], larger.to_bytes(257, "big"), b"", bytes(256), b"\xff" * 256):
            assert (
                rejection(DATA, forge.cms(rsa, DATA, signature=bad), rsa_certificate, now)[0]
                is RejectionKind.BAD_SIGNATURE
            )

    def test_a_leading_zero_belongs_to_the_value(self, forge, rsa, rsa_certificate, now):
        for number in range(5000):
            data = b"%d" % number
            value = forge.sign(rsa, data, "sha256")
            if value[0] == 0:
                break
        assert value[0] == 0
        assert verifies(data, forge.cms(rsa, data), rsa_certificate, now)
        assert not verifies(data, forge.cms(rsa, data, signature=value[1:]), rsa_certificate, now)

    @pytest.mark.parametrize("exponent", [1, 2, 65536, (1 << 64) + 1])
    def test_exponents(self, exponent, forge, rsa, now):
        key = forge.bits(forge.seq(forge.integer(rsa.public_key().public_numbers().n), forge.integer(exponent)))
        spki = forge.seq(forge.algorithm("1.2.840.113549.1.1.1", forge.NULL), key)
        certificate = Certificate.from_der(forge.certificate(spki))
        assert rejection(DATA, forge.cms(rsa, DATA), certificate, now)[0] is RejectionKind.KEY_UNSUPPORTED

    @pytest.mark.parametrize("bits", [767, 16385])
    def test_sizes(self, bits, forge, rsa, now):
        key = forge.bits(forge.seq(forge.integer(1 << bits - 1 | 1), forge.integer(65537)))
        spki = forge.seq(forge.algorithm("1.2.840.113549.1.1.1", forge.NULL), key)
        certificate = Certificate.from_der(forge.certificate(spki))
        kind, why = rejection(DATA, forge.cms(rsa, DATA), certificate, now)
        assert (kind, f"RSA-{bits}" in why) == (RejectionKind.KEY_UNSUPPORTED, True)

    def test_an_even_modulus(self, forge, rsa, now):
        key = forge.bits(forge.seq(forge.integer(1 << 2047), forge.integer(65537)))
        spki = forge.seq(forge.algorithm("1.2.840.113549.1.1.1", forge.NULL), key)
        certificate = Certificate.from_der(forge.certificate(spki))
        assert rejection(DATA, forge.cms(rsa, DATA), certificate, now)[0] is RejectionKind.KEY_UNSUPPORTED


class TestEllipticCurve:
    def test_the_value_is_strict_der(self, forge, keys, certificates, now):
        key, certificate = keys["p256"], certificates["p256"]
        value = forge.sign(key, DATA, "sha256")
        r, s = utils.decode_dss_signature(value)
        for bad in (
            value + b"\x00",
            forge.seq(forge.integer(r), forge.integer(s), forge.NULL),
            forge.seq(forge.tlv(2, b"\x00\x00" + r.to_bytes(32, "big")), forge.integer(s)),
            b"\x30\x81" + value[1:],
            b"\x30\x80" + value[2:] + b"\x00\x00",
            forge.seq(forge.integer(0), forge.integer(0)),
            b"",
        ):
            assert not verifies(DATA, forge.cms(key, DATA, signature=bad), certificate, now)

    def test_a_point_beside_the_curve_is_refused(self, forge, keys, now):
        spki = bytearray(forge.spki(keys["p256"]))
        spki[-1] ^= 1
        certificate = Certificate.from_der(forge.certificate(bytes(spki)))
        assert rejection(DATA, forge.cms(keys["p256"], DATA), certificate, now)[0] is RejectionKind.KEY_UNSUPPORTED

    def test_another_key_of_the_curve(self, forge, keys, certificates, now):
        signature = forge.cms(keys["p256"], DATA, identifier=forge.tlv(0x80, b"who"))
        other = Certificate.from_der(forge.certificate(forge.spki(keys["p521"])))
        assert rejection(DATA, signature, other, now)[0] is RejectionKind.NO_KEY_MATCH

    def test_dsa_with_strange_numbers_is_refused(self, forge, keys, now):
        numbers = forge.seq(forge.integer(23), forge.integer(11), forge.integer(4))
        spki = forge.seq(forge.algorithm("1.2.840.10040.4.1", numbers), forge.bits(forge.integer(2)))
        certificate = Certificate.from_der(forge.certificate(spki))
        assert rejection(DATA, forge.cms(keys["dsa2048"], DATA), certificate, now)[0] is RejectionKind.KEY_UNSUPPORTED


def unsigned(forge):
    return forge.tlv(0xA1, forge.attribute("1.2.3", forge.octets(b"x")))


GOOD_FORMS = {
    "NULL parameters": lambda f, k: f.cms(
        k,
        DATA,
        digest_algorithm=f.algorithm(f.DIGESTS["sha256"], f.NULL),
        algorithm=f.algorithm("1.2.840.113549.1.1.11", f.NULL),
    ),
    "attributes": lambda f, k: f.cms(k, DATA, attributes=f.attributes(DATA)),
    "attributes and signing time": lambda f, k: f.cms(
        k, DATA, attributes=f.attributes(DATA, "sha256", f.attribute("1.2.840.113549.1.9.5", f.utc("260101000000Z")))
    ),
    "attributes in another order": lambda f, k: f.cms(
        k, DATA, attributes=f.attributes(DATA)[::-1], signed=f.set(*f.attributes(DATA))
    ),
    "key identifier": lambda f, k: f.cms(k, DATA, identifier=f.tlv(0x80, b"key"), version=3),
    "issuer and serial of somebody else": lambda f, k: f.cms(k, DATA, identifier=f.seq(f.name("x"), f.integer(-9))),
    "content inside": lambda f, k: f.signed_data(f.signer(k, DATA), content=f.tlv(0xA0, f.octets(DATA))),
    "other content inside": lambda f, k: f.signed_data(f.signer(k, DATA), content=f.tlv(0xA0, f.octets(b"other"))),
    "other content type": lambda f, k: f.signed_data(f.signer(k, DATA), content_type="1.2.3"),
    "certificates and lists": lambda f, k: f.signed_data(
        f.signer(k, DATA), certificates=f.tlv(0xA0, f.seq(f.integer(1)), f.seq()), lists=f.tlv(0xA1, f.seq())
    ),
    "unsigned attributes": lambda f, k: f.cms(k, DATA, unsigned=unsigned(f)),
    "no digest in the list": lambda f, k: f.signed_data(f.signer(k, DATA), digests=f.set()),
    "version 3": lambda f, k: f.signed_data(f.signer(k, DATA), version=3),
}

BAD_FORMS = {
    "byte behind": lambda f, k: f.cms(k, DATA) + b"\x00",
    "cut off": lambda f, k: f.cms(k, DATA)[:-1],
    "empty": lambda f, k: b"",
    "empty sequence": lambda f, k: f.seq(),
    "no content": lambda f, k: f.seq(f.oid("1.2.840.113549.1.7.2")),
    "other outer type": lambda f, k: f.signed_data(f.signer(k, DATA), outer_type=f.DATA),
    "no signer": lambda f, k: f.signed_data(),
    "bytes in the signed data": lambda f, k: f.signed_data(f.signer(k, DATA), tail=f.NULL),
    "bytes in the signer": lambda f, k: f.cms(k, DATA, tail=f.NULL),
    "another signer is broken": lambda f, k: f.signed_data(f.signer(k, DATA), f.integer(1)),
    "digests are no algorithms": lambda f, k: f.signed_data(f.signer(k, DATA), digests=f.set(f.integer(3))),
    "embedded certificate cut off": lambda f, k: f.signed_data(f.signer(k, DATA), certificates=b"\xa0\x04\x30\x05ab"),
    "unsigned attribute is none": lambda f, k: f.cms(k, DATA, unsigned=f.tlv(0xA1, f.integer(1))),
    "unsigned attributes empty": lambda f, k: f.cms(k, DATA, unsigned=f.tlv(0xA1)),
    "empty content": lambda f, k: f.signed_data(f.signer(k, DATA), content=f.tlv(0xA0)),
    "content in parts": lambda f, k: f.signed_data(f.signer(k, DATA), content=f.tlv(0xA0, f.tlv(0x24, f.octets(DATA)))),
    "content is no octet string": lambda f, k: f.signed_data(f.signer(k, DATA), content=f.tlv(0xA0, f.integer(1))),
    "version 0": lambda f, k: f.signed_data(f.signer(k, DATA), version=0),
    "signer version 2": lambda f, k: f.cms(k, DATA, version=2),
    "no attributes in the set": lambda f, k: f.cms(k, DATA, attributes=[]),
    "no message digest": lambda f, k: f.cms(k, DATA, attributes=[f.attribute(f.CONTENT_TYPE, f.oid(f.DATA))]),
    "no content type": lambda f, k: f.cms(
        k, DATA, attributes=[f.attribute(f.MESSAGE_DIGEST, f.octets(hashlib.sha256(DATA).digest()))]
    ),
    "two message digests": lambda f, k: f.cms(
        k, DATA, attributes=f.attributes(DATA, "sha256", f.attribute(f.MESSAGE_DIGEST, f.octets(b"x" * 32)))
    ),
    "message digest with two values": lambda f, k: f.cms(
        k,
        DATA,
        attributes=[
            f.attribute(f.CONTENT_TYPE, f.oid(f.DATA)),
            f.attribute(f.MESSAGE_DIGEST, f.octets(hashlib.sha256(DATA).digest()), f.octets(b"\xff" * 32)),
        ],
    ),
    "content types differ": lambda f, k: f.signed_data(
        f.signer(k, DATA, attributes=f.attributes(DATA)), content_type="1.2.3"
    ),
    "attribute without values": lambda f, k: f.cms(
        k, DATA, attributes=f.attributes(DATA, "sha256", f.seq(f.oid("1.2.3"), f.set()))
    ),
    "values not in order": lambda f, k: f.cms(
        k, DATA, attributes=f.attributes(DATA, "sha256", f.attribute("1.2.3", f.octets(b"b"), f.octets(b"a")))
    ),
    "too large": lambda f, k: f.signed_data(f.signer(k, DATA), content=f.tlv(0xA0, f.octets(bytes(MAX_PKCS7_SIZE)))),
    "PEM": lambda f, k: b"-----BEGIN PKCS7-----\n",
    "identifier in parts": lambda f, k: f.cms(k, DATA, identifier=f.tlv(0xA0, f.octets(b"key"))),
}


class TestForm:
    @pytest.mark.parametrize("case", GOOD_FORMS)
    def test_accepted(self, case, forge, rsa, rsa_certificate, now, reference):
        signature = GOOD_FORMS[case](forge, rsa)
        assert verifies(DATA, signature, rsa_certificate, now)
        assert not verifies(b"other", signature, rsa_certificate, now)
        reference.verifies(True, rsa_certificate.der, signature, DATA)

    @pytest.mark.parametrize("case", BAD_FORMS)
    def test_refused(self, case, forge, rsa, rsa_certificate, now):
        kind, why = rejection(DATA, BAD_FORMS[case](forge, rsa), rsa_certificate, now)
        assert kind is RejectionKind.MALFORMED
        assert "malformed DER at offset" in why or case == "content types differ"

    @pytest.mark.parametrize("form", ["indefinite", "long"])
    @pytest.mark.parametrize("depth", [0, 1, 2])
    def test_ber_is_refused_on_every_level(self, form, depth, forge, rsa, rsa_certificate, now):
        def ber(tag, content):
            if form == "indefinite":
                return bytes([tag, 0x80]) + content + b"\x00\x00"
            return bytes([tag, 0x84]) + len(content).to_bytes(4, "big") + content

        good = forge.cms(rsa, DATA)
        assert verifies(DATA, good, rsa_certificate, now)
        data = good[4 + 11 + 4 + 4 :]
        levels = [forge.tlv, forge.tlv, forge.tlv]
        levels[depth] = ber
        inner = levels[2](0x30, data)
        bad = levels[0](0x30, forge.oid("1.2.840.113549.1.7.2") + levels[1](0xA0, inner))
        assert rejection(DATA, bad, rsa_certificate, now)[0] is RejectionKind.MALFORMED

    def test_attributes_signed_in_another_order_do_not_verify(self, forge, rsa, rsa_certificate, now, reference):
        signature = forge.cms(rsa, DATA, attributes=forge.attributes(DATA)[::-1])
        assert rejection(DATA, signature, rsa_certificate, now)[0] is RejectionKind.BAD_SIGNATURE
        reference.verifies(False, rsa_certificate.der, signature, DATA)

    def test_only_the_first_signer_in_der_order_counts(self, forge, rsa, rsa_certificate, now, reference):
        # The serial numbers decide the order.
        def signer(serial, data):
            return forge.signer(rsa, data, identifier=forge.seq(forge.name(), forge.integer(serial)))

        for first, second, expected in ((DATA, b"x", True), (b"x", DATA, False)):
            pair = [signer(1, first), signer(2, second)]
            for signature in (forge.signed_data(*pair), forge.signed_data(*pair[::-1])):
                assert verifies(DATA, signature, rsa_certificate, now) is expected
                reference.verifies(expected, rsa_certificate.der, signature, DATA)

    def test_a_signature_over_the_attributes_is_none_over_the_content(self, forge, rsa, rsa_certificate, now):
        """The attributes' encoding as a component must not pass, nor a content signature with attributes added."""
        attributes = forge.attributes(DATA)
        assert not verifies(DATA, forge.cms(rsa, DATA, attributes=attributes, signed=DATA), rsa_certificate, now)

    def test_what_is_there_is_told(self, own, forge, rsa):
        found = SignedData.parse(own("plain.p7s"))
        certificate = Certificate.from_pem(own("good.pem"))
        assert found.signer.issuer_der == certificate.issuer_der
        assert found.signer.serial == certificate.serial
        assert found.signer.text() == f"CN=sipl test good, serial number {certificate.serial:#x}"
        assert (found.signers, found.certificates, found.content_embedded) == (1, 0, False)
        assert SignedData.parse(own("keyid.p7s")).signer.text().startswith("key identifier ")
        assert SignedData.parse(GOOD_FORMS["certificates and lists"](forge, rsa)).certificates == 2


class TestEffort:
    def test_a_component_is_hashed_once_for_all_certificates(self, monkeypatch, forge, rsa, keys, certificates, now):
        hashed = []
        real = hashlib.new

        def counting(name, data=b"", **options):
            hashed.append((name, len(data)))
            return real(name, data, **options)

        monkeypatch.setattr(hashlib, "new", counting)
        check = SignatureCheck(memoryview(DATA), forge.cms(rsa, DATA))
        for name in ("rsa1024", "p256", "rsa2048", "rsa768"):
            for _ in range(3):
                try:
                    check.verify(certificates[name], now)
                except SignatureRejected:
                    assert name != "rsa2048"
                else:
                    assert name == "rsa2048"
        assert hashed == [("sha256", len(DATA))]

    def test_a_key_is_asked_once_but_each_certificate_is_judged(self, own, now):
        check = SignatureCheck(memoryview(own("component.bin")), own("plain.p7s"))
        kinds = []
        for name in ("expired", "good", "future", "good", "usage-certsign"):
            try:
                check.verify(Certificate.from_pem(own(f"{name}.pem")), now)
                kinds.append(None)
            except SignatureRejected as error:
                kinds.append(error.kind)
        assert kinds == [RejectionKind.EXPIRED, None, RejectionKind.NOT_YET_VALID, None, RejectionKind.KEY_USAGE]

    def test_the_digest_is_at_hand(self, own):
        check = SignatureCheck(memoryview(own("component.bin")), own("plain.p7s"))
        assert check.digests == {}
        assert check.digest("sha512") == hashlib.sha512(own("component.bin")).digest()
        assert set(check.digests) == {"sha512"}


@pytest.mark.parametrize(
    ("name", "digest", "words"),
    [
        ("rsa2048", "sha256", []),
        ("rsa2048", "sha1", ["SHA-1"]),
        ("rsa1024", "sha256", ["RSA-1024"]),
        ("rsa768", "sha1", ["SHA-1", "RSA-768"]),
        ("dsa2048", "sha256", ["DSA-2048"]),
        ("p256", "sha256", []),
    ],
)
def test_h11_weak_signatures_are_told(name, digest, words, forge, keys, certificates, now):
    check = SignatureCheck(memoryview(DATA), forge.cms(keys[name], DATA, digest))
    check.verify(certificates[name], now)
    found = check.weaknesses(certificates[name])
    assert len(found) == len(words)
    assert all(word in text for word, text in zip(words, found, strict=True))


class TestChanges:
    """Nothing that is changed verifies, unless it verifies for the reference too; only own errors come out."""

    @settings(max_examples=300)
    @given(st.data())
    def test_changed_signatures(self, own, now, gnutls, data):
        name, cert = data.draw(st.sampled_from([("plain", "good"), ("attributes", "good"), ("keyid", "p521")]))
        certificate = Certificate.from_pem(own(f"{cert}.pem"))
        signature = bytearray(own(f"{name}.p7s"))
        for _ in range(data.draw(st.integers(1, 3))):
            at = data.draw(st.integers(0, len(signature) - 1))
            signature[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))
        component = own("component.bin")
        if verifies(component, bytes(signature), certificate, now):
            assert gnutls.verifies(certificate.der, bytes(signature), component)

    @settings(max_examples=100)
    @given(st.data())
    def test_changed_components(self, own, now, data):
        name = data.draw(st.sampled_from(["plain", "attributes"]))
        component = bytearray(own("component.bin"))
        at = data.draw(st.integers(0, len(component) - 1))
        component[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        changed = component != own("component.bin")
        certificate = Certificate.from_pem(own("good.pem"))
        assert verifies(component, own(f"{name}.p7s"), certificate, now) is not changed

    @settings(max_examples=150)
    @given(st.data())
    def test_changed_certificates(self, own, now, gnutls, data):
        name, cert = data.draw(st.sampled_from([("plain", "usage-signature"), ("keyid", "p521")]))
        der = bytearray(Certificate.from_pem(own(f"{cert}.pem")).der)
        at = data.draw(st.integers(0, len(der) - 1))
        der[at] = data.draw(st.integers(0, 255))
        try:
            certificate = Certificate.from_der(bytes(der))
        except SiplError:
            return
        if verifies(own("component.bin"), own(f"{name}.p7s"), certificate, now):
            assert gnutls.verifies(bytes(der), own(f"{name}.p7s"), own("component.bin"))

    @settings(max_examples=200)
    @given(st.binary(max_size=300))
    def test_noise(self, data):
        with pytest.raises(SignatureRejected):
            SignatureCheck(memoryview(DATA), b"\x30" + data)


class TestOpenssl:
    """Signatures as the program openssl makes them, and its own opinion on them."""

    @pytest.mark.parametrize(
        "options", [["-noattr", "-nocerts"], ["-nocerts"], ["-nodetach", "-nosmimecap"], ["-noattr", "-keyid"]]
    )
    @pytest.mark.parametrize(
        ("key", "certificate"), [("rsa2048", "good"), ("rsa1024",) * 2, ("dsa2048",) * 2, ("p521",) * 2]
    )
    def test_all_forms(self, options, key, certificate, need_tool, data, own, now, tmp_path):
        openssl, folder = need_tool("openssl", "openssl"), data / "crypto"
        command = [openssl, "cms", "-sign", "-binary", "-in", folder / "component.bin", "-outform", "DER"]
        signer = ["-signer", folder / f"{certificate}.pem", "-inkey", folder / f"{key}.key", "-md", "sha256"]
        out = tmp_path / "signature"
        subprocess.run([*command, *signer, *options, "-out", out], check=True)
        found = Certificate.from_pem(own(f"{certificate}.pem"))
        assert verifies(own("component.bin"), out.read_bytes(), found, now)


def test_calls_measured_on_the_reference(shared, now):
    """DIAGNOSE 0x508 of ../shared: what verified there verifies here, with the same certificate, and nothing else."""
    document = json.loads((shared / "diag" / "vectors.json").read_text())
    paths = ["keys/certA.pem", "keys/certB.pem", "keys/certEC.pem", "corpus/certs/expired.pem"]
    certificates = [Certificate.from_pem((shared / path).read_bytes()) for path in paths]
    at = 1795399200
    assert document["at"] == "2026-11-23T02:00:00Z"
    seen = {"0x1": 0, "0x402": 0}
    for vector in document["vectors"]:
        result = vector["reference"]["result_register"]
        if vector["diag"] != "0x508" or result not in seen or "sipl" in vector:
            continue
        memory = {
            int(part["address"], 16): bytes.fromhex(part["hex"]).ljust(part["length"], b"\x00")
            for part in vector["input"]
        }
        request = memory[int(vector["address"], 16)]
        numbers = [int.from_bytes(request[start : start + 8], "big") for start in (32, 40, 48, 56)]
        component = memory[numbers[1]][: numbers[0]]
        signature = memory[numbers[3]][: numbers[2]]
        matching = [i for i, certificate in enumerate(certificates) if verifies(component, signature, certificate, at)]
        if result == "0x1":
            answer = vector["reference"]["memory"][0]
            assert matching[0] == bytes.fromhex(answer["hex"])[16]
        else:
            assert matching == []
        seen[result] += 1
    assert seen["0x1"] >= 4
    assert seen["0x402"] >= 4
