"""The frame of the command line: overview, help, version, usage errors, exit codes, what reaches the library."""

from __future__ import annotations

import errno
import os
import subprocess

import pytest
from cli_lab import PATIENCE, command, environment

import sipl as package
from sipl.cli import boot as boot_command
from sipl.cli import verify as verify_command
from sipl.cli.guest_run import GuestRun
from sipl.cli.main import COMMANDS, run
from sipl.machine.boot_devices import DeviceKind
from sipl.reasons import Mode

MIB = 1 << 20


@pytest.fixture
def asked(monkeypatch, demo):
    """Replace the library's boot and verify: (disks, settings) of `boot`, (disk, settings, mode) of `verify`."""
    calls = []
    report = package.boot([])

    def boot(disks, settings, *_, **__):
        calls.append((list(disks), settings))
        return report

    def verify(disk, settings, mode):
        calls.append((disk, settings, mode))
        return report

    monkeypatch.setattr(boot_command, "boot", boot)
    monkeypatch.setattr(verify_command, "verify", verify)
    return calls


class TestOverview:
    @pytest.mark.parametrize("words", [(), ("--help",), ("-h",), ("help",), ("-q", "--help")], ids=str)
    def test_names_every_command_and_the_exit_codes(self, sipl, words):
        result = sipl(*words)
        assert (result.code, result.err) == (0, "")
        assert all(f"  {name} " in result.out for name in COMMANDS)
        assert "exit codes: 0 yes, 1 no, 2 " in result.out

    def test_version(self, sipl):
        assert sipl("--version") == (0, f"sipl {package.__version__}\n", "")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_of_each_command_has_examples(self, sipl, name):
        result = sipl(name, "--help")
        assert (result.code, result.err) == (0, "")
        assert result.out.startswith(f"usage: sipl {name} ")
        examples = result.out.partition("\nexamples:\n")[2].splitlines()
        assert examples
        assert all(line.startswith(f"  sipl {name}") for line in examples)

    @pytest.mark.parametrize("name", COMMANDS)
    def test_help_command_is_the_help_option(self, sipl, name):
        assert sipl("help", name) == sipl(name, "--help")

    def test_every_option_of_the_boot_command_is_in_its_help(self, sipl):
        text = sipl("boot", "--help").out
        options = (
            "--engine -M --machine --secure-boot --boot-certs --loadparm --memory --cpu --device --block-size --kernel "
            "--timeout --until --write --raw-console --boot-menu --choose --at --json -q --quiet -v --verbose"
        )
        assert [option for option in options.split() if option not in text] == []

    def test_every_option_of_the_verify_command_is_in_its_help(self, sipl):
        text = sipl("verify", "--help").out
        options = "--mode -M --secure-boot --boot-certs --loadparm --memory --cpu --device --block-size --choose --at"
        assert [option for option in (*options.split(), "--json") if option not in text] == []


USAGE_ERRORS = {
    "unknown command": (("frob",), "there is no command 'frob'"),
    "unknown command of help": (("help", "frob"), "there is no command 'frob'"),
    "unknown option": (("boot", "--frob"), "--frob"),
    "unknown option of verify": (("verify", "--frob", "x"), "--frob"),
    "abbreviated option": (("boot", "--secure", "on"), "--secure"),
    "option without its value": (("boot", "--cpu"), "--cpu"),
    "verify without a disk": (("verify",), "no disk is named"),
    "inspect without a disk": (("inspect",), "no disk is named"),
    "certs without a path": (("certs",), "PATH"),
    "empty disk name": (("boot", ""), "empty"),
    "engine": (("boot", "--engine", "bochs"), "--engine"),
    "mode": (("verify", "--mode", "normal", "x"), "--mode"),
    "block size 513": (("inspect", "--block-size", "513", "x"), "'513' is not possible"),
    "block size 0": (("boot", "--block-size", "0", "x"), "'0' is not possible"),
    "block size text": (("boot", "--block-size", "4k", "x"), "'4k' is not possible"),
    "device": (("boot", "--device", "floppy", "x"), "there is no device kind 'floppy'"),
    "secure-boot": (("boot", "--secure-boot", "maybe"), "--secure-boot"),
    "boot-menu": (("boot", "--boot-menu", "1"), "--boot-menu"),
    "boot-menu-timeout": (("boot", "--boot-menu-timeout", "-1"), "--boot-menu-timeout"),
    "loadparm": (("boot", "--loadparm", "123456789"), "--loadparm"),
    "memory": (("boot", "--memory", "lots"), "--memory"),
    "memory too small": (("boot", "--memory", "1M"), "--memory"),
    "cpu": (("boot", "--cpu", "z99"), "--cpu"),
    "cpu feature": (("boot", "--cpu", "z16,frob=on"), "frob"),
    "choose": (("boot", "--choose", "first"), "--choose"),
    "at": (("boot", "--at", "tomorrow"), "--at"),
    "at of certs": (("certs", "--at", "tomorrow", "x.pem"), "--at"),
    "machine type": (("boot", "-M", "pc"), "'pc'"),
    "machine parameter": (("boot", "-M", "s390-ccw-virtio,frob=on"), "'frob'"),
    "machine parameters": (("boot", "-M", "help"), "boot-certs, loadparm, secure-boot, type"),
    "backing folder": (("boot", "--backing-folder", "/nonexistent", __file__), "backing"),
    "secure-boot said twice": (("boot", "--secure-boot", "on", "-M", "secure-boot=off"), "--secure-boot"),
    "secure-boot said twice, off": (("boot", "--secure-boot", "off", "-M", "secure-boot=on"), "--secure-boot"),
    "boot-certs said twice": (("boot", "--boot-certs", "a.pem", "-M", "boot-certs.0.path=b.pem"), "--boot-certs"),
    "loadparm said twice": (("boot", "--loadparm", "1", "-M", "loadparm=2"), "--loadparm"),
    "audit and secure-boot=on": (("verify", "--mode", "audit", "--secure-boot", "on", "x"), "--mode"),
    "audit and -M secure-boot=on": (("verify", "--mode", "audit", "-M", "secure-boot=on", "x"), "--mode"),
    "secure and secure-boot=off": (("verify", "--mode", "secure", "--secure-boot", "off", "x"), "--mode"),
    "secure and -M secure-boot=off": (("verify", "--mode", "secure", "-M", "secure-boot=off", "x"), "--mode"),
}


@pytest.mark.parametrize(("words", "named"), USAGE_ERRORS.values(), ids=USAGE_ERRORS)
def test_wrong_usage_is_one_line_on_standard_error_and_exit_code_2(sipl, words, named):
    result = sipl(*words)
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith("sipl")
    assert result.err.count("\n") == 1
    assert result.err.endswith("\n")
    assert named in result.err


class TestDisksInOrder:
    """`--device` and `--block-size` apply to the disks after them."""

    def test_plain(self, sipl, asked):
        sipl("boot", "a", "b")
        assert asked[0][0] == [package.Disk("a"), package.Disk("b")]

    def test_kind_and_block_size_hold_from_their_place_on(self, sipl, asked):
        words = "a --device virtio-scsi b --block-size 4096 c --device scsi-cd d --block-size 512 --device virtio-blk e"
        sipl("boot", *words.split())
        blk, scsi, cd = DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI, DeviceKind.SCSI_CD
        assert asked[0][0] == [
            package.Disk("a", blk, None),
            package.Disk("b", scsi, None),
            package.Disk("c", scsi, 4096),
            package.Disk("d", cd, 4096),
            package.Disk("e", blk, 512),
        ]

    def test_equals_sign_and_other_options_between(self, sipl, asked):
        sipl("boot", "--device=virtio-scsi", "--loadparm", "2", "a", "--json", "--block-size=1024", "--cpu", "max", "b")
        disks, settings = asked[0]
        assert disks == [
            package.Disk("a", DeviceKind.VIRTIO_SCSI, None),
            package.Disk("b", DeviceKind.VIRTIO_SCSI, 1024),
        ]
        assert (settings.machine.loadparm, settings.cpu) == ("2", "max")

    def test_after_two_dashes_everything_is_a_disk(self, sipl, asked):
        sipl("boot", "a", "--", "--json", "-x")
        assert [disk.path for disk in asked[0][0]] == ["a", "--json", "-x"]

    def test_a_disk_named_like_a_command(self, sipl, asked):
        sipl("boot", "verify")
        assert [disk.path for disk in asked[0][0]] == ["verify"]

    @pytest.mark.parametrize(
        ("name", "kind"),
        [
            ("virtio-blk-ccw", DeviceKind.VIRTIO_BLK),
            ("scsi-hd", DeviceKind.VIRTIO_SCSI),
            *((str(kind), kind) for kind in DeviceKind),
        ],
    )
    def test_every_kind_can_be_named(self, sipl, asked, name, kind):
        sipl("boot", "--device", name, "a")
        assert asked[0][0][0].kind is kind

    def test_verify_judges_each_disk_by_itself_with_its_own_kind(self, sipl, asked):
        sipl("verify", "a", "--device", "virtio-scsi", "b")
        assert [call[0] for call in asked] == [package.Disk("a"), package.Disk("b", DeviceKind.VIRTIO_SCSI)]


class TestOptions:
    """Every option arrives where it belongs."""

    def settings(self, sipl, asked, *words):
        sipl("boot", *words)
        return asked[-1][1]

    def test_none(self, sipl, asked):
        assert self.settings(sipl, asked)._replace(choose=None) == package.Settings()

    def test_machine(self, sipl, asked):
        words = "--secure-boot on --boot-certs a.pem --boot-certs b --loadparm prompt --memory 1G --boot-menu on"
        machine = self.settings(sipl, asked, *words.split(), "--boot-menu-timeout", "1500").machine
        assert machine == package.MachineOptions(
            secure_boot=True,
            boot_certs=("a.pem", "b"),
            loadparm="PROMPT",
            memory=1024 * MIB,
            boot_menu=True,
            boot_menu_timeout_ms=1500,
        )

    def test_boot_menu_off_is_not_unsaid(self, sipl, asked):
        assert self.settings(sipl, asked, "--boot-menu", "off").machine.boot_menu is False

    def test_others(self, sipl, asked):
        settings = self.settings(
            sipl, asked, *["--cpu", "z16,sipl=on", "--at", "@5", "--kernel", "vmlinuz", "--choose", "3"]
        )
        assert (settings.cpu, settings.at, settings.kernel) == ("z16,sipl=on", 5, "vmlinuz")
        assert settings.choose([0, 1, 3], 0) == 3
        assert not settings.allow_backing

    def test_backing_files_only_when_asked_for(self, sipl, asked, tmp_path):
        assert self.settings(sipl, asked, "--allow-backing").allow_backing
        settings = self.settings(sipl, asked, "--backing-folder", tmp_path)
        assert (settings.allow_backing, settings.backing_folder) == (True, str(tmp_path))

    def test_qemu_syntax_and_plain_options_are_the_same(self, sipl, asked):
        plain = "--secure-boot on --boot-certs a.pem --boot-certs b,c.pem --loadparm 2"
        qemu = "s390-ccw-virtio,secure-boot=on,boot-certs.0.path=a.pem,boot-certs.1.path=b,,c.pem,loadparm=2"
        one = self.settings(sipl, asked, *plain.split())
        two = self.settings(sipl, asked, "-M", qemu)
        three = self.settings(sipl, asked, f"-M{qemu}")
        four = self.settings(sipl, asked, f"--machine={qemu}")
        assert one.machine == two.machine == three.machine == four.machine
        assert one.machine.boot_certs == ("a.pem", "b,c.pem")

    def test_machine_options_add_up(self, sipl, asked):
        words = ("-M", "s390-ccw-virtio", "--machine", "secure-boot=on", "-M", "loadparm=3")
        machine = self.settings(sipl, asked, *words).machine
        assert (machine.secure_boot, machine.loadparm) == (True, "3")

    def test_what_both_ways_say_alike_is_no_contradiction(self, sipl, asked):
        words = ("--secure-boot", "on", "--boot-certs", "a.pem", "--loadparm", "2")
        qemu = "secure-boot=on,boot-certs.0.path=a.pem,loadparm=2"
        assert self.settings(sipl, asked, *words, "-M", qemu).machine.secure_boot

    def test_plain_options_stay_where_qemu_s_name_others(self, sipl, asked):
        machine = self.settings(sipl, asked, "--secure-boot", "on", "--memory", "64M", "-M", "loadparm=2").machine
        assert (machine.secure_boot, machine.memory, machine.loadparm) == (True, 64 * MIB, "2")


class TestModeOfVerify:
    """Secure mode unless audit is asked for; a file name never asks for it."""

    @pytest.mark.parametrize(
        ("words", "mode"),
        [
            ("", Mode.SECURE),
            ("--mode secure", Mode.SECURE),
            ("--mode audit", Mode.AUDIT),
            ("--secure-boot on", Mode.SECURE),
            ("--secure-boot off", Mode.AUDIT),
            ("-M s390-ccw-virtio", Mode.SECURE),
            ("-M secure-boot=on", Mode.SECURE),
            ("-M secure-boot=off", Mode.AUDIT),
            ("-M secure-boot=off -M secure-boot=on", Mode.SECURE),
            ("-M secure-boot=off --secure-boot off", Mode.AUDIT),
            ("--mode audit --secure-boot off", Mode.AUDIT),
            ("--mode secure -M secure-boot=on", Mode.SECURE),
            ("-M boot-certs.0.path=secure-boot.pem", Mode.SECURE),
            ("-M boot-certs.0.path=secure-boot=off.pem", Mode.SECURE),
            ("--boot-certs secure-boot=off", Mode.SECURE),
        ],
    )
    def test_mode(self, sipl, asked, words, mode):
        sipl("verify", *words.split(), "a")
        assert asked[0][2] is mode


class TestVerbosity:
    def test_before_and_after_the_command(self, sipl, demo):
        after = sipl("verify", "-q", *demo.trusted, demo.disk)
        assert after == sipl("-q", "verify", *demo.trusted, demo.disk)
        assert after == sipl("--quiet", "verify", *demo.trusted, demo.disk)
        assert after.out == f"{demo.disk}: would boot in secure mode\n"

    def test_verbose_shows_what_is_in_order(self, sipl, demo):
        normal = sipl("verify", *demo.trusted, demo.disk)
        verbose = sipl("verify", "-v", *demo.trusted, demo.disk)
        assert verbose == sipl("-v", "verify", *demo.trusted, demo.disk)
        assert normal.code == verbose.code == 0
        assert "component-verified" in verbose.out
        assert "component-verified" not in normal.out
        assert len(verbose.out) > len(normal.out)

    def test_quiet_inspect_and_certs(self, sipl, demo):
        assert len(sipl("inspect", "-q", demo.disk).lines) == 1
        assert sipl("certs", "-q", "--at", demo.trusted[-1], demo.certificate).lines == ["1 certificate"]


def test_an_unexpected_error_is_one_line_and_no_verdict(sipl, monkeypatch, demo):
    def fail(*_, **__):
        raise ZeroDivisionError("\x1b[31mboom")

    monkeypatch.setattr(boot_command, "boot", fail)
    result = sipl("boot", "--engine", "none", demo.disk)
    assert (result.code, result.out) == (2, "")
    assert result.err.count("\n") == 1
    assert "internal error, there is no verdict: ZeroDivisionError: \\x1b[31mboom" in result.err
    assert "Traceback" in sipl("boot", "--engine", "none", "-v", demo.disk).err


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.EMFILE, "sipl: this process: too many open files (raise the limit: ulimit -n)\n"),
        (errno.ENFILE, "sipl: this process: too many files are open on this host (end what is not needed)\n"),
        (errno.ENOMEM, "sipl: this process: out of memory (end what is not needed, or raise the limit: ulimit -v)\n"),
    ],
)
@pytest.mark.parametrize("name", [None, "/some/file"])
def test_a_shortage_of_the_host_is_told_for_what_it_is(sipl, monkeypatch, demo, number, told, name):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number), name)

    monkeypatch.setattr(boot_command, "boot", fail)
    assert sipl("boot", "--engine", "none", demo.disk) == (2, "", told)


def test_an_error_that_no_write_gives_is_not_blamed_on_standard_output(sipl, monkeypatch, demo):
    def fail(*_, **__):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(boot_command, "boot", fail)
    result = sipl("boot", "--engine", "none", demo.disk)
    assert result.code == 2
    assert "PermissionError: [Errno 1] Operation not permitted" in result.err
    assert "standard output" not in result.err


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_help_that_cannot_be_written_is_no_success(unbuffered):
    """Without a buffer it is argparse that notices first, which would keep it to itself."""
    env = environment(PYTHONUNBUFFERED=unbuffered)
    with open("/dev/full", "wb") as full:
        how = {"stdout": full, "stderr": subprocess.PIPE, "env": env, "timeout": PATIENCE}
        done = subprocess.run(command("boot", "--help"), check=False, **how)
    assert done.returncode == 2
    assert done.stderr == b"sipl: standard output: cannot be written: No space left on device\n"


def test_a_signal_between_two_runs_of_a_guest_does_not_deny_the_verdict(sipl, monkeypatch, demo):
    def interrupt(*_):
        raise KeyboardInterrupt("SIGTERM")

    monkeypatch.setattr(GuestRun, "run", interrupt)
    result = sipl("boot", "--engine", "embedded", *demo.secure, demo.disk)
    assert result.code == 2
    assert result.err.endswith("\nsipl: ended by SIGTERM\n")
    assert "interrupted" not in result.err


def test_the_names_of_commands_are_modules_with_a_run_function():
    from importlib import import_module

    assert all(callable(import_module(f"sipl.cli.{name.replace('-', '_')}").run) for name in COMMANDS)


def test_run_takes_any_sequence():
    assert run(("--version",)) == 0
