"""The noun that passes through the engine: one request, from its prompt's ids to its hypotheses."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from ..errors import CancelledError
from .history import Emitted, Hypothesis, Strategy


@dataclass(slots=True)
class Sequence:
    """One request to the engine, in ids alone."""

    prompt_ids: tuple[int, ...]
    """What the model reads first: the encoder where there is one, else the decoder."""
    strategy: Strategy
    """Chooses this sequence's tokens; it occupies up to `strategy.width` rows of a batch."""
    max_new_tokens: int
    start_ids: tuple[int, ...] = ()
    """What the decoder starts with where an encoder reads the prompt; empty without an encoder."""

    @property
    def decoder_length(self) -> int:
        """Most tokens that the decoder will hold."""
        return len(self.start_ids or self.prompt_ids) + self.max_new_tokens


class Handle:
    """What `Engine.submit` returns: the tokens of one sequence as they come, its results, and a way to stop it.

    Iterate it in a thread (``for``) or in an event loop (``async for``), or wait for `result`; any thread may `cancel`.
    """

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self._events: deque[Emitted] = deque()
        self._changed = threading.Condition()
        self._finished = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._error: BaseException | None = None
        self._cancelled = False

    def cancel(self) -> None:
        """Stop the sequence: it leaves its batch or the queue before the next step, and its results end as "cancelled"."""
        self._cancelled = True

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @property
    def finished(self) -> bool:
        """Whether the engine has let go of it."""
        return self._finished.is_set()

    def result(self, timeout: float | None = None) -> list[Hypothesis]:
        """Wait for the end; the samples in their order, or the best hypotheses first.

        Args:
            timeout: seconds; ``None`` waits for as long as it takes.

        Raises:
            TimeoutError: it was not done in time; it goes on.
            Exception: whatever stopped the engine in the midst of this sequence.
        """
        if not self._finished.wait(timeout):
            raise TimeoutError(f"the sequence was not done after {timeout} seconds; wait longer, or cancel it")
        if self._error is not None:
            raise self._error
        return self.sequence.strategy.results()

    def __iter__(self) -> Iterator[Emitted]:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._events or self.finished)
            yield from self._drain()
            if self.finished and not self._events:
                break
        self.result()

    async def __aiter__(self) -> AsyncIterator[Emitted]:
        loop, woken = asyncio.get_running_loop(), asyncio.Event()

        def wake() -> None:
            with suppress(RuntimeError):  # the loop was closed, so nobody waits in it
                loop.call_soon_threadsafe(woken.set)

        with self._changed:
            self._listeners.append(wake)
        try:
            while True:
                woken.clear()
                for event in self._drain():
                    yield event
                if self.finished and not self._events:
                    break
                if not self._events and not self.finished:
                    await woken.wait()
            self.result()
        finally:
            with self._changed:
                self._listeners.remove(wake)

    def _drain(self) -> Iterator[Emitted]:
        while self._events:
            yield self._events.popleft()

    # The engine's side.

    def emit(self, events: list[Emitted]) -> None:
        """Hand tokens to whoever iterates."""
        if events:
            self._events.extend(events)
            self._notify()

    def finish(self, error: BaseException | None = None) -> None:
        """Let go of the sequence; `error` is raised to whoever waits."""
        self._error = error
        self._finished.set()
        self._notify()

    def _notify(self) -> None:
        with self._changed:
            self._changed.notify_all()
            for wake in self._listeners:
                wake()


def closed_error() -> CancelledError:
    """What a sequence gets that the engine will not serve any more."""
    return CancelledError("the engine was closed before this sequence was done; load the model again")
