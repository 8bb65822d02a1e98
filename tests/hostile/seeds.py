"""Small valid films: every container, every codec and some unusual features."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.rollout_core import films

REORDERED = {"preset": "medium", "bf": "3", "b-adapt": "0"}


def make_seeds(folder: Path) -> dict[str, bytes]:
    """Encode the films in `folder`; return their contents by name."""
    recipes: dict[str, dict[str, object]] = {
        "h264.mp4": {"options": REORDERED},
        "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}},
        "turned.mp4": {"rotation": 90, "metadata": {"title": "a film"}},
        "av1.mp4": {"codec": "libsvtav1", "width": 64, "height": 64},
        "hevc.mov": {"codec": "libx265"},
        "uneven.mkv": {"ticks": [0, 40, 100, 130, 300, 333], "time_base": Fraction(1, 1000)},
        "vp9.webm": {"codec": "libvpx-vp9"},
        "vp8.webm": {"codec": "libvpx"},
        "mpeg4.avi": {"codec": "mpeg4"},
        "h264.avi": {},
        "h264.ts": {"options": REORDERED},
        "hevc.ts": {"codec": "libx265"},
    }
    for name, recipe in recipes.items():
        films.encode(folder / name, **recipe)  # type: ignore[arg-type]
    _with_sound(folder / "sound.mp4")
    _with_sound(folder / "sound.mkv")
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def _with_sound(path: Path) -> None:
    with av.open(path, "w") as output:
        video = output.add_stream("libx264", rate=25, width=64, height=48)
        sound = output.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        for index in range(8):
            frame = av.VideoFrame.from_ndarray(films.grey(index, 64, 48))
            output.mux([*sound.encode(samples), *video.encode(frame)])
        output.mux([*sound.encode(None), *video.encode(None)])
