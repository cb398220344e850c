"""Tail and probe together."""

import dataclasses

import pytest
import torch
from tiny import SETTINGS, random_decoder, random_part

from lastblock.activations import ActivationStore, run_summary, run_tail
from lastblock.classifier import SequenceClassifier
from lastblock.ensemble import add_probe, weigh
from lastblock.probe import cross_entropy, fit_probe
from lastblock.runtime import Silent


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
def test_logits_are_the_weighted_sum_of_both(validated: bool, weighted: bool) -> None:
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
    mixture, unseen = add_probe(classifier, store, train, validation, SETTINGS, untrained, Silent())
    summary = run_summary(classifier, train.sequences, store)
    weights = None if train.weights is None else torch.from_numpy(train.weights)
    probe = fit_probe(
        summary, torch.from_numpy(train.labels), weights, means=classifier.probed_means
    )
    expected = mixture.tail * alone + mixture.probe * (summary @ probe.weight.T + probe.bias)
    together = run_tail(classifier, train.sequences, store)
    torch.testing.assert_close(together, expected, rtol=1e-4, atol=1e-4)
    assert mixture.texts == (120 if validated else 40)
    assert (mixture.measured_on == "validation part") == validated
    assert (unseen is None) == validated
    if unseen is not None:  # the probe's part is known; the tails that make up the rest are not
        rest = unseen - mixture.probe * probe.out_of_fold
        assert unseen.shape == (40, 3)
        assert bool((rest != 0).any()) == (mixture.tail > 0)


def test_before_training_there_is_no_probe() -> None:
    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    train, store = random_part(30), ActivationStore()
    before = run_tail(classifier, train.sequences, store)
    untrained = classifier.tail_state()
    add_probe(classifier, store, train, None, SETTINGS, untrained, Silent())
    assert not torch.allclose(run_tail(classifier, train.sequences, store), before)
    classifier.load_tail_state(untrained)
    torch.testing.assert_close(run_tail(classifier, train.sequences, store), before)
