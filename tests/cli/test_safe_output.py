"""Text from disks, certificates and file names cannot drive the terminal, whatever the command and the form."""

from __future__ import annotations

import json
import os
import re
import shutil
import unicodedata

import pytest
from ipl_lab import AT, YEAR, Signer
from qcow2_lab import PIECES, qcow2

from sipl.crypto import signing
from sipl.crypto.certificate import Certificate

# What a name would do if it came through: colour, title, clear; cursor; C1; bidi; invisible; line ends.
NASTY = "a\x1b[31mRED\x1b]0;title\x07\r\x08\x9b2J\u202eevil\u2066\u200b\ufeff\u2028\x7f"
NASTY_FILE = NASTY + "\nb"
# What may reach a terminal: SGR sequences of sipl's own.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
# The guest on these disks is none.
BOOT = ("boot", "--engine", "none")
NEVER = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}


def check_safe(text: str, *, coloured: bool = False) -> None:
    if coloured:
        # Colours of sipl's own: never the one that the names ask for, which is red and nothing else.
        text = COLOUR.sub("", text)
    acting = {c for c in text if unicodedata.category(c) in NEVER} - {"\n"}
    assert acting == set()
    assert "RED" not in text or "\\x1b[31mRED" in text


def check_json(text: str) -> None:
    check_safe(text)
    assert text.isascii()

    def check(value):
        if isinstance(value, dict):
            for member in value.values():
                check(member)
        elif isinstance(value, list):
            for member in value:
                check(member)
        elif isinstance(value, str):
            check_safe(value)
            assert "\n" not in value

    for line in text.splitlines():
        check(json.loads(line))


@pytest.fixture(scope="module")
def nasty(tmp_path_factory):
    """A signer whose subject, and the name of whose file, are nasty."""
    folder = tmp_path_factory.mktemp("nasty")
    key = signing.generate_key("p256")
    # The author's own maker of certificates escapes nothing.
    pem = signing.self_signed(key, NASTY, AT - YEAR, AT + YEAR)
    signer = Signer.__new__(Signer)
    signer.key = key
    signer.certificate = Certificate.from_pem(pem)
    signer.path = os.path.join(folder, f"{NASTY_FILE}.pem")
    with open(signer.path, "wb") as file:
        file.write(pem)
    return signer


@pytest.fixture
def disk(lab, nasty, tmp_path):
    """A disk that the nasty signer signed, and whose file has a nasty name."""
    lab.signers._made["nasty"] = nasty
    program = lab.program(loader=lab.loader(by="nasty"), kernel=lab.kernel(by="nasty"))
    path = os.path.join(tmp_path, f"{NASTY_FILE}.raw")
    shutil.move(lab.disk(program).path, path)
    return path


@pytest.fixture
def lines(disk, nasty, tmp_path):
    """Command lines with something nasty in each."""
    trusted = ("--boot-certs", nasty.path, "--at", f"@{AT}")
    missing = os.path.join(tmp_path, f"missing{NASTY_FILE}")
    empty = os.path.join(tmp_path, f"empty{NASTY_FILE}")
    with open(empty, "wb"):
        pass
    backed = os.path.join(tmp_path, "backed.qcow2")
    with open(backed, "wb") as file:
        file.write(qcow2(b"", l2=[0] * PIECES, backing=NASTY_FILE.encode()))
    folder = os.path.join(tmp_path, f"folder{NASTY_FILE}")
    os.mkdir(folder)
    with open(os.path.join(folder, f"skipped{NASTY_FILE}"), "w", encoding="ascii"):
        pass
    return {
        "boot": (*BOOT, "-v", "--secure-boot", "on", *trusted, disk),
        "verify": ("verify", "-v", *trusted, disk),
        "verify without": ("verify", disk),
        "expired": ("verify", "--boot-certs", nasty.path, "--at", "2040-01-01T00:00:00Z", disk),
        "inspect": ("inspect", "-v", disk),
        "certs": ("certs", "-v", "--at", f"@{AT}", nasty.path),
        "certs expired": ("certs", "-v", "--at", "2040-01-01T00:00:00Z", nasty.path),
        "certs folder": ("certs", folder),
        "certs missing": ("certs", f"{missing}.pem"),
        "boot with skipped": (*BOOT, "--boot-certs", folder, disk),
        "missing": ("boot", missing),
        "inspect missing": ("inspect", missing),
        "empty": ("verify", empty),
        "backing": ("verify", "--allow-backing", backed),
        "inspect backing": ("inspect", "--allow-backing", backed),
        "kernel": ("boot", "--kernel", missing),
        "kernel in audit mode": (*BOOT, "--kernel", disk, *trusted),
        "device": (*BOOT, "--device", "virtio-net", disk, NASTY_FILE),
        "refused device": ("boot", *trusted, "--device", "virtio-net", NASTY_FILE),
    }


NAMES = (
    "boot",
    "verify",
    "verify without",
    "expired",
    "inspect",
    "certs",
    "certs expired",
    "certs folder",
    "certs missing",
    "boot with skipped",
    "missing",
    "inspect missing",
    "empty",
    "backing",
    "inspect backing",
    "kernel",
    "kernel in audit mode",
    "device",
    "refused device",
)


def test_every_line_has_its_name(lines):
    assert tuple(lines) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_plain(sipl, lines, name):
    result = sipl(*lines[name])
    check_safe(result.out)
    check_safe(result.err)
    # The name is there all the same, as escapes.
    assert "\\x1b" in result.out + result.err
    assert "internal error" not in result.err


@pytest.mark.parametrize("name", NAMES)
def test_json(sipl, lines, name):
    result = sipl(*lines[name], "--json")
    check_json(result.out)
    check_safe(result.err)
    assert "\\x1b" in result.out + result.err


@pytest.mark.parametrize(
    "name", ["verify", "expired", "inspect", "certs", "certs folder", "missing", "inspect missing"]
)
def test_terminal(terminal, lines, name):
    with terminal(*lines[name]) as screen:
        result = screen.finish()
    check_safe(result.out, coloured=True)
    assert "x1b" in COLOUR.sub("", result.out)


USAGE = {
    "command": (NASTY_FILE,),
    "option": ("boot", f"--{NASTY_FILE}"),
    "device": ("boot", "--device", NASTY_FILE),
    "block size": ("boot", "--block-size", NASTY_FILE),
    "choice": ("boot", "--engine", NASTY_FILE),
    "choose": ("boot", "--choose", NASTY_FILE),
    "secure-boot": ("boot", "--secure-boot", NASTY_FILE),
    "loadparm": ("boot", "--loadparm", NASTY_FILE),
    "memory": ("boot", "--memory", NASTY_FILE),
    "cpu": ("boot", "--cpu", NASTY_FILE),
    "cpu feature": ("boot", "--cpu", f"z16,{NASTY_FILE}=on"),
    "cpu switch": ("boot", "--cpu", f"z16,{NASTY_FILE}"),
    "cpu value": ("boot", "--cpu", f"z16,sipl={NASTY_FILE}"),
    "at": ("boot", "--at", NASTY_FILE),
    "machine": ("boot", "-M", NASTY_FILE),
    "machine parameter": ("boot", "-M", f"s390-ccw-virtio,{NASTY_FILE}=on"),
    "machine value": ("boot", "-M", f"secure-boot={NASTY_FILE}"),
    "machine member": ("boot", "-M", f"boot-certs.0.{NASTY_FILE}=x"),
    "backing folder": ("boot", "--backing-folder", NASTY_FILE, __file__),
    "keep": ("demo", "--keep", f"/dev/null/{NASTY_FILE}"),
}


@pytest.mark.parametrize("words", USAGE.values(), ids=USAGE)
def test_usage_errors(sipl, words):
    result = sipl(*words)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    check_safe(result.err)
    assert "internal error" not in result.err


def test_file_names_that_are_no_text(sipl, demo, tmp_path):
    name = os.fsencode(tmp_path) + b"/\xff\xfe\x1b[31m.raw"
    shutil.copy(demo.disk, name)
    result = sipl("inspect", os.fsdecode(name))
    assert result.code == 0
    check_safe(result.out)
    assert "\\udcff\\udcfe\\x1b[31m.raw" in result.lines[0]
    check_json(sipl("verify", "--json", os.fsdecode(name)).out)


def test_markup_of_the_terminal_library_is_text(terminal, demo, tmp_path):
    path = os.path.join(tmp_path, "[bold red]x[dim] :warning:.raw")
    shutil.copy(demo.disk, path)
    for words in (("verify", *demo.trusted), ("inspect",)):
        with terminal(*words, path) as screen:
            result = screen.finish()
        assert "[bold red]x[dim] :warning:.raw" in COLOUR.sub("", result.out).replace("\n", "")
