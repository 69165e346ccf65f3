"""Power that ends at any write of a seal: the disk has the old boot record or the new one, and boots with it."""

from __future__ import annotations

import pytest
import seal_lab
from seal_lab import (
    Tape,
    check,
    convert,
    disk,
    judge,
    linux,
    program,
    record_of,
    seal_file,
    states_after_a_cut,
    unseal_file,
)

from sipl.crypto import signing
from sipl.disk.free_room import find_free_room
from sipl.disk.open import open_image
from sipl.errors import ImageError


@pytest.fixture(scope="module")
def signers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("seal-signers")
    kinds = {"A": "p521", "B": "rsa4096"}
    return {name: seal_lab.SealSigner(folder, name, signing.generate_key(kind)) for name, kind in kinds.items()}


QCOW2 = {
    "default": (),
    "512-byte clusters": ("cluster_size=512",),
    "version 2": ("compat=0.10", "cluster_size=4096"),
    "1-bit counts": ("refcount_bits=1", "cluster_size=4096"),
    "subclusters": ("extended_l2=on", "cluster_size=16384"),
}


def image_of(form, tmp_path, need_tool, **how):
    raw = tmp_path / "disk.raw"
    raw.write_bytes(disk(**how))
    if form == "raw":
        return raw
    tool = need_tool("qemu-img", "qemu-utils")
    settings = QCOW2["default" if form == "compressed" else form]
    return convert(raw, tmp_path / "disk.qcow2", tool, *settings, compress=form == "compressed")


class Act:
    """What a command does to a disk, and how the disk is told before and after it."""

    def __init__(self, name, signers):
        self.name = name
        self._signers = signers

    def prepare(self, path):
        if self.name != "seal":
            seal_file(path, self._signers["B"])
        if self.name == "third seal":
            seal_file(path, self._signers["A"])
            seal_file(path, self._signers["B"])

    def run(self, path):
        if self.name == "unseal":
            return unseal_file(path)
        return seal_file(path, self._signers["A"])

    def old_boots(self, path):
        if self.name == "seal":
            return judge(path, self._signers["A"]).reason == "no-signed-component"
        return judge(path, self._signers["B"]).boots

    def new_boots(self, path):
        if self.name == "unseal":
            return judge(path, self._signers["A"]).reason == "no-signed-component"
        return judge(path, self._signers["A"]).boots


@pytest.mark.parametrize("form", ["raw", "compressed", *QCOW2])
@pytest.mark.parametrize("name", ["seal", "seal again", "third seal", "unseal"])
def test_old_or_new(tmp_path, monkeypatch, need_tool, signers, form, name):
    path = image_of(form, tmp_path, need_tool)
    act = Act(name, signers)
    act.prepare(path)
    before = path.read_bytes()
    old = record_of(path)
    tape = Tape(monkeypatch)
    act.run(path)
    monkeypatch.undo()
    new = record_of(path)
    assert old != new
    cut = tmp_path / f"cut{path.suffix}"
    met = {old: 0, new: 0}
    for number, content in enumerate(states_after_a_cut(before, tape.events)):
        cut.write_bytes(content)
        found = record_of(cut)
        met[found] += 1  # any other record is an error of its own
        assert act.old_boots(cut) if found == old else act.new_boots(cut), number
        if form != "raw":
            assert check(cut, need_tool("qemu-img", "qemu-utils")) in (0, 3), number
        # What was left in the gap is known as ours, so that the disk can be sealed all the same.
        with open_image(str(cut)) as image:
            find_free_room(image, 512)
    assert met[old] >= 1 + (name != "unseal")
    assert met[new] >= 1
    assert path.read_bytes() == content
    if form != "raw":
        assert check(path, need_tool("qemu-img", "qemu-utils")) == 0


@pytest.mark.parametrize("form", ["raw", "default"])
@pytest.mark.parametrize("name", ["seal", "third seal"])
def test_sealing_goes_on_after_a_cut(tmp_path, monkeypatch, need_tool, signers, form, name):
    """Whatever a cut left behind, the same command carries on and ends as without it."""
    path = image_of(form, tmp_path, need_tool)
    act = Act(name, signers)
    act.prepare(path)
    before = path.read_bytes()
    tape = Tape(monkeypatch)
    act.run(path)
    monkeypatch.undo()
    cut = tmp_path / f"cut{path.suffix}"
    for number, content in enumerate(states_after_a_cut(before, tape.events, seed=1)):
        if number % 3:
            continue
        cut.write_bytes(content)
        act.run(cut)
        assert act.new_boots(cut), number
        unseal_file(cut)
        assert judge(cut, signers["A"]).reason == "no-signed-component"


def test_a_menu_and_large_blocks(tmp_path, monkeypatch, signers):
    """A seal of several frames."""
    programs = [program(linux(f"6.{n}", size=0x12000, seed=n)) for n in range(4)]
    path = tmp_path / "disk.raw"
    path.write_bytes(disk(programs, block_size=4096, first=128))
    seal_file(path, signers["B"])
    before = path.read_bytes()
    old = record_of(path)
    tape = Tape(monkeypatch)
    report = seal_file(path, signers["A"])
    monkeypatch.undo()
    assert sum("header" in write.what for write in report.writes) > 1
    cut = tmp_path / "cut.raw"
    for content in states_after_a_cut(before, tape.events):
        cut.write_bytes(content)
        signer = signers["B"] if record_of(cut) == old else signers["A"]
        assert judge(cut, signer, loadparm="3").boots


@pytest.mark.parametrize("form", ["raw", "default", "512-byte clusters", "compressed"])
@pytest.mark.parametrize("name", ["seal", "third seal", "unseal"])
def test_a_host_that_gets_full_or_fails(tmp_path, monkeypatch, need_tool, signers, form, name):
    """An error at each write and each flush in turn: the disk boots as before or as after, and can be sealed then."""
    import sipl.disk.writable_file as writable_file

    path = image_of(form, tmp_path, need_tool)
    act = Act(name, signers)
    act.prepare(path)
    before = path.read_bytes()
    old = record_of(path)
    write, flush = writable_file._write_at, writable_file._flush
    for number in range(1000):
        path.write_bytes(before)
        left = [number]

        def count(left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError(28, "No space left on device")

        def write_at(fd, data, offset, count=count):
            count()
            return write(fd, data, offset)

        def flushed(fd, count=count):
            count()
            flush(fd)

        monkeypatch.setattr(writable_file, "_write_at", write_at)
        monkeypatch.setattr(writable_file, "_flush", flushed)
        try:
            act.run(path)
        except ImageError as error:
            assert "No space left on device" in str(error)
            assert "make room on the host" in str(error)
            if "block 0 was not touched" in str(error):
                assert record_of(path) == old
        else:
            break
        finally:
            monkeypatch.undo()
        assert act.old_boots(path) if record_of(path) == old else act.new_boots(path)
        if form != "raw":
            assert check(path, need_tool("qemu-img", "qemu-utils")) in (0, 3)
    assert number >= 3
    assert act.new_boots(path)


def test_the_cutter_finds_a_wrong_order(tmp_path, signers, monkeypatch):
    """Without the flush before block 0, power can end between: the test above would see it."""
    from sipl.disk.raw_writer import RawWriter

    path = tmp_path / "disk.raw"
    path.write_bytes(disk())
    before = path.read_bytes()
    old = record_of(path)
    monkeypatch.setattr(RawWriter, "flush", lambda self: None)
    tape = Tape(monkeypatch)
    seal_file(path, signers["A"])
    monkeypatch.undo()
    cut = tmp_path / "cut.raw"
    broken = 0
    for content in states_after_a_cut(before, tape.events):
        cut.write_bytes(content)
        broken += record_of(cut) != old and not judge(cut, signers["A"]).boots
    assert broken
