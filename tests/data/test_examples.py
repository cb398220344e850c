"""Examples: one label for each text, rows taken in the order asked for."""

import os
import subprocess
import sys

import numpy as np
import pytest

from lastblock.data.examples import Examples
from lastblock.errors import DataError


def test_take_keeps_the_order_the_source_and_the_notes() -> None:
    examples = Examples(["a", "b", "c"], [1, 2, 3], "here", ("a note",))
    taken = examples.take(np.array([2, 0]))
    assert (taken.texts, taken.labels) == (["c", "a"], [3, 1])
    assert (taken.source, taken.notes) == ("here", ("a note",))
    assert len(taken) == 2


def test_unequal_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="here: 2 texts and 1 labels"):
        Examples(["a", "b"], [1], "here")


def test_data_imports_no_torch() -> None:
    modules = ("catalog", "cleaning", "readers", "split", "survey", "survey_page")
    lines = [f"import lastblock.data.{module}" for module in modules]
    code = "; ".join([*lines, "import sys", "assert 'torch' not in sys.modules"])
    subprocess.run([sys.executable, "-c", code], check=True, env=dict(os.environ))
