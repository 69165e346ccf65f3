"""`sipl sign` and `sipl strip`: files, keys, refusals, and the two steps."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest
import token_lab
from signing_lab import AT, CERT, DATA, EC_CERT, EC_KEY, KERNEL, KEY, PAYLOAD, certificate, left_behind, signer, wrap

from sipl.author import guest
from sipl.author.signer import load_private_key
from sipl.crypto import signing

WITH = ("--key", KEY, "--cert", CERT, "--at", AT)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIPL_PASSPHRASE", raising=False)
    (tmp_path / "stage3.bin").write_bytes(PAYLOAD)
    (tmp_path / "vmlinuz").write_bytes(KERNEL)
    return tmp_path


class TestSign:
    def test_lines(self, sipl, folder):
        result = sipl("sign", *WITH, "stage3.bin", "vmlinuz")
        assert (result.code, result.err) == (0, "")
        size = len(signer().sign(b"x"))
        assert result.lines == [
            f"stage3.bin: signed, 512 bytes of payload, {size} bytes of signature",
            f"vmlinuz: signed, {len(KERNEL)} bytes of payload, {size} bytes of signature",
        ]
        assert (folder / "vmlinuz").read_bytes() == wrap(KERNEL, signer().sign(KERNEL))
        assert left_behind(folder) == {"stage3.bin", "vmlinuz"}

    def test_again(self, sipl):
        sipl("sign", *WITH, "stage3.bin")
        assert sipl("sign", *WITH, "stage3.bin").lines[0].startswith("stage3.bin: signed already, 512 bytes")
        assert sipl("sign", *WITH, "--digest", "sha512", "stage3.bin").lines[0].endswith(", 1 old signature removed")

    def test_options_among_the_files(self, sipl):
        assert sipl("sign", "stage3.bin", *WITH, "vmlinuz", "--digest", "sha384").code == 0

    def test_to_other_files(self, sipl, folder):
        (folder / "out").mkdir()
        assert sipl("sign", *WITH, "-o", "signed", "stage3.bin").code == 0
        assert sipl("sign", *WITH, "--output-dir", "out", "stage3.bin", "vmlinuz").code == 0
        assert (folder / "signed").read_bytes() == (folder / "out" / "stage3.bin").read_bytes()
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD

    def test_one_that_is_refused_does_not_keep_the_others_from_it(self, sipl, folder):
        (folder / "bad").write_bytes(bytes(512))
        result = sipl("sign", *WITH, "stage3.bin", "bad", "vmlinuz")
        assert result.code == 1
        assert [line.split(":")[0] for line in result.lines] == ["stage3.bin", "vmlinuz"]
        assert result.err.startswith("sipl: bad: it does not end with code loading attributes (SCLAB)")
        result = sipl("sign", *WITH, "missing", "stage3.bin")
        assert (result.code, len(result.lines)) == (2, 1)
        assert result.err.startswith("sipl: missing: cannot be read: No such file")

    def test_force(self, sipl, folder):
        (folder / "bad").write_bytes(bytes(500))
        result = sipl("sign", *WITH, "--force", "bad")
        assert result.code == 0
        assert [line[:8] for line in result.lines[1:]] == ["  note: "] * 2
        assert (folder / "bad").read_bytes() == wrap(bytes(500), signer().sign(bytes(500)))

    def test_the_result_boots(self, sipl, lab, signers):
        """What sipl signs verifies where it counts: on the machine."""
        assert sipl("sign", *WITH, "stage3.bin", "vmlinuz").code == 0
        from pathlib import Path

        from sipl.author.boot_record import Execute, Load, Program, write_disk
        from sipl.crypto.appended_signature import read_layer

        loads = []
        for address, name in ((guest.LOADER_ADDRESS, "stage3.bin"), (guest.KERNEL_ADDRESS, "vmlinuz")):
            data = Path(name).read_bytes()
            layer = read_layer(data)
            loads.append(Load(address, data[: layer.payload_length], layer.signature))
        Path("disk.raw").write_bytes(write_disk([Program([*loads, Execute(guest.ENTRY_PSW)])], 512))
        assert sipl("verify", "--at", AT, "--boot-certs", CERT, "disk.raw").code == 0
        assert sipl("verify", "--at", AT, "--boot-certs", EC_CERT, "disk.raw").code == 1


class TestRefusals:
    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("--key", EC_KEY, "--cert", CERT), "private key: it is not the key of the certificate CN=sipl test good"),
            (("--key", KEY, "--cert", str(DATA / "expired.pem")), "expired at 2026-05-31T23:59:59Z (use a certificate"),
            (("--key", KEY, "--cert", str(DATA / "future.pem")), "not valid before 2026-06-02T00:00:00Z"),
            (("--key", KEY, "--cert", str(DATA / "usage-certsign.pem")), "does not contain digitalSignature"),
        ],
    )
    def test_key_and_certificate(self, sipl, folder, words, why):
        result = sipl("sign", *words, "--at", AT, "stage3.bin")
        assert (result.code, result.out) == (1, "")
        assert why in result.err
        assert len(result.err.splitlines()) == 1
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD

    def test_an_expired_certificate_can_be_forced(self, sipl):
        assert sipl("sign", "--key", KEY, "--cert", DATA / "expired.pem", "--at", AT, "--force", "stage3.bin").code == 0

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            ((), "the following arguments are required: FILE"),
            (("stage3.bin",), "--key and --cert are needed"),
            (("--key", KEY, "stage3.bin"), "--key and --cert are needed"),
            ((*WITH, "--digest", "sha1", "stage3.bin"), "--digest: no signatures are made with sha1"),
            ((*WITH, "-o", "x", "stage3.bin", "vmlinuz"), "2 files cannot become one"),
            ((*WITH, "-o", "x", "--output-dir", ".", "stage3.bin"), "does not go together with -o"),
            ((*WITH, "-o", ".", "stage3.bin"), "this is a directory"),
            ((*WITH, "-o", "", "stage3.bin"), "the name of the output is empty"),
            ((*WITH, "--output-dir", "missing", "stage3.bin"), "this is no directory"),
            ((*WITH, "--output-dir", ".", "stage3.bin", "./stage3.bin"), "two files have the same name"),
            (("--key", KEY, "--cert", KEY, "stage3.bin"), "a private key, but no certificate"),
            (("--key", CERT, "--cert", CERT, "--at", AT, "stage3.bin"), "name a private key in PEM, or a PKCS#11 URI"),
            (("--key", "missing", "--cert", CERT, "--at", AT, "stage3.bin"), "missing: cannot be read"),
            ((*WITH, "--form", "digest", "stage3.bin"), "say --prepare, too"),
            (
                ("--key", "pkcs11:token=x?pin-value=1", "--cert", CERT, "--at", AT, "stage3.bin"),
                "a PIN does not belong",
            ),
            (("--key", "pkcs11:frob=x", "--cert", CERT, "--at", AT, "stage3.bin"), "'frob' is not known"),
        ],
    )
    def test_wrong_usage(self, sipl, folder, words, why):
        result = sipl("sign", *words)
        assert (result.code, result.out) == (2, "")
        assert why in result.err
        assert len(result.err.splitlines()) == 1
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD

    def test_the_key_is_not_overwritten(self, sipl, folder):
        for name in ("rsa2048.key", "good.pem"):
            shutil.copy(DATA / name, folder / name)
        words = ("--key", "rsa2048.key", "--cert", "good.pem", "--at", AT)
        for output in ("rsa2048.key", "./good.pem"):
            result = sipl("sign", *words, "-o", output, "stage3.bin")
            assert result.code == 2
            assert "it would be overwritten, and is needed" in result.err
        assert "overwritten" in sipl("sign", *words, "--force", "rsa2048.key").err
        assert load_private_key("rsa2048.key")

    def test_a_folder_that_nothing_can_be_made_in(self, sipl, folder, monkeypatch):
        real = os.open

        def refuse(name, flags, *more, **how):
            if flags & os.O_CREAT:
                raise PermissionError(13, "Permission denied")
            return real(name, flags, *more, **how)

        monkeypatch.setattr(os, "open", refuse)
        before = (folder / "stage3.bin").read_bytes()
        result = sipl("sign", *WITH, "stage3.bin")
        assert (result.code, "cannot be written" in result.err) == (2, True)
        assert (folder / "stage3.bin").read_bytes() == before


class TestPassphrase:
    @pytest.fixture(autouse=True)
    def _encrypted(self, folder):
        (folder / "key.pem").write_bytes(signing.key_pem(load_private_key(KEY), b"open sesame"))

    WORDS = ("sign", "--key", "key.pem", "--cert", CERT, "--at", AT, "stage3.bin")

    def test_by_a_file(self, sipl, folder):
        (folder / "secret").write_text("open sesame\n")
        assert sipl(*self.WORDS, "--passphrase-file", "secret").code == 0
        assert (folder / "stage3.bin").read_bytes() == wrap(PAYLOAD, signer().sign(PAYLOAD))

    def test_by_the_environment(self, sipl, monkeypatch):
        monkeypatch.setenv("SIPL_PASSPHRASE", "open sesame")
        assert sipl(*self.WORDS).code == 0
        monkeypatch.setenv("SIPL_PASSPHRASE", "")
        assert "the passphrase is empty" in sipl(*self.WORDS).err

    def test_wrong(self, sipl, monkeypatch, folder):
        monkeypatch.setenv("SIPL_PASSPHRASE", "open barley")
        result = sipl(*self.WORDS)
        assert result.code == 2
        assert result.err.startswith("sipl: key.pem: it cannot be read")
        assert "barley" not in result.err
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD

    def test_by_a_person(self, terminal):
        with terminal(*self.WORDS) as screen:
            screen.wait_for("the passphrase of key.pem: ")
            screen.type("open sesame\n")
            result = screen.finish()
        assert result.code == 0
        assert "sesame" not in result.out

    def test_nobody_is_asked_for_a_key_without(self, sipl_process, folder):
        result = sipl_process("sign", *WITH, "stage3.bin", cwd=folder, start_new_session=True)
        assert result.code == 0

    def test_nobody_to_ask(self, sipl_process, folder):
        result = sipl_process(*self.WORDS, cwd=folder, start_new_session=True)
        assert result.code == 2
        assert "the passphrase of key.pem is needed, and there is no terminal to ask at" in result.err


class TestTwoSteps:
    def test_with_openssl(self, sipl, folder, need_tool):
        result = sipl("sign", "--prepare", "stage3.bin", "-o", "request")
        assert (result.code, result.lines) == (0, ["request: payload of stage3.bin, 512 bytes to be signed"])
        openssl = need_tool("openssl", "openssl")
        subprocess.run([openssl, "dgst", "-sha256", "-sign", KEY, "-out", "signature", "request"], check=True)
        result = sipl("sign", "--attach", "signature", "--cert", CERT, "--at", AT, "stage3.bin")
        assert result.code == 0
        assert (folder / "stage3.bin").read_bytes() == wrap(PAYLOAD, signer().sign(PAYLOAD))

    def test_digest(self, sipl, folder):
        result = sipl("sign", "--prepare", "--form", "digest", "--digest", "sha384", "-o", "request", "stage3.bin")
        assert result.lines == ["request: sha384 digest of stage3.bin, 48 bytes to be signed"]
        assert (folder / "request").stat().st_size == 48

    def test_a_signature_of_something_else(self, sipl, folder):
        (folder / "signature").write_bytes(signer().sign(KERNEL))
        result = sipl("sign", "--attach", "signature", "--cert", CERT, "--at", AT, "stage3.bin")
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("sipl: signature: the signature would not verify")
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD

    def test_refused(self, sipl, folder):
        (folder / "bad").write_bytes(bytes(512))
        assert sipl("sign", "--prepare", "bad", "-o", "request").code == 1
        assert not (folder / "request").exists()
        assert sipl("sign", "--prepare", "--force", "bad", "-o", "request").code == 0

    @pytest.mark.parametrize(
        ("words", "why"),
        [
            (("--prepare", "stage3.bin"), "the file to write is not named"),
            (("--prepare", "stage3.bin", "-o", "stage3.bin"), "it would be overwritten, and is needed"),
            (("--prepare", "stage3.bin", "vmlinuz", "-o", "r"), "2 files cannot become one"),
            (("--prepare", "stage3.bin", "--form", "x", "-o", "r"), "--form: nothing is written as x"),
            (
                ("--prepare", "--attach", "s", "stage3.bin", "-o", "r"),
                "--attach: it does not go together with --prepare",
            ),
            (("--prepare", "--key", "k", "stage3.bin", "-o", "r"), "--key: it does not go together with --prepare"),
            (("--prepare", "--output-dir", ".", "stage3.bin"), "--output-dir: it does not go together with --prepare"),
            (("--attach", "s", "stage3.bin"), "the certificate is not named"),
            (("--attach", "s", "--cert", CERT, "--key", KEY, "stage3.bin"), "--key: it does not go together with"),
            (("--attach", "s", "--cert", CERT, "stage3.bin", "vmlinuz"), "a signature belongs to one file"),
            (("--attach", "missing", "--cert", CERT, "--at", AT, "stage3.bin"), "missing: cannot be read"),
        ],
    )
    def test_wrong_usage(self, sipl, folder, words, why):
        result = sipl("sign", *words)
        assert (result.code, result.out) == (2, "")
        assert why in result.err
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD


@pytest.fixture(scope="module")
def token(tmp_path_factory, need_tool):
    pytest.importorskip("pkcs11", reason="python-pkcs11 is not installed (pip install '.[pkcs11]')")
    keys = {name: (DATA / f"{name}.key").read_bytes() for name in ("rsa2048", "p521")}
    before = os.environ.get("SOFTHSM2_CONF")
    made = token_lab.make_token(tmp_path_factory.mktemp("token"), need_tool, keys)
    os.environ.pop("SOFTHSM2_CONF")
    if before is not None:
        os.environ["SOFTHSM2_CONF"] = before
    return made


class TestToken:
    @pytest.fixture
    def with_token(self, sipl_process, token, folder):
        def call(label, cert, *words, pin="481516"):
            (folder / "pin").write_text(pin)
            uri = token.uri(f"object={label}") + f"&pin-source=file:{folder / 'pin'}"
            return sipl_process(
                "sign", "--key", uri, "--cert", cert, "--at", AT, *words,
                cwd=folder, env={"SOFTHSM2_CONF": token.configuration},
            )  # fmt: skip

        return call

    def test_rsa(self, with_token, folder):
        result = with_token("rsa2048", CERT, "stage3.bin", "vmlinuz")
        assert (result.code, result.err, len(result.lines)) == (0, "", 2)
        assert (folder / "stage3.bin").read_bytes() == wrap(PAYLOAD, signer().sign(PAYLOAD))

    def test_elliptic_curve(self, with_token, folder, sipl):
        assert with_token("p521", EC_CERT, "--digest", "sha512", "stage3.bin").code == 0
        assert sipl("show-signature", "--boot-certs", EC_CERT, "--at", AT, "stage3.bin").code == 0

    def test_the_pin_by_the_environment(self, sipl_process, token, folder):
        environment = {"SOFTHSM2_CONF": token.configuration, "SIPL_PASSPHRASE": "481516"}
        words = ("--key", token.uri("object=p521"), "--cert", EC_CERT, "--at", AT, "stage3.bin")
        assert sipl_process("sign", *words, cwd=folder, env=environment).code == 0

    def test_refusals(self, with_token, folder):
        other = signing.self_signed(signing.generate_key("p521"), "other", 0, 1 << 32)
        (folder / "other.pem").write_bytes(other)
        result = with_token("p521", "other.pem", "stage3.bin")
        assert (result.code, "it is not the key of the certificate CN=other" in result.err) == (1, True)
        assert with_token("rsa2048", EC_CERT, "stage3.bin").code == 1
        result = with_token("p521", EC_CERT, "stage3.bin", pin="0000")
        assert (result.code, "the token does not let us in: PinIncorrect" in result.err) == (2, True)
        assert with_token("nobody", EC_CERT, "stage3.bin").code == 2
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD


class TestStrip:
    def test_lines(self, sipl, folder):
        sipl("sign", *WITH, "stage3.bin")
        result = sipl("strip", "stage3.bin", "vmlinuz")
        assert (result.code, result.err) == (0, "")
        assert result.lines == ["stage3.bin: 1 old signature removed, 512 bytes", "vmlinuz: not signed, 1536 bytes"]
        assert (folder / "stage3.bin").read_bytes() == PAYLOAD

    def test_to_another_file(self, sipl, folder):
        (folder / "signed").write_bytes(wrap(wrap(PAYLOAD, b"1"), b"2"))
        assert sipl("strip", "-o", "plain", "signed").lines == ["plain: 2 old signatures removed, 512 bytes"]
        assert (folder / "plain").read_bytes() == PAYLOAD

    def test_damaged(self, sipl, folder):
        (folder / "bad").write_bytes(wrap(b"", b"", bytes(12)))
        result = sipl("strip", "bad", "stage3.bin")
        assert (result.code, len(result.lines)) == (1, 1)
        assert result.err.startswith("sipl: bad: its appended signature is of type 0")

    def test_wrong_usage(self, sipl):
        assert sipl("strip").code == 2
        assert sipl("strip", "missing").code == 2


def test_the_certificates_of_the_lab_belong_to_its_keys():
    signing.check_key(load_private_key(KEY), certificate())
