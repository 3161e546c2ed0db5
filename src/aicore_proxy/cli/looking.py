"""Running what looks at other hosts, so that the command ends when it is done.

A thread that waits for a resolver cannot be stopped, and asyncio and the interpreter would wait for it, for minutes."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, NoReturn, TypeVar

LOOKUPS = "lookup"
PATIENCE = 0.5
"""Seconds for threads to end that do nothing any more."""

T = TypeVar("T")


def look(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """The result of ``work``, and whether all its threads have ended; if not, the process must end by ``leave``.

    Raises what ``work`` raises, and KeyboardInterrupt; then too the process must end by ``leave``."""
    runner = asyncio.Runner()
    threads = ThreadPoolExecutor(thread_name_prefix=LOOKUPS)
    runner.get_loop().set_default_executor(threads)
    result = runner.run(work)
    threads.shutdown(wait=False, cancel_futures=True)
    for thread in threading.enumerate():
        if thread.name.startswith(LOOKUPS):
            thread.join(PATIENCE)
            if thread.is_alive():
                return result, False
    runner.close()
    return result, True


def leave(code: int) -> NoReturn:
    """Ends the process now, with all that was printed."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(code)
