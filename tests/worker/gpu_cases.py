"""Which GPU a worker takes: `python -m tests.worker.gpu_cases` prints the table of the document.

`test_engine_gpu.py` runs each case with a faked NVML and real claims.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tests.worker.fake_nvml import FakeGpu

T4 = "NVIDIA T4"


def mig(uuid: str, profile: str, total_gib: int) -> FakeGpu:
    """Return a slice."""
    return FakeGpu(uuid, f"NVIDIA H100 80GB HBM3 MIG {profile}", total_gib)


MACHINES = {
    "none": (),
    "a": (FakeGpu("GPU-a"),),
    "a, b, c": (FakeGpu("GPU-a"), FakeGpu("GPU-b"), FakeGpu("GPU-c")),
    "a (10 GiB free), b (80), c (40)": (
        FakeGpu("GPU-a", used_gib=70),
        FakeGpu("GPU-b"),
        FakeGpu("GPU-c", used_gib=40),
    ),
    "a-1, a-2": (FakeGpu("GPU-a-1", T4, 16), FakeGpu("GPU-a-2", T4, 16)),
    "a divided into x (40 GiB), y (10), z (10); b (16)": (
        FakeGpu(
            "GPU-a",
            slices=(
                mig("MIG-y", "1g.10gb", 10),
                None,
                mig("MIG-z", "1g.10gb", 10),
                mig("MIG-x", "3g.40gb", 40),
            ),
        ),
        FakeGpu("GPU-b", T4, 16),
    ),
    "a divided, without slices": (FakeGpu("GPU-a", slices=()),),
}
"""The GPUs of each machine, by how the table names them."""

DIVIDED = "a divided into x (40 GiB), y (10), z (10); b (16)"

WAITS = "waits"
NONE = "none"
REFUSED = "ends, 78"


@dataclass(frozen=True)
class Case:
    """A machine, what others have claimed there, what a worker wishes, and what it takes.

    Attributes:
        takes: a UUID, or one of the words above. NONE: it claims nothing, and PyTorch decides.
    """

    gpus: str
    visible: str | None
    claimed: tuple[str, ...]
    wish: str
    takes: str
    share: bool = False


CASES = (
    Case("none", None, (), "auto", NONE),
    Case("none", None, (), "cuda", NONE),
    Case("none", None, (), "cuda:0", REFUSED),
    Case("a", None, (), "auto", "GPU-a"),
    Case("a", None, ("GPU-a",), "auto", WAITS),
    Case("a", None, ("GPU-a",), "cuda", "GPU-a", share=True),
    Case("a, b, c", None, (), "cuda", "GPU-a"),
    Case("a, b, c", None, ("GPU-a",), "cuda", "GPU-b"),
    Case("a, b, c", None, ("GPU-a", "GPU-b"), "cuda", "GPU-c"),
    Case("a, b, c", None, ("GPU-a", "GPU-b", "GPU-c"), "cuda", WAITS),
    Case("a, b, c", None, ("GPU-a", "GPU-a", "GPU-b", "GPU-c"), "cuda", "GPU-b", share=True),
    Case("a, b, c", None, (), "cuda:1", "GPU-b"),
    Case("a, b, c", None, ("GPU-b",), "cuda:1", WAITS),
    Case("a, b, c", None, (), "cuda:3", REFUSED),
    Case("a, b, c", None, (), "GPU-c", "GPU-c"),
    Case("a, b, c", None, (), "GPU-d", REFUSED),
    Case("a, b, c", "2,0", (), "cuda:0", "GPU-c"),
    Case("a, b, c", "2,0", ("GPU-c",), "cuda", "GPU-a"),
    Case("a, b, c", "2,0", (), "GPU-b", REFUSED),
    Case("a, b, c", "GPU-b", (), "auto", "GPU-b"),
    Case("a, b, c", "1,7,0", ("GPU-b",), "auto", WAITS),
    Case("a, b, c", "0,0", (), "auto", NONE),
    Case("a, b, c", "", (), "auto", NONE),
    Case("a, b, c", "-1", (), "auto", NONE),
    Case("a (10 GiB free), b (80), c (40)", None, (), "cuda", "GPU-b"),
    Case("a (10 GiB free), b (80), c (40)", None, ("GPU-b",), "cuda", "GPU-c"),
    Case("a-1, a-2", None, (), "GPU-a", REFUSED),
    Case("a-1, a-2", None, (), "GPU-a-2", "GPU-a-2"),
    Case(DIVIDED, None, (), "auto", "MIG-x"),
    Case(DIVIDED, None, ("MIG-x",), "auto", "GPU-b"),
    Case(DIVIDED, None, ("MIG-x", "GPU-b"), "auto", "MIG-y"),
    Case(DIVIDED, None, ("MIG-x", "MIG-y"), "cuda:0", "MIG-z"),
    Case(DIVIDED, None, (), "GPU-a", "MIG-x"),
    Case(DIVIDED, None, (), "MIG-z", "MIG-z"),
    Case(DIVIDED, "MIG-z,MIG-y", (), "cuda:1", "MIG-y"),
    Case(DIVIDED, "1", (), "cuda", "GPU-b"),
    Case("a divided, without slices", None, (), "auto", NONE),
)


def table() -> Iterator[str]:
    """Yield the lines of the table, as Markdown."""
    yield "| GPUs | `CUDA_VISIBLE_DEVICES` | claimed by others | `ROLLOUT_DEVICE` | the worker |"
    yield "|---|---|---|---|---|"
    for case in CASES:
        visible = "–" if case.visible is None else f"`{case.visible}`" if case.visible else "empty"
        claimed = ", ".join(uuid.partition("-")[2] for uuid in case.claimed) or "–"
        wish = f"`{case.wish}`" + (", sharing" if case.share else "")
        yield f"| {case.gpus} | {visible} | {claimed} | {wish} | {_outcome(case)} |"


def _outcome(case: Case) -> str:
    if case.takes == NONE:
        return "runs on the CPU" if case.wish == "auto" else "ends with 78"
    if case.takes == REFUSED:
        return "ends with 78"
    return case.takes if case.takes == WAITS else f"takes {case.takes.partition('-')[2]}"


if __name__ == "__main__":
    print("\n".join(table()))
