"""The addresses and what they answer.

Answers are made as JSON here rather than through their schemas, which describe them for /docs
alone: checking every answer would cost more than the framework's whole work. A test compares them.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.resources
import itertools
import json
import logging
import os
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
import torch
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    JSONResponse,
    Response,
    StreamingResponse,
)
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from lastblock.config import ServeConfig
from lastblock.inference import TextModel
from lastblock.serving import files, metrics, schemas
from lastblock.serving.batching import Batcher
from lastblock.serving.guard import Guard
from lastblock.serving.models import Models, Served
from lastblock.serving.refusal import Refusal
from lastblock.serving.server import SETTINGS
from lastblock.tokenization.batching import TokenIds

log = logging.getLogger("lastblock.serving")

PAGE = Path(__file__).with_name("page")

# A request of more texts is bulk work, done a part at a time so that single texts can pass.
PART = 32
MAX_BULK = 16  # bulk requests at work at once; more are refused with 429
MAX_UPLOADS = 32  # files that arrive or are at work at once: each may take up room on the disk
FILE_HEADERS = ("X-Rows", "X-Text-Column", "X-Model-Id")
# Tokens are found beside the event loop from here on; for less the change of thread costs more.
LONG_CHARACTERS = 4_000
# Of a text that is read whole, in windows: others wait as long as a batch runs.
WINDOW_TOKENS = 8_192
EXPLAIN_TOKENS = 8_192  # what an explanation may read in all; longer texts get coarser pieces
TYPE_STEP = re.compile(r"str|int|constrained-str|list\[.*\]")
# A report is one page with its style inside. It may do nothing else.
REPORT_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; sandbox"


class Room:
    """For so many pieces of work at once.

    Args:
        size: how many.
        message: what is said of those that are at work to one who finds no room.
    """

    def __init__(self, size: int, message: str) -> None:
        self._size = size
        self._message = message
        self._used = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """For the time of the block.

        Raises:
            Refusal: 429 if all is taken.
        """
        if self._used >= self._size:
            message = f"{self._used} {self._message}; try again later"
            raise Refusal(429, "queue_full", message, retry_after=5)
        self._used += 1
        try:
            yield
        finally:
            self._used -= 1


class Service:
    """The models and the batcher of one process, and what can be asked of them."""

    def __init__(self, config: ServeConfig) -> None:
        self.config = config
        self.models = Models(Path(config.models), self._warm_up)
        self.batcher = Batcher(
            max_batch_tokens=config.max_batch_tokens,
            max_waiting=config.queue,
            max_seconds=config.max_seconds,
        )
        self.ready = False
        self.bulk = Room(MAX_BULK, "files or long lists are at work already")
        self.uploads = Room(MAX_UPLOADS, "files are being sent already")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        self.batcher.start()
        try:
            for served in self.models.loaded():
                await self._warm_up(served.model)
            async with self.models.watched():
                self.ready = True
                yield
        finally:
            self.ready = False
            await asyncio.to_thread(self.batcher.close)

    def check(self, texts: Sequence[str]) -> None:
        """Refuse, with 422, too many texts or one that no model can read."""
        if len(texts) > self.config.max_texts:
            message = f"{len(texts)} texts; at most {self.config.max_texts} are taken at once"
            raise Refusal(422, "too_many_texts", message)
        for number, text in enumerate(texts, 1):
            files.check_text(text, f"text {number}", self.config.max_characters)

    async def predict(self, served: Served, texts: Sequence[str]) -> list[dict[str, Any]]:
        """A prediction for each text, in their order."""
        if len(texts) <= PART:
            return await self._predict_part(served, texts, bulk=False)
        predictions = []
        async with self._bulk_in_time():
            for start in range(0, len(texts), PART):
                part = texts[start : start + PART]
                predictions += await self._predict_part(served, part, bulk=True)
        return predictions

    async def predict_rows(self, served: Served, upload: files.Upload) -> AsyncIterator[str]:
        """The rows of a file with their predictions, a part at a time."""
        yield upload.header
        for rows in upload.parts(PART):
            texts = [row[upload.text_column] for row in rows]
            predictions = await self._predict_part(served, texts, bulk=True)
            yield "".join(map(upload.write, rows, predictions))

    async def explain(self, served: Served, text: str, label: str | int | None) -> dict[str, Any]:
        """The prediction for a text, and what each of its words did."""
        number = _class_number(served.model, label)
        # Fewer orders than elsewhere: someone is typing.
        plan, sequences = await asyncio.to_thread(
            served.model.plan_explanation, text, budget=EXPLAIN_TOKENS, most_pairs=1
        )
        # Of a long text less may be explained than is read for its prediction.
        read, (tokens,) = await self._encode(served.model, [text])
        sequences += read
        async with self._bulk_in_time():
            run = partial(self.batcher.run, served.model, bulk=True)
            rows = np.concatenate([await run(part) for part in _parts(sequences)])
        *left, whole = rows
        model = served.model
        explained = model.foremost(whole) if number is None else number
        found = plan.explain(
            np.stack(left),
            explained,
            model.classes[explained],
            several=model.decision.multilabel,
        )
        self._count(served, sequences)
        return {
            "prediction": _prediction(model, whole, tokens),
            "explained": found.label,
            "words": [
                {
                    "text": text[w.start : w.end],
                    "start": w.start,
                    "end": w.end,
                    "effect": w.contribution,
                }
                for w in found.words
            ],
        }

    @asynccontextmanager
    async def _bulk_in_time(self) -> AsyncIterator[None]:
        seconds = self.config.max_seconds
        try:
            with self.bulk.taken():
                async with asyncio.timeout(seconds):
                    yield
        except TimeoutError:
            message = f"not done within {seconds:g} s; send less at once, or a file"
            raise Refusal(503, "too_slow", message, retry_after=1) from None

    async def _warm_up(self, model: TextModel) -> None:
        # In the batcher's thread like every other text: each thread that computes brings helpers
        # of its own, and once they are more than there are cores all wait for each other longer.
        await self.batcher.run(model, model.encode(["the first text"]), bulk=True)

    async def _predict_part(
        self, served: Served, texts: Sequence[str], *, bulk: bool
    ) -> list[dict[str, Any]]:
        sequences, tokens = await self._encode(served.model, texts)
        rows = await self.batcher.run(served.model, sequences, bulk=bulk)
        self._count(served, sequences)
        return [_prediction(served.model, *each) for each in zip(rows, tokens, strict=True)]

    async def _encode(
        self, model: TextModel, texts: Sequence[str]
    ) -> tuple[list[TokenIds], list[int]]:
        """Token ids as the model wants them, and how many there were before the cut."""
        if sum(map(len, texts)) < LONG_CHARACTERS:
            encoded = model.tokenizer.encode_batch(texts)
        else:
            encoded = await asyncio.to_thread(model.tokenizer.encode_batch, texts)
        lengths = [len(ids) for ids in encoded]
        if model.settings.long_text == "window":
            encoded = [ids[:WINDOW_TOKENS] for ids in encoded]
        return [model.fit_length(ids) for ids in encoded], lengths

    def _count(self, served: Served, sequences: Sequence[TokenIds]) -> None:
        metrics.TEXTS.labels(served.name).inc(len(sequences))
        metrics.TOKENS.labels(served.name).inc(sum(map(len, sequences)))


def create_app(config: ServeConfig) -> ASGIApp:
    """The whole application, guarded.

    Raises:
        ConfigError: the key file cannot be used.
        SavedModelError: there is no model to serve.
    """
    service = Service(config)
    service.models.load_single()

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with service.running():
            yield

    app = FastAPI(
        title="lastblock",
        summary="Text classification with saved models.",
        version=importlib.metadata.version("lastblock"),
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(Refusal, _answer_refusal)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(Exception, _answer_error)
    _add_api(app, service)
    _add_page(app)
    guarded = Guard(app, config)
    if not config.allow_origin:
        return guarded
    # Around the guard: browsers ask first without the key, and pages may read refusals too.
    return CORSMiddleware(
        guarded,
        allow_origins=list(config.allow_origin),
        allow_methods=["GET", "POST"],
        allow_headers=["Authorization", "Content-Type", "X-API-Key"],
        expose_headers=["Retry-After", *FILE_HEADERS],
    )


def _add_api(app: FastAPI, service: Service) -> None:
    refusals: dict[int | str, dict[str, Any]] = {
        status: {"model": schemas.Error}
        for status in (400, 401, 403, 404, 408, 413, 422, 429, 500, 503)
    }
    api = partial(app.api_route, responses=refusals)

    @api("/v1/predict", methods=["POST"], response_model=schemas.PredictResponse)
    async def predict(request: schemas.PredictRequest) -> Response:
        """Classify one text or several."""
        texts = [request.texts] if isinstance(request.texts, str) else request.texts
        service.check(texts)
        served = await service.models.get(request.model)
        predictions = await service.predict(served, texts)
        decision = _decision(served.model)
        return JSONResponse(
            {"model": _id(served), "decision": decision, "predictions": predictions}
        )

    @api("/v1/explain", methods=["POST"], response_model=schemas.ExplainResponse)
    async def explain(request: schemas.ExplainRequest) -> Response:
        """Say which words decided: each is left out in turn."""
        service.check([request.text])
        served = await service.models.get(request.model)
        explained = await service.explain(served, request.text, request.label)
        return JSONResponse({"model": _id(served), **explained})

    body = {
        "requestBody": {
            "required": True,
            "content": {
                media_type: {"schema": {"type": "string"}}
                for media_type in (*files.DELIMITERS, files.JSON_LINES[0])
            },
        }
    }

    @api(
        "/v1/predict/file",
        methods=["POST"],
        openapi_extra=body,
        response_class=StreamingResponse,
        responses={**refusals, 415: {"model": schemas.Error}},
    )
    async def predict_file(
        request: Request, text_column: str | None = None, model: str | None = None
    ) -> Response:
        """Classify the rows of a file (CSV, TSV, JSON Lines); they come back as they are done."""
        media_type = files.media_type_of(request.headers.get("content-type", ""))
        served = await service.models.get(model)
        with ExitStack() as kept:
            kept.enter_context(service.uploads.taken())
            file = kept.enter_context(await files.receive(request.stream()))
            most, classes = service.config.max_characters, served.model.class_names
            upload = await asyncio.to_thread(
                files.check, file, media_type, text_column, most, classes
            )
            work = _stream_file(service, served, upload, kept.pop_all())
            # The first part is made before the status goes out, so that it can be a refusal.
            first = await anext(work)
        about = (str(upload.rows), quote(upload.text_column, errors="replace"), served.id)
        headers = dict(zip(FILE_HEADERS, about, strict=True))
        return StreamingResponse(
            _after(first, work), headers=headers, media_type=f"{media_type}; charset=utf-8"
        )

    @api("/v1/models", methods=["GET"], response_model=schemas.ModelList)
    async def models() -> Response:
        """Name the models that can be asked for."""
        return JSONResponse({"models": service.models.names()})

    @api("/v1/model", methods=["GET"], response_model=schemas.ModelInfo)
    async def model(model: str | None = None) -> Response:
        """Labels, settings, scores and card of a model."""
        return JSONResponse(_info(await service.models.get(model)))

    @api("/v1/model/report", methods=["GET"], response_class=FileResponse)
    async def report(model: str | None = None) -> Response:
        """The report that was written when the model was trained."""
        served = await service.models.get(model)
        if not served.has_report:
            raise Refusal(404, "no_report", "this model was saved without a report")
        headers = {"Content-Security-Policy": REPORT_POLICY}
        return FileResponse(served.folder / "report.html", headers=headers)

    @api("/", methods=["POST"], response_model=list[list[schemas.HubElement]])
    async def hub(request: schemas.HubRequest) -> Response:
        """Answer as the Hugging Face text-classification inference API does."""
        texts = [request.inputs] if isinstance(request.inputs, str) else request.inputs
        service.check(texts)
        served = await service.models.get(None)
        predictions = await service.predict(served, texts)
        return JSONResponse([_hub_elements(p, request.parameters.top_k) for p in predictions])

    @app.get("/healthz", response_model=schemas.Status)
    async def healthz() -> Response:
        """Whether the process answers at all."""
        return JSONResponse({"status": "ok"})

    @app.get("/readyz", response_model=schemas.Status, responses={503: {"model": schemas.Error}})
    async def readyz() -> Response:
        """Whether a prediction can be asked for."""
        if not service.ready:
            raise Refusal(503, "not_ready", "the model is not loaded yet", retry_after=1)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", include_in_schema=False)
    async def read_metrics() -> Response:
        content, media_type = metrics.render()
        return Response(content, media_type=media_type)


def _add_page(app: FastAPI) -> None:
    """The page, and Swagger UI for /docs: both from files that are installed here."""
    swagger = importlib.resources.files("fastapi_swagger") / "resources"

    @app.get("/", response_class=HTMLResponse)
    async def page() -> Response:
        """A page to try the models on."""
        return FileResponse(PAGE / "index.html")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        # Swagger UI writes styles into its elements.
        policy = "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'"
        return FileResponse(PAGE / "docs.html", headers={"Content-Security-Policy": policy})

    app.mount("/page", StaticFiles(directory=PAGE))
    app.mount("/docs/swagger", StaticFiles(directory=str(swagger)))


async def _stream_file(
    service: Service, served: Served, upload: files.Upload, kept: ExitStack
) -> AsyncIterator[str]:
    """The answer's parts; what is ``kept`` for it is let go at its end."""
    with kept, service.bulk.taken():
        async for part in service.predict_rows(served, upload):
            yield part


async def _after(first: str, rest: AsyncIterator[str]) -> AsyncIterator[str]:
    yield first
    async for part in rest:
        yield part


async def _answer_refusal(_: Request, refusal: Exception) -> Response:
    assert isinstance(refusal, Refusal)
    return JSONResponse(refusal.body, refusal.status, refusal.headers)


async def _answer_http(request: Request, error: Exception) -> Response:
    """The framework's own refusals, in our words' shape."""
    assert isinstance(error, HTTPException)
    detail = error.detail
    body = detail if isinstance(detail, dict) else {"error": detail, "code": "http"}
    if error.status_code == 400:
        body = {"error": "the body is no JSON in UTF-8", "code": "no_json"}
    headers = dict(error.headers or {})
    if error.status_code == 405:  # the framework names the methods of one of several routes
        same = [r for r in request.app.routes if getattr(r, "path", None) == request.url.path]
        headers["Allow"] = ", ".join(sorted({m for r in same for m in r.methods}))
    return JSONResponse(body, error.status_code, headers)


async def _answer_invalid(_: Request, error: Exception) -> Response:
    """What is wrong and where; not what was sent."""
    assert isinstance(error, RequestValidationError)
    problems = []
    for problem in itertools.islice(error.errors(), 5):
        # Where a value may be one of several types, each type is a step of its own.
        steps = [str(step) for step in problem["loc"] if not TYPE_STEP.fullmatch(str(step))]
        problems.append(f"{'.'.join(steps)}: {problem['msg']}")
    message = "; ".join(problems).encode("utf-8", "replace").decode()
    return JSONResponse({"error": message, "code": "invalid"}, 422)


async def _answer_error(_: Request, error: Exception) -> Response:
    """The framework raises it again afterwards, and the guard logs where it came from."""
    return JSONResponse({"error": "the server failed; its log says where", "code": "internal"}, 500)


def _class_number(model: TextModel, label: str | int | None) -> int | None:
    if label is None:
        return None
    names = model.class_names
    if str(label) not in names:
        raise Refusal(422, "no_such_label", f"no such label; known: {', '.join(names[:20])}")
    return names.index(str(label))


def _parts(sequences: Sequence[TokenIds]) -> list[Sequence[TokenIds]]:
    return [sequences[i : i + PART] for i in range(0, len(sequences), PART)]


def _id(served: Served) -> dict[str, str]:
    return {"name": served.name, "id": served.id}


def _prediction(model: TextModel, row: npt.NDArray[np.float64], tokens: int) -> dict[str, Any]:
    (answer,) = model.answers(row[None])
    settings = model.settings
    most = WINDOW_TOKENS if settings.long_text == "window" else settings.max_length
    return {
        "label": answer.label,
        "labels": answer.labels,
        "probability": answer.probability,
        "probabilities": dict(zip(model.class_names, row.tolist(), strict=True)),
        "unsure": answer.unsure,
        "tokens": tokens,
        "truncated": tokens > most,
    }


def _decision(model: TextModel) -> dict[str, Any]:
    """What was applied to the probabilities, as ``schemas.Decision`` says."""
    decision, names = model.decision, model.class_names
    thresholds = decision.thresholds
    if decision.multilabel:
        thresholds = thresholds or (0.5,) * len(names)
    asked = names if decision.multilabel else names[1:2]
    return {
        "multilabel": decision.multilabel,
        "thresholds": thresholds and dict(zip(asked, thresholds, strict=True)),
        "abstain_below": decision.abstain_below,
    }


def _hub_elements(prediction: dict[str, Any], top: int | None) -> list[dict[str, Any]]:
    ordered = sorted(prediction["probabilities"].items(), key=lambda item: -item[1])
    return [{"label": label, "score": score} for label, score in ordered[:top]]


def _info(served: Served) -> dict[str, Any]:
    address = f"/v1/model/report?model={served.name}"
    return {
        **_id(served),
        "labels": served.model.classes,
        "decision": _decision(served.model),
        "settings": served.model.settings.to_dict(),
        "scores": served.report and served.report.get("splits"),
        "card": served.card,
        "report": address if served.has_report else None,
    }


def create_app_from_environment() -> ASGIApp:
    """What each process of the server calls; see ``server.run``."""
    config = ServeConfig(**json.loads(os.environ[SETTINGS]))
    logging.basicConfig(format="lastblock: %(message)s", level=logging.WARNING)
    log.setLevel(logging.INFO)
    if config.workers > 1:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // config.workers))
    return create_app(config)
