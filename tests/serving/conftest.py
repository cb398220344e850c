"""A small saved model, the application around it, and a server in a process of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Server, client_of, server_of
from starlette.testclient import TestClient
from tiny import messages

from lastblock import TextClassifier
from lastblock.inference import TextModel


@pytest.fixture(scope="session")
def classifier(pretrained: Path) -> TextClassifier:
    texts, labels = messages(40)
    return TextClassifier(str(pretrained), dtype="float32", epochs=2).fit(texts, labels)


@pytest.fixture(scope="session")
def saved(classifier: TextClassifier, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("serving") / "sms"
    classifier.save(folder)
    return folder


@pytest.fixture(scope="session")
def model(saved: Path) -> TextModel:
    from lastblock.checkpoint import load

    return load(saved)


@pytest.fixture(scope="module")
def client(saved: Path) -> Iterator[TestClient]:
    with client_of(saved, max_characters=2_000, max_texts=80, max_body=100_000) as client:
        yield client


@pytest.fixture(scope="session")
def server(saved: Path) -> Iterator[Server]:
    with server_of(saved) as server:
        yield server
