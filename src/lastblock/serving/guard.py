"""Guard: what every request passes on its way in and every answer on its way out.

In: the host it was sent to, the key, the size and the time of the body. Out: security headers,
counting, and an answer where code failed. What users send is never written to a log: of an error
its type and place are, not its words. Knows no models.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import json
import logging
import time
import traceback
from collections.abc import Mapping
from pathlib import Path

from fastapi import HTTPException
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lastblock.config import ServeConfig
from lastblock.errors import ConfigError
from lastblock.serving import metrics
from lastblock.serving.refusal import Refusal

log = logging.getLogger("lastblock.serving")

FILE_PATH = "/v1/predict/file"
FILE_TIMES = 10  # as long as another body a file may take to arrive
# Answered without a key: they tell nothing of a model, and probes and browsers carry none.
OPEN_PATHS = frozenset({"/healthz", "/readyz", "/docs", "/openapi.json"})
OPEN_FOLDERS = ("/page/", "/docs/")
COUNTED_PATHS = frozenset(
    {"/", "/v1/predict", "/v1/explain", FILE_PATH, "/v1/model", "/v1/models", "/v1/model/report"}
    | {"/metrics", *OPEN_PATHS}
)
METHODS = frozenset({"GET", "HEAD", "POST", "OPTIONS"})
SHORTEST_KEY = 16

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; object-src 'none'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


def read_key(path: str | None) -> bytes | None:
    """The key file's first line.

    Raises:
        ConfigError: the file cannot be read, or the key is too short to be one.
    """
    if path is None:
        return None
    try:
        lines = Path(path).read_text(encoding="ascii").splitlines()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not ASCII"
        raise ConfigError(f"--api-key-file {path} cannot be read: {reason}") from None
    key = lines[0].strip() if lines else ""
    if len(key) < SHORTEST_KEY:
        raise ConfigError(
            f"--api-key-file {path}: its first line is shorter than {SHORTEST_KEY} characters; "
            "make one with: openssl rand -hex 32"
        )
    return key.encode()


class Guard:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, config: ServeConfig) -> None:
        self._app = app
        self._config = config
        self._key = read_key(config.api_key_file)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answer = _Answer(scope, send)
        try:
            body = _Body(receive, *self._admit(scope))
            await self._app(scope, body.receive, answer.send)
        except Refusal as refusal:
            await answer.refuse(refusal)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.error("%s while answering %s", _where(error), answer.path)
            if answer.status is not None:
                # The status is sent already. Ended without its last part, the connection is
                # broken off, and the client sees that the answer is not whole.
                return
            await answer.refuse(Refusal(500, "internal", "the server failed; its log says where"))
        finally:
            answer.count()

    def _admit(self, scope: Scope) -> tuple[int, float]:
        """The bytes that its body may have, and the seconds that it may take to arrive.

        Raises:
            Refusal: 403, 401 or 413.
        """
        headers = Headers(scope=scope)
        if self._key is None and not _is_loopback(headers.get("host", "")):
            # Else any page on the web could rename its own host to this machine and read answers.
            message = "without a key this server answers to localhost only; give --api-key-file"
            raise Refusal(403, "wrong_host", message)
        if self._key is not None and not self._is_open(scope) and not self._has_key(headers):
            message = "a key is needed: Authorization: Bearer KEY"
            raise Refusal(401, "no_key", message)
        limit, seconds = self._config.max_body, self._config.max_seconds
        if scope["path"] == FILE_PATH:
            limit, seconds = self._config.max_file, FILE_TIMES * seconds
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > limit:
            raise _too_large(limit)
        return limit, seconds

    def _is_open(self, scope: Scope) -> bool:
        path, method = scope["path"], scope["method"]
        page = method in ("GET", "HEAD") and path == "/"
        return page or path in OPEN_PATHS or path.startswith(OPEN_FOLDERS)

    def _has_key(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            given = headers.get("x-api-key", "")
        # Digests, so that neither the key's length nor its beginning shows in the time it takes.
        digest = hashlib.sha256(given.strip().encode("utf-8", "replace")).digest()
        return hmac.compare_digest(digest, hashlib.sha256(self._key or b"").digest())


class _Body:
    """The request's body, counted and timed as it arrives."""

    def __init__(self, receive: Receive, limit: int, seconds: float) -> None:
        self._receive = receive
        self._limit = limit
        self._end = asyncio.get_running_loop().time() + seconds
        self._bytes = 0
        self._whole = False

    async def receive(self) -> Message:
        if self._whole:  # what comes now is that the client has left
            return await self._receive()
        try:
            async with asyncio.timeout_at(self._end):
                message = await self._receive()
        except TimeoutError:
            raise _as_http(Refusal(408, "too_slow", "the body did not arrive in time")) from None
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        if self._bytes > self._limit:
            raise _as_http(_too_large(self._limit))
        return message


class _Answer:
    """What goes out: headers added, the status kept for counting."""

    def __init__(self, scope: Scope, send: Send) -> None:
        path, method = scope["path"], scope["method"]
        self.path = path if path in COUNTED_PATHS else "other"
        self.status: int | None = None
        self._method = method if method in METHODS else "other"
        self._send = send
        self._start = time.perf_counter()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        body = json.dumps(refusal.body).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        if refusal.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if refusal.status == 413:
            headers["Connection"] = "close"  # the rest of the body is not read
        raw = [(k.lower().encode(), v.encode()) for k, v in (headers | refusal.headers).items()]
        await self.send({"type": "http.response.start", "status": refusal.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    def count(self) -> None:
        metrics.REQUESTS.labels(self.path, self._method, str(self.status or "broken")).inc()
        metrics.LATENCY.labels(self.path).observe(time.perf_counter() - self._start)


def _too_large(limit: int) -> Refusal:
    return Refusal(413, "too_large", f"the body is over {limit:,} bytes; send it in parts")


def _as_http(refusal: Refusal) -> HTTPException:
    """As what the framework passes on while it reads a body; anything else it calls a bad body."""
    return HTTPException(refusal.status, refusal.body, refusal.headers)


def _is_loopback(host: str) -> bool:
    name = host.rsplit(":", 1)[0] if not host.endswith("]") else host
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return name.lower() == "localhost"


def _where(error: BaseException) -> str:
    """An error's type and the line it came from, without its words."""
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" at {Path(frame.filename).name}:{frame.lineno}" for frame in last)
    return type(error).__name__ + place
