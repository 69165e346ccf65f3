"""A cache with a bound in bytes: what was used longest ago goes first."""

from __future__ import annotations

from typing import Generic, TypeVar

Value = TypeVar("Value")
Place = tuple[int, int]


class BoundedCache(Generic[Value]):
    """Values by their place in a file, offset and length, together at most `limit` bytes; one may have all of them."""

    __slots__ = ("_limit", "_sizes", "_used", "_values")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._values: dict[Place, Value] = {}
        self._sizes: dict[Place, int] = {}

    def get(self, key: Place) -> Value | None:
        """Return the value, which is now the last to go, or None."""
        value = self._values.pop(key, None)
        if value is not None:
            self._values[key] = value
        return value

    def put(self, key: Place, value: Value, size: int) -> None:
        """Keep `value`, which takes `size` bytes, under a key that is not in use; let go of others for it."""
        while self._values and self._used + size > self._limit:
            oldest = next(iter(self._values))
            del self._values[oldest]
            self._used -= self._sizes.pop(oldest)
        self._values[key] = value
        self._sizes[key] = size
        self._used += size
