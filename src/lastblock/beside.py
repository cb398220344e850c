"""Work that needs no decoder, for a process of its own: a report's pictures, and the baseline.

As a program it does what it is told; see ``Beside``.
"""

from __future__ import annotations

import atexit
import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from lastblock import figures
from lastblock.data.examples import Rows
from lastblock.figures import Facts, Pictures
from lastblock.targets import Numbers

# Seconds that another process may take for a report's pictures, which take two.
_PATIENCE = 120
# And for coming to its end once there is nothing to do.
_MOMENT = 5

Result = TypeVar("Result")
Says = list[npt.NDArray[np.float64]]
Folds = Sequence[tuple[Rows, Rows]]


class Here:
    """Whose work is done in this process, when it is asked for."""

    def pictures(self, report: Facts, part: str, files: Sequence[str]) -> Callable[[], Pictures]:
        """What waits for ``figures.pictures``; a report is what JSON can say."""
        return partial(figures.pictures, report, part, files)

    def baseline(
        self,
        texts: Sequence[str],
        label_ids: Numbers,
        n_classes: int,
        seed: int,
        asked: Sequence[Sequence[str]],
        folds: Folds = (),
    ) -> Callable[[], Says]:
        """What waits for ``baseline.baseline_says``."""

        def says() -> Says:
            from lastblock.baseline import baseline_says  # which imports scikit-learn

            return baseline_says(texts, label_ids, n_classes, seed, asked, folds)

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
            # Told that there is nothing more to do, it ends by itself. Killed while it imports
            # matplotlib, it could leave files behind that lock others out.
            ending = self._thread.submit(self._process.communicate)
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

    def baseline(
        self,
        texts: Sequence[str],
        label_ids: Numbers,
        n_classes: int,
        seed: int,
        asked: Sequence[Sequence[str]],
        folds: Folds = (),
    ) -> Callable[[], Says]:
        def says(said: Any) -> Says:
            return [np.array(each, dtype=np.float64).reshape(-1, n_classes) for each in said]

        here = super().baseline(texts, label_ids, n_classes, seed, asked, folds)
        rows = [[fit.tolist(), held.tolist()] for fit, held in folds]
        told = [texts, label_ids.tolist(), n_classes, seed, asked, rows]
        # Of many texts this takes minutes, there as here.
        return self._begun("baseline", told, says, here, patience=None)

    def _begun(
        self,
        name: str,
        arguments: Sequence[Any],
        taken: Callable[[Any], Result],
        here: Callable[[], Result],
        patience: float | None,
    ) -> Callable[[], Result]:
        """What waits for some work that is begun there, or else does it ``here``."""
        process = self._process
        if process is None:
            return here
        said = json.dumps([name, *arguments]).encode()
        answer = self._thread.submit(_answer, process, said)

        def wait() -> Result:
            try:
                return taken(json.loads(answer.result(patience)))
            except (OSError, ValueError):  # of which a timeout is one
                process.kill()
                return here()

        return wait


def _answer(process: subprocess.Popen[bytes], said: bytes) -> bytes:
    """The line that a process answers a line with; nothing where it has ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(said + b"\n")
    process.stdin.flush()
    return process.stdout.readline()


def _do_what_is_said() -> None:
    """The process that ``Beside`` starts: it answers each line of JSON with another."""
    # After all others that are to be called at the end, as the first one is: taking apart what was
    # imported would take a tenth of a second more, which is waited for.
    atexit.register(os._exit, 0)
    import matplotlib.backends.backend_agg
    import matplotlib.backends.backend_svg
    import matplotlib.figure  # noqa: F401

    from lastblock.baseline import baseline_says

    for line in sys.stdin.buffer:
        name, *arguments = json.loads(line)
        if name == "pictures":
            drawn = figures.pictures(*arguments)
            files = {name: base64.b64encode(file).decode() for name, file in drawn.png.items()}
            answer: object = {"svg": drawn.svg, "png": files}
        else:
            answer = [said.tolist() for said in baseline_says(*arguments)]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _do_what_is_said()
