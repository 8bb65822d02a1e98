"""Files that are not videos, although FFmpeg may open some of them as such."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from tests.hostile.codes import CONTAINER, NO_STREAM, Entry
from tests.hostile.maker import Maker
from tests.hostile.mp4_boxes import ts_packet

ADDRESS = "http://127.0.0.1:9/film.ts"
HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n{}#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" '
    'profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet '
    'mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL>'
    '<SegmentBase indexRange="0-9"/></Representation></AdaptationSet></Period></MPD>'
)
SDP = (
    "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\n"
    "m=video 9 RTP/AVP 96\na=rtpmap:96 H264/90000\n"
)


def texts(secret: Path) -> Iterator[Entry]:
    """Yield lists of files and URLs, as they are and behind the first bytes of a container."""
    lists = _playlists(secret) | {
        "sdp": SDP,
        "rtsp": f"RTSPtextRTSP://127.0.0.1:9/film\n{ADDRESS}\n",
        "imf": f"<CompositionPlaylist xmlns='x'>{secret}</CompositionPlaylist>",
        "svg": "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><svg>&a;</svg>",
        "lavfi": "movie=/etc/passwd",
        "subtitles": "1\n00:00:00,000 --> 00:00:09,000\nno film\n",
        "words": "no video at all\n" * 100,
    }
    for name, text in lists.items():
        yield f"text-{name}", text.encode(), CONTAINER
    hls, concat = (lists[name].encode() for name in ("hls-file", "concat-absolute"))
    yield "text-hls-behind-ftyp", b"\0\0\0\x18ftyp\n" + hls, CONTAINER
    yield "text-concat-behind-ebml", b"\x1a\x45\xdf\xa3" + concat, CONTAINER
    yield "text-concat-behind-riff", b"RIFF\0\1\0\0AVI " + concat, NO_STREAM
    yield "text-hls-in-packets", ts_packet(256, hls) * 9, CONTAINER


def _playlists(secret: Path) -> dict[str, str]:
    concat = "ffconcat version 1.0\nfile '{}'\n"
    return {
        "concat-relative": concat.format("../../secret/upload/video"),
        "concat-absolute": concat.format(secret),
        "concat-protocol": concat.format(f"concat:{secret}|{secret}"),
        "concat-subfile": concat.format(f"subfile,,start,0,end,99,,:{secret}"),
        "concat-itself": concat.format("video"),
        "concat-passwords": concat.format("/etc/passwd"),
        "hls-file": HLS.format("", secret),
        "hls-file-url": HLS.format("", f"file://{secret}"),
        "hls-http": HLS.format("", ADDRESS),
        "hls-key": HLS.format(f'#EXT-X-KEY:METHOD=AES-128,URI="{secret}"\n', ADDRESS),
        "hls-map": HLS.format(f'#EXT-X-MAP:URI="{secret}"\n', secret),
        "hls-data": HLS.format("", "data:video/mp2t;base64,Rw=="),
        "hls-concat": HLS.format("", f"concat:{secret}"),
        "hls-master": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{secret}\n",
        "dash-file": DASH.format(secret),
        "dash-http": DASH.format(ADDRESS),
    }


def pictures() -> Iterator[Entry]:
    """Yield pictures: FFmpeg decodes them as videos of one frame, one of them to gigabytes."""
    for kind in ("png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"):
        file = io.BytesIO()
        Image.new("RGB", (64, 48)).save(file, kind)
        yield f"picture-{kind}", file.getvalue(), CONTAINER
    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(9_000_000))
    bomb = b"\x89PNG\r\n\x1a\n" + _png_chunk(b"IHDR", header) + _png_chunk(b"IDAT", data)
    yield "picture-bomb", bomb, CONTAINER


def _png_chunk(kind: bytes, content: bytes) -> bytes:
    crc = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def other_files() -> Iterator[Entry]:
    """Yield files that no program opens as a video."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("film.mp4", bytes(10_000_000))
    files = {
        "empty": b"",
        "one-byte": b"\0",
        "zeros": bytes(1_000_000),
        "noise": Random(0).randbytes(1_000_000),
        "zip-bomb": archive.getvalue(),
        "gzip-bomb": gzip.compress(bytes(10_000_000)),
        "program": b"\x7fELF" + bytes(1000),
        "pdf": b"%PDF-1.7\n" + bytes(1000),
        "sync-bytes": b"\x47" * 4_000_000,
    }
    for name, content in files.items():
        yield f"file-{name}", content, CONTAINER


def other_containers(maker: Maker) -> Iterator[Entry]:
    """Yield films in containers that the decoder does not support."""
    codecs = {
        "flv": "libx264",
        "nut": "libx264",
        "ogv": "libvpx",
        "mpg": "mpeg2video",
        "mxf": "mpeg2video",
        "wmv": "mpeg4",
        "h264": "libx264",
        "ivf": "libvpx",
        "y4m": "wrapped_avframe",
    }
    for suffix, codec in codecs.items():
        yield f"container-{suffix}", maker.film(f"film.{suffix}", codec=codec), CONTAINER
