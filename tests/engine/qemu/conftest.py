"""What the tests of the QEMU engine share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parents[2]
# pytest's importlib mode puts nothing on the path.
sys.path[:0] = [str(TESTS / "lab"), str(TESTS / "engine" / "embedded")]

import ipl_lab  # noqa: E402 (behind the path)


@pytest.fixture(scope="session")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    pytest.importorskip("unicorn", reason="unicorn is not installed (pip install unicorn)")
    import qemu_guests

    qemu_guests.find_qemu()
    return qemu_guests.QemuLab(tmp_path, signers)
