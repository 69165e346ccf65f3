"""zipl's defect with sparse files, told from the segments of a component (docs/doctor.md, "sparse-defect").

For every hole of a file zipl names one block of zeros, again and again. Some releases lose count behind a hole: the
runs that follow begin too early, in the middle of what was named before, and end too early for the same reason. No
file of a file system has a block twice, so runs that overlap beside holes give it away. Where a file lies in pieces,
they need not overlap; but no hole ends one block of the disk behind the start of a block of the file system.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


# The block size of the file systems that kernels lie on.
_FILE_SYSTEM_BLOCK: Final = 4096


class SparseDefect(NamedTuple):
    """`holes` is how often the block of zeros is named, `twice` how many other blocks are named more than once.

    `early` is how many runs begin where no hole can have ended.
    """

    holes: int
    twice: int
    early: int = 0


def find_sparse_defect(runs: Iterable[tuple[int, int]], block_size: int = 0) -> SparseDefect | None:
    """Look for it in the runs of a component (first block, number of blocks; neighbours joined), None without it.

    With `block_size`, the bytes of a block of the disk, pieces that do not overlap are looked at, too.
    """
    runs = list(runs)
    single: dict[int, int] = {}
    longer = []
    for block, count in runs:
        if count == 1:
            single[block] = single.get(block, 0) + 1
        else:
            longer.append((block, count))
    holes = max(single.values(), default=0)
    if holes < 2:
        return None
    longer += [(block, 1) for block, times in single.items() if times == 1]
    twice = end = 0
    for block, count in sorted(longer):
        twice += max(0, min(end, block + count) - block)
        end = max(end, block + count)
    zeros = {block for block, times in single.items() if times > 1}
    early = _early_runs(runs, zeros, _FILE_SYSTEM_BLOCK // block_size if block_size else 0)
    return SparseDefect(holes, twice, early) if twice or early else None


def _early_runs(runs: Iterable[tuple[int, int]], zeros: set[int], step: int) -> int:
    """Runs behind a hole that begin one block behind the start of a block of the file system, `step` blocks large.

    All runs must lie on the disk as they lie in the file, as those of such a file system do.
    """
    early = place = 0
    lies: set[int] = set()
    behind_hole = False
    for block, count in runs:
        if count == 1 and block in zeros:
            behind_hole = True
        elif step > 1:
            # Data right behind the block of zeros is joined with the last one of a hole.
            joined = int(block in zeros)
            lies.add((block - place) % step)
            early += (behind_hole or bool(joined)) and (place + joined) % step == 1
            behind_hole = False
        place += count
    return early if len(lies) == 1 else 0
