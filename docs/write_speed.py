"""Write the table of speeds into README.md, from figures that benchmarks left.

python docs/write_speed.py            from docs/speed.json, as it is
python docs/write_speed.py --take     take what benchmarks/results holds into docs/speed.json first
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FIGURES = Path(__file__).with_name("speed.json")
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("speed", "frozen_pass", "training_step", "transformers_speed", "startup")
MARKED = re.compile(r"(<!-- speed -->\n)(.*?)(<!-- /speed -->)", re.DOTALL)


def take() -> None:
    """Keep what the benchmarks last measured; what they did not stays as it was."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}
    for name in NAMES:
        if (RESULTS / f"{name}.json").exists():
            figures[name] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    FIGURES.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def rows(figures: dict[str, Any]) -> list[tuple[str, str, str, str]]:
    """What was done, on both sides, and how they compare; only of what was measured."""
    found = []
    if speed := figures.get("speed"):
        loop = f"the book's loop, {speed['loop_seconds']:,.0f} s"
        for recipe in ("auto", "chapter6"):
            ours = f"{speed[f'{recipe}_seconds']:,.0f} s"
            work = f"`--recipe {recipe}`, 1,494 messages, start to saved model"
            found.append((work, ours, loop, f"{speed[f'{recipe}_ratio']:.1f} ×"))
    if both := figures.get("transformers_speed"):
        fit = both["auto_fit"]
        for name, theirs in both["trainer"].items():
            work = f"`auto` fitted on {both['options']['texts']:,} questions"
            them = f"transformers' Trainer, last block, 5 epochs, {name}, {theirs:,.0f} s"
            found.append((work, f"{fit:,.0f} s", them, f"{theirs / fit:.1f} ×"))
        ours = both["predict"]
        plain, best = both["pipeline"]["as it comes"], min(both["pipeline"].values())
        for how, theirs in (("as it comes", plain), ("sorted, at its best", best)):
            work = f"{both['options']['messages']:,} messages predicted"
            them = f"transformers' pipeline {how}, {theirs:.1f} s"
            found.append((work, f"{ours:.1f} s", them, f"{theirs / ours:.1f} ×"))
    if passes := figures.get("frozen_pass"):
        alone = f"float32 products alone, {passes['products'] / 1e9:.0f} GFLOP/s"
        for name in ("float32", "int8", "bfloat16"):
            if name in passes:
                rate = f"{passes[name] / 1e9:.0f} GFLOP/s"
                share = f"{passes[name] / passes['products']:.0%}"
                found.append((f"frozen pass, {name}", rate, alone, share))
    if start := figures.get("startup"):
        cold, warm = start["seconds"], start["warm"]
        found.append(("`lastblock --help`", f"{cold['help']:.2f} s", "", ""))
        them = f"`import torch` alone, {cold['import_torch']:.2f} s"
        work = "`lastblock predict` of one text, from a cold process"
        found.append((work, f"{cold['predict']:.2f} s", them, ""))
        found.append(("of it imports", f"{cold['import_in_predict']:.2f} s", them, ""))
        work = f"one text of {warm['tokens']} tokens, warm"
        found.append((work, f"{warm['p50_ms']:.0f} ms (median)", "", ""))
    if step := figures.get("training_step"):
        alone = f"its arithmetic alone, {step['arithmetic_ms']:.1f} ms"
        found.append(
            ("a training step", f"{step['step_ms']:.1f} ms", alone, f"{step['ratio']:.1f} ×")
        )
    return found


def table(figures: dict[str, Any]) -> str:
    """The rows as Markdown, and the machines that they are from."""
    lines = ["| what | takes | against | |", "|---|---:|---|---:|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(figures)]
    machines = {
        f"{m['processor']}, {m['threads']} threads, {m['instructions']} ({m['date']})"
        for m in (of["machine"] for of in figures.values())
    }
    return "\n".join([*lines, "", f"Measured on {'; '.join(sorted(machines))}.", ""])


def with_table(readme: str) -> str:
    """README's text with the table between its two marks."""
    figures = json.loads(FIGURES.read_text(encoding="utf-8"))
    return MARKED.sub(lambda found: found[1] + table(figures) + found[3], readme)


if __name__ == "__main__":
    if "--take" in sys.argv[1:]:
        take()
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(encoding="utf-8")), encoding="utf-8")
