"""Products of 8-bit integers and attention in C, where this processor and install have them.

``kernels.c`` and ``int8.c`` are built when the package is installed, if there is a C compiler, and
used on processors with AVX-512 and VNNI. Elsewhere ``available`` is false and torch does the same
work, in half as much time again or more: its products hand their sums over to one operation after
another, each of which reads and writes them again; here what follows a sum happens while it is at
hand.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lastblock.decoder.packing import Packing, sizes

_VERSION = 13  # of what the functions are given, as kernels.c has it too
# A panel of a weight is so many of its rows, whose inputs are taken up so many at a time, four
# integers of a row together: without matrix tiles, and with, of which two hold a panel's rows.
_PANEL, _TILED_PANEL = 64, 32
_LANES, _TILED_LANES = 16, 64
# A text up to so long is read fast enough by fewer threads than there are.
_SHORT = 512
Pair = tuple[Tensor, Tensor]
ACTIVATIONS = {None: 0, "silu": 1, "gelu_tanh": 2}


class _Layer(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("panels", "begin", "scale", "bias", "factor")),
        ("eps", ctypes.c_float),
        *((name, ctypes.c_int32) for name in ("activation", "gated", "tiled")),
        *((name, ctypes.c_int64) for name in ("inputs", "outputs")),
    )


class _Attention(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("queries", "keys", "values")),
        *((name, ctypes.c_int64) for name in ("query_stride", "key_stride", "value_stride")),
        *((name, ctypes.c_void_p) for name in ("first_keys", "first_values", "cos", "sin")),
        *((name, ctypes.c_int64) for name in ("batch", "length", "before", "heads", "kv_heads")),
        *((name, ctypes.c_int64) for name in ("dim", "window", "causal")),
        *((name, ctypes.c_void_p) for name in ("path", "lengths", "shared")),
        ("scale", ctypes.c_float),
        ("base", ctypes.c_int64),
        ("y", ctypes.c_void_p),
        ("failed", ctypes.c_void_p),
    )


class _Block(ctypes.Structure):
    _fields_ = (
        ("attention", _Attention),
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "into", "down")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """What was built, if it runs on this processor."""
    for suffix in EXTENSION_SUFFIXES:
        path = Path(__file__).with_name(f"_kernels{suffix}")
        if path.exists():
            try:
                library = ctypes.CDLL(str(path))
            except OSError:  # of another machine
                return None
            if library.version() != _VERSION:  # for another processor, or of another time
                return None
            address, number = ctypes.c_void_p, ctypes.c_int64
            library.linear.argtypes = [address, number, *[address] * 3, number]
            library.chain.argtypes = [address, number, *[address] * 4, number]
            library.largest_in_columns.argtypes = [address, number, number, address, number]
            library.round_rows.argtypes = [
                *(address, address, number, number, ctypes.c_float, address, address, number)
            ]
            library.attend.argtypes = [address, address, number]
            library.self_attention.argtypes = [*[address] * 6, number]
            library.run_blocks.argtypes = [
                *(address, number, address, number, address, address, number)
            ]
            library.multiply.argtypes = [address, ctypes.c_int, number]
            library.adamw.argtypes = [address, number, number]
            library.normed.argtypes = [
                *(address, number, address, ctypes.c_float, ctypes.c_int, address, number)
            ]
            library.rms_norm.argtypes = [
                *(address, address, number, number, ctypes.c_float, address, address)
            ]
            library.rms_norm_back.argtypes = [*[address] * 4, number, number, address, address]
            library.activate.argtypes = [
                *(address, address, number, number, ctypes.c_int, ctypes.c_int, address, number)
            ]
            library.pad.argtypes = [address, address, number, number, address, number]
            library.attend_from.argtypes = [*[address] * 3, number]
            library.attend_from_back.argtypes = [*[address] * 5, number]
            library.tail_room.argtypes = [address, address]
            library.tail_room.restype = number
            library.tail_logits.argtypes = [address, number]
            library.tail_step.argtypes = [address, number]
            library.cross_entropy.argtypes = [
                *(address, number, number, address, address, address, number, address, address)
            ]
            library.block_at.argtypes = [address, number]
            library.block_at_back.argtypes = [address, address, number]
            library.use_threads_of.argtypes = [address]
            with suppress(AttributeError):  # else one thread does all
                parallel = ctypes.CDLL(None).GOMP_parallel
                library.use_threads_of(ctypes.cast(parallel, address))
            return library
    return None


def available() -> bool:
    """Whether the functions below can be called."""
    return library() is not None


def loaded() -> ctypes.CDLL:
    """The ``library`` where it is ``available``."""
    found = library()
    assert found is not None
    return found


@cache
def have_faster_products() -> bool:
    """Whether products of float32 are faster in C however many rows they have, not of few alone."""
    found = library()
    return found is not None and bool(found.has_faster_products())


@cache
def have_tiles() -> bool:
    """Whether products of 8-bit integers go through matrix tiles (AMX), from now on.

    Linux is asked for them here, and then gives no thread a signal stack that is too small for
    them; it refuses where one has such a stack already.
    """
    found = library()
    return found is not None and bool(found.has_tiles())


def have_fastest_integers() -> bool:
    """Whether nothing is faster here than our products of 8-bit integers.

    They are available, and where the processor has tiles, which torch uses for bfloat16, so do we.
    """
    return available() and (have_tiles() or not torch.cpu._is_amx_tile_supported())


class Packed:
    """A layer of 8-bit integers as the kernel wants it.

    Args:
        weight: (out, in), int8; of a gated layer the gate's rows, then those of what it multiplies.
        scale: (out,), what each row counts.
        bias: (out,), or None.
        factor: (in,), what inputs are multiplied with first, or None.
        eps: if not None, inputs are divided by their root mean square, with this added in it.
        activation: of the result, or of the gate: "silu", "gelu_tanh" or None.
        gated: whether the result is the activated first half times the second.
    """

    def __init__(
        self,
        weight: Tensor,
        scale: Tensor,
        bias: Tensor | None,
        factor: Tensor | None,
        eps: float | None,
        activation: str | None = None,
        gated: bool = False,
    ) -> None:
        halves, tiled = 2 if gated else 1, have_tiles()
        panel, lanes = (_TILED_PANEL, _TILED_LANES) if tiled else (_PANEL, _LANES)
        each = panel // halves

        def rows(of: Tensor) -> Tensor:
            """Half a panel of the gate, half a panel of the other; filled up with nought."""
            parts = of.unflatten(0, (halves, -1))  # (1 or 2, out / halves, ...)
            parts = _filled_up(parts, 1, each)
            return parts.unflatten(1, (-1, each)).transpose(0, 1).flatten(0, 2).contiguous()

        self.outputs, size = len(weight) // halves, weight.shape[1]
        wide = rows(_filled_up(weight, 1, lanes))
        # Four integers as one number, as they are moved together.
        fours = wide.view(torch.int32)
        if tiled:  # a tile: sixteen such numbers of each of sixteen rows
            of_tiles = fours.unflatten(1, (-1, 16)).unflatten(0, (-1, 2, 16))
            panels = of_tiles.permute(0, 3, 1, 4, 2).contiguous()
        else:
            panels = fours.unflatten(0, (-1, panel)).transpose(1, 2).contiguous()
        begin = torch.empty(0) if tiled else wide.sum(1, dtype=torch.int32) * -128
        self._kept = [panels, begin, rows(scale.float())]
        self._kept += [torch.empty(0) if bias is None else rows(bias.float())]
        self._kept += [torch.empty(0) if factor is None else factor.float().contiguous()]
        addresses = [of.data_ptr() or None for of in self._kept]
        eps = -1.0 if eps is None else eps
        kind = ACTIVATIONS[activation], gated, tiled
        self._layer = _Layer(*addresses, eps, *kind, size, self.outputs)

    @property
    def address(self) -> int:
        return ctypes.addressof(self._layer)

    def __call__(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), or half of that where gated; float32."""
        x = x.float().contiguous()
        y = x.new_empty(*x.shape[:-1], self.outputs)
        rows = x.numel() // x.shape[-1]
        _call("linear", x.data_ptr(), rows, self.address, None, y.data_ptr())
        return y


def largest_in_columns(weight: Tensor) -> Tensor:
    """How large the numbers of each column of a weight (out, in) get, in absolute value: (in,)."""
    weight = weight.float().contiguous()
    largest = weight.new_empty(weight.shape[1])
    _call("largest_in_columns", weight.data_ptr(), *weight.shape, largest.data_ptr())
    return largest


def round_rows(weight: Tensor, by: Tensor, least: float) -> Pair:
    """A weight (out, in) times ``by`` (in,) in 8-bit integers (out, in), and their units (out,).

    Each row's unit is such that its largest number is 127, or ``least`` where that is larger.
    """
    weight, by = weight.float().contiguous(), by.contiguous()
    whole = torch.empty(weight.shape, dtype=torch.int8)
    scale = weight.new_empty(len(weight))
    given = weight.data_ptr(), by.data_ptr(), *weight.shape, least
    _call("round_rows", *given, whole.data_ptr(), scale.data_ptr())
    return whole, scale


def _filled_up(x: Tensor, dim: int, multiple: int) -> Tensor:
    """``x`` with nought at the end of a dimension, up to a multiple; itself, where it is one."""
    missing = -x.shape[dim] % multiple
    return F.pad(x, (0, 0) * (x.dim() - 1 - dim) + (0, missing)) if missing else x


def chain(x: Tensor, into: Packed, out: Packed, added: Tensor | None = None) -> Tensor:
    """``out(into(x))``, some rows at a time: what is between stays in the processor's cache.

    Plus what is ``added``, as large as that.
    """
    x = x.float().contiguous()
    y = x.new_empty(*x.shape[:-1], out.outputs)
    if not x.numel():
        return y
    rows, more = x.numel() // x.shape[-1], _laid_out(added)
    layers = into.address, out.address
    _call("chain", x.data_ptr(), rows, *layers, _address(more), y.data_ptr())
    return y


def _laid_out(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.float().contiguous()


def _address(x: Tensor | None) -> int | None:
    return None if x is None else x.data_ptr()


@dataclass(frozen=True)
class Heads:
    """How attention attends: H query heads to K key heads of D numbers, softmax over ``scale`` q k.

    ``causal``: a token sees none after it; ``window``: how far it sees, if not all the way.
    """

    heads: int
    kv_heads: int
    dim: int
    scale: float
    causal: bool
    window: int | None


def self_attention(
    x: Tensor,
    qkv: Packed,
    out: Packed,
    heads: Heads,
    rotary: Pair | None,
    before: Pair | None,
    packing: Packing | None = None,
    added: Tensor | None = None,
) -> Tensor:
    """``out(attend(...))`` of the queries, keys and values ``qkv(x)``, (B, T, C) -> (B, T, C).

    Some texts at a time, for the same reason, and ``added`` likewise; see ``attend``.
    """
    x = x.float().contiguous()
    y = x.new_empty(*x.shape[:-1], out.outputs)
    if not x.numel():
        return y
    said, kept = _attention(x, heads, packing)
    kept += _point_to(said, rotary, before)
    at, more = ctypes.addressof(said), _laid_out(added)
    layers = qkv.address, out.address
    _call("self_attention", x.data_ptr(), at, *layers, _address(more), y.data_ptr())
    return y


class PackedBlock(NamedTuple):
    """A transformer layer of packed layers, with the norms before them taken in."""

    heads: Heads
    qkv: Packed
    out: Packed
    into: Packed
    down: Packed


def run_blocks(
    x: Tensor,
    blocks: Sequence[PackedBlock],
    rotary: Sequence[Pair | None],
    before: Sequence[Pair | None],
    packing: Packing | None = None,
) -> Tensor:
    """(B, T, C) through one block after the other, each with its own ``rotary`` and ``before``.

    What ``self_attention`` and ``chain`` give in turn, to the bit; see ``attend``. Of a single text
    Python and the waking of threads between those would be a sixth of the time.
    """
    x = x.float().contiguous()
    y, between = torch.empty_like(x), torch.empty_like(x)
    if not x.numel():
        return y
    said, kept = (_Block * len(blocks))(), []
    common: dict[Heads, _Attention] = {}
    for one, block, tables, first in zip(said, blocks, rotary, before, strict=True):
        if block.heads not in common:
            common[block.heads], more = _attention(x, block.heads, packing)
            kept += more
        one.attention = common[block.heads]
        kept += _point_to(one.attention, tables, first)
        for name in ("qkv", "out", "into", "down"):
            setattr(one, name, getattr(block, name).address)
    rows = x.numel() // x.shape[-1]
    given = x.data_ptr(), rows, ctypes.addressof(said), len(said)
    _call("run_blocks", *given, between.data_ptr(), y.data_ptr())
    return y


def worth_attending(batch: int, length: int, heads: Heads) -> bool:
    """Whether attention is for these kernels: a head of a text is worked at by one thread alone."""
    busy = length <= _SHORT or batch * heads.kv_heads >= torch.get_num_threads()
    return available() and busy and heads.dim % 2 == 0


def can_attend(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether ``attend`` takes these: float32 or bfloat16, and laid out token by token."""
    known = q.dtype in (torch.float32, torch.bfloat16)
    return known and all(of.dtype == q.dtype and _is_by_token(of) for of in (q, k, v))


def _is_by_token(x: Tensor) -> bool:
    """Whether one token's heads stand together, and tokens at even distances over all texts."""
    length, _, dim = x.shape[1:]
    return x.stride(3) == 1 and x.stride(2) == dim and x.stride(0) == length * x.stride(1)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    heads: Heads,
    rotary: Pair | None,
    before: Pair | None,
    packing: Packing | None = None,
) -> Tensor:
    """Softmax attention, (B, T, H * D), computed in float32, of the queries' dtype.

    Args:
        q: queries (B, T, H, D), not yet rotated.
        k: keys (B, T, K, D), not yet rotated.
        v: values (B, T, K, D).
        heads: how they attend.
        rotary: cos and sin for these tokens, each (T, D), if positions are rotated in.
        before: keys, rotated, and values of S tokens before every text, each (1, S, K, D).
        packing: how tokens are packed, if q, k and v are rows (1, N, ...). The result is then, too.
    """
    dtype = q.dtype
    q, k, v = (of.float() for of in (q, k, v))
    y = q.new_empty(*q.shape[:2], heads.heads * heads.dim)
    said, kept = _attention(q, heads, packing)
    kept += _point_to(said, rotary, before)
    said.queries, said.keys, said.values = q.data_ptr(), k.data_ptr(), v.data_ptr()
    said.query_stride, said.key_stride, said.value_stride = (of.stride(1) for of in (q, k, v))
    _call("attend", ctypes.addressof(said), y.data_ptr())
    return y.to(dtype)


def _attention(x: Tensor, heads: Heads, packing: Packing | None) -> tuple[_Attention, list[Tensor]]:
    """What the kernel is told of x (B, T, ...), but for where it is; and what that points to."""
    batch, length = sizes(x, packing)
    said = _Attention(
        batch=batch,
        length=length,
        heads=heads.heads,
        kv_heads=heads.kv_heads,
        dim=heads.dim,
        window=heads.window or 0,
        causal=heads.causal,
        scale=heads.scale,
    )
    kept = []
    if packing is not None:
        for name in ("path", "lengths", "shared"):
            kept.append(getattr(packing, name).contiguous())
            setattr(said, name, kept[-1].data_ptr())
    return said, kept


def _point_to(said: _Attention, rotary: Pair | None, before: Pair | None) -> list[Tensor]:
    """Point to positions' tables and to what stands before the texts; returned is what is there."""
    kept = []
    for names, pair in ((("cos", "sin"), rotary), (("first_keys", "first_values"), before)):
        for name, of in zip(names, pair or (), strict=False):
            kept.append(of.float().contiguous())
            setattr(said, name, kept[-1].data_ptr())
    said.before = 0 if before is None else before[0].shape[1]
    return kept


def _call(name: str, *arguments: float | None) -> None:
    if not getattr(loaded(), name)(*arguments, torch.get_num_threads()):
        raise MemoryError
