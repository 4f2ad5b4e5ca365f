"""A handle delivers every token once and in order, to threads and to event loops, and always lets go of who waits."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from gamut.generate import Emitted, Handle, Hypothesis, Sequence
from gamut.generate.history import Step


class Fixed:
    """A strategy that is done from the start."""

    width, done = 1, True

    def advance(self, _) -> Step:
        raise AssertionError("nothing is left to run")

    def results(self) -> list[Hypothesis]:
        return [Hypothesis((1, 2, 3), "stop", None, None)]


@pytest.fixture
def handle() -> Handle:
    return Handle(Sequence((7, 8), Fixed(), max_new_tokens=3))


def token(id: int) -> Emitted:
    return Emitted(0, id, None, None)


def feed(handle: Handle, *ids: int, error: BaseException | None = None) -> threading.Thread:
    """An engine in miniature: emits the tokens one by one, and finishes."""

    def run() -> None:
        for id in ids:
            handle.emit([token(id)])
            time.sleep(0.002)
        handle.finish(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


async def collect(handle: Handle) -> list[int]:
    return [event.id async for event in handle]


def test_the_length_that_a_decoder_will_hold():
    assert Sequence((1, 2, 3), Fixed(), 5).decoder_length == 8
    assert Sequence((1, 2, 3), Fixed(), 5, start_ids=(9,)).decoder_length == 6


def test_a_thread_gets_every_token_in_order(handle):
    thread = feed(handle, 1, 2, 3)
    assert [event.id for event in handle] == [1, 2, 3]
    thread.join()
    assert [each.ids for each in handle.result()] == [(1, 2, 3)]


def test_tokens_that_came_before_anyone_listened(handle):
    handle.emit([token(1), token(2)])
    handle.finish()
    assert [event.id for event in handle] == [1, 2]
    assert list(handle) == []  # each is delivered once


def test_an_event_loop_gets_every_token_in_order_and_goes_on_meanwhile(handle):
    async def main() -> tuple[list[int], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                await asyncio.sleep(0)
                ticks += 1

        ticker = asyncio.create_task(tick())
        thread = feed(handle, *range(10))
        ids = await collect(handle)
        ticker.cancel()
        thread.join()
        return ids, ticks

    ids, ticks = asyncio.run(main())
    assert ids == list(range(10))
    assert ticks > 50


def test_an_event_loop_gets_what_came_before(handle):
    handle.emit([token(1)])
    handle.finish()
    assert asyncio.run(collect(handle)) == [1]


def test_an_event_loop_that_was_closed_in_the_midst_does_no_harm(handle):
    loop = asyncio.new_event_loop()
    events = aiter(handle)
    handle.emit([token(1)])
    assert loop.run_until_complete(anext(events)).id == 1
    loop.close()
    handle.emit([token(2)])
    handle.finish()
    assert handle.result()[0].ids == (1, 2, 3)


def test_an_error_is_raised_to_everyone_who_waits(handle):
    thread = feed(handle, 1, error=ValueError("broken"))
    seen = []
    with pytest.raises(ValueError, match="broken"):
        seen.extend(event.id for event in handle)
    with pytest.raises(ValueError, match="broken"):
        handle.result()
    with pytest.raises(ValueError, match="broken"):
        asyncio.run(collect(handle))
    thread.join()


def test_waiting_has_an_end(handle):
    with pytest.raises(TimeoutError, match=r"not done after 0\.01 seconds; wait longer, or cancel it"):
        handle.result(timeout=0.01)
    assert not handle.finished
    handle.finish()
    assert handle.finished
    assert handle.result(timeout=0)


def test_cancelling_is_a_wish_that_the_engine_fulfils(handle):
    assert not handle.cancelled
    handle.cancel()
    handle.cancel()
    assert handle.cancelled
    assert not handle.finished


def test_several_threads_may_wait_for_one_result(handle):
    found = []
    threads = [threading.Thread(target=lambda: found.append(handle.result(timeout=10)[0].ids)) for _ in range(5)]
    for thread in threads:
        thread.start()
    handle.finish()
    for thread in threads:
        thread.join()
    assert found == [(1, 2, 3)] * 5
