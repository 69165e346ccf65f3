"""Pages of the documentation, and a folder with the files that they name."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

# pytest's importlib mode puts nothing on the path.
sys.path.insert(0, str(Path(__file__).resolve().parent))

import doc_files


@pytest.fixture(scope="session")
def doc_template(tmp_path_factory):
    folder = tmp_path_factory.mktemp("doc-files")
    doc_files.make_files(folder)
    return folder


@pytest.fixture
def desk(doc_template, tmp_path):
    """A folder of its own with a copy of every file that a page may name."""
    folder = tmp_path / "desk"
    shutil.copytree(doc_template, folder)
    return folder
