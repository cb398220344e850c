"""The frozen prefix and the tail against the whole decoder, run plainly."""

import pytest
import torch
from tiny import FAMILIES, random_batch, random_decoder, whole_decoder

from lastblock.classifier import SequenceClassifier, split_rounding
from lastblock.decoder.layers import rotate
from lastblock.errors import ConfigError


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
@pytest.mark.parametrize("trainable_blocks", [1, 2])
def test_equals_the_whole_decoder(family: str, pooling: str, trainable_blocks: int) -> None:
    classifier = SequenceClassifier(
        random_decoder(family), 3, trainable_blocks=trainable_blocks, pooling=pooling
    )
    ids, lengths = random_batch()
    with torch.no_grad():
        torch.testing.assert_close(
            classifier(ids, lengths),
            whole_decoder(classifier, ids, lengths),
            rtol=1e-5,
            atol=1e-5,
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_at_one_token_is_the_full_block_there(family: str) -> None:
    decoder = random_decoder(family)
    x = torch.randn(9, 31, 48)
    position = torch.randint(0, 31, (9,))
    for index, block in enumerate(decoder.blocks):
        rotary = decoder.rotary(index, x.dtype, x.shape[1])
        with torch.no_grad():
            full = block(x, rotary)[torch.arange(9), position]
            torch.testing.assert_close(
                block.forward_at(x, position, rotary), full, rtol=1e-5, atol=1e-5
            )


@pytest.mark.parametrize("family", FAMILIES)
def test_full_attention_is_a_softmax_over_all_tokens(family: str) -> None:
    decoder = random_decoder(family)
    decoder.set_attention("full")
    attn, norm = decoder.blocks[0].attn, decoder.blocks[0].attn_norm
    states = torch.randn(2, 9, 48)
    x = norm(states)
    rotary = decoder.rotary(0, x.dtype, x.shape[1])
    heads = attn.qkv(x).unflatten(-1, (-1, attn.head_dim))
    q, k, v = heads.split([attn.heads, attn.kv_heads, attn.kv_heads], dim=2)
    if attn.q_norm is not None:
        q, k = attn.q_norm(q), attn.k_norm(k)
    if rotary is not None:
        q, k = (rotate(part, *(t.unsqueeze(1) for t in rotary)) for part in (q, k))
    k, v = (part.repeat_interleave(attn.heads // attn.kv_heads, dim=2) for part in (k, v))
    scores = torch.einsum("bqhd,bkhd->bhqk", q.double(), k.double()) * attn.scale
    if attn.window is not None:
        distance = (torch.arange(9)[:, None] - torch.arange(9)).abs()
        scores = scores.masked_fill(distance >= attn.window, -torch.inf)
    y = torch.einsum("bhqk,bkhd->bqhd", scores.softmax(-1), v.double()).flatten(2).float()
    with torch.no_grad():
        torch.testing.assert_close(attn(x, rotary), attn.out(y), rtol=1e-4, atol=1e-4)
        at = torch.tensor([3, 8])
        here = attn.forward_at(x[torch.arange(2), at], states, norm, at, rotary)
        torch.testing.assert_close(here, attn.out(y)[torch.arange(2), at], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pooling", ["last", "first", "mean"])
def test_padding_and_batch_size_change_nothing(pooling: str) -> None:
    classifier = SequenceClassifier(random_decoder(), 3, pooling=pooling)
    ids, lengths = random_batch(n=8)
    with torch.no_grad():
        together = classifier(ids, lengths)
        padded = torch.cat([ids, torch.randint(0, 97, (8, 9))], dim=1)
        torch.testing.assert_close(classifier(padded, lengths), together, rtol=1e-5, atol=1e-5)
        for i in range(8):
            n = lengths[i : i + 1]
            alone = classifier(ids[i : i + 1, : n.item()], n)
            torch.testing.assert_close(alone[0], together[i], rtol=1e-5, atol=1e-5)


def test_only_the_tail_is_trained() -> None:
    classifier = SequenceClassifier(random_decoder(), 2, trainable_blocks=1)
    trained = {name for name, p in classifier.named_parameters() if p.requires_grad}
    assert all(name.startswith(("decoder.blocks.3.", "decoder.norm.", "head.")) for name in trained)
    assert len(trained) == len(dict(classifier.decoder.blocks[3].named_parameters())) + 3
    classifier.set_prefix_precision("bfloat16")
    for name, parameter in classifier.named_parameters():
        assert parameter.dtype == (torch.float32 if name in trained else torch.bfloat16)


def test_training_leaves_the_pretrained_weights_alone() -> None:
    decoder = random_decoder()
    before = decoder.blocks[3].mlp.down.weight.data
    kept = before.clone()
    classifier = SequenceClassifier(decoder, 2)
    with torch.no_grad():
        for parameter in classifier.trainable_parameters():
            parameter.add_(1.0)
    torch.testing.assert_close(before, kept)


def test_tail_state_comes_back() -> None:
    classifier = SequenceClassifier(random_decoder(), 2)
    ids, lengths = random_batch()
    state = classifier.tail_state()
    with torch.no_grad():
        before = classifier(ids, lengths)
        for parameter in classifier.trainable_parameters():
            parameter.mul_(1.5)
        classifier.load_tail_state(state)
        torch.testing.assert_close(classifier(ids, lengths), before, rtol=0, atol=0)


def test_more_trainable_blocks_than_kept_is_refused() -> None:
    with pytest.raises(ConfigError, match="--trainable-blocks 5 must be from 0 to the depth 4"):
        SequenceClassifier(random_decoder(), 2, trainable_blocks=5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_probe_sees_mean_states_and_the_last_one(dtype: torch.dtype) -> None:
    decoder = random_decoder()
    classifier = SequenceClassifier(decoder, 3, summary_depths=(1, 3))
    classifier.set_prefix_precision(str(dtype).removeprefix("torch."))
    ids, lengths = random_batch()
    with torch.no_grad():
        activations = classifier.prefix(ids, lengths)
        assert activations.dtype == dtype
        for i, length in enumerate(lengths.tolist()):
            x = decoder.embed(ids[i : i + 1, :length])
            expected = [decoder.run(x, 0, depth)[0].double().mean(0) for depth in (1, 3)]
            expected.append(decoder.run(x, 0, 3)[0, -1].double())
            seen = classifier.summary(activations, lengths + classifier.summary_rows)
            assert seen.shape == (len(lengths), classifier.probed)
            torch.testing.assert_close(
                seen[i].double(),
                torch.cat(expected),
                rtol=1e-4 if dtype == torch.float32 else 0.05,
                atol=1e-4 if dtype == torch.float32 else 0.05,
            )


def test_two_rows_of_16_bits_hold_what_one_would_lose() -> None:
    mean = 100 + torch.rand(50, 20)
    first, second = split_rounding(mean, torch.bfloat16)
    assert (first.float() - mean).abs().max() > 0.1
    assert (first.float() + second.float() - mean).abs().max() < 2e-3


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_alone_stands_on_the_frozen_blocks(family: str) -> None:
    classifier = SequenceClassifier(random_decoder(family), 3, trainable_blocks=0)
    ids, lengths = random_batch()
    with torch.no_grad():
        torch.testing.assert_close(
            classifier(ids, lengths), whole_decoder(classifier, ids, lengths), rtol=1e-5, atol=1e-5
        )
    assert {n.split(".")[0] for n, p in classifier.named_parameters() if p.requires_grad} == {
        "decoder",
        "head",
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_adapters_change_nothing_at_first_and_stay_when_merged(family: str) -> None:
    classifier = SequenceClassifier(random_decoder(family), 3, trainable_blocks=4)
    ids, lengths = random_batch()
    names = set(classifier.state_dict())
    with torch.no_grad():
        plain = classifier(ids, lengths)
        classifier.add_adapters(2)
        torch.testing.assert_close(classifier(ids, lengths), plain)
        frozen = [n for n, p in classifier.named_parameters() if not p.requires_grad]
        assert any("blocks.0.attn.qkv" in name for name in frozen)
        assert not any("blocks.3." in name for name in frozen)
        for name, parameter in classifier.named_parameters():
            if name.endswith(".b"):
                parameter.add_(0.1 * torch.randn_like(parameter))
        changed = classifier(ids, lengths)
        assert not torch.allclose(changed, plain)
        classifier.merge_adapters()
        torch.testing.assert_close(classifier(ids, lengths), changed)
    assert set(classifier.state_dict()) == names


def test_all_trains_the_embeddings_too() -> None:
    classifier = SequenceClassifier(random_decoder(), 2, trainable_blocks=4, train_embeddings=True)
    classifier.set_prefix_precision("bfloat16")
    ids, lengths = random_batch()
    classifier(ids, lengths).sum().backward()
    for name, parameter in classifier.named_parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None, name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("pooling", ["last", "mean"])
def test_a_whole_decoder_in_bfloat16_learns_as_in_float32(family: str, pooling: str) -> None:
    decoder = random_decoder(family)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.mul_(0.2)  # less chaotic
    classifier = SequenceClassifier(
        decoder, 3, trainable_blocks=4, pooling=pooling, train_embeddings=True
    )
    ids, lengths = random_batch()
    gradients, said = [], []
    for precision in ("float32", "bfloat16"):
        classifier.prefix_precision = precision
        classifier.zero_grad()
        logits = classifier(ids, lengths)
        torch.nn.functional.cross_entropy(logits, torch.arange(7) % 3).backward()
        grads = [p.grad for p in classifier.trainable_parameters()]
        assert all(grad is None or grad.dtype == torch.float32 for grad in grads)
        gradients.append(torch.cat([grad.flatten() for grad in grads if grad is not None]))
        said.append(logits.detach())
        with torch.no_grad():  # predictions are in float32 either way
            torch.testing.assert_close(
                classifier(ids, lengths), whole_decoder(classifier, ids, lengths)
            )
    assert not torch.equal(*said)
    torch.testing.assert_close(*said, rtol=0.05, atol=0.02 * float(said[0].abs().max()))
    assert torch.cosine_similarity(*gradients, dim=0) > 0.99


def test_a_trained_block_above_frozen_ones_stays_in_float32() -> None:
    classifier = SequenceClassifier(random_decoder(), 3, trainable_blocks=2)
    ids, lengths = random_batch()
    plain = classifier(ids, lengths)
    classifier.prefix_precision = "bfloat16"
    assert torch.equal(classifier(ids, lengths), plain)
