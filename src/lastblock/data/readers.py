"""Read labelled texts from whatever holds them: all of it, or an error that says where.

Tables of text (CSV, TSV, JSON, JSON Lines) are read by the standard library, whose parsers can
name the line of an error; Parquet and Arrow files by polars. Knows no catalog and judges no class
counts. Imports no torch.
"""

from __future__ import annotations

import glob
import gzip
import io
import json
import os
import sys
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lastblock.config import ReadOptions
from lastblock.data.delimited import decode, read_delimited, read_pairs
from lastblock.data.examples import Examples
from lastblock.data.table import Table, concatenate, listed, refuse_empty, to_examples, to_texts
from lastblock.errors import DataError

DELIMITED = (".csv", ".tsv", ".tab")
JSON_LINES = (".jsonl", ".ndjson")
BINARY = {".parquet": "Parquet", ".arrow": "Arrow", ".feather": "Arrow", ".ipc": "Arrow"}
_TABLES = (*DELIMITED, *JSON_LINES, ".json", *BINARY)
_PACKED = (".gz", ".zst")
_BINARY_MARKS = (b"PAR1", b"ARROW1", b"\xff\xff\xff\xff")  # the last: an Arrow stream
GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_DEFAULTS = ReadOptions()


def read_examples(
    path: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    options: ReadOptions = _DEFAULTS,
    keep: Iterable[str] | None = (),
    keep_empty: bool = False,
) -> Examples:
    r"""Read the labelled texts of a file, a pattern of files, a folder, or standard input (``-``).

    Files are CSV, TSV, JSON, JSON Lines, Parquet or Arrow, text formats also packed by gzip or
    zstd. A folder holds one folder of text files a class, or tables of the same columns, or is what
    ``datasets`` saves to disk.

    Columns that are not named are found by well-known names (``text``, ``message``, ...; ``label``,
    ``class``, ...; capitals do not matter), then by content. ``text_column`` may be a template of
    several columns: ``{title}\n{body}``. Labels of text files are kept as the strings they are. Row
    numbers in messages count from 1 without the header. ``keep`` names more columns to carry along
    (None: all). With ``keep_empty`` a missing text or label is an empty string, else an error.

    Raises:
        DataError: the file is missing, empty, damaged or of no known encoding; a column is missing;
            a row has too many or too few columns; a text or label is empty.
    """
    table = read_table(path, options, named=text_column is not None or label_column is not None)
    return to_examples(table, text_column, label_column, options, keep=keep, keep_empty=keep_empty)


def read_texts(
    path: str | Path, *, text_column: str | None = None, options: ReadOptions = _DEFAULTS
) -> list[str]:
    """Read texts to predict: a column of a table, else one text a line; ``-`` is standard input.

    A file that is not called as a table is (.csv, .jsonl, .parquet, ...), and standard input, hold
    one text a line unless ``text_column`` or an option for tables is given. A folder is read as
    ``read_examples`` does.

    Raises:
        DataError: as ``read_examples``; and lines that are not UTF-8, unless an encoding is given.
    """
    for_tables = (text_column, options.delimiter, options.header, options.quoting)
    is_table = any(option is not None for option in for_tables)
    if is_table or suffix_of(Path(path)) in _TABLES or os.path.isdir(path):
        return to_texts(read_table(path, options, named=text_column is not None), text_column)
    source = _name(path)
    text, notes = decode(source, _read_bytes(Path(path)), options.encoding)
    if any("not UTF-8" in note for note in notes):
        raise DataError(f"{source} is not UTF-8; save it as UTF-8 or give its encoding")
    lines = [line.rstrip("\n") for line in io.StringIO(text, newline=None)]
    while lines and not lines[-1].strip():
        lines.pop()
    refuse_empty(source, [f"{n}" for n, line in enumerate(lines, 1) if not line.strip()], "line")
    return lines


def read_unquoted(path: Path, source: str) -> Examples:
    """Read ``label<TAB>text`` lines with no header, where a quotation mark is a letter like others.

    Raises:
        DataError: a line has no or several tabs, or the file cannot be read.
    """
    table = read_pairs(source, decode(source, _read_bytes(path), "utf-8")[0])
    return to_examples(table, "text", "label", _DEFAULTS)


def from_object(
    data: Any,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    options: ReadOptions = _DEFAULTS,
    keep: Iterable[str] | None = (),
    keep_empty: bool = False,
    source: str = "the data given",
) -> Examples:
    """Examples of a pandas or polars frame, a ``datasets`` dataset, or plain lists and dicts.

    Lists are of dicts, or of (text, label) pairs; a dict is of columns. None of those libraries is
    imported: what is asked of the object is that it has columns.

    Raises:
        DataError: it is none of these; else as ``read_examples``.
    """
    if isinstance(data, Examples):
        return data
    table = _table_of(data, source)
    return to_examples(table, text_column, label_column, options, keep=keep, keep_empty=keep_empty)


def read_table(path: str | Path, options: ReadOptions = _DEFAULTS, *, named: bool = False) -> Table:
    """The whole table that a path stands for; ``named``: its columns are known by name.

    Raises:
        DataError: it cannot be read.
    """
    path = Path(path)
    if os.path.isdir(path):
        return _read_folder(path, options, named)
    if glob.has_magic(str(path)) and not os.path.exists(path):
        found = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
        files = [file for file in found if file.is_file()]
        if not files:
            raise DataError(f"{path}: no file matches; check the folder and the pattern")
        return _read_files(str(path), files, options, named)
    return _read_file(path, options, named)


def _read_file(path: Path, options: ReadOptions, named: bool) -> Table:
    source, suffix = _name(path), suffix_of(path)
    data = _read_bytes(path)
    if suffix in BINARY or data.startswith(_BINARY_MARKS):
        return _read_binary(source, data)
    text, notes = decode(source, data, options.encoding)
    start = text.lstrip()[:1]
    if suffix == ".json" or (not suffix and start and start in "[{"):
        table = _read_json(source, text)
    elif suffix in JSON_LINES or (suffix not in DELIMITED and start == "{"):
        table = _read_json_lines(source, text)
    else:
        tabs, commas = suffix in (".tsv", ".tab"), suffix == ".csv"
        table = read_delimited(source, text, options, tabs=tabs, commas=commas, named=named)
    for note in notes:
        table = table.noted(note)
    return table


def _read_files(source: str, files: Sequence[Path], options: ReadOptions, named: bool) -> Table:
    tables = [_read_file(file, options, named) for file in files]
    table = concatenate(source, tables)
    return table.noted(f"read {len(files):,} files.") if len(files) > 1 else table


def _name(path: str | Path) -> str:
    return "standard input" if str(path) == "-" else str(path)


def suffix_of(path: Path) -> str:
    """The last suffix in lower case, not counting that of a packed file."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] in _PACKED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


def _read_bytes(path: Path) -> bytes:
    """What the file holds, unpacked if it is packed."""
    if str(path) == "-":
        data = sys.stdin.buffer.read()
    else:
        if os.path.isdir(path):
            raise DataError(f"{path} is a folder; name a file in it")
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; check the name and the folder") from None
        except OSError as error:
            reason = error.strerror or error
            raise DataError(
                f"{path}: cannot be read ({reason}); check name and permissions"
            ) from None
    if data.startswith(GZIP):
        return _unpack_gzip(_name(path), data)
    return _unpack_zstd(_name(path), data) if data.startswith(_ZSTD) else data


def _unpack_gzip(source: str, data: bytes) -> bytes:
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{source}: the gzip file is damaged or cut off ({error}); fetch it again"
        ) from None


def _unpack_zstd(source: str, data: bytes) -> bytes:
    """Python has zstd from 3.14 on; polars unpacks it, as lines of UTF-8 (so CRLF becomes LF)."""
    import polars

    try:
        lines = polars.read_lines(data).to_series().to_list()
    except (polars.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{source}: the zstd file is damaged, or no UTF-8 text ({_first_line(error)}); "
            "unpack it first (zstd -d) to see"
        ) from None
    return "\n".join([*lines, ""]).encode()


def _read_binary(source: str, data: bytes) -> Table:
    import polars

    kind = "Parquet" if data[:4] == b"PAR1" else "Arrow"
    features: dict[str, Any] = {}
    try:
        if kind == "Parquet":
            frame = polars.read_parquet(io.BytesIO(data))
            about = polars.read_parquet_metadata(io.BytesIO(data)).get("huggingface", "{}")
            features = json.loads(about).get("info", {}).get("features", {})
        elif data[:6] == b"ARROW1":
            frame = polars.read_ipc(io.BytesIO(data))
        else:
            frame = polars.read_ipc_stream(io.BytesIO(data))
    except (polars.exceptions.PolarsError, OSError, ValueError) as error:
        raise DataError(
            f"{source} cannot be read as {kind}: {_first_line(error)}; "
            "it is damaged or of another format, write it again"
        ) from None
    cells: list[Any] = frame.get_columns()
    return _name_classes(Table(source, frame.columns, cells, _row), _class_names(features))


def _row(row: int) -> str:
    return str(row + 1)


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _read_json_lines(source: str, text: str) -> Table:
    records, lines = [], []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            record = parse_object(f"{source}, line {number}", line)
            records.append(record)
            lines.append(number)
    return table_of_records(source, records, lambda row: f"{row + 1} (line {lines[row]})")


def _read_json(source: str, text: str) -> Table:
    """A list of objects, or an object of columns, or an object that holds one such list."""
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # several objects: JSON Lines by another name
            return _read_json_lines(source, text)
    except RecursionError:
        pass
    else:
        lists = [v for v in value.values() if isinstance(v, list)] if type(value) is dict else []
        if len(lists) == 1 and lists[0] and isinstance(lists[0][0], dict):
            value = lists[0]
        elif type(value) is dict and value and not lists:
            value = [value]  # JSON Lines of one line
        return _table_of(value, source)
    _parse_json(source, text)
    raise DataError(f"{source} is not JSON; write a list of objects with text and label")


def parse_object(where: str, line: str) -> dict[str, Any]:
    """One line of JSON Lines; ``where`` says which, in messages."""
    record = _parse_json(where, line)
    if not isinstance(record, dict):
        raise DataError(
            f"{where}: holds {_kind(record)}, not an object; "
            'write one object a line, such as {"text": ..., "label": ...}'
        )
    return record


def _parse_json(where: str, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        place = (
            f"column {error.colno}"
            if "line" in where
            else (f"line {error.lineno}, column {error.colno}")
        )
        raise DataError(f"{where}: not JSON at {place} ({error.msg}); mend it there") from None
    except RecursionError:
        raise DataError(f"{where}: JSON nested too deeply; write flat objects") from None


def table_of_records(source: str, records: Sequence[Any], place: Any = _row) -> Table:
    """Columns of objects; what an object lacks is missing."""
    names = list(dict.fromkeys(name for record in records for name in record))
    cells: list[Sequence[Any]] = [[record.get(name) for record in records] for name in names]
    return Table(source, [str(name) for name in names], cells, place)


def _table_of(data: Any, source: str) -> Table:
    if hasattr(data, "features") and hasattr(data, "column_names"):  # a datasets dataset
        names, features = list(data.column_names), dict(data.features)
        table = Table(source, names, [list(data[name]) for name in names], _row)
        return _name_classes(table, {n: getattr(f, "names", None) for n, f in features.items()})
    if hasattr(data, "columns") and hasattr(data, "__getitem__"):  # a pandas or polars frame
        names = list(data.columns)
        return Table(source, [str(name) for name in names], [data[name] for name in names], _row)
    if isinstance(data, dict) and data and all(isinstance(v, list | tuple) for v in data.values()):
        lengths = {str(name): len(values) for name, values in data.items()}
        if len(set(lengths.values())) > 1:
            raise DataError(f"{source}: columns of unequal length {lengths}; give equal ones")
        return Table(source, [*map(str, data)], [*data.values()], _row)
    if isinstance(data, list | tuple) and data:
        if all(isinstance(record, dict) for record in data):
            return table_of_records(source, data)
        if all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in data):
            return Table(source, ["text", "label"], [*zip(*data, strict=True)], _row)
    raise DataError(
        f"{source} is {_kind(data)}; give a table with text and label: a list of objects or of "
        "(text, label) pairs, columns of equal length, or a frame"
    )


def _kind(value: Any) -> str:
    names = {"dict": "an object", "list": "a list", "str": "a string", "NoneType": "null"}
    if isinstance(value, list | tuple | dict) and not value:
        return "empty"
    name = type(value).__name__
    return names.get(name, f"of type {name}")


# ---------------------------------------------------------------------------- folders


def _read_folder(path: Path, options: ReadOptions, named: bool) -> Table:
    entries = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    if (path / "dataset_dict.json").is_file():
        parts = [entry.name for entry in entries if entry.is_dir()]
        raise DataError(f"{path} holds the data sets {listed(parts)}; name one: {path}/{parts[0]}")
    if (path / "state.json").is_file() and (path / "dataset_info.json").is_file():
        return _read_saved_dataset(path)
    folders = [entry for entry in entries if entry.is_dir()]
    tables = [entry for entry in entries if suffix_of(entry) in _TABLES and entry.is_file()]
    if folders and not tables:
        return _read_class_folders(path, folders, options)
    if tables and not folders:
        return _read_files(str(path), tables, options, named)
    what = "both folders and tables" if folders else "no folder a class and no table"
    raise DataError(
        f"{path} is a folder that holds {what}; name a file in it, or a folder with "
        "one folder of text files for each class"
    )


def _read_saved_dataset(path: Path) -> Table:
    """What ``datasets`` writes: Arrow streams in an order, and the names of the classes."""
    state = _parse_json(str(path / "state.json"), (path / "state.json").read_text("utf-8"))
    info_path = path / "dataset_info.json"
    info = _parse_json(str(info_path), info_path.read_text("utf-8"))
    files = [path / str(entry["filename"]) for entry in state.get("_data_files", [])]
    if not files:
        raise DataError(f"{path}: state.json names no data files; save the data set again")
    tables = [_read_binary(str(file), _read_bytes(file)) for file in files]
    classes = _class_names(info.get("features") or {})
    return _name_classes(concatenate(str(path), tables), classes)


def _class_names(features: dict[str, Any]) -> dict[str, Any]:
    return {name: kind.get("names") for name, kind in features.items() if isinstance(kind, dict)}


def _name_classes(table: Table, classes: dict[str, Any]) -> Table:
    """Class numbers by the names that the data set gives them; -1 is its sign for no label."""
    cells = list(table.cells)
    for column, name in enumerate(table.columns):
        names = classes.get(name)
        if isinstance(names, list):
            numbers = table.values(column)
            cells[column] = [
                names[i] if isinstance(i, int) and 0 <= i < len(names) else None for i in numbers
            ]
    return Table(table.source, table.columns, cells, table.place, table.notes)


def _read_class_folders(path: Path, folders: Sequence[Path], options: ReadOptions) -> Table:
    """Every file of a folder is a text (white space around it taken off), the folder its label."""
    files: list[Path] = []
    texts, notes, hidden = [], dict[str, None](), 0
    for folder in folders:
        for file in sorted(folder.iterdir()):
            if file.name.startswith("."):
                hidden += 1
            elif file.is_dir():
                raise DataError(
                    f"{path}: {file} is a folder where a text file is expected; name the folder "
                    f"whose folders are the classes, perhaps {folder}"
                )
            else:
                texts.append(_read_text_file(file, options, notes))
                files.append(file)
    if hidden:
        notes[f"{path}: {hidden:,} hidden files were left out."] = None
    labels = [file.parent.name for file in files]

    def place(row: int) -> str:
        return f"{row + 1} ({files[row].relative_to(path)})"

    return Table(str(path), ["text", "label"], [texts, labels], place, tuple(notes))


def _read_text_file(file: Path, options: ReadOptions, notes: dict[str, None]) -> str:
    data = _read_bytes(file)
    if not data.strip():
        return ""
    text, found = decode(str(file), data, options.encoding)
    notes.update((f"{file}: {note}", None) for note in found)
    return text.strip()
