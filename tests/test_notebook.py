"""examples/spam.ipynb runs from first look to report, and is kept without outputs."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from tiny import messages


@pytest.fixture(scope="module")
def cells(project_root: Path) -> list[dict[str, Any]]:
    notebook = json.loads((project_root / "examples" / "spam.ipynb").read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(source: str, names: dict[str, Any]) -> Any:
    """Run a cell; its last expression's value, as a notebook shows it."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    if last is None:
        return None
    return eval(compile(ast.Expression(last.value), "cell", "eval"), names)  # type: ignore[attr-defined]


def test_outputs_are_not_kept(cells: list[dict[str, Any]]) -> None:
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)


def test_it_runs(
    cells: list[dict[str, Any]],
    pretrained: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, folder = tmp_path / "data.csv", tmp_path / "model"
    data.write_text("text,label\n" + "".join(map("{},{}\n".format, *messages(80))))
    for name, value in (("DATA", data), ("MODEL", pretrained), ("FOLDER", folder)):
        monkeypatch.setenv(f"NOTEBOOK_{name}", str(value))
    names: dict[str, Any] = {}
    shown = [run("".join(cell["source"]), names) for cell in cells]
    pages = [value._repr_html_() for value in shown if hasattr(value, "_repr_html_")]
    assert len(pages) == 4
    assert "<mark" in pages[-1]
    out = capsys.readouterr().out
    assert "when nothing is read" in out
    assert (folder / "report.html").is_file()
    assert str(folder) in out
