"""`sipl.boot` and `sipl.verify`: what raises, what the report says, what the engine gets."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import sipl
from sipl.report.combine import combine

sys.path.insert(0, str(Path(__file__).resolve().parent / "lab"))

import ipl_lab
from ipl_lab import AT, FIRMWARE_BASE, KERNEL, LOADER, MIB, PSW, Load, code, kernel_bytes, reasons, verdict
from stage3_lab import program_with_unsigned_kernel


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    return ipl_lab.Signers(tmp_path_factory.mktemp("signers"))


@pytest.fixture
def lab(tmp_path, signers):
    return ipl_lab.Lab(tmp_path, signers)


class TestBoot:
    @pytest.mark.parametrize(
        ("mode", "verified"), [("normal", [False] * 5), ("audit", [False, True, False, True, False])], ids=str
    )
    def test_modes_without_secure_boot(self, lab, mode, verified):
        report = lab.boot(lab.program(), mode=mode)
        assert (verdict(report), report.would_boot, report.exit_code) == (("hands-over", None), True, 0)
        assert [component.verified for component in report.components] == verified
        assert (report.ipl_report is None) == (mode == "normal")
        assert report.psw == f"{PSW:016x}"

    def test_no_disk(self):
        report = sipl.boot([])
        assert verdict(report) == ("refused-to-start", "no-boot-device")
        assert (report.would_boot, report.exit_code, report.devices) == (False, 1, ())

    def test_undecided_has_no_yes_and_no_no(self, lab, tmp_path):
        report = sipl.boot([sipl.Disk(str(tmp_path / "missing"))], lab.settings())
        assert verdict(report) == ("undecided", "image-unreadable")
        assert (report.would_boot, report.exit_code) == (None, 2)
        assert [device.outcome for device in report.devices] == ["not-tried"]

    def test_impossible_settings_raise(self, lab):
        disk = lab.disk(lab.program())
        with pytest.raises(sipl.UsageError, match="--cpu"):
            sipl.boot([disk], lab.settings(cpu="z99"))
        with pytest.raises(sipl.UsageError, match="block size"):
            sipl.boot([disk._replace(block_size=513)], lab.settings())

    def test_what_the_settings_say_about_the_disks_is_a_finding(self, lab):
        disk = lab.disk(lab.program())
        report = sipl.boot([disk] * 9, lab.settings())
        assert reasons(report) == ["too-many-boot-devices"]
        assert [device.outcome for device in report.devices] == ["hands-over"] + ["not-tried"] * 8

    def test_loadparm_of_a_disk_wins(self, lab):
        disk = lab.disk(lab.program(), loadparm="1")
        report = lab.boot(disk, loadparm="7")
        assert (verdict(report), report.devices[0].program) == (("hands-over", None), 1)

    def test_menu(self, lab):
        asked = []

        def choose(entries, timeout):
            asked.append((list(entries), timeout))
            return 1

        report = lab.boot(lab.program(), menu=True, timeout=2500, choose=choose)
        assert (asked, report.devices[0].program) == ([([0, 1], 2500)], 1)

    def test_menu_without_anybody_to_ask(self, lab):
        report = lab.boot(lab.program(), menu=True)
        assert verdict(report) == ("undecided", "menu-choice-needed")
        assert (report.devices[0].outcome, report.findings[-1].hint) == ("undecided", "choose with --choose N")

    def test_what_a_chooser_raises_comes_out(self, lab):
        def choose(entries, timeout):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lab.boot(lab.program(), menu=True, choose=choose)

    def test_findings_point_to_devices_and_components(self, lab):
        empty = lab.disk(bytes(MIB))
        report = lab.boot(empty, lab.program())
        assert [(str(f.reason), f.device, f.component) for f in report.findings] == [
            ("not-a-zipl-disk", 0, None),
            ("component-verified", 1, 1),
            ("component-verified", 1, 3),
        ]

    def test_digests_are_of_what_lies_in_memory(self, lab):
        import hashlib

        memory = {}

        def look(machine, state):
            for component in state_components:
                memory[component] = hashlib.sha256(machine.load(component, sizes[component])).hexdigest()

        state_components = (LOADER, KERNEL)
        sizes = {LOADER: 1024, KERNEL: 2048}
        report = lab.boot(lab.program(), look=look)
        digests = {component.address: component.digest for component in report.components}
        assert {address: digests[address] for address in memory} == memory

    def test_memory_too_small(self, lab):
        program = lab.program(extra=[Load(100 * MIB, code(512, 7))])
        assert verdict(lab.boot(program)) == ("hands-over", None)
        assert verdict(lab.boot(program, memory=64 * MIB)) == ("stops", "load-address-forbidden")


class TestEngine:
    def test_gets_the_machine_at_the_hand_over(self, lab):
        seen = []

        def look(machine, state):
            seen.append(
                (
                    state.psw,
                    machine.load(KERNEL, 2048),
                    machine.load(state.iplb_address, 4) != bytes(4),
                    machine.load(state.report_address, state.report_length),
                )
            )

        report = lab.boot(lab.program(), look=look)
        ((psw, kernel, has_block, ipl_report),) = seen
        assert (psw, kernel, has_block) == (PSW, kernel_bytes(), True)
        assert ipl_report.hex() == report.ipl_report

    def test_is_not_called_where_nothing_is_handed_over(self, lab):
        seen = []
        report = lab.boot(lab.program(kernel=None, loader=None), look=lambda *_: seen.append(1))
        assert report.outcome == "stops"
        assert seen == []

    def test_verify_runs_nothing(self, lab, monkeypatch):
        from sipl.engine.none import NoEngine

        monkeypatch.setattr(NoEngine, "run", lambda *_: pytest.fail("verify ran an engine"))
        assert lab.verify(lab.program()).would_boot

    def test_the_none_engine_changes_nothing(self, lab):
        from sipl.engine.none import NoEngine

        disk = lab.disk(lab.program())
        assert sipl.boot([disk], lab.settings(), NoEngine()) == sipl.boot([disk], lab.settings())

    def test_what_the_guest_changes_is_not_in_the_components(self, lab):
        """The report tells what was handed over; the engine runs the guest behind it."""
        report = lab.boot(lab.program(), look=lambda machine, state: machine.store(0x5000, b"guest"))
        assert report == lab.boot(lab.program(), look=lambda machine, state: None)._replace(devices=report.devices)

    def test_memory_is_given_up_afterwards(self, lab):
        machines = []
        lab.boot(lab.program(), look=lambda machine, state: machines.append(machine))
        with pytest.raises((ValueError, sipl.SiplError)):
            machines[0].load(KERNEL, 4)


class TestVerify:
    """Outcome, reason and mode of the asked mode; components and findings of the pass that goes on."""

    def broken(self, lab):
        """Three rules broken: the first stops secure mode."""
        return lab.disk(
            lab.program(
                loader=lab.loader(sclab_format=1),
                kernel=lab.signed(KERNEL, kernel_bytes(), by="B"),
                initrd=Load(KERNEL + 512, code(512, 5)),
            )
        )

    def test_yes(self, lab):
        disk = lab.disk(lab.program())
        report = lab.verify(disk)
        assert (verdict(report), report.mode, report.would_boot) == (("hands-over", None), "secure", True)
        # The same as booting it, nothing more and nothing less.
        assert report == sipl.boot([disk], lab.settings())

    def test_goes_on_behind_the_first_finding(self, lab):
        disk = self.broken(lab)
        secure, audit = sipl.boot([disk], lab.settings()), sipl.boot([disk], lab.settings("audit"))
        report = lab.verify(disk)
        assert len(reasons(secure)) == 1
        assert len(reasons(report)) >= 3
        assert (report.mode, report.outcome, report.reason) == ("secure", secure.outcome, secure.reason)
        assert (report.components, report.certificates) == (audit.components, audit.certificates)
        assert (report.error_indicators, report.psw) == (audit.error_indicators, audit.psw)
        assert (report.ipl_report, report.ipl_parameter_block) == (None, None)
        assert audit.ipl_report is not None
        assert report.devices == secure.devices
        assert (report.would_boot, report.exit_code) == (False, 1)

    def test_what_secure_mode_stops_at_is_an_error(self, lab):
        report = lab.verify(self.broken(lab))
        errors = {str(f.reason) for f in report.findings if f.level == "error"}
        assert {"sclab-format", "signature-not-verified", "address-overlap"} <= errors
        assert "warning" not in {f.level for f in report.findings if str(f.reason) in errors}

    def test_no_finding_is_said_twice(self, lab):
        findings = [(f.reason, f.component, f.message) for f in lab.verify(self.broken(lab)).findings]
        assert len(findings) == len(set(findings))

    def test_audit_mode_is_one_pass(self, lab):
        disk = self.broken(lab)
        report = lab.verify(disk, "audit")
        assert report == sipl.boot([disk], lab.settings("audit"))
        assert (report.mode, report.would_boot) == ("audit", True)
        assert report.ipl_report is not None

    def test_the_mode_asked_for_wins_over_the_settings(self, lab):
        disk = self.broken(lab)
        assert sipl.verify(disk, lab.settings("audit")).mode == "secure"
        assert sipl.verify(disk, lab.settings("secure"), sipl.Mode.AUDIT).mode == "audit"

    @pytest.mark.parametrize("mode", ["secure", "audit"])
    def test_a_loader_that_will_refuse_does_not_boot_in_secure_mode(self, lab, mode):
        disk = lab.disk(program_with_unsigned_kernel(lab))
        report = lab.verify(disk, mode)
        # In audit mode the loader checks nothing.
        boots = mode == "audit"
        assert (verdict(report), report.would_boot, report.exit_code) == (("hands-over", None), boots, int(not boots))
        (finding,) = [f for f in report.findings if f.reason == "loader-will-refuse"]
        assert finding.level == ("warning" if mode == "secure" else "info")
        assert report.ipl_report is not None
        booted = sipl.boot([disk], lab.settings(mode))
        assert booted.would_boot

    def test_undecided(self, lab, tmp_path):
        report = sipl.verify(sipl.Disk(str(tmp_path)), lab.settings())
        assert (verdict(report), report.mode, report.exit_code) == (("undecided", "image-unreadable"), "secure", 2)

    def test_an_image_that_cannot_be_read_any_more_in_the_first_pass_is_undecided(self, lab, monkeypatch):
        from sipl.disk.block_device import BlockDevice

        disk = self.broken(lab)
        original = BlockDevice.read_blocks

        def fail(self, block, count, buffer):
            if block:
                raise sipl.ImageError("disk", "I/O error")
            original(self, block, count, buffer)

        monkeypatch.setattr(BlockDevice, "read_blocks", fail)
        report = lab.verify(disk)
        assert (verdict(report), report.would_boot) == (("undecided", "image-unreadable"), None)

    def test_a_fault_that_goes_away_stays_undecided(self, lab, monkeypatch):
        """No second pass, which might succeed and look like an answer."""
        from sipl.disk.block_device import BlockDevice

        disk = self.broken(lab)
        original = BlockDevice.read_blocks
        failed = []

        def fail_once(self, block, count, buffer):
            if block and not failed:
                failed.append(block)
                raise sipl.ImageError("disk", "I/O error")
            original(self, block, count, buffer)

        monkeypatch.setattr(BlockDevice, "read_blocks", fail_once)
        report = lab.verify(disk)
        assert (verdict(report), report.components) == (("undecided", "image-unreadable"), ())
        assert reasons(report) == ["image-unreadable"]

    def test_refused(self, lab):
        report = lab.verify(lab.program(), certs=("/nonexistent/cert.pem",))
        assert (verdict(report), report.mode) == (("refused-to-start", "certificate-path"), "secure")

    def test_no_certificate(self, lab):
        report = lab.verify(lab.program(), certs=())
        assert (verdict(report), report.mode) == (("stops", "no-certificate"), "secure")
        assert [str(f.reason) for f in report.findings if f.level == "error"] == ["no-certificate"]


class TestCombine:
    """The rule by itself."""

    @pytest.fixture
    def passes(self, lab):
        disk = TestVerify().broken(lab)
        return sipl.boot([disk], lab.settings()), sipl.boot([disk], lab.settings("audit"))

    def test_every_field_has_its_pass(self, passes):
        secure, complete = passes
        joined = combine(secure, complete)
        of_secure = ["mode", "outcome", "reason", "devices", "would_boot", "ipl_parameter_block", "ipl_report"]
        of_complete = ["psw", "components", "error_indicators", "psw_error_indicators", "certificates", "closed"]
        of_complete.append("unsigned")
        assert {*of_secure, *of_complete, "findings"} == set(joined._fields)
        for name in of_secure:
            assert getattr(joined, name) == getattr(secure, name), name
        for name in of_complete:
            assert getattr(joined, name) == getattr(complete, name), name

    def test_a_program_that_only_the_complete_pass_chose(self, passes):
        secure, complete = passes
        early = secure._replace(devices=tuple(d._replace(program=None) for d in secure.devices))
        assert [d.program for d in combine(early, complete).devices] == [d.program for d in complete.devices] == [0]

    def test_without_a_certificate_what_follows_from_that_is_not_said(self, passes):
        secure, complete = passes
        early = secure._replace(reason=sipl.Reason.NO_CERTIFICATE, findings=())
        findings = tuple(
            sipl.FindingReport(reason, sipl.Level.WARNING, 0, None, "", "")
            for reason in (sipl.Reason.SIGNATURE_NOT_VERIFIED, sipl.Reason.LOADER_WILL_REFUSE, sipl.Reason.NO_SCLAB)
        )
        signed = [c for c in complete.components if c.part == "kernel"]
        joined = combine(early, complete._replace(findings=findings, components=tuple(signed)))
        assert [f.reason for f in joined.findings] == ["no-sclab"]
        bare = tuple(c._replace(signed=False) for c in signed)
        joined = combine(early, complete._replace(findings=findings, components=bare))
        assert [f.reason for f in joined.findings] == ["loader-will-refuse", "no-sclab"]

    def test_what_only_the_secure_pass_found_stands_first(self, passes):
        secure, complete = passes
        own = sipl.FindingReport(sipl.Reason.NO_CERTIFICATE, sipl.Level.ERROR, None, None, "none", "")
        joined = combine(secure._replace(findings=(*secure.findings, own)), complete)
        assert joined.findings[0] == own
        assert [f.reason for f in joined.findings[1:]] == [f.reason for f in complete.findings]

    def test_levels(self, passes):
        secure, complete = passes
        levels = {
            sipl.Reason.SCLAB_FORMAT: (sipl.Level.WARNING, sipl.Level.ERROR),
            sipl.Reason.LOADER_WILL_REFUSE: (sipl.Level.INFO, sipl.Level.WARNING),
            sipl.Reason.WEAK_SIGNATURE: (sipl.Level.WARNING, sipl.Level.WARNING),
            sipl.Reason.COMPONENT_VERIFIED: (sipl.Level.INFO, sipl.Level.INFO),
            sipl.Reason.SIGNATURE_TOO_LARGE: (sipl.Level.WARNING, sipl.Level.WARNING),
        }
        findings = tuple(sipl.FindingReport(reason, before, 0, None, "", "") for reason, (before, _) in levels.items())
        joined = combine(secure._replace(findings=()), complete._replace(findings=findings))
        assert [f.level for f in joined.findings] == [after for _, after in levels.values()]


def test_reports_are_the_same_whenever_they_are_made(lab):
    """Nothing of the host's clock, addresses or hash seeds comes into a report."""
    disk = lab.disk(lab.program())
    assert sipl.boot([disk], lab.settings()) == sipl.boot([disk], lab.settings())


def test_addresses_of_the_report_lie_in_the_area_of_the_boot_side(lab):
    seen = []
    lab.boot(lab.program(), look=lambda machine, state: seen.append((state.iplb_address, state.report_address)))
    assert all(FIRMWARE_BASE - 28672 <= address < 128 * MIB for address in seen[0])


def test_now_is_the_time_of_the_call(lab, signers):
    from sipl.crypto import signing

    old = signers.make("old", signing.generate_key("p256"), AT - 5 * ipl_lab.YEAR, AT - 4 * ipl_lab.YEAR)
    program = lab.program(loader=lab.loader(by="old"), kernel=lab.kernel(by="old"))
    disk = lab.disk(program)
    then = lab.settings(certs=(old.path,), at=AT - 4 * ipl_lab.YEAR - 3600)
    assert sipl.boot([disk], then).would_boot
    assert not sipl.boot([disk], then._replace(at=None)).would_boot
