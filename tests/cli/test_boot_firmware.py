"""`sipl boot --firmware`: what is refused, what is said, and whose end the exit code is."""

from __future__ import annotations

import console_guests
import elf_lab
import pytest
from guest_asm import DONE, Asm

SAYS = b"firmware\r\n"


@pytest.fixture
def firmware(tmp_path):
    """Makes a firmware that writes a line and stops at an address; gives its path."""

    def make(end: int = DONE):
        path = tmp_path / "fw.img"
        path.write_bytes(elf_lab.firmware(bytes(console_guests.write(Asm(elf_lab.CODE), SAYS).end(end).code)))
        return path

    return make


@pytest.fixture
def with_unicorn():
    pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")


@pytest.mark.usefixtures("with_unicorn")
class TestRuns:
    def test_there_is_no_verdict_but_an_end(self, sipl, demo, firmware):
        result = sipl("boot", "--firmware", firmware(), demo.disk)
        assert (result.code, result.lines) == (0, ["firmware"])
        said = result.err.splitlines()
        assert said[0] == f"{demo.disk}: undecided in normal mode: firmware-decides"
        assert said[-1].startswith("sipl: the guest says that it is done (disabled wait, ")

    @pytest.mark.parametrize(
        ("end", "words", "code"),
        [
            (0x123456, (), 1),
            (DONE, ("--until", "login:"), 1),
            (DONE, ("--until", "firm"), 0),
            (0x123456, ("--until", "firm"), 0),
        ],
    )
    def test_exit_code_is_that_of_the_run(self, sipl, demo, firmware, end, words, code):
        assert sipl("boot", "--firmware", firmware(end), *words, demo.disk).code == code

    def test_json(self, sipl, demo, firmware):
        result = sipl("boot", "--json", "--firmware", firmware(), demo.disk)
        (report,) = result.json
        assert (report["outcome"], report["reason"], report["would_boot"]) == ("undecided", "firmware-decides", None)

    def test_trusted_it_is_said_that_nothing_is_vouched_for(self, sipl, demo, firmware):
        result = sipl("boot", *demo.secure, "--firmware", firmware(), "--trust-firmware", demo.disk)
        assert (result.code, result.lines) == (0, ["firmware"])
        said = result.err.splitlines()
        assert said[0] == f"{demo.disk}: undecided in secure mode: firmware-decides"
        assert said[1].startswith("  warning: firmware-decides: ")
        assert said[1].endswith("this firmware decides what boots: sipl vouches for nothing")


@pytest.mark.usefixtures("with_unicorn")
class TestRefused:
    def test_where_something_is_to_be_verified(self, sipl, demo, firmware):
        for words in (demo.secure, demo.secure[2:]):
            result = sipl("boot", *words, "--firmware", firmware(), demo.disk)
            assert (result.code, result.out) == (1, "")
            assert result.err.splitlines()[0].endswith(": firmware-not-trusted")

    def test_a_file_that_is_none(self, sipl, demo, bad):
        result = sipl("boot", "--firmware", bad, demo.disk)
        assert (result.code, result.out) == (2, "")
        assert "no ELF file" in result.err


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--trust-firmware",), "there is no firmware to trust"),
        (("--engine", "none", "--firmware", "fw.img"), "there is no guest that runs"),
    ],
)
def test_what_makes_no_sense(sipl, demo, words, why):
    result = sipl("boot", *words, demo.disk)
    assert (result.code, result.out) == (2, "")
    assert why in result.err
