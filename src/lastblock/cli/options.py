"""Options as the verbs declare them: the help is the setting's own, from config."""

from __future__ import annotations

from typing import Any

import typer

from lastblock.config import help_of


def setting(config: type, name: str, metavar: str | None = None) -> Any:
    """A command-line option for one field of a settings class."""
    default = config.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    return typer.Option(
        help=help_of(config, name), metavar=metavar, show_default=default is not None
    )
