"""TextModel: how texts become token ids, and token ids probabilities."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import Said, messages

from lastblock import TextClassifier
from lastblock.activations import ActivationStore, run_tail
from lastblock.inference import TextModel, in_windows
from lastblock.lexicon import Lexicon, count_ngrams
from lastblock.tokenization.batching import Frame


@pytest.fixture(scope="module")
def model(pretrained: Path) -> TextModel:
    texts, labels = messages(20)
    return TextClassifier(str(pretrained), dtype="float32", epochs=1).fit(texts, labels).model_


def with_settings(model: TextModel, **changes: object) -> TextModel:
    settings = dataclasses.replace(model.settings, **changes)
    return dataclasses.replace(model, settings=settings, store=ActivationStore())


def test_texts_are_cut_and_never_empty(model: TextModel) -> None:
    cut = with_settings(model, max_length=5)
    short, long, empty = cut.encode(["ab", "abcdefgh", ""])
    assert (len(short), len(long)) == (2, 5)
    assert empty.tolist() == [model.tokenizer.end_of_text]
    np.testing.assert_array_equal(long, model.encode(["abcdefgh"])[0][:5])


def test_how_many_were_cut_is_said(model: TextModel) -> None:
    said = Said()
    with_settings(model, max_length=5).encode(["ab", "abcdefgh", "abcdef"], said)
    with_settings(model, max_length=8).encode(["abcdefgh"], said)
    assert said.lines == [
        "2 of 3 texts are longer than 5 tokens and were cut there (--max-length, --long-text)"
    ]


def test_padded_texts_are_filled_with_end_of_text(model: TextModel) -> None:
    padded = with_settings(model, pooling="padded", max_length=6)
    assert [len(ids) for ids in padded.encode(["", "ab", "abcdefgh"])] == [6, 6, 6]
    assert padded.encode(["ab"])[0][2:].tolist() == [model.tokenizer.end_of_text] * 4


def test_padded_windows_are_filled_and_their_cost_is_said(model: TextModel) -> None:
    said = Said()
    changes = {"pooling": "padded", "max_length": 6, "long_text": "window", "prompt": "{text}ab"}
    padded = with_settings(model, **changes)
    texts = ["ab", "abcdefghijklm", ""]
    parts, of = in_windows(padded.encode(texts, said), padded.settings, padded.frame)
    after = len(padded.frame.after)
    assert [len(part) for part in parts] == [6 + after] * 5
    assert of.tolist() == [0, 1, 1, 1, 2]
    assert padded.frame.inside(parts[3])[4:].tolist() == [model.tokenizer.end_of_text] * 2
    cost, cut = sum(map(len, parts)), 3 * (6 + after)
    assert f"in windows: {cost} tokens instead of {cut}, " in said.lines[0]


def test_windows_cost_what_the_prompt_adds_to_each(model: TextModel) -> None:
    said = Said()
    asked = with_settings(model, prompt="ab{text}cd", max_length=4, long_text="window")
    parts, _ = in_windows(asked.encode(["abcdefghij", "ab"], said), asked.settings, asked.frame)
    read = sum(len(part) - len(asked.frame.before) for part in parts)
    assert read == 12 + 4 * 2
    assert f"in windows: {read} tokens instead of 10, 2.0 times" in said.lines[0]


def test_no_texts_have_no_probabilities(model: TextModel) -> None:
    assert model.predict_proba([]).shape == (0, 2)


def test_predicting_keeps_nothing(model: TextModel) -> None:
    fresh = with_settings(model)
    fresh.predict_proba(messages(10, seed=4)[0])
    assert len(fresh.store) == 0


def test_windows_are_prepared_as_they_will_be_asked_for(model: TextModel) -> None:
    windowed = with_settings(model, max_length=5, long_text="window")
    sequences = windowed.encode(["abcdefgh", "ab"])
    windowed.prepare(sequences)
    assert len(windowed.store) == 3  # two windows and a short text
    assert windowed.store.tokens_computed == 10
    assert sequences[0] not in windowed.store
    windowed.logits(sequences)
    assert windowed.store.tokens_computed == 10


def test_each_text_stands_in_its_place_in_the_prompt(model: TextModel) -> None:
    """Cut first, then put between the prompt's words: as if the cut text had been written there."""
    asked = with_settings(model, prompt="ab{text}cd", max_length=5)
    bare = with_settings(model)
    wanted = bare.encode(["abefghicd", "abefcd", "abcd"])
    cut, whole, empty = asked.encode(["efghijkl", "ef", ""])
    assert (cut.tolist(), whole.tolist()) == (wanted[0].tolist(), wanted[1].tolist())
    end = model.tokenizer.end_of_text
    assert empty.tolist() == [*wanted[2].tolist()[:2], end, *wanted[2].tolist()[2:]]
    np.testing.assert_allclose(
        asked.logits([cut, whole]), bare.logits(wanted[:2]), rtol=1e-5, atol=1e-6
    )


def test_each_window_stands_in_the_prompt(
    model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    lexicon = Lexicon(2)
    lexicon.learn_idf(count_ngrams(["efghijkl"]))
    torch.nn.init.normal_(lexicon.weight)
    monkeypatch.setattr(model.classifier, "lexicon", lexicon)
    asked = with_settings(model, prompt="ab{text}cd", max_length=4, long_text="window")
    bare = with_settings(model)
    (sequence,) = asked.encode(["efghijkl"])
    parts, of = in_windows([sequence], asked.settings, asked.frame)
    assert of.tolist() == [0] * len(parts)
    assert all(part[:2].tolist() == bare.encode(["ab"])[0].tolist() for part in parts)
    assert all(part[-2:].tolist() == bare.encode(["cd"])[0].tolist() for part in parts)
    decoder_says = run_tail(bare.classifier, parts, ActivationStore()).mean(0)
    windows = model.tokenizer.decode_batch([asked.frame.inside(part) for part in parts])
    assert "".join(dict.fromkeys("".join(windows))) == "efghijkl"  # they overlap; no prompt
    mean = (decoder_says + lexicon.read(windows).mean(0)).numpy()
    np.testing.assert_allclose(asked.logits([sequence])[0], mean, rtol=1e-5, atol=1e-6)


def test_what_the_tokenizer_puts_first_stays_first() -> None:
    start, one = np.array([1], np.int32), np.array([7], np.int32)
    frame = Frame(0, start, np.array([1, 5], np.int32), np.array([6], np.int32))
    assert frame.around(np.array([1, 7], np.int32)).tolist() == [1, 5, 7, 6]
    assert frame.around(one).tolist() == [1, 5, 7, 6]  # a window from the middle of a text
    nothing = np.empty(0, np.int32)
    assert Frame(0, start, nothing, nothing).around(one).tolist() == [7]
