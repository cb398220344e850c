"""``lastblock cache``."""

from pathlib import Path

import pytest
import torch

from lastblock.activations.shelf import Shelf
from lastblock.cli import run


def test_what_is_kept_is_shown_and_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    assert run(["cache"]) == 0
    assert "0 bytes of" in capsys.readouterr().out
    Shelf({"a": 1}, "tiny, 3 blocks", 10**9).put({b"x": torch.zeros(9, 5), b"y": torch.zeros(1, 5)})
    weights = tmp_path / "models" / "kept"
    weights.mkdir(parents=True)
    (tmp_path / "channels").mkdir()
    (tmp_path / "channels" / "one.safetensors").write_bytes(b"12345")
    assert run(["cache", "info"]) == 0
    shown = capsys.readouterr().out
    assert "tiny, 3 blocks" in shown
    assert str(tmp_path) in shown
    assert "channels: 5 bytes" in shown
    assert run(["cache", "clear"]) == 0
    assert "freed" in capsys.readouterr().out
    assert weights.is_dir()
    assert not (tmp_path / "activations").exists()
    assert not (tmp_path / "channels").exists()


def test_an_unknown_action_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["cache", "burn"]) == 2
    assert "info" in capsys.readouterr().err


def test_the_size_must_be_a_number(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE_SIZE", "lots")
    assert run(["cache"]) == 2
    assert "LASTBLOCK_CACHE_SIZE" in capsys.readouterr().err
