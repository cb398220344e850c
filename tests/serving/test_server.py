"""The server as a process: existing clients, many at once, a graceful stop, its start."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2 as httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient
from servers import Server, server_of

from lastblock.cli import run
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
    with server_of(saved) as server:
        statuses = []

        def ask() -> None:
            body = {"texts": ["my secret text"] * 100}
            response = httpx.post(f"{server.url}/v1/predict", json=body, timeout=30)
            statuses.append(response.status_code)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
        server.process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join()
        output = server.stop()
    assert statuses == [200] * 4
    assert "secret" not in output
    assert "Traceback" not in output


def test_workers_share_the_work_and_the_counting(saved: Path) -> None:
    with server_of(saved, "--workers", "2") as server:
        for _ in range(20):
            response = httpx.post(f"{server.url}/v1/predict", json={"texts": "hello"}, timeout=30)
            assert response.status_code == 200
        counted = {httpx.get(f"{server.url}/metrics").text.count("lastblock_texts_total{")}
        assert counted == {1}
        assert 'lastblock_texts_total{model="sms"} 20.0' in httpx.get(f"{server.url}/metrics").text


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
