"""Several faults at once: secure mode stops at the first of the order, audit mode says all in that order."""

from __future__ import annotations

import pytest
from ipl_lab import (
    AT,
    GLOBAL,
    KERNEL,
    LOADER,
    PSW,
    PSW_MASK,
    YEAR,
    Load,
    finish,
    kernel_bytes,
    loader_bytes,
    reasons,
)

from sipl.author import sclab
from sipl.author.boot_record import DiskWriter, Execute
from sipl.crypto import signing
from sipl.disk.block_device import BlockDevice
from sipl.disk.open import open_image
from sipl.firmware.flow import Firmware
from sipl.layout.boot_record import BlockPointer
from sipl.layout.record import pack
from sipl.layout.sclab import SclabFlags
from sipl.machine.boot_devices import DeviceKind, Subchannel
from sipl.machine.cert_store import CertStore
from sipl.machine.cpu_model import parse_cpu
from sipl.machine.ebcdic import loadparm_to_ebcdic
from sipl.machine.machine import Machine
from sipl.machine.options import MachineOptions

NUC, SC = SclabFlags.NUC, SclabFlags.SC

# The faults of one signed component that is not the global one, in the order in which they are looked for. Of the two
# SCLAB faults that end the examination the later ones are hidden.
LOCAL = [
    "segment-unreadable",
    "block-out-of-range",
    "load-address-forbidden",
    "address-overlap",
    "sclab-missing",
    "sclab-length",
    "sclab-format",
    "sclab-psw-not-zero",
    "sclab-address-not-zero",
    "sclab-nuc-not-global",
    "sclab-sc-not-global",
    "signature-not-verified",
]
GLOBAL_ONE = ["sclab-format", "sclab-ola-not-one", "sclab-address-not-zero", "signature-not-verified"]
GLOBAL_OLA = ["sclab-format", "sclab-address-mismatch", "signature-not-verified"]


def disk_with(lab, faults):
    """The base program behind a signed component at 0x200, and a component that has all of `faults`."""
    fault = set(faults).__contains__
    address = 0x500
    if fault("address-overlap"):
        address = 0x300
    if fault("load-address-forbidden"):
        address = 0x100 if fault("address-overlap") else 0
    attributes = sclab.build(
        (NUC if fault("sclab-nuc-not-global") else 0) | (SC if fault("sclab-sc-not-global") else 0),
        psw=1 if fault("sclab-psw-not-zero") else 0,
        address=1 if fault("sclab-address-not-zero") else 0,
        stated_length=31 if fault("sclab-length") else 32,
        sclab_format=1 if fault("sclab-format") else 0,
        magic=b"none" if fault("sclab-missing") else b"zIPL",
    )
    data = sclab.overwrite(bytes(512), attributes)
    by = "B" if fault("signature-not-verified") else "A"
    writer = DiskWriter(512)
    first = lab.kernel(at=0x200, size=512)
    entries = [e for c in lab.program(extra=[first])[:-1] for e in writer.add_component(c)]
    signature, load = writer.add_component(lab.signed(address, data, by))
    pointers = writer.append(data)
    if fault("block-out-of-range"):
        pointers.append(BlockPointer(1 << 40, 512, 0))
    if fault("segment-unreadable"):
        pointers.insert(0, BlockPointer(1, 1024, 0))
    load = load._replace(segment_table=pack(writer.append_segment_tables(pointers)))
    entries += [signature, load, *writer.add_component(Execute(PSW))]
    return lab.disk(finish(writer, entries))


@pytest.mark.parametrize("first", range(len(LOCAL)), ids=LOCAL)
def test_a_component_with_all_faults_from_one_on(lab, first):
    report = lab.boot(disk_with(lab, LOCAL[first:]))
    assert report.reason == LOCAL[first]
    assert reasons(report) == [LOCAL[first]]


@pytest.mark.parametrize("later", range(len(LOCAL)), ids=LOCAL)
@pytest.mark.parametrize("first", range(len(LOCAL)), ids=LOCAL)
def test_any_two_faults_of_a_component(lab, first, later):
    if first < later:
        assert lab.boot(disk_with(lab, [LOCAL[first], LOCAL[later]])).reason == LOCAL[first]
    else:
        assert lab.boot(disk_with(lab, [LOCAL[first]])).reason == LOCAL[first]


def test_audit_mode_says_all_of_a_component(lab):
    report = lab.boot(disk_with(lab, LOCAL[LOCAL.index("sclab-format") :]), mode="audit")
    assert reasons(report) == LOCAL[LOCAL.index("sclab-format") :]
    assert report.components[-1].error_indicators == 0x20000000 | 0x00200000 | 0x00400000 | 0x02000000 | 0x00800000
    report = lab.boot(disk_with(lab, ["address-overlap", *LOCAL[LOCAL.index("sclab-length") :]]), mode="audit")
    assert reasons(report) == ["address-overlap", "sclab-length", "signature-not-verified"]


def global_loader(lab, faults):
    fault = set(faults).__contains__
    ola = 0 if fault("sclab-ola-not-one") or fault("sclab-address-not-zero") else SclabFlags.OLA
    address = LOADER if ola or fault("sclab-address-not-zero") else 0
    if fault("sclab-address-mismatch"):
        address = LOADER + 8
    attributes = {"flags": SclabFlags.OPSW | ola, "address": address, "sclab_format": int(fault("sclab-format"))}
    return lab.loader(by="B" if fault("signature-not-verified") else "A", **attributes)


@pytest.mark.parametrize("faults", [GLOBAL_ONE, GLOBAL_OLA])
def test_the_global_sclab(lab, faults):
    for first in range(len(faults)):
        expected = faults[first]
        if expected == "sclab-address-not-zero":
            continue  # a global SCLAB with this fault has the one before it, too
        report = lab.boot(lab.program(loader=global_loader(lab, faults[first:])))
        assert report.reason == expected
    audit = lab.boot(lab.program(loader=global_loader(lab, faults)), mode="audit")
    assert reasons(audit) == faults


def test_unsigned_component(lab):
    """E1 before E2."""
    signed = lab.kernel(at=0x1000, size=512)
    both = lab.boot(lab.program(extra=[signed, Load(0x1000, bytes(512))]))
    assert reasons(both) == ["address-overlap"]
    audit = lab.boot(lab.program(extra=[signed, Load(0x1000, bytes(512))]), mode="audit")
    assert reasons(audit) == ["address-overlap", "unsigned-address-too-low"]
    low = lab.boot(lab.program(extra=[signed, Load(0x1200, bytes(512))]))
    assert reasons(low) == ["unsigned-address-too-low"]


def test_components_are_judged_in_table_order(lab):
    """What is wrong with the first one is said, however bad the next is; and the next is not even read."""
    loader = loader_bytes()
    late = lab.program(loader=lab.loader(by="B"), kernel=lab.signed(KERNEL, bytes(512), "B"), psw=0)
    report = lab.boot(late)
    assert reasons(report) == ["signature-not-verified"]
    assert [c.address for c in report.components] == [0x2000, LOADER]
    early = lab.program(loader=Load(LOADER, loader, b"x", signature_format=2), kernel=lab.loader(at=0))
    assert lab.boot(early).reason == "signature-format"


# the program as a whole, in the order in which it is looked at
WHOLE = [
    "psw-outside-signed-code",
    "psw-mismatch",
    "several-global-sclabs",
    "unsigned-not-allowed",
    "single-component-violated",
]


def whole_program(lab, faults):
    fault = set(faults).__contains__
    flags = GLOBAL
    if fault("unsigned-not-allowed"):
        flags |= NUC
    if fault("single-component-violated"):
        flags |= SC
    psw = PSW_MASK | 0x20000 if fault("psw-outside-signed-code") else PSW
    mismatch = 2 if fault("psw-mismatch") else 0
    kernel = lab.kernel()
    if fault("several-global-sclabs"):
        kernel = lab.kernel(flags=GLOBAL, psw=PSW, address=KERNEL)
    return lab.program(psw=psw + mismatch, loader=lab.loader(flags=flags, psw=psw), kernel=kernel)


@pytest.mark.parametrize("first", range(len(WHOLE)), ids=WHOLE)
def test_the_program_with_all_faults_from_one_on(lab, first):
    assert reasons(lab.boot(whole_program(lab, WHOLE[first:]))) == [WHOLE[first]]


def test_audit_mode_says_all_of_the_program(lab):
    # Several global SCLABs end the examination of what the first one demands.
    report = lab.boot(whole_program(lab, WHOLE), mode="audit")
    assert reasons(report) == WHOLE[:3]
    assert (report.psw_error_indicators, report.error_indicators) == (0x0C000000, 0x1000)
    one_global = [name for name in WHOLE if name != "several-global-sclabs"]
    report = lab.boot(whole_program(lab, one_global), mode="audit")
    assert reasons(report) == one_global
    assert report.error_indicators == 0x0C00


def test_nothing_signed_before_no_sclab(lab):
    program = lab.program(loader=Load(LOADER, loader_bytes()), kernel=Load(KERNEL, kernel_bytes()), psw=0)
    assert reasons(lab.boot(program)) == ["no-signed-component"]
    assert reasons(lab.boot(program, mode="audit")) == ["no-signed-component", "no-sclab"]


def test_components_before_the_program(lab):
    """A fault of the last component is found before any of the whole program."""
    program = whole_program(lab, WHOLE)
    last = lab.kernel(at=0x30000, by="B")
    report = lab.boot([*program[:-1], last, program[-1]])
    assert reasons(report) == ["signature-not-verified"]


# a certificate that is not there any more when it is fetched


def run_with_clock(lab, mode, times):
    """IPL of a machine whose clock shows the next of `times` at each look at it, then the last for ever."""
    signer = lab.signers.make("short-lived", signing.generate_key("p256"), AT - YEAR, AT)
    components = lab.program(
        loader=Load(LOADER, loader_bytes(), signer.sign(loader_bytes())),
        kernel=Load(KERNEL, kernel_bytes(), signer.sign(kernel_bytes())),
    )
    left = list(times)

    def clock():
        return left.pop(0) if len(left) > 1 else left[0]

    loadparm = loadparm_to_ebcdic("")
    with open_image(lab.disk(components).path) as image:
        device = Subchannel(0, DeviceKind.VIRTIO_BLK, BlockDevice(image, 512), "disk", loadparm, 0, 1)
        options = MachineOptions(secure_boot=mode == "secure", memory=16 << 20)
        store = CertStore.load([signer.path], lambda *warning: None)
        machine = Machine(options, parse_cpu("qemu"), [device], store, loadparm, clock)
        machine.ipl_device.prepare_ipl(machine.memory)
        findings = []
        firmware = Firmware(machine, None, findings.append)
        firmware.ipl()
    return firmware, [str(f.reason) for f in findings]


@pytest.mark.parametrize("mode", ["audit", "secure"])
def test_certificate_that_expires_between_verification_and_fetch(lab, mode):
    """The clock is looked at by DIAGNOSE 320 subcodes 0 and 1, by 508 subcode 0, then by the verification."""
    outcomes = set()
    for before in range(8):
        firmware, found = run_with_clock(lab, mode, [AT] * before + [AT + 1])
        outcomes.add((str(firmware.outcome), str(firmware.reason)))
        if firmware.reason == "certificate-not-available":
            assert found[-1] == "certificate-not-available"
            assert firmware.hand_over is None
    assert ("no-bootable-device", "certificate-not-available") in outcomes
    good, found = run_with_clock(lab, mode, [AT])
    assert good.outcome == "hands-over"
