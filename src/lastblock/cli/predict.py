"""``lastblock predict``: texts from arguments, a file or a pipe; labels and probabilities out."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, Any

import typer

from lastblock.cli.files import PartialFile, check_output
from lastblock.cli.options import reading_texts, takes_options_of
from lastblock.cli.progress import Within
from lastblock.config import DEFAULT_SEPARATOR, ReadOptions
from lastblock.errors import ConfigError, DataError

if TYPE_CHECKING:
    from lastblock.data.streaming import Texts
    from lastblock.inference import Answer, TextModel
    from lastblock.runtime import Progress

_MOST_SHOWN = 3


@dataclass(frozen=True)
class Prediction:
    """A text, what is said of it, and every class's probability, most probable first."""

    text: str
    answer: Answer
    probabilities: dict[str, float]
    several: bool

    @property
    def label(self) -> str | int:
        """The label; several joined as files of labels have them; or "unsure"."""
        if not self.several or self.answer.unsure:
            return self.answer.label  # type: ignore[return-value]  # of one label there is one
        return DEFAULT_SEPARATOR.join(map(str, self.answer.labels))

    @property
    def probability(self) -> float:
        """The label's own, the likeliest one's of several."""
        return self.answer.probability


@takes_options_of(reading_texts)
def predict(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="Folder of a saved model.")],
    texts: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="Texts to classify.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--input",
            "-i",
            metavar="FILE",
            help="Texts: a table, a pattern of files or a folder as train takes them, or a file of "
            "one text a line; - for standard input, which is also read when no text is given and "
            "something is piped in.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="File to write: CSV (.tsv: tab-separated; .jsonl or --json: JSON Lines).",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object a line, with every probability.")
    ] = False,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on where a run with the same options was interrupted."),
    ] = False,
    **options: Any,
) -> None:
    """Classify texts with a saved model.

    Files of any size are read part by part, and the output is written as it comes.
    """
    if output is not None:
        check_output(output)
    if resume and (output is None or source in (None, "-")):
        raise ConfigError("--resume goes on with an --output FILE from an --input FILE; give both")
    reading = reading_texts(**options)
    gathered = _gather(texts or [], source, **reading)

    from lastblock.cli.progress import make_progress
    from lastblock.runtime import without_collecting

    with without_collecting():
        from lastblock.checkpoint import load

    loaded, progress = load(model), make_progress()
    if says := loaded.decision.describe(loaded.class_names):
        progress.say(f"How it decides: {says}.")
    if output is None:
        show = _write_json if as_json else _print
        for part in _classified(loaded, gathered, 0, progress):
            show(part, sys.stdout)
            sys.stdout.flush()
        return
    write = _writer(output, as_json)
    options_used = {
        "columns": reading["text_column"],
        "reading": vars(reading["options"]),
        "json": as_json,
    }
    made_from = {"model": _state(model), "input": _state(Path(source or "-")), **options_used}
    file = PartialFile(output, made_from)
    if resume:
        file.resume()
        progress.say(f"{file.rows:,} of {len(gathered):,} texts are classified already")
    try:
        with file.writing() as opened:
            for part in _classified(loaded, gathered, file.rows, progress):
                write(part, opened)
                file.part_done(opened, len(part))
    except BaseException:
        if file.rows:
            progress.say(f"{file.rows:,} texts are classified; --resume goes on from there")
        raise
    print(f"{len(gathered):,} texts classified, written to {output}", file=sys.stderr)


def _classified(
    model: TextModel, texts: Texts, start: int, progress: Progress
) -> Iterator[list[Prediction]]:
    """Predictions of all texts from ``start`` on, part by part."""
    with progress.task("predict", len(texts) - start, "texts") as advance:
        within = Within(progress, advance)
        for part in texts.parts(start):
            yield classify(model, part, within)


def _state(path: Path) -> list[Any]:
    """What tells whether a file, or a model's folder, is still the one it was."""
    files = [path / name for name in ("config.json", "model.safetensors")] if path.is_dir() else []
    stats = [each.stat() for each in (files or [path]) if each.exists()]
    return [str(path.absolute()), *([stat.st_size, stat.st_mtime_ns] for stat in stats)]


def classify(
    model: TextModel, texts: list[str], progress: Progress | None = None
) -> list[Prediction]:
    """Predict with a loaded model."""
    said, several = model.predict_proba(texts, progress=progress), model.decision.multilabel
    predictions = []
    for text, answer, row in zip(texts, model.answers(said), said, strict=True):
        order = (-row).argsort(kind="stable")
        probabilities = {str(model.classes[i]): float(row[i]) for i in order}
        predictions.append(Prediction(text, answer, probabilities, several))
    return predictions


def _print(predictions: list[Prediction], _: IO[str]) -> None:
    print_predictions(predictions)


def print_predictions(predictions: list[Prediction]) -> None:
    """A table on a terminal; ``label<TAB>probability<TAB>text`` lines into a pipe."""
    from lastblock.cli.tables import print_table

    if not sys.stdout.isatty():
        for p in predictions:
            print(p.label, f"{p.probability:.4f}", _one_line(p.text), sep="\t")
        return
    rows = []
    for p in predictions:
        given = {str(label) for label in p.answer.labels}
        others = [item for item in p.probabilities.items() if item[0] not in given]
        rest = ", ".join(f"{name} {value:.3f}" for name, value in others[: _MOST_SHOWN - 1])
        rows.append([str(p.label), f"{p.probability:.3f}", rest, _one_line(p.text)])
    print_table(["label", "probability", "others", "text"], rows, numbers=[1])


def _gather(
    texts: list[str], source: str | None, text_column: str | None, options: ReadOptions
) -> Texts:
    """The texts to classify: those given, or those of the file or pipe."""
    from lastblock.data.streaming import Texts, open_texts

    if texts and source is not None:
        raise ConfigError("texts and --input are both given; give one of them")
    if texts:
        given = {"text_column": text_column, **vars(options)}
        for name, value in given.items():
            if value is not None:
                option = name.replace("_", "-")
                raise ConfigError(f"--{option} is for --input; leave it out when texts are given")
        checked = [_checked(number, text) for number, text in enumerate(texts, 1)]
        return Texts(lambda: checked)
    waits = sys.stdin is None or sys.stdin.isatty()
    if source is None and waits:
        raise ConfigError(
            'no texts: give some ("..."), or --input FILE, or pipe in one text a line'
        )
    if source == "-" and waits:
        print("reading one text a line; end with Ctrl-D", file=sys.stderr)
    return open_texts(source or "-", text_column=text_column, options=options)


def _checked(number: int, text: str) -> str:
    if not text.strip():
        raise DataError(f"text {number} is empty; give it some words")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"text {number} is not UTF-8; check the terminal's encoding") from None
    return text


def _writer(path: Path, as_json: bool) -> Callable[[list[Prediction], IO[str]], None]:
    """How predictions are written to a file of this name."""
    suffix = path.suffix.lower()
    if as_json or suffix == ".jsonl":
        return _write_json
    delimiter = "\t" if suffix == ".tsv" else ","
    return lambda predictions, file: _write_table(predictions, file, delimiter)


def _write_json(predictions: list[Prediction], file: IO[str]) -> None:
    for p in predictions:
        said = {"labels": p.answer.labels} if p.several else {"label": p.label}
        unsure = {"unsure": True} if p.several and p.answer.unsure else {}
        entry = {"text": p.text, **said, **unsure, "probabilities": p.probabilities}
        file.write(json.dumps(entry, ensure_ascii=False) + "\n")


def _write_table(predictions: list[Prediction], file: IO[str], delimiter: str) -> None:
    classes = sorted(predictions[0].probabilities) if predictions else []
    writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
    if file.tell() == 0:
        writer.writerow(["text", "label", "probability", *(f"probability_{c}" for c in classes)])
    for p in predictions:
        each = (f"{p.probabilities[c]:.6f}" for c in classes)
        writer.writerow([p.text, p.label, f"{p.probability:.6f}", *each])


def _one_line(text: str) -> str:
    return " ".join(text.split())
