"""``lastblock train``: a labelled file in, a model folder and its report out."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from lastblock.cli.options import (
    Delimiter,
    Encoding,
    Header,
    LabelColumn,
    LabelSeparator,
    Quoting,
    TextColumn,
    setting,
    takes_options_of,
)
from lastblock.config import (
    DEFAULT_MODEL,
    AttentionKind,
    Balance,
    DataConfig,
    DType,
    KeepTogether,
    LongText,
    ModelConfig,
    Pooling,
    Recipe,
    RepeatConfig,
    RunConfig,
    Tracker,
    TrainConfig,
    Weights,
    help_of,
    parse_class_weight,
)
from lastblock.errors import ConfigError


def configure(
    data: Annotated[str, typer.Argument(metavar="DATA", help=help_of(DataConfig, "data"))],
    recipe: Annotated[Recipe, setting(TrainConfig, "recipe")] = "auto",
    model: Annotated[str, setting(ModelConfig, "model", "NAME|PATH")] = DEFAULT_MODEL,
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    validation: Annotated[str | None, setting(DataConfig, "validation", "FILE")] = None,
    test: Annotated[str | None, setting(DataConfig, "test", "FILE")] = None,
    split: Annotated[str | None, setting(DataConfig, "split", "stratified|hash|FILE")] = None,
    group_column: Annotated[str | None, setting(DataConfig, "group_column", "NAME")] = None,
    time_column: Annotated[str | None, setting(DataConfig, "time_column", "NAME")] = None,
    keep_together: Annotated[KeepTogether | None, setting(DataConfig, "keep_together")] = None,
    balance: Annotated[Balance | None, setting(DataConfig, "balance")] = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    header: Header = None,
    quoting: Quoting = None,
    label_separator: LabelSeparator = None,
    seed: Annotated[int, setting(TrainConfig, "seed", "N")] = 123,
    epochs: Annotated[int | None, setting(TrainConfig, "epochs", "N")] = None,
    learning_rate: Annotated[float | None, setting(TrainConfig, "learning_rate", "X")] = None,
    weight_decay: Annotated[float | None, setting(TrainConfig, "weight_decay", "X")] = None,
    batch_size: Annotated[int | None, setting(TrainConfig, "batch_size", "N")] = None,
    calibrate: Annotated[bool | None, setting(TrainConfig, "calibrate")] = None,
    class_weight: Annotated[
        str | None, setting(TrainConfig, "class_weight", "balanced|LABEL=X,...")
    ] = None,
    threshold: Annotated[
        str | None, setting(TrainConfig, "threshold", "f1|precision=P|recall=R|cost=FP:FN|P")
    ] = None,
    abstain_below: Annotated[float | None, setting(TrainConfig, "abstain_below", "P")] = None,
    depth: Annotated[int | None, setting(ModelConfig, "depth", "N")] = None,
    train_what: Annotated[str | None, setting(ModelConfig, "train", "WHAT", "--train")] = None,
    trainable_blocks: Annotated[int | None, setting(ModelConfig, "trainable_blocks", "N")] = None,
    lora_rank: Annotated[int | None, setting(ModelConfig, "lora_rank", "N")] = None,
    pooling: Annotated[Pooling | None, setting(ModelConfig, "pooling")] = None,
    max_length: Annotated[int | None, setting(ModelConfig, "max_length", "N")] = None,
    long_text: Annotated[LongText | None, setting(ModelConfig, "long_text")] = None,
    prompt: Annotated[str | None, setting(ModelConfig, "prompt")] = None,
    lexicon: Annotated[bool | None, setting(ModelConfig, "lexicon")] = None,
    weights: Annotated[Weights, setting(ModelConfig, "weights")] = "pretrained",
    attention: Annotated[AttentionKind, setting(ModelConfig, "attention")] = "causal",
    dtype: Annotated[DType, setting(ModelConfig, "dtype")] = "auto",
    cache_size: Annotated[float | None, setting(RunConfig, "cache_size", "GB")] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="The same as --cache-size 0.")
    ] = False,
) -> RunConfig:
    """What to read and how to train: the options that every verb has that trains."""
    if no_cache and cache_size:
        raise ConfigError("--no-cache and --cache-size exclude each other; give one")
    return RunConfig(
        data=DataConfig(
            data=data,
            text_column=text_column,
            label_column=label_column,
            validation=validation,
            test=test,
            split=split,
            group_column=group_column,
            time_column=time_column,
            keep_together=keep_together,
            balance=balance,
            encoding=encoding,
            delimiter=delimiter,
            header=header,
            quoting=quoting,
            label_separator=label_separator,
        ),
        model=ModelConfig(
            model=model,
            depth=depth,
            train=train_what,
            trainable_blocks=trainable_blocks,
            lora_rank=lora_rank,
            pooling=pooling,
            max_length=max_length,
            long_text=long_text,
            prompt=prompt,
            lexicon=lexicon,
            weights=weights,
            attention=attention,
            dtype=dtype,
        ),
        train=TrainConfig(
            recipe=recipe,
            seed=seed,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            weight_decay=weight_decay,
            calibrate=calibrate,
            class_weight=None if class_weight is None else parse_class_weight(class_weight),
            threshold=threshold,
            abstain_below=abstain_below,
        ),
        cache_size=0 if no_cache else cache_size,
    )


@takes_options_of(configure)
def train(
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="FOLDER",
            help="Folder for the model; an older lastblock model there is replaced.",
            show_default=False,
        ),
    ],
    folds: Annotated[int | None, setting(RepeatConfig, "folds", "N")] = None,
    seeds: Annotated[int | None, setting(RepeatConfig, "seeds", "N")] = None,
    log_to: Annotated[Tracker | None, setting(RunConfig, "log_to")] = None,
    **options: Any,
) -> None:
    """Train a classifier on labelled texts and save it with its report.

    What is not given is chosen by the recipe.
    """
    repeat = RepeatConfig(folds=folds, seeds=seeds)
    run(replace(configure(**options), repeat=repeat, output=str(output), log_to=log_to))
    print(f'\nTry it: lastblock predict {output} "some text"')


def run(config: RunConfig) -> None:
    """Train as configured; print the scores, the settings, the time taken and the folder."""
    from lastblock.beside import Beside, Here
    from lastblock.runtime import without_collecting

    # What is to be imported there is imported beside the rest, if any of that lies ahead.
    with Beside() if "torch" not in sys.modules else nullcontext(Here()) as beside:
        with without_collecting():
            from lastblock.cli.progress import make_progress
            from lastblock.cli.tables import print_report
            from lastblock.finetune import finetune

        start = time.perf_counter()
        result = finetune(config, make_progress(), beside)
        taken = time.perf_counter() - start
    print_report(result.report)
    print(f"saved     {result.folder}, all about it in {result.folder}/report.html")
    print(f"took      {taken:.1f} s, from the first of the data to the saved model")
