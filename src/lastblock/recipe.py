"""Recipes: which settings a run takes where the user gave none.

``chapter6`` is the procedure of chapter 6 of Raschka, "Build a Large Language Model (From
Scratch)" (Manning, 2024), as it stands there. ``auto`` is ours; what its constants rest on is
written down in docs/experiments.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lastblock.config import Balance, KeepTogether, ModelConfig, Settings, TrainConfig
from lastblock.decoder import kernels
from lastblock.decoder.config import DecoderConfig
from lastblock.depth import summary_depths
from lastblock.errors import ConfigError
from lastblock.runtime import fastest_precision

# A text longer than this is cut by `auto` unless --max-length says otherwise: beyond it the
# frozen pass costs more than most texts' later parts tell.
AUTO_MAX_LENGTH = 512
# What `auto` makes the decoder read: at the last token, the quotation mark, it is about to say the
# text in one word, and its state tells far more than at the end of the bare text (PromptEOL, Jiang
# et al. 2023, "Scaling Sentence Embeddings with Large Language Models", section 3.1). For pooling
# "last" alone; not where it would take more than this share of what the decoder can read.
PROMPT = 'This sentence: "{text}" means in one word: "'
MOST_PROMPT = 1 / 4
BARE = "{text}"
AUTO_BATCH = 16
# From so many texts to learn from on, a step is of two or three times as many, and takes a third or
# two thirds longer: much of its time is that of reading and writing the weights. The rate grows
# with the root, as Adam's should (Malladi et al. 2022, "On the SDEs and Scaling Rules for Adaptive
# Gradient Algorithms"). Texts, batch, rate:
MANY_TEXTS = ((1_000, 2 * AUTO_BATCH, 1.4e-3), (1_500, 3 * AUTO_BATCH, 1.7e-3))
# What tells int8 how large a decoder's channels get (``set_precision``): of every sort a little.
SAMPLE = (
    "Hello, could you send me the report by Monday? Thanks: it was 1,234.50 EUR (50% off!) & the "
    "quick brown fox jumps over the lazy dog. Der schnelle braune Fuchs; où est la gare? I loved "
    "it... WHY NOT"
)
# Few examples are gone through more often, so that there are some steps to learn in.
LEAST_STEPS, MOST_EPOCHS = 60, 20
# Weight decay of a trained block; over all steps it takes no more than what leaves e^-SHRINK of a
# weight that no gradient holds.
BLOCK_DECAY, SHRINK = 2.0, 0.6
LORA_RANK = 8
# What `auto` takes by what is trained. A head alone has no curvature to fear; a whole decoder has
# much to forget (the rate is that of Devlin et al. 2019, A.3).
_TRAINED: dict[str, dict[str, object]] = {
    "head": {"learning_rate": 5e-3},
    "blocks": {"learning_rate": 1e-3},
    "lora": {"learning_rate": 5e-4},
    "all": {"learning_rate": 5e-5},
}


@dataclass(frozen=True)
class DataRules:
    """What a recipe does to the data before training.

    ``keep_together``: texts that stay on one side of the split; None: rows are shuffled one by one.
    """

    balance: Balance
    keep_together: KeepTogether | None


DATA_RULES = {
    "auto": DataRules(balance="none", keep_together="near"),
    "chapter6": DataRules(balance="undersample", keep_together=None),
}


def resolve(
    model: ModelConfig,
    train: TrainConfig,
    decoder: DecoderConfig,
    lengths: Sequence[int],
    chapter6_learning_rate: float,
    prompt_tokens: int,
) -> Settings:
    """Every setting of a fit: the user's where given, else the recipe's.

    Where the depth is to be chosen from the data (``chooses_depth``) it is the decoder's whole
    depth for now; see ``at_depth``.

    Args:
        model: the user's choices about the decoder.
        train: the user's choices about training.
        decoder: the shape of the pretrained decoder.
        lengths: tokens of each training text.
        chapter6_learning_rate: the model catalog's, for the book's procedure.
        prompt_tokens: tokens of the words around a text, the user's or else ``PROMPT``'s.

    Raises:
        ConfigError: a choice does not fit this decoder.
    """
    settings = _chapter6 if train.recipe == "chapter6" else _auto
    chosen = settings(decoder, lengths, chapter6_learning_rate)
    kind, blocks = model.trained
    if train.recipe == "auto":
        chosen |= _TRAINED[kind or "blocks"]
        if kind in (None, "blocks") and train.batch_size is None:
            for texts, batch, rate in MANY_TEXTS:
                if len(lengths) >= texts:
                    chosen |= {"batch_size": batch, "learning_rate": rate}
    for config in (model, train):
        given = {k: v for k, v in vars(config).items() if v is not None}
        chosen |= given
    chosen["train"] = kind or "blocks"
    if chosen["train"] in ("lora", "all"):
        blocks = int(chosen["depth"])  # type: ignore[call-overload]
    chosen["trainable_blocks"] = 1 if blocks is None else blocks
    # auto's prompt is for its pooling, which the user may have chosen otherwise.
    fits = prompt_tokens <= MOST_PROMPT * decoder.max_position_embeddings
    chosen.setdefault("prompt", PROMPT if fits and chosen["pooling"] == "last" else BARE)
    room = decoder.max_position_embeddings - (prompt_tokens if chosen["prompt"] != BARE else 0)
    if model.max_length is None:
        chosen["max_length"] = min(int(chosen["max_length"]), room)  # type: ignore[call-overload]
    _check_against(decoder, chosen, room)
    if train.recipe == "auto" and chosen["train"] == "blocks" and train.weight_decay is None:
        chosen["weight_decay"] = _block_decay(chosen, len(lengths))
    if chosen["attention"] == "full" and chosen["pooling"] != "padded":
        raise ConfigError(
            "--attention full lets a text's tokens see the padding after them, which depends on "
            "the texts beside it, so activations could not be kept; add --pooling padded"
        )
    if chosen["dtype"] == "auto":
        int8 = chosen["train"] in ("head", "blocks")  # else nothing is frozen
        shape = decoder.intermediate_size, decoder.hidden_size
        chosen["dtype"] = fastest_precision(
            *shape, int8=int8, kernels=kernels.have_fastest_integers()
        )
    resolved = Settings(**chosen)  # type: ignore[arg-type]
    resolved = at_depth(resolved, decoder, resolved.depth)
    if model.lexicon and not resolved.lexicon:
        raise ConfigError(
            "--lexicon is for --recipe auto with frozen blocks below what is trained (--train head "
            "or blocks:K); leave it out"
        )
    return resolved


def _block_decay(chosen: dict[str, object], texts: int) -> float:
    """Weight decay of a trained block: the pretrained weights fit few texts too well otherwise.

    Rates follow a cosine, so their sum is half the peak rate times the steps.
    """
    rate, batch = float(chosen["learning_rate"]), int(chosen["batch_size"])  # type: ignore[arg-type, call-overload]
    steps = int(chosen["epochs"]) * math.ceil(texts / batch)  # type: ignore[call-overload]
    return min(BLOCK_DECAY, SHRINK / (rate * steps / 2))


def chooses_depth(settings: Settings, model: ModelConfig) -> bool:
    """Whether the depth is to be chosen from the data: `auto` with a frozen prefix does."""
    frozen = settings.train in ("head", "blocks") and settings.trainable_blocks < settings.depth
    return settings.recipe == "auto" and model.depth is None and frozen


def at_depth(settings: Settings, decoder: DecoderConfig, depth: int) -> Settings:
    """The settings with this depth, and what follows from it."""
    frozen = depth - settings.trainable_blocks
    beside = settings.recipe == "auto" and settings.train in ("head", "blocks")
    summaries = summary_depths(decoder.num_hidden_layers, frozen) if beside else ()
    lexicon = settings.lexicon and bool(summaries)
    return replace(settings, depth=depth, summary_depths=summaries, lexicon=lexicon)


def _chapter6(
    decoder: DecoderConfig, lengths: Sequence[int], learning_rate: float
) -> dict[str, object]:
    return {
        "depth": decoder.num_hidden_layers,
        "lora_rank": LORA_RANK,
        "summary_depths": (),
        "lexicon": False,
        "pooling": "padded",
        "max_length": min(max(lengths), decoder.max_position_embeddings),
        "long_text": "truncate",
        "prompt": BARE,
        "epochs": 5,
        "learning_rate": learning_rate,
        "batch_size": 8,
        "weight_decay": 0.1,
        "warmup": 0.0,
        "decay": "none",
        "drop_last": True,
        "eval_steps": 50,
        "eval_texts": 5 * 8,  # five batches
        "keep_best": False,
        "calibrate": False,
    }


def _auto(decoder: DecoderConfig, lengths: Sequence[int], _: float) -> dict[str, object]:
    return {
        "depth": decoder.num_hidden_layers,
        "lora_rank": LORA_RANK,
        "summary_depths": (),
        "lexicon": True,
        "pooling": "last",
        "max_length": min(AUTO_MAX_LENGTH, decoder.max_position_embeddings),
        "long_text": "truncate",
        "epochs": min(MOST_EPOCHS, max(5, math.ceil(LEAST_STEPS * AUTO_BATCH / len(lengths)))),
        "batch_size": AUTO_BATCH,
        "weight_decay": 0.1,
        "warmup": 0.1,
        "decay": "cosine",
        "drop_last": False,
        "eval_steps": 0,
        "eval_texts": 64,
        "keep_best": True,
        "calibrate": True,
    }


def _check_against(decoder: DecoderConfig, chosen: dict[str, object], room: int) -> None:
    """``room``: tokens that the decoder can read besides the prompt's."""
    limits = {"depth": decoder.num_hidden_layers, "max_length": room}
    for name, most in limits.items():
        if most < 1:
            raise ConfigError(f"--prompt: it leaves no room for a text; shorten it by {1 - most}")
        if int(chosen[name]) > most:  # type: ignore[call-overload]
            raise ConfigError(
                f"--{name.replace('_', '-')} {chosen[name]} is more than this decoder has ({most})"
            )
    depth, blocks = int(chosen["depth"]), int(chosen["trainable_blocks"])  # type: ignore[call-overload]
    if blocks > depth:
        raise ConfigError(f"--trainable-blocks {blocks} must be from 1 to the depth {depth}")
