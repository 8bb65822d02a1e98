"""The public request and result: the JSON that clients send and read, and its limits.

Every model is immutable and refuses unknown fields. Times are RFC 3339 in UTC.
"""

import errno
from datetime import datetime
from hashlib import file_digest
from pathlib import Path
from stat import S_ISREG
from typing import Annotated, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    StrictInt,
    Tag,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from rollout_core.model.specs import Sampling
from rollout_core.patterns import HTTP_URL, ID, MODEL_NAME, ONE_LINE
from rollout_core.query_text import JSON_PATTERN, read_query

RESULT_NAME = "result.json"
ARCHIVE_NAME = "rollout.npz"
OVERLAY_NAME = "overlay.mp4"
SHEET_NAME = "sheet.png"
PREVIEW_NAME = "preview.mp4"
THUMBNAILS_NAME = "thumbnails.jpg"
FAITHFULNESS_NAME = "faithfulness.png"
ARTIFACT_NAMES = (
    *(RESULT_NAME, ARCHIVE_NAME, SHEET_NAME, OVERLAY_NAME),
    *(PREVIEW_NAME, THUMBNAILS_NAME, FAITHFULNESS_NAME),
)
"""All files that a result may have."""

MAX_QUERIES = 64
MAX_TARGETS = 8

PREDICTED: Literal["predicted"] = "predicted"
"""Names the class that is predicted for a clip."""

MAX_CAPTION_CHARACTERS = 1000
MAX_VIDEO_SECONDS = 600.0
MAX_VIDEO_PIXELS = 4096 * 2304
"""Default limits of a video: its length, and the pixels of one frame."""

MIN_OVERLAY_LINES = 64
DEFAULT_OVERLAY_LINES = 1080
"""Height of an overlay video in pixels: the least limit that a request may set, and the default."""

COMPLETE_SHARE = 0.95
"""A span of which less can be decoded than this share is incomplete."""

TIMINGS_DESCRIPTION = (
    "Seconds of the attempt by stage. Each moment counts for one stage, so that they add up to "
    "`total`: `wait` (until the model and a decoder are ready, and what is in no other stage), "
    "`open` (reading all packets, planning the clips), `decode` (waiting for frames, even if the "
    "model runs meanwhile), `explain` (waiting for the model), `faithfulness`, `render` (drawing "
    "the pictures), `save` (writing the files, and their digests)."
)

MAX_FULL_ROLLOUT_TOKENS = 4096
"""Most tokens of a clip for which a full rollout is computed: 32 MiB in half precision."""

Method = Literal["rollout", "attention", "gradient_rollout", "contribution_rollout", "difference"]
HeadFusion = Literal["mean", "max", "min"]
Weighting = Literal["projection", "deviation"]
Fill = Literal["blur", "mean", "still"]
Layout = Literal["overlay", "side_by_side"]
HeatScale = Literal["video", "frame", "absolute"]
Priority = Literal["low", "normal"]
Stage = Literal["decode", "explain", "faithfulness", "render", "publish"]

Precision = Literal["float32", "tf32", "bfloat16", "float16"]
PrecisionChoice = Literal["auto", "float32", "tf32", "bfloat16", "float16"]
"""How a model computes; auto: the fastest precision that agrees with float32 on this machine."""

FailureCode = Literal[
    "deadline_exceeded",
    "invalid_request",
    "no_worker",
    "out_of_memory",
    "store_full",
    "store_unavailable",
    "too_much_work",
    "video_container_unsupported",
    "video_encrypted",
    "video_incomplete",
    "video_no_stream",
    "video_span_empty",
    "video_too_long",
    "video_too_many_pixels",
    "video_undecodable",
    "worker_crashed",
]
"""The codes with which a job can fail."""

ModelName = Annotated[str, Field(pattern=MODEL_NAME)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Index = Annotated[int, Field(ge=0, lt=1 << 31)]
ClassIndex = Annotated[StrictInt, Field(ge=0, lt=1 << 31)]
ClassLabel = Annotated[str, Field(min_length=1, max_length=256)]

ClassName = ClassIndex | ClassLabel
ClassChoice = int | Literal["predicted"]
"""A class of a model by its index, or the one that is predicted for a clip."""

JobTag = Annotated[str, Field(min_length=1, max_length=64, pattern=ONE_LINE)]
UploadId = Annotated[str, Field(pattern=ID)]
WebhookEvent = Literal["job.succeeded", "job.failed", "job.canceled"]

OPTIONS_BY_METHOD: dict[Method, tuple[str, ...]] = {
    "rollout": ("head_fusion", "discard_ratio", "start_layer", "full_rollout"),
    "attention": ("head_fusion", "layer"),
    "gradient_rollout": ("start_layer", "target", "full_rollout"),
    "contribution_rollout": ("weighting", "start_layer", "target", "against", "full_rollout"),
    "difference": ("target", "reference"),
}
"""The options that each method uses. An option that no method names is for all of them."""

FORMER_DEFAULTS = {"weighting": "projection"}
"""Defaults of the version before, which its records name for every method.

For methods that do not use the option they mean nothing.
"""

SEVERAL_TARGETS: tuple[Method, ...] = ("contribution_rollout", "difference")
"""The methods that explain several classes in one forward."""


class Frozen(BaseModel):
    """Base of all models here: immutable, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Overlay(Frozen):
    """How the overlay video looks."""

    colormap: str = Field("plasma", max_length=64, description="Name of a matplotlib colormap.")
    opacity: float = Field(
        0.6, ge=0, le=1, description="Opacity of the heat map at its highest relevance."
    )
    layout: Layout = "overlay"
    scale: HeatScale = Field(
        "video",
        description="Which relevance gets the hottest colour: video: 99 % of the patches of the "
        "video have less; frame: the highest of each frame; absolute: 8 times the mean, so that "
        "pictures of several videos compare.",
    )
    signed: bool = Field(
        False,
        description="Also draw what speaks against the class, in blue, beside what speaks for it, "
        "in red; `colormap` is then not used. Only for maps of classes.",
    )
    contours: bool = Field(
        False,
        description="Draw lines where relevance is 0.5 and 0.8 of that of the hottest colour.",
    )
    caption: bool = Field(
        True,
        description="Write the prediction, the time and what the colours mean below the picture.",
    )
    max_height: int = Field(
        DEFAULT_OVERLAY_LINES,
        ge=MIN_OVERLAY_LINES,
        le=1 << 14,
        description="Most lines of the picture; a higher one is scaled down.",
    )


class PatchQuery(Frozen):
    """One patch of a clip. All indices count from 0."""

    clip: Index = 0
    frame: Index = Field(description="Index among the clip's sampled frames.")
    row: Index
    column: Index


class PointQuery(Frozen):
    """The patch at a point of the video, in the sampled frame nearest in time."""

    x: float = Field(ge=0, allow_inf_nan=False, description="Source pixels, as displayed.")
    y: float = Field(ge=0, allow_inf_nan=False, description="Source pixels, as displayed.")
    seconds: Seconds = Field(description="Time since the first frame of the video.")


TokenQuery = Literal["cls"] | PatchQuery
"""An output token of the model: the classification token, or a patch."""


def _query_kind(query: object) -> str:
    """Return which kind of query is meant, so that errors name only that kind's fields."""
    if isinstance(query, str):
        return "cls"
    named = query if isinstance(query, dict) else getattr(query, "__dict__", {})
    return "point" if named.keys() & PointQuery.model_fields.keys() else "patch"


def _count(value: object) -> str:
    return "several" if isinstance(value, (list, tuple)) else "one"


class _ShortForms:
    """Adds the short forms of a query to the JSON schema of requests; answers never have them."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        described = handler(schema)
        if handler.mode == "validation":
            text = {"type": "string", "pattern": JSON_PATTERN, "examples": ["3:4:5", "320:180@2.5"]}
            described["oneOf"].append(text)
        return described


Query = Annotated[
    Annotated[Literal["cls"], Tag("cls")]
    | Annotated[PatchQuery, Tag("patch")]
    | Annotated[PointQuery, Tag("point")],
    Discriminator(_query_kind),
    BeforeValidator(read_query),
    _ShortForms(),
]
Queries = Annotated[
    Annotated[Query, Tag("one")]
    | Annotated[tuple[Query, ...], Field(min_length=1, max_length=MAX_QUERIES), Tag("several")],
    Discriminator(_count),
]
Targets = Annotated[
    Annotated[ClassName, Tag("one")]
    | Annotated[tuple[ClassName, ...], Field(min_length=1, max_length=MAX_TARGETS), Tag("several")],
    Discriminator(_count),
]


class _LayerOptions(Frozen):
    """How the attention of each layer becomes relevance."""

    method: Method = Field("rollout", description="How relevance is computed.")
    weighting: Weighting | None = Field(
        None,
        description="How contribution_rollout measures a token's contribution. Default: projection "
        "with a target, else deviation.",
    )
    head_fusion: HeadFusion = Field(
        "mean", description="How rollout and attention combine the heads of a layer."
    )
    discard_ratio: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="Share of the smallest attention entries that rollout drops in each layer.",
    )
    start_layer: Index = Field(0, description="First layer that a rollout includes.")
    layer: Index | None = Field(
        None, description="Layer that attention shows. Default: the last layer."
    )
    reference: Fill = Field(
        "still",
        description="What difference compares a clip with: its mean frame at all times (still), "
        "its blurred frames, or its mean colour.",
    )


class _Subject(_LayerOptions):
    """Which class and which tokens are explained.

    Inherits `_LayerOptions` for one reason: `ClipRequest` then keeps the public order of fields.
    """

    target: Targets | None = Field(
        None,
        description="Class, by index or label, that gradient_rollout, contribution_rollout, "
        "difference and faithfulness explain; predicted is the class predicted for the clip. "
        "contribution_rollout and difference take several; the first one is drawn. Default: the "
        "predicted class; of contribution_rollout: no class.",
    )
    against: ClassName | None = Field(
        None,
        description="contribution_rollout explains why the target and not this class. Default: "
        "the mean of all classes.",
    )
    query: Queries = Field(
        "cls", description="Token to explain, or several; the first one is drawn."
    )


class MethodOptions(_LayerOptions):
    """A method and its options: all that decides how relevance is computed.

    Raises:
        ValidationError: a value is out of range, or the method does not use an option that
            differs from its default.
    """

    per_layer: bool = Field(False, description="Also return the relevance at every layer.")
    full_rollout: bool = Field(False, description="Also return the rollout of every token.")

    @model_validator(mode="before")
    @classmethod
    def _forget_former_defaults(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        method = given.get("method", "rollout")
        known = method if isinstance(method, str) else ""
        used = OPTIONS_BY_METHOD.get(known, tuple(FORMER_DEFAULTS))  # type: ignore[call-overload]
        unused = FORMER_DEFAULTS.keys() - set(used)
        return {
            name: value
            for name, value in given.items()
            if name not in unused or value != FORMER_DEFAULTS[name]
        }

    @model_validator(mode="after")
    def _check_options(self) -> Self:
        for name, field in MethodOptions.model_fields.items():
            if getattr(self, name) != field.default:
                check_option(self.method, name)
        return self


class ClipRequest(MethodOptions, _Subject):
    """What to explain of each clip, and how."""

    faithfulness: bool = Field(
        False,
        description="Also measure how the class's probability changes as patches are deleted "
        "and inserted.",
    )

    @property
    def queries(self) -> tuple[Query, ...]:
        """The tokens to explain; the first one is drawn."""
        return self.query if isinstance(self.query, tuple) else (self.query,)

    @property
    def targets(self) -> tuple[int | str, ...]:
        """The classes that are asked for; the first one is drawn."""
        if self.target is None:
            return ()
        return self.target if isinstance(self.target, tuple) else (self.target,)

    @property
    def has_targets(self) -> bool:
        """Whether the maps depend on a class."""
        return self.method == "gradient_rollout" or self.explains_classes

    @property
    def explains_classes(self) -> bool:
        """Whether the maps are those of classes, with signs, instead of tokens."""
        return self.method == "difference" or (
            self.method == "contribution_rollout" and self.target is not None
        )

    @property
    def method_options(self) -> MethodOptions:
        """The method and its options, without the other fields."""
        return MethodOptions(**{name: getattr(self, name) for name in MethodOptions.model_fields})

    @model_validator(mode="after")
    def _check_target(self) -> Self:
        if self.target is not None and not self.faithfulness:
            check_option(self.method, "target")
        if len(self.targets) > 1 and self.method not in SEVERAL_TARGETS:
            users = ", ".join(SEVERAL_TARGETS)
            raise ValueError(f"several targets are for {users}, not for {self.method}")
        if self.against is not None:
            check_option(self.method, "against")
            if self.target is None:
                raise ValueError("against needs a target")
        return self

    @model_validator(mode="after")
    def _check_explained_classes(self) -> Self:
        if self.explains_classes:
            what = "difference" if self.method == "difference" else f"{self.method} with a target"
            if self.query != "cls":
                raise ValueError(f"{what} is for the query 'cls'")
            if self.full_rollout:
                raise ValueError(f"full_rollout is not for {what}")
        return self

    @model_validator(mode="after")
    def _check_faithfulness(self) -> Self:
        if self.faithfulness and self.queries[0] != "cls":
            raise ValueError("faithfulness is measured for the query 'cls'")
        return self


class FakeScript(Frozen):
    """What the fake engine does with a job. A service with a real engine refuses it.

    The first `crash_attempts` attempts crash, and the next `hang_attempts` hang. Each other attempt
    takes `seconds`, and then fails or succeeds.
    """

    fail: FailureCode | None = Field(
        None, description="The job fails with this code. Default: it succeeds."
    )
    seconds: float = Field(0, ge=0, le=600, description="Added to the time that an attempt takes.")
    crash_attempts: int = Field(
        0, ge=0, le=100, description="Number of attempts in which the engine crashes."
    )
    hang_attempts: int = Field(
        0, ge=0, le=100, description="Number of attempts in which the engine hangs."
    )


class ExplainRequest(ClipRequest):
    """What to explain of a video, and how. Every field has a default."""

    model: ModelName | None = Field(None, description="Default: the service's default model.")
    sampling: Sampling | None = Field(None, description="Default: the sampling used in training.")
    clips: Literal["one", "tile"] = Field(
        "one", description="One clip, or consecutive clips that cover the whole span."
    )
    start_seconds: Seconds | None = Field(
        None, description="Start of the span. Default: the start of the video."
    )
    end_seconds: Seconds | None = Field(
        None, description="End of the span, exclusive. Default: the end of the video."
    )
    stream: Index | None = Field(
        None,
        description="Video stream to explain, by its index in the file. Default: the file's "
        "default one, else the largest.",
    )
    allow_incomplete: bool = Field(
        False, description="Also explain a video of which a part is missing or damaged."
    )
    overlay: Overlay | None = Field(Overlay(), description="null makes no overlay video.")
    preview: bool = Field(
        False,
        description="Also make a copy of the video for browsers and a picture of the sampled "
        "frames, both without heat.",
    )
    fake: FakeScript | None = Field(
        None, description="Only for a service that runs the fake engine: how the job goes."
    )

    @model_validator(mode="after")
    def _check_span(self) -> Self:
        start = self.start_seconds or 0
        if self.end_seconds is not None and self.end_seconds <= start:
            raise ValueError("end_seconds must be greater than start_seconds")
        return self

    @model_validator(mode="after")
    def _check_sign(self) -> Self:
        if self.overlay and self.overlay.signed and not self.explains_classes:
            raise ValueError("overlay.signed is for methods that explain a class, with a target")
        return self

    @model_validator(mode="after")
    def _check_single_clip(self) -> Self:
        for name in ("full_rollout", "faithfulness"):
            if getattr(self, name) and self.clips != "one":
                raise ValueError(f"{name} is for one clip, not for clips: {self.clips!r}")
        return self


class Webhook(Frozen):
    """Where to report the end of a job."""

    url: str = Field(max_length=2048, pattern=HTTP_URL, description="It gets a POST request.")
    events: tuple[WebhookEvent, ...] = Field(
        ("job.succeeded", "job.failed", "job.canceled"), min_length=1
    )


class JobOptions(ExplainRequest):
    """What to explain of a video, and how its job is run. Every field has a default."""

    tag: JobTag | None = Field(None, description="A text of yours, to find the job by.")
    webhook: Webhook | None = Field(None, description="Where to report the end of the job.")
    reuse: bool = Field(
        True,
        description="Answer at once with the result of an equal job of yours, if there is one.",
    )
    priority: Priority = Field(
        "normal",
        description="A job of low priority waits while others wait, for an hour at most.",
    )

    @property
    def explain_request(self) -> ExplainRequest:
        """What to explain, without how the job is run."""
        return ExplainRequest(**{name: getattr(self, name) for name in ExplainRequest.model_fields})


class JobRequest(JobOptions):
    """A job for a video that the service has, or that it fetches. One of the two is given."""

    upload: UploadId | None = Field(None, description="Id of an upload of yours.")
    video_url: str | None = Field(
        None,
        max_length=2048,
        pattern=HTTP_URL,
        description="Address from which the service fetches the video, if it allows the host.",
    )

    @model_validator(mode="after")
    def _check_video(self) -> Self:
        if (self.upload is None) == (self.video_url is None):
            raise ValueError("give either upload or video_url")
        return self


class Prediction(Frozen):
    """A class and its probability, averaged over the clips."""

    label: str
    index: int = Field(ge=0)
    probability: float = Field(ge=0, le=1)


class Artifact(Frozen):
    """One file of a result."""

    name: str
    bytes: int = Field(ge=0)
    sha256: str


class Target(Frozen):
    """The class that is explained."""

    label: str
    index: int = Field(ge=0)


class OrderScores(Frozen):
    """Areas under a class's probability curve, by the order of the patches."""

    most_first: float = Field(description="With the most relevant patch first.")
    least_first: float = Field(description="With the least relevant patch first.")
    random_mean: float = Field(description="Mean over random orders.")
    random_std: float = Field(description="Standard deviation over random orders.")


class FillFaithfulness(Frozen):
    """Scores for one way to fill deleted patches, and the curves behind them.

    A curve has `steps + 1` probabilities, with 0, 1/steps, … 1 of the patches deleted. Inserting
    in one order shows the same pictures as deleting in the reverse order.
    """

    fill: Fill
    deletion: OrderScores = Field(description="A good map has a low most_first.")
    insertion: OrderScores = Field(description="A good map has a high most_first.")
    most_first_deleted: tuple[float, ...]
    least_first_deleted: tuple[float, ...]
    random_deleted: tuple[tuple[float, ...], ...] = Field(description="One curve per random order.")


class Faithfulness(Frozen):
    """How a class's probability changes as the clip's patches are deleted and inserted."""

    target: Target
    steps: int
    forwards: int = Field(description="Clips that the model ran for this measurement.")
    fills: tuple[FillFaithfulness, ...]


class VideoWarning(Frozen):
    """Something that a reader of the result should know about the video."""

    code: str = Field(description="Stable name, such as video_incomplete.")
    detail: str


class Color(Frozen):
    """How the stored values of a video become colours, by the names that FFmpeg uses."""

    matrix: str
    primaries: str
    transfer: str
    range: Literal["limited", "full"]
    assumed: tuple[str, ...] = Field(
        (), description="Which of these fields the file does not state, or not usably."
    )


class SourceVideo(Frozen):
    """What the file says of the video that was explained, and what of it could be decoded.

    The frames are counted while the clips are read: that pass goes on to the end of the span.
    """

    container: str
    codec: str
    stream: int = Field(description="Index of the video stream in the file.")
    bytes: int = Field(ge=0)
    width: int = Field(description="Pixels as displayed.")
    height: int = Field(description="Pixels as displayed.")
    stored_width: int
    stored_height: int
    rotation: int = Field(description="Degrees counterclockwise from stored to displayed.")
    mirrored: bool = Field(description="Mirrored left to right, before the rotation.")
    pixel_aspect_ratio: float = Field(description="Width by height of a stored pixel.")
    pixel_format: str
    color: Color
    hdr: Literal["pq", "hlg"] | None
    duration_seconds: float
    promised_seconds: float | None = Field(description="Length that the container states.")
    frame_rate_hz: float
    frames_promised: int | None = Field(description="Frames that the container states.")
    frames_decoded: int = Field(description="Frames of the span that could be decoded.")


class Caption(Frozen):
    """What stands above the pictures of a result."""

    title: str = Field("", max_length=MAX_CAPTION_CHARACTERS)
    detail: str = Field("", max_length=MAX_CAPTION_CHARACTERS)


class ThumbnailSheet(Frozen):
    """Where each sampled frame is in `thumbnails.jpg`: tiles row by row, without gaps."""

    tile_width: int = Field(ge=2, description="Pixels.")
    tile_height: int = Field(ge=2, description="Pixels.")
    columns: int = Field(ge=1, description="Tiles in a row.")
    frame_index: tuple[int, ...] = Field(
        min_length=1, description="For each tile: index of its frame among those of the video."
    )


class ExplainResult(Frozen):
    """The result of a job: the content of `result.json`."""

    model: str
    checkpoint_sha256: str | None = Field(description="null for a model without a checkpoint.")
    precision: Precision | None = Field(
        None,
        description="Number format in which the model computed. null in results of older versions.",
    )
    request: ExplainRequest = Field(description="With every default filled in.")
    predictions: tuple[Prediction, ...] = Field(description="Most probable first, at most five.")
    clips: int
    frames: int = Field(description="Number of sampled frames in all clips.")
    targets: tuple[Target, ...] | None = Field(
        None,
        description="Class explained in each clip, the first one if there are several; null for "
        "methods without a class.",
    )
    target_classes: tuple[tuple[Target, ...], ...] | None = Field(
        None,
        description="For each of several targets, the class explained in each clip: the order of "
        "target_relevance in rollout.npz.",
    )
    queries: tuple[TokenQuery, ...] = Field(
        ("cls",), description="The tokens explained, with points resolved to patches."
    )
    frame_relevance: tuple[tuple[float, ...], ...] = Field(
        (),
        description="For each clip and sampled frame: its share of the clip's relevance, of which "
        "negative values count as 0.",
    )
    faithfulness: Faithfulness | None = None
    source: SourceVideo | None = Field(
        None, description="The video, as decoded. null in results of older versions."
    )
    thumbnails: ThumbnailSheet | None = Field(
        None, description="The tiles of thumbnails.jpg; null unless a preview was asked for."
    )
    warnings: tuple[VideoWarning, ...] = ()
    artifacts: tuple[Artifact, ...] = Field(description="All other files of the result.")
    timings_seconds: dict[str, float] = Field(description=TIMINGS_DESCRIPTION)
    attempt: int
    started_at: datetime
    ended_at: datetime


def default_weighting(*, has_target: bool) -> Weighting:
    """Return the weighting of contribution_rollout."""
    return "projection" if has_target else "deviation"


def check_option(method: Method, name: str) -> None:
    """Raise ValueError if only other methods use the option `name`."""
    users = [other for other, options in OPTIONS_BY_METHOD.items() if name in options]
    if users and method not in users:
        raise ValueError(f"{name} is for {', '.join(users)}, not for {method}")


def describe(path: Path) -> Artifact:
    """Return a file's name, size and digest.

    Raises:
        OSError: it is a link or another special file. Opening a pipe could block forever.
    """
    status = path.lstat()
    if not S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a plain file", path.name)
    with path.open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
    return Artifact(name=path.name, bytes=status.st_size, sha256=digest)
