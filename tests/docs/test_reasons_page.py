"""docs/reasons.md has a section for each reason, and the levels in it are those of the source."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path

import pytest

import sipl
from sipl.advice import HINTS
from sipl.reasons import MODE_RULES, Level, Mode, Reason, SealReason

# pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import doc_files
import doc_pages

ROOT = Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "reasons.md"
LINE = re.compile(r"\*Normal: (.+?) · Audit: (.+?) · Secure: (.+?)\*")
NEVER = "\N{EN DASH}"
# What the page's words mean for the level of a finding.
LEVELS = {
    "info": Level.INFO,
    "warning": Level.WARNING,
    "stops": Level.ERROR,
    "device given up": Level.ERROR,
    "refuses to start": Level.ERROR,
    "undecided": Level.ERROR,
    NEVER: None,
}
# What the source raises, and the word of the page for it.
RAISED = {"MachineStops": "stops", "DeviceGivenUp": "device given up", "RefusedToStart": "refuses to start"}


# Behind it stand the reasons of another kind: those for which a disk is not sealed.
BOOTS, SEALS = PAGE.read_text("utf-8").split("## Why a disk is not sealed\n")


def sections(page):
    """Text of each section by the reason that is its heading."""
    parts = re.split(r"^### `([a-z0-9-]+)`$", page, flags=re.MULTILINE)
    return {
        name: re.split(r"^## ", text, flags=re.MULTILINE)[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


SECTIONS = sections(BOOTS)
SEAL_SECTIONS = sections(SEALS)


def words(reason):
    """What the page says for each mode."""
    found = LINE.fullmatch(SECTIONS[reason].strip().splitlines()[0])
    assert found, f"{reason}: the first line does not give the levels"
    assert set(found.groups()) <= LEVELS.keys(), reason
    return dict(zip(Mode, found.groups(), strict=True))


def raised_in_source():
    """Reason and word wherever the source names a reason in the call of one of its exceptions."""
    found = set()
    for module in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in RAISED and node.args:
                first = node.args[0]
                if isinstance(first, ast.Attribute) and getattr(first.value, "id", "") == "Reason":
                    found.add((Reason[first.attr], RAISED[node.func.id]))
    return found


def test_each_reason_has_a_section_and_no_other_has():
    assert sorted(SECTIONS) == sorted(Reason)


def test_each_reason_not_to_seal_has_a_section_and_no_other_has():
    assert sorted(SEAL_SECTIONS) == sorted(SealReason)
    assert set(SealReason) <= doc_pages.anchors(PAGE)
    assert not set(SealReason) & set(Reason)


@pytest.mark.parametrize("reason", SealReason)
def test_section_of_a_reason_not_to_seal_says_cause_and_cure(reason):
    text = SEAL_SECTIONS[reason]
    assert -1 < text.index("**Cause:**") < text.index("**Cure:**")


def test_each_reason_not_to_seal_is_raised_somewhere():
    """A name in the source, not only in the list of names."""
    source = "".join(
        module.read_text("utf-8") for module in (ROOT / "src").rglob("*.py") if module.name != "reasons.py"
    )
    assert [reason for reason in SealReason if f"SealReason.{reason.name}" not in source] == []


def test_headings_of_reasons_are_their_anchors():
    assert set(Reason) <= doc_pages.anchors(PAGE)


@pytest.mark.parametrize("reason", Reason)
def test_section_says_level_cause_and_cure(reason):
    assert set(words(reason).values()) != {NEVER}
    assert "**Cause:**" in SECTIONS[reason]
    assert "**Cure:**" in SECTIONS[reason]
    assert SECTIONS[reason].index("**Cause:**") < SECTIONS[reason].index("**Cure:**")


@pytest.mark.parametrize("reason", Reason)
def test_rules_of_the_mode_are_those_of_the_source(reason):
    rule = [NEVER, "warning", "stops"]
    assert (list(words(reason).values()) == rule) == (reason in MODE_RULES)


def test_the_source_is_read():
    assert (Reason.LOADPARM_INVALID, "stops") in raised_in_source()
    assert (Reason.NO_BOOT_DEVICE, "refuses to start") in raised_in_source()
    assert (Reason.SIGNATURE_FORMAT, "device given up") in raised_in_source()


@pytest.mark.parametrize(("reason", "word"), sorted(raised_in_source()))
def test_what_the_source_raises_is_on_the_page(reason, word):
    assert word in words(reason).values()


def test_what_the_page_raises_is_in_the_source():
    ends = set(RAISED.values())
    stated = {(Reason(reason), word) for reason in SECTIONS for word in words(reason).values() if word in ends}
    # Those of the mode rules go through one place, and a class that is chosen by the mode has no name in the call.
    by_mode = {
        (Reason.DEVICE_NOT_ELIGIBLE, "device given up"),
        *((reason, "stops") for reason in MODE_RULES),
    }
    assert stated - raised_in_source() - by_mode == set()


def test_a_reason_that_ends_a_boot_has_a_hint_or_a_message_that_gives_one():
    # Wherever these are raised, the exception brings what to do.
    by_message = {r for r, word in raised_in_source() if word == "refuses to start"} | {Reason.IMAGE_UNREADABLE}
    ends = {Reason(r) for r in SECTIONS if Level.ERROR in {LEVELS[word] for word in words(r).values()}}
    assert sorted(ends - by_message - HINTS.keys()) == []


# What happens: disks and options that lead to reasons, in every mode, against the page.


class Cases:
    """Boots by name; each is a function of the mode's machine options."""

    def __init__(self, desk):
        self.desk = desk

    def boot(self, mode, *disks, certs=("cert.pem",), secure=None, settings=(), **machine):
        paths = tuple(str(self.desk / name) for name in certs) if mode is not Mode.NORMAL else ()
        options = sipl.MachineOptions(
            secure_boot=mode is Mode.SECURE if secure is None else secure, boot_certs=paths, **machine
        )
        made = [disk if isinstance(disk, sipl.Disk) else sipl.Disk(str(self.desk / disk)) for disk in disks]
        return sipl.boot(made, sipl.Settings(machine=options, **dict(settings)))

    def reports(self, mode):
        desk = self.desk
        (desk / "empty").mkdir()
        (desk / "junk").mkdir()
        (desk / "junk" / "notes.txt").write_bytes(b"")
        (desk / "junk" / "cert.pem").write_bytes((desk / "cert.pem").read_bytes())
        (desk / "cert.crt").write_bytes((desk / "cert.pem").read_bytes())
        (desk / "broken.pem").write_bytes(b"nothing")
        version = bytearray((desk / "disk.raw").read_bytes())
        version[7] = 2
        (desk / "version.raw").write_bytes(version)
        iso = bytearray(doc_files.DISK_SIZE)
        iso[32769:32774] = b"CD001"
        (desk / "iso.raw").write_bytes(iso)
        kind = sipl.DeviceKind
        good = str(desk / "disk.raw")
        yield self.boot(mode, "disk.raw")
        yield self.boot(mode, "changed.raw")
        yield self.boot(mode, "old.raw", certs=("expired.pem",))
        yield self.boot(mode, "unsigned.raw")
        yield self.boot(mode, "blank.raw", "version.raw")
        yield self.boot(mode, "iso.raw")
        yield self.boot(mode, "missing.raw")
        yield self.boot(mode, "overlay.qcow2")
        yield self.boot(mode, "menu.raw", boot_menu=True)
        yield self.boot(mode, "disk.raw", loadparm="7")
        yield self.boot(mode, sipl.Disk(str(desk / "disk-4k.raw"), block_size=512))
        yield self.boot(mode, sipl.Disk(good, kind.SCSI_CD))
        yield self.boot(mode, sipl.Disk(good, kind.VIRTIO_NET))
        yield self.boot(mode)
        yield self.boot(mode, *["blank.raw"] * 9)
        yield self.boot(mode, settings={"kernel": str(desk / "vmlinuz")})
        yield self.boot(mode, "disk.raw", settings={"cpu": "z16"})
        yield self.boot(mode, "disk.raw", settings={"cpu": "z16,sclaf=on"})
        if mode is not Mode.NORMAL:
            for certs in (
                ("cert.crt",),
                ("gone.pem",),
                ("broken.pem",),
                ("junk",),
                ("cert.pem",) * 65,
                ("cert.pem", "empty"),
            ):
                yield self.boot(mode, "disk.raw", certs=certs)
        if mode is Mode.SECURE:
            yield self.boot(mode, "disk.raw", certs=())


def findings(cases, mode):
    return [finding for report in cases.reports(mode) for finding in report.findings]


@pytest.mark.parametrize("mode", Mode)
def test_levels_of_the_page_are_those_of_real_boots(desk, mode):
    met = findings(Cases(desk), mode)
    wrong = [(f.reason, f.level, words(f.reason)[mode]) for f in met if LEVELS[words(f.reason)[mode]] is not f.level]
    assert wrong == []
    at_least = {Mode.NORMAL: 8, Mode.AUDIT: 18, Mode.SECURE: 18}
    assert len({finding.reason for finding in met}) >= at_least[mode]
