"""Where the decoder is cut, on tiny random decoders."""

from collections import defaultdict
from collections.abc import Callable

import numpy as np
import pytest
import torch
from tiny import FAMILIES, random_decoder

from lastblock.activations import ActivationStore, run_prefix
from lastblock.classifier import SequenceClassifier
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.depth import (
    Choice,
    Curve,
    _equally_weighted,
    _most_frequent,
    candidates,
    choose_depth,
    sample,
    summary_depths,
)
from lastblock.tokenization.batching import TokenIds


def texts(n: int = 60) -> tuple[list[TokenIds], torch.Tensor]:
    """Token ids of two kinds: low numbers and high."""
    rng = np.random.default_rng(torch.randint(0, 2**31, ()).item())
    kinds = rng.integers(0, 2, n)
    ids = [rng.integers(0, 60, rng.integers(1, 30), dtype=np.int32) + 30 * k for k in kinds]
    return [i.astype(np.int32) for i in ids], torch.from_numpy(kinds)


Stores = Callable[[int], ActivationStore]


def fresh() -> Stores:
    """A store for each depth, with nothing in it."""
    return defaultdict[int, ActivationStore](ActivationStore).__getitem__


def choose(store: Stores, n: int = 60, blocks: int = 1) -> tuple[Choice, list[TokenIds]]:
    ids, kinds = texts(n)
    return choose_depth(random_decoder(), ids, kinds, blocks, store), ids


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_was_computed_while_choosing_is_what_the_prefix_computes(dtype: torch.dtype) -> None:
    decoder = random_decoder()
    ids, kinds = texts()
    choice = choose_depth(decoder.to(dtype), ids, kinds, 1, fresh())
    assert choice.activations
    classifier = SequenceClassifier(
        decoder,
        2,
        trainable_blocks=decoder.depth - choice.frozen_blocks,
        summary_depths=choice.summary_depths,
    )
    tolerance = 1e-5 if dtype == torch.float32 else 0.05
    with torch.no_grad():
        for text in ids:
            computed, rows = run_prefix(classifier, [text])
            reused = choice.activations[text.tobytes()]
            assert reused.dtype == dtype
            assert len(reused) == rows.item()
            torch.testing.assert_close(reused, computed[0], rtol=tolerance, atol=tolerance)


def test_choosing_again_costs_no_pass_and_chooses_the_same() -> None:
    decoder, store = random_decoder(), fresh()
    ids, kinds = texts()
    first = choose_depth(decoder, ids, kinds, 1, store)
    again = choose_depth(decoder, ids, kinds, 1, store)
    assert first.tokens > 0
    assert again.tokens == 0
    assert again.to_dict() == first.to_dict()
    more, more_kinds = texts(5)
    mixed = choose_depth(decoder, ids + more, torch.cat([kinds, more_kinds]), 1, store)
    assert mixed.tokens == sum(len(text) for text in more)


def test_the_sample_does_not_depend_on_order_and_has_no_text_twice() -> None:
    ids, _ = texts(2000)
    rows = sample(ids)
    assert len({ids[i].tobytes() for i in rows}) == len(rows) == 512
    order = np.random.default_rng(0).permutation(len(ids))
    shuffled = [ids[i] for i in order]
    assert {shuffled[i].tobytes() for i in sample(shuffled)} == {ids[i].tobytes() for i in rows}


def test_candidates_leave_room_for_the_trained_blocks() -> None:
    assert candidates(30, 1) == [12, 14, 16, 18, 20, 22, 24]
    assert candidates(12, 1) == [5, 6, 7, 8, 9, 10]
    assert candidates(4, 3) == [1]
    assert candidates(1, 1) == [0]
    assert candidates(2, 0) == [1, 2]


def test_summary_depths_stay_below_the_tail() -> None:
    assert summary_depths(30, 18) == (8, 15)
    assert summary_depths(30, 10) == (8, 10)
    assert summary_depths(30, 0) == ()
    assert summary_depths(2, 1) == (1,)


def test_many_texts_choose_for_themselves_and_a_few_hardly() -> None:
    accuracy = dict(zip(range(12, 25, 2), [0.5, 0.7, 0.74, 0.7, 0.66, 0.68, 0.67], strict=True))
    many, few = Curve(10_000, 30), Curve(40, 30)
    for curve in (many, few):
        for depth, value in accuracy.items():
            curve.add(depth, value)
    assert many.chosen() == 16
    assert many.in_the_running() == [16]
    assert many.reason().startswith(
        "After block 16 a linear probe tells the classes apart best; it"
    )
    assert few.chosen() == 22
    assert set(few.in_the_running()) >= {20, 22, 24}
    assert "too little to leave the depth" in few.reason()
    assert "after block 22 it is right in 68.0% of 40 training texts" in few.reason()


def test_where_nearly_all_is_right_the_lowest_depth_that_does_as_well_is_chosen() -> None:
    flat = dict(zip(range(12, 25, 2), [0.94, 0.97, 0.97, 0.97, 0.96, 0.97, 0.97], strict=True))
    easy, hard = Curve(512, 30), Curve(512, 30)
    for depth, value in flat.items():
        easy.add(depth, value)
        hard.add(depth, value - 0.2)
    assert easy.chosen() == 16  # below it, smoothed, fewer are right
    assert set(easy.in_the_running()) >= {16, 22}
    assert easy.reason().startswith(
        "After block 16 a linear probe tells the classes apart as well as after block 22, for less "
        "time; it is right in 97.0% of 512 training texts"
    )
    assert hard.chosen() == 22


def test_always_saying_the_most_frequent_class_is_no_reason_to_stop_early() -> None:
    for accuracy, base in ((0.97, 0.97), (0.03, 0.02)):  # a rare class, and nothing learnt at all
        curve = Curve(512, 30, base=base)
        for depth in range(12, 25, 2):
            curve.add(depth, accuracy)
        assert curve.standard_error < 0.01
        assert curve.chosen() == 22


def test_the_most_frequent_class_counts_by_weight() -> None:
    numbers = torch.tensor([0, 0, 0, 1, 2])
    assert _most_frequent(numbers, None) == pytest.approx(0.6)
    assert _most_frequent(numbers, torch.tensor([1.0, 1, 1, 5, 1])) == pytest.approx(5 / 9)
    several = torch.tensor([[True, False], [True, True], [False, True], [False, True]])
    assert _most_frequent(several, None) == pytest.approx(0.75)


def test_what_is_chosen_is_always_in_the_running() -> None:
    rng = np.random.default_rng(torch.randint(0, 2**31, ()).item())
    for n in (10, 100, 10_000):
        curve = Curve(n, 12)
        for depth in candidates(12, 1):
            curve.add(depth, float(rng.random()))
            assert curve.chosen() in curve.in_the_running()


def test_what_is_chosen_in_the_end_was_in_the_running_all_along() -> None:
    curve, kept = Curve(512, 30), set(range(12, 25, 2))
    accuracy = [0.9727, 0.9805, 0.9766, 0.9824, 0.9707, 0.9746, 0.9688]
    for depth, value in zip(range(12, 25, 2), accuracy, strict=True):
        curve.add(depth, value)
        kept &= set(curve.in_the_running()) | set(range(depth + 1, 25))
    assert curve.chosen() in kept


def test_texts_that_weigh_unequally_say_less() -> None:
    alike, unequal = Curve(1_000, 30), Curve(1_000, 30, alike=40)
    for depth, accuracy in zip(range(16, 25, 2), [0.6, 0.7, 0.72, 0.7, 0.6], strict=True):
        alike.add(depth, accuracy)
        unequal.add(depth, accuracy)
    assert len(alike.in_the_running()) < len(unequal.in_the_running())
    assert _equally_weighted(torch.ones(7)) == pytest.approx(7)
    assert _equally_weighted(torch.tensor([[1.0], [0.0], [1.0]])) == pytest.approx(2)


@pytest.mark.parametrize("blocks", [0, 1, 2, 3])
def test_any_number_of_trained_blocks(blocks: int) -> None:
    choice, _ = choose(fresh(), blocks=blocks)
    assert 0 < choice.frozen_blocks <= 4 - blocks
    assert choice.texts == 60
    assert len(choice.depths) == len(choice.accuracy)


def test_equal_texts_say_nothing_of_depths() -> None:
    ids = [np.arange(5, dtype=np.int32)] * 20
    choice = choose_depth(random_decoder(), ids, torch.arange(20) % 2, 1, fresh())
    assert choice.texts == 1
    assert choice.reason.startswith("All texts read the same, so nothing tells depths apart: ")


def test_what_others_left_in_the_store_changes_no_choice() -> None:
    """A text's states at a depth are kept, whoever asked for them first."""
    decoder, store = random_decoder(), fresh()
    ids, kinds = texts()
    choose_depth(decoder, ids[:40], torch.randint(0, 2, (40,)), 1, store)
    after_others = choose_depth(decoder, ids, kinds, 1, store)
    alone = choose_depth(decoder, ids, kinds, 1, fresh())
    assert after_others.depths == alone.depths == candidates(4, 1)
    assert after_others.accuracy == alone.accuracy


def test_where_an_earlier_choice_stopped_lower_texts_go_up_again() -> None:
    decoder, kept = random_decoder(), defaultdict[int, ActivationStore](ActivationStore)
    ids, kinds = texts()
    choose_depth(decoder, ids[:40], kinds[:40], 1, kept.__getitem__)
    highest = candidates(4, 1)[-1]
    del kept[highest]
    after_it = choose_depth(decoder, ids, kinds, 1, kept.__getitem__)
    alone = choose_depth(decoder, ids, kinds, 1, fresh())
    assert after_it.accuracy == alone.accuracy
    assert after_it.tokens == sum(map(len, ids))
    assert set(kept[highest].known(ids)) == {text.tobytes() for text in ids}


def test_nothing_higher_is_looked_at_where_it_hardly_matters() -> None:
    easy, rising, hard = Curve(512, 30), Curve(512, 30), Curve(512, 30)
    assert not easy.settled(1)
    for i, depth in enumerate((12, 14, 16)):
        easy.add(depth, 0.98)
        rising.add(depth, 0.95 + i / 100)
        hard.add(depth, 0.88)
    assert easy.settled(2)
    assert not easy.settled(3)
    assert not rising.settled(1)
    assert not hard.settled(1)


def test_what_fell_behind_may_be_chosen_in_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    curve, accuracy = Curve(512, 8), [500 / 512, 1.0, 1.0, 498 / 512]
    depths = candidates(8, 1)
    kept = set(depths)
    for depth, value in zip(depths, accuracy, strict=True):
        curve.add(depth, value)
        kept &= {*curve.in_the_running(), *depths[len(curve.depths) :]}
    assert curve.chosen() not in kept
    said = iter(accuracy)
    monkeypatch.setattr("lastblock.depth._accuracy", lambda *_: next(said))
    monkeypatch.setattr("lastblock.depth._most_frequent", lambda *_: 0.5)
    shape = {**FAMILIES["llama"], "num_hidden_layers": 8, "vocab_size": 600}
    ids = [np.array([i], dtype=np.int32) for i in range(512)]
    decoder = Decoder(DecoderConfig.from_dict(shape))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    choice = choose_depth(decoder, ids, torch.arange(512) % 2, 1, fresh())
    assert choice.frozen_blocks == curve.chosen()
    assert choice.activations == {}  # to be computed like all others'


def test_texts_of_no_weight_have_no_say() -> None:
    decoder = random_decoder()
    ids, kinds = texts(80)
    weights = torch.cat([torch.ones(60), torch.zeros(20)]).double()
    wrong = kinds.clone()
    wrong[60:] = 1 - wrong[60:]
    found = [
        choose_depth(decoder, ids, labels, 1, fresh(), weights=weights).accuracy
        for labels in (kinds, wrong)
    ]
    assert found[0] == found[1]
    assert all(np.isfinite(found[0]))
