"""The pictures of a report, from its own facts: curves of training, and of how good it is.

Each is drawn once in fixed colours, as a PNG for the model card and as SVG for the page, where
the colours become the page's own, which differ in the dark. Knows no model and no files.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Facts = Mapping[str, Any]
Point = Mapping[str, float | None]

INK, MUTED, LINE = "#1d1d22", "#6b6a72", "#dddad2"
ACCENT, SECOND, THIRD = "#3246c8", "#c2571a", "#2a8a6a"
_PAGE_COLOURS = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    LINE: "var(--line)",
    ACCENT: "var(--accent)",
    SECOND: "var(--second)",
    THIRD: "var(--third)",
}
_LOOKS = [(ACCENT, "-"), (SECOND, "--"), (THIRD, "-."), (MUTED, ":")]
# Curves in one picture; of more classes those with the lowest average precision are drawn.
MOST_CURVES = 4
# Texts from which on their share of right answers is drawn.
_LEAST_COVERED = 20
# A confusion matrix of more classes is shown without its numbers.
_MOST_NUMBERS = 20


class Pictures(NamedTuple):
    """Those of a report, by name: parts of a page, and files."""

    svg: dict[str, str]
    png: dict[str, bytes]


def pictures(report: Facts, part: str, files: Sequence[str]) -> Pictures:
    """All that ``draw`` draws, and those that are named in ``files`` as files too."""
    drawn = dict(draw(report, part))
    as_files = {name: png(drawn[name]) for name in files if name in drawn}
    return Pictures({name: inline_svg(figure) for name, figure in drawn.items()}, as_files)


def draw(report: Facts, part: str) -> Iterator[tuple[str, Figure]]:
    """Every picture there are facts for, with its name; ``part`` is the part it is judged by."""
    if choice := report.get("choice"):
        yield "depth", depth_curve(choice)
    if history := report.get("history"):
        unit = _unit(history)
        for what, points in (("loss", history["losses"]), ("accuracy", history["accuracies"])):
            if points:
                yield what, training_curve(points, what, unit)
    scores = report["splits"][part] if "splits" in report else {}
    if "confusion" in scores:
        yield "confusion", confusion_matrix(scores["confusion"], list(scores["per_class"]))
    said = report.get("calibration", {}).get("reliability", {}).get(part)
    if said:
        yield "reliability", reliability_diagram(said)
    if curves := report.get("curves"):
        shown = worst_classes(curves, scores["per_class"], report["data"]["classes"])
        yield "precision_recall", precision_recall({name: curves[name] for name in shown})
        if len(curves) == 2 and "confusion" in scores:
            # The line that is drawn is drawn for the second class.
            chosen = report.get("decision", {}).get("thresholds")
            name = list(curves)[1] if chosen else shown[0]
            yield "thresholds", thresholds(curves[name]["points"], name, chosen and chosen[0])
    if covered := report.get("coverage"):
        yield "coverage", coverage(covered["points"], scores["n"])


def worst_classes(curves: Facts, per_class: Facts, rows: Mapping[str, int]) -> list[str]:
    """The classes whose curves are drawn: of two the rarer, else those hardest to find.

    ``rows`` counts all that were read by class: what is rare there may have been balanced since.
    """
    known = [name for name in curves if per_class[name]["support"]] or list(curves)
    if len(curves) == 2:
        return [min(known, key=lambda name: rows.get(name, per_class[name]["support"]))]
    return sorted(known, key=lambda name: curves[name]["average_precision"])[:MOST_CURVES]


# ------------------------------------------------------------------------------ training


def depth_curve(choice: Facts) -> Figure:
    """Cross-validated accuracy of a linear probe after each number of blocks; the chosen one."""
    figure, axes = _empty()
    depths = choice["depths"]
    colour, dashes = _LOOKS[0]
    axes.plot(depths, choice["accuracy"], dashes, color=colour, marker="o", ms=4)
    chosen = choice.get("chosen", {}).get("depth")
    if chosen is not None:
        axes.axvline(chosen, color=INK, linewidth=1)
        axes.annotate(
            f"chosen: {chosen}",
            (chosen, 0),
            xycoords=("data", "axes fraction"),
            xytext=(5 if chosen < np.mean(depths) else -5, 5),
            textcoords="offset points",
            ha="left" if chosen < np.mean(depths) else "right",
            color=INK,
            fontsize=9,
        )
    axes.set_xlabel("frozen blocks below")
    _percent_axis(axes.yaxis)
    _whole_numbers(axes)
    return figure


def _unit(history: Mapping[str, list[Point]]) -> tuple[str, float]:
    """What the lower axis counts, and how many examples are seen in one of it."""
    for name, points, first in (("epoch", "accuracies", 0), ("step", "losses", 1)):
        if history[points]:
            last = history[points][-1]
            return name, max(1.0, (last["examples_seen"] or 0) / ((last[name] or 0) + first))
    return "step", 1.0


def training_curve(points: Sequence[Point], what: str, unit: tuple[str, float]) -> Figure:
    """Training and validation curve; epochs below, examples seen above, as in the book."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    name, examples = unit
    figure, axes = _empty()
    styles = (("train", MUTED, "-"), ("validation", ACCENT, "--"))
    for part, colour, dashes in styles:
        seen = [(p["examples_seen"], p[f"{part}_{what}"]) for p in points]
        known = [(x / examples, y) for x, y in seen if x is not None and y is not None]
        if known:
            marker = "o" if len(known) <= 12 else None
            axes.plot(*zip(*known, strict=True), dashes, color=colour, marker=marker, label=part)
    axes.set_xlabel(name)
    _whole_numbers(axes)
    if what == "accuracy":
        _percent_axis(axes.yaxis)
    else:
        axes.set_ylim(bottom=0)
    above = axes.secondary_xaxis(
        "top", functions=(lambda x: np.multiply(x, examples), lambda x: np.divide(x, examples))
    )
    above.set_xlabel("examples seen")
    above.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=5))
    above.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    above.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    above.xaxis.label.set(color=MUTED, size=9)
    above.spines[:].set_visible(False)
    _legend(axes)
    return figure


# ------------------------------------------------------------------------------ how good


def confusion_matrix(confusion: Sequence[Sequence[int]], names: Sequence[str]) -> Figure:
    """Rows are true classes; shades are shares of the row, mistakes in another colour."""
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.figure import Figure

    k, shares = len(names), row_shares(confusion)
    side = min(2.6 + 0.3 * k, 8.0)  # inches
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.add_subplot()
    right = np.eye(k, dtype=bool)
    for colour, hidden in ((ACCENT, ~right), (SECOND, right)):
        # Even a single text is a shade that can be seen.
        shades = LinearSegmentedColormap.from_list("shares", [f"{colour}50", colour])
        shown = np.ma.array(shares, mask=hidden | (shares == 0))
        axes.imshow(shown, cmap=shades, vmin=0, vmax=1)
    short = [name if len(name) <= 20 else name[:19] + "…" for name in names]
    size = min(9.0, 0.7 * 72 * side / k)  # points: no higher than a row
    # A "$" in a name is no formula.
    axes.set_xticks(range(k), short, rotation=90, fontsize=size, parse_math=False)
    axes.set_yticks(range(k), short, fontsize=size, parse_math=False)
    if k <= _MOST_NUMBERS:
        for (i, j), count in np.ndenumerate(np.array(confusion)):
            if count:
                colour = "#ffffff" if shares[i, j] > 0.5 else INK
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=colour, fontsize=size)
    axes.set_xlabel("predicted", color=MUTED, fontsize=9)
    axes.set_ylabel("true", color=MUTED, fontsize=9)
    axes.tick_params(length=0, labelcolor=INK)
    axes.spines[:].set_color(LINE)
    return figure


def row_shares(confusion: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
    """Each count as a share of its row; rows without texts stay 0."""
    counts = np.array(confusion, dtype=np.float64)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


def reliability_diagram(said: Mapping[str, Sequence[Facts]]) -> Figure:
    """What was said against what came true, before and after calibration; the diagonal is best."""
    figure, axes = _empty(square=True)
    axes.plot([0, 1], [0, 1], color=LINE, linewidth=1.2)
    same = said.get("before") == said.get("after")
    ways = [("after", ACCENT, "-", "o")]
    if not same:
        ways.insert(0, ("before", SECOND, "--", "s"))
    for when, colour, dashes, marker in ways:
        bins = said.get(when, [])
        x, y = [b["probability"] for b in bins], [b["share"] for b in bins]
        if when == "after":
            low, high = np.array([b["share_ci95"] for b in bins]).T
            axes.vlines(x, low, high, color=colour, linewidth=5, alpha=0.22)
        label = None if same else f"{when} calibration"
        axes.plot(x, y, dashes, color=colour, marker=marker, ms=4.5, label=label)
    lowest = min((b["low"] for bins in said.values() for b in bins), default=0.0)
    axes.set(xlim=(max(0.0, lowest - 0.02), 1.01), ylim=(-0.02, 1.02))
    axes.set_xlabel("probability it gave")
    axes.set_ylabel("share that was right")
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    if not same:
        _legend(axes)
    return figure


def precision_recall(curves: Facts) -> Figure:
    """Precision against recall at every threshold, a curve a class."""
    figure, axes = _empty(square=True)
    for (colour, dashes), (name, curve) in zip(_LOOKS, curves.items(), strict=False):
        recall = [0.0, *(p["recall"] for p in curve["points"])]
        precision = [p["precision"] for p in curve["points"]]
        short = name if len(name) <= 22 else name[:21] + "…"
        axes.step(
            recall,
            [precision[0], *precision],
            dashes,
            color=colour,
            where="pre",
            label=f"{short}  {curve['average_precision']:.3f}".replace("$", r"\$"),
        )
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    axes.set_xlabel("recall: share of the class that is found")
    axes.set_ylabel("precision: share of the found that is right")
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    _legend(axes, "lower left")
    return figure


def thresholds(points: Sequence[Facts], name: str, chosen: float | None = None) -> Figure:
    """Precision, recall and F1 of a class, by the probability from which on it is said."""
    figure, axes = _empty(square=True)
    x = [p["threshold"] for p in points]
    for (colour, dashes), what in zip(_LOOKS, ("precision", "recall", "f1"), strict=False):
        y = [p[what] for p in points]
        axes.plot(x, y, dashes, color=colour, label="F1" if what == "f1" else what)
    if chosen is not None:
        axes.axvline(chosen, color=INK, linewidth=1, label=f"chosen: {chosen:.3g}")
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.02, 1.02))
    short = name if len(name) <= 22 else name[:21] + "…"
    axes.set_xlabel(f"probability from which on it says {short}", parse_math=False)
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    _legend(axes, "lower center")
    return figure


def coverage(points: Sequence[Facts], n: int) -> Figure:
    """How often it is right on the texts it is surest of, by how many of the ``n`` these are."""
    figure, axes = _empty(square=True)
    # Of a handful a single mistake would be a cliff.
    points = [p for p in points if p["flagged"] * n >= _LEAST_COVERED] or points
    axes.plot([p["flagged"] for p in points], [p["precision"] for p in points], color=ACCENT)
    axes.set(xlim=(-0.01, 1.01))
    axes.set_ylim(top=1 + 0.04 * (1 - axes.get_ylim()[0]))
    axes.set_xlabel("share of texts it is asked to label, the surest first")
    axes.set_ylabel("share of them that it has right")
    _percent_axis(axes.xaxis)
    _percent_axis(axes.yaxis)
    return figure


# ------------------------------------------------------------------------------ of many runs


def learning_curve(curves: Facts) -> Figure:
    """Accuracy by number of labels, of the classifier and of the baseline; bands are ± one sd."""
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    figure, axes = _empty()
    ways = (
        ("ours", "this classifier", ACCENT, "-", "o"),
        ("baseline", "TF-IDF", SECOND, "--", "s"),
    )
    for name, label, colour, dashes, marker in ways:
        points = curves[name]
        n, mean, sd = (np.array([p[key] for p in points]) for key in ("n", "mean", "sd"))
        axes.fill_between(n, mean - sd, np.minimum(mean + sd, 1), color=colour, alpha=0.14, lw=0)
        axes.plot(n, mean, dashes, color=colour, marker=marker, ms=4.5, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator([p["n"] for p in curves["ours"]]))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.set_xlabel("labelled texts it learnt from")
    axes.set_ylabel("accuracy on the test part")
    _percent_axis(axes.yaxis)
    _legend(axes, "lower right")
    return figure


def importance(shares: Mapping[str, float]) -> Figure:
    """How much of what settings change each of them explains, the largest on top."""
    figure, axes = _empty()
    names = sorted(shares, key=lambda name: shares[name])
    bars = axes.barh(
        [name.replace("_", " ") for name in names],
        [shares[name] for name in names],
        height=0.55,
        color=ACCENT,
    )
    written = [f"{100 * shares[name]:.0f} %" for name in names]
    axes.bar_label(bars, written, padding=4, fontsize=9, color=INK)
    axes.tick_params(axis="y", labelcolor=INK)
    axes.grid(visible=False)
    axes.set(xlim=(0, 1.12 * max(shares.values())), xticks=[])
    return figure


def trials(values: Sequence[float | None], metric: str, least_is_best: bool) -> Figure:
    """The value of every trial in turn, and the best so far; those given up have none."""
    figure, axes = _empty()
    known = [(i, value) for i, value in enumerate(values, 1) if value is not None]
    numbers, each = np.array([i for i, _ in known]), np.array([value for _, value in known])
    best = (np.minimum if least_is_best else np.maximum).accumulate(each)
    axes.plot(numbers, each, "o", color=MUTED, ms=5, label="trial")
    axes.plot(numbers[:1], each[:1], "s", color=SECOND, ms=7, label="the recipe's own")
    axes.step([*numbers, len(values)], [*best, best[-1]], where="post", color=ACCENT, label="best")
    axes.set_xlabel("trial")
    axes.set_ylabel(f"{metric.replace('_', ' ')}, cross-validated")
    _whole_numbers(axes)
    _legend(axes)
    return figure


# ------------------------------------------------------------------------------ their look


def _empty(square: bool = False) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.4, 3.9) if square else (5.2, 3.3), layout="constrained")
    axes = figure.add_subplot()
    axes.tick_params(length=0, labelsize=9, labelcolor=MUTED)
    for axis in (axes.xaxis, axes.yaxis):
        axis.label.set(color=MUTED, size=9)
    axes.spines[:].set_visible(False)
    axes.grid(axis="both" if square else "y", color=LINE, linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def _percent_axis(axis: Any) -> None:
    axis.set_major_formatter(lambda share, _: f"{100 * share:.4g} %")


def _whole_numbers(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=6))


def _legend(axes: Axes, where: str = "best") -> None:
    axes.legend(loc=where, frameon=False, labelcolor=INK, fontsize=9)  # type: ignore[call-overload]


def png(figure: Figure) -> bytes:
    """The picture as a file, on white."""
    return _save(figure, format="png", dpi=160, facecolor="white")


def inline_svg(figure: Figure) -> str:
    """The picture as part of a page: the page's fonts and colours, no fixed size."""
    import matplotlib

    nothing = {"Date": None, "Creator": None, "Format": None, "Type": None}
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "lastblock"}):
        drawn = _save(figure, format="svg", transparent=True, metadata=nothing).decode()
    svg = drawn[drawn.index("<svg") :]
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*" height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r' id="[a-z]+[\w.]*_\d+"', "", svg)  # the same in every figure
    for colour, variable in _PAGE_COLOURS.items():
        svg = svg.replace(colour, variable)
    return svg


def _save(figure: Figure, **how: Any) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # Class names in a script that the font lacks become boxes; the tables have them right.
        warnings.filterwarnings("ignore", message="Glyph")
        if layout := figure.get_layout_engine():
            # Left to savefig, this would draw all of it once more, to throw that away.
            layout.execute(figure)
            figure.set_layout_engine("none")  # what was found stays, however it is drawn next
        figure.savefig(buffer, **how)
    return buffer.getvalue()
