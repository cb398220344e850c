"""ActivationStore: what the frozen prefix says about each text, computed once.

The prefix never changes, so its output for a text never does. It is kept by content (the token
ids), so texts that are equal share one entry, and so do all who ask for the same text:
training, validation, cross-validation, evaluation; with a shelf on disk, other runs and processes
too. Knows no labels and no settings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lastblock.activations.shelf import FILE_BYTES, Shelf
from lastblock.classifier import SequenceClassifier
from lastblock.config import cache_bytes
from lastblock.decoder import few_rows
from lastblock.decoder.hub import PretrainedFiles, content_of
from lastblock.runtime import (
    Progress,
    Silent,
    at_once,
    available_memory,
    inferred,
    keep_freed_memory,
    one_beside,
)
from lastblock.tokenization.batching import TokenIds, pad, shared_batches

Rows = npt.NDArray[np.int64]

# Tokens in one pass of the prefix. Large enough that matrix products run at full rate, small enough
# that a block's results stay in a processor's cache.
TOKEN_BUDGET = 1024

# Fewer texts than this are computed sooner than they are looked for on disk.
WORTH_LOOKING_FOR = 16

# Of the memory that is available, what activations may take.
MEMORY_SHARE = 0.5


class ActivationStore:
    """Activations by token ids, each entry (rows, C) in the prefix's dtype.

    Entries are mapped from the ``shelf``'s files where there is one and it has room, so that the
    system can take their memory back; else kept in memory while there is enough; else not kept,
    and computed whenever they are asked for (``states_of``). The results are the same.
    """

    def __init__(self, shelf: Shelf | None = None) -> None:
        keep_freed_memory()
        self._shelf = shelf
        self._states: dict[bytes, Tensor] = {}
        self.tokens_computed = 0

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, ids: TokenIds) -> bool:
        return ids.tobytes() in self._states

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle of a model goes without them: they can always be computed."""
        return {"_shelf": self._shelf, "_states": {}, "tokens_computed": 0}

    @torch.inference_mode()
    def fill(
        self,
        classifier: SequenceClassifier,
        sequences: Sequence[TokenIds],
        progress: Progress | None = None,
        computed: Mapping[bytes, Tensor] | None = None,
    ) -> None:
        """Find every sequence that is not here yet on the shelf, or run the prefix over it.

        ``computed`` has what was run already, by the bytes of the token ids; it is taken in. Where
        no block is frozen there is nothing worth keeping.
        """
        if not classifier.frozen_blocks:
            return
        progress = progress or Silent()
        missing = {ids.tobytes(): ids for ids in sequences if ids not in self}
        found = self.recall(sequences)
        if found:
            progress.say(
                f"{found:,} of {len(missing):,} texts need no frozen pass: "
                "their activations were kept by an earlier run"
            )
        new = self._take_in(computed or {})
        if self._shelf is not None and _bytes_of(new) > self._shelf.room():
            self._put_on_disk(new, progress)  # which says so, and that is all that is to be said
        unknown = [ids for key, ids in missing.items() if key not in self._states]
        planned, on_disk = self._plan(classifier, unknown, _bytes_of(new), progress)
        waiting: dict[bytes, Tensor] = {}
        # Some are written while others are computed, and no more wait than are being written.
        with one_beside() as beside:
            writing = beside.submit(self._put_on_disk, new, progress)
            try:
                with progress.task("frozen pass", sum(map(len, planned)), "tokens") as advance:
                    texts_of = [[planned[i] for i in batch] for batch in _batches(planned)]
                    passes = inferred(partial(activations_of, classifier), texts_of)
                    for texts, activations in zip(texts_of, passes, strict=True):
                        done = sum(len(ids) for ids in texts)
                        keys = (ids.tobytes() for ids in texts)
                        states = dict(zip(keys, activations, strict=True))
                        self._states |= states
                        self.tokens_computed += done
                        if on_disk:
                            waiting |= states
                            if _bytes_of(waiting) >= FILE_BYTES:
                                writing.result()
                                writing = beside.submit(self._put_on_disk, waiting, progress)
                                waiting = {}
                        advance(done)
            finally:  # an interrupted pass goes on where it stopped
                writing.result()
                self._put_on_disk(waiting, progress)

    def recall(self, sequences: Sequence[TokenIds]) -> int:
        """Find on the shelf what is not here yet; how many were. Computes nothing."""
        missing = {ids.tobytes() for ids in sequences if ids not in self}
        found = self._shelf.find(missing) if self._shelf is not None and missing else {}
        self._states |= found
        return len(found)

    def known(self, sequences: Sequence[TokenIds]) -> dict[bytes, Tensor]:
        """What is here of these texts, or on the shelf, by the bytes of their token ids."""
        self.recall(sequences)
        keys = (ids.tobytes() for ids in sequences)
        return {key: self._states[key] for key in keys if key in self._states}

    def put(self, states: Mapping[bytes, Tensor], progress: Progress) -> None:
        """Take in activations that were computed elsewhere, by the bytes of their token ids."""
        self._put_on_disk(self._take_in(states), progress)

    def _take_in(self, states: Mapping[bytes, Tensor]) -> dict[bytes, Tensor]:
        """Those of them that were not here."""
        new = {key: rows for key, rows in states.items() if key not in self._states}
        self._states |= new
        return new

    def _plan(
        self,
        classifier: SequenceClassifier,
        sequences: list[TokenIds],
        others: int,
        progress: Progress,
    ) -> tuple[list[TokenIds], bool]:
        """The sequences whose activations will be kept, and whether on disk; said where not all.

        ``others``: bytes that will be written besides.
        """
        row = classifier.decoder.config.hidden_size * classifier.prefix_dtype.itemsize
        more = classifier.summary_rows
        sizes = np.cumsum([(len(ids) + more) * row for ids in sequences])
        needed = int(sizes[-1]) if len(sizes) else 0
        disk = max(0, self._shelf.room() - others) if self._shelf is not None and needed else 0
        if needed <= disk:
            return sequences, True
        memory = int(available_memory() * MEMORY_SHARE)
        if self._shelf is not None:
            progress.say(
                f"activations take {_size(needed)}, and there is room on disk for {_size(disk)} "
                "(--cache-size)" + ("; they are kept in memory" if needed <= memory else "")
            )
        if needed <= memory:
            return sequences, False
        room = max(disk, memory)
        fitting = int((sizes <= room).sum())
        progress.say(
            f"activations take {_size(needed)}: those of {fitting:,} of {len(sequences):,} texts "
            f"are kept ({_size(room)}), the others are computed anew in every epoch"
        )
        return sequences[:fitting], room == disk

    def _put_on_disk(self, waiting: dict[bytes, Tensor], progress: Progress) -> None:
        """Write what waits, and from now on read it from there."""
        if waiting and self._shelf is not None:
            try:
                self._states |= self._shelf.put(waiting)
            except OSError as error:
                self._shelf = None
                progress.say(
                    f"activations are kept in memory, not on disk: {error.strerror or error}"
                )
        waiting.clear()

    def states(self, sequences: Sequence[TokenIds]) -> list[Tensor] | None:
        """Activations of each, (R, C); None if there are none of one."""
        try:
            return [self._states[ids.tobytes()] for ids in sequences]
        except KeyError:
            return None

    def batch(self, sequences: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
        """Activations (B, R, C), padded with zeros to the most rows, and rows (B,) of each.

        Raises:
            KeyError: there are none of one.
        """
        states = self.states(sequences)
        if states is None:
            raise KeyError("activations of a text are not here")
        return few_rows.padded(states), torch.tensor([of.shape[0] for of in states])


def open_store(
    facts: Mapping[str, str | int], files: PretrainedFiles, cache_size: float | None
) -> ActivationStore:
    """A store for what a decoder read from ``files`` says.

    Args:
        facts: everything but the weights that decides it; see ``prefix_facts``.
        files: where the weights are from.
        cache_size: gigabytes that activations may take on disk; see ``config.cache_bytes``.
    """
    budget = cache_bytes(cache_size)
    if not budget:
        return ActivationStore()
    words = ", ".join([files.name, *(f"{name} {value}" for name, value in facts.items())])
    prefix = {**facts, "weights": content_of(files), "torch": torch.__version__}
    return ActivationStore(Shelf(prefix, words, budget))


def states_of(
    classifier: SequenceClassifier, sequences: Sequence[TokenIds], store: ActivationStore
) -> tuple[Tensor, Tensor]:
    """Activations (B, R, C) and rows (B,) of each: the store's, or computed if it lacks one."""
    try:
        return store.batch(sequences)
    except KeyError:
        return run_prefix(classifier, sequences)


def _bytes_of(states: Mapping[bytes, Tensor]) -> int:
    return sum(rows.nbytes for rows in states.values())


def _size(number: int) -> str:
    return f"{number / 1e6:,.0f} MB"


def run_prefix(
    classifier: SequenceClassifier, sequences: Sequence[TokenIds]
) -> tuple[Tensor, Tensor]:
    """Activations (B, R, C) of a few sequences, computed now, and rows (B,) of each."""
    ids, lengths = _padded(sequences)
    return classifier.prefix(ids, lengths), lengths + classifier.summary_rows


def activations_of(classifier: SequenceClassifier, sequences: Sequence[TokenIds]) -> list[Tensor]:
    """The same, of each."""
    return classifier.activations(*_padded(sequences))


def _padded(sequences: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
    ids, lengths = pad(sequences, pad_id=0)
    return torch.from_numpy(ids), torch.tensor(lengths)


def run_tail(
    classifier: SequenceClassifier,
    sequences: Sequence[TokenIds],
    store: ActivationStore,
    progress: Progress | None = None,
) -> Tensor:
    """Logits (n, n_classes), float32, in the sequences' order.

    Activations are taken from ``store`` where it has them, and computed, not kept, where not.
    """
    width = classifier.head.out_features
    return _run(classifier.tail, width, classifier, sequences, store, progress)


def run_summary(
    classifier: SequenceClassifier, sequences: Sequence[TokenIds], store: ActivationStore
) -> Tensor:
    """What the probe sees of each text, (n, n_features), float32, likewise."""
    return _run(classifier.summary, classifier.probed, classifier, sequences, store, None)


@torch.inference_mode()
def _run(
    function: Callable[[Tensor, Tensor], Tensor],
    width: int,
    classifier: SequenceClassifier,
    sequences: Sequence[TokenIds],
    store: ActivationStore,
    progress: Progress | None,
) -> Tensor:
    """What ``function`` makes of the activations, (n, width), in the sequences' order."""
    if len(sequences) >= WORTH_LOOKING_FOR:
        store.recall(sequences)
    first = {ids.tobytes(): ids for ids in sequences}  # texts that are equal are computed once
    number = {key: i for i, key in enumerate(first)}
    which = np.array([number[ids.tobytes()] for ids in sequences], dtype=np.int64)
    distinct, times = list(first.values()), np.bincount(which, minlength=len(first))
    results = torch.empty(len(distinct), width)
    progress = progress or Silent()

    def run(batch: Rows) -> Tensor:
        return function(*states_of(classifier, [distinct[i] for i in batch], store))

    with progress.task("predict", len(sequences), "texts") as advance:
        batches = _batches(distinct)
        for batch, found in zip(batches, inferred(run, batches), strict=True):
            results[torch.from_numpy(batch)] = found
            advance(int(times[batch].sum()))
    return results if len(distinct) == len(which) else results[torch.from_numpy(which)]


def _batches(sequences: Sequence[TokenIds]) -> list[Rows]:
    """Numbers of the sequences that are computed together."""
    return shared_batches(sequences, TOKEN_BUDGET, at_once())
