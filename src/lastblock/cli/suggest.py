"""``lastblock suggest``: which unlabelled texts are worth a label next."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.options import reading_texts, takes_options_of


@takes_options_of(reading_texts)
def suggest(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA", help="Texts without labels, as predict --input takes them; - is a pipe."
        ),
    ],
    n: Annotated[int, typer.Option("-n", metavar="N", min=1, help="Texts to suggest.")] = 100,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write (.csv, .tsv or .jsonl), with a column label to fill in; train "
            "takes it as it is then.",
        ),
    ] = None,
    labelled: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Texts that have labels already: none is suggested."),
    ] = None,
    **options: Any,
) -> None:
    """Choose texts to label next: the model is unsure of them, and they are unlike one another."""
    from lastblock.cli.progress import make_progress
    from lastblock.cli.tables import print_table
    from lastblock.data.cleaning import check_target
    from lastblock.data.readers import read_texts
    from lastblock.data.survey import shorten

    if output is not None:
        check_target(output)
    texts = read_texts(data, **reading_texts(**options))
    known = [] if labelled is None else read_texts(labelled)

    from lastblock.checkpoint import load
    from lastblock.suggest import suggest, write_suggestions

    chosen = suggest(load(model), texts, n, known=known, progress=make_progress())
    if output is not None:
        write_suggestions(chosen, output)
        print(
            f"{output}: {len(chosen):,} of {len(texts):,} texts; fill in label, add the rows to "
            "those that the model was trained on, and train again",
            file=sys.stderr,
        )
        return
    print_table(
        ["row", "predicted", "probability", "text"],
        [[f"{s.row:,}", str(s.predicted), f"{s.probability:.3f}", shorten(s.text)] for s in chosen],
        [0, 2],
    )
