"""Serve saved models over HTTP, and a page to try them on (extra: ``serve``).

    server.py    ``run``: the process or processes that serve
    protocol.py  connections of slow clients, closed
    app.py       the addresses and what they answer
    schemas.py   requests and responses, as /docs shows them
    guard.py     what every request passes: host, key, size, time, headers, counting
    batching.py  texts that wait together are run together
    models.py    models by name: loaded when asked, replaced while serving
    files.py     CSV and JSON Lines in and out
    metrics.py   what Prometheus reads
    refusal.py   an answer that is no prediction
    page/        the page at /, as it is sent

Only the process that serves imports torch.
"""
