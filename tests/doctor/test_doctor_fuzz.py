"""The doctor on disks of any content: it agrees with `verify`, has advice for each failure, and never falls over."""

from __future__ import annotations

import json
import sys
from functools import cache
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sipl.diagnosis import diagnose
from sipl.doctor.json_form import schema, to_dict
from sipl.ipl import verify
from sipl.machine.options import MachineOptions
from sipl.settings import Disk, Settings

ROOT = Path(__file__).resolve().parent.parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))
VALIDATOR = jsonschema.Draft202012Validator(schema())


@cache
def shop():
    from fuzz.openssl import NoLibCrypto
    from fuzz.secure_boot import SecureBoot

    try:
        return SecureBoot()
    except NoLibCrypto as error:
        pytest.skip(str(error))


def check(disk, wanted):
    report, diagnosis = verify(disk, wanted), diagnose(disk, wanted)
    assert (diagnosis.would_boot, diagnosis.reason) == (report.would_boot, report.reason)
    value = json.loads(json.dumps(to_dict(diagnosis)))
    VALIDATOR.validate(value)
    errors = [problem for problem in diagnosis.problems if problem.level == "error"]
    assert bool(errors) == (report.would_boot is not True)
    assert all(problem.steps and problem.what.isprintable() for problem in diagnosis.problems)
    for finding in report.findings:
        if finding.level != "info":
            assert any(finding.reason in problem.reasons for problem in diagnosis.problems)


@given(data=st.binary(max_size=60), certificates=st.booleans())
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
def test_disks_of_the_fuzzer(tmp_path_factory, data, certificates):
    from fuzz.disks import NOW

    case = shop().case(data)
    path = tmp_path_factory.getbasetemp() / "doctor-fuzz.raw"
    image, block_size, kind = case.disks[0]
    path.write_bytes(image)
    machine = MachineOptions(
        boot_certs=case.certificates if certificates else (), loadparm=case.loadparm, memory=case.memory
    )
    check(Disk(str(path), kind, block_size), Settings(machine=machine, at=NOW))


@given(st.binary(max_size=3000), st.sampled_from([None, 512, 4096]))
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes(tmp_path_factory, content, block_size):
    path = tmp_path_factory.getbasetemp() / "doctor-any.raw"
    path.write_bytes(content)
    check(Disk(str(path), block_size=block_size), Settings(at=1_800_000_000))
