"""What a trained block spends its time in, in C, where ``kernels`` are available.

Products of few rows in float32, which are bound by reading the weight, and on some processors of
any number; norms and activations of few, or of what is not learnt; attention from one token of each
text, over those that it sees and no padding, with these tokens' keys, which are a product of many
rows everywhere; and steps of AdamW in which hardly any gradient is written down: it is left as the
factors that it is a product of (``keep_factors``), and multiplied out where the step is taken.
Elsewhere torch does the same work.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import pad_sequence

from lastblock.decoder import kernels
from lastblock.decoder.config import Activation

Pair = tuple[Tensor, Tensor]
# Of more rows MKL's products are as fast, on most processors; and a gradient is smaller than what
# it is a product of.
MOST_ROWS = 64


class _Product(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "weight", "y")),
        *((name, ctypes.c_int64) for name in ("n", "in", "out", "x_row", "y_row")),
        *((name, ctypes.c_int64) for name in ("count", "x_next", "y_next", "shared")),
    )


class _Factors(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("errors", "inputs")),
        *((name, ctypes.c_int64) for name in ("n", "errors_row", "inputs_row")),
        *((name, ctypes.c_int64) for name in ("count", "errors_next", "inputs_next")),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("weight", "mean", "square", "gradient", "factors")),
        *((name, ctypes.c_int64) for name in ("count", "in", "out")),
        *((name, ctypes.c_float) for name in ("kept", "of_gradient", "of_square", "step")),
        *((name, ctypes.c_float) for name in ("of_root", "eps")),
    )


class OneToken(ctypes.Structure):
    """What the kernels are told of tokens that one of each text sees."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "states")),
        *((name, ctypes.c_void_p) for name in ("starts", "first", "position", "cos", "sin")),
        *((name, ctypes.c_int64) for name in ("batch", "heads", "kv_heads", "dim", "size")),
        ("scale", ctypes.c_float),
    )


class Rows(NamedTuple):
    """Some rows of a weight, (out, in): the first one's number, and how many."""

    first: int
    size: int

    def of(self, weight: Tensor) -> Tensor:
        return weight.narrow(0, self.first, self.size)


class Left(NamedTuple):
    """What is left of a gradient: of some rows, a product, errors (n, rows)^T times inputs (n, in).

    Or several of these, errors (n, m, rows) and inputs (n, m, in); or, without errors, it is these
    rows' gradient (rows, in) itself.
    """

    rows: Rows
    errors: Tensor | None
    inputs: Tensor

    def multiplied_out(self) -> Tensor:
        if self.errors is None:
            return self.inputs
        return self.errors.flatten(0, -2).t() @ self.inputs.flatten(0, -2)


def _of_float32(*tensors: Tensor) -> bool:
    return all(of.dtype == torch.float32 and of.device.type == "cpu" for of in tensors)


def can_multiply(x: Tensor, weight: Tensor) -> bool:
    """Whether ``multiply`` takes these, and is the faster way: many, not in mixed precision."""
    rows = x.numel() // x.shape[-1]
    many = rows > MOST_ROWS
    return (
        rows > 0
        and not (many and torch.is_autocast_enabled("cpu"))
        and (not many or kernels.have_faster_products())
        and _of_float32(x)
        and can_multiply_by([weight])
    )


def can_multiply_by(weights: Sequence[Tensor]) -> bool:
    """Whether ``multiply`` takes these weights."""
    plain = all(of.is_contiguous() for of in weights)
    return plain and _of_float32(*weights) and kernels.available()


def multiply(x: Tensor, weight: Tensor, rows: Rows | None = None) -> Tensor:
    """x (..., in) times the transpose of a weight, (out, in), contiguous -> (..., out).

    Or of some rows of it. Where the weight is a parameter that keeps factors, its gradient is left
    as those, of few rows of x.
    """
    flat = x.reshape(-1, x.shape[-1])
    rows = rows or Rows(0, len(weight))
    y: Tensor = _Multiply.apply(flat, weight, rows)  # type: ignore[no-untyped-call]
    return y.unflatten(0, x.shape[:-1]) if x.dim() != 2 else y


def _lying(x: Tensor) -> Tensor:
    """x (n, size), each row in one piece."""
    return x if x.stride(1) == 1 else x.contiguous()


def _product(x: Tensor, weight: Tensor, back: bool) -> Tensor:
    """x times the weight, ``back``, or its transpose."""
    x, (out, size) = _lying(x), weight.shape
    y = x.new_empty(len(x), size if back else out)
    said = _Product(
        *(x.data_ptr(), weight.data_ptr(), y.data_ptr()),
        *(len(x), size, out, x.stride(0), y.stride(0), 1, 0, 0, 1),
    )
    kernels.loaded().multiply(ctypes.addressof(said), back, torch.get_num_threads())
    return y


def _gradient(errors: Tensor, x: Tensor) -> Tensor:
    """What errors (n, out) and inputs (n, in) of a product come to: (out, in)."""
    return _product(errors.t().contiguous(), x.contiguous(), back=True)


def leave(weight: Tensor, left: Sequence[Left]) -> Tensor | None:
    """Leave what a weight's gradient is made of with it, if it is to be; else multiply it out."""
    kept = getattr(weight, "factors", None)
    if kept is not None:
        kept.extend(left)
        return None
    if len(left) == 1 and left[0].rows.size == len(weight):
        return left[0].multiplied_out()
    gradient = torch.zeros_like(weight)
    for part in left:
        part.rows.of(gradient).add_(part.multiplied_out())
    return gradient


class _Multiply(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, rows: Rows) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.weight, ctx.rows = weight, rows
        return _product(x, rows.of(weight), back=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _product(errors, ctx.rows.of(weight), back=True)
        if not ctx.needs_input_grad[1]:
            return of_x, None, None
        left = Left(ctx.rows, _lying(errors), _lying(x))
        if len(x) > MOST_ROWS:
            left = Left(ctx.rows, None, _gradient(errors, x))
        return of_x, leave(ctx.weight, [left]), None


def values(means: Tensor, weight: Tensor, rows: Rows, kv_heads: int) -> Tensor:
    """Means of states (B, H, C) times the transposes of value heads' weights: (B, H * D).

    These are some rows of a weight, (kv_heads * D, C), one after the other; each is for as many
    heads of the means.
    """
    y: Tensor = _Values.apply(means, weight, rows, kv_heads)  # type: ignore[no-untyped-call]
    return y.flatten(1)


class _Values(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, means: Tensor, weight: Tensor, rows: Rows, kv_heads: int) -> Tensor:
        means = means.contiguous()
        ctx.save_for_backward(means, weight)
        ctx.weight, ctx.rows, ctx.kv_heads = weight, rows, kv_heads
        y = means.new_empty(*means.shape[:2], rows.size // kv_heads)
        _by_head(means, rows.of(weight), y, means.shape[1] // kv_heads, back=False)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, errors: Tensor) -> tuple[Tensor, Tensor | None, None, None]:
        means, weight = ctx.saved_tensors
        errors, of_means = errors.contiguous(), torch.empty_like(means)
        shared = means.shape[1] // ctx.kv_heads
        _by_head(errors, ctx.rows.of(weight), of_means, shared, back=True)
        if not ctx.needs_input_grad[1]:
            return of_means, None, None, None
        left = left_of_values(errors, means, ctx.rows, ctx.kv_heads)
        return of_means, leave(ctx.weight, left), None, None


def left_of_values(errors: Tensor, means: Tensor, rows: Rows, kv_heads: int) -> list[Left]:
    """What is left for value heads' weights of errors (B, H, D) and means (B, H, C)."""
    shared, dim = means.shape[1] // kv_heads, errors.shape[2]
    each = zip(errors.split(shared, dim=1), means.split(shared, dim=1), strict=True)
    return [Left(Rows(rows.first + head * dim, dim), *of) for head, of in enumerate(each)]


def _by_head(x: Tensor, weight: Tensor, y: Tensor, shared: int, back: bool) -> None:
    """Each head of x (B, H, size) times its weight, ``back``, or its transpose, into y.

    The weights lie one after the other, each for so many heads.
    """
    (batch, heads, size), wide = x.shape, y.shape[2]
    out, into = (size, wide) if back else (wide, size)
    said = _Product(
        *(x.data_ptr(), weight.data_ptr(), y.data_ptr()),
        *(batch, into, out, x.stride(0), y.stride(0), heads, size, wide, shared),
    )
    kernels.loaded().multiply(ctypes.addressof(said), back, torch.get_num_threads())


def some_rows(weight: Tensor, rows: Rows) -> Tensor:
    """Some rows of a weight, (out, in), whose gradient is left with it where it keeps factors."""
    of: Tensor = _SomeRows.apply(weight, rows)  # type: ignore[no-untyped-call]
    return of


class _SomeRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, rows: Rows) -> Tensor:
        ctx.weight, ctx.rows = weight, rows
        return rows.of(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None]:
        return leave(ctx.weight, [Left(ctx.rows, None, gradient.contiguous())]), None


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
        return None, _gradient(errors, x)


def takes(x: Tensor, *others: Tensor) -> bool:
    """Whether ``rms_norm`` and ``activate`` take rows x (..., size), with such a factor (size,).

    Few, or any number of which no gradient is wanted.
    """
    rows = x.numel() // max(1, x.shape[-1])
    known = rows > 0 and (rows <= MOST_ROWS or not torch.is_grad_enabled())
    return known and _of_float32(x, *others) and kernels.available()


def rms_norm(x: Tensor, factor: Tensor, eps: float) -> Tensor:
    """x (..., C) over its root mean square, the square with ``eps`` added, times a factor (C,)."""
    y: Tensor = _RMSNorm.apply(x, factor, eps)  # type: ignore[no-untyped-call]
    return y


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, factor: Tensor, eps: float) -> Tensor:
        x, factor = x.contiguous(), factor.contiguous()
        y, by = torch.empty_like(x), x.new_empty(x.shape[:-1])
        sizes = by.numel(), x.shape[-1]
        kernels.loaded().rms_norm(*_addresses(x, factor), *sizes, eps, *_addresses(y, by))
        ctx.save_for_backward(x, factor, by)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, Tensor, None]:
        x, factor, by = ctx.saved_tensors
        wanted, of_x, of_factor = wanted.contiguous(), torch.empty_like(x), torch.empty_like(factor)
        given = _addresses(x, factor, by, wanted)
        kernels.loaded().rms_norm_back(
            *given, by.numel(), x.shape[-1], *_addresses(of_x, of_factor)
        )
        return of_x, of_factor, None


def activate(x: Tensor, activation: Activation, gated: bool) -> Tensor:
    """``layers.activate``: activated rows x (..., size), or (..., 2 size) where ``gated``."""
    y: Tensor = _Activate.apply(x, activation, gated)  # type: ignore[no-untyped-call]
    return y


class _Activate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, activation: Activation, gated: bool) -> Tensor:
        x = x.contiguous()
        size = x.shape[-1] // 2 if gated else x.shape[-1]
        ctx.save_for_backward(x)
        ctx.how = x.numel() // x.shape[-1], size, kernels.ACTIVATIONS[activation], gated
        y = x.new_empty(*x.shape[:-1], size)
        kernels.loaded().activate(
            x.data_ptr(), None, *ctx.how, y.data_ptr(), torch.get_num_threads()
        )
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor, None, None]:
        (x,), wanted = ctx.saved_tensors, wanted.contiguous()
        of_x = torch.empty_like(x)
        given = x.data_ptr(), wanted.data_ptr(), *ctx.how, of_x.data_ptr()
        kernels.loaded().activate(*given, torch.get_num_threads())
        return of_x, None, None


def padded(texts: Sequence[Tensor]) -> Tensor:
    """Texts' rows, each (R, C) of one dtype, filled up with nought: (B, the most R, C)."""
    if not kernels.available() or not all(of.is_contiguous() for of in texts):
        return pad_sequence([*texts], batch_first=True)
    rows = [of.shape[0] for of in texts]
    together = texts[0].new_empty(len(texts), max(rows), *texts[0].shape[1:])
    room = together.nbytes // len(texts)
    row = room // max(1, *rows)
    addresses = (ctypes.c_void_p * len(texts))(*[of.data_ptr() for of in texts])
    sizes = (ctypes.c_int64 * len(texts))(*[row * of for of in rows])
    said = addresses, sizes, len(texts), room, together.data_ptr()
    kernels.loaded().pad(*said, torch.get_num_threads())
    return together


def keep_factors(parameter: nn.Parameter) -> None:
    """From now on what is above leaves this weight's gradient as factors, for ``take_factors``.

    Until these are taken, ``backward`` and nothing else may go through it, once, and nobody may
    change what the factors are: they are no copies.
    """
    if parameter.dim() == 2 and _of_float32(parameter) and parameter.is_contiguous():
        parameter.factors = []  # type: ignore[attr-defined]


def take_factors(parameter: nn.Parameter) -> list[Left]:
    """What was left since ``keep_factors``, and no longer.

    All of it is to be added to ``parameter.grad``.
    """
    left: list[Left] = parameter.__dict__.pop("factors", [])
    return left


class Moments(NamedTuple):
    """A weight (out, in), its moments, and what its gradient is: the sum of what is left of it.

    And of ``gradient``, if that is not None.
    """

    weight: Tensor
    mean: Tensor
    square: Tensor
    left: Sequence[Left]
    gradient: Tensor | None
    size: StepSize


class StepSize(NamedTuple):
    """What a step of AdamW does: see ``Step`` in few_rows.h."""

    kept: float
    of_gradient: float
    of_square: float
    step: float
    of_root: float
    eps: float

    @staticmethod
    def of(
        step: int, *, lr: float, betas: tuple[float, float], weight_decay: float, eps: float
    ) -> StepSize:
        """The ``step``-th, counted from 1."""
        first, second = (1 - beta**step for beta in betas)
        kept = 1 - lr * weight_decay
        return StepSize(kept, 1 - betas[0], 1 - betas[1], lr / first, second**-0.5, eps)


def adamw(each: Sequence[Moments]) -> None:
    """A step of AdamW (see ``training.AdamW``) for each weight.

    Weights and moments are changed in place.
    """
    steps, kept = list[_Step](), list[object]()
    for of in each:
        changed = _addresses(of.weight, of.mean, of.square)
        row = of.weight.stride(0) * of.weight.itemsize
        for rows, factors, gradient in _by_rows(of):
            said = (_Factors * len(factors))(*map(_told_of, factors))
            kept += [said, gradient]
            written = None if gradient is None else gradient.data_ptr()
            product = ctypes.addressof(said), len(factors), of.weight.shape[1], rows.size
            begin = rows.first * row
            steps.append(_Step(*(at + begin for at in changed), written, *product, *of.size))
    together = (_Step * len(steps))(*steps)
    kernels.loaded().adamw(ctypes.addressof(together), len(steps), torch.get_num_threads())


def _by_rows(of: Moments) -> list[tuple[Rows, list[Left], Tensor | None]]:
    """Rows that have the same factors, with these and what of their gradient is written down.

    Where rows overlap otherwise, or some are in none, or some of it all is written down already,
    the whole gradient is written down.
    """
    found: dict[Rows, tuple[list[Left], list[Tensor]]] = {}
    for part in of.left:
        factors, written = found.setdefault(part.rows, ([], []))
        if part.errors is None:
            written.append(part.inputs)
        else:
            factors.append(part)
    at = 0
    for rows in sorted(found):
        at = rows.first + rows.size if rows.first == at else -1
    if at != len(of.weight) or of.gradient is not None:
        gradient = torch.zeros_like(of.weight)
        if of.gradient is not None:
            gradient += of.gradient
        for part in of.left:
            part.rows.of(gradient).add_(part.multiplied_out())
        return [(Rows(0, len(of.weight)), [], gradient)]
    return [
        (rows, factors, sum(written[1:], written[0]).contiguous() if written else None)
        for rows, (factors, written) in found.items()
    ]


def _told_of(part: Left) -> _Factors:
    errors, inputs = part.errors, part.inputs
    assert errors is not None
    strides = errors.stride(0), inputs.stride(0)
    several = (
        (1, 0, 0) if inputs.dim() == 2 else (inputs.shape[1], errors.stride(1), inputs.stride(1))
    )
    return _Factors(*_addresses(errors, inputs), len(inputs), *strides, *several)


def _addresses(*tensors: Tensor) -> tuple[int, ...]:
    return tuple(of.data_ptr() for of in tensors)


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
    def of(position: Tensor, length: int, causal: bool, window: int | None) -> Seen:
        """What is seen from a position (B,) of texts of some length, as ``Attention`` has it."""
        position = position.long().contiguous()
        at = position.numpy()  # of such small ones numpy takes less time than torch
        first, last = np.zeros_like(at), at
        if window is not None:
            first = np.maximum(at - window + 1, 0)
        if not causal:
            last = np.full_like(at, length - 1)
            if window is not None:
                last = np.minimum(at + window - 1, last)
        starts = np.zeros(len(at) + 1, np.int64)
        np.cumsum(np.maximum(last - first + 1, 0), out=starts[1:])
        return Seen(torch.from_numpy(starts), torch.from_numpy(first), position)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def said(
        self,
        heads: int,
        kv_heads: int,
        dim: int,
        size: int,
        scale: float,
        tables: Sequence[Tensor] = (),
    ) -> OneToken:
        """The same for kernels, with cos and sin, (T, D), if positions are rotated in."""
        starts, first, position = (of.data_ptr() for of in (self.starts, self.first, self.position))
        cos, sin = _addresses(*tables) or (None, None)
        return OneToken(
            starts=starts,
            first=first,
            position=position,
            cos=cos,
            sin=sin,
            batch=len(self.first),
            heads=heads,
            kv_heads=kv_heads,
            dim=dim,
            size=size,
            scale=scale,
        )


def can_attend(q: Tensor, x: Tensor) -> bool:
    """Whether ``attend_from`` takes queries (B, H, D), and ``normed`` states x (B, T, C)."""
    return q.shape[-1] % 2 == 0 and _of_float32(q) and can_read(x)


def can_read(x: Tensor) -> bool:
    """Whether ``normed`` takes states x (B, T, C): of float32, and frozen."""
    together = x.stride(2) == 1 and x.stride(1) == x.shape[2]
    frozen = not (x.requires_grad and torch.is_grad_enabled())
    return frozen and together and _of_float32(x) and kernels.available()


def normed(x: Tensor, seen: Seen, eps: float, centred: bool) -> Tensor:
    """The states (B, T, C) that are seen, over their root mean square, text by text: (N, C).

    ``centred``: less their mean first. ``eps`` is added to the mean square.
    """
    y = x.new_empty(len(seen), x.shape[2])
    said = seen.said(1, 1, 2, x.shape[2], 1.0)
    at = x.data_ptr(), x.stride(0), ctypes.addressof(said), eps, centred, y.data_ptr()
    kernels.loaded().normed(*at, torch.get_num_threads())
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
        if not kernels.loaded().attend_from(*at, torch.get_num_threads()):
            raise MemoryError
        return means

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, wanted: Tensor) -> tuple[Tensor | None, ...]:
        q, k, states, shares, *tables = ctx.saved_tensors
        wanted, of_q, of_k = wanted.contiguous(), torch.empty_like(q), torch.empty_like(k)
        said = _told(q, k, states, ctx.seen, ctx.scale, tables)
        at = (of.data_ptr() for of in (shares, wanted, of_q, of_k))
        if not kernels.loaded().attend_from_back(
            ctypes.addressof(said), *at, torch.get_num_threads()
        ):
            raise MemoryError
        return of_q, of_k, None, None, None, None


def _told(
    q: Tensor, k: Tensor, states: Tensor, seen: Seen, scale: float, tables: tuple[Tensor, ...]
) -> OneToken:
    said = seen.said(q.shape[1], k.shape[1], q.shape[2], states.shape[1], scale, tables)
    said.queries, said.keys, said.states = q.data_ptr(), k.data_ptr(), states.data_ptr()
    return said
