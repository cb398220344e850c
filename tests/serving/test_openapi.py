"""schemathesis: thousands of odd requests from the API's own description; none breaks it."""

import subprocess
import sys
from pathlib import Path

import pytest
from servers import Server

pytestmark = pytest.mark.browser


def test_the_api_is_as_it_describes_itself(server: Server, tmp_path: Path) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    command = [str(program), "run", f"{server.url}/openapi.json"]
    # What a description cannot say may be refused: a label that the model does not know, a file
    # whose header names no column of texts.
    command += ["--exclude-checks", "positive_data_acceptance"]
    options = ["--max-examples", "25", "--seed", "1", "--no-color", "--request-timeout", "20"]
    result = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=500, cwd=tmp_path
    )
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
    assert server.process.poll() is None
