"""What frozen blocks compute in: float32, bfloat16, or products of 8-bit integers.

Processors with VNNI instructions multiply 8-bit integers about four times as fast as float32.
Weights are rounded once, each output's row by a scale of its own; inputs as they come, each token
by a scale of its own, so that no text changes another's result. Sums are exact, of integers.

A few channels of a decoder's states are many times larger than the others, and would take most of
the 256 steps for themselves. So every channel is divided by a constant that its column of the
weight is multiplied with, which changes no product (``channels.py``). Whatever makes a layer's
inputs does the division: a norm's weight, or the rows of the layer before. And as rounding does not
see how large a token is as a whole, an RMS norm before it is but a factor of the token's scale.

LayerNorm, attention, activation functions and the states themselves stay float32. Knows no labels
and no text.
"""

from __future__ import annotations

import hashlib
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.config import Precision
from lastblock.decoder import kernels
from lastblock.decoder.channels import SMALLEST, Divisors, channel_divisors
from lastblock.decoder.config import Activation
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.layers import Block, RMSNorm, activate
from lastblock.runtime import has_int8_instructions, keep_freed_memory

STEPS = 127  # an 8-bit integer on each side of zero
ZERO = 128  # what stands for zero: the instructions want one side of a product unsigned
# Numbers of rows are rounded up to multiples of this: what oneDNN compiles for one serves more.
ROWS = 16
# Added to a float32 it leaves no bits for fractions: a whole number stands in the lowest ones.
_WHOLE = 1.5 * 2**23
_PACKING = Lock()


class Int8Linear(nn.Module):
    """``nn.Linear`` of float32 inputs, multiplied in 8-bit integers; for inference only.

    ``weight`` (out, in), int8, times ``scale`` (out,) is the rounded weight, for inputs that are
    multiplied with ``factor`` (in,) first, if there is one. With ``eps`` every input is divided by
    its root mean square before that, as ``RMSNorm`` does.
    """

    weight: Tensor
    scale: Tensor
    factor: Tensor | None
    bias: Tensor | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool, factor: bool, eps: float | None
    ) -> None:
        super().__init__()
        shape = (out_features, in_features)
        self.eps = eps
        self.register_buffer("weight", torch.empty(shape, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features))
        self.register_buffer("factor", torch.empty(in_features) if factor else None)
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self._packed: dict[tuple[Activation | None, bool], kernels.Packed] = {}
        self._prepacked: Tensor | None = None

    @property
    def parameters_held(self) -> int:
        """How many parameters of the decoder it stands for, a norm's among them."""
        out_features, in_features = self.weight.shape
        norm = 0 if self.eps is None else in_features
        return self.weight.numel() + norm + (0 if self.bias is None else out_features)

    @torch.no_grad()
    def round(self, linear: nn.Linear, smooth: Tensor) -> None:
        """Take in a layer's weight, for inputs whose channels are divided by ``smooth`` (in,)."""
        self._forget()
        if kernels.available():
            self.weight, self.scale = kernels.round_rows(linear.weight, smooth, SMALLEST)
        else:
            weight = linear.weight.float() * smooth
            self.scale = weight.abs().amax(1).clamp_min(SMALLEST) / STEPS
            # GPT-2 stores its weights the other way round; oneDNN takes rows for granted.
            self.weight = (weight / self.scale[:, None]).round_().to(torch.int8).contiguous()
        if self.bias is not None:
            self.bias = linear.bias.detach().to(torch.float32, copy=True)  # ``divide`` writes to it

    def divide(self, rows: slice, by: Tensor) -> None:
        """Divide some of the outputs by constants."""
        self._forget()
        self.scale[rows] /= by
        if self.bias is not None:
            self.bias[rows] /= by

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), float32."""
        return self.activated(x, None, gated=False)

    def activated(self, x: Tensor, activation: Activation | None, gated: bool) -> Tensor:
        """The same, activated; where gated the activated first half times the second."""
        packed = self.packed(activation, gated)
        if packed is not None:
            return packed(x)
        y = self._with_torch(x)
        return y if activation is None else activate(y, activation, gated)

    def packed(
        self, activation: Activation | None = None, gated: bool = False
    ) -> kernels.Packed | None:
        """This layer, and what is done to its result, as kernels take it; None if they do not."""
        if not kernels.available():
            return None
        key = activation, gated
        if key not in self._packed:
            with _PACKING:  # once, where threads share a decoder
                if key not in self._packed:
                    self._packed[key] = kernels.Packed(
                        self.weight, self.scale, self.bias, self.factor, self.eps, activation, gated
                    )
        return self._packed[key]

    def _with_torch(self, x: Tensor) -> Tensor:
        """What ``forward`` gives, where there is no kernel for it."""
        rows = x.reshape(-1, x.shape[-1])
        n, size = rows.shape
        given = rows if self.factor is None else rows * self.factor
        # Two passes: the one that torch has for the largest absolute value is many times slower.
        largest = torch.maximum(given.amax(1, keepdim=True), -given.amin(1, keepdim=True))
        unit = largest.clamp_min_(1e-30).div_(STEPS)
        whole = torch.empty(-(-n // ROWS) * ROWS, size, dtype=torch.uint8)
        # In place where it can be: memory that was just written is still in the cache.
        steps = given * (1 / unit) if self.factor is None else given.mul_(1 / unit)
        whole[:n] = steps.add_(_WHOLE + ZERO).view(torch.int32)
        if self.eps is not None:
            norm = torch.linalg.vector_norm(rows, dim=1, keepdim=True)
            unit *= torch.rsqrt(norm.square_().div_(size).add_(self.eps))
        y = self._products(whole)[:n].mul_(unit)
        if self.bias is not None:
            y += self.bias
        return y.unflatten(0, x.shape[:-1])

    def _products(self, whole: Tensor) -> Tensor:
        """8-bit integers (n, in), ``ZERO`` for 0 -> the sums (n, out), times ``scale``."""
        if not has_int8_instructions():
            return F.linear(whole.float() - ZERO, self.weight.float()).mul_(self.scale)
        onednn = torch.ops.onednn
        with _PACKING:
            if self._prepacked is None:
                self._prepacked = onednn.qlinear_prepack(self.weight, None)
        zeros = torch.zeros(len(self.scale), dtype=torch.int32)
        return onednn.qlinear_pointwise(
            whole, 1.0, ZERO, self._prepacked, self.scale, zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip

    def _forget(self) -> None:
        """What was made of the weight is made anew when it is next used."""
        self._packed, self._prepacked = {}, None

    def _load_from_state_dict(self, *given: Any) -> None:
        self._forget()
        super()._load_from_state_dict(*given)

    def _apply(self, *given: Any, **how: Any) -> Int8Linear:
        self._forget()
        return super()._apply(*given, **how)  # type: ignore[no-untyped-call]

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle goes without what this processor made of the weight."""
        return {**self.__dict__, "_packed": {}, "_prepacked": None}


def set_precision(
    decoder: Decoder,
    blocks: int,
    precision: Precision,
    sample: Tensor | None,
    *,
    embed: bool = True,
    weights: str | None = None,
) -> None:
    """Turn a decoder's first ``blocks`` blocks to what they will compute in, and its embeddings.

    Args:
        decoder: changed in place.
        blocks: how many.
        precision: "float32", "bfloat16" or "int8"; the last keeps all but products in float32.
        sample: token ids (T,) of some text, which says how large channels get; for int8.
        embed: turn the embeddings too.
        weights: what tells the decoder's weights from all others; what is found out by
            the sample is then remembered on this machine.
    """
    decoder.forget()
    stored = {parameter.data_ptr() for parameter in decoder.parameters()}
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    for name, module in decoder.named_children():
        if embed and name.startswith("embed"):
            module.to(dtype)
    for block in decoder.blocks[:blocks]:
        block.to(dtype)
    if precision == "float32":
        for module in decoder.blocks[:blocks].modules():
            if isinstance(module, nn.Linear):
                # GPT-2's lies the other way until it has been saved, and is multiplied otherwise.
                module.weight.data = module.weight.data.contiguous()
    if precision == "int8":
        if sample is None:
            raise ValueError("int8 wants a sample of text")
        _to_int8(decoder, blocks, sample, weights)
        for parameter in decoder.parameters():
            # Else the little that is not rounded keeps the whole file mapped that it was read from.
            if parameter.data_ptr() in stored:
                parameter.data = parameter.data.clone()


def precision_facts(decoder: Decoder, blocks: int, precision: Precision) -> str:
    """The precision's name, and for int8 a word that stands for how its channels were divided.

    Whatever was computed by two decoders with the same weights and the same facts is the same.
    """
    if precision != "int8":
        return precision
    digest = hashlib.blake2b(digest_size=6)
    for block in decoder.blocks[:blocks]:
        for module in block.modules():
            if isinstance(module, Int8Linear):
                digest.update(module.scale.numpy().tobytes())
    return f"int8-{digest.hexdigest()}"


def empty_int8(decoder: Decoder, blocks: int) -> None:
    """Put 8-bit layers, not yet filled, into a decoder's first ``blocks`` blocks."""
    for block in decoder.blocks[:blocks]:
        assert isinstance(block, Block)
        _replace(block)


@torch.no_grad()
def _to_int8(decoder: Decoder, blocks: int, sample: Tensor, weights: str | None) -> None:
    """Round the linear layers of a decoder's first ``blocks`` blocks, in place."""
    keep_freed_memory()
    for block, by in zip(
        decoder.blocks, channel_divisors(decoder, blocks, sample, weights), strict=False
    ):
        assert isinstance(block, Block)
        _round(block, by)


def _replace(block: Block) -> tuple[Int8Linear, Int8Linear, Int8Linear, Int8Linear]:
    """Put 8-bit layers in place of a block's linear ones, and of the RMS norms before them.

    Returned are those for queries, keys and values, after attention, into the MLP and out of it.
    """
    attn, mlp = block.attn, block.mlp
    norms = block.attn_norm, block.mlp_norm
    eps = [norm.eps if isinstance(norm, RMSNorm) else None for norm in norms]
    qkv = _like(attn.qkv, factor=eps[0] is not None, eps=eps[0])
    out = _like(attn.out, factor=False)
    into = _like(mlp.into, factor=eps[1] is not None, eps=eps[1])
    down = _like(mlp.down, factor=not mlp.gated)
    for parent, name, layer in (
        (attn, "qkv", qkv),
        (attn, "out", out),
        (mlp, "gate_up" if mlp.gated else "up", into),
        (mlp, "down", down),
    ):
        setattr(parent, name, layer)
    for name, taken_in in (("attn_norm", eps[0]), ("mlp_norm", eps[1])):
        if taken_in is not None:
            setattr(block, name, nn.Identity())
    return qkv, out, into, down


def _like(linear: nn.Linear, *, factor: bool, eps: float | None = None) -> Int8Linear:
    out_features, in_features = linear.weight.shape
    return Int8Linear(in_features, out_features, linear.bias is not None, factor, eps)


def _round(block: Block, by: Divisors) -> None:
    """The same, filled; ``by`` says what the channels of their inputs are divided by."""
    attn, mlp = block.attn, block.mlp
    qkv, out, into, down = attn.qkv, attn.out, mlp.into, mlp.down
    norms = block.attn_norm, block.mlp_norm
    by_value = by[out].view(attn.kv_heads, -1, attn.head_dim)[:, 0].flatten()
    new_qkv, new_out, new_into, new_down = _replace(block)
    _fill(new_out, out, by[out])
    _fill(new_down, down, by[down])
    _fill(new_qkv, qkv, by[qkv], norms[0])
    new_qkv.divide(slice(-len(by_value), None), by_value)
    _fill(new_into, into, by[into], norms[1])
    if mlp.gated:
        new_into.divide(slice(-len(by[down]), None), by[down])


def _fill(layer: Int8Linear, linear: nn.Linear, by: Tensor, norm: nn.Module | None = None) -> None:
    """Round ``linear`` into ``layer``, whose inputs are divided ``by`` what makes them."""
    layer.round(linear, by)
    if isinstance(norm, nn.LayerNorm):
        for name in ("weight", "bias"):
            divided = nn.Parameter(getattr(norm, name) / by, requires_grad=False)
            setattr(norm, name, divided)
    elif isinstance(norm, RMSNorm):
        layer.factor = norm.factor / by
    elif layer.factor is not None:
        layer.factor = 1 / by
