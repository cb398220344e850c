"""``lastblock models``: the pretrained decoders that can be had by name."""

from __future__ import annotations

from typing import Annotated

import typer


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """List the pretrained decoders that --model knows by name."""
    from lastblock.decoder.catalog import MODELS

    if as_json:
        import dataclasses
        import json

        entries = [dataclasses.asdict(entry) for entry in MODELS.values()]
        print(json.dumps(entries, ensure_ascii=False, indent=2))
        return
    for entry in MODELS.values():
        print(entry.name)
        print(
            f"  {entry.parameters / 1e6:,.1f} M parameters, context {entry.context_length:,} tokens"
        )
        print(f"  licence  {entry.licence}")
        print(f"  from     {entry.source} ({entry.size / 1e6:,.0f} MB)")
