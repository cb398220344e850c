"""Look at labelled texts before anything is learnt from them: counts, duplicates, contradictions.

Knows no file, no split and no model. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import numbers
import re
import statistics
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lastblock.data.examples import Examples, Label
from lastblock.errors import DataError

_MOST_SHOWN = 5
_DIGIT = re.compile(r"\d")
_SPACE = re.compile(r"\s+")
# Letters, marks and emoji tell texts apart; everything of Unicode's class P, and ASCII's own
# symbols, does not.
_PUNCTUATION = "".join(
    character
    for character in map(chr, range(0x10000))
    if unicodedata.category(character)[0] == "P" or character in "$+<=>^`|~"
)
_FOLDED = re.compile(rf"[\s{re.escape(_PUNCTUATION)}]+")
# What the three make of ASCII, in one go: most texts are ASCII, and millions of them take a while.
_ASCII = {code: _FOLDED.sub(" ", _DIGIT.sub("0", chr(code).lower())) for code in range(128)}


@dataclass(frozen=True)
class Inspection:
    """What was found.

    ``classes``: rows of each class, largest first. ``duplicates``: rows whose text stands word for
    word in an earlier row. ``near_duplicates``: the same after ``normalise``, so at least as many.
    ``conflicting``: different texts that stand under more than one label. Lengths in characters.
    """

    rows: int
    classes: dict[str, int]
    duplicates: int
    near_duplicates: int
    conflicting: int
    median_length: int
    longest: int

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def normalise(text: str) -> str:
    """Lower-cased, digits masked as 0, runs of white space and punctuation folded to one space.

    A text of nothing but punctuation keeps it: ``:)`` and ``:(`` stay different.
    """
    if text.isascii() and (folded := " ".join(text.translate(_ASCII).split())):
        return folded
    masked = _DIGIT.sub("0", text.lower())
    return _FOLDED.sub(" ", masked).strip() or _SPACE.sub(" ", masked).strip()


def inspect(examples: Examples) -> Inspection:
    """Count rows, classes, repeated and contradictory texts."""
    texts, lengths = examples.texts, [len(text) for text in examples.texts]
    pairs = set(zip(texts, examples.labels, strict=True))
    labels_of = Counter(text for text, _ in pairs)
    return Inspection(
        rows=len(texts),
        classes={str(label): n for label, n in _count_classes(examples).most_common()},
        duplicates=len(texts) - len(set(texts)),
        near_duplicates=len(texts) - len({normalise(text) for text in texts}),
        conflicting=sum(count > 1 for count in labels_of.values()),
        median_length=int(statistics.median(lengths)) if lengths else 0,
        longest=max(lengths, default=0),
    )


def check_trainable(examples: Examples) -> None:
    """Refuse what no classifier can be trained on.

    Raises:
        DataError: no rows; a text that is not a string or is empty; a label that is neither string
            nor integer; one class only; a class with a single example.
    """
    source = examples.source
    if not len(examples):
        raise DataError(f"{source}: no examples; give texts of at least two classes")
    _refuse_rows(
        source,
        "a text is not a string",
        (row for row, text in enumerate(examples.texts) if not isinstance(text, str)),
    )
    _refuse_rows(
        source,
        "a text is empty",
        (row for row, text in enumerate(examples.texts) if not text.strip()),
    )
    _refuse_rows(
        source,
        "a label is neither a string nor a whole number",
        (
            row
            for row, label in enumerate(examples.labels)
            if not isinstance(label, str | numbers.Integral)
        ),
    )
    _check_classes(source, _count_classes(examples), several=examples.separator is not None)


def count_shared(texts_a: Iterable[str], texts_b: Iterable[str]) -> int:
    """How many of ``texts_b`` stand word for word in ``texts_a``."""
    known = set(texts_a)
    return sum(text in known for text in texts_b)


def _refuse_rows(source: str, what: str, rows: Iterable[int]) -> None:
    bad = list(rows)
    if bad:
        shown = ", ".join(str(row + 1) for row in bad[:_MOST_SHOWN])
        more = f", ... ({len(bad)} rows)" if len(bad) > _MOST_SHOWN else ""
        noun = "row" if len(bad) == 1 else "rows"
        raise DataError(f"{source}: {what} in {noun} {shown}{more}; mend or remove before training")


def _count_classes(examples: Examples) -> Counter[Label]:
    """Rows of each class; where a text may have several labels, of each label."""
    if examples.separator is None:
        return Counter(examples.labels)
    return Counter(label for of in examples.label_sets for label in of)


def _check_classes(source: str, counts: Counter[Any], *, several: bool) -> None:
    if len(counts) == 1:
        raise DataError(
            f"{source}: only one class, {next(iter(counts))!r}; "
            "a classifier needs examples of at least two"
        )
    if not counts:
        raise DataError(f"{source}: no text has a label; give labels of at least two kinds")
    single = [label for label, count in counts.items() if count == 1]
    if single and not several:
        raise DataError(
            f"{source}: {_classes(single)} a single example; "
            "add examples (two or more of each class), merge classes, or remove the row"
        )


def _classes(labels: Sequence[Any]) -> str:
    shown = ", ".join(repr(label) for label in labels[:_MOST_SHOWN])
    if len(labels) == 1:
        return f"class {shown} has"
    more = f" and {len(labels) - _MOST_SHOWN} more" if len(labels) > _MOST_SHOWN else ""
    return f"classes {shown}{more} have"
