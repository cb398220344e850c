"""Write docs/cli.md from the commands' own --help: ``make docs``."""

from pathlib import Path

TARGET = Path(__file__).with_name("cli.md")
WIDTH = "80"

INTRODUCTION = """\
# Command line

Written by `make docs` from `--help`; do not edit.

What can be mended (a missing file, an option out of range) ends with one line on standard error
and exit code 2; an interruption with 130. Results go to standard output, progress to standard
error: bars on a terminal, a few plain lines elsewhere.
"""


def render() -> str:
    """The whole page, the same on every machine."""
    from lastblock.cli.app import verbs

    names = [verb.__name__ for verb in verbs]
    sections = [_section("lastblock", _help([]))]
    sections += [_section(f"lastblock {name}", _help([name])) for name in names]
    return "\n".join([INTRODUCTION, *sections])


def _section(title: str, help: str) -> str:
    return f"## {title}\n\n```text\n{help}```\n"


def _help(verb: list[str]) -> str:
    from typer.testing import CliRunner

    from lastblock.cli.app import app

    result = CliRunner().invoke(
        app, [*verb, "--help"], prog_name="lastblock", color=False, env={"COLUMNS": WIDTH}
    )
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines()) + "\n"


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
    print(f"wrote {TARGET}")
