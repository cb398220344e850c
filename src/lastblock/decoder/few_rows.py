"""What a trained block spends its time in, in C, where ``kernels`` are available.

Products of few rows in float32, which are bound by reading the weight, and norms of them; attention
from one token of each text, over those that it sees and no padding, with these tokens' keys, which
are the one product of many rows; and steps of AdamW in which a weight's gradient is never written
down: it is left as the two factors that it is a product of (``keep_factors``), and multiplied out
where the step is taken. Elsewhere torch does the same work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from lastblock.decoder import kernels

Pair = tuple[Tensor, Tensor]
# Of more rows MKL's products are as fast.
MOST_ROWS = 64


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "y")),
        *((name, ctypes.c_int64) for name in ("n", "in", "out", "x_row", "y_row")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("errors", "inputs", "weight", "mean", "square")),
        *((name, ctypes.c_int64) for name in ("n", "in", "out", "errors_row", "inputs_row")),
        *((name, ctypes.c_float) for name in ("kept", "of_gradient", "of_square", "step")),
        *((name, ctypes.c_float) for name in ("of_root", "eps")),
    )


class _OneToken(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "states")),
        *((name, ctypes.c_void_p) for name in ("starts", "first", "position", "cos", "sin")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "dim", "size")),
        ("scale", ctypes.c_float),
    )


def _of_float32(*tensors: Tensor) -> bool:
    return all(of.dtype == torch.float32 and of.device.type == "cpu" for of in tensors)


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether ``multiply`` takes these."""
    rows = x.numel() // x.shape[-1]
    return (
        0 < rows <= MOST_ROWS
        and _of_float32(x, weight)
        and weight.is_contiguous()
        and kernels.available()
    )


def multiply(x: Tensor, weight: Tensor) -> Tensor:
    """x (..., in) times the transpose of a weight, (out, in), contiguous -> (..., out).

    Where the weight is a parameter that keeps factors, its gradient is left as those.
    """
    rows = x.reshape(-1, x.shape[-1])
    y: Tensor = _Multiply.apply(rows, weight)  # type: ignore[no-untyped-call]
    return y.unflatten(0, x.shape[:-1]) if x.dim() != 2 else y


def _product(x: Tensor, weight: Tensor, back: bool) -> Tensor:
    """x times the weight, ``back``, or its transpose."""
    if x.stride(1) != 1:
        x = x.contiguous()
    out, size = weight.shape
    y = x.new_empty(len(x), size if back else out)
    addresses = x.data_ptr(), weight.data_ptr(), y.data_ptr()
    said = _Product(*addresses, len(x), size, out, x.stride(0), y.stride(0))
    _library().multiply(ctypes.addressof(said), back, torch.get_num_threads())
    return y


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight = weight if weight.is_leaf else None
        return _product(x, weight, back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        of_x = _product(errors, weight, back=True) if ctx.needs_input_grad[0] else None
        if not ctx.needs_input_grad[1]:
            return of_x, None
        factors = getattr(ctx.weight, "factors", None)
        if factors is None:
            return of_x, errors.t() @ x
        factors.append((errors, x))
        return of_x, None


def project(x: Tensor, weight: Tensor) -> Tensor:
    """Frozen states x (N, in), however many, times the transpose of a weight, (out, in): (N, out).

    For small weights, as they are turned round first. x is float32, as ``can_attend`` asked of the
    states it is from.
    """
    y: Tensor = _Project.apply(x.contiguous(), weight)  # type: ignore[no-untyped-call]
    return y


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return _product(x, weight.t().contiguous(), back=True)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[None, Tensor]:
        (x,) = ctx.saved_tensors
        return None, _product(errors.t().contiguous(), x, back=True)


def can_norm(x: Tensor, weight: Tensor) -> bool:
    """Whether ``rms_norm`` takes rows x (..., C), to be multiplied by a weight (C,) then."""
    rows = x.numel() // max(1, x.shape[-1])
    return 0 < rows <= MOST_ROWS and _of_float32(x, weight) and kernels.available()


def rms_norm(x: Tensor, eps: float) -> Tensor:
    """x (..., C) over its root mean square, the square with ``eps`` added."""
    y: Tensor = _RMSNorm.apply(x, eps)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, eps: float) -> Tensor:
        x = x.contiguous()
        y, by = torch.empty_like(x), x.new_empty(x.shape[:-1])
        sizes = by.numel(), x.shape[-1]
        _library().rms_norm(x.data_ptr(), *sizes, eps, y.data_ptr(), by.data_ptr())
        ctx.save_for_backward(y, by)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, None]:
        (y, by), wanted = ctx.saved_tensors, wanted.contiguous()
        of_x = torch.empty_like(y)
        addresses = (of.data_ptr() for of in (y, by, wanted))
        _library().rms_norm_back(*addresses, by.numel(), y.shape[-1], of_x.data_ptr())
        return of_x, None


def padded(texts: Sequence[Tensor]) -> Tensor:
    """Texts' rows, each (R, C) of one dtype, filled up with nought: (B, the most R, C)."""
    if not kernels.available() or not all(of.is_contiguous() for of in texts):
        return pad_sequence([*texts], batch_first=True)
    most = max(len(of) for of in texts)
    together = texts[0].new_empty(len(texts), most, *texts[0].shape[1:])
    addresses = (ctypes.c_void_p * len(texts))(*(of.data_ptr() for of in texts))
    sizes = (ctypes.c_int64 * len(texts))(*(of.nbytes for of in texts))
    room = together.nbytes // len(texts)
    said = addresses, sizes, len(texts), room, together.data_ptr()
    _library().pad(*said, torch.get_num_threads())
    return together


def keep_factors(parameter: nn.Parameter) -> None:
    """From now on ``multiply`` leaves this weight's gradient as factors, for ``take_factors``.

    Until these are taken, ``backward`` and nothing else may go through it, once, and nobody may
    change what the factors are: they are no copies.
    """
    if parameter.dim() == 2 and _of_float32(parameter) and parameter.is_contiguous():
        parameter.factors = []  # type: ignore[attr-defined]


def take_factors(parameter: nn.Parameter) -> Pair | None:
    """What was left since ``keep_factors``, and no longer: (n, out) and (n, in), if anything.

    The first one's transpose times the second is to be added to ``parameter.grad``.
    """
    factors: list[Pair] | None = parameter.__dict__.pop("factors", None)
    if not factors:
        return None
    if len(factors) == 1:
        return factors[0]
    errors, inputs = (torch.cat(of) for of in zip(*factors, strict=True))
    return errors, inputs


def adamw(
    weight: Tensor,
    mean: Tensor,
    square: Tensor,
    factors: Pair,
    *,
    step: int,
    lr: float,
    betas: tuple[float, float],
    weight_decay: float,
    eps: float,
) -> None:
    """One step of AdamW (see ``training.AdamW``), the ``step``-th, down a gradient of factors.

    ``weight`` (out, in) and its moments are changed in place.
    """
    errors, inputs = (of if of.stride(1) == 1 else of.contiguous() for of in factors)
    first, second = (1 - beta**step for beta in betas)
    said = _Step(
        *(of.data_ptr() for of in (errors, inputs, weight, mean, square)),
        *(len(errors), weight.shape[1], weight.shape[0], errors.stride(0), inputs.stride(0)),
        *(1 - lr * weight_decay, 1 - betas[0], 1 - betas[1], lr / first, second**-0.5, eps),
    )
    _library().adamw(ctypes.addressof(said), torch.get_num_threads())


@dataclass(frozen=True)
class Seen:
    """Which tokens one token of each of B texts sees, all of them next to each other.

    ``starts`` (B + 1,) says where those of each text begin, when they stand text by text, N in all;
    ``first`` (B,) where in its text the first one stands, ``position`` (B,) which token sees them.
    All int64.
    """

    starts: Tensor
    first: Tensor
    position: Tensor

    @staticmethod
    def of(seen: Tensor, position: Tensor) -> Seen:
        """``seen`` (B, T), bool, as ``Attention.sees_from`` says it."""
        starts = torch.zeros(len(seen) + 1, dtype=torch.int64)
        torch.cumsum(seen.sum(1), 0, out=starts[1:])
        return Seen(starts, seen.byte().argmax(1), position.long().contiguous())

    def __len__(self) -> int:
        return int(self.starts[-1])

    def said(self, heads: int, kv_heads: int, dim: int, size: int, scale: float) -> _OneToken:
        starts, first, position = (of.data_ptr() for of in (self.starts, self.first, self.position))
        return _OneToken(
            starts=starts,
            first=first,
            position=position,
            batch=len(self.first),
            heads=heads,
            kv_heads=kv_heads,
            dim=dim,
            size=size,
            scale=scale,
        )


def can_attend(q: Tensor, x: Tensor) -> bool:
    """Whether ``attend_from`` takes queries (B, H, D), and ``normed`` states x (B, T, C).

    That is, float32, and frozen states.
    """
    together = x.stride(2) == 1 and x.stride(1) == x.shape[2]
    frozen = not (x.requires_grad and torch.is_grad_enabled())
    even = q.shape[-1] % 2 == 0
    return frozen and together and even and _of_float32(q, x) and kernels.available()


def normed(x: Tensor, seen: Seen, eps: float, centred: bool) -> Tensor:
    """The states (B, T, C) that are seen, over their root mean square, text by text: (N, C).

    ``centred``: less their mean first. ``eps`` is added to the mean square.
    """
    y = x.new_empty(len(seen), x.shape[2])
    said = seen.said(1, 1, 2, x.shape[2], 1.0)
    at = x.data_ptr(), x.stride(0), ctypes.addressof(said), eps, centred, y.data_ptr()
    _library().normed(*at, torch.get_num_threads())
    return y


def attend_from(
    q: Tensor, k: Tensor, states: Tensor, seen: Seen, scale: float, rotary: Pair | None
) -> Tensor:
    """Means of the seen tokens' states, weighted by each head's softmax attention: (B, H, C).

    Args:
        q: queries of the tokens that see, (B, H, D), not yet rotated.
        k: keys of those seen, (N, K, D), not yet rotated.
        states: of those seen, (N, C); no gradient is computed of them.
        seen: which these are.
        scale: what products of queries and keys are multiplied with.
        rotary: cos and sin for the longest text's tokens, each (T, D), if positions are rotated in.
    """
    means: Tensor = _AttendFrom.apply(q, k, states, seen, scale, rotary)  # type: ignore[no-untyped-call]
    return means


class _AttendFrom(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        states: Tensor,
        seen: Seen,
        scale: float,
        rotary: Pair | None,
    ) -> Tensor:
        q, k = q.contiguous(), k.contiguous()
        tables = () if rotary is None else tuple(of.contiguous() for of in rotary)
        shares = q.new_empty(len(k), q.shape[1])
        means = q.new_empty(*q.shape[:2], states.shape[1])
        ctx.save_for_backward(q, k, states, shares, *tables)
        ctx.seen, ctx.scale = seen, scale
        said = _told(q, k, states, seen, scale, tables)
        at = ctypes.addressof(said), shares.data_ptr(), means.data_ptr()
        if not _library().attend_from(*at, torch.get_num_threads()):
            raise MemoryError
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        q, k, states, shares, *tables = ctx.saved_tensors
        wanted, of_q, of_k = wanted.contiguous(), torch.empty_like(q), torch.empty_like(k)
        said = _told(q, k, states, ctx.seen, ctx.scale, tables)
        at = (of.data_ptr() for of in (shares, wanted, of_q, of_k))
        if not _library().attend_from_back(ctypes.addressof(said), *at, torch.get_num_threads()):
            raise MemoryError
        return of_q, of_k, None, None, None, None


def _told(
    q: Tensor, k: Tensor, states: Tensor, seen: Seen, scale: float, tables: tuple[Tensor, ...]
) -> _OneToken:
    said = seen.said(q.shape[1], k.shape[1], q.shape[2], states.shape[1], scale)
    said.queries, said.keys, said.states = q.data_ptr(), k.data_ptr(), states.data_ptr()
    if tables:
        said.cos, said.sin = (of.data_ptr() for of in tables)
    return said


def _library() -> ctypes.CDLL:
    library = kernels.library()
    assert library is not None
    return library
