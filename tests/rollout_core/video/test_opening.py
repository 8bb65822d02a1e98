"""Tests show that FFmpeg gets each limit, and that without it the file would do harm."""

import av
import numpy as np
import pytest

from rollout_core.errors import (
    NoVideoStream,
    UnsupportedContainer,
    VideoTooLong,
    VideoUndecodable,
)
from rollout_core.video import decoder, opening
from rollout_core.video.decoder import Limits, open_video
from tests.rollout_core import films

LIMITS = Limits()


def frames_of(path, limits=LIMITS):
    with open_video(path, limits) as video:
        return list(video.frames())


def test_concat_script_cannot_open_another_video(film):
    secret = film("secret.mp4")
    text = secret.with_name("upload")
    text.write_text("ffconcat version 1.0\nfile secret.mp4\n")
    with av.open(text) as container:  # unprotected, this happens
        assert container.format.name == "concat"
        assert len(list(container.decode(video=0))) == 10
    with pytest.raises(UnsupportedContainer):
        frames_of(text)


def test_playlist_cannot_open_another_video(film):
    segment = film("segment.ts")
    text = segment.with_name("upload")
    text.write_text(
        "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsegment.ts\n"
        "#EXT-X-ENDLIST\n"
    )
    with pytest.raises(UnsupportedContainer):
        frames_of(text)


def test_file_name_is_not_parsed_as_a_protocol(film, monkeypatch):
    monkeypatch.chdir(film().parent)
    assert len(list(av.open("concat:film.mp4").decode(video=0))) == 10  # unprotected, this happens
    with pytest.raises(FileNotFoundError):
        frames_of("concat:film.mp4")


def test_protocol_whitelist_is_enforced_by_ffmpeg(plain_film):
    with av.open(f"file:{plain_film}", options={"protocol_whitelist": "file"}):
        pass
    with pytest.raises(av.FFmpegError):
        av.open(f"file:{plain_film}", options={"protocol_whitelist": "pipe"})


@pytest.mark.parametrize("codec", ["png", "mjpeg", "gif"])
def test_still_picture_is_refused(tmp_path, codec):
    from PIL import Image

    path = tmp_path / "upload"
    Image.new("RGB", (64, 48)).save(path, format={"mjpeg": "jpeg"}.get(codec, codec))
    with pytest.raises(UnsupportedContainer):
        frames_of(path)


@pytest.mark.parametrize("content", [b"", b"no video at all" * 100, b"\0" * 4096])
def test_garbage_is_refused(tmp_path, content):
    (tmp_path / "upload").write_bytes(content)
    with pytest.raises(UnsupportedContainer, match="known container"):
        frames_of(tmp_path / "upload")


def test_missing_file_is_not_a_video_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        frames_of(tmp_path / "gone")


def test_file_with_only_sound_is_refused(tmp_path):
    path = tmp_path / "sound.mp4"
    with av.open(path, "w") as output:
        stream = output.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        samples.sample_rate = 8000
        for packet in [*stream.encode(samples), *stream.encode(None)]:
            output.mux(packet)
    with pytest.raises(NoVideoStream):
        frames_of(path)


@pytest.mark.parametrize(("name", "codec"), [("film.avi", "mjpeg"), ("film.mkv", "ffv1")])
def test_unsupported_codec_is_refused(film, name, codec):
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    with pytest.raises(VideoUndecodable, match=codec):
        frames_of(film(name, codec=codec, pix_fmt=pix_fmt, frames=2))


def test_codec_whitelist_reaches_ffmpeg(plain_film, monkeypatch):
    monkeypatch.setattr(opening, "_codec_options", lambda limits: {"codec_whitelist": "vp9"})
    with pytest.raises(VideoUndecodable):
        frames_of(plain_film)


def test_invalid_text_in_the_metadata_is_ignored(film):
    path = film("film.mkv", metadata={"title": "ZZZZZZZZ"})
    path.write_bytes(path.read_bytes().replace(b"ZZZZZZZZ", b"\xff\xfe\xff\xfe\xff\xfe\xff\xfe"))
    with pytest.raises(UnicodeDecodeError):  # unprotected, this happens
        av.open(path)
    assert len(frames_of(path)) == 10


def test_max_pixels_reaches_ffmpeg(plain_film, monkeypatch):
    """FFmpeg itself refuses frames far beyond the limit, so they are never allocated."""
    monkeypatch.setattr(decoder.Decoder, "check_size", lambda *_: None)
    monkeypatch.setattr(opening, "CODED_SIZE_FACTOR", 1)
    with pytest.raises(VideoUndecodable):
        frames_of(plain_film, Limits(max_pixels=100))


@pytest.mark.parametrize(("most", "kept"), [(200, 3), (2, 2)])
def test_max_streams_reaches_ffmpeg(tmp_path, monkeypatch, most, kept):
    """FFmpeg opens a decoder for each stream before we can choose one; 1,000 took seconds."""
    path = tmp_path / "film.mkv"
    with av.open(path, "w") as output:
        streams = [output.add_stream("libx264", rate=25, width=64, height=48) for _ in range(3)]
        for stream in streams:
            output.mux(stream.encode(av.VideoFrame.from_ndarray(films.grey(0, 64, 48))))
            output.mux(stream.encode(None))
    monkeypatch.setattr(opening, "MAX_STREAMS", most)
    with opening._open_container(path, LIMITS) as container:
        assert len(container.streams) == kept


def test_container_is_closed(plain_film, monkeypatch):
    opened = []
    original = opening._open_container
    monkeypatch.setattr(
        opening, "_open_container", lambda *args: opened.append(original(*args)) or opened[-1]
    )
    frames_of(plain_film)
    with pytest.raises(VideoTooLong):
        frames_of(plain_film, Limits(max_frames=9))
    assert len(opened) == 2
    for container in opened:
        with pytest.raises(AssertionError, match="not open"):
            container.demux(video=0).__next__()
