"""A folder of files -> a Decoder, strictly: every tensor known, there, and of the right shape.

Weights are mapped from the file, not read: memory is touched when a block first runs, and that
of blocks which are cut off never is. Only what is fused here and is not in the file (queries, keys
and values; gate and up) is copied. Knows no labels and no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.overrides import TorchFunctionMode

from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.tensor_names import CHECKPOINT, PREFIXES, Place, places
from lastblock.errors import WeightsError
from lastblock.runtime import seeded_generator

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
SOURCE = "source.json"  # where the files of a folder in the cache come from, and their sizes
# In the header of a file that ``gguf.convert`` wrote: the tensors have our names already.
LAYOUT, OURS = "layout", "lastblock"
_DTYPES = ("F32", "F16", "BF16")

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Found:
    """A tensor of a checkpoint: the file it is in, and its shape."""

    path: Path
    shape: tuple[int, ...]


def read_config(folder: Path) -> DecoderConfig:
    """The shape of the decoder in a folder.

    Raises:
        WeightsError: config.json is missing, damaged, or of a family that is not known.
    """
    path = folder / CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise WeightsError(f"{path}: is missing; --model wants a pretrained decoder") from None
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error}); fetch it again") from None
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: is not a JSON object; fetch it again")
    try:
        return DecoderConfig.from_dict(raw)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error}") from None


def load_decoder(folder: Path, *, depth: int | None = None) -> Decoder:
    """The decoder in a folder with its first ``depth`` blocks (default: all), as stored.

    Raises:
        WeightsError: a file is missing or damaged, or a tensor missing, unknown or misshapen.
    """
    config = read_config(folder)
    if depth is not None and not 1 <= depth <= config.num_hidden_layers:
        raise WeightsError(f"{folder}: depth {depth} is not from 1 to {config.num_hidden_layers}")
    with shapes_only():
        decoder = Decoder(config, depth)
    wanted = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    decoder.load_state_dict(_read(folder, config, wanted), strict=True, assign=True)
    return decoder


def random_decoder(folder: Path, seed: int, *, depth: int | None = None) -> Decoder:
    """A decoder of the shape that a folder says, with nothing learnt, float32.

    Weights are drawn as GPT-2's were: normal, standard deviation 0.02 (Radford et al. 2019); norms
    change nothing and biases are zero. A block's are the same at every depth.
    """
    decoder = Decoder(read_config(folder), depth)
    generator = seeded_generator(seed)
    norms = decoder.config.norm_offset  # what a norm multiplies by is 1: the weight and this
    for name, parameter in decoder.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02, generator=generator)
        else:
            torch.nn.init.constant_(parameter, 1.0 - norms if name.endswith("weight") else 0.0)
    return decoder


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made inside have shapes and no memory; nothing is drawn for them at random.

    torch's initialisers would import a thousand modules, a second of work, to fill nothing.
    """

    class Unfilled(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            kwargs = kwargs or {}
            if getattr(func, "__module__", None) == "torch.nn.init":
                return kwargs.get("tensor", args[0] if args else None)
            return func(*args, **kwargs)

    with torch.device("meta"), Unfilled():
        yield


def match(
    found: Mapping[str, Found],
    known: Mapping[str, Place | None],
    wanted: Shapes,
    checkpoint: Path,
) -> dict[str, Place]:
    """Which of a checkpoint's tensors go where, before any of them is read.

    ``known`` are all names the checkpoint may have, ``wanted`` our tensors and their shapes.
    Tensors of blocks that are cut off are left out.

    Raises:
        WeightsError: a tensor is unknown, missing, there twice, or of the wrong shape.
    """
    matched: dict[str, Place] = {}
    filled: set[Place] = set()
    for name, tensor in found.items():
        full = next((n for n in (name, *(p + name for p in PREFIXES)) if n in known), None)
        if full is None:
            raise WeightsError(f"{tensor.path}: tensor {name} is not known; check config.json")
        place = known[full]
        if place is None or place.name not in wanted:
            continue
        if place in filled:
            raise WeightsError(f"{tensor.path}: tensor {name} stands there twice; fetch it again")
        shape = _shape(place, wanted)
        if tensor.shape != shape:
            raise WeightsError(
                f"{tensor.path}: tensor {name} has shape {tensor.shape}, "
                f"config.json says {shape}; fetch both again"
            )
        matched[name] = place
        filled.add(place)
    for name, place in known.items():
        if place is not None and place.name in wanted and place not in filled:
            raise WeightsError(f"{checkpoint}: tensor {name} is missing; fetch the weights again")
    return matched


def put(state: dict[str, Tensor], place: Place, tensor: Tensor, wanted: Shapes) -> None:
    """Put a checkpoint's tensor in its place: as it is, or copied into rows of a fused one."""
    if place.rows is None:
        state[place.name] = tensor.t() if place.transposed else tensor
        return
    if place.name not in state:
        state[place.name] = torch.empty(wanted[place.name], dtype=tensor.dtype)
    elif state[place.name].dtype != tensor.dtype:  # parts stored in different types
        both = torch.promote_types(state[place.name].dtype, tensor.dtype)
        state[place.name] = state[place.name].to(both)
    start, stop = place.rows
    state[place.name][start:stop] = tensor


def _shape(place: Place, wanted: Shapes) -> tuple[int, ...]:
    shape = wanted[place.name]
    if place.rows is not None:
        shape = (place.rows[1] - place.rows[0], *shape[1:])
    return shape[::-1] if place.transposed else shape


def _read(folder: Path, config: DecoderConfig, wanted: Shapes) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    with ExitStack() as stack:
        files = {path: stack.enter_context(_open(path)) for path in _weight_files(folder)}
        found: dict[str, Found] = {}
        for path, file in files.items():
            for name, tensor in _tensors(path, file).items():
                if name in found:
                    raise WeightsError(f"{path}: tensor {name} also stands in {found[name].path}")
                found[name] = tensor
        known: Mapping[str, Place | None]
        if all((file.metadata() or {}).get(LAYOUT) == OURS for file in files.values()):
            known = {name: Place(name) for name in _our_names(config, wanted)}
        else:
            known = places(CHECKPOINT[config.model_type], config, wanted)
        checkpoint = next(iter(files)) if len(files) == 1 else folder / INDEX
        for name, place in match(found, known, wanted, checkpoint).items():
            put(state, place, _tensor(found[name].path, files, name), wanted)
    return state


def _our_names(config: DecoderConfig, wanted: Shapes) -> Iterator[str]:
    """The names of the whole decoder, from those of a part of it."""
    for name in wanted:
        if name.startswith("blocks.0."):
            rest = name.removeprefix("blocks.0.")
            yield from (f"blocks.{i}.{rest}" for i in range(config.num_hidden_layers))
        elif not name.startswith("blocks."):
            yield name


def _weight_files(folder: Path) -> list[Path]:
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / INDEX
    if not index.is_file():
        raise WeightsError(
            f"{folder}: has neither {WEIGHTS} nor {INDEX}; of other formats only .gguf is read, "
            "given by its file's name"
        )
    try:
        names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        paths = [folder / name for name in names]
        plain = all(path.parent == folder for path in paths)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{index}: cannot be read ({error}); fetch it again") from None
    if not paths or not plain:
        raise WeightsError(f"{index}: names no files beside it; fetch it again")
    return paths


@contextmanager
def _open(path: Path) -> Iterator[Any]:
    try:
        file = safe_open(path, framework="pt")
    except FileNotFoundError:
        raise WeightsError(f"{path}: is missing; fetch the weights again") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"{path}: is truncated or damaged ({error}); fetch or convert it again"
        ) from None
    with file:
        yield file


def _tensors(path: Path, file: Any) -> dict[str, Found]:
    """Names and shapes, from the file's header alone."""
    found = {}
    for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
        stored = file.get_slice(name)
        if stored.get_dtype() not in _DTYPES:
            raise WeightsError(
                f"{path}: tensor {name} is of type {stored.get_dtype()}; read exactly are "
                f"{', '.join(_DTYPES)}: use the model's unquantised release, or a .gguf file"
            )
        found[name] = Found(path, tuple(stored.get_shape()))
    return found


def _tensor(path: Path, files: Mapping[Path, Any], name: str) -> Tensor:
    try:
        return files[path].get_tensor(name)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise WeightsError(f"{path}: tensor {name} cannot be read ({error})") from None
