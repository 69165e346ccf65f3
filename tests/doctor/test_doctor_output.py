"""A diagnosis as lines, at a terminal and as JSON."""

from __future__ import annotations

import io
import re

import jsonschema
import pytest
from ipl_lab import KERNEL, Load, kernel_bytes

import sipl
from sipl.doctor import model
from sipl.doctor.json_form import schema, to_dict
from sipl.doctor.text import answer, diagnosis_lines
from sipl.reasons import Reason

SCHEMA = schema()


@pytest.fixture
def ill(lab, doctor):
    payload = kernel_bytes(1500)
    return doctor(lab.program(loader=lab.loader(by="B"), kernel=Load(KERNEL, payload, lab.signers["A"].sign(payload))))


def shown(diagnosis, monkeypatch, *, verbose=False, width=100):
    from sipl.doctor.terminal import print_diagnosis

    out = io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    monkeypatch.setenv("COLUMNS", str(width))
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    print_diagnosis(diagnosis, verbose=verbose)
    monkeypatch.undo()
    return out.getvalue()


class TestLines:
    def test_good(self, lab, doctor):
        lines = list(diagnosis_lines(doctor(lab.program()), verbose=False))
        assert lines[0].endswith(": will boot in secure mode")
        assert lines[1:] == [
            "  verified: loader, kernel (A.pem)",
            "  not signed: parameters, heap, component at 0x20000",
        ]

    def test_ill(self, ill):
        lines = list(diagnosis_lines(ill, verbose=False))
        assert lines[0] == answer(ill)
        assert lines[0].endswith(": will not boot in secure mode")
        text = "\n".join(lines)
        assert "\n  error: padded: kernel: its file has 1500 bytes" in text
        assert "\n  what to do:\n    1. take the file of the kernel (/boot/vmlinuz)" in text
        assert "\n    2. sign the file of the kernel with your key: sipl sign " in text
        assert "\n       or sign the file of the loader" in text

    def test_findings_when_verbose(self, ill):
        assert "findings: sclab-missing" in "\n".join(diagnosis_lines(ill, verbose=True))
        assert "findings:" not in "\n".join(diagnosis_lines(ill, verbose=False))

    def test_undecided(self, ill):
        assert answer(ill._replace(would_boot=None)).endswith(": could not be examined")


class TestTerminal:
    @pytest.mark.parametrize("width", [30, 60, 100, 200])
    def test_no_line_is_wider_than_the_terminal_and_nothing_is_lost(self, ill, monkeypatch, width):
        text = shown(ill, monkeypatch, width=width)
        assert max(len(line.rstrip()) for line in text.splitlines()) <= width
        letters = re.sub(r"\s", "", text)
        for problem in ill.problems:
            for piece in (problem.name, problem.what, *problem.details, *(s.what + s.command for s in problem.steps)):
                assert re.sub(r"\s", "", piece) in letters

    def test_marks(self, ill, lab, doctor, monkeypatch):
        assert shown(ill, monkeypatch).startswith("✗ ")
        assert shown(ill._replace(would_boot=None), monkeypatch).startswith("? ")
        good = shown(doctor(lab.program()), monkeypatch)
        assert good.startswith("✓ ")
        assert "What to do" not in good

    def test_nothing_is_taken_for_markup(self, ill, monkeypatch):
        (problem, *_) = ill.problems
        odd = ill._replace(problems=(problem._replace(what="[bold]x[/bold] :smile:"),))
        assert "[bold]x[/bold] :smile:" in shown(odd, monkeypatch)


class TestJson:
    def test_is_a_schema(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)

    def test_every_object_is_closed_and_everything_is_required(self):
        found = []

        def visit(node):
            if isinstance(node, dict):
                if node.get("type") == "object":
                    found.append(node)
                for member in node.values():
                    visit(member)

        visit(SCHEMA)
        assert len(found) == 5
        for node in found:
            assert node["additionalProperties"] is False
            assert sorted(node["required"]) == sorted(node["properties"])

    def test_has_the_fields_of_the_objects_in_their_order(self):
        properties = SCHEMA["properties"]
        problem = properties["problems"]["items"]["properties"]
        assert [name for name in properties if name != "schema"] == list(model.Diagnosis._fields)
        assert list(problem) == list(model.Problem._fields)
        assert list(properties["verified"]["items"]["properties"]) == list(model.VerifiedPart._fields)
        assert list(properties["steps"]["items"]["properties"]) == [f for f in model.Step._fields if f != "rank"]
        assert problem["reasons"]["items"]["enum"] == [str(reason) for reason in Reason]

    def test_value(self, ill):
        value = to_dict(ill)
        jsonschema.validate(value, SCHEMA)
        assert list(value) == ["schema", *model.Diagnosis._fields]
        assert value["schema"] == "sipl.diagnosis/1"
        assert value["steps"][1] == {
            "what": "sign the file of the kernel with your key",
            "command": "sipl sign --key key.pem --cert cert.pem /boot/vmlinuz",
            "instead": "",
        }

    def test_refuses_what_is_wrong(self, ill):
        good = to_dict(ill)
        for change in ({"schema": "sipl.diagnosis/2"}, {"would_boot": "yes"}, {"steps": ["x"]}, {"more": 1}):
            with pytest.raises(jsonschema.ValidationError):
                jsonschema.validate(good | change, SCHEMA)


def test_every_reason_has_a_remedy():
    """Whatever `verify` can find, there is something to do about it."""
    from sipl.doctor.other import unexplained
    from sipl.report.model import FindingReport

    report = sipl.boot([])
    for reason in Reason:
        finding = FindingReport(reason, sipl.Level.ERROR, None, None, "what", "")
        (problem,) = unexplained(report._replace(findings=(finding,)), (), {})
        assert problem.steps[0].what
        assert problem.name == reason
