"""Whatever a disk holds: it is sealed and keeps the promise of docs/fuzzing.md, or it stays as it is."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sipl.author.seal
import sipl.author.sealing
import sipl.disk.free_room

CASE_LENGTH = 128
EXECUTIONS = 300
ENOUGH = 5000


@pytest.fixture
def sealing(secure_boot, tmp_path):
    """Executions of the property, counted from 0."""
    from fuzz.sealing import Sealing

    return Sealing(secure_boot, str(tmp_path))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=CASE_LENGTH))
def test_a_seal_keeps_its_promise(sealing, data):
    """With hypothesis, which finds the simplest case that breaks it."""
    sealing.execute(data)


def test_a_seal_keeps_its_promise_many_times(sealing):
    from fuzz.sealing import MIN_SHARE

    generator = random.Random(1)
    for _ in range(EXECUTIONS):
        sealing.execute(generator.randbytes(CASE_LENGTH))
    # Without disks that are sealed, and hand over then, the property would say nothing.
    assert sealing.share >= MIN_SHARE
    assert sealing.handed_over >= sealing.sealed.total() // 2
    assert len(sealing.refused) > 9


def test_no_choices_make_a_disk_that_is_sealed(sealing):
    sealing.execute(b"")
    assert (sealing.sealed.total(), sealing.handed_over, sealing.refused.total()) == (1, 1, 0)


# A seal that breaks the promise is caught: one rule is taken away from it at a time.


def _nothing(*arguments):
    pass


def _find_nothing(*arguments):
    return ()


def _would_boot(*arguments, **options):
    return VERIFY(*arguments, **options)._replace(would_boot=True)


def _save_the_new_record(former, written):
    return MAKE_SAVED(written, written)


VERIFY = sipl.author.sealing.verify
MAKE_SAVED = sipl.author.seal.make_saved
BROKEN = {
    "what is in use is overwritten": [(sipl.author.seal, "_check_not_in_use", _nothing)],
    "what is in front of partitions is not looked at": [(sipl.disk.free_room, "_look_through", _find_nothing)],
    "nobody asks whether it will boot": [
        (sipl.author.seal, "check_program", _nothing),
        (sipl.author.sealing, "verify", _would_boot),
    ],
    "the loader's parameters are left as they are": [
        (sipl.author.seal, "mended_parameters", _nothing),
        (sipl.author.sealing, "verify", _would_boot),
    ],
    "the former boot record is not kept": [(sipl.author.seal, "make_saved", _save_the_new_record)],
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_a_broken_seal_is_caught(sealing, monkeypatch, broken):
    from fuzz.sealing import BrokenSeal

    for place, name, instead in broken:
        monkeypatch.setattr(place, name, instead)
    generator = random.Random(1)
    with pytest.raises(BrokenSeal):
        for _ in range(ENOUGH):
            sealing.execute(generator.randbytes(CASE_LENGTH))
