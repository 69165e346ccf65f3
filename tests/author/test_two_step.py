"""Signing in two steps: what is written is what must be signed, and only a signature over it is taken back."""

from __future__ import annotations

import hashlib
import subprocess

import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing_lab import CERT, DATA, EC_CERT, EC_KEY, KERNEL, KEY, NOW, PAYLOAD, signer, wrap

from sipl.author.signed_file import sign_file
from sipl.author.signer import load_private_key
from sipl.author.two_step import FORMS, attach_signature, prepare_signature
from sipl.crypto.pem import pem_of
from sipl.crypto.signing import _sign
from sipl.errors import FileError, SigningRefused, UsageError

DIGESTS = ("sha256", "sha384", "sha512")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "stage3.bin"
    path.write_bytes(PAYLOAD)
    return path


@pytest.fixture
def made(tmp_path):
    """Writes a signature and gives the file's name."""

    def write(data: bytes) -> str:
        (tmp_path / "signature").write_bytes(data)
        return str(tmp_path / "signature")

    return write


def raw(data, key="rsa2048", digest="sha256"):
    return _sign(load_private_key(str(DATA / f"{key}.key")), digest, hashlib.new(digest, data).digest())


def refused(kind, match, do):
    with pytest.raises(SigningRefused, match=match) as caught:
        do()
    assert caught.value.kind == kind


class TestPrepare:
    def test_forms(self, file):
        for digest in DIGESTS:
            hashed = hashlib.new(digest, PAYLOAD).digest()
            assert prepare_signature(str(file), "payload", digest) == PAYLOAD
            assert prepare_signature(str(file), "digest", digest) == hashed
            info = prepare_signature(str(file), "digest-info", digest)
            assert info.endswith(b"\4" + bytes([len(hashed)]) + hashed)

    def test_signatures_do_not_count(self, file):
        plain = prepare_signature(str(file), "digest")
        sign_file(str(file), signer())
        sign_file(str(file), signer("p521", "p521"))
        assert prepare_signature(str(file), "digest") == plain

    def test_what_would_not_boot_is_not_prepared(self, file):
        file.write_bytes(bytes(512))
        refused("sclab-missing", "SCLAB", lambda: prepare_signature(str(file)))
        assert prepare_signature(str(file), force=True) == bytes(512)
        file.write_bytes(PAYLOAD[1:])
        refused("not-whole-blocks", "511", lambda: prepare_signature(str(file)))

    def test_values(self, file):
        with pytest.raises(UsageError, match="--form"):
            prepare_signature(str(file), "hash")
        with pytest.raises(UsageError, match="--digest"):
            prepare_signature(str(file), "payload", "sha1")


class TestAttach:
    @pytest.mark.parametrize("named", [True, False])
    @pytest.mark.parametrize("digest", DIGESTS)
    @pytest.mark.parametrize(("key", "cert"), [("rsa2048", "good"), ("p521", "p521")])
    def test_bare(self, file, made, key, cert, digest, named):
        pem = str(DATA / f"{cert}.pem")
        signature = made(raw(PAYLOAD, key, digest))
        done = attach_signature(str(file), signature, pem, digest if named else None, now=NOW)
        assert file.read_bytes() == wrap(PAYLOAD, done.signature)
        assert signer(key, cert, digest).has_signed(PAYLOAD, done.signature)

    def test_rsa_is_what_sign_file_would_have_made(self, file, made):
        attach_signature(str(file), made(raw(PAYLOAD)), CERT, now=NOW)
        assert file.read_bytes() == wrap(PAYLOAD, signer().sign(PAYLOAD))

    def test_r_and_s_one_behind_the_other(self, file, made):
        """As tokens and services give it."""
        numbers = decode_dss_signature(raw(PAYLOAD, "p521"))
        done = attach_signature(
            str(file), made(b"".join(number.to_bytes(66, "big") for number in numbers)), EC_CERT, now=NOW
        )
        assert signer("p521", "p521").has_signed(PAYLOAD, done.signature)

    @pytest.mark.parametrize("form", ["der", "PKCS7", "CMS"])
    def test_whole(self, file, made, form):
        whole = signer().sign(PAYLOAD)
        given = whole if form == "der" else pem_of(whole, form)
        done = attach_signature(str(file), made(given), CERT, now=NOW)
        assert done.signature == whole

    def test_in_place_of_older_ones(self, file, made):
        sign_file(str(file), signer("p521", "p521"))
        done = attach_signature(str(file), made(raw(PAYLOAD)), CERT, now=NOW)
        assert done.removed == 1
        assert file.read_bytes() == wrap(PAYLOAD, signer().sign(PAYLOAD))
        assert not attach_signature(str(file), made(raw(PAYLOAD)), CERT, now=NOW).changed

    def test_to_another_file(self, file, made, tmp_path):
        attach_signature(str(file), made(raw(PAYLOAD)), CERT, output=str(tmp_path / "out"), now=NOW)
        assert file.read_bytes() == PAYLOAD
        assert (tmp_path / "out").read_bytes() == wrap(PAYLOAD, signer().sign(PAYLOAD))


class TestRefusals:
    @pytest.mark.parametrize(
        ("signature", "why"),
        [
            (raw(KERNEL), "no signature of the key of CN=sipl test good over this file"),
            (raw(PAYLOAD, "rsa1024"), "no signature of the key"),
            (raw(PAYLOAD, "p521"), "no signature of the key"),
            (raw(PAYLOAD)[:-1], "no signature of the key"),
            (raw(PAYLOAD) + b"\n", "no signature of the key"),
            (b"", "no signature of the key"),
            (raw(hashlib.sha256(PAYLOAD).digest()), "made over the SHA-256 digest, of which the signer computed"),
            (raw(hashlib.sha512(PAYLOAD).digest()), "made over the SHA-512 digest, of which"),
        ],
    )
    def test_bare(self, file, made, signature, why):
        refused("not-verified", why, lambda: attach_signature(str(file), made(signature), CERT, now=NOW, force=True))
        assert file.read_bytes() == PAYLOAD

    def test_over_the_file_with_its_old_signature(self, file, made):
        sign_file(str(file), signer("p521", "p521"))
        signature = made(raw(file.read_bytes()))
        refused("not-verified", "with its old signature", lambda: attach_signature(str(file), signature, CERT, now=NOW))

    def test_over_the_digest_info(self, file, made):
        signature = made(raw(prepare_signature(str(file), "digest-info")))
        refused("not-verified", "over the digest info", lambda: attach_signature(str(file), signature, CERT, now=NOW))

    def test_another_digest_than_the_named_one(self, file, made):
        signature = made(raw(PAYLOAD, digest="sha384"))
        refused(
            "not-verified",
            "made with SHA-384, not with the digest that was named",
            lambda: attach_signature(str(file), signature, CERT, "sha256", now=NOW),
        )

    def test_whole(self, file, made):
        def attach(data, **how):
            return lambda: attach_signature(str(file), made(data), CERT, now=NOW, **how)

        refused("bad-signature", "signature: the signature would not verify", attach(signer().sign(KERNEL)))
        refused("malformed", "malformed DER", attach(signer().sign(PAYLOAD) + b"x", force=True))
        refused("no-key-match", "made with EC", attach(signer("p521", "p521").sign(PAYLOAD)))
        refused("malformed", "not base64|canonical", attach(b"-----BEGIN CMS-----\n!\n-----END CMS-----\n"))
        assert file.read_bytes() == PAYLOAD

    @pytest.mark.parametrize(("cert", "kind"), [("expired", "expired"), ("future", "not-yet-valid")])
    def test_time(self, file, made, cert, kind):
        signature, pem = made(raw(PAYLOAD)), str(DATA / f"{cert}.pem")
        refused(kind, "expired at|not valid before", lambda: attach_signature(str(file), signature, pem, now=NOW))
        assert attach_signature(str(file), signature, pem, now=NOW, force=True).changed

    def test_key_usage(self, file, made):
        signature, pem = made(raw(PAYLOAD)), str(DATA / "usage-certsign.pem")
        refused(
            "key-usage", "digitalSignature", lambda: attach_signature(str(file), signature, pem, now=NOW, force=True)
        )

    def test_too_large(self, file, made, need_tool, tmp_path):
        """With its certificates embedded a signature can be larger than a machine takes."""
        chain = tmp_path / "chain.pem"
        chain.write_bytes(b"".join(path.read_bytes() for path in sorted(DATA.glob("*.pem")) if path.name != "good.pem"))
        whole = tmp_path / "whole"
        command = [need_tool("openssl", "openssl"), "cms", "-sign", "-binary", "-outform", "DER", "-in", file]
        subprocess.run([*command, "-signer", CERT, "-inkey", KEY, "-certfile", chain, "-out", whole], check=True)
        assert whole.stat().st_size > 4096
        refused("signature-too-large", "at most 4096", lambda: attach_signature(str(file), str(whole), CERT, now=NOW))

    def test_files(self, file, made, tmp_path):
        with pytest.raises(FileError):
            attach_signature(str(file), str(tmp_path / "missing"), CERT, now=NOW)
        with pytest.raises(FileError, match="65536"):
            attach_signature(str(file), made(bytes(65537)), CERT, now=NOW)
        with pytest.raises(UsageError, match="--digest"):
            attach_signature(str(file), made(raw(PAYLOAD)), CERT, "md5", now=NOW)


class TestOpenSslSigns:
    """Each form of the request is what a command of OpenSSL wants."""

    @pytest.mark.parametrize("digest", DIGESTS)
    @pytest.mark.parametrize(("key", "cert"), [(KEY, CERT), (EC_KEY, EC_CERT)])
    @pytest.mark.parametrize("form", FORMS)
    def test(self, file, tmp_path, need_tool, form, key, cert, digest):
        if form == "digest-info" and key == EC_KEY:
            return  # only RSA has such a thing
        request, signature = tmp_path / "request", tmp_path / "signature"
        request.write_bytes(prepare_signature(str(file), form, digest))
        openssl = need_tool("openssl", "openssl")
        if form == "payload":
            command = [openssl, "dgst", f"-{digest}", "-sign", key, "-out", signature, request]
        else:
            # pkeyutl refuses what is longer than a digest; rsautl is how OpenSSL signs what is padded and no more.
            command = [openssl, "pkeyutl" if form == "digest" else "rsautl", "-sign", "-inkey", key]
            command += ["-in", request, "-out", signature]
            command += ["-pkeyopt", f"digest:{digest}"] if form == "digest" else []
        subprocess.run(command, check=True, capture_output=True)
        done = attach_signature(str(file), str(signature), cert, now=NOW)
        assert file.read_bytes() == wrap(PAYLOAD, done.signature)

    def test_a_whole_pkcs7_with_all_that_openssl_adds(self, file, tmp_path, need_tool):
        whole = tmp_path / "whole"
        command = [need_tool("openssl", "openssl"), "cms", "-sign", "-binary", "-outform", "DER", "-in", file]
        subprocess.run([*command, "-signer", CERT, "-inkey", KEY, "-out", whole], check=True)
        assert attach_signature(str(file), str(whole), CERT, now=NOW).signature == whole.read_bytes()


@given(st.binary(max_size=600), st.sampled_from([CERT, EC_CERT]))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_signature(file, made, data, cert):
    with pytest.raises(SigningRefused) as caught:
        attach_signature(str(file), made(data), cert, now=NOW)
    assert str(caught.value).isprintable()
    assert file.read_bytes() == PAYLOAD
