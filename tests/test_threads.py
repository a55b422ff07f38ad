"""Work on threads: order, errors, and what is closed when the caller stops."""

from __future__ import annotations

import threading

import pytest

from crossfm.data.threads import ahead, on_threads, thread_count, threads_for
from crossfm.errors import DataError


def test_items_come_in_order_and_one_is_made_ahead():
    begun = [threading.Event() for _ in range(4)]

    def made():
        for at, event in enumerate(begun):
            event.set()
            yield at

    got = []
    for item in ahead(made()):
        got.append(item)
        if item < 3:
            assert begun[item + 1].wait(30)  # while this one is worked on
    assert got == [0, 1, 2, 3]


def test_errors_come_where_the_item_would():
    def made():
        yield 1
        raise DataError("broken")

    items = ahead(made())
    assert next(items) == 1
    with pytest.raises(DataError, match="broken"):
        next(items)


def test_a_caller_that_stops_closes_the_source():
    closed = threading.Event()

    def made():
        try:
            while True:
                yield 1
        finally:
            closed.set()

    items = ahead(made())
    assert next(items) == 1
    items.close()
    assert closed.is_set()


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_in_order_is_raised(threads):
    def work(item):
        if item in (2, 4):
            raise DataError(f"item {item}")
        return -item

    assert on_threads(work, [0, 1, 3], threads) == [0, -1, -3]
    with pytest.raises(DataError, match="item 2"):
        on_threads(work, [0, 1, 2, 3, 4], threads)


def test_small_tables_are_worked_on_by_one_thread():
    assert threads_for(100) == 1
    assert 1 <= threads_for(10**6) <= thread_count(-1)
