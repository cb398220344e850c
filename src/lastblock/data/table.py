"""A table as it was read, whatever its format: columns become texts and labels here.

Finds the columns by name, then by content; joins several by a template; brings labels to strings or
whole numbers. Knows no file and no format. Imports no torch.
"""

from __future__ import annotations

import re
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lastblock.config import DEFAULT_SEPARATOR, NO_SEPARATOR, ReadOptions
from lastblock.data.examples import Examples, Label
from lastblock.data.label_sets import find_separator
from lastblock.errors import DataError

TEXT_NAMES = (
    *("text", "message", "sentence", "content", "review", "body", "comment", "document", "tweet"),
    *("question", "utterance", "query", "post", "sms", "email", "description", "texts"),
)
LABEL_NAMES = (
    *("label", "class", "category", "target", "intent", "sentiment", "topic", "emotion", "tag"),
    *("rating", "labels"),
)
_MOST_SHOWN = 5
_SAMPLE = 2000  # rows that are looked at to tell columns by their content
_FEWEST = 20  # rows below which content tells nothing
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_WHOLE_FLOAT = re.compile(r"[+-]?\d+\.0+")


@dataclass(frozen=True)
class Table:
    """Columns of equal length. ``place`` says where a row (from 0) stands, for messages."""

    source: str
    columns: list[str]
    cells: list[Sequence[Any]]
    place: Callable[[int], str]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.cells[0]) if self.cells else 0

    def values(self, column: int) -> list[Any]:
        """One column; what is missing (null, NaN) as ``None``."""
        cells: Any = self.cells[column]
        if hasattr(cells, "to_list"):  # a polars series: made into objects only where needed
            cells = cells.to_list()
        return [None if cell != cell else cell for cell in cells]

    def noted(self, note: str) -> Table:
        return replace(self, notes=(*self.notes, f"{self.source}: {note}"))


def concatenate(source: str, tables: Sequence[Table]) -> Table:
    """The rows of several tables with the same columns, one after the other.

    Raises:
        DataError: a table lacks a column of the first, or has another.
    """
    first = tables[0]
    for table in tables[1:]:
        different = sorted(set(table.columns) ^ set(first.columns))
        if different:
            raise DataError(
                f"{source}: {table.source} and {first.source} differ in the columns "
                f"{listed(different)}; give files with the same columns"
            )
    starts = [0]
    for table in tables:
        starts.append(starts[-1] + len(table))

    def place(row: int) -> str:
        index = max(i for i, start in enumerate(starts[:-1]) if start <= row)
        return f"{tables[index].place(row - starts[index])} of {tables[index].source}"

    cells: list[Sequence[Any]] = [
        [value for table in tables for value in table.values(table.columns.index(name))]
        for name in first.columns
    ]
    notes = dict.fromkeys(note for table in tables for note in table.notes)
    return Table(source, first.columns, cells, place, tuple(notes))


def to_examples(
    table: Table,
    text_column: str | None,
    label_column: str | None,
    options: ReadOptions,
    *,
    keep: Iterable[str] | None = (),
    keep_empty: bool = False,
) -> Examples:
    """The table's texts and labels.

    ``keep`` names more columns to carry along (None: all others). With ``keep_empty`` a missing
    text or label is an empty string; else it is an error.

    Raises:
        DataError: a column is missing, cannot be told, or does not hold what it should.
    """
    if not len(table):
        raise DataError(f"{table.source}: a header ({listed(table.columns)}) and no rows; add rows")
    label = find_column(table, label_column, "label", taken=_named(table, text_column))
    texts, used = _texts(table, text_column, keep_empty, taken={label})
    if label in used:
        raise DataError(
            f"{table.source}: column {table.columns[label]!r} cannot be both text and label; "
            "name another with --text-column or --label-column"
        )
    given = options.label_separator
    joins = DEFAULT_SEPARATOR if given is None or given == NO_SEPARATOR else given
    labels, note, lists = _labels(table, label, joins, keep_empty)
    separator = joins if lists or given == joins else None
    if given is None and not lists:
        separator, said = _find_separator(labels)
        note = note or said
    notes = table.notes
    if text_column is None or label_column is None:
        names = " and ".join(repr(table.columns[column]) for column in used)
        found = f"column {names} as text and {table.columns[label]!r} as label"
        notes = (*notes, f"{table.source}: read {found}.")
    if note:
        notes = (*notes, f"{table.source}: {note}")
    others = {*range(len(table.columns))} - {label, *used}
    if keep is None:
        wanted = {table.columns[column]: column for column in sorted(others)}
    else:
        wanted = {name: named_column(table, name, "") for name in keep}
    more = {name: table.values(column) for name, column in wanted.items()}
    return Examples(texts, labels, table.source, notes, columns=more, separator=separator)


def to_texts(table: Table, text_column: str | None) -> list[str]:
    """The table's texts alone, none of them empty."""
    return _texts(table, text_column, False)[0]


def find_column(table: Table, given: str | None, kind: str, taken: Iterable[int] = ()) -> int:
    """The position of the column called ``given``, else found by a well-known name or by content.

    Capitals do not matter, unless that makes ``given`` ambiguous. ``kind``: text or label.
    """
    if given is not None:
        return named_column(table, given, kind)
    folded = [name.casefold() for name in table.columns]
    for name in TEXT_NAMES if kind == "text" else LABEL_NAMES:
        if name in folded and folded.index(name) not in taken:
            return _only(table, folded, name)
    if kind == "text" and len(folded) == 1 and not taken:
        return 0
    candidates = [column for column in _by_content(table)[kind] if column not in taken]
    if len(candidates) == 1:
        return candidates[0]
    several = f" ({len(candidates)} could be it)" if candidates else ""
    raise DataError(
        f"{table.source}: no {kind} column found by name or content{several}; the columns are "
        f"{_described(table)}: name one with --{kind}-column"
    )


def named_column(table: Table, name: str, kind: str) -> int:
    """The position of the column of this name; capitals matter only where two differ by them."""
    if name in table.columns:
        return _only(table, table.columns, name)
    folded = [column.casefold() for column in table.columns]
    if name.casefold() in folded:
        return _only(table, folded, name.casefold())
    remedy = f": name one with --{kind}-column" if kind else "; name one of them"
    raise DataError(
        f"{table.source}: no column {name!r}; the columns are {_described(table)}{remedy}"
    )


def content_tells(table: Table) -> bool:
    """Whether text and label column can be told by what they hold."""
    found = _by_content(table)
    return len(found["text"]) == len(found["label"]) == 1


def listed(names: Sequence[str]) -> str:
    """Names for a message: quoted, the long cut, the many counted."""
    shown = [repr(_cut(name, 40)) for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def refuse_empty(where: str, places: Sequence[str], unit: str, kind: str = "text") -> None:
    """Raise if there are places where a text or label is empty, naming the first few."""
    if places:
        count = f"1 {kind} is empty" if len(places) == 1 else f"{len(places)} {kind}s are empty"
        units = unit if len(places) == 1 else unit + "s"
        more = ", ..." if len(places) > _MOST_SHOWN else ""
        raise DataError(
            f"{where}: {count}, in {units} {', '.join(places[:_MOST_SHOWN])}{more}; "
            f"fill in or delete {'it' if len(places) == 1 else 'them'}"
        )


def _only(table: Table, names: list[str], name: str) -> int:
    if names.count(name) > 1:
        raise DataError(
            f"{table.source}: {names.count(name)} columns are called {name!r}; rename all but one"
        )
    return names.index(name)


def _named(table: Table, text_column: str | None) -> set[int]:
    """Columns that are spoken for as text, so that they are not taken for the label."""
    names = _PLACEHOLDER.findall(text_column or "") or [text_column]
    return {table.columns.index(name) for name in names if name in table.columns}


def _by_content(table: Table) -> dict[str, list[int]]:
    """Columns that look like prose, and columns of few values that recur."""
    text, label = [], []
    for column in range(len(table.columns) if len(table) >= _FEWEST else 0):
        values = [value for value in table.values(column)[:_SAMPLE] if value is not None]
        if not values or not all(isinstance(value, str | int) for value in values):
            continue
        different = len(set(values))
        words = statistics.mean(len(str(value).split()) for value in values)
        if words >= 3 and different > len(values) / 2:
            text.append(column)
        elif 2 <= different <= max(2, len(values) // 5) and max(map(len, map(str, values))) <= 60:
            label.append(column)
    return {"text": text, "label": label}


def _described(table: Table) -> str:
    """The columns, each with three of its values."""
    shown = []
    for column, name in enumerate(table.columns[:20]):
        values = ", ".join(repr(_cut(value, 20)) for value in table.values(column)[:3])
        shown.append(f"{_cut(name, 40)!r} ({values})")
    more = f" and {len(table.columns) - 20} more" if len(table.columns) > 20 else ""
    return ", ".join(shown) + more


def _cut(value: Any, length: int) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    text = value if isinstance(value, str) else str(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def _texts(
    table: Table, given: str | None, keep_empty: bool, taken: Iterable[int] = ()
) -> tuple[list[str], list[int]]:
    """The texts and the columns that they were made of."""
    names = _PLACEHOLDER.findall(given or "")
    if given is None or given in table.columns or not names:
        column = find_column(table, given, "text", taken)
        texts = _strings(table, column)
        if not keep_empty:
            _refuse_empty_cells(table, column, texts, "text")
        return texts, [column]
    template = _PLACEHOLDER.split(given.replace("\\n", "\n").replace("\\t", "\t"))
    columns = [named_column(table, name, "text") for name in names]
    parts = [_strings(table, column) for column in columns]
    texts = [
        template[0] + "".join(a + b for a, b in zip(row, template[2::2], strict=True))
        for row in zip(*parts, strict=True)
    ]
    if not keep_empty:
        empty = [
            row for row, cells in enumerate(zip(*parts, strict=True)) if not "".join(cells).strip()
        ]
        refuse_empty(f"{table.source}, columns {listed(names)}", [*map(table.place, empty)], "row")
    return texts, columns


def _strings(table: Table, column: int) -> list[str]:
    values = table.values(column)
    for row, value in enumerate(values):
        if not isinstance(value, str | int | float | None):
            raise DataError(
                f"{table.source}, row {table.place(row)}, column {table.columns[column]!r}: "
                f"holds a {type(value).__name__}, not a text; name another with --text-column"
            )
    return [
        "" if value is None else value if isinstance(value, str) else str(value) for value in values
    ]


def _refuse_empty_cells(table: Table, column: int, cells: Sequence[Any], kind: str) -> None:
    empty = [
        table.place(row)
        for row, cell in enumerate(cells)
        if cell is None or (isinstance(cell, str) and not cell.strip())
    ]
    refuse_empty(f"{table.source}, column {table.columns[column]!r}", empty, "row", kind)


def _labels(
    table: Table, column: int, separator: str, keep_empty: bool
) -> tuple[list[Label], str | None, bool]:
    """Labels as strings or whole numbers, with a sentence if they were anything else.

    And whether they were lists, which ``separator`` now joins.
    """
    values = table.values(column)
    kinds = {type(value) for value in values} - {type(None)}
    note: str | None = None
    if not keep_empty:  # an empty list is an answer: none of the labels
        _refuse_empty_cells(table, column, values, "label")
    if list in kinds:
        values, note = _joined(table, column, values, separator)
    elif kinds == {bool}:
        values = [None if value is None else str(value).lower() for value in values]
        note = "labels are truth values, read as 'true' and 'false'."
    elif float in kinds and kinds <= {int, float}:
        values = [_whole(table, column, row, value) for row, value in enumerate(values)]
        note = "labels such as 1.0 were read as whole numbers."
    elif kinds == {str} and all(_WHOLE_FLOAT.fullmatch(value) for value in values if value):
        values = [value and value.split(".")[0] for value in values]
        note = "labels such as 1.0 were read as whole numbers."
    elif not kinds <= {str} and not kinds <= {int}:
        values = [None if value is None else str(value) for value in values]
        note = "labels of several kinds were read as strings."
    return ["" if value is None else value for value in values], note, list in kinds


def _find_separator(labels: Sequence[Label]) -> tuple[str | None, str | None]:
    """What joins several labels of a text, if something seems to, and a sentence about it."""
    separator = find_separator(labels)
    if separator is None:
        return None, None
    several = sum(separator in str(label) for label in labels)
    return separator, (
        f"{separator!r} joins several labels in {several:,} of {len(labels):,} rows, so a text may "
        f"have several (--label-separator {NO_SEPARATOR} if each is one label as it stands)."
    )


def _whole(table: Table, column: int, row: int, value: float | None) -> int | None:
    if value is None or isinstance(value, int) or value.is_integer():
        return None if value is None else int(value)
    raise DataError(
        f"{table.source}, row {table.place(row)}, column {table.columns[column]!r}: label "
        f"{value} is no whole number; labels are names or whole numbers: name another with "
        "--label-column"
    )


def _joined(
    table: Table, column: int, values: Sequence[Any], separator: str
) -> tuple[list[Any], str]:
    for row, value in enumerate(values):
        if any(separator in str(part) for part in value or ()):
            raise DataError(
                f"{table.source}, row {table.place(row)}, column {table.columns[column]!r}: a "
                f"label holds {separator!r}; give another --label-separator"
            )
    joined = [None if value is None else separator.join(map(str, value)) for value in values]
    return joined, f"lists of labels were joined with {separator!r}."
