"""What the supervisor and its children say to each other.

Each message is small and typed; arrays travel beside it, see `worker.wire`. A class lists the
arrays that go with it. A child that fails deliberately answers anything with `Failed`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from rollout_core.contract import (
    MAX_QUERIES,
    ClipRequest,
    ExplainRequest,
    Faithfulness,
    Fill,
    Frozen,
    HeadFusion,
    Method,
    Overlay,
    Seconds,
    TokenQuery,
    Weighting,
)
from rollout_core.errors import RolloutError
from rollout_core.model.specs import ModelSpec, Sampling

_Corner = Annotated[int, Field(ge=0, lt=1 << 31)]
_Side = Annotated[int, Field(ge=1, lt=1 << 31)]

CropRectangle = tuple[_Corner, _Corner, _Side, _Side]
"""x, y, width, height in source pixels."""

MAX_DETAIL = 10_000
"""Characters of a failure's detail."""


class EngineOptions(Frozen):
    """Which model an engine loads, and where.

    Attributes:
        checkpoint_sha256: of the only checkpoint that may be loaded.
        batch_clips: how many clips to ask for at once; default: the engine's own choice.
    """

    model: str
    checkpoint: str | None = None
    checkpoint_sha256: str | None = None
    batch_clips: int | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"


class Confinement(Frozen):
    """What shuts a media process in, beside its limits.

    Attributes:
        landlock_abi: of the kernel's Landlock, or None if files are not restricted.
        seccomp: whether system calls are.
    """

    landlock_abi: int | None
    seccomp: bool

    @property
    def complete(self) -> bool:
        """Whether no layer is missing."""
        return self.landlock_abi is not None and self.seccomp

    def __str__(self) -> str:
        abi = self.landlock_abi
        files = "no Landlock here" if abi is None else f"files by Landlock ABI {abi}"
        calls = "system calls by seccomp" if self.seccomp else "no seccomp here"
        return f"memory and time by limits, {files}, {calls}"


class MediaOptions(Frozen):
    """What a media process may use; see `worker.sandbox` and `rollout_core.video.clips.Limits`.

    Attributes:
        confinement: what must be in force, or None for whatever the machine has.
    """

    confinement: Confinement | None = None
    memory_bytes: int = 4 * 2**30
    file_bytes: int = 4 * 2**30
    cpu_seconds: int = 3600
    max_video_seconds: float = 600.0
    max_video_pixels: int = 4096 * 2304


class AnyMessage(Frozen):
    """Base of every message; `kind` tells them apart."""

    kind: str


class Ready(AnyMessage):
    """The engine has loaded its model. Its first message.

    Attributes:
        batch_clips: how many clips it wants to be asked about at once.
        clip_seconds: how long it takes, once warm, to explain one clip by the plain rollout.
    """

    kind: Literal["ready"] = "ready"
    spec: ModelSpec
    checkpoint_sha256: str | None
    device: str
    batch_clips: int = Field(ge=1)
    clip_seconds: Seconds


class Explain(AnyMessage):
    """Explain clips. Arrays: `frames` uint8 `b t H W c`, RGB.

    The fields are those of a `ClipRequest`, with target and queries resolved.

    Attributes:
        first_clip: index in the video of the first of these clips; queries count from the video's.
    """

    kind: Literal["explain"] = "explain"
    method: Method = "rollout"
    weighting: Weighting = "projection"
    head_fusion: HeadFusion = "mean"
    discard_ratio: float = 0.0
    start_layer: int = 0
    layer: int | None = None
    target: int | None = None
    queries: tuple[TokenQuery, ...] = Field(("cls",), min_length=1, max_length=MAX_QUERIES)
    first_clip: int = 0
    per_layer: bool = False
    full_rollout: bool = False

    @classmethod
    def of(
        cls,
        request: ClipRequest,
        *,
        target: int | None,
        queries: tuple[TokenQuery, ...],
        first_clip: int,
    ) -> Self:
        """Ask for what a request wants of clips, from `first_clip` on."""
        same = request.model_dump(
            include=cls.model_fields.keys() & ClipRequest.model_fields.keys() - {"target"}
        )
        return cls(target=target, queries=queries, first_clip=first_clip, **same)


class Explained(AnyMessage):
    """Answer to `Explain`. Arrays: those of `relevance.explain.Explanation`, by their names.

    `query_relevance` float32 `b r t h w`, `temporal_rollout` float32 `b t t`, `logits` float32
    `b k`; where there are any, `layer_relevance` float32 `b l t h w`, `full_rollout` float16
    `b n n` and `targets` int64 `b`.
    """

    kind: Literal["explained"] = "explained"
    seconds: Seconds


class Perturb(AnyMessage):
    """Follow a class while a clip's patches are replaced, in `steps` steps of as many each.

    Arrays: `frames` uint8 `1 t H W c`, and `order` int64 `p`, indices of `(t h w)`.
    """

    kind: Literal["perturb"] = "perturb"
    fill: Fill
    target: int = Field(ge=0)
    steps: int = Field(ge=1)


class Perturbed(AnyMessage):
    """Answer to `Perturb`. Arrays: `probabilities` float32 `steps+1`, from none to all replaced."""

    kind: Literal["perturbed"] = "perturbed"
    seconds: Seconds


class Open(AnyMessage):
    """Open an upload and plan its clips. Answered by `Opened`, then by one `Clip` a clip.

    Attributes:
        folder: of the attempt; the only one in which anything may be written.
    """

    kind: Literal["open"] = "open"
    upload: str
    folder: str
    request: ExplainRequest
    spec: ModelSpec


class Working(AnyMessage):
    """Media is not hung: sent on `Open`, before a byte is read, and then at least once a second."""

    kind: Literal["working"] = "working"


class Opened(AnyMessage):
    """How the video will be sampled: the request's choices with every default filled in.

    Arrays: `times_seconds` float64 `clip t`, the moments that will be sampled.
    """

    kind: Literal["opened"] = "opened"
    clips: int = Field(ge=1, le=100_000)
    crop: CropRectangle
    sampling: Sampling
    start_seconds: Seconds
    end_seconds: Seconds
    seconds: Seconds


class Clip(AnyMessage):
    """One clip. Arrays: `frames` uint8 `t H W c`, `pts_seconds` float64, `frame_index` int64."""

    kind: Literal["clip"] = "clip"
    seconds: Seconds


class Render(AnyMessage):
    """Draw the opened video's pictures, and a plot of the faithfulness if there is one.

    Arrays: `relevance` `clip t h w`, `pts_seconds` and `frame_index` `clip t`. Answered by
    `Rendered`, time and again until it is finished.
    """

    kind: Literal["render"] = "render"
    overlay: Overlay | None
    faithfulness: Faithfulness | None = None


class Rendered(AnyMessage):
    """So many of the overlay's frames are drawn; when `finished`, every picture is."""

    kind: Literal["rendered"] = "rendered"
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    seconds: Seconds
    finished: bool


class Failed(AnyMessage):
    """A deliberate failure, as `rollout_core.errors` names it. The child goes on."""

    kind: Literal["failed"] = "failed"
    code: str = Field(max_length=100)
    title: str = Field(max_length=500)
    detail: str = Field(max_length=MAX_DETAIL)

    @classmethod
    def of(cls, error: RolloutError) -> Self:
        """Put a failure into words that cross the wire."""
        return cls(code=error.code, title=error.title, detail=str(error)[:MAX_DETAIL])


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
    | Render
    | Rendered
    | Failed,
    Field(discriminator="kind"),
]
