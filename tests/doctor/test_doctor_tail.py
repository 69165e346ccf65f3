"""What stands behind a SCLAB: told from bytes alone, whatever they are."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.author import sclab
from sipl.doctor.sparse_defect import find_sparse_defect
from sipl.doctor.tail import Behind, Tail, look_behind
from sipl.layout.module_signature import MODULE_SIGNATURE_MARKER

SCLAB = sclab.build()
SIGNATURE = bytes.fromhex("3082019706092a864886f70d010702a0820188") + bytes(range(1, 200))


def test_flush():
    assert look_behind(b"code" * 100 + SCLAB, None) == Tail(Behind.NOTHING, 0)


def test_zeros():
    assert look_behind(b"code" * 100 + SCLAB + bytes(36), SIGNATURE) == Tail(Behind.ZEROS, 36)


def test_own_signature():
    assert look_behind(b"code" * 100 + SCLAB + SIGNATURE[:40], SIGNATURE) == Tail(Behind.OWN_SIGNATURE, 40)


def test_start_of_another_signature():
    tail = b"code" * 100 + SCLAB + SIGNATURE[:40]
    assert look_behind(tail, None) == look_behind(tail, b"0" * 50) == Tail(Behind.OLD_SIGNATURE, 40)


def test_old_signature_and_padding():
    old = SIGNATURE + bytes(12) + MODULE_SIGNATURE_MARKER
    assert look_behind(SCLAB + old + bytes(9), None) == Tail(Behind.OLD_SIGNATURE, len(old) + 9, len(old))


def test_old_signature_without_a_sclab():
    assert look_behind(b"code" * 100 + MODULE_SIGNATURE_MARKER, None) == Tail(Behind.OLD_SIGNATURE, 0)


def test_other():
    assert look_behind(SCLAB + b"xyz" + bytes(9), None) == Tail(Behind.OTHER, 12)


def test_none():
    for tail in (b"", b"zIP", b"code" * 100, b"zIPL" + bytes(100), SCLAB[8:] + bytes(3)):
        assert look_behind(tail, None).behind is Behind.NO_SCLAB


def test_the_last_of_several_counts():
    assert look_behind(SCLAB + b"x" * 50 + SCLAB + bytes(3), None) == Tail(Behind.ZEROS, 3)


@given(
    pieces=st.lists(
        st.binary(max_size=40)
        | st.sampled_from([SCLAB, b"zIPL", MODULE_SIGNATURE_MARKER, SIGNATURE, b"zIPLzIPLzIPL", SCLAB[:-1], bytes(64)]),
        max_size=12,
    ),
    signature=st.none() | st.binary(max_size=40) | st.just(SIGNATURE),
)
@settings(max_examples=300, deadline=None)
def test_any_bytes(pieces, signature):
    tail = b"".join(pieces)
    found = look_behind(tail, signature)
    assert 0 <= found.extra <= len(tail)
    assert (found.behind is Behind.NOTHING) == tail.endswith(b"zIPL")
    if found.behind in (Behind.ZEROS, Behind.OTHER, Behind.OWN_SIGNATURE):
        assert tail[: -found.extra].endswith(b"zIPL")
        assert any(tail[-found.extra :]) == (found.behind is not Behind.ZEROS)
    if found.old_end is not None:
        assert tail[: len(tail) - found.extra + found.old_end].endswith(MODULE_SIGNATURE_MARKER)


class TestSparseDefect:
    def test_as_a_real_zipl_makes_it(self):
        runs = [(3984, 8), *[(43009, 1)] * 275, (3985, 303), (4281, 15), (4289, 19327)]
        found = find_sparse_defect(runs)
        assert found is not None
        assert found.holes == 275
        assert found.twice == 7 + 7 + 7

    def test_a_sparse_file_that_is_mapped_well(self):
        assert find_sparse_defect([(100, 8), *[(50, 1)] * 4, (112, 8)]) is None

    def test_no_holes(self):
        assert find_sparse_defect([(100, 8), (104, 8)]) is None
        assert find_sparse_defect([]) is None

    @given(st.lists(st.tuples(st.integers(0, 1 << 64), st.integers(1, 1 << 16)), max_size=50))
    @settings(max_examples=200, deadline=None)
    def test_any_runs(self, runs):
        found = find_sparse_defect(runs)
        if found is not None:
            assert found.holes >= 2
            assert 0 < found.twice <= sum(count for _, count in runs)
