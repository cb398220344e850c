"""Servers for tests: the application in this process, and a whole server in another."""

import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2 as httpx
from starlette.testclient import TestClient

from lastblock.config import ServeConfig
from lastblock.serving.app import create_app


@contextlib.contextmanager
def client_of(models: Path, **settings: object) -> Iterator[TestClient]:
    app = create_app(ServeConfig(models=str(models), **settings))  # type: ignore[arg-type]
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def server_of(models: Path, *options: str, port: int | None = None) -> Iterator["Server"]:
    server = Server(models, options, port or free_port())
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


class Server:
    """``lastblock serve`` in a process of its own."""

    def __init__(self, models: Path, options: tuple[str, ...], port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        command = [sys.executable, "-m", "lastblock", "serve", str(models), "--port", str(port)]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        self.output = ""

    def wait_until_ready(self, seconds: float = 240) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()[0]
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"{self.url}/readyz", timeout=2).status_code == 200:
                    return
            time.sleep(0.1)
        raise TimeoutError("the server did not become ready")

    def stop(self) -> str:
        if self.process.poll() is None:
            self.process.terminate()
        with contextlib.suppress(ValueError):  # communicate was called before
            self.output += self.process.communicate(timeout=30)[0] or ""
        return self.output


def metric(text: str, name: str) -> float:
    """The sum over all labels of a metric in Prometheus' text format."""
    found = re.findall(rf"^{name}(?:\{{.*\}})? (\S+)$", text, re.MULTILINE)
    assert found, f"no {name}"
    return sum(map(float, found))
