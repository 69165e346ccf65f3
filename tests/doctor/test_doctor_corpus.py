"""The doctor on every case of the reference corpus and on every disk that the real zipl wrote.

It says what the reference found: those that boot will boot, for each other one there is something to do.
"""

from __future__ import annotations

import gzip
import json
import shlex

import jsonschema
import pytest

from sipl.cli.main import run
from sipl.diagnosis import diagnose
from sipl.doctor.json_form import schema, to_dict
from sipl.doctor.text import diagnosis_lines
from sipl.ipl import verify
from sipl.machine.boot_devices import device_kind
from sipl.machine.options import MachineOptions, parse_time
from sipl.settings import Disk, Settings

VALIDATOR = jsonschema.Draft202012Validator(schema())
AT = "2026-11-23T04:00:00Z"
# What the doctor has a name of its own for; every other case is named by its reason.
NAMES = {
    "01": ["changed"],
    "05": ["not-signed", "no-gap"],
    "06": ["not-signed", "no-gap"],
    "07": ["changed"],
    "10": ["changed"],
    "11": ["signature-unusable", "no-gap"],
    "14": ["signature-unusable", "no-gap"],
    "18b": ["weak-signature", "no-gap"],
    "41": ["sclab-lost"],
    "42": ["sclab-lost"],
    "48": ["not-signed"],
    "49e": ["not-signed", "single-component-violated"],
    "70": ["padded"],
    "80": ["no-certificate"],
    "81": ["signer-unknown"],
    "83": ["certificate-expired"],
    "84": ["certificate-not-yet-valid"],
    "closed": [],
    "cxxxxx": ["certificate-key"],
    "cxxxxxxx": ["signature-unusable", "no-gap"],
    "s4": ["sclab-lost"],
    "g2": ["certificate-expired"],
    "g3xx": ["weak-signature", "no-gap"],
    "g3xxx": ["weak-signature", "no-gap"],
}


def pytest_generate_tests(metafunc):
    found = [p.shared_folder() for p in metafunc.config.pluginmanager.get_plugins() if hasattr(p, "shared_folder")]
    for name, folder in (("corpus_case", "corpus"), ("disk_case", "disks")):
        if name not in metafunc.fixturenames:
            continue
        cases = found[0] / folder / "cases.json" if found[0] is not None else None
        if cases is None or not cases.is_file():
            metafunc.parametrize(name, [pytest.param(None, id="no-reference")])
            return
        # Of several disks each is judged by itself: a boot order is nothing for the doctor.
        rows = [row for row in json.loads(cases.read_text("utf-8")) if len(row.get("disks", ())) < 2]
        ids = [row.get("id") or f"{row['disk']}-{'+'.join(row['boot_certs'])}" for row in rows]
        metafunc.parametrize(name, [pytest.param(row, id=i) for row, i in zip(rows, ids, strict=True)])


def check(diagnosis, expect):
    """What holds for every diagnosis, and the verdict."""
    VALIDATOR.validate(to_dict(diagnosis))
    will = expect["outcome"] == "hands-over"
    assert (diagnosis.would_boot, diagnosis.exit_code) == (will, 0 if will else 1)
    errors = [problem for problem in diagnosis.problems if problem.level == "error"]
    assert bool(errors) != will
    for problem in diagnosis.problems:
        assert problem.steps
        assert all(step in diagnosis.steps for step in problem.steps)
    assert [step.rank for step in diagnosis.steps] == sorted(step.rank for step in diagnosis.steps)
    assert len(set(diagnosis.steps)) == len(diagnosis.steps)
    text = "\n".join(diagnosis_lines(diagnosis, verbose=True))
    assert ("will boot in secure mode" in text) == will
    assert ("what to do:" in text) == bool(diagnosis.problems)


def test_corpus_case(shared, tmp_path, corpus_case):
    case, folder = corpus_case, shared / "corpus"
    image = tmp_path / "disk.img"
    image.write_bytes(gzip.decompress((folder / case["disks"][0]).read_bytes()))
    machine = MachineOptions(
        secure_boot=True,
        boot_certs=tuple(str(folder / path) for path in case["boot_certs"]),
        loadparm=case["loadparm"] or "",
        memory=case["memory_mib"] << 20,
    )
    settings = Settings(machine=machine, cpu=case["cpu"] or "qemu", at=parse_time(case["at"]))
    disk = Disk(str(image), device_kind(case["device"]), case["block_size"])
    expect = case["expect"]["secure"]
    diagnosis = diagnose(disk, settings)
    check(diagnosis, expect)
    names = [problem.name for problem in diagnosis.problems]
    if case["id"] in NAMES:
        assert names == NAMES[case["id"]]
    elif expect["outcome"] != "hands-over":
        assert expect["reason"] in names
    explained = {reason for problem in diagnosis.problems for reason in problem.reasons}
    found = verify(disk, settings).findings
    assert {finding.reason for finding in found if finding.level != "info"} <= explained
    assert diagnosis.closed is (True if case["id"] == "closed" else diagnosis.closed and None)


def test_disk_case(shared, disk_case):
    if disk_case is None:
        pytest.skip("no disks")
    machine = MachineOptions(boot_certs=tuple(str(shared / "keys" / name) for name in disk_case["boot_certs"]))
    settings = Settings(machine=machine, at=parse_time(disk_case.get("at", AT)))
    diagnosis = diagnose(Disk(str(shared / "disks" / disk_case["disk"])), settings)
    check(diagnosis, disk_case["expect"]["secure"])
    assert diagnosis.closed is None or diagnosis.closed is False
    assert diagnosis.unsigned[-6:] == (
        "parameters",
        "command line",
        "initrd",
        "environment block",
        "heap",
        "stack",
    )


@pytest.fixture
def real(shared):
    """Examine one of the disks with certificates of the reference folder."""

    def examine(name, *certificates):
        path = shared / "disks" / name
        if not path.is_file():
            pytest.skip(f"there are no disks in {shared}")
        machine = MachineOptions(boot_certs=tuple(str(shared / "keys" / c) for c in certificates))
        return diagnose(Disk(str(path)), Settings(machine=machine, at=parse_time(AT)))

    return examine


def test_sparse_defect_of_a_real_disk(real):
    (problem,) = real("sparse.qcow2", "certA.pem").problems
    assert (problem.name, problem.parts) == ("sparse-defect", ("kernel",))
    assert {"signature-not-verified", "loader-will-refuse"} <= set(problem.reasons)
    assert [step.command for step in problem.steps] == [
        "cp --sparse=never /boot/vmlinuz NEW && mv NEW /boot/vmlinuz",
        "zipl --secure 1",
    ]


def test_sparse_defect_is_seen_without_a_certificate_and_with_a_wrong_one(real):
    for certificates in ((), ("certB.pem",)):
        assert real("sparse.qcow2", *certificates).problems[0].name == "sparse-defect"


def test_unsigned_real_disk_is_to_be_sealed(real):
    diagnosis = real("unsigned.qcow2", "certA.pem")
    assert [problem.name for problem in diagnosis.problems] == ["not-signed"]
    assert diagnosis.problems[0].parts == ("loader", "kernel")
    (step,) = diagnosis.steps
    assert step.command.startswith("sipl seal --key key.pem --cert cert.pem ")
    assert step.command.endswith("unsigned.qcow2")


def test_the_signer_and_the_certificates_that_were_tried_are_named(real):
    (problem,) = real("good.qcow2", "certB.pem", "certEC.pem").problems
    assert (problem.name, problem.parts) == ("signer-unknown", ("loader", "kernel"))
    assert "CN=SIPL oracle A RSA2048, serial number 0x2cf08e786adcb95ee86d51c35c82e690e2a44262" in problem.what
    assert [detail.split(":")[0] for detail in problem.details] == ["tried certB.pem", "tried certEC.pem"]
    assert "serial number 0xfc23004618776ccfef72b103822f42819fc73d4" in problem.details[0]


def test_only_the_loader_is_by_somebody_else(real):
    diagnosis = real("mixed.qcow2", "certA.pem")
    assert [(p.name, p.parts) for p in diagnosis.problems] == [("signer-unknown", ("loader",))]
    assert [(v.part, v.certificate) for v in diagnosis.verified] == [("kernel", "certA.pem")]


def test_the_step_that_it_names_heals_the_disk(shared, tmp_path, monkeypatch):
    """The command is typed as it stands there, with a new key."""
    original = shared / "disks" / "unsigned.qcow2"
    if not original.is_file():
        pytest.skip(f"there are no disks in {shared}")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.qcow2").write_bytes(original.read_bytes())
    assert run(["keygen", "--kind", "p521", "--key", "key.pem", "--cert", "cert.pem"]) == 0
    settings = Settings(machine=MachineOptions(boot_certs=("cert.pem",)))
    (step,) = diagnose(Disk("disk.qcow2"), settings).steps
    program, *words = shlex.split(step.command)
    assert (program, words[0]) == ("sipl", "seal")
    assert run(words) == 0
    healed = diagnose(Disk("disk.qcow2"), settings)
    assert (healed.would_boot, healed.problems) == (True, ())
    assert [verified.part for verified in healed.verified] == ["loader", "kernel"]
