"""`sipl verify`: each disk by itself, all findings, exit codes, one JSON object per line."""

from __future__ import annotations

import pytest
from ipl_lab import KERNEL, Load, code
from stage3_lab import program_with_unsigned_kernel


@pytest.fixture
def refused(lab):
    """A disk whose loader carries a wrong SCLAB, and whose RAM disk overlaps the kernel: two findings."""
    program = lab.program(loader=lab.loader(sclab_format=1), initrd=Load(KERNEL, code(512, 9)))
    return lab.disk(program).path


@pytest.fixture
def trusted(signers):
    return ("--boot-certs", signers["A"].path, "--at", "@1800000000")


def test_would_boot(sipl, demo):
    result = sipl("verify", *demo.trusted, demo.disk)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == f"{demo.disk}: would boot in secure mode"


def test_would_not_boot_and_everything_that_speaks_against_it(sipl, refused, trusted):
    result = sipl("verify", *trusted, refused)
    assert (result.code, result.err) == (1, "")
    assert result.lines[0].startswith(f"{refused}: would not boot in secure mode: ")
    errors = [line.split(": ")[1] for line in result.lines if line.startswith("  error: ")]
    assert {"sclab-format", "address-overlap"} <= set(errors)


def test_audit_mode_warns_only(sipl, refused, trusted):
    result = sipl("verify", "--mode", "audit", *trusted, refused)
    assert result.code == 0
    assert result.lines[0] == f"{refused}: would boot in audit mode"
    assert any(line.startswith("  warning: sclab-format: ") for line in result.lines)
    assert result == sipl("verify", "--secure-boot", "off", *trusted, refused)
    assert result == sipl("verify", "-M", "s390-ccw-virtio,secure-boot=off", *trusted, refused)


def test_without_a_certificate_secure_mode_says_no(sipl, demo):
    result = sipl("verify", demo.disk)
    assert result.code == 1
    assert result.lines[0] == f"{demo.disk}: would not boot in secure mode: no-certificate"


class TestExitCodes:
    """The worst of them: 0 all would boot, 1 one would not, 2 one could not be decided."""

    @pytest.mark.parametrize(
        ("disks", "code"),
        [
            ("good", 0),
            ("good good", 0),
            ("bad", 1),
            ("good bad", 1),
            ("bad good", 1),
            ("missing", 2),
            ("good missing", 2),
            ("missing good", 2),
            ("bad missing", 2),
            ("missing bad good", 2),
        ],
    )
    def test_of_several_disks(self, sipl, demo, bad, tmp_path, disks, code):
        names = {"good": demo.disk, "bad": bad, "missing": str(tmp_path / "missing")}
        paths = [names[name] for name in disks.split()]
        result = sipl("verify", "-q", *demo.trusted, *paths)
        assert (result.code, result.err) == (code, "")
        assert [line.partition(": ")[0] for line in result.lines] == paths

    def test_a_loader_that_will_refuse_counts_as_not_booting(self, sipl, lab, trusted):
        disk = lab.disk(program_with_unsigned_kernel(lab)).path
        result = sipl("verify", *trusted, disk)
        assert result.code == 1
        assert "the loader would refuse to go on in secure mode" in result.lines[0]
        assert any("loader-will-refuse" in line for line in result.lines)
        booted = sipl("boot", "--engine", "none", "--secure-boot", "on", *trusted, disk)
        assert (booted.code, "hands over" in booted.lines[0]) == (0, True)


class TestJson:
    def test_one_object_per_line_in_the_order_of_the_disks(self, sipl, demo, bad, tmp_path):
        missing = str(tmp_path / "missing")
        result = sipl("verify", "--json", *demo.trusted, demo.disk, bad, missing)
        assert result.code == 2
        assert [report["would_boot"] for report in result.json] == [True, False, None]
        assert [report["devices"][0]["path"] for report in result.json] == [demo.disk, bad, missing]
        assert [report["outcome"] for report in result.json] == ["hands-over", "stops", "undecided"]

    def test_outcome_of_the_secure_pass_findings_of_the_complete_one(self, sipl, refused, trusted):
        (report,) = sipl("verify", "--json", *trusted, refused).json
        assert (report["mode"], report["outcome"], report["reason"]) == ("secure", "stops", "sclab-format")
        assert len(report["components"]) == 5
        assert {"sclab-format", "address-overlap"} <= {finding["reason"] for finding in report["findings"]}
        assert (report["ipl_report"], report["ipl_parameter_block"]) == (None, None)

    def test_quiet_and_verbose_change_nothing(self, sipl, demo):
        plain = sipl("verify", "--json", *demo.trusted, demo.disk)
        assert sipl("verify", "--json", "-q", *demo.trusted, demo.disk) == plain
        assert sipl("verify", "--json", "-v", *demo.trusted, demo.disk) == plain


def test_qemu_syntax_gives_the_same_report(sipl, demo):
    plain = sipl("verify", "--json", *demo.trusted, demo.disk)
    qemu = ("-M", f"s390-ccw-virtio,boot-certs.0.path={demo.certificate}", "--at", demo.trusted[-1])
    assert sipl("verify", "--json", *qemu, demo.disk) == plain
    on = ("-M", f"s390-ccw-virtio,secure-boot=on,boot-certs.0.path={demo.certificate}", "--at", demo.trusted[-1])
    assert sipl("verify", "--json", *on, demo.disk) == plain
