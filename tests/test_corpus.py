"""Every case of the reference corpus, in both modes: disks made by mutation, with verdicts measured on QEMU.

The corpus lies in `corpus` of the reference folder (SIPL_SHARED names another one of the same form).
"""

from __future__ import annotations

import gzip
import json

import pytest

from sipl.ipl import boot
from sipl.machine.boot_devices import device_kind
from sipl.machine.options import MachineOptions, parse_time
from sipl.settings import Disk, Settings

MODES = ("audit", "secure")
# What `expect` of a case can hold; a corpus with anything else is not silently half checked.
KNOWN = {
    "outcome",
    "reason",
    "mode",
    "error_indicators",
    "components",
    "psw_error_indicators",
    "certificate_lengths",
    "verified",
}


def pytest_generate_tests(metafunc):
    found = [p.shared_folder() for p in metafunc.config.pluginmanager.get_plugins() if hasattr(p, "shared_folder")]
    folder = found[0]
    if folder is None:
        # The `shared` fixture says what is missing.
        metafunc.parametrize(("case", "mode"), [pytest.param(None, None, id="no-corpus")])
        return
    cases = json.loads((folder / "corpus" / "cases.json").read_text("utf-8"))
    metafunc.parametrize(
        ("case", "mode"),
        [
            pytest.param(case, mode, id=f"{case['id']}-{mode}")
            for case in cases
            for mode in MODES
            if mode in case["expect"]
        ],
    )


def number(value):
    """The cases write numbers as numbers or as hexadecimal text."""
    return int(value, 16) if isinstance(value, str) else value


def numbers(record):
    return {name: number(value) for name, value in record.items()}


def check(report, expect):
    """Compare a report with everything that a case expects."""
    assert not expect.keys() - KNOWN
    assert (report.outcome, report.reason) == (expect["outcome"], expect["reason"])
    if "mode" in expect:
        assert report.mode == expect["mode"]
    if "error_indicators" in expect:
        assert report.error_indicators == number(expect["error_indicators"])
    if "components" in expect:
        fields = expect["components"][0].keys() if expect["components"] else ()
        found = [{name: getattr(c, name) for name in fields} for c in report.components]
        assert found == [numbers(c) for c in expect["components"]]
    if "psw_error_indicators" in expect:
        assert report.psw_error_indicators == number(expect["psw_error_indicators"])
    if "certificate_lengths" in expect:
        assert [c.length for c in report.certificates] == expect["certificate_lengths"]
    if "verified" in expect:
        assert [c.address for c in report.components if c.verified] == [number(a) for a in expect["verified"]]


def test_corpus(shared, tmp_path, case, mode):
    folder = shared / "corpus"
    disks = []
    for name in case["disks"]:
        image = tmp_path / f"{len(disks)}.img"
        image.write_bytes(gzip.decompress((folder / name).read_bytes()))
        disks.append(Disk(str(image), device_kind(case["device"]), case["block_size"]))
    machine = MachineOptions(
        secure_boot=mode == "secure",
        boot_certs=tuple(str(folder / path) for path in case["boot_certs"]),
        loadparm=case["loadparm"] or "",
        memory=case["memory_mib"] << 20,
    )
    report = boot(disks, Settings(machine=machine, cpu=case["cpu"] or "qemu", at=parse_time(case["at"])))
    check(report, case["expect"][mode])
