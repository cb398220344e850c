"""``lastblock search``: better settings than the recipe's, if there are any."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.files import make_folder, replacing
from lastblock.cli.options import setting, takes_options_of
from lastblock.cli.train import configure
from lastblock.config import SearchConfig, SearchMetric


@takes_options_of(configure)
def search(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for the best model (model/), search.html and search.json about what was "
            "tried, and search.db, with which an interrupted search goes on.",
            show_default=False,
        ),
    ],
    trials: Annotated[int, setting(SearchConfig, "trials", "N")] = 30,
    timeout: Annotated[float | None, setting(SearchConfig, "timeout", "SECONDS")] = None,
    folds: Annotated[int, setting(SearchConfig, "folds", "N")] = 3,
    metric: Annotated[SearchMetric, setting(SearchConfig, "metric")] = "loss",
    **options: Any,
) -> None:
    """Search for better settings than the recipe's, and train with the best.

    Learning rate, depth, epochs, weight decay, batch size and pooling are tried, but for those that
    are given. They are judged by cross-validation without the test part.
    """
    wanted = SearchConfig(trials=trials, timeout=timeout, folds=folds, metric=metric)
    config = configure(**options)
    make_folder(output)

    from lastblock.cli.progress import make_progress
    from lastblock.search import search as look_for

    found = look_for(config, wanted, output, make_progress())
    _save(found, output)
    _print(found)
    print(f"saved     {output}/model, all about it in {output}/model/report.html;")
    print(f"          what was tried, in pictures: {output}/search.html")


def _save(found: Mapping[str, Any], folder: Path) -> None:
    from lastblock.report import search_page

    with replacing(folder / "search.json") as file:
        json.dump(found, file, ensure_ascii=False, indent=2)
    with replacing(folder / "search.html") as file:
        file.write(search_page(found))


def _print(found: Mapping[str, Any]) -> None:
    from lastblock.cli.tables import print_report, print_table
    from lastblock.report import short

    names = list(found["best"]["params"])
    importance = found["importance"]
    print_table(
        ["setting", "recipe's", "best", "importance"],
        [
            [
                name.replace("_", " "),
                *(short(found[whose]["params"][name]) for whose in ("recipe", "best")),
                f"{100 * importance[name]:.0f} %" if name in importance else "",
            ]
            for name in names
        ]
        + [[found["metric"], *(short(found[whose]["value"]) for whose in ("recipe", "best")), ""]],
        [1, 2, 3],
    )
    print_report(found["report"])
