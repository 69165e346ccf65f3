from __future__ import annotations

import struct
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.machine.css.storage import DeviceStorage
from sipl.machine.memory import GuestMemory
from sipl.machine.virtio.queue import MAX_CHAIN, QueueBroken, Virtqueue

MEMORY = 1 << 20
DESC, AVAIL, USED, TABLE = 0x10000, 0x14000, 0x18000, 0x20000
NEXT, WRITE, INDIRECT = 1, 2, 4


class Bench:
    def __init__(self, size=16, order="<"):
        self.memory = GuestMemory(MEMORY)
        self.queue = Virtqueue(DeviceStorage(self.memory), 256)
        self.queue.set_up(DESC, AVAIL, USED, size, order)
        self.order = order
        self.size = size

    def descriptor(self, number, address, length, flags=0, following=0, table=DESC):
        self.memory.write(table + 16 * number, struct.pack(self.order + "QIHH", address, length, flags, following))

    def offer(self, *heads):
        self.memory.write(AVAIL + 4, struct.pack(f"{self.order}{len(heads)}H", *heads))
        self.memory.write(AVAIL + 2, struct.pack(self.order + "H", len(heads)))


@pytest.fixture(params=["<", ">"])
def bench(request):
    return Bench(order=request.param)


def broken(bench, words):
    with pytest.raises(QueueBroken, match=words):
        bench.queue.pop()


def test_a_chain_is_read_and_then_written(bench):
    bench.memory.write(0x1000, b"abcdef")
    bench.memory.write(0x3000, b"ghi")
    bench.descriptor(5, 0x1000, 6, NEXT, 2)
    bench.descriptor(2, 0x3000, 3, NEXT, 9)
    bench.descriptor(9, 0x4000, 4, NEXT | WRITE, 1)
    bench.descriptor(1, 0x4004, 4, NEXT | WRITE, 0)
    bench.descriptor(0, 0x5000, 2, WRITE, 5)
    bench.offer(5)
    chain = bench.queue.pop()
    assert (chain.head, chain.length, chain.writable_length) == (5, 19, 10)
    assert chain.take(4) == b"abcd"
    assert chain.take(4) == b"efgh"
    assert [bytes(view) for view in chain.readable] == [b"i"]
    assert [len(view) for view in chain.writable(0, 10)] == [8, 2]  # what is adjacent is one
    assert [len(view) for view in chain.writable(7, 9)] == [1, 1]
    assert chain.writable(10, 20) == []
    assert chain.fill(b"0123456789abc", 1) == 9
    assert bench.memory.read(0x4000, 8) == b"\x000123456"
    assert bench.memory.read(0x5000, 3) == b"78\x00"
    with pytest.raises(QueueBroken, match="1 bytes where 2"):
        chain.take(2)
    assert bench.queue.pop() is None
    bench.queue.push(5, 10)
    assert struct.unpack(bench.order + "H", bench.memory.read(USED + 2, 2)) == (1,)
    assert struct.unpack(bench.order + "II", bench.memory.read(USED + 4, 8)) == (5, 10)


def test_taking_stops_inside_a_buffer(bench):
    bench.memory.write(0x1000, b"abcdefgh")
    bench.descriptor(0, 0x1000, 2, NEXT, 1)
    bench.descriptor(1, 0x1002, 6)
    bench.offer(0)
    chain = bench.queue.pop()
    assert chain.take(3) == b"abc"
    assert [bytes(view) for view in chain.readable] == [b"defgh"]
    assert chain.take(5) == b"defgh"
    assert chain.readable == []


def test_an_indirect_table(bench):
    bench.descriptor(0, 0x1000, 16, NEXT, 1)
    bench.descriptor(1, TABLE, 48, INDIRECT)
    bench.descriptor(0, 0x2000, 8, NEXT, 2, table=TABLE)
    bench.descriptor(2, 0x3000, 1, WRITE, table=TABLE)
    bench.offer(0)
    chain = bench.queue.pop()
    assert (chain.head, chain.length, chain.writable_length) == (0, 25, 1)


def test_a_ring_that_wraps(bench):
    for number in range(16):
        bench.descriptor(number, 0x1000, 1)
    seen = []
    for index in range(70000):
        bench.memory.write(AVAIL + 4 + 2 * (index % 16), struct.pack(bench.order + "H", index % 16))
        bench.memory.write(AVAIL + 2, struct.pack(bench.order + "H", (index + 1) & 0xFFFF))
        if index >= 65530:
            assert bench.queue.work_left
        chain = bench.queue.pop()
        bench.queue.push(chain.head, 0)
        if 65530 <= index < 65545:
            seen.append(chain.head)
    assert seen == [number % 16 for number in range(65530, 65545)]
    assert struct.unpack(bench.order + "H", bench.memory.read(USED + 2, 2)) == (70000 & 0xFFFF,)
    assert not bench.queue.work_left


class TestBroken:
    def test_more_requests_than_the_ring_has(self, bench):
        bench.memory.write(AVAIL + 2, struct.pack(bench.order + "H", 17))
        broken(bench, "17 requests are available in a ring of 16")

    def test_a_head_or_a_successor_outside_the_table(self, bench):
        bench.offer(16)
        broken(bench, "descriptor 16 of 16")
        bench = Bench()
        bench.descriptor(0, 0x1000, 1, NEXT, 0xFFFF)
        bench.offer(0)
        broken(bench, "descriptor 65535 of 16")

    def test_a_loop(self, bench):
        bench.descriptor(0, 0x1000, 1, NEXT, 1)
        bench.descriptor(1, 0x1000, 1, NEXT, 0)
        bench.offer(0)
        begun = time.monotonic()
        broken(bench, f"more than {MAX_CHAIN}")
        assert time.monotonic() - begun < 2

    def test_a_loop_in_an_indirect_table(self, bench):
        bench.descriptor(0, TABLE, 0xFFFF0, INDIRECT)
        bench.descriptor(0, 0x1000, 1, NEXT, 0, table=TABLE)
        bench.memory.write(AVAIL, bytes(4))
        bench.offer(0)
        broken(bench, "no storage")  # the table reaches beyond the end
        bench = Bench()
        bench.descriptor(0, TABLE, 16, INDIRECT)
        bench.descriptor(0, 0x1000, 1, NEXT, 0, table=TABLE)
        bench.offer(0)
        broken(bench, f"more than {MAX_CHAIN}")

    @pytest.mark.parametrize(
        ("address", "length"),
        [(MEMORY, 1), (MEMORY - 1, 2), (0, MEMORY + 1), ((1 << 64) - 1, 1), (0xFFFFFFFFFFFFF000, 0x2000)],
    )
    @pytest.mark.parametrize("flags", [0, WRITE])
    def test_a_buffer_that_is_not_there(self, bench, address, length, flags):
        bench.descriptor(0, address, length, flags)
        bench.offer(0)
        broken(bench, "no storage")

    @pytest.mark.parametrize("flags", [0, WRITE])
    def test_an_empty_buffer(self, bench, flags):
        bench.descriptor(0, 0x1000, 0, flags)
        bench.offer(0)
        broken(bench, "names nothing")

    def test_something_to_be_read_after_something_to_be_written(self, bench):
        bench.descriptor(0, 0x1000, 1, WRITE | NEXT, 1)
        bench.descriptor(1, 0x1000, 1)
        bench.offer(0)
        broken(bench, "follows")

    @pytest.mark.parametrize("length", [0, 8, 15, 17, 0xFFFFFFFF])
    def test_a_table_of_an_odd_length(self, bench, length):
        bench.descriptor(0, TABLE, length, INDIRECT)
        bench.offer(0)
        broken(bench, "a table of")

    def test_a_table_in_a_table_or_in_the_middle(self, bench):
        bench.descriptor(0, TABLE, 16, INDIRECT)
        bench.descriptor(0, TABLE, 16, INDIRECT, table=TABLE)
        bench.offer(0)
        broken(bench, "may not stand there")
        bench = Bench()
        bench.descriptor(0, TABLE, 16, INDIRECT | NEXT, 1)
        bench.offer(0)
        broken(bench, "may not stand there")


@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 0x1000, 0x1800, DESC, AVAIL, TABLE, MEMORY - 8, MEMORY, (1 << 64) - 8]),
            st.sampled_from([0, 1, 16, 32, 0x100, 0xFFFFFFFF, MEMORY]),
            st.integers(0, 7),
            st.integers(0, 20),
        ),
        max_size=16,
    ),
    st.lists(st.integers(0, 20), max_size=16),
    st.integers(0, 0xFFFF),
    st.binary(max_size=256),
)
@settings(max_examples=300, deadline=2000)
def test_any_ring_gives_chains_in_storage_or_is_broken(descriptors, heads, index, table):
    bench = Bench()
    bench.memory.write(TABLE, table)
    for number, (address, length, flags, following) in enumerate(descriptors):
        bench.descriptor(number, address, length, flags, following)
    bench.offer(*heads)
    bench.memory.write(AVAIL + 2, struct.pack("<H", index if index > 40 else len(heads)))
    chains = 0
    try:
        while (chain := bench.queue.pop()) is not None:
            chains += 1
            read = sum(len(view) for view in chain.readable)
            assert sum(len(view) for view in chain.writable(0, chain.writable_length)) == chain.writable_length
            assert read + chain.writable_length == chain.length > 0
            bench.queue.push(chain.head, chain.writable_length)
    except QueueBroken:
        return
    assert chains <= 16
