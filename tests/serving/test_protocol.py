"""Slow clients: their connections are closed, those of others are not."""

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import uvicorn

from lastblock.serving.protocol import ImpatientProtocol

REQUEST = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LARGE = 50_000_000


class Quick(ImpatientProtocol):
    head_seconds = 0.3
    reading_seconds = 0.3


async def answer(scope: Any, receive: Any, send: Any) -> None:
    size = LARGE if scope["path"] == "/large" else 2
    headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for start in range(0, size, 1_000_000):
        body = b"x" * min(1_000_000, size - start)
        more = start + len(body) < size
        await send({"type": "http.response.body", "body": body, "more_body": more})


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(answer, http=Quick, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        with socket.create_connection(listening.getsockname(), timeout=10) as connection:
            yield connection
        server.should_exit = True
        thread.join()


def closed(connection: socket.socket) -> bool:
    """Whether the server closes the connection within some seconds."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionError:
        return True
    return True


def test_who_sends_no_head_is_closed(connection: socket.socket) -> None:
    assert closed(connection)


def test_who_sends_half_a_head_is_closed(connection: socket.socket) -> None:
    connection.sendall(REQUEST)
    assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
    connection.sendall(REQUEST[:-2])
    assert closed(connection)


def test_a_head_without_end_is_refused(connection: socket.socket) -> None:
    connection.sendall(b"GET / HTTP/1.1\r\nHost: " + b"a" * 100_000)
    assert connection.recv(1000).startswith(b"HTTP/1.1 400")


def test_who_reads_no_answer_is_closed(connection: socket.socket) -> None:
    connection.sendall(REQUEST.replace(b"/ ", b"/large ", 1))
    time.sleep(1)
    received = 0
    try:
        while part := connection.recv(1_000_000):
            received += len(part)
    except ConnectionError:
        pass
    assert received < LARGE


def test_who_is_slow_between_requests_is_kept(connection: socket.socket) -> None:
    for _ in range(2):
        connection.sendall(REQUEST)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK")
        time.sleep(0.5)
