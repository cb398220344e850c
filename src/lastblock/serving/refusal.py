"""Refusal: a request that gets no prediction, with the status and words of the answer."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):
    """Raised anywhere below a request; the answer is ``{"error": message, "code": code}``.

    Messages never quote a text: they name its place in the request.

    Args:
        status: of HTTP.
        code: a word that programs can compare.
        message: a sentence for people, with the remedy.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self, status: int, code: str, message: str, *, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after

    @property
    def body(self) -> dict[str, Any]:
        return {"error": self.message, "code": self.code}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
