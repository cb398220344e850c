"""``lastblock datasets``: the data sets that can be had by name."""

from __future__ import annotations

from typing import Annotated

import typer


def datasets(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the data sets that can be fetched by name, wherever DATA is asked for."""
    from lastblock.data.catalog import DATA_SETS

    if as_json:
        import dataclasses
        import json

        entries = [dataclasses.asdict(entry) for entry in DATA_SETS.values()]
        print(json.dumps(entries, ensure_ascii=False, indent=2))
        return
    for entry in DATA_SETS.values():
        print(f"{entry.name}: {entry.title}")
        print(f"  {entry.rows:,} rows, {entry.classes} classes, {entry.size_bytes:,} bytes")
        print(f"  licence  {entry.licence}")
        print(f"  source   {entry.source}")
        print(f"  sha256   {entry.sha256}")
