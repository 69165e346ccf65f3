from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sipl.disk.cache import BoundedCache


def test_the_one_not_used_for_longest_goes():
    cache = BoundedCache[str](3)
    for name in "abc":
        cache.put((ord(name), 1), name, 1)
    assert cache.get((ord("a"), 1)) == "a"
    cache.put((0, 1), "d", 1)
    assert cache.get((ord("b"), 1)) is None
    assert [cache.get((ord(name), 1)) for name in "ac"] == ["a", "c"]


def test_a_key_is_place_and_length():
    cache = BoundedCache[str](10)
    cache.put((0, 5), "five", 5)
    assert cache.get((0, 4)) is None


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=100))
def test_never_more_than_the_limit(places):
    cache = BoundedCache[bytes](10)
    kept: dict[tuple[int, int], bytes] = {}
    for place in places:
        value = cache.get(place)
        assert value in (None, kept.get(place))
        if value is None:
            kept[place] = bytes(place[1])
            cache.put(place, kept[place], place[1])
        assert sum(map(len, cache._values.values())) == cache._used <= 10
        assert cache._values.keys() == cache._sizes.keys()
