"""The targets of fuzz.targets for what is read where disks are sealed, made, signed and examined."""

from __future__ import annotations

import json
from functools import cache
from itertools import pairwise

import sipl.ipl
from fuzz import sealing
from fuzz.disks import MEMORY, NOW
from fuzz.place import the_place
from fuzz.qcow2_writes import Qcow2Writes
from fuzz.seal_disks import mend_checksums
from fuzz.secure_boot import SecureBoot
from sipl.author import environment, recipe
from sipl.author.linux_image import read_linux_image
from sipl.author.seal_room import find_saved
from sipl.crypto.pkcs11_uri import SCHEME, is_pkcs11_uri, parse_pkcs11_uri
from sipl.diagnosis import diagnose
from sipl.disk.free_room import find_frames, find_free_room
from sipl.disk.image import Image
from sipl.disk.partitions import read_partition_table
from sipl.doctor.json_form import to_dict
from sipl.doctor.text import diagnosis_lines
from sipl.errors import SealRefused, SiplError, UsageError
from sipl.layout.linux import LINUX_ENTRY_OFFSET
from sipl.machine.options import MachineOptions
from sipl.reasons import Level, Mode, Outcome
from sipl.settings import Disk, Settings

BLOCK_SIZES = (512, 1024, 2048, 4096)
SECTOR = 512

_secure = cache(SecureBoot)
_sealing = cache(lambda: sealing.Sealing(_secure(), the_place().folder))
_writes = cache(lambda: Qcow2Writes(the_place().path("writes.qcow2")))


class MemoryImage(Image):
    """A disk in memory."""

    def __init__(self, content):
        super().__init__("memory", len(content) // SECTOR * SECTOR, "raw")
        self._content = content

    def read_into(self, offset, buffer):
        self._check_range(offset, len(buffer))
        buffer[:] = self._content[offset : offset + len(buffer)]

    def close(self):
        pass


def partitions(data):
    """Partition tables and what lies in front of the first partition: a byte says how a disk is read."""
    how, content = data[:1] or b"\0", bytearray(data[1:])
    block_size = BLOCK_SIZES[how[0] % 4]
    if how[0] & 0x80 and len(content) >= 2 * block_size:
        mend_checksums(content, block_size)
    image = MemoryImage(bytes(content))
    frames = find_frames(image, block_size)
    saved = find_saved(image, block_size, frames, content[:SECTOR])
    assert saved is None or saved.written == content[: len(saved.written)]
    try:
        table = read_partition_table(image, block_size)
    except SealRefused as refusal:
        assert str(refusal).isprintable()
        try:
            find_free_room(image, block_size)
        except SealRefused as other:
            assert other.reason is refusal.reason
            return
        raise AssertionError("there is room in front of partitions that nobody knows") from refusal
    ranges = [(one.first, one.last) for one in table.partitions]
    assert ranges == sorted(ranges)
    assert all(0 < first <= last < len(content) // block_size for first, last in ranges)
    assert all(one[1] < other[0] for one, other in pairwise(ranges))
    start, end = sealing.gap(bytes(content), block_size)
    assert (table.end, table.partitions[0].first) == (max(start, table.end), end)
    try:
        room = find_free_room(image, block_size)
    except SealRefused as refusal:
        assert str(refusal).isprintable()
        return
    assert table.end == room.first < room.end <= end
    assert set(room.frames) <= set(frames)
    assert not sealing.sectors_in_use(bytes(content), block_size, room.first, room.end)


def seal(data):
    """The promise of `sipl seal`: bytes decide on a disk, on its changes, and on what is asked for."""
    _sealing().execute(data)


def seal_summary():
    found = _sealing()
    return (
        f"{found.sealed.total()} disks sealed ({found.share:.0%}), {found.handed_over} hand-overs of them checked, "
        f"{len(found.refused)} reasons for refusals"
    )


def qcow2_writer(data):
    """Writing to qcow2 images: bytes decide on an image, on its changes, and on what is written."""
    _writes().execute(data)


def qcow2_summary():
    return f"{_writes().written} writes, {len(_writes().refused)} reasons for refusals"


def doctor(data):
    """The doctor: a byte says whether choices or the image of a disk follow; he agrees with `verify`."""
    place = the_place()
    how, rest = data[0] if data else 0, data[1:]
    if how & 1:
        case = _secure().case(rest)
        image, block_size, kind = case.disks[0]
        disk = Disk(place.write("examined", image), kind, block_size)
        machine = MachineOptions(boot_certs=case.certificates, loadparm=case.loadparm, memory=case.memory)
    else:
        block_size = None if how & 2 else BLOCK_SIZES[how >> 2 & 3]
        disk = Disk(place.write("examined", rest), block_size=block_size)
        machine = MachineOptions(boot_certs=() if how & 0x10 else place.certificates, memory=MEMORY)
    settings = Settings(machine=machine, at=NOW)
    report = sipl.ipl.verify(disk, settings, Mode.SECURE)
    diagnosis = diagnose(disk, settings)
    assert (diagnosis.would_boot, diagnosis.reason) == (report.would_boot, report.reason)
    assert report.would_boot is not None or report.outcome is not Outcome.HANDS_OVER
    errors = [problem for problem in diagnosis.problems if problem.level is Level.ERROR]
    assert bool(errors) == (report.would_boot is not True)
    assert all(problem.steps for problem in diagnosis.problems)
    explained = {reason for problem in diagnosis.problems for reason in problem.reasons}
    assert {finding.reason for finding in report.findings if finding.level is not Level.INFO} <= explained
    json.dumps(to_dict(diagnosis))
    for line in diagnosis_lines(diagnosis, verbose=True):
        assert line.isprintable(), line


def linux_image(data):
    """Kernels: a length, as many bytes at the start of the file, and what lies from the entry on."""
    length = int.from_bytes(data[:2], "big")
    start, rest = data[2 : 2 + length], data[2 + length :]
    content = start.ljust(LINUX_ENTRY_OFFSET, b"\0") + rest if rest else start
    try:
        kernel = read_linux_image(content, "kernel")
    except UsageError as error:
        assert str(error).isprintable()
        return
    assert kernel.version.isprintable()
    # The loader writes a command line of this size into the kernel.
    assert 0 < kernel.command_line_size < len(content) - LINUX_ENTRY_OFFSET
    assert content[LINUX_ENTRY_OFFSET + 8 :].startswith(b"S390EP")


def recipes(data):
    """What a new disk is to hold, as TOML."""
    place = the_place()
    path = place.write("recipe.toml", data)
    try:
        found = recipe.read_recipe(path)
    except SiplError as error:
        assert str(error).isprintable()
        return
    assert 1 <= found.default <= len(found.entries) <= recipe.MAX_ENTRIES
    assert all(entry.kernel for entry in found.entries)
    if found.environment is not None:
        _use_environment(found.environment)


def environments(data):
    """Files with an environment, and one variable."""
    try:
        variables = environment.read_environment(the_place().write("environment", data))
    except SiplError as error:
        assert str(error).isprintable()
    else:
        _use_environment(variables)
    text = data.decode("utf-8", "surrogateescape")
    try:
        name, value = environment.parse_variable(text)
    except UsageError as error:
        assert str(error).isprintable()
    else:
        assert f"{name}={value}" == text
        _use_environment({name: value})


def _use_environment(variables):
    try:
        block = environment.build_environment(variables)
    except UsageError as error:
        assert str(error).isprintable()
        return
    lines = block.rstrip(b"\0").decode("ascii").split("\n")
    assert dict(line.split("=", 1) for line in lines[1:] if line) == variables
    for name, value in variables.items():
        assert environment.expand(f"a ${{{name}}} b", variables) == f"a {value} b"


def pkcs11_uri(data):
    """PKCS#11 URIs; nothing of what stands where a PIN may stand is ever shown."""
    text = data.decode("utf-8", "surrogateescape")
    for uri in (text, SCHEME + text):
        try:
            found = parse_pkcs11_uri(uri)
        except UsageError as error:
            assert str(error).isprintable() and len(str(error)) < 4000
            assert not is_pkcs11_uri(uri) or all(pin not in str(error) for pin in _pins(uri))
            continue
        assert is_pkcs11_uri(uri) and not _pins(uri)
        assert found.pin_file is None or found.pin_file.startswith("/")
        assert all("\0" not in part for part in found if isinstance(part, str) and part is not found.text)


def _pins(uri):
    """Values long enough to be no accident."""
    parts = uri.replace("?", "\n").replace("&", "\n").replace(";", "\n").split("\n")
    values = [part.partition("=")[2] for part in parts if part.startswith("pin-value=")]
    return [value for value in values if len(value) > 5 and uri.count(value) == 1]
