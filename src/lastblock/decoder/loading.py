"""A folder of files -> a Decoder, strictly: every tensor known, there, and of the right shape.

Weights are mapped from the file, not read: memory is touched when a block first runs, and that
of blocks which are cut off never is. Knows no labels and no text.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch.overrides import TorchFunctionMode

from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.errors import WeightsError


def read_config(folder: Path) -> DecoderConfig:
    """The shape of the decoder in a folder.

    Raises:
        WeightsError: config.json is missing, damaged, or of a family that is not known.
    """
    path = folder / "config.json"
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(raw, dict):
        raise WeightsError(f"{path}: is not a JSON object")
    try:
        return DecoderConfig.from_dict(raw)
    except WeightsError as error:
        raise WeightsError(f"{folder}: {error}") from None


def load_decoder(folder: Path, *, depth: int | None = None) -> Decoder:
    """The decoder in a folder with its first ``depth`` blocks (default: all), as stored.

    Raises:
        WeightsError: a file is missing or damaged, or a tensor missing, unknown or misshapen.
    """
    with shapes_only():
        decoder = Decoder(read_config(folder), depth)
    wanted = {name: tuple(t.shape) for name, t in decoder.state_dict().items()}
    state = _read(folder / "model.safetensors", wanted)
    decoder.load_state_dict(state, strict=True, assign=True)
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


def _read(path: Path, wanted: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in wanted:
                if name not in names:
                    raise WeightsError(f"{path}: tensor {name} is missing")
            state = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path}: is truncated or damaged ({error})") from None
    for name, tensor in state.items():
        if tuple(tensor.shape) != wanted[name]:
            raise WeightsError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, not {wanted[name]}"
            )
    return state
