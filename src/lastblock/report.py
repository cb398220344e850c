"""Everything known about a run, written for people and for programs, into the model's folder.

    report.json     all of it: settings, data, scores, baseline, history, seconds
    report.html     one page that needs no other file: light and dark, for print and for phones
    README.md       a model card in the Hugging Face format
    figures/*.png   the curves and the confusion matrix of the card

Trains and evaluates nothing: what is written is in the report and the history it is handed.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup, escape

from lastblock import figures
from lastblock.beside import Here
from lastblock.decoder.catalog import MODELS
from lastblock.evaluation import History, evaluate
from lastblock.explanation import Explanation, Piece, marked

if TYPE_CHECKING:
    from jinja2 import Template

Report = Mapping[str, Any]
Scores = Mapping[str, Any]
Drawn = Callable[[], figures.Pictures]

# What a model is compared with: its key in the report, its name in the table, its full name.
RIVALS = {
    "baseline": ("TF-IDF", "TF-IDF + logistic regression"),
    "majority": ("majority", "most frequent class"),
    "before_training": ("untrained", "before training"),
}
# The keys of report.json, in this order; further ones a run adds come after them.
KEYS = (
    *("data", "split", "settings", "choice", "splits", "before_training", "baseline"),
    *("majority", "seconds", "tokens", "size_bytes", "history"),
)
# A part with fewer texts of a class than this says little about the class.
FEW = 20
MOST_MISTAKES = 50
# A text is shown up to here, in characters.
MOST_TEXT = 600
# Classes in a table; of more the worst are shown, and all of them on request.
MOST_ROWS = 12
# The pictures that the model card shows.
CARD_FIGURES = ("depth", "loss", "accuracy", "confusion", "reliability")
# A confusion matrix of more classes is shown as a picture, without its numbers.
MOST_CELLS = 12
# Decoders of the catalog that come from elsewhere, by their name on the hub.
HUB_NAMES = {"smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}


def write_report(
    folder: Path,
    report: dict[str, Any],
    history: History,
    others: Future[None] | None = None,
    drawn: Sequence[Drawn] | None = None,
) -> None:
    """Write report.json, figures, README.md and report.html into an existing folder.

    ``report`` holds what docs/report.md describes, but for what is added here: "majority" (scores
    of always giving the training part's class shares), "size_bytes" (of the files in the folder)
    and "history". Numbers that are not finite become null. ``others``: the writing of the folder's
    other files, if that still goes on. ``drawn``: its pictures, as ``begin_pictures`` has begun
    them, if not all are yet to be drawn.
    """
    full = _complete(report, history)
    if others is not None:
        others.result()
    full["size_bytes"] = _sizes(folder)
    text = json.dumps(full, indent=2, ensure_ascii=False, allow_nan=False)
    _write(folder / "report.json", text + "\n")
    facts, card, page = _facts(full), _template("card.md"), _template("report.html")
    pictures: dict[str, str] = {}
    for those in [begin_pictures(full, Here())] if drawn is None else drawn:
        of_page, files = those()
        pictures |= of_page
        for name, file in files.items():
            _write(folder / "figures" / f"{name}.png", file)
    _write(folder / "README.md", card.render(figures=pictures, **facts))
    # A small confusion matrix is a table in the page, with text that can be read and copied.
    if len(facts["classes"]) <= MOST_CELLS:
        pictures.pop("confusion", None)
    _write(folder / "report.html", page.render(figures=pictures, **facts))


def begin_pictures(report: Report, beside: Here) -> Drawn:
    """What waits for a report's pictures, or for those of what there is of it yet."""
    part = _judged_part(report) if "splits" in report else ""
    return beside.pictures(_plain(report), part, CARD_FIGURES)


def explanation_page(explanations: Sequence[Explanation]) -> str:
    """A page, in HTML, that shows why each text has its label."""
    return _template("explanation.html").render(
        explanations=explanations, version=version("lastblock")
    )


def learning_curve_page(found: Report) -> str:
    """A page, in HTML, that answers whether more labels would help; ``found`` as it is saved."""
    picture = figures.inline_svg(figures.learning_curve(found["curves"]))
    curves = zip(found["curves"]["ours"], found["curves"]["baseline"], strict=True)
    facts = {**found, "source": Path(found["data"]).name, "rows": list(curves)}
    return _template("learning_curve.html").render(
        **facts, picture=picture, version=version("lastblock")
    )


def search_page(found: Report) -> str:
    """A page, in HTML, about a search for better settings; ``found`` as it is saved."""
    values = [trial["value"] if trial["state"] == "COMPLETE" else None for trial in found["trials"]]
    drawn = {"trials": figures.trials(values, found["metric"], found["metric"] == "loss")}
    if found["importance"]:
        drawn["importance"] = figures.importance(found["importance"])
    return _template("search.html").render(
        **found,
        source=_source(found["report"]),
        table=summary_table(found["report"]),
        part=_judged_part(found["report"]),
        figures={name: figures.inline_svg(figure) for name, figure in drawn.items()},
        given_up=sum(value is None for value in values),
        version=version("lastblock"),
    )


def summary_table(report: Report) -> list[dict[str, str]]:
    """The one table a person reads: a row a part, then what the last part is compared with.

    Rows map the table's headers to cells, all as text.
    """
    rows = [_row(name, scores) for name, scores in report["splits"].items()]
    part = _judged_part(report)
    return rows + [_row(f"{part}: {RIVALS[key][0]}", other) for key, other in _rivals(report)]


def _row(name: str, scores: Scores) -> dict[str, str]:
    if "micro_f1" in scores:
        return {
            "part": name,
            "texts": f"{scores['n']:,}",
            "micro F1": _decimals(scores["micro_f1"]),
            "95 % interval": _interval(scores),
            "macro F1": _decimals(scores["macro_f1"]),
            "all right": _percent(scores["accuracy"]),
            "loss": _decimals(scores["loss"]),
        }
    return {
        "part": name,
        "texts": f"{scores['n']:,}",
        "accuracy": _percent(scores["accuracy"]),
        "95 % interval": _interval(scores),
        "macro F1": _decimals(scores["macro_f1"]),
        "MCC": _decimals(scores["mcc"]),
        "loss": _decimals(scores["loss"]),
    }


def _judged_part(report: Report) -> str:
    """The part a model is judged by: test if there is one."""
    return "test" if "test" in report["splits"] else next(reversed(report["splits"]))


def _rivals(report: Report) -> Iterator[tuple[str, Scores]]:
    """What the scores on the judged part are compared with, as far as the report has it."""
    part = _judged_part(report)
    with_majority = {"majority": _majority(report), **report}
    for key in RIVALS:
        if part in with_majority.get(key, {}):
            yield key, with_majority[key][part]


def _majority(report: Report) -> dict[str, dict[str, Any]]:
    """Scores of giving every text the class shares of the training part, by part."""
    splits = report["splits"]
    if "confusion" not in splits.get("train", {}):
        return {}
    counts = {part: np.sum(scores["confusion"], axis=1) for part, scores in splits.items()}
    shares = counts["train"] / counts["train"].sum()
    names = list(splits["train"]["per_class"])
    scores = {}
    for part, support in counts.items():
        labels = np.repeat(np.arange(len(support)), support)
        everywhere = np.broadcast_to(shares, (len(labels), len(shares)))
        scores[part] = evaluate(labels, everywhere, names).to_dict()
    return scores


# ------------------------------------------------------------------------------- the facts


def _complete(report: Report, history: History) -> dict[str, Any]:
    """The report in its order, as JSON has it; sizes are yet to be weighed."""
    found = {
        **report,
        "majority": _majority(report),
        "size_bytes": {},
        "history": history.to_dict(),
    }
    keys = [*KEYS, *(key for key in found if key not in KEYS)]
    return {key: _plain(found[key]) for key in keys if key in found}


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each file in a folder but those written here, and of all."""
    sizes = {path.name: path.stat().st_size for path in sorted(folder.iterdir()) if path.is_file()}
    for written_here in ("report.json", "report.html", "README.md"):
        sizes.pop(written_here, None)
    return {**sizes, "total": sum(sizes.values())}


def _plain(value: Any) -> Any:
    """As JSON has it: no numpy, no NaN, no tuples."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _facts(report: Report) -> dict[str, Any]:
    """What both the card and the page are made from."""
    part = _judged_part(report)
    scores = report["splits"][part]
    classes = list(scores["per_class"])
    rivals = [(RIVALS[key][1], other) for key, other in _rivals(report) if key != "before_training"]
    model = report["settings"]["model"]
    decoder = model if model in MODELS or _hub_name(model) else Path(model).name
    return {
        "report": {**report, "settings": {**report["settings"], "model": decoder}},
        "part": part,
        "scores": scores,
        "classes": classes,
        "source": _source(report),
        "title": _title(classes),
        "verdict": _verdict(report),
        "warnings": list(_warnings(report)),
        "notes": [*_findings(report, ("note",)), *_notes(report)],
        "table": summary_table(report),
        "several": _headline(scores) == "micro_f1",
        "strip": _strip([("this classifier", scores), *rivals]),
        "confused": _most_confused(scores["confusion"], classes) if "confusion" in scores else [],
        "shares": figures.row_shares(scores["confusion"]).tolist() if "confusion" in scores else [],
        "thresholds": _thresholds(report, classes),
        "worst": sorted(scores["per_class"].items(), key=lambda item: item[1]["f1"])[:MOST_ROWS],
        "curve_classes": figures.worst_classes(
            report["curves"], scores["per_class"], report["data"]["classes"]
        )
        if "curves" in report
        else [],
        "mistakes": [_shown(m) for m in report.get("mistakes", [])[:MOST_MISTAKES]],
        "suspects": [_shown(m) for m in report.get("suspects", [])[:MOST_MISTAKES]],
        "front_matter": _front_matter(report),
        "version": version("lastblock"),
        "most_cells": MOST_CELLS,
        "most_rows": MOST_ROWS,
    }


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """A mistake with its text as HTML: cut if long, in colour if it was explained."""
    text = entry["text"]
    shown = text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + "…"
    words = [
        Piece(w["start"], w["end"], w["contribution"])
        for w in entry.get("words", [])
        if w["end"] <= MOST_TEXT
    ]
    return {**entry, "html": marked(shown, words)}


def _source(report: Report) -> str:
    """The data's name; of a file no folders, for a report travels further than its data."""
    return Path(report.get("data", {}).get("source", "own data")).name


def _title(classes: Sequence[str]) -> str:
    """The classes' names, as many as make a title."""
    if len(classes) <= 5 and len("".join(classes)) <= 50:
        return " or ".join([", ".join(classes[:-1]), classes[-1]] if len(classes) > 1 else classes)
    shown = [name for i, name in enumerate(classes) if len("".join(classes[: i + 1])) <= 40][:4]
    shown = shown or [classes[0][:40]]
    return f"{', '.join(shown)} and {len(classes) - len(shown)} more"


def _verdict(report: Report) -> list[str]:
    """The result in sentences."""
    part = _judged_part(report)
    scores = report["splits"][part]
    if _headline(scores) == "micro_f1":
        sentences = [
            f"On {scores['n']:,} {part} texts the labels it gives and those that were given have a "
            f"micro F1 of {_score(scores)} (95 % interval {_interval(scores)}) and a macro F1 of "
            f"{_decimals(scores['macro_f1'])}; of {_percent(scores['accuracy'])} all are right."
        ]
    else:
        sentences = [
            f"Of {scores['n']:,} {part} texts it labels {_score(scores)} as they were labelled "
            f"(95 % interval {_interval(scores)})."
        ]
    for key, other in _rivals(report):
        if key == "baseline":
            sentences.append(_comparison(scores, other))
        elif key == "majority":
            sentences.append(
                f"Giving every text the most frequent class scores {_percent(other['accuracy'])}."
            )
    return [*sentences, *decision_sentences(scores, report.get("decision", {}).get("says"))]


def decision_sentences(scores: Scores, says: str | None) -> Iterator[str]:
    """How labels follow from probabilities, where it is said, and what is left open."""
    if says:
        yield f"How it decides: {says}."
    if answered := scores.get("answered"):
        right = (
            f", and is right on {_percent(answered['accuracy'])} of those (95 % interval "
            f"{percent_interval(answered['accuracy_ci95'])})"
            if answered["n"]
            else ""
        )
        yield f"It gives an answer for {_percent(answered['share'])} of the texts{right}."


def _comparison(scores: Scores, other: Scores) -> str:
    reached = (
        f"{RIVALS['baseline'][1]}, trained on the same texts, reaches "
        f"{_score(other)} ({_interval(other)})"
    )
    interval = f"{_headline(scores)}_ci95"
    (low, high), (other_low, other_high) = scores[interval], other[interval]
    if low > other_high:
        return f"{reached}: the classifier is clearly better."
    if high < other_low:
        return f"{reached}: it is clearly better, and far cheaper; use it instead."
    return f"{reached}: the intervals overlap, so the difference may be chance."


def _warnings(report: Report) -> Iterator[str]:
    """What a reader should know before believing the scores."""
    data, part = report.get("data", {}), _judged_part(report)
    scores = report["splits"][part]
    if shared := data.get("test_texts_in_train"):
        yield (
            f"{shared:,} of {scores['n']:,} {part} texts ({_percent(shared / scores['n'])}) also "
            "stand word for word in the training part; on new texts expect a lower score."
        )
    yield from _findings(report, ("error", "warning"))
    found = {finding["kind"] for finding in data.get("findings", [])}
    if "duplicates" not in found and (repeated := data.get("duplicates")):
        yield f"{repeated:,} of {data['rows']:,} rows repeat the text of an earlier row."
    if "conflicts" not in found and (conflicting := data.get("conflicting")):
        yield f"{conflicting:,} texts stand under more than one label; look at those first."
    if report.get("settings", {}).get("balance") == "undersample":
        yield (
            "Classes were balanced before the split: where their shares differ, precision and "
            "accuracy will too."
        )
    few = [f"{name} ({s['support']})" for name, s in scores["per_class"].items()]
    few = [f for f, s in zip(few, scores["per_class"].values(), strict=True) if s["support"] < FEW]
    if few:
        shown = ", ".join(few[:8]) + (f" and {len(few) - 8} more" if len(few) > 8 else "")
        yield f"Few {part} texts of {shown}: their scores are rough."


def _notes(report: Report) -> Iterator[str]:
    """What was noticed while reading; as in ``_source``, of the data's file no folders."""
    data = report.get("data", {})
    for note in data.get("notes", []):
        yield note.replace(data.get("source") or "\0", _source(report))


def _findings(report: Report, levels: Sequence[str]) -> Iterator[str]:
    """What inspection had to say about the data, as sentences."""
    for finding in report.get("data", {}).get("findings", []):
        if finding["level"] in levels:
            message = finding["message"].rstrip(".")
            yield f"{message[0].upper()}{message[1:]}."


def _strip(judged: Sequence[tuple[str, Scores]]) -> dict[str, Any]:
    """Headline scores and intervals as places, in percent, on one scale that ends at 1."""
    key = _headline(judged[0][1])
    least = min(scores[f"{key}_ci95"][0] for _, scores in judged)
    start = 0.9 if least >= 0.9 else math.floor(least * 5) / 5

    def place(x: float) -> float:
        return round(100 * (x - start) / (1 - start), 2)

    rows = [
        {
            "name": name,
            "score": _score(scores),
            "interval": _interval(scores),
            "at": place(scores[key]),
            "low": place(scores[f"{key}_ci95"][0]),
            "high": place(scores[f"{key}_ci95"][1]),
        }
        for name, scores in judged
    ]
    ticks = [start + (1 - start) * i / 4 for i in range(5)]
    return {
        "name": "accuracy" if key == "accuracy" else "micro F1",
        "rows": rows,
        "ticks": [
            {"at": place(t), "label": f"{100 * t:.3g} %" if key == "accuracy" else f"{t:.3g}"}
            for t in ticks
        ],
    }


def _thresholds(report: Report, classes: Sequence[str]) -> dict[str, float]:
    """From which probability on each of several labels is given."""
    thresholds = report.get("decision", {}).get("thresholds") or []
    return dict(zip(classes, thresholds, strict=True)) if len(thresholds) == len(classes) else {}


def _most_confused(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> list[Any]:
    """The commonest mistakes: (true, predicted, count), at most ten."""
    counts = np.array(confusion)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:10]
    pairs = (divmod(int(i), len(names)) for i in order)
    return [(names[i], names[j], int(counts[i, j])) for i, j in pairs if counts[i, j]]


def _front_matter(report: Report) -> str:
    """The card's YAML, by the hub's own library."""
    from huggingface_hub import EvalResult, ModelCardData

    model, part = report["settings"]["model"], _judged_part(report)
    scores, source = report["splits"][part], _source(report)
    metrics = {"accuracy": "accuracy", "f1": "macro_f1", "matthews_correlation": "mcc"}
    if "mcc" not in scores:
        del metrics["matthews_correlation"]
    results = [
        EvalResult(
            task_type="text-classification",
            dataset_type=source,
            dataset_name=source,
            dataset_split=part,
            metric_type=metric,
            metric_name="macro F1" if metric == "f1" else None,
            metric_value=round(scores[key], 4),
        )
        for metric, key in metrics.items()
    ]
    card = ModelCardData(
        language=report.get("data", {}).get("language"),
        license=_licence(model),
        library_name="lastblock",
        pipeline_tag="text-classification",
        base_model=_hub_name(model),
        metrics=list(metrics),
        model_name=f"{Path(model).name} on {source}",
        eval_results=results,
    )
    return str(card.to_yaml())


def _hub_name(model: str) -> str | None:
    """The decoder's name on the hub, if it has one."""
    if model in MODELS:
        return getattr(MODELS[model].source, "repository", HUB_NAMES.get(model))
    return model if re.fullmatch(r"[\w-]+(/[\w.-]+)?", model) and not Path(model).exists() else None


def _licence(model: str) -> str | None:
    """The decoder's licence as the hub writes it: what is made from the decoder is bound by it."""
    licence = MODELS[model].licence.lower() if model in MODELS else None
    return licence if licence in (None, "apache-2.0", "mit") else "other"


# ------------------------------------------------------------------------------ writing


def _template(name: str) -> Template:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "cell": _markdown_cell,
        "count": lambda n: f"{n:,}",
        "decimals": _decimals,
        "marked": marked,
        "megabytes": lambda n: f"{n / 1e6:,.1f} MB" if n >= 1e5 else f"{n / 1e3:,.1f} kB",
        "percent": lambda share: _percent(share).replace(" ", "\N{NO-BREAK SPACE}"),
        "setting": _setting,
        "short": short,
        "signed": lambda x: f"{x:+.2f}".replace("-", "\N{MINUS SIGN}"),
        "soft": _soft,
        "words": lambda name: str(name).replace("_", " "),
    }
    return environment.get_template(name)


def _write(path: Path, content: str | bytes) -> None:
    """Whole or not at all."""
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(temporary, path)


def _soft(name: object) -> Markup:
    """A name that may be broken where its parts meet: after _ - / and the like."""
    return Markup(re.sub(r"([_\-/.:])(?=\w)", r"\1<wbr>", str(escape(name))))


def _markdown_cell(value: object) -> str:
    """Text that stays in its cell and means nothing to Markdown or HTML."""
    one_line = " ".join(str(value).split()).replace("&", "&amp;").replace("<", "&lt;")
    return re.sub(r"([\\`*_\[\]|])", r"\\\1", one_line)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"


def percent_interval(interval: Sequence[float]) -> str:
    """Two shares as text; signs need more room between them than a dash."""
    low, high = interval
    between = "–" if low >= 0 else " to "
    return f"{100 * low:.1f}{between}{100 * high:.1f} %"


def short(value: object) -> str:
    """A setting's value, of a number three digits."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _headline(scores: Scores) -> str:
    """What a classifier is judged by first: accuracy, or where texts have several labels micro F1.

    Few of those texts have all labels right, however good the labels are.
    """
    return "micro_f1" if "micro_f1" in scores else "accuracy"


def _score(scores: Scores) -> str:
    key = _headline(scores)
    return _percent(scores[key]) if key == "accuracy" else _decimals(scores[key])


def _interval(scores: Scores) -> str:
    if _headline(scores) == "accuracy":
        return percent_interval(scores["accuracy_ci95"])
    return "–".join(map(_decimals, scores["micro_f1_ci95"]))


def _decimals(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _setting(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) and value >= 10_000 else str(value)
