"""Disks that the real zipl wrote in a real guest, with the verdict of a reference QEMU, in both modes.

They lie in `disks` of the reference folder (SIPL_SHARED names another one of the same form), the keys in `keys`.
"""

from __future__ import annotations

import json

import pytest

from sipl.ipl import boot
from sipl.machine.boot_devices import device_kind
from sipl.machine.options import MachineOptions, parse_time
from sipl.settings import Disk, Settings

MODES = ("audit", "secure")
AT = "2026-11-23T04:00:00Z"  # the certificates of the disks are valid; a case may name another time
KNOWN = {"outcome", "reason", "mode", "verified", "error_indicators"}


def name_of(case, mode):
    certificates = "+".join(name.removesuffix(".pem") for name in case["boot_certs"]) or "no-certificate"
    return f"{case['disk'].removesuffix('.qcow2')}-{certificates}-{mode}"


def pytest_generate_tests(metafunc):
    if "case" not in metafunc.fixturenames:
        return
    found = [p.shared_folder() for p in metafunc.config.pluginmanager.get_plugins() if hasattr(p, "shared_folder")]
    cases = found[0] / "disks" / "cases.json" if found[0] is not None else None
    if cases is None or not cases.is_file():
        metafunc.parametrize(("case", "mode"), [pytest.param(None, None, id="no-disks")])
        return
    metafunc.parametrize(
        ("case", "mode"),
        [
            pytest.param(case, mode, id=name_of(case, mode))
            for case in json.loads(cases.read_text("utf-8"))
            for mode in MODES
        ],
    )


def test_disk(shared, case, mode):
    if case is None:
        pytest.skip(f"there are no disks in {shared}")
    expect = case["expect"][mode]
    assert not expect.keys() - KNOWN
    machine = MachineOptions(
        secure_boot=mode == "secure", boot_certs=tuple(str(shared / "keys" / name) for name in case["boot_certs"])
    )
    disk = Disk(str(shared / "disks" / case["disk"]), device_kind(case["device"]))
    report = boot([disk], Settings(machine=machine, at=parse_time(case.get("at", AT))))
    assert (report.outcome, report.reason) == (expect["outcome"], expect["reason"])
    assert report.mode == expect.get("mode", mode)
    if "verified" in expect:
        assert [c.address for c in report.components if c.verified] == expect["verified"]
    if "error_indicators" in expect:
        assert report.error_indicators == expect["error_indicators"]


def test_block_size_is_found_out(shared):
    """The cases name the block size, the test above does not: sipl found it, or block 0 would lead nowhere."""
    path = shared / "disks" / "good4k.qcow2"
    if not path.is_file():
        pytest.skip(f"there are no disks in {shared}")
    machine = MachineOptions(secure_boot=True, boot_certs=(str(shared / "keys" / "certA.pem"),))
    settings = Settings(machine=machine, at=parse_time(AT))
    assert boot([Disk(str(path))], settings).outcome == "hands-over"
    wrong = boot([Disk(str(path), block_size=512)], settings)
    assert (wrong.outcome, wrong.reason) == ("no-bootable-device", "boot-record-invalid")
