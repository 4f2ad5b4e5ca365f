"""Which sequences are served together. Here: as many as fit, one batch after the other."""

from __future__ import annotations

from collections import deque

from .sequence import Handle


class Scheduler:
    """A queue that gives out one batch at a time, first come first served."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        """Most rows of a batch; a sequence that is wider alone is served alone."""
        self._waiting: deque[Handle] = deque()

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def add(self, handle: Handle) -> None:
        """Queue a sequence."""
        self._waiting.append(handle)

    def next_batch(self) -> list[Handle]:
        """The next sequences to serve together; those cancelled while they waited are let go."""
        self.drop_cancelled()
        batch: list[Handle] = []
        rows = 0
        while self._waiting:
            rows += self._waiting[0].sequence.strategy.width
            if batch and rows > self.max_rows:
                break
            batch.append(self._waiting.popleft())
        return batch

    def drop_cancelled(self) -> None:
        """Let go of sequences that were cancelled while they waited."""
        for handle in [each for each in self._waiting if each.cancelled]:
            self._waiting.remove(handle)
            handle.finish()

    def clear(self) -> list[Handle]:
        """Empty the queue, and return what was in it."""
        left = list(self._waiting)
        self._waiting.clear()
        return left
