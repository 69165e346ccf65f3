"""The machine stands by itself: a boot side that shares nothing with sipl's gets the same verifications from it."""

from __future__ import annotations

import ast
import gzip
import hashlib
import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from sipl.author.demo import make_demo
from sipl.disk.block_device import BlockDevice
from sipl.disk.open import open_image
from sipl.errors import RefusedToStart
from sipl.ipl import boot
from sipl.machine.boot_devices import DeviceKind, Subchannel
from sipl.machine.cert_store import CertStore
from sipl.machine.cpu_model import parse_cpu
from sipl.machine.ebcdic import loadparm_to_ebcdic
from sipl.machine.machine import Machine
from sipl.machine.options import MachineOptions, parse_time
from sipl.settings import Disk, Settings

ROOT = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("SIPL_SHARED", ROOT.parent / "shared"))
NOW = 1795399200  # 2026-11-23T02:00:00Z


def cases(*where):
    """Cases of the reference material by a name that says which one it is."""
    file = SHARED.joinpath(*where, "cases.json")
    found = json.loads(file.read_text()) if file.is_file() else []
    names = [case.get("id") or f"{case['disk']} {' '.join(case['boot_certs']) or 'none'}" for case in found]
    return [pytest.param(case, id=name) for case, name in zip(found, names, strict=True)] or [None]


@pytest.fixture
def compare(tiny_boot_side):
    """Runs both boot sides in audit mode, on machines of their own; the result is the tiny one."""

    def run(disks, settings):
        report = boot(disks, settings)
        loadparm = loadparm_to_ebcdic(settings.machine.loadparm)
        with ExitStack() as stack:
            devices = []
            for position, disk in enumerate(disks):
                image = stack.enter_context(open_image(disk.path))
                blocks = BlockDevice(image, disk.block_size)
                devices.append(Subchannel(position, disk.kind, blocks, disk.path, loadparm, 0, position + 1))
            try:
                store = CertStore.load(settings.machine.boot_certs, lambda *warning: None)
            except RefusedToStart as refusal:
                assert (report.outcome, report.reason) == ("refused-to-start", refusal.reason)
                return None
            machine = Machine(settings.machine, parse_cpu(settings.cpu), devices, store, loadparm, lambda: settings.at)
            stack.callback(machine.close)
            machine.ipl_device.prepare_ipl(machine.memory)
            tiny = tiny_boot_side.TinyBootSide(machine)
            tiny.ipl()
            assert tiny.outcome == report.outcome
            assert seen_by_tiny(tiny) == seen_by_sipl(report)
            check_certificates(tiny, report, store)
            if tiny.outcome == "hands-over":
                tried = [number for number, one in enumerate(report.devices) if one.outcome == "hands-over"]
                assert tried == [tiny.position]
            return tiny

    return run


def seen_by_tiny(tiny):
    return [
        (part.address, part.length, part.signed, part.verified, part.der and hashlib.sha256(part.der).hexdigest())
        for part in tiny.parts
    ]


def seen_by_sipl(report):
    return [(one.address, one.length, one.signed, one.verified, one.certificate) for one in report.components]


def check_certificates(tiny, report, store):
    """Store positions, lengths and bytes: of the report, of DIAGNOSE 508 and of DIAGNOSE 320."""
    by_position = {part.index: part.der for part in tiny.parts if part.verified}
    assert {one.store_index: (one.sha256, one.length) for one in report.certificates} == {
        index: (hashlib.sha256(der).hexdigest(), len(der)) for index, der in by_position.items()
    }
    for index, der in by_position.items():
        assert der == store.entries[index].certificate.der


def audit(certificates, memory, cpu="qemu", loadparm="", at=NOW):
    return Settings(MachineOptions(boot_certs=tuple(certificates), memory=memory, loadparm=loadparm), cpu=cpu, at=at)


@pytest.mark.parametrize("case", cases("corpus"))
def test_corpus(compare, shared, tmp_path, case):
    disks = []
    for number, name in enumerate(case["disks"]):
        path = tmp_path / f"{number}.img"
        path.write_bytes(gzip.decompress((shared / "corpus" / name).read_bytes()))
        disks.append(Disk(str(path), DeviceKind(case["device"]), case["block_size"]))
    certificates = [str(shared / "corpus" / path) for path in case["boot_certs"]]
    settings = audit(
        certificates, case["memory_mib"] << 20, case["cpu"] or "qemu", case["loadparm"] or "", parse_time(case["at"])
    )
    tiny = compare(disks, settings)
    expected = case["expect"]["audit"]
    assert (tiny.outcome if tiny else "refused-to-start") == expected["outcome"]
    if "components" in expected:
        flags = [0x80 * part.signed | 0x40 * part.verified for part in tiny.parts]
        assert [f"0x{flag:02x}" for flag in flags] == [component["flags"] for component in expected["components"]]


@pytest.mark.parametrize("case", cases("disks"))
def test_disks(compare, shared, case):
    disk = Disk(str(shared / "disks" / case["disk"]), DeviceKind(case["device"]), case["block_size"])
    certificates = [str(shared / "keys" / name) for name in case["boot_certs"]]
    tiny = compare([disk], audit(certificates, 512 << 20))
    expected = case["expect"]["audit"]
    assert tiny.outcome == expected["outcome"]
    assert [part.address for part in tiny.parts if part.verified] == expected.get("verified", [])


# The same without the reference material


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return make_demo(str(tmp_path_factory.mktemp("demo")), NOW)


@pytest.fixture
def changed(demo, tmp_path):
    """A copy of the demo's disk with some bytes at an offset replaced."""

    def make(offset, data):
        image = bytearray(Path(demo.disk).read_bytes())
        image[offset : offset + len(data)] = data
        path = tmp_path / f"changed-{offset}.raw"
        path.write_bytes(image)
        return Disk(str(path), block_size=512)

    return make


def addresses(tiny):
    return {part.address: (part.signed, part.verified) for part in tiny.parts}


def offset_of(demo, text):
    """Where a text of the demo's guest lies on the disk."""
    found = Path(demo.disk).read_bytes().find(text)
    assert found > 0
    return found


def test_demo(compare, demo):
    tiny = compare([Disk(demo.disk, block_size=512)], audit([demo.certificate], 128 << 20))
    assert tiny.outcome == "hands-over"
    both, neither = (True, True), (False, False)
    assert addresses(tiny) == {0x2000: neither, 0xF000: neither, 0xA000: both, 0x10000: both, 0x11000: neither}


def test_demo_with_another_certificate(compare, demo, data):
    other = data / "crypto" / "p521.pem"
    tiny = compare([Disk(demo.disk, block_size=512)], audit([str(other)], 128 << 20))
    assert addresses(tiny)[0x10000] == (True, False)
    tiny = compare([Disk(demo.disk, block_size=512)], audit([str(other), demo.certificate], 128 << 20))
    assert {part.index for part in tiny.parts if part.verified} == {1}


def test_demo_without_a_certificate(compare, demo):
    tiny = compare([Disk(demo.disk, block_size=512)], audit([], 128 << 20))
    assert tiny.outcome == "hands-over"
    assert not any(part.signed for part in tiny.parts)


def test_demo_with_a_flipped_byte(compare, demo, changed):
    tiny = compare([changed(offset_of(demo, b"GUEST-DONE"), b"h")], audit([demo.certificate], 128 << 20))
    assert addresses(tiny)[0xA000] == (True, True)
    assert addresses(tiny)[0x10000] == (True, False)


def test_demo_with_an_unusable_disk_before_it(compare, demo, changed):
    disks = [changed(0, b"none"), Disk(demo.disk, block_size=512)]
    tiny = compare(disks, audit([demo.certificate], 128 << 20))
    assert (tiny.outcome, tiny.position) == ("hands-over", 1)


@pytest.mark.parametrize("cpu", ["qemu,sipl=off", "qemu,cstore=off", "qemu,sclaf=off", "qemu,els=off", "z16"])
def test_t5_demo_without_a_facility(compare, demo, cpu):
    tiny = compare([Disk(demo.disk, block_size=512)], audit([demo.certificate], 128 << 20, cpu))
    assert tiny.outcome == "stops"
    assert tiny.parts == []


def test_it_shares_no_code_with_the_boot_side(tiny_boot_side):
    tree = ast.parse(Path(tiny_boot_side.__file__).read_text())
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            imported.add(node.module)
        elif isinstance(node, ast.Import):
            imported |= {name.name for name in node.names}
    assert imported == {"__future__", "struct", "typing", "sipl.machine.cpu"}
