"""What the benchmarks share: times, the machine's matrix rate, a cache of their own, results."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors.torch import save_file

from lastblock.classifier import SequenceClassifier
from lastblock.config import DEFAULT_MODEL, ModelConfig, Precision, TrainConfig
from lastblock.data.catalog import load_examples
from lastblock.decoder import hub, kernels, loading
from lastblock.decoder.config import DecoderConfig
from lastblock.decoder.decoder import Decoder
from lastblock.inference import TextModel
from lastblock.recipe import PROMPT, SAMPLE, resolve
from lastblock.runtime import cache_folder
from lastblock.tokenization.tokenizer import Tokenizer

RESULTS = Path(__file__).with_name("results")


def seconds_of(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@contextmanager
def torch_alone() -> Iterator[None]:
    """Without the kernels in C: what plain torch, such as the book's, takes on the same decoder."""
    with mock.patch.object(kernels, "available", return_value=False):
        yield


Shapes = Sequence[tuple[int, int, int]]


def products(shapes: Shapes) -> tuple[list[Callable[[], object]], float]:
    """Torch's own float32 products (rows, inner) x (inner, columns), and their operations."""
    work, operations = [], 0.0
    for rows, inner, columns in shapes:
        x, weight = torch.randn(rows, inner), torch.randn(columns, inner)
        work.append(partial(torch.nn.functional.linear, x, weight))
        operations += 2.0 * rows * inner * columns
    return work, operations


def block_shapes(classifier: SequenceClassifier, rows: int) -> list[tuple[int, int, int]]:
    """The products of one block over ``rows`` tokens."""
    shapes = []
    for name, weight in classifier.decoder.blocks[-1].named_parameters():
        if weight.ndim == 2 and name.endswith("weight"):
            shapes.append((rows, weight.shape[1], weight.shape[0]))
    return shapes


def own_cache(folder: Path) -> Path:
    """A cache folder that shares the user's weights and data sets, and nothing else.

    With weights goes what their channels are divided by in 8-bit integers, found out or not yet.
    """
    folder.mkdir(parents=True)
    (cache_folder() / "channels").mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in ("models", "hub", "datasets", "channels"):
        if (cache_folder() / name).exists():
            (folder / name).symlink_to((cache_folder() / name).absolute())
    return folder


def untrained(depth: int = 20) -> TextModel:
    """The default decoder cut at a depth, for two classes, that has learnt nothing.

    Its lexicon says nothing of use, but is asked.
    """
    files = hub.resolve(DEFAULT_MODEL)
    shape = loading.read_config(files.folder)
    tokenizer = Tokenizer.from_pretrained(files.folder)
    wanted, asked = ModelConfig(depth=depth, dtype="float32"), len(tokenizer.frame(PROMPT))
    chosen = resolve(wanted, TrainConfig(), shape, [64], 1e-3, asked)
    settings = dataclasses.replace(chosen, summary_depths=())
    decoder = loading.load_decoder(files.folder, depth=depth)
    classifier = SequenceClassifier(decoder, 2, lexicon=settings.lexicon)
    assert classifier.lexicon is not None
    classifier.lexicon.idf.fill_(1.0)
    return TextModel(tokenizer, classifier, ["ham", "spam"], settings)


def in_precision(precision: Precision, depth: int) -> TextModel:
    """The default decoder, its frozen blocks in this precision."""
    model = untrained(depth)
    sample = model.frame.around(model.tokenizer.encode_batch([SAMPLE])[0])
    model.classifier.set_prefix_precision(precision, torch.from_numpy(sample))
    model.settings = dataclasses.replace(model.settings, dtype=precision)
    return model


def tiny_decoder(folder: Path) -> Path:
    """A folder with a small Llama of random weights and the default decoder's tokenizer."""
    pretrained = hub.resolve(DEFAULT_MODEL).folder
    folder.mkdir(parents=True)
    config = {
        "model_type": "llama",
        "vocab_size": loading.read_config(pretrained).vocab_size,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
    }
    (folder / "config.json").write_text(json.dumps(config))
    decoder = Decoder(DecoderConfig.from_dict(config))
    for parameter in decoder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    save_file(decoder.state_dict(), folder / "model.safetensors", {"layout": "lastblock"})
    Tokenizer.from_pretrained(pretrained).save(folder / "tokenizer.json")
    return folder


def messages(count: int) -> list[str]:
    """SMS messages; from the second round on each is a little different."""
    return repeated(load_examples("sms-spam").texts, count)


def repeated(texts: Sequence[str], count: int) -> list[str]:
    """So many texts, round after round; from the second on each is a little different."""
    return [
        texts[i % len(texts)] + (f" {i // len(texts)}" if i >= len(texts) else "")
        for i in range(count)
    ]


def machine() -> dict[str, Any]:
    name = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        name = lines[0].partition(":")[2].strip() if lines else name
    return {
        "processor": f"{name} with AMX" if kernels.have_tiles() else name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[0],
        "kernels": kernels.available(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def write_results(name: str, figures: Mapping[str, Any]) -> Path:
    """Keep a benchmark's figures, with the machine they were taken on."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), **figures}, indent=2) + "\n")
    print(f"wrote {path}")
    return path
