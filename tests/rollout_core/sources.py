"""A description of a video, for tests that need any."""

from rollout_core.contract import Color, SourceVideo

SOURCE = SourceVideo(
    container="mov,mp4,m4a,3gp,3g2,mj2",
    codec="h264",
    stream=0,
    bytes=7,
    width=96,
    height=80,
    stored_width=96,
    stored_height=80,
    rotation=0,
    mirrored=False,
    pixel_aspect_ratio=1.0,
    pixel_format="yuv420p",
    color=Color(matrix="bt709", primaries="bt709", transfer="bt709", range="limited"),
    hdr=None,
    duration_seconds=16.0,
    promised_seconds=16.0,
    frame_rate_hz=8.0,
    frames_promised=128,
    frames_decoded=128,
)
