"""``lastblock evaluate``: a saved model's scores on a labelled file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lastblock.cli.options import (
    Delimiter,
    Encoding,
    Header,
    LabelColumn,
    LabelSeparator,
    Quoting,
    TextColumn,
)
from lastblock.config import ReadOptions


def evaluate(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")],
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="Labelled texts, as train takes them.",
        ),
    ],
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    header: Header = None,
    quoting: Quoting = None,
    label_separator: LabelSeparator = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Score a saved model on labelled texts."""
    from lastblock.cli.progress import make_progress
    from lastblock.cli.tables import print_evaluation
    from lastblock.finetune import evaluate_file

    scores = evaluate_file(
        model,
        data,
        text_column=text_column,
        label_column=label_column,
        options=ReadOptions(
            encoding=encoding,
            delimiter=delimiter,
            header=header,
            quoting=quoting,
            label_separator=label_separator,
        ),
        progress=make_progress(),
    )
    if as_json:
        import json

        print(json.dumps(scores, ensure_ascii=False, indent=2))
    else:
        print_evaluation(scores)
