"""``lastblock models``: what can be had by name, without importing torch."""

import json
import subprocess
import sys

import pytest

from lastblock.cli import run
from lastblock.decoder.catalog import MODELS


def test_lists_every_decoder(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models"]) == 0
    out = capsys.readouterr().out
    assert "smollm2-135m-instruct" in out
    assert "134.5 M" in out
    assert run(["models", "--json"]) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == list(MODELS)


def test_costs_no_torch() -> None:
    code = (
        "import sys; from lastblock.cli import run; run(['models']); print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"
