"""Options as the verbs declare them: the help is the setting's own, from config."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lastblock.config import DataConfig, help_of


def setting(config: type, name: str, metavar: str | None = None) -> Any:
    """A command-line option for one field of a settings class."""
    default = config.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    return typer.Option(
        help=help_of(config, name), metavar=metavar, show_default=default is not None
    )


# How data is read: the same options wherever a verb takes texts.
TextColumn = Annotated[str | None, setting(DataConfig, "text_column", "NAME")]
LabelColumn = Annotated[str | None, setting(DataConfig, "label_column", "NAME")]
Encoding = Annotated[str | None, setting(DataConfig, "encoding", "NAME")]
Delimiter = Annotated[str | None, setting(DataConfig, "delimiter", "CHARACTER")]
Header = Annotated[bool | None, setting(DataConfig, "header")]
Quoting = Annotated[bool | None, setting(DataConfig, "quoting")]
LabelSeparator = Annotated[str | None, setting(DataConfig, "label_separator", "TEXT")]
