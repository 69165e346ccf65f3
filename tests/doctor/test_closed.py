"""`closed`, and the names of what is not signed, in verify, inspect and doctor."""

from __future__ import annotations

import pytest
from ipl_lab import GLOBAL, HEAP, INITRD, KERNEL, PARAMETERS, Load, code

from sipl.author import sclab
from sipl.firmware.parts import Part, in_order_of_weight, name_parts
from sipl.inspection import inspect
from sipl.layout.record import pack
from sipl.layout.sclab import SclabFlags
from sipl.layout.stage3 import FLAG_SCSI, KERNEL_PSW, STAGE3_PSW, UNSPECIFIED_ADDRESS, Stage3Parameters
from sipl.report.text import report_lines
from sipl.survey.text import boot_map_lines


@pytest.fixture
def closed_program(lab):
    def make(nuc=SclabFlags.NUC, **parts):
        def signed(address, seed):
            return lab.signed(address, sclab.overwrite(code(512, seed), sclab.build()))

        standard = {
            "heap": None,
            "loader": lab.loader(flags=GLOBAL | nuc),
            "parameters": signed(PARAMETERS, 1),
            "initrd": signed(INITRD, 2),
        }
        return lab.program(**(standard | parts))

    return make


def lines(report):
    return list(report_lines(report, "verify", verbose=False))


def test_closed(lab, closed_program, doctor):
    report = lab.verify(closed_program())
    assert (report.would_boot, report.closed, report.unsigned) == (True, True, ())
    assert any(line.startswith("  closed: ") for line in lines(report))
    diagnosis = doctor(closed_program())
    assert (diagnosis.closed, diagnosis.unsigned, diagnosis.problems) == (True, (), ())


def test_one_component_without_a_signature(lab, closed_program):
    report = lab.verify(closed_program(heap=Load(HEAP, bytes(512))))
    assert (report.would_boot, report.closed, report.unsigned) == (False, False, ("heap",))
    assert "  not signed: heap" in lines(report)


def test_everything_is_signed_and_nothing_forbids_more(lab, closed_program):
    report = lab.verify(closed_program(nuc=0))
    assert (report.would_boot, report.closed, report.unsigned) == (True, False, ())
    assert any(line.startswith("  not closed: ") for line in lines(report))


def test_a_signature_that_does_not_verify(lab, closed_program):
    report = lab.verify(closed_program(), certs=("B",))
    assert (report.would_boot, report.closed, report.unsigned) == (False, False, ())
    assert not any("closed" in line for line in lines(report))


def test_without_a_certificate_nobody_can_say(lab, closed_program):
    assert lab.verify(closed_program(), certs=()).closed is None
    assert lab.verify(closed_program(nuc=0), certs=()).closed is False


def test_inspect(lab, closed_program):
    for program, closed, text in (
        (closed_program(), True, "    closed if the signatures are good"),
        (closed_program(nuc=0), False, "    not closed: "),
        (lab.program(), False, "    not signed: parameters, heap, component at 0x20000"),
    ):
        view = inspect(lab.disk(program))
        assert (view.programs[0].closed, view.programs[1].closed) == (closed, None)
        assert any(line.startswith(text) for line in boot_map_lines(view, verbose=False))


def test_inspect_of_a_table_that_is_not_whole(lab):
    disk = lab.disk(lab.program(), change=lambda entries: entries[:-1])
    assert inspect(disk).programs[0].closed is None


class TestWithoutACertificate:
    """`verify` then looks at everything but the signatures themselves."""

    def test_signed_components_count_as_signed(self, lab):
        report = lab.verify(lab.program(), certs=())
        assert [(c.signed, c.verified) for c in report.components] == [
            (False, False),
            (True, False),
            (False, False),
            (True, False),
            (False, False),
        ]
        text = lines(report)
        assert sum("signed, no certificate to verify it" in line for line in text) == 2
        assert [finding.reason for finding in report.findings] == ["no-certificate"]
        assert report.devices[0].program == 0

    def test_other_faults_are_found(self, lab):
        report = lab.verify(lab.program(kernel=lab.kernel(sclab_format=1)), certs=())
        assert [finding.reason for finding in report.findings] == ["no-certificate", "sclab-format"]

    def test_the_verdict_is_the_machine_s(self, lab):
        report = lab.verify(lab.program(), certs=())
        assert (report.mode, report.outcome, report.reason) == ("secure", "stops", "no-certificate")
        assert report.ipl_report is None

    def test_audit_mode_of_verify_is_not_touched(self, lab):
        assert lab.boot(lab.program(), mode="normal").error_indicators is None


PLACES = Stage3Parameters(
    parmline_address=0x9CC000,
    initrd_address=0x9E0000,
    initrd_length=100,
    kernel_psw=KERNEL_PSW,
    extra_parameters=0,
    flags=FLAG_SCSI,
    kernel_length=2048,
    kernel_address=KERNEL,
    environment_address=0x9DC000,
    environment_length=4096,
)
SPANS = [(a, 0x1000) for a in (0x2000, 0xF000, 0xA000, 0x9000, 0x10000, 0x9CC000, 0x9E0000, 0x9DC000)]


class TestParts:
    def test_as_zipl_places_them(self):
        assert name_parts(STAGE3_PSW, SPANS, pack(PLACES)) == (
            Part.HEAP,
            Part.STACK,
            Part.LOADER,
            Part.PARAMETERS,
            Part.KERNEL,
            Part.COMMAND_LINE,
            Part.INITRD,
            Part.ENVIRONMENT,
        )

    @pytest.mark.parametrize(
        "parameters",
        [b"", bytes(79), pack(PLACES._replace(flags=1)), pack(PLACES._replace(extra_parameters=2))],
        ids=["none", "short", "flags", "extra"],
    )
    def test_parameters_that_say_nothing(self, parameters):
        assert name_parts(STAGE3_PSW, SPANS, parameters)[4:] == (Part.KERNEL, None, None, None)

    def test_another_kernel_address(self):
        parameters = pack(PLACES._replace(kernel_address=0x9DC000, environment_address=UNSPECIFIED_ADDRESS))
        assert name_parts(STAGE3_PSW, SPANS, parameters)[4:] == (None, Part.COMMAND_LINE, Part.INITRD, Part.KERNEL)

    def test_another_loader(self):
        assert name_parts(0x0008000080010000, SPANS, pack(PLACES)) == (*[None] * 4, Part.LOADER, *[None] * 3)

    def test_nothing_to_enter(self):
        assert set(name_parts(0x80000000, SPANS, pack(PLACES))) == {None}

    def test_order_of_weight(self):
        found = in_order_of_weight([(None, 0x20000), (Part.STACK, 1), (Part.INITRD, 2), (Part.LOADER, 3), (None, 5)])
        assert found == ("loader", "initrd", "stack", "component at 0x20000", "component at 0x5")

    def test_a_part_that_is_there_twice_is_named_once(self):
        assert in_order_of_weight([(Part.KERNEL, 1), (Part.KERNEL, 1)]) == ("kernel",)
