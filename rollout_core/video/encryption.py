"""Notices encrypted videos, whose frames would be noise or nothing."""

from pathlib import Path

from rollout_core.contract import COMPLETE_SHARE
from rollout_core.errors import VideoEncrypted
from rollout_core.video.decoder import Decoder, Heartbeat
from rollout_core.video.structure import has_encrypted_track, scrambled_share

MATROSKA_TAG = "enc_key_id"
"""FFmpeg's name of the key of an encrypted Matroska track."""


def check_clear(decoder: Decoder, packets: int, path: Path, heartbeat: Heartbeat) -> None:
    """Check that a video is not encrypted, once its packets are read.

    A few encrypted packets are damage like any other, and a file may begin in the clear.

    Args:
        packets: number of packets that were read.
    Raises:
        VideoEncrypted: more packets are encrypted than may be missing.
    """
    share = decoder.encrypted / max(packets, 1)
    if decoder.container_name.startswith("matroska"):
        share = float(MATROSKA_TAG in decoder.stream.metadata or has_encrypted_track(path))
    elif decoder.container_name == "mpegts":
        share = scrambled_share(path, decoder.stream.id, heartbeat)
    if share > 1 - COMPLETE_SHARE:
        raise VideoEncrypted(f"{share:.0%} of the video's packets are encrypted")
