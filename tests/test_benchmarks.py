"""The benchmarks run, in small, so that they cannot rot; nothing is said about their times."""

from pathlib import Path

import pytest
import torch
from tiny import messages, random_decoder, random_part

from lastblock.classifier import SequenceClassifier
from lastblock.config import Precision
from lastblock.data.examples import Examples
from lastblock.decoder import hub

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_can_be_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def test_a_training_step_is_measured_against_the_matrix_rate() -> None:
    import training_step

    classifier = SequenceClassifier(random_decoder(), 2)
    figures = training_step.measure(classifier, random_part(20).sequences, turns=2)
    assert figures["gflop"] > 0
    assert figures["ratio"] == pytest.approx(figures["step_ms"] / figures["arithmetic_ms"])


def test_cost_is_measured_as_work_grows(pretrained: Path, tmp_path: Path) -> None:
    import scaling

    texts, names = messages(60)[0], ("predict",)  # each size of each task is a cold process
    found = scaling.measure(str(pretrained), 2, texts, [30], tmp_path / "run", names)
    assert found["predict"][0]["peak_mb"] > 0
    scaling.plot(found, tmp_path / "scaling.svg")
    assert (tmp_path / "scaling.svg").read_text().count("<svg") == 1


def test_calibration_is_judged_before_and_after(pretrained: Path) -> None:
    import calibration

    drawn, test = (Examples(*messages(n, seed=n), "made up") for n in (400, 40))
    runs = [calibration.judge(drawn, test, 1, model=str(pretrained), depth=2, epochs=1)]
    assert runs[0]["temperature"] > 0
    assert runs[0]["after"]["ece"] != runs[0]["before"]["ece"]
    assert calibration.row("made up", runs).count("→") == 3


def test_the_frozen_pass_is_measured_against_products_alone() -> None:
    import frozen_pass

    classifiers = {name: SequenceClassifier(random_decoder(), 2) for name in ("float32", "int8")}
    classifiers["int8"].set_prefix_precision("int8", torch.randint(0, 97, (60,)))
    found = frozen_pass.measure(classifiers, random_part(20).sequences, turns=1)
    assert min(found[name] for name in ("products", "float32", "int8")) > 0
    assert {name for name in found if "faults" in name} == {"faults_float32", "faults_int8"}


def test_int8_is_compared_with_float32(pretrained: Path) -> None:
    import precision

    drawn, test = (Examples(*messages(n, seed=n), "made up") for n in (60, 40))
    found = precision.compare(drawn, test, 1, model=str(pretrained), depth=2, epochs=1)
    assert 0 <= found["moved_median"] < 0.1
    assert found["times_faster"] > 0


def test_choosing_the_depth_is_set_against_a_depth_that_is_given(pretrained: Path) -> None:
    import choosing

    texts, labels = messages(60)
    found = choosing.measure(texts, labels, 1, model=str(pretrained), epochs=1)
    ratio = found["chosen_seconds"] / found["given_seconds"]
    assert found["choosing_adds"] == pytest.approx(ratio - 1)
    assert found["depth"] >= 1


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_book_s_procedure_is_run_by_seed_and_rate(
    pretrained: Path, dtype: Precision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import chapter6

    monkeypatch.setenv("LASTBLOCK_CACHE", str(tmp_path))
    parts = [Examples(*messages(n, seed=n), "made up") for n in (40, 10, 10)]
    files = hub.resolve(str(pretrained))
    settings = chapter6.settings_for(files, parts[0], "padded", 1, 1e-3, dtype)
    assert settings.dtype == dtype
    scores = chapter6.accuracies(files, parts, settings)
    assert len(scores) == 3
    assert all(0 <= score <= 1 for score in scores)


def test_every_product_is_counted() -> None:
    import common

    work, operations = common.products([(8, 16, 4), (8, 4, 16)])
    assert [tuple(each().shape) for each in work] == [(8, 4), (8, 16)]
    assert operations == 2 * 2 * 8 * 16 * 4
    classifier = SequenceClassifier(random_decoder(), 2)
    shapes = common.block_shapes(classifier, 10)
    inner = classifier.decoder.blocks[0]
    weights = sum(p.numel() for p in inner.parameters() if p.ndim == 2)
    assert sum(columns * width for _, columns, width in shapes) == weights
    assert torch.get_num_threads() == common.machine()["threads"]
