"""Whatever is changed on disk: a hand-over in secure mode keeps the promise of docs/fuzzing.md."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipl.crypto.certificate import Certificate
from sipl.crypto.verify import SignatureCheck
from sipl.firmware import global_rules, report, secure_ipl
from sipl.firmware.area import FirmwareArea
from sipl.firmware.components import ComponentList
from sipl.reasons import Outcome

CASE_LENGTH = 128
EXECUTIONS = 4000
SLOW_EXECUTIONS = int(os.environ.get("SIPL_FUZZ_EXECUTIONS", "100000"))


def run(secure_boot, executions, seed):
    from fuzz.secure_boot import MIN_SHARE

    generator = random.Random(seed)
    for _ in range(executions):
        secure_boot.execute(generator.randbytes(CASE_LENGTH))
    print(
        f"{secure_boot.executions} executions, {secure_boot.share:.0%} handed over, {secure_boot.different} different "
        f"disks, {secure_boot.crypto.asked} signatures verified by OpenSSL, {len(secure_boot.reasons)} reasons"
    )
    assert secure_boot.executions == executions
    # Without hand-overs, of disks that differ, by many ways, the property would say nothing.
    assert secure_boot.share >= MIN_SHARE
    assert secure_boot.different >= min(secure_boot.outcomes[Outcome.HANDS_OVER] // 2, 5000)
    assert sum(count for verified, count in secure_boot.verified.items() if verified > 1) > executions // 20
    assert len(secure_boot.reasons) > 24


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.binary(max_size=CASE_LENGTH))
def test_hand_over_implies_the_promise(secure_boot, data):
    """With hypothesis, which finds the simplest case that breaks it."""
    secure_boot.execute(data)


def test_hand_over_implies_the_promise_many_times(secure_boot):
    run(secure_boot, EXECUTIONS, 1)


@pytest.mark.slow
def test_hand_over_implies_the_promise_very_many_times(secure_boot):
    run(secure_boot, SLOW_EXECUTIONS, None)


def test_no_choices_make_an_untouched_disk(secure_boot):
    assert secure_boot.execute(b"").outcome is Outcome.HANDS_OVER
    assert secure_boot.verified == {2: 1}


# A boot side that breaks the promise is caught: one rule is taken away from it at a time.


def _nothing(*arguments):
    pass


def _forbids_only_what_is_not_there(area, address, length):
    return "outside" if address + length > area.memory_size else ""


def _meets_all_but_the_first_byte(components, address, length):
    end = address + length
    return next((c for c in components if c.signed and c.address < end - 1 and address < c.end), None)


def _without_index(component):
    return ENTRY(component)._replace(certificate_index=0)


def _half_as_long(component):
    return ENTRY(component)._replace(length=component.length // 2)


def _always_signed(component):
    return ENTRY(component)._replace(flags=0xC0)


ENTRY = report.component_entry
BROKEN = {
    "components may overlap": (secure_ipl.SecureIpl, "_check_overlap", _nothing, "b"),
    "components may overlap by a byte": (ComponentList, "signed_at", _meets_all_but_the_first_byte, "b"),
    "components may lie over the firmware": (FirmwareArea, "why_forbidden", _forbids_only_what_is_not_there, "b"),
    "the PSW may point anywhere": (global_rules, "_in_signed_code", lambda psw, components: True, "a"),
    "any key will do": (SignatureCheck, "_check_key", _nothing, "c"),
    "certificates never expire": (Certificate, "check_time", _nothing, "c"),
    "any key usage will do": (Certificate, "check_key_usage", _nothing, "c"),
    "the report names the first certificate": (report, "component_entry", _without_index, "c"),
    "the report halves the lengths": (report, "component_entry", _half_as_long, "c"),
    "the report says signed of all": (report, "component_entry", _always_signed, "c"),
}
ENOUGH = 8000


@pytest.mark.parametrize(("place", "name", "instead", "promise"), BROKEN.values(), ids=BROKEN)
def test_a_broken_boot_side_is_caught(secure_boot, monkeypatch, place, name, instead, promise):
    from fuzz.hand_over import Violation

    monkeypatch.setattr(place, name, instead)
    generator = random.Random(1)
    with pytest.raises(Violation) as caught:
        for _ in range(ENOUGH):
            secure_boot.execute(generator.randbytes(CASE_LENGTH))
    assert caught.value.promise == promise
