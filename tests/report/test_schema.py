"""The JSON of a report is what its schema says, for every outcome and for whatever a report can hold."""

from __future__ import annotations

import json
from typing import get_args, get_type_hints

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipl_lab import KERNEL, MIB, Load, code, kernel_bytes
from stage3_lab import program_with_unsigned_kernel

import sipl
from sipl.firmware.parts import Part
from sipl.reasons import MODE_RULES
from sipl.report import model
from sipl.report.json_form import schema, to_dict, to_json

SCHEMA = schema()
# What came into `/1` when there were reports already.
ADDED = {"closed", "unsigned", "part"}
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def check(report):
    """Validate what a program reads: the text, not the objects behind it."""
    text = to_json(report)
    assert "\n" not in text
    assert text.isascii()
    value = json.loads(text)
    VALIDATOR.validate(value)
    return value


class TestSchema:
    def test_is_a_schema(self):
        jsonschema.Draft202012Validator.check_schema(SCHEMA)
        assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"

    def test_every_object_is_closed_and_everything_is_required(self):
        def objects(node):
            if isinstance(node, dict):
                if node.get("type") == "object":
                    yield node
                for member in node.values():
                    yield from objects(member)
            elif isinstance(node, list):
                for member in node:
                    yield from objects(member)

        found = list(objects(SCHEMA))
        assert len(found) == 5
        for node in found:
            assert node["additionalProperties"] is False
            assert sorted(node["required"]) == sorted(node["properties"].keys() - ADDED)

    def test_takes_a_report_without_what_was_added(self, lab):
        value = check(lab.boot(lab.program()))
        assert value.keys() >= {"closed", "unsigned"}
        older = {name: member for name, member in value.items() if name not in ADDED}
        older["components"] = [
            {name: member for name, member in c.items() if name not in ADDED} for c in value["components"]
        ]
        assert older["components"] != value["components"]
        VALIDATOR.validate(older)

    @pytest.mark.parametrize(
        ("record", "where"),
        [
            (model.Report, SCHEMA["properties"]),
            (model.DeviceReport, SCHEMA["properties"]["devices"]["items"]["properties"]),
            (model.ComponentReport, SCHEMA["properties"]["components"]["items"]["properties"]),
            (model.CertificateReport, SCHEMA["properties"]["certificates"]["items"]["properties"]),
            (model.FindingReport, SCHEMA["properties"]["findings"]["items"]["properties"]),
        ],
        ids=lambda value: getattr(value, "__name__", ""),
    )
    def test_has_the_fields_of_the_objects_in_their_order(self, record, where):
        names = ["index" if name == "report_index" else name for name in record._fields]
        assert [name for name in where if name != "schema"] == names

    def test_enumerations(self):
        properties = SCHEMA["properties"]
        finding = properties["findings"]["items"]["properties"]
        device = properties["devices"]["items"]["properties"]
        reasons = [str(reason) for reason in sipl.Reason]
        assert properties["mode"]["enum"] == [str(mode) for mode in sipl.Mode]
        assert properties["outcome"]["enum"] == [str(outcome) for outcome in sipl.Outcome]
        assert finding["level"]["enum"] == [str(level) for level in sipl.Level]
        assert sorted(finding["reason"]["enum"]) == sorted(reasons)
        assert sorted(properties["reason"]["enum"], key=str) == sorted([*reasons, None], key=str)
        assert sorted(device["reason"]["enum"], key=str) == sorted([*reasons, None], key=str)

        part = properties["components"]["items"]["properties"]["part"]
        assert part["enum"] == [*(str(part) for part in Part), None]

    def test_name_of_the_form(self):
        assert model.SCHEMA == "sipl.report/1"
        assert SCHEMA["properties"]["schema"] == {"const": "sipl.report/1"}

    def test_refuses_what_is_wrong(self, lab):
        good = check(lab.boot(lab.program()))
        for change in (
            {"schema": "sipl.report/2"},
            {"outcome": "boots"},
            {"psw": "0x80"},
            {"would_boot": "yes"},
            {"more": 1},
            {"reason": "because"},
            {"ipl_report": "abc"},
            {"error_indicators": "0x4000"},
        ):
            with pytest.raises(jsonschema.ValidationError):
                VALIDATOR.validate(good | change)
        with pytest.raises(jsonschema.ValidationError):
            VALIDATOR.validate({name: value for name, value in good.items() if name != "psw"})


class TestCases:
    """A spread of real reports; each is checked against the schema and against itself."""

    @staticmethod
    def consistent(report):
        value = check(report)
        assert value["schema"] == "sipl.report/1"
        failed = value["outcome"] != "hands-over"
        assert (value["reason"] is not None) == failed
        assert (value["would_boot"] is None) == (value["outcome"] == "undecided")
        assert report.exit_code == {True: 0, False: 1, None: 2}[value["would_boot"]]
        for position, certificate in enumerate(value["certificates"]):
            assert certificate["index"] == position
        for component in value["components"]:
            assert component["signed"] == bool(component["flags"] & 0x80)
            assert component["verified"] == bool(component["flags"] & 0x40)
            assert (component["certificate"] is not None) == component["verified"]
        for finding in value["findings"]:
            assert finding["device"] is None or finding["device"] < len(value["devices"])
        if len(value["devices"]) == 1:
            for finding in value["findings"]:
                assert finding["component"] is None or finding["component"] < len(value["components"])
        if failed:
            assert any(f["reason"] == value["reason"] and f["level"] == "error" for f in value["findings"])
        return value

    @pytest.mark.parametrize("mode", ["normal", "audit", "secure"])
    def test_hands_over(self, lab, mode):
        value = self.consistent(lab.boot(lab.program(), mode=mode))
        assert (value["outcome"], value["mode"], value["would_boot"]) == ("hands-over", mode, True)
        assert value["ipl_parameter_block"]
        assert bool(value["ipl_report"]) == (mode != "normal")

    @pytest.mark.parametrize(
        "change",
        [
            {"kernel": None},
            {"loader": None},
            {"loader": None, "kernel": None},
            {"initrd": Load(KERNEL, code(512, 1))},
            {"kernel": Load(KERNEL, kernel_bytes())},
            {"psw": 0x0008000080002000},
            {"kernel": Load(KERNEL, kernel_bytes(), b"no signature")},
            {"kernel": Load(KERNEL, kernel_bytes(), b"x" * 100, signature_format=2)},
            {"initrd": Load(0x1000, code(512, 1))},
            {"initrd": Load(127 * MIB, code(512, 1))},
            {"initrd": Load(1 << 40, code(512, 1))},
        ],
        ids="+".join,
    )
    @pytest.mark.parametrize("mode", ["secure", "audit", "verify"])
    def test_broken(self, lab, change, mode):
        program = lab.program(**change)
        if mode == "verify":
            self.consistent(lab.verify(program))
        else:
            self.consistent(lab.boot(program, mode=mode))

    def test_no_bootable_device(self, lab):
        value = self.consistent(lab.boot(lab.disk(bytes(MIB)), lab.disk(bytes(2 * MIB))))
        assert (value["outcome"], [d["outcome"] for d in value["devices"]]) == ("no-bootable-device", ["given-up"] * 2)

    def test_refused_to_start(self, lab):
        value = self.consistent(sipl.boot([], lab.settings()))
        assert value["outcome"] == "refused-to-start"

    def test_undecided(self, lab, tmp_path):
        value = self.consistent(sipl.boot([sipl.Disk(str(tmp_path))], lab.settings()))
        assert value["outcome"] == "undecided"

    def test_loader_will_refuse(self, lab):
        report = lab.verify(program_with_unsigned_kernel(lab))
        value = check(report)
        assert (value["outcome"], value["would_boot"], report.exit_code) == ("hands-over", False, 1)

    def test_direct_kernel(self, lab, tmp_path):
        path = tmp_path / "kernel"
        path.write_bytes(bytes.fromhex("0008000080010000") + bytes(512))
        value = self.consistent(sipl.boot([], lab.settings("audit", kernel=str(path))))
        assert (value["outcome"], value["devices"], value["components"]) == ("hands-over", [], [])

    def test_every_device_kind(self, lab):
        for kind in sipl.DeviceKind:
            disk = lab.disk(lab.program())._replace(kind=kind)
            for mode in ("normal", "secure"):
                value = self.consistent(sipl.boot([disk], lab.settings(mode)))
                assert value["devices"][0]["kind"] == str(kind)


TEXT = st.text(max_size=20)
HEX32 = st.binary(min_size=32, max_size=32).map(bytes.hex)
NATURAL = st.integers(0, 1 << 64)
REASON = st.sampled_from(sipl.Reason)


def maybe(strategy):
    return st.none() | strategy


DEVICES = st.builds(
    model.DeviceReport,
    path=TEXT,
    kind=st.sampled_from(sipl.DeviceKind),
    outcome=st.sampled_from(["hands-over", "stops", "given-up", "undecided", "not-tried"]),
    reason=maybe(REASON),
    program=maybe(st.integers(0, 30)),
)
COMPONENTS = st.builds(
    model.ComponentReport,
    address=NATURAL,
    length=NATURAL,
    flags=st.integers(0, 255),
    signed=st.booleans(),
    verified=st.booleans(),
    certificate=maybe(HEX32),
    error_indicators=st.integers(0, 0xFFFF_FFFF),
    digest=maybe(HEX32),
    part=maybe(st.sampled_from(Part)),
)
FINDINGS = st.builds(
    model.FindingReport,
    reason=REASON,
    level=st.sampled_from(sipl.Level),
    device=maybe(NATURAL),
    component=maybe(NATURAL),
    message=TEXT,
    hint=TEXT,
)


@given(
    st.builds(
        model.Report,
        mode=st.sampled_from(sipl.Mode),
        outcome=st.sampled_from(sipl.Outcome),
        reason=maybe(REASON),
        psw=maybe(st.integers(0, (1 << 64) - 1).map("{:016x}".format)),
        devices=st.lists(DEVICES, max_size=3).map(tuple),
        components=st.lists(COMPONENTS, max_size=3).map(tuple),
        error_indicators=maybe(st.integers(0, 0xFFFF)),
        psw_error_indicators=maybe(st.integers(0, 0xFFFF_FFFF)),
        would_boot=maybe(st.booleans()),
        certificates=st.just(()),
        findings=st.lists(FINDINGS, max_size=3).map(tuple),
        ipl_parameter_block=maybe(st.binary(max_size=8).map(bytes.hex)),
        ipl_report=maybe(st.binary(max_size=8).map(bytes.hex)),
    )
)
def test_whatever_a_report_can_hold_is_valid(report):
    value = check(report)
    assert value == json.loads(json.dumps(to_dict(report)))
    assert len(value["devices"]) == len(report.devices)
    assert value["would_boot"] == report.would_boot


def test_certificates_have_an_index():
    certificate = model.CertificateReport(
        0, 3, "name", "CN=x", "2026-01-01T00:00:00Z", "2027-01-01T00:00:00Z", "00" * 32, 455
    )
    value = check(sipl.boot([])._replace(certificates=(certificate,)))
    assert value["certificates"][0] == {
        "index": 0,
        "store_index": 3,
        "name": "name",
        "subject": "CN=x",
        "not_before": "2026-01-01T00:00:00Z",
        "not_after": "2027-01-01T00:00:00Z",
        "sha256": "00" * 32,
        "length": 455,
    }


def test_types_of_the_objects_are_what_json_has():
    """Only what `plain` knows how to turn into JSON."""
    for record in (model.DeviceReport, model.ComponentReport, model.CertificateReport, model.FindingReport):
        hints = get_type_hints(record, vars(sipl.reasons) | {"Reason": sipl.Reason, "Level": sipl.Level})
        kinds = {kind for hint in hints.values() for kind in (get_args(hint) or (hint,))}
        assert kinds <= {str, int, bool, type(None), sipl.Reason, sipl.Level}


def test_every_reason_of_a_mode_rule_has_advice():
    from sipl.advice import hint

    assert [reason for reason in MODE_RULES if not hint(reason)] == []
