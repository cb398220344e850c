"""``lastblock evaluate``: a saved model's scores on a labelled file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.options import reading_examples, takes_options_of


@takes_options_of(reading_examples)
def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labelled texts, as train takes them.",
        ),
    ],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    **options: Any,
) -> None:
    """Score a saved model on labelled texts."""
    from lastblock.cli.progress import make_progress
    from lastblock.cli.tables import print_evaluation
    from lastblock.finetune import evaluate_file

    scores = evaluate_file(
        model,
        data,
        **reading_examples(**options),
        progress=make_progress(),
    )
    if as_json:
        import json

        print(json.dumps(scores, ensure_ascii=False, indent=2))
    else:
        print_evaluation(scores)
