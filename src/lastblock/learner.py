"""Learner: from texts and labels in memory to a classifier that predicts, without scikit-learn.

``fit`` is the only wiring of the in-memory take: tokenizer → decoder → settings → classifier →
activations → train. Whoever trains ends here: the file-to-file take, the command line, a grid
search. To import scikit-learn takes a second, for which ``lastblock train`` does not wait:
``estimator.TextClassifier`` is this as one of its estimators.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from lastblock import calibration, checkpoint, recipe
from lastblock.activations import ActivationStore, open_store
from lastblock.calibration import CALIBRATE_FROM, Calibration, fit_temperature
from lastblock.classifier import SequenceClassifier, make_classifier
from lastblock.config import (
    DEFAULT_MODEL,
    ClassWeight,
    LabelForm,
    ModelConfig,
    Settings,
    ThresholdRule,
    TrainConfig,
    cache_bytes,
)
from lastblock.data.examples import Label, Rows, check_texts
from lastblock.data.split import holdout
from lastblock.decision import UNSURE, Decision, with_thresholds
from lastblock.decoder import catalog, hub, kernels, loading
from lastblock.decoder.decoder import Decoder
from lastblock.decoder.precision import precision_facts, set_precision
from lastblock.depth import Choice, candidates, choose_depth
from lastblock.ensemble import add_readers, cross_validates, learn_words
from lastblock.errors import ConfigError, DataError
from lastblock.explanation import Explanations
from lastblock.inference import TextModel, as_read, encode, in_windows, over_windows, texts_of
from lastblock.runtime import Progress, Silent, Stopwatch, one_beside, seed_everything
from lastblock.targets import Numbers, Targets, class_weights, read_targets, weigh
from lastblock.tokenization.batching import Frame, TokenIds
from lastblock.tokenization.tokenizer import Tokenizer
from lastblock.training import Encoded, start_at_shares, train_tail

# With fewer training texts than this none are held out to choose the best epoch by: a handful
# would say too little, and be missed.
HOLDOUT_FROM = 1_000
HOLDOUT_FRACTION = 0.1


class Learner:
    """All of ``TextClassifier``, which says what it takes and has, but scikit-learn's part."""

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
        prompt: str | None = None,
        lexicon: bool | None = None,
        weights: str = "pretrained",
        attention: str = "causal",
        dtype: str = "auto",
        epochs: int | None = None,
        learning_rate: float | None = None,
        batch_size: int | None = None,
        weight_decay: float | None = None,
        cache_size: float | None = None,
        calibrate: bool | None = None,
        class_weight: ClassWeight = None,
        threshold: str | float | None = None,
        abstain_below: float | None = None,
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
        self.prompt = prompt
        self.lexicon = lexicon
        self.weights = weights
        self.attention = attention
        self.dtype = dtype
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.weight_decay = weight_decay
        self.cache_size = cache_size
        self.calibrate = calibrate
        self.class_weight = class_weight
        self.threshold = threshold
        self.abstain_below = abstain_below
        self.random_state = random_state

    def fit(
        self,
        X: Iterable[str],
        y: Iterable[Any],
        *,
        sample_weight: npt.ArrayLike | None = None,
        validation: tuple[Sequence[str], Sequence[Any]] | None = None,
        later: Sequence[str] = (),
        progress: Progress | None = None,
    ) -> Self:
        """Train on texts (n,) and labels (n,), strings or integers.

        Where a text may have several labels, or none, they are lists (n,), or a matrix
        (n, n_classes) of zeros and ones. ``sample_weight`` (n,) says how much each text counts in
        the loss. ``validation`` (texts, labels) chooses the best epoch, the temperature and the
        thresholds; without it, a tenth of the texts is held out for that where there are enough.
        Of few texts thresholds are chosen by cross-validation. Nothing is learnt from texts that
        are asked about ``later``: what the frozen blocks make of them is computed, and kept, along
        with the others'.

        Raises:
            ConfigError: a setting is out of range or does not fit the decoder.
            DataError: texts or labels cannot be used.
            DownloadError, WeightsError: the decoder cannot be had or read.
        """
        model_config, train_config = self._configs()
        texts, targets = check_texts(X), read_targets(y)
        self.classes_ = targets.classes
        _check_learnable(texts, targets)
        progress, watch = progress or Silent(), Stopwatch()
        generator = seed_everything(self.random_state)
        weights = _check_weights(sample_weight, len(texts))
        fit_on, held_out = self._parts(texts, targets, weights, validation)
        decision = Decision(labels=targets.form, abstain_below=self.abstain_below)
        _check_decision(decision, train_config, targets.classes)

        with watch("weights"):
            files = hub.resolve(self.model, progress)
            shape = loading.read_config(files.folder)
            tokenizer = Tokenizer.from_pretrained(files.folder)
        with watch("tokenize"):
            encoded = tokenizer.encode_batch(fit_on[0])
            frame = tokenizer.frame(model_config.prompt or recipe.PROMPT)
        settings = recipe.resolve(
            model_config,
            train_config,
            shape,
            [len(ids) for ids in encoded],
            catalog.learning_rate(self.model, shape.model_type),
            len(frame),
        )
        with watch("tokenize"):
            frame = tokenizer.frame(settings.prompt)
            sample = torch.from_numpy(frame.around(tokenizer.encode_batch([recipe.SAMPLE])[0]))
            before = torch.from_numpy(frame.before)
            train = _windowed(encode(encoded, settings, frame, progress), fit_on, settings, frame)
            del encoded
            validate = judged = None
            if held_out is not None:
                judged = Encoded(
                    encode(tokenizer.encode_batch(held_out[0]), settings, frame), held_out[1]
                )
                validate = _windowed(judged.sequences, held_out, settings, frame)
            others = encode(tokenizer.encode_batch(check_texts(later)), settings, frame)
        held = 0 if judged is None else len(judged)
        turns = bool(settings.summary_depths) and cross_validates(train, validate)
        _check_threshold(settings, max(held, train.texts if turns else 0))
        computed: dict[bytes, Tensor] = {}
        climbed: Decoder | None = None
        tokens = 0
        self.choice_: dict[str, Any] | None = None
        self.mixture_: dict[str, Any] | None = None
        in_turn: Tensor | None = None
        known = _known_by(files, settings, self.cache_size)
        if recipe.chooses_depth(settings, model_config):
            with watch("activations"):
                climbed = _load_to_climb(files, settings, sample, before, known)
                choice = self._choose_depth(files, climbed, train, settings, progress)
            settings = recipe.at_depth(
                settings, shape, choice.frozen_blocks + settings.trainable_blocks
            )
            progress.say(
                f"{settings.depth} of {shape.num_hidden_layers} blocks kept. {choice.reason}"
            )
            computed, tokens = choice.activations, choice.tokens
            self.choice_ = choice.to_dict()
        with watch("weights"):
            decoder = _load(files, settings, settings.depth)
            # A lexicon joins in the end, if it is worth it.
            wordless = replace(settings, lexicon=False)
            classifier = make_classifier(decoder, wordless, len(self.classes_))
            classifier.set_prefix_precision(settings.dtype, sample, climbed, weights=known)
            del climbed
            decoder.begin_with(before)
            if settings.dtype == "int8":
                progress.say(
                    "frozen blocks multiply in 8-bit integers, which is fastest here and nearly as "
                    "exact as float32 (--dtype float32 for that)"
                )
                if not kernels.available():
                    progress.say(
                        "lastblock was installed without its compiled part, or this processor is "
                        "not among those it is for: torch multiplies them, which takes longer"
                    )
        store = open_store(
            classifier.prefix_facts() | _begun_with(settings), files, self.cache_size
        )
        words_of, learnt = partial(texts_of, tokenizer=tokenizer, frame=frame), None
        thread = one_beside()
        try:
            if settings.lexicon:  # which needs no activations, and hardly more than a thread
                texts = words_of(train.sequences)
                learnt = thread.submit(learn_words, train, texts, len(self.classes_)).result
            thread.submit(calibration.get_ready)
            with watch("activations"):
                everything = [*train.sequences, *(validate.sequences if validate else ())]
                store.fill(classifier, everything, progress, computed)
                # By themselves, as they must not change what stands beside the others, nor whether
                # these find room.
                store.fill(classifier, as_read(others, settings, frame), progress)
                store.tokens_computed += tokens
        finally:  # whoever interrupts does not wait for words, and they may go on while it trains
            thread.shutdown(wait=False)
        if decision.multilabel:
            start_at_shares(classifier, train)
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
                mixture, in_turn = add_readers(
                    classifier,
                    store,
                    train,
                    validate,
                    settings,
                    untrained,
                    progress,
                    words_of,
                    learnt,
                )
                settings = replace(settings, lexicon=classifier.lexicon is not None)
                progress.say(mixture.reason)
                self.mixture_ = mixture.to_dict()
            names = self.classes_.tolist()
            model = TextModel(tokenizer, classifier, names, settings, store, decision)
            unseen = None if in_turn is None else in_turn.double().numpy()
            if unseen is not None and train.of is not None:
                unseen = over_windows(unseen, train.of)
            self.calibration_ = _decide(model, judged, fit_on[1], unseen, progress)
        self.model_, self.seconds_ = model, dict(watch.seconds)
        return self

    def _choose_depth(
        self,
        files: hub.PretrainedFiles,
        decoder: Decoder,
        train: Encoded,
        settings: Settings,
        progress: Progress,
    ) -> Choice:
        """Where to cut the decoder, from the training texts."""

        def states(depth: int) -> ActivationStore:
            facts: dict[str, str | int] = {
                "pooled": f"mean and last after {depth}",
                "dtype": precision_facts(decoder, depth, settings.dtype),
                **_begun_with(settings),
            }
            return open_store(facts, files, self.cache_size)

        labels, weights = train.tensors()
        return choose_depth(
            decoder,
            train.sequences,
            labels,
            settings.trainable_blocks,
            states,
            progress,
            weights,
            train.of,
        )

    def predict_proba(self, X: Iterable[str]) -> npt.NDArray[np.float64]:
        """Probabilities (n, n_classes), columns in the order of ``classes_``."""
        self._check_fitted()
        return self.model_.predict_proba(check_texts(X))

    def predict(self, X: Iterable[str]) -> npt.NDArray[Any] | list[list[Label]]:
        """The label of each text, as it was given: the most probable one, or as thresholds say.

        An array (n,); where a text may have several labels, a list of n lists, or the matrix
        (n, n_classes), int64, of zeros and ones if they were given as one. "unsure" stands where
        ``abstain_below`` has it so.
        """
        probabilities = self.predict_proba(X)
        decision = self.model_.decision
        chosen, unsure = decision.chosen(probabilities), decision.unsure(probabilities)
        if decision.labels == "columns":
            return chosen.astype(np.int64)
        if decision.labels == "several":
            pairs = zip(chosen, unsure, strict=True)
            return [[UNSURE] if is_open else self.classes_[row].tolist() for row, is_open in pairs]
        labels: npt.NDArray[Any] = self.classes_[chosen.argmax(axis=1)]
        if decision.abstain_below is None:
            return labels
        return np.where(unsure, UNSURE, labels.astype(object))

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

    def save(self, folder: str | Path) -> None:
        """Write a model folder; see ``checkpoint.save``."""
        self._check_fitted()
        checkpoint.save(self.model_, folder)

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Read a model folder; the result predicts, and can be fitted anew."""
        model = checkpoint.load(folder)
        classifier = cls(**params_of(model.settings))
        classifier.model_ = model
        classifier.classes_ = np.asarray(model.classes)
        return classifier

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
            prompt=self.prompt,
            lexicon=self.lexicon,
            weights=self.weights,  # type: ignore[arg-type]
            attention=self.attention,  # type: ignore[arg-type]
            dtype=self.dtype,  # type: ignore[arg-type]
        )
        weight = self.class_weight
        train = TrainConfig(
            recipe=self.recipe,  # type: ignore[arg-type]
            seed=self.random_state,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            weight_decay=self.weight_decay,
            calibrate=self.calibrate,
            # By name, as it is saved.
            class_weight={str(k): w for k, w in weight.items()}
            if isinstance(weight, Mapping)
            else weight,
            threshold=self.threshold,
            abstain_below=self.abstain_below,
        )
        return model, train

    def _parts(
        self,
        texts: list[str],
        targets: Targets,
        weights: _Weights,
        validation: tuple[Sequence[str], Sequence[Any]] | None,
    ) -> tuple[_Part, _Part | None]:
        """The texts to train on and those to choose the best epoch by."""
        numbers = targets.numbers(self.classes_.tolist())
        kept, held = np.arange(len(texts)), None
        if validation is None and len(texts) >= HOLDOUT_FROM:
            kept, held = holdout(
                texts, targets.labels, fraction=HOLDOUT_FRACTION, seed=self.random_state
            )
        rule, of_class = self.class_weight, None
        if rule is not None:
            of_class = class_weights(rule, numbers[kept], self.classes_.tolist())
        train = _part(texts, numbers, weights, of_class, kept)
        if validation is not None:
            given = check_texts(validation[0])
            their_numbers = self._number(validation[1], given, targets.form)
            return train, _part(given, their_numbers, None, of_class, np.arange(len(given)))
        return train, None if held is None else _part(texts, numbers, weights, of_class, held)

    def number(self, labels: Any, texts: Sequence[str]) -> Numbers:
        """Labels as indices into ``classes_`` (n,); or of several a matrix (n, n_classes), bool.

        Raises:
            DataError: a label was not there in training, or there is not one for each text; or
                there are several labels a text, and this classifier gives one.
        """
        self._check_fitted()
        return self._number(labels, texts, self.model_.decision.labels)

    def _number(self, labels: Any, texts: Sequence[str], form: LabelForm) -> Numbers:
        targets = read_targets(labels).for_form(form)
        if len(targets) != len(texts):
            raise DataError(f"{len(texts)} texts but {len(targets)} labels; each text needs one")
        return targets.numbers(self.classes_.tolist())

    def _check_fitted(self) -> None:
        if not hasattr(self, "model_"):
            from sklearn.exceptions import NotFittedError

            raise NotFittedError("this TextClassifier is not fitted yet; call fit or load first")


def params_of(settings: Settings) -> dict[str, Any]:
    """Resolved settings under the names of the learner's parameters."""
    given = settings.to_dict() | {"random_state": settings.seed}
    if settings.train != "blocks":
        given["trainable_blocks"] = None
    if settings.train != "lora":
        given["lora_rank"] = None
    if settings.lexicon:  # which would be refused where another depth leaves nothing frozen
        given["lexicon"] = None
    names = inspect.signature(Learner).parameters
    return {name: given[name] for name in names if name in given}


def _check_learnable(texts: Sequence[str], targets: Targets) -> None:
    if len(texts) != len(targets):
        raise DataError(f"{len(texts)} texts but {len(targets)} labels; each text needs one")
    if not texts:
        raise DataError("there are no texts to learn from")
    if len(texts) == 1:
        raise DataError("there is one text only; one sample tells no classes apart, give more")
    if len(targets.classes) < 2:
        classes = targets.classes.tolist()
        raise DataError(f"there is one class only ({classes}); a classifier needs two")


def _check_decision(decision: Decision, train: TrainConfig, classes: npt.NDArray[Any]) -> None:
    """Refuse, before anything is trained, what could not be decided afterwards."""
    if train.threshold is not None and not decision.multilabel and len(classes) != 2:
        raise ConfigError(
            f"--threshold is for two classes, or several labels a text; of {len(classes)} "
            "classes the most probable is given (see --abstain-below)"
        )
    if decision.abstain_below is not None:
        if decision.labels == "columns":
            raise ConfigError("--abstain-below has no place in a matrix of zeros and ones")
        if UNSURE in classes.tolist():
            raise ConfigError(f"a class is called {UNSURE!r}; rename it to use --abstain-below")


def _check_threshold(settings: Settings, texts: int) -> None:
    """Refuse a threshold that there are too few texts to choose by."""
    rule = None if settings.threshold is None else ThresholdRule.parse(settings.threshold)
    if rule is not None and rule.kind != "at" and texts < CALIBRATE_FROM:
        raise ConfigError(
            f"--threshold {settings.threshold} is chosen on texts that are not learnt from at the "
            f"time, of which there are {texts}; give {CALIBRATE_FROM} or more, or a number"
        )


def _decide(
    model: TextModel,
    validation: Encoded | None,
    trained_on: Numbers,
    unseen: npt.NDArray[np.float64] | None,
    progress: Progress,
) -> Calibration:
    """Fit the temperature on validation texts, and choose thresholds on them or in turn.

    In turn is where these are few and ``unseen``, logits (n, k), is what was said of each training
    text when the weights were fitted without it.
    """
    settings = model.settings
    rule = threshold_rule(settings.threshold, model.decision.multilabel)
    if rule is not None and rule.kind == "at":
        model.decision = model.decision.at(rule.values[0], len(model.classes))
        rule = None
    held_out = 0 if validation is None else len(validation)
    temperature = None
    if validation is not None and held_out >= CALIBRATE_FROM:
        which, truth = "validation texts", validation.labels
        logits = model.logits(validation.sequences)
        temperature = fit_temperature(logits, truth)
        if settings.calibrate:
            model.decision = replace(model.decision, temperature=temperature)
    elif unseen is not None and len(unseen) >= CALIBRATE_FROM:
        which, truth, logits = "training texts, each by a model without it", trained_on, unseen
    else:
        rule = None
    if rule is not None:
        said = model.decision.probabilities(logits)
        model.decision = with_thresholds(model.decision, rule, truth, said)
        progress.say(_reached(model, truth, said, which))
    applied = temperature is not None and settings.calibrate
    return Calibration(temperature, held_out, applied)


def threshold_rule(given: str | float | None, multilabel: bool) -> ThresholdRule | None:
    """What thresholds are chosen for, by the setting; None where there are none."""
    if given is None:
        return ThresholdRule("f1") if multilabel else None
    return ThresholdRule.parse(given)


def _reached(model: TextModel, truth: Numbers, said: npt.NDArray[np.float64], which: str) -> str:
    """The thresholds, and what they reach on the texts they were chosen on, in a sentence."""
    chosen = model.decision.chosen(said)
    has = truth if truth.ndim == 2 else truth[:, None] == np.arange(len(model.classes))
    if not model.decision.multilabel:
        chosen, has = chosen[:, 1], has[:, 1]
    right, given, true = (chosen & has).sum(), chosen.sum(), has.sum()
    precision, recall = right / max(given, 1), right / max(true, 1)
    return (
        f"{model.decision.describe(model.class_names)}: precision {precision:.3f}, recall "
        f"{recall:.3f} on the {len(truth):,} {which}."
    )


def _windowed(
    sequences: Sequence[TokenIds], part: _Part, settings: Settings, frame: Frame
) -> Encoded:
    """A part as it is trained on; where long texts are read in windows, window by window.

    Each has its text's label; the windows of a text count together as much as another text.
    """
    _, numbers, weights = part
    if settings.long_text != "window":
        return Encoded(sequences, numbers, weights)
    parts, of = in_windows(sequences, settings, frame)
    shares = 1 / np.bincount(of)[of]
    if numbers.ndim == 2:
        shares = shares[:, None]
    shares = shares * (1.0 if weights is None else weights[of])
    return Encoded(parts, numbers[of], shares / shares.mean(), of)


def _load(files: hub.PretrainedFiles, settings: Settings, depth: int) -> Decoder:
    """The decoder to begin with, cut at a depth."""
    if settings.weights == "random":
        return loading.random_decoder(files.folder, settings.seed, depth=depth)
    return loading.load_decoder(files.folder, depth=depth)


def _load_to_climb(
    files: hub.PretrainedFiles,
    settings: Settings,
    sample: Tensor,
    before: Tensor,
    known: str | None,
) -> Decoder:
    """The decoder up to the highest depth that comes into question, in what it computes in.

    ``sample`` is for int8, and what its weights are ``known`` by; all texts have token ids
    ``before`` them.
    """
    n_layers = loading.read_config(files.folder).num_hidden_layers
    highest = candidates(n_layers, settings.trainable_blocks)[-1]
    decoder = _load(files, settings, highest)
    decoder.set_attention(settings.attention)
    set_precision(decoder, highest, settings.dtype, sample, weights=known)
    decoder.begin_with(before)
    return decoder


def _known_by(
    files: hub.PretrainedFiles, settings: Settings, cache_size: float | None
) -> str | None:
    """What weights to begin with are told from others by, if anything may be kept of them."""
    if settings.weights == "random" or not cache_bytes(cache_size):
        return None
    return hub.content_of(files)


def _begun_with(settings: Settings) -> dict[str, str | int]:
    """What activations are kept by besides the pretrained weights, where it is not these."""
    return {} if settings.weights == "pretrained" else {"random weights": settings.seed}


def _trainable(classifier: SequenceClassifier) -> str:
    """The number of parameters that are trained, of how many."""
    trained = sum(p.numel() for p in classifier.trainable_parameters())
    return f"{trained:,} of {classifier.size:,} parameters"


_Weights = npt.NDArray[np.float64] | None
# Texts, what is to be learnt of them, and what each counts for, or None, as ``Encoded`` has it.
_Part = tuple[list[str], Numbers, _Weights]


def _part(
    texts: list[str], numbers: Numbers, weights: _Weights, of_class: _Weights, rows: Rows
) -> _Part:
    """Some rows, with the weights (n,) of the texts and those of their classes multiplied."""
    numbers = numbers[rows]
    if weights is not None:
        weights = weights[rows] if numbers.ndim == 1 else weights[rows, None]
    if of_class is not None:
        weights = weigh(numbers, of_class) * (1.0 if weights is None else weights)
    if weights is not None:
        weights = weights / (weights.mean() or 1.0)
    return [texts[i] for i in rows], numbers, weights


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
