"""Requests and responses, as /docs shows them. Knows no models."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Label = str | int
# The pattern is for readers of the description; ``files.check_text`` is what refuses.
Text = Annotated[
    str,
    Field(
        strict=True,
        min_length=1,
        description="Neither blank nor with a NUL character in it.",
        json_schema_extra={"pattern": r"^[^\x00]*[^\x00\s][^\x00]*$"},
    ),
]
ModelName = Annotated[
    str | None,
    Field(description="Which model; needed only where there are several."),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid")


class PredictRequest(_Request):
    """One text, or a list of them."""

    texts: Text | Annotated[list[Text], Field(min_length=1)]
    model: ModelName = None


class ExplainRequest(_Request):
    """A text whose prediction is to be explained."""

    text: Text
    label: Annotated[
        Label | None, Field(description="Class to explain; the likeliest if not given.")
    ] = None
    model: ModelName = None


class HubParameters(BaseModel):
    """What clients of the Hugging Face inference API may send; unknown ones are ignored."""

    top_k: Annotated[int | None, Field(ge=1)] = None
    function_to_apply: Literal["softmax"] | None = None


class HubRequest(BaseModel):
    """The request of the Hugging Face text-classification inference API."""

    inputs: Text | Annotated[list[Text], Field(min_length=1)]
    parameters: HubParameters = HubParameters()


class HubElement(BaseModel):
    """A class and its probability."""

    label: str
    score: float


class ModelId(BaseModel):
    """Which model answered: its name, and digits that change with its weights."""

    name: str
    id: str


class Decision(BaseModel):
    """How labels follow from probabilities."""

    multilabel: Annotated[bool, Field(description="Whether a text may have several labels.")]
    thresholds: Annotated[
        dict[str, float] | None,
        Field(description="Probabilities from which on labels are given; null: the likeliest is."),
    ]
    abstain_below: Annotated[
        float | None, Field(description="The least probability for which a label is given.")
    ]


class Prediction(BaseModel):
    """What the model says about one text."""

    label: Annotated[
        Label | None,
        Field(
            description='The label given, of several the likeliest; "unsure" where its '
            "probability is too low to give one; null where a text may have none, and has none."
        ),
    ]
    labels: Annotated[list[Label], Field(description="All labels given, the likeliest first.")]
    probability: Annotated[
        float, Field(description="Of the label; where none is given, of the likeliest.")
    ]
    probabilities: dict[str, float]
    unsure: bool
    tokens: Annotated[int, Field(description="Tokens of the text, before it was cut.")]
    truncated: Annotated[bool, Field(description="Whether it was too long to be read whole.")]


class PredictResponse(BaseModel):
    """Predictions in the order of the texts."""

    model: ModelId
    decision: Decision
    predictions: list[Prediction]


class Word(BaseModel):
    """A word, or neighbouring words of a long text, and what they did."""

    text: str
    start: Annotated[int, Field(description="First character, counted in code points.")]
    end: int
    effect: Annotated[
        float, Field(description="What the word adds to the log-odds of the class, in nats.")
    ]


class ExplainResponse(BaseModel):
    """The prediction, and what each word adds to the log-odds of ``explained``."""

    model: ModelId
    prediction: Prediction
    explained: Label
    words: list[Word]


class ModelInfo(BaseModel):
    """What is known of a model."""

    name: str
    id: str
    labels: list[Label]
    decision: Decision
    settings: dict[str, Any]
    scores: dict[str, Any] | None
    card: str | None
    report: Annotated[str | None, Field(description="Where its report can be read.")]


class ModelList(BaseModel):
    """All models that can be asked for."""

    models: list[str]


class Status(BaseModel):
    """How the server is."""

    status: str


class Error(BaseModel):
    """Why there is no answer: a sentence, and a word to compare."""

    error: str
    code: str
