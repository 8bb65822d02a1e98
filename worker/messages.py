"""Messages between the supervisor and its child processes.

Each message is small and typed. Arrays travel beside it (see `worker.wire`); each class lists its
arrays. A child may answer every message with `Failed`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from rollout_core.contract import (
    MAX_QUERIES,
    MAX_TARGETS,
    MAX_VIDEO_PIXELS,
    MAX_VIDEO_SECONDS,
    Caption,
    ClassChoice,
    ExplainRequest,
    Faithfulness,
    Fill,
    Frozen,
    MethodOptions,
    Overlay,
    Precision,
    PrecisionChoice,
    Seconds,
    SourceVideo,
    ThumbnailSheet,
    TokenQuery,
    VideoWarning,
)
from rollout_core.errors import RolloutError
from rollout_core.model.input_settings import InputSettings
from rollout_core.model.specs import ModelSpec, Sampling

MAX_DETAIL_CHARACTERS = 10_000
MAX_WARNINGS = 20
MAX_SECONDS_LEFT = 1e9

_Offset = Annotated[int, Field(ge=0, lt=1 << 31)]
_Length = Annotated[int, Field(ge=1, lt=1 << 31)]

CropRectangle = tuple[_Offset, _Offset, _Length, _Length]
"""x, y, width and height, in source pixels."""


class EngineOptions(Frozen):
    """Which model an engine loads, and where it runs.

    Attributes:
        checkpoint_sha256: digest that the checkpoint must have, if given.
        batch_clips: most clips in one `Explain`. Default: the engine chooses.
        device: a torch device, or "auto" for the GPU if there is one.
        settings: what the operator says about the input and the classes of the checkpoint.
        dtype: the precision; "auto" measures it, see `rollout_core.relevance.precision`.
    """

    model: str
    checkpoint: str | None = None
    settings: InputSettings = InputSettings()
    checkpoint_sha256: str | None = None
    batch_clips: int | None = None
    device: str = "auto"
    dtype: PrecisionChoice = "float32"


class Confinement(Frozen):
    """The layers of a media process' sandbox that are in force, besides its resource limits.

    Attributes:
        landlock_abi: version of the kernel's Landlock; None if file access is not restricted.
        seccomp: whether system calls are restricted.
    """

    landlock_abi: int | None
    seccomp: bool

    @property
    def complete(self) -> bool:
        """Whether both files and system calls are restricted."""
        return self.landlock_abi is not None and self.seccomp

    def __str__(self) -> str:
        abi = self.landlock_abi
        files = "no Landlock here" if abi is None else f"files by Landlock ABI {abi}"
        calls = "system calls by seccomp" if self.seccomp else "no seccomp here"
        return f"memory and time by limits, {files}, {calls}"


class MediaOptions(Frozen):
    """Limits of a media process; see `worker.sandbox` and `rollout_core.video.decoder.Limits`.

    Attributes:
        confinement: the sandbox that must be active. None accepts what the machine provides.
        file_bytes: largest file that may be written.
    """

    confinement: Confinement | None = None
    memory_bytes: int = 4 * 2**30
    file_bytes: int = 4 * 2**30
    cpu_seconds: int = 3600
    max_video_seconds: float = MAX_VIDEO_SECONDS
    max_video_pixels: int = MAX_VIDEO_PIXELS


class AnyMessage(Frozen):
    """Base of all messages. `kind` identifies the class."""

    kind: str


class Ready(AnyMessage):
    """The first message of an engine: it has loaded its model.

    Attributes:
        batch_clips: most clips that it wants in one `Explain`.
        clip_seconds: measured time to explain one clip with the default options, after warm-up.
        precision: the one in which it computes.
        precision_report: the precision, and what was measured to choose it; for the log.
    """

    kind: Literal["ready"] = "ready"
    spec: ModelSpec
    checkpoint_sha256: str | None
    device: str
    batch_clips: int = Field(ge=1)
    clip_seconds: Seconds
    precision: Precision = "float32"
    precision_report: str = Field("float32", max_length=MAX_DETAIL_CHARACTERS)


class Explain(AnyMessage):
    """Explain clips. Arrays: `frames` uint8 `b t H W c`, RGB.

    Attributes:
        targets: classes to explain in each clip. Default: that of the method; see `explain_clips`.
        against: class with which contribution_rollout compares the targets.
        queries: tokens to explain; `PatchQuery.clip` counts from the start of the video.
        first_clip: index in the video of the first of these clips.
        fake: what the fake engine does instead of answering.
    """

    kind: Literal["explain"] = "explain"
    options: MethodOptions = MethodOptions()
    targets: tuple[ClassChoice, ...] = Field((), max_length=MAX_TARGETS)
    against: ClassChoice | None = None
    queries: tuple[TokenQuery, ...] = Field(("cls",), min_length=1, max_length=MAX_QUERIES)
    first_clip: int = 0
    fake: Literal["crash", "hang"] | None = None


class Explained(AnyMessage):
    """Answer to `Explain`. Arrays: those of `rollout_core.relevance.explain.Explanation`.

    `rollout_core.archive.ARRAYS` gives their dtypes and axes. Here, `clip` always comes first.
    """

    kind: Literal["explained"] = "explained"
    seconds: Seconds


class Perturb(AnyMessage):
    """Compute the probability of a class while the patches of a clip are replaced in steps.

    Arrays: `frames` uint8 `1 t H W c`; `order` int64 `p`, indices of `(t h w)`.

    Attributes:
        steps: number of equal steps from no patch to all patches.
    """

    kind: Literal["perturb"] = "perturb"
    fill: Fill
    target: int = Field(ge=0)
    steps: int = Field(ge=1)


class Perturbed(AnyMessage):
    """Answer to `Perturb`. Arrays: `probabilities` float32 `steps + 1`, none to all replaced."""

    kind: Literal["perturbed"] = "perturbed"
    seconds: Seconds


class Open(AnyMessage):
    """Open an upload and plan its clips.

    Answered by `Opened`, then by one `Clip` per clip, and by `Decoded`.

    Attributes:
        folder: folder of the attempt, the only one where the media process may write.
        seconds_left: for the whole job.
    """

    kind: Literal["open"] = "open"
    upload: str
    folder: str
    request: ExplainRequest
    spec: ModelSpec
    seconds_left: Seconds = MAX_SECONDS_LEFT


class Working(AnyMessage):
    """Heartbeat of a media process: sent right after `Open`, then at least once per second."""

    kind: Literal["working"] = "working"


class Opened(AnyMessage):
    """How the video will be sampled, with all defaults filled in.

    Arrays: `times_seconds` float64 `clip t`, the times to sample.

    Attributes:
        frames, width, height: number and size of the frames, as displayed.
        media_seconds: estimated time to decode and draw; see `worker.rehearsal.media_seconds`.
    """

    kind: Literal["opened"] = "opened"
    clips: int = Field(ge=1, le=100_000)
    crop: CropRectangle
    sampling: Sampling
    start_seconds: Seconds
    end_seconds: Seconds
    frames: _Offset = 0
    width: _Length = 1
    height: _Length = 1
    media_seconds: Seconds = 0.0


class Clip(AnyMessage):
    """One clip. Arrays: `frames` uint8 `t H W c`; `pts_seconds`, `frame_index` as in an archive."""

    kind: Literal["clip"] = "clip"


class Decoded(AnyMessage):
    """What is known of the video once its span is decoded. Follows the last `Clip`."""

    kind: Literal["decoded"] = "decoded"
    source: SourceVideo
    warnings: tuple[VideoWarning, ...] = Field((), max_length=MAX_WARNINGS)


class Render(AnyMessage):
    """Draw the pictures of the opened video, and the faithfulness plot if there is one.

    Attributes:
        caption: what stands above the sheet.
        preview: the tiles of the thumbnails; None for no thumbnails and no preview video.

    Arrays: `relevance` `clip t h w`; `pts_seconds` and `frame_index` `clip t`; unless maps are of
    classes, `temporal_rollout` `clip t t`. Answered by `Rendered`, repeatedly until one has
    `finished`.
    """

    kind: Literal["render"] = "render"
    overlay: Overlay | None
    caption: Caption = Caption()
    preview: ThumbnailSheet | None = None
    faithfulness: Faithfulness | None = None


class Rendered(AnyMessage):
    """Number of frames drawn. `finished` means that all pictures are drawn."""

    kind: Literal["rendered"] = "rendered"
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    finished: bool = False


class Failed(AnyMessage):
    """A failure from `rollout_core.errors`. The child continues to run."""

    kind: Literal["failed"] = "failed"
    code: str = Field(max_length=100)
    title: str = Field(max_length=500)
    detail: str = Field(max_length=MAX_DETAIL_CHARACTERS)

    @classmethod
    def of(cls, error: RolloutError) -> Self:
        """Return the message for an error."""
        return cls(code=error.code, title=error.title, detail=str(error)[:MAX_DETAIL_CHARACTERS])


Message = Annotated[
    Ready
    | Explain
    | Explained
    | Perturb
    | Perturbed
    | Open
    | Working
    | Opened
    | Clip
    | Decoded
    | Render
    | Rendered
    | Failed,
    Field(discriminator="kind"),
]
