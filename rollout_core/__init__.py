"""Space-time attention rollout for TimeSformer: the model, the method, video in, pictures out.

`explain_file` explains a video in this process, and needs the extra `worker`. `load_result` reads a
result from its folder, and needs the base installation only; its `plot` needs the extra `media`.
They are imported when they are first used: the rest of this package works without torch and numpy.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout_core.explained import ExplainedVideo, explain_file, load_result

__version__ = "0.1.0"

__all__ = ["ExplainedVideo", "explain_file", "load_result"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from rollout_core import explained

    return getattr(explained, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
