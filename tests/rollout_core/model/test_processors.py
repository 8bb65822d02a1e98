"""What a processor's file says, compared with what transformers makes of the same file."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    TimesformerVideoProcessor,
    VideoMAEImageProcessor,
    VivitImageProcessor,
)

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoints import open_model
from rollout_core.model.processors import input_of, read_processor
from rollout_core.model.specs import ModelSpec
from rollout_core.relevance.explain import prepare_clips
from rollout_core.video.clips import VideoInfo, crop_of, resize
from rollout_core.video.geometry import Box

SMALL = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
SQUASHED = {"do_center_crop": False, "size": {"height": 32, "width": 32}}

SETTINGS: dict[str, dict[str, Any]] = {
    "imagenet": SMALL,
    "mean and std": SMALL | {"image_mean": [0.1, 0.2, 0.3], "image_std": [0.4, 0.5, 0.6]},
    "one mean for all channels": SMALL | {"image_mean": [0.5] * 3, "image_std": [0.25] * 3},
    "no normalisation": SMALL | {"do_normalize": False},
    "no rescaling": SMALL
    | {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
    "neither": SMALL | {"do_rescale": False, "do_normalize": False},
    "another factor": SMALL | {"rescale_factor": 1 / 127.5},
    "crop of a larger frame": SMALL | {"size": {"shortest_edge": 40}},
    "squashed": SQUASHED,
    "crop of a squashed frame": SMALL | {"size": {"height": 40, "width": 40}},
    "bicubic": SMALL | {"resample": 3},
    "lanczos": SMALL | {"resample": 1},
    "another input size": {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}},
    "grey allowed": SMALL | {"do_convert_rgb": False},
    "sampling is off": SMALL | {"num_frames": 4, "fps": None},
}
FRAME_SIZES = [(180, 321), (321, 180), (200, 200), (99, 270)]


def smooth_frames(height: int, width: int, t: int = 4) -> NDArray[np.uint8]:
    """Return RGB frames, `t H W c`, of two waves in each direction at most."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    waves = [
        np.sin(2 * np.pi * ((1 + channel / 2) * x + y / (1 + channel)) + frame)
        for frame in range(t)
        for channel in range(3)
    ]
    values = np.stack(waves).reshape(t, 3, height, width).transpose(0, 2, 3, 1)
    return np.asarray(np.round(127.5 + 60 * values), np.uint8)


def model_folder(folder: Path) -> TimesformerForVideoClassification:
    """Save a small model of 32×32 pixels, without a processor, and return it."""
    torch.manual_seed(0)
    config = TimesformerConfig(
        image_size=32,
        patch_size=16,
        num_frames=4,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=3,
    )
    model = TimesformerForVideoClassification(config).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return model


def prepared(spec: ModelSpec, frames: NDArray[np.uint8]) -> Tensor:
    """Return what the model is fed for decoded frames, `1 c t H W`."""
    _, height, width, _ = frames.shape
    info = cast(VideoInfo, SimpleNamespace(width=width, height=height))
    crop = crop_of(
        info, height=spec.height, width=spec.width, stretch=spec.stretch, share=spec.crop_share
    )
    seen = Box(*crop).slices
    scaled = [
        resize(frame[seen], height=spec.height, width=spec.width, resample=spec.resample)
        for frame in frames
    ]
    return prepare_clips(
        np.stack(scaled)[None], spec, device=torch.device("cpu"), dtype=torch.float32
    )


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS.keys())
def test_model_is_fed_what_transformers_would_feed_it(settings: dict[str, Any], tmp_path: Path):
    theirs = model_folder(tmp_path)
    TimesformerVideoProcessor(**settings).save_pretrained(tmp_path)
    processor = TimesformerVideoProcessor.from_pretrained(tmp_path)
    loaded = open_model("mine", tmp_path)

    std = torch.tensor(loaded.spec.std).reshape(1, 3, 1, 1, 1)
    for size in FRAME_SIZES:
        frames = smooth_frames(*size)
        expected = processor(list(frames), return_tensors="pt")["pixel_values"].float()
        found = prepared(loaded.spec, frames)
        assert found.shape == expected.transpose(1, 2).shape

        # Both round to whole bytes, and they may place the crop half a pixel of the input apart.
        # There the steepest wave rises by 60 · 2π · 2 / 32 = 24 levels a pixel.
        levels = (found - expected.transpose(1, 2)).abs() * std * 255
        assert levels.max() <= 13
        assert levels.mean() <= 3
        with torch.inference_mode():
            logits = loaded.model(found)
            same_input = loaded.model(expected.transpose(1, 2))
            torch.testing.assert_close(same_input, theirs(expected).logits, atol=1e-4, rtol=1e-4)
        assert (logits - same_input).norm() <= 0.05 * same_input.norm()


@pytest.mark.parametrize("settings", [SMALL, SETTINGS["bicubic"], SETTINGS["no rescaling"]])
def test_frames_of_the_input_size_are_normalised_exactly(settings: dict[str, Any], tmp_path: Path):
    model_folder(tmp_path)
    TimesformerVideoProcessor(**settings).save_pretrained(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    expected = TimesformerVideoProcessor.from_pretrained(tmp_path)(
        list(frames), return_tensors="pt"
    )["pixel_values"]
    found = prepared(open_model("mine", tmp_path).spec, frames)
    torch.testing.assert_close(found, expected.transpose(1, 2), atol=1e-5, rtol=1e-5)


def test_image_processor_of_transformers_4_is_read(tmp_path: Path):
    model_folder(tmp_path)
    VideoMAEImageProcessor(**SMALL, image_mean=[0.45] * 3).save_pretrained(tmp_path)
    assert open_model("mine", tmp_path).spec.mean == (0.45,) * 3
    assert open_model("mine", tmp_path).spec.std == (0.5,) * 3


def test_offset_is_part_of_the_mean(tmp_path: Path):
    processor = VivitImageProcessor(
        size={"height": 32, "width": 32},
        do_center_crop=False,
        rescale_factor=1 / 127.5,
        offset=True,
        do_normalize=False,
    )
    frames = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    expected = torch.tensor(np.array(processor(list(frames))["pixel_values"]))
    fields = input_of("x", json.loads(processor.to_json_string()) | {"image_mean": [0.0] * 3})
    spec = open_model("moving-things").spec.model_copy(update=fields)
    found = prepared(spec, frames).transpose(1, 2)
    torch.testing.assert_close(found, expected.float().reshape(found.shape), atol=1e-5, rtol=1e-5)


def test_reversed_channels_are_honoured():
    assert input_of("x", SMALL | STATED | {"do_flip_channel_order": True})["channel_order"] == "BGR"


STATED = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"do_resize": False}, "do_resize is False"),
        ({"do_center_crop": False}, "size is .*each video gets another input size"),
        ({"size": {"shortest_edge": 16}}, "crop_size is .* larger than the scaled frame"),
        ({"size": {"shortest_edge": 32, "longest_edge": 64}}, "size is .* only shortest_edge, or"),
        ({"size": {"max_height": 32, "max_width": 32}}, "size is .* only shortest_edge, or"),
        ({"size": {"height": 32}}, "size is .* only shortest_edge, or"),
        ({"size": {"shortest_edge": "32"}}, "size is .* whole numbers"),
        ({"size": {"shortest_edge": 0}}, "size is .* whole numbers"),
        ({"size": {"shortest_edge": 32.5}}, "size is .* whole numbers"),
        ({"size": {"shortest_edge": 10**6}}, "size is .* whole numbers"),
        ({"size": "large"}, "size is 'large'; it is no size"),
        ({"size": {"height": 40, "width": 64}}, "size is .* another shape"),
        ({"crop_size": {"height": 16, "width": 32}}, "crop_size is .* only a square input"),
        ({"crop_size": {"shortest_edge": 32}}, "crop_size is .* needs a height and a width"),
        ({"resample": 6}, "resample is 6"),
        ({"resample": "bilinear"}, "resample is 'bilinear'"),
        ({"resample": True}, "resample is True"),
        ({"rescale_factor": 0}, "rescale_factor is 0"),
        ({"rescale_factor": -1}, "rescale_factor is -1"),
        ({"rescale_factor": float("inf")}, "rescale_factor is inf"),
        ({"rescale_factor": "1/255"}, "rescale_factor is '1/255'"),
        ({"image_mean": [0.5, 0.5]}, "image_mean is .* three channels"),
        ({"image_mean": [0.5, None, 0.5]}, "image_mean is .* no number"),
        ({"image_mean": [float("nan")] * 3}, "image_mean is .* not finite"),
        ({"image_std": [0.5, 0, 0.5]}, "image_std is .* positive"),
        ({"do_normalize": "yes"}, "do_normalize is 'yes'"),
        ({"do_sample_frames": True, "num_frames": 4}, "do_sample_frames is True"),
        ({"do_pad": True}, "do_pad is True; this setting is not known"),
        ({"crop_pct": 0.9}, "crop_pct is 0.9"),
        ({"size_divisor": 32}, "size_divisor is 32"),
        ({"auto_map": {"AutoVideoProcessor": "x.Y"}}, "auto_map is"),
        ({"data_format": "channels_last"}, "data_format is 'channels_last'"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(change: dict[str, Any], complaint: str):
    with pytest.raises(CheckpointError, match=f"^file.json: {complaint}") as raised:
        input_of("file.json", SMALL | STATED | change)
    assert "\n" not in str(raised.value)


def test_steps_that_are_off_need_no_values():
    settings = SMALL | {"do_normalize": False, "image_mean": None, "do_pad": False, "new": False}
    assert input_of("x", settings)["std"] == (1.0, 1.0, 1.0)


def test_whole_numbers_are_the_shortest_edge_and_a_square_crop():
    fields = input_of("x", STATED | {"size": 40, "crop_size": 32})
    assert (fields["height"], fields["stretch"], fields["crop_share"]) == (32, False, 0.8)
    fields = input_of("x", STATED | {"size": 40, "crop_size": 32, "default_to_square": True})
    assert (fields["height"], fields["stretch"], fields["crop_share"]) == (32, True, 0.8)
    fields = input_of("x", STATED | {"size": [32, 32], "do_center_crop": False})
    assert (fields["height"], fields["stretch"], fields["crop_share"]) == (32, True, 1.0)


def test_defaults_are_those_of_the_processors_type():
    kinds = {"TimesformerVideoProcessor": 0.485, "VideoMAEFeatureExtractor": 0.5}
    for kind, mean in kinds.items():
        assert input_of("x", SMALL | {"video_processor_type": kind})["mean"][0] == mean
    with pytest.raises(CheckpointError, match="x does not state image_mean"):
        input_of("x", SMALL)


def test_processor_of_another_type_must_state_everything():
    whole = json.loads(TimesformerVideoProcessor(**SMALL).to_json_string())
    fields = input_of("x", whole)
    assert input_of("x", whole | {"video_processor_type": "OtherProcessor"}) == fields
    for name in ("image_std", "resample", "do_rescale", "do_center_crop"):
        part = {key: value for key, value in whole.items() if key != name}
        with pytest.raises(CheckpointError, match=f"x does not state {name}"):
            input_of("x", part | {"video_processor_type": "OtherProcessor"})


def write(folder: Path, name: str, content: object) -> None:
    (folder / name).write_text(json.dumps(content))


def test_first_file_counts_and_a_difference_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    def settings(mean: float) -> dict[str, Any]:
        return SMALL | STATED | {"image_mean": [mean] * 3}

    assert read_processor(tmp_path) == {}
    for name, content, mean in (
        ("preprocessor_config.json", settings(0.1), 0.1),
        ("processor_config.json", {"image_processor": settings(0.2)}, 0.2),
        ("video_preprocessor_config.json", settings(0.3), 0.3),
        ("processor_config.json", {"video_processor": settings(0.4)}, 0.4),
    ):
        write(tmp_path, name, content)
        with caplog.at_level(logging.WARNING):
            assert read_processor(tmp_path)["mean"] == (mean,) * 3
    assert (
        "video_processor in processor_config.json and preprocessor_config.json disagree: "
        "video_processor in processor_config.json counts"
    ) in caplog.messages


def test_files_that_agree_are_not_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for name in ("preprocessor_config.json", "video_preprocessor_config.json"):
        write(tmp_path, name, SMALL | STATED)
    with caplog.at_level(logging.WARNING):
        read_processor(tmp_path)
    assert caplog.messages == []


def test_second_file_that_cannot_be_honoured_is_a_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    write(tmp_path, "video_preprocessor_config.json", SMALL | STATED)
    write(tmp_path, "preprocessor_config.json", SMALL | STATED | {"do_pad": True})
    with caplog.at_level(logging.WARNING):
        read_processor(tmp_path)
    assert "disagree" in caplog.text


@pytest.mark.parametrize("content", ["[]", "{", "null"])
def test_malformed_file_is_refused(tmp_path: Path, content: str):
    (tmp_path / "preprocessor_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json"):
        read_processor(tmp_path)


def test_known_name_gives_way_to_the_processor_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    config = TimesformerConfig(
        image_size=224, num_labels=400, hidden_size=64, num_attention_heads=1, intermediate_size=8
    )
    config.num_hidden_layers = 1
    TimesformerForVideoClassification(config).save_pretrained(tmp_path)
    TimesformerVideoProcessor().save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        spec = open_model("timesformer-k400", tmp_path).spec
    assert spec.mean == (0.485, 0.456, 0.406)
    assert (spec.stride, spec.label(0)) == (32, "abseiling")
    assert "timesformer-k400: the checkpoint sets mean to (0.485" in caplog.text
