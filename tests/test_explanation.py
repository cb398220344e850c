"""Contributions are Shapley values, add up exactly, and belong to the right places of the text."""

from itertools import combinations
from math import factorial

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import messages

from lastblock.errors import ConfigError
from lastblock.estimator import TextClassifier
from lastblock.explanation import Explanation, Explanations, Piece, log_odds, make_plan, marked
from lastblock.lexicon import Lexicon, count_ngrams

WORDS = "one two three four"
SPANS = [(0, 3), (3, 7), (7, 13), (13, 18)]


def _shapley(value, n):
    """From the definition: every piece, joining every set it is not in (Shapley 1953)."""
    shares = np.zeros(n)
    for i in range(n):
        others = [j for j in range(n) if j != i]
        for size in range(n):
            weight = factorial(size) * factorial(n - size - 1) / factorial(n)
            for chosen in combinations(others, size):
                shares[i] += weight * (value({*chosen, i}) - value(set(chosen)))
    return shares


def _ask(plan, value):
    """The values of the plan's sets, each known by the tokens it keeps."""
    return np.array([value({*np.flatnonzero(kept).tolist()}) for kept in plan.kept])


def test_additive_contributions_are_found_exactly():
    plan = make_plan(WORDS, SPANS, budget=8)
    assert len(plan.orders) == 2
    assert plan.contributions(_ask(plan, sum)) == pytest.approx([0, 1, 2, 3])


def test_effects_of_pairs_are_shared_as_shapley_has_it():
    # An order and its reverse share every effect between two tokens into halves.
    table = np.random.default_rng(1).normal(size=(4, 4))

    def value(kept):
        return sum(table[i, j] for i in kept for j in kept)

    plan = make_plan(WORDS, SPANS)
    assert plan.contributions(_ask(plan, value)) == pytest.approx(_shapley(value, 4))


def test_more_orders_come_closer_to_shapley():
    rng = np.random.default_rng(2)
    worth = {frozenset(s): rng.normal() for n in range(5) for s in combinations(range(4), n)}

    def value(kept):
        return worth[frozenset(kept)]

    def error(pairs):
        plan = make_plan(WORDS, SPANS, budget=10**6, most_pairs=pairs)
        return np.abs(plan.contributions(_ask(plan, value)) - _shapley(value, 4)).max()

    assert error(200) < 0.2 < 3 * error(1)


@given(st.text(max_size=40), st.integers(1, 400), st.data())
def test_pieces_lie_in_order_inside_the_text_whatever_the_tokens(text, budget, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    spans = list(zip([0, *cuts], [*cuts, len(text)], strict=True))
    plan = make_plan(text, spans, budget=budget)
    ends = [0, *(x for piece in plan.pieces for x in piece), len(text)]
    assert ends == sorted(ends)
    covered = "".join(text[start:end] for start, end in plan.pieces)
    assert "".join(covered.split()) == "".join(text.split())
    values = np.random.default_rng(0).normal(size=len(plan.kept))
    whole = values[plan.everything]
    assert plan.kept[plan.everything].all()
    (nothing,) = (i for i, kept in enumerate(plan.kept) if not kept[plan.piece_of >= 0].any())
    assert plan.contributions(values).sum() == pytest.approx(whole - values[nothing])


def test_long_texts_get_fewer_pieces_for_about_the_same_cost():
    text = "word " * 2_000
    spans = [(5 * i, 5 * i + 4) for i in range(2_000)]
    plan = make_plan(text, spans, budget=16_000)
    assert len(plan.pieces) == 8
    assert sum(kept.sum() for kept in plan.kept) < 20_000
    short = make_plan(text[:500], spans[:100], budget=16_000)
    assert 30 < len(short.pieces) <= 64
    assert sum(kept.sum() for kept in short.kept) < 20_000


def test_parts_of_one_character_and_spaces_are_no_pieces():
    # A beginning-of-text token, a word, a space, a smiley of three tokens, a line's end.
    spans = [(0, 0), (0, 2), (2, 3), (3, 4), (3, 4), (3, 4), (4, 5)]
    plan = make_plan("hi 🎉\n", spans)
    assert plan.pieces == [(0, 2), (3, 4)]
    assert plan.piece_of.tolist() == [-1, 0, 1, 1, 1, 1, 1]
    assert all(kept[0] for kept in plan.kept)


def test_words_are_made_of_their_tokens():
    text = "WINNER, call\t東京!"
    places = [(0, 3), (3, 6), (6, 7), (8, 12), (13, 14), (14, 15), (15, 16)]
    tokens = tuple(Piece(*place, 2.0**i) for i, place in enumerate(places))
    words = Explanation(text, "spam", 0.9, 127.0, 0.0, tokens).words
    assert [text[w.start : w.end] for w in words] == ["WINNER,", "call", "東", "京", "!"]
    assert [w.contribution for w in words] == [7, 8, 16, 32, 64]


def test_log_odds_keep_their_digits_near_certainty():
    odds = log_odds(np.array([[1.0, 1e-30], [0.25, 0.75], [1.0, 0.0]]), 0)
    assert odds[:2] == pytest.approx([np.log(1e30), np.log(1 / 3)])
    assert np.isfinite(odds[2])


def test_marked_text_is_escaped_and_shows_both_directions():
    text = "<b>free</b> & mum"
    page = marked(text, [Piece(3, 7, 2.0), Piece(14, 17, -1.0)])
    assert page.startswith("&lt;b&gt;<mark")
    assert ">free</mark>&lt;/b&gt; &amp; <mark" in page
    assert page.count("underline dotted") == 1
    assert "+2.00" in page
    assert "-1.00" in page


# ---------------------------------------------------------------------------- with a model


@pytest.fixture(scope="module")
def model(pretrained):
    return TextClassifier(str(pretrained), epochs=1).fit(*messages(40)).model_


@pytest.fixture(scope="module", params=["last", "mean", "first", "padded"])
def of_pooling(request, pretrained):
    return (
        TextClassifier(str(pretrained), epochs=1, pooling=request.param).fit(*messages(40)).model_
    )


@pytest.mark.parametrize("text", ["WIN CASH now", "naïve 🎉 déjà", "x", "", "a " * 90])
def test_contributions_add_up_to_the_difference_of_the_logits(of_pooling, text):
    found = of_pooling.explain(text, "spam", budget=2_000)
    difference = found.log_odds - found.log_odds_of_nothing
    assert abs(found.missing) <= 0.02 * abs(difference) + 1e-9
    assert sum(w.contribution for w in found.words) == pytest.approx(difference, abs=1e-9)


@pytest.mark.network
def test_contributions_of_a_real_decoder_add_up_too():
    few = TextClassifier(depth=3, dtype="float32", epochs=1).fit(*messages(12))
    for found in few.explain(["WIN CASH now", "Are we still on for dinner tonight, at 7?"]):
        difference = found.log_odds - found.log_odds_of_nothing
        assert len(found.tokens) > 2
        assert abs(found.missing) <= 0.02 * abs(difference)


def test_log_odds_are_the_difference_of_the_logits(model, monkeypatch):
    lexicon = Lexicon(2)
    lexicon.learn_idf(count_ngrams(["WIN CASH now"]))
    torch.nn.init.normal_(lexicon.weight)
    monkeypatch.setattr(model.classifier, "lexicon", lexicon)
    found = model.explain("WIN CASH now", "spam")
    texts = ["WIN CASH now", ""]
    ids = [torch.from_numpy(model.encode([t])[0])[None].long() for t in texts]
    with torch.inference_mode():
        logits = [model.classifier(x, torch.tensor([x.shape[1]]))[0].double() for x in ids]
        logits = [of + more for of, more in zip(logits, lexicon.read(texts), strict=True)]
    whole, nothing = (float(z[1] - z[0]) for z in logits)
    assert found.log_odds == pytest.approx(whole, abs=1e-4)
    assert found.log_odds_of_nothing == pytest.approx(nothing, abs=1e-4)
    assert found.probability == pytest.approx(model.predict_proba(["WIN CASH now"])[0, 1], abs=1e-6)


def test_the_other_class_of_two_has_the_opposite(model):
    spam, ham = (model.explain("WIN CASH now", label) for label in ("spam", "ham"))
    assert [p.contribution for p in spam.tokens] == pytest.approx(
        [-p.contribution for p in ham.tokens], abs=1e-9
    )


def test_the_likeliest_class_is_explained_if_none_is_named(model):
    for text in ("WIN CASH", "home dinner"):
        best = model.classes[int(model.predict_proba([text])[0].argmax())]
        assert model.explain(text).label == best


def test_an_unknown_class_is_refused(model):
    with pytest.raises(ConfigError, match="label 'eggs' is no class of this model; known: ham"):
        model.explain("x", "eggs")


def test_the_estimator_explains_a_list_that_notebooks_show(model):
    classifier = TextClassifier()
    classifier.model_, classifier.classes_ = model, np.array(model.classes)
    found = classifier.explain(["WIN <b>", "home"], "spam")
    assert isinstance(found, Explanations)
    assert [each.text for each in found] == ["WIN <b>", "home"]
    shown = found._repr_html_()
    assert "&lt;b&gt;" in shown or "&lt;" in shown
    assert "<b>spam</b>" in shown
    assert "<script" not in shown


def test_places_are_those_of_the_tokens(model):
    ids, spans = model.tokenizer.encode_with_spans("Free CASH, now!")
    assert ids.tolist() == model.tokenizer.encode_batch(["Free CASH, now!"])[0].tolist()
    assert [(i, i + 1) for i in range(15)] == spans
