"""What the pages state about fields, options, rooms, names and addresses is what the source has."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import jsonschema
import pytest

import sipl
from sipl.cli.main import COMMANDS
from sipl.cli.main import run as sipl_command
from sipl.machine.options import MachineOptions
from sipl.report.json_form import schema, to_dict
from sipl.settings import Settings
from sipl.survey import model

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = ROOT / "docs"
SOURCE = ROOT / "src" / "sipl"


def page_text(name):
    return (DOCS / name).read_text("utf-8")


def part(text, start, end=None):
    """What stands behind the heading `start`, up to the next heading of its level or above, or to `end`."""
    level = len(start) - len(start.lstrip("#"))
    behind = text[text.index(f"\n{start}\n") + len(start) + 2 :]
    stop = re.search(rf"^#{{1,{level}}} ", behind, re.MULTILINE) if end is None else re.search(end, behind)
    return behind[: stop.start()] if stop else behind


def rows(text):
    """Cells of all table rows, heads and rulers included."""
    lines = (line for line in text.splitlines() if line.startswith("|"))
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]


def names(cell):
    return re.findall(r"`([^`]+)`", cell)


def documented(text):
    """Names in the first column of the tables of a part."""
    return sorted(name for row in rows(text) for name in names(row[0]))


def table_after(text, head):
    """The one table whose first head is `head`."""
    start = text.index(f"| {head} |")
    lines = text[start:].splitlines()
    end = next((at for at, line in enumerate(lines) if not line.startswith("|")), len(lines))
    return "\n".join(lines[2:end])


# JSON


def test_fields_of_the_report_are_those_of_the_schema():
    text = page_text("report.md")
    properties = schema()["properties"]
    own = part(text, "## sipl.report/1").split("### `devices`")[0]
    assert documented(own) == sorted(properties)
    for name in ("devices", "components", "certificates", "findings"):
        assert documented(part(text, f"### `{name}`")) == sorted(properties[name]["items"]["properties"])


def test_outcomes_of_the_report_page():
    stated = {row[0].strip("`"): row[2] for row in rows(part(page_text("report.md"), "### Outcomes"))[2:]}
    assert sorted(stated) == sorted(sipl.Outcome)
    codes = {outcome: "2" if outcome == "undecided" else "0" if outcome == "hands-over" else "1" for outcome in stated}
    assert stated == codes


@pytest.mark.parametrize(
    ("head", "view"),
    [
        ("field of a program", model.ProgramView),
        ("field of a component", model.ComponentView),
        ("field of a signature", model.SignatureView),
        ("field of a SCLAB", model.SclabView),
        ("field of a certificate", model.CertificateView),
    ],
)
def test_fields_of_the_views(head, view):
    assert documented(table_after(page_text("report.md"), head)) == sorted(view._fields)


def test_fields_of_boot_map_and_certificates():
    text = page_text("report.md")
    boot_map = part(text, "## sipl.boot-map/1")
    assert documented(table_after(boot_map, "field")) == sorted(("schema", *model.BootMapView._fields))
    store = part(text, "## sipl.certificates/1")
    assert documented(table_after(store, "field")) == ["certificates", "notes", "reason", "schema"]


def test_reports_of_the_disks_of_the_pages_follow_the_schema(desk):
    for disk in ("disk.raw", "changed.raw", "blank.raw", "overlay.qcow2"):
        machine = MachineOptions(secure_boot=True, boot_certs=(str(desk / "cert.pem"),))
        for report in (
            sipl.boot([sipl.Disk(str(desk / disk))], Settings(machine)),
            sipl.verify(sipl.Disk(str(desk / disk))),
        ):
            jsonschema.validate(to_dict(report), schema())


# command line


def option_table(command):
    """The table of options that has a column for a command, on whatever page: its rows, and the column."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text("utf-8")
        for found in re.finditer(r"^\| option \|.*", text, re.MULTILINE):
            heads = rows(found[0])[0]
            if command in heads:
                return rows(table_after(text[found.start() :], "option")), heads.index(command)
    raise AssertionError(f"no page has a table with the options of {command}")


# Commands whose options have a table on a page of their own.
OWN_PAGES = {"mkdisk": "making-disks.md"}


@pytest.mark.parametrize(("command", "page"), OWN_PAGES.items())
def test_options_of_a_page_are_those_of_its_command(command, page, capsys):
    stated = {name.split()[0] for row in rows(table_after(page_text(page), "option")) for name in names(row[0])}
    assert sipl_command([command, "--help"]) == 0
    found = re.findall(r"^  (?:(-\w)(?: \S+)?, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert stated == {option for pair in found for option in pair if option} - {"-h", "--help"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command not in OWN_PAGES])
def test_options_of_the_user_guide_are_those_of_the_command(command, capsys):
    table, column = option_table(command)
    stated = {name.split()[0] for row in table if row[column] == "x" for name in names(row[0])}
    assert sipl_command([command, "--help"]) == 0
    found = re.findall(r"^  (?:(-\w)(?: \S+)?, )?(--[\w-]+)", capsys.readouterr().out, re.MULTILINE)
    assert stated == {option for pair in found for option in pair if option} - {"-h", "--help"}


def test_readme_names_every_command():
    table = rows(table_after((ROOT / "README.md").read_text("utf-8"), "command"))
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    stated = sorted(name.removeprefix("sipl ") for row in table for name in names(row[0]))
    assert stated == sorted((*COMMANDS, *(scripts.keys() - {"sipl"})))


# library


def test_library_page_names_what_is_public():
    stated = set(names(part(page_text("library.md"), "## What is public")))
    assert stated == {*sipl.__all__, "sipl.__all__"}


def test_library_page_names_what_can_be_set():
    table = rows(table_after(page_text("library.md"), "object"))
    stated, current = {}, ""
    for row in table:
        current = names(row[0])[0] if row[0] else current
        stated.setdefault(current, []).extend(names(row[1]))
    real = {"Disk": sipl.Disk, "MachineOptions": MachineOptions, "Settings": Settings}
    assert {name: sorted(fields) for name, fields in stated.items()} == {n: sorted(t._fields) for n, t in real.items()}


# architecture


def imports(module):
    """Rooms that a module imports, late and for annotations too."""
    for node in ast.walk(ast.parse(module.read_text("utf-8"))):
        places = []
        if isinstance(node, ast.ImportFrom) and node.level == 0:
            places = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            places = [alias.name for alias in node.names]
        for place in places:
            words = place.split(".")
            if words[0] == "sipl" and len(words) > 1:
                yield words[1]
            elif words[0] != "sipl":
                yield f"{words[0]}!"


def rooms():
    table = rows(table_after(page_text("how-it-works.md"), "room"))
    return {names(row[0])[0]: set(names(row[2])) for row in table}


def test_rooms_are_the_folders():
    assert set(rooms()) == {folder.parent.name for folder in SOURCE.glob("*/__init__.py")}


@pytest.mark.parametrize("room", rooms())
def test_a_room_imports_what_the_page_allows(room):
    found = {where for module in (SOURCE / room).rglob("*.py") for where in imports(module)}
    assert found & set(rooms()) - {room} <= rooms()[room]


def test_only_one_room_imports_cryptography():
    users = {
        module.relative_to(SOURCE).parts[0]
        for module in SOURCE.rglob("*.py")
        if "cryptography!" in set(imports(module))
    }
    assert users == {"crypto"}


def test_the_boot_side_stands_by_itself():
    found = {where for module in (SOURCE / "firmware").rglob("*.py") for where in imports(module)}
    assert not found & {"disk", "crypto", "machine"}


def test_modules_of_the_rules_exist():
    table = rows(table_after(page_text("how-it-works.md"), "rule"))
    modules = [name for row in table for name in names(row[1])]
    assert len(modules) > 15
    assert [name for name in modules if not (SOURCE / name).is_file()] == []


# hand-over


class Look:
    """An engine that keeps what the page speaks of."""

    def __init__(self):
        self.found = {}

    def run(self, machine, state):
        word = int.from_bytes(machine.load(0x14, 4), "big")
        certificate = int.from_bytes(machine.load(state.report_address + state.report_length - 16, 8), "big")
        self.found = {
            "entry PSW": machine.load(0, 8),
            "base": machine.firmware_base,
            "pointer": word,
            "block": state.iplb_address,
            "block length": int.from_bytes(machine.load(word, 4), "big"),
            "report": state.report_address,
            "certificate": certificate,
            "der": machine.load(certificate, 2),
            "device": machine.load(0xB8, 8),
        }


def stated_addresses():
    table = rows(table_after(page_text("how-it-works.md"), "what"))
    return {row[0].split(",")[0]: (row[1], int(row[2], 16)) for row in table if row[2]}


def test_hand_over_is_as_the_page_says(desk):
    look = Look()
    machine = MachineOptions(secure_boot=True, boot_certs=(str(desk / "cert.pem"),), memory=512 << 20)
    report = sipl.boot([sipl.Disk(str(desk / "disk.raw"))], Settings(machine), look)
    found = look.found
    stated = {what: address for what, (_, address) in stated_addresses().items()}
    assert found["entry PSW"].hex() == report.psw
    assert found["base"] == stated["the firmware itself"]
    assert found["pointer"] == found["block"] == stated["IPL parameter block of the boot device"]
    assert found["block"] + found["block length"] == found["report"] == stated["IPL report (IIRB)"]
    assert found["certificate"] == stated["certificates of the report"]
    assert found["der"][:1] == b"\x30"
    assert found["device"] == bytes.fromhex("0001000000000000")
    assert stated["end of the area that no component may touch"] == 512 << 20


def test_addresses_of_the_hand_over_add_up():
    table = stated_addresses()
    base = table["the firmware itself"][1]
    for where, address in table.values():
        offset = re.fullmatch(r"base(?: ([+-]) 0x([0-9A-F]+))?", where)
        if offset:
            distance = int(offset[2] or "0", 16)
            assert address == (base - distance if offset[1] == "-" else base + distance)
    assert sum(where.startswith("base") for where, _ in table.values()) >= 6


def test_changelog_has_the_version():
    assert f"## [{sipl.__version__}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_targets_of_the_contributing_page_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    table = rows(table_after((ROOT / "CONTRIBUTING.md").read_text("utf-8"), "target"))
    stated = [name.removeprefix("make ") for row in table for name in names(row[0])]
    real = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert sorted(stated) == sorted(real[1].split())


# the QEMU engine


def test_disabled_waits_of_the_qemu_engine():
    from sipl.layout.guest_ends import QemuEnd

    table = rows(table_after(page_text("qemu-engine.md"), "address"))
    assert [int(row[0], 16) for row in table] == sorted(QemuEnd)


def test_what_the_page_calls_refused_is_refused_in_a_monitor():
    from sipl.engine.qemu.relay import monitor_rules

    table = rows(table_after(page_text("qemu-engine.md"), "refused"))
    # Single words only: what is refused for its arguments, or at times, has sentences.
    stated = [name for row in table[:-5] for name in names(row[0]) if name not in ("add-fd", "remove-fd")]
    assert len(stated) > 20
    passed = [name for name in stated if name in monitor_rules._ALLOWED | monitor_rules._HUMAN]
    assert passed == []
    for name in stated:
        with pytest.raises(monitor_rules.CommandRefused):
            monitor_rules.judge(name, {})


def test_numbers_of_the_qemu_engine():
    from sipl.engine.qemu import has_secure, program
    from sipl.engine.qemu.code import CODE_SIZE
    from sipl.engine.qemu.relay import qmp_messages

    text = page_text("qemu-engine.md")
    secure = part(text, "## has_secure")
    assert has_secure.BOOT_CODE_ROOM == 1 << 20
    assert "in the first MiB" in secure
    assert f"{has_secure.MAX_BREAKPOINTS} at most" in secure
    assert f"{has_secure.MAX_STOPS} stops or {has_secure.TIME_LIMIT:g} seconds" in secure
    assert f"at most {qmp_messages.MAX_MESSAGE >> 20} MiB and {qmp_messages.MAX_DEPTH} brackets" in text
    assert f"version {program.OLDEST[0]}.{program.OLDEST[1]} or later" in text
    assert all(f"`{name}`" in text for name in (*program.NAMES, program.VARIABLE))
    assert f"the {CODE_SIZE >> 10} KiB behind" in text


# signing


def test_fields_of_a_file_signature():
    from sipl.author.file_signature import FileSignature

    table = table_after(page_text("signing.md"), "field of a signature file")
    assert documented(table) == sorted(("schema", *FileSignature._fields))


def test_values_of_the_signing_page():
    from sipl.author import key_files, signer, two_step
    from sipl.crypto import pkcs11_uri

    text = page_text("signing.md")
    assert documented(table_after(text, "`--form`")) == sorted(two_step.FORMS)
    known = (*pkcs11_uri._TOKEN_ATTRIBUTES, *pkcs11_uri._KEY_ATTRIBUTES, *pkcs11_uri._QUERY_ATTRIBUTES)
    assert set(documented(table_after(text, "in the URI"))) == set(known) - {"type"}
    assert {f"`{kind}`" for kind in key_files.KINDS} <= set(re.findall(r"`\w+`", text))
    assert {f"`{digest}`" for digest in signer.DIGESTS} <= set(re.findall(r"`\w+`", text))


# doctor


def test_fields_of_the_diagnosis():
    from sipl.doctor import model

    text = part(page_text("doctor.md"), "## sipl.diagnosis/1")
    assert documented(table_after(text, "field")) == sorted(("schema", *model.Diagnosis._fields))
    assert documented(table_after(text, "field of a problem")) == sorted(model.Problem._fields)
    assert documented(table_after(text, "field of a step")) == sorted(set(model.Step._fields) - {"rank"})


def test_every_problem_has_its_paragraph():
    """The names that the rules use, read from their source."""
    used = set()
    for module in (SOURCE / "doctor").glob("*.py"):
        for node in ast.walk(ast.parse(module.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "problem":
                used |= {n.value for n in ast.walk(node.args[0]) if isinstance(n, ast.Constant)}
    used |= {name for name, _ in certificate_problems().values()} | {"signer-unknown", "signature-unusable"}
    stated = re.findall(r"^### `([a-z-]+)`$", part(page_text("doctor.md"), "## Problems"), re.MULTILINE)
    assert sorted(stated) == sorted(used)


def certificate_problems():
    from sipl.doctor import certificates

    return certificates._OF_THE_CERTIFICATE


# sealing


def test_fields_of_the_seal_reports():
    from sipl.author import seal_report

    text = page_text("sealing.md")
    stated = documented(table_after(text, "field of sipl.seal/1"))
    assert stated == sorted(("schema", *seal_report.SealReport._fields))
    assert documented(table_after(text, "field of a program")) == sorted(seal_report.SealedProgram._fields)
    stated = documented(table_after(text, "field of sipl.unseal/1"))
    assert stated == sorted(("schema", *seal_report.UnsealReport._fields))
    (parts,) = [row[1] for row in rows(table_after(text, "field of a program")) if names(row[0]) == ["components"]]
    assert set(seal_report.SealedComponent._fields) <= set(names(parts))
    (writes,) = [row[1] for row in rows(table_after(text, "field of sipl.seal/1")) if names(row[0]) == ["writes"]]
    assert set(names(writes)) == set(seal_report.SealWrite._fields)


def test_layout_of_the_seal_room():
    from sipl.layout import seal_room

    text = page_text("formats/seal-room.md")
    assert f"`{seal_room.FRAME_MAGIC.decode()}`" in text
    assert f"`{seal_room.SAVED_MAGIC.decode()}`" in text
    assert f"With {seal_room.FRAME_SECTORS} sectors" in text
