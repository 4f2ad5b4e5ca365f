"""First come first served, as many rows as fit, and nobody waits for what was cancelled."""

from __future__ import annotations

import pytest

from gamut.generate import Handle, Sequence
from gamut.generate.scheduler import Scheduler


class Wide:
    """A strategy of some width, without results."""

    def __init__(self, width: int) -> None:
        self.width = width

    def results(self) -> list:
        return []


def queued(scheduler: Scheduler, *widths: int) -> list[Handle]:
    handles = [Handle(Sequence((1,), Wide(width), 1)) for width in widths]
    for handle in handles:
        scheduler.add(handle)
    return handles


@pytest.mark.parametrize(
    ("widths", "batches"),
    [
        ([1, 1, 1], [[1, 1, 1]]),
        ([2, 2, 1], [[2, 2], [1]]),
        ([3, 2, 1], [[3], [2, 1]]),  # the 1 does not pass the 2 that waits before it
        ([9, 1], [[9], [1]]),  # wider than a batch: alone
        ([1, 9, 1], [[1], [9], [1]]),
        ([], []),
    ],
)
def test_batches(widths, batches):
    scheduler = Scheduler(max_rows=4)
    handles = queued(scheduler, *widths)
    served = [scheduler.next_batch() for _ in batches]
    assert not scheduler
    assert [[each.sequence.strategy.width for each in batch] for batch in served] == batches
    assert [each for batch in served for each in batch] == handles
    assert scheduler.next_batch() == []


def test_what_was_cancelled_while_it_waited_is_let_go_and_takes_no_room():
    scheduler = Scheduler(max_rows=4)
    first, second, third = queued(scheduler, 2, 2, 2)
    second.cancel()
    assert scheduler.next_batch() == [first, third]
    assert second.finished
    assert second.result() == []


def test_it_can_be_let_go_before_the_next_batch():
    scheduler = Scheduler(max_rows=4)
    first, second = queued(scheduler, 1, 1)
    first.cancel()
    scheduler.drop_cancelled()
    assert (first.finished, second.finished) == (True, False)
    assert scheduler.next_batch() == [second]


def test_clear_returns_what_waited():
    scheduler = Scheduler(max_rows=4)
    handles = queued(scheduler, 1, 1)
    assert scheduler.clear() == handles
    assert not scheduler
    assert not any(each.finished for each in handles)
