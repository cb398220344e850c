"""Training on cached activations against training the whole decoder, step by step."""

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss
from tiny import SETTINGS, random_decoder, random_part, whole_decoder
from torch import nn
from torch.nn import functional as F

from lastblock.activations import ActivationStore
from lastblock.classifier import SequenceClassifier
from lastblock.decoder import few_rows
from lastblock.runtime import Silent
from lastblock.targets import class_weights, weigh
from lastblock.tokenization.batching import pad
from lastblock.training import (
    AdamW,
    Encoded,
    cross_entropy,
    learning_rate_at,
    loss_and_accuracy,
    start_at_shares,
    train_tail,
    training_step,
)


@pytest.fixture(params=[True, False], ids=["kernels", "torch"])
def gradients(request, use_kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    """Either way a step is taken, with the gradients there to be looked at afterwards."""
    use_kernels(request.param)
    take = few_rows.adamw

    def write_down(each) -> None:
        for of in each:
            gradient = torch.zeros_like(of.weight)
            for part in of.left:
                part.rows.of(gradient).add_(part.multiplied_out())
            of.weight.grad = gradient if of.gradient is None else gradient + of.gradient
        take(each)

    monkeypatch.setattr(few_rows, "adamw", write_down)


def two_classifiers(**kwargs: object) -> list[SequenceClassifier]:
    decoder = random_decoder()
    first = SequenceClassifier(decoder, 3, **kwargs)
    second = SequenceClassifier(random_decoder(), 3, **kwargs)
    second.load_state_dict(first.state_dict())
    return [first, second]


def adamw(classifier: SequenceClassifier) -> AdamW:
    return AdamW(classifier.trainable_parameters(), weight_decay=0.1)


@pytest.mark.usefixtures("gradients")
@pytest.mark.parametrize("padded", [None, 40], ids=["auto", "chapter6"])
@pytest.mark.parametrize("pooling", ["last", "mean"])
@pytest.mark.parametrize("trainable_blocks", [1, 2])
def test_caching_changes_nothing(padded: int | None, pooling: str, trainable_blocks: int) -> None:
    cached, plain = two_classifiers(pooling=pooling, trainable_blocks=trainable_blocks)
    part, store = random_part(8, padded), ActivationStore()
    store.fill(cached, part.sequences)
    torch_s = torch.optim.AdamW(plain.trainable_parameters(), lr=1e-3, weight_decay=0.1)
    optimizers = adamw(cached), torch_s
    for step in range(2):
        batch = part.take(np.arange(step * 4, step * 4 + 4))
        loss = training_step(cached, store, batch, optimizers[0])
        ids, lengths = pad(batch.sequences, pad_id=7)
        logits = whole_decoder(plain, torch.from_numpy(ids), torch.tensor(lengths))
        expected = F.cross_entropy(logits, torch.from_numpy(batch.labels))
        optimizers[1].zero_grad()
        expected.backward()
        optimizers[1].step()
        assert loss == pytest.approx(expected.item(), rel=1e-5)
        for ours, theirs in zip(
            cached.trainable_parameters(), plain.trainable_parameters(), strict=True
        ):
            scale = theirs.grad.abs().max().item()
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5 * scale)


def test_adamw_takes_torch_s_own_steps() -> None:
    shapes = (7, 5), (11,), (3, 2)
    ours = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    optimizers = AdamW(ours, 0.3), torch.optim.AdamW(theirs, weight_decay=0.3, fused=True)
    for step in range(5):
        optimizers[0].lr = optimizers[1].param_groups[0]["lr"] = 0.1 / (step + 1)
        for optimizer in optimizers:
            optimizer.zero_grad()
        for mine, its in zip(ours[:2] if step == 2 else ours, theirs, strict=False):
            mine.grad = torch.randn(mine.shape)
            its.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
        for mine, its in zip(ours, theirs, strict=True):
            torch.testing.assert_close(mine, its, rtol=0, atol=0)
    before = [p.detach().clone() for p in ours]
    optimizers[0].zero_grad()
    optimizers[0].step()
    for mine, was in zip(ours, before, strict=True):
        torch.testing.assert_close(mine.detach(), was, rtol=0, atol=0)


@pytest.mark.parametrize("way", ["step", "step_of"])
def test_an_interrupted_training_leaves_parameters_as_any_optimizer_takes_them(
    way: str, use_kernels: Callable[[bool], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    use_kernels(way == "step_of")
    classifier, part, store = two_classifiers()[0], random_part(8), ActivationStore()
    store.fill(classifier, part.sequences)

    def interrupted(optimizer: AdamW, *given: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(AdamW, way, interrupted)
    with pytest.raises(KeyboardInterrupt):
        train_tail(classifier, store, part, None, SETTINGS, torch.Generator(), Silent())
    for parameter in classifier.trainable_parameters():
        assert "factors" not in vars(parameter)
        assert parameter.grad is None


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("several", [False, True], ids=["one label", "several"])
def test_steps_in_c_learn_what_the_others_do(
    several: bool, weighted: bool, use_kernels: Callable[[bool], None]
) -> None:
    use_kernels(True)
    quick, slow = two_classifiers()
    part, store = random_part(40), ActivationStore()
    labels = np.random.default_rng(0).random((40, 3)) < 0.4 if several else part.labels
    weights = np.linspace(0.5, 1.5, 40).reshape((40, 1) if several else 40) if weighted else None
    part = Encoded(part.sequences, labels, weights)
    store.fill(quick, part.sequences)
    whole, optimizers = quick.tail_steps(), (adamw(quick), adamw(slow))
    assert whole is not None
    for step in range(4):
        batch = part.take(np.arange(step * 10, step * 10 + 10))
        losses = [
            training_step(quick, store, batch, optimizers[0], whole),
            training_step(slow, store, batch, optimizers[1]),
        ]
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for ours, theirs in zip(quick.trainable_parameters(), slow.trainable_parameters(), strict=True):
        assert ((ours - theirs).abs() > 1e-5).float().mean() < 0.01


def test_a_batch_that_steps_in_c_cannot_read_is_learnt_from_all_the_same(
    use_kernels: Callable[[bool], None],
) -> None:
    """As where one was not kept, for want of room, or there are more texts than it takes."""
    use_kernels(True)
    for n, kept in ((8, 7), (few_rows.MOST_ROWS + 1, few_rows.MOST_ROWS + 1)):
        quick, slow = two_classifiers()
        part, store = random_part(n), ActivationStore()
        store.fill(quick, part.sequences[:kept])
        losses = [training_step(quick, store, part, adamw(quick), quick.tail_steps())]
        losses.append(training_step(slow, store, part, adamw(slow)))
        assert losses[0] == losses[1]
        for ours, theirs in zip(
            quick.trainable_parameters(), slow.trainable_parameters(), strict=True
        ):
            assert torch.equal(ours, theirs)


def test_adamw_leaves_torch_s_compiler_alone() -> None:
    code = (
        "import sys, torch; from lastblock.training import AdamW; p = torch.nn.Parameter("
        "torch.ones(3)); o = AdamW([p], 0.1); p.sum().backward(); o.step(); o.zero_grad(); "
        "print('torch._dynamo' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "False"


def test_the_weighted_loss_is_scikit_learn_s() -> None:
    logits = torch.randn(50, 3)
    weights = np.random.default_rng(0).exponential(size=50)
    part = Encoded(random_part(50).sequences, np.arange(50) % 3, weights / weights.mean())
    probabilities = torch.softmax(logits.double(), dim=1).numpy()
    for weighted in (part, Encoded(part.sequences, part.labels)):
        expected = log_loss(part.labels, probabilities, sample_weight=weighted.weights)
        assert cross_entropy(logits, weighted).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.usefixtures("gradients")
def test_a_weight_of_two_is_being_there_twice() -> None:
    weighted, repeated = two_classifiers()
    part, store = random_part(8), ActivationStore()
    store.fill(weighted, part.sequences)
    counts = np.array([0, 1, 2, 3, 1, 2, 0, 1])
    heavy = Encoded(part.sequences, part.labels, counts / counts.mean())
    again = part.take(np.repeat(np.arange(8), counts))
    losses = [training_step(weighted, store, heavy, adamw(weighted))]
    losses.append(training_step(repeated, store, again, adamw(repeated)))
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for ours, theirs in zip(
        weighted.trainable_parameters(), repeated.trainable_parameters(), strict=True
    ):
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5 * scale)
    measured = [loss_and_accuracy(weighted, store, p)[0] for p in (heavy, again)]
    assert measured[0] == pytest.approx(measured[1], rel=1e-5)


def test_two_steps_have_the_losses_they_always_had() -> None:
    torch.manual_seed(0)
    classifier = SequenceClassifier(random_decoder(), 3)
    part, store = random_part(8), ActivationStore()
    store.fill(classifier, part.sequences)
    optimizer = adamw(classifier)
    losses = [training_step(classifier, store, part, optimizer) for _ in range(2)]
    assert losses == pytest.approx(FIXED_LOSSES, rel=1e-4)


FIXED_LOSSES = [1.1004734039, 1.0911600590]


def test_same_seed_same_weights() -> None:
    ends = []
    first, second = two_classifiers()
    part = random_part(24)
    for classifier in (first, second):
        store = ActivationStore()
        store.fill(classifier, part.sequences)
        generator = torch.Generator().manual_seed(3)
        train_tail(classifier, store, part, part, SETTINGS, generator, Silent())
        ends.append(classifier.tail_state())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=0)


def test_looking_changes_nothing() -> None:
    ends = []
    part = random_part(24)
    for classifier, steps in zip(two_classifiers(), (1, 100), strict=True):
        store = ActivationStore()
        store.fill(classifier, part.sequences)
        settings = dataclasses.replace(SETTINGS, eval_steps=steps, keep_best=False)
        generator = torch.Generator().manual_seed(3)
        train_tail(classifier, store, part, None, settings, generator, Silent())
        ends.append(classifier.tail_state())
    for name, tensor in ends[0].items():
        torch.testing.assert_close(tensor, ends[1][name], rtol=0, atol=0)


def test_learns_what_can_be_learnt_and_keeps_the_best_epoch() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    rng = np.random.default_rng(0)
    sequences = [rng.integers(0, 97, 12, dtype=np.int32) for _ in range(64)]
    labels = np.array([ids[-1] % 2 for ids in sequences], dtype=np.int64)
    part, store = Encoded(sequences, labels), ActivationStore()
    store.fill(classifier, sequences)
    settings = dataclasses.replace(SETTINGS, epochs=20, learning_rate=3e-3)
    history = train_tail(
        classifier, store, part, part, settings, torch.Generator().manual_seed(0), Silent()
    )
    assert history.accuracies[-1]["validation_accuracy"] > 0.95
    assert len(history.accuracies) == 20
    assert history.accuracies[-1]["examples_seen"] == 20 * 64
    assert [p["step"] for p in history.losses] == list(range(0, 320, 2))


def test_epochs_are_looked_at_anyway_and_may_be_all_there_is_to_see() -> None:
    classifier, part, few = SequenceClassifier(random_decoder(), 3), random_part(24), random_part(7)
    store = ActivationStore()
    store.fill(classifier, [*part.sequences, *few.sequences])
    settings = dataclasses.replace(SETTINGS, eval_steps=0, epochs=3, keep_best=False)
    history = train_tail(classifier, store, part, few, settings, torch.Generator(), Silent())
    steps = [point["step"] for point in history.accuracies]
    assert [point["step"] for point in history.losses] == [0, *steps]
    assert [point["examples_seen"] for point in history.losses] == [4, 24, 48, 72]
    loss, accuracy = loss_and_accuracy(classifier, store, few)
    assert history.losses[-1]["validation_loss"] == pytest.approx(loss)
    assert history.accuracies[-1]["validation_accuracy"] == pytest.approx(accuracy)
    assert all(0 < point["train_loss"] < 3 for point in history.losses)


def test_the_last_incomplete_batch_is_dropped_where_asked() -> None:
    classifier = SequenceClassifier(random_decoder(), 3)
    part, store = random_part(10), ActivationStore()
    store.fill(classifier, part.sequences)
    settings = dataclasses.replace(SETTINGS, drop_last=True, epochs=1, keep_best=False)
    history = train_tail(classifier, store, part, None, settings, torch.Generator(), Silent())
    assert history.accuracies[0]["examples_seen"] == 8
    assert history.accuracies[0]["validation_accuracy"] is None


def test_the_learning_rate_warms_up_and_decays() -> None:
    shares = [learning_rate_at(step, 100, SETTINGS) for step in range(100)]
    assert shares[0] < shares[5] < shares[10] == max(shares) == 1.0
    assert all(a > b for a, b in itertools.pairwise(shares[10:]))
    assert shares[-1] < 0.01
    constant = dataclasses.replace(SETTINGS, warmup=0.0, decay="none")
    assert {learning_rate_at(step, 100, constant) for step in range(100)} == {1.0}


@pytest.mark.parametrize("weighted", [None, "texts", "answers"])
def test_the_loss_of_several_labels_is_float64_s(weighted: str | None) -> None:
    rng = np.random.default_rng(7)
    logits, has = rng.normal(size=(30, 5)) * 4, rng.random((30, 5)) < 0.3
    weights = {None: None, "texts": rng.random((30, 1)), "answers": rng.random((30, 5))}[weighted]
    part = Encoded([np.zeros(1, np.int32)] * 30, has, weights)
    losses = np.logaddexp(0, np.where(has, -logits, logits))
    if weights is not None:
        losses = losses * weights
    else:
        probabilities = 1 / (1 + np.exp(-logits))
        each = [log_loss(h, p, labels=[0, 1]) for h, p in zip(has.T, probabilities.T, strict=True)]
        assert losses.mean() == pytest.approx(np.mean(each))
    ours = cross_entropy(torch.from_numpy(logits).float(), part).item()
    assert ours == pytest.approx(losses.mean(), rel=1e-5)


def test_the_balanced_loss_is_scikit_learn_s() -> None:
    rng = np.random.default_rng(8)
    logits, labels = rng.normal(size=(40, 3)), rng.choice(3, 40, p=[0.8, 0.1, 0.1])
    weights = weigh(labels, class_weights("balanced", labels, ["a", "b", "c"]))
    part = Encoded([np.zeros(1, np.int32)] * 40, labels, weights)
    reference = log_loss(labels, torch.from_numpy(logits).softmax(1).numpy(), sample_weight=weights)
    ours = cross_entropy(torch.from_numpy(logits).float(), part).item()
    assert ours == pytest.approx(reference * weights.mean(), rel=1e-5)


@pytest.mark.usefixtures("gradients")
def test_class_weights_move_the_gradient_as_repeated_texts_do() -> None:
    once, repeated = two_classifiers()
    part, store = random_part(8), ActivationStore()
    store.fill(once, part.sequences)
    weights = np.where(part.labels == 1, 3.0, 1.0)
    more = part.take([i for i, w in enumerate(weights) for _ in range(int(w))])
    training_step(once, store, dataclasses.replace(part, weights=weights), adamw(once))
    training_step(repeated, store, more, adamw(repeated))
    share = len(more) / len(part)
    pairs = zip(once.trainable_parameters(), repeated.trainable_parameters(), strict=True)
    for ours, theirs in pairs:
        scale = theirs.grad.abs().max().item()
        torch.testing.assert_close(ours.grad, theirs.grad * share, rtol=1e-4, atol=1e-4 * scale)


def test_a_head_of_several_labels_starts_at_their_shares() -> None:
    classifier = SequenceClassifier(random_decoder(), 3)
    has = np.array([[True, False, True]] * 30 + [[False, False, True]] * 68)
    start_at_shares(classifier, Encoded([np.zeros(1, np.int32)] * 98, has))
    shares = torch.sigmoid(classifier.head.bias.detach()).numpy()
    np.testing.assert_allclose(shares, [0.31, 0.01, 0.99], atol=1e-6)


def test_with_balanced_weights_every_label_starts_at_a_half() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    has = np.random.default_rng(3).random((400, 2)) < [0.5, 0.1]
    weights = weigh(has, class_weights("balanced", has, ["a", "b"]))
    start_at_shares(classifier, Encoded([np.zeros(1, np.int32)] * 400, has, weights))
    np.testing.assert_allclose(classifier.head.bias.detach(), [0, 0], atol=1e-6)
