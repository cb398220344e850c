"""TextModel: how texts become token ids, and token ids probabilities."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from tiny import Said, messages

from lastblock import TextClassifier
from lastblock.activations import ActivationStore
from lastblock.inference import TextModel


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
