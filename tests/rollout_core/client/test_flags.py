import argparse

import pytest

from rollout_core.client.flags import SPECIAL, add_request_flags, read_query, read_request
from rollout_core.contract import (
    FakeScript,
    JobOptions,
    Overlay,
    PatchQuery,
    PointQuery,
    Webhook,
)


def parse(*flags):
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_request_flags(parser)
    return read_request(parser.parse_args(flags))


def test_without_flags_nothing_is_set():
    assert parse().model_fields_set == set()


def test_every_field_of_a_request_has_a_flag():
    parser = argparse.ArgumentParser()
    add_request_flags(parser)
    known = {action.dest for action in parser._actions}
    assert JobOptions.model_fields.keys() - set(SPECIAL) <= known
    assert {f"overlay.{name}" for name in Overlay.model_fields} <= known
    assert {f"fake.{name}" for name in FakeScript.model_fields} <= known


def test_flags_become_a_request():
    options = parse(
        *("--model", "mine", "--method", "gradient_rollout", "--target", "left"),
        *("--start-layer", "2", "--start-seconds", "1", "--end-seconds", "2.5"),
        *("--per-layer", "--allow-incomplete", "--preview", "--no-reuse"),
        *("--tag", "a tag"),
        *("--overlay.colormap", "viridis", "--overlay.max-height", "480"),
        *("--webhook", "https://me.example/", "--webhook-event", "job.failed"),
    )
    assert options == JobOptions(
        model="mine",
        method="gradient_rollout",
        target="left",
        start_layer=2,
        start_seconds=1,
        end_seconds=2.5,
        per_layer=True,
        allow_incomplete=True,
        preview=True,
        reuse=False,
        tag="a tag",
        overlay=Overlay(colormap="viridis", max_height=480),
        webhook=Webhook(url="https://me.example/", events=("job.failed",)),
    )


def test_several_targets_are_given_one_by_one():
    options = parse("--method", "difference", "--target", "left", "--target", "3")
    assert options.target == ("left", "3")


def test_the_fake_engine_can_be_scripted():
    options = parse("--fake.fail", "video_encrypted", "--fake.seconds", "2")
    assert options.fake == FakeScript(fail="video_encrypted", seconds=2)


def test_help_of_a_flag_that_turns_off_says_so():
    parser = argparse.ArgumentParser()
    add_request_flags(parser)
    texts = {action.dest: action.help for action in parser._actions}
    assert texts["reuse"].startswith("Turn this off: ")


def test_no_overlay_is_null():
    assert parse("--no-overlay").overlay is None


@pytest.mark.parametrize(
    ("texts", "query"),
    [
        (["cls"], "cls"),
        (["3:4:5"], PatchQuery(frame=3, row=4, column=5)),
        (["2:3:4:5"], PatchQuery(clip=2, frame=3, row=4, column=5)),
        (["120:80.5@2.25"], PointQuery(x=120, y=80.5, seconds=2.25)),
        (["cls", "3:4:5"], ("cls", PatchQuery(frame=3, row=4, column=5))),
    ],
)
def test_queries_have_a_short_form(texts, query):
    assert parse(*(word for text in texts for word in ("--query", text))).query == query


@pytest.mark.parametrize("text", ["", "1:2", "a:b:c", "1:2@", "1:2:3:4:5"])
def test_other_queries_are_refused(text):
    with pytest.raises(ValueError, match=r"is not cls, \[CLIP:\]FRAME:ROW:COLUMN or"):
        read_query(text)


def test_flags_that_contradict_are_refused():
    with pytest.raises(ValueError, match="--webhook-event needs --webhook"):
        parse("--webhook-event", "job.failed")
    with pytest.raises(ValueError, match="--no-overlay does not go with"):
        parse("--no-overlay", "--overlay.opacity", "0.5")


def test_a_word_that_is_no_choice_is_refused():
    with pytest.raises(argparse.ArgumentError, match="invalid choice: 'magic'"):
        parse("--method", "magic")
