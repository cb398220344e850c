"""SequenceClassifier: a decoder cut at a depth, with a new head; all frozen but the top.

    prefix   embeddings and the kept blocks below the trainable ones; never changes
    tail     trainable blocks, final norm, pooling, head
    probe    a linear layer on the means of frozen states at a few depths and on the last token's
             state at the top of the prefix, added to the head's output where there is one; see
             probe.py
    lexicon  a linear layer on a text's words and letters, where they help; see lexicon.py. Who has
             the text adds what it says

Under a causal mask no token sees what stands to its right, so padding on the right changes
nothing for the tokens before it, and the last trainable block needs the query of the pooled
token alone. Knows token ids and class numbers; no text, no label names, no files.

A text's activations are rows of C numbers: first two for each summary depth, then one for each
token.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lastblock.config import AttentionKind, Precision, Settings
from lastblock.decoder import few_rows
from lastblock.decoder.decoder import Climb, Decoder, sum_states
from lastblock.decoder.layers import Block, RMSNorm
from lastblock.decoder.precision import Int8Linear, precision_facts, set_precision
from lastblock.decoder.trained_tail import Tail, TailSteps
from lastblock.errors import ConfigError
from lastblock.lexicon import Lexicon

PooledBy = Literal["last", "mean", "first"]


class SequenceClassifier(nn.Module):
    """Decoder + head, of which the last ``trainable_blocks`` kept blocks are trained.

    Args:
        decoder: cut to the depth wanted. Its parameters are taken over, not copied, but for
            those that will be trained.
        n_classes: outputs of the head.
        trainable_blocks: kept blocks to train, with final norm and head; 0 for these two alone.
        pooling: the token whose state feeds the head: the last real one (by length), the first,
            or the mean over all real ones.
        summary_depths: after how many blocks of the frozen prefix the mean state of a text is
            taken for the probe; none, no probe.
        lexicon: whether there is one.
        train_embeddings: train them too; then no block may be frozen.
        attention: "full" lets tokens see those after them, padding too: for texts that are all
            filled to one length.

    Raises:
        ConfigError: there are fewer kept blocks than trainable ones.
    """

    def __init__(
        self,
        decoder: Decoder,
        n_classes: int,
        *,
        trainable_blocks: int = 1,
        pooling: PooledBy = "last",
        summary_depths: Sequence[int] = (),
        lexicon: bool = False,
        train_embeddings: bool = False,
        attention: AttentionKind = "causal",
    ) -> None:
        super().__init__()
        if not 0 <= trainable_blocks <= decoder.depth:
            raise ConfigError(
                f"--trainable-blocks {trainable_blocks} must be from 0 to the depth {decoder.depth}"
            )
        self.decoder = decoder
        self.attention = attention
        decoder.set_attention(attention)
        self.pooling = pooling
        self.frozen_blocks = decoder.depth - trainable_blocks
        self.summary_depths = tuple(summary_depths)
        if any(not 0 < depth <= self.frozen_blocks for depth in self.summary_depths):
            raise ConfigError(
                f"summary depths {self.summary_depths} must be from 1 to the "
                f"{self.frozen_blocks} frozen blocks"
            )
        size = decoder.config.hidden_size
        self.head = nn.Linear(size, n_classes)
        self.probe: nn.Linear | None = None
        if self.summary_depths:
            self.probe = nn.Linear(self.probed, n_classes)
            for parameter in self.probe.parameters():  # fitted in closed form, not by gradients
                nn.init.zeros_(parameter).requires_grad_(False)
        self.lexicon = Lexicon(n_classes) if lexicon else None
        self.train_embeddings = train_embeddings
        self.prefix_precision: Precision | None = None  # as the weights are stored
        for parameter in self.decoder.parameters():
            parameter.requires_grad_(False)
        for module in self._trainable_modules():
            for parameter in module.parameters():
                # A copy in float32: weights may be mapped from a file, or stored in 16 bits. In one
                # piece, as a saved model's are: GPT-2's lie the other way.
                parameter.data = parameter.data.to(
                    torch.float32, copy=True, memory_format=torch.contiguous_format
                )
                parameter.requires_grad_(True)

    def _embeddings(self) -> list[nn.Module]:
        return [m for name, m in self.decoder.named_children() if name.startswith("embed")]

    def _trainable_modules(self) -> list[nn.Module]:
        blocks = self.decoder.blocks[self.frozen_blocks :]
        embeddings = self._embeddings() if self.train_embeddings else []
        return [*embeddings, *blocks, self.decoder.norm, self.head]

    def add_adapters(self, rank: int) -> None:
        """Train low-rank changes of the weights in all trainable blocks but the last.

        Each weight W of a linear layer there is frozen and becomes W + B A, with A (rank, in)
        drawn at random and B (out, rank) zero at first (LoRA, Hu et al. 2021, section 4.1).
        """
        for module in self._adapted():
            module.weight.requires_grad_(False)
            out, size = module.weight.shape
            parametrize.register_parametrization(module, "weight", LowRank(out, size, rank))

    def merge_adapters(self) -> None:
        """Make the changes that adapters have learnt part of the weights; nothing, without any."""
        for module in self._adapted():
            if parametrize.is_parametrized(module, "weight"):
                parametrize.remove_parametrizations(module, "weight")

    def _adapted(self) -> list[nn.Linear]:
        blocks = self.decoder.blocks[self.frozen_blocks : -1]
        return [m for block in blocks for m in block.modules() if isinstance(m, nn.Linear)]

    def set_prefix_precision(
        self,
        precision: Precision,
        sample: Tensor | None = None,
        done: Decoder | None = None,
        *,
        weights: str | None = None,
    ) -> None:
        """Turn the frozen prefix to what it will compute in; the tail's weights stay float32.

        ``sample`` (T,), token ids of some text, is for int8, and ``weights``: see
        ``set_precision``. ``done`` is a decoder of the same weights, as deep as the prefix or
        deeper, that was turned to it already, with the same sample: its blocks are taken.
        """
        embed = not self.train_embeddings
        if done is None:
            set_precision(
                self.decoder, self.frozen_blocks, precision, sample, embed=embed, weights=weights
            )
        else:
            self.decoder.take(done.requires_grad_(False), self.frozen_blocks, embed=embed)
        self.prefix_precision = precision

    @property
    def prefix_dtype(self) -> torch.dtype:
        """What activations are stored in."""
        return kept_as(self.decoder)

    def prefix_facts(self) -> dict[str, str | int]:
        """Everything but the pretrained weights that decides what ``prefix`` computes.

        Activations on disk are kept by it.
        """
        dtype = str(self.prefix_dtype).removeprefix("torch.")
        if self.prefix_precision is not None:
            computed_in = precision_facts(self.decoder, self.frozen_blocks, self.prefix_precision)
            dtype = computed_in if computed_in == dtype else f"{computed_in} as {dtype}"
        summaries = "+".join(map(str, self.summary_depths))
        facts: dict[str, str | int] = {
            "frozen_blocks": self.frozen_blocks,
            "summaries": summaries,
            "dtype": dtype,
        }
        if self.attention != "causal":  # else what is kept already would be looked for in vain
            facts["attention"] = self.attention
        return facts

    @property
    def size(self) -> int:
        """Parameters, those of 8-bit layers among them."""
        rounded = (m for m in self.modules() if isinstance(m, Int8Linear))
        small = sum(m.parameters_held for m in rounded)
        return small + sum(p.numel() for p in self.parameters())

    @torch.no_grad()
    def join(self, weight: Tensor, bias: Tensor, tail: float, probe: float) -> None:
        """Take in a fitted probe's weight and bias, and weigh its logits against the head's."""
        if self.probe is None:
            raise ValueError("this classifier has no summary depths, so no probe")
        for parameter in self.head.parameters():
            parameter.mul_(tail)
        self.probe.weight.copy_(probe * weight)
        self.probe.bias.copy_(probe * bias)

    def join_lexicon(self, lexicon: Lexicon, factor: float) -> None:
        """Take in a fitted lexicon, whose logits count so many times as much."""
        lexicon.scale(factor)
        self.lexicon = lexicon

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def tail_steps(self) -> TailSteps | None:
        """Training steps of the tail in C; None where it is not one that they are for."""
        norm, decoder, index = self.decoder.norm, self.decoder, self.decoder.depth - 1
        if self.pooling != "last" or self.frozen_blocks != index or not isinstance(norm, RMSNorm):
            return None
        block: Block = decoder.blocks[index]  # type: ignore[assignment]
        known = block.as_llama()
        if known is None or norm.offset:
            return None
        tail = Tail(known[0], norm.weight, self.head.weight, self.head.bias)
        trained = {id(parameter) for parameter in self.trainable_parameters()}
        if {id(of) for of in tail.weights} != trained or not TailSteps.can_take(tail, known[1]):
            return None
        rotary = partial(decoder.rotary, index, torch.float32)
        return TailSteps(tail, known[1], norm.eps, rotary, self.summary_rows)

    def tail_state(self) -> dict[str, Tensor]:
        """A copy of everything that training changes, by name."""
        return {name: p.detach().clone() for name, p in self._learnt()}

    @torch.no_grad()
    def load_tail_state(self, state: dict[str, Tensor]) -> None:
        """Put back what ``tail_state`` gave; a lexicon that was not there yet then is silenced."""
        for name, parameter in self._learnt():
            parameter.copy_(state[name] if name in state else torch.zeros_like(parameter))

    def _learnt(self) -> list[tuple[str, nn.Parameter]]:
        """What training changes: probe and lexicon too, though not by gradients."""
        return [
            (name, p)
            for name, p in self.named_parameters()
            if p.requires_grad or name.startswith(("probe.", "lexicon."))
        ]

    @property
    def probed(self) -> int:
        """How many numbers the probe sees of a text."""
        states = len(self.summary_depths) + (self.pooling == "last")
        return states * self.decoder.config.hidden_size

    @property
    def probed_means(self) -> int:
        """How many of these, the first ones, are of mean states, where others are not; else 0."""
        means = len(self.summary_depths) * self.decoder.config.hidden_size
        return means if means < self.probed else 0

    @property
    def summary_rows(self) -> int:
        """Rows of a text's activations that stand before its first token's."""
        return 2 * len(self.summary_depths)

    def prefix(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T), padded on the right, and lengths (B,) -> activations.

        These are (B, summary_rows + T, C), in ``prefix_dtype``.
        """
        if not self.frozen_blocks:  # the embeddings may be trained: nothing may be kept of them
            return self.decoder.embed(ids)
        return few_rows.padded(self.activations(ids, lengths))

    def activations(self, ids: Tensor, lengths: Tensor) -> list[Tensor]:
        """The same without padding, of each text, (summary_rows + its length, C)."""
        climb, means = self.decoder.climb(ids, lengths), []
        for depth in self.summary_depths:
            means.append(climb.to(depth).pooled()[1])
        return activations_here(climb.to(self.frozen_blocks), means, self.prefix_dtype)

    def summary(self, activations: Tensor, rows: Tensor) -> Tensor:
        """Activations (B, summary_rows + T, C) -> what the probe sees, (B, probed), float32.

        Of each text's activations the first ``rows`` (B,) are real.
        """
        above = activations[:, : self.summary_rows].float()
        means = (above[:, ::2] + above[:, 1::2]).flatten(1)
        if self.pooling != "last":
            return means
        return torch.cat([means, activations[torch.arange(len(rows)), rows - 1].float()], 1)

    def tail(self, activations: Tensor, rows: Tensor) -> Tensor:
        """Activations (B, summary_rows + T, C) -> logits (B, n_classes), float32.

        Of each text's activations the first ``rows`` (B,) are real.
        """
        logits = self.head_logits(activations, rows)
        return (
            logits if self.probe is None else logits + self.probe(self.summary(activations, rows))
        )

    def head_logits(self, activations: Tensor, rows: Tensor) -> Tensor:
        """The same without what the probe says: all of it while the tail is trained."""
        lengths = rows - self.summary_rows
        logits: Tensor = self.head(self.pooled(activations[:, self.summary_rows :], lengths))
        return logits

    def pooled(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Token activations (B, T, C) and lengths (B,) -> what the head sees, (B, C), float32."""
        x = hidden.float()
        depth = self.decoder.depth
        position = lengths - 1 if self.pooling == "last" else torch.zeros_like(lengths)
        if self.pooling == "mean":
            x = self._through_whole_blocks(x, depth)
            return mean_state(self.decoder.norm(x), lengths)
        if self.frozen_blocks == depth:
            x = x[torch.arange(len(x)), position]
        else:
            x = self._through_whole_blocks(x, depth - 1)
            x = self.decoder.run_at(x, position, depth - 1)
        state: Tensor = self.decoder.norm(x)
        return state

    def _through_whole_blocks(self, x: Tensor, depth: int) -> Tensor:
        """States above the frozen blocks, (B, T, C), up to a depth, float32.

        Where the whole decoder is trained, and in bfloat16, a training step's products are, while
        weights, sums and norms stay float32 (Micikevicius et al. 2018, "Mixed Precision Training").
        """
        training = torch.is_grad_enabled() and not self.frozen_blocks
        half = training and self.prefix_precision == "bfloat16"
        with torch.autocast("cpu", torch.bfloat16) if half else nullcontext():
            return self.decoder.run(x, self.frozen_blocks, depth)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T), padded on the right, and lengths (B,) -> logits (B, n_classes).

        Without what a lexicon says, which reads texts.
        """
        return self.tail(self.prefix(ids, lengths), lengths + self.summary_rows)


class LowRank(nn.Module):
    """W -> W + B A."""

    def __init__(self, out: int, size: int, rank: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(rank, size) / size**0.5)
        self.b = nn.Parameter(torch.zeros(out, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.b @ self.a


def make_classifier(decoder: Decoder, settings: Settings, n_classes: int) -> SequenceClassifier:
    """The classifier that these settings describe, with a new head; its weights as they are."""
    return SequenceClassifier(
        decoder,
        n_classes,
        trainable_blocks=settings.trainable_blocks,
        pooling="last" if settings.pooling == "padded" else settings.pooling,
        summary_depths=settings.summary_depths,
        lexicon=settings.lexicon,
        train_embeddings=settings.train == "all",
        attention=settings.attention,
    )


def mean_state(x: Tensor, lengths: Tensor) -> Tensor:
    """The mean of each text's real tokens: (B, T, C) and lengths (B,) -> (B, C)."""
    return sum_states(x, lengths) / lengths[:, None]


def kept_as(decoder: Decoder) -> torch.dtype:
    """What the states above a decoder's frozen blocks are stored in.

    That is what they are computed in; but bfloat16 where products are of 8-bit integers: half as
    much to keep and to read, and what it rounds off is nothing beside what these do.
    """
    integers = any(isinstance(module, Int8Linear) for module in decoder.blocks[:1].modules())
    dtype: torch.dtype = torch.bfloat16 if integers else decoder.embed_tokens.weight.dtype
    return dtype


def activations_here(climb: Climb, means: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Each text's activations, where its way up ends; ``means`` (B, C) are its mean states."""
    above = [row for mean in means for row in split_rounding(mean, dtype)]
    return climb.states(above, dtype)


def split_rounding(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two tensors of ``dtype`` whose sum is ``x``, float32, nearly.

    The second holds what rounding took from the first: in 16 bits features are lost that differ
    between texts by a hundredth of their size.
    """
    first = x.to(dtype)
    return first, (x - first.float()).to(dtype)
