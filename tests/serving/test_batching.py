"""Batcher: results as one by one, who goes with whom, and what happens under too much."""

import asyncio
import threading
import time
from collections.abc import Sequence
from types import SimpleNamespace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastblock.inference import TextModel
from lastblock.serving.batching import (
    CALM_SECONDS,
    FILLING,
    FILLING_SHARE,
    STANDING_SECONDS,
    Batcher,
    Item,
    choose,
)
from lastblock.serving.refusal import Refusal
from lastblock.tokenization.batching import TokenIds


class Echo:
    """Answers with the first token and the length; waits until it may."""

    def __init__(self) -> None:
        self.may_run = threading.Event()
        self.batches: list[list[int]] = []

    def probabilities(self, sequences: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
        self.may_run.wait(10)
        self.batches.append([len(ids) for ids in sequences])
        return np.array([[ids[0], len(ids)] for ids in sequences], dtype=np.float64)


def ids(length: int, first: int = 1) -> TokenIds:
    return np.full(length, first, dtype=np.int32)


def batcher(**changes: float) -> Batcher:
    defaults = {"max_batch_tokens": 64, "max_waiting": 50, "max_seconds": 10}
    return Batcher(**{**defaults, **changes})  # type: ignore[arg-type]


lengths = st.lists(st.integers(1, 90), min_size=1, max_size=60)


@given(lengths, st.integers(1, 300), st.randoms())
def test_a_batch_holds_the_first_that_is_due_and_fits(
    lengths: list[int], budget: int, random: object
) -> None:
    model = Echo()
    waiting = [Item(model, ids(n), random.random()) for n in lengths]  # type: ignore[attr-defined]
    batch = choose(waiting, budget)
    first = min(waiting, key=lambda item: item.due)
    assert batch[0] is first
    assert len({id(item) for item in batch}) == len(batch)
    longest = max(len(item.ids) for item in batch)
    assert len(batch) == 1 or longest * len(batch) <= budget
    tokens = sum(len(item.ids) for item in batch)
    assert longest * len(batch) - tokens <= FILLING + FILLING_SHARE * tokens


def test_a_batch_is_of_one_model() -> None:
    one, other = Echo(), Echo()
    waiting = [Item(one if i % 2 else other, ids(5), i) for i in range(8)]
    assert {id(item.model) for item in choose(waiting, 1000)} == {id(other)}


def test_no_text_waits_for_ever() -> None:
    long = Item(Echo(), ids(500), due=0.5)
    shorts = [Item(long.model, ids(5), due=i / 100) for i in range(100)]
    order = []
    waiting = [long, *shorts]
    while waiting:
        batch = choose(waiting, 5)
        order += batch
        waiting = [item for item in waiting if item not in batch]
    assert order.index(long) == pytest.approx(50, abs=1)


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.lists(st.text("ab 7é!", max_size=60), min_size=1, max_size=5), max_size=8))
def test_batched_equals_single(model: TextModel, requests: list[list[str]]) -> None:
    async def ask() -> list[npt.NDArray[np.float64]]:
        work = batcher(max_waiting=1000)
        work.start()
        try:
            return await asyncio.gather(*(work.run(model, model.encode(r)) for r in requests))
        finally:
            work.close()

    for texts, rows in zip(requests, asyncio.run(ask()), strict=True):
        single = np.concatenate([model.predict_proba([text]) for text in texts])
        np.testing.assert_allclose(rows, single, atol=1e-5)


def test_rows_come_back_in_their_order_whatever_the_batches() -> None:
    model = Echo()
    model.may_run.set()
    sequences = [ids(n, first=i) for i, n in enumerate([40, 3, 17, 80, 3, 5, 41])]

    async def ask() -> npt.NDArray[np.float64]:
        work = batcher()
        work.start()
        try:
            return await work.run(model, sequences)
        finally:
            work.close()

    rows = asyncio.run(ask())
    assert rows[:, 0].tolist() == list(range(7))
    assert rows[:, 1].tolist() == [40, 3, 17, 80, 3, 5, 41]
    assert len(model.batches) > 2


def test_texts_that_wait_together_run_together_and_bulk_lets_others_pass() -> None:
    model = Echo()

    async def ask() -> None:
        work = batcher()
        work.start()
        first = asyncio.create_task(work.run(model, [ids(60)]))
        await asyncio.sleep(0.05)
        bulk = asyncio.create_task(work.run(model, [ids(20)] * 3, bulk=True))
        await asyncio.sleep(0)
        singles = [asyncio.create_task(work.run(model, [ids(6)])) for _ in range(8)]
        await asyncio.sleep(0.05)
        model.may_run.set()
        await asyncio.gather(first, bulk, *singles)
        work.close()

    asyncio.run(ask())
    assert model.batches == [[60], [6] * 8, [20] * 3]


def test_more_than_may_wait_is_refused_at_once_and_room_comes_back() -> None:
    model = Echo()

    async def ask() -> None:
        work = batcher(max_waiting=3)
        work.start()
        running = asyncio.create_task(work.run(model, [ids(9)]))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(work.run(model, [ids(9)] * 3))
        await asyncio.sleep(0)
        start = time.perf_counter()
        with pytest.raises(Refusal) as refused:
            await work.run(model, [ids(9)])
        assert time.perf_counter() - start < 0.1
        assert (refused.value.status, refused.value.retry_after) == (429, 1)
        model.may_run.set()
        await asyncio.gather(running, waiting)
        await work.run(model, [ids(9)] * 2)
        work.close()

    asyncio.run(ask())


def test_a_queue_that_stays_full_is_kept_short_until_nobody_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = [100.0]
    stopped = SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("lastblock.serving.batching.time", stopped)
    monkeypatch.setattr("lastblock.serving.batching.OVERLOAD_SECONDS", 0)
    model = Echo()

    async def ask() -> None:
        work = batcher(max_waiting=8)
        work.start()

        async def asked(count: int) -> list[asyncio.Task[npt.NDArray[np.float64]]]:
            tasks = [asyncio.create_task(work.run(model, [ids(60)])) for _ in range(count)]
            await asyncio.sleep(0.05)
            return tasks

        async def is_refused(tokens: int) -> bool:
            with pytest.raises(Refusal) as refused:
                await work.run(model, [ids(tokens)])
            return refused.value.status == 429

        tasks = await asked(1) + await asked(5)
        clock[0] += STANDING_SECONDS + 0.1
        tasks += await asked(1)  # half full for long, but no more comes than can be run
        assert await is_refused(60_000)  # as much as a minute's work
        assert await is_refused(60)
        model.may_run.set()
        await asyncio.gather(*tasks)
        model.may_run.clear()
        tasks = await asked(1) + await asked(1)
        assert await is_refused(60)
        clock[0] += CALM_SECONDS + 0.1
        tasks += await asked(7)
        model.may_run.set()
        await asyncio.gather(*tasks)
        work.close()

    asyncio.run(ask())


@pytest.mark.parametrize(("seconds", "fit"), [(0.0, 4), (10.0, 8)])
def test_a_burst_may_fill_half_of_the_queue(
    seconds: float, fit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What comes ``seconds`` apart, while the machine stands still, may fill all of it."""
    clock = [100.0]
    stopped = SimpleNamespace(monotonic=lambda: clock[0], perf_counter=time.perf_counter)
    monkeypatch.setattr("lastblock.serving.batching.time", stopped)
    model = Echo()

    async def ask() -> None:
        work = batcher(max_waiting=8, max_seconds=100, max_batch_tokens=2_000)
        work.start()
        running = asyncio.create_task(work.run(model, [ids(9)]))
        await asyncio.sleep(0.05)
        waiting = []
        for _ in range(fit):
            clock[0] += seconds
            waiting.append(asyncio.create_task(work.run(model, [ids(2_000)])))
            await asyncio.sleep(0)
        clock[0] += seconds
        with pytest.raises(Refusal) as refused:
            await work.run(model, [ids(2_000)])
        assert refused.value.code == "queue_full"
        assert not any(task.done() for task in waiting)
        model.may_run.set()
        await asyncio.gather(running, *waiting)
        work.close()

    asyncio.run(ask())


def test_who_would_be_answered_too_late_is_refused_at_once() -> None:
    model = Echo()

    async def ask() -> None:
        work = batcher(max_batch_tokens=6000)
        work.start()
        running = asyncio.create_task(work.run(model, [ids(9)]))
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(work.run(model, [ids(6000)]))
        await asyncio.sleep(0)
        with pytest.raises(Refusal) as refused:  # six of the ten seconds are taken
            await work.run(model, [ids(9)])
        assert refused.value.status == 429
        model.may_run.set()
        await asyncio.gather(running, waiting)
        work.close()

    asyncio.run(ask())


def test_who_waits_too_long_gets_503_and_is_not_run() -> None:
    model = Echo()

    async def ask() -> None:
        work = batcher(max_seconds=0.1)
        work.start()
        running = asyncio.create_task(work.run(model, [ids(9)]))
        await asyncio.sleep(0.02)
        with pytest.raises(Refusal) as refused:
            await work.run(model, [ids(30)])
        assert refused.value.status == 503
        with pytest.raises(Refusal):
            await running
        model.may_run.set()
        await asyncio.sleep(0.05)
        work.close()

    asyncio.run(ask())
    assert model.batches == [[9]]


def test_a_client_that_leaves_is_not_run() -> None:
    model = Echo()

    async def ask() -> None:
        work = batcher()
        work.start()
        running = asyncio.create_task(work.run(model, [ids(9)]))
        await asyncio.sleep(0.05)
        leaving = asyncio.create_task(work.run(model, [ids(30)]))
        await asyncio.sleep(0.05)
        leaving.cancel()
        await asyncio.sleep(0)
        model.may_run.set()
        await running
        await asyncio.sleep(0.05)
        work.close()

    asyncio.run(ask())
    assert model.batches == [[9]]


def test_an_error_reaches_those_who_asked_and_the_next_is_served() -> None:
    class Broken(Echo):
        def probabilities(self, sequences: Sequence[TokenIds]) -> npt.NDArray[np.float64]:
            raise RuntimeError("broken")

    good = Echo()
    good.may_run.set()

    async def ask() -> None:
        work = batcher()
        work.start()
        with pytest.raises(RuntimeError, match="broken"):
            await work.run(Broken(), [ids(3), ids(50)])
        assert (await work.run(good, [ids(3)])).tolist() == [[1, 3]]
        work.close()

    asyncio.run(ask())
