"""``lastblock demo``: the README's run, from public data to two messages judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lastblock.config import DataConfig, RunConfig

# The two messages that the book tries its classifier on.
SPAM = "You are a winner you have been specially selected to receive $1000 cash or a $2000 award."
HAM = "Hey, just wanted to check if we're still on for dinner tonight? Let me know!"


def demo(
    output: Annotated[
        Path, typer.Option("--output", "-o", metavar="FOLDER", help="Folder for the model.")
    ] = Path("demo-model"),
) -> None:
    """Train a spam classifier on public data and try it on two messages."""
    from lastblock.cli.train import run

    run(RunConfig(data=DataConfig(data="sms-spam", balance="undersample"), output=str(output)))

    from lastblock.checkpoint import load
    from lastblock.cli.predict import classify, print_predictions

    print("\nTwo messages, judged by the model as loaded from its folder:\n")
    print_predictions(classify(load(output), [SPAM, HAM]))
    print(f'\nTry your own: lastblock predict {output} "some text"')
