from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from sipl.machine.css.interruptions import IoInterruption, IoInterruptions

ALL = 0xFF000000


def test_an_empty_queue_has_nothing():
    queue = IoInterruptions()
    assert not queue.any
    assert queue.first(ALL) is None


def test_the_lowest_subclass_comes_first_and_then_the_oldest():
    queue = IoInterruptions()
    queue.add(5, 0x10001, 1, 5 << 27)
    queue.add(3, 0x10003, 2, 3 << 27)
    queue.add(3, 0x10002, 3, 3 << 27)
    first = queue.first(ALL)
    assert first == IoInterruption(3, 0x10003, 2, 3 << 27)
    assert queue.first(ALL) == first
    order = []
    while (it := queue.first(ALL)) is not None:
        order.append(it.subsystem_id)
        queue.take(it)
    assert order == [0x10003, 0x10002, 0x10001]
    assert not queue.any


def test_control_register_6_enables_a_subclass_by_bit_32_and_on():
    queue = IoInterruptions()
    queue.add(0, 0x10001, 0, 0)
    queue.add(7, 0x10002, 0, 7 << 27)
    assert queue.first(0) is None
    assert queue.first(0x80000000).isc == 0
    assert queue.first(0x01000000).isc == 7
    assert queue.first(0x7E000000) is None
    assert queue.first(0xFFFFFFFF_00FFFFFF) is None
    assert queue.first(0xFFFFFFFF_80FFFFFF).isc == 0


def test_dropping_withdraws_that_of_one_subchannel():
    queue = IoInterruptions()
    queue.add(2, 0x10001, 0, 2 << 27)
    queue.add(2, 0x10002, 0, 2 << 27)
    gone = queue.first(ALL)
    queue.drop(0x10001)
    queue.drop(0x10009)
    assert queue.first(ALL).subsystem_id == 0x10002
    queue.take(gone)
    assert queue.any
    queue.drop(0x10002)
    assert not queue.any
    assert queue.pending == 0


def test_taking_the_last_of_a_subclass_leaves_the_others_pending():
    for isc in range(8):
        queue = IoInterruptions()
        for other in range(8):
            queue.add(other, 0x10000 + other, 0, 0)
        queue.drop(0x10000 + isc)
        assert queue.pending == 0xFF & ~(0x80 >> isc)


def test_an_adapter_interruption_is_pending_once():
    queue = IoInterruptions()
    queue.add_adapter(4)
    queue.add_adapter(4)
    it = queue.first(ALL)
    assert it == IoInterruption(4, 0, 0, 0x80000000 | 4 << 27)
    queue.take(it)
    assert queue.first(ALL) is None


def test_clearing_leaves_nothing():
    queue = IoInterruptions()
    queue.add_adapter(1)
    queue.add(6, 0x10000, 0, 0)
    queue.clear()
    assert not queue.any
    assert queue.first(ALL) is None


@given(st.lists(st.tuples(st.sampled_from("atd"), st.integers(0, 7), st.integers(0x10000, 0x10004))), st.data())
@settings(max_examples=150)
def test_it_agrees_with_a_plain_list(steps, data):
    queue, model = IoInterruptions(), []
    for kind, isc, sid in steps:
        if kind == "a":
            queue.add(isc, sid, 0, 0)
            if (isc, sid) not in model:
                model.append((isc, sid))
        elif kind == "d":
            queue.drop(sid)
            model = [entry for entry in model if entry[1] != sid]
        else:
            mask = data.draw(st.integers(0, 255)) << 24
            enabled = [entry for entry in model if mask << entry[0] & 0x80000000]
            expected = min(enabled, key=lambda entry: entry[0], default=None)
            it = queue.first(mask)
            assert (None if it is None else (it.isc, it.subsystem_id)) == expected
            if it is not None:
                queue.take(it)
                model.remove(expected)
        assert queue.any == bool(model)
