"""The code in docs/scikit-learn.md runs as it stands there, on a tiny decoder."""

import re
from pathlib import Path

import pytest
from tiny import messages

from lastblock import TextClassifier, TextEmbedder


def test_the_scikit_learn_page_runs(
    project_root: Path, pretrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TextClassifier.__init__, "__defaults__", (str(pretrained),))
    monkeypatch.setattr(TextEmbedder.__init__, "__defaults__", (str(pretrained),))
    page = (project_root / "docs" / "scikit-learn.md").read_text(encoding="utf-8")
    pieces = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(pieces) >= 7
    texts, labels = messages(36)
    names = {"texts": texts, "labels": labels, "folder": tmp_path / "model"}
    for piece in pieces:
        exec(compile(piece, "docs/scikit-learn.md", "exec"), names)
    assert set(names["search"].best_params_) == {"learning_rate", "depth", "epochs"}
