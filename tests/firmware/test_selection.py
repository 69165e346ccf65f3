"""Which program boots: loadparm, boot menu, and the entries of the program table."""

from __future__ import annotations

import pytest
from ipl_lab import HANDS_OVER, LOADER, PSW, Load, loader_bytes, verdict

from sipl.author.boot_record import Execute, Program, write_disk
from sipl.firmware import loadparm as rules

INVALID = ("stops", "loadparm-invalid")
MODES = ["normal", "audit", "secure"]
LAST = 30


@pytest.fixture
def menu_disk(lab):
    """Programs 0, 1, 2, 5 and 30, each known by the address of an unsigned component."""

    def program(number):
        return Program([lab.signed(LOADER, loader_bytes()), Load(0x100000 + 0x1000 * number, b"x"), Execute(PSW)])

    programs = [program(n) if n in (0, 1, 2, 5, LAST) else None for n in range(31)]
    return lab.disk(bytes(write_disk(programs, 512)))


def booted(report):
    """Number of the program that was loaded, by its component."""
    assert verdict(report) == HANDS_OVER
    number = (report.components[1].address - 0x100000) // 0x1000
    assert report.devices[0].program == number
    return number


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("loadparm", "number"),
    [
        ("", 0),
        ("0", 0),
        ("1", 1),
        ("2", 2),
        ("02", 2),
        ("00000005", 5),
        ("30", 30),
        ("5A", 5),
        ("2 9", 2),
        ("1.5", 1),
        ("A1", 0),
        (".1", 0),
        (" 1", 0),
        ("LINUX", 0),
        ("PROMPT1", 0),
    ],
)
def test_loadparm_is_the_number_that_it_starts_with(lab, menu_disk, loadparm, number, mode):
    assert booted(lab.boot(menu_disk, loadparm=loadparm, mode=mode)) == number


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("loadparm", ["3", "29", "31", "32", "99999999"])
def test_program_that_is_not_there_stops_the_machine(lab, menu_disk, loadparm, mode):
    report = lab.boot(menu_disk, lab.program(), loadparm=loadparm, mode=mode)
    assert verdict(report) == INVALID
    assert [d.outcome for d in report.devices] == ["stops", "not-tried"]


def test_message_names_the_programs_that_are_there(lab, menu_disk):
    (finding,) = [f for f in lab.boot(menu_disk, loadparm="3").findings if f.reason == "loadparm-invalid"]
    assert "0, 1, 2, 5, 30" in finding.message


def test_loadparm_of_the_device_comes_before_that_of_the_machine(lab, menu_disk):
    assert booted(lab.boot(menu_disk._replace(loadparm="5"), loadparm="2")) == 5
    assert booted(lab.boot(menu_disk, loadparm="2")) == 2


class Person:
    """Answers the boot menu with one number, and remembers what was shown."""

    def __init__(self, answer):
        self.answer = answer
        self.shown = []

    def __call__(self, entries, timeout):
        self.shown.append((list(entries), timeout))
        return self.answer


ENTRIES = [0, 1, 2, 5, LAST]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("menu", [None, False, True])
def test_prompt_asks_without_a_time_out(lab, menu_disk, mode, menu):
    person = Person(5)
    report = lab.boot(menu_disk, loadparm="PROMPT", menu=menu, timeout=3000, choose=person, mode=mode)
    assert booted(report) == 5
    assert person.shown == [(ENTRIES, 0)]


@pytest.mark.parametrize("loadparm", ["", "   "])
@pytest.mark.parametrize("timeout", [0, 3000, 0xFFFFFFFF])
def test_blank_loadparm_asks_where_the_machine_has_a_menu(lab, menu_disk, loadparm, timeout):
    person = Person(2)
    assert booted(lab.boot(menu_disk, loadparm=loadparm, menu=True, timeout=timeout, choose=person)) == 2
    assert person.shown == [(ENTRIES, timeout)]


@pytest.mark.parametrize("menu", [None, False])
def test_blank_loadparm_does_not_ask_without_a_menu(lab, menu_disk, menu):
    person = Person(2)
    assert booted(lab.boot(menu_disk, menu=menu, choose=person)) == 0
    assert person.shown == []


@pytest.mark.parametrize("loadparm", ["0", "1", "LINUX"])
def test_any_other_loadparm_does_not_ask(lab, menu_disk, loadparm):
    person = Person(2)
    assert booted(lab.boot(menu_disk, loadparm=loadparm, menu=True, choose=person)) == rules.number(
        loadparm.encode("cp037")
    )
    assert person.shown == []


@pytest.mark.parametrize("answer", [-1, -31, 3, 31, 1000])
def test_an_answer_that_is_no_program(lab, menu_disk, answer):
    assert verdict(lab.boot(menu_disk, loadparm="PROMPT", choose=Person(answer))) == INVALID


def test_nobody_there_to_choose(lab, menu_disk):
    report = lab.boot(menu_disk, lab.program(), loadparm="PROMPT")
    assert verdict(report) == ("undecided", "menu-choice-needed")
    assert report.would_boot is None
    assert [d.outcome for d in report.devices] == ["undecided", "not-tried"]


def test_every_device_asks_with_its_own_entries(lab, menu_disk):
    """The first disk is given up before its menu, the second shows its own."""
    person = Person(1)
    report = lab.boot(lab.disk(bytes(4096)), lab.program(), menu_disk, loadparm="PROMPT", choose=person)
    assert verdict(report) == HANDS_OVER
    assert person.shown == [([0, 1], 0)]


@pytest.mark.parametrize("text", ["", "0", "7", "12345678", "1A2B", "A", ".", "31"])
def test_number_of_a_loadparm(text):
    digits = ""
    for character in text:
        if not character.isdigit():
            break
        digits += character
    assert rules.number(text.ljust(8).encode("cp037")) == int(digits or "0")


def test_zero_loadparm_of_the_block_means_the_machines():
    machine = "2".ljust(8).encode("cp037")
    assert rules.effective_loadparm(bytes(8), machine) == machine
    assert rules.effective_loadparm(b"\x40" * 8, machine) == b"\x40" * 8
