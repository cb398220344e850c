"""What Prometheus reads at /metrics. Knows no texts.

With several workers each writes to files in a folder that they share, and whichever
answers adds them up.
"""

from __future__ import annotations

import os

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from lastblock.serving.server import METRICS_FOLDER

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
POWERS = tuple(2**i for i in range(12))

REQUESTS = Counter("lastblock_requests_total", "Requests answered.", ("path", "method", "status"))
LATENCY = Histogram(
    "lastblock_request_seconds", "Seconds from request to answer.", ("path",), buckets=SECONDS
)
BATCH_TEXTS = Histogram("lastblock_batch_texts", "Texts run together.", buckets=POWERS)
BATCH_TOKENS = Histogram(
    "lastblock_batch_tokens", "Tokens run together, filling not counted.", buckets=POWERS
)
BATCH_SECONDS = Histogram("lastblock_batch_seconds", "Seconds a batch took.", buckets=SECONDS)
WAITING = Gauge("lastblock_queue_texts", "Texts that wait.", multiprocess_mode="livesum")
TEXTS = Counter("lastblock_texts_total", "Texts classified.", ("model",))
TOKENS = Counter("lastblock_tokens_total", "Tokens read by models.", ("model",))
LOADS = Counter("lastblock_model_loads_total", "Times a model was loaded.", ("model", "result"))


def render() -> tuple[bytes, str]:
    """The page's bytes and its content type."""
    registry: CollectorRegistry = REGISTRY
    if os.environ.get(METRICS_FOLDER):
        registry = CollectorRegistry()
        MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
    return generate_latest(registry), CONTENT_TYPE_LATEST
