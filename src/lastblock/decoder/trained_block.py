"""A trained block of the Llama kind, asked for one token of each text, in one call, in C.

``layers.Block`` computes the same operation by operation, for every family, and by torch where
there are no ``kernels``. Each of those operations is small where there is but a token of each text,
so that torch, and autograd, take as long to go from one to the next as for a third of a step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lastblock.decoder import few_rows, kernels
from lastblock.decoder.config import Activation
from lastblock.decoder.few_rows import Left, OneToken, Pair, Rows, Seen


class Weights(NamedTuple):
    """Of the block: factors of its norms (C,), the others (out, in).

    ``qkv`` are queries', keys' and values' rows, ``into`` the MLP's first layer, of a gated one the
    gate's rows, then those of what it multiplies.
    """

    attn_norm: Tensor
    qkv: Tensor
    out: Tensor
    mlp_norm: Tensor
    into: Tensor
    down: Tensor


@dataclass(frozen=True)
class Shape:
    """What else is to be known of it; heads as ``kernels.Heads`` has them."""

    heads: kernels.Heads
    activation: Activation
    gated: bool
    attn_eps: float
    mlp_eps: float


_ON_THE_WAY = (
    *("here", "here_by", "asked", "queries", "plain", "keys", "shares", "means", "scaled"),
    *("values", "middle", "middle_by", "read", "opened", "closed", "y"),
)
_WANTED = (
    *("y", "closed", "opened", "middle", "values", "queries", "key_weight"),
    *("attn_norm", "mlp_norm"),
)


class BlockAt(ctypes.Structure):
    """What the kernels are told of the block and its texts, and where they put what comes about."""

    _fields_ = (
        ("seen", OneToken),
        *((name, ctypes.c_void_p) for name in ("texts", *Weights._fields)),
        *((name, ctypes.c_int64) for name in ("length", "inner")),
        *((name, ctypes.c_int32) for name in ("activation", "gated", "half", "tiled")),
        *((name, ctypes.c_float) for name in ("attn_eps", "mlp_eps")),
        *((name, ctypes.c_void_p) for name in _ON_THE_WAY),
        *((name, ctypes.c_void_p) for name in ("states", "plain_by")),  # where ``tiled``
    )


class Wanted(ctypes.Structure):
    """Where they find, and put, what is wanted of that."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in _WANTED)


def can_run(x: Tensor, weights: Weights) -> bool:
    """Whether ``run_at`` takes states x (B, T, C): frozen, of few texts, and all in float32."""
    of_few = 0 < len(x) <= few_rows.MOST_ROWS and few_rows.can_read(x)
    return of_few and few_rows.can_multiply_by(weights)


def run_at(
    x: Tensor, position: Tensor, weights: Weights, shape: Shape, rotary: Pair | None
) -> Tensor:
    """The block's output at one position of each text, (B, C).

    Args:
        x: states before the block, (B, T, C); no gradient is computed of them.
        position: which of each text's, (B,).
        weights: the block's.
        shape: the block's.
        rotary: cos and sin, each (T, D), if positions are rotated in.

    Raises:
        IndexError: a text has no such position.
        MemoryError: there is none for what comes about on the way.
    """
    heads = shape.heads
    if len(position) != len(x):
        raise IndexError(f"{len(position)} positions of {len(x)} texts")
    seen = Seen.of(position, x.shape[1], heads.causal, heads.window)
    y: Tensor = _RunAt.apply(x, seen, shape, rotary, *weights)  # type: ignore[no-untyped-call]
    return y


class _RunAt(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, seen: Seen, shape: Shape, rotary: Pair | None, *given: Tensor
    ) -> Tensor:
        weights, heads = Weights(*given), shape.heads
        batch, length, size = x.shape
        rows, inner = len(seen), weights.down.shape[1]
        wide, kv_wide = heads.heads * heads.dim, heads.kv_heads * heads.dim
        sizes = {
            **dict.fromkeys(("here", "asked", "middle", "read", "y"), (batch, size)),
            **dict.fromkeys(("here_by", "middle_by"), (batch,)),
            **dict.fromkeys(("queries", "values"), (batch, wide)),
            **dict.fromkeys(("means", "scaled"), (batch, heads.heads, size)),
            "plain": (rows, size),
            "keys": (rows, kv_wide),
            "shares": (rows, heads.heads),
            "opened": (batch, len(weights.into)),
            "closed": (batch, inner),
        }
        made = {name: x.new_empty(sizes[name]) for name in _ON_THE_WAY}
        tables = () if rotary is None else tuple(of.contiguous() for of in rotary)
        step = x.stride(0) * x.itemsize
        texts = (ctypes.c_void_p * batch)(*(x.data_ptr() + i * step for i in range(batch)))
        said = BlockAt(
            seen=seen.said(heads.heads, heads.kv_heads, heads.dim, size, heads.scale, tables),
            texts=ctypes.addressof(texts),
            length=length,
            inner=inner,
            activation=kernels.ACTIVATIONS[shape.activation],
            gated=shape.gated,
            attn_eps=shape.attn_eps,
            mlp_eps=shape.mlp_eps,
            **_addresses(weights._asdict()),
            **_addresses(made),
        )
        call("block_at", ctypes.addressof(said))
        y = made.pop("y")
        # What addresses point to is to stay till then, and no longer.
        behind = x, seen.starts, seen.first, seen.position, *tables
        ctx.save_for_backward(*weights, *made.values(), *behind)
        ctx.weights, ctx.shape, ctx.said = weights, shape, said
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        saved, weights, heads = ctx.saved_tensors, ctx.weights, ctx.shape.heads
        needed = dict(zip(Weights._fields, ctx.needs_input_grad[-len(weights) :], strict=True))
        made = dict(zip(_ON_THE_WAY[:-1], saved[len(weights) :], strict=False))
        for name, weight in zip(Weights._fields, saved, strict=False):
            setattr(ctx.said, name, weight.data_ptr())  # a parameter may have other numbers now
        names = ("closed", "opened", "middle", "values", "queries")
        of = {name: torch.empty_like(made[name]) for name in names}
        of |= {name: torch.empty_like(getattr(weights, name)) for name in ("attn_norm", "mlp_norm")}
        wide, kv_wide = heads.heads * heads.dim, heads.kv_heads * heads.dim
        of["key_weight"], of["y"] = wanted.new_empty(kv_wide, wanted.shape[1]), wanted.contiguous()
        said = Wanted(**_addresses(of))
        call("block_at_back", ctypes.addressof(ctx.said), ctypes.addressof(said))

        qkv = [
            Left(Rows(0, wide), of["queries"], made["asked"]),
            Left(Rows(wide, kv_wide), None, of["key_weight"]),
            *few_rows.left_of_values(
                of["values"].unflatten(1, (heads.heads, -1)),
                made["scaled"],
                Rows(wide + kv_wide, kv_wide),
                heads.kv_heads,
            ),
        ]

        factors = {
            "qkv": qkv,
            "out": [Left(Rows(0, len(weights.out)), of["middle"], made["values"])],
            "into": [Left(Rows(0, len(weights.into)), of["opened"], made["read"])],
            "down": [Left(Rows(0, len(weights.down)), of["y"], made["closed"])],
        }
        gradients = {
            name: few_rows.leave(getattr(weights, name), factors[name])
            if name in factors
            else of[name]
            for name in Weights._fields
            if needed[name]
        }
        return None, None, None, None, *map(gradients.get, Weights._fields)


def _addresses(of: Mapping[str, Tensor]) -> dict[str, int]:
    return {name: tensor.data_ptr() for name, tensor in of.items()}


def call(name: str, *arguments: int) -> None:
    """One of the C functions that answer as ``block_at`` does.

    Raises:
        IndexError: a text has no such position.
        MemoryError: there was none for what comes about.
    """
    done = getattr(kernels.loaded(), name)(*arguments, torch.get_num_threads())
    if done < 0:
        raise IndexError("a text has no token at the position asked for")
    if not done:
        raise MemoryError
