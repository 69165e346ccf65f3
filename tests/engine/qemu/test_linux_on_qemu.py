"""Debian's kernel on QEMU: the verdicts of the shared disks, and the lines that the embedded engine's console shows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from guest_lab import Console as EmbeddedConsole
from ipl_lab import MIB, verdict
from qemu_guests import Console, find_qemu

from sipl import ipl
from sipl.engine.base import EndKind
from sipl.engine.embedded.engine import EmbeddedEngine
from sipl.engine.qemu.engine import QemuEngine
from sipl.engine.qemu.own_setup import OwnSetup
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.options import MachineOptions
from sipl.settings import Disk, Settings

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 300  # a busy host is slow
DONE = "GUEST-DONE"
KERNEL_NAME = "7.2.13+deb14-s390x #1 SMP PREEMPT Debian 7.2.13-1 (2026-10-28) s390x GNU/Linux"
LOADER, KERNEL = 0xA000, 0x10000
# The name of the boot entry, which is in the command line.
ENTRIES = {"sparse.qcow2": "single"}
SUBJECTS = {
    "A": "SIPL oracle A RSA2048: 29426171a65dc997a5f65aabcc70a023013b49ed",
    "B": "SIPL oracle B RSA4096: 2089f54ed0baaaabc2022dae03593af7e3dfea76",
    "EC": "SIPL oracle EC P-521: a6d2bcf231564c7aedcccc909e6c1cefe2cc27cc",
}


class Boot:
    """One boot: report, ends, console."""

    def __init__(self, shared, disk, certs, secure, *, has_secure=True, console=None, **machine) -> None:
        find_qemu()
        self.console = console or Console()
        options = MachineOptions(
            secure_boot=secure,
            boot_certs=tuple(str(shared / "keys" / name) for name in certs),
            memory=machine.pop("memory", 512 * MIB),
            **machine,
        )
        made = disk if isinstance(disk, Disk) else Disk(str(disk))
        settings = Settings(machine=options)
        self.ends = []
        self.announced = []
        setup = OwnSetup([made], settings, has_secure=has_secure)
        engine = QemuEngine(setup, self.console, SECONDS, DONE)
        run = engine.run

        def keep(machine, state):
            self.ends.append(run(machine, state))
            return self.ends[-1]

        engine.run = keep
        try:
            self.report = ipl.boot([made], settings, engine, self.announced.append, engine.open_image)
        finally:
            engine.close()
            setup.close()

    @property
    def text(self) -> str:
        return self.console.written.decode("ascii", "replace").replace("\r", "")


def shown(text: str) -> list[str]:
    """What the guest's own program says, without time stamps."""
    lines = text[text.index("GUEST-UP") :].splitlines()
    return [re.sub(r"^(DMESG) \[ *[0-9.]+\]", r"\1", line).rstrip() for line in lines]


def expected(entry: str, *, secure: bool, normal: bool = False, subjects=(SUBJECTS["A"],)) -> list[str]:
    """The same lines, as the embedded engine's console has them."""
    report = [
        f"DMESG setup: Linux is running with Secure-IPL {'enabled' if secure else 'disabled'}",
        "DMESG setup: The IPL report contains the following components:",
    ]
    return [
        f"GUEST-UP Linux (none) {KERNEL_NAME}",
        f"CMDLINE console=ttysclp0 printk.time=1 sipl_entry={entry}",
        "IPL /sys/firmware/ipl/device: 0.0.0001",
        "IPL /sys/firmware/ipl/has_secure: 1",
        "IPL /sys/firmware/ipl/ipl_type: ccw",
        "IPL /sys/firmware/ipl/loadparm:",
        f"IPL /sys/firmware/ipl/secure: {int(secure)}",
        "LOCKDOWN [none] integrity confidentiality",
        *([] if normal else report),
        f"DMESG Kernel command line: console=ttysclp0 printk.time=1 sipl_entry={entry}",
        f'DMESG Unknown kernel command line parameters "sipl_entry={entry}", will be passed to user space.',
        "DMESG Initialise system trusted keyrings",
        "DMESG integrity: Platform Keyring initialized",
        "DMESG Loading compiled-in X.509 certificates",
        *(
            line
            for subject in subjects
            for line in (
                "DMESG integrity: Loading X.509 certificate: IPL:db",
                f"DMESG integrity: Loaded X.509 cert '{subject}'",
            )
        ),
        f"DMESG     sipl_entry={entry}",
        DONE,
    ]


CASES = {
    ("good.qcow2", "certA.pem"): ("A",),
    ("good.qcow2", "certB.pem"): (),
    ("good.qcow2", ""): (),
    ("good4k.qcow2", "certA.pem"): ("A",),
    ("unsigned.qcow2", "certA.pem"): (),
    ("mixed.qcow2", "certA.pem"): ("A",),
    ("mixed.qcow2", "certA.pem certB.pem"): ("B", "A"),
    ("ec.qcow2", "certA.pem"): (),
    ("ec.qcow2", "certEC.pem"): ("EC",),
    ("sparse.qcow2", "certA.pem"): ("A",),
}


def case_of(shared, disk, certs):
    found = json.loads((shared / "disks" / "cases.json").read_text())
    return next(case for case in found if (case["disk"], " ".join(case["boot_certs"])) == (disk, certs))


def entry_of(disk: str) -> str:
    return ENTRIES.get(disk, disk.removesuffix(".qcow2"))


def test_all_cases_are_here(shared):
    found = json.loads((shared / "disks" / "cases.json").read_text())
    assert {(case["disk"], " ".join(case["boot_certs"])) for case in found} == CASES.keys()


REFUSED = [
    ("good.qcow2", "certB.pem"),
    ("good.qcow2", ""),
    ("unsigned.qcow2", "certA.pem"),
    ("mixed.qcow2", "certA.pem"),
    ("ec.qcow2", "certA.pem"),
    ("sparse.qcow2", "certA.pem"),
]


@pytest.mark.parametrize(("disk", "certs"), REFUSED)
def test_what_secure_mode_refuses_never_runs(shared, disk, certs):
    """There is a QEMU, which ends where it stood: before its first instruction."""
    want = case_of(shared, disk, certs)["expect"]["secure"]
    boot = Boot(shared, shared / "disks" / disk, certs.split(), secure=True)
    assert verdict(boot.report) == (want["outcome"], want["reason"])
    assert (boot.ends, boot.announced, boot.console.written) == ([], [], b"")


def test_the_refused_ones_are_all_that_do_not_hand_over(shared):
    found = json.loads((shared / "disks" / "cases.json").read_text())
    stops = [case for case in found if case["expect"]["secure"]["outcome"] != "hands-over"]
    assert [(case["disk"], " ".join(case["boot_certs"])) for case in stops] == REFUSED
    assert all(case["expect"]["audit"]["outcome"] == "hands-over" for case in found)


def reaches_the_end(boot: Boot) -> None:
    assert [end.kind for end in boot.ends] == [EndKind.SEEN], (boot.ends, boot.text[-2000:])


def component_flags(text: str) -> dict[int, str]:
    """What the kernel says of each component, by its start address."""
    found = re.findall(r"setup: ([0-9a-f]{16}) - [0-9a-f]{16} \(([^)]*)\)", text)
    return {int(start, 16): what for start, what in found}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["audit", "secure"])
@pytest.mark.parametrize(("disk", "certs"), CASES)
def test_case(shared, disk, certs, mode):
    """Verdict and console of each case that hands over."""
    case = case_of(shared, disk, certs)
    want = case["expect"][mode]
    if want["outcome"] != "hands-over":
        assert (disk, certs) in REFUSED
        return
    boot = Boot(shared, shared / "disks" / disk, certs.split(), secure=mode == "secure")
    reaches_the_end(boot)
    assert verdict(boot.report) == ("hands-over", None)
    assert boot.report.mode == want.get("mode", mode)
    normal = boot.report.mode == "normal"
    subjects = [SUBJECTS[name] for name in CASES[disk, certs]]
    assert shown(boot.text) == expected(entry_of(disk), secure=mode == "secure", normal=normal, subjects=subjects)
    flags = component_flags(boot.text)
    verified = [address for address, what in flags.items() if what == "signed, verified"]
    assert verified == want.get("verified", [])
    assert bool(flags) is not normal


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "machine"),
    [
        (DeviceKind.VIRTIO_SCSI, {}),
        (DeviceKind.VIRTIO_BLK, {"cpus": 4, "memory": 3 << 30}),
        (DeviceKind.VIRTIO_SCSI, {"cpus": 2, "memory": 2 << 30}),
    ],
    ids=["scsi", "3 GiB and 4 CPUs", "scsi, 2 GiB and 2 CPUs"],
)
def test_other_machines(shared, kind, machine):
    boot = Boot(shared, Disk(str(shared / "disks" / "good.qcow2"), kind), ("certA.pem",), secure=True, **machine)
    reaches_the_end(boot)
    assert shown(boot.text) == expected("good", secure=True)
    if machine:
        assert f"smp: Brought up 1 node, {machine['cpus']} CPUs" in boot.text


@pytest.mark.slow
def test_without_has_secure(shared):
    boot = Boot(shared, shared / "disks" / "good.qcow2", ("certA.pem",), secure=True, has_secure=False)
    reaches_the_end(boot)
    lines = expected("good", secure=True)
    assert shown(boot.text) == [line.replace("has_secure: 1", "has_secure: 0") for line in lines]


@pytest.mark.slow
def test_the_embedded_engine_shows_the_same(shared):
    """What is written down above is what it shows."""
    console = EmbeddedConsole()
    options = MachineOptions(secure_boot=True, boot_certs=(str(shared / "keys" / "certA.pem"),), memory=512 * MIB)
    disk = Disk(str(shared / "disks" / "good.qcow2"))
    report = ipl.boot([disk], Settings(machine=options), EmbeddedEngine(console, SECONDS, DONE))
    assert verdict(report) == ("hands-over", None)
    text = console.written.decode("ascii", "replace").replace("\r", "")
    assert shown(text) == expected("good", secure=True)


@pytest.fixture
def with_init(shared, tmp_path):
    """A raw copy of the good disk whose RAM disk runs another script; gives its path and where its kernel lies."""
    from test_linux_boots import RAM_DISK, change_init, raw_copy

    disk = tmp_path / "changed.raw"
    place = raw_copy(shared, disk)

    def make(script: bytes) -> Path:
        start, length = place(RAM_DISK)
        with disk.open("r+b") as raw:
            raw.seek(start)
            changed = change_init(raw.read(length), script)
            raw.seek(start)
            raw.write(changed)
        return disk

    make.kernel = lambda: place(KERNEL)[0]
    return make


SAYS = b"""#!/bin/sh
/bin/busybox mount -t sysfs s /sys
/bin/busybox echo SECURE $(/bin/busybox cat /sys/firmware/ipl/secure) ROUND
"""


class Rounds(Console):
    """Does something at each round, and ends the third one."""

    def __init__(self, action=None) -> None:
        super().__init__()
        self._action = action
        self._rounds = 0

    def write(self, data: bytes) -> None:
        super().write(data)
        rounds = self.written.count(b"ROUND\r")
        if rounds > self._rounds:
            self._rounds = rounds
            if rounds == 3:
                super().write(DONE.encode())
            if self._action is not None:
                self._action(rounds)

    def read(self, timeout: float, room: int) -> bytes:
        from sipl.engine.console import ConsoleEnds

        if self._rounds == 3:
            raise ConsoleEnds("three rounds")
        return b""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [DeviceKind.VIRTIO_BLK, DeviceKind.VIRTIO_SCSI])
def test_reboot(shared, with_init, kind):
    """Plain `reboot` of an unmodified Linux: it comes back, verified, in the same mode."""
    disk = Disk(str(with_init(SAYS + b"/bin/busybox reboot -f\n")), kind)
    boot = Boot(shared, disk, ("certA.pem",), secure=True, console=Rounds())
    assert [end.kind for end in boot.ends] == [EndKind.REIPL, EndKind.REIPL, EndKind.ENDED], boot.text[-1000:]
    assert boot.text.count("SECURE 1 ROUND") == 3
    for report in boot.announced:
        assert (report.mode, verdict(report)) == ("secure", ("hands-over", None))
        assert [one.address for one in report.components if one.verified] == [LOADER, KERNEL]


@pytest.mark.slow
def test_reboot_after_damage(shared, with_init):
    """One bit of the kernel on the disk changes while the guest runs: it does not come back."""
    path = with_init(SAYS + b"/bin/busybox reboot -f\n")

    def damage(rounds: int) -> None:
        with path.open("r+b") as raw:
            raw.seek(with_init.kernel() + 5 * MIB)
            (byte,) = raw.read(1)
            raw.seek(-1, os.SEEK_CUR)
            raw.write(bytes([byte ^ 0x10]))

    boot = Boot(shared, path, ("certA.pem",), secure=True, console=Rounds(damage))
    assert [end.kind for end in boot.ends] == [EndKind.REIPL]
    assert verdict(boot.report) == ("stops", "signature-not-verified")
    assert boot.text.count("ROUND") == 1


@pytest.mark.slow
def test_panic(shared, with_init):
    """A kernel without a first process panics, and stays where it is."""
    boot = Boot(shared, with_init(SAYS), ("certA.pem",), secure=True)
    assert [end.kind for end in boot.ends] == [EndKind.CRASHED]
    assert "Linux stopped itself" in boot.ends[0].message
    assert "Kernel panic" in boot.text
    assert verdict(boot.report) == ("hands-over", None)
    assert len(boot.announced) == 1


@pytest.mark.slow
def test_command_line(shared):
    """`sipl boot` from start to end, with the default engine."""
    find_qemu()
    words = [sys.executable, "-m", "sipl", "boot", "-q", "--secure-boot", "on", "--memory", "512"]
    words += ["--boot-certs", str(shared / "keys" / "certA.pem"), str(shared / "disks" / "good.qcow2")]
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    assert shown(done.stdout.decode()) == expected("good", secure=True)
