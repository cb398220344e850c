"""Search for better settings than the recipe's, with Optuna (extra: search).

Settings are judged by cross-validation on the training and validation parts; the test part is
looked at once, by the model that is trained with the best of them. Every trial is kept in a file,
so that a search which was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from sklearn.base import clone

from lastblock import checkpoint
from lastblock.config import ModelConfig, RunConfig, SearchConfig, TrainConfig
from lastblock.crossvalidation import out_of_fold
from lastblock.data.examples import Examples
from lastblock.decoder import hub, loading
from lastblock.errors import ConfigError, MissingExtraError
from lastblock.estimator import TextClassifier
from lastblock.finetune import finetune, groups_of, make_classifier, read, split
from lastblock.recipe import DATA_RULES
from lastblock.report import short
from lastblock.runtime import Progress, Silent, TasksOnly

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

# Shares of the decoder's blocks that are tried as depth; each costs a frozen pass of its own.
DEPTHS = (1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
MODEL = "model"
TRIALS = "search.db"

# Trials before which none is given up early, for want of something to compare it with.
_FULL_TRIALS = 5


def search(
    config: RunConfig, wanted: SearchConfig, folder: Path, progress: Progress | None = None
) -> dict[str, Any]:
    """Try settings, train with the best, and save the model in ``folder``/model.

    What ``config`` sets is not searched for. The recipe's own settings are the first that are
    tried, so what is found is no worse, as far as cross-validation can tell. Trials that are
    worse than the median after the same folds are given up.

    Returns:
        Made of what JSON can hold: "metric", "folds", "recipe" and "best" (dicts of value and
        params), "trials" (dicts of number, state, value, params), "importance" (of each setting
        for the value, by name, summing to 1; empty of few trials) and "report" of the model.

    Raises:
        ConfigError: the folder holds a search on other data or with other settings.
        LastblockError: with one line that says what, where and what to do.
        MissingExtraError: Optuna is not installed.
        SavedModelError: the place of the model holds something else.
    """
    _check_optuna()
    checkpoint.check_target(folder / MODEL)
    progress, started = progress or Silent(), time.monotonic()
    rules = DATA_RULES[config.train.recipe]
    examples, _ = read(config.data, progress)
    parts = split(examples, config, rules, progress)
    learn_from = parts["train"].joined_with(parts["validation"])
    folder.mkdir(parents=True, exist_ok=True)
    study = _open(folder / TRIALS, config, wanted, learn_from)

    own = _recipe_s_own(config, learn_from, TasksOnly(progress))
    space = search_space(own, config)
    done = len(_finished(study))
    if done:
        progress.say(f"{folder / TRIALS}: going on after {done} trials")
    else:
        study.enqueue_trial({name: own[name] for name in space}, user_attrs={"recipe": True})
    base = make_classifier(config).set_params(**own)
    groups = groups_of(learn_from, config.data, rules)
    deadline = math.inf if wanted.timeout is None else started + wanted.timeout
    for i in range(done, wanted.trials):
        if i and time.monotonic() > deadline:
            progress.say(f"{i} trials in {wanted.timeout:g} seconds; the time is over")
            break
        trial = study.ask(space)
        candidate = clone(base).set_params(**trial.params)
        # The recipe's own settings are tried to the end: the others are compared with them.
        until = deadline if i else math.inf
        quiet = TasksOnly(progress)
        _judge(study, trial, candidate, learn_from, groups, wanted, config, until, quiet)
        progress.say(_line(study, _finished(study)[-1], wanted))

    result = finetune(_with(config, study.best_params, folder / MODEL), TasksOnly(progress))
    finished = _finished(study)
    recipe = next(trial for trial in finished if trial.user_attrs.get("recipe"))
    return {
        "metric": wanted.metric,
        "folds": wanted.folds,
        "recipe": {"value": recipe.value, "params": recipe.params},
        "best": {"value": study.best_value, "params": study.best_params},
        "trials": [
            {"number": t.number, "state": t.state.name, "value": t.value, "params": t.params}
            for t in finished
        ],
        "importance": _importance(finished, study, config.train.seed),
        "report": result.report,
    }


def search_space(own: Mapping[str, Any], config: RunConfig) -> dict[str, BaseDistribution]:
    """What may be tried, by the name of the setting: all but what ``config`` sets.

    The recipe's ``own`` settings, by name, are always among it.
    """
    from optuna.distributions import (
        CategoricalDistribution,
        FloatDistribution,
        IntDistribution,
    )

    def among(name: str, *choices: Any) -> CategoricalDistribution:
        return CategoricalDistribution(sorted({*choices, own[name]}))

    layers = _layers(config.model.model)
    depths = {max(1, own["trainable_blocks"], round(layers * share)) for share in DEPTHS}
    rate, epochs, decay = own["learning_rate"], own["epochs"], own["weight_decay"]
    space: dict[str, BaseDistribution] = {
        "learning_rate": FloatDistribution(min(1e-4, rate), max(1e-2, rate), log=True),
        "depth": among("depth", *depths),
        "epochs": IntDistribution(1, max(10, epochs)),
        "weight_decay": FloatDistribution(0.0, max(0.3, decay)),
        "batch_size": among("batch_size", 8, 16, 32, 64),
        "pooling": among("pooling", "last", "mean"),
    }
    given = vars(config.model) | vars(config.train)
    return {name: choices for name, choices in space.items() if given[name] is None}


def _layers(model: str) -> int:
    return loading.read_config(hub.resolve(model).folder).num_hidden_layers


def _check_optuna() -> None:
    try:
        import optuna
    except ImportError:
        raise MissingExtraError("searching needs Optuna: pip install 'lastblock[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def _open(path: Path, config: RunConfig, wanted: SearchConfig, examples: Examples) -> Study:
    """The study kept in a file, made if it is not there.

    Raises:
        ConfigError: its trials cannot be compared with those wanted now.
    """
    import optuna
    from sqlalchemy import URL

    url = URL.create("sqlite", database=str(path)).render_as_string()
    study = optuna.create_study(
        storage=url,
        study_name="lastblock",
        load_if_exists=True,
        direction="minimize" if wanted.metric == "loss" else "maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=_FULL_TRIALS),
    )
    # A sampler that goes on must not draw what it has drawn already.
    study.sampler = optuna.samplers.TPESampler(seed=config.train.seed + len(study.trials))
    facts = {
        "config": {**asdict(config), "output": None, "cache_size": None},
        "metric": wanted.metric,
        "folds": wanted.folds,
        "examples": [examples.texts, examples.labels],
    }
    digest = hashlib.sha256(json.dumps(facts).encode("utf-8", "surrogatepass")).hexdigest()
    if study.user_attrs.get("of", digest) != digest:
        raise ConfigError(
            f"{path}: holds a search on other data or with other options; name another --output"
        )
    study.set_user_attr("of", digest)
    return study


def _recipe_s_own(config: RunConfig, examples: Examples, progress: Progress) -> dict[str, Any]:
    """The estimator's parameters as the recipe chooses them for these examples."""
    classifier = make_classifier(config)
    return classifier.fit(examples.texts, examples.labels, progress=progress).resolved_params()


def _judge(
    study: Study,
    trial: Trial,
    candidate: TextClassifier,
    examples: Examples,
    groups: Sequence[Sequence[Hashable]],
    wanted: SearchConfig,
    config: RunConfig,
    until: float,
    progress: Progress,
) -> None:
    """Tell the study a candidate's mean score over the folds, or that it was given up.

    That is where it fell behind, or where the time ``until`` was over before the last fold.
    """
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    values: list[float] = []

    def after_fold(fold: int, scores: Mapping[str, Any]) -> None:
        values.append(scores[wanted.metric])
        trial.report(mean(values), fold)
        over = time.monotonic() > until
        if fold + 1 < wanted.folds and (over or trial.should_prune()):
            raise TrialPruned

    try:
        out_of_fold(
            candidate,
            examples.texts,
            examples.labels,
            folds=wanted.folds,
            seed=config.train.seed,
            groups=groups,
            after_fold=after_fold,
            progress=progress,
        )
    except TrialPruned:
        study.tell(trial, state=TrialState.PRUNED)
    except BaseException:
        study.tell(trial, state=TrialState.FAIL)
        raise
    else:
        study.tell(trial, mean(values))


def _finished(study: Study) -> list[FrozenTrial]:
    from optuna.trial import TrialState

    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _line(study: Study, trial: FrozenTrial, wanted: SearchConfig) -> str:
    told = ", ".join(f"{name} {short(value)}" for name, value in trial.params.items())
    complete = trial.state.name == "COMPLETE"
    value = f"{wanted.metric} {trial.value:.4f}" if complete else "given up"
    return (
        f"trial {trial.number + 1} of {wanted.trials}: {value} ({told}); "
        f"best so far {study.best_value:.4f}"
    )


def _with(config: RunConfig, params: Mapping[str, Any], output: Path) -> RunConfig:
    def with_best(part: ModelConfig | TrainConfig) -> Any:
        names = {field.name for field in fields(part)}
        return replace(part, **{name: params[name] for name in names & params.keys()})

    return replace(
        config, model=with_best(config.model), train=with_best(config.train), output=str(output)
    )


def _importance(finished: Sequence[FrozenTrial], study: Study, seed: int) -> dict[str, float]:
    """How much of the value's variance each setting explains (Hutter, Hoos, Leyton-Brown 2014)."""
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    values = {trial.value for trial in finished if trial.state.name == "COMPLETE"}
    if len(values) < _FULL_TRIALS:
        return {}
    found = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=seed))
    return {name: float(share) for name, share in found.items()}
