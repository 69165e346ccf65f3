"""Every command and every Python block of the documentation does what the page says.

The blocks of a section run in their order, in a folder of their own with the files of doc_files.py. `make` and
`pip install` are not run: they are checked to exist.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

# pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import doc_pages

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = doc_pages.pages(ROOT)
SECONDS = 120
# What a shell has by itself, and what belongs to the tools under test.
OWN = frozenset({"sipl", "python3", "make", "pip"})
# What a tool under test starts.
STARTS = {"sipl-qemu-system-s390x": "qemu-system-s390x"}
PRINTS = "It prints:"


def runs(block):
    return doc_pages.is_console(block) or block.language in doc_pages.EXECUTED


SECTIONS = [section for page in PAGES for section in doc_pages.sections(page) if any(map(runs, section.blocks))]


def environment():
    """That of a user who has activated the environment in which the tests run; without anything that colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SIPL", "PYTHON", "NO_COLOR"))}
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return kept | {"PATH": path, "TERM": "dumb", "LC_ALL": "C.UTF-8", "PYTHONWARNINGS": "error"}


def run(arguments, folder, **options):
    return subprocess.run(
        arguments, cwd=folder, env=environment(), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, timeout=SECONDS, encoding="utf-8", check=False, **options,
    )  # fmt: skip


def check_make(target):
    rules = (ROOT / "Makefile").read_text("utf-8")
    assert re.search(rf"^{re.escape(target)}:", rules, re.MULTILINE), f"the Makefile has no target {target}"


def check_install(words):
    """`pip install .` and the like install this checkout."""
    assert words[:2] == ["pip", "install"]
    what = [word for word in words[2:] if not word.startswith("-")]
    assert what, "pip installs nothing"
    extras = set(re.findall(r"^(\w+) = \[", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE))
    for place in what:
        found = re.fullmatch(r"'?\.(?:\[([\w,]+)\])?'?", place)
        assert found, f"{place} is not this checkout"
        assert set((found[1] or "").split(",")) - {""} <= extras


def needed_programs(text):
    """Programs that the commands of a line start, as far as they stand where a command begins."""
    found = {part.split()[0] for part in re.split(r"\|\|?|&&|;", text) if part.split()} - OWN
    return {STARTS.get(name, name) for name in found}


def run_command(command, section, folder):
    words = command.text.split()
    where = f"{section.page.name}:{command.line}: {command.text}"
    if words[0] == "make":
        for target in words[1:]:
            check_make(target)
        return
    if words[:2] == ["pip", "install"]:
        check_install(words)
        return
    for program in sorted(needed_programs(command.text)):
        if re.fullmatch(r"[\w.+-]+", program) and run(["sh", "-c", f"command -v {program}"], folder).returncode:
            pytest.skip(f"{where}: {program} is not installed")
    done = run(["sh", "-c", command.text], folder)
    assert done.returncode == command.exit_code, f"{where}\n{done.stdout}"
    if command.output:
        real = done.stdout.splitlines()
        shown = "\n".join(command.output)
        assert doc_pages.same_output(command.output, real), f"{where}\n--- shown\n{shown}\n--- real\n{done.stdout}"


def run_script(block, section, folder):
    """A block of `sh` without prompts is a script; one of nothing but `make` and `pip` lines is checked instead."""
    lines = [line for line in block.lines if line.strip() and not line.lstrip().startswith("#")]
    if all(line.split()[0] in ("make", "pip") for line in lines):
        for line in lines:
            run_command(doc_pages.Command(line, 0, (), block.line), section, folder)
        return
    done = run(["sh", "-euc", "\n".join(block.lines)], folder)
    assert done.returncode == 0, f"{section.page.name}:{block.line}\n{done.stdout}"


def run_python(block, earlier, expected, section, folder):
    """Run a block behind the earlier ones of its section, whose output does not count."""
    where = f"{section.page.name}:{block.line}"
    if any(line.startswith("def test_") for line in block.lines):
        (folder / "test_of_the_page.py").write_text("\n".join(block.lines), "utf-8")
        done = run([sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_of_the_page.py"], folder)
        assert done.returncode == 0, f"{where}\n{done.stdout}"
        return
    mark = "--- this block ---"
    program = [line for old in earlier for line in old.lines]
    program += [f"print({mark!r})", *block.lines]
    done = run([sys.executable, "-c", "\n".join(program)], folder)
    assert done.returncode == 0, f"{where}\n{done.stdout}"
    real = done.stdout.split(f"{mark}\n", 1)[1].splitlines()
    if expected is not None:
        assert doc_pages.same_output(expected.lines, real), f"{where}\n" + "\n".join(real)


@pytest.mark.parametrize("section", [pytest.param(s, id=f"{s.page.name}-{s.title}") for s in SECTIONS])
def test_section(section, desk):
    earlier = []
    for number, block in enumerate(section.blocks):
        if doc_pages.is_console(block):
            for command in doc_pages.commands(block):
                run_command(command, section, desk)
        elif block.language == "sh":
            run_script(block, section, desk)
        elif block.language == "python":
            after = section.blocks[number + 1] if number + 1 < len(section.blocks) else None
            expected = after if after is not None and after.before == PRINTS else None
            run_python(block, earlier, expected, section, desk)
            earlier.append(block)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_command_hides_in_a_block_that_is_not_run(page):
    for section in doc_pages.sections(page):
        for block in section.blocks:
            known = doc_pages.EXECUTED | doc_pages.SHOWN
            assert block.language in known, f"{page.name}:{block.line}: what is {block.language}?"
            if not runs(block):
                hidden = [line for line in block.lines if line.startswith(("$ ", "sipl "))]
                assert not hidden, f"{page.name}:{block.line}: {hidden[0]}"


def test_pages_show_enough_to_be_worth_this_test():
    shown = [c for s in SECTIONS for b in s.blocks if doc_pages.is_console(b) for c in doc_pages.commands(b)]
    assert {c.exit_code for c in shown} == {0, 1, 2}
    commands = {word for c in shown for word in ("verify", "boot", "inspect", "certs", "demo") if f" {word}" in c.text}
    assert len(commands) == 5
    assert sum(1 for c in shown if c.output) > 20


def test_outputs_are_told_apart():
    assert doc_pages.same_output(("a … c", "…", "end"), ["a b c", "x", "y", "end"])
    assert doc_pages.same_output(("a", "…"), ["a"])
    assert not doc_pages.same_output(("a … c",), ["a b d"])
    assert not doc_pages.same_output(("a",), ["a", "b"])
    assert not doc_pages.same_output(("a…", "b"), ["a", "x", "b"])


@pytest.mark.parametrize(
    ("text", "makes"), [("make no-such-target", "no target"), ("pip install elsewhere", "not this")]
)
def test_what_is_not_run_is_still_checked(text, makes, tmp_path):
    section = doc_pages.Section(ROOT / "README.md", "none", ())
    with pytest.raises(AssertionError, match=makes):
        run_command(doc_pages.Command(text, 0, (), 1), section, tmp_path)
