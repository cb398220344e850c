"""What a linear probe reads at each depth, by the words that the decoder reads around a text.

    python benchmarks/prompts.py [--sets trec6 emotion sst2] [--prompts '{text}' ...] [--shown]

A ridge regression on the last token's state and the mean state, fitted on 8 and on 64 examples a
class, right so often on 400 test texts; mean of the draws. With ``--shown`` the decoder reads, in
front of every text, one text of each class in the same words, with its label for an answer: of
texts that no draw has. Reads the sets in LASTBLOCK_DATA.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import torch
from accuracy import SETS, read
from torch import Tensor

from lastblock.config import DEFAULT_MODEL
from lastblock.data.examples import Examples
from lastblock.decoder import hub, loading
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.precision import set_precision
from lastblock.probe import fit_probe
from lastblock.recipe import BARE, PROMPT, SAMPLE
from lastblock.tokenization.batching import TokenIds, pad, shared_batches
from lastblock.tokenization.tokenizer import Tokenizer

PROMPTS = (BARE, PROMPT, '{text}\nIn one word, this text is about: "')
DEPTHS = (4, 8, 12, 15, 17, 20, 22, 25, 27, 30)
NUMBERS = (8, 64)
# Between these shares of all, by length, lies a text that is shown: neither short nor long.
SHOWN = (1 / 4, 3 / 5)


@torch.inference_mode()
def features(decoder: Decoder, sequences: list[TokenIds]) -> list[Tensor]:
    """Last token's and mean state (n, 2 C) at each of ``DEPTHS``."""
    found = [torch.empty(len(sequences), 2 * decoder.config.hidden_size) for _ in DEPTHS]
    for batch in shared_batches(sequences, 1024):
        ids, lengths = pad([sequences[i] for i in batch], pad_id=0)
        climb = decoder.climb(torch.from_numpy(ids), torch.tensor(lengths))
        for into, depth in zip(found, DEPTHS, strict=True):
            into[torch.from_numpy(batch)] = torch.cat(climb.to(depth).pooled(), 1)
    return found


def show(prompt: str, train: Examples, taken: Collection[int]) -> str:
    """The prompt with a text of each class before it, not one of those taken, and its label."""
    left = [i for i in np.random.default_rng(0).permutation(len(train)) if i not in taken]
    low, high = np.quantile([len(train.texts[i]) for i in left], SHOWN)
    fitting = [i for i in left if low <= len(train.texts[i]) <= high]
    first = {train.labels[i]: train.texts[i] for i in reversed(fitting)}
    answered = (
        prompt.replace("{text}", first[label].replace("{text}", "")) + f'{label}". '
        for label in sorted(first)
    )
    return "".join(answered) + prompt


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=SETS, default=["trec6", "emotion", "sst2"])
    parser.add_argument("--prompts", nargs="+", default=list(PROMPTS))
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8"], default="float32")
    parser.add_argument("--shown", action="store_true", help="with labelled texts in front, too")
    given = parser.parse_args()
    if "LASTBLOCK_DATA" not in os.environ:
        sys.exit("LASTBLOCK_DATA is not set: it names the folder with the sets")
    folder = hub.resolve(DEFAULT_MODEL).folder
    tokenizer, decoder = Tokenizer.from_pretrained(folder), loading.load_decoder(folder)
    sample = tokenizer.frame(PROMPT).around(tokenizer.encode_batch([SAMPLE])[0])
    set_precision(decoder, decoder.depth, given.dtype, torch.from_numpy(sample))
    print(f"{'set':<10}{'a class':>8}" + "".join(f"{depth:>7}" for depth in DEPTHS) + "  prompt")
    for name in given.sets:
        train, test = read(Path(os.environ["LASTBLOCK_DATA"]), name, given.test)
        classes, numbers = np.unique(np.asarray(train.labels), return_inverse=True)
        truth = torch.from_numpy(np.searchsorted(classes, np.asarray(test.labels)))
        drawn = {
            (seed, n): np.concatenate([order[numbers[order] == c][:n] for c in range(len(classes))])
            for seed in given.seeds
            for n in NUMBERS
            for order in [np.random.default_rng(seed).permutation(len(train))]
        }
        rows = np.unique(np.concatenate(list(drawn.values())))
        prompts = [*given.prompts]
        if given.shown:
            prompts += [show(prompt, train, set(rows.tolist())) for prompt in given.prompts]
        for prompt in prompts:
            texts = [*(train.texts[row] for row in rows), *test.texts]
            frame = tokenizer.frame(prompt)
            decoder.begin_with(torch.from_numpy(frame.before))
            states = features(decoder, [frame.around(ids) for ids in tokenizer.encode_batch(texts)])
            for n in NUMBERS:
                line = []
                for state in states:
                    right = []
                    for seed in given.seeds:
                        taken = np.searchsorted(rows, drawn[seed, n])
                        probe = fit_probe(state[taken], torch.from_numpy(numbers[drawn[seed, n]]))
                        said = (state[len(rows) :] @ probe.weight.T + probe.bias).argmax(1)
                        right.append(float((said == truth).float().mean()))
                    line.append(f"{np.mean(right):>7.3f}")
                words = f"{len(frame)} tokens, {prompt[-60:]!r}"
                print(f"{name:<10}{n:>8}{''.join(line)}  {words}", flush=True)


if __name__ == "__main__":
    main()
