"""A file of texts in, the same rows with predictions out: CSV, TSV or JSON Lines.

The upload is kept in a temporary file without a name (in memory while small), read once to see
that every row can be used, and again, part by part, while the answer is written. So what is wrong
with a row is said, by its number, before the answer begins, and a client that reads nothing until
it has sent everything is no deadlock. Knows no models.
"""

from __future__ import annotations

import csv
import io
import json
import tempfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

from lastblock.config import DEFAULT_SEPARATOR
from lastblock.data.table import TEXT_NAMES
from lastblock.serving.refusal import Refusal

IN_MEMORY = 1_000_000
DELIMITERS = {"text/csv": ",", "text/tab-separated-values": "\t"}
JSON_LINES = ("application/x-ndjson", "application/jsonl", "application/json-lines")

Row = dict[str, Any]


@dataclass(frozen=True)
class Upload:
    """A file that was sent, checked, ready to be read row by row."""

    file: IO[bytes]
    media_type: str
    text_column: str
    columns: list[str]
    added: list[str]
    rows: int

    def parts(self, size: int) -> Iterator[list[Row]]:
        """Its rows, ``size`` at a time."""
        part: list[Row] = []
        for row in _rows(self.file, self.media_type):
            part.append(row)
            if len(part) == size:
                yield part
                part = []
        if part:
            yield part

    @property
    def header(self) -> str:
        """What stands before the first row."""
        return self._line([*self.columns, *self.added]) if self.media_type in DELIMITERS else ""

    def write(self, row: Row, prediction: Mapping[str, Any]) -> str:
        """A row with its prediction, as one line."""
        if self.media_type not in DELIMITERS:
            return _json_line({**row, self.added[0]: prediction})
        numbers = [prediction["probability"], *prediction["probabilities"].values()]
        written = [f"{number:.6f}" for number in numbers]
        labels = [prediction["label"]] if prediction["unsure"] else prediction["labels"]
        return self._line([*row.values(), DEFAULT_SEPARATOR.join(map(str, labels)), *written])

    def _line(self, cells: Sequence[Any]) -> str:
        line = io.StringIO()
        csv.writer(line, delimiter=DELIMITERS[self.media_type], lineterminator="\n").writerow(cells)
        return line.getvalue()


def media_type_of(content_type: str) -> str:
    """The type without its parameters.

    Raises:
        Refusal: 415 if it is none of ours.
    """
    media_type = content_type.partition(";")[0].strip().lower()
    if media_type not in (*DELIMITERS, *JSON_LINES):
        known = ", ".join([*DELIMITERS, JSON_LINES[0]])
        raise Refusal(415, "media_type", f"send the file with a Content-Type of: {known}")
    return media_type


async def receive(chunks: AsyncIterator[bytes]) -> IO[bytes]:
    """The whole body, in a temporary file that is gone when it is closed."""
    file = tempfile.SpooledTemporaryFile(max_size=IN_MEMORY)  # noqa: SIM115
    try:
        async for chunk in chunks:
            file.write(chunk)
    except BaseException:
        file.close()
        raise
    return file


def check(
    file: IO[bytes],
    media_type: str,
    text_column: str | None,
    max_characters: int,
    classes: Sequence[str],
) -> Upload:
    """Read every row once; ``classes`` name columns that the answer adds.

    Raises:
        Refusal: 422 that names the row and what is wrong with it.
    """
    columns: list[str] = []
    added = ["prediction"]
    if media_type in DELIMITERS:
        added = ["predicted_label", "probability", *(f"probability_{c}" for c in classes)]
    column, count = "", 0
    for row in _rows(file, media_type):
        count += 1
        if not columns:
            columns = list(row)
            column = _find_column(columns, text_column)
        if taken := row.keys() & added:
            raise _bad(f"row {count}: the answer adds {min(taken)!r}; rename the one that is there")
        check_text(row.get(column), f"row {count}, column {column!r}", max_characters)
    if count == 0:
        raise _bad("the file holds no rows (CSV and TSV need a first line that names columns)")
    return Upload(file, media_type, column, columns, added, count)


def check_text(text: Any, place: str, max_characters: int) -> None:
    """Refuse, with 422, what no model can read.

    Raises:
        Refusal: it names the place, never the text.
    """
    if not isinstance(text, str):
        raise _bad(f"{place}: is missing or no string")
    if len(text) > max_characters:
        raise _bad(f"{place}: has {len(text):,} characters; at most {max_characters:,} are taken")
    if "\0" in text:
        raise _bad(f"{place}: holds a NUL character; remove it")
    if not text.strip():
        raise _bad(f"{place}: is blank; give it some words")
    if not _is_utf8(text):
        raise _bad(f"{place}: holds half of a surrogate pair; remove it")


def _rows(file: IO[bytes], media_type: str) -> Iterator[Row]:
    with _as_text(file) as text:
        try:
            if media_type in DELIMITERS:
                yield from _delimited_rows(text, DELIMITERS[media_type])
            else:
                yield from _json_rows(text)
        except UnicodeDecodeError:
            raise _bad("the file is not UTF-8; save it as UTF-8") from None


def _delimited_rows(text: IO[str], delimiter: str) -> Iterator[Row]:
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    number = 0
    try:
        columns = next(reader, [])
        if len(set(columns)) < len(columns):
            raise _bad("two columns of the file have the same name; rename one")
        for number, cells in enumerate(filter(None, reader), 1):
            if len(cells) != len(columns):
                raise _bad(f"row {number}: has {len(cells)} columns, the header {len(columns)}")
            yield dict(zip(columns, cells, strict=True))
    except csv.Error:
        raise _bad(f"row {number + 1}: is no CSV (RFC 4180); mind its quotation marks") from None


def _json_rows(text: IO[str]) -> Iterator[Row]:
    for number, line in enumerate(filter(str.strip, text), 1):
        try:
            row = json.loads(line, parse_constant=_refuse_constant)
        except (ValueError, RecursionError):
            raise _bad(f"row {number}: is no JSON; give one object a line") from None
        if not isinstance(row, dict):
            raise _bad(f"row {number}: is no JSON object")
        yield row


def _refuse_constant(_: str) -> None:
    raise ValueError("NaN and infinities are no JSON")


def _find_column(columns: Sequence[str], given: str | None) -> str:
    if given is not None:
        if given not in columns:
            raise _bad(f"the file has no column {given!r}; it has: {', '.join(columns[:20])}")
        return given
    by_name = {column.strip().lower(): column for column in reversed(columns)}
    for name in TEXT_NAMES:
        if name in by_name:
            return by_name[name]
    if len(columns) == 1:
        return columns[0]
    raise _bad(f"which column holds the texts? Give text_column; {', '.join(columns[:20])}")


@contextmanager
def _as_text(file: IO[bytes]) -> Iterator[IO[str]]:
    """The file as text from its beginning; it stays open."""
    file.seek(0)
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield text
    finally:
        text.detach()


def _json_line(row: Row) -> str:
    line = json.dumps(row, ensure_ascii=False) + "\n"
    # Half a surrogate pair, in a value that is not the text, can only be written escaped.
    return line if line.isascii() or _is_utf8(line) else json.dumps(row) + "\n"


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(message: str) -> Refusal:
    return Refusal(422, "bad_text", message)
