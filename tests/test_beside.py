"""What another process does is what would have been done here, and it is never missing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from reports import full_report, history, report

from lastblock import beside as module
from lastblock import figures
from lastblock.beside import Asked, Beside, Here, Later
from lastblock.report import CARD_FIGURES, begin_pictures, write_report


def test_a_module_for_later_is_imported_when_it_is_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "much_later.py").write_text("def twice(x, *, plus):\n    return 2 * x + plus\n")
    monkeypatch.syspath_prepend(tmp_path)
    later = Later("much_later")
    twice = later.twice
    assert "much_later" not in sys.modules
    assert twice(3, plus=1) == 7
    assert sys.modules.pop("much_later") is not later
    with pytest.raises(AttributeError):
        _ = later.__path__


@pytest.mark.parametrize("names", [("ham", "spam"), ("a", "Größe", "税", "d")])
def test_pictures_drawn_beside_are_those_drawn_here(
    tmp_path: Path, names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [tmp_path / "beside", tmp_path / "here"]
    for folder in folders:
        folder.mkdir()
    facts = full_report(names)
    with Beside() as beside, monkeypatch.context() as patched:
        patched.setattr(figures, "pictures", _refused)
        training = {"choice": facts.pop("choice"), "history": history().to_dict()}
        drawn = [begin_pictures(part, beside) for part in (training, facts)]
        write_report(folders[0], full_report(names), history(), drawn=drawn)
    write_report(folders[1], full_report(names), history())
    for file in ("report.html", "README.md", "report.json", "figures/reliability.png"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes(), file


FACTS = {**report(), "history": history().to_dict()}


def _drawn(beside: Beside) -> figures.Pictures:
    return beside.pictures(FACTS, "test", CARD_FIGURES)()


@pytest.fixture(scope="module")
def expected() -> figures.Pictures:
    return figures.pictures(FACTS, "test", CARD_FIGURES)


TEXTS = [f"the {'river' if i % 3 else 'bank'} of {i}" for i in range(30)]
LABELS = np.array([0 if i % 3 else 1 for i in range(30)])
ASKED = Asked(TEXTS, LABELS, 2, 7, [["a bank"]])
SEVERAL = np.stack([LABELS == 1, np.arange(30) % 2 == 0], axis=1)
THIRDS = [(np.flatnonzero(np.arange(30) % 3 != i), np.arange(i, 30, 3)) for i in range(3)]


@pytest.mark.parametrize("labels", [LABELS, SEVERAL], ids=["one", "several"])
def test_a_baseline_fitted_beside_is_the_one_fitted_here(
    labels: npt.NDArray[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the bit, with the part that it is not asked about, and that it learns from in turn."""
    asked = Asked(
        TEXTS, labels, 2, 7, [["a bank", "Größe \ud800 \ud83d\ude00 \u2028 \n\0"], []], THIRDS
    )
    with Beside() as beside, monkeypatch.context() as patched:
        patched.setattr("lastblock.baseline.baseline_says", _refused)
        there = beside.baseline(asked)()
    here = Here().baseline(asked)()
    assert [said.shape for said in here] == [(2, 2), (0, 2), (30, 2)]
    for one, other in zip(there, here, strict=True):
        np.testing.assert_array_equal(one, other)


def _refused(*_: object, **__: object) -> None:
    raise OSError("no more processes")


def _instead(code: str) -> Callable[..., object]:
    return partial(lambda start, _, **how: start([sys.executable, "-c", code], **how), Popen)


@pytest.mark.parametrize(
    "way",
    [
        _refused,
        _instead("raise SystemExit(1)"),
        _instead("input(); print('{')"),
        _instead("import sys; sys.stdin.close(); sys.stdout.close()"),
    ],
    ids=["cannot be started", "fails", "says half of it", "listens to nothing"],
)
def test_what_is_not_drawn_beside_is_drawn_here(
    way: Callable[..., object], expected: figures.Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", way)
    with Beside() as beside:
        begun = beside.baseline(ASKED)
        assert _drawn(beside) == expected
        np.testing.assert_array_equal(begun(), Here().baseline(ASKED)())


def test_what_a_process_no_longer_draws_is_drawn_here(
    expected: figures.Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", _instead('input(); print(\'{"svg":{},"png":{}}\')'))
    with Beside() as beside:
        assert _drawn(beside) == ({}, {})
        assert _drawn(beside) == expected


def test_an_unknown_interpreter_draws_here(
    expected: figures.Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "")
    with Beside() as beside:
        assert _drawn(beside) == expected


def test_nobody_waits_for_a_process_that_hangs(
    expected: figures.Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even to tell it what to draw: that is more than a pipe takes in one go."""
    monkeypatch.setattr(subprocess, "Popen", _instead("import time; time.sleep(600)"))
    monkeypatch.setattr(module, "_PATIENCE", 0.1)
    monkeypatch.setattr(module, "_MOMENT", 0.1)
    facts = {**FACTS, "more": "x" * 1_000_000}
    with Beside() as beside:
        assert beside.pictures(facts, "test", CARD_FIGURES)() == expected
    assert beside._process is not None
    assert beside._process.returncode == -signal.SIGKILL
    with Beside() as unused:
        assert unused._process is not None
    assert unused._process.returncode == -signal.SIGKILL


def test_without_pictures_the_other_process_ends_by_itself(tmp_path: Path) -> None:
    """Killed, it could leave its folder behind, or the list of fonts locked."""
    code = (
        "from lastblock.beside import Beside; import sys\n"
        "try:\n    with Beside() as beside:\n        raise KeyboardInterrupt\n"
        "except KeyboardInterrupt:\n    sys.exit(beside._process.returncode)"
    )
    nowhere = dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"), "/proc/nowhere")
    environment = {**os.environ, **nowhere, "TMPDIR": str(tmp_path)}
    environment.pop("MPLCONFIGDIR", None)
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert not any(tmp_path.iterdir())


def test_nobody_waits_for_work_that_is_of_no_use_any_more() -> None:
    """A baseline of many texts takes seconds; whoever is interrupted, or killed, ends it."""
    texts = [" ".join(f"w{i * j % 9973}" for j in range(60)) for i in range(20_000)]
    labels = np.arange(20_000) % 7
    beside = Beside()
    beside.baseline(Asked(texts, labels, 7, 1, [texts]))
    assert beside._process is not None
    time.sleep(4)
    assert beside._process.poll() is None
    started = time.monotonic()
    with suppress(KeyboardInterrupt), beside:
        raise KeyboardInterrupt
    assert beside._process.returncode == 0, "it had to be killed"
    assert time.monotonic() - started < module._MOMENT


def test_it_is_this_lastblock_that_draws(tmp_path: Path) -> None:
    """Not an installed one, nor what lies in the user's folder, or where PYTHONPATH says."""
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    package = Path(figures.__file__).parent
    ignored = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(package, ours / "lastblock", ignore=ignored)
    copy = ours / "lastblock" / "figures.py"
    copy.write_text(copy.read_text().replace("(5.2, 3.3)", "(6.2, 3.3)"))
    theirs.mkdir()
    for name in ("json", "matplotlib", "lastblock", "numpy", "sitecustomize"):
        (theirs / f"{name}.py").write_text("raise SystemExit('imported')")
    facts = tmp_path / "facts.json"
    facts.write_text(json.dumps(FACTS))
    code = (
        f"import sys; sys.path.insert(0, {str(ours)!r})\n"
        "from lastblock import figures; from lastblock.beside import Beside; import json\n"
        f"facts = json.load(open({str(facts)!r}))\n"
        "with Beside() as beside:\n    drawn = beside.pictures(facts, 'test', [])()\n"
        "assert beside._process.returncode == 0\n"
        "assert drawn == figures.pictures(facts, 'test', [])\n"
        "assert 'viewBox=\"0 0 446.4 ' in drawn.svg['loss'], drawn.svg['loss'][:200]"
    )
    environment = {**os.environ, "PYTHONPATH": str(theirs)}
    subprocess.run([sys.executable, "-I", "-c", code], cwd=theirs, env=environment, check=True)
