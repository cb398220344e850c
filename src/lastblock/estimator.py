"""TextClassifier: fit, predict, predict_proba, score, save, load.

``fit`` is the only wiring of the in-memory take: tokenizer → decoder → settings → classifier →
activations → train. Whoever trains ends here: the file-to-file take, the command line, a grid
search.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import column_or_1d
from torch import Tensor

from lastblock import checkpoint, recipe
from lastblock.activations import open_store
from lastblock.calibration import CALIBRATE_FROM, Calibration, fit_temperature
from lastblock.classifier import SequenceClassifier, make_classifier
from lastblock.config import DEFAULT_MODEL, ModelConfig, Settings, TrainConfig
from lastblock.data.examples import Label, Rows, check_texts
from lastblock.data.split import holdout
from lastblock.decision import Decision
from lastblock.decoder import catalog, hub, loading
from lastblock.depth import Choice, choose_depth
from lastblock.ensemble import add_probe
from lastblock.errors import DataError
from lastblock.explanation import Explanations
from lastblock.inference import TextModel, encode, in_windows
from lastblock.runtime import Progress, Silent, Stopwatch, seed_everything
from lastblock.tokenization.batching import TokenIds
from lastblock.tokenization.tokenizer import Tokenizer
from lastblock.training import Encoded, train_tail

# With fewer training texts than this none are held out to choose the best epoch by: a handful
# would say too little, and be missed.
HOLDOUT_FROM = 1_000
HOLDOUT_FRACTION = 0.1


class TextClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A text classifier made from a pretrained decoder, as a scikit-learn estimator.

    Parameters that are None are chosen by the recipe; ``model_.settings`` holds what it chose.

    Args:
        model: a catalog name, a hub id, a folder or a .gguf file.
        recipe: "auto", or "chapter6" for the book's procedure.
        depth: blocks to keep.
        train: what is trained: "head", "block", "blocks:K", "lora" or "all".
        trainable_blocks: kept blocks to train, counted from the top.
        lora_rank: of the adapters, where train is "lora".
        pooling: "last", "mean", "first" or "padded".
        max_length: tokens a text is cut to.
        long_text: what is read of a longer one: "truncate", "head-tail" or "window".
        dtype: of the frozen prefix: "auto", "float32" or "bfloat16".
        epochs: passes over the training texts.
        learning_rate: peak learning rate of AdamW.
        batch_size: texts in a step.
        weight_decay: of AdamW.
        cache_size: gigabytes on disk for activations, where later fits on the same texts find
            them; 0 for none. If None: LASTBLOCK_CACHE_SIZE, or 2.
        calibrate: whether probabilities are made as sure as they are right, by a temperature
            fitted on validation texts; ``predict`` says the same with and without.
        random_state: seed of everything drawn at random.

    Attributes:
        classes_: the labels (n_classes,), sorted, of the type they were given in.
        model_: the TextModel that predicts.
        history_: losses and accuracies seen while training.
        calibration_: the temperature that the validation texts ask for.
        choice_: how the depth was chosen, as in report.json; None where it was given.
        mixture_: how tail and probe were weighed, likewise; None where there is no probe.
        initial_tail_: the tail's weights before training, by name.
        seconds_: time spent by step.

    Example:
        >>> clf = TextClassifier().fit(texts, labels)  # doctest: +SKIP
        >>> clf.predict(["Are we still on for dinner?"])  # doctest: +SKIP
        array(['ham'], dtype='<U4')
    """

    def __init__(
        self,
        model: str = DEFAULT_MODEL,
        *,
        recipe: str = "auto",
        depth: int | None = None,
        train: str | None = None,
        trainable_blocks: int | None = None,
        lora_rank: int | None = None,
        pooling: str | None = None,
        max_length: int | None = None,
        long_text: str | None = None,
        dtype: str = "auto",
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        weight_decay: float | None = None,
        cache_size: float | None = None,
        calibrate: bool | None = None,
        random_state: int = 123,
    ) -> None:
        self.model = model
        self.recipe = recipe
        self.depth = depth
        self.train = train
        self.trainable_blocks = trainable_blocks
        self.lora_rank = lora_rank
        self.pooling = pooling
        self.max_length = max_length
        self.long_text = long_text
        self.dtype = dtype
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.cache_size = cache_size
        self.calibrate = calibrate
        self.random_state = random_state

    def fit(
        self,
        X: Iterable[str],
        y: Iterable[Label],
        *,
        sample_weight: npt.ArrayLike | None = None,
        validation: tuple[Sequence[str], Sequence[Label]] | None = None,
        progress: Progress | None = None,
    ) -> TextClassifier:
        """Train on texts (n,) and labels (n,), strings or integers.

        ``sample_weight`` (n,) says how much each text counts in the loss.
        ``validation`` (texts, labels) chooses the best epoch and the temperature; without it, a
        tenth of the texts is held out for that where there are enough.

        Raises:
            ConfigError: a setting is out of range or does not fit the decoder.
            DataError: texts or labels cannot be used.
            DownloadError, WeightsError: the decoder cannot be had or read.
        """
        model_config, train_config = self._configs()
        texts, labels = check_texts(X), _check_labels(y)
        self.classes_, numbers = _number(texts, labels)
        progress, watch = progress or Silent(), Stopwatch()
        generator = seed_everything(self.random_state)
        weights = _check_weights(sample_weight, len(texts))
        fit_on, held_out = self._parts(texts, labels, numbers, weights, validation)

        with watch("weights"):
            files = hub.resolve(self.model, progress)
            shape = loading.read_config(files.folder)
            tokenizer = Tokenizer.from_pretrained(files.folder)
        with watch("tokenize"):
            encoded = tokenizer.encode_batch(fit_on[0])
        settings = recipe.resolve(
            model_config,
            train_config,
            shape,
            [len(ids) for ids in encoded],
            catalog.learning_rate(self.model, shape.model_type),
        )
        with watch("tokenize"):
            end = tokenizer.end_of_text
            train = _parted(encode(encoded, settings, end, progress), fit_on, settings)
            validate = None
            if held_out is not None:
                others = encode(tokenizer.encode_batch(held_out[0]), settings, end)
                validate = _parted(others, held_out, settings)
        computed: dict[bytes, Tensor] = {}
        tokens = 0
        self.choice_: dict[str, Any] | None = None
        self.mixture_: dict[str, Any] | None = None
        if recipe.chooses_depth(settings, model_config):
            with watch("activations"):
                choice = self._choose_depth(files, train, settings, progress)
            settings = recipe.at_depth(
                settings, shape, choice.frozen_blocks + settings.trainable_blocks
            )
            progress.say(
                f"{settings.depth} of {shape.num_hidden_layers} blocks kept. {choice.reason}"
            )
            computed, tokens = choice.activations, choice.tokens
            self.choice_ = choice.to_dict()
        with watch("weights"):
            classifier = make_classifier(
                loading.load_decoder(files.folder, depth=settings.depth),
                settings,
                len(self.classes_),
            )
            classifier.set_prefix_dtype(getattr(torch, settings.dtype))
        store = open_store(classifier.prefix_facts(), files, self.cache_size)
        with watch("activations"):
            everything = [*train.sequences, *(validate.sequences if validate else ())]
            store.fill(classifier, everything, progress, computed)
            store.tokens_computed += tokens
        self.initial_tail_ = classifier.tail_state()
        with watch("train"):
            if settings.train == "lora":
                classifier.add_adapters(settings.lora_rank)
            progress.say(f"training {_trainable(classifier)}")
            self.history_ = train_tail(
                classifier, store, train, validate, settings, generator, progress
            )
            classifier.merge_adapters()
            if classifier.probe is not None:
                untrained = self.initial_tail_
                mixture = add_probe(
                    classifier, store, train, validate, settings, untrained, progress
                )
                progress.say(mixture.reason)
                self.mixture_ = mixture.to_dict()
            model = TextModel(tokenizer, classifier, self.classes_.tolist(), settings, store)
            self.calibration_ = _calibrate(model, validate)
        self.model_, self.seconds_ = model, dict(watch.seconds)
        return self

    def _choose_depth(
        self, files: hub.PretrainedFiles, train: Encoded, settings: Settings, progress: Progress
    ) -> Choice:
        """Where to cut the decoder, from the training texts."""
        decoder = loading.load_decoder(files.folder).to(getattr(torch, settings.dtype))
        facts: dict[str, str | int] = {
            "pooled": "last and mean at each candidate",
            "trainable_blocks": settings.trainable_blocks,
            "dtype": settings.dtype,
        }
        return choose_depth(
            decoder,
            train.sequences,
            torch.from_numpy(train.labels),
            settings.trainable_blocks,
            open_store(facts, files, self.cache_size),
            progress,
            None if train.weights is None else torch.from_numpy(train.weights),
        )

    def predict_proba(self, X: Iterable[str]) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes), columns in the order of ``classes_``."""
        self._check_fitted()
        return self.model_.predict_proba(check_texts(X))

    def predict(self, X: Iterable[str]) -> npt.NDArray[Any]:
        """The most probable label of each text, (n,)."""
        probabilities = self.predict_proba(X)
        labels: npt.NDArray[Any] = self.classes_[probabilities.argmax(axis=1)]
        return labels

    def explain(self, X: Iterable[str], label: Label | None = None) -> Explanations:
        """Why each text has its label, or the probability of ``label`` if one is given.

        The contributions of a text's tokens, and those of its words, add up to the log-odds of
        the label less what they are when nothing is read; see ``explanation``. A notebook shows
        them in colour.

        Raises:
            ConfigError: there is no such class.
        """
        self._check_fitted()
        return Explanations(self.model_.explain(text, label) for text in check_texts(X))

    def __sklearn_tags__(self) -> Any:
        """What scikit-learn may know: X is one column of texts, not a table of numbers."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = tags.input_tags.one_d_array = True
        tags.input_tags.two_d_array = False
        return tags

    def save(self, folder: str | Path) -> None:
        """Write a model folder; see ``checkpoint.save``."""
        self._check_fitted()
        checkpoint.save(self.model_, folder)

    @classmethod
    def load(cls, folder: str | Path) -> TextClassifier:
        """Read a model folder; the result predicts, and can be fitted anew."""
        model = checkpoint.load(folder)
        classifier = cls(**_params(model.settings))
        classifier.model_ = model
        classifier.classes_ = np.asarray(model.classes)
        return classifier

    def resolved_params(self) -> dict[str, Any]:
        """This classifier's parameters, with what the recipe chose in place of None."""
        self._check_fitted()
        return self.get_params() | _params(self.model_.settings)

    def _configs(self) -> tuple[ModelConfig, TrainConfig]:
        model = ModelConfig(
            model=self.model,
            depth=self.depth,
            train=self.train,
            trainable_blocks=self.trainable_blocks,
            lora_rank=self.lora_rank,
            pooling=self.pooling,  # type: ignore[arg-type]
            max_length=self.max_length,
            long_text=self.long_text,  # type: ignore[arg-type]
            dtype=self.dtype,  # type: ignore[arg-type]
        )
        train = TrainConfig(
            recipe=self.recipe,  # type: ignore[arg-type]
            seed=self.random_state,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            calibrate=self.calibrate,
        )
        return model, train

    def _parts(
        self,
        texts: list[str],
        labels: list[Label],
        numbers: npt.NDArray[np.int64],
        weights: _Weights,
        validation: tuple[Sequence[str], Sequence[Label]] | None,
    ) -> tuple[_Part, _Part | None]:
        """The texts to train on and those to choose the best epoch by."""
        everything = _part(texts, numbers, weights, np.arange(len(texts)))
        if validation is not None:
            held_out = check_texts(validation[0])
            return everything, (held_out, self.number(validation[1], held_out), None)
        if len(texts) < HOLDOUT_FROM:
            return everything, None
        rows = holdout(texts, labels, fraction=HOLDOUT_FRACTION, seed=self.random_state)
        kept, held = (_part(texts, numbers, weights, some) for some in rows)
        return kept, held

    def number(self, labels: Iterable[Label], texts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Labels (n,) as indices into ``classes_``, int64.

        Raises:
            DataError: a label was not there in training, or there is not one for each text.
        """
        given = _check_labels(labels)
        if len(given) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(given)} labels; each text needs one")
        number = {label: i for i, label in enumerate(self.classes_.tolist())}
        for label in given:
            if label not in number:
                raise DataError(
                    f"label {label!r} was not there in training; known: "
                    + ", ".join(map(repr, list(number)[:20]))
                )
        return np.array([number[label] for label in given], dtype=np.int64)

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            raise NotFittedError("this TextClassifier is not fitted yet; call fit or load first")


def _params(settings: Settings) -> dict[str, Any]:
    """Resolved settings under the names of the estimator's parameters."""
    given = settings.to_dict() | {"random_state": settings.seed}
    if settings.train != "blocks":
        given["trainable_blocks"] = None
    if settings.train != "lora":
        given["lora_rank"] = None
    return {name: given[name] for name in TextClassifier._get_param_names() if name in given}


def _calibrate(model: TextModel, validation: Encoded | None) -> Calibration:
    """Fit the temperature, and put it into force where the settings say so."""
    if validation is None or len(validation) < CALIBRATE_FROM:
        return Calibration(None, 0 if validation is None else len(validation), applied=False)
    temperature = fit_temperature(model.logits(validation.sequences), validation.labels)
    if model.settings.calibrate:
        model.decision = Decision(temperature)
    return Calibration(temperature, len(validation), applied=model.settings.calibrate)


def _parted(sequences: Sequence[TokenIds], part: _Part, settings: Settings) -> Encoded:
    """A part as it is trained on; where long texts are read in windows, window by window.

    Each has its text's label; the windows of a text count together as much as another text.
    """
    _, numbers, weights = part
    if settings.long_text != "window":
        return Encoded(sequences, numbers, weights)
    parts, of = in_windows(sequences, settings)
    shares = 1 / np.bincount(of)[of] * (1.0 if weights is None else weights[of])
    return Encoded(parts, numbers[of], shares / shares.mean())


def _trainable(classifier: SequenceClassifier) -> str:
    """The number of parameters that are trained, of how many."""
    trained = sum(p.numel() for p in classifier.trainable_parameters())
    return f"{trained:,} of {sum(p.numel() for p in classifier.parameters()):,} parameters"


_Weights = npt.NDArray[np.float64] | None
# Texts, class numbers (n,), and weights (n,) with a mean of 1, or None.
_Part = tuple[list[str], npt.NDArray[np.int64], _Weights]


def _part(texts: list[str], numbers: npt.NDArray[np.int64], weights: _Weights, rows: Rows) -> _Part:
    if weights is not None:
        weights = weights[rows]
        weights = weights / (weights.mean() or 1.0)
    return [texts[i] for i in rows], numbers[rows], weights


def _check_weights(weights: npt.ArrayLike | None, n: int) -> _Weights:
    if weights is None:
        return None
    checked = np.asarray(weights, dtype=np.float64)
    if checked.shape != (n,) or not np.isfinite(checked).all() or checked.min() < 0:
        raise DataError(
            f"sample_weight of shape {checked.shape} does not fit; give {n} finite numbers, one "
            "for each text, none of them negative"
        )
    if not checked.any():
        raise DataError("sample_weight is zero for every text; nothing is left to learn from")
    return checked


def _check_labels(labels: Iterable[Label]) -> list[Label]:
    """Labels as plain Python values (numpy's own scalars become the values they hold)."""
    if labels is None:
        raise DataError("TextClassifier requires y to be passed, but the target y is None")
    if hasattr(labels, "__array__"):
        labels = column_or_1d(labels, warn=True)  # takes (n, 1), with a warning
    given = [label.item() if isinstance(label, np.generic) else label for label in labels]
    for i, label in enumerate(given):
        whole = isinstance(label, float) and label.is_integer()  # as scikit-learn has it
        if not (isinstance(label, str | int) or whole):
            raise DataError(
                f"label {i} is {label!r} of type {type(label).__name__}; labels must be strings "
                "or whole numbers, nothing continuous"
            )
    return given


def _number(
    texts: list[str], labels: list[Label]
) -> tuple[npt.NDArray[Any], npt.NDArray[np.int64]]:
    """Sorted classes (n_classes,) and each label's index in them (n,)."""
    if len(texts) != len(labels):
        raise DataError(f"{len(texts)} texts but {len(labels)} labels; each text needs one")
    if not texts:
        raise DataError("there are no texts to learn from")
    if len({type(label) for label in labels}) > 1:
        raise DataError("labels are of different types; give all as strings or all as integers")
    classes, numbers = np.unique(np.asarray(labels), return_inverse=True)
    if len(classes) < 2:
        raise DataError(f"there is one class only ({classes.tolist()}); a classifier needs two")
    return classes, numbers.astype(np.int64)
