"""Labelled texts put right where it is certain how, with a record of every row touched.

Repairs damage, brings variants of a label together, drops what cannot be learnt from. Guesses
nothing: what needs a person (near duplicates, lost characters) is left as it is. Imports no torch.
"""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, Literal

from lastblock.data.damage import repaired
from lastblock.data.examples import Examples, Label
from lastblock.errors import ConfigError, DataError

_SUFFIXES = (".csv", ".tsv", ".jsonl")


@dataclass(frozen=True)
class Change:
    """What was done to a row (from 1), why, and what stood there before and after."""

    row: int
    action: Literal["text", "label", "dropped"]
    reason: str
    before: str
    after: str


def clean(examples: Examples) -> tuple[Examples, list[Change]]:
    """The examples that remain, and every change; dropped and remaining rows are all there were.

    Of rows with equal text and label the first stays; of equal texts under several labels those
    under the commonest label, or none if no label is.
    """
    changes: list[Change] = []
    texts = _texts(examples.texts, changes)
    labels = _labels(examples.labels, changes)
    dropped = _dropped(texts, labels)
    for row, reason in sorted(dropped.items()):
        changes.append(Change(row + 1, "dropped", reason, examples.texts[row], ""))
    kept = [row for row in range(len(examples)) if row not in dropped]
    mended = replace(examples, texts=texts, labels=labels)
    return mended.take(kept), sorted(changes, key=lambda change: change.row)


def write_examples(examples: Examples, path: Path) -> None:
    """Write text, label and the columns carried along as CSV, TSV or JSON Lines, by the name.

    Raises:
        ConfigError: another suffix. DataError: the file cannot be written.
    """
    names = ["text", "label", *examples.columns]
    rows = zip(examples.texts, examples.labels, *examples.columns.values(), strict=True)
    write_table(path, names, rows)


def write_changes(changes: Sequence[Change], path: Path) -> None:
    """Write what was changed, one row a change, as ``write_examples`` does."""
    names = ["row", "action", "reason", "before", "after"]
    rows = ((c.row, c.action, c.reason, c.before, c.after) for c in changes)
    write_table(path, names, rows)


def check_target(path: Path) -> Path:
    """The path, if it has a suffix that can be written.

    Raises:
        ConfigError: it has not.
    """
    if path.suffix.lower() not in _SUFFIXES:
        raise ConfigError(f"{path}: name a file that ends in {', '.join(_SUFFIXES)}")
    return path


def _texts(texts: Sequence[str], changes: list[Change]) -> list[str]:
    done = []
    for row, text in enumerate(texts):
        mended, names = repaired(text)
        if names:
            changes.append(Change(row + 1, "text", ", ".join(names), text, mended))
        done.append(mended)
    return done


def _labels(labels: Sequence[Label], changes: list[Change]) -> list[Label]:
    """Labels without blanks around them; of those that differ by case, the commonest."""
    trimmed = [" ".join(label.split()) if isinstance(label, str) else label for label in labels]
    counts = Counter(label for label in trimmed if isinstance(label, str))
    commonest: dict[str, str] = {}
    for name, _ in counts.most_common():
        commonest.setdefault(name.casefold(), name)
    done: list[Label] = []
    for row, (old, label) in enumerate(zip(labels, trimmed, strict=True)):
        new: Label = label
        if isinstance(label, str):
            new = commonest[label.casefold()]
        if new != old:
            changes.append(Change(row + 1, "label", "case or blanks", str(old), str(new)))
        done.append(new)
    return done


def _dropped(texts: Sequence[str], labels: Sequence[Label]) -> dict[int, str]:
    dropped: dict[int, str] = {}
    counts: dict[str, Counter[Label]] = defaultdict(Counter)
    first: dict[tuple[str, Label], int] = {}
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if not text.strip():
            dropped[row] = "no text"
        elif not str(label).strip():
            dropped[row] = "no label"
        else:
            counts[text][label] += 1
            original = first.setdefault((text, label), row)
            if original != row:
                dropped[row] = f"repeats row {original + 1}"
    for row, (text, label) in enumerate(zip(texts, labels, strict=True)):
        if row not in dropped and len(counts[text]) > 1:
            (best, most), (_, next_most) = counts[text].most_common(2)
            if most == next_most or label != best:
                others = ", ".join(str(other) for other in counts[text] if other != label)
                dropped[row] = f"the same text stands under {others}"
    return dropped


def write_table(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as CSV, TSV or JSON Lines, by the name; whole or not at all.

    Raises:
        ConfigError: another suffix. DataError: the file cannot be written.
    """
    check_target(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
                _write_rows(file, path.suffix.lower(), names, rows)
            os.chmod(name, 0o644)  # mkstemp gives 0600
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None


def _write_rows(
    file: IO[str], suffix: str, names: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    if suffix == ".jsonl":
        for row in rows:
            record = dict(zip(names, row, strict=True))
            file.write(json.dumps(record, ensure_ascii=False, default=str) + "\n")
        return
    # All quoted: the writer leaves a lone carriage return bare, and a TSV that is quoted throughout
    # is read as one.
    delimiter = "\t" if suffix == ".tsv" else ","
    writer = csv.writer(file, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(names)
    writer.writerows(rows)
