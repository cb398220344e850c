"""A training step of a trained block of the Llama kind, a norm and a head, in C.

What lies above frozen states whose last token is asked for. ``layers.Block``, torch's autograd and
``few_rows.adamw`` do the same, one after the other: of so few rows, what lies between products
takes a quarter of a step.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from itertools import accumulate
from operator import sub
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lastblock.decoder import few_rows, kernels
from lastblock.decoder.few_rows import Pair, StepSize
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


_EACH_MOVED = len(Weights._fields) + 3
_MOVED = struct.Struct("PPPffffff" * _EACH_MOVED)


class _Tail(ctypes.Structure):
    _fields_ = (
        ("block", BlockAt),
        ("of", Wanted),
        ("norm_eps", ctypes.c_float),
        ("classes", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("state", "state_by", "logits", "of_logits")),
        *((name, ctypes.c_void_p) for name in ("of_state", "of_norm", "of_bias")),
        ("moved", _Moved * _EACH_MOVED),
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
        self.weights, self._window = tail.weights, shape.heads.window or sys.maxsize
        self._rotary, self._skipped = rotary, skipped
        self._rotated = 0  # so many positions, so far
        self._tables: Pair | None = None
        self._said = said = _Tail(norm_eps=norm_eps, classes=len(tail.bias))
        for name in ("heads", "kv_heads", "dim", "scale"):
            setattr(said.block.seen, name, getattr(shape.heads, name))
        said.block.seen.size = len(tail.norm)
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
        block, seen, batch = said.block, said.block.seen, len(texts)
        lengths = [of.shape[0] - self._skipped for of in texts]
        if min(lengths) < 1:
            raise IndexError("a text has no token to be asked for")
        self._kept = ()  # no step is taken of what was said before
        begin = self._skipped * texts[0].stride(0) * texts[0].itemsize
        begins = (ctypes.c_void_p * batch)(*(of.data_ptr() + begin for of in texts))
        block.texts = ctypes.addressof(begins)
        block.half, block.length = texts[0].dtype == torch.bfloat16, max(lengths)
        block.tiled = block.half and kernels.have_tiles()
        # As ``Seen`` has it of their last tokens. Lists, as numpy takes longer for so few numbers.
        first = [max(0, length - self._window) for length in lengths]
        starts = accumulate(map(sub, lengths, first), initial=0)
        numbers = array("q", [*starts, *first, *(length - 1 for length in lengths)])
        at, _ = numbers.buffer_info()
        seen.starts, seen.first = at, at + (batch + 1) * numbers.itemsize
        seen.position, seen.batch = at + (2 * batch + 1) * numbers.itemsize, batch
        if block.length > self._rotated:
            self._rotated, self._tables = block.length, self._rotary(block.length)
            if self._tables is not None:
                seen.cos, seen.sin = (of.data_ptr() for of in self._tables)
        for moved, weight in zip(said.moved, self.weights, strict=True):
            moved.weight = weight.data_ptr()

        said_at = ctypes.addressof(said)
        room = torch.empty(library.tail_room(said_at, None), dtype=torch.float32)
        library.tail_room(said_at, room.data_ptr())
        call("tail_logits", said_at)
        self._kept = begins, numbers, room, texts  # what addresses point to
        at = (said.logits - room.data_ptr()) // room.itemsize
        return room[at : at + batch * said.classes].view(batch, -1)

    def step(self, wanted: Tensor, moments: Sequence[tuple[Tensor, Tensor, StepSize]]) -> None:
        """Take a step of AdamW down the gradient that the last texts' logits have.

        Weights and moments are changed in place.

        Args:
            wanted: what is wanted of these logits, (B, n_classes).
            moments: of each of the tail's ``weights``, means of its gradients and of their
                squares, both shaped as it is, and how large its step is.

        Raises:
            ValueError: these are not of such logits, or they were stepped already.
            MemoryError: there is none for it.
        """
        said, wanted = self._said, wanted.contiguous()
        if not self._kept or wanted.shape != (said.block.seen.batch, said.classes):
            raise ValueError("a step is of the logits that were given last, and of those once")
        said.of_logits = wanted.data_ptr()
        numbers = list[float]()
        for weight, (mean, square, size) in zip(self.weights, moments, strict=True):
            numbers += weight.data_ptr(), mean.data_ptr(), square.data_ptr(), *size
        _MOVED.pack_into(said.moved, 0, *numbers)  # all at once, as a struct for each takes longer
        try:
            call("tail_step", ctypes.addressof(said))
        finally:
            self._kept = ()


def loss_and_slope(
    logits: Tensor,
    labels: npt.NDArray[np.int64] | npt.NDArray[np.bool_],
    weights: npt.NDArray[np.float64] | None = None,
) -> tuple[float, Tensor]:
    """``training.cross_entropy``, and its derivative by each of the logits, (n, n_classes).

    For so few numbers torch and its autograd take as long as for some of a step's products, and
    numpy half of that.

    Args:
        logits: (n, n_classes), float32.
        labels: class numbers (n,), or which of several labels each text has, (n, n_classes).
        weights: of each text, (n,) or (n, 1); or of each of those answers, (n, n_classes).

    Raises:
        ValueError: labels or weights are not of such logits.
        IndexError: there is no such class.
    """
    logits, loss = logits.float().contiguous(), ctypes.c_double()
    (n, classes), several = logits.shape, labels.ndim == 2
    answers = n * classes if several else n
    if labels.size != answers or (weights is not None and weights.size not in (n, answers)):
        raise ValueError(f"labels or weights are not those of logits {tuple(logits.shape)}")
    said: npt.NDArray[Any] = np.ascontiguousarray(labels, np.bool_ if several else np.int64)
    counts = None if weights is None else np.ascontiguousarray(weights, np.float64)
    slope, at = torch.empty_like(logits), said.ctypes.data
    if not kernels.loaded().cross_entropy(
        logits.data_ptr(),
        n,
        classes,
        None if several else at,
        at if several else None,
        None if counts is None else counts.ctypes.data,
        1 if counts is None else counts.size // max(1, n),
        ctypes.addressof(loss),
        slope.data_ptr(),
    ):
        raise IndexError(f"a label is not among {classes} classes")
    return loss.value, slope
