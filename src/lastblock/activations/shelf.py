"""Shelf: activations on disk, shared by all runs on this machine, within a budget.

    <cache folder>/activations/<prefix>/<texts>.safetensors

A folder a frozen prefix, named by the hash of everything that decides what it computes. A file
holds the activations of some texts, one after the other without padding, with a checksum each:

    rows       (N, C)   in the prefix's dtype, all texts' rows
    starts     (n + 1,) int64, where each text's rows begin; the last is N
    keys       (n, 16)  uint8, BLAKE2b of each text's token ids: the texts themselves are not there
    checksums  (n,)     int64, CRC-32 of key and rows

Files are written under a temporary name, renamed, and never changed again, so any number of
processes may read and write; one that is removed stays readable for those who have it mapped. A
file's time of change is when it was last used: the oldest go first when room is needed. Knows no
model and no text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lastblock.runtime import cache_folder

# Raised when the files' layout changes, or what a prefix computes from the same weights.
FORMAT = 4
KEY_BYTES = 16
# Large enough that files are few, small enough that little is lost when a run is interrupted.
FILE_BYTES = 64 << 20

_SUFFIX = ".safetensors"
_DAMAGED = (SafetensorError, OSError, RuntimeError, ValueError, KeyError, IndexError)


def activations_folder() -> Path:
    """Where activations are kept; not created here."""
    return cache_folder() / "activations"


@dataclass(frozen=True)
class Shelved:
    """A file of activations: its size in bytes, when it was last used, whose and how many."""

    path: Path
    size: int
    used: float

    def about(self) -> dict[str, str]:
        """What its header says: ``prefix`` in words, number of ``texts`` and of ``rows``."""
        with contextlib.suppress(*_DAMAGED), safe_open(self.path, framework="pt") as file:
            return dict(file.metadata() or {})
        return {}


def shelved() -> list[Shelved]:
    """Every file of activations on this machine, the one unused for longest first."""
    found = []
    for path in activations_folder().glob(f"*/*{_SUFFIX}"):
        with contextlib.suppress(OSError):  # another process may have removed it
            stat = path.stat()
            found.append(Shelved(path, stat.st_size, stat.st_mtime))
    return sorted(found, key=lambda file: file.used)


def clear() -> int:
    """Remove all activations; the bytes that were freed."""
    freed = sum(file.size for file in shelved())
    shutil.rmtree(activations_folder(), ignore_errors=True)
    return freed


class Shelf:
    """The activations of one frozen prefix.

    Args:
        prefix: everything that decides what the prefix computes, as JSON takes it.
        words: the same in a few words, for people.
        budget: bytes that activations of all prefixes together may take.
    """

    def __init__(self, prefix: Mapping[str, Any], words: str, budget: int) -> None:
        self._words, self._budget = words, budget
        facts = json.dumps({**prefix, "format": FORMAT}, sort_keys=True)
        self._folder = activations_folder() / hashlib.sha256(facts.encode()).hexdigest()[:32]
        self._in_use: set[Path] = set()

    def room(self) -> int:
        """Bytes that this run may fill: the budget, but no more than half of what is free."""
        parent = next(p for p in (self._folder, *self._folder.parents) if p.exists())
        in_use = sum(path.stat().st_size for path in self._in_use if path.exists())
        taken = sum(file.size for file in shelved())
        return min(self._budget, taken + shutil.disk_usage(parent).free // 2) - in_use

    def find(self, ids: Iterable[bytes]) -> dict[bytes, Tensor]:
        """What is here of these texts, by their ids: (rows, C), mapped and found undamaged."""
        files = sorted(self._folder.glob(f"*{_SUFFIX}"))
        wanted = {_key(each): each for each in ids} if files else {}
        found: dict[bytes, Tensor] = {}
        for path in files:
            try:
                sound = _sound_entries(path, wanted)
                if sound:
                    os.utime(path)
            except FileNotFoundError:
                continue
            except _DAMAGED:
                path.unlink(missing_ok=True)
                continue
            if sound:
                self._in_use.add(path)
                found |= {wanted[key]: rows for key, rows in sound.items()}
        return found

    def put(self, states: Mapping[bytes, Tensor]) -> dict[bytes, Tensor]:
        """Write what the prefix said of some texts, by their ids; the same, mapped from the file.

        Raises:
            OSError: there is no room for it, or it cannot be written.
        """
        keys = b"".join(_key(ids) for ids in states)
        path = self._folder / f"{hashlib.sha256(keys).hexdigest()[:32]}{_SUFFIX}"
        temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp")
        tensors = _packed(keys, list(states.values()))
        about = {
            "prefix": self._words,
            "texts": str(len(states)),
            "rows": str(len(tensors["rows"])),
        }
        self._make_room(tensors["rows"].nbytes)
        for folder in (activations_folder(), self._folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            save_file(tensors, temporary, metadata=about)
            temporary.chmod(0o600)
            os.replace(temporary, path)
        except SafetensorError as error:
            raise OSError(str(error)) from None
        finally:
            temporary.unlink(missing_ok=True)
        self._in_use.add(path)
        entries = [rows for _, rows, _ in _entries(path)]
        return dict(zip(states, entries, strict=True))

    def _make_room(self, size: int) -> None:
        """Remove the files unused for longest, but none of this run's, until ``size`` fits in."""
        files = shelved()
        excess = sum(file.size for file in files) + size - self._budget
        for file in files:
            if excess <= 0:
                return
            if file.path not in self._in_use:
                file.path.unlink(missing_ok=True)
                excess -= file.size
        if excess > 0:
            raise OSError("the budget is used up")


def _key(ids: bytes) -> bytes:
    return hashlib.blake2b(ids, digest_size=KEY_BYTES).digest()


def _checksum(key: bytes, rows: Tensor) -> int:
    return zlib.crc32(rows.contiguous().view(torch.uint8).numpy().data, zlib.crc32(key))


def _packed(keys: bytes, states: list[Tensor]) -> dict[str, Tensor]:
    ends = torch.tensor([0, *(len(rows) for rows in states)]).cumsum(0)
    each = (keys[i : i + KEY_BYTES] for i in range(0, len(keys), KEY_BYTES))
    sums = [_checksum(key, rows) for key, rows in zip(each, states, strict=True)]
    return {
        "rows": torch.cat(states),
        "starts": ends,
        "keys": torch.frombuffer(bytearray(keys), dtype=torch.uint8).view(-1, KEY_BYTES),
        "checksums": torch.tensor(sums),
    }


def _entries(path: Path) -> Iterator[tuple[bytes, Tensor, int]]:
    """Key, rows (mapped) and checksum of every text in a file."""
    with safe_open(path, framework="pt") as file:
        names = ("rows", "starts", "keys", "checksums")
        rows, starts, keys, sums = (file.get_tensor(name) for name in names)
    bounds, packed = starts.tolist(), keys.numpy().tobytes()
    for i, checksum in enumerate(sums.tolist()):
        key = packed[i * KEY_BYTES : (i + 1) * KEY_BYTES]
        yield key, rows[bounds[i] : bounds[i + 1]], checksum


def _sound_entries(path: Path, wanted: Mapping[bytes, bytes]) -> dict[bytes, Tensor]:
    """Those of a file that are wanted.

    Raises:
        ValueError: one of them is not what was written.
    """
    sound = {}
    for key, rows, checksum in _entries(path):
        if key in wanted:
            if _checksum(key, rows) != checksum:
                raise ValueError(f"{path}: damaged")
            sound[key] = rows
    return sound
