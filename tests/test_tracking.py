"""Trackers get settings, curves and scores, through their own libraries, and no texts."""

import subprocess
import sys
import types
from pathlib import Path

import pytest
from reports import full_report, history

from lastblock import tracking
from lastblock.config import RunConfig
from lastblock.errors import ConfigError, MissingExtraError


def test_scores_and_curves_have_names() -> None:
    facts, seen = full_report(), history()
    scores = tracking.scores(facts)
    assert scores["test/accuracy"] == facts["splits"]["test"]["accuracy"]
    assert scores["baseline/test/mcc"] == facts["baseline"]["test"]["mcc"]
    curves = list(tracking.curves(seen))
    assert len(curves) == len(seen.losses) + len(seen.accuracies)
    first = seen.losses[0]
    assert curves[0] == (
        first["examples_seen"],
        {"train/loss": first["train_loss"], "validation/loss": first["validation_loss"]},
    )
    assert all(set(v) == {"train/loss"} for _, v in tracking.curves(history(False)) if "loss" in v)


def test_a_tracker_that_is_missing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"--log-to mlflow .*lastblock\[tracking\]"):
        tracking.check("mlflow")


def test_an_unknown_tracker_is_refused() -> None:
    with pytest.raises(ConfigError, match="--log-to is 'paper'"):
        RunConfig(data=None, log_to="paper")  # type: ignore[arg-type]


# The libraries warn of their own old age and leave threads behind, so each gets a process.
LOG = """
from reports import full_report, history
from lastblock import tracking
tracking.log({tracker!r}, "a-run", full_report(), history())
"""


def log(tracker: str, folder: Path, **environment: str) -> None:
    import os

    paths = [str(Path(__file__).parent), *sys.path]
    settings = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    code = LOG.format(tracker=tracker)
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=settings, check=True, timeout=240)


@pytest.mark.filterwarnings("ignore")
def test_tensorboard_can_read_what_was_written(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log("tensorboard", tmp_path)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.endswith("-a-run")
    events = EventAccumulator(str(folder)).Reload()
    losses = [(e.step, e.value) for e in events.Scalars("train/loss")]
    wanted = [(p["examples_seen"], p["train_loss"]) for p in history().losses]
    assert losses == [(step, pytest.approx(value)) for step, value in wanted]
    (final,) = events.Scalars("final/test/accuracy")
    assert final.value == pytest.approx(full_report()["splits"]["test"]["accuracy"])
    (file,) = folder.iterdir()
    assert b"Sunshine" not in file.read_bytes()  # the text of a mistake


def test_wandb_is_given_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    logged, made = [], {}

    class Run:
        def __init__(self):
            self.summary = made.setdefault("summary", {})

        def __enter__(self):
            return self

        def __exit__(self, *_):
            made["ended"] = True

        def define_metric(self, *_, **__):
            pass

        def log(self, values):
            logged.append(values)

    module = types.ModuleType("wandb")
    module.init = lambda **options: made.update(options) or Run()  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    facts = full_report()
    tracking.log("wandb", "a-run", facts, history())
    assert (made["project"], made["name"], made["ended"]) == ("lastblock", "a-run", True)
    assert made["config"] == facts["settings"]
    assert logged[0]["examples_seen"] == 16
    assert made["summary"]["final/test/accuracy"] == facts["splits"]["test"]["accuracy"]


def test_mlflow_is_given_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    from contextlib import nullcontext

    params, metrics, names = {}, [], []
    module = types.ModuleType("mlflow")
    module.start_run = lambda run_name: names.append(run_name) or nullcontext()  # type: ignore[attr-defined]
    module.log_params = params.update  # type: ignore[attr-defined]
    module.log_metrics = lambda values, step=None: metrics.append((step, values))  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "mlflow", module)
    facts = full_report()
    tracking.log("mlflow", "a-run", facts, history())
    assert names == ["a-run"]
    assert params == facts["settings"]
    assert metrics[0][0] == 16
    assert metrics[-1][1]["final/test/accuracy"] == facts["splits"]["test"]["accuracy"]
