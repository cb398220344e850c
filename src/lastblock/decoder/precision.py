"""What frozen blocks compute in: float32, bfloat16, or products of 8-bit integers.

Processors with VNNI instructions multiply 8-bit integers about four times as fast as float32.
Weights are rounded once, each output's row by a scale of its own; inputs as they come, each token
by a scale of its own, so that no text changes another's result. Sums are exact, of integers.

A few channels of a decoder's states are many times larger than the others, and would take most of
the 256 steps for themselves. So every channel is divided by a constant that its column of the
weight is multiplied with, which changes no product (SmoothQuant, Xiao et al. 2023, section 4). The
constants come from how large each channel gets in a sample of text.

Norms, attention, activation functions and the states themselves stay float32. Knows no labels and
no text.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.config import Precision
from lastblock.decoder.decoder import Decoder
from lastblock.runtime import has_int8_instructions

STEPS = 127  # an 8-bit integer on each side of zero
# How much of a channel's size goes over into the weight: half, as in SmoothQuant, section 4.
SHARE = 0.5
_SMALLEST = 1e-5  # for channels that are always zero


class Int8Linear(nn.Module):
    """``nn.Linear`` of float32 inputs, multiplied in 8-bit integers; for inference only.

    ``weight`` (out, in), int8, times ``scale`` (out,) is the rounded weight for inputs divided by
    ``smooth`` (in,).
    """

    weight: Tensor
    scale: Tensor
    smooth: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, bias: bool) -> None:
        super().__init__()
        shape = (out_features, in_features)
        self.register_buffer("weight", torch.empty(shape, dtype=torch.int8))
        self.register_buffer("scale", torch.empty(out_features))
        self.register_buffer("smooth", torch.empty(in_features))
        self.register_buffer("bias", torch.empty(out_features) if bias else None)
        self._packed: Tensor | None = None

    @classmethod
    def rounded(cls, linear: nn.Linear, largest: Tensor) -> Int8Linear:
        """What a layer becomes whose inputs' channels get as large as ``largest`` (in,)."""
        out_features, in_features = linear.weight.shape
        made = cls(in_features, out_features, linear.bias is not None)
        with torch.no_grad():
            weight = linear.weight.float()
            columns = weight.abs().amax(0).clamp_min(_SMALLEST)
            made.smooth = largest.clamp_min(_SMALLEST) ** SHARE / columns ** (1 - SHARE)
            weight = weight * made.smooth
            made.scale = weight.abs().amax(1).clamp_min(_SMALLEST) / STEPS
            made.weight = (weight / made.scale[:, None]).round_().to(torch.int8)
            if made.bias is not None:
                made.bias = linear.bias.detach().float()
        return made

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out), float32."""
        rows = x.reshape(-1, x.shape[-1]) / self.smooth
        # Two passes: the one that torch has for the largest absolute value is many times slower.
        largest = torch.maximum(rows.amax(1, keepdim=True), -rows.amin(1, keepdim=True))
        unit = largest.clamp_min_(1e-12).div_(STEPS)
        whole = rows.div_(unit).round_().to(torch.int8)
        y = self._product(whole).mul_(unit)
        if self.bias is not None:
            y += self.bias
        return y.unflatten(0, x.shape[:-1])

    def _product(self, whole: Tensor) -> Tensor:
        """8-bit integers (n, in) -> the sums (n, out), times ``scale``, float32."""
        if not has_int8_instructions():
            return F.linear(whole.float(), self.weight.float()).mul_(self.scale)
        onednn = torch.ops.onednn
        if self._packed is None:
            self._packed = onednn.qlinear_prepack(self.weight, None)
        # The instructions want one side unsigned: the same bits but the first, and 128 for zero.
        unsigned = whole.view(torch.uint8).bitwise_xor_(128)
        zeros = torch.zeros_like(self.scale, dtype=torch.int32)
        product: Tensor = onednn.qlinear_pointwise(
            unsigned, 1.0, 128, self._packed, self.scale, zeros,
            None, 1.0, 0, torch.float32, "none", [], "",
        )  # fmt: skip
        return product

    def __getstate__(self) -> dict[str, Any]:
        """A copy or pickle goes without what this processor made of the weight."""
        return {**self.__dict__, "_packed": None}


def set_precision(
    decoder: Decoder,
    blocks: int,
    precision: Precision,
    sample: Tensor | None,
    *,
    embed: bool = True,
) -> None:
    """Turn a decoder's first ``blocks`` blocks to what they will compute in, and its embeddings.

    Args:
        decoder: changed in place.
        blocks: how many.
        precision: "float32", "bfloat16" or "int8"; the last keeps all but products in float32.
        sample: token ids (T,) of some text, which says how large channels get; for int8.
        embed: turn the embeddings too.
    """
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    for name, module in decoder.named_children():
        if embed and name.startswith("embed"):
            module.to(dtype)
    for block in decoder.blocks[:blocks]:
        block.to(dtype)
    if precision == "int8":
        if sample is None:
            raise ValueError("int8 wants a sample of text")
        _to_int8(decoder, blocks, sample)


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
                digest.update(module.smooth.numpy().tobytes())
    return f"int8-{digest.hexdigest()}"


def empty_int8(decoder: Decoder, blocks: int) -> None:
    """Put 8-bit layers, not yet filled, into a decoder's first ``blocks`` blocks."""
    for block in decoder.blocks[:blocks]:
        for parent, name, linear in _linears(block):
            out_features, in_features = linear.weight.shape
            empty = Int8Linear(in_features, out_features, linear.bias is not None)
            setattr(parent, name, empty)


@torch.no_grad()
def _to_int8(decoder: Decoder, blocks: int, sample: Tensor) -> None:
    """Round the linear layers of a decoder's first ``blocks`` blocks, in place."""
    x = decoder.embed(sample.long()[None, : decoder.config.max_position_embeddings])
    for index, block in enumerate(decoder.blocks[:blocks]):
        with _largest_inputs(block) as largest:
            x = decoder.run(x, index, index + 1)
        for parent, name, linear in _linears(block):
            setattr(parent, name, Int8Linear.rounded(linear, largest[linear]))


@contextmanager
def _largest_inputs(block: nn.Module) -> Iterator[dict[nn.Module, Tensor]]:
    """How large, in absolute value, each channel gets that a block's linear layers are given."""
    seen: dict[nn.Module, Tensor] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[0].flatten(0, -2).abs().amax(0)

    hooks = [linear.register_forward_pre_hook(look) for _, _, linear in _linears(block)]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _linears(block: nn.Module) -> list[tuple[nn.Module, str, nn.Linear]]:
    """A block's linear layers, each with the module it stands in and its name there."""
    return [
        (parent, name, module)
        for parent in block.modules()
        for name, module in parent.named_children()
        if isinstance(module, nn.Linear)
    ]
