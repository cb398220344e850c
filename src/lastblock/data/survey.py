"""A close look at labelled texts: everything that makes a score wrong, found and said.

``survey`` returns facts and findings; a finding names the rows. Costs seconds for a
hundred thousand texts; ``quick`` leaves out what costs most. Knows no file, no split and no model.
Imports no torch.
"""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np

from lastblock.config import NO_SEPARATOR
from lastblock.data.damage import KINDS, damages
from lastblock.data.examples import Examples, Label, Rows
from lastblock.data.inspection import normalise
from lastblock.data.label_sets import find_separator, split_label
from lastblock.data.near_duplicates import near_duplicate_groups
from lastblock.runtime import Progress, Silent

Level = Literal["error", "warning", "note"]
T = TypeVar("T")

MOST_ROWS = 20  # named in a finding
SAMPLE = 50_000  # texts that word rules, languages and token lengths are taken from
_MOST_SHOWN = 3
_CUT = 60  # characters of a text shown
_MISSING_NAMES = {"nan", "null", "none", "n/a", "na", "?", "-", "unknown"}
_TOKENISED = re.compile(r" (?:[.,!?]|n't|'s)(?: |$)")
# With letters that a text must have for the pattern to be worth a search.
_MARKS = {
    "links": (("://", "www."), re.compile(r"https?://|www\.")),
    "@ names": (("@",), re.compile(r"(?<!\w)@\w")),
    "e-mail addresses": (("@",), re.compile(r"[\w.+-]@[\w-]+\.\w")),
    "placeholders such as [NAME] or <url>": (
        ("[", "<"),
        re.compile(r"\[[A-Z]{3,}\]|<(?:unk|url|user|num|name)>"),
    ),
}
_STOP_WORDS = {
    "English": {"the", "and", "of", "is", "to", "you", "that", "it", "was", "for"},
    "German": {"der", "die", "und", "das", "ist", "nicht", "ich", "ein", "zu", "mit"},
    "French": {"le", "la", "les", "et", "est", "pas", "je", "une", "des", "pour"},
    "Spanish": {"el", "los", "que", "y", "es", "una", "por", "no", "con", "para"},
    "Italian": {"il", "che", "di", "non", "è", "per", "sono", "con", "della", "gli"},
    "Portuguese": {"o", "que", "não", "um", "uma", "para", "com", "os", "do", "da"},
    "Dutch": {"de", "het", "een", "niet", "ik", "van", "dat", "en", "op", "voor"},
}


@dataclass(frozen=True)
class Finding:
    """Something that was found in ``count`` rows, of which ``rows`` (from 1) are the first few."""

    kind: str
    level: Level
    count: int
    message: str
    rows: list[int] = field(default_factory=list)
    examples: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Survey:
    """What was looked at, and what was found in it.

    ``usable`` rows have a text and a label. ``classes``: for each, rows, share of the usable rows,
    and how many of its texts are different, also after ``normalise``. With several labels a text
    (``separator``), classes are the single labels. ``lengths``: of texts, in characters and, if
    they could be counted, tokens of a sample. ``compared``: what is shared with other examples.
    """

    source: str
    rows: int
    usable: int
    notes: list[str]
    classes: dict[str, dict[str, float]]
    separator: str | None
    lengths: dict[str, dict[str, float]]
    scripts: dict[str, float]
    languages: dict[str, float]
    findings: list[Finding]
    compared: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def warnings(self) -> list[str]:
        """The sentences of the findings that are more than notes."""
        return [finding.message for finding in self.findings if finding.level != "note"]


def survey(
    examples: Examples,
    *,
    against: Examples | None = None,
    count_tokens: Callable[[list[str]], list[int]] | None = None,
    max_length: int | None = None,
    separator: str | None = None,
    quick: bool = False,
    progress: Progress | None = None,
) -> Survey:
    """Look closely at examples, which may have empty texts and missing (empty) labels.

    ``count_tokens`` counts the tokens of texts, of which at most ``max_length`` are read.
    ``against``: other examples, such as the test part, that should share no text with these.
    """
    looking = progress or Silent()
    folded = [normalise(text) for text in examples.texts]
    if separator is None:
        separator = examples.separator or find_separator(examples.labels)
    elif separator == NO_SEPARATOR:
        separator = None
    usable = _usable(examples)
    findings = [
        *_empty(examples),
        *_labels(examples.labels),
        *_sizes(_label_counts(examples, usable, separator), separator),
        *_duplicates(examples, folded),
        *_conflicts(examples, folded),
        *_damage(examples.texts),
        *_order(examples.labels),
        *_style(examples.texts),
    ]
    tokens: list[int] = []
    if not quick:
        with looking.task("near duplicates", 1) as advance:
            findings += _near_duplicates(folded)
            advance(1)
        findings += _telltales(examples, folded, usable, separator)
        if count_tokens is not None:
            tokens = count_tokens(_sample(examples.texts))
            findings += _too_long(tokens, max_length)
    compared = None
    if against is not None:
        compared, shared = compare(examples, against, folded, quick=quick)
        findings += shared
    order = {"error": 0, "warning": 1, "note": 2}
    return Survey(
        source=examples.source,
        rows=len(examples),
        usable=len(usable),
        notes=list(examples.notes),
        classes=_classes(examples, folded, usable, separator),
        separator=separator,
        lengths=_lengths(examples.texts, tokens),
        scripts={} if quick else _scripts(_sample(examples.texts, 5000)),
        languages={} if quick else _languages(_sample(folded, 5000)),
        findings=sorted(findings, key=lambda finding: order[finding.level]),
        compared=compared,
    )


# ---------------------------------------------------------------------------- facts


def _usable(examples: Examples) -> list[int]:
    pairs = enumerate(zip(examples.texts, examples.labels, strict=True))
    return [row for row, (text, label) in pairs if text.strip() and str(label).strip()]


def _label_counts(examples: Examples, usable: Sequence[int], separator: str | None) -> Counter[str]:
    counts: Counter[str] = Counter()
    for joined, count in Counter(examples.labels[row] for row in usable).items():
        for label in split_label(joined, separator):
            counts[label] += count
    return counts


def _classes(
    examples: Examples, folded: Sequence[str], usable: Sequence[int], separator: str | None
) -> dict[str, dict[str, float]]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row in usable:
        for label in split_label(examples.labels[row], separator):
            rows[label].append(row)
    ordered = sorted(rows.items(), key=lambda item: -len(item[1]))
    return {
        label: {
            "rows": len(of),
            "share": len(of) / len(usable),
            "different": len({examples.texts[row] for row in of}),
            "different_normalised": len({folded[row] for row in of}),
        }
        for label, of in ordered
    }


def _lengths(texts: Sequence[str], tokens: Sequence[int]) -> dict[str, dict[str, float]]:
    found = {"characters": _quantiles([len(text) for text in texts])}
    return found | ({"tokens": _quantiles(tokens)} if tokens else {})


def _quantiles(lengths: Sequence[int]) -> dict[str, float]:
    if not lengths:
        return {}
    names = ("shortest", "median", "90 %", "99 %", "longest")
    values = np.quantile(lengths, [0, 0.5, 0.9, 0.99, 1], method="lower")
    return {name: int(value) for name, value in zip(names, values, strict=True)}


def _sample(of: Sequence[T], size: int = SAMPLE) -> list[T]:
    return list(of) if len(of) <= size else random.Random(0).sample(of, size)


def _scripts(texts: Iterable[str]) -> dict[str, float]:
    """The share of texts that are mostly in each script."""
    return _shares(Counter(_script_of(text[:1000]) for text in texts if text.strip()))


def _script_of(text: str) -> str:
    if text.isascii():
        return "Latin" if any(map(str.isalpha, text)) else "no letters"
    names = (unicodedata.name(letter, "?").split()[0] for letter in text if letter.isalpha())
    found = Counter(names).most_common(1)
    return found[0][0].capitalize() if found else "no letters"


def _languages(folded: Iterable[str]) -> dict[str, float]:
    """The share of texts whose commonest words are of each language; a rough guess."""
    counts: Counter[str] = Counter()
    for text in folded:
        words = text.split()
        hits = {name: sum(map(stop.__contains__, words)) for name, stop in _STOP_WORDS.items()}
        best = max(hits, key=lambda name: hits[name])
        counts[best if hits[best] >= 2 else "cannot tell"] += 1
    return _shares(counts)


def _shares(counts: Counter[str]) -> dict[str, float]:
    total = sum(counts.values())
    return {name: count / total for name, count in counts.most_common()}


# ---------------------------------------------------------------------------- findings


def _finding(
    kind: str, level: Level, rows: Sequence[int], message: str, examples: Sequence[str] = ()
) -> Finding:
    named = [row + 1 for row in rows[:MOST_ROWS]]
    shown = [shorten(example) for example in examples[:_MOST_SHOWN]]
    return Finding(kind, level, len(rows), message, named, shown)


def shorten(text: str) -> str:
    """A text on one line, its middle cut out if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= _CUT else f"{line[: _CUT - 20]} ... {line[-15:]}"


def _rows(count: int, verb: str = "", more: str = "") -> str:
    """``3 rows hold``, ``1 row holds``; ``more`` stands before the verb."""
    singular = {"have": "has"}.get(verb, f"{verb}s")
    words = [f"{count:,} row" + ("" if count == 1 else "s"), more, singular if count == 1 else verb]
    return " ".join(word for word in words if word and word != "s")


def _empty(examples: Examples) -> Iterable[Finding]:
    texts = [row for row, text in enumerate(examples.texts) if not text.strip()]
    if texts:
        blank = sum(bool(examples.texts[row]) for row in texts)
        message = (
            f"{_rows(len(texts), 'have')} no text ({blank:,} of them white space); delete them"
        )
        yield _finding("empty_texts", "error", texts, message)
    labels = [row for row, label in enumerate(examples.labels) if not str(label).strip()]
    if labels:
        message = f"{_rows(len(labels), 'have')} no label; fill them in or delete them"
        yield _finding("missing_labels", "error", labels, message)


def _labels(labels: Sequence[Label]) -> Iterable[Finding]:
    counts = Counter(str(label) for label in labels)
    alike: dict[str, list[str]] = defaultdict(list)
    for label in counts:
        if label.strip():
            alike[" ".join(label.split()).casefold()].append(label)
    for variants in alike.values():
        if len(variants) > 1 or variants[0] != variants[0].strip():
            rare = set(sorted(variants, key=lambda label: -counts[label])[1:]) or set(variants)
            rows = [row for row, label in enumerate(labels) if str(label) in rare]
            shown = ", ".join(f"{label!r} ({counts[label]:,})" for label in variants)
            message = f"labels that differ by case or blanks only: {shown}; are they one class?"
            yield _finding("label_variants", "warning", rows, message)
    missing = sorted(label for label in counts if label.strip().casefold() in _MISSING_NAMES)
    if missing:
        rows = [row for row, label in enumerate(labels) if str(label) in missing]
        message = f"labels that may stand for none: {', '.join(map(repr, missing))}"
        yield _finding("label_missing_names", "warning", rows, message)


def _sizes(counts: Counter[str], separator: str | None) -> Iterable[Finding]:
    if not counts:
        return
    if separator:
        message = (
            f"several labels a text, joined by {separator!r}: {len(counts):,} different ones; "
            "classes are counted label by label"
        )
        yield Finding("multi_label", "note", len(counts), message)
    ordered = counts.most_common()
    if len(ordered) == 1:
        yield Finding(
            "one_class", "error", 1, f"only one class, {ordered[0][0]!r}; two are needed to learn"
        )
        return
    single = [label for label, count in ordered if count == 1]
    if single:
        message = f"{_named(single)}: a single example; add some, merge classes or delete it"
        yield Finding("single_example", "error", len(single), message)
    small = [label for label, count in ordered if 1 < count < 10]
    if small:
        message = (
            f"{_named(small)}: fewer than ten examples, too few to split; "
            "scores of such classes mean little"
        )
        yield Finding("small_classes", "warning", len(small), message)
    (most, largest), (least, smallest) = ordered[0], ordered[-1]
    if largest >= 5 * smallest:
        message = (
            f"unbalanced: {most!r} has {largest:,} rows and {least!r} {smallest:,}, "
            f"{largest / smallest:.1f} times as many; look at macro F1 beside accuracy"
        )
        yield Finding("imbalance", "note", largest - smallest, message)


def _named(labels: Sequence[str]) -> str:
    noun = "class" if len(labels) == 1 else f"{len(labels):,} classes"
    more = ", ..." if len(labels) > 5 else ""
    return f"{noun} {', '.join(map(repr, labels[:5]))}{more}"


def _repeats(values: Sequence[str]) -> list[int]:
    """Rows whose value stands in an earlier row; what is empty is no value."""
    seen: set[str] = set()
    rows = []
    for row, value in enumerate(values):
        if value.strip():
            if value in seen:
                rows.append(row)
            seen.add(value)
    return rows


def _duplicates(examples: Examples, folded: Sequence[str]) -> Iterable[Finding]:
    exact = _repeats(examples.texts)
    if exact:
        most = [text for text, _ in Counter(examples.texts[row] for row in exact).most_common(3)]
        message = f"{_rows(len(exact), 'repeat')} an earlier row's text word for word"
        yield _finding("duplicates", "warning", exact, message, most)
    same = sorted(set(_repeats(folded)) - set(exact))
    if same:
        more = "more" if exact else ""
        count = _rows(len(same), "repeat", more)
        message = f"{count} an earlier text but for case, digits and punctuation"
        yield _finding(
            "normalised_duplicates", "warning", same, message, [examples.texts[r] for r in same]
        )


def _near_duplicates(folded: Sequence[str]) -> Iterable[Finding]:
    first: dict[str, int] = {}
    for row, text in enumerate(folded):
        if text:
            first.setdefault(text, row)
    texts, rows = list(first), list(first.values())
    groups = near_duplicate_groups(texts)
    _, leaders = np.unique(groups, return_index=True)
    near = sorted(set(range(len(texts))) - set(leaders.tolist()))
    if near:
        pairs = [(texts[leaders[groups[i]]], texts[i]) for i in near[:_MOST_SHOWN]]
        message = (
            f"{_rows(len(near), 'repeat', 'more nearly')} another text (four fifths of their "
            "5-character pieces are the same)"
        )
        found = _finding("near_duplicates", "warning", [rows[i] for i in near], message)
        shown = [f"{shorten(one)}  ~  {shorten(other)}" for one, other in pairs]
        yield dataclasses.replace(found, examples=shown)


def _conflicts(examples: Examples, folded: Sequence[str]) -> Iterable[Finding]:
    """The same text under several labels; and those that are the same but for small things."""
    exact = _conflict("conflicts", examples.texts, examples.labels, "")
    how = " but for case, digits and punctuation"
    loose = _conflict("normalised_conflicts", folded, examples.labels, how)
    if exact:
        yield exact
    if loose and loose.count > (exact.count if exact else 0):
        yield loose


def _conflict(kind: str, texts: Sequence[str], labels: Sequence[Label], how: str) -> Finding | None:
    first: dict[str, str] = {}
    bad: set[str] = set()
    for text, label in zip(texts, map(str, labels), strict=True):
        if label.strip() and first.setdefault(text, label) != label and text.strip():
            bad.add(text)
    rows = [row for row, text in enumerate(texts) if text in bad]
    if not rows:
        return None
    under: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        if str(labels[row]).strip():
            under[texts[row]].add(str(labels[row]))
    different = dict.fromkeys(texts[row] for row in rows)
    shown = [f"{shorten(text)}  ({', '.join(sorted(under[text]))})" for text in different]
    message = f"{_rows(len(rows), 'hold')} a text that stands under several labels{how}"
    return dataclasses.replace(_finding(kind, "warning", rows, message), examples=shown[:10])


def _damage(texts: Sequence[str]) -> Iterable[Finding]:
    rows: dict[str, list[int]] = defaultdict(list)
    for row, text in enumerate(texts):
        for kind in damages(text):
            rows[kind.name].append(row)
    for kind in KINDS:
        of = rows[kind.name]
        if of:
            shown = [_around(texts[row], kind.found) for row in of[:_MOST_SHOWN]]
            level: Level = "warning" if kind.name in ("mojibake", "replacement") else "note"
            yield _finding(kind.name, level, of, f"{_rows(len(of), 'hold')} {kind.says}", shown)


def _around(text: str, pattern: re.Pattern[str]) -> str:
    match = pattern.search(text)
    at = match.start() if match else 0
    piece = text[max(0, at - 20) : at + 30]
    return "".join(c if c.isprintable() else f"<U+{ord(c):04X}>" for c in piece)


def _order(labels: Sequence[Label]) -> Iterable[Finding]:
    if len(labels) < 20:
        return
    changes = sum(a != b for a, b in itertools.pairwise(labels))
    shares = np.array(list(Counter(labels).values())) / len(labels)
    expected = (len(labels) - 1) * (1 - float((shares**2).sum()))
    if len(shares) > 1 and changes < expected / 2:
        message = (
            f"rows stand in the order of their class ({changes:,} changes of class, a shuffle "
            f"has about {expected:,.0f}); shuffle before taking the first or last rows"
        )
        yield Finding("sorted_by_class", "note", changes, message)


def _style(texts: Sequence[str]) -> Iterable[Finding]:
    written = [text for text in _sample(texts, 5000) if any(map(str.isalpha, text))]
    if len(written) < 20:
        return
    lower = sum(text == text.lower() for text in written) / len(written)
    if lower > 0.9:
        message = f"lower-cased: {lower:.0%} of the texts have no capital letter"
        yield Finding("lower_cased", "note", round(lower * len(texts)), message)
    split = sum(bool(_TOKENISED.search(text)) for text in written) / len(written)
    if split > 0.5:
        message = f"tokenised: {split:.0%} of the texts have blanks before punctuation"
        yield Finding("tokenised", "note", round(split * len(texts)), message)
    for name, (hints, pattern) in _MARKS.items():
        hinted = {row for hint in hints for row, text in enumerate(texts) if hint in text}
        rows = [row for row in sorted(hinted) if pattern.search(texts[row])]
        if len(rows) > len(texts) / 100:
            kind = "marks_" + re.sub(r"\W+", "_", name.split(" such")[0]).strip("_")
            yield _finding(kind, "note", rows, f"{_rows(len(rows), 'hold')} {name}")


def _too_long(tokens: Sequence[int], limit: int | None) -> Iterable[Finding]:
    if limit is not None:
        long = [row for row, count in enumerate(tokens) if count > limit]
        if long:
            message = f"{len(long) / len(tokens):.1%} of the texts are longer than {limit} tokens"
            yield Finding("too_long", "note", len(long), f"{message}; the rest of them is not read")


def _telltales(
    examples: Examples, folded: Sequence[str], usable: Sequence[int], separator: str | None
) -> Iterable[Finding]:
    """The one word, anywhere, first or last, that best gives each class away."""
    rows = sorted(_sample(usable))
    labels = [split_label(examples.labels[row], separator) for row in rows]
    totals = Counter(label for of in labels for label in of)
    if len(totals) < 2:
        return
    with_word: Counter[tuple[str, str]] = Counter()
    with_both: Counter[tuple[tuple[str, str], str]] = Counter()
    for row, of in zip(rows, labels, strict=True):
        signs = _signs(folded[row])
        with_word.update(signs)
        for label in of:
            with_both.update((sign, label) for sign in signs)
    best: dict[str, tuple[float, tuple[str, str], int]] = {}
    for (sign, label), both in with_both.items():
        f1 = 2 * both / (with_word[sign] + totals[label])
        if both >= 5 and f1 > best.get(label, (0.0,))[0]:
            best[label] = (f1, sign, both)
    told = sorted(((*found, label) for label, found in best.items()), reverse=True)
    for f1, sign, both, label in told[:5]:
        right = both + len(rows) - with_word[sign] - (totals[label] - both)
        where, word = sign
        masked = " (0 for any digit)" if "0" in word else ""
        strong = f1 >= 0.8 and len(rows) >= 20
        precision = both / with_word[sign]
        message = (
            f"a text that {where} {word!r}{masked} is {label!r}: right for {precision:.1%} of "
            f"such texts, finds {both / totals[label]:.1%} of the class; as the only rule for this "
            f"class, right for {right / len(rows):.1%} of all texts"
        )
        if strong:
            message += "; does it give the label away?"
        if strong or label == told[0][3]:
            yield Finding("one_word_rule", "warning" if strong else "note", both, message)


def _signs(folded: str) -> set[tuple[str, str]]:
    words = folded.split()
    if not words:
        return set()
    return {("begins with", words[0]), ("ends with", words[-1])} | {
        ("holds", word) for word in words
    }


# ---------------------------------------------------------------------------- two sets


def compare(
    examples: Examples,
    other: Examples,
    folded: Sequence[str] | None = None,
    *,
    quick: bool = False,
) -> tuple[dict[str, Any], list[Finding]]:
    """How many of ``other``'s texts stand in ``examples``: word for word, normalised, nearly."""
    folded = folded if folded is not None else [normalise(text) for text in examples.texts]
    other_folded = [normalise(text) for text in other.texts]
    exact = _standing_in(set(examples.texts), other.texts)
    same = _standing_in(set(folded), other_folded)
    near = [] if quick else _nearly_in(folded, other_folded)
    counts: dict[str, Any] = {
        "source": other.source,
        "rows": len(other),
        "exact": len(exact),
        "normalised": len(same),
        "near": None if quick else len(near),
        "classes_only_here": sorted(set(map(str, examples.labels)) - set(map(str, other.labels))),
        "classes_only_there": sorted(set(map(str, other.labels)) - set(map(str, examples.labels))),
    }
    findings = []
    if same or near:
        every = sorted({*exact, *same, *near})
        message = (
            f"{_rows(len(every))} of {other.source} ({len(every) / len(other):.1%}) stand here "
            f"too: {len(exact):,} word for word, {len(same):,} but for case, digits and punctuation"
            + ("" if quick else f", {len(near):,} nearly; a score on them is too good")
        )
        shown = [other.texts[row] for row in every]
        findings.append(_finding("shared", "warning", every, message, shown))
    for where, names in (
        ("here", "classes_only_here"),
        (f"in {other.source}", "classes_only_there"),
    ):
        if counts[names]:
            message = f"{_named(counts[names])}: only {where}"
            findings.append(Finding(names, "warning", len(counts[names]), message))
    return counts, findings


def _standing_in(known: set[str], texts: Sequence[str]) -> list[int]:
    return [row for row, text in enumerate(texts) if text.strip() and text in known]


def _nearly_in(folded: Sequence[str], other: Sequence[str]) -> list[int]:
    groups: Rows = near_duplicate_groups([*folded, *other])
    here = set(groups[: len(folded)].tolist())
    there = groups[len(folded) :].tolist()
    return [row for row, group in enumerate(there) if other[row] and group in here]
