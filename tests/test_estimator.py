"""TextClassifier: labels come back as they went in, results repeat, bad input is named."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils.class_weight import compute_sample_weight
from tiny import Said, messages

from lastblock import TextClassifier, recipe
from lastblock.activations import store
from lastblock.activations.shelf import shelved
from lastblock.classifier import SequenceClassifier
from lastblock.config import ModelConfig, TrainConfig
from lastblock.decoder import kernels
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.loading import load_decoder
from lastblock.errors import ConfigError, DataError, LastblockError
from lastblock.inference import TextModel
from lastblock.runtime import Silent
from lastblock.tokenization.batching import TokenIds


def tiny(pretrained: Path, **kwargs: object) -> TextClassifier:
    return TextClassifier(str(pretrained), **{"dtype": "float32", "epochs": 3, **kwargs})


@pytest.fixture(scope="module")
def fitted(pretrained: Path) -> TextClassifier:
    texts, labels = messages(120)
    return tiny(pretrained, epochs=8).fit(texts, labels)


def test_learns_and_predicts(fitted: TextClassifier) -> None:
    texts, labels = messages(40, seed=1)
    assert fitted.score(texts, labels) > 0.9
    probabilities = fitted.predict_proba(texts)
    assert probabilities.shape == (40, 2)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    assert (fitted.predict(texts) == fitted.classes_[probabilities.argmax(axis=1)]).all()
    assert fitted.predict([]).shape == (0,)


def test_batch_size_and_order_change_no_prediction(fitted: TextClassifier) -> None:
    texts, _ = messages(30, seed=2)
    together = fitted.predict_proba(texts)
    order = np.random.default_rng(0).permutation(30)
    shuffled = fitted.predict_proba([texts[i] for i in order])
    np.testing.assert_allclose(shuffled, together[order], atol=1e-5)
    alone = np.concatenate([fitted.predict_proba([text]) for text in texts])
    np.testing.assert_allclose(alone, together, atol=1e-5)


@pytest.mark.parametrize(
    "names",
    [["ham", "spam"], [0, 1], [10, -3], [True, False], ["b", "a"], ["ümläut", ""]],
)
def test_labels_come_back_as_they_went_in(pretrained: Path, names: list[object]) -> None:
    texts, labels = messages(20)
    given = [names[label == "spam"] for label in labels]
    classifier = tiny(pretrained, epochs=1).fit(texts, given)
    assert classifier.classes_.tolist() == sorted(names)
    assert set(classifier.predict(texts).tolist()) <= set(names)
    assert {type(label) for label in classifier.predict(texts).tolist()} == {type(names[0])}


def test_takes_arrays_as_well_as_lists(pretrained: Path) -> None:
    texts, labels = messages(20)
    numbers = np.array([label == "spam" for label in labels], dtype=np.int64)
    lists = tiny(pretrained, epochs=1).fit(texts, numbers.tolist())
    arrays = tiny(pretrained, epochs=1).fit(np.array(texts, dtype=object), numbers)
    np.testing.assert_array_equal(lists.predict_proba(texts), arrays.predict_proba(np.array(texts)))


def test_same_seed_same_result_other_seed_another(pretrained: Path) -> None:
    texts, labels = messages(40)
    first, again, other = (
        tiny(pretrained, random_state=seed).fit(texts, labels) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first.predict_proba(texts), again.predict_proba(texts))
    assert first.history_ == again.history_
    assert first.history_ != other.history_


@pytest.mark.parametrize("recipe", ["auto", "chapter6"])
def test_both_recipes_resolve_their_settings(pretrained: Path, recipe: str) -> None:
    texts, labels = messages(40)
    settings = tiny(pretrained, recipe=recipe, epochs=1).fit(texts, labels).model_.settings
    assert settings.epochs == 1
    if recipe == "chapter6":
        longest = max(len(text.encode()) for text in texts)
        assert (settings.depth, settings.pooling, settings.max_length) == (4, "padded", longest)
        assert (settings.batch_size, settings.weight_decay, settings.drop_last) == (8, 0.1, True)
        assert (settings.warmup, settings.decay, settings.learning_rate) == (0.0, "none", 5e-4)
    else:
        assert (settings.depth, settings.pooling, settings.batch_size) == (4, "last", 16)


def test_a_trained_block_is_held_back_by_the_same_in_few_steps_and_in_many(
    pretrained: Path,
) -> None:
    texts, labels = messages(40)

    def decay(**given: object) -> float:
        return tiny(pretrained, **given).fit(texts, labels).model_.settings.weight_decay

    assert decay(epochs=1) == 2.0
    assert decay(epochs=1, learning_rate=0.4) == pytest.approx(0.6 / (0.4 * 3 / 2))
    assert decay(epochs=2, learning_rate=0.4) == pytest.approx(0.6 / (0.4 * 6 / 2))
    assert decay(epochs=1, weight_decay=0.3) == 0.3
    assert decay(epochs=1, train="head") == 0.1


@pytest.mark.parametrize("pooling", ["last", "mean", "first", "padded"])
def test_every_pooling_trains(pretrained: Path, pooling: str) -> None:
    texts, labels = messages(20)
    classifier = tiny(pretrained, recipe="chapter6", pooling=pooling, epochs=1).fit(texts, labels)
    assert np.isfinite(
        classifier.predict_proba(["a", "much longer text than any before " * 5])
    ).all()


def test_clone_keeps_every_parameter(pretrained: Path) -> None:
    classifier = tiny(pretrained, depth=2, learning_rate=2e-3)
    assert clone(classifier).get_params() == classifier.get_params()


def test_fit_starts_anew(pretrained: Path) -> None:
    texts, labels = messages(40)
    once = tiny(pretrained).fit(texts, labels)
    twice = tiny(pretrained).fit(texts, labels[::-1]).fit(texts, labels)
    np.testing.assert_array_equal(once.predict_proba(texts), twice.predict_proba(texts))


@pytest.mark.parametrize(
    ("texts", "labels", "message"),
    [
        (["a", "b"], ["x"], "2 texts but 1 labels"),
        (["a", "b"], ["x", "x"], "one class only"),
        (["a", 3], ["x", "y"], "text 1 is of type int"),
        (["a", "b"], ["x", 1], "labels are of different types"),
        (["a", "b"], ["x", None], "label 1 is None"),
        (["a", "b"], [0.5, 1.5], "label 0 is 0.5 of type float"),
        ("ab", ["x", "y"], "put it in a list"),
        ([], [], "no texts"),
        (["a", "\ud800"], ["x", "y"], "text 1.*surrogate"),
    ],
)
def test_unusable_data_is_named(
    pretrained: Path, texts: list[str], labels: list[object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        tiny(pretrained).fit(texts, labels)


def test_unusable_settings_are_named(pretrained: Path) -> None:
    texts, labels = messages(20)
    for kwargs, message in [
        ({"recipe": "best"}, "--recipe is 'best'; it must be one of auto, chapter6"),
        ({"depth": 9}, "--depth 9 is more than this decoder has"),
        ({"max_length": 1000}, "--max-length 1000 is more than this decoder has"),
        ({"learning_rate": -1.0}, "--learning-rate is -1.0"),
        ({"trainable_blocks": 5}, "--trainable-blocks"),
    ]:
        with pytest.raises(ConfigError, match=message):
            tiny(pretrained, **kwargs).fit(texts, labels)
    with pytest.raises(LastblockError, match="no such"):
        TextClassifier("no-such-folder/x.gguf").fit(texts, labels)
    with pytest.raises(NotFittedError):
        tiny(pretrained).predict(texts)


@pytest.mark.parametrize("train", ["head", "block", "blocks:2", "lora", "all"])
def test_what_is_trained_is_saved_and_loaded(pretrained: Path, tmp_path: Path, train: str) -> None:
    texts, labels = messages(60)
    lines = Said()
    classifier = tiny(pretrained, train=train, epochs=3).fit(texts, labels, progress=lines)
    (said,) = [line for line in lines.lines if line.startswith("training ")]
    numbers = [int(word.replace(",", "")) for word in said.split() if word[0].isdigit()]
    trained, everything = numbers
    assert 0 < trained <= everything
    if train == "all":
        assert trained == everything
    classifier.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(texts), classifier.predict_proba(texts))
    settings = loaded.model_.settings
    assert settings.train == {"block": "blocks", "blocks:2": "blocks"}.get(train, train)
    again = TextClassifier(**loaded.get_params()).fit(texts, labels)
    assert again.model_.settings == settings


def test_tokens_may_see_those_after_them(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = messages(60)
    both = {}
    for kind in ("causal", "full"):
        classifier = tiny(pretrained, attention=kind, pooling="padded", max_length=40, depth=3)
        both[kind] = classifier.fit(texts, labels)
    full = both["full"]
    one_by_one = np.concatenate([full.predict_proba([text]) for text in texts[:9]])
    np.testing.assert_allclose(full.predict_proba(texts)[:9], one_by_one, atol=1e-5)
    assert np.abs(one_by_one - both["causal"].predict_proba(texts[:9])).max() > 1e-3
    full.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(texts), full.predict_proba(texts))
    facts = {kind: of.model_.classifier.prefix_facts() for kind, of in both.items()}
    assert facts["full"] == {**facts["causal"], "attention": "full"}


def test_random_weights_are_the_seed_s_and_not_the_pretrained_ones(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    texts, labels = messages(60)
    kept = {
        "cache_size": 1,
        "depth": 3,
        "epochs": 1,
    }  # what one left on disk, another must not find
    made = [
        tiny(pretrained, weights=weights, random_state=seed, **kept).fit(texts, labels)
        for weights, seed in (("pretrained", 1), ("random", 1), ("random", 2), ("random", 1))
    ]
    first = [of.model_.classifier.decoder.blocks[0].attn.qkv.weight for of in made]
    said = [of.predict_proba(texts) for of in made]
    assert torch.equal(first[1], first[3])
    np.testing.assert_array_equal(said[1], said[3])
    for a, b in ((0, 1), (1, 2)):
        assert not torch.equal(first[a], first[b])
        assert np.abs(said[a] - said[b]).max() > 1e-4
    assert 0.015 < first[1].std().item() < 0.025


@pytest.mark.parametrize("train", ["head", "block", "lora", "all"])
def test_the_fewer_are_trained_the_more_stay_as_they_were(pretrained: Path, train: str) -> None:
    texts, labels = messages(60)
    classifier = tiny(pretrained, train=train, epochs=1, depth=4).fit(texts, labels)
    learnt = classifier.model_.classifier.state_dict()
    fresh = load_decoder(pretrained, depth=4).state_dict()
    changed = {
        name
        for name, before in fresh.items()
        if not torch.equal(before.float(), learnt[f"decoder.{name}"].float())
    }
    blocks = {name.split(".")[1] for name in changed if name.startswith("blocks.")}
    expected = {"head": set(), "block": {"3"}, "lora": set("0123"), "all": set("0123")}
    assert blocks == expected[train]
    assert ("embed_tokens.weight" in changed) == (train == "all")


@pytest.mark.parametrize("long_text", ["truncate", "head-tail", "window"])
def test_what_is_read_of_long_texts(pretrained: Path, tmp_path: Path, long_text: str) -> None:
    """Only the last letters differ: cut off, two texts are the same."""
    beginnings = [f"{i:02d}" + "x" * (20 + i % 7) for i in range(60)]
    texts = [each + ("z" if i % 2 else "a") * 9 for i, each in enumerate(beginnings)]
    labels = ["spam" if i % 2 else "ham" for i in range(60)]
    lines = Said()
    classifier = tiny(pretrained, max_length=12, long_text=long_text)
    classifier.fit(texts, labels, progress=lines)
    assert any("longer than 12 tokens" in line for line in lines.lines)
    unseen = [each + end * 9 for each in beginnings[:20] for end in "az"]
    pairs = classifier.predict_proba(unseen).reshape(20, 2, 2)
    assert np.allclose(pairs[:, 0], pairs[:, 1], atol=1e-6) == (long_text == "truncate")
    one_by_one = np.concatenate([classifier.predict_proba([text]) for text in unseen[:9]])
    np.testing.assert_allclose(classifier.predict_proba(unseen)[:9], one_by_one, atol=1e-5)
    classifier.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m").predict_proba(unseen)
    np.testing.assert_array_equal(loaded, classifier.predict_proba(unseen))


@pytest.mark.parametrize("attention", ["full", "causal"])
def test_padded_windows_do_not_depend_on_the_texts_beside_them(
    pretrained: Path, attention: str
) -> None:
    texts, labels = messages(24)
    texts = [text * 4 if i % 5 == 0 else text for i, text in enumerate(texts)]
    settings = {"pooling": "padded", "max_length": 50, "long_text": "window", "depth": 3}
    classifier = tiny(pretrained, attention=attention, **settings).fit(texts, labels)
    unseen = ["apple pear 12 " * 5 + "x", "red " * 24 + "y", "kiwi lime " * 9 + "zz"]
    together = classifier.predict_proba(unseen)
    alone = np.concatenate([classifier.predict_proba([text]) for text in unseen])
    np.testing.assert_allclose(together, alone, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"train": "everything"}, "--train everything must be head, block, blocks:K, lora or all"),
        ({"train": "blocks:0"}, "--train blocks:0 must be"),
        ({"train": "head:3"}, "--train head:3 must be"),
        ({"train": "head", "trainable_blocks": 2}, "contradict each other"),
        ({"train": "block", "lora_rank": 4}, "--lora-rank is for --train lora"),
        ({"train": "blocks:3", "depth": 2}, "is more than --depth 2"),
        ({"long_text": "skip"}, "--long-text is 'skip'"),
        ({"prompt": "a text"}, "--prompt is 'a text'; it must be words with {text} once"),
        ({"weights": "none"}, "--weights is 'none'; it must be one of pretrained, random"),
        ({"attention": "full"}, "could not be kept; add --pooling padded"),
        ({"prompt": "a" * 4096 + "{text}"}, "--prompt: it leaves no room for a text"),
    ],
)
def test_settings_that_make_no_sense_are_named(
    pretrained: Path, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny(pretrained, **settings).fit(*messages(20))


def test_a_prompt_is_read_around_each_text_and_kept(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = messages(40)
    asked = tiny(pretrained, prompt="abc{text}def", lexicon=False).fit(texts, labels)
    assert asked.model_.settings.prompt == "abc{text}def"
    # A lexicon would read these words too.
    written = tiny(pretrained, lexicon=False).fit([f"abc{text}def" for text in texts], labels)
    assert written.model_.settings.prompt == "{text}"  # ours is too long for so small a decoder
    wanted = written.predict_proba([f"abc{text}def" for text in texts])
    np.testing.assert_allclose(asked.predict_proba(texts), wanted, atol=1e-5)
    asked.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m").predict_proba(texts)
    np.testing.assert_array_equal(loaded, asked.predict_proba(texts))


def anagrams(n: int, seed: int) -> tuple[list[str], list[str]]:
    """Texts of which only the words tell the class: the same letters, in orders of its own."""
    known, random = np.random.default_rng(0), np.random.default_rng(seed)
    words = ["".join(known.permutation([*"abcdefgh"])) for _ in range(60)]
    labels = ["ham", "spam"] * (n // 2)
    of = {"ham": words[:30], "spam": words[30:]}
    return [" ".join(random.choice(of[label], 4)) for label in labels], labels


def test_words_have_a_say_where_they_help(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = anagrams(120, seed=1)
    fitted = tiny(pretrained).fit(texts, labels)
    assert fitted.model_.settings.lexicon
    assert fitted.mixture_["lexicon"] > 0
    new, truth = anagrams(60, seed=2)
    without = tiny(pretrained, lexicon=False).fit(texts, labels)
    assert without.model_.classifier.lexicon is None
    assert not without.model_.settings.lexicon
    assert fitted.score(new, truth) > without.score(new, truth)
    fitted.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(new), fitted.predict_proba(new))
    again = loaded.fit(texts, labels)
    np.testing.assert_array_equal(again.predict_proba(new), fitted.predict_proba(new))
    # Whether it is worth it is chosen anew.
    assert fitted.resolved_params()["lexicon"] is None
    assert without.resolved_params()["lexicon"] is False


def test_a_lexicon_of_no_use_is_not_kept(pretrained: Path, tmp_path: Path) -> None:
    _, labels = messages(60)
    fitted = tiny(pretrained).fit(["the same"] * 60, labels)
    assert not fitted.model_.settings.lexicon
    fitted.save(tmp_path / "m")
    with safe_open(tmp_path / "m" / "model.safetensors", "pt") as file:
        assert not [name for name in file.keys() if "lexicon" in name]  # noqa: SIM118


def test_a_model_from_before_there_were_lexicons_is_read(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = messages(40)
    fitted = tiny(pretrained, lexicon=False).fit(texts, labels)
    fitted.save(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    del config["settings"]["lexicon"]
    path.write_text(json.dumps(config), encoding="utf-8")
    loaded = TextClassifier.load(tmp_path / "m")
    np.testing.assert_array_equal(loaded.predict_proba(texts), fitted.predict_proba(texts))


@pytest.mark.parametrize("way", [{"train": "all"}, {"train": "lora"}, {"recipe": "chapter6"}])
def test_a_lexicon_where_nothing_stands_beside_the_tail_is_refused(
    pretrained: Path, way: dict[str, str]
) -> None:
    with pytest.raises(ConfigError, match="--lexicon is for --recipe auto with frozen blocks"):
        tiny(pretrained, lexicon=True, **way).fit(*messages(20))


def _small() -> DecoderConfig:
    return DecoderConfig.from_dict(
        {
            "model_type": "llama",
            "vocab_size": 100,
            "hidden_size": 8,
            "intermediate_size": 16,
            "num_hidden_layers": 4,
            "num_attention_heads": 2,
            "max_position_embeddings": 128,
        }
    )


@pytest.mark.parametrize(
    ("texts", "batch", "kind", "expected"),
    [
        (999, None, {}, (16, 1e-3)),
        (1000, None, {}, (32, 1.4e-3)),
        (1000, 8, {}, (8, 1e-3)),
        (1000, None, {"train": "head"}, (16, 5e-3)),
        (1499, None, {"train": "blocks:2"}, (32, 1.4e-3)),
        (1500, None, {}, (48, 1.7e-3)),
    ],
)
def test_a_step_is_of_more_texts_where_there_are_many(
    texts: int, batch: int | None, kind: dict[str, Any], expected: tuple[int, float]
) -> None:
    model = ModelConfig(dtype="float32", **kind)
    resolved = recipe.resolve(model, TrainConfig(batch_size=batch), _small(), [5] * texts, 1e-3, 16)
    assert (resolved.batch_size, resolved.learning_rate) == expected


@pytest.mark.parametrize(
    ("settings", "tokens", "prompt", "most"),
    [
        ({}, 16, recipe.PROMPT, 112),
        ({}, 33, "{text}", 128),
        ({"pooling": "mean"}, 16, "{text}", 128),
        ({"prompt": "a {text}", "pooling": "mean"}, 2, "a {text}", 126),
    ],
)
def test_what_is_read_around_a_text(
    settings: dict[str, Any], tokens: int, prompt: str, most: int
) -> None:
    decoder = _small()
    model = ModelConfig(dtype="float32", **settings)
    resolved = recipe.resolve(model, TrainConfig(), decoder, [5], 1e-3, tokens)
    assert (resolved.prompt, resolved.max_length) == (prompt, most)
    book = TrainConfig(recipe="chapter6")
    assert (
        recipe.resolve(ModelConfig(dtype="float32"), book, decoder, [5], 1e-3, 16).prompt
        == "{text}"
    )


def test_the_choice_is_told(pretrained: Path) -> None:
    texts, labels = messages(60)
    classifier = tiny(pretrained).fit(texts, labels)
    assert classifier.choice_ is not None
    assert classifier.mixture_ is not None
    frozen = classifier.model_.classifier.frozen_blocks
    assert classifier.choice_["chosen"] == {"depth": frozen}
    assert classifier.choice_["texts"] == 60
    given = tiny(pretrained, depth=frozen + 1).fit(texts, labels)
    assert given.choice_ is None
    np.testing.assert_allclose(
        given.predict_proba(texts), classifier.predict_proba(texts), atol=1e-5
    )
    assert tiny(pretrained, recipe="chapter6").fit(texts, labels).mixture_ is None


def test_a_second_fit_says_that_nothing_is_run_again(pretrained: Path, tmp_path: Path) -> None:
    texts, labels = messages(60)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LASTBLOCK_CACHE", str(tmp_path))
        first, again = Said(), Said()
        for said in (first, again):
            fitted = tiny(pretrained, cache_size=1).fit(texts, labels, progress=said)
    assert fitted.model_.store.tokens_computed == 0
    assert not any("no frozen pass" in line for line in first.lines)
    assert any("60 of 60 texts need no frozen pass" in line for line in again.lines)


@pytest.mark.parametrize(
    "given", [{}, {"long_text": "window"}, {"dtype": "bfloat16"}, {"dtype": "int8"}], ids=str
)
def test_what_is_asked_later_is_read_along_with_the_rest_and_not_learnt(
    pretrained: Path, given: dict[str, Any]
) -> None:
    texts, labels = messages(60)
    later = [f"{i} times over and over {text}" for i, text in enumerate(texts[:9])]
    settings = {"cache_size": 0, "max_length": 8, **given}
    alone = tiny(pretrained, **settings).fit(texts, labels)
    both = tiny(pretrained, **settings).fit(texts, labels, later=later)
    np.testing.assert_array_equal(both.predict_proba(texts), alone.predict_proba(texts))

    assert both.model_.store.tokens_computed > alone.model_.store.tokens_computed
    for model in (both.model_, alone.model_):
        held = len(model.store)
        model.prepare(model.encode(later))
        assert (len(model.store) == held) == (model is both.model_)
    np.testing.assert_array_equal(both.predict_proba(later), alone.predict_proba(later))


def test_what_is_asked_later_stands_beside_nothing_that_is_learnt(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In bfloat16 a text's states may depend on the texts that are computed together with it.
    together: list[set[bytes]] = []
    compute = store.activations_of

    def look(classifier: SequenceClassifier, sequences: Sequence[TokenIds]) -> list[torch.Tensor]:
        together.append({ids.tobytes() for ids in sequences})
        return compute(classifier, sequences)

    monkeypatch.setattr(store, "activations_of", look)
    texts, labels = messages(60)
    later = [f"{i} times over and over {text}" for i, text in enumerate(texts[:9])]
    model = tiny(pretrained, depth=2, cache_size=0).fit(texts, labels, later=later).model_
    asked = {ids.tobytes() for ids in model.encode(later)}
    assert asked <= set.union(*together)
    assert all(batch <= asked or not batch & asked for batch in together)


def test_what_is_asked_later_takes_no_room_from_what_is_learnt(
    pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    texts, labels = messages(60)
    later = [f"{i} times over and over {text}" for i, text in enumerate(texts)]

    def fitted(gigabytes: float, **given: Any) -> TextModel:
        learner = tiny(pretrained, depth=2, cache_size=gigabytes)
        return learner.fit(texts, labels, **given).model_

    fitted(1)
    size = 0
    for kept in shelved():
        size += kept.size
        kept.path.unlink()
    for again in (False, True):
        model = fitted(1.1 * size / 1e9, later=later)
        read = sum(len(ids) for ids in model.encode(later))
        assert (model.store.tokens_computed == read) == again


# ------------------------------------------------------------------ what is decided, and by what


def test_balanced_classes_are_texts_weighed_as_scikit_learn_weighs_them(pretrained: Path) -> None:
    texts, labels = messages(60)
    texts, labels = texts[:40] + texts[40::2], labels[:40] + labels[40::2]  # 30 ham, 20 spam
    weights = compute_sample_weight("balanced", labels)
    of_class = {"ham": weights[0], "spam": weights[1]}
    by_text = tiny(pretrained).fit(texts, labels, sample_weight=weights).predict_proba(texts)
    for rule in ("balanced", of_class):
        weighed = tiny(pretrained, class_weight=rule).fit(texts, labels)
        np.testing.assert_allclose(weighed.predict_proba(texts), by_text, rtol=1e-6)
    assert clone(weighed).get_params()["class_weight"] == of_class
    # Where the decoder is cut, and so how far weights reach, is the same for both here.
    plain, weighed = (
        tiny(pretrained, depth=3, class_weight=rule).fit(texts, labels).predict_proba(texts)
        for rule in (None, "balanced")
    )
    assert np.abs(plain - weighed).max() > 1e-3


def test_class_weights_are_those_of_the_training_part(pretrained: Path) -> None:
    (texts, labels), (others, _) = messages(40), messages(60, seed=1)
    classifier = tiny(pretrained, epochs=1, depth=2, class_weight={"spam": 3})
    classifier.fit(texts, labels, validation=(others, ["ham"] * 60))
    assert classifier.model_.settings.class_weight == {"spam": 3}
    with pytest.raises(DataError, match="--class-weight names 'eggs', which is no class; known"):
        tiny(pretrained, class_weight={"eggs": 2}).fit(texts, labels)


def test_a_threshold_is_chosen_on_validation_texts(pretrained: Path, tmp_path: Path) -> None:
    said = Said()
    rng = np.random.default_rng(2)
    texts, labels = messages(60)
    others, truth = messages(80, seed=1)
    swapped = rng.random(80) < 0.2
    names = np.array(truth)
    names[swapped] = np.where(names[swapped] == "ham", "spam", "ham")
    classifier = tiny(pretrained, depth=2, threshold="recall=0.9")
    classifier.fit(texts, labels, validation=(others, names), progress=said)
    (threshold,) = classifier.model_.decision.thresholds or ()
    found = classifier.predict(others) == "spam"
    np.testing.assert_array_equal(found, classifier.predict_proba(others)[:, 1] >= threshold)
    assert found[names == "spam"].mean() >= 0.9
    assert any(f"'spam' is given from a probability of {threshold:.3g} on" in s for s in said.lines)
    classifier.save(tmp_path / "m")
    loaded = TextClassifier.load(tmp_path / "m")
    assert loaded.model_.decision == classifier.model_.decision
    assert loaded.get_params()["threshold"] == "recall=0.9"
    assert classifier.score(others, truth) == (classifier.predict(others) == truth).mean()


def test_it_would_rather_say_nothing(pretrained: Path) -> None:
    texts, labels = messages(60)
    classifier = tiny(pretrained, epochs=1, depth=2, abstain_below=0.9).fit(texts, labels)
    sure = classifier.predict_proba(texts).max(axis=1) >= 0.9
    said = classifier.predict(texts)
    assert ((said == "unsure") == ~sure).all()
    assert set(said[sure]) <= {"ham", "spam"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"threshold": 0.4}, "--threshold is for two classes, .*; of 3 classes"),
        ({"threshold": "f1"}, "--threshold is for two classes"),
        ({"class_weight": "even"}, "--class-weight is 'even'"),
        ({"abstain_below": 0}, "--abstain-below is 0"),
    ],
)
def test_decisions_that_cannot_be_are_refused(
    pretrained: Path, settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        tiny(pretrained, **settings).fit(["x", "y", "z"], ["a", "b", "c"])


def test_it_is_told_where_there_are_no_kernels(
    pretrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Lines(Silent):
        def say(self, line: str) -> None:
            lines.append(line)

    texts, labels = messages(60)
    for there in (kernels.available(), False):
        monkeypatch.setattr(kernels, "available", lambda there=there: there)
        lines: list[str] = []
        classifier = TextClassifier(str(pretrained), dtype="int8", depth=3, epochs=1)
        classifier.fit(texts, labels, progress=Lines())
        assert any("without its compiled part" in line for line in lines) is not there
