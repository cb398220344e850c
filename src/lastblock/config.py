"""The settings of a run: small, validated, documented field by field, JSON in and out.

Fields that are ``None`` are chosen by the recipe (see ``recipe.py``); what it chose is saved with
the model and printed. Plain dataclasses rather than pydantic models, so that ``lastblock --help``,
which prints these fields' help texts, costs no import. Imports no torch.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from lastblock.errors import ConfigError

Recipe = Literal["auto", "chapter6"]
Pooling = Literal["last", "mean", "first", "padded"]
SearchMetric = Literal["loss", "accuracy", "macro_f1"]
Balance = Literal["none", "undersample"]
KeepTogether = Literal["equal", "near"]
Trained = Literal["head", "blocks", "lora", "all"]
LongText = Literal["truncate", "head-tail", "window"]
Weights = Literal["pretrained", "random"]
AttentionKind = Literal["causal", "full"]
Tracker = Literal["tensorboard", "mlflow", "wandb"]
# How labels are given, and given back: one a text; several, as a list; or several, as the columns
# of a matrix of zeros and ones.
LabelForm = Literal["one", "several", "columns"]
ClassWeight = Literal["balanced"] | Mapping[Any, float] | None
Precision = Literal["float32", "bfloat16", "int8"]
DType = Literal["auto", "float32", "bfloat16", "int8"]

DEFAULT_MODEL = "smollm2-135m-instruct"
DEFAULT_SEPARATOR = "|"  # between the labels of a text, where none is given
NO_SEPARATOR = "none"  # what is given to say that there is none
DEFAULT_CACHE_SIZE = 2.0  # gigabytes of activations on disk


def _setting(default: Any, help: str) -> Any:
    return field(default=default, metadata={"help": help})


def help_of(config: type, name: str) -> str:
    """The documentation of one setting, as the command line prints it."""
    return str(config.__dataclass_fields__[name].metadata["help"])  # type: ignore[attr-defined]


def _require(ok: bool, option: str, value: object, wanted: str) -> None:
    if not ok:
        raise ConfigError(f"--{option.replace('_', '-')} is {value!r}; it must be {wanted}")


def _require_choice(option: str, value: object, choices: Any) -> None:
    if value is not None:
        names = get_args(choices)
        _require(value in names, option, value, "one of " + ", ".join(names))


def _require_at_least(option: str, value: float | None, least: float) -> None:
    if value is not None:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        _require(number and value >= least, option, value, f"a number of at least {least}")


def parse_class_weight(text: str) -> ClassWeight:
    """Read ``balanced`` or ``spam=3,ham=1``; what it says is checked by ``TrainConfig``."""
    if text == "balanced":
        return "balanced"
    weights: dict[str, float] = {}
    for part in text.split(","):
        label, _, weight = part.rpartition("=")
        try:
            weights[label.strip()] = float(weight)
        except ValueError:
            weights[label.strip()] = math.nan
    return weights


def _require_class_weight(value: object) -> None:
    if value is None or value == "balanced":
        return
    ok = isinstance(value, Mapping) and all(
        isinstance(v, int | float) and not isinstance(v, bool) and 0 < v < math.inf
        for v in value.values()
    )
    _require(ok, "class_weight", value, "balanced, or classes with numbers above 0: spam=3,ham=1")


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """How to read data; what is ``None`` is found out from the data, and said."""

    encoding: str | None = _setting(
        None, "Encoding of text files (utf-8, utf-16, cp1252, ...); found out if not given."
    )
    delimiter: str | None = _setting(
        None, "What separates columns, one character or 'tab'; found out if not given."
    )
    header: bool | None = _setting(
        None,
        "Whether the first line of a CSV or TSV file names the columns; found out if not given.",
    )
    quoting: bool | None = _setting(
        None, "Whether fields may stand in quotation marks, as in CSV; found out if not given."
    )
    label_separator: str | None = _setting(
        None,
        "What joins several labels of one text ('|'), or none: a label is one as it stands; found "
        "out if not given. Put between labels that come as lists.",
    )

    def __post_init__(self) -> None:
        if self.delimiter is not None:
            ok = self.delimiter == "tab" or (
                len(self.delimiter) == 1 and self.delimiter not in '"\r\n'
            )
            _require(ok, "delimiter", self.delimiter, "one character, or tab")
        if self.encoding is not None:
            try:
                known = "".encode(self.encoding) is not None
            except (LookupError, UnicodeError):
                known = False
            _require(known, "encoding", self.encoding, "the name of an encoding, such as cp1252")
        _require(self.label_separator != "", "label_separator", "", "at least one character")


@dataclass(frozen=True)
class DataConfig(ReadOptions):
    """Which examples to learn from, how to read them, and how to split them."""

    data: str = _setting(
        "",
        "A file (CSV, TSV, JSON, JSON Lines, Parquet, Arrow; .gz and .zst too), a pattern of "
        "files, a folder with a folder a class, or a catalog name (lastblock datasets).",
    )
    text_column: str | None = _setting(
        None,
        "Column with the texts, or a template of several ('{title}\\n{body}'); found by name or "
        "content if not given.",
    )
    label_column: str | None = _setting(
        None, "Column with the labels; found by name or content if not given."
    )
    validation: str | None = _setting(None, "File to validate on, instead of a part of DATA.")
    test: str | None = _setting(None, "File to test on, instead of a part of DATA.")
    balance: Balance | None = _setting(
        None,
        "undersample: draw the same number of examples from every class, before the split "
        "(so the scores are those of a balanced set); none: leave as is.",
    )
    split: str | None = _setting(
        None,
        "How DATA is split: stratified by label (the recipe's own way, if not given); hash: a text "
        "goes by itself alone, so it stays where it is when rows are added; or the split.json of "
        "an earlier model, to have its split again.",
    )
    group_column: str | None = _setting(
        None, "Column whose equal values stay on one side of the split (author, thread, customer)."
    )
    time_column: str | None = _setting(
        None, "Column with times or numbers: train on the oldest rows, test on the newest."
    )
    keep_together: KeepTogether | None = _setting(
        None,
        "Texts that stay on one side of the split: equal ones (but for case, digits, punctuation), "
        "or near duplicates too; the recipe's own choice (auto: near) if not given.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        _require_choice("balance", self.balance, Balance)
        _require_choice("keep_together", self.keep_together, KeepTogether)
        if self.time_column is not None:
            for name in ("split", "group_column", "keep_together"):
                if getattr(self, name) is not None:
                    option = name.replace("_", "-")
                    raise ConfigError(f"--time-column and --{option} exclude each other; give one")


@dataclass(frozen=True)
class ModelConfig:
    """Which decoder, how much of it is kept, and how its output becomes a classifier's."""

    model: str = _setting(
        DEFAULT_MODEL, "Decoder: a catalog name, a hub id, a folder or a .gguf file."
    )
    depth: int | None = _setting(
        None, "Blocks to keep, the blocks above are cut off; chosen from the data if not given."
    )
    train: str | None = _setting(
        None,
        "What is trained: head (with the final norm); block, the last kept one, too; blocks:K, the "
        "last K; lora, the last one and low-rank adapters in all below; all, everything.",
    )
    trainable_blocks: int | None = _setting(
        None, "Kept blocks to train, counted from the top: --train blocks:N."
    )
    lora_rank: int | None = _setting(None, "Rank of the adapters of --train lora.")
    pooling: Pooling | None = _setting(
        None,
        "Token whose state feeds the head: the last real one, the mean of all, the first; "
        "or the last position of the padded row, as in the book.",
    )
    max_length: int | None = _setting(None, "Tokens a text is cut to.")
    long_text: LongText | None = _setting(
        None,
        "What is read of a text longer than that: its beginning (truncate); beginning and end "
        "(head-tail); or all, in windows of that length whose outputs are averaged (window).",
    )
    prompt: str | None = _setting(
        None,
        "Words that the decoder reads around each text, which stands for {text}; '{text}' for "
        "none. The recipe's own if not given: auto asks for the text in one word.",
    )
    lexicon: bool | None = _setting(
        None,
        "Let a text's bare words and letters, read by a linear classifier, have a say beside the "
        "decoder: as much as helps on texts that neither has learnt from.",
    )
    weights: Weights = _setting(
        "pretrained",
        "Begin with the decoder's weights, or with random ones (by --seed), to see what it had "
        "learnt is worth.",
    )
    attention: AttentionKind = _setting(
        "causal",
        "Which tokens a token sees: those before it, or all (full). For full every text has to be "
        "filled to one length: --pooling padded.",
    )
    dtype: DType = _setting(
        "auto",
        "Arithmetic of the frozen prefix, and bfloat16 also of training where no block is "
        "frozen (--train lora, all); auto takes what this processor is fastest at.",
    )

    def __post_init__(self) -> None:
        if self.prompt is not None:
            _require(
                self.prompt.count("{text}") == 1, "prompt", self.prompt, "words with {text} once"
            )
        _require(bool(self.model), "model", self.model, "a name, a folder or a .gguf file")
        for name in ("depth", "trainable_blocks", "lora_rank", "max_length"):
            _require_at_least(name, getattr(self, name), 1)
        _require_choice("long_text", self.long_text, LongText)
        kind, blocks = self.trained
        if self.depth is not None and (blocks or 1) > self.depth:
            raise ConfigError(f"--trainable-blocks {blocks} is more than --depth {self.depth}")
        if self.lora_rank is not None and kind != "lora":
            raise ConfigError("--lora-rank is for --train lora; leave it out")
        _require_choice("pooling", self.pooling, Pooling)
        _require_choice("dtype", self.dtype, DType)
        _require_choice("weights", self.weights, Weights)
        _require_choice("attention", self.attention, AttentionKind)

    @property
    def trained(self) -> tuple[Trained | None, int | None]:
        """What ``train`` and ``trainable_blocks`` ask for together; None where nothing."""
        kind, _, number = (self.train or "").partition(":")
        known = {"": None, "head": 0, "block": 1, "blocks": None, "lora": None, "all": None}
        given = int(number) if number.isdecimal() else None
        if kind not in known or (number and not (given and kind == "blocks")):
            raise ConfigError(f"--train {self.train} must be head, block, blocks:K, lora or all")
        blocks = known[kind] if given is None else given
        if self.trainable_blocks is not None:
            if kind not in ("", "blocks") or blocks not in (None, self.trainable_blocks):
                raise ConfigError(
                    f"--train {self.train} and --trainable-blocks {self.trainable_blocks} "
                    "contradict each other; give one"
                )
            return "blocks", self.trainable_blocks
        if not kind:
            return None, None
        trained: Trained = "blocks" if kind.startswith("block") else kind  # type: ignore[assignment]
        return trained, blocks


@dataclass(frozen=True)
class ThresholdRule:
    """What thresholds are chosen for; "at" is a threshold itself.

    ``values``: what precision or recall must be; what a false alarm (FP) and a miss (FN) cost; or
    the threshold.
    """

    kind: Literal["f1", "precision", "recall", "cost", "at"]
    values: tuple[float, ...] = ()

    @classmethod
    def parse(cls, text: str | float) -> ThresholdRule:
        """Read ``f1``, ``precision=0.95``, ``recall=0.9``, ``cost=1:10`` or ``0.7``.

        Raises:
            ConfigError: it is none of these.
        """
        kind, equals, numbers = str(text).partition("=")
        if kind != "f1" and not equals:
            kind, numbers = "at", kind
        try:
            values = tuple(map(float, numbers.split(":"))) if numbers or equals else ()
            rule = cls(kind, values)  # type: ignore[arg-type]
        except ValueError:
            rule = cls("at")
        wanted = "f1, precision=P, recall=R or P with P and R from 0 to 1, or cost=FP:FN"
        _require(rule._holds(), "threshold", text, wanted)
        return rule

    def _holds(self) -> bool:
        """Whether there are as many values as the kind takes, each where it may lie."""
        takes = {
            "f1": (0, 0.0),
            "precision": (1, 1.0),
            "recall": (1, 1.0),
            "cost": (2, sys.float_info.max),
            "at": (1, math.nextafter(1, 0)),  # 1 itself is never reached
        }
        n, most = takes.get(self.kind, (-1, 0.0))
        return len(self.values) == n and all(0 < value <= most for value in self.values)


@dataclass(frozen=True)
class TrainConfig:
    """How the tail is trained."""

    recipe: Recipe = _setting("auto", "auto: ours; chapter6: the book's procedure, exactly.")
    seed: int = _setting(123, "Seed of everything drawn at random.")
    epochs: int | None = _setting(None, "Passes over the training part.")
    learning_rate: float | None = _setting(None, "Peak learning rate of AdamW.")
    batch_size: int | None = _setting(None, "Texts in a training step.")
    weight_decay: float | None = _setting(None, "Weight decay of AdamW.")
    calibrate: bool | None = _setting(
        None,
        "Whether probabilities are made as sure as they are right, on the validation part; the "
        "recipe's own way, if not given (auto: yes; chapter6: no, as in the book).",
    )
    class_weight: ClassWeight = _setting(
        None,
        "How much each class counts in training: balanced (rare ones more, so that all count the "
        "same), or label=2,other=1; a class that is not named counts 1. Where a text may have "
        "several labels it is how much having one counts, against not having it.",
    )
    threshold: str | float | None = _setting(
        None,
        "From which probability on a label is given, of two classes the second in the order of "
        "the alphabet, of several labels a text each: chosen on texts not learnt from for the best "
        "f1, for precision=0.95 or recall=0.9, or for the least cost=FP:FN (what a false alarm "
        "and a miss cost); or a number. If not given: the likelier class; of several labels f1.",
    )
    abstain_below: float | None = _setting(
        None, 'Say "unsure" where the label is less probable than this.'
    )

    def __post_init__(self) -> None:
        _require_choice("recipe", self.recipe, Recipe)
        _require(
            isinstance(self.seed, int) and 0 <= self.seed < 2**32,
            "seed",
            self.seed,
            "a whole number from 0 to 4294967295",
        )
        _require_at_least("epochs", self.epochs, 1)
        _require_at_least("batch_size", self.batch_size, 1)
        _require_at_least("weight_decay", self.weight_decay, 0)
        if self.learning_rate is not None:
            _require(0 < self.learning_rate < 1, "learning_rate", self.learning_rate, "in (0, 1)")
        _require_class_weight(self.class_weight)
        if self.threshold is not None:
            ThresholdRule.parse(self.threshold)
        if self.abstain_below is not None:
            _require(
                isinstance(self.abstain_below, int | float) and 0 < self.abstain_below < 1,
                "abstain_below",
                self.abstain_below,
                "a probability between 0 and 1",
            )


def cache_bytes(cache_size: float | None) -> int:
    """Bytes that activations may take on disk: as given, else ``LASTBLOCK_CACHE_SIZE``, else 2 GB.

    Raises:
        ConfigError: it is no number of gigabytes.
    """
    option, value = "cache_size", cache_size
    if value is None:
        given = os.environ.get("LASTBLOCK_CACHE_SIZE", "").strip() or DEFAULT_CACHE_SIZE
        try:
            value = float(given)
        except ValueError:
            raise ConfigError(
                f"LASTBLOCK_CACHE_SIZE is {given!r}; it must be a number of gigabytes"
            ) from None
    _require_at_least(option, value, 0)
    _require(math.isfinite(value), option, value, "a number of gigabytes")
    return int(value * 1e9)


@dataclass(frozen=True)
class RepeatConfig:
    """How often training is repeated, to see how far its scores can be trusted."""

    folds: int | None = _setting(
        None,
        "Cross-validate too: train this many more models on all rows of DATA but a fold, and judge "
        "each on its fold; the predictions are saved in out-of-fold.csv.",
    )
    seeds: int | None = _setting(
        None,
        "Train again on the same split until there are this many models, each with another seed; "
        "the first is kept.",
    )

    def __post_init__(self) -> None:
        _require_at_least("folds", self.folds, 2)
        _require_at_least("seeds", self.seeds, 2)


@dataclass(frozen=True)
class CurveConfig:
    """How many training sizes a learning curve has, and how often each is drawn."""

    points: int = _setting(6, "Training sizes, evenly spaced on a log scale.")
    draws: int = _setting(3, "Times that each size is drawn, with a seed of its own.")

    def __post_init__(self) -> None:
        _require_at_least("points", self.points, 2)
        _require_at_least("draws", self.draws, 1)


@dataclass(frozen=True)
class SearchConfig:
    """How long better settings are searched for, and what better means."""

    trials: int = _setting(30, "Settings to try, those of an interrupted search counted in.")
    timeout: float | None = _setting(
        None, "Seconds after which no other settings are tried; no limit if not given."
    )
    folds: int = _setting(3, "Folds of the training part that settings are judged on.")
    metric: SearchMetric = _setting("loss", "What the best settings have the best of.")

    def __post_init__(self) -> None:
        _require_at_least("trials", self.trials, 1)
        _require_at_least("folds", self.folds, 2)
        _require_at_least("timeout", self.timeout, 0)
        _require_choice("metric", self.metric, SearchMetric)


@dataclass(frozen=True)
class RunConfig:
    """Everything ``finetune`` needs: data, model, training and where the result goes."""

    data: DataConfig
    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    repeat: RepeatConfig = field(default_factory=RepeatConfig)
    output: str | None = None
    cache_size: float | None = _setting(
        None,
        "Gigabytes on disk for activations, kept for later runs on the same texts; 0 for none. "
        "If not given: LASTBLOCK_CACHE_SIZE, or 2.",
    )

    log_to: Tracker | None = _setting(
        None, "Tracker to tell settings, curves and scores to; no texts (extra: tracking)."
    )

    def __post_init__(self) -> None:
        cache_bytes(self.cache_size)
        _require_choice("log_to", self.log_to, Tracker)
        if self.repeat.folds is not None and self.data.time_column is not None:
            raise ConfigError(
                "--folds and --time-column exclude each other: folds mix old and new; give one"
            )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ServeConfig:
    """What the server serves, where it listens, and how much it takes on."""

    models: str = _setting("", "A saved model's folder, or a folder of such folders.")
    host: str = _setting(
        "127.0.0.1", "Address to listen on; any but this machine's own needs --api-key-file."
    )
    port: int = _setting(8000, "Port to listen on.")
    workers: int = _setting(1, "Processes; they share the weights through memory mapping.")
    max_batch_tokens: int = _setting(512, "Tokens, filling included, that are run together.")
    queue: int = _setting(
        512,
        "Texts that may wait, half as many in a burst, few under lasting overload; more are "
        "refused with 429.",
    )
    max_body: int = _setting(1_000_000, "Bytes of a request's body; more are refused with 413.")
    max_file: int = _setting(100_000_000, "Bytes of a file to classify; more get 413.")
    max_texts: int = _setting(256, "Texts in a request; more are refused with 422.")
    max_characters: int = _setting(50_000, "Characters in a text; more are refused with 422.")
    max_seconds: float = _setting(30.0, "Seconds a request may take; after that it gets 503.")
    api_key_file: str | None = _setting(
        None, "File whose first line is the key that requests must carry."
    )
    allow_origin: tuple[str, ...] = _setting(
        (), "Origin whose pages may call the server from a browser; may be given again."
    )

    def __post_init__(self) -> None:
        _require(bool(self.models), "models", self.models, "a folder")
        ports = isinstance(self.port, int) and 0 <= self.port < 65536
        _require(ports, "port", self.port, "a whole number from 0 to 65535")
        for name in ("workers", "max_batch_tokens", "queue", "max_body", "max_file"):
            _require_at_least(name, getattr(self, name), 1)
        for name in ("max_texts", "max_characters"):
            _require_at_least(name, getattr(self, name), 1)
        _require(self.max_seconds > 0, "max_seconds", self.max_seconds, "more than 0")
        if not self.is_loopback and self.api_key_file is None:
            raise ConfigError(
                f"--host {self.host} can be reached by others; give --api-key-file too"
            )
        for origin in self.allow_origin:
            web = origin.startswith(("http://", "https://")) and not origin.endswith("/")
            _require(web, "allow_origin", origin, "such as https://example.org")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach the address."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class Settings:
    """What a recipe resolved to: every choice of a fit, as it is saved with the model.

    ``decay`` is what the learning rate does after ``warmup`` (a share of all steps): "none" or
    "cosine" to zero. ``eval_texts`` texts of each part are judged every ``eval_steps`` steps; where
    that is 0 after the first one, and the whole validation part after each epoch.
    ``keep_best`` keeps the epoch with the lowest validation loss rather than the last. A probe sees
    the mean states after ``summary_depths`` blocks; without any there is none, and no ``lexicon``,
    which is whether words have a say of their own. The decoder reads
    each text in its place in ``prompt``, whose words ``max_length`` does not count. ``calibrate``
    divides logits by a temperature where the validation part allows to fit one.
    """

    recipe: Recipe
    model: str
    seed: int
    depth: int
    trainable_blocks: int
    pooling: Pooling
    max_length: int
    dtype: Precision
    epochs: int
    learning_rate: float
    batch_size: int
    weight_decay: float
    warmup: float
    decay: Literal["none", "cosine"]
    drop_last: bool
    eval_steps: int
    eval_texts: int
    keep_best: bool
    calibrate: bool = False
    train: Trained = "blocks"
    lora_rank: int = 8
    summary_depths: tuple[int, ...] = ()
    lexicon: bool = False
    long_text: LongText = "truncate"
    class_weight: ClassWeight = None
    threshold: str | float | None = None
    abstain_below: float | None = None
    prompt: str = "{text}"
    weights: Weights = "pretrained"
    attention: AttentionKind = "causal"

    def __post_init__(self) -> None:
        object.__setattr__(self, "summary_depths", tuple(self.summary_depths))  # a list in JSON

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)
