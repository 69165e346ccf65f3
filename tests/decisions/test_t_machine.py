"""Decisions about the machine's side: T1 to T4, T17 to T20 of docs/differences.md."""

from __future__ import annotations

import shutil
import struct
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from ipl_lab import AT, HANDS_OVER, KERNEL, YEAR, Bare, kernel_bytes, loader_bytes, reasons, verdict

from sipl.author.boot_record import Load
from sipl.crypto import signing
from sipl.crypto.certificate import Certificate
from sipl.crypto.der import (
    CONTEXT_CONSTRUCTED,
    OCTET_STRING,
    OID,
    SEQUENCE,
    encode,
    encode_integer,
    encode_set_of,
    oid,
)
from sipl.crypto.pkcs7 import DATA, SIGNED_DATA
from sipl.settings import Settings

PAGE = 0x10000
OUTSIDE = 0x7FFFF000  # far behind the 16 MiB of the bare machine


def copies(tmp_path, signer, count):
    folder = tmp_path / f"store{count}"
    folder.mkdir()
    for number in range(count):
        shutil.copy(signer.path, folder / f"{number:03}.pem")
    return str(folder)


@pytest.mark.parametrize("mode", ["audit", "secure"])
def test_t01_sixty_four_certificates(lab, tmp_path, mode):
    disk = lab.disk(lab.program())
    full = lab.boot(disk, mode=mode, certs=[copies(tmp_path, lab.signers["A"], 64)])
    assert verdict(full) == HANDS_OVER
    more = lab.boot(disk, mode=mode, certs=[copies(tmp_path, lab.signers["A"], 65)])
    assert verdict(more) == ("refused-to-start", "too-many-certificates")


def test_t01_the_sixty_fourth_certificate_verifies(lab, tmp_path):
    store = [copies(tmp_path, lab.signers["B"], 63), "A"]
    report = lab.boot(lab.program(), certs=store)
    assert verdict(report) == HANDS_OVER
    assert [c.store_index for c in report.certificates] == [63]


def vcssb(length):
    return struct.pack(">I124x", length)


def test_t02_alignment_before_accessibility(signers):
    bare = Bare([signers["A"].path])
    assert bare.interruption(0x320, OUTSIDE + 4, 1) == "specification"
    assert bare.interruption(0x320, OUTSIDE, 1) == "addressing"


@pytest.mark.parametrize("length", [0, 4, 127, 129, 4096, 0xFFFFFFFF])
def test_t02_any_other_length_has_a_response(signers, length):
    bare = Bare([signers["A"].path])
    bare.write(PAGE, vcssb(length))
    assert bare.diagnose(0x320, PAGE, 1) == 0x0202
    assert bare.read(PAGE, 128) == vcssb(length)
    bare.write(PAGE, vcssb(128))
    assert bare.diagnose(0x320, PAGE, 1) == 0x0001


def vcb(length, first, last):
    """A request whose output fields hold what was in memory before."""
    return struct.pack(">IIHH20sIIHH20x", length, 0, first, last, bytes(20), 0x11223344, 0, 0x5566, 0x7788)


def test_t03_page_alignment(signers):
    bare = Bare([signers["A"].path])
    for address in (PAGE + 8, PAGE + 2048, OUTSIDE + 8):
        assert bare.interruption(0x320, address, 2) == "specification"
    assert bare.interruption(0x320, OUTSIDE, 2) == "addressing"


@pytest.mark.parametrize("length", [0, 1, 64, 4095, 4097, 0xFFFFFFFF])
def test_t03_length_is_whole_pages_and_not_zero(signers, length):
    bare = Bare([signers["A"].path])
    bare.write(PAGE, vcb(length, 1, 1))
    assert bare.diagnose(0x320, PAGE, 2) == 0x0204


@pytest.mark.parametrize(("first", "last", "stored"), [(1, 1, 1), (0, 0, 0), (2, 2, 0), (1, 2, 0)])
def test_t03_counts_are_not_what_the_guest_left_there(signers, first, last, stored):
    bare = Bare([signers["A"].path])
    bare.write(PAGE, vcb(4096, first, last))
    assert bare.diagnose(0x320, PAGE, 2) == 0x0001
    assert struct.unpack(">HH", bare.read(PAGE + 40, 4)) == (stored, 0)


def entry(bare):
    """(length, flags, key type) of the first certificate entry."""
    bare.write(PAGE, vcb(4096, 1, 1))
    assert bare.diagnose(0x320, PAGE, 2) == 0x0001
    return struct.unpack(">IBB", bare.read(PAGE + 64, 6))


def test_t04_validity_comes_before_the_key_type(signers):
    path = signers["B"].path  # P-521, key type 1
    assert entry(Bare([path]))[1:] == (0x80, 1)
    assert entry(Bare([path], at=AT + 2 * YEAR)) == (72, 0, 0)
    assert entry(Bare([path], at=AT - 2 * YEAR)) == (72, 0, 0)


def certificate_of(size, key=None):
    """PEM of a certificate whose DER has `size` bytes."""
    key = key or Ed25519PrivateKey.generate()  # its signatures are all of one length
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "large")])

    def make(padding):
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1000)
            .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
            .not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
            .add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.55555.1"), bytes(padding)), False
            )
            .sign(key, None)
        )

    rest = len(make(size // 2).public_bytes(serialization.Encoding.DER)) - size // 2
    made = make(size - rest)
    assert len(made.public_bytes(serialization.Encoding.DER)) == size
    return made.public_bytes(serialization.Encoding.PEM)


@pytest.mark.parametrize("mode", ["audit", "secure"])
def test_t17_certificate_size(lab, tmp_path, mode):
    disk = lab.disk(lab.program())
    for size, expected in ((8000, HANDS_OVER), (8001, ("refused-to-start", "certificate-too-large"))):
        path = tmp_path / f"{size}.pem"
        path.write_bytes(certificate_of(size))
        assert verdict(lab.boot(disk, mode=mode, certs=["A", str(path)])) == expected


def svb(component_length, component, signature_length, signature, length=64):
    return struct.pack(">I28xQQQQ", length, component_length, component, signature_length, signature)


def test_t18_diag508_needs_the_facility(signers):
    bare = Bare([signers["A"].path], cpu="qemu,sipl=off,sclaf=off")
    assert bare.interruption(0x508, PAGE, 0) == "specification"
    assert bare.interruption(0x508, PAGE, 0x8000) == "specification"
    assert Bare([signers["A"].path]).diagnose(0x508, PAGE, 0) == 0x8000


def test_t18_lengths_before_addresses(signers):
    bare = Bare([signers["A"].path])
    answers = []
    for block in (
        svb(512, OUTSIDE, 100, OUTSIDE, length=63),
        svb(0, OUTSIDE, 100, OUTSIDE),
        svb(512, OUTSIDE, 0, OUTSIDE),
        svb(512, OUTSIDE, 4097, OUTSIDE),
    ):
        bare.write(PAGE, block)
        answers.append(bare.diagnose(0x508, PAGE, 0x8000))
    assert answers == [0x0502, 0x0202, 0x0302, 0x0302]
    for block in (svb(512, OUTSIDE, 100, OUTSIDE), svb(512, OUTSIDE, 100, PAGE), svb(512, PAGE, 100, OUTSIDE)):
        bare.write(PAGE, block)
        assert bare.interruption(0x508, PAGE, 0x8000) == "addressing"


def test_t19_default_cpu_has_all_facilities(lab):
    assert Settings().cpu == "qemu"
    assert verdict(lab.boot(lab.program())) == HANDS_OVER


@pytest.mark.parametrize("model", ["z16", "z17", "gen16b", "z15"])
def test_t19_the_hint_is_the_cpu_option_that_helps(lab, model):
    disk = lab.disk(lab.program())
    without = lab.boot(disk, cpu=model)
    assert verdict(without) == ("stops", "facility-missing")
    (finding,) = [f for f in without.findings if f.reason == "facility-missing"]
    option, text = finding.hint.split(" ", 1)
    assert option == "--cpu"
    assert text.split(",")[0] == ("z16" if model == "z15" else model)
    assert verdict(lab.boot(disk, cpu=text)) == HANDS_OVER


@pytest.mark.parametrize("mode", ["audit", "secure"])
def test_t19_protected_guest_has_none(lab, mode):
    disk = lab.disk(lab.program())
    assert verdict(lab.boot(disk, mode=mode, protected=True)) == ("stops", "facility-missing")
    assert verdict(lab.boot(disk, mode="normal", protected=True)) == HANDS_OVER


def with_signature_of(lab, sign):
    """The base program with both components signed by `sign`."""
    loader, kernel = loader_bytes(), kernel_bytes()
    return lab.program(loader=Load(0xA000, loader, sign(loader)), kernel=Load(KERNEL, kernel, sign(kernel)))


@pytest.mark.parametrize("digest", ["sha1", "sha224", "sha256", "sha384", "sha512", "sha3_256"])
@pytest.mark.parametrize("name", ["A", "B", "C"])
def test_t20_accepted_digests(lab, name, digest):
    program = with_signature_of(lab, lambda data: lab.signers[name].sign(data, digest))
    assert verdict(lab.boot(program, certs=[name])) == HANDS_OVER


@pytest.mark.parametrize("key", ["p224", "p384", "rsa768", "rsa1024", "dsa2048", "rsa3072"])
def test_t20_accepted_keys(lab, data, key):
    def make():
        if key in ("p224", "p384"):
            return ec.generate_private_key(ec.SECP224R1() if key == "p224" else ec.SECP384R1())
        if key == "rsa3072":
            return signing.generate_key(key)
        return signing.load_key((data / "crypto" / f"{key}.key").read_bytes())

    signer = lab.signers.make(key, make())
    assert verdict(lab.boot(with_signature_of(lab, signer.sign), certs=[key])) == HANDS_OVER


OPENSSL_KEYS = {
    "md5": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "sha512-256": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "pss": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "brainpool": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:brainpoolP256r1"],
    "secp256k1": ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
    "good": ["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
}
OPENSSL_SIGN = {"md5": ["-md", "md5"], "sha512-256": ["-md", "sha512-256"], "pss": ["-keyopt", "rsa_padding_mode:pss"]}
OPENSSL_WHY = {
    "md5": "MD5",
    "sha512-256": "SHA-512/256",
    "pss": "PSS",
    "brainpool": "brainpool",
    "secp256k1": "secp256k1",
}


@pytest.mark.parametrize("case", OPENSSL_KEYS)
def test_t20_rejected(lab, tmp_path, need_tool, case):
    """What is on no list is not accepted although openssl makes and verifies it; the last case shows that it can be."""
    openssl = need_tool("openssl", "openssl")

    def run(*arguments):
        subprocess.run([openssl, *arguments], check=True, capture_output=True, cwd=tmp_path)

    run("genpkey", *OPENSSL_KEYS[case], "-out", "key.pem")
    run("req", "-x509", "-new", "-key", "key.pem", "-subj", "/CN=t20", "-days", "4000", "-out", "certificate.pem")

    def sign(component):
        (tmp_path / "component").write_bytes(component)
        run(
            *("cms", "-sign", "-binary", "-nocerts", "-noattr", "-md", "sha256"),
            *("-signer", "certificate.pem", "-inkey", "key.pem"),
            *("-outform", "DER", "-in", "component", "-out", "signature"),
            *OPENSSL_SIGN.get(case, []),
        )
        return Path(tmp_path, "signature").read_bytes()

    # openssl's certificate starts now; the time of verification must lie behind that.
    now = int(datetime.now(UTC).timestamp()) + 60
    report = lab.boot(with_signature_of(lab, sign), certs=[str(tmp_path / "certificate.pem")], at=now)
    if case == "good":
        assert verdict(report) == HANDS_OVER
        return
    assert verdict(report) == ("stops", "signature-not-verified")
    (finding,) = [f for f in report.findings if f.reason == "signature-not-verified"]
    assert OPENSSL_WHY[case].lower() in finding.message.lower()
    assert reasons(report, "error") == ["signature-not-verified"]
    assert report.findings[0].component == 1
    assert len(report.components) == 2


def test_t20_eddsa_is_in_no_accepted_row(lab, tmp_path):
    """A correct signature of RFC 8419, made here because few openssl make it."""
    key = Ed25519PrivateKey.generate()
    pem = certificate_of(1000, key)
    path = tmp_path / "ed25519.pem"
    path.write_bytes(pem)
    certificate = Certificate.from_pem(pem)
    digest = encode(SEQUENCE, encode(OID, oid("2.16.840.1.101.3.4.2.3")))

    def sign(data):
        signer = encode(
            SEQUENCE,
            encode_integer(1),
            encode(SEQUENCE, certificate.issuer_der, encode_integer(certificate.serial)),
            digest,
            encode(SEQUENCE, encode(OID, oid("1.3.101.112"))),
            encode(OCTET_STRING, key.sign(data)),
        )
        content = encode(SEQUENCE, encode(OID, DATA))
        signed = encode(SEQUENCE, encode_integer(1), encode_set_of([digest]), content, encode_set_of([signer]))
        return encode(SEQUENCE, encode(OID, SIGNED_DATA), encode(CONTEXT_CONSTRUCTED, signed))

    report = lab.boot(with_signature_of(lab, sign), certs=[str(path)])
    assert verdict(report) == ("stops", "signature-not-verified")
    assert "Ed25519" in report.findings[-1].message
