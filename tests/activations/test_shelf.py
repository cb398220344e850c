"""Activations on disk: found again by other runs, within the budget, and never when damaged."""

import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import messages, random_decoder, random_part

from lastblock import TextClassifier
from lastblock.activations import (
    ActivationStore,
    activations_of,
    run_prefix,
    shelf,
    states_of,
    store,
)
from lastblock.activations.shelf import Shelf, shelved
from lastblock.classifier import SequenceClassifier
from lastblock.decoder.hub import PretrainedFiles, content_of
from lastblock.tokenization.batching import TokenIds

MB = 1 << 20
MakeShelf = Callable[..., Shelf]


class Said:
    """Progress that remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    @contextmanager
    def task(self, name: str, total: int, unit: str = "") -> Iterator[Callable[[int], None]]:
        yield lambda k: None


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("LASTBLOCK_CACHE_SIZE", "1")


@pytest.fixture
def classifier() -> SequenceClassifier:
    return SequenceClassifier(random_decoder(), 2)


def a_shelf(classifier: SequenceClassifier, weights: str = "w", budget: int = 100 * MB) -> Shelf:
    return Shelf({**classifier.prefix_facts(), "weights": weights}, "tiny", budget)


def distinct(sequences: list[TokenIds]) -> int:
    return sum(len(ids) for ids in {ids.tobytes(): ids for ids in sequences}.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_second_store_computes_nothing_and_gives_the_same_bits(
    classifier: SequenceClassifier, dtype: torch.dtype
) -> None:
    classifier.set_prefix_precision(str(dtype).removeprefix("torch."))
    sequences = list(random_part(30).sequences)
    memory, first = ActivationStore(), ActivationStore(a_shelf(classifier))
    second = ActivationStore(a_shelf(classifier))
    for each in (memory, first, second):
        each.fill(classifier, sequences)
    assert first.tokens_computed == memory.tokens_computed == distinct(sequences)
    assert second.tokens_computed == 0
    expected = memory.batch(sequences)[0]
    assert expected.dtype == dtype
    for each in (first, second):
        assert torch.equal(each.batch(sequences)[0], expected)


def test_only_texts_that_are_not_there_are_computed(classifier: SequenceClassifier) -> None:
    sequences = list(random_part(30).sequences)
    ActivationStore(a_shelf(classifier)).fill(classifier, sequences[:20])
    later = ActivationStore(a_shelf(classifier))
    later.fill(classifier, sequences)
    assert later.tokens_computed == distinct(sequences) - distinct(sequences[:20])
    assert len(shelved()) == 2


@pytest.mark.parametrize("what", ["weights", "blocks", "dtype"])
def test_another_prefix_finds_nothing(classifier: SequenceClassifier, what: str) -> None:
    sequences = random_part(5).sequences
    ActivationStore(a_shelf(classifier)).fill(classifier, sequences)
    other, weights = classifier, "w"
    if what == "weights":
        weights = "v"
    elif what == "blocks":
        other = SequenceClassifier(random_decoder(), 2, trainable_blocks=2)
    else:
        other.set_prefix_precision("bfloat16")
    later = ActivationStore(a_shelf(other, weights))
    later.fill(other, sequences)
    assert later.tokens_computed > 0


@pytest.mark.parametrize("damage", ["flip", "cut", "zeros", "empty"])
def test_a_damaged_file_is_computed_again(classifier: SequenceClassifier, damage: str) -> None:
    sequences = random_part(12).sequences
    ActivationStore(a_shelf(classifier)).fill(classifier, sequences)
    (file,) = shelved()
    data = bytearray(file.path.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    elif damage == "cut":
        del data[-100:]
    elif damage == "zeros":
        data[-4096:] = bytes(4096)
    else:
        data = bytearray()
    file.path.write_bytes(data)
    again = ActivationStore(a_shelf(classifier))
    again.fill(classifier, sequences)
    assert again.tokens_computed == distinct(list(sequences))
    third = ActivationStore(a_shelf(classifier))
    third.fill(classifier, sequences)
    assert third.tokens_computed == 0


def test_entries_may_have_more_rows_than_ids_and_no_texts_are_kept() -> None:
    states = {bytes([i] * 40): torch.randn(i, 7) for i in range(1, 9)}
    kept = Shelf({}, "any", MB).put(states)
    found = Shelf({}, "any", MB).find(states)
    for ids, rows in states.items():
        assert torch.equal(kept[ids], rows)
        assert torch.equal(found[ids], rows)
        assert all(ids not in file.path.read_bytes() for file in shelved())


def test_files_are_for_their_owner_alone(classifier: SequenceClassifier) -> None:
    ActivationStore(a_shelf(classifier)).fill(classifier, random_part(3).sequences)
    (file,) = shelved()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    for folder in (file.path.parent, shelf.activations_folder()):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_the_one_unused_for_longest_goes_first() -> None:
    rows = {name: {name: torch.zeros(1000, 25)} for name in (b"a", b"b", b"c")}  # 100 kB each
    budget = 250_000
    for day, name in enumerate((b"a", b"b")):
        Shelf({}, "any", budget).put(rows[name])
        for file in shelved():
            if file.used > 1e9:
                os.utime(file.path, (day, day))
    assert Shelf({}, "any", budget).find(rows[b"a"])  # used again: b is older now
    Shelf({}, "any", budget).put(rows[b"c"])
    later = Shelf({}, "any", budget)
    assert [bool(later.find(rows[name])) for name in (b"a", b"b", b"c")] == [True, False, True]
    assert sum(file.size for file in shelved()) <= budget


def test_what_a_run_uses_is_not_removed_by_itself() -> None:
    full = Shelf({}, "any", 150_000)
    full.put({b"a": torch.zeros(1000, 25)})
    with pytest.raises(OSError, match="budget"):
        full.put({b"b": torch.zeros(1000, 25)})
    assert full.find([b"a"])


def test_without_room_on_disk_they_are_kept_in_memory(classifier: SequenceClassifier) -> None:
    sequences, said = random_part(12).sequences, Said()
    small = ActivationStore(a_shelf(classifier, budget=1000))
    small.fill(classifier, sequences, said)
    assert not shelved()
    assert all(ids in small for ids in sequences)
    assert any("--cache-size" in line and "memory" in line for line in said.lines)


def test_without_any_room_they_are_computed_when_asked_for(
    classifier: SequenceClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "available_memory", lambda: 20_000)
    sequences, said, some = random_part(40).sequences, Said(), ActivationStore()
    some.fill(classifier, sequences, said)
    held = [ids for ids in sequences if ids in some]
    assert 0 < len(held) < len(sequences)
    assert any("anew in every epoch" in line for line in said.lines)
    hidden, lengths = states_of(classifier, sequences, some)
    torch.testing.assert_close(hidden, run_prefix(classifier, sequences)[0].clone())
    classifier.tail(hidden, lengths).sum().backward()


def test_a_full_disk_ends_no_run(
    classifier: SequenceClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shelf, "save_file", full)
    sequences, said, kept = random_part(12).sequences, Said(), ActivationStore(a_shelf(classifier))
    kept.fill(classifier, sequences, said)
    assert all(ids in kept for ids in sequences)
    assert any("No space left" in line for line in said.lines)


def test_an_interrupted_pass_goes_on_where_it_stopped(
    classifier: SequenceClassifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "TOKEN_BUDGET", 64)
    sequences = random_part(30).sequences
    calls = 0

    def interrupted(*args: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KeyboardInterrupt
        return activations_of(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "activations_of", interrupted)
    first = ActivationStore(a_shelf(classifier))
    with pytest.raises(KeyboardInterrupt):
        first.fill(classifier, sequences)
    second = ActivationStore(a_shelf(classifier))
    second.fill(classifier, sequences)
    assert 0 < second.tokens_computed == distinct(list(sequences)) - first.tokens_computed


def test_two_processes_may_write_the_same_at_once(tmp_path: Path) -> None:
    program = (
        "import torch; from lastblock.activations.shelf import Shelf\n"
        "g = torch.Generator().manual_seed(1)\n"
        "for i in range(30):\n"
        "    rows = {bytes([i, j]): torch.randn(50, 8, generator=g) for j in range(9)}\n"
        "    Shelf({}, 'any', 1 << 30).put(rows)\n"
        "    assert len(Shelf({}, 'any', 1 << 30).find(rows)) == 9\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(2)]
    assert [process.wait(120) for process in running] == [0, 0]
    assert len(shelved()) == 30
    assert not list(shelf.activations_folder().rglob("*.tmp"))


def test_weights_of_a_folder_are_told_apart_by_what_they_hold(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"one")
    files = PretrainedFiles(folder, "model")
    first = content_of(files)
    assert content_of(files) == first
    stat = (folder / "model.safetensors").stat()
    (folder / "model.safetensors").write_bytes(b"two")  # same size, and the same time
    os.utime(folder / "model.safetensors", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert content_of(files) != first


def test_later_fits_on_the_same_texts_need_no_frozen_pass(pretrained: Path) -> None:
    texts, labels = messages(60)

    def tokens(**changed: object) -> int:
        settings = {"epochs": 1, "dtype": "float32", **changed}
        classifier = TextClassifier(str(pretrained), **settings)  # type: ignore[arg-type]
        fitted = classifier.fit(texts, labels, validation=(texts[:5], labels[:5]))
        return fitted.model_.store.tokens_computed

    assert tokens() > 0
    assert tokens(random_state=7) == 0
    assert tokens(learning_rate=1e-4, epochs=2, batch_size=8, weight_decay=0.0) == 0
    assert tokens(pooling="mean") == 0
    assert tokens(depth=2) > 0
    assert tokens(cache_size=0) > 0
    for fold in np.array_split(np.arange(60), 5):
        kept = np.setdiff1d(np.arange(60), fold)
        classifier = TextClassifier(str(pretrained), epochs=1, dtype="float32")
        classifier.fit([texts[i] for i in kept], [labels[i] for i in kept])
        assert classifier.model_.store.tokens_computed == 0


def test_weights_trained_on_kept_activations_are_the_same_to_the_bit(pretrained: Path) -> None:
    texts, labels = messages(40)
    states = []
    for cache_size in (0, 1, 1):  # in memory, written, found
        classifier = TextClassifier(
            str(pretrained), epochs=2, dtype="float32", cache_size=cache_size
        )
        states.append(classifier.fit(texts, labels).model_.classifier.tail_state())
    for other in states[1:]:
        assert all(torch.equal(states[0][name], other[name]) for name in states[0])
