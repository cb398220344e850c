"""Files that a verb writes: refused early where they cannot be, and whole or not at all."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from lastblock.errors import ConfigError


def check_output(path: Path, option: str = "--output") -> None:
    """Refuse a place that cannot be written before the work is done, not after."""
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}; make it first")


def make_folder(path: Path, option: str = "--output") -> None:
    """Make a folder for results, if it is not there, before the work is done."""
    if path.exists() and not path.is_dir():
        raise ConfigError(f"{option} {path} is a file; name a folder")
    path.mkdir(parents=True, exist_ok=True)


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A text file that takes ``path``'s place when the block ends without an error."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        os.chmod(name, 0o644)  # mkstemp gives 0600
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


class PartialFile:
    """A file that is written part by part, and goes on after an interruption.

        out.csv.partial        what is written so far
        out.csv.partial.json   how much of it is whole, and what it is made from

    Going on begins where the last whole part ends: what stands after it is cut off, so the file
    ends up as if nothing had happened. When all is done the first takes its proper name.

    Args:
        path: its name when it is done.
        made_from: all that decides what it holds, as JSON takes it.
    """

    def __init__(self, path: Path, made_from: Mapping[str, Any]) -> None:
        self.path = path
        self._partial = path.with_name(f"{path.name}.partial")
        self._record = path.with_name(f"{path.name}.partial.json")
        self._made_from = dict(made_from)
        self.rows = 0
        self._bytes = 0

    def resume(self) -> None:
        """Go on where an earlier run was interrupted; from the beginning if there was none.

        Raises:
            ConfigError: what is there was made from something else.
        """
        if not self._record.exists():
            return
        try:
            record = json.loads(self._record.read_text(encoding="utf-8"))
            whole = self._partial.stat().st_size >= record["bytes"]
            rows, size, made_from = record["rows"], record["bytes"], record["made_from"]
        except (OSError, ValueError, KeyError, TypeError):
            return
        different = [
            name for name, value in self._made_from.items() if made_from.get(name) != value
        ]
        if different:
            raise ConfigError(
                f"--resume: {self._partial} was made from another {different[0]}; leave out "
                "--resume to begin anew"
            )
        if whole:
            self.rows, self._bytes = rows, size

    @contextmanager
    def writing(self) -> Iterator[IO[str]]:
        """The open file; takes its place when the block ends without an error.

        After an error it stays where it is if any part of it is whole, to be resumed.
        """
        try:
            with self._partial.open(
                "r+" if self._bytes else "w", encoding="utf-8", newline=""
            ) as file:
                file.truncate(self._bytes)
                file.seek(self._bytes)
                yield file
            os.replace(self._partial, self.path)
            self._record.unlink(missing_ok=True)
        except BaseException:
            if not self.rows:
                with suppress(OSError):
                    self._partial.unlink(missing_ok=True)
                    self._record.unlink(missing_ok=True)
            raise

    def part_done(self, file: IO[str], rows: int) -> None:
        """Note that ``rows`` rows more stand whole in the file."""
        file.flush()
        self.rows, self._bytes = self.rows + rows, file.tell()
        record = {"rows": self.rows, "bytes": self._bytes, "made_from": self._made_from}
        temporary = self._record.with_name(f".{self._record.name}.tmp")
        temporary.write_text(json.dumps(record), encoding="utf-8")
        os.replace(temporary, self._record)
