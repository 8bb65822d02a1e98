"""What a result tells of the video that was explained."""

from pathlib import Path

from rollout_core.contract import ExplainRequest, SourceVideo, VideoWarning
from rollout_core.video.clips import VideoInfo
from rollout_core.video.coverage import Coverage, Tally

SEVERAL_STREAMS = "several_streams"


def describe_source(
    path: Path, info: VideoInfo, request: ExplainRequest, tally: Tally
) -> tuple[SourceVideo, tuple[VideoWarning, ...]]:
    """Return the facts of a video and the warnings for its reader, once its clips are read.

    Args:
        tally: of the pass over the frames of the span, complete.
    Raises:
        VideoIncomplete: less of the span than `COMPLETE_SHARE` could be decoded.
    """
    coverage = Coverage.of(info.timeline, request, damaged=tally.damaged, frames=tally.frames)
    warnings = coverage.check(allow_incomplete=request.allow_incomplete)
    if info.streams is not None and request.stream is None:
        detail = f"stream {info.stream} was explained; the video streams are {info.streams}"
        warnings += (VideoWarning(code=SEVERAL_STREAMS, detail=detail),)
    display, timeline = info.display, info.timeline
    source = SourceVideo(
        container=info.container,
        codec=info.codec,
        stream=info.stream,
        bytes=path.stat().st_size,
        width=info.width,
        height=info.height,
        stored_width=display.stored_size[0],
        stored_height=display.stored_size[1],
        rotation=display.rotation,
        mirrored=display.mirrored,
        pixel_aspect_ratio=display.pixel_aspect_ratio,
        pixel_format=display.pixel_format,
        color=display.color,
        hdr=display.hdr,
        duration_seconds=timeline.duration_seconds,
        promised_seconds=timeline.promised_seconds,
        frame_rate_hz=info.frame_rate_hz,
        frames_promised=timeline.frames_promised,
        frames_decoded=tally.frames,
    )
    return source, (*warnings, *display.warnings)
