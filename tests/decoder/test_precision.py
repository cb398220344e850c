"""Products of 8-bit integers: exact sums, small errors, and nothing that depends on other texts."""

import copy
import pickle
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from tiny import FAMILIES, random_batch, random_decoder, write_pretrained
from torch import Tensor, nn

from lastblock import runtime
from lastblock.classifier import SequenceClassifier
from lastblock.decoder import channels, kernels, precision
from lastblock.decoder.config import Activation
from lastblock.decoder.layers import RMSNorm, activate
from lastblock.decoder.loading import load_decoder
from lastblock.decoder.precision import Int8Linear, precision_facts, set_precision


@pytest.fixture(params=["kernel", "torch", "plain"])
def every_product(
    request: pytest.FixtureRequest,
    use_kernels: Callable[[bool], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With the kernel, with torch's instructions for 8-bit integers, and with neither."""
    if request.param == "torch" and not runtime.has_int8_instructions():
        pytest.skip("this processor has no instructions for 8-bit products")
    use_kernels(request.param == "kernel")
    if request.param != "kernel":
        monkeypatch.setattr(precision, "has_int8_instructions", lambda: request.param == "torch")


def _inputs(n: int = 37, size: int = 96) -> Tensor:
    """States as decoders have them: a channel and a token that are far larger than the rest."""
    x = torch.randn(n, size)
    x[:, 5] *= 30
    x[3] *= 50
    return x


def _round(linear: nn.Linear, largest: Tensor) -> Int8Linear:
    """A layer that divides its inputs itself."""
    out_features, in_features = linear.weight.shape
    layer = Int8Linear(in_features, out_features, linear.bias is not None, factor=True, eps=None)
    with torch.no_grad():
        precision._fill(layer, linear, channels._divisors(linear, largest))
    return layer


def _rounded(bias: bool) -> tuple[nn.Linear, Int8Linear]:
    linear = nn.Linear(96, 64, bias=bias)
    return linear, _round(linear, _inputs().abs().amax(0))


@pytest.mark.parametrize("bias", [False, True])
def test_a_layer_is_near_the_one_that_it_was(bias: bool) -> None:
    """No further than half a step of every input and every weight can take it."""
    linear, rounded = _rounded(bias)
    x = _inputs()
    with torch.no_grad():
        exact = linear.double()(x.double())
        error = (rounded(x).double() - exact).abs()
        rows, weight = (x * rounded.factor).double(), (linear.weight / rounded.factor).double()
        x_step = rows.abs().amax(1, keepdim=True) / 127
        w_step = weight.abs().amax(1) / 127
        by_weights = rows.abs().sum(1, keepdim=True) * w_step / 2
        by_inputs = x_step * weight.abs().sum(1) / 2
        most = by_weights + by_inputs + 96 * x_step * w_step / 4
    assert (error <= most + 1e-5 * exact.abs() + 1e-5).all()
    assert (error.norm(dim=1) / exact.norm(dim=1)).median() < 0.02


@pytest.mark.usefixtures("every_product")
def test_sums_are_those_of_integers() -> None:
    _, rounded = _rounded(bias=True)
    x = _inputs()
    rows = x * rounded.factor
    unit = rows.abs().amax(1, keepdim=True) / 127
    sums = (rows * (1 / unit)).round().long() @ rounded.weight.long().T
    expected = sums.double() * unit.double() * rounded.scale.double() + rounded.bias.double()
    torch.testing.assert_close(rounded(x).double(), expected, rtol=1e-5, atol=1e-5)


def test_a_weight_may_lie_in_memory_the_other_way_round() -> None:
    """As GPT-2's do: they are stored (in, out)."""
    linear, turned = (nn.Linear(96, 64) for _ in range(2))
    turned.load_state_dict(linear.state_dict())
    turned.weight.data = turned.weight.detach().T.contiguous().T
    layers = [Int8Linear(96, 64, bias=True, factor=False, eps=None) for _ in range(2)]
    for layer, of in zip(layers, (linear, turned), strict=True):
        layer.round(of, torch.ones(96))
    x = _inputs()
    with torch.no_grad():
        torch.testing.assert_close(layers[1](x), layers[0](x), rtol=0, atol=0)
        error = (layers[1](x) - linear(x)).norm(dim=1) / linear(x).norm(dim=1)
    assert error.median() < 0.02


@pytest.mark.parametrize("offset", [0.0, 1.0])
def test_a_norm_before_it_is_taken_in(offset: float) -> None:
    """As if the norm were there: a factor of a token's scale, and of each channel."""
    norm, linear = RMSNorm(96, 1e-5, offset), nn.Linear(96, 64)
    x = _inputs()
    x[7] = 0
    with torch.no_grad():
        norm.weight.copy_(torch.rand(96) + 0.5)
        normed = norm(x)
        by = channels._divisors(linear, normed.abs().amax(0))
        apart = Int8Linear(96, 64, bias=True, factor=True, eps=None)
        precision._fill(apart, linear, by)
        together = Int8Linear(96, 64, bias=True, factor=True, eps=1e-5)
        precision._fill(together, linear, by, norm)
        error = (together(x) - linear(normed)).norm(dim=1) / linear(normed).norm(dim=1)
        assert error.max() < 0.02
        # Where a channel lies on the edge of two steps, one may round it up and the other down.
        near = (together(x) - apart(normed)).norm(dim=1) / linear(normed).norm(dim=1)
        assert near.median() < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_dividing_channels_changes_no_product(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With so many steps that nothing is rounded, a block is what it was."""
    decoder = random_decoder(family)
    divided = copy.deepcopy(decoder)
    monkeypatch.setattr(Int8Linear, "round", _keep)
    monkeypatch.setattr(Int8Linear, "activated", _multiply)
    monkeypatch.setattr(kernels, "available", lambda: False)
    set_precision(divided, 4, "int8", torch.randint(0, 97, (60,)))
    ids, _ = random_batch()
    with torch.no_grad():
        exact = decoder.double().run(decoder.embed(ids), 0, 4)
        said = divided.double().run(divided.embed(ids), 0, 4)
    torch.testing.assert_close(said, exact, rtol=1e-4, atol=1e-4 * exact.abs().max().item())


def _keep(layer: Int8Linear, linear: nn.Linear, smooth: Tensor) -> None:
    layer.weight, layer.scale = linear.weight * smooth, torch.ones(len(linear.weight))
    if layer.bias is not None:
        layer.bias = linear.bias.detach().clone()


def _multiply(layer: Int8Linear, x: Tensor, activation: Activation | None, gated: bool) -> Tensor:
    if layer.eps is not None:
        x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + layer.eps)
    x = x if layer.factor is None else x * layer.factor
    y = nn.functional.linear(x, layer.weight) * layer.scale
    y = y if layer.bias is None else y + layer.bias
    return y if activation is None else activate(y, activation, gated)


@pytest.mark.usefixtures("every_product")
@pytest.mark.parametrize("activation", ["silu", "gelu_tanh"])
@pytest.mark.parametrize("gated", [True, False])
def test_activations_are_torchs(activation: Activation, gated: bool) -> None:
    _, rounded = _rounded(bias=True)
    x = _inputs()
    given, y = x.clone(), rounded(x).double()
    act = (
        nn.functional.silu
        if activation == "silu"
        else partial(nn.functional.gelu, approximate="tanh")
    )
    exact = act(y[:, :32]) * y[:, 32:] if gated else act(y)
    said = rounded.activated(x, activation, gated)
    torch.testing.assert_close(said.double(), exact, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, given)
    torch.testing.assert_close(rounded(x).double(), y, rtol=0, atol=0)


def test_no_text_changes_what_another_gives() -> None:
    _, rounded = _rounded(bias=False)
    x = _inputs()
    together = rounded(x)
    for i in range(len(x)):
        torch.testing.assert_close(rounded(x[i : i + 1])[0], together[i], rtol=0, atol=0)


def test_zeros_stay_zeros() -> None:
    _, rounded = _rounded(bias=False)
    assert torch.equal(rounded(torch.zeros(2, 3, 96)), torch.zeros(2, 3, 64))


def test_a_channel_that_is_never_used_does_no_harm() -> None:
    linear = nn.Linear(8, 4)
    with torch.no_grad():
        linear.weight[:, 2] = 0
    x = torch.randn(5, 8)
    x[:, 3] = 0
    rounded = _round(linear, x.abs().amax(0))
    with torch.no_grad():
        torch.testing.assert_close(rounded(x), linear(x), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_near_those_of_float32(family: str) -> None:
    decoder = random_decoder(family)
    for parameter in decoder.parameters():  # weights of a size that keeps attention smooth
        parameter.data.mul_(0.3)
    rounded = copy.deepcopy(decoder)
    set_precision(rounded, 3, "int8", torch.randint(0, 97, (60,)))
    ids, _ = random_batch()
    with torch.no_grad():
        exact = decoder.run(decoder.embed(ids), 0, 4)
        error = (rounded.run(rounded.embed(ids), 0, 4) - exact).norm() / exact.norm()
    assert 0 < error < 0.03
    assert not any(isinstance(m, Int8Linear) for m in rounded.blocks[3].modules())
    assert not any(isinstance(m, nn.Linear) for m in rounded.blocks[:3].modules())


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies_say_the_same(copied) -> None:
    classifier = SequenceClassifier(random_decoder(), 3)
    classifier.set_prefix_precision("int8", torch.randint(0, 97, (60,)))
    batch = random_batch()
    with torch.no_grad():
        said = classifier(*batch)
        torch.testing.assert_close(copied(classifier)(*batch), said, rtol=0, atol=0)


@pytest.mark.parametrize("to", ["float32", "bfloat16", "int8"])
def test_states_are_kept_in_16_bits_where_they_are_rounded_more_than_that(to) -> None:
    classifier = SequenceClassifier(random_decoder(), 3, summary_depths=(1, 2))
    classifier.set_prefix_precision(to, torch.randint(0, 97, (60,)))
    ids, lengths = random_batch()
    with torch.no_grad():
        kept = classifier.activations(ids, lengths)
        states = classifier.decoder.climb(ids, lengths).to(classifier.frozen_blocks).states()
    half = to != "float32"
    assert classifier.prefix_dtype == (torch.bfloat16 if half else torch.float32)
    for own, exact in zip(kept, states, strict=True):
        assert torch.equal(own[classifier.summary_rows :], exact.to(classifier.prefix_dtype))
    facts = classifier.prefix_facts()["dtype"]
    assert (" as bfloat16" in str(facts)) == (to == "int8")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("to", ["float32", "bfloat16", "int8"])
def test_blocks_that_were_turned_for_another_purpose_are_as_good(family, to) -> None:
    sample, batch = torch.randint(0, 97, (60,)), random_batch()
    decoder = random_decoder(family)
    higher, said = copy.deepcopy(decoder), []
    set_precision(higher, 4, to, sample)
    classifiers = [SequenceClassifier(copy.deepcopy(decoder), 3, trainable_blocks=2)]
    classifiers.append(copy.deepcopy(classifiers[0]))
    for classifier, done in zip(classifiers, (None, higher), strict=True):
        classifier.decoder.begin_with(batch[0][0, :3])
        classifier.set_prefix_precision(to, sample, done)
        with torch.no_grad():
            said.append(classifier.prefix(*batch))
    assert torch.equal(*said)
    one, other = classifiers
    assert one.prefix_facts() == other.prefix_facts()
    assert one.size == other.size
    trained = ([p.shape for p in of.trainable_parameters()] for of in classifiers)
    assert next(trained) == next(trained)


def test_facts_tell_how_channels_were_divided() -> None:
    facts = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        decoder = random_decoder()
        sample = torch.randint(0, 97, (60,), generator=torch.Generator().manual_seed(seed))
        set_precision(decoder, 2, "int8", sample)
        facts.append(precision_facts(decoder, 2, "int8"))
    assert facts[0] == facts[1] != facts[2]
    assert precision_facts(random_decoder(), 2, "bfloat16") == "bfloat16"


def test_int8_wants_a_sample() -> None:
    with pytest.raises(ValueError, match="sample"):
        set_precision(random_decoder(), 2, "int8", None)


@pytest.mark.parametrize(
    ("bfloat16", "int8", "instructions", "allowed", "chosen"),
    [
        (0.5, 0.25, True, True, "int8"),
        (0.5, 0.25, False, True, "bfloat16"),
        (0.5, 0.25, True, False, "bfloat16"),
        (0.25, 0.22, True, True, "bfloat16"),
        (10.0, 0.25, True, True, "int8"),
        (10.0, 0.25, True, False, "float32"),
        (0.9, 0.9, True, True, "float32"),
    ],
)
def test_the_fastest_precision(
    bfloat16: float,
    int8: float,
    instructions: bool,
    allowed: bool,
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seconds(rows: int, columns: int, *, int8: bool) -> dict[str, float]:
        return {name: taken for name, taken in times.items() if int8 or name != "int8"}

    times = {"float32": 1.0, "bfloat16": bfloat16, "int8": int8}
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(runtime, "_seconds_of_a_product", seconds)
    monkeypatch.setattr(runtime, "has_int8_instructions", lambda: instructions)
    assert runtime.fastest_precision(64, 64, int8=allowed) == chosen


def test_with_kernels_integers_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def seconds(*shape: int, int8: bool) -> dict[str, float]:
        assert not int8
        return {"float32": 1.0, "bfloat16": 0.2}

    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    monkeypatch.setattr(runtime, "_seconds_of_a_product", seconds)
    monkeypatch.setattr(runtime, "has_int8_instructions", lambda: True)
    assert runtime.fastest_precision(64, 64, int8=True, kernels=True) == "int8"
    assert runtime.fastest_precision(64, 64, int8=False, kernels=True) == "bfloat16"


@pytest.mark.parametrize("int8", [True, False])
def test_without_bfloat16_instructions_nothing_is_timed(
    int8: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    monkeypatch.setattr(runtime, "_seconds_of_a_product", None)
    monkeypatch.setattr(runtime, "has_int8_instructions", lambda: True)
    assert runtime.fastest_precision(64, 64, int8=int8) == ("int8" if int8 else "float32")


def test_every_precision_is_timed() -> None:
    allowed = runtime.has_int8_instructions()
    seconds = runtime._seconds_of_a_product(64, 32, int8=allowed)
    assert all(taken > 0 for taken in seconds.values())
    assert [*seconds] == ["float32", "bfloat16", *(["int8"] if allowed else [])]


def test_nothing_keeps_the_file_mapped_that_weights_were_read_from(tmp_path: Path) -> None:
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("this system does not say what is mapped")
    # Files of its own: a decoder that another test has left may still hold those that tests share.
    folder = write_pretrained(tmp_path / "decoder")
    file = str(folder / "model.safetensors")
    decoder = load_decoder(folder)
    assert file in maps.read_text()
    set_precision(decoder, 3, "int8", torch.randint(0, 97, (60,)))
    assert file not in maps.read_text()
