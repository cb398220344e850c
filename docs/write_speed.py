"""Write the table of speeds into README.md and docs/speed.md, from figures that benchmarks left.

python docs/write_speed.py            from docs/speed.json, as it is
python docs/write_speed.py --take     take what benchmarks/results holds into docs/speed.json first,
                                      and the pictures there beside it
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = Path(__file__).with_name("speed.json")
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("speed", "frozen_pass", "training_step", "transformers_speed", "startup")
PICTURES = ("where.svg", "scaling_messages.svg", "scaling_reviews.svg")
PAGES = (ROOT / "README.md", FIGURES.with_name("speed.md"))
MARKED = re.compile(r"(<!-- speed -->\n)(.*?)(<!-- /speed -->)", re.DOTALL)


def take() -> None:
    """Keep what the benchmarks last measured on this processor; what they did not stays."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in NAMES:
        if (RESULTS / f"{name}.json").exists():
            found = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
            figures.setdefault(found["machine"]["processor"], {})[name] = found
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    for picture in PICTURES:
        if (RESULTS / picture).exists():
            shutil.copy(RESULTS / picture, FIGURES.with_name(picture))


def rows(figures: dict[str, Any]) -> dict[tuple[str, str], str]:
    """What was done, and against what -> how they compare; only of what was measured."""
    found: dict[tuple[str, str], str] = {}
    if speed := figures.get("speed"):
        loop = speed["loop_seconds"]
        for recipe in ("auto", "chapter6"):
            for part, what in (("_model", "data to saved model"), ("", "the whole process")):
                if (name := recipe + part) + "_seconds" in speed:
                    work = f"`--recipe {recipe}`, 1,494 messages, {what}"
                    sides = f"{speed[f'{name}_seconds']:.0f} s, {loop:,.0f} s"
                    found[work, "the book's loop"] = f"{sides}: {speed[f'{name}_ratio']:.1f} ×"
    if both := figures.get("transformers_speed"):
        fit, ours = both["auto_fit"], both["predict"]
        for name, theirs in both["trainer"].items():
            work = f"`auto` fitted on {both['options']['texts']:,} questions"
            them = f"transformers' Trainer, last block, 5 epochs, {name}"
            found[work, them] = f"{fit:.1f} s, {theirs:,.0f} s: {theirs / fit:.1f} ×"
        plain, best = both["pipeline"]["as it comes"], min(both["pipeline"].values())
        for how, theirs in (("as it comes", plain), ("sorted, at its best", best)):
            work = f"{both['options']['messages']:,} messages predicted"
            them = f"transformers' pipeline {how}"
            found[work, them] = f"{ours:.1f} s, {theirs:.1f} s: {theirs / ours:.1f} ×"
    if passes := figures.get("frozen_pass"):
        alone = passes["products"]
        for name in ("float32", "int8", "bfloat16"):
            if name in passes:
                sides = f"{passes[name] / 1e9:.0f}, {alone / 1e9:.0f} GFLOP/s"
                them = "torch's float32 products alone"
                found[f"frozen pass, {name}", them] = f"{sides}: {passes[name] / alone:.0%}"
    if step := figures.get("training_step"):
        sides = f"{step['step_ms']:.1f} ms, {step['arithmetic_ms']:.1f} ms"
        found["a training step", "its arithmetic alone"] = f"{sides}: {step['ratio']:.2f} ×"
    if start := figures.get("startup"):
        cold, warm = start["seconds"], start["warm"]
        found["`lastblock --help`", ""] = f"{cold['help']:.2f} s"
        work = "`lastblock predict` of one text, from a cold process"
        found[work, ""] = f"{cold['predict']:.2f} s"
        them = "`import torch` alone"
        found["of it imports", them] = (
            f"{cold['import_in_predict']:.2f} s, {cold['import_torch']:.2f} s"
        )
        found["one text, warm (median)", ""] = f"{warm['tokens']} tokens, {warm['p50_ms']:.0f} ms"
    return found


def table(figures: dict[str, Any]) -> str:
    """The rows as Markdown, a column each machine, and what these are."""
    each = {name: rows(of) for name, of in figures.items()}
    lines = [f"| what | against | {' | '.join(each)} |", f"|---|---|{'---:|' * len(each)}"]
    # In the order of whoever measured most.
    most_first = sorted(each.values(), key=len, reverse=True)
    for work, them in dict.fromkeys(row for of in most_first for row in of):
        cells = (of.get((work, them), "") for of in each.values())
        lines.append(f"| {work} | {them} | {' | '.join(cells)} |")
    machines = {
        f"{m['processor']}, {m['threads']} threads, {m['instructions']} ({m['date']})"
        for m in (of["machine"] for each in figures.values() for of in each.values())
    }
    return "\n".join([*lines, "", f"Measured on {'; '.join(sorted(machines))}.", ""])


def with_table(page: str) -> str:
    """A page's text with the table between its two marks."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    return MARKED.sub(lambda found: found[1] + table(figures) + found[3], page)


if __name__ == "__main__":
    if "--take" in sys.argv[1:]:
        take()
    for page in PAGES:
        page.write_text(with_table(page.read_text(encoding="utf-8")), encoding="utf-8")
