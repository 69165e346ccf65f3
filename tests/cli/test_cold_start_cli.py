"""What a start of the command line imports: nothing that the command does not need."""

from __future__ import annotations

import subprocess
import sys

import pytest
from cli_lab import PATIENCE, environment

_PROGRAM = """
import sys
before = set(sys.modules)
{what}
sys.stdout.flush()
sys.stderr.write("\\n".join(sorted(set(sys.modules) - before)))
"""


def imported(what: str, *words: object) -> set[str]:
    """Modules that a piece of Python imports in a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(what=what), *map(str, words)],
        capture_output=True,
        env=environment(),
        timeout=PATIENCE,
        check=True,
    )
    return set(done.stderr.decode().split("\n"))


def imported_by_command(*words: object) -> set[str]:
    return imported("from sipl.cli.main import run; assert run(sys.argv[1:]) == 0", *words)


def roots(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


HEAVY = {"rich", "json", "dataclasses", "inspect", "pathlib", "zstandard", "logging", "tempfile", "datetime", "asyncio"}
HEAVY |= {"unicorn", "ctypes", "termios"}


def test_the_entry_point():
    modules = imported("import sipl.cli.main")
    assert not roots(modules) & (HEAVY | {"cryptography", "argparse", "hashlib"})
    assert {module for module in modules if module.startswith("sipl")} == {
        "sipl",
        "sipl._version",
        "sipl.cli",
        "sipl.cli.main",
        "sipl.cli.output",
    }


@pytest.mark.parametrize("words", [("--help",), ("--version",)], ids=str)
def test_overview_and_version(words):
    modules = imported_by_command(*words)
    assert not roots(modules) & (HEAVY | {"cryptography", "argparse", "hashlib"})


def test_the_package():
    modules = imported("import sipl; sipl.Outcome")
    assert not roots(modules) & (HEAVY | {"cryptography", "argparse", "hashlib"})


@pytest.mark.parametrize("by", ["C", "A"])
def test_verify_of_a_raw_disk(lab, signers, by):
    """RSA (C) is what most certificates have."""
    disk = lab.disk(lab.program(loader=lab.loader(by=by), kernel=lab.kernel(by=by))).path
    modules = imported_by_command("verify", "--boot-certs", signers[by].path, "--at", "@1800000000", disk)
    assert not roots(modules) & HEAVY
    assert "cryptography.x509" not in modules
    assert not {module for module in modules if module.startswith(("sipl.author", "sipl.survey", "sipl.disk.qcow2"))}
    assert "sipl.machine.keyval" not in modules  # only --machine needs it
    assert "sipl.report.terminal" not in modules


def test_verify_with_json(demo):
    modules = imported_by_command("verify", "--json", *demo.trusted, demo.disk)
    assert "json" in modules
    assert not roots(modules) & (HEAVY - {"json"})


def test_inspect_needs_no_cryptography(demo):
    modules = imported_by_command("inspect", demo.disk)
    assert not roots(modules) & (HEAVY | {"cryptography"})


def test_boot_in_normal_mode_needs_no_cryptography(demo):
    assert not roots(imported_by_command("boot", "--engine", "none", demo.disk)) & (HEAVY | {"cryptography"})
