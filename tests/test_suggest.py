"""What to label next: doubt times distance; nothing twice, nothing known."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import messages

from lastblock import TextClassifier
from lastblock.data.inspection import normalise
from lastblock.data.readers import read_examples
from lastblock.errors import ConfigError
from lastblock.suggest import choose, suggest, write_suggestions


def random_texts(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, 7)).astype(np.float32), rng.dirichlet([0.5] * 3, n)


@given(st.integers(0, 1000))
def test_doubt_times_distance_decides(seed: int) -> None:
    states, probabilities = random_texts(12, seed)
    spread = (states - states.mean(0)) / states.std(0)
    top = [sorted(row)[-2:] for row in probabilities.tolist()]
    doubt = [1 - (first - second) for second, first in top]
    expected = [max(range(12), key=lambda i: doubt[i])]
    while len(expected) < 5:
        rest = [i for i in range(12) if i not in expected]
        nearest = {i: min(math.dist(spread[i], spread[j]) for j in expected) for i in rest}
        expected.append(max(rest, key=lambda i: doubt[i] * nearest[i]))
    assert choose(states, probabilities, 5).tolist() == expected


@given(st.integers(1, 30), st.integers(1, 40), st.booleans())
def test_no_text_is_drawn_twice(rows: int, n: int, alike: bool) -> None:
    states, probabilities = random_texts(rows, rows)
    if alike:
        states[:], probabilities[:] = states[0], probabilities[0]
    chosen = choose(states, probabilities, n).tolist()
    assert len(set(chosen)) == len(chosen) == min(n, rows)


def test_sure_texts_come_last() -> None:
    states, probabilities = random_texts(10, 4)
    probabilities[3:] = [1.0, 0.0, 0.0]
    assert set(choose(states, probabilities, 3).tolist()) == {0, 1, 2}


@pytest.fixture(scope="module")
def fitted(pretrained: Path) -> TextClassifier:
    texts, labels = messages(40)
    return TextClassifier(str(pretrained), dtype="float32", epochs=2).fit(texts, labels)


def test_a_model_s_suggestions(fitted: TextClassifier, tmp_path: Path) -> None:
    pool = [*messages(30, seed=5)[0], "home dinner WIN", "Home, dinner: win!", "later mum"]
    found = suggest(fitted.model_, pool, 50, known=["LATER MUM"])
    kinds = {normalise(text) for text in pool} - {"later mum"}
    assert len(found) == len(kinds) == len({normalise(s.text) for s in found} & kinds)
    for s in found:
        assert pool[s.row - 1] == s.text
        probabilities = fitted.predict_proba([s.text])[0]
        assert s.predicted == fitted.classes_[probabilities.argmax()]
        assert s.probability == pytest.approx(probabilities.max(), abs=1e-5)
    assert suggest(fitted.model_, pool, 4) == suggest(fitted.model_, pool, 4)
    write_suggestions(found[:3], tmp_path / "next.csv")
    written = read_examples(tmp_path / "next.csv", keep_empty=True)
    assert written.texts == [s.text for s in found[:3]]
    assert written.labels == ["", "", ""]
    with pytest.raises(ConfigError, match="ends in"):
        write_suggestions([], tmp_path / "x.txt")


def test_nothing_to_suggest(fitted: TextClassifier) -> None:
    assert suggest(fitted.model_, ["a"], 3, known=["A!"]) == []
