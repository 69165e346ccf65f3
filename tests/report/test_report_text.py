"""The report as plain lines and on a terminal: the verdict first, then what a person needs."""

from __future__ import annotations

import io
import re

import pytest
from ipl_lab import KERNEL, MIB, kernel_bytes
from stage3_lab import program_with_unsigned_kernel

import sipl
from sipl.report.text import component_state, report_lines, verdict


@pytest.fixture
def broken(lab):
    return lab.verify(lab.program(kernel=lab.signed(KERNEL, kernel_bytes(), by="B"), loader=lab.loader(sclab_format=1)))


class TestVerdict:
    def test_boot(self, lab, tmp_path):
        disk = lab.disk(lab.program())
        report = sipl.boot([disk], lab.settings())
        assert verdict(report, "boot") == f"{disk.path}: hands over (entry PSW 000800008000a000) in secure mode"
        assert verdict(report, "verify") == f"{disk.path}: would boot in secure mode"

    def test_every_outcome(self, lab, tmp_path):
        disk = lab.disk(lab.program())
        outcomes = {
            "stops": (sipl.boot([disk], lab.settings(certs=())), "the machine stops in secure mode: no-certificate"),
            "no-bootable-device": (
                lab.boot(lab.disk(bytes(MIB))),
                "no bootable device in secure mode: not-a-zipl-disk",
            ),
            "refused-to-start": (
                sipl.boot([disk], lab.settings(certs=("/nonexistent",))),
                "the machine refuses to start in secure mode: certificate-path",
            ),
            "undecided": (
                sipl.boot([sipl.Disk(str(tmp_path))], lab.settings()),
                "undecided in secure mode: image-unreadable",
            ),
        }
        assert {*outcomes, "hands-over"} == set(sipl.Outcome)
        for outcome, (report, text) in outcomes.items():
            assert report.outcome == outcome
            assert verdict(report, "boot").endswith(f": {text}")
            answer = "undecided" if outcome == "undecided" else "would not boot"
            assert f": {answer} in secure mode: {report.reason}" in verdict(report, "verify")

    def test_a_loader_that_will_refuse(self, lab):
        report = lab.verify(program_with_unsigned_kernel(lab))
        assert ": the loader would refuse to go on in secure mode" in verdict(report, "verify")

    def test_no_disk(self):
        assert verdict(sipl.boot([]), "boot") == "guest: the machine refuses to start in normal mode: no-boot-device"

    def test_names_the_disk_that_it_is_about(self, lab):
        empty, good = lab.disk(bytes(MIB)), lab.disk(lab.program())
        assert verdict(sipl.boot([empty, good], lab.settings()), "boot").startswith(f"{good.path}: ")
        assert verdict(sipl.boot([good, empty], lab.settings()), "boot").startswith(f"{good.path}: ")
        assert verdict(sipl.boot([empty, empty], lab.settings()), "boot").startswith(f"{empty.path}, {empty.path}: ")


class TestLines:
    def test_normal(self, lab):
        lines = list(report_lines(lab.boot(lab.program()), "boot", verbose=False))
        assert [line.split(": ")[-1] for line in lines[1:]] == [
            "not signed",
            "verified (A.pem)",
            "not signed",
            "verified (A.pem)",
            "not signed",
        ]
        assert lines[2].startswith("  component 0xa000-0xa400 1024 bytes: ")

    def test_verbose_shows_certificates_digests_and_what_is_in_order(self, lab):
        report = lab.boot(lab.program())
        lines = list(report_lines(report, "boot", verbose=True))
        text = "\n".join(lines)
        assert all(component.digest in text for component in report.components)
        assert "  certificate A.pem: CN=sipl test A, valid " in text
        assert [line.split(": ")[0] for line in lines[-2:]] == ["  info"] * 2

    def test_findings_have_reason_sentence_and_hint(self, broken):
        lines = list(report_lines(broken, "verify", verbose=False))
        findings = [line for line in lines if line.startswith("  error: ")]
        assert len(findings) == len([f for f in broken.findings if f.level == "error"]) >= 2
        assert all(re.fullmatch(r"  error: [a-z-]+: .+ \(.+\)", line) for line in findings)

    def test_error_indicators(self, lab):
        report = lab.boot(lab.program(loader=lab.loader(sclab_format=1)), mode="audit")
        (line,) = [line for line in report_lines(report, "boot", verbose=False) if "error indicators" in line]
        assert re.search(r", error indicators 0x[0-9a-f]{8}$", line)

    def test_states(self, broken):
        assert [component_state(component) for component in broken.components] == [
            "not signed",
            "verified",
            "not signed",
            "signed, NOT VERIFIED",
            "not signed",
        ]


class TestTerminal:
    @staticmethod
    def shown(report, monkeypatch, *, verbose=False, width=100):
        from sipl.report.terminal import print_report

        out = io.StringIO()
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setenv("COLUMNS", str(width))
        for name in ("NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        print_report(report, "verify", verbose=verbose)
        monkeypatch.undo()
        return out.getvalue()

    @pytest.mark.parametrize("width", [20, 40, 80, 200])
    def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(self, broken, monkeypatch, width):
        text = self.shown(broken, monkeypatch, width=width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        letters = re.sub(r"\s", "", text)
        for finding in broken.findings:
            if finding.level != "info":
                assert re.sub(r"\s", "", finding.message) in letters
                assert re.sub(r"\s", "", finding.hint) in letters

    def test_info_only_when_verbose(self, broken, monkeypatch):
        assert "component-verified" not in self.shown(broken, monkeypatch)
        assert "component-verified" in self.shown(broken, monkeypatch, verbose=True)

    def test_marks(self, lab, monkeypatch):
        good = lab.verify(lab.program())
        assert self.shown(good, monkeypatch).startswith("✓ ")
        assert self.shown(good._replace(would_boot=False), monkeypatch).startswith("✗ ")
        assert self.shown(good._replace(would_boot=None), monkeypatch).startswith("? ")

    def test_a_report_without_components(self, monkeypatch):
        text = self.shown(sipl.boot([]), monkeypatch)
        assert "address" not in text
        assert "no-boot-device" in text
