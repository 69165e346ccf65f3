"""`sipl boot` over the reboots of a guest in secure mode, and over what it writes to its own disk."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import console_guests
import pytest
from cli_lab import AT, PATIENCE, command, environment
from ipl_lab import KERNEL, kernel_bytes

SECTOR = 512


@pytest.fixture
def signed(tmp_path, signers):
    """Makes a disk with a signed guest and a signed kernel beside it; gives its path and the words for a secure IPL."""
    pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")
    from guest_lab import GuestLab

    lab = GuestLab(tmp_path, signers)

    def make(asm):
        kernel = lab.signed(KERNEL, kernel_bytes())
        path = lab.disk(lab.components(bytes(asm.code), extra=[kernel]), size=1 << 20).path
        return path, ("--secure-boot", "on", "--boot-certs", signers["A"].path, "--at", AT, "--timeout", "30", path)

    return make


def writes(sector: int):
    """Says so, writes zeros to a sector of its disk, and asks for an IPL."""
    from guest_ring import NEXT, WRITE, Ring

    ring = Ring()
    console_guests.write(ring.asm, b"I write\r\n")
    ring.request(kind=1, sector=sector)
    ring.descriptors((Ring.HEADER, 16, NEXT, 1), (Ring.BUFFER, SECTOR, NEXT, 2), (Ring.STATUS, 1, WRITE, 0))
    ring.available(1, 0)
    return ring.notify().load(2, 0).load(6, console_guests.LOAD_CLEAR).diag(2, 6, 0x308)


@pytest.fixture
def vandal(signed):
    """A guest that writes over the first block of its kernel; the place is known once the disk is made."""
    first, _ = signed(writes(0))
    sector, within = divmod(Path(first).read_bytes().index(kernel_bytes()[:SECTOR]), SECTOR)
    assert within == 0
    path, words = signed(writes(sector))
    image = Path(path).read_bytes()
    assert image[sector * SECTOR :].startswith(kernel_bytes()[:SECTOR])
    return path, words, sector


def outcomes(result):
    return [(report["outcome"], report["reason"], report["mode"]) for report in result.json]


HANDS_OVER = ("hands-over", None, "secure")
REFUSED = ("stops", "signature-not-verified", "secure")


class TestWrite:
    def test_to_the_image(self, sipl, vandal):
        """The next IPL refuses what the guest has made of its disk, and so does every later run."""
        path, words, sector = vandal
        before = Path(path).read_bytes()
        result = sipl("boot", "--engine", "embedded", "--json", "--write", *words)
        assert (result.code, outcomes(result)) == (1, [HANDS_OVER, REFUSED])
        assert result.err.splitlines()[0] == "I write"
        at = sector * SECTOR
        assert Path(path).read_bytes() == before[:at] + bytes(SECTOR) + before[at + SECTOR :]
        again = sipl("boot", "--engine", "embedded", "--json", *words)
        assert (again.code, outcomes(again)) == (1, [REFUSED])

    def test_to_the_overlay(self, sipl, vandal):
        """What counts is what the guest sees; the image has never changed."""
        path, words, _ = vandal
        before = Path(path).read_bytes()
        for _ in range(2):
            result = sipl("boot", "--engine", "embedded", "--json", *words)
            assert (result.code, outcomes(result)) == (1, [HANDS_OVER, REFUSED])
            assert Path(path).read_bytes() == before

    def test_a_person_reads_both_verdicts(self, sipl, vandal):
        path, words, _ = vandal
        result = sipl("boot", "--engine", "embedded", *words)
        said = [line for line in result.err.splitlines() if not line.startswith("  ")]
        assert said[0].startswith(f"{path}: hands over ")
        assert said[1:] == [
            "sipl: the guest asked for an IPL",
            f"{path}: the machine stops in secure mode: signature-not-verified",
        ]


def test_three_reboots_are_verified_each(sipl, signed):
    _, words = signed(console_guests.says_and_reboots(b"x"))
    result = sipl("boot", "--engine", "embedded", "--json", "--until", "xxxx", *words)
    assert (result.code, outcomes(result)) == (0, [HANDS_OVER] * 4)
    for report in result.json:
        verified = [(one["address"], one["verified"]) for one in report["components"] if one["signed"]]
        assert verified == [(console_guests.ORIGIN, True), (KERNEL, True)]


@pytest.mark.parametrize("quiet", [(), ("-q",)], ids=["", "quiet"])
def test_a_host_without_room_is_named(signed, quiet):
    """The guest only sees an I/O error; files of this process may not grow, as on a full disk."""
    path, words = signed(writes(100))
    words = ("boot", "--engine", "embedded", *quiet, *words[:-3], "--timeout", "1", path)
    line = f"ulimit -f 8; exec {shlex.join(command(*words))}"
    done = subprocess.run(
        ["/bin/sh", "-c", line],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=False,
    )
    said = [line for line in done.stderr.decode().splitlines() if "the host's" in line]
    assert said
    for line in said:
        assert line.startswith(f"sipl: the guest saw I/O errors that are the host's: {path}: what the guest writes")
        assert "File too large" in line
