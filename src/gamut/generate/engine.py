"""The one decoding loop. A thread of its own runs it; everything else submits sequences and reads handles.

submit -> Scheduler (which sequences) -> Runner (their logits) -> Strategy (their next tokens) -> Handle
"""

from __future__ import annotations

import atexit
import os
import threading
from weakref import WeakSet

import torch

from ..device import release_worker_threads
from .runner import Runner
from .scheduler import Scheduler
from .sequence import Handle, Sequence, closed_error

_IDLE_SECONDS = 2.0  # after which the thread ends; the next sequence starts another
_OPEN: WeakSet[Engine] = WeakSet()


class Engine:
    """Serves sequences on one model.

    The thread lives while there is work and a little longer, so an engine that nobody uses holds nothing.
    """

    def __init__(self, runner: Runner, *, max_rows: int = 64) -> None:
        self._runner = runner
        self._max_rows = max_rows
        self._closed = False
        self._start_afresh()
        _OPEN.add(self)

    def _start_afresh(self) -> None:
        """Nothing waits and no thread runs: at the beginning, and in a forked process, which gets none of the threads."""
        self._scheduler = Scheduler(self._max_rows)
        self._work = threading.Condition()
        self._thread: threading.Thread | None = None
        self._running: list[Handle] = []

    def submit(self, *sequences: Sequence) -> list[Handle]:
        """Queue sequences, which may then be served together; a handle for each.

        Raises:
            CancelledError: the engine is closed.
        """
        release_worker_threads()  # the engine's thread needs the cores that this one's workers would share
        handles = [Handle(sequence) for sequence in sequences]
        with self._work:
            if self._closed:
                raise closed_error()
            for handle in handles:
                self._scheduler.add(handle)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="gamut-engine", daemon=True)
                self._thread.start()
            self._work.notify()
        return handles

    def close(self) -> None:
        """Cancel what runs, refuse what waits, and end the thread."""
        with self._work:
            self._closed = True
            for handle in self._running:
                handle.cancel()
            for handle in self._scheduler.clear():
                handle.finish(closed_error())
            self._work.notify()
            thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()

    def _run(self) -> None:
        while True:
            with self._work:
                self._running = []
                if not self._scheduler and not self._closed:
                    self._work.wait_for(lambda: self._scheduler or self._closed, _IDLE_SECONDS)
                self._running = self._scheduler.next_batch()
                if not self._running and not self._scheduler:
                    self._thread = None
                    return
            self._serve(self._running)

    @torch.inference_mode()
    def _serve(self, batch: list[Handle]) -> None:
        """Run a batch to its end. What goes wrong is told to the sequences that it concerns, and the thread lives on."""
        if not batch:
            return
        running = batch
        try:
            logits_BV = self._runner.prefill([handle.sequence for handle in batch])
            rows = [1] * len(batch)
            while running:
                running, rows, parents, tokens = _advance(running, rows, logits_BV)
                if running:
                    logits_BV = self._runner.step(parents, tokens)
                with self._work:
                    self._scheduler.drop_cancelled()  # whoever gave up waiting is not kept until this batch ends
        except BaseException as error:
            for handle in running:
                handle.finish(error)
        finally:
            self._runner.release()


def _advance(
    handles: list[Handle], rows: list[int], logits_BV: torch.Tensor
) -> tuple[list[Handle], list[int], list[int], list[int]]:
    """One step of every sequence: those that go on, their rows, and each new row's parent and token."""
    running: list[Handle] = []
    widths: list[int] = []
    parents: list[int] = []
    tokens: list[int] = []
    for handle, first, logits_RV in zip(handles, _offsets(rows), logits_BV.split(rows), strict=True):
        if handle.cancelled:
            handle.finish()
            continue
        try:
            step = handle.sequence.strategy.advance(logits_RV)
        except Exception as error:
            handle.finish(error)
            continue
        handle.emit(step.emitted)
        if step.parents:
            running.append(handle)
            widths.append(len(step.parents))
            parents += [first + parent for parent in step.parents]
            tokens += step.tokens
        else:
            handle.finish()
    return running, widths, parents, tokens


def _offsets(rows: list[int]) -> list[int]:
    return [sum(rows[:i]) for i in range(len(rows))]


@atexit.register
def _close_all() -> None:
    """End the threads before the interpreter takes itself apart: one inside torch would abort the process."""
    for engine in list(_OPEN):
        engine.close()


def _after_fork() -> None:
    for engine in list(_OPEN):
        engine._start_afresh()


if hasattr(os, "register_at_fork"):  # not on Windows, where nothing forks
    os.register_at_fork(after_in_child=_after_fork)
