"""Our decoder equals transformers', family by family, on random weights and configurations."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lastblock.decoder import layers
from lastblock.decoder.config import FAMILIES
from lastblock.decoder.loading import load_decoder

LENGTHS = (1, 2, 17, 4, 5, 6)  # 5 is the sliding window of the small ones


def _ours(model, depth=None):
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return load_decoder(Path(folder), depth=depth).eval()


@pytest.mark.parametrize(
    ("short", "queries", "kernel"),
    [
        (0, 1, True),
        (0, 1, False),
        (layers.SHORT, layers.QUERIES, False),
        (layers.SHORT, 5, False),
    ],
    ids=["kernel", "fused", "by rows", "by few rows"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_hidden_states_equal_at_every_block_and_length(
    family,
    short,
    queries,
    kernel,
    use_kernels,
    reference,
    hidden_states,
    relative_error,
    monkeypatch,
):
    use_kernels(kernel)
    monkeypatch.setattr(layers, "SHORT", short)  # whichever way attention is computed
    monkeypatch.setattr(layers, "QUERIES", queries)
    model = reference(family)
    ours = _ours(model)
    for length in LENGTHS:
        ids = torch.randint(61, (2, length))
        pairs = zip(hidden_states(ours, ids), hidden_states(model, ids), strict=True)
        for block, (mine, theirs) in enumerate(pairs):
            assert relative_error(mine, theirs) < 1e-5, (length, block)


@pytest.mark.parametrize("family", FAMILIES)
def test_padding_on_the_right_changes_nothing(family, reference, hidden_states, relative_error):
    model = reference(family)
    ours = _ours(model)
    ids = torch.randint(61, (len(LENGTHS), max(LENGTHS)))
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    mine = hidden_states(ours, ids)[-1]
    theirs = hidden_states(model, ids, mask.long())[-1]
    assert relative_error(mine[mask], theirs[mask]) < 1e-5


@pytest.mark.parametrize("family", FAMILIES)
def test_bfloat16_equals_within_a_hundredth(family, reference, hidden_states, relative_error):
    # Two blocks, and weights that keep the attention smooth: with more, transformers' own bfloat16
    # is further than this from its float32.
    model = reference(family, **{"n_layer" if family == "gpt2" else "num_hidden_layers": 2})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name and "wte" not in name:
                parameter *= 0.2
    ours = _ours(model.bfloat16())
    assert next(ours.parameters()).dtype == torch.bfloat16
    ids = torch.randint(61, (2, 17))
    exact = hidden_states(model.float(), ids)[-1]
    assert relative_error(hidden_states(ours, ids)[-1], exact) < 1e-2


# Forked before any of torch's threads are there, each is as a process that has just begun.
NEW_PROCESSES = """
import os, torch
from lastblock.decoder.config import Rope
from lastblock.decoder.layers import rotary_tables

wrong = 0
for _ in range(100):
    child = os.fork()
    if not child:
        cos, sin = rotary_tables(Rope(1e5), 64, 8192)
        angle = torch.outer(torch.arange(8192.0), 1 / 1e5 ** (torch.arange(0, 64, 2.0) / 64))
        angle = torch.cat((angle, angle), 1).double()
        right = torch.allclose(cos.double(), angle.cos(), rtol=0, atol=1e-6)
        os._exit(not (right and torch.allclose(sin.double(), angle.sin(), rtol=0, atol=1e-6)))
    wrong += os.waitpid(child, 0)[1] != 0
print(wrong)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_rotary_tables_are_right_in_every_new_process():
    command = [sys.executable, "-c", NEW_PROCESSES]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip() == "0", done.stderr


@pytest.mark.parametrize("family", FAMILIES)
def test_one_position_of_a_block_equals_the_whole_block_there(family, reference, relative_error):
    ours = _ours(reference(family))
    x = torch.randn(4, 17, ours.config.hidden_size)
    position = torch.tensor([0, 3, 6, 16])
    with torch.inference_mode():
        for i, block in enumerate(ours.blocks):
            whole = block(x, ours.rotary(i, x.dtype, x.shape[1]))[torch.arange(4), position]
            assert (
                relative_error(
                    block.forward_at(x, position, ours.rotary(i, x.dtype, x.shape[1])), whole
                )
                < 1e-5
            )


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [(1,), (9,), (3, 11), (48,), (7, 7)])
def test_linear_and_its_gradients_equal_torchs_in_float64(rows, bias, relative_error):
    x, weight = torch.randn(*rows, 24), torch.randn(20, 24)
    given = [x, weight, *([torch.randn(20)] if bias else [])]
    into = torch.randn(*rows, 20)

    def results(function, dtype):
        leaves = [part.to(dtype).requires_grad_() for part in given]
        y = function(*leaves, *([] if bias else [None]))
        return [y.detach(), *torch.autograd.grad((y * into.to(dtype)).sum(), leaves)]

    exact = results(torch.nn.functional.linear, torch.double)
    for mine, reference in zip(results(layers.linear, torch.float), exact, strict=True):
        assert mine.shape == reference.shape
        assert relative_error(mine, reference) < 1e-5


@st.composite
def _heads(draw):
    kv_heads = draw(st.sampled_from([1, 2, 3]))
    return kv_heads * draw(st.sampled_from([1, 2, 4])), kv_heads


@st.composite
def _configurations(draw, family):
    heads, kv_heads = draw(_heads())
    head_dim = draw(st.sampled_from([2, 4, 8, 16]))
    if family == "gpt2":
        return {
            "n_embd": heads * head_dim,
            "n_head": heads,
            "n_layer": draw(st.integers(1, 3)),
            "n_inner": draw(st.sampled_from([None, 8, 20])),
            "n_positions": 20,
            "layer_norm_epsilon": draw(st.sampled_from([1e-5, 1e-3])),
            "activation_function": draw(st.sampled_from(["gelu_new", "gelu_pytorch_tanh"])),
            "tie_word_embeddings": draw(st.booleans()),
        }
    theta = draw(st.sampled_from([100.0, 10_000.0, 1_000_000.0]))
    scaling = draw(
        st.sampled_from(
            [
                {"rope_type": "default"},
                {"rope_type": "linear", "factor": 2.0},
                {
                    "rope_type": "llama3",
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 16,
                },
            ]
        )
    )
    config = {
        "hidden_size": draw(st.sampled_from([24, 48])),  # what every number of heads divides
        "intermediate_size": draw(st.integers(8, 40)),
        "num_hidden_layers": draw(st.integers(1, 3)),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "rms_norm_eps": draw(st.sampled_from([1e-6, 1e-3])),
        "tie_word_embeddings": draw(st.booleans()),
        "rope_parameters": {"rope_theta": theta, **scaling},
    }
    window = draw(st.integers(1, 18))
    if family in ("llama", "qwen3", "gemma3_text"):
        config["attention_bias"] = draw(st.booleans())
    if family == "llama":
        config["mlp_bias"] = draw(st.booleans())
    if family == "mistral":
        config["sliding_window"] = draw(st.sampled_from([None, window]))
    if family in ("qwen2", "qwen3"):
        config["use_sliding_window"] = draw(st.booleans())
        config["sliding_window"] = window
        config["max_window_layers"] = draw(st.integers(0, 3))
    if family == "gemma3_text":
        config["sliding_window"] = window
        config["num_hidden_layers"] = draw(st.integers(1, 7))
        config["query_pre_attn_scalar"] = draw(st.sampled_from([4, 16]))
        config["rope_parameters"] = {
            "full_attention": {"rope_theta": theta, **scaling},
            "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
        }
    return config


@pytest.mark.parametrize("family", FAMILIES)
def test_random_configurations_equal(family, reference, hidden_states, relative_error):
    @settings(
        max_examples=50,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(changes=_configurations(family), depth=st.integers(1, 7), seed=st.integers(0, 2**31))
    def check(changes, depth, seed):
        torch.manual_seed(seed)
        model = reference(family, **changes)
        ids = torch.randint(61, (2, 17))
        theirs = hidden_states(model, ids)
        depth = min(depth, len(theirs) - 1)
        mine = hidden_states(_ours(model, depth), ids)
        for block in range(depth):
            assert relative_error(mine[block], theirs[block]) < 1e-5
        if depth == len(theirs) - 1:
            assert relative_error(mine[-1], theirs[-1]) < 1e-5

    check()
