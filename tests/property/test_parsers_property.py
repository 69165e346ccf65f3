"""Every parser on foreign bytes: only the package's own errors, in bounded time and memory (docs/fuzzing.md)."""

from __future__ import annotations

import time
import tracemalloc
from functools import cache

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

# What an input of some KiB may cost. A disk of such a size can still name memory full of components; guest memory is
# not counted here, it is bounded by the machine's.
SECONDS = 5
MEMORY = 8 << 20
# What the doctor gets may be choices, by which a disk of some MiB is made in memory first.
MORE_MEMORY = {"doctor": 64 << 20}
NAMES = (
    "boot-map", "disk-image", "pkcs7", "x509", "pem", "signed-file", "sclab", "options", "report", "diagnose",
    "partitions", "doctor", "linux-image", "recipe", "environment", "pkcs11-uri",
)  # fmt: skip


@cache
def target(name):
    from fuzz.openssl import NoLibCrypto

    try:
        from fuzz.targets import TARGETS
    except NoLibCrypto as error:
        pytest.skip(str(error))
    found = TARGETS[name]
    seeds = found.seeds()
    for seed in seeds:
        found.function(seed)  # what is imported and made once is not what an input costs
    return found.function, seeds


@st.composite
def changed(draw, seeds):
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 1, 2, 4, 8, 16]))
        data[at : at + length] = draw(
            st.binary(min_size=length, max_size=length) | st.binary(max_size=9) | st.sampled_from([b"\0", b"\xff" * 8])
        )
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_only_own_errors_in_bounded_time_and_memory(name, data):
    function, seeds = target(name)
    content = data.draw(changed(seeds) | st.binary(max_size=600))
    started = time.monotonic()
    tracemalloc.start()
    try:
        function(content)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MORE_MEMORY.get(name, MEMORY)
    assert time.monotonic() - started < SECONDS


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_accepted_by_the_parser(name):
    _, seeds = target(name)
    assert len(seeds) >= 3
    assert len(set(seeds)) == len(seeds)
