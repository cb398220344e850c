"""``lastblock learning-curve``: would more labels help?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.options import setting, takes_options_of
from lastblock.cli.train import configure
from lastblock.config import CurveConfig


@takes_options_of(configure)
def learning_curve(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for learning-curve.json.",
        ),
    ] = None,
    points: Annotated[int, setting(CurveConfig, "points", "N")] = 6,
    draws: Annotated[int, setting(CurveConfig, "draws", "N")] = 3,
    **options: Any,
) -> None:
    """Train on more and more of the labels, beside the TF-IDF baseline: would more labels help?

    All sizes are judged on the same test part. What is not given is chosen by the recipe, for
    each size anew.
    """
    config, curve = configure(**options), CurveConfig(points=points, draws=draws)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)

    from lastblock.cli.progress import make_progress
    from lastblock.learning_curve import learning_curve as measure

    found = measure(config, curve, make_progress())
    if output is not None:
        _save(found, output)
    _print(found)
    if output is not None:
        print(f"saved {output}/learning-curve.json")


def _save(found: Mapping[str, Any], folder: Path) -> None:
    from lastblock.cli.files import replacing

    with replacing(folder / "learning-curve.json") as file:
        json.dump(found, file, ensure_ascii=False, indent=2)


def _print(found: Mapping[str, Any]) -> None:
    from lastblock.cli.tables import print_table

    rows = [
        [f"{ours['n']:,}", *(f"{100 * of['mean']:.1f} % ± {100 * of['sd']:.1f}" for of in both)]
        for both in zip(found["curves"]["ours"], found["curves"]["baseline"], strict=True)
        for ours in both[:1]
    ]
    print_table(["labels", "accuracy ± sd", "TF-IDF"], rows, range(3))
    print(found["answer"])
