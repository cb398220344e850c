"""``lastblock compare``: which of two saved models is better, and where they disagree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.options import reading_examples, takes_options_of

_MOST_SHOWN = 10


@takes_options_of(reading_examples)
def compare(
    model_a: Annotated[
        Path, typer.Argument(metavar="MODEL-A", help="Folder of a saved model, called a below.")
    ],
    model_b: Annotated[
        Path, typer.Argument(metavar="MODEL-B", help="Folder of the other, called b.")
    ],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled texts that neither was trained on.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="CSV file to write every text to that they label differently.",
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    **options: Any,
) -> None:
    """Compare two saved models on the same labelled texts.

    The texts that only one of them has right tell which is better (McNemar's exact test).
    """
    from lastblock.cli.files import check_output
    from lastblock.cli.progress import make_progress
    from lastblock.comparison import compare_files

    if output is not None:
        check_output(output)
    found = compare_files(
        model_a,
        model_b,
        data,
        **reading_examples(**options),
        progress=make_progress(),
    )
    if output is not None:
        _write(found["disagreements"], output)
    if as_json:
        import json

        print(json.dumps(found, ensure_ascii=False, indent=2))
    else:
        _print(found)


def _print(found: Mapping[str, Any]) -> None:
    from lastblock.cli.tables import print_table
    from lastblock.report import percent_interval, summary_table

    named = {f"{key} ({found[key]['model']})": found[key] for key in ("a", "b")}
    rows = summary_table({"splits": named})
    print_table(["model", *list(rows[0])[1:]], (list(row.values()) for row in rows), range(1, 7))
    difference = found["difference"]
    print_table(
        ["b less a", "difference", "95 % interval"],
        [
            [name, f"{100 * difference[key]:+.1f} %", percent_interval(difference[f"{key}_ci95"])]
            for name, key in (("accuracy", "accuracy"), ("macro F1", "macro_f1"))
        ],
        [1, 2],
    )
    print(found["verdict"])
    if disagree := found["disagreements"]:
        print(f"\nThey label {len(disagree):,} texts differently:")
        print_table(
            ["label", "a", "", "b", "", "text"],
            (
                [
                    d["label"],
                    d["a"],
                    f"{d['probability_a']:.3f}",
                    d["b"],
                    f"{d['probability_b']:.3f}",
                    _start(d["text"]),
                ]
                for d in disagree[:_MOST_SHOWN]
            ),
            [2, 4],
        )
        if len(disagree) > _MOST_SHOWN:
            print(f"and {len(disagree) - _MOST_SHOWN:,} more; all of them: -o FILE, or --json")


def _start(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 200 else line[:199] + "…"


def _write(disagreements: Sequence[Mapping[str, Any]], path: Path) -> None:
    import csv

    from lastblock.cli.files import replacing

    columns = ["row", "text", "label", "a", "probability_a", "b", "probability_b"]
    with replacing(path) as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(disagreements)
