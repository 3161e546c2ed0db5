"""The one owner of background tasks."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine

log = logging.getLogger("aicore_proxy.tasks")


class Supervisor:
    """Starts, watches and ends every background task of a process. Owns the set of those still running.

    A task that crashes is logged with its traceback and is not started again: whoever needs it for ever loops and
    catches what may go wrong itself. Lives in one event loop.
    """

    def __init__(self) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._closed = False

    def start(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Runs ``work`` in the background. Raises RuntimeError once the supervisor is closed."""
        if self._closed:
            work.close()
            raise RuntimeError(f"The supervisor is closed: {name} was not started.")
        task = asyncio.create_task(work, name=name)  # noqa: TID251 - this is the owner that the rule asks for
        self._running.add(task)
        task.add_done_callback(self._ended)
        return task

    def __len__(self) -> int:
        """How many tasks are running."""
        return len(self._running)

    async def aclose(self) -> None:
        """Cancels all tasks and waits until the last one has ended."""
        self._closed = True
        while self._running:
            for task in self._running:
                task.cancel()
            await asyncio.wait(self._running)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (crash := task.exception()) is not None:
            log.error("The background task %s crashed", task.get_name(), exc_info=crash)
