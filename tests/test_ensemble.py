"""Tail and probe together."""

import dataclasses
from collections.abc import Callable, Sequence

import pytest
import torch
from tiny import SETTINGS, random_decoder, random_part

from lastblock import ensemble
from lastblock.activations import ActivationStore, run_summary, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.ensemble import (
    LEAST_GAIN,
    Learnt,
    _if_worth_it,
    _texts_to_learn,
    add_readers,
    learn_words,
    weigh,
)
from lastblock.lexicon import Lexicon, count_ngrams
from lastblock.probe import cross_entropy, fit_lexicon, fit_probe
from lastblock.runtime import Silent
from lastblock.tokenization.batching import TokenIds
from lastblock.training import Encoded


def texts_of(sequences: Sequence[TokenIds]) -> list[str]:
    """The token ids, written as numbers."""
    return [" ".join(map(str, ids)) for ids in sequences]


def test_weights_are_those_of_the_least_cross_entropy() -> None:
    targets = torch.randint(0, 3, (400,))
    right = 3 * torch.nn.functional.one_hot(targets, 3) + torch.randn(400, 3)
    noise = torch.randn(400, 3)
    tail, probe = weigh(right, noise, targets)
    assert tail > 0.3
    assert probe < 0.2 * tail
    tail, probe = weigh(noise, right, targets)
    assert probe > 0.3
    best = cross_entropy(tail * noise + probe * right, targets)
    assert best <= min(cross_entropy(noise, targets), cross_entropy(right, targets)) + 1e-6


@pytest.mark.parametrize("validated", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("words", [False, True])
def test_logits_are_the_weighted_sum_of_all(validated: bool, weighted: bool, words: bool) -> None:
    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    train, validation = random_part(40), random_part(120) if validated else None
    if weighted:
        train = dataclasses.replace(train, weights=torch.rand(40).double().numpy())
    store = ActivationStore()
    store.fill(classifier, [*train.sequences, *(validation.sequences if validation else ())])
    untrained = classifier.tail_state()
    with torch.no_grad():
        for parameter in classifier.trainable_parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    alone = run_tail(classifier, train.sequences, store)
    mixture, unseen = add_readers(
        classifier, store, train, validation, SETTINGS, untrained, Silent(), texts_of,
        learning(train, texts_of) if words else None,
    )  # fmt: skip
    summary = run_summary(classifier, train.sequences, store)
    weights = None if train.weights is None else torch.from_numpy(train.weights)
    labels = torch.from_numpy(train.labels)
    probe = fit_probe(summary, labels, weights, means=classifier.probed_means)
    expected = mixture.tail * alone + mixture.probe * (summary @ probe.weight.T + probe.bias)
    together = run_tail(classifier, train.sequences, store)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
    known = mixture.probe * probe.out_of_fold
    assert (mixture.lexicon > 0) == (classifier.lexicon is not None)
    if classifier.lexicon is not None:
        lexicon, counted = Lexicon(3), count_ngrams(texts_of(train.sequences))
        known = known + mixture.lexicon * fit_lexicon(lexicon, counted, labels, weights)
        wanted = mixture.lexicon * lexicon(counted)
        torch.testing.assert_close(classifier.lexicon(counted), wanted, rtol=1e-4, atol=1e-4)
    assert (mixture.lexicon == 0) or words
    assert mixture.texts == (120 if validated else 40)
    assert (mixture.measured_on == "validation part") == validated
    assert (unseen is None) == validated
    if unseen is not None:  # what the tails that make up the rest say is not known
        assert unseen.shape == (40, 3)
        rest = unseen - known
        if classifier.lexicon is not None:  # its factors are multiplied in another order
            rest[rest.abs() < 1e-5] = 0
        assert bool((rest != 0).any()) == (mixture.tail > 0)


def named(part: Encoded) -> Callable[[Sequence[TokenIds]], list[str]]:
    """Texts that say their class, which their token ids do not."""
    ids = [of.tobytes() for of in part.sequences]
    names = dict(zip(ids, ["abc"[label] * 5 for label in part.labels], strict=True))
    return lambda sequences: [names[of.tobytes()] for of in sequences]


def learning(
    part: Encoded, texts_of: Callable[[Sequence[TokenIds]], list[str]] | None = None
) -> Callable[[], Learnt]:
    """Learns words of these texts, or such as say their class, when it is called."""
    texts = (texts_of or named(part))(part.sequences)
    return lambda: learn_words(part, texts, 3)


def test_before_training_there_is_neither_probe_nor_lexicon() -> None:
    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    part, store = random_part(60), ActivationStore()
    before = run_tail(classifier, part.sequences, store)
    untrained = classifier.tail_state()
    add_readers(
        classifier, store, part, None, SETTINGS, untrained, Silent(), named(part), learning(part)
    )
    assert not torch.allclose(run_tail(classifier, part.sequences, store), before)
    assert not classifier.lexicon.silent
    trained = classifier.tail_state()
    classifier.load_tail_state(untrained)
    torch.testing.assert_close(run_tail(classifier, part.sequences, store), before)
    assert classifier.lexicon.silent
    classifier.load_tail_state(trained)
    assert not classifier.lexicon.silent


def test_words_count_where_they_know_what_the_decoder_does_not() -> None:
    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    part, store = random_part(120), ActivationStore()
    mixture, unseen = add_readers(
        classifier, store, part, None, SETTINGS, classifier.tail_state(), Silent(), named(part),
        learning(part),
    )  # fmt: skip
    assert mixture.lexicon > mixture.tail + mixture.probe
    assert "% the text's bare words', as weighed on 120 texts" in mixture.reason
    assert (unseen.argmax(1).numpy() == part.labels).all()


def test_words_that_are_of_no_use_are_left_out() -> None:
    def same(sequences: Sequence[TokenIds]) -> list[str]:
        return ["the same"] * len(sequences)

    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    part, store = random_part(60), ActivationStore()
    mixture, _ = add_readers(
        classifier, store, part, None, SETTINGS, classifier.tail_state(), Silent(),
        same, learning(part, same),
    )  # fmt: skip
    assert mixture.lexicon == 0
    assert classifier.lexicon is None
    assert "words" not in mixture.reason


@pytest.mark.parametrize(
    ("name", "most"), [("MOST_LEARNT", 40), ("MOST_CHARACTERS", 2_000), ("MOST_ANSWERS", 120)]
)
def test_some_of_many_texts_are_learnt_from(
    monkeypatch: pytest.MonkeyPatch, name: str, most: int
) -> None:
    monkeypatch.setattr(ensemble, "LEAST_LEARNT", 10)
    monkeypatch.setattr(ensemble, name, most)
    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    part, store = random_part(120), ActivationStore()
    _, unseen = add_readers(
        classifier, store, part, None, SETTINGS, classifier.tail_state(), Silent(), named(part),
        learning(part),
    )  # fmt: skip
    assert (unseen.argmax(1).numpy() == part.labels).all()


def test_how_many_texts_a_lexicon_learns_from() -> None:
    assert _texts_to_learn(["a"] * 100_000, 2) == 50_000
    assert _texts_to_learn(["a" * 1_000] * 20_000, 2) == 10_000
    assert _texts_to_learn(["a" * 10_000] * 8_000, 2) == 5_000
    assert _texts_to_learn(["a"] * 100_000, 250) == 10_000
    assert _texts_to_learn([""] * 9, 2) == 50_000


def test_words_that_gain_too_little_count_nothing() -> None:
    labels = torch.randint(0, 3, (40,))
    right = torch.nn.functional.one_hot(labels, 3).float()
    said, noise = right + torch.randn(40, 3), torch.randn(40, 3)
    sharp, _ = weigh(said, torch.zeros(40, 3), labels)
    said, part = sharp * said, dataclasses.replace(random_part(40), labels=labels.numpy())
    assert _if_worth_it(said, torch.zeros(40, 3), part) == (1.0, 0.0)
    assert _if_worth_it(said, 9 * right, part) == weigh(said, 9 * right, labels)
    for share in (0.0, 0.03, 0.1, 0.3, 1.0):
        words = noise + share * right
        both, factor = weigh(said, words, labels)
        gain = cross_entropy(said, labels) - cross_entropy(both * said + factor * words, labels)
        expected = (both, factor) if 40 * gain > LEAST_GAIN else (1.0, 0.0)
        assert _if_worth_it(said, words, part) == expected
