"""``lastblock explain``: which words decided, in colour, as lines, as JSON or as a page."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.text import Text

    from lastblock.explanation import Explanation, Piece

# From which share of the strongest word on, and what it then looks like: for, against. Each
# brings its own letters' colour, so that it can be read on dark and on light terminals.
_LOOKS = (
    (0.6, "bold white on #2f55c8", "bold white on #a84300"),
    (0.3, "black on #8fabff", "black on #ffb27d"),
    (0.1, "black on #d3deff", "black on #ffe2cd"),
)
_MOST_SHOWN = 8


def explain(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT", help="Texts to explain.")],
    label: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Class to explain; the likeliest if not given."),
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="Show tokens as the decoder reads them, not words.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with words and tokens.")
    ] = False,
    page: Annotated[
        Path | None,
        typer.Option("--html", metavar="FILE", help="Write a page in colour instead."),
    ] = None,
) -> None:
    """Show which words of a text speak for its label, and which against.

    What they add, together with what the label has when nothing is read, is its log-odds.
    """
    from lastblock.cli.files import check_output, replacing
    from lastblock.estimator import TextClassifier

    if page is not None:
        check_output(page, "--html")
    explanations = TextClassifier.load(model).explain(texts, label)
    if page is not None:
        from lastblock.report import explanation_page

        with replacing(page) as file:
            file.write(explanation_page(explanations))
    elif as_json:
        import json

        for each in explanations:
            print(json.dumps(each.to_dict(), ensure_ascii=False))
    else:
        show = _print_coloured if sys.stdout.isatty() else _print_lines
        for number, each in enumerate(explanations):
            if number:
                print()
            show(each, each.tokens if tokens else each.words)


def _print_lines(explanation: Explanation, pieces: tuple[Piece, ...]) -> None:
    """``contribution<TAB>piece`` lines, after what they add up from and to."""
    print(f"{explanation.label}\t{explanation.probability:.4f}")
    print(f"{explanation.log_odds:+.3f}\t(log-odds)")
    print(f"{explanation.log_odds_of_nothing:+.3f}\t(when nothing is read)")
    for piece in pieces:
        words = " ".join(explanation.text[piece.start : piece.end].split())
        print(f"{piece.contribution:+.3f}\t{words}")


def _print_coloured(explanation: Explanation, pieces: tuple[Piece, ...]) -> None:
    from rich.console import Console
    from rich.text import Text

    from lastblock.cli.tables import print_table

    console = Console(highlight=False)
    console.print(Text(f"{explanation.label}  {explanation.probability:.3f}", style="bold"))
    console.print(_coloured(explanation.text, pieces))
    ordered = sorted(pieces, key=lambda p: -abs(p.contribution))
    strongest, others = ordered[:_MOST_SHOWN], ordered[_MOST_SHOWN:]
    rows = [[explanation.text[p.start : p.end], f"{p.contribution:+.2f}"] for p in strongest]
    if others:
        rows.append([f"({len(others)} others)", f"{sum(p.contribution for p in others):+.2f}"])
    rows.append(["(when nothing is read)", f"{explanation.log_odds_of_nothing:+.2f}"])
    rows.append([f"log-odds of {explanation.label}", f"{explanation.log_odds:+.2f}"])
    print_table(["strongest", "adds"], rows, numbers=[1])


def _coloured(text: str, pieces: tuple[Piece, ...]) -> Text:
    from rich.text import Text

    strongest = max((abs(p.contribution) for p in pieces), default=0.0)
    shown = Text(text)
    for piece in pieces:
        share = abs(piece.contribution) / strongest if strongest else 0.0
        for least, spoke_for, spoke_against in _LOOKS:
            if share >= least:
                style = spoke_for if piece.contribution > 0 else spoke_against
                shown.stylize(style, piece.start, piece.end)
                break
    return shown
