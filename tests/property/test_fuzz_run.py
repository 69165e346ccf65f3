"""The driver of `make fuzz`: it counts, it finds, it says which way it goes."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def run(*arguments):
    environment = {name: value for name, value in os.environ.items() if name != "SIPL_FUZZ_EXECUTIONS"}
    command = [sys.executable, str(ROOT / "fuzz" / "run.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def failing(data):
    if len(data) > 2 and data[0] & 1:
        raise KeyError("found")


def test_plain_driver_counts_every_execution():
    from fuzz.run import drive_plain
    from fuzz.targets import Target

    seen = []
    result = drive_plain(Target(seen.append, lambda: [b"a", b"b"], lambda: "words"), 0, 300, 1, None)
    assert result.executions == len(seen) == 300
    assert result.findings == ()
    assert result.summary == "words"
    assert seen[:2] == [b"a", b"b"]
    assert len(set(seen)) > 100


def test_plain_driver_reports_each_kind_of_finding_once(tmp_path):
    from fuzz.run import drive_plain
    from fuzz.targets import Target

    result = drive_plain(Target(failing, lambda: [b"bbbb"]), 0, 500, 1, tmp_path)
    assert result.executions == 500
    assert len(result.findings) == 1
    assert "KeyError: 'found'" in result.findings[0]
    (kept,) = tmp_path.iterdir()
    with pytest.raises(KeyError):
        failing(kept.read_bytes())


def test_plain_driver_reports_what_is_slow(tmp_path, monkeypatch):
    from fuzz import run as driver
    from fuzz.targets import Target

    monkeypatch.setattr(driver, "SLOWEST", -1)
    result = driver.drive_plain(Target(len, lambda: [b"x"]), 0, 3, 1, tmp_path)
    assert len(result.findings) == 1
    assert "one execution took" in result.findings[0]


def test_plain_run_prints_the_executions():
    done = run("--plain", "--executions", "40", "sclab", "options")
    assert done.returncode == 0, done.stderr
    assert "random changes, seed " in done.stdout
    assert "sclab               40 executions in " in done.stdout
    assert done.stdout.splitlines()[-1].split() == ["all", "80", "executions,", "0", "findings"]


def test_without_atheris_it_says_that_changes_are_random(monkeypatch, capsys):
    from fuzz import run as driver

    monkeypatch.setattr(driver.importlib.util, "find_spec", lambda name: None)
    assert driver.main(["--executions", "20", "sclab"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("atheris is not installed for this Python")
    assert said[1].startswith("random changes, seed ")
    assert said[-1].split() == ["all", "20", "executions,", "0", "findings"]


def test_a_finding_makes_the_run_fail(monkeypatch, capsys, tmp_path):
    from fuzz import run as driver
    from fuzz import targets

    monkeypatch.setitem(targets.TARGETS, "sclab", targets.Target(failing, lambda: [b"abcd"]))
    assert driver.main(["--plain", "--executions", "20", "--seed", "1", "--keep", str(tmp_path), "sclab"]) == 1
    assert "KeyError: 'found'" in capsys.readouterr().out


def test_an_unknown_target_is_wrong_usage():
    done = run("nothing")
    assert done.returncode == 2
    assert "there is no target nothing" in done.stderr


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)"
)
def test_guided_run_prints_the_executions_and_the_coverage(tmp_path):
    done = run("--executions", "200", "--keep", str(tmp_path), "sclab")
    assert done.returncode == 0, done.stdout
    assert "guided by coverage, seed " in done.stdout
    assert "200 executions in " in done.stdout
    assert "; coverage " in done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (pip install atheris)"
)
def test_guided_run_leaves_no_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SIPL_FUZZ_FOLDER", str(tmp_path))
    done = run("--executions", "20", "--keep", str(tmp_path / "kept"), "signed-file")
    assert done.returncode == 0, done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_every_target_has_a_harness():
    from fuzz import run as driver
    from fuzz.targets import TARGETS

    assert set(driver.TARGETS) == set(TARGETS)


def test_the_page_names_every_target():
    from fuzz import run as driver

    page = (ROOT / "docs" / "fuzzing.md").read_text("utf-8")
    rows = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    assert sorted(name for row in rows for name in re.findall("`([^`]+)`", row)) == sorted(driver.TARGETS)
