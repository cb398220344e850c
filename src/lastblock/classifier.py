"""SequenceClassifier: a decoder cut at a depth, with a new head; all frozen but the top.

    prefix   embeddings and the kept blocks below the trainable ones; never changes
    tail     trainable blocks, final norm, pooling, head

Under a causal mask no token sees what stands to its right, so padding on the right changes
nothing for the tokens before it, and the last trainable block needs the query of the pooled
token alone. Knows token ids and class numbers; no text, no label names, no files.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from lastblock.decoder.decoder import Decoder
from lastblock.errors import ConfigError

PooledBy = Literal["last", "mean", "first"]


class SequenceClassifier(nn.Module):
    """Decoder + head, of which the last ``trainable_blocks`` kept blocks are trained.

    Args:
        decoder: cut to the depth wanted. Its parameters are taken over, not copied, but for
            those that will be trained.
        n_classes: outputs of the head.
        trainable_blocks: kept blocks to train, with final norm and head.
        pooling: the token whose state feeds the head: the last real one (by length), the first,
            or the mean over all real ones.

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
    ) -> None:
        super().__init__()
        if not 1 <= trainable_blocks <= decoder.depth:
            raise ConfigError(
                f"--trainable-blocks {trainable_blocks} must be from 1 to the depth {decoder.depth}"
            )
        self.decoder = decoder
        self.pooling = pooling
        self.frozen_blocks = decoder.depth - trainable_blocks
        self.head = nn.Linear(decoder.config.hidden_size, n_classes)
        for parameter in self.decoder.parameters():
            parameter.requires_grad_(False)
        for module in self._trainable_modules():
            for parameter in module.parameters():
                # A copy in float32: weights may be mapped from a file, or stored in 16 bits.
                parameter.data = parameter.data.to(torch.float32, copy=True)
                parameter.requires_grad_(True)

    def _trainable_modules(self) -> list[nn.Module]:
        return [*self.decoder.blocks[self.frozen_blocks :], self.decoder.norm, self.head]

    def set_prefix_dtype(self, dtype: torch.dtype) -> None:
        """Turn the frozen prefix to the dtype it will compute in; the tail stays float32."""
        for name, module in self.decoder.named_children():
            if name.startswith("embed"):
                module.to(dtype)
        for block in self.decoder.blocks[: self.frozen_blocks]:
            block.to(dtype)

    @property
    def prefix_dtype(self) -> torch.dtype:
        """What the frozen prefix computes in."""
        dtype: torch.dtype = self.decoder.embed_tokens.weight.dtype
        return dtype

    def prefix_facts(self) -> dict[str, str | int]:
        """Everything but the pretrained weights that decides what ``prefix`` computes.

        Activations on disk are kept by it.
        """
        dtype = str(self.prefix_dtype).removeprefix("torch.")
        return {"frozen_blocks": self.frozen_blocks, "dtype": dtype}

    def trainable_parameters(self) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def tail_state(self) -> dict[str, Tensor]:
        """A copy of everything that training changes, by name."""
        return {n: p.detach().clone() for n, p in self.named_parameters() if p.requires_grad}

    @torch.no_grad()
    def load_tail_state(self, state: dict[str, Tensor]) -> None:
        for name, parameter in self.named_parameters():
            if parameter.requires_grad:
                parameter.copy_(state[name])

    def prefix(self, ids: Tensor) -> Tensor:
        """Token ids (B, T), padded on the right -> activations (B, T, C) in the prefix's dtype."""
        return self.decoder.run(self.decoder.embed(ids), 0, self.frozen_blocks)

    def tail(self, hidden: Tensor, lengths: Tensor) -> Tensor:
        """Activations (B, T, C) and lengths (B,) -> logits (B, n_classes), float32."""
        x = hidden.float()
        top = self.decoder.depth - 1
        x = self.decoder.run(x, self.frozen_blocks, top)
        if self.pooling == "mean":
            x = self.decoder.norm(self.decoder.run(x, top, top + 1))
            real = torch.arange(x.shape[1]) < lengths[:, None]  # (B, T)
            pooled = (x * real[..., None]).sum(1) / lengths[:, None]
        else:
            position = lengths - 1 if self.pooling == "last" else torch.zeros_like(lengths)
            pooled = self.decoder.norm(self.decoder.run_at(x, position, top))
        logits: Tensor = self.head(pooled)
        return logits

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Token ids (B, T), padded on the right, and lengths (B,) -> logits (B, n_classes)."""
        return self.tail(self.prefix(ids), lengths)
