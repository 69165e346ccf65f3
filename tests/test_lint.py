"""The linters are part of the tests; they run from the environment of the interpreter that runs the tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# All folders with Python of ours.
FOLDERS = [name for name in ("src", "tests", "bench", "fuzz", "tools") if (ROOT / name).is_dir()]


def check(*command: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.fail(f"{' '.join(command)}\n{done.stdout}", pytrace=False)


def test_there_is_something_to_check():
    assert {"src", "tests"} <= set(FOLDERS)


def test_ruff_check():
    check("ruff", "check", *FOLDERS)


def test_ruff_format():
    check("ruff", "format", "--check", "--diff", *FOLDERS)


def test_mypy_strict():
    check("mypy")
