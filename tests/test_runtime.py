"""What is asked of the machine, and what is left as the user has set it."""

import ctypes
import sys
import threading
from collections.abc import Iterator

import pytest
import torch

from lastblock.runtime import (
    MOST_AT_ONCE,
    at_once,
    inferred,
    keep_freed_memory,
    one_beside,
    seeded_generator,
)


@pytest.mark.parametrize("seed", [0, 123, 2**63])
def test_a_seeded_generator_draws_what_torch_s_own_does(seed: int) -> None:
    ours, torchs = seeded_generator(seed), torch.Generator().manual_seed(seed)
    everyone = torch.get_rng_state()
    for _ in range(2):
        assert torch.equal(torch.randn(9, generator=ours), torch.randn(9, generator=torchs))
    assert torch.equal(torch.get_rng_state(), everyone)


def test_what_the_user_says_of_memory_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: object) -> None:
        raise AssertionError("the C library was asked")

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "131072")
    keep_freed_memory.__wrapped__()


@pytest.mark.skipif(sys.platform != "linux", reason="glibc is Linux's")
@pytest.mark.parametrize("library", ["glibc", "another"])
def test_the_c_library_is_asked_where_it_can_be(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    class Glibc:
        def mallopt(self, name: int, value: int) -> int:
            asked.append((name, value))
            return 1

    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Glibc() if library == "glibc" else object())
    keep_freed_memory.__wrapped__()
    assert [name for name, _ in asked] == ([-3, -1] if library == "glibc" else [])


@pytest.fixture(params=[1, 2, 5])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("items", [0, 1, 2, 7, 40])
def test_batches_side_by_side_come_back_in_their_order(threads: int, items: int) -> None:
    weight = torch.randn(8, 8, requires_grad=True)
    batches = [torch.randn(3, 8) for _ in range(items)]

    def work(batch: torch.Tensor) -> tuple[torch.Tensor, int]:
        return batch @ weight, torch.get_num_threads()

    found = [*inferred(work, batches)]
    assert len(found) == items
    for batch, (product, of_torch) in zip(batches, found, strict=True):
        torch.testing.assert_close(product, batch @ weight.detach())
        assert product.is_inference()
        assert of_torch == threads // max(1, min(threads, items))


@pytest.mark.parametrize(
    ("threads_of_torch", "batches"), [(1, 1), (16, 16), (17, 8), (24, 12), (31, 15), (64, 16)]
)
def test_hardly_a_thread_is_left_over(
    threads_of_torch: int, batches: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads_of_torch)
    assert at_once() == batches
    assert threads_of_torch - batches * (threads_of_torch // batches) <= 1


def test_torch_has_its_threads_back_afterwards(threads: int) -> None:
    assert at_once() == min(threads, MOST_AT_ONCE)
    with pytest.raises(ZeroDivisionError):
        [*inferred(lambda i: 1 // i, [2, 1, 0, 3, 4, 5])]
    assert torch.get_num_threads() == threads
    assert _of_a_new_thread() == threads


def test_a_thread_beside_is_no_model_for_others(threads: int) -> None:
    """Or what a thread that begins later multiplies would be rounded otherwise."""
    with one_beside() as beside:
        assert beside.submit(torch.get_num_threads).result() == 1
        assert torch.get_num_threads() == threads
        assert _of_a_new_thread() == threads


def _of_a_new_thread() -> int:
    seen: list[int] = []
    new = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    new.start()
    new.join()
    return seen[0]


def test_results_wait_for_whoever_takes_them(threads: int) -> None:
    done: list[int] = []
    results = inferred(done.append, range(1_000))
    for taken in range(10):
        next(results)
        assert len(done) <= taken + 1 + 2 * threads
    results.close()


def test_a_thread_beside_has_one_of_torch_s_whatever_others_are_given() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with one_beside() as beside:
            for work in (None, range(8)):
                said = [beside.submit(torch.get_num_threads) for _ in range(3)]
                assert [*inferred(lambda x: x, work or [])] == [*(work or [])]
                assert [each.result() for each in said] == [1, 1, 1]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(threads)
