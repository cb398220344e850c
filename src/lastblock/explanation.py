"""Which words decided: tokens are left out in turn, and what the prediction loses is shared out.

What is shared is the log-odds of a class, less the log-odds it has when nothing is read. Tokens
join in an order drawn at random and in its reverse, each credited with what changes as it joins;
the mean over the orders is its contribution. This estimates Shapley values (Castro, Gómez and
Tejada 2009; orders with their reverses: Mitchell, Cooper, Frank and Holmes 2022, section 3.2).
Within an order the changes add up to the whole, so the contributions always do, whatever the
number of orders. Every number comes from predictions of the model itself.

Knows no model: whoever asks runs the texts. Imports no torch.
"""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt

# Tokens that an explanation may read in all, roughly; longer texts get fewer, coarser pieces.
TOKEN_BUDGET = 16_384
MOST_PIECES, LEAST_PIECES, MOST_PAIRS = 64, 8, 4

Span = tuple[int, int]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Piece:
    """``text[start:end]``, and what it adds to the log-odds of the class, in nats.

    Above 0 it spoke for the class, below 0 against it.
    """

    start: int
    end: int
    contribution: float


@dataclass(frozen=True)
class Explanation:
    """Why a text has the probability it has of being ``label``.

    ``log_odds`` is log(p / (1 - p)), with two classes the difference of their logits;
    ``log_odds_of_nothing`` the same where nothing is read. The contributions of ``tokens``, and
    those of ``words``, add up to the difference of the two.
    """

    text: str
    label: Any
    probability: float
    log_odds: float
    log_odds_of_nothing: float
    tokens: tuple[Piece, ...]

    @cached_property
    def words(self) -> tuple[Piece, ...]:
        """The tokens, those of one word put together."""
        groups = _words(self.text, [(t.start, t.end) for t in self.tokens])
        return tuple(
            Piece(
                self.tokens[group[0]].start,
                self.tokens[group[-1]].end,
                sum(self.tokens[i].contribution for i in group),
            )
            for group in groups
        )

    @property
    def missing(self) -> float:
        """What the contributions lack, or have too much, of the difference; 0 but for rounding."""
        return self.log_odds - self.log_odds_of_nothing - sum(t.contribution for t in self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """The same, made of what JSON can hold."""

        def listed(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
            return [
                {
                    "text": self.text[p.start : p.end],
                    "start": p.start,
                    "end": p.end,
                    "contribution": p.contribution,
                }
                for p in pieces
            ]

        return {
            "text": self.text,
            "label": self.label,
            "probability": self.probability,
            "log_odds": self.log_odds,
            "log_odds_of_nothing": self.log_odds_of_nothing,
            "words": listed(self.words),
            "tokens": listed(self.tokens),
        }

    def _repr_html_(self) -> str:
        label = html.escape(str(self.label))
        return (
            f'<p style="max-width:65ch;line-height:1.9;overflow-wrap:anywhere"><b>{label}</b> '
            f"{self.probability:.3f}<br>{marked(self.text, self.words)}</p>"
        )


class Explanations(list[Explanation]):
    """A list of explanations that a notebook shows in colour."""

    def _repr_html_(self) -> str:
        return "".join(each._repr_html_() for each in self) + _LEGEND


def marked(text: str, pieces: Sequence[Piece]) -> str:
    """The text as HTML: what spoke for the class on blue, against it on orange and underlined.

    The stronger a piece among those given, the stronger its colour. Made for light and dark.
    """
    strongest = max((abs(p.contribution) for p in pieces), default=0.0)
    parts, end = [], 0
    for piece in pieces:
        parts += [html.escape(text[end : piece.start]), _mark(text, piece, strongest)]
        end = piece.end
    return "".join(parts) + html.escape(text[end:])


def _mark(text: str, piece: Piece, strongest: float) -> str:
    words = html.escape(text[piece.start : piece.end])
    strength = abs(piece.contribution) / strongest if strongest else 0.0
    if strength < 0.05:
        return words
    look = _FOR if piece.contribution > 0 else _AGAINST
    style = look.format(0.75 * strength)
    return f'<mark style="{style}" title="{piece.contribution:+.2f}">{words}</mark>'


_SHAPE = "color:inherit;border-radius:.25em;padding:.1em .15em;"
_FOR = _SHAPE + "background:rgba(70,120,255,{:.2f})"
_AGAINST = _SHAPE + (
    "background:rgba(235,120,30,{:.2f});text-decoration:underline dotted;text-underline-offset:.2em"
)
_LEGEND = (
    f'<p><small><mark style="{_FOR.format(0.5)}">for</mark> and '
    f'<mark style="{_AGAINST.format(0.5)}">against</mark> the label</small></p>'
)


# ------------------------------------------------------------------------ leaving tokens out


@dataclass(frozen=True)
class Plan:
    """Which tokens are left out together, for one text.

    Args:
        text: what is to be explained.
        pieces: where in the text the pieces stand, n of them.
        piece_of: the piece of each token (tokens,); -1 for one that always stays.
        orders: in which the pieces join, (orders, n).
    """

    text: str
    pieces: Sequence[Span]
    piece_of: npt.NDArray[np.int64]
    orders: npt.NDArray[np.int64]
    kept: list[npt.NDArray[np.bool_]] = field(init=False)
    _visited: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        n = len(self.pieces)
        # One column more, always there: for the tokens that stay.
        joined = np.ones((len(self.orders), n + 1, n + 1), dtype=bool)  # (orders, steps, pieces)
        joined[:, :, :n] = self._places[:, None, :] < np.arange(n + 1)[None, :, None]
        sets, visited = np.unique(joined.reshape(-1, n + 1), axis=0, return_inverse=True)
        object.__setattr__(self, "kept", [row[self.piece_of] for row in sets])
        object.__setattr__(self, "_visited", visited.reshape(len(self.orders), n + 1))

    @property
    def _places(self) -> npt.NDArray[np.int64]:
        """(orders, n): the place of each piece in each order."""
        return self.orders.argsort(axis=1)

    @property
    def everything(self) -> int:
        """Which of the sets in ``kept`` is the whole text."""
        return int(self._visited[0, -1])

    def contributions(self, values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Each piece's contribution (n,), from the values of the sets in ``kept``."""
        gains = np.diff(values[self._visited], axis=1)  # (orders, n), as the pieces join
        return np.take_along_axis(gains, self._places, axis=1).mean(axis=0)

    def explain(
        self, probabilities: Probabilities, number: int, label: Any, *, several: bool = False
    ) -> Explanation:
        """The explanation of class ``number``, called ``label``.

        ``probabilities`` (sets, n_classes) are those of the sets in ``kept``; where a text may
        have ``several`` labels, each is one for itself.
        """
        values = log_odds(probabilities, number, several=several)
        nothing, everything = self._visited[0, 0], self.everything
        pieces = zip(self.pieces, self.contributions(values), strict=True)
        return Explanation(
            text=self.text,
            label=label,
            probability=float(probabilities[everything, number]),
            log_odds=float(values[everything]),
            log_odds_of_nothing=float(values[nothing]),
            tokens=tuple(Piece(start, end, float(x)) for (start, end), x in pieces),
        )


def make_plan(
    text: str, spans: Sequence[Span], *, budget: int = TOKEN_BUDGET, most_pairs: int = MOST_PAIRS
) -> Plan:
    """Plan an explanation of about ``budget`` tokens to read; the same text has the same plan.

    ``spans`` are the tokens' places in the text; one of no width always stays. Tokens that share
    a character are one piece. Where tokens are too many the pieces are words, and where these
    are, neighbouring words.
    """
    pieces, piece_of = _pieces(text, spans)
    length = max(1, len(spans))
    most = min(MOST_PIECES, max(LEAST_PIECES, budget // length))
    if len(pieces) > most:
        words = _words(text, pieces)
        size = -(-len(words) // most)
        groups = [list(chain(*words[i : i + size])) for i in range(0, len(words), size)]
        joined = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        pieces = [(pieces[group[0]][0], pieces[group[-1]][1]) for group in groups]
        piece_of = np.where(piece_of < 0, -1, joined[piece_of])
    pairs = min(most_pairs, max(1, budget // (length * max(1, len(pieces)))))
    random = np.random.default_rng(0)
    drawn = [random.permutation(len(pieces)) for _ in range(pairs)]
    orders = np.stack([order for one in drawn for order in (one, one[::-1])])
    return Plan(text, pieces, piece_of, orders)


def log_odds(
    probabilities: Probabilities, number: int, *, several: bool = False
) -> npt.NDArray[np.float64]:
    """log(p / (1 - p)) of one class, (n,), from probabilities (n, n_classes).

    Of classes whose probabilities add up to 1, 1 - p is the sum of the others, which keeps its
    digits where p is almost 1; of ``several`` labels a text they do not add up.
    """
    tiny = np.finfo(np.float64).tiny
    p = probabilities[:, number]
    others = 1 - p if several else np.delete(probabilities, number, axis=1).sum(axis=1)
    return np.log(np.maximum(p, tiny)) - np.log(np.maximum(others, tiny))


def _pieces(text: str, spans: Sequence[Span]) -> tuple[list[Span], npt.NDArray[np.int64]]:
    """Places of the pieces, and the piece of each token."""
    pieces: list[list[int]] = []
    piece_of = np.full(len(spans), -1, dtype=np.int64)
    for i, (start, end) in enumerate(spans):
        if start == end:
            continue
        # Half a character cannot be shown, and a space alone is no word: they join their neighbour.
        if pieces and (start < pieces[-1][1] or text[slice(*pieces[-1])].isspace()):
            pieces[-1][1] = max(end, pieces[-1][1])
        else:
            pieces.append([start, end])
        piece_of[i] = len(pieces) - 1
    if len(pieces) > 1 and text[slice(*pieces[-1])].isspace():
        (_, end) = pieces.pop()
        pieces[-1][1] = end
        piece_of = np.minimum(piece_of, len(pieces) - 1)
    return [_without_space(text, start, end) for start, end in pieces], piece_of


def _without_space(text: str, start: int, end: int) -> Span:
    words = text[start:end]
    start += len(words) - len(words.lstrip())
    return start, max(start, start + len(words.strip()))


def _words(text: str, pieces: Sequence[Span]) -> list[list[int]]:
    """Indices of the pieces that make each word: those with no space between them.

    Characters of scripts written without spaces (Chinese, Japanese, Korean) stand alone.
    """
    words: list[list[int]] = []
    for i, (start, _) in enumerate(pieces):
        touching = i > 0 and pieces[i - 1][1] == start
        if touching and start > 0 and not (_is_wide(text[start - 1]) or _is_wide(text[start])):
            words[-1].append(i)
        else:
            words.append([i])
    return words


def _is_wide(character: str) -> bool:
    return unicodedata.east_asian_width(character) in "WF"
