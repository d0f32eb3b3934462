"""What the endpoints take and give; what is not named here is refused."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from cffa_hf.inputs.captions import clean_caption

MAX_QUERIES, MAX_RESULTS, MAX_CHARACTERS = 32, 1000, 1000
MAX_COLUMNS, MAX_VALUES = 16, 1000
LARGEST_ID = 2**63 - 1

Text = Annotated[str, StringConstraints(min_length=1, max_length=MAX_CHARACTERS)]
Value = Annotated[str, StringConstraints(max_length=MAX_CHARACTERS)] | int | float
ItemId = Annotated[int, Field(ge=0, le=LARGEST_ID)]


class Strict(BaseModel):
    """Takes exactly its fields, of exactly their types; no number is infinite or not a number."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Range(Strict):
    """Values from `min` to `max`, both included; either may be missing. Numbers, or times as in ISO 8601."""

    min: Value | None = None
    max: Value | None = None


Where = Annotated[
    dict[
        Annotated[str, StringConstraints(min_length=1, max_length=200)],
        Value | Annotated[list[Value], Field(min_length=1, max_length=MAX_VALUES)] | Range,
    ],
    Field(max_length=MAX_COLUMNS),
]


class Options(Strict):
    """Which of the ranked images are wanted."""

    k: Annotated[int, Field(ge=1, le=MAX_RESULTS, description="Images wanted at most.")] = 10
    where: Annotated[
        Where | None,
        Field(
            description='Conditions on the columns of the gallery: a value, a list of values, or {"min", "max"}.',
            examples=[{"camera": ["cam_a", "cam_b"], "time": {"min": "2024-01-01"}}],
        ),
    ] = None
    minimum_score: Annotated[float | None, Field(ge=-1, le=1, description="Leave out images below it.")] = None

    def conditions(self) -> dict[str, Any] | None:
        """Return the conditions as the gallery takes them."""
        return self.model_dump(include={"where"}, exclude_none=True).get("where")


class SearchRequest(Options):
    """One sentence or several, or an image of the gallery whose like is wanted."""

    query: Annotated[
        Text | Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES)] | None,
        Field(description="A sentence, or a list of sentences.", examples=["a woman in a green coat"]),
    ] = None
    like: Annotated[ItemId | None, Field(description="Id of an image; others like it are wanted.")] = None

    @model_validator(mode="after")
    def _one_question(self) -> "SearchRequest":
        if (self.query is None) == (self.like is None):
            raise ValueError("give either query or like")
        check_texts(self.texts)
        return self

    @property
    def texts(self) -> list[str]:
        """Return the sentences as a list."""
        return [self.query] if isinstance(self.query, str) else list(self.query or ())


class EmbedRequest(Strict):
    """Sentences whose vectors are wanted."""

    texts: Annotated[list[Text], Field(min_length=1, max_length=MAX_QUERIES)]

    @model_validator(mode="after")
    def _no_blank(self) -> "EmbedRequest":
        check_texts(self.texts)
        return self


class Found(Strict):
    """An image of the gallery; `GET /images/{id}` gives its file."""

    id: int
    path: str
    score: float
    metadata: dict[str, Any]


class Answer(Strict):
    """The images found for one query, best first.

    `truncated` says that the sentence was longer than the model reads, so that its end was not used.
    """

    query: str | None
    truncated: bool
    results: list[Found]


class SearchResponse(Strict):
    """One answer for each query, in their order."""

    answers: list[Answer]


class EmbedResponse(Strict):
    """Unit vectors in the order of the sentences."""

    width: int
    vectors: list[list[float]]
    truncated: list[bool]


class Health(Strict):
    """Whether requests are taken. The gallery is described to those who may search it."""

    status: str
    gallery: dict[str, Any] | None = None


class Problem(Strict):
    """Why a request was not answered, in one sentence."""

    error: str


def check_texts(texts: list[str]) -> None:
    """Refuse sentences of which nothing is left once they are cleaned.

    Raises:
        ValueError: If one is blank.
    """
    if any(not clean_caption(text) for text in texts):
        raise ValueError("a sentence is blank; describe the person to look for")
