from pathlib import Path

import pytest

from rollout_core.errors import CheckpointError
from rollout_core.model.json_files import read_object


def test_object_is_read_with_and_without_a_byte_order_mark(tmp_path: Path):
    for text in (b'{"a": 1}', b'\xef\xbb\xbf{"a": 1}'):
        (tmp_path / "x.json").write_bytes(text)
        assert read_object(tmp_path / "x.json") == {"a": 1}


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"[1]", "holds no JSON object"),
        (b"null", "holds no JSON object"),
        (b"{", "is not JSON"),
        (b"", "is not JSON"),
        (b"\xff\xfe\xfd", "is not JSON"),
        (b'{"id2label": {"0": "a", "0": "b"}}', "'0' appears twice"),
        (b"[" * 100_000, "is not JSON"),
    ],
)
def test_anything_else_is_refused_in_one_line(tmp_path: Path, content: bytes, complaint: str):
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(CheckpointError, match=complaint) as raised:
        read_object(tmp_path / "x.json")
    assert "\n" not in str(raised.value)
