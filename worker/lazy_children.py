"""Children that are started with the first job: most scripted models of the fake engine rest.

Each child of a fake model takes tens of megabytes. Until its first job a worker announces what its
engine would say, which is known without starting it.
"""

from worker.children import Children, Engine
from worker.fork_server import ForkServer
from worker.messages import EngineOptions, MediaOptions, Ready


class SleepingEngine(Engine):
    """An engine without a process, which has loaded its model as far as others can tell."""

    def __init__(self, model: Ready) -> None:
        """Stand for an engine that would send `model`."""
        self.name = "the engine"
        self.model = model
        self._due = None

    @property
    def alive(self) -> bool:
        """True: there is nothing to restart."""
        return True

    def kill(self) -> None:
        """Do nothing."""

    def stop(self) -> None:
        """Do nothing."""


class LazyChildren(Children):
    """An engine and a template of media processes that `wake` starts."""

    def __init__(
        self,
        engine_kind: str,
        engine_options: EngineOptions,
        media_options: MediaOptions,
        *,
        load_seconds: float,
        model: Ready,
    ) -> None:
        """Start nothing; `model` is what the engine will say."""
        self._expected: Ready | None = model
        super().__init__(engine_kind, engine_options, media_options, load_seconds=load_seconds)

    def wake(self) -> None:
        """Start the engine and the template, unless they have been started before."""
        if self._expected is not None:
            self._expected = None
            self.engine = self._start_engine()
            self.template = self._start_template()

    def _start_engine(self) -> Engine:
        return SleepingEngine(self._expected) if self._expected else super()._start_engine()

    def _start_template(self) -> ForkServer | None:
        return None if self._expected else super()._start_template()
