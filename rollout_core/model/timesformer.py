"""TimeSformer: a vision transformer over the patches of a clip's frames.

Source: Bertasius, Wang & Torresani 2021, "Is Space-Time Attention All You Need for Video
Understanding?", arXiv:2102.05095. Parameter names are those of the published checkpoints.

Tokens have the shape `b g n c`: `g` groups whose `n` tokens attend to one another. Token 0 of each
group is a copy of the classification token. Divided and space-only attention have one group per
frame (`g = t`, `n = 1 + p`); joint attention has a single group (`g = 1`, `n = 1 + t p`).
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat
from timm.layers import Mlp, PatchEmbed
from torch import Tensor, nn

FUSED_ON_CPU_FROM_TOKENS = 512
"""On a CPU, the fused kernel is faster from this sequence length on, whatever the precision."""

CPU_CHUNK, GPU_CHUNK = 1 << 19, 1 << 26
"""Number of attention values of all heads that exist at a time while heads are fused.

On a CPU they stay in its cache; on a GPU they only bound the memory.
"""

AttentionType = Literal["divided_space_time", "joint_space_time", "space_only"]
Axis = Literal["time", "group"]


@dataclass(frozen=True)
class Architecture:
    """Hyperparameters of a network, enough to build it for a state_dict. Sizes are in pixels."""

    attention_type: AttentionType
    frames: int
    height: int
    width: int
    patch_height: int
    patch_width: int
    dim: int
    mlp_dim: int
    depth: int
    heads: int
    classes: int
    qkv_bias: bool = True
    layer_norm_eps: float = 1e-6

    @property
    def grid(self) -> tuple[int, int]:
        """Patches per frame, `(h, w)`."""
        return self.height // self.patch_height, self.width // self.patch_width


@dataclass(frozen=True)
class AttentionStep:
    """Inputs, outputs and intermediate results of one attention and its skip connection.

    `outputs = inputs + projections(attention @ values)`, heads joined, in each of `s` sequences.

    Attributes:
        axis: a sequence holds either the "time" steps of one location, or one "group" of tokens.
        attention: `b s head q k`; `b s 1 q k`, float32, if the heads are fused.
        values: `b s head k c`.
        inputs, outputs: `b s q c`, with the channels of all heads.
        projections: the linear layers applied to the joined heads, in order.
        shares_cls: True for divided attention within frames: token 0 of every sequence is a copy
            of one token, and its update is the mean over the sequences.
    """

    axis: Axis
    attention: Tensor
    values: Tensor
    inputs: Tensor
    outputs: Tensor
    projections: tuple[nn.Linear, ...]
    shares_cls: bool = False


AttentionHook = Callable[[AttentionStep], None]
"""Called during the forward with each attention step of a layer."""

FuseHeads = Callable[[Tensor], Tensor]
"""From the attention of each head, `s head q k`, to one map for all heads, `s q k`."""


class Attention(nn.Module):
    """Multi-head self-attention."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        dim = architecture.dim
        self.heads = architecture.heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=architecture.qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Attend within each of the `s` sequences of `b s q c`."""
        q, k, v = self._split(x)
        if _is_fused_faster(x):
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = _softmax(q, k.contiguous()) @ v.contiguous()
        return self._join(out, b=len(x))

    def forward_with_attention(
        self, x: Tensor, fuse: FuseHeads | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return what `forward` returns, the attention `b s head q k` and the values.

        PyTorch's fused kernel does not return its softmax, so it is never used here.

        Args:
            fuse: the attention is then `b s 1 q k`; that of each head is never held as a whole.
        """
        q, k, v = (part.contiguous() for part in self._split(x))
        values = rearrange(v, "(b s) head k c -> b s head k c", b=len(x))
        if fuse is None:
            # The outputs follow from the tensor that is returned, so that it can have a gradient.
            attention = rearrange(_softmax(q, k), "(b s) head q k -> b s head q k", b=len(x))
            out = rearrange(attention @ values, "b s head q c -> (b s) head q c")
        else:
            out, fused = _attend_in_chunks(q, k, v, fuse)
            attention = rearrange(fused, "(b s) q k -> b s 1 q k", b=len(x))
        return self._join(out, b=len(x)), attention, values

    def _split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries, keys and values, each `(b s) head n c`."""
        pattern = "b s n (three head c) -> three (b s) head n c"
        q, k, v = rearrange(self.qkv(x), pattern, three=3, head=self.heads)
        return q, k, v

    def _join(self, out: Tensor, *, b: int) -> Tensor:
        update: Tensor = self.proj(rearrange(out, "(b s) head q c -> b s q (head c)", b=b))
        return update


class Block(nn.Module):
    """One layer: attention over time (divided only), attention within each group, MLP.

    While `tap` is set, it is called with every attention step of the layer, and `fuse` fuses the
    heads of the attention before.
    """

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        dim, eps = architecture.dim, architecture.layer_norm_eps
        self.divided = architecture.attention_type == "divided_space_time"
        if self.divided:
            self.temporal_norm1 = nn.LayerNorm(dim, eps=eps)
            self.temporal_attn = Attention(architecture)
            self.temporal_fc = nn.Linear(dim, dim)
        self.norm1 = nn.LayerNorm(dim, eps=eps)
        self.attn = Attention(architecture)
        self.norm2 = nn.LayerNorm(dim, eps=eps)
        self.mlp = Mlp(dim, hidden_features=architecture.mlp_dim)
        self.tap: AttentionHook | None = None
        self.fuse: FuseHeads | None = None

    def forward(self, x: Tensor) -> Tensor:
        """Map `b g n c` to `b g n c`."""
        if self.divided:
            x = self._attend_over_time(x)
        x = self._attend_within_groups(x)
        hidden: Tensor = self.mlp(self.norm2(x))
        return x + hidden

    def _attend_over_time(self, x: Tensor) -> Tensor:
        """Attend among the patches of each location; the classification token takes no part."""
        inputs = rearrange(x[:, :, 1:], "b t p c -> b p t c")
        outputs = self._mix(
            "time", inputs, self.temporal_norm1(inputs), self.temporal_attn, self.temporal_fc
        )
        return torch.cat([x[:, :, :1], rearrange(outputs, "b p t c -> b t p c")], dim=2)

    def _attend_within_groups(self, x: Tensor) -> Tensor:
        """Attend among the tokens of each group; copies of one cls token stay equal."""
        return self._mix("group", x, self.norm1(x), self.attn)

    def _mix(
        self, axis: Axis, inputs: Tensor, normed: Tensor, attention: Attention, *then: nn.Linear
    ) -> Tensor:
        """Attend within each sequence of `b s n c` and add the update to the inputs."""
        shares_cls = self.divided and axis == "group"
        if self.tap:
            update, softmax, values = attention.forward_with_attention(normed, self.fuse)
        else:
            update = attention(normed)
        for layer in then:
            update = layer(update)
        if shares_cls:
            update = average_cls(update)
        outputs = inputs + update
        if self.tap:
            projections = (attention.proj, *then)
            self.tap(AttentionStep(axis, softmax, values, inputs, outputs, projections, shares_cls))
        return outputs


class TimeSformer(nn.Module):
    """A clip classifier. `architecture` holds the sizes that the parameters were trained with."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        a = architecture
        self.architecture = a
        self.patch_embed = PatchEmbed(
            img_size=None,
            patch_size=(a.patch_height, a.patch_width),  # type: ignore[arg-type]
            embed_dim=a.dim,
        )
        h, w = a.grid
        self.cls_token = nn.Parameter(torch.zeros(1, 1, a.dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + h * w, a.dim))
        if a.attention_type != "space_only":
            self.time_embed = nn.Parameter(torch.zeros(1, a.frames, a.dim))
        self.layers = [Block(a) for _ in range(a.depth)]
        self.blocks = nn.ModuleList(self.layers)
        self.norm = nn.LayerNorm(a.dim, eps=a.layer_norm_eps)
        self.head = nn.Linear(a.dim, a.classes)

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips.

        Args:
            clips: `b c t H W`, normalised, RGB or BGR as the checkpoint expects. `t`, `H` and `W`
                may differ from the architecture's: the embeddings are then resized.
        Returns:
            Logits, `b k`.
        """
        return self.classify(self.encode(clips))

    def encode(self, clips: Tensor) -> Tensor:
        """Return the last layer's tokens, `b g n c`, for pixels, `b c t H W`."""
        x = self.embed(clips)
        for block in self.layers:
            x = block(x)
        return x

    def grid_of(self, clips: Tensor) -> tuple[int, int, int]:
        """Return the patch grid `(t, h, w)` of `clips`, `b c t H W`.

        Raises:
            ValueError: the patches do not fill the frames.
        """
        _, _, t, height, width = clips.shape
        a = self.architecture
        if height % a.patch_height or width % a.patch_width:
            raise ValueError(
                f"frames of {height}×{width} pixels do not divide into patches of "
                f"{a.patch_height}×{a.patch_width}"
            )
        return t, height // a.patch_height, width // a.patch_width

    def embed(self, clips: Tensor) -> Tensor:
        """Return the first layer's input tokens, `b g n c`, for pixels, `b c t H W`."""
        t, h, w = self.grid_of(clips)
        patches = self.patch_embed(rearrange(clips, "b c t H W -> (b t) c H W"))  # (b t) p c
        cls_position, positions = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        patches = patches + _resize_grid(positions, self.architecture.grid, (h, w))
        patches = rearrange(patches, "(b t) p c -> b t p c", t=t)
        if self.architecture.attention_type != "space_only":
            patches = patches + rearrange(_resize(self.time_embed, t), "1 t c -> 1 t 1 c")
        if self.architecture.attention_type == "joint_space_time":
            patches = rearrange(patches, "b t p c -> b 1 (t p) c")
        b, g = patches.shape[:2]
        cls = repeat(self.cls_token + cls_position, "1 1 c -> b g 1 c", b=b, g=g)
        return torch.cat([cls, patches], dim=2)

    def classify(self, tokens: Tensor) -> Tensor:
        """Return logits, `b k`, for the last layer's tokens, `b g n c`."""
        cls = reduce(tokens[:, :, 0], "b g c -> b c", "mean")
        logits: Tensor = self.head(self.norm(cls))
        return logits


@contextmanager
def watch(
    blocks: Iterable[Block], tap: AttentionHook, *, fuse: FuseHeads | None = None
) -> Iterator[None]:
    """Call `tap` with every attention step of these layers until the context ends.

    Args:
        fuse: fuses the heads of each attention in chunks, before `tap` is called.
    """
    watched: list[Block] = []
    try:
        for block in blocks:
            watched.append(block)
            block.tap, block.fuse = tap, fuse
        yield
    finally:
        for block in watched:
            block.tap = block.fuse = None


def average_cls(tokens: Tensor) -> Tensor:
    """Replace token 0 of each sequence of `... s n c` by its mean over the `s` sequences."""
    cls = reduce(tokens[..., :1, :], "... s 1 c -> ... 1 1 c", "mean")
    return torch.cat([cls.expand_as(tokens[..., :1, :]), tokens[..., 1:, :]], dim=-2)


def _is_fused_faster(x: Tensor) -> bool:
    """Return whether the fused kernel is the faster one for tokens `b s n c`.

    `scripts/bench --only forward` measures both. On a CPU, for short sequences, the fused kernel is
    slower in bfloat16, and its gradient is slower.
    """
    if x.is_cuda or x.shape[2] >= FUSED_ON_CPU_FROM_TOKENS:
        return True
    return x.element_size() > 2 and not x.requires_grad


def _attend_in_chunks(q: Tensor, k: Tensor, v: Tensor, fuse: FuseHeads) -> tuple[Tensor, Tensor]:
    """Return outputs, `s head q c`, and fused attention, `s q k`, for `s head n c` each.

    A chunk is some sequences, or some rows of one sequence.
    """
    _, heads, tokens, channels = q.shape
    elements = CPU_CHUNK if q.device.type == "cpu" else GPU_CHUNK
    rows = max(1, elements // (heads * tokens))
    sequences = max(1, rows // tokens)
    out = q.new_empty(len(q), tokens, heads, channels).transpose(1, 2)  # so joining copies nothing
    maps = []
    for first in range(0, len(q), sequences):
        some = slice(first, first + sequences)
        parts = []
        for row in range(0, tokens, rows):
            part = slice(row, row + rows)
            attention = _softmax(q[some, :, part], k[some])
            out[some, :, part] = attention @ v[some]
            parts.append(fuse(attention))
        maps.append(torch.cat(parts, dim=1))
    return out, torch.cat(maps)


def _softmax(q: Tensor, k: Tensor) -> Tensor:
    scores: Tensor = q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)
    return scores.softmax(dim=-1)


def _resize_grid(positions: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """Resize position embeddings, `1 (h w) c`, to another grid by nearest neighbour."""
    if old == new:
        return positions
    image = rearrange(positions, "1 (h w) c -> 1 c h w", h=old[0], w=old[1])
    return rearrange(F.interpolate(image, size=new, mode="nearest"), "1 c h w -> 1 (h w) c")


def _resize(times: Tensor, frames: int) -> Tensor:
    """Resize time embeddings, `1 t c`, to another frame count by nearest neighbour."""
    if times.shape[1] == frames:
        return times
    line = rearrange(times, "1 t c -> 1 c t")
    return rearrange(F.interpolate(line, size=frames, mode="nearest"), "1 c t -> 1 t c")
