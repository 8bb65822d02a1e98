"""Decoding against a full decode, and drawing against a bare re-encode."""

from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import av
import numpy as np
from numpy.typing import NDArray

from rollout_core.contract import OVERLAY_NAME, ExplainRequest, Overlay, ThumbnailSheet
from rollout_core.model.specs import spec_of
from rollout_core.pictures.render import render
from rollout_core.video.clips import Limits, crop_of, open_clips, read_clips
from tests.benchmarks.suite.films import SIZES, Size, make_film
from tests.benchmarks.suite.floors import decode_all, decode_by_seeking, reencode
from tests.benchmarks.suite.section import Row, Scale, Section, Settings, Table
from tests.benchmarks.suite.timing import Call, Timing, interleaved

SECONDS: dict[Scale, dict[str, float]] = {
    "full": {"360p": 10, "720p": 10, "1080p": 6, "4K": 2},
    "quick": {"720p": 3},
    "tiny": {"tiny": 1},
}
"""Size → length of its film."""

TINY_SIZE = Size(160, 96)
SPEC = spec_of("timesformer-k400")
REQUEST = ExplainRequest(sampling="uniform")
GRID = 14
COLD_COLUMNS = 5
"""Columns of the heat map, from the left, that have no relevance at all."""

LIMITS = Limits(max_pixels=1 << 28)


class Film(NamedTuple):
    """A source, the folder of its pictures, and what `render` needs to draw them."""

    source: Path
    folder: Path
    drawn: dict[str, Any]

    @property
    def bare(self) -> Path:
        """The source, encoded again."""
        return self.folder / "bare.mp4"


def run(settings: Settings) -> Section:
    """Compare everything for each size."""
    decoding, drawing, quality = [], [], []
    figures = {}
    with TemporaryDirectory() as name:
        for size, seconds in SECONDS[settings.scale].items():
            folder = Path(name) / size
            folder.mkdir()
            film = open_film(folder, SIZES.get(size, TINY_SIZE), seconds)
            found = interleaved(passes(film), settings.rounds)
            about = {"size": size, "seconds": seconds}
            decoding.append(about | decoding_row(found))
            drawing.append(about | drawing_row(found))
            quality.append(about | quality_row(film))
            figures[f"{size}: overlay / re-encode"] = found["overlay"].over(found["re-encode"])
            figures[f"{size}: bytes / re-encode"] = quality[-1]["bytes / re-encode"]
    return Section(
        tables=[
            Table("Decoding 8 frames, spread over the length of a film", decoding),
            Table("Drawing the pictures of a result", drawing),
            Table("Bytes of the overlay, and its quality where there is no heat", quality),
        ],
        figures=figures,
        notes=[
            "Films of moving objects with grain, H.264, 25 frames a second, a key frame every two "
            "seconds. Baselines: FFmpeg's full decode, with threads as it likes; and a bare "
            "re-encode with libx264's veryfast preset, decoding included.",
            "Sampled: `open_clips` and `read_clips` for a model of 224×224. Seeking: decode from "
            "the key frame before each sample where that is shorter; no checks, no conversion.",
            "PSNR is of the luma where the heat is 0, against the source; the bare re-encode's is "
            "of the same part. An overlay of 4K has 1080 lines, so it cannot be compared.",
        ],
    )


def open_film(folder: Path, size: Size, seconds: float) -> Film:
    """Make a film, and a map to draw over it."""
    source = make_film(folder / "source.mp4", size, seconds)
    info = open_clips(source, REQUEST, SPEC, LIMITS).info
    index = np.linspace(0, info.frames - 1, SPEC.frames).astype(np.int64)[None]
    drawn = {
        "pts_seconds": index / info.frame_rate_hz,
        "frame_index": index,
        "relevance": relevance(),
        "crop": crop_of(info, height=SPEC.height, width=SPEC.width),
        "frames": info.frames,
    }
    return Film(source, folder, drawn)


def relevance() -> NDArray[np.float32]:
    """Return a map with two hot spots that move, over noise, and none at its left: `1 t h w`."""
    random = np.random.default_rng(1)
    t, row, column = np.mgrid[: SPEC.frames, :GRID, :GRID].astype(np.float32)
    hot = np.exp(-((row - 4 - 0.5 * t) ** 2 + (column - 9) ** 2) / 4)
    warm = 0.5 * np.exp(-((row - 10) ** 2 + (column - 12 + 0.4 * t) ** 2) / 4)
    maps = hot + warm + 0.1 * random.exponential(size=hot.shape)
    maps[:, :, :COLD_COLUMNS] = 0
    return maps[None].astype(np.float32)


def passes(film: Film) -> dict[str, Call]:
    """Return everything that is timed."""
    sampled = film.drawn["pts_seconds"].ravel().tolist()
    return {
        "full decode": partial(decode_all, film.source),
        "sampled": partial(sample, film.source),
        "seeking": partial(decode_by_seeking, film.source, sampled),
        "re-encode": partial(reencode, film.source, film.bare),
        "sheet": partial(draw, film),
        "overlay": partial(draw, film, overlay=Overlay()),
        "preview": partial(draw, film, preview=True),
        "both": partial(draw, film, overlay=Overlay(), preview=True),
    }


def sample(source: Path) -> None:
    """Open a film and read its clip."""
    opened = open_clips(source, REQUEST, SPEC, LIMITS)
    size = {"height": SPEC.height, "width": SPEC.width}
    for _ in read_clips(source, opened.plan, opened.crop, **size, limits=LIMITS):
        pass


def draw(film: Film, *, overlay: Overlay | None = None, preview: bool = False) -> None:
    """Draw the sheet, and the videos that are asked for."""
    indices = tuple(film.drawn["frame_index"].ravel().tolist())
    tiles = ThumbnailSheet(tile_width=160, tile_height=90, columns=8, frame_index=indices)
    render(
        film.source,
        **film.drawn,
        overlay=overlay,
        preview=tiles if preview else None,
        folder=film.folder,
        limits=LIMITS,
        progress=lambda done, total: None,
    )


def decoding_row(found: dict[str, Timing]) -> Row:
    """Return the ratios of decoding."""
    full = found["full decode"]
    return {
        "full decode, s": full.seconds,
        "sampled / full": found["sampled"].over(full),
        "sampled / full, CPU": found["sampled"].cpu_over(full),
        "seeking / full": found["seeking"].over(full),
        "seeking / full, CPU": found["seeking"].cpu_over(full),
    }


def drawing_row(found: dict[str, Timing]) -> Row:
    """Return the ratios of drawing."""
    bare = found["re-encode"]
    drawn = ("sheet", "overlay", "preview", "both")
    return {
        "re-encode, s": bare.seconds,
        **{f"{name} / re-encode": found[name].over(bare) for name in drawn},
        "overlay / re-encode, CPU": found["overlay"].cpu_over(bare),
    }


def quality_row(film: Film) -> Row:
    """Return bytes and quality of the overlay and of the bare re-encode."""
    overlay = film.folder / OVERLAY_NAME
    source_bytes, bare_bytes, bytes_ = (
        path.stat().st_size for path in (film.source, film.bare, overlay)
    )
    return {
        "source, MB": source_bytes / 1e6,
        "bytes / source": bytes_ / source_bytes,
        "bytes / re-encode": bytes_ / bare_bytes,
        "overlay, dB": psnr(film, overlay),
        "re-encode, dB": psnr(film, film.bare),
    }


def psnr(film: Film, path: Path) -> float | None:
    """Return the quality of a video's luma where there is no heat, in dB; None if it is scaled."""
    crop = film.drawn["crop"]
    margin = crop.width // GRID  # the heat map is smooth, so it reaches over its edge
    columns = slice(crop.x + margin, crop.x + (COLD_COLUMNS - 1) * margin)
    rows = slice(crop.y + margin, crop.y + crop.height - margin)
    errors = []
    with av.open(film.source) as left, av.open(path) as right:
        for pair in zip(left.decode(video=0), right.decode(video=0), strict=True):
            if len({frame.width for frame in pair}) > 1:
                return None
            ours, theirs = (frame.to_ndarray()[rows, columns].astype(float) for frame in pair)
            errors.append(np.mean((ours - theirs) ** 2))
    return float(10 * np.log10(255**2 / np.mean(errors)))
