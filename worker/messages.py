"""What the supervisor and its children say to each other.

Each message is small and typed; arrays travel beside it, see `worker.wire`. A class lists the
arrays that go with it. A child that fails deliberately answers anything with `Failed`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field

from rollout_core.contract import ExplainRequest, Frozen, HeadFusion, Overlay
from rollout_core.errors import RolloutError
from rollout_core.specs import ModelSpec, Sampling

CropRectangle = tuple[int, int, int, int]
"""x, y, width, height in source pixels."""

MAX_DETAIL = 10_000
"""Characters of a failure's detail."""


class EngineOptions(Frozen):
    """Which model an engine loads, and where."""

    model: str
    checkpoint: str | None = None
    device: str = "auto"
    dtype: Literal["float32", "bfloat16"] = "float32"


class MediaOptions(Frozen):
    """What a media process may use; see `worker.confine` and `rollout_core.video.Limits`."""

    memory_bytes: int = 4 * 2**30
    file_bytes: int = 4 * 2**30
    cpu_seconds: int = 3600
    max_video_seconds: float = 600.0
    max_video_pixels: int = 4096 * 2304


class AnyMessage(Frozen):
    """Base of every message; `kind` tells them apart."""

    kind: str


class Ready(AnyMessage):
    """The engine has loaded its model. Its first message."""

    kind: Literal["ready"] = "ready"
    spec: ModelSpec
    checkpoint_sha256: str | None
    device: str


class Explain(AnyMessage):
    """Explain clips. Arrays: `frames` uint8 `b t H W c`, RGB."""

    kind: Literal["explain"] = "explain"
    head_fusion: HeadFusion
    discard_ratio: float
    start_layer: int


class Explained(AnyMessage):
    """Answer to `Explain`. Arrays: `relevance` float32 `b t h w`, `logits` float32 `b k`."""

    kind: Literal["explained"] = "explained"
    seconds: float


class Open(AnyMessage):
    """Open an upload and plan its clips. Answered by `Opened`, then by one `Clip` a clip."""

    kind: Literal["open"] = "open"
    upload: str
    request: ExplainRequest
    spec: ModelSpec


class Opened(AnyMessage):
    """How the video will be sampled: the request's choices with every default filled in."""

    kind: Literal["opened"] = "opened"
    clips: int = Field(ge=1, le=100_000)
    crop: CropRectangle
    sampling: Sampling
    start_seconds: float = Field(ge=0)
    end_seconds: float = Field(ge=0)
    seconds: float


class Clip(AnyMessage):
    """One clip. Arrays: `frames` uint8 `t H W c`, `pts_seconds` float64, `frame_index` int64."""

    kind: Literal["clip"] = "clip"
    seconds: float


class Render(AnyMessage):
    """Draw the opened video's pictures. Arrays: `relevance` `clip t h w`, and two `clip t`.

    Answered by `Rendered`, time and again until it is finished.
    """

    kind: Literal["render"] = "render"
    folder: str
    overlay: Overlay | None


class Rendered(AnyMessage):
    """So many of the overlay's frames are drawn; when `finished`, every picture is."""

    kind: Literal["rendered"] = "rendered"
    done: int = Field(ge=0)
    total: int = Field(ge=0)
    seconds: float
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
    Ready | Explain | Explained | Open | Opened | Clip | Render | Rendered | Failed,
    Field(discriminator="kind"),
]
