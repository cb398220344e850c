"""What texts begin with is computed once, and their states are the same."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import random_decoder

from lastblock.classifier import SequenceClassifier
from lastblock.decoder import layers
from lastblock.decoder.config import FAMILIES
from lastblock.decoder.precision import set_precision


def _up(decoder, ids, depth=4):
    return decoder.run(decoder.embed(ids), 0, depth)


def _climb(decoder, ids):
    """Texts that fill all places."""
    return decoder.climb(ids, torch.full((len(ids),), ids.shape[1]))


def _states(climb, depth=4):
    return torch.stack(climb.to(depth).states())


def _close(one, other):
    torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4 * other.abs().max().item())


@pytest.mark.parametrize("short", [None, 0, layers.SHORT], ids=["kernel", "fused", "by rows"])
@pytest.mark.parametrize("texts", [1, 5])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_states_are_the_same_at_every_depth(family, texts, short, use_kernels, monkeypatch):
    use_kernels(short is None)
    if short is not None:
        monkeypatch.setattr(layers, "SHORT", short)
    decoder = random_decoder(family)
    ids = torch.randint(0, 97, (texts, 40))
    ids[:] = torch.cat((ids[:1, :7].expand(texts, 7), ids[:, 7:]), dim=1)
    decoder.begin_with(ids[0, :7].int())
    for _ in range(2):  # the second time it is there
        climb = _climb(decoder, ids)
        for depth in (0, 1, 3, 4):
            _close(_states(climb, depth), _up(decoder, ids, depth))


@pytest.mark.parametrize("shortest", [2, 4, 5])
@pytest.mark.parametrize("family", FAMILIES)
@torch.inference_mode()
def test_pooled_states_are_those_of_all_states(family, shortest):
    """Also where a text is no more than what the others begin with, or ends in padding alike."""
    decoder, ids = random_decoder(family), torch.randint(0, 97, (3, 20))
    ids[:, :4] = torch.tensor([5, 6, 0, 0])
    lengths = torch.tensor([20, 11, shortest])
    for row, length in enumerate(lengths.tolist()):
        ids[row, length:] = 0
    decoder.begin_with(ids[0, :4])
    climb = decoder.climb(ids, lengths)
    for depth in (0, 1, 4):
        last, mean = climb.to(depth).pooled()
        for row, (length, own) in enumerate(zip(lengths.tolist(), climb.states(), strict=True)):
            assert len(own) == length
            _close(last[row], own[-1])
            _close(mean[row], own.mean(0))


@torch.inference_mode()
def test_texts_that_begin_otherwise_or_have_nothing_else_are_run_whole():
    decoder, ids = random_decoder(), torch.randint(0, 97, (3, 20))
    decoder.begin_with(ids[0, :4])
    _close(_states(_climb(decoder, ids)), _up(decoder, ids))
    _close(_states(_climb(decoder, ids[:1, :4])), _up(decoder, ids[:1, :4]))


@torch.inference_mode()
def test_much_longer_texts_have_the_states_of_whole_ones():
    decoder = random_decoder()
    long = torch.randint(0, 97, (1, 20)).repeat(1, 5)
    decoder.begin_with(long[0, :4])
    _close(_states(_climb(decoder, long)), _up(decoder, long))


@torch.inference_mode()
def test_nothing_is_kept_of_weights_that_change():
    decoder, ids = random_decoder("qwen2"), torch.randint(0, 97, (1, 20))
    decoder.begin_with(ids[0, :6])
    before = _states(_climb(decoder, ids))
    set_precision(decoder, 4, "int8", ids[0])
    rounded = _states(_climb(decoder, ids))
    assert not torch.equal(before, rounded)
    # A token's rounding depends on that token alone.
    torch.testing.assert_close(rounded[:, :6], _up(decoder, ids[:, :6]), rtol=1e-3, atol=1e-2)
    decoder.set_attention("full")
    _close(_states(_climb(decoder, ids)), _up(decoder, ids))


def test_fewer_tokens_are_run():
    decoder, ran = random_decoder(), []
    ids = torch.randint(0, 97, (3, 20))
    ids[:, :9] = ids[0, :9].clone()
    decoder.blocks[1].register_forward_pre_hook(lambda _, x: ran.append(x[0][..., 0].numel()))
    with torch.inference_mode():
        _climb(decoder, ids).to(2)
        decoder.begin_with(ids[0, :8])
        _climb(decoder, ids).to(2)
        _climb(decoder, ids).to(2)
    _climb(decoder, ids).to(2)  # what is kept may be of weights that are trained
    with torch.inference_mode():
        decoder.set_attention("full")  # later tokens change the first ones then
        _climb(decoder, ids).to(2)
    assert ran == [42, 8, 34, 34, 42, 60]


@torch.inference_mode()
def test_threads_may_share_a_decoder():
    decoder, ids = random_decoder(), torch.randint(0, 97, (2, 20))
    ids[1, :8] = ids[0, :8]
    expected = _up(decoder, ids)
    decoder.begin_with(ids[0, :8])

    @torch.inference_mode()
    def climb(_):
        return _states(_climb(decoder, ids))

    with ThreadPoolExecutor(8) as threads:
        for found in threads.map(climb, range(40)):
            _close(found, expected)


@torch.inference_mode()
def test_trained_embeddings_are_not_kept():
    classifier = SequenceClassifier(random_decoder(), 2, trainable_blocks=4, train_embeddings=True)
    ids, lengths = torch.randint(0, 97, (1, 20)), torch.tensor([20])
    classifier.decoder.begin_with(ids[0, :8])
    classifier(ids, lengths)
    classifier.decoder.embed_tokens.weight.mul_(2)
    torch.testing.assert_close(classifier.prefix(ids, lengths), classifier.decoder.embed(ids))
