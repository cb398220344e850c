"""A survey as one self-contained HTML page. Knows nothing but the survey. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from lastblock.data.survey import Survey

_TEMPLATES = Path(__file__).parents[1] / "templates"
_MOST_CLASSES = 200


def render(survey: Survey) -> str:
    """The page's HTML; every text in it is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["count"] = "{:,}".format
    return environment.get_template("survey.html").render(s=survey, most_classes=_MOST_CLASSES)
