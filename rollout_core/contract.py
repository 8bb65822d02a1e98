"""What service and worker say to each other: the JSON that crosses the queue, and its names.

Everything is frozen, and refuses fields it does not know. Times are RFC 3339 in UTC.
"""

import errno
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictInt,
    Tag,
    model_validator,
)

from rollout_core.model.specs import Sampling

Method = Literal["rollout", "attention", "gradient_rollout", "contribution_rollout"]
HeadFusion = Literal["mean", "max", "min"]
Weighting = Literal["projection", "deviation", "alti", "l2"]
Fill = Literal["blur", "mean", "still"]
Layout = Literal["overlay", "side_by_side"]
Stage = Literal["decode", "explain", "faithfulness", "render", "publish"]

ModelName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]

Index = Annotated[int, Field(ge=0, lt=1 << 31)]
ClassIndex = Annotated[StrictInt, Field(ge=0, lt=1 << 31)]
ClassLabel = Annotated[str, Field(min_length=1, max_length=256)]


RESULT_NAME = "result.json"
ARCHIVE_NAME = "rollout.npz"
OVERLAY_NAME = "overlay.mp4"
SHEET_NAME = "sheet.png"
FAITHFULNESS_NAME = "faithfulness.png"

MAX_QUERIES = 64

METHOD_OPTIONS: dict[Method, tuple[str, ...]] = {
    "rollout": ("head_fusion", "discard_ratio", "start_layer", "full_rollout"),
    "attention": ("head_fusion", "layer"),
    "gradient_rollout": ("start_layer", "target", "full_rollout"),
    "contribution_rollout": ("weighting", "start_layer", "full_rollout"),
}
"""The fields of a request that not every method has, and those that have them."""

FULL_ROLLOUT_TOKENS = 4096
"""Tokens of a clip, up to which its full rollout may be asked for: 32 MiB in half precision."""


class Frozen(BaseModel):
    """Base of every message: immutable, unknown fields refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Overlay(Frozen):
    """How the overlay video looks."""

    colormap: str = Field(
        "turbo", max_length=64, description="Name of a colormap, as in matplotlib."
    )
    opacity: float = Field(0.6, ge=0, le=1, description="Of the heat map where it is hottest.")
    layout: Layout = "overlay"


class PatchQuery(Frozen):
    """One patch of a clip; everything is counted from 0."""

    clip: Index = 0
    frame: Index = Field(description="Among the sampled frames of the clip.")
    row: Index
    column: Index


class PointQuery(Frozen):
    """The patch at a point of the video, in the sampled frame that is nearest in time."""

    x: float = Field(ge=0, allow_inf_nan=False, description="Source pixels, as displayed.")
    y: float = Field(ge=0, allow_inf_nan=False, description="Source pixels, as displayed.")
    seconds: Seconds = Field(description="From the first frame of the video.")


TokenQuery = Literal["cls"] | PatchQuery
"""A token of the model's output: the classification token, or a patch."""


def _kind_of(query: object) -> str:
    """Tell what a query is meant to be, so that errors speak of nothing else."""
    if isinstance(query, str):
        return "cls"
    named = query if isinstance(query, dict) else getattr(query, "__dict__", {})
    return "point" if named.keys() & PointQuery.model_fields.keys() else "patch"


def _count_of(query: object) -> str:
    return "several" if isinstance(query, (list, tuple)) else "one"


Query = Annotated[
    Annotated[Literal["cls"], Tag("cls")]
    | Annotated[PatchQuery, Tag("patch")]
    | Annotated[PointQuery, Tag("point")],
    Discriminator(_kind_of),
]
Queries = Annotated[
    Annotated[Query, Tag("one")]
    | Annotated[tuple[Query, ...], Field(min_length=1, max_length=MAX_QUERIES), Tag("several")],
    Discriminator(_count_of),
]


class ClipRequest(Frozen):
    """What to explain of each clip, and how."""

    method: Method = Field("rollout", description="How relevance is worked out.")
    weighting: Weighting = Field(
        "projection", description="What contribution_rollout takes for a token's share."
    )
    head_fusion: HeadFusion = Field(
        "mean", description="How rollout and attention make one map of a layer's heads."
    )
    discard_ratio: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the smallest attention entries that rollout drops in each layer.",
    )
    start_layer: Index = Field(0, description="First layer that takes part in a rollout.")
    layer: Index | None = Field(None, description="Layer that attention shows; the last.")
    target: ClassIndex | ClassLabel | None = Field(
        None,
        description="Class, by index or label, for gradient_rollout and faithfulness. "
        "Default: the one predicted for the clip.",
    )
    query: Queries = Field(
        "cls", description="Token to explain, or several; the first one is drawn."
    )
    per_layer: bool = Field(False, description="Also return the relevance at every layer.")
    full_rollout: bool = Field(False, description="Also return the rollout of every token.")
    faithfulness: bool = Field(
        False, description="Also measure what the class loses and gains with the patches."
    )

    @property
    def queries(self) -> tuple[Query, ...]:
        """The tokens to explain; the first one is drawn."""
        return self.query if isinstance(self.query, tuple) else (self.query,)

    @model_validator(mode="after")
    def _check_method(self) -> Self:
        check_method(
            self.method,
            weighting=self.weighting,
            head_fusion=self.head_fusion,
            discard_ratio=self.discard_ratio,
            start_layer=self.start_layer,
            layer=self.layer,
            full_rollout=self.full_rollout,
            # Faithfulness needs a class for every method.
            target=None if self.faithfulness else self.target,
        )
        if self.faithfulness and self.queries[0] != "cls":
            raise ValueError("faithfulness is measured for the query 'cls'")
        return self


class ExplainRequest(ClipRequest):
    """What to explain of a video, and how. Every field has a default."""

    model: ModelName | None = Field(None, description="Default: the service's default model.")
    sampling: Sampling | None = Field(None, description="Default: as the model was trained.")
    clips: Literal["one", "tile"] = Field(
        "one", description="One clip, or consecutive clips that cover the whole span."
    )
    start_seconds: Seconds | None = Field(
        None, description="Start of the span; default: the video's."
    )
    end_seconds: Seconds | None = Field(
        None, description="End of the span, exclusive; default: the video's."
    )
    overlay: Overlay | None = Field(Overlay(), description="null: make no overlay video.")

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        start = self.start_seconds or 0
        if self.end_seconds is not None and self.end_seconds <= start:
            raise ValueError("end_seconds must be greater than start_seconds")
        return self

    @model_validator(mode="after")
    def _check_single_clip(self) -> Self:
        for name in ("full_rollout", "faithfulness"):
            if getattr(self, name) and self.clips != "one":
                raise ValueError(f"{name} is for one clip, not for clips: {self.clips!r}")
        return self


def check_method(
    method: Method,
    *,
    weighting: Weighting,
    head_fusion: HeadFusion,
    discard_ratio: float,
    start_layer: int,
    layer: int | None,
    full_rollout: bool,
    target: object,
) -> None:
    """Refuse what a method would have to ignore.

    Raises:
        ValueError: an option that is not at its default means nothing to this method.
    """
    is_set = {
        "weighting": weighting != "projection",
        "head_fusion": head_fusion != "mean",
        "discard_ratio": discard_ratio != 0,
        "start_layer": start_layer != 0,
        "layer": layer is not None,
        "full_rollout": full_rollout,
        "target": target is not None,
    }
    for name, used in is_set.items():
        if used and name not in METHOD_OPTIONS[method]:
            takers = [other for other, options in METHOD_OPTIONS.items() if name in options]
            raise ValueError(f"{name} is for {', '.join(takers)}, not for {method}")


class Prediction(Frozen):
    """One class and the probability that the model gives it, averaged over clips."""

    label: str
    index: int = Field(ge=0)
    probability: float = Field(ge=0, le=1)


class Artifact(Frozen):
    """One file of a result."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str


class Target(Frozen):
    """The class that an explanation is of."""

    label: str
    index: int = Field(ge=0)


class OrderScores(Frozen):
    """Area under the curve of a class's probability, by the order in which patches go or come."""

    most_first: float = Field(description="The most relevant patch first.")
    least_first: float = Field(description="The least relevant patch first.")
    random_mean: float = Field(description="Over random orders.")
    random_std: float = Field(description="Standard deviation over random orders.")


class FillFaithfulness(Frozen):
    """Scores where missing patches are replaced in one way, and the curves they come from.

    A curve has `steps + 1` probabilities: with 0, 1/steps … all of the patches deleted (or
    inserted). Deleting in one order shows the same pictures as inserting in its reverse.
    """

    fill: Fill
    deletion: OrderScores = Field(description="Good maps have a low most_first.")
    insertion: OrderScores = Field(description="Good maps have a high most_first.")
    most_first_deleted: tuple[float, ...]
    least_first_deleted: tuple[float, ...]
    random_deleted: tuple[tuple[float, ...], ...] = Field(description="One curve an order.")


class Faithfulness(Frozen):
    """What the model's probability of a class loses and gains with the patches of a clip."""

    target: Target
    steps: int
    forwards: int = Field(description="Clips that the model ran to find out.")
    fills: tuple[FillFaithfulness, ...]


class ExplainResult(Frozen):
    """The answer, as `result.json` holds it."""

    model: str
    checkpoint_sha256: str | None = Field(description="None for a model without a checkpoint.")
    request: ExplainRequest = Field(description="With every default filled in.")
    predictions: tuple[Prediction, ...] = Field(description="Most probable first, at most five.")
    clips: int
    frames: int = Field(description="Sampled frames, all clips together.")
    targets: tuple[Target, ...] | None = Field(
        None, description="Class that each clip's relevance is of; null if it is of none."
    )
    queries: tuple[TokenQuery, ...] = Field(
        ("cls",), description="The tokens explained; points are resolved to patches."
    )
    frame_relevance: tuple[tuple[float, ...], ...] = Field(
        (), description="By clip and sampled frame: its share of the clip's relevance."
    )
    faithfulness: Faithfulness | None = None
    artifacts: tuple[Artifact, ...] = Field(description="Every other file of the result.")
    timings_seconds: dict[str, float] = Field(description="Seconds spent in each stage.")
    attempt: int
    started_at: datetime
    ended_at: datetime


def describe(path: Path) -> Artifact:
    """Return a file's name, size and digest.

    Raises:
        OSError: it is a link, or no plain file: nobody waits for a pipe.
    """
    status = path.lstat()
    if not S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a plain file", path.name)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return Artifact(name=path.name, bytes=status.st_size, sha256=digest)
