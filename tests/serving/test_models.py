"""Models: several by name, loaded when asked, replaced while they serve."""

import asyncio
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from servers import client_of
from tiny import messages

from lastblock import TextClassifier, checkpoint
from lastblock.inference import TextModel
from lastblock.serving.models import LOOKS_UNTIL_GONE, Models
from lastblock.serving.refusal import Refusal


@pytest.fixture(scope="module")
def other(pretrained: Path) -> TextModel:
    """A model that answers otherwise: its labels have other names."""
    texts, labels = messages(20, seed=5)
    renamed = [label.upper() for label in labels]
    return TextClassifier(str(pretrained), dtype="float32", epochs=1).fit(texts, renamed).model_


@pytest.fixture
def folder(saved: Path, other: TextModel, tmp_path: Path) -> Path:
    shutil.copytree(saved, tmp_path / "models" / "one")
    checkpoint.save(other, tmp_path / "models" / "two")
    (tmp_path / "models" / "notes").mkdir()
    (tmp_path / "models" / ".two.tmp").mkdir()
    return tmp_path / "models"


def refusal(call: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as raised:
        call()
    return raised.value


def test_models_are_loaded_when_asked_and_once(folder: Path) -> None:
    async def ask() -> None:
        models = Models(folder)
        assert models.names() == ["one", "two"]
        assert models.loaded() == []
        first, again = await asyncio.gather(models.get("two"), models.get("two"))
        assert first is again
        assert [m.name for m in models.loaded()] == ["two"]

    asyncio.run(ask())


def test_names_that_are_none(folder: Path) -> None:
    models = Models(folder)
    needed = refusal(lambda: asyncio.run(models.get(None)))
    assert (needed.status, needed.message) == (422, "name a model; there are: one, two")
    for name in ("three", "notes", ".two.tmp", "../models/one", "", "one/", "\0"):
        assert refusal(lambda name=name: asyncio.run(models.get(name))).status == 404


def test_a_damaged_model_fails_alone(folder: Path) -> None:
    (folder / "two" / "model.safetensors").write_bytes(b"no")

    async def ask() -> None:
        models = Models(folder)
        with pytest.raises(Refusal) as raised:
            await models.get("two")
        assert raised.value.status == 503
        assert (await models.get("one")).name == "one"

    asyncio.run(ask())


def test_a_replaced_folder_is_loaded_and_a_damaged_one_is_not(
    folder: Path, other: TextModel
) -> None:
    async def ask() -> None:
        models = Models(folder)
        old = await models.get("one")
        await models.look()
        assert await models.get("one") is old
        checkpoint.save(other, folder / "one")
        await models.look()
        new = await models.get("one")
        assert new.model.classes == ["HAM", "SPAM"]
        assert new.id != old.id
        (folder / "one" / "config.json").write_text("{}")
        await models.look()
        assert await models.get("one") is new

    asyncio.run(ask())


def test_a_folder_that_is_gone_is_let_go_after_a_while(folder: Path) -> None:
    async def ask() -> None:
        models = Models(folder)
        await models.get("one")
        shutil.rmtree(folder / "one")
        for _ in range(LOOKS_UNTIL_GONE - 1):
            await models.look()
            assert await models.get("one")
        await models.look()
        with pytest.raises(Refusal):
            await models.get("one")

    asyncio.run(ask())


def test_no_request_fails_while_a_model_is_replaced(
    folder: Path, model: TextModel, other: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lastblock.serving.models.SECONDS_BETWEEN_LOOKS", 0.02)
    body = {"texts": "WIN CASH", "model": "one"}
    wanted = {tuple(m.class_names): m.predict_proba(["WIN CASH"])[0] for m in (model, other)}
    done = threading.Event()
    with client_of(folder) as client:

        def replace() -> None:
            for i in range(7):
                time.sleep(0.03)
                checkpoint.save(model if i % 2 else other, folder / "one")
            done.set()

        seen = set()
        client.post("/v1/predict", json=body)
        thread = threading.Thread(target=replace)
        thread.start()
        while not done.is_set() or len(seen) < 2:
            response = client.post("/v1/predict", json=body)
            assert response.status_code == 200
            (prediction,) = response.json()["predictions"]
            names = tuple(prediction["probabilities"])
            given = list(prediction["probabilities"].values())
            np.testing.assert_allclose(given, wanted[names], atol=1e-5)
            seen.add(names)
        thread.join()
        assert client.get("/v1/model?model=two").json()["labels"] == ["HAM", "SPAM"]
        assert client.get("/v1/models").json() == {"models": ["one", "two"]}
