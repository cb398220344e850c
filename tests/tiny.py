"""Tiny random decoders, texts and settings, for tests that need no real weights."""

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor, nn

from lastblock.classifier import SequenceClassifier
from lastblock.config import Settings
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.runtime import Silent
from lastblock.training import Encoded

LLAMA = {
    "model_type": "llama",
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
}
FAMILIES = {
    "llama": LLAMA,
    "mistral": {**LLAMA, "model_type": "mistral", "sliding_window": 5},
    "qwen2": {**LLAMA, "model_type": "qwen2"},
    "qwen3": {**LLAMA, "model_type": "qwen3", "head_dim": 10},
    "gemma3_text": {
        **LLAMA,
        "model_type": "gemma3_text",
        "head_dim": 12,
        "sliding_window": 6,
        "sliding_window_pattern": 2,
    },
    "gpt2": {
        "model_type": "gpt2",
        "vocab_size": 97,
        "n_embd": 48,
        "n_layer": 4,
        "n_head": 4,
        "n_positions": 128,
    },
}


def random_decoder(family: str = "llama", depth: int | None = None) -> Decoder:
    decoder = Decoder(DecoderConfig.from_dict(FAMILIES[family]), depth)
    for parameter in decoder.parameters():
        nn.init.normal_(parameter, std=0.3)
    return decoder


def random_batch(n: int = 7, longest: int = 23) -> tuple[Tensor, Tensor]:
    lengths = torch.randint(1, longest + 1, (n,))
    lengths[0] = longest
    return torch.randint(0, 97, (n, longest)), lengths


def whole_decoder(classifier: SequenceClassifier, ids: Tensor, lengths: Tensor) -> Tensor:
    """Every block for every token, the head at every token, and only then the choice of one."""
    logits = classifier.head(classifier.decoder(ids))  # (B, T, n_classes)
    if classifier.pooling == "mean":
        return torch.stack([row[:n].mean(0) for row, n in zip(logits, lengths, strict=True)])
    at = lengths - 1 if classifier.pooling == "last" else torch.zeros_like(lengths)
    return logits[torch.arange(len(ids)), at]


SETTINGS = Settings(
    recipe="auto",
    model="tiny",
    seed=1,
    depth=4,
    trainable_blocks=1,
    pooling="last",
    max_length=40,
    dtype="float32",
    epochs=3,
    learning_rate=1e-3,
    batch_size=4,
    weight_decay=0.1,
    warmup=0.1,
    decay="cosine",
    drop_last=False,
    eval_steps=2,
    eval_texts=8,
    keep_best=True,
)


def random_part(n: int = 8, padded: int | None = None) -> Encoded:
    """Texts of 1 to 40 tokens; with ``padded`` each filled to that length, as in the book."""
    rng = np.random.default_rng(torch.randint(0, 2**31, ()).item())
    sequences = [rng.integers(0, 97, rng.integers(1, 41), dtype=np.int32) for _ in range(n)]
    if padded is not None:
        sequences = [np.resize(np.append(ids, 5), padded).astype(np.int32) for ids in sequences]
    return Encoded(sequences, rng.integers(0, 3, n))


def write_pretrained(folder: Path) -> Path:
    """A pretrained decoder's folder, of random weights, whose tokens are bytes."""
    folder.mkdir(parents=True)
    config = {**LLAMA, "vocab_size": 300}
    (folder / "config.json").write_text(json.dumps(config))
    decoder = Decoder(DecoderConfig.from_dict(config))
    generator = torch.Generator().manual_seed(7)
    for parameter in decoder.parameters():
        parameter.data.normal_(std=0.3, generator=generator)
    for name, parameter in decoder.named_parameters():
        if "norm" in name:
            parameter.data.add_(1.0)
    save_file(decoder.state_dict(), folder / "model.safetensors", {"layout": "lastblock"})
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*alphabet, "<|endoftext|>"])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def messages(n: int = 60, seed: int = 0) -> tuple[list[str], list[str]]:
    """Texts that a tiny decoder can tell apart, two classes of equal size."""
    rng = np.random.default_rng(seed)
    words = {"ham": ["home", "dinner", "later", "mum"], "spam": ["WIN", "CASH", "CALL", "FREE"]}
    labels = ["ham", "spam"] * (n // 2)
    texts = [
        " ".join(rng.choice(words[label], rng.integers(2, 7))) + f" {i}!"
        for i, label in enumerate(labels)
    ]
    return texts, labels


class Said(Silent):
    """Progress that keeps the sentences."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)
