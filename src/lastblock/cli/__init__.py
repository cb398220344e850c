"""The command line: one file a verb. Each parses, calls one function, and prints.

The only place that prints or ends the program. Modules here import nothing heavy at their top,
so that ``lastblock --help`` answers at once.
"""

import io
import os
import sys
from collections.abc import Sequence

EXIT_MENDABLE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    """Run ``lastblock`` on the program's own arguments and end the program."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by whoever started us
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A character that the terminal cannot show must not end a run.
            stream.reconfigure(errors="backslashreplace")
    # Trackers bring code of their own, and may have something to do at the end.
    tracked = any(argument.startswith("--log-to") for argument in sys.argv)
    ours = sys.argv[1:2] in (["predict"], ["train"]) and not tracked
    if ours:
        from lastblock.runtime import spare_torch_compiler

        spare_torch_compiler()
        # NumPy's and SciPy's threads, for which there is hardly anything to multiply here, would
        # spin for a tenth of a second each, where something else is imported meanwhile.
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    code = 1
    try:
        code = run(sys.argv[1:])
        print(end="", flush=True)
    except OSError as error:
        # The reader (head, less) has left, or the disk is full, which has been said. Point stdout
        # elsewhere, or Python's own flush at exit fails once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1 if isinstance(error, BrokenPipeError) else max(code, EXIT_MENDABLE)
    if ours:
        # Taking torch apart again, which nothing waits for, would take a fifth of a second.
        print(end="", file=sys.stderr, flush=True)
        os._exit(code)
    sys.exit(code)


def run(arguments: Sequence[str]) -> int:
    """Run one command; what the user can mend becomes one line on stderr. Returns the exit code.

    0 is success, 2 an error that the line explains, 130 an interruption by the user.
    """
    from typer import TyperException

    from lastblock.cli.app import app
    from lastblock.errors import LastblockError

    try:
        code = app(arguments, prog_name="lastblock", standalone_mode=False)
    except TyperException as error:
        return _complain(_usage_line(error))
    except LastblockError as error:
        return _complain(str(error))
    except BrokenPipeError:
        raise
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        return _complain(f"{place}{error.strerror or error}")
    except KeyboardInterrupt:
        code = EXIT_INTERRUPTED
    if code == EXIT_INTERRUPTED:
        return _complain("interrupted; nothing was half-written", EXIT_INTERRUPTED)
    return int(code or 0)


def _usage_line(error: Exception) -> str:
    """A parser's message, and the command whose --help has the answer."""
    context = getattr(error, "ctx", None)
    command = context.command_path if context else "lastblock"
    message = error.format_message()  # type: ignore[attr-defined]
    return f"{message.rstrip('.')}; see {command} --help"


def _complain(message: str, code: int = EXIT_MENDABLE) -> int:
    print("lastblock:", " ".join(message.splitlines()), file=sys.stderr)
    return code
