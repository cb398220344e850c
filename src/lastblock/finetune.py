"""finetune(config): the whole take, file to file, top to bottom. Read this first.

    read → inspect → balance → split → fit (tokenize, load, cut, cache, train) → evaluate → save

Knows files and reports; what happens in memory between texts and a trained model is
``TextClassifier.fit``. Prints nothing.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lastblock import checkpoint, tracking
from lastblock.beside import Asked, Here, Says
from lastblock.calibration import CALIBRATE_FROM
from lastblock.config import NO_SEPARATOR, DataConfig, ReadOptions, RunConfig
from lastblock.data.balance import undersample
from lastblock.data.catalog import load_examples
from lastblock.data.examples import Examples, Rows, Split
from lastblock.data.inspection import (
    check_trainable,
    count_shared,
    inspect,
    normalise,
)
from lastblock.data.label_sets import known_separator
from lastblock.data.near_duplicates import near_duplicate_groups
from lastblock.data.split import (
    folds,
    hash_split,
    holdout,
    read_split,
    shuffled_split,
    split_record,
    stratified_split,
    time_split,
)
from lastblock.data.survey import survey
from lastblock.data.table import listed
from lastblock.decision import Decision, with_thresholds
from lastblock.errors import ConfigError, DataError
from lastblock.evaluation import events, operating_points
from lastblock.inference import TextModel
from lastblock.judging import (
    MOST_MISTAKES,
    draw_curves,
    judge,
    judge_calibration,
    surest_mistakes,
)
from lastblock.learner import Learner, threshold_rule
from lastblock.recipe import DATA_RULES, DataRules
from lastblock.report import begin_pictures, write_report
from lastblock.runtime import Progress, Silent, Stopwatch, one_beside
from lastblock.targets import Numbers, read_targets
from lastblock.tokenization.batching import TokenIds

if TYPE_CHECKING:
    from lastblock.estimator import TextClassifier

# Shares of a file that each part gets: the book's, in both recipes.
FRACTIONS = {"train": 0.7, "validation": 0.1, "test": 0.2}
HELD_OUT = ("validation", "test")

PREDICTIONS, OUT_OF_FOLD = "predictions.csv", "out-of-fold.csv"
# Mistakes that are explained word by word, and the tokens that each explanation may read: little,
# beside what was read to learn from.
MOST_EXPLAINED, EXPLAIN_TOKENS = 4, 512
# Classes whose sizes are said; the report has all of them.
MOST_CLASSES = 20
# A label is doubted from this probability of another answer on.
DOUBT_FROM = 0.9
MOST_COVERAGE_POINTS = 100
# Texts of each part that say what the classifier knew before training: that is chance, nearly.
MOST_BEFORE = 300
_DEFAULTS = ReadOptions()

Probabilities = npt.NDArray[np.float64]
Parts = dict[str, Examples]  # "train", "validation", "test", in this order
# Examples, the part or the fold that each stands in, and what was said and chosen for them.
Judged = tuple[Examples, Sequence[object], Probabilities, npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class FinetuneResult:
    """What was trained, everything known about it, and where it was saved."""

    learner: Learner
    report: dict[str, Any]
    folder: Path | None

    @cached_property
    def classifier(self) -> TextClassifier:
        """The learner as a scikit-learn estimator."""
        from lastblock.estimator import TextClassifier

        return TextClassifier.of(self.learner)


def finetune(
    config: RunConfig, progress: Progress | None = None, beside: Here | None = None
) -> FinetuneResult:
    """Train a classifier on a data file and save it with its report.

    ``beside``: who fits the baseline and draws the report's pictures.

    Raises:
        LastblockError: with one line that says what, where and what to do.
    """
    progress, watch, beside = progress or Silent(), Stopwatch(), beside or Here()
    target = None if config.output is None else checkpoint.check_target(config.output)
    if config.log_to is not None:
        tracking.check(config.log_to)
    with watch("total"):
        rules = DATA_RULES[config.train.recipe]
        examples, found = read(config.data, progress)
        parts = split(examples, config, rules, progress)
        # Whoever works in another process does so while this one goes on.
        rival = _begin_baseline(config, parts, beside)
        folds, out = _folds(config, examples, parts, progress)
        learner = _fit(config, parts, progress)
        chosen = {"choice": learner.choice_} if learner.choice_ else {}
        drawn = [begin_pictures({**chosen, "history": learner.history_.to_dict()}, beside)]
        with watch("tokenize"):
            encoded = _encode(learner, parts)
        with watch("evaluate"):
            truth = {name: _numbers(learner, parts[name]) for name in encoded}
            scores, said = _scores(learner, encoded, truth)
            drawn.append(begin_pictures({"data": found, **scores}, beside))
            before = _scores_before(learner, encoded, truth)
            doubts = _doubts(learner, parts, truth, said)
            baseline = _baseline_scores(learner, parts["train"], truth, rival(), beside)
        seeds = _seeds(config, learner, parts, scores["splits"], progress)
    shared = count_shared(parts["train"].texts, parts["test"].texts)
    report = {
        "data": {
            "source": examples.source,
            **found,
            "test_texts_in_train": shared,
            "notes": list(examples.notes),
        },
        "split": {"how": _how_split(config.data, rules), "seed": config.train.seed},
        "settings": {
            **learner.model_.settings.to_dict(),
            "balance": _balance(config, rules),
        },
        **chosen,
        **({"mixture": learner.mixture_} if learner.mixture_ else {}),
        **scores,
        **doubts,
        "before_training": before,
        "baseline": baseline,
        **folds,
        **seeds,
        "seconds": _add(learner.seconds_, watch.seconds),
        "tokens": learner.model_.store.tokens_computed,
    }
    if target is not None:
        with checkpoint.staged(target) as folder, one_beside() as thread:
            weights = thread.submit(checkpoint.write, learner.model_, folder)
            record = json.dumps(split_record(parts, examples.source))
            (folder / "split.json").write_text(record, encoding="utf-8")
            names, decision = learner.model_.class_names, learner.model_.decision
            judged = [
                (parts[part], [part] * len(of), of, decision.chosen(of))
                for part, of in said.items()
            ]
            _write_predictions(folder / PREDICTIONS, "part", judged, names)
            if out is not None:
                _write_predictions(folder / OUT_OF_FOLD, "fold", *out)
            write_report(folder, report, learner.history_, others=weights, drawn=drawn)
    if config.log_to is not None:
        name = Path(config.output or examples.source).name
        tracking.log(config.log_to, name, report, learner.history_)
    return FinetuneResult(learner, report, target)


def read(data: DataConfig, progress: Progress) -> tuple[Examples, dict[str, Any]]:
    """READ and INSPECT: the examples, and what was found; it is said in plain words too."""
    examples = load_examples(
        data.data,
        text_column=data.text_column,
        label_column=data.label_column,
        options=data,
        keep=[name for name in (data.group_column, data.time_column) if name is not None],
        progress=progress,
    )
    check_trainable(examples)
    for note in examples.notes:
        progress.say(note)
    found = inspect(examples)
    largest = [f"{count:,} {name}" for name, count in [*found.classes.items()][:MOST_CLASSES]]
    smaller = len(found.classes) - len(largest)
    more = f" and {smaller} smaller class{'es' if smaller > 1 else ''}" if smaller else ""
    progress.say(
        f"{examples.source}: {found.rows:,} rows ({', '.join(largest)}{more}); "
        f"{found.duplicates:,} repeat an earlier row's text"
    )
    findings = survey(examples, quick=True).findings
    for finding in findings:
        if finding.level == "warning" and finding.kind != "duplicates":  # those are said above
            progress.say(f"warning: {finding.message}")
    return examples, {**found.to_dict(), "findings": [asdict(finding) for finding in findings]}


def split(examples: Examples, config: RunConfig, rules: DataRules, progress: Progress) -> Parts:
    """BALANCE and SPLIT: train, validation and test, from one file or the files given."""
    seed = config.train.seed
    balance = _balance(config, rules)
    if balance == "undersample" and examples.separator is not None:
        raise ConfigError(
            "classes cannot be balanced where a text may have several (--balance undersample, "
            "and the book's recipe); use --class-weight balanced, or --label-separator none"
        )
    if balance == "undersample":
        examples = examples.take(undersample(examples.labels, seed=seed))
        progress.say(
            f"balanced before the split: {len(examples):,} rows, the same number from every "
            "class; the scores are those of a balanced set"
        )
    parts = _draw(examples, config.data, rules, seed, progress)
    sizes = " / ".join(f"{len(part):,}" for part in parts.values())
    progress.say(f"split into train / validation / test: {sizes}")
    _check_known(parts, config.data)
    untested = sorted(_names(parts["train"]) - _names(parts["test"]))
    if untested:
        progress.say(
            f"warning: not in the test part, so not scored: {listed(untested)}; their texts are "
            "too few, or too much alike (--keep-together equal parts near duplicates)"
        )
    return parts


def _check_known(parts: Parts, data: DataConfig) -> None:
    """Refuse a part with labels that nothing is learnt of, before anything is."""
    known = _names(parts["train"])
    for name in ("validation", "test"):
        part, file = parts[name], getattr(data, name)
        unknown = sorted(_names(part) - known)
        if unknown:
            rows = sum(not known.issuperset(map(str, of)) for of in part.label_sets)
            raise DataError(
                f"{file or f'the {name} part'}: labels that no training text has: {listed(unknown)}"
                f" (rows: {rows:,}); leave these rows out, or train on such texts too"
            )


def _names(examples: Examples) -> set[str]:
    return {str(label) for of in examples.label_sets for label in of}


def _load_part(path: str, data: DataConfig, like: Examples, progress: Progress) -> Examples:
    """A validation or test file, read ``like`` DATA, with what there is to say about it."""
    data = replace(data, label_separator=like.separator or NO_SEPARATOR)
    part = load_examples(
        path,
        text_column=data.text_column,
        label_column=data.label_column,
        options=data,
        progress=progress,
    )
    for note in part.notes:
        progress.say(note)
    return part


def _draw(
    examples: Examples, data: DataConfig, rules: DataRules, seed: int, progress: Progress
) -> Parts:
    given = {
        name: _load_part(path, data, examples, progress)
        for name, path in (("validation", data.validation), ("test", data.test))
        if path is not None
    }
    _check_split(data, given, rules)
    if len(given) == 2:
        drawn = {"train": examples}
    elif given:
        # One part came as a file: the other is drawn from DATA at the share it always has.
        missing = "test" if "validation" in given else "validation"
        fraction = FRACTIONS[missing] / (1 - sum(FRACTIONS[name] for name in given))
        kept, held = holdout(
            examples.texts,
            examples.targets,
            fraction=fraction,
            seed=seed,
            groups=groups_of(examples, data, rules),
        )
        drawn = {"train": examples.take(kept), missing: examples.take(held)}
    else:
        rows = _split_rows(examples, data, rules, seed)
        drawn = {name: examples.take(getattr(rows, name)) for name in FRACTIONS}
    together = drawn | given
    return {name: together[name] for name in FRACTIONS}


def _split_rows(examples: Examples, data: DataConfig, rules: DataRules, seed: int) -> Split:
    fractions = (FRACTIONS["train"], FRACTIONS["validation"], FRACTIONS["test"])
    if data.time_column is not None:
        return time_split(examples.columns[data.time_column], fractions=fractions)
    if data.split == "hash":
        of = None if data.group_column is None else examples.columns[data.group_column]
        return hash_split(examples.texts, fractions=fractions, seed=seed, groups=of)
    if data.split not in (None, "stratified"):
        return read_split(str(data.split), examples)
    if rules.keep_together or data.split == "stratified":
        groups = groups_of(examples, data, rules)
        return stratified_split(
            examples.texts, examples.targets, fractions=fractions, seed=seed, groups=groups
        )
    return shuffled_split(len(examples), seed=seed)


def _how_split(data: DataConfig, rules: DataRules) -> str:
    """The way ``_draw`` takes, in a sentence for the report."""
    given = [name for name in ("validation", "test") if getattr(data, name) is not None]
    if len(given) == 2:
        return "Validation and test texts come from files of their own."
    if data.time_column is not None:
        return f"By {data.time_column}: it learns from the oldest texts, the newest judge it."
    if data.split == "hash":
        return "By each text alone: it stays where it is when rows are added."
    if data.split not in (None, "stratified"):
        return f"As in {Path(data.split).name}."
    if not (given or data.split or rules.keep_together):
        return "At random, row by row, as in the book; equal texts may stand on both sides."
    near = (data.keep_together or rules.keep_together) == "near"
    together = "near duplicates" if near else "equal texts"
    if data.group_column is not None:
        together += f" and those of the same {data.group_column}"
    how = f"At random, each part with its share of every class; {together} stay on one side."
    return f"{how} The {given[0]} texts come from a file of their own." if given else how


def groups_of(examples: Examples, data: DataConfig, rules: DataRules) -> list[Sequence[Any]]:
    """What must stay on one side of a split besides equal texts."""
    groups: list[Sequence[Any]] = []
    if data.group_column is not None:
        groups.append(examples.columns[data.group_column])
    if (data.keep_together or rules.keep_together) == "near":
        groups.append(near_duplicate_groups([*map(normalise, examples.texts)]).tolist())
    return groups


def _check_split(data: DataConfig, given: Parts, rules: DataRules) -> None:
    """Refuse options that would have no effect."""
    ways = {
        "--split": data.split,
        "--time-column": data.time_column,
        "--group-column": data.group_column,
        "--keep-together": data.keep_together,
    }
    asked = [option for option, value in ways.items() if value is not None]
    drawn_otherwise = ("--split", "--time-column")
    if given and any(option in drawn_otherwise for option in asked):
        raise ConfigError(f"{asked[0]} is for a split of DATA alone; leave out the other files")
    if asked and len(given) == 2:
        raise ConfigError(f"{asked[0]} has no effect: nothing is left to split; leave it out")
    if len(asked) == 2 and data.split == "hash" and data.keep_together is not None:
        raise ConfigError("--split hash keeps equal texts together, no others; leave one out")
    grouped = data.group_column is not None or data.keep_together is not None
    if grouped and not rules.keep_together and data.split is None and not given:
        raise ConfigError(
            f"{asked[0]}: this recipe shuffles rows one by one; add --split stratified"
        )


def make_classifier(config: RunConfig) -> TextClassifier:
    """The estimator that has a run's settings, not yet fitted."""
    from lastblock.estimator import TextClassifier

    return TextClassifier.of(make_learner(config))


def make_learner(config: RunConfig) -> Learner:
    """The same without scikit-learn."""
    model, train = config.model, config.train
    return Learner(
        model.model,
        recipe=train.recipe,
        depth=model.depth,
        train=model.train,
        trainable_blocks=model.trainable_blocks,
        lora_rank=model.lora_rank,
        pooling=model.pooling,
        max_length=model.max_length,
        long_text=model.long_text,
        prompt=model.prompt,
        lexicon=model.lexicon,
        weights=model.weights,
        attention=model.attention,
        dtype=model.dtype,
        epochs=train.epochs,
        learning_rate=train.learning_rate,
        batch_size=train.batch_size,
        weight_decay=train.weight_decay,
        cache_size=config.cache_size,
        calibrate=train.calibrate,
        class_weight=train.class_weight,
        threshold=train.threshold,
        abstain_below=train.abstain_below,
        random_state=train.seed,
    )


def _fit(config: RunConfig, parts: Parts, progress: Progress) -> Learner:
    return make_learner(config).fit(
        *_columns(parts["train"]),
        validation=_validation(parts),
        later=parts["test"].texts,
        progress=progress,
    )


def _columns(examples: Examples) -> tuple[list[str], Sequence[Any]]:
    return examples.texts, examples.targets


def _validation(parts: Parts) -> tuple[list[str], Sequence[Any]] | None:
    return _columns(parts["validation"]) if len(parts["validation"]) else None


def _numbers(learner: Learner, examples: Examples) -> Numbers:
    return learner.number(examples.targets, examples.texts)


def _encode(learner: Learner, parts: Parts) -> dict[str, list[TokenIds]]:
    """Each part that has texts as the model reads them."""
    return {name: learner.model_.encode(of.texts) for name, of in parts.items() if len(of)}


def _scores(
    learner: Learner, encoded: dict[str, list[TokenIds]], truth: dict[str, Numbers]
) -> tuple[dict[str, Any], dict[str, Probabilities]]:
    """EVALUATE every part; what the model says of each too."""
    model = learner.model_
    names, decision = model.class_names, model.decision
    logits = {name: model.logits(ids) for name, ids in encoded.items()}
    said = {name: decision.probabilities(z) for name, z in logits.items()}
    scores: dict[str, Any] = {
        "splits": {name: judge(decision, truth[name], said[name], names) for name in encoded},
        "calibration": judge_calibration(decision, learner.calibration_, truth, logits),
        "decision": {**decision.to_dict(), "says": decision.describe(names)},
    }
    if "test" in said:
        scores["curves"] = draw_curves(truth["test"], said["test"], names)
        if not decision.multilabel:
            surest = operating_points(*events(truth["test"], said["test"]))
            scores["coverage"] = {"points": surest.to_list(MOST_COVERAGE_POINTS)}
    return scores, said


def _scores_before(
    learner: Learner, encoded: dict[str, list[TokenIds]], truth: dict[str, Numbers]
) -> dict[str, Any]:
    """Of some texts of each part, spread over it, as the model was before training."""
    model = learner.model_
    rows = {name: _spread(len(ids), MOST_BEFORE) for name, ids in encoded.items()}
    trained = model.classifier.tail_state()
    model.classifier.load_tail_state(learner.initial_tail_)
    untrained = Decision(labels=model.decision.labels)
    said = {
        name: untrained.probabilities(model.logits([ids[i] for i in rows[name]]))
        for name, ids in encoded.items()
    }
    model.classifier.load_tail_state(trained)
    names = model.class_names
    return {name: judge(untrained, truth[name][rows[name]], said[name], names) for name in encoded}


def _spread(n: int, most: int) -> Rows:
    """All of n rows, or so many of them, as far from each other as may be."""
    return np.linspace(0, n - 1, min(n, most)).round().astype(np.int64)


def _doubts(
    learner: Learner, parts: Parts, truth: dict[str, Numbers], said: dict[str, Probabilities]
) -> dict[str, Any]:
    """The surest mistakes of the test part, a few explained, and the others' doubtful labels."""
    model, found = learner.model_, dict[str, Any]()
    if "test" in said:
        mistakes = surest_mistakes(
            model.decision, parts["test"].texts, truth["test"], said["test"], model.class_names
        )
        found["mistakes"] = [
            *(_explained(model, mistake) for mistake in mistakes[:MOST_EXPLAINED]),
            *mistakes[MOST_EXPLAINED:],
        ]
    found["suspects"] = _suspects(model.decision, parts, truth, said, model.class_names)
    return found


def _explained(model: TextModel, mistake: dict[str, Any]) -> dict[str, Any]:
    """A mistake, and what each of its words added to the log-odds of what was got wrong."""
    label = mistake.get("label", mistake["predicted"])
    found = model.explain(mistake["text"], label, budget=EXPLAIN_TOKENS)
    return {**mistake, "words": [asdict(word) for word in found.words]}


def _suspects(
    decision: Decision,
    parts: Parts,
    truth: dict[str, Numbers],
    said: dict[str, Probabilities],
    names: Sequence[str],
) -> list[dict[str, Any]]:
    """Texts of the training and validation parts whose labels the model surely disagrees with."""
    found = [
        {"part": part, **mistake}
        for part in ("train", "validation")
        if part in said
        for mistake in surest_mistakes(decision, parts[part].texts, truth[part], said[part], names)
    ]
    sure = [each for each in found if each["probability"] >= DOUBT_FROM]
    return sorted(sure, key=lambda each: -each["probability"])[:MOST_MISTAKES]


def _begin_baseline(config: RunConfig, parts: Parts, beside: Here) -> Callable[[], Says]:
    """What waits for what TF-IDF and logistic regression, fitted to the same texts, say of others.

    That is, of each part that is held out.
    """
    train, targets = parts["train"], read_targets(parts["train"].targets)
    classes = targets.classes.tolist()
    numbers, held_out = targets.numbers(classes), [parts[name].texts for name in HELD_OUT]
    asked = Asked(train.texts, numbers, len(classes), config.train.seed, held_out)
    return beside.baseline(asked)


def _baseline_scores(
    learner: Learner, train: Examples, truth: dict[str, Numbers], says: Says, beside: Here
) -> dict[str, Any]:
    """What the baseline reaches on the same split, by the same rule; ``says`` is what it said."""
    model = learner.model_
    names, seed = model.class_names, model.settings.seed
    said = {name: of for name, of in zip(HELD_OUT, says, strict=True) if len(of)}
    decision = replace(model.decision, temperature=1.0)
    rule = threshold_rule(model.settings.threshold, decision.multilabel)
    if rule is not None and decision.thresholds is not None:
        if len(says[0]) >= CALIBRATE_FROM:
            chosen_on = truth["validation"], said["validation"]
        else:  # the model's own were chosen so too
            thirds = [*folds(train.texts, train.targets, k=3, seed=seed)]
            asked = Asked(train.texts, truth["train"], len(names), seed, [], thirds)
            chosen_on = truth["train"], beside.baseline(asked)()[0]
        decision = with_thresholds(decision, rule, *chosen_on)
    return {name: judge(decision, truth[name], of, names) for name, of in said.items()}


def _folds(
    config: RunConfig, examples: Examples, parts: Parts, progress: Progress
) -> tuple[dict[str, Any], tuple[Iterable[Judged], list[str]] | None]:
    """CROSS-VALIDATE, if asked: the scores of all folds, and what was said of each row of DATA.

    Nothing of it goes into the model, which is trained on its own part as ever.
    """
    n = config.repeat.folds
    if n is None:
        return {}, None
    from lastblock.crossvalidation import out_of_fold, spread

    # Rows that balancing left out stay out.
    ids = [part.row_ids() for part in parts.values() if part.source == examples.source]
    examples = examples.take(np.searchsorted(examples.row_ids(), np.sort(np.concatenate(ids))))
    found = out_of_fold(
        make_classifier(config),
        *_columns(examples),
        folds=n,
        seed=config.train.seed,
        groups=groups_of(examples, config.data, DATA_RULES[config.train.recipe]),
        progress=progress,
    )
    metrics = spread(found.scores, test_share=1 / (n - 1))
    scores = {"n": n, "rows": len(examples), "predictions": OUT_OF_FOLD, "metrics": metrics}
    judged = (examples, found.fold.tolist(), found.probabilities, found.chosen)
    return {"folds": scores}, ([judged], found.class_names)


def _seeds(
    config: RunConfig,
    learner: Learner,
    parts: Parts,
    scores: dict[str, Any],
    progress: Progress,
) -> dict[str, Any]:
    """REPEAT with other seeds, if asked: their scores on the last part there is."""
    n = config.repeat.seeds
    if n is None:
        return {}
    from lastblock.crossvalidation import repeat, spread
    from lastblock.estimator import TextClassifier

    part = list(scores)[-1]
    seeds = [(config.train.seed + i) % 2**32 for i in range(n)]
    others = repeat(
        TextClassifier.of(learner),
        _columns(parts["train"]),
        _columns(parts[part]),
        seeds=seeds[1:],
        validation=_validation(parts),
        progress=progress,
    )
    metrics = spread([scores[part], *others])
    return {"seeds": {"n": n, "seeds": seeds, "part": part, "metrics": metrics}}


def _write_predictions(path: Path, by: str, judged: Iterable[Judged], names: Sequence[str]) -> None:
    """A line a row of the file it is from (counted from 0, as in split.json); no texts.

    All digits, so that every score can be computed again.
    """
    known = np.array(names, dtype=object)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        head = ["row", by, "label", "predicted"]
        writer.writerow([*head, *(f"probability_{name}" for name in names)])
        for examples, groups, said, chosen in judged:
            predicted = [(examples.separator or "").join(known[row]) for row in chosen]
            columns = (examples.row_ids().tolist(), groups, examples.labels, predicted)
            for *row, probabilities in zip(*columns, said.tolist(), strict=True):
                writer.writerow([*row, *probabilities])


def evaluate_file(
    folder: str | Path,
    data: str,
    *,
    text_column: str | None = None,
    label_column: str | None = None,
    options: ReadOptions = _DEFAULTS,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Scores of a saved model on a labelled file, with the names of its classes.

    Raises:
        SavedModelError, DataError: the model or the file cannot be used.
    """
    progress = progress or Silent()
    learner = Learner.load(folder)
    examples = load_examples(
        data, text_column=text_column, label_column=label_column, options=options
    )
    for note in examples.notes:
        progress.say(note)
    model = learner.model_
    separator = None
    if model.decision.multilabel:
        separator = examples.separator or known_separator(examples.labels, model.class_names)
    truth = _numbers(learner, replace(examples, separator=separator))
    probabilities = model.predict_proba(examples.texts, progress)
    scores = judge(model.decision, truth, probabilities, model.class_names)
    says = model.decision.describe(model.class_names)
    return {**scores, "classes": model.class_names, "decision": says}


def _balance(config: RunConfig, rules: DataRules) -> str:
    return config.data.balance or rules.balance


def _add(*seconds: dict[str, float]) -> dict[str, float]:
    names = ("weights", "tokenize", "activations", "train", "evaluate", "total")
    return {name: round(sum(s.get(name, 0.0) for s in seconds), 3) for name in names}
