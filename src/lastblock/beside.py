"""Work that needs no decoder, for a process of its own: a report's pictures, and the baseline.

As a program it does what it is told; see ``Beside``.
"""

from __future__ import annotations

import _thread
import atexit
import base64
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from importlib import import_module
from queue import SimpleQueue
from types import ModuleType, TracebackType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from lastblock import figures
from lastblock.data.examples import Rows
from lastblock.figures import Facts, Pictures
from lastblock.targets import Numbers

# Seconds that another process may take for a report's pictures, which take two; and besides for
# each text and class of a baseline, many times what it takes.
_PATIENCE, _PATIENCE_EACH = 120, 0.01
# And for coming to its end: once there is nothing more to read, when asked to stop, and at most.
_AT_ONCE, _SOON, _MOMENT = 0.1, 1, 5

Result = TypeVar("Result")
Says = list[npt.NDArray[np.float64]]


class Asked(NamedTuple):
    """Of a baseline, as ``baseline_says`` has it."""

    texts: Sequence[str]
    label_ids: Numbers
    n_classes: int
    seed: int
    parts: Sequence[Sequence[str]]
    folds: Sequence[tuple[Rows, Rows]] = ()


class Here:
    """Whose work is done in this process, when it is asked for."""

    def pictures(self, report: Facts, part: str, files: Sequence[str]) -> Callable[[], Pictures]:
        """What waits for ``figures.pictures``; a report is what JSON can say."""
        return partial(figures.pictures, report, part, files)

    def baseline(self, asked: Asked) -> Callable[[], Says]:
        """What waits for ``baseline.baseline_says``."""

        def says() -> Says:
            from lastblock.baseline import baseline_says  # which imports scikit-learn

            return baseline_says(*asked)

        return says


class Beside(Here):
    """Whose work is done in another process, one thing after the other, while this one goes on.

    To import scikit-learn and matplotlib, to fit a baseline and to draw takes a core some seconds.
    The process begins with the imports as soon as it is started, long before there is anything to
    do, and works while the caller goes on. Where it fails, or cannot be started, all is done here.
    It ends with the ``with`` that it is in, or with its caller.
    """

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        # By a thread, as it may still import, and what is said be more than a pipe takes meanwhile.
        self._thread = ThreadPoolExecutor(1)
        if sys.executable:
            # This very file, and what it imports from where it is imported from here.
            code = "import runpy, sys; sys.path[:] = sys.argv[2:]; "
            code += "runpy.run_path(sys.argv[1], run_name='__main__')"
            command = [sys.executable, "-I", "-c", code, __file__, *sys.path]
            pipe, nowhere = subprocess.PIPE, subprocess.DEVNULL
            with suppress(OSError):
                self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=nowhere)

    def __enter__(self) -> Beside:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process is not None:
            # With nothing more to read it ends by itself. Killed while it imports matplotlib, it
            # could leave files behind that lock others out. By another thread than that which may
            # still wait for an answer.
            with ThreadPoolExecutor(1) as last:
                ending = last.submit(self._process.communicate)
                try:
                    with suppress(TimeoutError):
                        ending.exception(_MOMENT)
                finally:
                    self._process.kill()
        self._thread.shutdown()

    def pictures(self, report: Facts, part: str, files: Sequence[str]) -> Callable[[], Pictures]:
        def drawn(said: Any) -> Pictures:
            as_files = {name: base64.b64decode(file) for name, file in said["png"].items()}
            return Pictures(said["svg"], as_files)

        here = super().pictures(report, part, files)
        return self._begun("pictures", [report, part, files], drawn, here, _PATIENCE)

    def baseline(self, asked: Asked) -> Callable[[], Says]:
        def says(said: Any) -> Says:
            return [np.array(each, dtype=np.float64).reshape(-1, asked.n_classes) for each in said]

        folds = [(fit.tolist(), held.tolist()) for fit, held in asked.folds]
        told = {**asked._asdict(), "label_ids": asked.label_ids.tolist(), "folds": folds}
        patience = _PATIENCE + _PATIENCE_EACH * len(asked.texts) * asked.n_classes
        return self._begun("baseline", [*told.values()], says, super().baseline(asked), patience)

    def _begun(
        self,
        name: str,
        arguments: Sequence[Any],
        taken: Callable[[Any], Result],
        here: Callable[[], Result],
        patience: float,
    ) -> Callable[[], Result]:
        """What waits for some work that is begun there, or else does it ``here``."""
        process = self._process
        if process is None:
            return here
        said = _line([name, *arguments])
        answer = self._thread.submit(_answer, process, said)

        def wait() -> Result:
            try:
                return taken(_read(answer.result(patience)))
            except (OSError, ValueError, LookupError, TypeError):  # late, or not an answer
                process.kill()
                return here()

        return wait


def _line(of: object) -> bytes:
    """A line of JSON. Half surrogates stay what they are: two escaped ones would be read as one."""
    return json.dumps(of, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


def _read(line: bytes) -> Any:
    return json.loads(line.decode("utf-8", "surrogatepass"))


def _answer(process: subprocess.Popen[bytes], said: bytes) -> bytes:
    """The line that a process answers a line with; nothing where it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(said)
    process.stdin.flush()
    return process.stdout.readline()


def _lines() -> Iterator[bytes]:
    """What is said to this process, line by line, which ends once nobody is there to say more.

    Whatever it is doing then, nobody waits for that either.
    """
    lines: SimpleQueue[bytes] = SimpleQueue()

    def take() -> None:
        for line in sys.stdin.buffer:
            lines.put(line)
        lines.put(b"")
        time.sleep(_AT_ONCE)
        _thread.interrupt_main()
        time.sleep(_SOON)
        os._exit(0)

    threading.Thread(target=take, daemon=True).start()
    return iter(lines.get, b"")


class Later(ModuleType):
    """Stands for a module whose functions are wanted, and imports it when one is called."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if name.startswith("__"):
            raise AttributeError(name)

        def function(*args: Any, **kwargs: Any) -> Any:
            return getattr(import_module(self.__name__), name)(*args, **kwargs)

        return function


def _do_what_is_said() -> None:
    """The process that ``Beside`` starts: it answers each line of JSON with another."""
    said = _lines()
    # After all others that are to be called at the end, as the first one is: taking apart what was
    # imported would take a tenth of a second more, which is waited for.
    atexit.register(os._exit, 0)
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401

    # Scikit-learn imports both for what is not done here, and that takes much of its time. The one
    # is as if it were not installed, as it need not be; the other is imported once it is called.
    sys.modules["pandas"] = None  # type: ignore[assignment]
    sys.modules["scipy.stats"] = Later("scipy.stats")
    from lastblock.baseline import baseline_says

    del sys.modules["pandas"], sys.modules["scipy.stats"]
    for line in said:
        name, *arguments = _read(line)
        if name == "pictures":
            drawn = figures.pictures(*arguments)
            files = {name: base64.b64encode(file).decode() for name, file in drawn.png.items()}
            answer: object = {"svg": drawn.svg, "png": files}
        else:
            answer = [each.tolist() for each in baseline_says(*arguments)]
        sys.stdout.buffer.write(_line(answer))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _do_what_is_said()
