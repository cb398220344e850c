"""Exit codes, one-line errors, and the program run as a program."""

import os
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny import messages

from lastblock.cli import run
from lastblock.errors import DataError

TRAIN = ["train", "file.csv", "-o", "model"]


def raising(error: BaseException) -> Callable[..., Any]:
    def finetune(*_: Any) -> Any:
        raise error

    return finetune


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    def use(error: BaseException) -> None:
        module: Any = types.ModuleType("lastblock.finetune")
        module.finetune = raising(error)
        monkeypatch.setitem(sys.modules, "lastblock.finetune", module)

    return use


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (DataError("a.csv: no such\nfile"), 2, "lastblock: a.csv: no such file\n"),
        (PermissionError(13, "Permission denied", "model"), 2, "model: Permission denied\n"),
        (KeyboardInterrupt(), 130, "lastblock: interrupted"),
    ],
)
def test_errors_become_one_line(
    failing: Callable[[BaseException], None],
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    line: str,
) -> None:
    failing(error)
    assert run(TRAIN) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert line in err
    assert err.count("\n") == 1


def test_a_mistake_of_ours_keeps_its_traceback(failing: Callable[[BaseException], None]) -> None:
    failing(ZeroDivisionError("ours"))
    with pytest.raises(ZeroDivisionError):
        run(TRAIN)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["trian"], ["No such command 'trian'", "lastblock --help"]),
        (["train"], ["DATA", "lastblock train --help"]),
        (["train", "file.csv"], ["--output", "lastblock train --help"]),
        ([*TRAIN, "--epochs", "abc"], ["--epochs", "integer"]),
        ([*TRAIN, "--epochs", "0"], ["--epochs is 0"]),
        ([*TRAIN, "--seed", "-1"], ["--seed is -1"]),
        ([*TRAIN, "--learning-rate", "3"], ["--learning-rate is 3.0"]),
        ([*TRAIN, "--depth", "2", "--trainable-blocks", "3"], ["--trainable-blocks 3"]),
        ([*TRAIN, "--recipe", "best"], ["--recipe", "'auto', 'chapter6'"]),
        ([*TRAIN, "--pooling", "max"], ["--pooling", "'last'"]),
        ([*TRAIN, "--colour"], ["No such option: --colour"]),
        (["predict"], ["MODEL", "lastblock predict --help"]),
        (["evaluate", "model"], ["DATA", "lastblock evaluate --help"]),
    ],
)
def test_a_wrong_command_line_is_explained_in_one_line(
    arguments: list[str], words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lastblock: ")
    assert err.count("\n") == 1
    for word in words:
        assert word in err


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == "lastblock 0.1.0\n"


def test_alone_it_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 0
    out = capsys.readouterr().out
    for verb in ("demo", "train", "evaluate", "predict"):
        assert f"\n  {verb} " in out


def test_a_reader_that_leaves_ends_it_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    code = "import sys; sys.argv = ['lastblock', '--help']; from lastblock.cli import main; main()"
    result = subprocess.run(
        [sys.executable, "-c", code], stdout=write, stderr=subprocess.PIPE, timeout=60
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (1, b"")


def test_the_installed_command_and_the_module_are_the_same() -> None:
    script = Path(sys.executable).with_name("lastblock")
    for command in ([str(script)], [sys.executable, "-m", "lastblock"]):
        result = subprocess.run(
            [*command, "predict", "no-such-folder", "text"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 2
        assert result.stderr.startswith("lastblock: no-such-folder")
        assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("what", ["block", "lora", "all"])
def test_a_process_that_spares_itself_parts_of_torch_trains_the_same(
    what: str, pretrained: Path, tmp_path: Path
) -> None:
    data = tmp_path / "messages.csv"
    rows = [f"{text},{label}" for text, label in zip(*messages(), strict=True)]
    data.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    weights = []
    for name in ("here", "there"):
        folder = tmp_path / name
        command = ["train", str(data), "--model", str(pretrained), "--train", what, "--epochs", "1"]
        command += ["--dtype", "float32", "--no-cache", "-o", str(folder)]
        if name == "here":
            assert run(command) == 0
        else:
            whole = [sys.executable, "-m", "lastblock", *command]
            subprocess.run(whole, check=True, capture_output=True, timeout=120)
        weights.append((folder / "model.safetensors").read_bytes())
    assert weights[0] == weights[1]


@pytest.mark.parametrize("recipe", ["auto", "chapter6"])
def test_training_imports_no_scikit_learn(recipe: str, pretrained: Path, tmp_path: Path) -> None:
    """Another process does, which fits the baseline, and draws."""
    data = tmp_path / "messages.csv"
    rows = [f"{text},{label}" for text, label in zip(*messages(), strict=True)]
    data.write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    code = (
        "import sys; sys.modules.update(sklearn=None, matplotlib=None)\n"
        "from lastblock.cli import run; sys.exit(run(sys.argv[1:]))"
    )
    command = ["train", str(data), "--model", str(pretrained), "--recipe", recipe, "--epochs", "1"]
    whole = [sys.executable, "-c", code, *command, "-o", str(tmp_path / "model")]
    done = subprocess.run(whole, check=True, capture_output=True, text=True, timeout=120)
    assert "test: TF-IDF" in done.stdout
    assert (tmp_path / "model" / "figures" / "loss.png").exists()
