"""Signals, and how urgently a process is asked to end by them."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from enum import IntEnum


def on_signal(name: str, act: Callable[[], None]) -> None:
    """Has ``act`` called in the running event loop when the signal comes. Nothing where the platform has no such."""
    number = getattr(signal, name, None)
    if number is None:
        return
    loop = asyncio.get_running_loop()
    try:
        loop.add_signal_handler(number, act)
    except NotImplementedError:  # Windows
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(act))


class Urgency(IntEnum):
    """SIGTERM: let clients notice first. SIGINT: a person waits. Either, when told before: no more waiting."""

    NONE = 0
    GENTLY = 1
    NOW = 2
    AT_ONCE = 3


class Stopping:
    """Hears SIGTERM and SIGINT. Owns the urgency; lives in one event loop."""

    def __init__(self) -> None:
        self.urgency = Urgency.NONE
        self._more = asyncio.Event()

    def listen(self) -> None:
        """Hears the signals from now on."""
        on_signal("SIGTERM", lambda: self.ask(Urgency.GENTLY))
        on_signal("SIGINT", lambda: self.ask(Urgency.NOW))

    def ask(self, urgency: Urgency) -> None:
        """Asks to end; asked again, at once."""
        self.urgency = Urgency.AT_ONCE if self.urgency else urgency
        self._more.set()

    async def wait(self, beyond: Urgency, seconds: float | None = None) -> bool:
        """Waits until it is more urgent than ``beyond``, at most so long; whether it is."""
        loop = asyncio.get_running_loop()
        end = None if seconds is None else loop.time() + seconds
        while self.urgency <= beyond:
            self._more.clear()
            try:
                async with asyncio.timeout_at(end):
                    await self._more.wait()
            except TimeoutError:
                return False
        return True
