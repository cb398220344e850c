"""Train the tail on cached activations. Knows activations and class numbers; no text, no files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.activations import ActivationStore, run_tail, states_of
from lastblock.classifier import SequenceClassifier
from lastblock.config import Settings
from lastblock.decoder import few_rows, kernels
from lastblock.decoder.trained_tail import TailSteps, loss_and_slope
from lastblock.evaluation import History
from lastblock.runtime import Progress, seeded_generator
from lastblock.tokenization.batching import TokenIds

# Of AdamW: torch's own.
BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class Encoded:
    """Texts as the tail sees them: token ids, and class numbers (n,), int64.

    ``weights`` (n,), with a mean of 1, say how much each text counts in the loss; None: all alike.
    Where a text may have several labels, ``labels`` says of each whether it has it: (n, n_classes),
    bool; and ``weights``, (n, 1) or (n, n_classes), how much each text or each of those answers
    counts. Where these are parts of longer texts, ``of`` (n,) numbers the text each is of.
    """

    sequences: Sequence[TokenIds]
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_]
    weights: npt.NDArray[np.float64] | None = None
    of: npt.NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.sequences)

    @property
    def texts(self) -> int:
        """How many texts these are, or are parts of."""
        return len(self) if self.of is None else len(np.unique(self.of))

    def take(self, indices: Sequence[int] | npt.NDArray[np.int64]) -> Encoded:
        weights = None if self.weights is None else self.weights[indices]
        of = None if self.of is None else self.of[indices]
        return Encoded([self.sequences[i] for i in indices], self.labels[indices], weights, of)

    def tensors(self) -> tuple[Tensor, Tensor | None]:
        """Labels and weights as tensors."""
        weights = None if self.weights is None else torch.from_numpy(self.weights)
        return torch.from_numpy(self.labels), weights


def cross_entropy(logits: Tensor, part: Encoded) -> Tensor:
    """Mean cross-entropy (nats) of logits (n, n_classes), each loss times its weight.

    Of several labels it is the binary one, over all texts and labels. Not divided by the weights
    of the batch: then a step's gradient is, on average over batches, that of the whole part's
    weighted loss.
    """
    labels = torch.from_numpy(part.labels)
    if labels.dim() == 2:
        losses = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction="none")
    else:
        losses = F.cross_entropy(logits, labels, reduction="none")
    if part.weights is None:
        return losses.mean()
    return (losses * torch.from_numpy(part.weights).float()).mean()


@torch.no_grad()
def start_at_shares(classifier: SequenceClassifier, part: Encoded) -> None:
    """Let a head of several labels begin with how frequent each is in a part, by weight.

    Else its first steps are spent on learning that most labels are rare (Lin et al., "Focal loss
    for dense object detection", ICCV 2017, section 3.3).
    """
    weights = np.ones((len(part), 1)) if part.weights is None else part.weights
    shares = ((weights * part.labels).sum(axis=0) + 1) / (weights.sum(axis=0) + 2)
    classifier.head.bias.copy_(torch.logit(torch.from_numpy(shares)))


def loss_and_accuracy(
    classifier: SequenceClassifier, store: ActivationStore, part: Encoded
) -> tuple[float, float]:
    """Mean cross-entropy (nats), weighted where there are weights, and share right, over a part.

    Of several labels a text is right where all are, each given from a probability of 0.5 on.
    """
    logits, labels = run_tail(classifier, part.sequences, store), torch.from_numpy(part.labels)
    right = ((logits > 0) == labels).all(1) if labels.dim() == 2 else logits.argmax(1) == labels
    return cross_entropy(logits, part).item(), right.float().mean().item()


def learning_rate_at(step: int, steps: int, settings: Settings) -> float:
    """The share of the peak learning rate in force at a step: linear warm-up, then decay."""
    warmup = math.ceil(settings.warmup * steps)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    if settings.decay == "none":
        return 1.0
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class AdamW:
    """AdamW (Loshchilov & Hutter 2019, algorithm 2), in torch's own fused step.

    ``torch.optim.AdamW`` takes the same steps, to the bit, but imports torch's compiler to make its
    first one, which takes seconds, as long as a small training. Where there are kernels, gradients
    of large weights are left as factors (``few_rows``), and steps are the same to rounding.

    Args:
        parameters: float32; those without a gradient are left alone.
        weight_decay: times the learning rate, what each step takes off a weight's every unit.
        lr: the learning rate of the next steps; may be changed between them.
    """

    def __init__(
        self, parameters: Sequence[nn.Parameter], weight_decay: float, lr: float = 1e-3
    ) -> None:
        self.parameters, self.weight_decay, self.lr = list(parameters), weight_decay, lr
        self._mean = [torch.zeros_like(p) for p in self.parameters]
        self._square = [torch.zeros_like(p) for p in self.parameters]
        self._steps = [0] * len(self.parameters)
        self._row = {id(parameter): i for i, parameter in enumerate(self.parameters)}

    def zero_grad(self) -> None:
        for parameter in self.parameters:
            parameter.grad = None
            if kernels.available():
                few_rows.keep_factors(parameter)

    def forget(self) -> None:
        """Drop what gradients there are, and leave parameters as any optimizer takes them."""
        for parameter in self.parameters:
            parameter.grad = None
            few_rows.take_factors(parameter)

    @torch.no_grad()
    def step(self) -> None:
        """Take a step down the gradients that the parameters have."""
        by_factors, moved = [], []
        each = zip(self.parameters, self._mean, self._square, strict=True)
        for i, (parameter, mean, square) in enumerate(each):
            left, gradient = few_rows.take_factors(parameter), parameter.grad
            if not left and gradient is None:
                continue
            self._steps[i] += 1
            if left:
                moments = parameter, mean, square, left, gradient, self._size(self._steps[i])
                by_factors.append(few_rows.Moments(*moments))
            else:
                moved.append((parameter, gradient, mean, square, float(self._steps[i])))
        if by_factors:
            few_rows.adamw(by_factors)
        if not moved:
            return
        parameters, gradients, means, squares, counts = map(list, zip(*moved, strict=True))
        torch._fused_adamw_(
            parameters,
            gradients,
            means,
            squares,
            [],
            [*torch.tensor(counts).unbind()],
            lr=self.lr,
            beta1=BETAS[0],
            beta2=BETAS[1],
            weight_decay=self.weight_decay,
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )

    def _size(self, step: int) -> few_rows.StepSize:
        return few_rows.StepSize.of(
            step, lr=self.lr, betas=BETAS, weight_decay=self.weight_decay, eps=EPS
        )

    def step_of(self, steps: TailSteps, wanted: Tensor) -> None:
        """The same step of a whole tail, for what is wanted of the logits that it gave last."""
        moments, sizes = [], dict[int, few_rows.StepSize]()
        for weight in steps.weights:
            i = self._row[id(weight)]
            self._steps[i] += 1
            count = self._steps[i]
            size = sizes.get(count) or sizes.setdefault(count, self._size(count))
            moments.append((self._mean[i], self._square[i], size))
        steps.step(wanted, moments)


def train_tail(
    classifier: SequenceClassifier,
    store: ActivationStore,
    train: Encoded,
    validation: Encoded | None,
    settings: Settings,
    generator: torch.Generator,
    progress: Progress,
) -> History:
    """Train ``classifier``'s tail in place with AdamW.

    ``store`` holds the activations of both parts. Where the settings say so and there is a
    validation part, the weights of the epoch with the lowest validation loss are put back.
    """
    optimizer = AdamW(classifier.trainable_parameters(), settings.weight_decay)
    whole = classifier.tail_steps()
    watch = _Watch(classifier, store, train, validation, settings)
    steps = settings.epochs * _steps_per_epoch(len(train), settings)
    step = 0
    try:
        with progress.task("training", steps, "steps") as advance:
            for epoch in range(settings.epochs):
                for rows in _batches(len(train), settings, generator):
                    optimizer.lr = settings.learning_rate * learning_rate_at(step, steps, settings)
                    training_step(classifier, store, train.take(rows), optimizer, whole)
                    watch.examples_seen += len(rows)
                    if step % (settings.eval_steps or steps) == 0:
                        watch.losses(step)
                    step += 1
                    advance(1)
                watch.epoch(epoch + 1, step)
    finally:
        optimizer.forget()
    if settings.keep_best:
        watch.put_back_best()
    return watch.history


def training_step(
    classifier: SequenceClassifier,
    store: ActivationStore,
    batch: Encoded,
    optimizer: AdamW,
    steps: TailSteps | None = None,
) -> float:
    """One step; the loss before it.

    ``steps``: the classifier's own, to take it in C where they can read the batch; the same to
    rounding.
    """
    states = None if steps is None else store.states(batch.sequences)
    if steps is not None and states is not None and steps.can_read(states):
        logits = steps.logits(states)
        loss, slope = loss_and_slope(logits, batch.labels, batch.weights)
        optimizer.step_of(steps, slope)
        return loss
    hidden, rows = states_of(classifier, batch.sequences, store)
    entropy = cross_entropy(classifier.head_logits(hidden, rows), batch)
    optimizer.zero_grad()
    entropy.backward()
    optimizer.step()
    return entropy.item()


def _steps_per_epoch(n: int, settings: Settings) -> int:
    full, rest = divmod(n, settings.batch_size)
    return full if full and settings.drop_last else full + bool(rest)


def _batches(
    n: int, settings: Settings, generator: torch.Generator
) -> Iterator[npt.NDArray[np.int64]]:
    """Shuffled rows, a batch at a time; the last, incomplete one dropped where asked."""
    order = torch.randperm(n, generator=generator).numpy()
    for i in range(_steps_per_epoch(n, settings)):
        yield order[i * settings.batch_size : (i + 1) * settings.batch_size]


class _Watch:
    """Looks at both parts while training goes on, and remembers the best weights seen."""

    def __init__(
        self,
        classifier: SequenceClassifier,
        store: ActivationStore,
        train: Encoded,
        validation: Encoded | None,
        settings: Settings,
    ) -> None:
        self.classifier, self.store, self.settings = classifier, store, settings
        self.train, self.validation = train, validation
        # Its own generator: how often one looks must not change what is learnt.
        self.generator = seeded_generator(settings.seed)
        self.history = History()
        self.examples_seen = 0
        self.best_loss = math.inf
        self.best: dict[str, Tensor] | None = None

    def _sample(self) -> Encoded:
        """A few training texts, drawn anew each time, as from a shuffled loader."""
        order = torch.randperm(len(self.train), generator=self.generator).numpy()
        return self.train.take(order[: self.settings.eval_texts])

    def _measure(self, part: Encoded) -> tuple[float, float]:
        return loss_and_accuracy(self.classifier, self.store, part)

    def losses(self, step: int) -> None:
        """Judge a few texts of both parts."""
        validation_loss = None
        if self.validation is not None:
            few = range(min(len(self.validation), self.settings.eval_texts))
            validation_loss = self._measure(self.validation.take(few))[0]
        self._add_losses(step, self._measure(self._sample())[0], validation_loss)

    def _add_losses(self, step: int, train_loss: float, validation_loss: float | None) -> None:
        self.history.losses.append(
            {
                "step": step,
                "examples_seen": self.examples_seen,
                "train_loss": train_loss,
                "validation_loss": validation_loss,
            }
        )

    def epoch(self, epoch: int, step: int) -> None:
        """Judge a few training texts and the whole validation part."""
        train_loss, train_accuracy = self._measure(self._sample())
        loss, accuracy = None, None
        if self.validation is not None:
            loss, accuracy = self._measure(self.validation)
            if self.settings.keep_best and loss < self.best_loss:
                self.best_loss, self.best = loss, self.classifier.tail_state()
        self.history.accuracies.append(
            {
                "epoch": epoch,
                "step": step,
                "examples_seen": self.examples_seen,
                "train_accuracy": train_accuracy,
                "validation_accuracy": accuracy,
            }
        )
        if not self.settings.eval_steps:
            self._add_losses(step, train_loss, loss)

    def put_back_best(self) -> None:
        if self.best is not None:
            self.classifier.load_tail_state(self.best)
