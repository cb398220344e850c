"""Tiny decoders with random weights, made by transformers, to compare ours with."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

_LLAMA_LIKE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SMALL: dict[str, dict[str, Any]] = {
    "gpt2": {"vocab_size": 61, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64},
    "llama": _LLAMA_LIKE,
    "mistral": _LLAMA_LIKE | {"sliding_window": 5},
    "qwen2": _LLAMA_LIKE,
    "qwen3": _LLAMA_LIKE | {"head_dim": 16},
    "gemma3_text": _LLAMA_LIKE
    | {
        "head_dim": 16,
        "sliding_window": 5,
        "query_pre_attn_scalar": 16,
        "num_hidden_layers": 7,
    },
}


def _reference(family: str, **changes: Any) -> Any:
    """A language model of transformers, in float32, every parameter random."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(family, **(SMALL[family] | changes))
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.2)
            if parameter.ndim == 1 and name.endswith("weight") and family != "gemma3_text":
                parameter += 1  # norms; Gemma's add the one themselves
    return model


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Threads cost more than these sizes take, and very much more on a machine that is busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def reference() -> Callable[..., Any]:
    return _reference


@pytest.fixture(scope="session")
def hidden_states() -> Callable[..., list[torch.Tensor]]:
    """Of either kind of decoder: after the embedding, after every block, after the final norm."""

    def run(model: Any, ids: torch.Tensor, mask: torch.Tensor | None = None) -> list[torch.Tensor]:
        with torch.inference_mode():
            if hasattr(model, "base_model"):
                output = model.base_model(ids, attention_mask=mask, output_hidden_states=True)
                return list(output.hidden_states)  # the last one is after the final norm
            states = [model.embed(ids)]
            for i in range(model.depth):
                states.append(model.run(states[-1], i, i + 1))
            return [*states[:-1], model.norm(states[-1])]

    return run


@pytest.fixture(scope="session")
def relative_error() -> Callable[[torch.Tensor, torch.Tensor], float]:
    def error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
        ours, theirs = ours.double(), theirs.double()
        return float((ours - theirs).norm() / theirs.norm())

    return error
