"""Models by name: loaded when asked, and loaded anew, beside the old one, when a folder changes.

A request keeps the model it began with, so replacing a folder fails none. Folders have to be
replaced whole, by renaming, as ``checkpoint.save`` does: weights are mapped from their file, and
a file that is overwritten in place changes under the running model. Knows no HTTP.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lastblock import checkpoint
from lastblock.errors import LastblockError, SavedModelError
from lastblock.inference import TextModel
from lastblock.serving import metrics
from lastblock.serving.refusal import Refusal

log = logging.getLogger("lastblock.serving")

SECONDS_BETWEEN_LOOKS = 1.0
# Looks for which a folder may be missing before its model is let go: a folder that is being
# replaced is gone for a moment.
LOOKS_UNTIL_GONE = 3
# A folder that is being replaced is whole again in a moment.
TRIES = 4
SECONDS_BETWEEN_TRIES = 0.05

Stamp = tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, eq=False)
class Served:
    """A loaded model, and what its folder says about it."""

    name: str
    id: str
    folder: Path
    stamp: Stamp
    model: TextModel
    report: dict[str, Any] | None
    card: str | None

    @property
    def has_report(self) -> bool:
        return (self.folder / "report.html").is_file()


async def _run_nothing(_: TextModel) -> None:
    pass


class Models:
    """The models of one folder: itself a saved model, or a folder of them.

    Args:
        folder: it.
        warm_up: runs a model's first text, which takes longer than others, before it is used.
    """

    def __init__(
        self, folder: Path, warm_up: Callable[[TextModel], Awaitable[None]] = _run_nothing
    ) -> None:
        self._warm_up = warm_up
        if not folder.is_dir():
            raise SavedModelError(f"{folder}: no such folder; `lastblock train DATA -o` makes one")
        self.folder = folder.resolve()
        self._single = checkpoint.is_saved_model(folder)
        self._loaded: dict[str, Served] = {}
        self._failed: dict[str, Stamp] = {}
        self._missing: dict[str, int] = defaultdict(int)
        self._locks: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        if not self.names():
            raise SavedModelError(
                f"{folder}: holds no saved model, nor folders that are; "
                "`lastblock train DATA -o` makes one"
            )

    def names(self) -> list[str]:
        """The models that can be asked for, loaded or not."""
        if self._single:
            return [self.folder.name]
        found = {f.name for f in self.folder.iterdir() if _may_be_served(f)}
        return sorted(found | self._loaded.keys())

    def loaded(self) -> list[Served]:
        return list(self._loaded.values())

    def load_single(self) -> None:
        """Load the model now, if there is but one.

        Raises:
            SavedModelError: it cannot be loaded.
        """
        names = self.names()
        if len(names) == 1:
            self._loaded[names[0]] = self._load_aside(names[0])

    async def get(self, name: str | None) -> Served:
        """The model of that name; without one, the only one there is.

        Raises:
            Refusal: 404 if there is none of that name, 422 if a name is needed, 503 if the
                folder cannot be loaded.
        """
        if name is None:
            name = self._only()
        served = self._loaded.get(name)
        if served is None:
            async with self._locks[name] if name in self.names() else contextlib.nullcontext():
                served = self._loaded.get(name) or await self._load_first(name)
        return served

    def _only(self) -> str:
        if self._single:
            return self.folder.name
        names = self.names()
        if len(names) != 1:
            known = ", ".join(names[:20])
            raise Refusal(422, "model_needed", f"name a model; there are: {known}")
        return names[0]

    async def _load_first(self, name: str) -> Served:
        if name not in self.names():
            known = ", ".join(self.names()[:20])
            raise Refusal(404, "no_such_model", f"there is no model of that name; known: {known}")
        try:
            served = await self._load_warm(name)
        except (LastblockError, OSError) as error:
            log.error("model %s cannot be loaded: %s", name, error)
            message = f"the model {name} cannot be loaded; the server's log says why"
            raise Refusal(503, "model_unusable", message, retry_after=5) from None
        self._loaded[name] = served
        return served

    async def _load_warm(self, name: str) -> Served:
        served = await asyncio.to_thread(self._load_aside, name)
        await self._warm_up(served.model)
        return served

    def _load_aside(self, name: str) -> Served:
        """Load in a thread that ends with it.

        Each thread that computes brings helpers of its own, which stay as long as it does; once
        they are more than there are cores, all wait longer for each other.
        """
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(self._load, name).result()

    def _load(self, name: str) -> Served:
        try:
            served = _load_whole(name, self._folder_of(name))
        except (LastblockError, OSError):
            metrics.LOADS.labels(name, "failed").inc()
            raise
        metrics.LOADS.labels(name, "loaded").inc()
        log.info("model %s (%s) is loaded", name, served.id)
        return served

    def _folder_of(self, name: str) -> Path:
        return self.folder if self._single else self.folder / name

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """Look for replaced folders as long as the block runs."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN_LOOKS)
            try:
                await self.look()
            except Exception as error:  # whatever it is, the next look may be better
                log.error("looking for replaced models failed: %s", type(error).__name__)

    async def look(self) -> None:
        """Load anew what was replaced; let go what is gone. The old one serves until then."""
        for served in self.loaded():
            try:
                stamp = await asyncio.to_thread(_stamp, served.folder)
            except OSError:
                self._note_missing(served)
                continue
            self._missing.pop(served.name, None)
            if stamp not in (served.stamp, self._failed.get(served.name)):
                await self._reload(served.name, stamp)

    def _note_missing(self, served: Served) -> None:
        self._missing[served.name] += 1
        if not self._single and self._missing[served.name] >= LOOKS_UNTIL_GONE:
            log.info("model %s is gone", served.name)
            del self._loaded[served.name], self._missing[served.name]

    async def _reload(self, name: str, stamp: Stamp) -> None:
        try:
            self._loaded[name] = await self._load_warm(name)
        except (LastblockError, OSError) as error:
            self._failed[name] = stamp
            log.error("the new model %s cannot be loaded, the old one stays: %s", name, error)


def _load_whole(name: str, folder: Path) -> Served:
    """Load a folder whose files belong together, though it may be replaced meanwhile."""
    for tries_left in reversed(range(TRIES)):
        try:
            stamp = _stamp(folder)
            served = _read(name, folder, stamp)
            if _stamp(folder) == stamp:
                return served
        except (LastblockError, OSError):
            if not tries_left:
                raise
        time.sleep(SECONDS_BETWEEN_TRIES)
    raise SavedModelError(f"{folder}: is replaced again and again; wait until it is whole")


def _read(name: str, folder: Path, stamp: Stamp) -> Served:
    report, card = _read_report(folder), _read_card(folder)
    return Served(name, _digest(folder), folder, stamp, checkpoint.load(folder), report, card)


def _may_be_served(folder: Path) -> bool:
    return not folder.name.startswith(".") and checkpoint.is_saved_model(folder)


def _stamp(folder: Path) -> Stamp:
    """Changes whenever one of the files that make the model is replaced or written to."""
    files = [folder / n for n in (checkpoint.CONFIG, checkpoint.WEIGHTS, checkpoint.TOKENIZER)]
    return tuple((s.st_ino, s.st_mtime_ns, s.st_size) for s in (f.stat() for f in files))


def _digest(folder: Path) -> str:
    """Twelve digits that tell models apart: sha256 of the settings and the weights."""
    digest = hashlib.sha256((folder / checkpoint.CONFIG).read_bytes())
    with (folder / checkpoint.WEIGHTS).open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()[:12]


def _read_report(folder: Path) -> dict[str, Any] | None:
    with contextlib.suppress(OSError, ValueError):
        report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
        return report if isinstance(report, dict) else None
    return None


def _read_card(folder: Path) -> str | None:
    with contextlib.suppress(OSError, ValueError):
        return (folder / "README.md").read_text(encoding="utf-8")
    return None
