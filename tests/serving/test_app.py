"""The addresses: what they answer, what they refuse, and that nothing of a text is logged."""

import csv
import io
import json
import logging
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from servers import client_of, metric
from starlette.testclient import TestClient

from lastblock import checkpoint
from lastblock.decision import Decision
from lastblock.explanation import log_odds
from lastblock.inference import TextModel
from lastblock.serving import schemas
from lastblock.serving.app import Room
from lastblock.serving.refusal import Refusal

TEXTS = ["WIN CASH now", "home for dinner", "call mum later, she asked twice"]


def test_one_text_is_predicted_as_the_library_does(client: TestClient, model: TextModel) -> None:
    response = client.post("/v1/predict", json={"texts": TEXTS[0]})
    body = schemas.PredictResponse.model_validate(response.json())
    row = model.predict_proba(TEXTS[:1])[0]
    (prediction,) = body.predictions
    assert prediction.label == model.classes[row.argmax()]
    assert prediction.probability == pytest.approx(row.max(), abs=1e-6)
    assert list(prediction.probabilities) == model.class_names
    assert prediction.tokens == len(model.encode(TEXTS[:1])[0])
    assert not prediction.truncated
    assert body.model.name == "sms"


@pytest.mark.parametrize("repeat", [1, 20])
def test_several_texts_come_back_in_order(
    client: TestClient, model: TextModel, repeat: int
) -> None:
    texts = TEXTS * repeat
    response = client.post("/v1/predict", json={"texts": texts})
    given = [list(p["probabilities"].values()) for p in response.json()["predictions"]]
    np.testing.assert_allclose(given, model.predict_proba(texts), atol=1e-5)


def test_a_text_that_was_cut_says_so(client: TestClient, model: TextModel) -> None:
    text = "dinner " * 100
    (prediction,) = client.post("/v1/predict", json={"texts": text}).json()["predictions"]
    assert prediction["tokens"] == 700
    assert model.settings.max_length < 700
    assert prediction["truncated"]


def served_with(decision: Decision, model: TextModel, folder: Path) -> dict[str, Any]:
    """The answer to ``TEXTS`` of the model with another decision."""
    checkpoint.save(replace(model, decision=decision), folder / "sms")
    with client_of(folder / "sms") as client:
        body = client.post("/v1/predict", json={"texts": TEXTS}).json()
        assert client.get("/v1/model").json()["decision"] == body["decision"]
        schemas.PredictResponse.model_validate(body)
        file = "text\n" + "".join(f'"{text}"\n' for text in TEXTS)
        response = client.post(
            "/v1/predict/file", content=file, headers={"Content-Type": "text/csv"}
        )
        rows = list(csv.DictReader(io.StringIO(response.text)))
    return {**body, "rows": [row["predicted_label"] for row in rows]}


def test_a_threshold_is_applied(model: TextModel, tmp_path: Path) -> None:
    probabilities = model.predict_proba(TEXTS)[:, 1]
    middle = float(np.sort(probabilities)[1])
    body = served_with(Decision(thresholds=(middle,)), model, tmp_path)
    wanted = ["spam" if p >= middle - 1e-6 else "ham" for p in probabilities]
    assert [p["label"] for p in body["predictions"]] == body["rows"] == wanted
    assert body["decision"]["thresholds"] == {"spam": middle}
    for prediction in body["predictions"]:
        assert prediction["labels"] == [prediction["label"]]
        assert prediction["probability"] == prediction["probabilities"][prediction["label"]]


def test_what_is_too_unsure_is_said_to_be(model: TextModel, tmp_path: Path) -> None:
    sureness = model.predict_proba(TEXTS).max(axis=1)
    least = float(np.sort(sureness)[1]) + 1e-4
    body = served_with(Decision(abstain_below=least), model, tmp_path)
    assert [p["unsure"] for p in body["predictions"]] == (sureness < least).tolist()
    for prediction, row in zip(body["predictions"], body["rows"], strict=True):
        assert (prediction["label"] == row == "unsure") == prediction["unsure"]
        assert bool(prediction["labels"]) != prediction["unsure"]
        assert prediction["probability"] == max(prediction["probabilities"].values())


def test_a_text_may_have_several_labels_or_none(model: TextModel, tmp_path: Path) -> None:
    by_itself = Decision(labels="several")
    probabilities = replace(model, decision=by_itself).predict_proba(TEXTS)
    every, none = ((float(level), float(level)) for level in (probabilities.min() - 1e-4, 0.9999))
    body = served_with(Decision(labels="several", thresholds=every), model, tmp_path)
    for prediction, row in zip(body["predictions"], probabilities, strict=True):
        likeliest_first = [model.classes[i] for i in np.argsort(-row)]
        assert prediction["labels"] == likeliest_first
        assert prediction["label"] == likeliest_first[0]
        np.testing.assert_allclose(list(prediction["probabilities"].values()), row, atol=1e-5)
    assert body["rows"][0] == "|".join(body["predictions"][0]["labels"])
    body = served_with(Decision(labels="several", thresholds=none), model, tmp_path)
    assert [(p["label"], p["labels"]) for p in body["predictions"]] == [(None, [])] * 3
    assert body["decision"]["thresholds"] == {"ham": 0.9999, "spam": 0.9999}
    assert body["rows"] == [""] * 3


def test_a_long_text_is_read_in_windows_up_to_a_limit(
    model: TextModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_windows = replace(model, settings=replace(model.settings, long_text="window"))
    checkpoint.save(in_windows, tmp_path / "sms")
    text = "dinner at home " * 60
    (wanted,) = in_windows.predict_proba([text])
    with client_of(tmp_path / "sms") as client:
        explained = client.post("/v1/explain", json={"text": text}).json()["prediction"]
        (prediction,) = client.post("/v1/predict", json={"texts": text}).json()["predictions"]
        monkeypatch.setattr("lastblock.serving.app.WINDOW_TOKENS", 300)
        (cut,) = client.post("/v1/predict", json={"texts": text}).json()["predictions"]
    for answer in (prediction, explained):
        assert not answer["truncated"]
        np.testing.assert_allclose(list(answer["probabilities"].values()), wanted, atol=1e-5)
    assert cut["truncated"]
    assert cut["tokens"] == prediction["tokens"] > model.settings.max_length


def test_words_are_explained(client: TestClient, model: TextModel) -> None:
    body = client.post("/v1/explain", json={"text": TEXTS[0]}).json()
    schemas.ExplainResponse.model_validate(body)
    assert [w["text"] for w in body["words"]] == ["WIN", "CASH", "now"]
    best = model.class_number(body["explained"])
    whole, nothing = log_odds(model.predict_proba([TEXTS[0], ""]), best)
    wanted = whole - nothing
    assert sum(w["effect"] for w in body["words"]) == pytest.approx(wanted, abs=1e-4)
    other = next(c for c in model.classes if c != body["explained"])
    turned = client.post("/v1/explain", json={"text": TEXTS[0], "label": other}).json()
    assert turned["explained"] == other
    assert sum(w["effect"] for w in turned["words"]) == pytest.approx(-wanted, abs=1e-4)


def test_long_texts_are_explained_as_far_as_they_are_read(
    client: TestClient, model: TextModel
) -> None:
    body = client.post("/v1/explain", json={"text": "a b " * 300}).json()
    assert 1 < len(body["words"]) <= 64
    assert model.settings.max_length - 2 < body["words"][-1]["end"] <= model.settings.max_length


def test_the_model_describes_itself(client: TestClient, model: TextModel) -> None:
    info = schemas.ModelInfo.model_validate(client.get("/v1/model").json())
    assert (info.name, info.labels) == ("sms", model.classes)
    assert info.settings == json.loads(json.dumps(model.settings.to_dict()))
    assert client.get("/v1/models").json() == {"models": ["sms"]}
    assert client.get("/v1/model/report").status_code == 404


def test_health_and_metrics(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    before = client.get("/metrics").text
    client.post("/v1/predict", json={"texts": TEXTS})
    after = client.get("/metrics").text
    assert metric(after, "lastblock_texts_total") - metric(before, "lastblock_texts_total") == 3
    assert metric(after, "lastblock_tokens_total") > metric(before, "lastblock_tokens_total")
    assert metric(after, "lastblock_batch_texts_count") > 0
    assert metric(after, "lastblock_queue_texts") == 0
    assert 'path="/v1/predict",status="200"' in after


BAD: list[tuple[int, bytes]] = [
    (422, b'{"texts": '),
    (400, b'{"texts": "\xff"}'),
    (400, b"[" * 50_000),
    (422, b"[]"),
    (422, b"{}"),
    (422, b"null"),
    (422, b'{"texts": 5}'),
    (422, b'{"texts": []}'),
    (422, b'{"texts": [5]}'),
    (422, b'{"texts": [null]}'),
    (422, b'{"texts": {"a": "b"}}'),
    (422, b'{"texts": ""}'),
    (422, b'{"texts": " \\n "}'),
    (422, b'{"texts": "secret\\u0000"}'),
    (422, b'{"texts": "secret \\ud800"}'),
    (422, b'{"texts": ["fine", "secret \\udfff"]}'),
    (422, b'{"texts": "a", "secret": 1}'),
    (422, b'{"\\ud800": "a"}'),
    (404, b'{"texts": "a", "model": "no"}'),
    (404, b'{"texts": "a", "model": "../sms"}'),
    (422, b'{"texts": "' + b"a" * 2_001 + b'"}'),
    (422, json.dumps({"texts": ["a"] * 81}).encode()),
    (413, b'{"texts": "' + b"a" * 1_000_000 + b'"}'),
]


@pytest.mark.parametrize(("status", "body"), BAD)
def test_what_cannot_be_read_is_a_clear_refusal(
    client: TestClient, status: int, body: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "lastblock"):
        response = client.post(
            "/v1/predict", content=body, headers={"Content-Type": "application/json"}
        )
    assert response.status_code == status, response.text
    error = schemas.Error.model_validate(response.json())
    assert error.error
    assert "secret \\" not in response.text
    assert "secret" not in caplog.text


def test_a_wrong_type_is_named_without_the_types_of_the_code(client: TestClient) -> None:
    error = client.post("/v1/predict", json={"texts": ["a", 5]}).json()["error"]
    assert "body.texts.1: Input should be a valid string" in error
    assert "constrained" not in error


def test_long_work_ends_in_time(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_run = threading.Event()
    with client_of(saved, max_seconds=0.2) as client:
        monkeypatch.setattr(TextModel, "probabilities", lambda *_: may_run.wait(10) and None)
        for path, body in (("predict", {"texts": ["a"] * 33}), ("explain", {"text": "a"})):
            response = client.post(f"/v1/{path}", json=body)
            assert (response.status_code, response.json()["code"]) == (503, "too_slow")
        may_run.set()


def test_a_body_without_a_length_is_counted_too(client: TestClient) -> None:
    parts = (b"x" * 10_000 for _ in range(20))
    headers = {"Content-Type": "application/json"}
    response = client.post("/v1/predict", content=parts, headers=headers)
    assert (response.status_code, response.json()["code"]) == (413, "too_large")


def test_a_form_or_plain_text_is_refused(client: TestClient) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded"):
        response = client.post(
            "/v1/predict", content=b'{"texts": "a"}', headers={"Content-Type": kind}
        )
        assert response.status_code == 422


def test_unknown_places_and_methods(client: TestClient) -> None:
    assert client.get("/nothing").status_code == 404
    assert client.get("/page/../app.py").status_code == 404
    assert client.get("/v1/predict").status_code == 405
    assert set(client.get("/nothing").json()) == {"error", "code"}


def test_headers_keep_browsers_safe(client: TestClient) -> None:
    for path in ("/", "/docs", "/v1/model", "/nothing"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert "default-src 'self'" in headers["Content-Security-Policy"]
        assert "Access-Control-Allow-Origin" not in headers
        assert "server" not in headers


def test_other_hosts_names_are_refused_without_a_key(client: TestClient) -> None:
    assert client.get("/v1/model", headers={"Host": "evil.example"}).status_code == 403
    for host in ("localhost:80", "127.0.0.1", "127.0.0.1:8000", "[::1]:8000"):
        assert client.get("/v1/model", headers={"Host": host}).status_code == 200


def test_an_error_in_code_is_logged_without_the_text(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: TextModel, sequences: Any, progress: Any = None) -> Any:
        raise RuntimeError("my secret text")

    monkeypatch.setattr(TextModel, "probabilities", broken)
    with caplog.at_level(logging.DEBUG):
        response = client.post("/v1/predict", json={"texts": "my secret text"})
    assert (response.status_code, response.json()["code"]) == (500, "internal")
    assert "RuntimeError at test_app.py" in caplog.text
    assert "secret" not in caplog.text


def test_a_key_is_asked_for(saved: Path, tmp_path: Path) -> None:
    key = "0123456789abcdef0123456789abcdef"
    (tmp_path / "key").write_text(key + "\n")
    body = {"texts": "hello"}
    with client_of(saved, api_key_file=str(tmp_path / "key"), host="0.0.0.0") as client:
        for headers in ({}, {"Authorization": "Bearer no"}, {"Authorization": f"Basic {key}"}):
            response = client.post("/v1/predict", json=body, headers=headers)
            assert response.status_code == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
        for headers in ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key}):
            assert client.post("/v1/predict", json=body, headers=headers).status_code == 200
        assert client.post("/", json={"inputs": "a"}).status_code == 401
        assert client.get("/metrics").status_code == 401
        for path in ("/", "/docs", "/openapi.json", "/healthz", "/readyz"):
            assert client.get(path).status_code == 200
        named = {"Host": "classifier.example", "X-API-Key": key}
        assert client.get("/v1/model", headers=named).status_code == 200


def test_other_origins_may_call_only_if_asked_for(saved: Path, client: TestClient) -> None:
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    assert "Access-Control-Allow-Origin" not in client.options("/v1/predict", headers=ask).headers
    with client_of(saved, allow_origin=("https://a.example",)) as other:
        headers = other.options("/v1/predict", headers=ask).headers
        assert headers["Access-Control-Allow-Origin"] == "https://a.example"
        ask["Origin"] = "https://b.example"
        denied = other.options("/v1/predict", headers=ask).headers
        assert "Access-Control-Allow-Origin" not in denied


def test_a_page_of_another_origin_reads_refusals_too(saved: Path, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0123456789abcdef\n")
    origin = "https://a.example"
    settings = {"allow_origin": (origin,), "api_key_file": str(tmp_path / "key")}
    with client_of(saved, **settings) as client:
        ask = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        assert client.options("/v1/predict", headers=ask).status_code == 200
        refused = client.post("/v1/predict", json={"texts": "a"}, headers={"Origin": origin})
        assert refused.status_code == 401
        assert refused.headers["Access-Control-Allow-Origin"] == origin
        assert client.options("/v1/predict").status_code == 401


def test_a_room_is_given_back() -> None:
    room = Room(1, "files are at work already")
    for _ in range(2):
        with room.taken(), pytest.raises(Refusal) as refused, room.taken():
            pass
        assert refused.value.status == 429
        assert "1 files are at work" in refused.value.message


def test_the_hub_shape(client: TestClient, model: TextModel) -> None:
    (elements,) = client.post("/", json={"inputs": TEXTS[0]}).json()
    assert [e["label"] for e in elements] == [
        model.class_names[i] for i in np.argsort(-model.predict_proba(TEXTS[:1])[0])
    ]
    top = client.post("/", json={"inputs": TEXTS, "parameters": {"top_k": 1}}).json()
    assert [len(elements) for elements in top] == [1, 1, 1]
    refused = client.post("/", json={"inputs": "a", "parameters": {"function_to_apply": "none"}})
    assert refused.status_code == 422


def test_docs_need_no_other_host(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http://" not in page
    assert "https://" not in page
    for path in ("/docs/swagger/swagger-ui-bundle.js", "/docs/swagger/swagger-ui.css"):
        assert client.get(path).status_code == 200
    assert "/v1/predict" in client.get("/openapi.json").json()["paths"]
