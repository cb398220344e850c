"""Packed texts say what they say one by one, and nothing is computed twice."""

import pytest
import torch
from tiny import random_decoder

from lastblock.decoder import layers, packing
from lastblock.decoder.config import FAMILIES
from lastblock.decoder.packing import pack
from lastblock.decoder.precision import set_precision


def alike(texts=12, longest=40, words=3):
    """Texts in order, of few words, so that many begin alike; two of them are equal."""
    ids = torch.randint(0, words, (texts, longest)) + 5
    ids[1] = ids[0]
    lengths = torch.randint(1, longest + 1, (texts,))
    lengths[1] = lengths[0]
    for row, length in zip(ids, lengths.tolist(), strict=True):
        row[length:] = 0
    order = sorted(range(texts), key=lambda i: ids[i].tolist())
    return ids[order], lengths[order]


@pytest.mark.parametrize("together", [10, 10_000])
def test_every_token_has_a_row_of_its_own_or_of_a_text_before_it(together, monkeypatch):
    monkeypatch.setattr(packing, "TOGETHER", together)
    ids, lengths = alike(30)
    packed = pack(ids, lengths, share=True)
    rows = ids[packed.own]
    spread = packed.spread(rows[None])
    for found, given, length in zip(spread, ids, lengths.tolist(), strict=True):
        assert torch.equal(found[:length], given[:length])
    assert torch.equal(packed.gather(spread)[0], rows)
    beginnings = {
        tuple(text[: end + 1])
        for text, length in zip(ids.tolist(), lengths.tolist(), strict=True)
        for end in range(length)
    }
    if together > int(lengths.sum()):
        assert len(rows) == len(beginnings)
    else:
        assert len(beginnings) < len(rows) < int(lengths.sum())


def test_where_nothing_may_be_shared_each_token_has_a_row():
    ids, lengths = alike()
    packed = pack(ids, lengths, share=False)
    assert torch.equal(packed.lengths, lengths)
    assert not packed.shared.any()
    assert torch.equal(packed.flat_path(), torch.arange(int(lengths.sum())))


@pytest.mark.parametrize("short", [None, 0, layers.SHORT], ids=["kernel", "fused", "by rows"])
@pytest.mark.parametrize("attention", ["causal", "full"])
@pytest.mark.parametrize("together", [25, packing.TOGETHER])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_each_text_gets_the_states_that_it_gets_alone(
    family, together, attention, short, use_kernels, monkeypatch
):
    use_kernels(short is None)
    if short is not None:
        monkeypatch.setattr(layers, "SHORT", short)
    monkeypatch.setattr(packing, "TOGETHER", together)
    decoder, (ids, lengths) = random_decoder(family), alike()
    if attention == "full":  # then all texts are of one length
        ids[:, -1], lengths = 9, torch.full_like(lengths, ids.shape[1])
    decoder.set_attention(attention)
    states = decoder.climb(ids, lengths).to(4).states()
    for found, text, length in zip(states, ids, lengths.tolist(), strict=True):
        alone = decoder.run(decoder.embed(text[None, :length]), 0, 4)[0]
        torch.testing.assert_close(found, alone, rtol=1e-4, atol=1e-4 * alone.abs().max().item())


@pytest.mark.parametrize("begun", [0, 2])
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_of_8_bit_integers_no_text_changes_another(family, threads, begun, use_kernels):
    """To the bit, where only kernels of ours are asked: torch's norms go by what is beside."""
    use_kernels(True)
    decoder, (ids, lengths) = random_decoder(family), alike(40)
    lengths = lengths.clamp_min(begun + 1)
    ids[:, :begun] = 9
    decoder.begin_with(ids[0, :begun])
    set_precision(decoder, 4, "int8", torch.randint(0, 97, (60,)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = decoder.climb(ids, lengths).to(4)
        for i, found in enumerate(together.states()):
            one = slice(i, i + 1)
            alone = decoder.climb(ids[one, : lengths[i]], lengths[one]).to(4)
            exact = alone.states()[0]
            if family in ("llama", "mistral", "qwen2"):
                assert torch.equal(found, exact)
            # Where an input lies on the edge of two integers, either may be taken.
            assert ((found - exact).norm(dim=-1) / exact.norm(dim=-1)).max() < 0.02
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
@torch.inference_mode()
def test_lengths_may_be_of_any_integers(dtype):
    decoder, (ids, lengths) = random_decoder(), alike()
    states = decoder.climb(ids, lengths.to(dtype)).to(2).states()
    exact = decoder.climb(ids, lengths).to(2).states()
    assert all(torch.equal(*pair) for pair in zip(states, exact, strict=True))


@torch.inference_mode()
def test_full_attention_sees_nothing_of_another_text(use_kernels):
    use_kernels(False)
    decoder, said = random_decoder(), []
    decoder.set_attention("full")
    ids = torch.randint(0, 97, (2, 9))
    for _ in range(2):
        ids[0] = torch.randint(0, 97, (9,))
        said.append(decoder.climb(ids, torch.tensor([9, 4])).to(4).states()[1])
    torch.testing.assert_close(*said)


@torch.inference_mode()
def test_rows_stand_before_each_text():
    decoder, (ids, lengths) = random_decoder(), alike()
    above = [torch.randn(len(ids), decoder.config.hidden_size) for _ in range(3)]
    climb = decoder.climb(ids, lengths).to(1)
    for i, (with_rows, own) in enumerate(zip(climb.states(above), climb.states(), strict=True)):
        assert torch.equal(with_rows[:3], torch.stack([of[i] for of in above]))
        assert torch.equal(with_rows[3:], own)
