"""The verbs put together, and the options that stand before a verb."""

from __future__ import annotations

from typing import Annotated

import typer

from lastblock.cli.cache import cache
from lastblock.cli.compare import compare
from lastblock.cli.datasets import datasets
from lastblock.cli.demo import demo
from lastblock.cli.evaluate import evaluate
from lastblock.cli.explain import explain
from lastblock.cli.inspect import inspect
from lastblock.cli.learning_curve import learning_curve
from lastblock.cli.models import models
from lastblock.cli.predict import predict
from lastblock.cli.review import review
from lastblock.cli.search import search
from lastblock.cli.serve import serve
from lastblock.cli.suggest import suggest
from lastblock.cli.train import train

app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # boxes take the room that the words need
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print("lastblock", version("lastblock"))
        raise typer.Exit


@app.callback(invoke_without_command=True)
def lastblock(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """Turn a pretrained decoder into a text classifier on an ordinary CPU, in seconds."""
    if context.invoked_subcommand is None:
        print(context.get_help())


verbs = (
    demo,
    train,
    learning_curve,
    search,
    evaluate,
    compare,
    predict,
    explain,
    inspect,
    review,
    suggest,
    datasets,
    models,
    cache,
    serve,
)
for verb in verbs:
    app.command()(verb)
