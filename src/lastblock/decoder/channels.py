"""What each channel is divided by that a decoder's linear layers are given in 8-bit integers.

By a constant that its column of the weight is multiplied with, which changes no product; it comes
from how large the channel gets in a sample of text (SmoothQuant, Xiao et al. 2023, section 4). To
find out, the sample is taken up through all blocks in float32. So it is remembered, where a decoder
can be told from others, in <cache folder>/channels: a small file each decoder, sample, and way in
which this machine computes. Knows no labels and no text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import get_ident

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lastblock.decoder import kernels
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.layers import Block
from lastblock.runtime import cache_folder

# Raised when the files' layout changes, or how constants are found.
FORMAT = 2
# How much of a channel's size goes over into the weight: half, as in SmoothQuant, section 4.
SHARE = 0.5
SMALLEST = 1e-5  # for channels that are always zero

# Of a block's linear layers, (in,) each.
Divisors = dict[nn.Module, Tensor]


def channel_divisors(
    decoder: Decoder, blocks: int, sample: Tensor, weights: str | None = None
) -> list[Divisors]:
    """What the input channels of each linear layer are divided by, block by block.

    Query heads that share a value head share what its channels are divided by.

    Args:
        decoder: its first ``blocks`` blocks in float32.
        blocks: how many.
        sample: token ids (T,).
        weights: what tells its weights from all others; None: nothing is remembered.
    """
    ids = sample.long()[: decoder.config.max_position_embeddings]
    path = None if weights is None else _path(weights, ids, decoder.is_causal())
    found = None if path is None else _recall(path, decoder, blocks)
    if found is None:
        found = _found_out(decoder, blocks, ids)
        if path is not None:
            with contextlib.suppress(OSError, SafetensorError):  # it can be found out again
                _remember(path, decoder, found)
    return found


def _found_out(decoder: Decoder, blocks: int, ids: Tensor) -> list[Divisors]:
    found: list[Divisors] = []
    x = decoder.embed(ids[None])
    for index, block in enumerate(decoder.blocks[:blocks]):
        assert isinstance(block, Block)
        with _largest_inputs(block) as largest:
            x = decoder.run(x, index, index + 1)
        attn = block.attn
        heads = (attn.kv_heads, attn.heads // attn.kv_heads, attn.head_dim)
        found.append(
            {
                layer: _divisors(layer, of, heads if layer is attn.out else None)
                for layer, of in largest.items()
            }
        )
    return found


def _divisors(
    linear: nn.Linear, largest: Tensor, heads: tuple[int, int, int] | None = None
) -> Tensor:
    """Of a layer whose input channels get so large, (in,), what they are divided by, (in,).

    With ``heads`` (K, H/K, D) the channels of H/K heads share it.
    """
    columns = _columns(linear.weight)
    if heads is not None:
        largest, columns = (
            of.view(heads).amax(1, keepdim=True).expand(heads).flatten()
            for of in (largest, columns)
        )
    return largest.clamp_min(SMALLEST) ** SHARE / columns.clamp_min(SMALLEST) ** (1 - SHARE)


def _columns(weight: Tensor) -> Tensor:
    """How large each column of a weight (out, in) gets, (in,)."""
    if kernels.available():
        return kernels.largest_in_columns(weight)
    return weight.abs().amax(0).float()


@contextmanager
def _largest_inputs(block: nn.Module) -> Iterator[dict[nn.Linear, Tensor]]:
    """How large, in absolute value, each channel gets that a block's linear layers are given."""
    seen: dict[nn.Linear, Tensor] = {}

    def look(module: nn.Linear, inputs: tuple[Tensor, ...]) -> None:
        seen[module] = inputs[0].flatten(0, -2).abs().amax(0)

    linears = [module for module in block.modules() if isinstance(module, nn.Linear)]
    hooks = [linear.register_forward_pre_hook(look) for linear in linears]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def channels_folder() -> Path:
    """Where files are kept; not created here."""
    return cache_folder() / "channels"


def remembered() -> int:
    """Bytes that all files together take."""
    total = 0
    for path in channels_folder().glob("*"):
        with contextlib.suppress(OSError):  # another process may have renamed it
            total += path.stat().st_size
    return total


def clear() -> int:
    """Forget everything; the bytes that were freed."""
    freed = remembered()
    shutil.rmtree(channels_folder(), ignore_errors=True)
    return freed


def _path(weights: str, ids: Tensor, causal: bool) -> Path:
    """A file by all that decides what is found out, and in which order that is summed up."""
    machine = torch.__version__, torch.backends.cpu.get_cpu_capability(), kernels.available()
    threads = torch.get_num_threads()
    facts = json.dumps([FORMAT, weights, ids.tolist(), causal, *machine, threads])
    name = hashlib.sha256(facts.encode()).hexdigest()[:32]
    return channels_folder() / f"{name}.safetensors"


def _layers(decoder: Decoder, blocks: int) -> list[tuple[int, nn.Linear]]:
    """The linear layers of the first blocks, in order, and which block's each is."""
    return [
        (index, module)
        for index, block in enumerate(decoder.blocks[:blocks])
        for module in block.modules()
        if isinstance(module, nn.Linear)
    ]


def _about(path: Path, numbers: Tensor) -> dict[str, str]:
    """What tells a file from one that is another's, or damaged."""
    checksum = zlib.crc32(numbers.numpy().tobytes(), zlib.crc32(path.stem.encode()))
    return {"checksum": str(checksum)}


def _recall(path: Path, decoder: Decoder, blocks: int) -> list[Divisors] | None:
    """What was remembered; None if there is nothing, or not of as many blocks, or damaged."""
    layers = _layers(decoder, blocks)
    sizes = [layer.weight.shape[1] for _, layer in layers]
    try:
        with safe_open(path, framework="pt") as file:
            numbers = file.get_tensor("divisors")
            sound = numbers.dtype == torch.float32 and file.metadata() == _about(path, numbers)
    except (SafetensorError, OSError):
        return None
    if not sound or len(numbers) < sum(sizes):
        return None
    found: list[Divisors] = [{} for _ in range(blocks)]
    parts = numbers[: sum(sizes)].clone().split(sizes)  # the file is not kept mapped
    for (index, layer), by in zip(layers, parts, strict=True):
        found[index][layer] = by
    return found


def _remember(path: Path, decoder: Decoder, found: list[Divisors]) -> None:
    numbers = torch.cat([found[index][layer] for index, layer in _layers(decoder, len(found))])
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}-{get_ident()}.tmp")
    try:
        save_file({"divisors": numbers}, temporary, metadata=_about(path, numbers))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
