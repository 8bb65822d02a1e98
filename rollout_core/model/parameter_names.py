"""From the parameter names of other programs to those of `TimeSformer`.

Wrappers of training programs put words into each name, and a surrounding module puts its own
before it. Three programs name the parameters themselves: the published code, transformers and
mmaction2.
"""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from rollout_core.errors import CheckpointError

StateDict = dict[str, Tensor]

WRAPPERS = frozenset(
    ("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module")
)
"""Parts of a name that come from a wrapper: data-parallel training, `torch.compile` and others."""

NAMED_KEYS = 6
"""An error message lists at most this many parameter names of each kind."""

_Rules = tuple[tuple[str, str], ...]

_TRANSFORMERS: _Rules = (
    (r"^timesformer\.embeddings\.cls_token$", "cls_token"),
    (r"^timesformer\.embeddings\.position_embeddings$", "pos_embed"),
    (r"^timesformer\.embeddings\.time_embeddings$", "time_embed"),
    (r"^timesformer\.embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^timesformer\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"^timesformer\.encoder\.layer\.(\d+)\.", r"blocks.\1."),
    (r"\.temporal_attention\.attention\.qkv\.", ".temporal_attn.qkv."),
    (r"\.temporal_attention\.output\.dense\.", ".temporal_attn.proj."),
    (r"\.temporal_layernorm\.", ".temporal_norm1."),
    (r"\.temporal_dense\.", ".temporal_fc."),
    (r"\.attention\.attention\.qkv\.", ".attn.qkv."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"(\.\d+)\.output\.dense\.", r"\1.mlp.fc2."),
)

# Divided attention has its time attention first, and a norm inside each attention and MLP.
# Otherwise a layer has one attention, and lists its two norms beside it. The packed projection of
# torch.nn.MultiheadAttention has the rows of queries, keys and values in the order of `qkv`.
_MMACTION: _Rules = (
    (r"^backbone\.", ""),
    (r"^cls_head\.fc_cls\.", "head."),
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^transformer_layers\.layers\.(\d+)\.", r"blocks.\1."),
    (r"\.in_proj_(weight|bias)$", r".qkv.\1"),
    (r"\.out_proj\.", ".proj."),
    (r"\.ffns\.0\.norm\.", ".norm2."),
    (r"\.ffns\.0\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffns\.0\.layers\.1\.", ".mlp.fc2."),
)
_MMACTION_DIVIDED: _Rules = (
    (r"\.attentions\.0\.norm\.", ".temporal_norm1."),
    (r"\.attentions\.0\.attn\.", ".temporal_attn."),
    (r"\.attentions\.0\.temporal_fc\.", ".temporal_fc."),
    (r"\.attentions\.1\.norm\.", ".norm1."),
    (r"\.attentions\.1\.attn\.", ".attn."),
)
_MMACTION_SINGLE: _Rules = (
    (r"\.attentions\.0\.attn\.", ".attn."),
    (r"\.norms\.0\.", ".norm1."),
    (r"\.norms\.1\.", ".norm2."),
)

_PARENTS = {
    _TRANSFORMERS: "timesformer.embeddings.",
    _MMACTION + _MMACTION_DIVIDED: "backbone.",
    _MMACTION + _MMACTION_SINGLE: "backbone.",
}
"""What stands before `cls_token` in the names that these rules know."""

log = logging.getLogger(__name__)


def is_state_dict(content: object) -> bool:
    """Whether `content` maps names to tensors and has a classification token among them."""
    return isinstance(content, Mapping) and bool(cls_tokens(content))


def cls_tokens(content: Mapping[Any, object]) -> list[str]:
    """Return the keys of classification tokens: one for each model."""
    return [
        key
        for key, value in content.items()
        if isinstance(key, str) and key.split(".")[-1] == "cls_token" and isinstance(value, Tensor)
    ]


def is_mmaction(names: Iterable[str]) -> bool:
    """Whether mmaction2 wrote a state_dict with these names."""
    return any("transformer_layers.layers." in name for name in names)


def rename_parameters(state_dict: Mapping[str, object]) -> StateDict:
    """Return the parameters of the one model in `state_dict`, under the names of `TimeSformer`.

    Names outside this model, such as those of a loss function, are left out with a warning.

    Raises:
        CheckpointError: there are several models, two parameters get one name, or a value is not a
            tensor.
    """
    plain = _unwrapped(state_dict)
    cls_token, rules = _cls_token(plain), _rules(plain)
    prefix = cls_token.removesuffix("cls_token").removesuffix(_PARENTS.get(rules, ""))
    if outside := sorted(key for key in plain if not key.startswith(prefix)):
        log.warning("parameters outside of %s* are left out: %s", prefix, first_few(outside))
    inside = {key.removeprefix(prefix): plain[key] for key in plain if key.startswith(prefix)}
    return _mapped(inside, rules)


def _unwrapped(state_dict: Mapping[str, object]) -> StateDict:
    """Return the tensors without the words of wrappers in their names."""
    plain: StateDict = {}
    for key, value in state_dict.items():
        if not isinstance(value, Tensor):
            raise CheckpointError(f"the parameter {key} is a {type(value).__name__}, not a tensor")
        name = ".".join(part for part in str(key).split(".") if part not in WRAPPERS)
        _add(plain, name, value)
    return plain


def _cls_token(state_dict: StateDict) -> str:
    """Return the name of the one model's classification token."""
    found = cls_tokens(state_dict)
    if len(found) > 1:
        found = [key for key in found if not is_average(key)] or found
    if not found:
        raise CheckpointError("not a TimeSformer classifier: cls_token is missing")
    if len(found) > 1:
        raise CheckpointError(
            f"it holds several models: {first_few(found)}; save one of them alone"
        )
    return found[0]


def is_average(name: str) -> bool:
    """Whether a name says that it holds averaged weights (EMA) beside the trained ones."""
    return bool(re.search(r"(^|[._])ema([._]|$)", name))


def _rules(names: Iterable[str]) -> _Rules:
    """Return the rules for the program that wrote these names."""
    names = list(names)
    if any("timesformer.encoder.layer." in name for name in names):
        return _TRANSFORMERS
    if not is_mmaction(names):
        return ()
    divided = any(".temporal_fc." in name for name in names)
    return _MMACTION + (_MMACTION_DIVIDED if divided else _MMACTION_SINGLE)


def _mapped(state_dict: StateDict, rules: _Rules) -> StateDict:
    mapped: StateDict = {}
    for key, value in state_dict.items():
        name = key
        for pattern, replacement in rules:
            name = re.sub(pattern, replacement, name)
        _add(mapped, name, value)
    return mapped


def _add(state_dict: StateDict, name: str, value: Tensor) -> None:
    if name in state_dict:
        raise CheckpointError(f"two parameters are named {name}")
    state_dict[name] = value


def first_few(names: Sequence[str]) -> str:
    """Return the first names as text, and how many more there are."""
    more = len(names) - NAMED_KEYS
    return ", ".join(names[:NAMED_KEYS]) + (f" and {more} more" if more > 0 else "")
