"""What all tests share: a cache inside the project, the folder of real data, one seed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SEED = 20240607

# Set before anything is imported, and for subprocesses too: fetched weights are kept between
# runs, and the user's own cache is not touched.
os.environ.setdefault("LASTBLOCK_CACHE", str(ROOT / ".cache" / "lastblock"))

# What one test's fit computed must not be found by another's; tests of just that set a size.
os.environ.setdefault("LASTBLOCK_CACHE_SIZE", "0")

# Of tests side by side (pytest -n), those that wait for a thread must not keep others from going
# on. To be set before torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "0")


@pytest.fixture
def lastblock_data() -> Path:
    """The folder of real data sets, given from outside."""
    folder = os.environ.get("LASTBLOCK_DATA")
    if not folder:
        pytest.skip("LASTBLOCK_DATA is not set")
    return Path(folder)


@pytest.fixture(scope="session")
def project_root() -> Path:
    return ROOT


@pytest.fixture(autouse=True)
def _fixed_seeds() -> None:
    """The same random numbers whatever ran before."""
    import random

    import numpy as np
    import torch

    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


@pytest.fixture
def use_kernels(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Say whether the kernels in C are to be used; where there are none their tests are skipped."""
    from lastblock.decoder import kernels

    def use(wanted: bool) -> None:
        if wanted and not kernels.available():
            pytest.skip("there are no kernels for this processor, or none were built")
        if not wanted:
            monkeypatch.setattr(kernels, "available", lambda: False)

    return use


@pytest.fixture(scope="session")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny pretrained decoder, as ``--model`` takes it."""
    from tiny import write_pretrained

    return write_pretrained(tmp_path_factory.mktemp("pretrained") / "tiny")
