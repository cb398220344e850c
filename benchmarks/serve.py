"""How the server holds under load, against in-process prediction of the same texts.

    make bench-serve                      short form: two minutes of soak, five in all
    python benchmarks/serve.py --soak 600 --model FOLDER

The load comes from this process, over loopback, on the same processor: what the clients cost is
part of what is measured. Prints a table and writes results/serve.json.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

CLIENTS = 64
TEXTS = 1_000
RESULT = Path(__file__).with_name("results") / "serve.json"


# ---------------------------------------------------------------- what it is compared with


def prepare(folder: Path) -> None:
    """Train a model on a few hundred messages."""
    from lastblock.data.catalog import load_examples
    from lastblock.data.split import holdout
    from lastblock.estimator import TextClassifier

    examples = load_examples("sms-spam")
    _, rows = holdout(examples.texts, examples.labels, fraction=0.06, seed=1)
    few = examples.take(rows)
    TextClassifier(depth=20, epochs=2).fit(few.texts, few.labels).save(folder)


def read_texts() -> list[str]:
    from lastblock.data.catalog import load_examples

    texts = list(dict.fromkeys(load_examples("sms-spam").texts))
    return random.Random(1).sample(texts, TEXTS)


def in_process(folder: Path) -> None:
    """Print texts a second in one call; then, for each number read, the seconds of that text."""
    from lastblock.checkpoint import load

    model, texts = load(folder), read_texts()
    model.predict_proba(texts[:50])
    rates = []
    for _ in range(3):
        start = time.perf_counter()
        model.predict_proba(texts)
        rates.append(len(texts) / (time.perf_counter() - start))
    print(statistics.median(rates), flush=True)
    for line in sys.stdin:
        start = time.perf_counter()
        model.predict_proba([texts[int(line)]])
        print(time.perf_counter() - start, flush=True)


class InProcess:
    """``in_process`` in a process of its own, which rests while the server is measured."""

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, __file__, "--in-process", "--model", str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        self.texts_a_second = self._read()
        self.single = 0.0

    def seconds(self, text: int) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        return self._read()

    def _read(self) -> float:
        assert self.process.stdout is not None
        return float(self.process.stdout.readline())


# ---------------------------------------------------------------- server and clients


class Server:
    """``lastblock serve`` in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "lastblock", "serve", str(self.folder)]
        return subprocess.Popen(
            [*command, "--port", str(self.port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    async def wait_until_ready(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncio.IncompleteReadError):
                if (await Connection(self.port).ask("warm up"))[0] == 200:
                    return
            await asyncio.sleep(0.1)

    def resident(self) -> float:
        """Megabytes in memory that are its own, mapped weights left out."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("RssAnon:")[1].split()[0]) / 1024

    def resident_all(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024


class Connection:
    """One keep-alive connection: as little client as HTTP allows, so that it costs little."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: str) -> tuple[int, bytes]:
        """Status and body; after an error the next call connects anew."""
        try:
            if self.streams is None:
                self.streams = await asyncio.open_connection("127.0.0.1", self.port)
            reader, writer = self.streams
            body = json.dumps({"texts": text}).encode()
            head = (
                f"POST /v1/predict HTTP/1.1\r\nHost: localhost:{self.port}\r\n"
                f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            )
            writer.write(head.encode() + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(answer.lower().split(b"content-length:")[1].split(b"\r\n")[0])
            status = int(answer.split(b" ", 2)[1])
            content = await reader.readexactly(length)
        except BaseException:
            self.close()
            raise
        if b"connection: close" in answer.lower():
            self.close()
        return status, content

    def close(self) -> None:
        if self.streams is not None:
            self.streams[1].close()
            self.streams = None


@dataclass
class Outcome:
    """Seconds of each request by status; 0 stands for a broken connection."""

    seconds: dict[int, list[float]] = field(default_factory=dict)

    def add(self, status: int, seconds: float) -> None:
        self.seconds.setdefault(status, []).append(seconds)

    def count(self, status: int) -> int:
        return len(self.seconds.get(status, []))

    @property
    def total(self) -> int:
        return sum(map(len, self.seconds.values()))

    def percentile(self, share: float, status: int = 200) -> float:
        ordered = sorted(self.seconds.get(status, [0.0]))
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def timed(connection: Connection, text: str, outcome: Outcome) -> int:
    start = time.perf_counter()
    try:
        status, _ = await connection.ask(text)
    except (OSError, asyncio.IncompleteReadError):
        status = 0
    outcome.add(status, time.perf_counter() - start)
    return status


async def closed_loop(port: int, texts: list[str], clients: int, seconds: float) -> Outcome:
    """Each client asks again as soon as it is answered."""
    outcome = Outcome()
    end = time.perf_counter() + seconds
    choice = random.Random(2)

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < end:
            await timed(connection, choice.choice(texts), outcome)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    return outcome


async def open_loop(port: int, texts: list[str], rate: float, seconds: float) -> Outcome:
    """Requests at random moments, ``rate`` a second on average, whether answered or not."""
    outcome, choice, free = Outcome(), random.Random(3), list[Connection]()
    running: set[asyncio.Task[None]] = set()

    async def one(text: str) -> None:
        connection = free.pop() if free else Connection(port)
        await timed(connection, text, outcome)
        free.append(connection)

    async for _ in ticks(choice, rate, seconds):
        task = asyncio.create_task(one(choice.choice(texts)))
        running.add(task)
        task.add_done_callback(running.discard)
    if running:
        await asyncio.wait(running)
    for connection in free:
        connection.close()
    return outcome


async def ticks(choice: random.Random, rate: float, seconds: float) -> AsyncIterator[None]:
    now = start = time.perf_counter()
    while now < start + seconds:
        now += choice.expovariate(rate)
        await asyncio.sleep(max(0.0, now - time.perf_counter()))
        yield


# ---------------------------------------------------------------- the table


async def measure(folder: Path, base: InProcess, soak: float, part: float) -> list[Row]:
    texts = await asyncio.to_thread(read_texts)
    server = Server(folder)
    try:
        await server.wait_until_ready()
        rows = [await one_client(server, texts, base)]
        many = await closed_loop(server.port, texts, CLIENTS, part)
        rate = many.count(200) / part
        share = rate / base.texts_a_second
        rows.append(
            Row(
                f"throughput, {CLIENTS} clients",
                f"{rate:.0f} texts/s, {share:.0%} of {base.texts_a_second:.0f} in process",
                "at least 70 %",
                share >= 0.7 and many.count(200) == many.total,
            )
        )
        rows.append(await half_load(server, texts, base, rate, part))
        rows.append(await long_load(server, texts, rate, soak))
        rows.append(await overload(server, texts, rate, part / 2))
        rows.append(await restart(server, texts, part / 2))
    finally:
        server.process.kill()
    return rows


@dataclass
class Row:
    name: str
    measured: str
    target: str
    reached: bool


async def one_client(server: Server, texts: list[str], base: InProcess) -> Row:
    """In turns, text by text, so that both meet the same moments of the machine."""
    connection, outcome, singles, added_each = Connection(server.port), Outcome(), [], []
    for number in range(300):
        singles.append(base.seconds(number))
        await timed(connection, texts[number], outcome)
        added_each.append(outcome.seconds[200][-1] - singles[-1])
    connection.close()
    base.single = statistics.median(singles)
    added = 1000 * statistics.median(added_each)
    measured = f"{added:+.1f} ms on {1000 * base.single:.1f} ms"
    return Row("one client, one text, median", measured, "at most +3 ms", added <= 3)


async def half_load(
    server: Server, texts: list[str], base: InProcess, rate: float, seconds: float
) -> Row:
    outcome = await open_loop(server.port, texts, rate / 2, seconds)
    times = outcome.percentile(0.99) / base.single
    measured = f"{1000 * outcome.percentile(0.99):.0f} ms, {times:.1f} × single"
    good = times < 10 and outcome.count(200) == outcome.total
    return Row("p99 at half of that", measured, "under 10 × single", good)


async def long_load(server: Server, texts: list[str], rate: float, seconds: float) -> Row:
    """Memory is compared after the first fifth, when every buffer has had its largest batch."""
    outcome, memory = Outcome(), []
    for _ in range(5):
        part = await open_loop(server.port, texts, 0.9 * rate, seconds / 5)
        memory.append(server.resident())
        for status, taken in part.seconds.items():
            outcome.seconds.setdefault(status, []).extend(taken)
    growth = memory[-1] / memory[0] - 1
    failed = outcome.total - outcome.count(200)
    measured = (
        f"{outcome.total} requests, {failed} failed, p99 {1000 * outcome.percentile(0.99):.0f} ms; "
        f"{memory[-1]:.0f} MB of its own {growth:+.1%}, {server.resident_all():.0f} MB with weights"
    )
    good = failed == 0 and abs(growth) <= 0.03
    return Row(f"{seconds:.0f} s at 90 %", measured, "none failed, memory within 3 %", good)


async def overload(server: Server, texts: list[str], rate: float, seconds: float) -> Row:
    outcome, ended = await open_loop_watched(server, texts, 10 * rate, seconds)
    refused = outcome.count(429) + outcome.count(503)
    slowest = max(outcome.percentile(0.99, 429), outcome.percentile(0.99, 503))
    broken = outcome.total - refused - outcome.count(200)
    measured = (
        f"{outcome.count(200)} answered (p99 {1000 * outcome.percentile(0.99):.0f} ms), {refused} "
        f"refused (p99 {1000 * slowest:.0f} ms), {broken} broken; recovered in {ended:.2f} s"
    )
    good = slowest <= 0.1 and broken == 0 and ended <= 1 and refused > 0
    return Row("10 × overload", measured, "refused in 100 ms, recovery in 1 s", good)


async def open_loop_watched(
    server: Server, texts: list[str], rate: float, seconds: float
) -> tuple[Outcome, float]:
    """The outcome, and seconds from the last request sent until a new one is answered."""
    recovered: list[float] = []

    async def watch() -> None:
        await asyncio.sleep(seconds)
        start, connection = time.perf_counter(), Connection(server.port)
        while await timed(connection, texts[0], Outcome()) != 200:
            await asyncio.sleep(0.02)
        recovered.append(time.perf_counter() - start)
        connection.close()

    watcher = asyncio.create_task(watch())
    outcome = await open_loop(server.port, texts, rate, seconds)
    await watcher
    return outcome, recovered[0]


async def restart(server: Server, texts: list[str], seconds: float) -> Row:
    """Kill the server amid the work of clients that try again until they are answered."""
    answered, retries = 0, 0
    end = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal answered, retries
        connection = Connection(server.port)
        while time.perf_counter() < end or server.process.poll() is not None:
            while await timed(connection, random.choice(texts), Outcome()) != 200:
                retries += 1
                await asyncio.sleep(0.1)
            answered += 1
        connection.close()

    async def killer() -> None:
        await asyncio.sleep(seconds / 4)
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.process = server.start()

    await asyncio.wait_for(asyncio.gather(killer(), *(client() for _ in range(16))), 120)
    measured = f"{answered} texts answered, all of those asked; {retries} tries were repeated"
    return Row("killed and restarted", measured, "nothing lost", retries > 0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a saved model; trained here if not given")
    parser.add_argument("--soak", type=float, default=120, help="seconds at 90 % load")
    parser.add_argument("--part", type=float, default=20, help="seconds of each other part")
    parser.add_argument("--in-process", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        in_process(arguments.model)
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.model or Path(temporary) / "sms"
        if arguments.model is None:
            prepare(folder)
        base = InProcess(folder)
        rows = asyncio.run(measure(folder, base, arguments.soak, arguments.part))
    for row in rows:
        print(f"{row.name:32} {row.measured}\n{'':32} target: {row.target}: ", end="")
        print("reached" if row.reached else "MISSED")
    RESULT.parent.mkdir(exist_ok=True)
    base.process.kill()
    numbers = {"texts_a_second": base.texts_a_second, "single": base.single}
    result = {"cores": os.cpu_count(), "in_process": numbers, "rows": [vars(row) for row in rows]}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
