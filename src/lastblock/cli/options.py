"""Options as the verbs declare them: the help is the setting's own, from config."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import typer

from lastblock.config import DataConfig, ReadOptions, help_of


def setting(config: type, name: str, metavar: str | None = None, *flags: str) -> Any:
    """A command-line option for one field of a settings class; flags if not the parameter's."""
    default = config.__dataclass_fields__[name].default  # type: ignore[attr-defined]
    return typer.Option(
        *flags, help=help_of(config, name), metavar=metavar, show_default=default is not None
    )


# How data is read: the same options wherever a verb takes texts.
TextColumn = Annotated[str | None, setting(DataConfig, "text_column", "NAME")]
LabelColumn = Annotated[str | None, setting(DataConfig, "label_column", "NAME")]
Encoding = Annotated[str | None, setting(DataConfig, "encoding", "NAME")]
Delimiter = Annotated[str | None, setting(DataConfig, "delimiter", "CHARACTER")]
Header = Annotated[bool | None, setting(DataConfig, "header")]
Quoting = Annotated[bool | None, setting(DataConfig, "quoting")]
LabelSeparator = Annotated[str | None, setting(DataConfig, "label_separator", "TEXT")]


def reading_texts(
    text_column: TextColumn = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    header: Header = None,
    quoting: Quoting = None,
) -> dict[str, Any]:
    """How to read texts: the options, as the readers take them."""
    options = ReadOptions(encoding=encoding, delimiter=delimiter, header=header, quoting=quoting)
    return {"text_column": text_column, "options": options}


def reading_examples(
    text_column: TextColumn = None,
    label_column: LabelColumn = None,
    encoding: Encoding = None,
    delimiter: Delimiter = None,
    header: Header = None,
    quoting: Quoting = None,
    label_separator: LabelSeparator = None,
) -> dict[str, Any]:
    """How to read labelled texts, likewise."""
    options = ReadOptions(
        encoding=encoding,
        delimiter=delimiter,
        header=header,
        quoting=quoting,
        label_separator=label_separator,
    )
    return {"text_column": text_column, "label_column": label_column, "options": options}


def takes_options_of(other: Callable[..., Any]) -> Callable[[Callable[..., None]], Any]:
    """Give a verb that ends in ``**options`` the parameters of another function, as its own.

    Typer reads a verb's signature; so verbs that train share their options without writing each of
    them down again.
    """

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(verb).parameters.values()
        parameters = [p for p in own if p.kind is not p.VAR_KEYWORD]
        parameters += inspect.signature(other).parameters.values()
        hints = {
            name: hint
            for function in (other, verb)
            for name, hint in get_type_hints(function, include_extras=True).items()
        }
        verb.__annotations__ = {p.name: hints[p.name] for p in parameters}
        verb.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
            [p.replace(kind=p.KEYWORD_ONLY, annotation=hints[p.name]) for p in parameters]
        )
        return verb

    return decorate
