"""Keys on tokens, with SoftHSM as the token."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from sipl.crypto.algorithms import KeyKind
from sipl.crypto.certificate import Certificate
from sipl.crypto.pkcs11_uri import parse_pkcs11_uri
from sipl.crypto.signing import SigningError, check_key, load_key, sign_detached
from sipl.crypto.token_key import Pkcs11Missing, TokenKey, as_der
from sipl.crypto.verify import SignatureCheck

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import token_lab

DATA = b"to be signed" * 100

needs_package = pytest.mark.skipif(
    importlib.util.find_spec("pkcs11") is None, reason="python-pkcs11 is not installed (pip install '.[pkcs11]')"
)


@pytest.fixture(scope="module")
def token(tmp_path_factory, need_tool, own):
    keys = {"rsa": own("rsa2048.key"), "ec": own("p521.key"), "dsa": own("dsa2048.key")}
    return token_lab.make_token(tmp_path_factory.mktemp("token"), need_tool, keys)


@pytest.fixture
def open_key(token):
    opened = []

    def call(what: str, pin: bytes = token_lab.PIN):
        key = TokenKey(parse_pkcs11_uri(token.uri(what)), lambda label: pin)
        opened.append(key)
        return key

    yield call
    for key in opened:
        key.close()


@needs_package
@pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
@pytest.mark.parametrize(("label", "certificate", "kind"), [("rsa", "good", KeyKind.RSA), ("ec", "p521", KeyKind.EC)])
def test_signs(open_key, label, certificate, kind, digest, own, now, reference):
    key = open_key(f"object={label}")
    assert key.kind is kind
    found = Certificate.from_pem(own(f"{certificate}.pem"))
    signature = sign_detached(DATA, key, found, digest)
    SignatureCheck(DATA, signature).verify(found, now)
    reference.verifies(True, found.der, signature, DATA)
    if kind is KeyKind.RSA:
        assert signature == sign_detached(DATA, load_key(own("rsa2048.key")), found, digest)


@needs_package
def test_a_key_signs_again_and_again(open_key, own, now):
    key, found = open_key("id=%02"), Certificate.from_pem(own("p521.pem"))
    made = {sign_detached(DATA, key, found) for _ in range(3)}
    for signature in made:
        SignatureCheck(DATA, signature).verify(found, now)


@needs_package
@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("object=nobody", "no such private key"),
        ("id=%63", "no such private key"),
        ("type=private", "private keys are meant: "),
        ("object=dsa", "neither RSA nor elliptic curve"),
    ],
)
def test_the_key_must_be_one(open_key, what, why):
    with pytest.raises(SigningError, match=why):
        open_key(what)


@needs_package
def test_the_token_must_be_one(token, own):
    uri = token.uri("object=rsa").replace("token=sipl%20test", "token=another")
    with pytest.raises(SigningError, match=r"no such token is there \(name one with token=…; there are: .*sipl test"):
        TokenKey(parse_pkcs11_uri(uri), lambda label: token_lab.PIN)


@needs_package
def test_the_pin_must_be_right(open_key):
    with pytest.raises(SigningError, match="PinIncorrect") as caught:
        open_key("object=rsa", b"0000")
    assert "0000" not in str(caught.value)
    with pytest.raises(SigningError, match="not UTF-8"):
        open_key("object=rsa", b"\xff")


@needs_package
def test_a_module_that_is_none():
    with pytest.raises(SigningError, match=r"the PKCS#11 module .* cannot be used"):
        TokenKey(parse_pkcs11_uri("pkcs11:?module-path=/nowhere/module.so"), lambda label: b"")


@needs_package
def test_the_kind_must_be_that_of_the_certificate(open_key, own):
    with pytest.raises(SigningError, match="it is RSA, that of the certificate CN=sipl test p521 is EC"):
        check_key(open_key("object=rsa"), Certificate.from_pem(own("p521.pem")))


@needs_package
def test_a_closed_session_does_not_sign(open_key):
    key = open_key("object=rsa")
    key.close()
    key.close()
    with pytest.raises(SigningError, match="closed"):
        key.sign_digest("sha256", bytes(32))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "pkcs11", None)
    with pytest.raises(Pkcs11Missing, match=r"pip install 'sipl\[pkcs11\]'"):
        TokenKey(parse_pkcs11_uri("pkcs11:token=x"), lambda label: b"")


def test_points_become_der():
    assert as_der(b"\0\1" + b"\xff\2").hex() == "3008" + "020101" + "020300ff02"


def test_the_package_is_loaded_by_nobody_else():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, sipl.author.signer, sipl.crypto.signing; print('pkcs11' in sys.modules)"],
        capture_output=True,
        env=os.environ,
        check=True,
        text=True,
    )
    assert done.stdout.strip() == "False"
