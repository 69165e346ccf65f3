"""`sipl doctor`: exit codes, several disks, JSON, what a terminal shows."""

from __future__ import annotations

import re

import pytest
from ipl_lab import KERNEL, Load, kernel_bytes


@pytest.fixture
def padded(lab):
    payload = kernel_bytes(1500)
    return lab.disk(lab.program(kernel=Load(KERNEL, payload, lab.signers["A"].sign(payload)))).path


@pytest.fixture
def good(lab):
    return lab.disk(lab.program()).path


@pytest.fixture
def trusted(lab):
    return ["--at", "@1800000000", "--boot-certs", lab.signers["A"].path]


def test_good(sipl, good, trusted):
    result = sipl("doctor", *trusted, good)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == f"{good}: will boot in secure mode"


def test_several_disks(sipl, good, padded, trusted, tmp_path):
    result = sipl("doctor", *trusted, good, padded)
    assert result.code == 1
    assert [line.split(": ")[1] for line in result.lines if not line.startswith(" ")] == [
        "will boot in secure mode",
        "will not boot in secure mode",
    ]
    assert sipl("doctor", *trusted, good, padded, tmp_path / "none").code == 2


def test_quiet_and_verbose(sipl, padded, trusted):
    assert sipl("doctor", "-q", *trusted, padded).lines == [f"{padded}: will not boot in secure mode"]
    assert "    findings: sclab-missing, " in sipl("doctor", "-v", *trusted, padded).out


def test_json(sipl, good, padded, trusted):
    first, second = sipl("doctor", "--json", *trusted, good, padded).json
    assert (first["schema"], first["would_boot"], first["problems"]) == ("sipl.diagnosis/1", True, [])
    assert [problem["name"] for problem in second["problems"]] == ["padded"]


def test_without_a_certificate(sipl, good):
    result = sipl("doctor", good)
    assert result.code == 1
    assert "signed by CN=sipl test A" in result.out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "no disk is named"),
        (("--secure-boot", "off", "x"), "examines disks for secure mode"),
        (("-M", "secure-boot=off", "x"), "examines disks for secure mode"),
        (("--mode", "audit", "x"), "--mode"),
    ],
)
def test_wrong_usage(sipl, words, says):
    result = sipl("doctor", *words)
    assert (result.code, result.out) == (2, "")
    assert says in result.err
    assert result.err.count("\n") == 1


def test_help_has_examples(sipl):
    result = sipl("doctor", "--help")
    assert result.code == 0
    assert result.out.count("\n  sipl doctor ") == 3


def test_terminal(terminal, good, padded, trusted):
    with terminal("doctor", *trusted, good, padded) as screen:
        result = screen.finish()
    assert result.code == 1
    text = re.sub(r"\x1b\[[0-9;]*m", "", result.out)
    assert text.startswith("✓ ")
    assert "\n  ✗ padded  kernel" in text
    assert re.search(r"\n  2\. sign the file of the kernel with your key *\n     sipl sign --key", text)
