from types import SimpleNamespace

import av
import pytest
from av.stream import Disposition

from rollout_core.contract import ExplainRequest
from rollout_core.errors import NoVideoStream
from rollout_core.model.specs import ModelSpec
from rollout_core.video.clips import open_clips, probe, read_clips
from rollout_core.video.coverage import Tally
from rollout_core.video.decoder import Limits
from rollout_core.video.source import describe_source
from rollout_core.video.streams import choose_stream
from tests.rollout_core import films

SPEC = ModelSpec(name="u", frames=2, sampling="uniform", clip_seconds=1, classes=2)


@pytest.fixture
def several(tmp_path):
    """Return a function that writes a film with streams of these widths and dispositions."""

    def write(*streams: tuple[int, Disposition], name: str = "film.mkv"):
        path = tmp_path / name
        with av.open(path, "w") as output:
            made = [
                output.add_stream("libx264", rate=25, width=width, height=48)
                for width, _ in streams
            ]
            for stream, (_, disposition) in zip(made, streams, strict=True):
                stream.disposition = disposition
            for stream in made:
                for index in range(3):
                    pixels = films.grey(index, stream.width, stream.height)
                    output.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
                output.mux(stream.encode(None))
        return path

    return write


NONE, DEFAULT = Disposition(0), Disposition.default


@pytest.mark.parametrize(
    ("streams", "chosen"),
    [
        ([(64, NONE), (32, DEFAULT)], 1),
        ([(32, NONE), (64, NONE)], 1),
        ([(32, DEFAULT), (64, DEFAULT), (64, DEFAULT)], 1),
        ([(64, NONE), (64, NONE)], 0),
    ],
)
def test_default_or_else_largest_stream_is_chosen(several, streams, chosen):
    found = probe(several(*streams), Limits())
    assert (found.stream, found.width) == (chosen, streams[chosen][0])


def test_request_names_a_stream(several):
    path = several((64, DEFAULT), (32, NONE))
    assert probe(path, Limits(), stream=1).width == 32
    with pytest.raises(NoVideoStream, match=r"stream 7 .* 0 \(h264, 64×48\), 1 \(h264, 32×48\)"):
        probe(path, Limits(), stream=7)


@pytest.mark.parametrize(("stream", "codes"), [(None, ["several_streams"]), (0, [])])
def test_choice_among_several_streams_is_told_unless_it_was_asked_for(several, stream, codes):
    path, request = several((64, NONE), (32, NONE)), ExplainRequest(stream=stream)
    video = open_clips(path, request, SPEC, Limits())
    tally = Tally(0.0, video.info.duration_seconds)
    list(read_clips(path, video.plan, video.crop, height=8, width=8, limits=Limits(), tally=tally))
    source, warnings = describe_source(path, video.info, request, tally)
    assert [warning.code for warning in warnings] == codes
    assert (source.stream, source.bytes) == (0, path.stat().st_size)
    assert (source.width, source.frames_decoded) == (64, 3)


@pytest.mark.parametrize("mark", [Disposition.attached_pic, Disposition.timed_thumbnails])
def test_picture_is_never_chosen(mark):
    codec = SimpleNamespace(name="h264", width=64, height=48)
    picture = SimpleNamespace(index=0, disposition=mark | DEFAULT, codec_context=codec)
    video = SimpleNamespace(index=1, disposition=NONE, codec_context=codec)
    container = SimpleNamespace(streams=SimpleNamespace(video=[picture, video]))
    assert choose_stream(container) is video
    with pytest.raises(NoVideoStream, match="stream 0 is not a video stream"):
        choose_stream(container, 0)
