"""What all tests share: the reference folder, tools of the host, and how a test says what it misses."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / "tests" / "data"


def shared_folder() -> Path | None:
    """The folder with the reference material, or None: $SIPL_SHARED, else `shared` beside the checkout."""
    place = Path(os.environ.get("SIPL_SHARED", ROOT.parent / "shared"))
    return place if (place / "corpus" / "cases.json").is_file() else None


def tool(name: str, package: str) -> str:
    """Path of a program of the host; skips the test with the name of the Debian package where it is missing."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed (apt-get install {package})")
    return found


@pytest.fixture(scope="session")
def shared() -> Path:
    place = shared_folder()
    if place is None:
        pytest.skip("no reference material: put it beside the checkout as `shared` or name it in $SIPL_SHARED")
    return place


@pytest.fixture(scope="session")
def need_tool():
    return tool


@pytest.fixture(scope="session")
def data() -> Path:
    return DATA
