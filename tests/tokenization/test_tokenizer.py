"""Token ids equal transformers' tokenizers, which are built from the same trained pieces."""

import json
import subprocess
import sys

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers, trainers

from lastblock.errors import DataError, WeightsError
from lastblock.tokenization.tokenizer import Tokenizer

END = "<|endoftext|>"
WORDS = [
    "You are a winner! you have been specially selected to receive $1000 cash or a $2000 award.",
    "Hey, just wanted to check if we're still on for dinner tonight? Let me know! 12345 o'clock",
    "Ünïcödé straße 東京 привет مرحبا 👍🏽 don't DON'T I'll we've It'S",
    "two  spaces   three\ttabs\n\nlines\r\n",
]
NASTY = [
    "",
    " ",
    "\n",
    " " * 10_000,
    "a" * 2_000,
    "\x00\x01\x7f\x1b[31m",
    "e\u0301 \u0065\u0301\u0323 \u1e69 \ufb01",  # combining marks and what NFC composes
    "👩‍👩‍👧‍👦👍🏽🇩🇪",
    "\u200b\u200e\u202eabc\ufeff\u00a0x",
    "\U0010ffff\ufffd\ue000",
    "1234567 ١٢٣ Ⅷ ½ 1,000.50",
    f"a {END} b <|im_start|>user <s></s><bos><eos><unk><pad>",
    "\r\n\r\n  \t x",
    "<0x41> ▁ Ġ Ċ",
    "don't DON'T we'Ve ''' \u2019s",
]


def _texts(data=None):
    generator = np.random.default_rng(1)
    random = ["".join(map(chr, generator.integers(1, 0xD7FF, 30))) for _ in range(50)]
    return [*WORDS, *NASTY, *random, *(data or [])]


@pytest.fixture(scope="module")
def pieces():
    """Vocabulary and merges of a byte-level BPE trained on a few lines."""
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[END, "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(WORDS * 20, trainer)
    model = json.loads(backend.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


@pytest.fixture(scope="module")
def sentencepiece_pieces():
    """Vocabulary and scores like those of Llama 2: bytes, then what merging makes, best first."""
    backend = Backend(models.BPE(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    trainer = trainers.BpeTrainer(vocab_size=500, show_progress=False)
    backend.train_from_iterator(WORDS * 20, trainer)
    model = json.loads(backend.to_str())["model"]
    merged = ["".join(merge) for merge in model["merges"]]
    letters = [token for token in model["vocab"] if len(token) == 1]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *merged, *letters]
    types = [2, 3, 3] + [6] * 256 + [1] * (len(tokens) - 259)
    return tokens, [0.0] * 259 + [-float(i) for i in range(len(tokens) - 259)], types


def _expect_equal(ours, reference, texts):
    theirs = reference(texts)["input_ids"]
    mine = ours.encode_batch(texts)
    for text, a, b in zip(texts, mine, theirs, strict=True):
        assert a.dtype == np.int32
        assert a.tolist() == b, repr(text)


def _gguf(folder, **facts):
    (folder / "gguf_tokenizer.json").write_text(json.dumps(facts))
    return Tokenizer.from_pretrained(folder)


def _byte_level_facts(pieces, pre, **more):
    vocabulary, merges = pieces
    tokens = sorted(vocabulary, key=vocabulary.get)
    types = [3 if token.startswith("<|") else 1 for token in tokens]
    return {
        "model": "gpt2",
        "pre": pre,
        "tokens": tokens,
        "token_type": types,
        "merges": [" ".join(merge) for merge in merges],
        **more,
    }


@pytest.mark.parametrize("kind", ["GPT2Tokenizer", "Qwen2Tokenizer"])
def test_tokenizer_json_equals_transformers(kind, pieces, tmp_path):
    import transformers

    vocabulary, merges = pieces
    reference = getattr(transformers, kind)(
        vocab=vocabulary, merges=merges, split_special_tokens=True
    )
    reference.save_pretrained(tmp_path)
    _expect_equal(Tokenizer.from_pretrained(tmp_path), reference, _texts())


def test_tokenizer_json_with_beginning_of_text_equals_transformers(sentencepiece_pieces, tmp_path):
    from transformers import GemmaTokenizer

    tokens = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *sentencepiece_pieces[0][3:]]
    vocabulary = {token: i for i, token in enumerate(tokens)}
    reference = GemmaTokenizer(
        vocab=vocabulary, merges=[], add_bos_token=True, split_special_tokens=True
    )
    reference.save_pretrained(tmp_path)
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.encode_batch(["hi"])[0][0] == 2
    _expect_equal(ours, reference, _texts())


def test_gpt2_files_equal_transformers(pieces, tmp_path):
    from transformers import GPT2Tokenizer

    vocabulary, merges = pieces
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(merge) for merge in merges)]
    (tmp_path / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    reference = GPT2Tokenizer(vocab=vocabulary, merges=merges, split_special_tokens=True)
    ours = Tokenizer.from_pretrained(tmp_path)
    assert ours.end_of_text == vocabulary[END]
    _expect_equal(ours, reference, _texts())
    (tmp_path / "config.json").write_text('{"model_type": "qwen2"}')
    with pytest.raises(WeightsError, match=r"qwen2 cuts .* tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("pre", ["gpt-2", "smollm", "qwen2", "llama-bpe"])
def test_gguf_byte_level_equals_transformers(pre, pieces, tmp_path):
    """The pre-tokenizers as the models' own tokenizer.json files have them."""
    from tokenizers import Regex
    from transformers import GPT2Tokenizer, Qwen2Tokenizer

    vocabulary, merges = pieces
    kind = Qwen2Tokenizer if pre in ("qwen2", "llama-bpe") else GPT2Tokenizer
    reference = kind(vocab=vocabulary, merges=merges, split_special_tokens=True)
    backend = reference.backend_tokenizer
    if pre == "smollm":
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), backend.pre_tokenizer]
        )
    if pre == "llama-bpe":
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+"
            r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        backend.normalizer = None
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(pattern), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        backend.model.ignore_merges = True
    ours = _gguf(tmp_path, **_byte_level_facts(pieces, pre, add_bos_token=False))
    _expect_equal(ours, reference, _texts())


def test_gguf_llama3_begins_with_its_first_token(pieces, tmp_path):
    ours = _gguf(tmp_path, **_byte_level_facts(pieces, "llama-bpe", bos_token_id=1))
    assert ours.encode_batch(["hi", ""])[0][0] == 1
    assert ours.encode_batch(["hi", ""])[1].tolist() == [1]


def test_gguf_sentencepiece_equals_transformers(sentencepiece_pieces, tmp_path):
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    tokens, scores, types = sentencepiece_pieces
    vocabulary = {token: i for i, token in enumerate(tokens)}
    reference = LlamaTokenizer(
        vocab=vocabulary,
        merges=generate_merges(vocabulary, dict(zip(tokens, scores, strict=True))),
        add_bos_token=True,
        split_special_tokens=True,
    )
    facts = {"model": "llama", "pre": "default", "tokens": tokens, "scores": scores}
    ours = _gguf(tmp_path, **facts, token_type=types, bos_token_id=1, unknown_token_id=0)
    # SentencePiece puts a space before every text; transformers' class not before a space.
    texts = [text for text in _texts() if text and not text.startswith((" ", "▁"))]
    _expect_equal(ours, reference, texts)
    (space,) = ours.encode_batch([" "])
    assert "".join(tokens[i] for i in space) == "<s>▁▁"


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"model": "gpt2", "pre": "dbrx", "tokens": []}, "'dbrx' cannot be read exactly"),
        ({"model": "t5", "tokens": []}, "'t5' .* cannot be read exactly"),
        (
            {"model": "llama", "tokens": [], "remove_extra_whitespaces": True},
            "cannot be read exactly",
        ),
        ({"model": "gpt2", "pre": "gpt-2", "tokens": ["a", "a"], "merges": []}, "token twice"),
        ({"model": "gpt2", "pre": "gpt-2", "tokens": ["a"], "merges": ["b c"]}, "damaged"),
        ({"model": "gpt2", "pre": "gpt-2", "tokens": ["a"], "merges": ["b"]}, "damaged"),
        ({"model": "gpt2", "pre": "gpt-2", "tokens": ["a"], "merges": []}, "no end-of-text token"),
        ({"model": "gpt2", "pre": "gpt-2"}, "damaged"),
    ],
)
def test_gguf_that_cannot_be_read_exactly_is_refused(facts, message, tmp_path):
    with pytest.raises(WeightsError, match=message) as raised:
        _gguf(tmp_path, **facts)
    assert "gguf_tokenizer.json" in str(raised.value)


def test_markers_in_a_text_stay_text_after_saving(pieces, tmp_path):
    ours = _gguf(tmp_path, **_byte_level_facts(pieces, "gpt-2"))
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for tokenizer in (ours, again):
        (ids,) = tokenizer.encode_batch([f"a {END} <|im_start|>"])
        assert not set(ids.tolist()) & {0, 1, 2}
        assert tokenizer.end_of_text == 0
    assert again.fingerprint() == ours.fingerprint()
    texts = _texts()
    for a, b in zip(ours.encode_batch(texts), again.encode_batch(texts), strict=True):
        assert a.tolist() == b.tolist()


def test_nothing_is_cut_or_padded_whatever_the_file_says(pieces, tmp_path):
    ours = _gguf(tmp_path, **_byte_level_facts(pieces, "gpt-2"))
    ours._backend.enable_truncation(3)
    ours._backend.enable_padding(length=9)
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert [len(ids) for ids in again.encode_batch(["", "zzzzzzzzzzzz"])] == [0, 12]


def test_unusable_texts_are_named(pieces, tmp_path):
    ours = _gguf(tmp_path, **_byte_level_facts(pieces, "gpt-2"))
    with pytest.raises(DataError, match="text 1 is of type int"):
        ours.encode_batch(["a", 1])
    with pytest.raises(DataError, match="text 2: character 1 is half of a surrogate"):
        ours.encode_batch(["a", "b", "x\ud83d"])
    assert ours.encode_batch([]) == []


@pytest.mark.parametrize("content", [b"", b"{}", b"[1, 2", b"\xff\xfe"])
def test_a_damaged_tokenizer_json_is_named(content, tmp_path):
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(WeightsError, match=r"tokenizer\.json"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_folder_without_a_tokenizer(tmp_path):
    with pytest.raises(WeightsError, match="has no tokenizer"):
        Tokenizer.from_pretrained(tmp_path)


def test_no_warning_when_a_process_forks(pieces, tmp_path):
    _gguf(tmp_path, **_byte_level_facts(pieces, "gpt-2")).save(tmp_path / "tokenizer.json")
    code = f"""
import os, pathlib
from lastblock.tokenization.tokenizer import Tokenizer
tokenizer = Tokenizer.from_file(pathlib.Path({str(tmp_path / "tokenizer.json")!r}))
tokenizer.encode_batch(["a b c"] * 1000)
if os.fork() == 0:
    tokenizer.encode_batch(["a b c"] * 10)
    os._exit(0)
os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
