"""The boot map of a disk: everything that block 0 leads to, however broken a part of it is."""

from __future__ import annotations

import hashlib
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ipl_lab import (
    GLOBAL,
    KERNEL,
    LOADER,
    MIB,
    PSW,
    Lab,
    Signers,
    code,
    finish,
    image_of,
    kernel_bytes,
    loader_bytes,
)

import sipl
from sipl.author import sclab
from sipl.author.boot_record import DiskWriter, Execute, Load
from sipl.layout.boot_record import BlockPointer
from sipl.layout.record import pack
from sipl.layout.sclab import SclabFlags


def view_of(lab, content, **how):
    return sipl.inspect(lab.disk(content, **how))


class TestGoodDisk:
    def test_disk(self, lab):
        disk = lab.disk(lab.program())
        view = sipl.inspect(disk)
        assert (view.path, view.format, view.block_size, view.version, view.fault) == (disk.path, "raw", 512, 1, None)
        assert [(p.number, p.same_as) for p in view.programs] == [(0, None), (1, 0)]
        assert view.programs[1].components == ()
        assert view.programs[0].psw == f"{PSW:016x}"

    def test_components(self, lab):
        program = lab.program()
        components = view_of(lab, program).programs[0].components
        loads = [part for part in program if isinstance(part, Load)]
        assert [(c.address, c.length) for c in components] == [(load.address, len(load.data)) for load in loads]
        assert [c.digest for c in components] == [hashlib.sha256(load.data).hexdigest() for load in loads]
        assert [c.signature is not None for c in components] == [False, True, False, True, False]
        assert all(c.fault is None for c in components)

    def test_signature(self, lab, signers):
        program = lab.program()
        signature = view_of(lab, program).programs[0].components[1].signature
        assert (signature.format, signature.length) == (1, len(program[1].signature))
        assert signature.signer.startswith("CN=sipl test A, serial number 0x")
        assert (signature.digest, signature.key_identifier) == ("SHA-256", None)
        assert (signature.signed_attributes, signature.embedded_certificates, signature.fault) == (False, 0, None)

    @pytest.mark.parametrize("digest", ["sha256", "sha384", "sha512"])
    def test_digest_of_a_signature(self, lab, digest):
        loader = lab.signed(LOADER, loader_bytes(), digest=digest)
        signature = view_of(lab, lab.program(loader=loader)).programs[0].components[1].signature
        assert signature.digest == f"SHA-{digest[3:]}"

    def test_key_identifier(self, lab, signers, data):
        """A signature that names its signer by the identifier of the key."""
        signature = (data / "crypto" / "keyid.p7s").read_bytes()
        loader = Load(LOADER, loader_bytes(), signature)
        shown = view_of(lab, lab.program(loader=loader)).programs[0].components[1].signature
        assert shown.key_identifier
        assert bytes.fromhex(shown.key_identifier)

    def test_sclabs(self, lab):
        program = lab.program(kernel=lab.kernel(flags=SclabFlags.OLA, address=KERNEL))
        components = view_of(lab, program).programs[0].components
        loader, kernel = components[1].sclab, components[3].sclab
        assert (loader.flags, loader.load_psw, loader.load_address) == (("OPSW", "OLA"), f"{PSW:016x}", LOADER)
        assert (kernel.flags, kernel.load_address, kernel.fault) == (("OLA",), KERNEL, None)
        assert components[0].sclab is None

    def test_sclab_that_begins_in_one_piece_of_what_is_read_and_ends_in_the_next(self, lab):
        data = sclab.overwrite(code(MIB + 512, 1), sclab.build(GLOBAL, PSW, MIB, length=1024))
        component = view_of(lab, lab.program(initrd=Load(MIB, data))).programs[0].components[4]
        assert (component.sclab.length, component.sclab.load_address, component.sclab.fault) == (1024, MIB, None)

    def test_places_on_disk(self, lab):
        image = image_of(lab.program())
        for part in sipl.inspect(lab.disk(image)).programs[0].components:
            data = b"".join(image[run.block * 512 : (run.block + run.blocks) * 512] for run in part.runs)
            assert hashlib.sha256(data).hexdigest() == part.digest

    def test_blocks_that_follow_each_other_are_one_run(self, lab):
        merged = view_of(lab, lab.program()).programs[0].components
        single = view_of(lab, lab.program(), merged=False).programs[0].components
        assert [c.digest for c in merged] == [c.digest for c in single]
        assert [len(c.runs) for c in merged] == [1] * 5

    @pytest.mark.parametrize("size", [512, 1024, 2048, 4096])
    def test_block_sizes(self, lab, size):
        disk = lab.disk(lab.program(block_size=size), size)
        for block_size in (size, None):
            view = sipl.inspect(disk._replace(block_size=block_size))
            assert (view.block_size, view.fault, len(view.programs[0].components)) == (size, None, 5)

    def test_a_component_larger_than_what_is_read_at_once(self, lab):
        data = code(3 * MIB + 512, 7)
        view = view_of(lab, lab.program(initrd=Load(MIB, data)))
        assert view.programs[0].components[4].digest == hashlib.sha256(data).hexdigest()

    def test_agrees_with_the_report_of_a_boot(self, lab):
        disk = lab.disk(lab.program())
        report, view = sipl.boot([disk], lab.settings()), sipl.inspect(disk)
        shown = [(c.address, c.length, c.digest) for c in view.programs[0].components]
        assert shown == [(c.address, c.length, c.digest) for c in report.components]


class TestFaults:
    """A fault is said where it is; everything else is still shown."""

    def test_no_boot_record(self, lab):
        view = view_of(lab, bytes(MIB))
        assert view.fault.startswith("not-a-zipl-disk: ")
        assert (view.programs, view.version, view.program_table_block) == ((), None, None)

    def test_smaller_than_a_block(self, lab):
        assert view_of(lab, b"zIPL").fault

    def test_signature_that_is_no_signature(self, lab):
        loader = Load(LOADER, loader_bytes(), b"nothing of the kind")
        components = view_of(lab, lab.program(loader=loader)).programs[0].components
        assert components[1].signature.fault
        assert components[1].signature.signer is None
        assert components[3].signature.fault is None

    def test_signature_that_is_too_large(self, lab):
        loader = Load(LOADER, loader_bytes(), b"x" * 5000)
        signature = view_of(lab, lab.program(loader=loader)).programs[0].components[1].signature
        assert "4096" in signature.fault

    def test_signature_that_is_stated_longer_than_it_is(self, lab, signers):
        good = lab.loader()
        loader = good._replace(signature_length=len(good.signature) + 600)
        signature = view_of(lab, lab.program(loader=loader)).programs[0].components[1].signature
        assert signature.length == len(good.signature) + 600

    @pytest.mark.parametrize("length", [0, 8, 24, 4096, 0xFFFF])
    def test_sclab_whose_length_is_not_possible(self, lab, length):
        shown = view_of(lab, lab.program(loader=lab.loader(stated_length=length))).programs[0].components[1].sclab
        assert (shown.length, shown.fault is not None) == (length, True)

    def test_no_sclab(self, lab):
        loader = lab.signed(LOADER, loader_bytes(magic=b"none"))
        assert view_of(lab, lab.program(loader=loader)).programs[0].components[1].sclab is None

    def test_unknown_entry(self, lab):
        def change(entries):
            return [entries[0], entries[0]._replace(type=9), *entries[1:]]

        (program, _) = view_of(lab, lab.program(), change=change).programs
        assert "unknown type 9" in program.fault
        assert len(program.components) == 5

    def test_table_that_does_not_end(self, lab):
        (program, _) = view_of(lab, lab.program(), change=lambda entries: entries[:-1]).programs
        assert program.fault
        assert program.psw is None
        assert len(program.components) == 5

    def test_component_beyond_the_disk(self, lab):
        def change(entries):
            return [entries[0]._replace(segment_table=pack(BlockPointer(1 << 40, 512, 0))), *entries[1:]]

        (program, _) = view_of(lab, lab.program(), change=change).programs
        assert program.components[0].fault.startswith("block-out-of-range: ")
        assert [c.fault for c in program.components[1:]] == [None] * 4

    def test_segment_table_that_leads_to_itself(self, lab):
        writer = DiskWriter(512)
        block = writer.next_block
        (pointer,) = writer.append(code(512, 1))
        table = writer.append_block(pack(pointer) * 31 + pack(BlockPointer(block + 1, 512, 0)))
        assert table.block == block + 1
        entries = writer.add_component(Load(KERNEL, b"x"))
        looped = entries[0]._replace(segment_table=pack(table))
        image = finish(writer, [looped, *writer.add_component(Execute(PSW))])
        component = sipl.inspect(lab.disk(image)).programs[0].components[0]
        assert component.fault.startswith("segment-unreadable: ")

    def test_one_program_broken_the_other_shown(self, lab):
        writer = DiskWriter(512)
        good = writer.append_component_table(
            [*writer.add_component(Load(KERNEL, kernel_bytes())), *writer.add_component(Execute(PSW))]
        )
        bad = writer.append_block(b"nothing")
        writer.write_boot_record(writer.append_program_table([bad, good]))
        broken, whole = sipl.inspect(lab.disk(bytes(writer.finish()))).programs
        assert broken.fault
        assert (whole.fault, len(whole.components), whole.same_as) == (None, 1, None)

    @staticmethod
    def repeating(lab, *components):
        """A disk of 64 KiB; each component names its blocks as often as it is told."""
        writer = DiskWriter(512)
        (pointer,) = writer.append(code(32 * 512, 1))
        entries = []
        for times in components:
            table = writer.append_segment_tables([pointer] * times)
            (entry,) = writer.add_component(Load(KERNEL, b"x"))
            entries.append(entry._replace(segment_table=pack(table)))
        return lab.disk(finish(writer, [*entries, *writer.add_component(Execute(PSW))], 64 * 1024))

    def test_a_component_that_is_larger_than_its_disk_is_not_read(self, lab):
        """Its tables name the same blocks again and again."""
        (component,) = sipl.inspect(self.repeating(lab, 5)).programs[0].components
        assert (component.digest, component.length) == (None, 80 * 1024)
        assert "larger than its disk" in component.fault

    def test_components_that_together_are_larger_than_their_disk(self, lab):
        components = sipl.inspect(self.repeating(lab, 2, 1, 2, 1)).programs[0].components
        assert [c.fault is None for c in components] == [True, True, False, False]
        # The third was not read, so that there is room for the fourth, but only half of what was left.
        assert [c.length for c in components] == [32768, 16384, 32768, 16384]

    def test_many_programs_of_many_components_that_are_larger_than_the_disk(self, lab):
        """The time that a disk can take is bounded by its size, not by what its tables say."""
        writer = DiskWriter(4096)
        (pointer,) = writer.append(bytes(4096 * 1000))
        table = writer.append_segment_tables([pointer] * 254)
        entries = [e._replace(segment_table=pack(table)) for e in writer.add_component(Load(KERNEL, b"x")) * 120]
        end = writer.add_component(Execute(PSW))
        tables = [writer.append_component_table([*entries, *end]) for _ in range(30)]
        writer.write_boot_record(writer.append_program_table(tables))
        started = time.process_time()
        view = sipl.inspect(lab.disk(bytes(writer.finish()), 4096))
        assert time.process_time() - started < 20
        assert len(view.programs) == 30
        assert {c.digest for p in view.programs for c in p.components} == {None}


@pytest.fixture(scope="module")
def image(tmp_path_factory) -> bytes:
    """A good disk."""
    folder = tmp_path_factory.mktemp("image")
    return image_of(Lab(folder, Signers(folder)).program())


PLACES = st.floats(0, 1, exclude_max=True)  # of the whole image


class TestNothingButErrorsOfTheImageComeOut:
    @settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(
        changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=16)), max_size=6)
    )
    def test_mutated(self, image, tmp_path, changes):
        mutated = bytearray(image)
        for where, data in changes:
            offset = int(where * len(mutated))
            mutated[offset : offset + len(data)] = data[: len(mutated) - offset]
        path = tmp_path / "image"
        path.write_bytes(mutated)
        try:
            view = sipl.inspect(sipl.Disk(str(path)))
        except sipl.SiplError:
            return
        assert view.size == len(image)

    @settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
    @given(size=st.floats(0, 1))
    def test_cut(self, image, tmp_path, size):
        path = tmp_path / "image"
        path.write_bytes(image[: 1 + int(size * (len(image) - 1))])
        view = sipl.inspect(sipl.Disk(str(path)))
        whole = [c for p in view.programs for c in p.components if c.fault is None]
        assert view.fault or view.programs
        assert all(c.digest for c in whole)


class TestLines:
    def test_runs(self):
        from sipl.survey.model import Run
        from sipl.survey.text import runs_text

        assert runs_text([], verbose=False) == "no blocks"
        many = [Run(2 * n, 1) for n in range(10)]
        short, long = runs_text(many, verbose=False), runs_text(many, verbose=True)
        assert " and 6 more" in short
        assert "more" not in long
        assert "18" in long
        assert "7-9" in runs_text([Run(7, 3)], verbose=False)

    def test_faults_are_said(self, lab):
        from sipl.survey.text import boot_map_lines

        loader = Load(LOADER, loader_bytes(stated_length=8), b"x")
        text = "\n".join(boot_map_lines(view_of(lab, lab.program(loader=loader)), verbose=True))
        assert "SCLAB of length 8: its length is not possible" in text
        assert "signature of 1 bytes, format 1: " in text
