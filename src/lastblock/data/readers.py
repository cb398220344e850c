"""Read labelled texts from a CSV or TSV file with a header: all of it, or an error that says where.

CSV is RFC 4180. The standard library's parser is used rather than a faster one because it can say
in which line a row starts, and takes no row with too few columns for a row with missing values.
Knows no catalog and judges no class counts. Imports no torch.
"""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lastblock.data.examples import Examples, Label
from lastblock.errors import DataError

TEXT_NAMES = (
    *("text", "message", "sentence", "content", "review", "body", "comment", "document", "tweet"),
    *("question", "utterance", "query", "post", "sms", "email", "description", "texts"),
)
LABEL_NAMES = (
    *("label", "class", "category", "target", "intent", "sentiment", "topic", "emotion", "tag"),
    *("rating", "labels"),
)
_TABLE_SUFFIXES = (".csv", ".tsv", ".tab")
_MOST_SHOWN = 5


@dataclass(frozen=True)
class _Table:
    source: str
    columns: list[str]
    rows: list[list[str]]
    lines: list[int]  # the line of the file in which each row starts, from 1
    notes: tuple[str, ...] = ()

    def place(self, row: int) -> str:
        return f"{row + 1} (line {self.lines[row]})"


def read_examples(
    path: str | Path, *, text_column: str | None = None, label_column: str | None = None
) -> Examples:
    """Read a CSV or TSV file with a header.

    Columns that are not named are found by well-known names (``text``, ``message``, ...; ``label``,
    ``class``, ...; capitals do not matter). Labels are kept as the strings they are. Row numbers in
    messages count from 1 without the header.

    Raises:
        DataError: the file is missing, empty, not UTF-8 or has no header; a column is missing; a
            row has too many or too few columns; a text or label is empty.
    """
    table = _read_table(Path(path))
    text = _find_column(table, text_column, TEXT_NAMES, "text")
    label = _find_column(table, label_column, LABEL_NAMES, "label")
    if text == label:
        raise DataError(
            f"{table.source}: column {table.columns[text]!r} cannot be both text and label; "
            "name another with --text-column or --label-column"
        )
    labels: list[Label] = [*_cells(table, label, "label")]
    notes = table.notes
    if text_column is None or label_column is None:
        found = f"column {table.columns[text]!r} as text and {table.columns[label]!r} as label"
        notes = (*notes, f"{table.source}: read {found}.")
    return Examples(_cells(table, text, "text"), labels, table.source, notes)


def read_texts(path: str | Path, *, text_column: str | None = None) -> list[str]:
    """Read texts to predict: a column of a CSV or TSV file, else one text a line; ``-`` is stdin.

    A file that is not called .csv, .tsv or .tab, and standard input, hold one text a line unless
    ``text_column`` is given.

    Raises:
        DataError: as ``read_examples``.
    """
    source = "standard input" if str(path) == "-" else str(path)
    if text_column is not None or Path(path).suffix.lower() in _TABLE_SUFFIXES:
        table = _read_table(Path(path))
        return _cells(table, _find_column(table, text_column, TEXT_NAMES, "text"), "text")
    text = _decode(source, _read_bytes(Path(path)))
    lines = [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
    while lines and not lines[-1].strip():
        lines.pop()
    _refuse_empty(source, [f"{n}" for n, line in enumerate(lines, 1) if not line.strip()], "line")
    return lines


def read_unquoted(path: Path, source: str) -> Examples:
    """Read ``label<TAB>text`` lines with no header, where a quotation mark is a letter like others.

    Raises:
        DataError: a line has no or several tabs, or the file cannot be read.
    """
    text = _decode(source, _read_bytes(path))
    rows, lines = _parse(source, text, "\t", quoted=False)
    _refuse_ragged(source, 2, rows, lines)
    table = _Table(source, ["label", "text"], rows, lines)
    labels: list[Label] = [*_cells(table, 0, "label")]
    return Examples(_cells(table, 1, "text"), labels, source)


def _read_table(path: Path) -> _Table:
    source = "standard input" if str(path) == "-" else str(path)
    text = _decode(source, _read_bytes(path))
    delimiter = _find_delimiter(path, text)
    table = _read_tabbed(source, text) if delimiter == "\t" else _to_table(source, text, delimiter)
    if path.suffix.lower() == ".csv" and delimiter != ",":
        table = _noted(table, f"read as separated by {delimiter!r}, as its header is.")
    if not table.rows:
        raise DataError(
            f"{source}: a header ({_listed(table.columns)}) and no rows; add rows below it"
        )
    return table


def _read_bytes(path: Path) -> bytes:
    if str(path) == "-":
        return sys.stdin.buffer.read()
    if os.path.isdir(path):
        raise DataError(f"{path} is a folder; name a CSV or TSV file in it")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name and the folder") from None
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"{path}: cannot be read ({reason}); check name and permissions") from None


def _decode(source: str, data: bytes) -> str:
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(
            f"{source} is UTF-16, not UTF-8; save it as UTF-8 (iconv -f UTF-16 -t UTF-8)"
        )
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The codec counts from after a byte-order mark.
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        raise DataError(
            f"{source} is not UTF-8: byte 0x{data[at]:02x} at offset {at} "
            f"(line {_line_of(data, at)}); save it as UTF-8 (often: iconv -f WINDOWS-1252 -t UTF-8)"
        ) from None
    if not text.strip():
        raise DataError(f"{source} is empty; it must hold a header and rows of texts and labels")
    if "\0" in text:
        at = data.index(b"\0")
        raise DataError(
            f"{source}: a NUL byte at offset {at} (line {_line_of(data, at)}); it is no text file, "
            "or is damaged: save it as UTF-8 text"
        )
    return text


def _line_of(data: bytes, offset: int) -> int:
    return data.count(b"\n", 0, offset) + 1


def _find_delimiter(path: Path, text: str) -> str:
    """Tab by the file's name; else what separates the header into most columns, comma first."""
    if path.suffix.lower() in (".tsv", ".tab"):
        return "\t"
    header = io.StringIO(text.lstrip("\r\n"), newline="").readline()
    return max(",\t;|", key=lambda delimiter: len(header.split(delimiter)))


def _read_tabbed(source: str, text: str) -> _Table:
    """A tab-separated file, which may or may not use quotation marks as CSV does.

    They are letters if every line by itself has the header's columns while reading them as CSV
    does would fail or join lines; that is how a message that opens a quotation and never closes it
    swallows its neighbours.
    """
    literal = _try_table(source, text, quoted=False)
    quoted = _try_table(source, text, quoted=True)
    if isinstance(quoted, DataError):
        if isinstance(literal, DataError):
            raise literal
        return _noted(literal, "quotation marks were read as part of the text.")
    if isinstance(literal, DataError):
        return _noted(quoted, "quotation marks around a field were taken off, as in CSV.")
    if (literal.columns, literal.rows) == (quoted.columns, quoted.rows):
        return literal
    if len(literal.rows) != len(quoted.rows):
        return _noted(literal, "quotation marks were read as part of the text, one row a line.")
    return _noted(quoted, "quotation marks around a field were taken off, as in CSV.")


def _try_table(source: str, text: str, *, quoted: bool) -> _Table | DataError:
    try:
        return _to_table(source, text, "\t", quoted=quoted)
    except DataError as error:
        return error


def _noted(table: _Table, note: str) -> _Table:
    return replace(table, notes=(*table.notes, f"{table.source}: {note}"))


def _to_table(source: str, text: str, delimiter: str, *, quoted: bool = True) -> _Table:
    rows, lines = _parse(source, text, delimiter, quoted=quoted)
    header = [name.strip() for name in rows[0]]
    _refuse_ragged(source, len(header), rows[1:], lines[1:])
    return _Table(source, header, rows[1:], lines[1:])


def _parse(
    source: str, text: str, delimiter: str, *, quoted: bool
) -> tuple[list[list[str]], list[int]]:
    """All rows that are not blank lines, and the line where each starts."""
    rows: list[list[str]] = []
    lines: list[int] = []
    start = 1
    limit = csv.field_size_limit(2**31 - 1)  # the default refuses a text of 131,073 characters
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""),
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        for row in reader:
            if row:
                rows.append(row)
                lines.append(start)
            start = reader.line_num + 1
    except csv.Error as error:
        reason = "a quotation mark is opened here and never closed"
        if "expected after" in str(error):
            reason = "something follows a closing quotation mark"
        raise DataError(
            f"{source}, row {len(rows)} (line {start}): {reason}; in a quoted field a "
            'quotation mark is written twice ("")'
        ) from None
    finally:
        csv.field_size_limit(limit)
    return rows, lines


def _refuse_ragged(source: str, width: int, rows: Sequence[list[str]], lines: list[int]) -> None:
    bad = [index for index, row in enumerate(rows) if len(row) != width]
    if bad:
        first = bad[0]
        more = f" (and {len(bad) - 1} more such rows)" if len(bad) > 1 else ""
        raise DataError(
            f"{source}, row {first + 1} (line {lines[first]}): {_columns(len(rows[first]))} where "
            f"{width} are expected{more}; put quotation marks around texts that contain the "
            "separator, or mend the row"
        )


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"


def _find_column(table: _Table, given: str | None, known: Sequence[str], kind: str) -> int:
    """The position of the column called ``given``, or of the first that is called by a known name.

    Capitals do not matter, unless that makes ``given`` ambiguous.
    """
    folded = [name.casefold() for name in table.columns]
    if given is not None and given in table.columns:
        return _only(table, table.columns, given)
    for name in known if given is None else (given.casefold(),):
        if name in folded:
            return _only(table, folded, name)
    if given is None and _looks_like_data(table):
        raise DataError(
            f"{table.source} has no header: its first line is {_listed(table.columns)}; "
            "put a line with the names of the columns on top, such as text and label"
        )
    wanted = f"no column {given!r}" if given is not None else f"no {kind} column found by name"
    raise DataError(
        f"{table.source}: {wanted}; the columns are {_listed(table.columns)}: "
        f"name one with --{kind}-column"
    )


def _only(table: _Table, names: list[str], name: str) -> int:
    if names.count(name) > 1:
        raise DataError(
            f"{table.source}: {names.count(name)} columns are called {name!r}; rename all but one"
        )
    return names.index(name)


def _looks_like_data(table: _Table) -> bool:
    """Whether the first line can hardly be names: a long one, a number, or a value that recurs."""
    below = table.rows[:1000]
    return any(
        len(name) > 40
        or name.replace(".", "", 1).isdigit()
        or (name and any(row[column] == name for row in below))
        for column, name in enumerate(table.columns)
    )


def _listed(names: Sequence[str]) -> str:
    shown = [repr(name if len(name) <= 40 else name[:37] + "...") for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def _cells(table: _Table, column: int, kind: str) -> list[str]:
    """One column's cells, none of them empty."""
    cells = [row[column] for row in table.rows]
    empty = [table.place(row) for row, cell in enumerate(cells) if not cell.strip()]
    _refuse_empty(f"{table.source}, column {table.columns[column]!r}", empty, "row", kind)
    return cells


def _refuse_empty(where: str, places: list[str], unit: str, kind: str = "text") -> None:
    if places:
        count = f"1 {kind} is empty" if len(places) == 1 else f"{len(places)} {kind}s are empty"
        units = unit if len(places) == 1 else unit + "s"
        more = ", ..." if len(places) > _MOST_SHOWN else ""
        raise DataError(
            f"{where}: {count}, in {units} {', '.join(places[:_MOST_SHOWN])}{more}; "
            f"fill in or delete {'it' if len(places) == 1 else 'them'}"
        )
