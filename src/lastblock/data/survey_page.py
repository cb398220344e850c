"""A survey as one self-contained HTML page. Knows nothing but the survey. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from lastblock.data.survey import Survey

_TEMPLATE = Path(__file__).parents[1] / "templates" / "survey.html"
_MOST_CLASSES = 200


def render(survey: Survey) -> str:
    """The page's HTML; every text in it is escaped."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters["count"] = "{:,}".format
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    return template.render(s=survey, most_classes=_MOST_CLASSES)
