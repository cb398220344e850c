"""Texts of a file too large to hold: read part by part, as ``readers`` reads them whole.

CSV, TSV, JSON Lines and Parquet files, packed by gzip or not. What the readers find out from the
whole of a file (separator, header, quotation marks, the text column) is found out from its first
rows here. Imports no torch.
"""

from __future__ import annotations

import gzip
import io
import itertools
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from lastblock.config import ReadOptions
from lastblock.data.delimited import stream_delimited
from lastblock.data.readers import (
    BINARY,
    DELIMITED,
    GZIP,
    JSON_LINES,
    parse_object,
    read_texts,
    suffix_of,
    table_of_records,
)
from lastblock.data.table import Table, find_column, to_texts
from lastblock.errors import DataError

# Files up to this size are read whole: more is known of them than of a part.
WHOLE_BYTES = 32 << 20
PART_ROWS = 512  # some seconds of a model's work
PARQUET_ROWS = 1 << 16  # a row group is unpacked anew for each


class Texts:
    """Texts that can be read again and again, part by part; counted, and so checked, at once."""

    def __init__(self, read: Callable[[], Iterable[str]]) -> None:
        self._read = read
        self._count = sum(1 for _ in read())

    def __len__(self) -> int:
        return self._count

    def parts(self, start: int = 0) -> Iterator[list[str]]:
        """The texts from ``start`` on, ``PART_ROWS`` at a time; the last part may be shorter."""
        each = itertools.islice(self._read(), start, None)
        while part := list(itertools.islice(each, PART_ROWS)):
            yield part


def open_texts(
    path: str | Path, *, text_column: str | None = None, options: ReadOptions | None = None
) -> Texts:
    """The texts that ``read_texts`` reads, of a large file without holding them.

    A large file is read once here, so that what is wrong in its last row is told before its first
    is worked on.

    Raises:
        DataError: as ``read_texts``.
    """
    options = options or ReadOptions()
    path = Path(path)
    if not _is_large(path):
        texts = read_texts(path, text_column=text_column, options=options)
        return Texts(lambda: texts)
    named = text_column is not None
    return Texts(
        lambda: itertools.chain.from_iterable(
            _texts(_tables(path, options, named=named), text_column)
        )
    )


def _is_large(path: Path) -> bool:
    streamed = (*DELIMITED, *JSON_LINES, ".parquet")
    if suffix_of(path) not in streamed or path.suffix.lower() == ".zst":
        return False
    return path.is_file() and os.path.getsize(path) > WHOLE_BYTES


def _texts(tables: Iterable[Table], text_column: str | None) -> Iterator[list[str]]:
    """The column is found in the first part, and has its name in the others."""
    for table in tables:
        if text_column is None:
            text_column = table.columns[find_column(table, None, "text")]
        yield to_texts(table, text_column)


def _tables(path: Path, options: ReadOptions, *, named: bool) -> Iterator[Table]:
    suffix = suffix_of(path)
    if suffix in BINARY:
        yield from _parquet(path)
        return
    source = str(path)
    with _opened(path) as binary:
        # What cannot be decoded is an error here: to guess an encoding takes the whole file.
        encoding = options.encoding or "utf-8-sig"
        newline = "\n" if suffix in JSON_LINES else ""
        with io.TextIOWrapper(binary, encoding=encoding, newline=newline) as file:
            try:
                if suffix in JSON_LINES:
                    yield from _json_lines(source, file)
                else:
                    yield from stream_delimited(
                        source,
                        file,
                        options,
                        tabs=suffix != ".csv",
                        named=named,
                        rows=PART_ROWS,
                    )
            except UnicodeError as error:
                name, reason = encoding.removesuffix("-sig"), getattr(error, "reason", error)
                raise DataError(
                    f"{source} is not {name} ({reason}); save it as UTF-8 or give --encoding"
                ) from None
            except (gzip.BadGzipFile, EOFError, zlib.error) as error:
                raise DataError(
                    f"{source}: the gzip file is damaged or cut off ({error}); fetch it again"
                ) from None


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == GZIP
    return gzip.open(path) if packed else path.open("rb")  # type: ignore[return-value]


def _json_lines(source: str, file: IO[str]) -> Iterator[Table]:
    numbered = ((number, line) for number, line in enumerate(file, 1) if line.strip())
    first = 0
    while part := list(itertools.islice(numbered, PART_ROWS)):
        lines = [number for number, _ in part]
        records = [parse_object(f"{source}, line {number}", line) for number, line in part]

        def place(row: int, first: int = first, lines: list[int] = lines) -> str:
            return f"{first + row + 1} (line {lines[row]})"

        yield table_of_records(source, records, place)
        first += len(part)


def _parquet(path: Path) -> Iterator[Table]:
    import polars

    source = str(path)
    try:
        total = polars.scan_parquet(path).select(polars.len()).collect().item()
        for first in range(0, total, PARQUET_ROWS):
            frame = polars.scan_parquet(path).slice(first, PARQUET_ROWS).collect()

            def place(row: int, first: int = first) -> str:
                return str(first + row + 1)

            cells: list[Any] = frame.get_columns()
            yield Table(source, frame.columns, cells, place)
    except (polars.exceptions.PolarsError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise DataError(
            f"{source} cannot be read as Parquet: {reason}; it is damaged or of another format, "
            "write it again"
        ) from None
