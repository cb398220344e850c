"""The store: each text once, whatever the order and the batch."""

from typing import Any

import numpy as np
import pytest
import torch
from tiny import random_decoder, random_part

from lastblock.activations import ActivationStore, run_prefix, run_tail, store
from lastblock.classifier import SequenceClassifier


def test_equal_texts_are_computed_once() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    part, store = random_part(6), ActivationStore()
    distinct = sum(len(ids) for ids in {ids.tobytes(): ids for ids in part.sequences}.values())
    store.fill(classifier, [*part.sequences, *part.sequences])
    assert store.tokens_computed == distinct
    store.fill(classifier, [ids.copy() for ids in part.sequences])
    assert store.tokens_computed == distinct


def test_a_batch_is_what_the_prefix_says_now() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    part, store = random_part(20), ActivationStore()
    store.fill(classifier, part.sequences)
    for rows in ([3], [0, 7, 19], list(range(20))):
        chosen = [part.sequences[i] for i in rows]
        kept, lengths = store.batch(chosen)
        computed, same_lengths = run_prefix(classifier, chosen)
        assert lengths.tolist() == same_lengths.tolist() == [len(ids) for ids in chosen]
        for i, n in enumerate(lengths):
            torch.testing.assert_close(kept[i, :n], computed[i, :n], rtol=1e-5, atol=1e-5)


def test_logits_are_the_same_from_the_store_and_without_it_in_any_order() -> None:
    classifier = SequenceClassifier(random_decoder(), 3)
    part, store = random_part(30), ActivationStore()
    store.fill(classifier, part.sequences)
    kept = run_tail(classifier, part.sequences, store)
    order = np.random.default_rng(0).permutation(30)
    computed = run_tail(classifier, [part.sequences[i] for i in order], ActivationStore())
    torch.testing.assert_close(computed, kept[torch.from_numpy(order)], rtol=1e-5, atol=1e-5)


def test_what_is_kept_can_be_trained_on() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    part, store = random_part(4), ActivationStore()
    store.fill(classifier, part.sequences)
    hidden, lengths = store.batch(part.sequences)
    classifier.tail(hidden, lengths).sum().backward()
    assert all(p.grad is not None for p in classifier.trainable_parameters())


def test_equal_texts_are_computed_once_when_predicting(monkeypatch: pytest.MonkeyPatch) -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    few = random_part(6).sequences
    expected = run_tail(classifier, few, ActivationStore())
    computed = 0

    def counted(*args: Any) -> Any:
        nonlocal computed
        computed += len(args[1])
        return run_prefix(*args)

    monkeypatch.setattr(store, "run_prefix", counted)
    which = np.random.default_rng(1).integers(0, 6, 50)
    logits = run_tail(classifier, [few[i].copy() for i in which], ActivationStore())
    assert computed == len({few[i].tobytes() for i in which})
    torch.testing.assert_close(logits, expected[which], rtol=1e-5, atol=1e-5)


def test_what_was_computed_elsewhere_is_taken_in() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    part, first, second = random_part(6), ActivationStore(), ActivationStore()
    first.fill(classifier, part.sequences)
    second.fill(classifier, part.sequences, computed=first.known(part.sequences[:4]))
    assert second.tokens_computed == sum(map(len, part.sequences[4:]))
    logits = [run_tail(classifier, part.sequences, store) for store in (first, second)]
    torch.testing.assert_close(logits[0], logits[1])
