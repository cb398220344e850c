"""Files in and out: the rows as they were, with predictions; what is wrong is said by row."""

import csv
import io
import json
from collections.abc import Iterator

import numpy as np
import pytest
from starlette.testclient import TestClient

from lastblock.inference import TextModel
from lastblock.serving import files

CSV, TSV, JSONL = "text/csv", "text/tab-separated-values", "application/x-ndjson"


def send(client: TestClient, body: bytes, kind: str, query: str = "") -> list[dict[str, str]]:
    response = client.post(f"/v1/predict/file{query}", content=body, headers={"Content-Type": kind})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"].startswith(kind)
    if kind == JSONL:
        rows = [json.loads(line) for line in response.text.splitlines()]
    else:
        delimiter = "," if kind == CSV else "\t"
        rows = list(csv.DictReader(io.StringIO(response.text), delimiter=delimiter))
    assert response.headers["X-Rows"] == str(len(rows))
    return rows


def test_csv_rows_come_back_with_predictions(client: TestClient, model: TextModel) -> None:
    texts = [f'WIN, {i} "CASH"' if i % 2 else f"dinner\nat {i}" for i in range(70)]
    body = io.StringIO()
    writer = csv.writer(body)
    writer.writerow(["id", "Message", "label"])
    writer.writerows([i, text, "old"] for i, text in enumerate(texts))
    rows = send(client, body.getvalue().encode("utf-8-sig"), CSV)
    assert [row["Message"] for row in rows] == texts
    assert [row["id"] for row in rows] == [str(i) for i in range(70)]
    assert {row["label"] for row in rows} == {"old"}
    wanted = model.predict_proba(texts)
    given = [[float(row[f"probability_{c}"]) for c in model.class_names] for row in rows]
    np.testing.assert_allclose(given, wanted, atol=1e-5)
    labels = [model.class_names[i] for i in wanted.argmax(1)]
    assert [row["predicted_label"] for row in rows] == labels


def test_tsv_and_a_column_that_is_named(client: TestClient) -> None:
    rows = send(client, b"text\tsubject\nnone\thello, you\n", TSV, "?text_column=subject")
    assert rows[0]["subject"] == "hello, you"
    assert rows[0]["predicted_label"] in ("ham", "spam")


def test_json_lines_keep_their_types(client: TestClient) -> None:
    body = b'{"text": "hello", "n": [1, null]}\n\n{"n": 2.5, "text": "WIN"}\n'
    rows = send(client, body, JSONL)
    assert [row["n"] for row in rows] == [[1, None], 2.5]  # type: ignore[comparison-overlap]
    assert set(rows[0]["prediction"]) == {
        *("label", "labels", "probability", "probabilities", "unsure", "tokens", "truncated")
    }


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        (CSV, b"", "holds no rows"),
        (CSV, b"text\n", "holds no rows"),
        (CSV, b"text,n\nhello,1\nagain\n", "row 2: has 1 columns, the header 2"),
        (CSV, b'text\n"open\n', "row 1: is no CSV"),
        (CSV, b"text\nhello\n  \n", "row 2, column 'text': is blank"),
        (CSV, b"text\nsecret \0\n", "row 1, column 'text': holds a NUL"),
        (CSV, b"text\nsecret \xff\n", "not UTF-8"),
        (CSV, b"text\n" + b"a" * 2001 + b"\n", "row 1, column 'text': has 2,001 characters"),
        (CSV, b"text\n" + b"a" * 200_000 + b"\n", "row 1: is no CSV"),
        (CSV, b"a,b\n1,2\n", "which column holds the texts?"),
        (CSV, b"a,a\n1,2\n", "same name"),
        (JSONL, b'{"text": "a"}\n{"text": \n', "row 2: is no JSON"),
        (JSONL, b'{"text": "a", "n": NaN}\n', "row 1: is no JSON"),
        (JSONL, b'{"text": "a"}\n{"text": "a", "prediction": 1}\n', "row 2: the answer adds"),
        (CSV, b"text,predicted_label\na,b\n", "the answer adds 'predicted_label'; rename"),
        (JSONL, b'["text"]\n', "row 1: is no JSON object"),
        (JSONL, b'{"text": "a"}\n{"other": "b"}\n', "row 2, column 'text': is missing"),
        (JSONL, b'{"text": 5}\n', "row 1, column 'text': is missing or no string"),
        (JSONL, b'{"text": "secret \\ud800"}\n', "half of a surrogate pair"),
    ],
)
def test_what_is_wrong_is_said_by_row(
    client: TestClient, kind: str, body: bytes, words: str
) -> None:
    response = client.post("/v1/predict/file", content=body, headers={"Content-Type": kind})
    assert response.status_code == 422
    assert words in response.json()["error"]
    assert "secret" not in response.text


def test_a_column_that_is_not_there_and_an_unknown_type(client: TestClient) -> None:
    headers = {"Content-Type": CSV}
    response = client.post("/v1/predict/file?text_column=no", content=b"text\na\n", headers=headers)
    assert "no column 'no'; it has: text" in response.json()["error"]
    headers["Content-Type"] = "application/zip"
    assert client.post("/v1/predict/file", content=b"a", headers=headers).status_code == 415
    assert client.post("/v1/predict/file", content=b"a").status_code == 415


def test_a_half_surrogate_beside_the_text_does_no_harm(client: TestClient) -> None:
    rows = send(client, b'{"text": "fine", "note": "\\ud800"}\n', JSONL)
    assert rows[0]["prediction"]


def chunks() -> Iterator[bytes]:
    yield b"text\n"
    for i in range(5):
        yield b"row %d\n" % i


def test_a_large_file_is_read_in_parts() -> None:
    file = io.BytesIO(b"".join(chunks()))
    upload = files.check(file, CSV, None, 100, [])
    assert [len(part) for part in upload.parts(2)] == [2, 2, 1]
    assert upload.rows == 5
