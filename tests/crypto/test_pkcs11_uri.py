"""PKCS#11 URIs: what they name, and what they may not hold."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sipl.crypto.pkcs11_uri import MAX_URI_LENGTH, Pkcs11Uri, is_pkcs11_uri, parse_pkcs11_uri
from sipl.errors import UsageError


def test_all_attributes():
    text = (
        "pkcs11:token=My%20token;manufacturer=m;serial=1;model=v2;slot-id=3;object=k%C3%A9y;id=%01%fe;type=private"
        "?module-path=/usr/lib/x.so&pin-source=file:/run/pin"
    )
    assert parse_pkcs11_uri(text) == Pkcs11Uri(
        text, "My token", "m", "1", "v2", 3, "kéy", b"\x01\xfe", "/usr/lib/x.so", "/run/pin"
    )


def test_nothing_is_asked_for():
    assert parse_pkcs11_uri("pkcs11:") == Pkcs11Uri("pkcs11:")


@pytest.mark.parametrize("source", ["/run/pin", "file:/run/pin", "file:///run/pin", "file://localhost/run/pin"])
def test_pin_source(source):
    assert parse_pkcs11_uri(f"pkcs11:token=t?pin-source={source}").pin_file == "/run/pin"


def test_scheme():
    assert is_pkcs11_uri("pkcs11:token=x") and is_pkcs11_uri("PKCS11:")
    assert not is_pkcs11_uri("pkcs11.pem") and not is_pkcs11_uri("key.pem")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("key.pem", "no PKCS#11 URI"),
        ("pkcs11:" + "x" * MAX_URI_LENGTH, "no PKCS#11 URI"),
        ("pkcs11:token", "'token' is no attribute"),
        ("pkcs11:=x", "is no attribute"),
        ("pkcs11:token=a;", "is no attribute"),
        ("pkcs11:token=a;token=b", "'token' is there twice"),
        ("pkcs11:token=a?token=b", "'token' is there twice"),
        ("pkcs11:token=a?", "nothing follows"),
        ("pkcs11:colour=red", "'colour' is not known"),
        ("pkcs11:type=cert", "no private key"),
        ("pkcs11:token=%", "percent sign"),
        ("pkcs11:token=%4", "percent sign"),
        ("pkcs11:token=%zz", "percent sign"),
        ("pkcs11:token=%ff", "not UTF-8"),
        ("pkcs11:token=%00", "zero byte"),
        ("pkcs11:slot-id=x", "no number"),
        ("pkcs11:slot-id=-1", "no number"),
        ("pkcs11:token=t?pin-source=|cat", "names no file"),
        ("pkcs11:token=t?pin-source=pin", "names no file"),
        ("pkcs11:token=t?pin-source=file://elsewhere/pin", "names no file"),
    ],
)
def test_refused(text, why):
    with pytest.raises(UsageError, match=why) as caught:
        parse_pkcs11_uri(text)
    assert len(str(caught.value)) < 500


def test_a_pin_on_the_command_line_is_refused_and_not_repeated():
    for text in (
        "pkcs11:token=t?pin-value=48151623",
        "pkcs11:token=t?pin-value=48151623&x=y",
        "pkcs11:t?pin-value=48151623",
        "pkcs11:token=t?pin48151623",
        "pkcs11:token=t;pin-value=48151623",
        "pkcs11:Pin-Value=48151623;token=t?module-path=/x",
        "pkcs11:pin-value=48151623%",
    ):
        with pytest.raises(UsageError) as caught:
            parse_pkcs11_uri(text)
        assert "48151623" not in str(caught.value)


@given(st.text(max_size=80))
@example("pkcs11:token=\ud800")
@settings(max_examples=300)
def test_any_text(text):
    for uri in (text, f"pkcs11:{text}", f"pkcs11:token={text}", f"pkcs11:?pin-source={text}"):
        try:
            parse_pkcs11_uri(uri)
        except UsageError as error:
            assert str(error).isprintable()
