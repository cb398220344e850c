"""Connections of slow clients: closed, so that none is held for ever. Knows no requests.

uvicorn waits without end for a request's head, and for a client that does not read its answer.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class ImpatientProtocol(HttpToolsProtocol):
    """uvicorn's, with a limit of time and size on the head, and of time on reading no answer."""

    head_seconds = 20.0
    head_bytes = 64 * 1024
    reading_seconds = 30.0  # in which the answer's kept part, some 64 KB, has to shrink

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head = _Deadline(transport, self.head_seconds)
        self._reading = _Deadline(transport, self.reading_seconds)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.stop()
        self._reading.stop()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if not self._head.runs and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        super().data_received(data)
        if self._head.runs:
            self._received += len(data)
            if self._received > self.head_bytes and not self.transport.is_closing():
                self.send_400_response("The head of the request is too large.")

    def on_headers_complete(self) -> None:
        self._head.stop()
        super().on_headers_complete()

    def pause_writing(self) -> None:
        self._reading.start()
        super().pause_writing()

    def resume_writing(self) -> None:
        self._reading.stop()
        super().resume_writing()

    def _expect_head(self) -> None:
        self._received = 0
        self._head.start()


class _Deadline:
    """Ends a connection after some seconds, if it was not stopped before."""

    def __init__(self, transport: asyncio.Transport, seconds: float) -> None:
        self._transport = transport
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None

    @property
    def runs(self) -> bool:
        return self._timer is not None

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(self._seconds, self._transport.abort)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
