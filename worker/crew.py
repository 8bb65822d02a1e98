"""The children that a supervisor keeps: one engine for good, and media processes, one a job."""

from worker.children import Engine, Media
from worker.messages import EngineOptions, MediaOptions


class Crew:
    """An engine, and a media process that waits for the next job."""

    def __init__(
        self,
        engine_kind: str,
        engine_options: EngineOptions,
        media_options: MediaOptions,
        *,
        load_seconds: float,
    ) -> None:
        """Start both; the engine may take `load_seconds` to load its model."""
        self._engine_kind = engine_kind
        self._engine_options = engine_options
        self._media_options = media_options
        self._load_seconds = load_seconds
        self.engine = self._start_engine()
        self._spare_media = Media(media_options)

    @property
    def ready(self) -> bool:
        """Whether the engine has loaded its model and lives."""
        return self.engine.model is not None and self.engine.alive

    def take_media(self) -> Media:
        """Hand over the media process that waits, and start the next one.

        The caller kills it when its job is done: it has seen a stranger's bytes.
        """
        if not self._spare_media.alive:
            self._spare_media.kill()
            self._spare_media = Media(self._media_options)
        media, self._spare_media = self._spare_media, Media(self._media_options)
        return media

    def mend(self) -> None:
        """Start a new engine in the place of one that is dead."""
        if not self.engine.alive:
            self.engine.kill()
            self.engine = self._start_engine()

    def close(self) -> None:
        """End both."""
        self._spare_media.kill()
        self.engine.stop()

    def _start_engine(self) -> Engine:
        return Engine(self._engine_kind, self._engine_options, self._load_seconds)
