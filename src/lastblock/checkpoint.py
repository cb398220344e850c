"""Save and load a TextModel: a folder of JSON, safetensors and a tokenizer. No pickle anywhere.

    config.json         format, classes, settings as resolved, decision, the decoder's shape
    model.safetensors   the kept blocks only, under our own names
    tokenizer.json      as the `tokenizers` library writes it

A folder is written beside its place and renamed into it, so it is whole or not there. Reports may
be added to it; loading needs the three files above and nothing else.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lastblock.classifier import SequenceClassifier, make_classifier
from lastblock.config import Settings
from lastblock.decision import Decision
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.loading import shapes_only
from lastblock.decoder.precision import empty_int8
from lastblock.errors import LastblockError, SavedModelError
from lastblock.inference import TextModel
from lastblock.tokenization.tokenizer import Tokenizer

FORMAT = "lastblock"
VERSION = 1
CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"


def is_saved_model(folder: Path) -> bool:
    """Whether a folder holds a classifier that ``save`` wrote."""
    try:
        return bool(_read_json(folder / CONFIG).get("format") == FORMAT)
    except (LastblockError, AttributeError):
        return False


def check_target(folder: str | Path) -> Path:
    """Refuse, before any work is done, a place where a model must not be written.

    Raises:
        SavedModelError: the place holds something other than a saved classifier.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise SavedModelError(f"{target}: is a file; name a folder to save the model in")
    if target.is_dir() and any(target.iterdir()) and not is_saved_model(target):
        raise SavedModelError(
            f"{target}: holds files that are no lastblock model and will not be overwritten; "
            "name another folder"
        )
    return target


@contextmanager
def staged(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes ``folder``'s place when the block ends without an error."""
    target = check_target(folder).resolve()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write(model: TextModel, folder: Path) -> None:
    """Write the three files into an existing folder."""
    config = {
        "format": FORMAT,
        "version": VERSION,
        "classes": model.classes,
        "settings": model.settings.to_dict(),
        "decision": model.decision.to_dict(),
        "decoder": model.classifier.decoder.config.to_dict(),
    }
    text = json.dumps(config, indent=2, ensure_ascii=False)
    (folder / CONFIG).write_text(text + "\n", encoding="utf-8")
    state = {name: t.contiguous() for name, t in model.classifier.state_dict().items()}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    model.tokenizer.save(folder / TOKENIZER)


def save(model: TextModel, folder: str | Path) -> None:
    """Write a model folder, whole or not at all; an older saved model there is replaced.

    Raises:
        SavedModelError: the place holds something other than a saved classifier.
    """
    with staged(folder) as temporary:
        write(model, temporary)


def load(folder: str | Path) -> TextModel:
    """Read a model folder; needs nothing else and no network.

    Raises:
        SavedModelError: the folder or one of its files is missing, damaged or of another format;
            or a tensor is missing, unknown or of the wrong shape.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise SavedModelError(
            f"{folder}: no such model folder; `lastblock train DATA -o` makes one"
        )
    for name in (CONFIG, WEIGHTS, TOKENIZER):
        if not (folder / name).is_file():
            inside = next(folder.glob(f"*/{CONFIG}"), None)
            if inside is not None and is_saved_model(inside.parent):
                raise SavedModelError(
                    f"{folder}: is no saved model; name the one in it: {inside.parent}"
                )
            raise SavedModelError(f"{folder}: {name} is missing; save or copy the model again")
    config = _read_config(folder / CONFIG)
    try:
        settings = Settings(**config["settings"])
        classifier = _empty_classifier(
            DecoderConfig.from_saved(config["decoder"]), settings, len(config["classes"])
        )
        decision = Decision.from_dict(config.get("decision", {}))
        tokenizer = Tokenizer.from_file(folder / TOKENIZER)
    except (KeyError, TypeError) as damaged:
        raise SavedModelError(f"{folder / CONFIG}: damaged: {damaged}; save it again") from None
    except LastblockError as error:
        raise SavedModelError(f"{folder}: {error}") from None
    classifier.load_state_dict(_read_weights(folder / WEIGHTS, classifier), assign=True)
    return TextModel(tokenizer, classifier.eval(), config["classes"], settings, decision=decision)


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SavedModelError(f"{path}: cannot be read as JSON ({error}); save it again") from None


def _read_config(path: Path) -> dict[str, Any]:
    config = _read_json(path)
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise SavedModelError(f"{path}: is no lastblock model; `lastblock train DATA -o` makes one")
    if config.get("version") != VERSION:
        raise SavedModelError(
            f"{path}: has format version {config.get('version')!r}, this lastblock reads "
            f"{VERSION}; use a newer lastblock, or train again"
        )
    return config


def _empty_classifier(
    decoder: DecoderConfig, settings: Settings, n_classes: int
) -> SequenceClassifier:
    """The right shapes, no memory: weights are put in their places as they are read."""
    with shapes_only():
        classifier = make_classifier(Decoder(decoder, settings.depth), settings, n_classes)
        if settings.dtype == "int8":
            empty_int8(classifier.decoder, classifier.frozen_blocks)
    classifier.prefix_precision = settings.dtype
    return classifier


def _read_weights(path: Path, classifier: SequenceClassifier) -> dict[str, torch.Tensor]:
    """Tensors mapped from the file, each checked against the place it goes to."""
    wanted = {name: tuple(t.shape) for name, t in classifier.state_dict().items()}
    try:
        with safe_open(path, framework="pt") as file:
            names = set(file.keys())
            for name in sorted(wanted.keys() ^ names):
                state = "is missing" if name in wanted else "is unknown"
                raise SavedModelError(f"{path}: tensor {name} {state}; save the model again")
            tensors = {name: file.get_tensor(name) for name in wanted}
    except (SafetensorError, OSError) as error:
        raise SavedModelError(
            f"{path}: is truncated or damaged ({error}); save or copy the model again"
        ) from None
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise SavedModelError(
                f"{path}: tensor {name} has shape {tuple(tensor.shape)}, "
                f"wanted {wanted[name]}; save the model again"
            )
    return tensors
