"""Tell an experiment tracker about a run: its settings, its curves and its scores; no texts.

    tensorboard   runs/ in the working folder, as its own writer has it
    mlflow        where MLFLOW_TRACKING_URI says, or MLflow's own place
    wandb         project lastblock, or WANDB_PROJECT; WANDB_MODE=offline keeps it here

Each through its own library (extra: ``tracking``). Curves are drawn over the examples seen.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from typing import Any

from lastblock.config import Tracker
from lastblock.errors import MissingExtraError
from lastblock.evaluation import History

Report = Mapping[str, Any]
METRICS = ("accuracy", "micro_f1", "macro_f1", "mcc", "loss", "ece", "brier")


def check(tracker: Tracker) -> None:
    """Refuse, before any work is done, a tracker that is not installed.

    Raises:
        MissingExtraError: its library is missing.
    """
    if importlib.util.find_spec(tracker) is None:
        raise MissingExtraError(
            f"--log-to {tracker} needs its library: pip install 'lastblock[tracking]'"
        )


def log(tracker: Tracker, name: str, report: Report, history: History) -> None:
    """Hand a finished run, called ``name``, to a tracker.

    Args:
        tracker: which one; ``check`` says whether it is there.
        name: of the run.
        report: as ``finetune`` has it, with "settings", "splits" and "baseline".
        history: what was seen while training.
    """
    {"tensorboard": _tensorboard, "mlflow": _mlflow, "wandb": _wandb}[tracker](
        name, dict(report["settings"]), list(curves(history)), scores(report)
    )


def scores(report: Report) -> dict[str, float]:
    """The final scores by name: ``test/accuracy``, ``baseline/test/accuracy`` and so on."""
    found: dict[str, Any] = {}
    for prefix, splits in (("", report["splits"]), ("baseline/", report["baseline"])):
        for part, of in splits.items():
            found |= {f"{prefix}{part}/{name}": of[name] for name in METRICS if name in of}
    return {name: float(value) for name, value in found.items() if value is not None}


def curves(history: History) -> Iterator[tuple[int, dict[str, float]]]:
    """Examples seen, and what was measured then: ``train/loss``, ``validation/accuracy``, ..."""
    for what, points in (("loss", history.losses), ("accuracy", history.accuracies)):
        for point in points:
            values = {part: point[f"{part}_{what}"] for part in ("train", "validation")}
            known = {f"{part}/{what}": v for part, v in values.items() if v is not None}
            yield int(point["examples_seen"] or 0), known


Settings = dict[str, Any]
Curves = list[tuple[int, dict[str, float]]]


def _tensorboard(
    name: str, settings: Settings, curves: Curves, scores: Mapping[str, float]
) -> None:
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(comment=f"-{name}") as writer:
        rows = "".join(f"|{key}|{value}|\n" for key, value in settings.items())
        writer.add_text("settings", f"|setting|value|\n|---|---|\n{rows}")
        for seen, values in [*curves, (0, {f"final/{k}": v for k, v in scores.items()})]:
            for key, value in values.items():
                writer.add_scalar(key, value, seen)


def _mlflow(name: str, settings: Settings, curves: Curves, scores: Mapping[str, float]) -> None:
    import mlflow

    with mlflow.start_run(run_name=name):
        mlflow.log_params(settings)
        for seen, values in curves:
            mlflow.log_metrics(values, step=seen)
        mlflow.log_metrics({f"final/{key}": value for key, value in scores.items()})


def _wandb(name: str, settings: Settings, curves: Curves, scores: Mapping[str, float]) -> None:
    import os

    import wandb

    project = os.environ.get("WANDB_PROJECT", "lastblock")
    with wandb.init(project=project, name=name, config=settings) as run:
        run.define_metric("*", step_metric="examples_seen")
        for seen, values in curves:
            run.log({**values, "examples_seen": seen})
        run.summary.update({f"final/{key}": value for key, value in scores.items()})
