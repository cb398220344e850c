"""``lastblock models``: the pretrained decoders that can be had by name."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the pretrained decoders that --model knows by name."""
    from lastblock.cli.tables import print_table
    from lastblock.decoder.catalog import MODELS

    if as_json:
        import dataclasses
        import json

        entries = [dataclasses.asdict(entry) for entry in MODELS.values()]
        print(json.dumps(entries, ensure_ascii=False, indent=2))
        return
    rows = [
        [
            entry.name,
            f"{entry.parameters / 1e6:,.1f} M",
            f"{entry.context_length:,}",
            f"{entry.size / 1e6:,.0f} MB",
            entry.licence,
            str(entry.source),
        ]
        for entry in MODELS.values()
    ]
    print_table(
        ["name", "parameters", "context", "fetched", "licence", "from"], rows, numbers=[1, 2, 3]
    )
