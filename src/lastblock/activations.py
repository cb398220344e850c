"""ActivationStore: what the frozen prefix says about each text, computed once.

The prefix never changes, so its output for a text never does. It is kept by content (the token
ids), so texts that are equal share one entry, and so do all who ask for the same text:
training, validation, cross-validation, evaluation. Knows no labels and no settings.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from lastblock.classifier import SequenceClassifier
from lastblock.runtime import Progress, Silent
from lastblock.tokenization.batching import TokenIds, pad, token_budget_batches

# Tokens in one pass of the prefix, padding included. Large enough that matrix products run at full
# rate, small enough that little is padded and a block's results stay in a processor's cache.
TOKEN_BUDGET = 1024


class ActivationStore:
    """Activations by token ids, in memory; each entry (T, C) in the prefix's dtype."""

    def __init__(self) -> None:
        self._states: dict[bytes, Tensor] = {}
        self.tokens_computed = 0

    def __len__(self) -> int:
        return len(self._states)

    def __contains__(self, ids: TokenIds) -> bool:
        return ids.tobytes() in self._states

    def fill(
        self,
        classifier: SequenceClassifier,
        sequences: Sequence[TokenIds],
        progress: Progress | None = None,
    ) -> None:
        """Run the prefix over every sequence that is not here yet."""
        missing = list({ids.tobytes(): ids for ids in sequences if ids not in self}.values())
        lengths = [len(ids) for ids in missing]
        progress = progress or Silent()
        with progress.task("frozen pass", sum(lengths), "tokens") as advance:
            for batch in token_budget_batches(lengths, TOKEN_BUDGET):
                rows = [missing[i] for i in batch]
                for ids, state in zip(rows, run_prefix(classifier, rows)[0], strict=True):
                    # A view: batches are of like length, so little padding is kept alive by it.
                    self._states[ids.tobytes()] = state[: len(ids)]
                done = sum(len(ids) for ids in rows)
                self.tokens_computed += done
                advance(done)

    def batch(self, sequences: Sequence[TokenIds]) -> tuple[Tensor, Tensor]:
        """Activations (B, T, C), padded with zeros to the longest, and lengths (B,)."""
        states = [self._states[ids.tobytes()] for ids in sequences]
        return pad_sequence(states, batch_first=True), torch.tensor([len(s) for s in states])


@torch.inference_mode()
def run_prefix(
    classifier: SequenceClassifier, sequences: Sequence[TokenIds]
) -> tuple[Tensor, Tensor]:
    """Activations (B, T, C) of a few sequences, computed now, and their lengths (B,)."""
    ids, lengths = pad(sequences, pad_id=0)
    return classifier.prefix(torch.from_numpy(ids)), torch.tensor(lengths)


@torch.inference_mode()
def run_tail(
    classifier: SequenceClassifier,
    sequences: Sequence[TokenIds],
    store: ActivationStore,
    progress: Progress | None = None,
) -> Tensor:
    """Logits (n, n_classes), float32, in the sequences' order.

    Activations are taken from ``store`` where it has them, and computed, not kept, where not.
    """
    logits = torch.empty(len(sequences), classifier.head.out_features)
    lengths = [len(ids) for ids in sequences]
    progress = progress or Silent()
    with progress.task("predict", len(sequences), "texts") as advance:
        for batch in token_budget_batches(lengths, TOKEN_BUDGET):
            rows = [sequences[i] for i in batch]
            known = all(ids in store for ids in rows)
            hidden, length = store.batch(rows) if known else run_prefix(classifier, rows)
            logits[torch.from_numpy(batch)] = classifier.tail(hidden, length)
            advance(len(rows))
    return logits
