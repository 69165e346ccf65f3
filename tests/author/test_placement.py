"""Addresses of the parts of a program, as zipl gives them."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sipl.author.placement import HIGHEST_END, LOWEST_ADDRESS, PAGE, Floating, Span, place
from sipl.errors import UsageError

KERNEL = 0x10000


def parts(initrd):
    return [Floating("command line", 0x10000), Floating("initrd", initrd, 0x10000), Floating("environment", 4096)]


@pytest.mark.parametrize(
    ("kernel", "expected"),
    [(10203136, [0x9CB000, 0x9E0000, 0x9DB000]), (10203136 + 411 + 40, [0x9CC000, 0x9E0000, 0x9DC000])],
    ids=["unsigned.qcow2", "good.qcow2"],
)
def test_as_on_the_disks_that_zipl_wrote(kernel, expected):
    """Sizes and addresses of two real disks; their layouts are in the reference material."""
    assert place([Span(KERNEL, kernel)], parts(880796)) == expected


def test_gap_in_front_of_something_fixed_is_used():
    assert place([Span(0x20000, 0x1000)], [Floating("a", 0x10000), Floating("b", 1)]) == [0x10000, 0x21000]
    assert place([Span(0x20000, 0x1000)], [Floating("a", 0x10001)]) == [0x21000]


def test_end_of_the_window():
    room = HIGHEST_END - LOWEST_ADDRESS
    assert place([], [Floating("a", room)]) == [LOWEST_ADDRESS]
    with pytest.raises(UsageError, match=r"^big: .* below 2 GiB"):
        place([], [Floating("big", room + 1)])
    with pytest.raises(UsageError, match=r"^b: "):
        place([], [Floating("a", room), Floating("b", 1)])


@given(
    st.lists(st.tuples(st.integers(0, 1 << 22), st.sampled_from([0x1000, 0x10000])), max_size=12),
    st.lists(st.tuples(st.integers(0x10, 0x800), st.integers(0, 1 << 20)), max_size=3),
)
def test_nothing_overlaps(sizes, fixed):
    spans = []
    for page, size in fixed:
        start = page * PAGE
        if all(start + size + PAGE <= s.address or s.address + s.size + PAGE <= start for s in spans):
            spans.append(Span(start, size))
    floating = [Floating(str(number), size, alignment) for number, (size, alignment) in enumerate(sizes)]
    addresses = place(spans, floating)
    ranges = [(s.address, s.size) for s in spans]
    for part, address in zip(floating, addresses, strict=True):
        assert address % part.alignment == 0
        assert address >= LOWEST_ADDRESS
        ranges.append((address, part.size))
    ends = sorted((start, start + size) for start, size in ranges if size)
    assert all(end <= start for (_, end), (start, _) in pairwise(ends))
