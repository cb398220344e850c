"""The book's recipe on GPT-2: a tiny one always, one of the book's 124M shape when asked for."""

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models, pre_tokenizers

from lastblock.estimator import TextClassifier

SHAPES = {
    "tiny": {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64, "vocab_size": 300},
    "124M": {"n_embd": 768, "n_layer": 12, "n_head": 12, "n_positions": 1024, "vocab_size": 50257},
}


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("shape", ["tiny", pytest.param("124M", marks=pytest.mark.slow)])
def test_every_step_goes_through(shape, dtype, reference, tmp_path):
    """Weights are random, so nothing is claimed of accuracy."""
    reference("gpt2", **SHAPES[shape]).save_pretrained(tmp_path / "gpt2")
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {letter: i for i, letter in enumerate([*letters, "<|endoftext|>"])}
    Backend(models.BPE(vocab=vocabulary, merges=[])).model.save(str(tmp_path / "gpt2"))
    texts = [f"call now to win {i}" if i % 2 else f"are you home {i}?" for i in range(40)]
    labels = ["spam" if i % 2 else "ham" for i in range(40)]

    model = TextClassifier(str(tmp_path / "gpt2"), recipe="chapter6", epochs=1, dtype=dtype)
    model.fit(texts, labels)
    settings = model.model_.settings
    assert (settings.learning_rate, settings.pooling) == (5e-5, "padded")
    assert settings.depth == SHAPES[shape]["n_layer"]
    probabilities = model.predict_proba(texts)
    assert np.isfinite(probabilities).all()
    model.save(tmp_path / "saved")
    again = TextClassifier.load(tmp_path / "saved")
    assert np.array_equal(again.predict_proba(texts), probabilities)
