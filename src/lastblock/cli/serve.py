"""``lastblock serve``: saved models over HTTP, and a page to try them on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from lastblock.cli.options import setting
from lastblock.config import ServeConfig, help_of


def serve(
    models: Annotated[Path, typer.Argument(metavar="MODELS", help=help_of(ServeConfig, "models"))],
    host: Annotated[str, setting(ServeConfig, "host", "ADDRESS")] = "127.0.0.1",
    port: Annotated[int, setting(ServeConfig, "port", "N")] = 8000,
    workers: Annotated[int, setting(ServeConfig, "workers", "N")] = 1,
    max_batch_tokens: Annotated[int, setting(ServeConfig, "max_batch_tokens", "N")] = 512,
    queue: Annotated[int, setting(ServeConfig, "queue", "N")] = 512,
    max_body: Annotated[int, setting(ServeConfig, "max_body", "N")] = 1_000_000,
    max_file: Annotated[int, setting(ServeConfig, "max_file", "N")] = 100_000_000,
    max_texts: Annotated[int, setting(ServeConfig, "max_texts", "N")] = 256,
    max_characters: Annotated[int, setting(ServeConfig, "max_characters", "N")] = 50_000,
    max_seconds: Annotated[float, setting(ServeConfig, "max_seconds", "X")] = 30.0,
    api_key_file: Annotated[str | None, setting(ServeConfig, "api_key_file", "FILE")] = None,
    allow_origin: Annotated[
        list[str] | None, setting(ServeConfig, "allow_origin", "ORIGIN")
    ] = None,
) -> None:
    """Serve saved models over HTTP, with a page to try them on."""
    config = ServeConfig(
        models=str(models),
        host=host,
        port=port,
        workers=workers,
        max_batch_tokens=max_batch_tokens,
        queue=queue,
        max_body=max_body,
        max_file=max_file,
        max_texts=max_texts,
        max_characters=max_characters,
        max_seconds=max_seconds,
        api_key_file=api_key_file,
        allow_origin=tuple(allow_origin or ()),
    )
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"serving {models} at {address} (API: {address}/docs); Ctrl-C stops", file=sys.stderr)
    if not config.is_loopback:
        print(
            "warning: others can reach this address, and HTTP is not encrypted: put a proxy that "
            "speaks TLS before it",
            file=sys.stderr,
        )
    from lastblock.serving.server import run

    run(config)
