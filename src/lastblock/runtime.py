"""The one place that asks the machine: cache folder, memory, threads, dtype, seed, progress.

Knows no model, no data and no command line.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import math
import os
import sys
import time
import types
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")
Result = TypeVar("Result")
Precision = Literal["float32", "bfloat16", "int8"]
# A product has to be this much faster before it is worth its rounding; well away from 1, so that
# the same machine chooses the same every time.
WORTH_ROUNDING = 1.3
# The first torch that was seen to need nothing of torch.export while it is imported.
EXPORT_NOT_NEEDED = [2, 13]
# Python runs in one thread at a time: with more of them, each waits for the others.
MOST_AT_ONCE = 16


class Progress(Protocol):
    """How long work tells that it goes on; the library's default says nothing."""

    def task(
        self, name: str, total: int, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]:
        """A context manager that yields ``advance(k)``, to be called as k more units are done."""
        ...

    def say(self, line: str) -> None:
        """One plain sentence about what was found or done."""
        ...


class Silent:
    """Progress that is not shown."""

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        yield lambda k: None

    def say(self, line: str) -> None:
        pass


class TasksOnly:
    """Progress without its sentences, for runs of which all say the same."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def task(
        self, name: str, total: int, unit: str = ""
    ) -> AbstractContextManager[Callable[[int], None]]:
        return self._progress.task(name, total, unit)

    def say(self, line: str) -> None:
        pass


def cache_folder() -> Path:
    """``LASTBLOCK_CACHE`` if set, else this platform's cache folder; not created here."""
    given = os.environ.get("LASTBLOCK_CACHE")
    if given:
        return Path(given).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("lastblock", appauthor=False))


def available_memory() -> int:
    """Bytes of memory that can be had without swapping; a container's limit counts."""
    with contextlib.suppress(OSError, ValueError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable"))
        available = int(line.split()[1]) << 10
        with contextlib.suppress(OSError, ValueError):  # no limit is the word max
            group = Path("/sys/fs/cgroup")
            limit = int((group / "memory.max").read_text())
            available = min(available, limit - int((group / "memory.current").read_text()))
        return max(0, available)
    with contextlib.suppress(AttributeError, OSError, ValueError):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    return 4 << 30  # a guess, where the system does not say


@functools.cache
def keep_freed_memory() -> None:
    """Have the C library keep memory that tensors leave, for the next ones; once a process.

    glibc gives blocks of a few megabytes back to the system as they are freed, and gets the same
    pages back, zeroed one by one, for the next block: hundreds of thousands of page faults in a
    frozen pass, and nothing saved, as the most that is held at once is the same. What the user has
    set in the environment stands; with another C library nothing is done.
    """
    chosen = any(name.startswith("MALLOC_") for name in os.environ)
    if chosen or "GLIBC_TUNABLES" in os.environ or sys.platform != "linux":
        return
    import ctypes

    trim_threshold, mmap_threshold = -1, -3  # their numbers in malloc.h
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 64 << 20)
        mallopt(trim_threshold, 256 << 20)


class Stopwatch:
    """Seconds spent by name: ``with watch("train"): ...`` adds to ``watch.seconds["train"]``."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] += time.perf_counter() - start


def spare_torch_compiler() -> None:
    """Let torch be imported without its shape functions in Python and without torch.export.

    That is a third of its import time. Predicting and training use neither; torch.compile,
    torch.Generator() and operations on meta tensors that have no shape function in C++ do. To be
    called before torch is imported, and only in a process that runs no code but ours.
    """
    if "torch" in sys.modules:
        return
    names = ["torch._meta_registrations"]
    if [int(n) for n in metadata.version("torch").split(".")[:2]] >= EXPORT_NOT_NEEDED:
        names.append("torch.export")
    for name in names:
        module = types.ModuleType(name)
        module.__spec__ = ModuleSpec(name, None)
        sys.modules.setdefault(name, module)


@contextmanager
def without_collecting() -> Iterator[None]:
    """Look for no garbage meanwhile, nor later among what is made: imports make much, to stay."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def seed_everything(seed: int) -> torch.Generator:
    """Seed torch's global generator (new heads draw from it); return one for everything else."""
    import torch

    torch.manual_seed(seed)
    return seeded_generator(seed)


def seeded_generator(seed: int) -> torch.Generator:
    """A generator of its own. A copy, as torch.Generator() needs what was spared of torch."""
    import torch

    return torch.default_generator.clone_state().manual_seed(seed)


def at_once() -> int:
    """How many batches ``inferred`` computes side by side, if there are so many.

    A few less than could be, rather than a thread each while other threads have nothing to do.
    """
    import torch

    threads = torch.get_num_threads()
    return threads // -(-threads // MOST_AT_ONCE)


def inferred(work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """``work`` of each item, in their order, without gradients and side by side.

    Torch's threads are shared out among the items that are computed at once. What many small
    operations are made of takes a thread of its own less time than all threads together, which
    wait for each other after each of them. No more than twice as many results as threads wait to be
    taken.
    """
    import torch

    threads = torch.get_num_threads()
    workers = min(at_once(), len(items))

    @torch.inference_mode()
    def one(item: Item) -> Result:
        return work(item)

    if workers < 2:
        yield from map(one, items)
        return
    pool = ThreadPoolExecutor(workers, initializer=_share, initargs=(threads // workers,))
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            running.append(pool.submit(one, item))
            if len(running) > 2 * workers:
                yield running.popleft().result()
        while running:
            yield running.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        torch.set_num_threads(threads)  # also of threads that are yet to begin


def one_beside() -> ThreadPoolExecutor:
    """A thread, of torch's one too, for small things computed while the caller goes on."""
    import torch

    threads = torch.get_num_threads()
    # Said to it, as it would take what ``inferred`` has just given others, and round otherwise.
    pool = ThreadPoolExecutor(1, initializer=_share, initargs=(1,))
    pool.submit(torch.get_num_threads).result()  # it has begun, and is no model for others
    torch.set_num_threads(threads)
    return pool


def _share(threads: int) -> None:
    """Have a new thread use so many of torch's."""
    import torch

    torch.get_num_threads()  # what a new thread asks for first resets it
    torch.set_num_threads(threads)


def has_int8_instructions() -> bool:
    """Whether this processor multiplies 8-bit integers fast (VNNI), and torch has it do so."""
    import torch

    return bool(torch.cpu._is_vnni_supported()) and hasattr(torch.ops.onednn, "qlinear_pointwise")


def fastest_precision(rows: int, columns: int, *, int8: bool, kernels: bool = False) -> Precision:
    """What to multiply a decoder's matrices of this shape in: float32, bfloat16 or int8.

    With ``kernels`` of our own for them integers are faster than anything else, and nothing is
    timed.

    One product is timed in each; what is less exact has to be ``WORTH_ROUNDING`` times faster. int8
    only where it is allowed and the processor has instructions for it. Processors without bfloat16
    instructions emulate them, many times slower than float32; where torch's own library says so
    nothing is timed, since a busy machine's times mean little: integers are taken to be faster.
    """
    import torch

    int8 = int8 and has_int8_instructions()
    if int8 and kernels:
        return "int8"
    if not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "int8" if int8 else "float32"
    seconds = _seconds_of_a_product(rows, columns, int8=int8)
    chosen: Precision = "float32"
    for precision in seconds:
        if seconds[chosen] > WORTH_ROUNDING * seconds[precision]:
            chosen = precision
    return chosen


def _seconds_of_a_product(rows: int, columns: int, *, int8: bool) -> dict[Precision, float]:
    """How long one takes in each precision, the most exact first: the shortest of several.

    They take turns, so that a moment when the machine is busy does not tell them apart.
    """
    import torch

    linear = torch.nn.functional.linear
    with torch.inference_mode(), torch.random.fork_rng(devices=[]):
        x, weight = torch.randn(512, columns), torch.randn(rows, columns)
        half_x, half_weight = x.bfloat16(), weight.bfloat16()
        whole_x, whole_weight = x.to(torch.int8), weight.t().contiguous().to(torch.int8)
        products: dict[Precision, Callable[[], object]] = {
            "float32": lambda: linear(x, weight),
            "bfloat16": lambda: linear(half_x, half_weight),
        }
        if int8:
            products["int8"] = lambda: torch._int_mm(whole_x, whole_weight)
        seconds = dict.fromkeys(products, math.inf)
        for _ in range(12):  # the first ones prepare what the others find ready
            for precision, product in products.items():
                start = time.perf_counter()
                product()
                seconds[precision] = min(seconds[precision], time.perf_counter() - start)
    return seconds
