"""One function per parser: it takes bytes, and nothing but the package's own errors may be raised inside it.

`TARGETS` maps names to functions and their seeds. What a function raises is a finding.
"""

from __future__ import annotations

import json
import os
import struct
from functools import cache
from typing import NamedTuple

import sipl.inspection
import sipl.ipl
from fuzz import author_targets, seeds
from fuzz.choices import Choices
from fuzz.disks import MEMORY, NOW
from fuzz.hand_over import LONGEST_REPORT
from fuzz.place import the_place
from fuzz.qcow2_writes import CASE_LENGTH as QCOW2_LENGTH
from fuzz.sealing import CASE_LENGTH as SEAL_LENGTH
from fuzz.secure_boot import CASE_LENGTH, SecureBoot
from sipl.author.file_signature import show_signature, signature_dict, signature_lines
from sipl.author.signed_file import sign_file, strip_file
from sipl.author.signer import Signer
from sipl.crypto.appended_signature import read_layers, trailer
from sipl.crypto.certificate import Certificate, utc_text
from sipl.crypto.pem import certificate_der, pem_of
from sipl.crypto.pkcs7 import SignedData
from sipl.crypto.verify import SignatureCheck
from sipl.disk.block_device import BlockDevice
from sipl.disk.block_size import find_block_size
from sipl.disk.open import open_image
from sipl.errors import SiplError
from sipl.firmware.components import Component
from sipl.firmware.report import build_report
from sipl.firmware.sclab import SclabCount, check_sclab
from sipl.firmware.verdict import FirmwareFault, Judge, MachineStops
from sipl.layout.iirb import CertificateEntry, ReportComponent
from sipl.machine import cpu_model, keyval, options
from sipl.machine.boot_devices import DeviceKind
from sipl.machine.cert_store import CertStore
from sipl.machine.diag308 import GuestReset
from sipl.machine.interruption import ProgramInterruption
from sipl.machine.machine import Machine
from sipl.machine.options import MachineOptions
from sipl.reasons import Level, Mode, Outcome, Reason
from sipl.report.build import FindingLog, plain_report
from sipl.report.json_form import to_json
from sipl.settings import Disk, Settings

BLOCK_SIZES = (512, 1024, 2048, 4096)
MAX_READ = 1 << 20  # of the virtual disk of a qcow2 image, from each end


class Target(NamedTuple):
    """`summary` says what the executions came to, beyond their number.

    With `fresh`, that many bytes of no meaning are as good a case as a changed seed.
    """

    function: object
    seeds: object
    summary: object = lambda: ""
    fresh: int = 0


_secure = cache(SecureBoot)


def _texts(value):
    """All strings in what JSON holds."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for member in value.values():
            yield from _texts(member)
    elif isinstance(value, list):
        for member in value:
            yield from _texts(member)


def _check_json(report):
    """A report is one line of JSON whose texts drive no terminal."""
    line = to_json(report)
    assert "\n" not in line
    for text in _texts(json.loads(line)):
        assert text.isprintable(), text


def boot_map(data):
    """The whole boot side on a disk of any content: a byte for the mode, one for the block size, the image."""
    place = the_place()
    mode, size, image = data[:1], data[1:2], data[2:]
    path = place.write("disk", image)
    block_size = BLOCK_SIZES[size[0] % 4] if size else None
    kind = DeviceKind.VIRTIO_SCSI if size and size[0] & 0x40 else DeviceKind.VIRTIO_BLK
    disk = Disk(path, kind, None if size and size[0] & 0x80 else block_size)
    number = mode[0] % 4 if mode else 0
    machine = MachineOptions(
        secure_boot=number == 0, boot_certs=() if number == 2 else place.certificates, memory=MEMORY
    )
    settings = Settings(machine=machine, at=NOW)
    report = sipl.ipl.verify(disk, settings) if number == 3 else sipl.ipl.boot([disk], settings)
    _check_json(report)
    try:
        sipl.inspection.inspect(disk)
    except SiplError:
        assert report.outcome is Outcome.UNDECIDED


def hand_over(data):
    """The promise of secure mode: bytes decide on disks and their changes, a hand-over is checked with OpenSSL."""
    _secure().execute(data)


def _hand_over_summary():
    secure = _secure()
    return (
        f"{secure.outcomes[Outcome.HANDS_OVER]} hand-overs of {secure.different} different disks ({secure.share:.0%}), "
        f"{secure.crypto.asked} signatures verified by OpenSSL, {len(secure.reasons)} reasons"
    )


def disk_image(data):
    """Image files of any content: qcow2 by its magic, else raw; both ends are read."""
    path = the_place().write("image", data)
    try:
        with open_image(path) as image:
            assert image.size % 512 == 0
            device = BlockDevice(image, find_block_size(image))
            length = min(image.size, MAX_READ)
            first = image.read(0, length)
            last = image.read(image.size - length, length)
            assert len(first) == len(last) == length
            if device.blocks:
                buffer = bytearray(device.block_size)
                device.read_blocks(device.blocks - 1, 1, memoryview(buffer))
            if not data.startswith(b"QFI\xfb"):
                assert first.rstrip(b"\0") == data[:length].rstrip(b"\0")
    except SiplError as error:
        assert str(error).isprintable()


def pkcs7(data):
    """Signatures of any content, and their verification with every kind of key."""
    try:
        signed = SignedData.parse(data)
        assert signed.signer.text().isprintable()
    except SiplError as error:
        assert str(error).isprintable()
    for certificate in _signers():
        try:
            SignatureCheck(b"component", data).verify(certificate, NOW)
        except SiplError as error:
            assert str(error).isprintable()


@cache
def _signers():
    place = the_place()
    paths = [place.shop.path(name) for name in ("rsa", "ec", "usage")]
    own = [_read(path) for path in paths]
    return [Certificate.from_pem(pem) for pem in own]


def _read(path):
    with open(path, "rb") as file:
        return file.read()


def _use_certificate(certificate):
    assert certificate.subject.isprintable() and certificate.issuer.isprintable()
    assert certificate.key_name.isprintable()
    assert len(certificate.fingerprint) == 32
    for use in (
        certificate.key_id,
        certificate.key_type,
        certificate.check_key_usage,
        lambda: certificate.check_time(NOW),
        lambda: utc_text(certificate.not_after) + utc_text(certificate.not_before),
    ):
        try:
            use()
        except SiplError as error:
            assert str(error).isprintable()


def x509(data):
    """Certificates of any content."""
    try:
        certificate = Certificate.from_der(data)
    except SiplError as error:
        assert str(error).isprintable()
        return
    _use_certificate(certificate)
    for signature in _own_signatures():
        try:
            SignatureCheck(b"component", signature).verify(certificate, NOW)
        except SiplError as error:
            assert str(error).isprintable()


@cache
def _own_signatures():
    return [the_place().shop.sign(b"component", name) for name in ("rsa", "ec")]


def pem(data):
    """PEM files of any content, by themselves and in a certificate store."""
    try:
        der = certificate_der(data)
        assert certificate_der(pem_of(der)) == der
        _use_certificate(Certificate.from_pem(data))
    except SiplError as error:
        assert str(error).isprintable()
    path = the_place().write("file.pem", data)
    try:
        assert CertStore.load([path], lambda *_: None).count == 1
    except SiplError as error:
        assert str(error).isprintable()


def signed_file(data):
    """Files with an appended signature of any content: shown, stripped, and signed by a key of ours."""
    place = the_place()
    path, out = place.write("signed", data), os.path.join(place.folder, "out")
    view = show_signature(path, place.certificates, NOW)
    assert all(line.isprintable() for line in signature_lines(view, quiet=False, verbose=True))
    json.dumps(signature_dict(view))
    try:
        layers = read_layers(data)
    except SiplError as error:
        assert str(error).isprintable()
        assert not view.good
        return
    assert (view.signature is not None) == bool(layers)
    payload = data[: layers[-1].payload_length] if layers else data
    assert strip_file(path, output=out).removed == len(layers)
    assert _read(out) == payload
    try:
        done = sign_file(path, _signer(), output=out)
    except SiplError as error:
        assert str(error).isprintable()
        return
    assert _read(out) == payload + trailer(done.signature)
    assert show_signature(out, place.certificates, NOW).good


@cache
def _signer():
    place = the_place()
    return Signer(place.shop.key("rsa"), Certificate.from_pem(_read(place.shop.path("rsa"))), now=NOW)


class _Storage:
    """Of the platform, what the SCLAB rules use: a component at its address, and nothing around it."""

    def __init__(self, address, data):
        self._address = address
        self._data = data

    def load(self, address, length):
        start = address - self._address
        assert start >= 0 and start + length <= len(self._data), "a read outside the component"
        return self._data[start : start + length]


def sclab_rules(data):
    """The SCLAB rules on a component of any content, behind its load address: audit and secure mode agree."""
    address = int.from_bytes(data[:8].ljust(8, b"\0"), "big")
    component = data[8:]
    storage = _Storage(address, component)
    findings = []
    judge = Judge(findings.append)
    judge.mode = Mode.AUDIT
    count = SclabCount()
    audited = Component(0, address, len(component))
    check_sclab(storage, audited, count, judge)
    assert bool(findings) == bool(audited.error_indicators)
    assert all(finding.message.isprintable() for finding in findings)
    assert (count.first_global is None) == (count.globals == 0) and count.globals <= count.recognised <= 1
    judge.mode = Mode.SECURE
    try:
        check_sclab(storage, Component(0, address, len(component)), SclabCount(), judge)
    except MachineStops as stop:
        assert stop.reason is findings[0].reason
    else:
        assert not findings


def machine_options(data):
    """Machine options, CPU models, sizes, times and loadparms of any text."""
    text = data.decode("utf-8", "surrogateescape")
    texts = text.split("\n", 3)
    for parse in (
        lambda: keyval.parse(text, "-machine", "type"),
        lambda: options.parse_machine(texts, MachineOptions()),
        lambda: cpu_model.parse_cpu(text),
        lambda: options.parse_size(text),
        lambda: options.parse_time(text),
        lambda: options.parse_loadparm(text),
        lambda: options.parse_menu_timeout(text),
        lambda: options.parse_bool(text, "option"),
    ):
        try:
            parse()
        except SiplError as error:
            assert str(error).isprintable()


def report(data):
    """The IPL report of any components, read back; and texts of any content in the JSON report."""
    choices = Choices(data)
    components = []
    for position in range(choices.below(130)):
        component = Component(position, choices.below(1 << 64), choices.below(1 << 64))
        component.flags = choices.pick((0, 0x80, 0xC0))
        component.certificate_index = choices.below(1 << 16)
        component.error_indicators = choices.below(1 << 32)
        components.append(component)
    psw = ReportComponent(choices.below(1 << 64), 0, 0, 0, choices.below(1 << 32)) if choices.chance(128) else None
    indicators = choices.below(1 << 16)
    certificates = [CertificateEntry(choices.below(1 << 64), choices.below(1 << 64)) for _ in range(choices.below(66))]
    try:
        block = build_report(components, psw, indicators, certificates)
    except FirmwareFault:
        assert len(components) + (psw is not None) > 127 or len(certificates) > 64
    else:
        _read_report(block, components, psw, indicators, certificates)
    text = choices.rest().decode("utf-8", "surrogateescape")
    log = FindingLog()
    log.host(Reason.IMAGE_INVALID, Level.ERROR, text, text, text)
    _check_json(plain_report(Mode.SECURE, [Disk(text)], Outcome.UNDECIDED, Reason.IMAGE_INVALID, log))


def _read_report(block, components, psw, indicators, certificates):
    """Read a report as Linux does: a list is looked at only while more than 8 bytes are left."""
    assert len(block) <= LONGEST_REPORT
    assert struct.unpack_from(">IB11x", block) == (len(block), 0)
    lists = []
    at = 16
    while at + 8 < len(block):
        size, kind, bits = struct.unpack_from(">IB3xH", block, at)
        lists.append((kind, bits, block[at + 16 : at + size]))
        at += size
    (first, bits, entries), (second, zero, pointers) = lists
    assert (first, second, bits, zero) == (2, 1, indicators, 0)
    expected = [
        (c.address, c.length, c.flags, c.certificate_index if c.flags & 0x40 else 0, c.error_indicators)
        for c in components
    ]
    assert list(struct.iter_unpack(">QQB5xHI4x", entries)) == expected + ([tuple(psw)] if psw is not None else [])
    assert list(struct.iter_unpack(">QQ", pointers)) == [tuple(c) for c in certificates]


@cache
def _machine():
    model = cpu_model.parse_cpu("qemu")
    store = CertStore.load(the_place().certificates, lambda *_: None)
    machine = Machine(MachineOptions(secure_boot=True, memory=MEMORY), model, [], store, b"\x40" * 8, lambda: NOW)
    machine.ipl_device.prepare_ipl(machine.memory)
    return machine


def diagnose(data):
    """DIAGNOSE 308, 320 and 508 and SERVC as a hostile guest issues them."""
    machine = _machine()
    choices = Choices(data)
    cpu = machine.cpu
    cpu.problem_state = choices.chance(8)
    places = (0x10000, 0x11000, 0, 0x200, 8, MEMORY - 4096, MEMORY, MEMORY - 64, (1 << 64) - 4096, 1 << 31)
    function = choices.pick((0x508, 0x320, 0x308, 0x507))
    subcode = choices.pick((0x8000, 0, 1, 2, 5, 6, 3, 0xFFFF, 0x10000, 1 << 63))
    address = choices.pick(places)
    r1, r3 = choices.pick((2, 2, 2, 4, 14, 3)), choices.pick((6, 6, 7, 2))
    servc = choices.chance(24)
    cpu.registers[:] = [choices.pick(places) for _ in range(16)]
    cpu.registers[r3], cpu.registers[r1] = subcode, address
    machine.memory.write(0x10000, choices.rest()[:4096].ljust(8192, b"\0"))
    try:
        if servc:
            machine.execute_service_call(cpu, choices.pick((0x00020001, 0x00120001, 0)), address)
        else:
            machine.execute_diagnose(cpu, function, r1, r3)
    except (ProgramInterruption, GuestReset):
        pass
    assert all(0 <= register < 1 << 64 for register in cpu.registers)


TARGETS = {
    "hand-over": Target(hand_over, seeds.choices, _hand_over_summary, CASE_LENGTH),
    "boot-map": Target(boot_map, seeds.disks),
    "disk-image": Target(disk_image, lambda: seeds.qcow2_images() + [seed[2:] for seed in seeds.disks()[:3]]),
    "pkcs7": Target(pkcs7, seeds.signatures),
    "x509": Target(x509, seeds.certificates),
    "pem": Target(pem, seeds.pem_files),
    "signed-file": Target(signed_file, seeds.signed_files),
    "sclab": Target(sclab_rules, seeds.components),
    "options": Target(machine_options, seeds.options),
    "report": Target(report, seeds.choices, fresh=CASE_LENGTH),
    "diagnose": Target(diagnose, seeds.choices, fresh=CASE_LENGTH),
    "partitions": Target(author_targets.partitions, seeds.partitioned),
    "seal": Target(author_targets.seal, seeds.choices, author_targets.seal_summary, SEAL_LENGTH),
    "qcow2-writer": Target(author_targets.qcow2_writer, seeds.choices, author_targets.qcow2_summary, QCOW2_LENGTH),
    "doctor": Target(author_targets.doctor, seeds.examined),
    "linux-image": Target(author_targets.linux_image, seeds.kernels),
    "recipe": Target(author_targets.recipes, seeds.recipes),
    "environment": Target(author_targets.environments, seeds.environments),
    "pkcs11-uri": Target(author_targets.pkcs11_uri, seeds.pkcs11_uris),
}
