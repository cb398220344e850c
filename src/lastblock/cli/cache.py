"""``lastblock cache``: what is kept on this machine, and how to get rid of it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def cache(
    action: Annotated[
        Literal["info", "clear"],
        typer.Argument(
            help="info: what is kept, and how large it is; clear: remove all of that (weights and "
            "data sets stay)."
        ),
    ] = "info",
) -> None:
    """Show or clear the activations kept on disk for later runs on the same texts.

    And what decoders' channels are divided by in 8-bit integers, of each a small file.
    """
    from lastblock.activations import shelf
    from lastblock.cli.progress import amount
    from lastblock.decoder import channels

    if action == "clear":
        print(f"freed {amount(shelf.clear(), 'B')} in {shelf.activations_folder()}")
        print(f"freed {amount(channels.clear(), 'B')} in {channels.channels_folder()}")
        return
    _print_info()


def _print_info() -> None:
    from datetime import datetime

    from lastblock.activations import shelf
    from lastblock.cli.progress import amount
    from lastblock.cli.tables import print_table
    from lastblock.config import cache_bytes
    from lastblock.decoder import channels

    files = shelf.shelved()
    size = amount(sum(file.size for file in files), "B")
    print(
        f"{shelf.activations_folder()}: {size} of {amount(cache_bytes(None), 'B')} used "
        "(LASTBLOCK_CACHE_SIZE, --cache-size)"
    )
    print(f"{channels.channels_folder()}: {amount(channels.remembered(), 'B')}")
    groups: dict[str, list[shelf.Shelved]] = {}
    for file in files:
        groups.setdefault(file.about().get("prefix", "damaged"), []).append(file)
    rows = []
    for prefix, group in groups.items():
        texts = sum(int(file.about().get("texts", 0)) for file in group)
        used = datetime.fromtimestamp(max(file.used for file in group))
        total = amount(sum(file.size for file in group), "B")
        rows.append([prefix, f"{texts:,}", total, f"{used:%Y-%m-%d %H:%M}"])
    if rows:
        print_table(["frozen prefix", "texts", "size", "last used"], rows, numbers=[1, 2])
