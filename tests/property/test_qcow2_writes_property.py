"""Whatever a qcow2 image says: a write changes what it is to change, and nothing else (docs/fuzzing.md)."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sipl.disk.qcow2_writer
from sipl.disk.qcow2_refcounts import Refcounts
from sipl.disk.qcow2_writer import Qcow2Writer

CASE_LENGTH = 128
EXECUTIONS = 1000
ENOUGH = 3000


@pytest.fixture
def writes(tmp_path):
    """Executions of the property, counted from 0."""
    from fuzz.qcow2_writes import Qcow2Writes

    return Qcow2Writes(str(tmp_path / "disk.qcow2"))


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=CASE_LENGTH))
def test_a_write_changes_nothing_else(writes, data):
    """With hypothesis, which finds the simplest case that breaks it."""
    writes.execute(data)


def test_a_write_changes_nothing_else_many_times(writes):
    generator = random.Random(1)
    for _ in range(EXECUTIONS):
        writes.execute(generator.randbytes(CASE_LENGTH))
    assert writes.written > EXECUTIONS
    assert writes.refused["qcow2-refcounts"] and writes.refused["image-invalid"]


def test_images_are_in_order_before_they_are_changed():
    from fuzz.choices import Choices
    from fuzz.qcow2_writes import Qcow2Disk

    generator = random.Random(1)
    for _ in range(100):
        disk = Qcow2Disk(Choices(generator.randbytes(CASE_LENGTH)))
        assert disk.stated(disk.image) == disk.references(disk.image)


# A writer that loses data is caught: one rule is taken away from it at a time.


def _nothing(*arguments):
    pass


def _the_first_one(counts):
    return 5


BROKEN = {
    "clusters may have two owners": (sipl.disk.qcow2_writer, "check_owners", _nothing),
    "compressed data is not given back": (Qcow2Writer, "_give_back", _nothing),
    "the reader does not see what is new": (Qcow2Writer, "_reload", _nothing),
    "new clusters are not counted": (Refcounts, "set_count", _nothing),
    "what is in use is taken": (Refcounts, "_behind_the_file", _the_first_one),
}


@pytest.mark.parametrize(("place", "name", "instead"), BROKEN.values(), ids=BROKEN)
def test_a_broken_writer_is_caught(writes, monkeypatch, place, name, instead):
    from fuzz.qcow2_writes import LostData

    monkeypatch.setattr(place, name, instead)
    generator = random.Random(1)
    with pytest.raises(LostData):
        for _ in range(ENOUGH):
            writes.execute(generator.randbytes(CASE_LENGTH))
