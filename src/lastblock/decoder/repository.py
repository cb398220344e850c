"""Fetch a model repository from the hub: the few files that are read, each checked.

The requests are huggingface_hub's own (HF_ENDPOINT and HF_TOKEN apply), the keeping is not: its
recent releases begin an interrupted file anew, and none compares a file's hash with the hub's.
Here both are done. Knows no tensors and no text.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from huggingface_hub import HfApi, get_hf_file_metadata, get_session, get_token, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import (  # type: ignore[attr-defined]
    WeakFileLock,
    build_hf_headers,
    hf_raise_for_status,
)

from lastblock.decoder.loading import CONFIG, INDEX, SOURCE, WEIGHTS, read_config
from lastblock.errors import DownloadError, LastblockError, WeightsError
from lastblock.runtime import Progress
from lastblock.wheels import sha256_of

_COMMIT = re.compile(r"[0-9a-f]{40}")
_SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
_TOKENIZERS = (("tokenizer.json",), ("vocab.json", "merges.txt"))
_TIMEOUT = 30.0  # seconds to wait for the hub's answer


@dataclass(frozen=True)
class _Remote:
    """A file on the hub: ``etag`` is its SHA-256, or the SHA-1 that git gives a small file."""

    name: str
    url: str
    size: int
    etag: str


def fetch_repository(
    repository: str,
    revision: str,
    folder: Path,
    source: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Write ``folder``, whole or not at all; ``source`` is recorded in it, with the commit.

    Until then the files are kept in a folder beside it, from which an interrupted fetch goes on.
    The commit is asked for once and noted there: files of two commits are never mixed.

    Raises:
        DownloadError: the hub cannot be reached, or serves something else than it says it has.
        WeightsError: the repository holds nothing that can be read.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder), _hub_errors(repository):
        if not (folder / SOURCE).exists():  # another process may have fetched it meanwhile
            _fetch_all(repository, revision, folder, source, progress)


def _fetch_all(
    repository: str,
    revision: str,
    folder: Path,
    source: Mapping[str, Any],
    progress: Progress,
) -> None:
    partial = folder.with_name(f".{folder.name}.partial")
    partial.mkdir(exist_ok=True)
    noted = partial / "revision"
    names, commit = _listing(repository, noted.read_text() if noted.exists() else revision)
    noted.write_text(commit)
    small, weights = choose_files(names, repository)
    _fetch(repository, commit, small, partial, progress)
    read_config(partial)  # an unknown family is told before the weights are fetched
    _fetch(repository, commit, weights, partial, progress)
    sizes = {name: (partial / name).stat().st_size for name in (*small, *weights)}
    record = {**source, "revision": commit, "files": sizes}
    (partial / SOURCE).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    noted.unlink()
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


def _listing(repository: str, revision: str) -> tuple[list[str], str]:
    """The files of a repository, and the commit that a revision is now."""
    info = HfApi(endpoint=_endpoint()).model_info(repository, revision=revision, timeout=_TIMEOUT)
    if not info.sha or not _COMMIT.fullmatch(info.sha):
        raise DownloadError(f"hub {repository}: names no commit for {revision}; try again later")
    return [sibling.rfilename for sibling in info.siblings or []], info.sha


def choose_files(names: list[str], repository: str) -> tuple[list[str], list[str]]:
    """The few files that are read, of all that a repository holds: small ones, and weights."""
    tokenizer = next((files for files in _TOKENIZERS if set(files) <= set(names)), None)
    weights = [WEIGHTS] if WEIGHTS in names else [n for n in names if _SHARD.fullmatch(n)]
    small = [CONFIG] + ([] if WEIGHTS in names else [INDEX]) + list(tokenizer or ())
    missing = [name for name in small if name not in names]
    if not weights or missing or tokenizer is None:
        lack = missing or (["tokenizer.json"] if tokenizer is None else ["*.safetensors"])
        raise WeightsError(
            f"hub {repository}: has no {', '.join(lack)}; read are config.json, .safetensors and "
            "tokenizer.json (never .bin, which can hold code); a .gguf file can be given by its "
            "path once you have downloaded it"
        )
    return small, weights


def _fetch(
    repository: str, commit: str, names: list[str], folder: Path, progress: Progress
) -> None:
    remotes = []
    for name in names:
        url = hf_hub_url(repository, name, revision=commit, endpoint=_endpoint())
        about = get_hf_file_metadata(url, token=get_token(), timeout=_TIMEOUT)
        remotes.append(_Remote(name, url, about.size or 0, (about.etag or "").strip('"')))
    total = sum(remote.size for remote in remotes)
    with progress.task(f"downloading {repository}", total, "B") as advance:
        for remote in remotes:
            if (folder / remote.name).exists():
                advance(remote.size)
            else:
                _fetch_file(remote, folder, advance)


def _fetch_file(remote: _Remote, folder: Path, advance: Callable[[int], None]) -> None:
    """Fetch a file, or the rest of one; check it; then give it its name."""
    part = folder / f"{remote.name}.part-{remote.etag[:16]}"
    with part.open("ab") as file:
        if file.tell() > remote.size:
            file.truncate(0)
        advance(file.tell())
        for pause in (1, 2, 4, 8, None):  # the line may break; what is here is not sent again
            try:
                _append(remote, file, advance)
                break
            except HfHubHTTPError:
                raise
            except Exception:  # the library's http client differs from release to release
                if pause is None:
                    raise
                time.sleep(pause)
    found = _hash(part, remote.etag)
    if part.stat().st_size != remote.size or found != remote.etag:
        part.unlink()
        raise DownloadError(
            f"{remote.url}: has the hash {found}, the hub says {remote.etag}; nothing was kept, "
            "try again, or check what the proxy or HF_ENDPOINT serves"
        )
    os.replace(part, folder / remote.name)


def _append(remote: _Remote, file: IO[bytes], advance: Callable[[int], None]) -> None:
    """Ask for what is missing and write it as it comes."""
    headers = build_hf_headers(token=get_token()) | {"Accept-Encoding": "identity"}
    there = file.tell()
    if there == remote.size:
        return
    if there:
        headers["Range"] = f"bytes={there}-"
    with get_session().stream("GET", remote.url, headers=headers, timeout=_TIMEOUT) as response:
        hf_raise_for_status(response)
        if there and response.status_code != 206:  # all of it comes, whatever was asked for
            file.truncate(0)
            advance(-there)
        for chunk in response.iter_bytes():
            file.write(chunk)
            advance(len(chunk))
    file.flush()
    if file.tell() < remote.size:
        raise ConnectionError(f"{remote.url}: ended at byte {file.tell()} of {remote.size}")


def _hash(path: Path, etag: str) -> str:
    """The file's hash of the kind that the etag is; the etag itself if it is of neither kind."""
    if len(etag) == 64:
        return sha256_of(path)
    if len(etag) != 40:
        return etag
    digest = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    digest.update(path.read_bytes())
    return digest.hexdigest()


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    with WeakFileLock(folder.with_name(f".{folder.name}.lock")):
        yield


@contextlib.contextmanager
def _hub_errors(repository: str) -> Iterator[None]:
    """Turn whatever the hub's library and the network raise into one line."""
    try:
        yield
    except LastblockError:
        raise
    except OSError as error:
        if isinstance(error, ConnectionError) or error.errno is None or hasattr(error, "response"):
            raise DownloadError(_explain(repository, error)) from error
        raise DownloadError(
            f"hub {repository}: cannot be written ({error.strerror or error}); "
            "free space there or set LASTBLOCK_CACHE to another folder"
        ) from error
    except Exception as error:  # the library's http client differs from release to release
        raise DownloadError(_explain(repository, error)) from error


def _explain(repository: str, error: Exception) -> str:
    kind = type(error).__name__
    if kind == "GatedRepoError":
        return (
            f"hub {repository}: is only given to those who accepted its terms; accept them on its "
            "page, and set HF_TOKEN to a token of yours"
        )
    if kind in ("RepositoryNotFoundError", "HFValidationError"):
        return (
            f"hub {repository}: there is no such model, or it is private; "
            "check the name, or set HF_TOKEN"
        )
    if kind == "RevisionNotFoundError":
        return f"hub {repository}: has no such revision; check what stands after the @"
    first = (str(error).strip() or kind).splitlines()[0]
    where = _endpoint() or "the hub"
    return (
        f"hub {repository}: could not be fetched from {where} ({first}); check the network, the "
        "proxy or HF_ENDPOINT, and try again: what is here already is kept"
    )
