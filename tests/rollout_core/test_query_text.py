import re

import pytest

from rollout_core.contract import ExplainRequest, PatchQuery, PointQuery
from rollout_core.query_text import JSON_PATTERN, read_query

TEXTS = {
    "3:4:5": PatchQuery(frame=3, row=4, column=5),
    "1:3:4:5": PatchQuery(clip=1, frame=3, row=4, column=5),
    "320:180@2.5": PointQuery(x=320, y=180, seconds=2.5),
    "0.5:.5@2.": PointQuery(x=0.5, y=0.5, seconds=2),
}
WRONG = [
    "",
    "1:2",
    "1:2:3:4:5",
    "-1:2:3",
    "1:2@",
    "1.2.3:4@5",
    "a:b:c",
    "3:4:5 ",
    "3:4:5\n",
    "٣:4:5",
]


@pytest.mark.parametrize(("text", "query"), TEXTS.items())
def test_short_forms_are_read(text, query):
    assert ExplainRequest(query=text).query == query
    assert ExplainRequest(query=["cls", text]).query == ("cls", query)


@pytest.mark.parametrize("text", WRONG)
def test_other_texts_are_refused_with_both_forms(text):
    with pytest.raises(ValueError, match=r"\[CLIP:\]FRAME:ROW:COLUMN .* X:Y@SECONDS"):
        read_query(text)


def test_the_pattern_of_the_schema_accepts_the_same():
    assert all(re.search(JSON_PATTERN, text) for text in TEXTS)
    assert not any(re.search(JSON_PATTERN, text.strip("\n")) for text in WRONG if "\n" not in text)


@pytest.mark.parametrize("value", ["cls", {"frame": 1}, [1], PatchQuery(frame=0, row=0, column=0)])
def test_other_forms_are_left_alone(value):
    assert read_query(value) is value
