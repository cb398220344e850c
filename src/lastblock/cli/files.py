"""Files that a verb writes: refused early where they cannot be, and whole or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lastblock.errors import ConfigError


def check_output(path: Path, option: str = "--output") -> None:
    """Refuse a place that cannot be written before the work is done, not after."""
    if path.is_dir():
        raise ConfigError(f"{option} {path} is a folder; name a file")
    if not path.absolute().parent.is_dir():
        raise ConfigError(f"{option} {path}: there is no folder {path.parent}; make it first")


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
