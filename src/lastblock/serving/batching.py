"""Batcher: texts that wait together are run together, in one thread beside the event loop.

While a batch runs, others arrive; when it is done the next is drawn from all that wait, so a
batch is as large as the load asks for and nobody waits for company. Which text goes next, and
with whom, is ``choose``. Knows token ids and models; no HTTP, no label names.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from lastblock.serving import metrics
from lastblock.serving.refusal import Refusal
from lastblock.tokenization.batching import TokenIds

# A text may be overtaken by shorter ones that came less than this a token later: one of 500 tokens
# lets others pass for 0.15 s, and is then next, so none waits for ever.
SECONDS_A_TOKEN = 0.0003
# Files, long lists and explanations let single texts pass for this much longer.
BULK_SECONDS = 1.0
# Filling that a batch may hold, in tokens: about what a pass costs before its first token, so that
# a text is taken along where that is cheaper than a pass of its own; and that share of the text.
FILLING, FILLING_SHARE = 40, 0.05
# A text that differs by this many tokens less goes along as if it had waited a second longer.
TOKENS_A_SECOND = 100
# Half of the queue is for bursts, all of it for a machine that stands still for some seconds. MANY
# times as much as can be run is no burst if the queue is over a quarter full for STANDING_SECONDS,
# and then waiting is of use to nobody: what waits is kept to OVERLOAD_SECONDS of work, until nobody
# was refused for CALM_SECONDS. So whoever comes when it is over is answered soon.
STANDING_SECONDS = 2.0
MANY = 3.0
OVERLOAD_SECONDS = 0.4
CALM_SECONDS = 0.5


class Model(Protocol):
    """What a batch is run by: a ``TextModel``, or a test's stand-in."""

    def probabilities(self, sequences: Sequence[TokenIds]) -> npt.NDArray[np.float64]: ...


@dataclass(eq=False)
class _Request:
    """Sequences that were asked for together; ``rows`` is filled as their batches finish."""

    answer: asyncio.Future[None]
    rows: list[npt.NDArray[np.float64] | None]
    missing: int


@dataclass(eq=False)
class Item:
    """One text that waits; ``due`` is the moment by which it would like to be run."""

    model: Model
    ids: TokenIds
    due: float
    bulk: bool = False
    place: int = 0
    request: _Request | None = field(default=None, repr=False)


def choose(waiting: Sequence[Item], budget: int) -> list[Item]:
    """The next batch: the text that is due first, and those of the same model that go with it.

    They go in the order in which they are due, those of like length before others. At most
    ``budget`` tokens when filled up to the longest; a longer text is run alone.
    """
    first = min(waiting, key=lambda item: item.due)
    length = len(first.ids)
    others = [item for item in waiting if item.model is first.model and item is not first]
    others.sort(key=lambda item: item.due + abs(len(item.ids) - length) / TOKENS_A_SECOND)
    batch, longest, tokens = [first], length, length
    for item in others:
        size = len(item.ids)
        filled = max(longest, size) * (len(batch) + 1)
        filling = filled - tokens - size
        if filled <= budget and filling <= FILLING + FILLING_SHARE * (tokens + size):
            batch.append(item)
            longest, tokens = max(longest, size), tokens + size
    return batch


class Batcher:
    """Runs the models of one process, one batch at a time.

    Args:
        max_batch_tokens: tokens of a batch, filling included.
        max_waiting: single texts that may wait, half as many in a burst; those of bulk work are not
            counted, as whoever sends them waits for each part before sending the next.
        max_seconds: that a request may wait and run; not for bulk work, which is as long as it is.
    """

    def __init__(self, *, max_batch_tokens: int, max_waiting: int, max_seconds: float) -> None:
        self._budget = max_batch_tokens
        self._max_waiting = max_waiting
        self._max_seconds = max_seconds
        self._waiting: list[Item] = []
        self._singles = 0
        self._calm = time.monotonic()  # when the queue was last a quarter full at most
        self._overload_ends = 0.0
        self._tokens_a_second = 1000.0  # that are run, of late
        self._usually = 1000.0  # the same over a hundred batches, when the machine was itself
        self._asked_a_second = 0.0  # tokens of single texts that come, refused ones too
        self._asked = time.monotonic()  # when the last of them came
        self._closed = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batcher", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Call from the event loop that will ask."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    def close(self) -> None:
        """Finish the batch that runs; what waits is not run any more."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    async def run(
        self, model: Model, sequences: Sequence[TokenIds], *, bulk: bool = False
    ) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes) in the sequences' order.

        Raises:
            Refusal: 429 if too much waits already, 503 if it took too long; neither for bulk work.
        """
        loop = asyncio.get_running_loop()
        request = _Request(loop.create_future(), [None] * len(sequences), len(sequences))
        self._enter(model, sequences, request, bulk)
        try:
            async with asyncio.timeout(None if bulk else self._max_seconds):
                await request.answer
        except TimeoutError:
            message = f"no answer within {self._max_seconds:g} s; try again later"
            raise Refusal(503, "too_slow", message, retry_after=self._retry_after()) from None
        finally:
            if request.missing:
                self._leave(request)
        return np.stack([row for row in request.rows if row is not None])

    def _enter(
        self, model: Model, sequences: Sequence[TokenIds], request: _Request, bulk: bool
    ) -> None:
        now = time.monotonic() + (BULK_SECONDS if bulk else 0)
        items = [
            Item(model, ids, now + SECONDS_A_TOKEN * len(ids), bulk, place, request)
            for place, ids in enumerate(sequences)
        ]
        with self._changed:
            if not bulk:
                self._observe_asked(sum(len(ids) for ids in sequences))
                if self._is_full(len(items)):
                    message = f"{self._singles} texts wait already; try again later"
                    raise Refusal(429, "queue_full", message, retry_after=self._retry_after())
            self._waiting += items
            self._count()
            self._changed.notify()

    def _leave(self, request: _Request) -> None:
        """Nobody waits for this request any more."""
        with self._changed:
            self._waiting = [item for item in self._waiting if item.request is not request]
            self._count()

    def _count(self) -> None:
        self._singles = sum(not item.bulk for item in self._waiting)
        if self._singles <= self._max_waiting / 4:
            self._calm = time.monotonic()
        metrics.WAITING.set(len(self._waiting))

    def _is_full(self, more: int) -> bool:
        """Whether so many single texts more are too many just now."""
        if not self._singles:
            return False
        now = time.monotonic()
        tokens = sum(len(item.ids) for item in self._waiting if not item.bulk)
        standing = now > self._calm + STANDING_SECONDS
        many = self._asked_a_second > MANY * max(self._tokens_a_second, self._usually)
        overloaded = now < self._overload_ends or (standing and many)
        room = self._max_waiting / 2 if many else self._max_waiting
        # The rest of the time that a request may take is for a machine that becomes slower.
        most = OVERLOAD_SECONDS if overloaded else self._max_seconds / 3
        too_long = tokens / self._tokens_a_second > most
        is_full = too_long or self._singles + more > room
        if overloaded and is_full:
            self._overload_ends = now + CALM_SECONDS
        return is_full

    def _retry_after(self) -> int:
        """Seconds until about half of what waits is done, at least 1."""
        tokens = sum(len(item.ids) for item in self._waiting)
        return max(1, math.ceil(tokens / self._tokens_a_second / 2))

    def _work(self) -> None:
        while batch := self._next():
            start = time.perf_counter()
            answer: npt.NDArray[np.float64] | Exception
            try:
                answer = batch[0].model.probabilities([item.ids for item in batch])
            except Exception as error:
                answer = error
            self._observe(batch, time.perf_counter() - start)
            assert self._loop is not None
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                self._loop.call_soon_threadsafe(_deliver, batch, answer)

    def _next(self) -> list[Item]:
        """The next batch, as soon as there is one; none when closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            if self._closed:
                return []
            batch = choose(self._waiting, self._budget)
            chosen = set(map(id, batch))
            self._waiting = [item for item in self._waiting if id(item) not in chosen]
            self._count()
            return batch

    def _observe_asked(self, tokens: int) -> None:
        """Average over about the last STANDING_SECONDS, the latest counting most."""
        now = time.monotonic()
        self._asked_a_second *= math.exp((self._asked - now) / STANDING_SECONDS)
        self._asked_a_second += tokens / STANDING_SECONDS
        self._asked = now

    def _observe(self, batch: list[Item], seconds: float) -> None:
        tokens = sum(len(item.ids) for item in batch)
        rate = tokens / max(seconds, 1e-6)
        self._tokens_a_second += 0.1 * (rate - self._tokens_a_second)
        self._usually += 0.01 * (rate - self._usually)
        metrics.BATCH_TEXTS.observe(len(batch))
        metrics.BATCH_TOKENS.observe(tokens)
        metrics.BATCH_SECONDS.observe(seconds)


def _deliver(batch: list[Item], answer: npt.NDArray[np.float64] | Exception) -> None:
    """Hand rows to the requests they belong to; in the event loop's thread."""
    for number, item in enumerate(batch):
        request = item.request
        if request is None or request.answer.done():
            continue
        if isinstance(answer, Exception):
            request.answer.set_exception(answer)
            continue
        request.rows[item.place] = answer[number]
        request.missing -= 1
        if request.missing == 0:
            request.answer.set_result(None)
