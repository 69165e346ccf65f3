"""Signing files in place and elsewhere: idempotent, as sign-file does it, and nothing that would not verify."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from signing_lab import CERT, DATA, KERNEL, KEY, NOW, PAYLOAD, certificate, left_behind, signature_of, signer, wrap

import sipl
from sipl.author import sclab
from sipl.author.signed_file import FileSigned, sign_file, strip_file
from sipl.author.signer import load_certificate, open_signer
from sipl.crypto.verify import SignatureCheck
from sipl.disk.open import open_image
from sipl.errors import FileError, SigningRefused
from sipl.layout.sclab import SclabFlags


@pytest.fixture(scope="module")
def rsa():
    return signer()


@pytest.fixture(scope="module")
def ec():
    return signer("p521", "p521")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "stage3.bin"
    path.write_bytes(PAYLOAD)
    return path


def refused(kind, match, do, *, can_be_forced=False):
    with pytest.raises(SigningRefused, match=match) as caught:
        do()
    assert (caught.value.kind, caught.value.can_be_forced) == (kind, can_be_forced)


class TestSign:
    def test_in_place(self, file, rsa):
        done = sign_file(str(file), rsa)
        data = file.read_bytes()
        assert data == wrap(PAYLOAD, rsa.sign(PAYLOAD))
        assert done == FileSigned(str(file), len(PAYLOAD), signature_of(data), 0, True, ())
        assert left_behind(file.parent) == {"stage3.bin"}

    def test_to_another_file(self, file, rsa, tmp_path):
        (tmp_path / "out").mkdir()
        done = sign_file(str(file), rsa, output=str(tmp_path / "out" / "signed"))
        assert file.read_bytes() == PAYLOAD
        assert (tmp_path / "out" / "signed").read_bytes() == wrap(PAYLOAD, done.signature)

    def test_twice_is_once(self, file, rsa, ec):
        for who in (rsa, ec):
            first = sign_file(str(file), who)
            content, when = file.read_bytes(), file.stat().st_mtime_ns
            again = sign_file(str(file), who)
            assert (file.read_bytes(), file.stat().st_mtime_ns) == (content, when)
            assert again == first._replace(removed=0, changed=False)

    def test_by_somebody_else_replaces_the_signature(self, file, rsa, ec):
        sign_file(str(file), rsa)
        done = sign_file(str(file), ec)
        assert done.removed == 1
        assert file.read_bytes() == wrap(PAYLOAD, done.signature)
        SignatureCheck(PAYLOAD, done.signature).verify(certificate("p521"), NOW)

    def test_another_digest_replaces_the_signature(self, file, rsa):
        sign_file(str(file), rsa)
        done = sign_file(str(file), signer(digest="sha512"))
        assert (done.changed, done.removed) == (True, 1)

    def test_all_layers_are_taken_off(self, file, rsa, ec):
        """Signing on top of a signature is the commonest mistake with sign-file."""
        data = PAYLOAD
        for who in (rsa, ec, rsa):
            data = wrap(data, who.sign(data))
        file.write_bytes(data)
        done = sign_file(str(file), rsa)
        assert done.removed == 3
        assert file.read_bytes() == wrap(PAYLOAD, rsa.sign(PAYLOAD))

    def test_a_signature_over_another_file_is_replaced(self, file, rsa):
        file.write_bytes(wrap(PAYLOAD, rsa.sign(KERNEL)))
        assert sign_file(str(file), rsa).changed
        assert file.read_bytes() == wrap(PAYLOAD, rsa.sign(PAYLOAD))

    def test_a_symbolic_link_stays_one(self, file, rsa, tmp_path):
        (tmp_path / "link").symlink_to("stage3.bin")
        sign_file(str(tmp_path / "link"), rsa)
        assert (tmp_path / "link").is_symlink()
        assert file.read_bytes() == wrap(PAYLOAD, rsa.sign(PAYLOAD))

    def test_mode_is_kept(self, file, rsa):
        os.chmod(file, 0o751)
        sign_file(str(file), rsa)
        assert file.stat().st_mode & 0o7777 == 0o751

    def test_weak_is_said(self, file):
        done = sign_file(str(file), signer("rsa1024", "rsa1024"))
        assert done.notes == ("weak-signature: the key is RSA-1024, shorter than 2048 bits",)


class TestStrip:
    @pytest.mark.parametrize("layers", [0, 1, 3])
    def test_all_layers(self, file, rsa, layers):
        data = PAYLOAD
        for _ in range(layers):
            data = wrap(data, rsa.sign(data))
        file.write_bytes(data)
        when = file.stat().st_mtime_ns
        assert strip_file(str(file)) == FileSigned(str(file), len(PAYLOAD), None, layers, layers > 0, ())
        assert file.read_bytes() == PAYLOAD
        assert layers or file.stat().st_mtime_ns == when

    def test_to_another_file(self, file, rsa, tmp_path):
        sign_file(str(file), rsa)
        strip_file(str(file), output=str(tmp_path / "plain"))
        assert (tmp_path / "plain").read_bytes() == PAYLOAD
        assert file.read_bytes() != PAYLOAD

    def test_anything_can_be_stripped(self, file, rsa):
        """Also what sipl would not sign."""
        for payload in (b"", b"x", bytes(513)):
            file.write_bytes(wrap(payload, b"no signature at all"))
            strip_file(str(file))
            assert file.read_bytes() == payload


class TestRefusals:
    def test_no_whole_blocks(self, file, rsa):
        payload = sclab.overwrite(bytes(1000), sclab.build(SclabFlags.OPSW | SclabFlags.OLA, 0xA000, 0xA000))
        file.write_bytes(payload)
        refused(
            "not-whole-blocks",
            "its 1000 bytes are no multiple of 512",
            lambda: sign_file(str(file), rsa),
            can_be_forced=True,
        )
        assert file.read_bytes() == payload
        done = sign_file(str(file), rsa, force=True)
        assert file.read_bytes() == wrap(payload, done.signature)
        assert "multiple of 512" in done.notes[0]

    @pytest.mark.parametrize(
        ("payload", "kind"),
        [
            (bytes(512), "sclab-missing"),
            (PAYLOAD + bytes(512), "sclab-missing"),
            (PAYLOAD + PAYLOAD[:-1] + b"x", "sclab-missing"),
            (sclab.overwrite(PAYLOAD, sclab.build(stated_length=31)), "sclab-length"),
            (sclab.overwrite(PAYLOAD, sclab.build(stated_length=513)), "sclab-length"),
            (sclab.overwrite(PAYLOAD, sclab.build(sclab_format=1)), "sclab-format"),
            (sclab.overwrite(PAYLOAD, sclab.build(psw=1)), "sclab-psw-not-zero"),
            (sclab.overwrite(PAYLOAD, sclab.build(SclabFlags.OPSW, 0xA000)), "sclab-ola-not-one"),
            (sclab.overwrite(PAYLOAD, sclab.build(address=1)), "sclab-address-not-zero"),
            (sclab.overwrite(PAYLOAD, sclab.build(SclabFlags.NUC)), "sclab-nuc-not-global"),
            (sclab.overwrite(PAYLOAD, sclab.build(SclabFlags.SC)), "sclab-sc-not-global"),
        ],
    )
    def test_attributes(self, file, rsa, payload, kind):
        """The rules of the boot side, by the same names."""
        file.write_bytes(payload)
        refused(kind, "SCLAB", lambda: sign_file(str(file), rsa), can_be_forced=True)
        assert file.read_bytes() == payload
        assert sign_file(str(file), rsa, force=True).notes
        assert file.read_bytes() == wrap(payload, rsa.sign(payload))

    def test_a_load_address_is_nobodys_business_yet(self, file, rsa):
        file.write_bytes(sclab.overwrite(bytes(512), sclab.build(SclabFlags.OLA, 0, 0x123000)))
        assert sign_file(str(file), rsa).changed

    @pytest.mark.parametrize("do", ["sign", "strip"])
    def test_damage(self, file, rsa, do):
        data = wrap(PAYLOAD, b"0123", record=bytes.fromhex("0000020000000000") + b"\xff" * 4)
        file.write_bytes(data)
        call = strip_file if do == "strip" else lambda path: sign_file(path, rsa, force=True)
        refused("damaged", "4294967295 bytes", lambda: call(str(file)))
        assert file.read_bytes() == data

    def test_an_empty_file(self, file, rsa):
        for data in (b"", wrap(b"", b"x")):
            file.write_bytes(data)
            refused("empty", "stage3.bin: there is nothing to sign", lambda: sign_file(str(file), rsa, force=True))

    def test_other_names(self, file, rsa, tmp_path):
        os.link(file, tmp_path / "other")
        refused("hard-links", "2 names", lambda: sign_file(str(file), rsa), can_be_forced=True)
        sign_file(str(file), rsa, force=True)
        assert (tmp_path / "other").read_bytes() == PAYLOAD
        os.link(file, tmp_path / "third")
        refused("hard-links", "2 names", lambda: strip_file(str(file)), can_be_forced=True)
        assert sign_file(str(file), rsa, output=str(tmp_path / "signed")).signature

    def test_a_file_that_cannot_be_read(self, tmp_path, rsa):
        for path in (tmp_path, tmp_path / "missing"):
            with pytest.raises(FileError):
                sign_file(str(path), rsa)
            with pytest.raises(FileError):
                strip_file(str(path))

    @pytest.mark.parametrize("call", ["write", "fsync", "replace"])
    def test_a_full_disk_leaves_the_file_as_it_is(self, file, rsa, monkeypatch, call):
        def full(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, call, full)
        with pytest.raises(FileError, match="No space left"):
            sign_file(str(file), rsa)
        monkeypatch.undo()
        assert file.read_bytes() == PAYLOAD
        assert left_behind(file.parent) == {"stage3.bin"}


@given(
    blocks=st.integers(0, 3),
    fill=st.binary(min_size=1, max_size=40),
    layers=st.lists(st.binary(min_size=1, max_size=90), max_size=4),
    by=st.sampled_from(["rsa", "ec"]),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_round_trips(tmp_path, rsa, ec, blocks, fill, layers, by):
    """Whatever lies around a payload: signing leaves one signature over it, stripping the payload alone."""
    path = tmp_path / "file"
    payload = (fill * 512)[: 512 * blocks] + PAYLOAD
    data = payload
    for layer in layers:
        data = wrap(data, layer)
    path.write_bytes(data)
    who = {"rsa": rsa, "ec": ec}[by]
    done = sign_file(str(path), who)
    signed = path.read_bytes()
    assert signed == wrap(payload, done.signature)
    SignatureCheck(payload, done.signature).verify(who.certificate, NOW)
    assert sign_file(str(path), who).changed is False
    assert path.read_bytes() == signed
    assert strip_file(str(path)).removed == 1
    assert path.read_bytes() == payload


@given(st.binary(max_size=700), st.booleans())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_file(tmp_path, rsa, data, force):
    path = tmp_path / "any"
    path.write_bytes(data)
    for do in (lambda: strip_file(str(path)), lambda: sign_file(str(path), rsa, force=force)):
        try:
            do()
        except SigningRefused as error:
            assert str(error).isprintable()


class TestOthersAgree:
    """sign-file, zipl's reader and OpenSSL are other programs; the bytes are the same."""

    @pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
    def test_openssl_makes_the_same_bytes(self, file, digest, need_tool, tmp_path):
        done = sign_file(str(file), signer(digest=digest))
        plain, made = tmp_path / "plain", tmp_path / "made"
        plain.write_bytes(PAYLOAD)
        command = [need_tool("openssl", "openssl"), "cms", "-sign", "-binary", "-noattr", "-nocerts", "-md", digest]
        subprocess.run(
            [*command, "-outform", "DER", "-signer", CERT, "-inkey", KEY, "-in", plain, "-out", made], check=True
        )
        assert made.read_bytes() == done.signature

    @pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
    @pytest.mark.parametrize(("key", "cert"), [("rsa2048", "usage-signature"), ("p521", "p521")])
    def test_openssl_verifies(self, file, key, cert, digest, need_tool, tmp_path):
        done = sign_file(str(file), signer(key, cert, digest))
        plain, made = tmp_path / "plain", tmp_path / "made"
        plain.write_bytes(PAYLOAD)
        made.write_bytes(done.signature)
        pem = DATA / f"{cert}.pem"
        verify = [need_tool("openssl", "openssl"), "cms", "-verify", "-binary", "-inform", "DER", "-in", made]
        verify += ["-content", plain, "-certfile", pem, "-out", os.devnull]
        when = ["-CAfile", pem, "-purpose", "any", "-attime", str(NOW)]
        for trust in (["-noverify"], when):
            done = subprocess.run([*verify, *trust], check=False, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        plain.write_bytes(PAYLOAD[:-1] + b"x")
        assert subprocess.run([*verify, "-noverify"], check=False, capture_output=True).returncode

    @pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
    def test_sign_file_makes_the_same_bytes(self, file, digest, tmp_path):
        """The whole file, for RSA; and sipl takes off what sign-file appended, for every key."""
        program = sign_file_program()
        theirs = tmp_path / "theirs"
        subprocess.run([program, digest, KEY, CERT, file, theirs], check=True)
        sign_file(str(file), signer(digest=digest))
        assert file.read_bytes() == theirs.read_bytes()
        subprocess.run([program, digest, DATA / "p521.key", DATA / "p521.pem", theirs], check=True)
        assert strip_file(str(theirs)).removed == 2
        assert theirs.read_bytes() == PAYLOAD

    def test_the_machine_agrees(self, file, rsa, ec, tmp_path):
        """GnuTLS is what verifies in QEMU."""
        tool = shutil.which("certtool")
        if tool is None:
            pytest.skip("certtool is not installed (apt-get install gnutls-bin)")
        made = tmp_path / "made"
        for who, name in ((rsa, "good"), (ec, "p521")):
            made.write_bytes(sign_file(str(file), who).signature)
            (tmp_path / "plain").write_bytes(PAYLOAD)
            command = [tool, "--p7-verify", "--inder", "--infile", made, "--load-data", tmp_path / "plain"]
            done = subprocess.run(
                [*command, "--load-certificate", DATA / f"{name}.pem"], capture_output=True, text=True, check=False
            )
            assert "Signature status: ok" in done.stdout + done.stderr, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("disk", "key", "cert", "same"),
    [
        ("good.qcow2", "keyA", "certA", True),
        ("good4k.qcow2", "keyA", "certA", True),
        ("ec.qcow2", "keyEC", "certEC", False),  # ECDSA is never the same twice
    ],
)
def test_real_files(shared, tmp_path, disk, key, cert, same):
    """Stage3 and kernel of a disk that sign-file and zipl made in a guest: the same signatures come from here."""
    keys = shared / "keys"
    found = load_certificate(str(keys / f"{cert}.pem"))
    now = found.not_before + 1
    image = open_image(str(shared / "disks" / disk))
    view = sipl.inspect(sipl.Disk(str(shared / "disks" / disk)))
    signed = [component for component in view.programs[0].components if component.signature]
    assert [component.address for component in signed] == [0xA000, 0x10000]
    with open_signer(str(keys / f"{key}.pem"), str(keys / f"{cert}.pem"), now=now) as who:
        for component in signed:
            payload = content(image, component.runs, view.block_size)
            theirs = content(image, component.signature.runs, view.block_size)[: component.signature.length]
            assert who.has_signed(payload, theirs)
            path = tmp_path / "file"
            path.write_bytes(payload)
            done = sign_file(str(path), who)
            assert (done.signature == theirs) is same
            path.write_bytes(wrap(payload, theirs))
            assert not sign_file(str(path), who).changed
            assert strip_file(str(path)).payload_length == component.length


def content(image, runs, block_size):
    return b"".join(bytes(image.read(run.block * block_size, run.blocks * block_size)) for run in runs)


def sign_file_program() -> str:
    """Linux's own sign-file: $SIGN_FILE, or that of a Debian package linux-kbuild."""
    places = sorted(glob.glob("/usr/lib/linux-kbuild-*/scripts/sign-file"))
    program = os.environ.get("SIGN_FILE") or (places[-1] if places else None)
    if program is None or not Path(program).is_file():
        pytest.skip("Linux's sign-file is not installed (apt-get install linux-kbuild-6.1, or name it in $SIGN_FILE)")
    return program
