"""A trained block in one call gives what its operations one by one give, and float64."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from tiny import FAMILIES, random_decoder
from torch import Tensor, nn

from lastblock.decoder import few_rows, trained_block
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.training import AdamW

KINDS = ("llama", "mistral", "full", "plain")


@pytest.fixture(autouse=True)
def with_kernels(use_kernels):
    use_kernels(True)


@pytest.fixture
def one_by_one(monkeypatch):
    """What gives the same by the block's own operations."""

    def run(decoder: Decoder, x: Tensor, position: Tensor) -> Tensor:
        with monkeypatch.context() as patched:
            patched.setattr(trained_block, "can_run", lambda x, weights: False)
            return decoder.run_at(x, position, 1)

    return run


def _decoder(kind: str) -> Decoder:
    """With an MLP that has no gate, where it is "plain"; that attends both ways, where "full"."""
    family = kind if kind in FAMILIES else "llama"
    config = replace(DecoderConfig.from_dict(FAMILIES[family]), gated_mlp=kind != "plain")
    decoder = Decoder(config, 2)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    decoder.set_attention("full" if kind == "full" else "causal")
    return decoder


def _states(texts: int, length: int) -> tuple[Tensor, Tensor]:
    return torch.randn(texts, length, 48), torch.randint(0, length, (texts,))


def _is_taken(decoder: Decoder, x: Tensor) -> bool:
    known = decoder.blocks[1].as_llama()
    return known is not None and trained_block.can_run(x, known[0])


def _gradients(decoder: Decoder, y: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    named = dict(decoder.blocks[1].named_parameters())
    return dict(zip(named, torch.autograd.grad(y, list(named.values()), wanted), strict=True))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("texts", [1, 9, 50])
@pytest.mark.parametrize("length", [1, 30])
def test_it_equals_its_operations_one_by_one(kind, texts, length, one_by_one):
    decoder, (x, position) = _decoder(kind), _states(texts, length)
    assert _is_taken(decoder, x)
    y, exact = decoder.run_at(x, position, 1), one_by_one(decoder, x, position)
    assert torch.equal(y, exact)
    wanted = torch.randn_like(y)
    found = _gradients(decoder, y, wanted)
    for name, gradient in _gradients(decoder, exact, wanted).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-5, atol=1e-5 * texts, msg=name)


@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_equal_float64(kind):
    decoder, (x, position) = _decoder(kind), _states(20, 23)
    y = decoder.run_at(x, position, 1)
    wanted = torch.randn_like(y)
    found = _gradients(decoder, y, wanted)
    decoder.forget()
    decoder.double()
    whole = decoder.run(x.double(), 1, 2)[torch.arange(20), position]
    torch.testing.assert_close(y.double(), whole, rtol=1e-4, atol=1e-4)
    for name, gradient in _gradients(decoder, whole, wanted.double()).items():
        largest = float(gradient.abs().max())
        torch.testing.assert_close(
            found[name].double(), gradient, rtol=0, atol=1e-5 * largest, msg=name
        )


def test_threads_change_nothing():
    decoder, (x, position) = random_decoder(), _states(40, 60)
    outputs, threads = [], torch.get_num_threads()
    wanted = torch.randn(40, 48)
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            y = decoder.run_at(x, position, 1)
            outputs.append([y, *_gradients(decoder, y, wanted).values()])
    finally:
        torch.set_num_threads(threads)
    for others in outputs[1:]:
        assert all(map(torch.equal, outputs[0], others))


def test_gradients_are_left_as_factors_where_these_are_kept():
    decoder, (x, position) = _decoder("llama"), _states(9, 12)
    wanted, block = torch.randn(9, 48), decoder.blocks[1]
    exact = _gradients(decoder, decoder.run_at(x, position, 1), wanted)
    for parameter in block.parameters():
        few_rows.keep_factors(parameter)
    decoder.run_at(x, position, 1).backward(wanted)
    for name, parameter in block.named_parameters():
        left = few_rows.take_factors(parameter)
        assert (parameter.grad is None) == bool(left) == (parameter.dim() == 2)
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        for part in left:
            part.rows.of(gradient).add_(part.multiplied_out())
        torch.testing.assert_close(gradient, exact[name], rtol=1e-5, atol=1e-5)


def test_what_is_not_for_it_goes_the_other_way():
    x, _ = _states(3, 5)
    assert _is_taken(random_decoder("llama"), x)
    assert not _is_taken(random_decoder("llama"), x.clone().requires_grad_())
    assert not _is_taken(random_decoder("llama").bfloat16(), x)
    assert not _is_taken(random_decoder("llama"), x.bfloat16())
    assert not _is_taken(random_decoder("llama"), x[:0])
    assert _is_taken(random_decoder("llama"), torch.randn(few_rows.MOST_ROWS, 2, 48))
    assert not _is_taken(random_decoder("llama"), torch.randn(few_rows.MOST_ROWS + 1, 2, 48))
    for family in ("qwen2", "qwen3", "gemma3_text", "gpt2"):
        assert not _is_taken(random_decoder(family), x)


def test_what_comes_about_goes_with_the_result():
    decoder, (x, position) = _decoder("llama"), _states(3, 5)
    known = weakref.ref(x)
    gc.disable()
    try:
        y = decoder.run_at(x, position, 1)
        del x, y
        assert known() is None
    finally:
        gc.enable()


def test_a_weight_that_changed_since_is_no_weight_to_go_back_by():
    decoder, (x, position) = _decoder("llama"), _states(3, 5)
    y = decoder.run_at(x, position, 1)
    with torch.no_grad():
        decoder.blocks[1].mlp.down.weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_numbers_put_in_a_weights_place_since_change_nothing():
    decoder, (x, position) = _decoder("llama"), _states(5, 9)
    y, weights = decoder.run_at(x, position, 1).sum(), list(decoder.blocks[1].parameters())
    exact = torch.autograd.grad(y, weights, retain_graph=True)
    for weight in weights:
        weight.data = weight.data.clone()
    kept = [torch.full_like(weight, 7) for weight in weights for _ in range(20)]  # where they were
    assert all(map(torch.equal, torch.autograd.grad(y, weights), exact)), len(kept)


@pytest.mark.parametrize("in_one", [True, False])
@pytest.mark.parametrize("frozen", ["attn.qkv", "attn.out", "mlp.gate_up", "mlp.down", "attn_norm"])
def test_a_frozen_weight_is_left_alone(frozen, in_one, monkeypatch):
    if not in_one:
        monkeypatch.setattr(trained_block, "can_run", lambda x, weights: False)
    decoder, (x, position) = _decoder("llama"), _states(5, 9)
    block = decoder.blocks[1]
    still = block.get_submodule(frozen).weight.requires_grad_(False)
    before = {name: of.detach().clone() for name, of in block.named_parameters()}
    optimizer = AdamW(list(block.parameters()), weight_decay=0.1)
    optimizer.zero_grad()
    decoder.run_at(x, position, 1).square().sum().backward()
    assert still.grad is None
    optimizer.step()
    same = [name for name, of in block.named_parameters() if torch.equal(of, before[name])]
    assert same == [f"{frozen}.weight"]


def test_what_came_about_goes_with_the_way_back():
    decoder, (x, position) = _decoder("llama"), _states(3, 5)
    known, loss = weakref.ref(x), decoder.run_at(x, position, 1).sum()
    del x
    loss.backward()
    assert known() is None
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("wrong", [[9, 0], [0, 100_000], [-10, 3], [4]])
def test_a_position_that_no_text_has_is_an_error(wrong):
    decoder, (x, _) = _decoder("llama"), _states(2, 9)
    with pytest.raises(IndexError):
        decoder.run_at(x, torch.tensor(wrong), 1)


def test_positions_from_the_end_are_as_torch_has_them(one_by_one):
    decoder, (x, _) = _decoder("llama"), _states(2, 9)
    here = torch.tensor([-1, 8])
    torch.testing.assert_close(
        decoder.run_at(x, here, 1), one_by_one(decoder, x, here), rtol=0, atol=0, equal_nan=True
    )
