"""What the tests of the embedded engine share."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "lab"))

import ipl_lab

# test_engine_is_there.py says what is missing.
collect_ignore_glob = (
    []
    if importlib.util.find_spec("unicorn")
    else ["test_guest_*.py", "test_bad_*.py", "test_linux_*.py", "test_real_*.py"]
)


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    import guest_lab

    return guest_lab.GuestLab(tmp_path, signers)
