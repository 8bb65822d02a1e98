"""Tells the parts of an app that the service begins to shut down, while requests are still open."""

from collections.abc import Callable


class Shutdown:
    """The beginning of a shutdown. Used on the event loop only."""

    def __init__(self) -> None:
        self._actions: list[Callable[[], None]] = []

    def on_begin(self, action: Callable[[], None]) -> None:
        """Call `action` when the shutdown begins."""
        self._actions.append(action)

    def begin(self) -> None:
        """Call all actions."""
        for action in self._actions:
            action()
