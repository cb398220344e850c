"""The layers of a decoder: norms, rotary embedding, attention, MLP, and the block they form.

GPT-2 and the Llama family differ in a few facts, all of them fields of ``DecoderConfig``:

    GPT-2    LayerNorm, positions learned and added at the start, one key head per query head,
             MLP = down(gelu(up(x)))
    Llama    RMSNorm, positions rotated into queries and keys, fewer key heads than query heads,
             MLP = down(silu(gate(x)) * up(x))
    Mistral  Llama that sees only the last ``window`` positions
    Qwen     Llama with a bias on queries, keys and values (2), or with normed queries and keys (3)
    Gemma 3  Qwen 3 with norms after attention and MLP too, each multiplying by 1 + weight,
             and a window in five blocks of six

Query, key and value projections are one product, as are gate and up: fewer, larger products are
faster. Knows no checkpoint names, no labels and no text.

B is the number of texts, T tokens in the longest, C ``hidden_size``, H query heads, K key-value
heads, D ``head_dim``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lastblock.decoder import few_rows, kernels, trained_block
from lastblock.decoder.config import Activation, DecoderConfig, Rope
from lastblock.decoder.few_rows import Rows
from lastblock.decoder.packing import Packing, sizes

RotaryTables = tuple[Tensor, Tensor]  # cos and sin, each (T, D)
KeysValues = tuple[Tensor, Tensor]  # each (B, T, K, D)
# Up to so many tokens, attention of several texts is faster as plain products than fused where
# query heads share key heads: a quarter of that, where each token sees all others. Those products
# are of so many queries at a time.
SHORT, QUERIES = 512, 32
# How many rows of float32 are few, in ``linear``.
FEW_ROWS = range(9, 49)


class RMSNorm(nn.Module):
    """x / rms(x) * (offset + weight), over the last axis (Zhang & Sennrich 2019)."""

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.eps, self.offset = eps, offset

    @property
    def factor(self) -> Tensor:
        """What a state over its root mean square is multiplied by, (C,)."""
        return self.weight + self.offset if self.offset else self.weight

    def forward(self, x: Tensor) -> Tensor:
        if few_rows.takes(x, self.weight):
            return few_rows.rms_norm(x, self.factor, self.eps)
        if not self.offset and x.dtype == self.weight.dtype:
            return F.rms_norm(x, self.weight.shape, self.weight, self.eps)
        # In 16 bits the sum would lose the weight; in mixed precision x alone is of 16 bits.
        weight = self.weight.float() + self.offset
        return F.rms_norm(x.float(), weight.shape, weight, self.eps).to(x.dtype)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, only: Rows | None = None) -> Tensor:
    """``F.linear``: x (..., in), weight (out, in), bias (out,) -> (..., out).

    Or of ``only`` some rows of weight and bias. A few rows of float32, and on some processors any
    number, are multiplied in C by a weight in one piece; a few by another, and where there are no
    kernels, as (W x^T)^T, for which MKL has a kernel up to three times as fast.
    """
    rows, in_c = x.numel() // x.shape[-1], few_rows.can_multiply(x, weight)
    if only is not None:
        bias = None if bias is None else only.of(bias)
        weight = weight if in_c else only.of(weight)
    if in_c:
        y = few_rows.multiply(x, weight, only)
        return y if bias is None else y + bias
    if rows not in FEW_ROWS or x.dtype != torch.float32:
        return F.linear(x, weight, bias)
    y = torch.mm(weight, x.reshape(rows, -1).t()).t()
    return (y if bias is None else y + bias).unflatten(0, x.shape[:-1])


class Linear(nn.Linear):
    """``nn.Linear``, as ``linear`` computes it."""

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(x, self.weight, self.bias)

    def activated(self, x: Tensor, activation: Activation, gated: bool) -> Tensor:
        """The same, activated; where gated the activated first half times the second."""
        return activate(self(x), activation, gated)

    def packed(
        self, activation: Activation | None = None, gated: bool = False
    ) -> kernels.Packed | None:
        """This layer, and what is done to its result, as kernels take it; None if they do not."""
        return None


def activate(y: Tensor, activation: Activation, gated: bool) -> Tensor:
    """``activation`` of y (..., out); where gated of its first half, times the second."""
    if few_rows.takes(y):
        return few_rows.activate(y, activation, gated)
    if gated:
        gate, up = y.chunk(2, dim=-1)
        return activate(gate, activation, gated=False).mul_(up)
    return F.gelu(y, approximate="tanh") if activation == "gelu_tanh" else F.silu(y)


def linear_of_norm(x: Tensor, norm: nn.Module, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``linear`` of ``norm(x)``, with the norm's factors in the weight: (..., in) -> (..., out).

    So nothing between ``x`` and the product is trained, and where ``x`` is frozen a training step
    needs no gradient of the product's inputs, which is a third of its work.
    """
    if isinstance(norm, nn.LayerNorm):
        plain = F.layer_norm(x, norm.normalized_shape, eps=norm.eps)
    else:
        assert isinstance(norm, RMSNorm)
        plain = F.rms_norm(x, norm.weight.shape, eps=norm.eps)
    return linear(plain, *_taking_in(norm, weight, bias))


def _taking_in(
    norm: nn.Module, weight: Tensor, bias: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a linear layer after a norm, for states without the norm's factors."""
    weight = weight.contiguous()  # a user's own may lie the other way
    if isinstance(norm, nn.LayerNorm):
        # Not as a product of matrices: that depends, in the last bit, on where the weight lies.
        shift = (weight * norm.bias).sum(1)
        return weight * norm.weight, shift if bias is None else bias + shift
    assert isinstance(norm, RMSNorm)
    return weight * norm.factor, bias


def with_factors(x: Tensor, norm: nn.Module) -> Tensor:
    """What a norm makes of states, or means of them, from what it makes before its factors."""
    if isinstance(norm, nn.LayerNorm):
        return x * norm.weight + norm.bias
    assert isinstance(norm, RMSNorm)
    return x * norm.factor


def mean_of_norm(x: Tensor, read: Tensor, norm: nn.Module, seen: Tensor, share: Tensor) -> Tensor:
    """Weighted means of ``norm(x)`` over each text's tokens: (B, H, C).

    What a norm does to a token is to multiply by a number and add one, before its factors, which
    are the same for all tokens. So no token's norm is computed, but those numbers.

    Args:
        x: (B, T, C), finite also where not seen.
        read: the tokens that are seen, text by text, (N, C).
        norm: over the last axis.
        seen: which these are, (B, T), bool.
        share: H weights of each token, (B, H, T), nought where not seen and 1 in all.
    """
    if isinstance(norm, nn.LayerNorm):
        variance, mean = torch.var_mean(read, dim=1, correction=0)
        by = torch.rsqrt(variance + norm.eps)
        off = (share * _in_place(mean * by, seen)[:, None]).sum(-1, keepdim=True)  # (B, H, 1)
        means = torch.bmm(share * _in_place(by, seen)[:, None], x) - off
        return with_factors(means, norm)
    assert isinstance(norm, RMSNorm)
    by = torch.rsqrt(read.square().mean(1) + norm.eps)
    return with_factors(torch.bmm(share * _in_place(by, seen)[:, None], x), norm)


def _in_place(of_seen: Tensor, seen: Tensor) -> Tensor:
    """What is known of the tokens seen, (N, ...), where these stand, (B, T, ...); else nought."""
    if len(of_seen) < seen.numel():
        rows = seen.flatten().nonzero()[:, 0]
        room = of_seen.new_zeros(seen.numel(), *of_seen.shape[1:])
        of_seen = room.index_copy_(0, rows, of_seen)
    return of_seen.unflatten(0, seen.shape)


def make_norm(config: DecoderConfig) -> nn.Module:
    """The family's norm over the hidden states."""
    if config.norm == "layer":
        return nn.LayerNorm(config.hidden_size, config.norm_eps)
    return RMSNorm(config.hidden_size, config.norm_eps, config.norm_offset)


def rotary_tables(rope: Rope, head_dim: int, length: int) -> RotaryTables:
    """cos and sin of every position's angles, float32, each (length, head_dim).

    Su et al. 2021, section 3.4.2, in the half-split order of Llama checkpoints; "llama3" scaling
    as in the Llama 3.1 release: long wavelengths are divided by ``factor``, short ones kept, and
    those between blended.
    """
    half = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
    frequency = 1.0 / (rope.theta**half)  # (D/2,)
    if rope.scaling is not None:
        frequency = _scale_frequency(frequency, rope.scaling)
    angle = torch.outer(torch.arange(length).float(), frequency)  # (T, D/2)
    angle = torch.cat((angle, angle), dim=-1)
    # MKL sees what processor this is in the first of its functions that a process calls. Where that
    # is called by two threads at once, now and then one takes the way for what is not known yet,
    # which is off by 1e-4: so the first is called by one thread.
    torch.zeros(1).cos()
    return angle.cos(), angle.sin()


def _scale_frequency(frequency: Tensor, scaling: Mapping[str, Any]) -> Tensor:
    if scaling["rope_type"] == "frequency_factors":
        return frequency / torch.tensor(scaling["factors"], device="cpu")
    factor = scaling["factor"]
    if scaling["rope_type"] == "linear":
        return frequency / factor
    original = scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    wavelength = 2 * math.pi / frequency
    smooth = ((original / wavelength - low) / (high - low)).clamp(0, 1)
    return (1 - smooth) * frequency / factor + smooth * frequency


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (x[i], x[i + D/2]) by its position's angle; x is (..., D)."""
    half = x.shape[-1] // 2
    turned = x * cos
    # Half by half into what is there: a third of the time of putting halves together first.
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return turned


def _rotated(q: Tensor, k: Tensor, rotary: RotaryTables | None) -> tuple[Tensor, Tensor]:
    """Queries and keys, (B, T, H or K, D), with their positions in them."""
    if rotary is None:
        return q, k
    cos, sin = (table.unsqueeze(1) for table in rotary)  # (T, 1, D), for every head
    return rotate(q, cos, sin), rotate(k, cos, sin)


def _sees(here: Tensor, there: Tensor, causal: bool, window: int | None) -> Tensor:
    """Whether a token at one position sees that at another."""
    distance = here - there
    seen = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return seen if window is None else seen & (distance.abs() < window)


@lru_cache(maxsize=4)  # every block of a decoder asks for the same, or in turn for two
def _hidden(
    length: int, before: int, shared: int, causal: bool, window: int | None, dtype: torch.dtype
) -> Tensor:
    """What is added to scores of queries ``shared`` times ``length``: -inf where a key is hidden.

    (shared * length, before + length), each token's ``shared`` rows together.
    """
    with torch.inference_mode(False), torch.no_grad():
        at = torch.arange(before + length)
        seen = _sees(at[before:, None], at, causal, window)
        hidden = torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, -torch.inf)
        return hidden.repeat_interleave(shared, dim=0)


class Attention(nn.Module):
    """Self-attention, grouped-query if the configuration says so (Ainslie et al. 2023).

    ``causal``: a token sees no token after it; of those within the window, if there is one.
    """

    def __init__(self, config: DecoderConfig, window: int | None) -> None:
        super().__init__()
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.head_dim, self.scale, self.window = config.head_dim, config.attention_scale, window
        self.causal = True
        width = (self.heads + 2 * self.kv_heads) * self.head_dim
        self.qkv = Linear(config.hidden_size, width, bias=config.qkv_bias)
        self.out = Linear(self.heads * self.head_dim, config.hidden_size, bias=config.out_bias)
        norms = (
            RMSNorm(self.head_dim, config.norm_eps, config.norm_offset) if config.qk_norm else None
            for _ in range(2)
        )
        self.q_norm, self.k_norm = norms

    def forward(
        self,
        x: Tensor,
        rotary: RotaryTables | None,
        before: KeysValues | None = None,
        packing: Packing | None = None,
        added: Tensor | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C), or rows (1, N, C) -> (1, N, C) that are packed so.

        ``before``: keys and values, (1, S, K, D), of S tokens that stand before every text's own.
        ``added``: states, as many, that the result is added to.
        """
        heads = self.as_heads()
        in_kernels = kernels.worth_attending(*sizes(x, packing), heads)
        if in_kernels and (layers := self.packed()):
            return kernels.self_attention(x, *layers, heads, rotary, before, packing, added)
        q, k, v = self._project(x)
        if in_kernels and not torch.is_grad_enabled() and kernels.can_attend(q, k, v):
            return _added(self.out(kernels.attend(q, k, v, heads, rotary, before, packing)), added)
        if packing is not None:
            q, k, v = (packing.spread(of) for of in (q, k, v))
        q, k = _rotated(q, k, rotary)
        if before is not None:
            k, v = (
                torch.cat((first.expand(len(k), -1, -1, -1), own), dim=1)
                for first, own in zip(before, (k, v), strict=True)
            )
        y = self._attend_by_rows(q, k, v) if self._is_short(k) else self._attend(q, k, v)
        return _added(self.out(y if packing is None else packing.gather(y)), added)

    def packed(self) -> tuple[kernels.Packed, kernels.Packed] | None:
        """Both layers as kernels take them, one after the other; None if they do not."""
        qkv, out = self.qkv.packed(), self.out.packed()
        return None if qkv is None or out is None or self.q_norm is not None else (qkv, out)

    def as_heads(self) -> kernels.Heads:
        """How it attends."""
        return kernels.Heads(
            self.heads, self.kv_heads, self.head_dim, self.scale, self.causal, self.window
        )

    def keys_values(self, x: Tensor, rotary: RotaryTables | None) -> KeysValues:
        """What the tokens of x, (B, T, C), are to those after them."""
        q, k, v = self._project(x)
        return _rotated(q, k, rotary)[1], v

    def _project(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> queries (B, T, H, D), keys and values (B, T, K, D), without positions."""
        heads = self.qkv(x).contiguous()  # else attention falls back to a slower kernel
        heads = heads.unflatten(-1, (-1, self.head_dim))  # (B, T, H + 2K, D)
        q, k, v = heads.split([self.heads, self.kv_heads, self.kv_heads], dim=2)
        if self.q_norm is not None and self.k_norm is not None:
            q, k = self.q_norm(q), self.k_norm(k)
        return q, k, v

    def _is_short(self, k: Tensor) -> bool:
        """Whether plain products are faster than the fused kernel for keys (B, T, K, D)."""
        # Gradients need all weights of attention kept, which is much memory for long texts.
        most = SHORT if self.causal and not torch.is_grad_enabled() else SHORT // 4
        shared = self.heads > self.kv_heads
        return shared and len(k) > 1 and k.shape[1] <= most and k.dtype == torch.float32

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Queries (B, T, H, D), keys and values (B, S + T, K, D) -> (B, T, H * D).

        The queries are those of the last tokens.
        """
        mask = self._mask(q.shape[1], k.shape[1], q.device)
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        y = F.scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=self.causal and mask is None,
            scale=self.scale,
            enable_gqa=self.heads != self.kv_heads,
        )
        return y.transpose(1, 2).flatten(2)

    def _attend_by_rows(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """The same, some queries at a time with no more keys than the last of them sees.

        The heads of a key head stand in one product, as rows: a token's heads, then the next's.
        """
        batch, length = q.shape[:2]
        shared, before = self.heads // self.kv_heads, k.shape[1] - length
        hidden = _hidden(length, before, shared, self.causal, self.window, q.dtype)
        q = q.unflatten(2, (self.kv_heads, shared)).transpose(1, 2)  # (B, K, T, H/K, D)
        q = q.reshape(batch * self.kv_heads, length * shared, self.head_dim)
        k, v = (part.transpose(1, 2).flatten(0, 1) for part in (k, v))  # (B * K, T, D)
        parts = []
        for first in range(0, length, QUERIES):
            last = min(first + QUERIES, length)
            rows = slice(first * shared, last * shared)
            seen = before + (last if self.causal else length)
            keys = k[:, :seen].transpose(1, 2)
            scores = torch.baddbmm(hidden[rows, :seen], q[:, rows], keys, alpha=self.scale)
            parts.append(torch.bmm(scores.softmax(-1), v[:, :seen]))
        y = torch.cat(parts, dim=1).view(batch, self.kv_heads, length, shared, self.head_dim)
        return y.transpose(1, 2).flatten(2)

    def forward_at(
        self,
        here: Tensor,
        x: Tensor,
        norm: nn.Module,
        position: Tensor,
        rotary: RotaryTables | None,
    ) -> Tensor:
        """What ``forward`` gives at one position of each of B texts, (B, C).

        Keys are computed for the tokens that are seen from there, all else for the asked ones
        alone: the values too, as the mean of values is the value of the mean.

        Args:
            here: the inputs at the asked positions, (B, C).
            x: the states of all tokens, (B, T, C), before the norm.
            norm: the norm before this layer, of which ``here`` is a result already.
            position: the asked positions, (B,).
            rotary: tables for T positions, if any.
        """
        weight, bias = self.qkv.weight, self.qkv.bias
        wide, kv_wide = self.heads * self.head_dim, self.kv_heads * self.head_dim
        of_keys, of_values = Rows(wide, kv_wide), Rows(wide + kv_wide, kv_wide)
        q = linear(here, weight, bias, Rows(0, wide)).unflatten(
            -1, (-1, self.head_dim)
        )  # (B, H, D)
        mean = self._means(q, x, norm, of_keys, position, rotary)  # (B, H, C)
        if few_rows.can_multiply(mean[:, 0], weight):
            y = few_rows.values(mean, weight, of_values, self.kv_heads)
        else:
            mean = mean.unflatten(1, (self.kv_heads, -1)).transpose(0, 1)  # (K, B, H/K, C)
            v_weight = of_values.of(weight).contiguous()  # GPT-2's lies the other way until saved
            y = torch.bmm(mean.flatten(1, 2), v_weight.unflatten(0, (self.kv_heads, -1)).mT)
            y = y.unflatten(1, (len(x), -1)).transpose(0, 1).flatten(1)  # (B, H * D)
        if bias is not None:
            # The heads that share a value head have its bias.
            v_bias = of_values.of(bias).view(self.kv_heads, 1, self.head_dim)
            y = y + v_bias.expand(-1, self.heads // self.kv_heads, -1).flatten()
        return self.out(y)

    def _means(
        self,
        q: Tensor,
        x: Tensor,
        norm: nn.Module,
        of_keys: Rows,
        position: Tensor,
        rotary: RotaryTables | None,
    ) -> Tensor:
        """Of each head, from one position of each text, the mean of ``norm(x)``, (B, H, C).

        Weighted by attention of queries q, (B, H, D), without norm and position; see
        ``forward_at``. In C where x is frozen: torch's operations also know gradients of it.
        """
        weight, bias = self.qkv.weight, self.qkv.bias
        k_bias = None if bias is None else of_keys.of(bias)
        if few_rows.can_attend(q, x):
            assert isinstance(norm, nn.LayerNorm | RMSNorm)
            which = few_rows.Seen.of(position, x.shape[1], self.causal, self.window)
            plain = few_rows.normed(x, which, norm.eps, centred=isinstance(norm, nn.LayerNorm))
            k_weight, shift = _taking_in(norm, few_rows.some_rows(weight, of_keys), k_bias)
            k = few_rows.project(plain, k_weight)
            q, k = self._normed(q, k if shift is None else k + shift)
            return with_factors(few_rows.attend_from(q, k, plain, which, self.scale, rotary), norm)
        there = torch.arange(x.shape[1], device=position.device)
        seen = _sees(position[:, None], there, self.causal, self.window)  # (B, T)
        read = x.flatten(0, 1) if bool(seen.all()) else x[seen]  # (N, C)
        k = linear_of_norm(read, norm, of_keys.of(weight), k_bias)
        k = _in_place(k, seen)  # (B, T, K * D)
        q, k = self._normed(q, k)
        if rotary is not None:
            cos, sin = (table.unsqueeze(1) for table in rotary)
            q, k = rotate(q, cos[position], sin[position]), rotate(k, cos, sin)
        # The query heads that share a key head stand as that head's queries: (B, K, H/K, D).
        q = q.unflatten(1, (self.kv_heads, -1))
        scores = q @ k.permute(0, 2, 3, 1) * self.scale  # (B, K, H/K, T)
        weights = scores.masked_fill(~seen[:, None, None, :], -torch.inf).softmax(-1)
        return mean_of_norm(x, read, norm, seen, weights.flatten(1, 2))

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        """Queries (..., H, D) and keys (..., K * D) -> both by head, normed if they are here."""
        k = k.unflatten(-1, (self.kv_heads, self.head_dim))
        if self.q_norm is None or self.k_norm is None:
            return q, k
        return self.q_norm(q), self.k_norm(k)

    def _mask(self, queries: int, keys: int, device: torch.device) -> Tensor | None:
        """(T, S + T), true where seen; None where each token sees those before it, or all."""
        if queries == keys and (self.window is None or keys <= self.window):
            return None
        at = torch.arange(keys, device=device)
        return _sees(at[keys - queries :, None], at, self.causal, self.window)


class MLP(nn.Module):
    """GPT-2's two-layer MLP, or the gated one (Shazeer 2020, SwiGLU and GEGLU)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        inner, bias = config.intermediate_size, config.mlp_bias
        self.gated, self.activation = config.gated_mlp, config.activation
        if self.gated:
            self.gate_up = Linear(config.hidden_size, 2 * inner, bias=bias)
        else:
            self.up = Linear(config.hidden_size, inner, bias=bias)
        self.down = Linear(inner, config.hidden_size, bias=bias)

    def forward(self, x: Tensor, added: Tensor | None = None) -> Tensor:
        """(..., C) -> (..., C); ``added``: states, as many, that the result is added to."""
        if layers := self.packed():
            return kernels.chain(x, *layers, added)
        return _added(self.down(self.into.activated(x, self.activation, self.gated)), added)

    @property
    def into(self) -> Linear:
        """The layer that its inputs go into."""
        return self.gate_up if self.gated else self.up

    def packed(self) -> tuple[kernels.Packed, kernels.Packed] | None:
        """Both layers as kernels take them, one after the other; None if they do not."""
        first, last = self.into.packed(self.activation, self.gated), self.down.packed()
        return None if first is None or last is None else (first, last)


def _added(y: Tensor, x: Tensor | None) -> Tensor:
    """y, or y + x: in y's place, but where y alone is of 16 bits, as in mixed precision."""
    if x is None:
        return y
    return y.add_(x) if y.dtype == x.dtype else x + y


class Block(nn.Module):
    """One transformer layer: attention, then MLP, each added to what came in."""

    def __init__(self, config: DecoderConfig, index: int) -> None:
        super().__init__()
        self.attn_norm = make_norm(config)
        self.attn = Attention(config, config.windows[index])
        self.attn_post_norm = make_norm(config) if config.post_norms else nn.Identity()
        self.mlp_norm = make_norm(config)
        self.mlp = MLP(config)
        self.mlp_post_norm = make_norm(config) if config.post_norms else nn.Identity()

    def forward(
        self,
        x: Tensor,
        rotary: RotaryTables | None,
        before: KeysValues | None = None,
        packing: Packing | None = None,
    ) -> Tensor:
        """(B, T, C) -> (B, T, C); see ``Attention.forward``."""
        if not isinstance(self.attn_post_norm, nn.Identity):
            attended = self.attn_post_norm(self.attn(self.attn_norm(x), rotary, before, packing))
            x = _added(attended, x)
            return _added(self.mlp_post_norm(self.mlp(self.mlp_norm(x))), x)
        x = self.attn(self.attn_norm(x), rotary, before, packing, added=x)
        return self.mlp(self.mlp_norm(x), added=x)

    def packed(self) -> kernels.PackedBlock | None:
        """This block as kernels take it whole; None if they do not."""
        around = self.attn_norm, self.mlp_norm, self.attn_post_norm
        if not all(isinstance(norm, nn.Identity) for norm in around):
            return None
        first, last = self.attn.packed(), self.mlp.packed()
        if first is None or last is None:
            return None
        return kernels.PackedBlock(self.attn.as_heads(), *first, *last)

    def keys_values(self, x: Tensor, rotary: RotaryTables | None) -> KeysValues:
        """What the tokens of x, (B, T, C), are to the attention of those after them."""
        return self.attn.keys_values(self.attn_norm(x), rotary)

    def forward_at(self, x: Tensor, position: Tensor, rotary: RotaryTables | None) -> Tensor:
        """(B, T, C), (B,) -> (B, C): the block's output at one position of each text.

        What is not seen from there, padding for one, costs nothing.
        """
        known = self.as_llama()
        if known is not None and trained_block.can_run(x, known[0]):
            return trained_block.run_at(x, position, *known, rotary)
        here = x[torch.arange(x.shape[0], device=x.device), position]
        attended = self.attn.forward_at(self.attn_norm(here), x, self.attn_norm, position, rotary)
        here = here + self.attn_post_norm(attended)
        return here + self.mlp_post_norm(self.mlp(self.mlp_norm(here)))

    def as_llama(self) -> tuple[trained_block.Weights, trained_block.Shape] | None:
        """This block as ``trained_block`` has it; None where it is of another kind."""
        first, last, attn, mlp = self.attn_norm, self.mlp_norm, self.attn, self.mlp
        into = mlp.into
        if not isinstance(first, RMSNorm) or not isinstance(last, RMSNorm) or first.offset:
            return None
        if attn.q_norm is not None or not isinstance(self.attn_post_norm, nn.Identity):
            return None
        if any(of.bias is not None for of in (attn.qkv, attn.out, into, mlp.down)):
            return None
        products = attn.qkv.weight, attn.out.weight, last.weight, into.weight, mlp.down.weight
        shape = trained_block.Shape(attn.as_heads(), mlp.activation, mlp.gated, first.eps, last.eps)
        return trained_block.Weights(first.weight, *products), shape
