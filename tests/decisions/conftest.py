"""The laboratory (tests/lab) for every test of this folder, and what watches the machine from outside."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from sipl.disk.block_device import BlockDevice

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "lab"))

import ipl_lab


@pytest.fixture(scope="session")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    return ipl_lab.Lab(tmp_path, signers)


@pytest.fixture
def reads(monkeypatch):
    """List of (path, block) of every block that a boot device is asked for, in order."""
    asked = []
    original = BlockDevice.read_blocks

    def read_blocks(self, block, count, buffer):
        asked.extend((self.image.path, number) for number in range(block, block + count))
        original(self, block, count, buffer)

    monkeypatch.setattr(BlockDevice, "read_blocks", read_blocks)
    return asked
