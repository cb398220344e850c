"""``lastblock learning-curve``: would more labels help?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.files import make_folder, replacing
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
            help="Folder for learning-curve.html, a page with the curves, and learning-curve.json.",
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
        make_folder(output)

    from lastblock.cli.progress import make_progress
    from lastblock.learning_curve import learning_curve as measure

    found = measure(config, curve, make_progress())
    if output is not None:
        _save(found, output)
    _print(found)
    if output is not None:
        print(f"saved {output}/learning-curve.json, and the curves in {output}/learning-curve.html")


def _save(found: Mapping[str, Any], folder: Path) -> None:
    from lastblock.report import learning_curve_page

    with replacing(folder / "learning-curve.json") as file:
        json.dump(found, file, ensure_ascii=False, indent=2)
    with replacing(folder / "learning-curve.html") as file:
        file.write(learning_curve_page(found))


def _print(found: Mapping[str, Any]) -> None:
    from lastblock.cli.tables import print_table

    curves = found["curves"]
    rows = [
        [f"{ours['n']:,}", _mean_and_sd(ours), _mean_and_sd(baseline)]
        for ours, baseline in zip(curves["ours"], curves["baseline"], strict=True)
    ]
    print_table(["labels", "accuracy ± sd", "TF-IDF"], rows, range(3))
    print(found["answer"])


def _mean_and_sd(of: Mapping[str, float]) -> str:
    return f"{100 * of['mean']:.1f} % ± {100 * of['sd']:.1f}"
