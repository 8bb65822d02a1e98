"""Parameters of other programs, by name and by the logits that they give."""

import logging
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rollout_core.errors import CheckpointError
from rollout_core.model.checkpoints import load_model, open_model
from rollout_core.model.parameter_names import rename_parameters
from tests.rollout_core.models import random_model

REFERENCE = Path(__file__).parents[1] / "reference"
KINDS = ["divided", "joint", "space_only"]

# Of mmaction2 1.2, from the modules that its default configuration builds.
MMACTION_LAYER = {
    "divided": {
        "temporal_norm1": "attentions.0.norm",
        "temporal_attn.qkv.": "attentions.0.attn.in_proj_",
        "temporal_attn.proj": "attentions.0.attn.out_proj",
        "temporal_fc": "attentions.0.temporal_fc",
        "norm1": "attentions.1.norm",
        "attn.qkv.": "attentions.1.attn.in_proj_",
        "attn.proj": "attentions.1.attn.out_proj",
        "norm2": "ffns.0.norm",
    },
    "joint": {
        "norm1": "norms.0",
        "attn.qkv.": "attentions.0.attn.in_proj_",
        "attn.proj": "attentions.0.attn.out_proj",
        "norm2": "norms.1",
    },
}
MMACTION_LAYER["space_only"] = MMACTION_LAYER["joint"]
MMACTION = {
    "patch_embed.proj": "backbone.patch_embed.projection",
    "head": "cls_head.fc_cls",
    "norm": "backbone.norm",
}


def reference(kind: str) -> dict[str, Tensor]:
    """Return the parameters of a small published checkpoint, without their prefix."""
    state = torch.load(REFERENCE / f"tiny_{kind}.pyth", weights_only=True)["model_state"]
    return {key.removeprefix("model."): value for key, value in state.items()}


def mmaction_name(name: str, kind: str) -> str:
    """Return mmaction2's name of a parameter."""
    if match := re.fullmatch(r"blocks\.(\d+)\.(.*)", name):
        layer = MMACTION_LAYER[kind] | {
            "mlp.fc1": "ffns.0.layers.0.0",
            "mlp.fc2": "ffns.0.layers.1",
        }
        ours = next(part for part in layer if match[2].startswith(part))
        rest = match[2].removeprefix(ours)
        return f"backbone.transformer_layers.layers.{match[1]}.{layer[ours]}{rest}"
    for ours, theirs in MMACTION.items():
        if name.startswith(f"{ours}."):
            return theirs + name.removeprefix(ours)
    return f"backbone.{name}"


def logits(path: Path, kind: str) -> tuple[Tensor, Tensor]:
    """Return the logits of the checkpoint and those of the published code, for its clips."""
    found = np.load(REFERENCE / f"tiny_{kind}.npz")
    clips, expected = torch.from_numpy(found["clips"]), torch.from_numpy(found["logits"])
    with torch.inference_mode():
        return load_model(path, num_heads=4)(clips), expected


@pytest.mark.parametrize("kind", KINDS)
def test_mmaction_checkpoint_gives_the_logits_of_the_same_parameters(kind: str, tmp_path: Path):
    state = {mmaction_name(name, kind): value for name, value in reference(kind).items()}
    assert "backbone.transformer_layers.layers.0.ffns.0.layers.0.0.weight" in state
    assert "backbone.transformer_layers.layers.2.attentions.0.attn.in_proj_bias" in state
    path = tmp_path / "mmaction.pth"
    torch.save({"meta": {"epoch": 15}, "state_dict": state, "optimizer": {}}, path)
    torch.testing.assert_close(*logits(path, kind), atol=1e-5, rtol=0)


def test_mmaction_packs_queries_keys_and_values_in_our_order():
    model = random_model()
    ours = model.layers[0].attn
    theirs = nn.MultiheadAttention(16, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.proj.weight,
            "out_proj.bias": ours.proj.bias,
        }
    )
    x = torch.randn(2, 7, 16, generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = theirs(x, x, x, need_weights=False)[0]
        torch.testing.assert_close(ours(x[:, None])[:, 0], expected)


def test_mmaction_checkpoint_is_normalised_as_its_configuration_says(tmp_path: Path):
    model = random_model(heads=2, dim=128, height=16, width=16, patch_width=8)
    state = {mmaction_name(name, "divided"): value for name, value in model.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "plain.pth")
    spec = open_model("mine", tmp_path / "plain.pth").spec
    assert (spec.mean, spec.std) == ((0.5,) * 3, (0.5,) * 3)
    meta = {"cfg": "model = dict(mean=[51, 51, 51], std=[102, 102, 102])"}
    torch.save({"meta": meta, "state_dict": state}, tmp_path / "other.pth")
    spec = open_model("mine", tmp_path / "other.pth").spec
    assert (spec.mean, spec.std) == ((0.2,) * 3, (0.4,) * 3)


@pytest.mark.parametrize(
    "prefix",
    [
        "",
        "module.",
        "_orig_mod.",
        "model.",
        "module._orig_mod.model.",
        "_orig_mod.module.",
        "net.encoder.",
        "backbone.",
        "_fsdp_wrapped_module.model.",
    ],
)
def test_prefixes_of_wrappers_and_modules_are_ignored(prefix: str):
    state = {f"{prefix}{key}": value for key, value in reference("divided").items()}
    assert rename_parameters(state).keys() == reference("divided").keys()


def test_layers_that_were_compiled_one_by_one_keep_their_names():
    state = {
        re.sub(r"blocks\.(\d)\.", r"blocks.\1._orig_mod.", key): value
        for key, value in reference("joint").items()
    }
    assert any("_orig_mod" in key for key in state)
    assert rename_parameters(state).keys() == reference("joint").keys()


@pytest.mark.parametrize("nest", ["model_state", "state_dict", "model", "module", "network", None])
@pytest.mark.parametrize("kind", KINDS)
def test_checkpoint_of_any_training_program_gives_the_published_logits(
    kind: str, nest: str | None, tmp_path: Path
):
    state = {f"module._orig_mod.model.{key}": value for key, value in reference(kind).items()}
    content = state if nest is None else {"epoch": 3, nest: state, "optimizer": {"state": {0: {}}}}
    torch.save(content, tmp_path / "x.ckpt")
    torch.testing.assert_close(*logits(tmp_path / "x.ckpt", kind), atol=1e-5, rtol=0)


def test_parameters_outside_the_model_are_left_out_with_a_warning(
    caplog: pytest.LogCaptureFixture,
):
    state = {f"model.{key}": value for key, value in reference("divided").items()}
    with caplog.at_level(logging.WARNING):
        found = rename_parameters(state | {"loss.weight": torch.ones(7)})
    assert found.keys() == reference("divided").keys()
    assert "parameters outside of model.* are left out: loss.weight" in caplog.text


def test_averaged_copy_is_not_the_model():
    state = reference("divided")
    both = {f"model.{key}": value for key, value in state.items()}
    both |= {f"model_ema.module.{key}": value + 1 for key, value in state.items()}
    assert torch.equal(rename_parameters(both)["norm.weight"], state["norm.weight"])
    alone = {f"model_ema.module.{key}": value for key, value in state.items()}
    assert rename_parameters(alone).keys() == state.keys()


def test_several_models_are_refused():
    state = reference("divided")
    both = {f"{name}.{key}": value for key, value in state.items() for name in "ab"}
    with pytest.raises(CheckpointError, match=r"several models: a\.cls_token, b\.cls_token"):
        rename_parameters(both)


def test_two_parameters_of_one_name_are_refused():
    state = reference("divided")
    with pytest.raises(CheckpointError, match=r"two parameters are named norm\.bias"):
        rename_parameters(state | {"module.norm.bias": state["norm.bias"]})


def test_value_that_is_no_tensor_is_refused():
    with pytest.raises(CheckpointError, match=r"norm\.bias is a list, not a tensor"):
        rename_parameters(reference("divided") | {"norm.bias": [1.0]})


def test_parameters_without_a_classification_token_are_refused():
    with pytest.raises(CheckpointError, match="not a TimeSformer classifier: cls_token is missing"):
        rename_parameters({"fc.weight": torch.zeros(2, 2)})
