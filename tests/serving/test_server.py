"""The server as a process: existing clients, many at once, a graceful stop, its start."""

import contextlib
import dataclasses
import inspect
import json
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from servers import Server, server_of

from lastblock.cli import run
from lastblock.cli.serve import serve
from lastblock.config import ServeConfig
from lastblock.inference import TextModel

TEXTS = [f"{word} {i}" for i in range(20) for word in ("WIN CASH", "mum", "dinner at home later")]


def test_the_hub_client_works_by_changing_its_url(server: Server, model: TextModel) -> None:
    client = InferenceClient(model=server.url)
    elements = client.text_classification(TEXTS[0])
    row = model.predict_proba(TEXTS[:1])[0]
    assert [e.label for e in elements] == [model.class_names[i] for i in np.argsort(-row)]
    np.testing.assert_allclose([e.score for e in elements], -np.sort(-row), atol=1e-5)
    assert len(client.text_classification(TEXTS[0], top_k=1)) == 1


def test_many_clients_get_what_one_would(server: Server, model: TextModel) -> None:
    def ask(text: str) -> list[float]:
        response = httpx.post(f"{server.url}/v1/predict", json={"texts": text}, timeout=30)
        (prediction,) = response.json()["predictions"]
        return list(prediction["probabilities"].values())

    with ThreadPoolExecutor(16) as pool:
        rows = list(pool.map(ask, TEXTS))
    np.testing.assert_allclose(rows, model.predict_proba(TEXTS), atol=1e-5)


def test_what_was_begun_is_finished_and_no_text_is_logged(saved: Path) -> None:
    body = json.dumps({"texts": ["my secret text"] * 100}).encode()
    head = (
        "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        f"Expect: 100-continue\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with server_of(saved) as server, contextlib.ExitStack() as kept:
        connect = partial(socket.create_connection, ("127.0.0.1", server.port), timeout=30)
        begun = [kept.enter_context(connect()) for _ in range(4)]
        for connection in begun:
            connection.sendall(head.encode())
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
        server.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(OSError):
            while True:  # until nobody new is let in
                connect().close()
                time.sleep(0.05)
        for connection in begun:
            connection.sendall(body)
        for connection in begun:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")
        output = server.stop()
    assert "secret" not in output
    assert "Traceback" not in output


def test_clients_that_leave_give_their_room_back(server: Server) -> None:
    body = b"text\n" + b"dinner at home\n" * 200
    head = (
        f"POST /v1/predict/file HTTP/1.1\r\nHost: localhost\r\nContent-Type: text/csv\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    for part in [body[:100]] * 20 + [body] * 20:
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(head.encode() + part)
            if part is body:
                assert connection.recv(10).startswith(b"HTTP/1.1")
    end = time.monotonic() + 30
    while time.monotonic() < end:
        headers = {"Content-Type": "text/csv"}
        files = [
            httpx.post(f"{server.url}/v1/predict/file", content=body, headers=headers, timeout=30)
            for _ in range(2)
        ]
        if [file.status_code for file in files] == [200, 200]:
            break
    else:
        pytest.fail("rooms of clients that left stay taken")


def test_workers_share_the_work_and_the_counting(saved: Path) -> None:
    with server_of(saved, "--workers", "2") as server:
        for _ in range(20):
            response = httpx.post(f"{server.url}/v1/predict", json={"texts": "hello"}, timeout=30)
            assert response.status_code == 200
        counted = {httpx.get(f"{server.url}/metrics").text.count("lastblock_texts_total{")}
        assert counted == {1}
        assert 'lastblock_texts_total{model="sms"} 20.0' in httpx.get(f"{server.url}/metrics").text


def test_the_command_s_defaults_are_those_of_the_settings() -> None:
    settings = {field.name: field.default for field in dataclasses.fields(ServeConfig)}
    given = {name: p.default for name, p in inspect.signature(serve).parameters.items()}
    both = (settings.keys() & given.keys()) - {"models"}  # has no default
    assert len(both) > 10
    for name in both:
        assert (given[name] or ()) == (settings[name] or ()), name


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--host", "0.0.0.0"], "give --api-key-file too"),
        (["--queue", "0"], "--queue is 0"),
        (["--max-seconds", "0"], "--max-seconds is 0.0"),
        (["--allow-origin", "example.org"], "--allow-origin is 'example.org'"),
        (["--api-key-file", "/nothing"], "--api-key-file /nothing cannot be read"),
    ],
)
def test_options_that_cannot_be(
    saved: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["serve", str(saved), *options]) == 2
    assert words in capsys.readouterr().err


def test_a_short_key_and_a_folder_of_nothing(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("short\n")
    assert run(["serve", str(saved), "--api-key-file", str(tmp_path / "key")]) == 2
    assert "shorter than 16 characters" in capsys.readouterr().err
    assert run(["serve", str(tmp_path)]) == 2
    assert "holds no saved model" in capsys.readouterr().err


def test_a_damaged_model_is_one_line(
    saved: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in saved.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes()[:2000])
    assert run(["serve", str(tmp_path), "--port", "0"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 2
