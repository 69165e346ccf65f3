"""Which certificate of a file counts: the row "PEM acceptance" and what was measured beside it."""

from __future__ import annotations

import base64
import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.crypto.certificate import Certificate
from sipl.crypto.pem import MAX_CERTIFICATE_FILE, PemError, certificate_der, pem_of
from sipl.errors import SiplError


def block(der, label="CERTIFICATE", end=None, newline="\n", width=64):
    text = base64.b64encode(der).decode()
    lines = "".join(text[at : at + width] + newline for at in range(0, len(text), width))
    return f"-----BEGIN {label}-----{newline}{lines}-----END {end or label}-----{newline}".encode()


@pytest.fixture(scope="module")
def first(own):
    return certificate_der(own("good.pem"))


@pytest.fixture(scope="module")
def second(own):
    return certificate_der(own("p521.pem"))


ACCEPTED = {
    "plain": lambda a, b: block(a),
    "X509 CERTIFICATE": lambda a, b: block(a, "X509 CERTIFICATE"),
    "leading text": lambda a, b: b"subject=whatever\nissuer: x\n" + block(a),
    "text on the line of BEGIN": lambda a, b: b"here: " + block(a),
    "a sixth dash": lambda a, b: b"-" + block(a),
    "private key first": lambda a, b: block(b, "PRIVATE KEY") + block(a),
    "BOM": lambda a, b: b"\xef\xbb\xbf" + block(a),
    "NUL in the text": lambda a, b: b"x\x00y\n" + block(a),
    "CRLF": lambda a, b: block(a, newline="\r\n"),
    "CR": lambda a, b: block(a, newline="\r"),
    "one line": lambda a, b: block(a, newline="", width=1 << 20),
    "tabs": lambda a, b: block(a, newline="\t"),
    "lines of 7": lambda a, b: block(a, width=7),
    "empty lines": lambda a, b: block(a, newline="\n\n"),
    "no newline at the end": lambda a, b: block(a).rstrip(),
    "text behind": lambda a, b: block(a) + b"hello",
    "second certificate": lambda a, b: block(a) + block(b),
    "second of the other label": lambda a, b: block(a) + block(b, "X509 CERTIFICATE"),
    "CERTIFICATE wins over X509 CERTIFICATE": lambda a, b: block(b, "X509 CERTIFICATE") + block(a),
    "two X509 CERTIFICATE": lambda a, b: block(a, "X509 CERTIFICATE") + block(b, "X509 CERTIFICATE"),
    "TRUSTED CERTIFICATE first": lambda a, b: block(b, "TRUSTED CERTIFICATE") + block(a),
    "END first": lambda a, b: b"-----END CERTIFICATE-----\n" + block(a),
}

REFUSED = {
    "empty": lambda a, b: b"",
    "DER": lambda a, b: a,
    "TRUSTED CERTIFICATE": lambda a, b: block(a, "TRUSTED CERTIFICATE"),
    "key only": lambda a, b: block(a, "PRIVATE KEY"),
    "PKCS7": lambda a, b: block(a, "PKCS7"),
    "no END": lambda a, b: block(a).partition(b"-----END")[0],
    "no dashes behind BEGIN": lambda a, b: block(a).replace(b"CERTIFICATE-----\n", b"CERTIFICATE\n", 1),
    "four dashes": lambda a, b: block(a)[1:],
    "lower case": lambda a, b: block(a).replace(b"BEGIN", b"begin"),
    "two blanks": lambda a, b: block(a).replace(b"BEGIN C", b"BEGIN  C"),
    "text behind BEGIN": lambda a, b: block(a).replace(b"-----\n", b"-----x\n", 1),
    "header": lambda a, b: block(a).replace(b"-----\n", b"-----\nProc-Type: 4,ENCRYPTED\n\n", 1),
    "UTF-16": lambda a, b: block(a).decode().encode("utf-16"),
    "other character": lambda a, b: block(a)[:200] + b"*" + block(a)[200:],
    "NUL inside": lambda a, b: block(a)[:200] + b"\x00" + block(a)[200:],
    "= inside": lambda a, b: block(a)[:200] + b"=" + block(a)[200:],
    "= too much": lambda a, b: block(a).replace(b"\n-----END", b"====\n-----END"),
    "no content": lambda a, b: block(b""),
    "first broken": lambda a, b: block(a)[:200] + b"*" + block(a)[200:] + block(b),
    "BEGIN line alone": lambda a, b: b"-----BEGIN CERTIFICATE-----\n" + block(a),
    "BEGIN in prose": lambda a, b: b"see -----BEGIN CERTIFICATE there\n" + block(a),
}

# Where sipl is stricter than the reference.
REFUSED_BY_SIPL_ONLY = {
    "END of another label": lambda a, b: block(a, end="FOO"),
    "END without dashes": lambda a, b: block(a).replace(b"-----END CERTIFICATE-----", b"-----END CERTIFICATE"),
    "CERTIFICATES": lambda a, b: block(a, "CERTIFICATES"),
    "a certificate as CERTIFICATE REQUEST": lambda a, b: block(a, "CERTIFICATE REQUEST") + block(b),
    "vertical tabs": lambda a, b: block(a, newline="\v"),
    "first without END": lambda a, b: block(a).partition(b"-----END")[0] + block(b),
    "too large": lambda a, b: b"x" * MAX_CERTIFICATE_FILE + block(a),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_accepted(case, first, second):
    assert certificate_der(ACCEPTED[case](first, second)) == first


@pytest.mark.parametrize("case", [*REFUSED, *REFUSED_BY_SIPL_ONLY])
def test_refused(case, first, second):
    with pytest.raises(PemError):
        certificate_der({**REFUSED, **REFUSED_BY_SIPL_ONLY}[case](first, second))


@pytest.mark.parametrize("case", [*ACCEPTED, *REFUSED, *REFUSED_BY_SIPL_ONLY])
def test_the_lists_are_those_of_the_reference(case, first, second, gnutls):
    cases = {**ACCEPTED, **REFUSED, **REFUSED_BY_SIPL_ONLY}
    found = gnutls.pem_to_der(cases[case](first, second))
    if case in REFUSED:
        assert found is None
    elif case in ACCEPTED:
        assert found == first
    else:
        assert found is not None


def test_bytes_behind_the_certificate_inside_the_block_are_refused(first):
    with pytest.raises(SiplError, match="offset"):
        Certificate.from_pem(block(first + b"\x00"))


def test_a_block_is_written_as_it_is_read(first, own):
    assert pem_of(first) == own("good.pem")


def test_bits_behind_the_last_octet_must_be_zero():
    good = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
    assert certificate_der(good) == b"\x30\x00"
    with pytest.raises(PemError, match="canonical"):
        certificate_der(good.replace(b"MAA=", b"MAB="))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\x30\x03abc", "DER, not PEM"),
        (b"-----BEGIN TRUSTED CERTIFICATE-----", "TRUSTED"),
        (b"-----BEGIN RSA PRIVATE KEY-----", "private key"),
        (b"hello", "no certificate"),
    ],
)
def test_the_message_says_what_the_file_is_instead(data, why):
    with pytest.raises(PemError, match=why):
        certificate_der(data)


@given(st.data())
def test_whatever_is_changed_only_own_errors_come_out(own, data):
    pem = bytearray(own("p521.pem"))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(pem) - 1))
        pem[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(SiplError):
        Certificate.from_pem(bytes(pem))
