"""Pictures drawn in a process of their own are those that are drawn here, and never missing."""

import subprocess
import sys
from pathlib import Path

import pytest
from reports import full_report, history, report

from lastblock import figures
from lastblock.report import CARD_FIGURES, write_report


@pytest.mark.parametrize("names", [("ham", "spam"), ("a", "Größe", "税", "d")])
def test_pictures_drawn_beside_are_those_drawn_here(tmp_path: Path, names: tuple[str, ...]) -> None:
    folders = [tmp_path / "beside", tmp_path / "here"]
    for folder in folders:
        folder.mkdir()
    with figures.Beside() as beside:
        assert beside._process is not None
        write_report(folders[0], full_report(names), history(), draw=beside)
        assert beside._process.returncode == 0, "it was drawn here after all"
    write_report(folders[1], full_report(names), history())
    for file in ("report.html", "README.md", "report.json", "figures/reliability.png"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


def _begin(beside: figures.Beside) -> figures.Pictures:
    facts = {**report(), "history": history().to_dict()}
    return beside(facts, "test", CARD_FIGURES)()


def test_whoever_cannot_draw_beside_draws_here(monkeypatch: pytest.MonkeyPatch) -> None:
    started = subprocess.Popen

    def instead(code: str) -> object:
        return lambda _, **how: started([sys.executable, "-c", code], **how)

    def refused(*_: object, **__: object) -> None:
        raise OSError("no more processes")

    facts = {**report(), "history": history().to_dict()}
    expected = figures.pictures(facts, "test", CARD_FIGURES)
    ways = (
        refused,
        instead("raise SystemExit(1)"),
        instead("import sys; sys.stdin.read(); print('{')"),
        instead("import sys; sys.stdin.close(); sys.stdout.close()"),
    )
    for way in ways:
        monkeypatch.setattr(subprocess, "Popen", way)
        with figures.Beside() as beside:
            assert _begin(beside) == expected
    monkeypatch.setattr(subprocess, "Popen", instead("import time; time.sleep(60)"))
    monkeypatch.setattr(figures, "_PATIENCE", 0.1)
    with figures.Beside() as beside:
        assert _begin(beside) == expected
    monkeypatch.setattr(subprocess, "Popen", started)
    monkeypatch.setattr(sys, "executable", "")
    with figures.Beside() as beside:
        assert _begin(beside) == expected


def test_the_other_process_does_not_outlive_its_use() -> None:
    """However that ends, and where there was nothing to be drawn."""
    with figures.Beside() as unused:
        assert unused._process is not None
    assert unused._process.returncode is not None
    with pytest.raises(KeyboardInterrupt), figures.Beside() as interrupted:
        raise KeyboardInterrupt
    assert interrupted._process is not None
    assert interrupted._process.returncode is not None


def test_nothing_is_imported_from_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "matplotlib", "lastblock", "numpy"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    monkeypatch.chdir(tmp_path)
    with figures.Beside() as beside:
        assert _begin(beside).svg
        assert beside._process is not None
        assert beside._process.returncode == 0
