"""How the server holds under load, against in-process prediction of the same texts.

    make bench-serve                            short form: two minutes of soak, some seven in all
    python benchmarks/serve.py --soak 600       long form: ten minutes of soak
    python benchmarks/serve.py --quick          whether it runs at all; its figures mean little

The load comes from this process, over loopback, on the same processor: what the clients cost is
part of what is measured. What it is compared with runs in a process of its own, in turns with the
server, so that both meet the same machine. Prints a table; unless quick, writes results/serve.json.
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
from collections.abc import AsyncIterator, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

CLIENTS = 64
PATIENCE = 60.0  # seconds after which an answer counts as lost
RESULT = Path(__file__).with_name("results") / "serve.json"


@dataclass(frozen=True)
class Plan:
    """How much is measured: numbers of texts, and seconds."""

    train: int = 330
    texts: int = 256
    rounds: int = 3
    singles: int = 150
    half: float = 40
    soak: float = 120
    overload: float = 20
    restart: float = 20


QUICK = Plan(train=60, texts=70, rounds=1, singles=10, half=6, soak=10, overload=8, restart=8)


# ---------------------------------------------------------------- what it is compared with


def read_texts() -> tuple[list[str], list[str]]:
    """Every different message once, in an order of no meaning, and their labels."""
    from lastblock.data.catalog import load_examples

    examples = load_examples("sms-spam")
    pairs = list(dict(zip(examples.texts, examples.labels, strict=True)).items())
    random.Random(1).shuffle(pairs)
    return [text for text, _ in pairs], [str(label) for _, label in pairs]


def prepare(folder: Path, plan: Plan) -> None:
    """Train a model on the last few hundred messages; the load is made of the first."""
    from lastblock.estimator import TextClassifier

    texts, labels = read_texts()
    classifier = TextClassifier(depth=20, epochs=2)
    classifier.fit(texts[-plan.train :], labels[-plan.train :]).save(folder)


def in_process(folder: Path, count: int) -> None:
    """For each line read the seconds that a prediction took: of ``all`` texts, or of one."""
    from lastblock.checkpoint import load

    model, texts = load(folder), read_texts()[0][:count]
    model.predict_proba(texts[:20])
    print(flush=True)
    for line in sys.stdin:
        asked = texts if line == "all\n" else [texts[int(line)]]
        start = time.perf_counter()
        model.predict_proba(asked)
        print(time.perf_counter() - start, flush=True)


class InProcess:
    """``in_process`` in a process of its own, which rests while the server is measured."""

    def __init__(self, folder: Path, texts: int) -> None:
        self.texts = texts
        command = [sys.executable, __file__, "--in-process", str(texts), "--model", str(folder)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
        )
        assert self.process.stdout is not None
        self.process.stdout.readline()

    def seconds(self, what: str) -> float:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{what}\n")
        return float(self.process.stdout.readline())

    def single(self, tries: int) -> float:
        """Median seconds of one text."""
        return statistics.median(self.seconds(str(n % self.texts)) for n in range(tries))


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
        async with asyncio.timeout(120):
            while await timed(Connection(self.port), "warm up", Outcome()) != 200:
                await asyncio.sleep(0.1)

    def resident(self) -> float:
        """Megabytes in memory, mapped weights among them."""
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
            async with asyncio.timeout(PATIENCE):
                return await self._ask(text)
        except BaseException:
            self.close()
            raise

    async def _ask(self, text: str) -> tuple[int, bytes]:
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
        content = await reader.readexactly(length)
        if b"connection: close" in answer.lower():
            self.close()
        return int(answer.split(b" ", 2)[1]), content

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

    def count(self, *statuses: int) -> int:
        return sum(len(self.seconds.get(status, [])) for status in statuses)

    @property
    def total(self) -> int:
        return self.count(*self.seconds)

    def milliseconds(self, share: float, *statuses: int) -> float:
        """The time that this share of the requests with these statuses kept to."""
        every = sorted(s for status in statuses for s in self.seconds.get(status, []))
        return 1000 * every[min(len(every) - 1, int(share * len(every)))] if every else 0.0


async def timed(connection: Connection, text: str, outcome: Outcome) -> int:
    start = time.perf_counter()
    try:
        status, _ = await connection.ask(text)
    except (OSError, asyncio.IncompleteReadError):
        status = 0
    outcome.add(status, time.perf_counter() - start)
    return status


async def closed_loop(port: int, texts: list[str]) -> tuple[Outcome, float]:
    """Every text once: each client asks for another as soon as it is answered."""
    outcome, left = Outcome(), iter(texts)

    async def client(left: Iterator[str]) -> None:
        connection = Connection(port)
        for text in left:
            await timed(connection, text, outcome)
        connection.close()

    start = time.perf_counter()
    await asyncio.gather(*(client(left) for _ in range(CLIENTS)))
    return outcome, time.perf_counter() - start


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


# ---------------------------------------------------------------- what is measured


@dataclass
class Row:
    """One line of the table: the server's side, the other side, and what follows."""

    name: str
    server: str
    compared: str
    result: str
    target: str
    reached: bool


@dataclass
class Measurement:
    """A server, what it is compared with, and the texts of both."""

    server: Server
    base: InProcess
    texts: list[str]
    plan: Plan
    rate: float = 0.0  # texts a second that the server reached

    async def rows(self) -> AsyncIterator[Row]:
        await self.server.wait_until_ready()
        yield await self.one_client()
        yield await self.throughput()
        yield await self.half_load()
        yield await self.long_load()
        yield await self.overload()
        yield await self.restart()

    async def one_client(self) -> Row:
        """In turns, text by text."""
        connection, outcome = Connection(self.server.port), Outcome()
        singles, added = [], []
        for number in range(self.plan.singles):
            place = number % len(self.texts)
            singles.append(self.base.seconds(str(place)))
            await timed(connection, self.texts[place], outcome)
            added.append(outcome.seconds[200][-1] - singles[-1])
        connection.close()
        more = 1000 * statistics.median(added)
        return Row(
            "one client, one text (median)",
            f"{outcome.milliseconds(0.5, 200):.1f} ms",
            f"{1000 * statistics.median(singles):.1f} ms",
            f"{more:+.1f} ms",
            "at most +3 ms",
            more <= 3,
        )

    async def throughput(self) -> Row:
        """In turns, all texts at a time."""
        server, base, failed = [], [], 0
        for _ in range(self.plan.rounds):
            base.append(len(self.texts) / self.base.seconds("all"))
            outcome, seconds = await closed_loop(self.server.port, self.texts)
            server.append(outcome.count(200) / seconds)
            failed += outcome.total - outcome.count(200)
        self.rate = statistics.median(server)
        share = statistics.median(s / b for s, b in zip(server, base, strict=True))
        return Row(
            f"throughput, {CLIENTS} clients",
            f"{self.rate:.1f} texts/s, {failed} failed",
            f"{statistics.median(base):.1f} texts/s",
            f"{share:.0%}",
            "at least 70 %",
            share >= 0.7 and failed == 0,
        )

    async def half_load(self) -> Row:
        single = 1000 * self.base.single(min(50, self.plan.singles))
        outcome = await open_loop(self.server.port, self.texts, self.rate / 2, self.plan.half)
        slowest, failed = outcome.milliseconds(0.99, 200), outcome.total - outcome.count(200)
        return Row(
            f"p99 at half load ({outcome.total} requests)",
            f"{slowest:.0f} ms, {failed} failed",
            f"{single:.1f} ms",
            f"{slowest / single:.1f} ×",
            "under 10 ×",
            slowest < 10 * single and failed == 0,
        )

    async def long_load(self) -> Row:
        """Memory is compared from the second fifth on, when buffers have had large batches."""
        memory: list[float] = []

        async def watch() -> None:
            while True:
                await asyncio.sleep(self.plan.soak / 100)
                memory.append(self.server.resident())

        watcher = asyncio.create_task(watch())
        outcome = await open_loop(self.server.port, self.texts, 0.9 * self.rate, self.plan.soak)
        watcher.cancel()
        fifth = len(memory) // 5
        early, late = (statistics.mean(m) for m in (memory[fifth : 2 * fifth], memory[-fifth:]))
        failed = outcome.total - outcome.count(200)
        return Row(
            f"{self.plan.soak:.0f} s at 90 % load ({outcome.total} requests)",
            f"{late:.0f} MB at the end, {failed} failed",
            f"{early:.0f} MB in the second fifth",
            f"{late / early - 1:+.1%}",
            "within 3 %, none failed",
            failed == 0 and abs(late / early - 1) <= 0.03,
        )

    async def overload(self) -> Row:
        seconds = self.plan.overload
        watcher = asyncio.create_task(self._recovery(seconds))
        outcome = await open_loop(self.server.port, self.texts, 10 * self.rate, seconds)
        recovery = await watcher
        refused = outcome.count(429, 503)
        broken = outcome.total - refused - outcome.count(200)
        slowest = outcome.milliseconds(0.99, 429, 503)
        return Row(
            f"10 × overload for {seconds:.0f} s",
            f"{outcome.count(200)} answered (p99 {outcome.milliseconds(0.99, 200):.0f} ms), "
            f"{broken} broken",
            f"{refused} refused (p99 {slowest:.0f} ms, all in "
            f"{outcome.milliseconds(1, 429, 503):.0f} ms)",
            f"recovered in {recovery:.2f} s",
            "refused in 100 ms, recovered in 1 s, none broken",
            slowest <= 100 and broken == 0 and recovery <= 1 and refused > 0,
        )

    async def _recovery(self, seconds: float) -> float:
        """Seconds from the end of the load until a new request is answered."""
        await asyncio.sleep(seconds)
        start, connection = time.perf_counter(), Connection(self.server.port)
        while await timed(connection, self.texts[0], Outcome()) != 200:
            await asyncio.sleep(0.02)
        connection.close()
        return time.perf_counter() - start

    async def restart(self) -> Row:
        """Kill the server amid the work of clients that try again until they are answered."""
        asked = answered = retries = 0
        end = time.perf_counter() + self.plan.restart

        async def client(choice: random.Random) -> None:
            nonlocal asked, answered, retries
            connection = Connection(self.server.port)
            while time.perf_counter() < end:
                text = choice.choice(self.texts)
                asked += 1
                while await timed(connection, text, Outcome()) != 200:
                    retries += 1
                    await asyncio.sleep(0.1)
                answered += 1
            connection.close()

        async def killer() -> None:
            await asyncio.sleep(self.plan.restart / 4)
            self.server.process.send_signal(signal.SIGKILL)
            self.server.process.wait()
            self.server.process = self.server.start()

        clients = [client(random.Random(seed)) for seed in range(16)]
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(asyncio.gather(killer(), *clients), self.plan.restart + 120)
        return Row(
            "killed and restarted, 16 clients",
            f"{answered} answered",
            f"{asked} asked",
            f"{asked - answered} lost, {retries} tries repeated",
            "none lost",
            answered == asked and retries > 0,
        )


# ---------------------------------------------------------------- the table


def show(row: Row) -> None:
    verdict = "reached" if row.reached else "MISSED"
    print(
        f"{row.name}\n    {row.server} | {row.compared} | {row.result}\n"
        f"    target: {row.target}: {verdict}",
        flush=True,
    )


def write(file: Path, rows: list[Row], plan: Plan) -> None:
    """The whole file or none of it."""
    result = {"cores": os.cpu_count(), "plan": asdict(plan), "rows": [asdict(row) for row in rows]}
    file.parent.mkdir(exist_ok=True)
    written = file.with_suffix(".tmp")
    written.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(written, file)


async def measure(folder: Path, plan: Plan) -> list[Row]:
    """All rows, shown as they come."""
    texts = read_texts()[0][: plan.texts]
    base, server = InProcess(folder, plan.texts), Server(folder)
    rows = []
    try:
        async for row in Measurement(server, base, texts, plan).rows():
            show(row)
            rows.append(row)
    finally:
        server.process.kill()
        base.process.kill()
    return rows


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a saved model; trained here if not given")
    parser.add_argument("--soak", type=float, help="seconds at 90 %% load")
    parser.add_argument("--quick", action="store_true", help="seconds rather than minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help=f"if not results/{RESULT.name}")
    parser.add_argument("--in-process", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.in_process:
        in_process(arguments.model, arguments.in_process)
        return
    plan = QUICK if arguments.quick else Plan()
    if arguments.soak:
        plan = replace(plan, soak=arguments.soak)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="lastblock-serve-") as temporary:
        folder = arguments.model or Path(temporary) / "sms"
        if arguments.model is None:
            prepare(folder, plan)
        print("the server | what it is compared with | the one against the other\n")
        rows = asyncio.run(measure(folder, plan))
    if file := arguments.json or (None if arguments.quick else RESULT):
        write(file, rows, plan)
    missed = sum(not row.reached for row in rows)
    print(f"\n{len(rows) - missed} of {len(rows)} reached, in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
