"""TextEmbedder: the states are the decoder's own, and scikit-learn takes them."""

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import get_tags
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted, validate_data
from tiny import messages

from lastblock import TextEmbedder
from lastblock.classifier import SequenceClassifier
from lastblock.decoder import loading
from lastblock.errors import ConfigError, DataError
from lastblock.tokenization.tokenizer import Tokenizer


def tiny(pretrained: Path, **kwargs: Any) -> TextEmbedder:
    return TextEmbedder(str(pretrained), dtype="float32", **kwargs)


@pytest.mark.parametrize("pooling", ["mean", "last", "first"])
@pytest.mark.parametrize("depth", [1, 3])
def test_states_are_those_of_the_whole_decoder(pretrained: Path, pooling: str, depth: int) -> None:
    texts, _ = messages(20)
    found = tiny(pretrained, depth=depth, pooling=pooling).fit_transform(texts)
    assert (found.shape, found.dtype) == ((20, 48), np.float32)
    decoder, tokenizer = loading.load_decoder(pretrained), Tokenizer.from_pretrained(pretrained)
    for text, state in zip(texts, found, strict=True):
        ids = torch.from_numpy(tokenizer.encode_batch([text])[0])[None]
        with torch.no_grad():
            every = decoder.norm(decoder.run(decoder.embed(ids), 0, depth))[0]
        expected = {"mean": every.mean(0), "last": every[-1], "first": every[0]}[pooling]
        np.testing.assert_allclose(state, expected.numpy(), rtol=1e-4, atol=1e-5)


def test_a_prompt_is_read_around_each_text(pretrained: Path) -> None:
    around = tiny(pretrained, pooling="last", prompt='So: "{text}" is "', max_length=4)
    bare = tiny(pretrained, pooling="last")
    said, asked = around.fit_transform(["abcdef", ""]), bare.fit_transform(['So: "abcd" is "'])
    np.testing.assert_allclose(said[:1], asked, rtol=1e-4, atol=1e-5)
    assert np.abs(said[1] - said[0]).max() > 1e-2  # an empty text is the end of text
    with pytest.raises(ConfigError, match="--prompt is 'none'; it must be words with"):
        tiny(pretrained, prompt="none").fit(["a"])


def test_long_and_empty_texts_have_states_too(pretrained: Path) -> None:
    embedder = tiny(pretrained, max_length=5, pooling="last").fit(["a"])
    states = embedder.transform(["abcdefgh", "abcde", ""])
    np.testing.assert_allclose(states[0], states[1], rtol=1e-5, atol=1e-6)
    assert np.isfinite(states).all()
    assert embedder.transform([]).shape == (0, 48)
    assert (tiny(pretrained).fit(["a"]).depth_, embedder.max_length_) == (3, 5)


def test_in_pipelines_and_grids(pretrained: Path) -> None:
    texts, labels = messages(60)
    pipeline = make_pipeline(tiny(pretrained), LogisticRegression(max_iter=1000))
    grid = {"textembedder__depth": [2, 4], "textembedder__pooling": ["mean", "last"]}
    search = GridSearchCV(pipeline, grid, cv=2).fit(texts, labels)
    assert search.score(*messages(40, seed=1)) > 0.9
    both = FeatureUnion([("low", tiny(pretrained, depth=1)), ("high", tiny(pretrained, depth=4))])
    assert both.fit_transform(texts).shape == (60, 96)


def test_a_frozen_pass_is_found_again(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    texts, _ = messages(20)
    first = tiny(pretrained, cache_size=1).fit_transform(texts)

    def nothing(*_: Any) -> None:
        raise AssertionError("the frozen prefix was run again")

    monkeypatch.setattr(SequenceClassifier, "prefix", nothing)
    # Of the prefix all poolings take the same activations.
    tiny(pretrained, cache_size=1, pooling="last").fit_transform(texts)
    again = tiny(pretrained, cache_size=1).fit_transform(texts)
    np.testing.assert_allclose(again, first, rtol=1e-5, atol=1e-6)


def test_features_have_names_and_copies_are_equal(pretrained: Path) -> None:
    texts, _ = messages(10)
    embedder = tiny(pretrained, depth=2).fit(texts)
    assert embedder.get_feature_names_out()[:2].tolist() == ["textembedder0", "textembedder1"]
    assert len(embedder.get_feature_names_out()) == 48
    for again in (pickle.loads(pickle.dumps(embedder)), copy.deepcopy(embedder)):
        np.testing.assert_array_equal(again.transform(texts), embedder.transform(texts))
    assert clone(embedder).get_params() == embedder.get_params()
    assert not hasattr(embedder, "n_features_in_")
    assert get_tags(embedder).input_tags.string
    assert "TextEmbedder" in embedder._repr_html_()


def test_what_does_not_fit_is_named(pretrained: Path) -> None:
    for kwargs, message in [
        ({"depth": 9}, "depth 9"),
        ({"max_length": 1000}, "max_length 1000"),
        ({"pooling": "padded"}, "pooling 'padded' is the classifier's"),
        ({"pooling": "best"}, "--pooling is 'best'"),
        ({"depth": 0}, "--depth is 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            tiny(pretrained, **kwargs).fit(["a"])
    with pytest.raises(DataError, match="put it in a list"):
        tiny(pretrained).fit("a")
    with pytest.raises(NotFittedError):
        tiny(pretrained).transform(["a"])


class OnNumbers(TextEmbedder):
    """Writes each row of a table of numbers as a text; see tests/test_sklearn.py."""

    def fit(self, X: Any, y: Any = None) -> TextEmbedder:
        return super().fit(self._texts(X, reset=True))

    def transform(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        return super().transform(self._texts(X, reset=False))

    def _texts(self, X: Any, *, reset: bool) -> list[str]:
        table = validate_data(self, X, reset=reset)
        return [" ".join(f"{number:.2f}" for number in row) for row in table]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False
        return tags


ROUNDING = (
    "wants 1e-7 of states that are computed in float32, whose rounding depends on the shape of "
    "the batch"
)
EXPECTED_TO_FAIL = {
    "check_methods_subset_invariance": ROUNDING,
    "check_methods_sample_order_invariance": ROUNDING,
}


@parametrize_with_checks(
    [OnNumbers("./tiny", depth=2, dtype="float32")],
    expected_failed_checks=lambda _: EXPECTED_TO_FAIL,
    xfail_strict=False,
)
def test_scikit_learn_s_own_checks(
    estimator: OnNumbers, check: Any, pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(pretrained.parent)
    check(estimator)
