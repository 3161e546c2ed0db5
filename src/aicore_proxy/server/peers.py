"""What a serving process knows of the others that serve on its port."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

from aicore_proxy.telemetry.metrics import Metrics

Listener = Callable[[Any], None]


class Peers(Protocol):
    """The other processes. Nothing here makes a request wait."""

    others: bool
    """Whether there are any."""

    def ready(self, own: bool) -> bool:
        """Whether clients should come: all processes are ready (``own``: this one is), and none is told to end."""
        ...

    async def exposition(self, metrics: Metrics) -> tuple[bytes, str]:
        """The metrics of all processes together, and their content type."""
        ...

    def publish(self, topic: str, value: object) -> None:
        """Tells all others ``value`` (plain JSON, or what msgspec makes it of). Does not wait; may get lost."""
        ...

    def subscribe(self, topic: str, listener: Listener) -> None:
        """Has ``listener`` called with each value that another process publishes."""
        ...


class Alone:
    """A process that serves by itself."""

    def __init__(self) -> None:
        self.others = False
        self.leaving = False
        """Set once it is told to end."""

    def ready(self, own: bool) -> bool:
        return own and not self.leaving

    async def exposition(self, metrics: Metrics) -> tuple[bytes, str]:
        return await asyncio.to_thread(metrics.exposition)  # thousands of lines: not in the way of streams

    def publish(self, topic: str, value: object) -> None:
        """There is nobody to tell."""

    def subscribe(self, topic: str, listener: Listener) -> None:
        """There is nobody to listen to."""
