"""Tokenizer: texts to token ids, exactly as the pretrained decoder was taught.

A text is text: markers such as ``<|endoftext|>`` inside a message are spelled out like any other
characters, never turned into the token of that name. Nothing is added, cut or padded here. Knows
no model; imports no torch.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from lastblock.errors import DataError, WeightsError
from lastblock.tokenization.batching import TokenIds

END_OF_TEXT = "<|endoftext|>"

# GGUF's type of a token that is a marker and not a piece of text.
_CONTROL = 3

# What GGUF calls a byte-level BPE's pre-tokenizer -> the pieces a text is cut into before merges.
_PRE_TOKENIZERS: dict[str, list[Any]] = {
    "gpt-2": [],
    "smollm": [pre_tokenizers.Digits(individual_digits=True)],
}


class Tokenizer:
    """A `tokenizers` tokenizer that adds nothing, and the id of its end-of-text token."""

    def __init__(self, backend: Backend, end_of_text: int) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True
        self._backend = backend
        self.end_of_text = end_of_text

    @classmethod
    def from_file(cls, path: Path) -> Tokenizer:
        """Read a ``tokenizer.json``.

        Raises:
            WeightsError: the file is missing, damaged or has no end-of-text token.
        """
        try:
            backend = Backend.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise WeightsError(f"{path}: cannot be read as a tokenizer ({error})") from None
        return cls(backend, _end_of_text(backend, path))

    @classmethod
    def from_pretrained(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a pretrained decoder's folder.

        Raises:
            WeightsError: its files are missing, damaged, or of a kind that cannot be read exactly.
        """
        if (folder / "tokenizer.json").is_file():
            return cls.from_file(folder / "tokenizer.json")
        path = folder / "gguf_tokenizer.json"
        try:
            facts = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise WeightsError(f"{path}: cannot be read as JSON ({error})") from None
        backend = _from_gguf(facts, path)
        return cls(backend, _end_of_text(backend, path))

    @property
    def vocab_size(self) -> int:
        return int(self._backend.get_vocab_size())

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, int32, (its number of tokens,).

        Raises:
            DataError: a text is not a string, or holds half of a surrogate pair.
        """
        try:
            encoded = self._backend.encode_batch_fast(list(texts), add_special_tokens=False)
        except (TypeError, UnicodeEncodeError):
            raise DataError(_first_unusable(texts)) from None
        return [np.array(e.ids, dtype=np.int32) for e in encoded]

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._backend.save(str(path))

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets, in hexadecimal."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()


def _end_of_text(backend: Backend, path: Path) -> int:
    known = (END_OF_TEXT, "<|end_of_text|>", "<eos>", "</s>")
    for token in known:
        number = backend.token_to_id(token)
        if number is not None:
            return int(number)
    raise WeightsError(f"{path}: has no end-of-text token; known: {', '.join(known)}")


def _from_gguf(facts: dict[str, Any], path: Path) -> Backend:
    """A byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2) from GGUF metadata."""
    kind, pre = facts.get("model"), facts.get("pre")
    if kind != "gpt2" or pre not in _PRE_TOKENIZERS:
        raise WeightsError(
            f"{path}: tokenizer {kind!r} with pre-tokenizer {pre!r} cannot be read exactly; "
            f"known: 'gpt2' with {', '.join(map(repr, _PRE_TOKENIZERS))}"
        )
    tokens, types = facts["tokens"], facts["token_type"]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [tuple(merge.split(" ", 1)) for merge in facts["merges"]]
    backend = Backend(models.BPE(vocab=vocabulary, merges=merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*_PRE_TOKENIZERS[pre], byte_level])
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(
        [AddedToken(t, special=True) for t, k in zip(tokens, types, strict=True) if k == _CONTROL]
    )
    return backend


def _first_unusable(texts: Sequence[str]) -> str:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            return f"text {i} is of type {type(text).__name__}; texts must be strings"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"text {i}: character {error.start} is half of a surrogate pair; remove it"
    return "a text cannot be tokenized"
