"""Code that changes: what runs is what lies in storage, however it came there and through whatever virtual address.

All of it runs with the libunicorn that is in use, and once more, in a process of its own, with the mended one
(`make mended-unicorn`) where that was built: docs/embedded-engine.md, "A faster Unicorn".
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("unicorn", reason="unicorn is not installed: the embedded engine is not tested")

from guest_asm import DAT, DONE, SUPERVISOR, program
from guest_lab import MEMORY, SPARE, GuestLab, Load

ROOT = Path(__file__).resolve().parents[3]
MENDED = ROOT / "build" / "mended-unicorn"
IS_MENDED = Path(os.environ.get("LIBUNICORN_PATH", ROOT)).resolve() == MENDED

SEGMENTS = 0x200000
PAGE_TABLES = 0x210000
INVALID_SEGMENT = 0x20
RESULTS = 0x300000
SOURCE = 0x60000
REAL_PAGES = 3
ALIASES = 3
FIRST_ALIAS = 0x80000
FOR_DATA = ALIASES - 1  # the alias at which nothing may be executed, once CR0 says so
NO_CODE = 0x100
EXECUTION_PROTECTION = 0x100000  # of CR0

DATA = 0x800
# Where routines lie in a page: at a boundary, at none, and across two words of a map with a bit for each byte.
SLOTS = (0x100, 0x206, 0x33C)
# A page whose stores come often is watched by such a map from the tenth store on.
OFTEN = 12
LONG = "MVC of 64"
WAYS = ("STH", "STG", "STC", "STMG", "CS", "MVI", "MVC", "XC", "MVCL", LONG)
KNOWN = (
    "Unicorn 2.1.4 looks at no more than 31 bytes of a store to a page with code that is often stored to; "
    "the mended library looks at all"
)


def routine(number: int) -> bytes:
    """LGHI 5,number; BR 14; a filler."""
    return bytes.fromhex(f"A759{number:04x}07FE0707")


def virtual(page: int, alias: int) -> int:
    """A virtual address of a real page; with translation off it is that of another one."""
    return FIRST_ALIAS + (alias * REAL_PAGES + page) * 0x1000


def real(address: int) -> int:
    """Real address of a virtual one."""
    page = (address - FIRST_ALIAS) >> 12
    return SPARE + (page % REAL_PAGES) * 0x1000 + address % 0x1000 if 0 <= page < ALIASES * REAL_PAGES else address


def no_code(page: int) -> int:
    """The bit of a page-table entry that forbids code: in the last alias it is on."""
    return NO_CODE if virtual(0, FOR_DATA) <= page << 12 < virtual(0, ALIASES) else 0


def tables() -> list[Load]:
    """A segment table and page tables for the memory."""
    pages = b"".join((real(page << 12) | no_code(page)).to_bytes(8, "big") for page in range(MEMORY >> 12))
    segments = [PAGE_TABLES + 0x800 * number for number in range(MEMORY >> 20)]
    segments += [INVALID_SEGMENT] * (512 - len(segments))
    return [Load(SEGMENTS, b"".join(entry.to_bytes(8, "big") for entry in segments)), Load(PAGE_TABLES, pages)]


class Story:
    """A guest program of calls and stores, and what the calls have to give."""

    def __init__(self) -> None:
        self.expected: list[int] = []
        self.now: dict[int, int] = {}
        self.translated = True
        self.asm = program().put(0x6000, SEGMENTS.to_bytes(8, "big")).load(12, 0x6000)
        self.asm.rxy(0xEB2F, 1, 12, index=1).load(10, RESULTS).go(DAT)  # LCTLG

    def protect(self) -> None:
        """From now on pages that are not for code hold none."""
        self.asm.put(0x6008, EXECUTION_PROTECTION.to_bytes(8, "big")).load(12, 0x6008).rxy(0xEB2F, 0, 12, index=0)

    def translate(self, on: bool) -> None:
        self.translated = on
        self.asm.go(DAT if on else SUPERVISOR)

    def absolute(self, address: int) -> int:
        return real(address) if self.translated else address

    def call(self, address: int) -> None:
        """Run a routine, and note what it gives."""
        self.asm.load(13, address).raw("07F0").raw("0DED")  # serialize, BASR 14,13
        self.asm.stg(5, 10).ri(0xA7B, 10, 8)  # AGHI
        self.expected.append(self.now[self.absolute(address)])

    def store_data(self, address: int, times: int = 1) -> None:
        """Stores next to the routines of a page."""
        self.asm.load(12, address & ~0xFFF | DATA)
        for at in range(times):
            self.asm.stg(10, 12, 8 * at)

    def put(self, at: int, number: int, way: str = "STG") -> None:
        """Have a routine give another number, of one byte."""
        asm = self.asm
        old = self.now.get(self.absolute(at), 0)
        code = routine(number)
        asm.load(11, number).load(12, at)
        if way == "STH":
            asm.rs(0x40, 11, 0, 12, 2)
        elif way == "STC":
            asm.rs(0x42, 11, 0, 12, 3)
        elif way == "MVI":
            asm.raw(bytes([0x92, number, 0xC0, 3]))
        elif way == "STG":
            asm.load(11, int.from_bytes(code, "big")).stg(11, 12)
        elif way == "STMG":
            asm.load(11, int.from_bytes(code, "big")).rxy(0xEB24, 11, 12, 0, 11)
        elif way == "CS":
            # On the word that has the number's last byte, whatever else it has.
            word = (at + 3) & ~3
            asm.load(12, word).rs(0x58, 6, 0, 12).rr(0x18, 7, 6)  # L, LR
            asm.load(8, (old ^ number) << 8 * (3 - (at + 3 - word))).rr(0x17, 7, 8).rs(0xBA, 6, 7, 12)  # XR, CS
        elif way == "XC":
            asm.put(SOURCE, bytes([0, 0, 0, old ^ number, 0, 0, 0, 0])).load(13, SOURCE).raw("D707C000D000")
        elif way == "MVC":
            asm.put(SOURCE, code).load(13, SOURCE).raw("D207C000D000")
        elif way == "MVCL":
            asm.put(SOURCE, code).load(6, at).load(7, 8).load(8, SOURCE).load(9, 8).rr(0x0E, 6, 8)
        else:
            assert way == LONG
            asm.put(SOURCE, code).load(13, SOURCE).raw("D23FC000D000")
        self.now[self.absolute(at)] = number

    def check(self, lab: GuestLab) -> None:
        left = lab.run(self.asm.end(), extra=tables())
        assert left.stopped_at == DONE, (left.end, hex(left.program_code), hex(left.program_old))
        assert [left.number(RESULTS + 8 * at) for at in range(len(self.expected))] == self.expected


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("slot", SLOTS, ids=hex)
@pytest.mark.parametrize("often", [False, True], ids=["seldom", "often"])
@pytest.mark.parametrize("alias", [0, 1], ids=["same address", "alias"])
def test_a_store_is_seen(lab, request, way, slot, often, alias):
    if way == LONG and often and not IS_MENDED:
        request.applymarker(pytest.mark.xfail(reason=KNOWN, strict=True))
    story = Story()
    story.put(virtual(0, 0) + slot, 1)
    story.call(virtual(0, 0) + slot)
    if often:
        story.store_data(virtual(0, alias), OFTEN)
    story.put(virtual(0, alias) + slot, 2, way)
    story.call(virtual(0, 0) + slot)
    story.check(lab)


@pytest.mark.parametrize("protected", [False, True], ids=["before", "protected"])
@pytest.mark.parametrize("way", WAYS[:-1])
def test_a_store_at_an_address_for_data_is_seen(lab, way, protected):
    """Stores to pages that cannot be executed are fast, unless they can be executed at another address."""
    story = Story()
    if protected:
        story.protect()
    story.store_data(virtual(0, FOR_DATA), OFTEN)
    for number in range(1, 6, 2):
        story.put(virtual(0, 0) + 0x100, number)
        story.put(virtual(0, 0) + 0x206, number)
        story.call(virtual(0, 0) + 0x100)
        story.call(virtual(0, 0) + 0x206)
        story.store_data(virtual(0, FOR_DATA), 2)
        story.put(virtual(0, FOR_DATA) + 0x100, number + 1, way)
        story.put(virtual(0, FOR_DATA) + 0x206, number + 1, way)
        story.call(virtual(0, 0) + 0x100)
        story.call(virtual(0, 0) + 0x206)
    story.check(lab)


def test_a_page_for_data_becomes_one_of_code(lab):
    """Stores through the other alias are fast by then: the first block on the page has to slow them down."""
    story = Story()
    story.put(virtual(0, 0) + 0x100, 1)
    story.store_data(virtual(0, 1), OFTEN)
    story.call(virtual(0, 0) + 0x100)
    story.put(virtual(0, 1) + 0x100, 2)
    story.call(virtual(0, 0) + 0x100)
    story.check(lab)


def test_a_routine_over_two_pages(lab):
    """The second page belongs to the block, too, and to other virtual addresses."""
    story = Story()
    at = virtual(0, 0) + 0xFFE
    story.store_data(virtual(1, 1), OFTEN)
    story.put(at, 1)
    story.call(at)
    # The second half of LGHI is the first of the next page.
    story.asm.load(11, 2).load(12, virtual(1, 1)).rs(0x40, 11, 0, 12)
    story.now[story.absolute(at)] = 2
    story.call(at)
    story.check(lab)


def test_one_address_with_and_without_translation(lab):
    """Two pages at one address: a store to the one, which has no code, makes no store to the other fast."""
    story = Story()
    at = virtual(0, 0) + 0x100
    story.translate(False)
    story.put(at, 1)
    story.call(at)
    story.translate(True)
    story.store_data(at, 2)
    story.translate(False)
    story.put(at, 2)
    story.call(at)
    story.check(lab)


@pytest.mark.parametrize("seed", range(30))
def test_stories(lab, seed):
    """Any order of calls and stores, through any alias, translated or not."""
    chance = random.Random(seed)
    ways = WAYS if IS_MENDED else WAYS[:-1]
    story = Story()
    for _ in range(150):
        page = chance.randrange(REAL_PAGES)
        alias = chance.randrange(ALIASES + 1)
        address = virtual(page, alias) if alias < ALIASES else SPARE + page * 0x1000
        at = address + chance.choice(SLOTS)
        kind = chance.randrange(10)
        if kind == 0:
            story.translate(not story.translated)
        elif kind < 3:
            story.store_data(address, chance.choice((1, 2, OFTEN)))
        elif story.absolute(at) not in story.now:
            story.put(at, chance.randrange(1, 256))
        elif kind < 6:
            story.put(at, chance.randrange(1, 256), chance.choice(ways))
        else:
            story.call(at)
    story.check(lab)


@pytest.mark.skipif(IS_MENDED, reason="this is the run with the mended library")
def test_all_of_this_with_the_mended_library():
    if not any(MENDED.glob("libunicorn*")):
        pytest.skip("the mended library is not built (make mended-unicorn)")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", __file__],
        cwd=ROOT,
        env={**os.environ, "LIBUNICORN_PATH": str(MENDED)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_library_is_the_one_that_was_asked_for():
    from unicorn.unicorn_py3.unicorn import uclib

    assert (Path(uclib._name).resolve().parent == MENDED) is IS_MENDED
