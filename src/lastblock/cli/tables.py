"""Results as tables on stdout. Computes nothing: what stands in them comes from report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def print_table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()
) -> None:
    """A plain table; the columns in ``numbers`` stand to the right and are never broken."""
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    right = set(numbers)
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for i, header in enumerate(headers):
        table.add_column(header, justify="right" if i in right else "left", no_wrap=i in right)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    Console(highlight=False).print(table)


def print_report(report: Mapping[str, Any]) -> None:
    """The scores of a run, the settings it ended up with, and where the time went."""
    from lastblock.report import decision_sentences, summary_table

    _print_scores(summary_table(report))
    _print_spreads(report)
    judged = report["splits"][list(report["splits"])[-1]]
    for sentence in decision_sentences(judged, report.get("decision", {}).get("says")):
        print(sentence)
    settings = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    print(f"settings  {settings}")
    seconds = ", ".join(f"{name} {value:.1f}" for name, value in report["seconds"].items())
    print(f"seconds   {seconds}")


def print_evaluation(scores: Mapping[str, Any]) -> None:
    """The scores on one file, class by class too."""
    from lastblock.report import decision_sentences, summary_table

    _print_scores(summary_table({"splits": {"given": scores}}))
    for sentence in decision_sentences(scores, scores["decision"]):
        print(sentence)
    ratios = ("precision", "recall", "f1")
    print_table(
        ["class", *ratios, "texts"],
        (
            [name, *(f"{of[ratio]:.3f}" for ratio in ratios), f"{of['support']:,}"]
            for name, of in scores["per_class"].items()
        ),
        range(1, 5),
    )


def _print_scores(rows: Sequence[Mapping[str, str]]) -> None:
    headers = list(rows[0])
    print_table(headers, ([row[h] for h in headers] for row in rows), range(1, len(headers)))


def _print_spreads(report: Mapping[str, Any]) -> None:
    """What cross-validation and repeated seeds said of the scores, where they were asked for."""
    rows = []
    for name in ("folds", "seeds"):
        if name in report:
            for metric, of in report[name]["metrics"].items():
                low, high = of["ci95"]
                numbers = [f"{value:.3f}" for value in (of["mean"], of["sd"])]
                rows.append([f"{report[name]['n']} {name}", metric.replace("_", " "), *numbers])
                rows[-1].append(f"{low:.3f} to {high:.3f}")
    if rows:
        print_table(["repeated", "score", "mean", "sd", "95 % interval"], rows, range(2, 5))
