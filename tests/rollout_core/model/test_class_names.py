from typing import Any

import pytest

from rollout_core.errors import CheckpointError
from rollout_core.model.class_names import read_class_names

PLACEHOLDERS = {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}


def names(id2label: object = None, label2id: object = None) -> tuple[str, ...] | None:
    return read_class_names({"id2label": id2label, "label2id": label2id}, classes=3)


def test_gap_between_names_is_called_by_its_number():
    assert names({"0": "walk", "2": "sit"}, PLACEHOLDERS) == ("walk", "class 1", "sit")


def test_names_may_stop_before_the_last_class():
    assert names({"1": "run"}) == ("class 0", "run")


@pytest.mark.parametrize("id2label", [None, {}, {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}])
def test_null_and_placeholders_name_no_class(id2label: object):
    assert names(id2label, PLACEHOLDERS) is None
    assert read_class_names({}, classes=3) is None


def test_placeholder_of_one_class_is_no_name():
    assert names({"0": "LABEL_0", "1": "run"}) == ("class 0", "run")


def test_names_are_ordered_by_number_and_not_by_text():
    config = {"id2label": {str(index): f"name {index}" for index in (10, 2, 1, 0)}}
    found = read_class_names(config, classes=11)
    assert found is not None
    assert (found[2], found[9], found[10]) == ("name 2", "class 9", "name 10")


def test_label2id_counts_if_there_is_no_id2label():
    assert names(None, {"sit": 2, "walk": "0"}) == ("walk", "class 1", "sit")


def test_maps_that_agree_are_accepted():
    assert names({"0": "a", "1": "b"}, {"a": 0}) == ("a", "b")


def test_two_classes_may_share_a_name():
    assert names({"0": "crane", "1": "crane"}, {"crane": 1}) == ("crane", "crane")


@pytest.mark.parametrize(
    ("id2label", "label2id", "complaint"),
    [
        (["walk", "run", "sit"], None, "id2label is a list, not a map"),
        ("walk", None, "id2label is a str"),
        (3, None, "id2label is a int"),
        ({"-1": "walk"}, None, "the class index '-1'"),
        ({"one": "walk"}, None, "the class index 'one'"),
        ({"1.0": "walk"}, None, "the class index '1.0'"),
        ({"01": "walk"}, None, "the class index '01'"),
        ({" 1": "walk"}, None, "the class index ' 1'"),
        ({"١": "walk"}, None, "the class index '١'"),
        ({"9" * 30: "walk"}, None, "the class index '999"),
        ({"3": "lie"}, None, "name class 3, but the model has 3 classes"),
        ({"0": 7}, None, "class 0 the name 7"),
        ({"0": None}, None, "class 0 the name None"),
        ({"0": ["a"]}, None, "class 0 the name"),
        ({"0": " "}, None, "class 0 the name ' '"),
        (None, ["walk"], "label2id is a list"),
        (None, {"walk": 0, "run": 0}, "gives class 0 two names"),
        (None, {"walk": True}, "label2id has the class index True"),
        (None, {"walk": 1.0}, "label2id has the class index 1.0"),
        (None, {"walk": -1}, "label2id has the class index -1"),
        (None, {"lie": 3}, "name class 3"),
        ({"0": "a", "1": "b"}, {"a": 1, "b": 0}, "calls class 1 'b', but label2id 'a'"),
        ({"0": "a"}, {"b": 2}, "calls class 2 None, but label2id 'b'"),
    ],
)
def test_what_maps_no_indices_to_names_is_refused(id2label: Any, label2id: Any, complaint: str):
    with pytest.raises(CheckpointError, match=complaint) as raised:
        names(id2label, label2id)
    assert "\n" not in str(raised.value)
