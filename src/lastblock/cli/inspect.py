"""``lastblock inspect``: what is in labelled texts, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lastblock.cli.options import reading_examples, setting, takes_options_of
from lastblock.config import ModelConfig

if TYPE_CHECKING:
    from lastblock.data.examples import Examples
    from lastblock.data.survey import Survey

_MOST_CLASSES = 30


@takes_options_of(reading_examples)
def inspect(
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="Labelled texts, as train takes them.")
    ],
    against: Annotated[
        str | None,
        typer.Option(
            metavar="OTHER", help="Other examples (a test file): which of its texts stand in DATA?"
        ),
    ] = None,
    max_length: Annotated[int | None, setting(ModelConfig, "max_length", "N")] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a report.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write the report as an HTML page too.")
    ] = None,
    fix: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the rows with certain faults put right (.csv, .tsv or .jsonl), and every "
            "change beside it (.changes.csv).",
        ),
    ] = None,
    **options: Any,
) -> None:
    """Look closely at labelled texts: duplicates, contradictions, damage, leaks, tiny classes.

    Loads no model.
    """
    from lastblock.cli.progress import make_progress
    from lastblock.data.catalog import load_examples
    from lastblock.data.cleaning import check_target
    from lastblock.data.survey import survey

    if fix is not None:
        check_target(fix)
    reading = reading_examples(**options)

    def load(source: str) -> Examples:
        return load_examples(
            source,
            **reading,
            keep=() if fix is None or source != data else None,
            keep_empty=True,
            progress=make_progress(),
        )

    examples = load(data)
    found = survey(
        examples,
        against=None if against is None else load(against),
        count_tokens=_token_counter(),
        max_length=max_length,
        separator=reading["options"].label_separator,
        progress=make_progress(),
    )
    if html is not None:
        _write_page(found, html)
    if as_json:
        import json

        print(json.dumps(found.to_dict(), ensure_ascii=False, indent=2))
    else:
        print_survey(found)
    if fix is not None:
        _fix(examples, fix)


def print_survey(found: Survey) -> None:
    """The report for a person: what there is, then what is wrong, worst first."""
    from lastblock.cli.tables import print_table

    for note in found.notes:
        print(note)
    several = f", several a text (joined by {found.separator!r})" if found.separator else ""
    print(
        f"{found.source}: {found.rows:,} rows, {found.usable:,} with text and label, "
        f"{len(found.classes):,} classes{several}"
    )
    print_table(
        ["class", "rows", "share", "different texts", "but for case, digits, punctuation"],
        [
            [
                name,
                f"{of['rows']:,}",
                f"{of['share']:.1%}",
                f"{of['different']:,}",
                f"{of['different_normalised']:,}",
            ]
            for name, of in list(found.classes.items())[:_MOST_CLASSES]
        ],
        range(1, 5),
    )
    if len(found.classes) > _MOST_CLASSES:
        print(f"and {len(found.classes) - _MOST_CLASSES:,} smaller classes\n")
    for unit, quantiles in found.lengths.items():
        print(f"{unit:<11}" + ", ".join(f"{name} {value:,}" for name, value in quantiles.items()))
    for title, shares in (("scripts", found.scripts), ("languages", found.languages)):
        if shares:
            most = [f"{name} {share:.0%}" for name, share in shares.items() if share >= 0.01]
            print(f"{title:<11}{', '.join(most)}")
    print()
    for finding in found.findings:
        print(f"{finding.level:<9}{finding.message}")
        if finding.rows:
            more = ", ..." if finding.count > 5 else ""
            print(f"         rows {', '.join(map(str, finding.rows[:5]))}{more}")
        for example in finding.examples:
            print(f"         | {example}")
    if not found.findings:
        print("nothing that looks wrong")


def _token_counter() -> Callable[[list[str]], list[int]] | None:
    """Counts tokens by the default decoder's tokenizer, if it is on this machine already."""
    import json

    from lastblock.config import DEFAULT_MODEL
    from lastblock.runtime import cache_folder

    found = sorted((cache_folder() / "models").glob(f"{DEFAULT_MODEL}-*/source.json"))
    try:
        json.loads(found[0].read_text(encoding="utf-8"))["files"]
    except (IndexError, OSError, ValueError, KeyError):
        return None
    from lastblock.tokenization.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_pretrained(found[0].parent)

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer.encode_batch(texts)]

    return count


def _write_page(found: Survey, path: Path) -> None:
    import os

    from lastblock.data.survey_page import render

    part = path.with_name(f".{path.name}.part")
    part.write_text(render(found), encoding="utf-8")
    os.replace(part, path)


def _fix(examples: Examples, path: Path) -> None:
    import sys
    from collections import Counter

    from lastblock.data.cleaning import clean, write_changes, write_examples

    kept, changes = clean(examples)
    log = path.with_name(f"{path.stem}.changes.csv")
    write_examples(kept, path)
    write_changes(changes, log)
    counts = Counter(change.action for change in changes)
    print(
        f"{path}: {len(kept):,} of {len(examples):,} rows; {counts['dropped']:,} dropped, "
        f"{counts['text']:,} texts and {counts['label']:,} labels changed; each in {log}",
        file=sys.stderr,
    )
