"""``run``: serve until asked to stop, in this process or in several of its children.

With several, this one only starts them, hands them the socket and replaces those that die; it
imports no torch. Knows no addresses.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from lastblock.config import ServeConfig
from lastblock.errors import MissingExtraError, SavedModelError

SETTINGS = "LASTBLOCK_SERVE"  # the environment in which the serving processes find the settings
METRICS_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
# torch keeps what oneDNN compiled for each number of tokens that it met, in two caches. In the
# first some 3 MB each, and a server meets a thousand; a forward pass needs a handful of them, and
# that others are compiled anew cannot be measured. The second holds 8-bit products, a few for each
# of 32 numbers of rows (``Int8Linear`` rounds them up): small, and a text would wait for them.
# To be set before torch is imported.
KEPT_KERNELS = {"LRU_CACHE_CAPACITY": "24", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "160"}


def run(config: ServeConfig) -> None:
    """Serve until SIGTERM or SIGINT; what was begun is finished first.

    Raises:
        ConfigError: the key file cannot be used.
        MissingExtraError: the packages that serving needs are not installed.
        SavedModelError: there is no model to serve.
    """
    try:
        import uvicorn

        from lastblock.serving.guard import read_key
        from lastblock.serving.protocol import ImpatientProtocol
    except ImportError as error:
        raise MissingExtraError(
            f"serving needs {error.name}: pip install 'lastblock[serve]'"
        ) from None
    read_key(config.api_key_file)
    _check_folder(Path(config.models))
    for name, value in KEPT_KERNELS.items():
        os.environ.setdefault(name, value)
    os.environ[SETTINGS] = json.dumps(config.to_dict())
    with tempfile.TemporaryDirectory(prefix="lastblock-metrics-") as folder:
        if config.workers > 1:
            os.environ[METRICS_FOLDER] = folder
        uvicorn.run(
            "lastblock.serving.app:create_app_from_environment",
            factory=True,
            http=ImpatientProtocol,
            host=config.host,
            port=config.port,
            workers=config.workers,
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            limit_concurrency=1024,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=int(config.max_seconds) + 5,
        )


def _check_folder(folder: Path) -> None:
    """Before anything is started, so that it is one line; whether models load shows later."""
    if not (folder / "config.json").is_file() and not any(folder.glob("*/config.json")):
        raise SavedModelError(
            f"{folder}: holds no saved model, nor folders that are; `lastblock train DATA -o` "
            "makes one"
        )
