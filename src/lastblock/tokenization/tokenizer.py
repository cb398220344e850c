"""Tokenizer: texts to token ids, exactly as the pretrained decoder was taught.

A text is text: markers such as ``<|endoftext|>`` inside a message are spelled out like any other
characters, never turned into the token of that name. Nothing is cut or padded here; a
beginning-of-text token is put first where the decoder's own tokenizer does so. Knows no model;
imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from tokenizers import Tokenizer as Backend

from lastblock.errors import DataError, WeightsError
from lastblock.tokenization.batching import Frame, TokenIds

Item = TypeVar("Item")
FILE = "tokenizer.json"
GGUF_FILE = "gguf_tokenizer.json"
END_OF_TEXT = "<|endoftext|>"
_ENDS = (END_OF_TEXT, "<|end_of_text|>", "<eos>", "</s>")

# GGUF's types of tokens that are no piece of text: a marker; one that is matched before merging.
_CONTROL, _USER_DEFINED = 3, 4

# What cuts a text into the pieces that byte-level merges work on, by GGUF's name for it. As in
# llama.cpp's src/llama-vocab.cpp and the tokenizer.json of the models themselves.
_LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2_SPLIT = _LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}")

_THREADS = "TOKENIZERS_PARALLELISM"
# Texts that the library is given at once: of each token it keeps far more than the id.
_AT_ONCE = 4096


class _ForkWithoutThreads:
    """Tell the library, while a process forks, that the child has no threads.

    Its threads do not live on in a child, which would wait for them for ever; left to itself it
    notices, and warns. What the user has set stands.
    """

    ours = False

    @classmethod
    def before(cls) -> None:
        cls.ours = _THREADS not in os.environ
        os.environ.setdefault(_THREADS, "false")

    @classmethod
    def after_in_parent(cls) -> None:
        if cls.ours:
            os.environ.pop(_THREADS, None)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_ForkWithoutThreads.before, after_in_parent=_ForkWithoutThreads.after_in_parent
    )


def _split(pattern: str) -> list[Any]:
    return [
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]


_GPT2_SPLIT = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
_PRE_TOKENIZERS: dict[str, list[Any]] = {
    "gpt-2": [_GPT2_SPLIT],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), _GPT2_SPLIT],
    "llama-bpe": _split(_LLAMA3_SPLIT),
    "qwen2": _split(_QWEN2_SPLIT),
}


class Tokenizer:
    """A `tokenizers` tokenizer that cuts and pads nothing, and the id of its end-of-text token."""

    def __init__(self, backend: Backend, end_of_text: int) -> None:
        backend.no_padding()
        backend.no_truncation()
        backend.encode_special_tokens = True  # not saved with the file, so set it each time
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
            raise WeightsError(
                f"{path}: cannot be read as a tokenizer ({error}); fetch it again"
            ) from None
        return cls(backend, _end_of_text(backend, path))

    @classmethod
    def from_pretrained(cls, folder: Path) -> Tokenizer:
        """The tokenizer of a pretrained decoder's folder.

        Read from tokenizer.json, or GGUF's facts, or GPT-2's vocab.json and merges.txt.

        Raises:
            WeightsError: its files are missing, damaged, or of a kind that cannot be read exactly.
        """
        if (folder / FILE).is_file():
            return cls.from_file(folder / FILE)
        if (folder / GGUF_FILE).is_file():
            path = folder / GGUF_FILE
            try:
                backend = _from_gguf(_read_json(path), path)
            except WeightsError:
                raise
            except Exception as damaged:  # the library raises bare Exception
                raise WeightsError(
                    f"{path}: the GGUF file's tokenizer is damaged ({damaged!r}); fetch it again"
                ) from None
        elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
            path = folder / "vocab.json"
            backend = _from_gpt2_files(folder)
        else:
            raise WeightsError(
                f"{folder}: has no tokenizer; wanted is tokenizer.json, or vocab.json and "
                "merges.txt of GPT-2 (transformers' AutoTokenizer writes a tokenizer.json)"
            )
        return cls(backend, _end_of_text(backend, path))

    @property
    def vocab_size(self) -> int:
        """Tokens there are; a decoder's ``vocab_size`` may be rounded up from it."""
        return int(self._backend.get_vocab_size())

    def encode_batch(self, texts: Sequence[str]) -> list[TokenIds]:
        """Token ids of each text, int32, (its number of tokens,).

        Raises:
            DataError: a text is not a string, or holds half of a surrogate pair.
        """
        found = list[TokenIds]()
        for part in _parts(list(texts)):
            try:
                encoded = self._backend.encode_batch_fast(part)
            except (TypeError, UnicodeEncodeError):
                raise DataError(_first_unusable(texts)) from None
            found += [np.array(e.ids, dtype=np.int32) for e in encoded]
        return found

    def decode_batch(self, sequences: Sequence[TokenIds]) -> list[str]:
        """Texts of token ids, without the tokens that mark beginnings and ends."""
        found = list[str]()
        for part in _parts(sequences):
            found += self._backend.decode_batch([ids.tolist() for ids in part])
        return found

    def encode_with_spans(self, text: str) -> tuple[TokenIds, list[tuple[int, int]]]:
        """Token ids of one text, and where in it each stands: (start, end), in characters.

        A token that stands for nothing in the text (beginning of text) has a place of no width;
        tokens that are each a part of one character have the same place.

        Raises:
            DataError: as in ``encode_batch``.
        """
        try:
            encoded = self._backend.encode(text)
        except (TypeError, UnicodeEncodeError):
            raise DataError(_first_unusable([text])) from None
        return np.array(encoded.ids, dtype=np.int32), list(encoded.offsets)

    def frame(self, prompt: str) -> Frame:
        """The token ids around a text in ``prompt``, where it stands for ``{text}``."""
        before, after = prompt.split("{text}")
        start, *parts = self.encode_batch(["", before, after])
        if not before and not after:
            parts = [start[:0], start[:0]]
        return Frame(self.end_of_text, start, parts[0], parts[1][len(start) :])

    def save(self, path: Path) -> None:
        """Write ``tokenizer.json``."""
        self._backend.save(str(path))

    def fingerprint(self) -> str:
        """SHA-256 of everything that decides which ids a text gets, in hexadecimal."""
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()


def _end_of_text(backend: Backend, path: Path) -> int:
    for token in _ENDS:
        number = backend.token_to_id(token)
        if number is not None:
            return int(number)
    raise WeightsError(f"{path}: has no end-of-text token; known are {', '.join(_ENDS)}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(value, dict):
        raise WeightsError(f"{path}: is not a JSON object; fetch it again")
    return value


def _from_gpt2_files(folder: Path) -> Backend:
    """GPT-2's tokenizer as it was released.

    Other families have the same two files, but cut a text into pieces in ways these do not tell.
    """
    family = _read_json(folder / "config.json").get("model_type")
    if family != "gpt2":
        raise WeightsError(
            f"{folder}: vocab.json and merges.txt do not tell how {family} cuts a text into "
            "pieces; wanted is its tokenizer.json"
        )
    try:
        model = models.BPE.from_file(str(folder / "vocab.json"), str(folder / "merges.txt"))
    except Exception as error:  # the library raises bare Exception
        raise WeightsError(
            f"{folder}: vocab.json and merges.txt cannot be read ({error}); fetch them again"
        ) from None
    backend = Backend(model)
    backend.pre_tokenizer = _GPT2_SPLIT
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return backend


def _from_gguf(facts: Mapping[str, Any], path: Path) -> Backend:
    """A tokenizer from GGUF metadata.

    Byte-level BPE (Sennrich et al. 2016, over bytes as in GPT-2), or SentencePiece's BPE over
    characters (Kudo & Richardson 2018).
    """
    kind, pre, tokens = facts.get("model"), facts.get("pre"), facts["tokens"]
    if kind == "gpt2" and pre in _PRE_TOKENIZERS:
        backend = _byte_level(facts, tokens)
    elif kind == "llama" and not _normalises(facts):
        gemma = facts.get("architecture") == "gemma3"
        if gemma:  # llama.cpp writes runs of spaces plain
            tokens = ["▁" * len(token) if not token.strip(" ") else token for token in tokens]
        backend = _sentencepiece(facts, tokens, gemma)
    else:
        raise WeightsError(
            f"{path}: tokenizer {kind!r} with pre-tokenizer {pre!r} cannot be read exactly; known: "
            f"'gpt2' with {', '.join(map(repr, _PRE_TOKENIZERS))}, 'llama' without normalisation"
        )
    if len(set(tokens)) != len(tokens):
        raise WeightsError(f"{path}: the tokenizer has a token twice; fetch the file again")
    _add_markers(backend, facts["tokens"], set(tokens), facts.get("token_type") or [])
    _add_ends(backend, facts, tokens)
    return backend


def _byte_level(facts: Mapping[str, Any], tokens: Sequence[str]) -> Backend:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = [_pair(merge) for merge in facts["merges"]]
    pre = facts["pre"]
    # Llama 3 takes a word that is a token whole, whether or not merges lead to it.
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe")
    backend = Backend(model)
    if pre == "qwen2":
        backend.normalizer = normalizers.NFC()
    steps = _PRE_TOKENIZERS[pre]
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    backend.decoder = decoders.ByteLevel()
    return backend


def _pair(merge: str) -> tuple[str, str]:
    left, right = merge.split(" ")
    return left, right


def _normalises(facts: Mapping[str, Any]) -> bool:
    return bool(facts.get("precompiled_charsmap") or facts.get("remove_extra_whitespaces"))


def _sentencepiece(facts: Mapping[str, Any], tokens: Sequence[str], gemma: bool) -> Backend:
    vocabulary = {token: i for i, token in enumerate(tokens)}
    if facts.get("merges"):
        merges = [_pair(merge) for merge in facts["merges"]]
    else:
        # Gemma's merges are in the order of its tokens, which its scores do not follow.
        best = [-i for i in range(len(tokens))] if gemma else facts["scores"]
        merges = _merges_from_ranks(vocabulary, best)
    unknown = tokens[facts.get("unknown_token_id", 0)]
    backend = Backend(
        models.BPE(
            vocab=vocabulary, merges=merges, unk_token=unknown, fuse_unk=True, byte_fallback=True
        )
    )
    spaces = normalizers.Replace(" ", "▁")
    prefix = facts.get("add_space_prefix", True)
    backend.normalizer = (
        normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    )
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
        + ([decoders.Strip(" ", 1, 0)] if prefix else [])
    )
    return backend


def _merges_from_ranks(
    vocabulary: Mapping[str, int], best: Sequence[float]
) -> list[tuple[str, str]]:
    """SentencePiece joins what makes the best token: each pair that makes one, best first."""
    found = []
    for token, i in vocabulary.items():
        pairs = [(token[:cut], token[cut:]) for cut in range(1, len(token))]
        known = [(a, b) for a, b in pairs if a in vocabulary and b in vocabulary]
        known.sort(key=lambda pair: (vocabulary[pair[0]], vocabulary[pair[1]]))
        found += [(best[i], len(a), len(b), a, b) for a, b in known]
    found.sort(key=lambda merge: merge[:3], reverse=True)
    return [(a, b) for *_, a, b in found]


def _add_markers(
    backend: Backend, spelled: Sequence[str], vocabulary: set[str], types: Sequence[int]
) -> None:
    """Mark the tokens that are matched before merging: never found in a text, or always."""
    for kind in (_CONTROL, _USER_DEFINED):
        special = kind == _CONTROL
        added = [
            AddedToken(token, special=special, normalized=False)
            for token, its in zip(spelled, types, strict=False)
            if its == kind and token in vocabulary
        ]
        (backend.add_special_tokens if special else backend.add_tokens)(added)


def _add_ends(backend: Backend, facts: Mapping[str, Any], tokens: Sequence[str]) -> None:
    """Put a token before every text, or after it, where the model was taught with it."""
    taught = facts["model"] == "llama" or facts.get("pre") == "llama-bpe"
    template, used = ["$A"], []
    if facts.get("add_bos_token", taught):
        used.append(facts["bos_token_id"])
        template.insert(0, tokens[used[-1]])
    if facts.get("add_eos_token", False):
        used.append(facts["eos_token_id"])
        template.append(tokens[used[-1]])
    if used:
        backend.post_processor = processors.TemplateProcessing(
            single=template, special_tokens=[(tokens[i], i) for i in used]
        )


def _parts(of: Sequence[Item]) -> Iterator[Sequence[Item]]:
    return (of[i : i + _AT_ONCE] for i in range(0, len(of), _AT_ONCE))


def _first_unusable(texts: Sequence[str]) -> str:
    for i, text in enumerate(texts):
        if not isinstance(text, str):
            return f"text {i} is of type {type(text).__name__}; texts must be strings"
        try:
            text.encode()
        except UnicodeEncodeError as error:
            return f"text {i}: character {error.start} is half of a surrogate pair; remove it"
    return "a text cannot be tokenized"
