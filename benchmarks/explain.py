"""Do contributions add up? Integrated gradients against orders of leaving tokens out.

On the default decoder, cut at 16 blocks, with a head of random weights (adding up is a matter of
arithmetic, whatever was learnt): how far the contributions' sum is from the difference that they
explain, as a share of it, and how long it took.

    python benchmarks/explain.py
"""

import time
from collections.abc import Callable

import numpy as np
import torch

from lastblock.classifier import SequenceClassifier
from lastblock.decoder import hub, loading
from lastblock.explanation import log_odds, make_plan
from lastblock.runtime import Silent
from lastblock.tokenization.tokenizer import Tokenizer

MODEL, DEPTH, STEPS = "smollm2-135m-instruct", 16, (16, 64)
TEXTS = ["WINNER!! You have won a free prize, call now", "Ok lar, see you at dinner tonight"]


def integrated_gradients(
    classifier: SequenceClassifier, ids: torch.Tensor, baseline: torch.Tensor, steps: int
) -> tuple[float, float]:
    """Sum of the contributions, and the difference they explain.

    Sundararajan, Taly and Yan 2017, over the embeddings, from those of ``baseline``; the integral
    by Gauss and Legendre, which needs fewer steps than a sum of rectangles.
    """
    lengths = torch.tensor([ids.shape[1]])

    def difference(x: torch.Tensor) -> torch.Tensor:
        logits = classifier.tail(classifier.decoder.run(x, 0, classifier.frozen_blocks), lengths)
        return logits[0, 1] - logits[0, 0]

    with torch.no_grad():
        start, end = classifier.decoder.embed(baseline), classifier.decoder.embed(ids)
    total = 0.0
    for node, weight in zip(*np.polynomial.legendre.leggauss(steps), strict=True):
        x = (start + (1 + node) / 2 * (end - start)).float().requires_grad_(True)
        (gradient,) = torch.autograd.grad(difference(x), x)
        total += weight / 2 * float((gradient * (end - start)).sum())
    with torch.no_grad():
        return total, float(difference(end) - difference(start))


def leaving_out(
    classifier: SequenceClassifier, tokenizer: Tokenizer, text: str
) -> tuple[float, float]:
    """The same for ``lastblock.explanation``."""
    ids, spans = tokenizer.encode_with_spans(text)
    plan = make_plan(text, spans)
    rows = []
    for kept in plan.kept:
        left = ids[kept] if kept.any() else np.array([tokenizer.end_of_text])
        with torch.no_grad():
            rows.append(classifier(torch.from_numpy(left)[None].long(), torch.tensor([len(left)])))
    said = torch.cat(rows).double().softmax(dim=1).numpy()
    found = plan.explain(said, 1, "b")
    assert found.log_odds == log_odds(said, 1)[plan.everything]
    difference = found.log_odds - found.log_odds_of_nothing
    return difference - found.missing, difference


def main() -> None:
    files = hub.resolve(MODEL, Silent())
    tokenizer = Tokenizer.from_pretrained(files.folder)
    torch.manual_seed(0)
    classifier = SequenceClassifier(loading.load_decoder(files.folder, depth=DEPTH), 2)
    classifier.float().requires_grad_(False)
    torch.nn.init.normal_(classifier.head.weight, std=0.1)

    def show(name: str, text: str, measure: Callable[[], tuple[float, float]]) -> None:
        start = time.perf_counter()
        total, difference = measure()
        seconds, off = time.perf_counter() - start, abs(total - difference) / abs(difference)
        print(
            f"{name:28} {difference:10.3f} {total:10.3f} {off:9.2%} {seconds:8.1f} s  {text[:12]}"
        )

    print(f"{'':28} {'difference':>10} {'sum':>10} {'off by':>9} {'took':>8}")
    for text in TEXTS:
        ids = torch.from_numpy(tokenizer.encode_batch([text])[0])[None].long()
        nothing = torch.full_like(ids, tokenizer.end_of_text)
        for steps in STEPS:
            show(
                f"integrated gradients, {steps}",
                text,
                lambda ids=ids, n=nothing, s=steps: integrated_gradients(classifier, ids, n, s),
            )
        show("leaving out", text, lambda text=text: leaving_out(classifier, tokenizer, text))


if __name__ == "__main__":
    main()
