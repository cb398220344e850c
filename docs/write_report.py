"""Write docs/report.md from docs/report.schema.json: ``make docs``."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCHEMA = Path(__file__).with_name("report.schema.json")
TARGET = Path(__file__).with_name("report.md")

INTRODUCTION = """\
# The report

`lastblock train` writes into the model's folder:

| file | for |
|---|---|
| report.html | people: one page that needs no other file, for mailing and printing |
| report.json | programs: the same facts, described below |
| README.md | the Hugging Face hub: a model card with scores in its front matter |
| figures/*.png | the card's pictures |
| predictions.csv | checking: what was said of each row, without texts; the scores follow from it |

`mistakes` and `suspects` hold texts of your data, in report.json and report.html: look before you
pass them on.

## report.json

Written by `make docs` from [report.schema.json](report.schema.json), a JSON Schema that a test
holds every report against; do not edit. Keys are added, never renamed or removed, so a program
should pass over those it does not know. Numbers that are not finite are `null`. Keys in italics
are not in every report.
"""


def render() -> str:
    """The whole page."""
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    parts = [INTRODUCTION, _table(schema)]
    for name, part in schema["$defs"].items():
        title = "scores of one part" if name == "scores" else f"one {name}"
        parts.append(f"### {title}\n\n" + _table(part))
    return "\n".join(parts)


def _table(schema: dict[str, Any]) -> str:
    lines = ["| key | holds |", "|---|---|", *_rows(schema, "")]
    return "\n".join(lines) + "\n"


def _rows(schema: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, part in schema.get("properties", {}).items():
        mark = "" if name in schema.get("required", []) else "*"
        known = part.get("description", "") + _kind(part)
        yield f"| {mark}`{prefix}{name}`{mark} | {known or _type(part)} |"
        yield from _rows(part, f"{prefix}{name}.")
        yield from _rows(part.get("items", {}), f"{prefix}{name}[].")


def _type(part: dict[str, Any]) -> str:
    if "enum" in part:
        return "one of " + ", ".join(part["enum"])
    types = part.get("type", [])
    return types if isinstance(types, str) else " or ".join(types)


def _kind(part: dict[str, Any]) -> str:
    """What stands under a mapping's names, if that is described elsewhere."""
    inside = part.get("additionalProperties")
    if not isinstance(inside, dict):
        return ""
    if "$ref" in inside:
        return " A dict of scores a part."
    names = ", ".join(f"`{name}`" for name in inside.get("properties", {}))
    return f" Each: {names}." if names else ""


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
