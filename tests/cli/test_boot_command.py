"""`sipl boot --engine none`: outcomes, exit codes, JSON, the machine's options at work."""

from __future__ import annotations

import pytest
from ipl_lab import MIB, Load, code

from sipl.author import guest

BOOT = ("boot", "--engine", "none")


def test_hands_over(sipl, demo):
    result = sipl(*BOOT, *demo.secure, demo.disk)
    assert (result.code, result.err) == (0, "")
    assert result.lines[0] == f"{demo.disk}: hands over (entry PSW {guest.ENTRY_PSW:016x}) in secure mode"
    assert sum(": verified (demo-cert.pem)" in line for line in result.lines) == 2


def test_stops(sipl, demo, bad):
    result = sipl(*BOOT, *demo.secure, bad)
    assert (result.code, result.err) == (1, "")
    assert result.lines[0] == f"{bad}: the machine stops in secure mode: signature-not-verified"
    assert result.lines[-1].startswith("  error: signature-not-verified: ")
    assert result.lines[-1].endswith(")")  # what to do


@pytest.mark.parametrize(
    ("options", "mode"),
    [((), "normal"), (("--boot-certs", "CERT"), "audit"), (("--secure-boot", "on", "--boot-certs", "CERT"), "secure")],
)
def test_mode_comes_from_secure_boot_and_certificates(sipl, demo, options, mode):
    words = [demo.certificate if word == "CERT" else word for word in options]
    (report,) = sipl(*BOOT, "--json", "--at", demo.trusted[-1], *words, demo.disk).json
    assert (report["mode"], report["outcome"]) == (mode, "hands-over")


def test_no_disk_is_no_usage_error(sipl):
    result = sipl(*BOOT)
    assert (result.code, result.err) == (1, "")
    assert "no-boot-device" in result.lines[0]
    (report,) = sipl(*BOOT, "--json").json
    assert (report["outcome"], report["reason"], report["would_boot"]) == ("refused-to-start", "no-boot-device", False)
    assert (report["devices"], report["findings"][0]["hint"]) == ([], "name a disk image")


def test_qemu_syntax_gives_the_same_report(sipl, demo):
    plain = sipl(*BOOT, "--json", *demo.secure, demo.disk)
    qemu = f"s390-ccw-virtio,secure-boot=on,boot-certs.0.path={demo.certificate}"
    assert sipl(*BOOT, "--json", "-M", qemu, "--at", demo.trusted[-1], demo.disk) == plain
    assert plain.json[0]["outcome"] == "hands-over"


def test_an_option_without_effect_is_said_in_the_report(sipl, demo):
    (report,) = sipl(*BOOT, "--json", "-M", "s390-ccw-virtio,usb=off", demo.disk).json
    assert [(finding["reason"], finding["level"]) for finding in report["findings"]] == [("option-ignored", "info")]


def test_falls_back_to_the_next_disk_and_names_the_one_that_boots(sipl, demo, tmp_path):
    other = tmp_path / "data.raw"
    other.write_bytes(bytes(1 * MIB))
    result = sipl(*BOOT, *demo.secure, other, demo.disk)
    assert result.code == 0
    assert result.lines[0].startswith(f"{demo.disk}: hands over")
    assert any("not-a-zipl-disk" in line for line in result.lines)
    (report,) = sipl(*BOOT, "--json", *demo.secure, other, demo.disk).json
    assert [device["outcome"] for device in report["devices"]] == ["given-up", "hands-over"]


def test_no_bootable_device_names_all(sipl, demo, tmp_path):
    names = [tmp_path / name for name in ("a.raw", "b.raw")]
    for name in names:
        name.write_bytes(bytes(1 * MIB))
    result = sipl(*BOOT, *demo.secure, *names)
    assert result.code == 1
    assert result.lines[0] == f"{names[0]}, {names[1]}: no bootable device in secure mode: not-a-zipl-disk"


def test_a_disk_that_cannot_be_read_leaves_it_undecided(sipl, demo, tmp_path):
    result = sipl(*BOOT, *demo.secure, demo.disk, tmp_path / "missing")
    assert (result.code, result.err) == (2, "")
    assert "undecided in secure mode: image-unreadable" in result.lines[0]


@pytest.mark.parametrize("kind", ["virtio-net", "vfio-ccw", "virtio-blk-pci"])
def test_a_device_that_cannot_take_part_refuses_the_start(sipl, demo, kind):
    (report,) = sipl(*BOOT, "--json", *demo.secure, demo.disk, "--device", kind, "net0").json
    assert (report["outcome"], report["reason"]) == ("refused-to-start", "device-not-eligible")


@pytest.mark.parametrize("kind", ["virtio-blk", "virtio-scsi"])
def test_both_kinds_of_disks_boot(sipl, demo, kind):
    (report,) = sipl(*BOOT, "--json", *demo.secure, "--device", kind, demo.disk).json
    assert (report["outcome"], report["devices"][0]["kind"]) == ("hands-over", kind)


def test_a_cd_does_not(sipl, demo):
    (report,) = sipl(*BOOT, "--json", *demo.secure, "--device", "scsi-cd", demo.disk).json
    assert (report["outcome"], report["reason"]) == ("stops", "cdrom-not-eligible")


@pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
def test_block_size_is_found_out_or_named(sipl, lab, signers, size):
    disk = lab.disk(lab.program(block_size=size), size).path
    words = ("--secure-boot", "on", "--boot-certs", signers["A"].path, "--at", "@1800000000")
    assert sipl(*BOOT, *words, disk).code == 0
    assert sipl(*BOOT, *words, "--block-size", size, disk).code == 0
    wrong = 4096 if size == 512 else 512
    assert sipl(*BOOT, *words, "--block-size", wrong, disk).code == 1


def test_cpu_model_without_the_facilities_stops_and_the_hint_names_one_that_has_them(sipl, demo):
    (report,) = sipl(*BOOT, "--json", *demo.secure, "--cpu", "z16", demo.disk).json
    (finding,) = report["findings"]
    assert (report["reason"], finding["reason"]) == ("facility-missing", "facility-missing")
    better = finding["hint"].split()
    assert sipl(*BOOT, *demo.secure, *better, demo.disk).code == 0


def test_time(sipl, demo):
    options = ("--secure-boot", "on", "--boot-certs", demo.certificate)
    assert sipl(*BOOT, *options, "--at", "2027-01-15T08:00:00Z", demo.disk).code == 0
    assert sipl(*BOOT, *options, "--at", "2031-01-15T08:00:00+01:00", demo.disk).code == 1


def test_loadparm_and_choose(sipl, demo):
    def program(*words):
        (report,) = sipl(*BOOT, "--json", *demo.secure, *words, demo.disk).json
        return report["outcome"], report["devices"][0]["program"]

    assert program("--loadparm", "1") == ("hands-over", 1)
    assert program("--loadparm", "PROMPT", "--choose", "1") == ("hands-over", 1)
    assert program("--boot-menu", "on", "--choose", "0") == ("hands-over", 0)
    assert program("--boot-menu", "off") == ("hands-over", 0)
    assert program("--loadparm", "7")[0] == "stops"
    assert program("--loadparm", "PROMPT", "--choose", "7")[0] == "stops"


def test_memory_too_small_for_a_component(sipl, lab, signers):
    high = Load(48 * MIB, code(512, 1))
    disk = lab.disk(lab.program(extra=[high])).path
    words = ("--secure-boot", "on", "--boot-certs", signers["A"].path, "--at", "@1800000000")
    assert sipl(*BOOT, *words, "--memory", "128M", disk).code == 0
    result = sipl(*BOOT, *words, "--memory", "32M", disk)
    assert (result.code, result.err) == (1, "")
    assert "load-address-forbidden" in result.lines[0]
    assert "more memory" in result.lines[-1]


class TestDirectKernel:
    @pytest.fixture
    def kernel(self, tmp_path):
        path = tmp_path / "image"
        path.write_bytes(bytes.fromhex("00080000 80010000") + bytes(4096))
        return path

    def test_normal_mode(self, sipl, kernel):
        result = sipl(*BOOT, "--kernel", kernel)
        assert result.code == 0
        assert result.lines[0].startswith("guest: hands over (entry PSW ")

    def test_audit_mode_warns(self, sipl, kernel, demo):
        result = sipl(*BOOT, "--kernel", kernel, "--boot-certs", demo.certificate)
        assert result.code == 0
        assert any(line.startswith("  warning: direct-kernel-not-verified: ") for line in result.lines)

    def test_secure_mode_refuses(self, sipl, kernel, demo):
        (report,) = sipl(*BOOT, "--json", "--kernel", kernel, *demo.secure).json
        assert (report["outcome"], report["reason"]) == ("refused-to-start", "direct-kernel-not-verified")

    def test_missing(self, sipl, tmp_path):
        (report,) = sipl(*BOOT, "--json", "--kernel", tmp_path / "missing").json
        assert (report["outcome"], report["reason"]) == ("undecided", "image-unreadable")


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("missing.pem", None, "certificate-path"),
        ("cert.crt", b"", "certificate-not-pem"),
        ("empty.pem", b"", "certificate-unreadable"),
        ("text.pem", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "certificate-unreadable"),
    ],
)
def test_a_bad_certificate_refuses_the_start(sipl, demo, tmp_path, name, content, reason):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    result = sipl(*BOOT, "--secure-boot", "on", "--boot-certs", path, demo.disk)
    assert (result.code, result.err) == (1, "")
    assert result.lines[0] == f"{demo.disk}: the machine refuses to start in secure mode: {reason}"
    assert str(path) in result.lines[-1]
    (report,) = sipl(*BOOT, "--json", "--boot-certs", path, demo.disk).json
    assert (report["outcome"], report["reason"], report["mode"]) == ("refused-to-start", reason, "audit")
