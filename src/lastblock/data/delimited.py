"""Text files with one row a line: bytes to text, text to a table, or an error that says where.

CSV is RFC 4180. The standard library's parser is used rather than a faster one because it can say
in which line a row starts, and takes no row with too few columns for a row with missing values.
Knows no paths and no labels. Imports no torch.
"""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO

from lastblock.config import ReadOptions
from lastblock.data.table import LABEL_NAMES, TEXT_NAMES, Table, content_tells, listed
from lastblock.errors import DataError

_MARKS = {
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_MOST_FIELD = 2**31 - 1
_HEAD = 1 << 20  # characters of a large file that tell what it is like
_PIECE = 1 << 20


def decode(source: str, data: bytes, encoding: str | None = None) -> tuple[str, list[str]]:
    """The text, and sentences about the encoding if it is not UTF-8.

    Raises:
        DataError: the bytes are of no known encoding, or there is no text.
    """
    text, notes = _decoded(source, data, encoding)
    if not text.strip():
        raise DataError(f"{source} is empty; it must hold a header and rows of texts and labels")
    if "\0" in text:
        at = text.index("\0")
        line = text.count("\n", 0, at) + 1
        at = len(text[:at].encode()) if data[:1] != b"\xef" else len(text[:at].encode()) + 3
        raise DataError(
            f"{source}: a NUL byte at offset {at} (line {line}); it is no text file, "
            "or is damaged: save it as UTF-8 text"
        )
    return text, notes


def read_delimited(
    source: str,
    text: str,
    options: ReadOptions,
    *,
    tabs: bool = False,
    commas: bool = False,
    named: bool = False,
) -> Table:
    """A table of text with a header (or without, if it is found to have none).

    ``tabs``, ``commas``: the file's name says that tabs or commas separate. ``named``: the user
    named columns, so there is a header.

    Raises:
        DataError: rows of unequal length, or quotation marks that do not match.
    """
    delimiter = {"tab": "\t"}.get(options.delimiter or "", options.delimiter)
    found = delimiter or _find_delimiter(text, tabs)
    if options.quoting is None and found == "\t":
        parsed = _parse_tabbed(source, text)
    else:
        parsed = _parse(source, text, found, quoted=options.quoting is not False)
    table = _with_header(source, parsed, options, named)
    if delimiter is None and commas and found != ",":
        table = table.noted(f"read as separated by {found!r}, as its first line is.")
    return table


def stream_delimited(
    source: str,
    file: IO[str],
    options: ReadOptions,
    *,
    tabs: bool = False,
    named: bool = False,
    rows: int = 1000,
) -> Iterator[Table]:
    """What ``read_delimited`` reads, ``rows`` rows at a time, with the same names and places.

    What is found out from the text is found out from its beginning. ``file`` is open with
    ``newline=""`` and can be read from its beginning again.

    Raises:
        DataError: as ``read_delimited``, when the row is reached.
    """
    head = file.read(_HEAD)
    file.seek(0)
    found = {"tab": "\t"}.get(options.delimiter or "", options.delimiter)
    found = found or _find_delimiter(head, tabs)
    quoted = options.quoting is not False
    if options.quoting is None and found == "\t":
        quoted = _parse_tabbed(source, head[: head.rfind("\n") + 1]).quoted
    records = _records(source, _without_nul(source, file), found, quoted=quoted)
    first = list(itertools.islice(records, rows + 1))
    if not first:
        raise DataError(f"{source} is empty; it must hold a header and rows of texts")
    width = len(first[0][0])
    _refuse_ragged(source, width, [row for row, _ in first[1:]], [line for _, line in first[1:]])
    parsed = _Parsed([row for row, _ in first], [line for _, line in first], quoted)
    table = _with_header(source, parsed, options, named)
    yield table
    before, columns = len(table), table.columns
    while part := list(itertools.islice(records, rows)):
        cells, lines = [row for row, _ in part], [line for _, line in part]
        _refuse_ragged(source, width, cells, lines, before)

        def place(row: int, before: int = before, lines: list[int] = lines) -> str:
            return f"{before + row + 1} (line {lines[row]})"

        yield Table(source, columns, [*zip(*cells, strict=True)], place)
        before += len(part)


def read_pairs(source: str, text: str) -> Table:
    """``label<TAB>text`` lines with no header, where a quotation mark is a letter like others."""
    parsed = _parse(source, text, "\t", quoted=False, width=2)
    return replace(parsed.table(source, header=False), columns=["label", "text"])


@dataclass(frozen=True)
class _Parsed:
    """Rows of equal length, the line where each starts, and how quotation marks were read."""

    rows: list[list[str]]
    lines: list[int]
    quoted: bool
    note: str | None = None

    def table(self, source: str, *, header: bool = True) -> Table:
        skip = 1 if header else 0
        columns = [f"column {number}" for number in range(1, len(self.rows[0]) + 1)]
        if header:
            columns = [name.strip() for name in self.rows[0]]
        cells: list[Sequence[str]] = [*zip(*self.rows[skip:], strict=True)] or [()] * len(columns)

        def place(row: int) -> str:
            return f"{row + 1} (line {self.lines[row + skip]})"

        table = Table(source, columns, cells, place)
        return table.noted(self.note) if self.note else table


def _decoded(source: str, data: bytes, encoding: str | None) -> tuple[str, list[str]]:
    if encoding is not None:
        try:
            return data.decode(encoding).removeprefix("\ufeff"), []
        except UnicodeError as error:
            raise DataError(
                f"{source} is not {encoding}: {error}; give another --encoding"
            ) from None
    guess = next((name for mark, name in _MARKS.items() if data.startswith(mark)), None)
    guess = guess or _unmarked_utf16(data)
    if guess:
        try:
            return data.decode(guess), [f"read as {guess.upper()}, not UTF-8."]
        except UnicodeError as error:
            raise DataError(
                f"{source} begins as {guess.upper()} and does not go on so ({error}); it is cut "
                "off or damaged, fetch it again or give --encoding"
            ) from None
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError as error:
        # The codec counts from after a byte-order mark.
        at = error.start + (3 if data.startswith(b"\xef\xbb\xbf") else 0)
        return _not_utf8(source, data, at)


def _unmarked_utf16(data: bytes) -> str | None:
    """UTF-16 without a byte-order mark has a zero in every second byte of Latin text."""
    head = data[:4096]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if len(data) % 2 == 0 and max(even, odd) > len(head) / 4 and min(even, odd) < len(head) / 50:
        return "utf-16-le" if odd > even else "utf-16-be"
    return None


def _not_utf8(source: str, data: bytes, at: int) -> tuple[str, list[str]]:
    """Windows-1252, unless the file is UTF-8 with damage: then guessing would hide the damage."""
    line = data.count(b"\n", 0, at) + 1
    where = f"byte 0x{data[at]:02x} at offset {at} (line {line})"
    replaced = data.decode("utf-8", errors="replace")
    beyond_ascii = sum(map(len, re.findall("[^\x00-\x7f]+", replaced)))
    damaged = replaced.count("\ufffd")
    if beyond_ascii - damaged < damaged:
        try:
            text = data.decode("cp1252")
        except UnicodeDecodeError:
            pass
        else:
            return text, [
                f"not UTF-8 ({where}): read as Windows-1252; give --encoding if letters look wrong."
            ]
    raise DataError(
        f"{source} is not UTF-8: {where}; mend it there and save it as UTF-8, or give --encoding"
    )


def _find_delimiter(text: str, tabs: bool) -> str:
    """Tab by the file's name; else what separates the header into most columns, comma first."""
    if tabs:
        return "\t"
    header = next((line for line in _lines(text) if line.strip("\r\n")), "")
    return max(",\t;|", key=lambda delimiter: len(header.split(delimiter)))


def _parse_tabbed(source: str, text: str) -> _Parsed:
    """A tab-separated file, which may or may not use quotation marks as CSV does.

    They are letters if every line by itself has the header's columns while reading them as CSV
    does would fail or join lines; that is how a message that opens a quotation and never closes it
    swallows its neighbours.
    """
    literal = _try_parse(source, text, quoted=False)
    quoted = _try_parse(source, text, quoted=True)
    if isinstance(quoted, DataError):
        if isinstance(literal, DataError):
            raise literal
        return replace(literal, note="quotation marks were read as part of the text.")
    if isinstance(literal, DataError):
        return replace(quoted, note="quotation marks around a field were taken off, as in CSV.")
    if literal.rows == quoted.rows:
        return literal
    if len(literal.rows) != len(quoted.rows):
        lost = len(literal.rows) - len(quoted.rows)
        note = "quotation marks were read as part of the text, one row a line"
        return replace(
            literal, note=f"{note}; a reader that honours them finds {lost:,} rows fewer."
        )
    return replace(quoted, note="quotation marks around a field were taken off, as in CSV.")


def _lines(text: str) -> Iterator[str]:
    """The lines with their ends, of any kind.

    In pieces, since a StringIO holds what it is given once more, in four bytes a character.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start + _PIECE) + 1 or len(text)
        yield from io.StringIO(text[start:end], newline="")
        start = end


def _try_parse(source: str, text: str, *, quoted: bool) -> _Parsed | DataError:
    try:
        return _parse(source, text, "\t", quoted=quoted)
    except DataError as error:
        return error


def _parse(
    source: str, text: str, delimiter: str, *, quoted: bool, width: int | None = None
) -> _Parsed:
    """All rows that are not blank lines; each as long as the first, or ``width`` columns long."""
    records = list(_records(source, _lines(text), delimiter, quoted=quoted))
    rows, lines = [row for row, _ in records], [line for _, line in records]
    first = 0 if width else 1  # a header is not counted as a row
    _refuse_ragged(source, width or len(rows[0]), rows[first:], lines[first:])
    return _Parsed(rows, lines, quoted)


def _records(
    source: str, file: Iterable[str], delimiter: str, *, quoted: bool
) -> Iterator[tuple[list[str], int]]:
    """Rows that are not blank lines, and the line where each starts."""
    count, start = 0, 1
    limit = csv.field_size_limit(_MOST_FIELD)  # the default refuses 131,073 characters
    try:
        reader = csv.reader(
            file,
            delimiter=delimiter,
            quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE,
            strict=True,
        )
        for row in reader:
            if row:
                yield row, start
                count += 1
            start = reader.line_num + 1
    except csv.Error as error:
        reason = "a quotation mark is opened here and never closed"
        if "expected after" in str(error):
            reason = "something follows a closing quotation mark"
        raise DataError(
            f"{source}, row {count} (line {start}): {reason}; in a quoted field a "
            'quotation mark is written twice ("")'
        ) from None
    finally:
        csv.field_size_limit(limit)


def _with_header(source: str, parsed: _Parsed, options: ReadOptions, named: bool) -> Table:
    """The rows as a table, the first of them as names if it is a header."""
    if options.header is False:
        return parsed.table(source, header=False)
    table = parsed.table(source)
    if options.header is None and not named and _looks_like_data(table):
        table = parsed.table(source, header=False).noted(
            "it has no header: the first line was read as a row."
        )
        if not content_tells(table):
            raise DataError(
                f"{source} has no header: its first line is {listed(parsed.rows[0])}; put a line "
                "with the names of the columns on top, such as text and label"
            )
    return table


def _without_nul(source: str, file: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(file, 1):
        if "\0" in line:
            raise DataError(
                f"{source}: a NUL byte in line {number}; it is no text file, or is damaged: save "
                "it as UTF-8 text"
            )
        yield line


def _refuse_ragged(
    source: str, width: int, rows: Sequence[list[str]], lines: list[int], before: int = 0
) -> None:
    bad = [index for index, row in enumerate(rows) if len(row) != width]
    if bad:
        first = bad[0]
        more = f" (and {len(bad) - 1} more such rows)" if len(bad) > 1 else ""
        raise DataError(
            f"{source}, row {before + first + 1} (line {lines[first]}): "
            f"{_columns(len(rows[first]))} where {width} are expected{more}; put quotation marks "
            "around texts that contain the separator, or mend the row"
        )


def _columns(count: int) -> str:
    return "1 column" if count == 1 else f"{count} columns"


def _looks_like_data(table: Table) -> bool:
    """Whether the first line can hardly be names: a long one, a number, or a value that recurs.

    Known names are names; so are 0, 1, 2, ..., which pandas writes above columns without any.
    """
    names = [name.casefold() for name in table.columns]
    if {*names} & {*TEXT_NAMES, *LABEL_NAMES} or names == [str(i) for i in range(len(names))]:
        return False
    return any(
        len(name) > 40 or name.replace(".", "", 1).isdigit() or (name and name in cells[:1000])
        for name, cells in zip(table.columns, table.cells, strict=True)
    )
