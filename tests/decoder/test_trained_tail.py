"""A training step in two calls gives what torch's autograd and optimizer give, and float64."""

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import FAMILIES, random_part
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.classifier import SequenceClassifier
from lastblock.decoder import few_rows, kernels
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.trained_tail import TailSteps, loss_and_slope
from lastblock.training import AdamW, cross_entropy

# Of a decoder of the Llama kind, with windows, and with an MLP that has no gate.
KINDS = ("llama", "mistral", "plain")


@pytest.fixture(autouse=True)
def with_kernels(use_kernels: Callable[[bool], None]) -> None:
    use_kernels(True)


def _classifier(kind: str, classes: int = 3, summaries: bool = False) -> SequenceClassifier:
    family = kind if kind in FAMILIES else "llama"
    config = replace(DecoderConfig.from_dict(FAMILIES[family]), gated_mlp=kind != "plain")
    decoder = Decoder(config, 2)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return SequenceClassifier(decoder, classes, summary_depths=(1,) if summaries else ())


def _steps(classifier: SequenceClassifier) -> TailSteps:
    steps = classifier.tail_steps()
    assert steps is not None
    return steps


def _texts(n: int, rows: int = 40, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """States of texts, of three rows and more, the last one's the most."""
    lengths = torch.randint(3, rows + 1, (n,))
    lengths[0], lengths[-1] = 3, rows
    return [torch.randn(length, 48).to(dtype) for length in lengths]


def _plain_logits(classifier: SequenceClassifier, texts: list[Tensor]) -> Tensor:
    """All tokens through the whole block, by torch alone, and only then the last one's."""
    skipped, like = classifier.summary_rows, classifier.head.weight
    logits = []
    for text in texts:
        x = text[None, skipped:].to(like)
        x = classifier.decoder.norm(classifier.decoder.run(x, 1, 2))
        logits.append(classifier.head(x)[0, -1])
    return torch.stack(logits)


def _twin(classifier: SequenceClassifier, kind: str) -> SequenceClassifier:
    other = _classifier(kind, classifier.head.out_features, bool(classifier.summary_rows))
    other.load_state_dict(classifier.state_dict())
    return other


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [1, 9, few_rows.MOST_ROWS])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("classes", "summaries"), [(2, True), (19, False)])
def test_logits_and_gradients_equal_float64(kind, texts, dtype, classes, summaries):
    classifier = _classifier(kind, classes, summaries)
    steps, given = _steps(classifier), _texts(texts, dtype=dtype)
    assert steps.can_read(given)
    optimizer = AdamW(classifier.trainable_parameters(), 0.1, lr=0.0)
    exact = _twin(classifier, kind).double()
    expected = _plain_logits(exact, given)
    wanted = torch.randn(texts, classes)
    expected.backward(wanted.double())

    logits = steps.logits(given)
    torch.testing.assert_close(logits.double(), expected, rtol=1e-4, atol=1e-4)
    optimizer.step_of(steps, wanted)
    named = [name for name, of in classifier.named_parameters() if of.requires_grad]
    its = dict(exact.named_parameters())
    for name, mean, square in zip(named, optimizer._mean, optimizer._square, strict=True):
        gradient = its[name].grad
        largest = float(gradient.abs().max())
        close = {"rtol": 0, "msg": name}
        torch.testing.assert_close(10 * mean.double(), gradient, atol=2e-5 * largest, **close)
        torch.testing.assert_close(
            1000 * square.double(), gradient**2, atol=4e-5 * largest**2, **close
        )


@pytest.mark.parametrize("kind", KINDS)
def test_several_steps_are_torch_s_own(kind):
    """Of other texts, and another number of them, each time."""
    classifier = _classifier(kind)
    plain, steps = _twin(classifier, kind), _steps(classifier)
    ours = AdamW(classifier.trainable_parameters(), 0.3)
    theirs = torch.optim.AdamW(plain.trainable_parameters(), weight_decay=0.3)
    for step, n in enumerate((16, 5, 33, 1, 16)):
        ours.lr = theirs.param_groups[0]["lr"] = 0.003 / (step + 1)
        given, labels = _texts(n, 10 + 7 * step), torch.randint(0, 3, (n,))
        logits = steps.logits(given).requires_grad_()
        loss = F.cross_entropy(logits, labels)
        ours.step_of(steps, *torch.autograd.grad(loss, logits))
        theirs.zero_grad()
        expected = F.cross_entropy(_plain_logits(plain, given), labels)
        expected.backward()
        theirs.step()
        assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for (name, mine), its in zip(
        ((n, p) for n, p in classifier.named_parameters() if p.requires_grad),
        plain.trainable_parameters(),
        strict=True,
    ):
        # A gradient next to nothing is stepped by its sign: a few of many may be off by a step.
        off = (mine - its).abs() > 1e-5
        assert off.float().mean() < 0.01, name
        torch.testing.assert_close(mine, its, rtol=0, atol=0.01, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_threads_change_nothing(dtype):
    given, wanted = _texts(40, 60, dtype), torch.randn(40, 3)
    first, threads, found = _classifier("llama"), torch.get_num_threads(), []
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            classifier = _twin(first, "llama")
            steps = _steps(classifier)
            optimizer = AdamW(classifier.trainable_parameters(), 0.1)
            logits = steps.logits(given).clone()
            optimizer.step_of(steps, wanted)
            found.append([logits, *classifier.trainable_parameters()])
    finally:
        torch.set_num_threads(threads)
    for others in found[1:]:
        assert all(map(torch.equal, found[0], others))


def test_steps_of_one_kind_may_follow_the_other():
    """An optimizer's moments, and how many steps it took, are the same ones either way."""
    classifier = _classifier("llama")
    plain, steps = _twin(classifier, "llama"), _steps(classifier)
    ours = AdamW(classifier.trainable_parameters(), 0.1, lr=0.003)
    theirs = AdamW(plain.trainable_parameters(), 0.1, lr=0.003)
    for step in range(4):
        given, wanted = _texts(8), torch.randn(8, 3)
        if step % 2:
            ours.zero_grad()
            _plain_logits(classifier, given).backward(wanted)
            ours.step()
        else:
            steps.logits(given)
            ours.step_of(steps, wanted)
        theirs.zero_grad()
        _plain_logits(plain, given).backward(wanted)
        theirs.step()
    ours.forget()
    for mine, its in zip(
        classifier.trainable_parameters(), plain.trainable_parameters(), strict=True
    ):
        assert ((mine - its).abs() > 1e-5).float().mean() < 0.01


# Keys of 32, 96 and 40 numbers, of states of as many as fill tiles and of more and fewer.
@pytest.mark.parametrize(("size", "kv_heads", "dim"), [(64, 2, 16), (96, 3, 32), (100, 5, 8)])
@pytest.mark.parametrize("rows", [1, 31, 40, 600])
def test_keys_through_matrix_tiles_are_those_without(size, kv_heads, dim, rows, monkeypatch):
    """Also of tokens more than are summed up at a time; each is compared with float64's."""
    if not kernels.have_tiles():
        pytest.skip("this processor has no matrix tiles")
    heads = {"num_attention_heads": 2 * kv_heads, "num_key_value_heads": kv_heads, "head_dim": dim}
    config = DecoderConfig.from_dict({**FAMILIES["llama"], "hidden_size": size, **heads})
    decoder = Decoder(replace(config, max_position_embeddings=1024), 2)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=size**-0.5)
    classifier = SequenceClassifier(decoder, 3)
    given = [torch.randn(n, size).bfloat16() for n in (rows, 1, max(1, rows // 2), 17)]
    wanted = torch.randn(len(given), 3)
    exact = copy.deepcopy(classifier).double()
    expected = _plain_logits(exact, given)
    expected.backward(wanted.double())
    weight, of_keys = (
        classifier.decoder.blocks[1].attn.qkv.weight,
        slice(2 * kv_heads * dim, -kv_heads * dim),
    )
    gradient = exact.decoder.blocks[1].attn.qkv.weight.grad[of_keys]
    said, off = [], []
    for tiles in (True, False):
        monkeypatch.setattr(kernels, "have_tiles", lambda tiles=tiles: tiles)
        optimizer = AdamW(classifier.trainable_parameters(), 0.1, lr=0.0)
        steps = _steps(classifier)
        torch.testing.assert_close(steps.logits(given).double(), expected, rtol=1e-5, atol=1e-5)
        optimizer.step_of(steps, wanted)
        said.append(10 * optimizer._mean[optimizer._row[id(weight)]][of_keys].double())
        off.append(float((said[-1] - gradient).norm() / gradient.norm()))
    assert off[0] < max(1e-6, 2 * off[1])
    assert not torch.equal(*said)  # there are two ways


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_no_text_changes_what_is_said_of_another(dtype):
    """Not even one that is no number; and what stands beside it changes no bit."""
    steps, given = _steps(_classifier("llama")), _texts(9, dtype=dtype)
    expected = steps.logits(given).clone()
    given[4] = torch.full_like(given[4], torch.nan)
    said = steps.logits(given)
    others = torch.arange(9) != 4
    assert said[4].isnan().all()
    assert torch.equal(said[others], expected[others])
    turned = steps.logits(given[::-1]).flip(0)
    assert torch.equal(turned[others], expected[others])
    assert torch.equal(steps.logits(given[:1]), expected[:1])


def test_a_text_without_a_token_is_refused():
    steps = _steps(_classifier("llama", summaries=True))
    with pytest.raises(IndexError, match="no token"):
        steps.logits([torch.randn(4, 48), torch.randn(2, 48)])


def test_a_step_is_of_the_logits_that_were_given_last():
    classifier = _classifier("llama")
    steps, optimizer = _steps(classifier), AdamW(classifier.trainable_parameters(), 0.1)
    with pytest.raises(ValueError, match="given last"):
        optimizer.step_of(steps, torch.randn(4, 3))
    steps.logits(_texts(4))
    with pytest.raises(ValueError, match="given last"):
        optimizer.step_of(steps, torch.randn(5, 3))
    optimizer.step_of(steps, torch.randn(4, 3))
    with pytest.raises(ValueError, match="given last"):
        optimizer.step_of(steps, torch.randn(4, 3))


def test_what_it_cannot_read():
    steps = _steps(_classifier("llama"))
    one = torch.randn(4, 48)
    assert steps.can_read([one, one])
    assert not steps.can_read([])
    assert not steps.can_read([one] * (few_rows.MOST_ROWS + 1))
    assert not steps.can_read([one, one.bfloat16()])
    assert not steps.can_read([one.half()])
    assert not steps.can_read([torch.randn(48, 4).T])


def test_whose_steps_it_takes(monkeypatch):
    assert _classifier("llama").tail_steps() is not None
    for family in ("qwen2", "qwen3", "gemma3_text", "gpt2"):
        assert _classifier(family).tail_steps() is None, family
    config = DecoderConfig.from_dict(FAMILIES["llama"])
    for more in (
        {"pooling": "mean"},
        {"trainable_blocks": 2},
        {"trainable_blocks": 0},
        {"attention": "full"},
        {"trainable_blocks": 2, "train_embeddings": True},
    ):
        assert SequenceClassifier(Decoder(config, 2), 3, **more).tail_steps() is None, more
    adapted = SequenceClassifier(Decoder(config, 2), 3, trainable_blocks=2)
    adapted.add_adapters(2)
    assert adapted.tail_steps() is None
    frozen = _classifier("llama")
    frozen.decoder.norm.requires_grad_(False)
    assert frozen.tail_steps() is None
    monkeypatch.setattr("lastblock.decoder.kernels.available", lambda: False)
    assert _classifier("llama").tail_steps() is None


@pytest.mark.parametrize(
    ("several", "weights"),
    [(False, None), (False, (30,)), (True, None), (True, (30, 1)), (True, (30, 3))],
)
def test_the_slope_of_the_loss_is_autograd_s(
    several: bool, weights: tuple[int, ...] | None
) -> None:
    part, logits = random_part(30), (3 * torch.randn(30, 3)).requires_grad_()
    if several:
        part = replace(part, labels=np.random.rand(30, 3) < 0.3)
    if weights is not None:
        part = replace(part, weights=np.random.rand(*weights))
    loss = cross_entropy(logits, part)
    (expected,) = torch.autograd.grad(loss, logits)
    ours, slope = loss_and_slope(logits.detach(), part.labels, part.weights)
    assert ours == pytest.approx(loss.item())
    torch.testing.assert_close(slope, expected)


@pytest.mark.parametrize("several", [False, True])
def test_the_slope_of_large_logits_is_a_number(several: bool) -> None:
    part, logits = random_part(4), torch.tensor([[1e4, -1e4, 0.0]]).repeat(4, 1)
    labels = np.eye(3, dtype=bool)[[0, 1, 2, 0]] if several else np.array([0, 1, 2, 0])
    part = replace(part, labels=labels)
    loss, slope = loss_and_slope(logits, part.labels)
    assert loss == pytest.approx(cross_entropy(logits, part).item())
    assert slope.isfinite().all()


def test_of_what_is_no_number_there_is_no_loss() -> None:
    part, logits = random_part(4), torch.full((4, 3), torch.inf)
    loss, slope = loss_and_slope(logits, part.labels)
    assert np.isnan(loss)
    assert slope.isnan().any()


def test_a_label_that_is_no_class_s_is_refused() -> None:
    for labels in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match="among 3 classes"):
            loss_and_slope(torch.zeros(2, 3), np.array(labels))


def test_labels_and_weights_are_those_of_the_logits() -> None:
    logits, one = torch.zeros(4, 3), np.array([0, 1, 2, 0])
    several = np.eye(3, dtype=bool)[one]
    for labels, weights in (
        (one[:1], None),
        (several[:, :2], None),
        (one, np.ones(1)),
        (one, np.ones((4, 3))),
        (several, np.ones(3)),
    ):
        with pytest.raises(ValueError, match=r"logits \(4, 3\)"):
            loss_and_slope(logits, labels, weights)


def test_no_step_is_taken_of_logits_that_failed(monkeypatch):
    classifier = _classifier("llama")
    steps, optimizer = _steps(classifier), AdamW(classifier.trainable_parameters(), 0.1)
    steps.logits(_texts(3, 5))

    def fails(length: int) -> None:
        raise MemoryError

    monkeypatch.setattr(steps, "_rotary", fails)
    with pytest.raises(MemoryError):
        steps.logits(_texts(3, 9))
    with pytest.raises(ValueError, match="given last"):
        optimizer.step_of(steps, torch.randn(3, 3))
