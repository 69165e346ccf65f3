"""The laboratory (tests/lab) for every test of this folder."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import ipl_lab

from sipl.diagnosis import diagnose


@pytest.fixture(scope="session")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    return ipl_lab.Lab(tmp_path, signers)


@pytest.fixture
def doctor(lab):
    """Examine a disk, or what makes one."""

    def examine(content, certs=("A",), block_size=512, **options):
        disk = content if isinstance(content, ipl_lab.Disk) else lab.disk(content, block_size)
        return diagnose(disk, lab.settings(certs=certs, **options))

    return examine
