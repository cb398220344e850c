"""A training step of a trained block of the Llama kind, a norm and a head, in C, but for the loss.

What lies above frozen states whose last token is asked for. ``layers.Block``, torch's autograd and
``few_rows.adamw`` do the same, one after the other: of so few rows, what lies between products
takes a quarter of a step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from lastblock.decoder import few_rows, kernels
from lastblock.decoder.few_rows import Pair, Seen, StepSize
from lastblock.decoder.trained_block import BlockAt, Shape, Wanted, Weights, call


class Tail(NamedTuple):
    """What is trained: a block's weights, the factors (C,) of the norm above it, and a head.

    The head's are (n_classes, C) and (n_classes,).
    """

    block: Weights
    norm: Tensor
    head: Tensor
    bias: Tensor

    @property
    def weights(self) -> list[Tensor]:
        """All of them, in the order that trained_tail.c has."""
        return [*self.block, self.norm, self.head, self.bias]


class _Moved(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "mean", "square")),
        *((name, ctypes.c_float) for name in ("kept", "of_gradient", "of_square", "step")),
        *((name, ctypes.c_float) for name in ("of_root", "eps")),
    )


_MOVED = len(Weights._fields) + 3


class _Tail(ctypes.Structure):
    _fields_ = (
        ("block", BlockAt),
        ("of", Wanted),
        ("norm_eps", ctypes.c_float),
        ("classes", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("state", "state_by", "logits", "of_logits")),
        *((name, ctypes.c_void_p) for name in ("of_state", "of_norm", "of_bias")),
        ("moved", _Moved * _MOVED),
    )


class TailSteps:
    """Steps of a tail: the ``logits`` of a few texts, then a ``step`` for what is wanted of them.

    ``weights`` are the tail's, in the order in which ``step`` takes what belongs to them.
    """

    def __init__(
        self,
        tail: Tail,
        shape: Shape,
        norm_eps: float,
        rotary: Callable[[int], Pair | None],
        skipped: int = 0,
    ) -> None:
        """See ``can_take``.

        Args:
            tail: what is trained.
            shape: the block's.
            norm_eps: what the norm above it adds to the mean square.
            rotary: of so many positions cos and sin, each (T, D), if they are rotated in.
            skipped: how many of a text's first rows are no token's.
        """
        self.weights, self._heads = tail.weights, shape.heads
        self._rotary, self._skipped, self._size = rotary, skipped, len(tail.norm)
        self._said = said = _Tail(norm_eps=norm_eps, classes=len(tail.bias))
        said.block.inner = tail.block.down.shape[1]
        said.block.activation = kernels.ACTIVATIONS[shape.activation]
        said.block.gated = shape.gated
        said.block.attn_eps, said.block.mlp_eps = shape.attn_eps, shape.mlp_eps
        self._kept: tuple[object, ...] = ()

    @staticmethod
    def can_take(tail: Tail, shape: Shape) -> bool:
        """Whether it is for such a tail: causal, and all of it in float32."""
        return shape.heads.causal and few_rows.can_multiply_by(tail.weights)

    @staticmethod
    def can_read(texts: Sequence[Tensor]) -> bool:
        """Whether ``logits`` takes these: few, in one piece, all of float32 or all of bfloat16."""
        if not 0 < len(texts) <= few_rows.MOST_ROWS:
            return False
        dtype = texts[0].dtype
        same = all(of.is_contiguous() and of.dtype == dtype for of in texts)
        return same and dtype in (torch.float32, torch.bfloat16)

    def logits(self, texts: Sequence[Tensor]) -> Tensor:
        """Of texts, given by their states below the block, each (R, C): (B, n_classes), float32.

        See ``can_read``.

        Raises:
            IndexError: a text has no token.
            MemoryError: there is none for what comes about on the way.
        """
        said, library = self._said, kernels.loaded()
        block, heads, batch = said.block, self._heads, len(texts)
        lengths = [of.shape[0] - self._skipped for of in texts]
        if min(lengths) < 1:
            raise IndexError("a text has no token to be asked for")
        begin = self._skipped * texts[0].stride(0) * texts[0].itemsize
        begins = (ctypes.c_void_p * batch)(*(of.data_ptr() + begin for of in texts))
        block.texts = ctypes.addressof(begins)
        block.half, block.length = texts[0].dtype == torch.bfloat16, max(lengths)
        block.tiled = block.half and kernels.have_tiles()
        last = torch.from_numpy(np.array(lengths) - 1)
        seen = Seen.of(last, block.length, heads.causal, heads.window)
        tables = self._rotary(block.length) or ()
        block.seen = seen.said(
            heads.heads, heads.kv_heads, heads.dim, self._size, heads.scale, tables
        )
        for moved, weight in zip(said.moved, self.weights, strict=True):
            moved.weight = weight.data_ptr()

        said_at = ctypes.addressof(said)
        room = torch.empty(library.tail_room(said_at, None), dtype=torch.float32)
        library.tail_room(said_at, room.data_ptr())
        self._kept = ()
        call("tail_logits", said_at)
        self._kept = begins, seen, room, tables, texts  # what addresses point to
        at = (said.logits - room.data_ptr()) // room.itemsize
        return room[at : at + batch * said.classes].view(batch, -1)

    def step(
        self,
        wanted: Tensor,
        means: Sequence[Tensor],
        squares: Sequence[Tensor],
        sizes: Sequence[StepSize],
    ) -> None:
        """Take a step of AdamW down the gradient that the last texts' logits have.

        Weights and moments are changed in place.

        Args:
            wanted: what is wanted of these logits, (B, n_classes).
            means: of the gradients of each of the tail's ``weights``, shaped as these.
            squares: of the same gradients' squares.
            sizes: of the step of each.

        Raises:
            ValueError: these are not of such logits, or they were stepped already.
            MemoryError: there is none for it.
        """
        said, wanted = self._said, wanted.contiguous()
        if not self._kept or wanted.shape != (said.block.seen.batch, said.classes):
            raise ValueError("a step is of the logits that were given last, and of those once")
        said.of_logits = wanted.data_ptr()
        each = zip(self.weights, means, squares, sizes, strict=True)
        for i, (weight, mean, square, size) in enumerate(each):
            said.moved[i] = _Moved(weight.data_ptr(), mean.data_ptr(), square.data_ptr(), *size)
        try:
            call("tail_step", ctypes.addressof(said))
        finally:
            self._kept = ()
