"""A saved model is whole or not there, says the same in a new process, and is read strictly."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import messages

from lastblock import TextClassifier, checkpoint
from lastblock.errors import SavedModelError

IN_A_NEW_PROCESS = """
import json, sys, socket
def refuse(*_): raise OSError("no network")
socket.socket.connect = socket.getaddrinfo = refuse
from lastblock import load
print(json.dumps(load(sys.argv[1]).predict_proba(json.loads(sys.argv[2])).tolist()))
"""


@pytest.fixture(scope="module", params=["float32", "bfloat16", "int8"])
def classifier(request: pytest.FixtureRequest, pretrained: Path) -> TextClassifier:
    texts, labels = messages(40)
    classifier = TextClassifier(str(pretrained), dtype=request.param, epochs=2, depth=3)
    return classifier.fit(texts, labels)


@pytest.fixture
def saved(pretrained: Path, tmp_path: Path) -> Path:
    texts, labels = messages(20)
    TextClassifier(str(pretrained), dtype="float32", epochs=1).fit(texts, labels).save(
        tmp_path / "m"
    )
    return tmp_path / "m"


def test_a_new_process_says_the_same(classifier: TextClassifier, tmp_path: Path) -> None:
    texts, _ = messages(12, seed=5)
    classifier.save(tmp_path / "m")
    command = [sys.executable, "-c", IN_A_NEW_PROCESS, str(tmp_path / "m"), json.dumps(texts)]
    said = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert said == classifier.predict_proba(texts).tolist()
    assert TextClassifier.load(tmp_path / "m").classes_.tolist() == ["ham", "spam"]


def test_what_is_cut_off_is_not_shipped(classifier: TextClassifier, tmp_path: Path) -> None:
    classifier.save(tmp_path / "m")
    names = load_file(tmp_path / "m" / "model.safetensors")
    assert {n.split(".")[2] for n in names if ".blocks." in n} == {"0", "1", "2"}
    assert sorted(p.name for p in (tmp_path / "m").iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]


def test_a_loaded_classifier_can_be_fitted_anew(saved: Path) -> None:
    texts, labels = messages(20)
    loaded = TextClassifier.load(saved)
    before = loaded.predict_proba(texts)
    np.testing.assert_allclose(loaded.fit(texts, labels).predict_proba(texts), before, atol=1e-6)


def test_an_older_model_is_replaced_and_nothing_else_is(saved: Path, tmp_path: Path) -> None:
    loaded = TextClassifier.load(saved)
    (saved / "notes.txt").write_text("old")
    loaded.save(saved)
    assert not (saved / "notes.txt").exists()
    other = tmp_path / "thesis"
    other.mkdir()
    (other / "chapter.txt").write_text("years of work")
    with pytest.raises(SavedModelError, match="will not be overwritten"):
        loaded.save(other)
    assert (other / "chapter.txt").read_text() == "years of work"
    with pytest.raises(SavedModelError, match="is a file"):
        loaded.save(other / "chapter.txt")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_a_failed_save_leaves_what_was_there(saved: Path, tmp_path: Path) -> None:
    before = sorted(p.name for p in saved.iterdir())

    def fail_half_way() -> None:
        with checkpoint.staged(saved) as folder:
            (folder / "half").write_text("written")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert sorted(p.name for p in saved.iterdir()) == before
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_a_missing_file_is_named(saved: Path, name: str) -> None:
    (saved / name).unlink()
    with pytest.raises(SavedModelError, match=f"{name} is missing"):
        checkpoint.load(saved)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize("keep", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(saved: Path, name: str, keep: float) -> None:
    data = (saved / name).read_bytes()
    (saved / name).write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(SavedModelError, match=name):
        checkpoint.load(saved)


def test_a_wrong_tensor_is_named(saved: Path) -> None:
    path = saved / "model.safetensors"
    good = load_file(path)
    wrong = {
        "head.bias is missing": {n: t for n, t in good.items() if n != "head.bias"},
        "extra is unknown": {**good, "extra": torch.zeros(1)},
        "head.bias has shape": {**good, "head.bias": torch.zeros(3)},
    }
    for message, tensors in wrong.items():
        save_file(tensors, path)
        with pytest.raises(SavedModelError, match=message):
            checkpoint.load(saved)


def test_a_folder_of_something_else_is_refused(saved: Path, pretrained: Path) -> None:
    with pytest.raises(SavedModelError, match="no such model folder"):
        checkpoint.load(saved / "nowhere")
    with pytest.raises(SavedModelError, match="is no lastblock model"):
        checkpoint.load(pretrained)
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "version": 99}))
    with pytest.raises(SavedModelError, match="version 99"):
        checkpoint.load(saved)


def test_a_folder_around_a_model_says_where_it_is(saved: Path) -> None:
    with pytest.raises(SavedModelError, match=r"is no saved model; name the one in it: .*m$"):
        checkpoint.load(saved.parent)
