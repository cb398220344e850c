"""``lastblock review``: labels that are probably wrong, in a file to be corrected."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lastblock.cli.options import reading_examples, setting, takes_options_of
from lastblock.config import DEFAULT_MODEL, ModelConfig, TrainConfig
from lastblock.errors import ConfigError

if TYPE_CHECKING:
    from lastblock.data.examples import Examples
    from lastblock.review import Opinion

_MOST_SHOWN = 10


@takes_options_of(reading_examples)
def review(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled texts, as train takes them.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write (.csv, .tsv or .jsonl): the doubtful rows, worst first, with a "
            "column correct_label to fill in; or with --apply the corrected examples.",
        ),
    ] = None,
    apply: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Put the labels that stand in this file's column correct_label into DATA, and "
            "write the result to --output, every change beside it (.changes.csv).",
        ),
    ] = None,
    most: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, help="Rows to write; if not given, all probable errors."
        ),
    ] = None,
    folds: Annotated[
        int, typer.Option(metavar="N", min=2, help="Parts, each judged by what the others taught.")
    ] = 5,
    model: Annotated[str, setting(ModelConfig, "model", "NAME|PATH")] = DEFAULT_MODEL,
    max_length: Annotated[int | None, setting(ModelConfig, "max_length", "N")] = None,
    seed: Annotated[int, setting(TrainConfig, "seed", "N")] = 123,
    **options: Any,
) -> None:
    """Find labels that are probably wrong, for a person to look at.

    Each text is judged by a classifier that was trained without it.
    """
    from lastblock.cli.progress import make_progress
    from lastblock.data.catalog import load_examples
    from lastblock.data.cleaning import check_target

    if apply is not None and output is None:
        raise ConfigError("--apply needs --output FILE for the corrected examples")
    if output is not None:
        check_target(output)
    progress = make_progress()
    examples = load_examples(
        data,
        **reading_examples(**options),
        keep=() if apply is None else None,
        keep_empty=apply is not None,
        progress=progress,
    )
    for note in examples.notes:
        progress.say(note)
    if apply is not None and output is not None:
        _apply(examples, apply, output)
        return
    from lastblock.estimator import TextClassifier
    from lastblock.review import review, write_review

    classifier = TextClassifier(model, max_length=max_length, random_state=seed)
    opinions = review(examples, classifier, folds=folds, seed=seed, progress=progress)
    doubtful = sum(opinion.doubtful for opinion in opinions)
    chosen = [o for o in opinions if o.doubtful] if most is None else opinions[:most]
    print_opinions(chosen[:_MOST_SHOWN])
    print(f"{doubtful:,} of {len(opinions):,} labels are probably wrong")
    if output is not None:
        write_review(chosen, output)
        print(
            f"{output}: {len(chosen):,} rows, worst first; fill in correct_label where a label is "
            f"wrong, then: lastblock review --apply {output} {data} -o corrected.csv",
            file=sys.stderr,
        )


def print_opinions(opinions: list[Opinion]) -> None:
    """The worst ones, as a table."""
    from lastblock.cli.tables import print_table
    from lastblock.data.survey import shorten

    if opinions:
        print_table(
            ["row", "label", "suggested", "score", "text"],
            [
                [f"{o.row:,}", str(o.label), str(o.suggested), f"{o.score:.2f}", shorten(o.text)]
                for o in opinions
            ],
            [0, 3],
        )


def _apply(examples: Examples, reviewed: Path, output: Path) -> None:
    from lastblock.data.cleaning import write_changes, write_examples
    from lastblock.review import apply_review

    corrected, changes = apply_review(examples, reviewed)
    log = output.with_name(f"{output.stem}.changes.csv")
    write_examples(corrected, output)
    write_changes(changes, log)
    print(
        f"{output}: {len(corrected):,} rows, {len(changes):,} labels corrected; each in {log}",
        file=sys.stderr,
    )
