"""The proxy with a fault of its own, to show that the oracle of the chaos test sees it: ``python -m tests.chaos.broken
leak|double|block|sleep|jump|bug|tasks serve …``."""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from aicore_proxy.cli import main
from aicore_proxy.gateway.asking import Asking
from aicore_proxy.gateway.call import Attempt, Call
from aicore_proxy.routing.health import Health
from aicore_proxy.server.compose import Proxy
from aicore_proxy.telemetry.observer import Telemetry


def leak() -> None:
    """Every hundredth permit is never given back."""
    end, count = Health.end, [0]

    def leaking(self: Health, *args: Any) -> None:
        count[0] += 1
        if count[0] % 100:
            end(self, *args)

    Health.end = leaking  # type: ignore[method-assign]


def double() -> None:
    """Every hundredth request is counted twice."""
    finished, count = Telemetry.finished, [0]

    def doubling(self: Telemetry, record: Any) -> None:
        count[0] += 1
        finished(self, record)
        if count[0] % 100 == 0:
            finished(self, record)

    Telemetry.finished = doubling  # type: ignore[method-assign]


def block() -> None:
    """SIGUSR1 holds the event loop up for two seconds."""
    on_signal(lambda: time.sleep(2))


def sleep() -> None:
    """At SIGUSR1 the machine has slept for an hour: clocks that stand still in a sleep do not notice."""
    ticks, wall, slept = time.clock_gettime, time.time, [0.0]
    time.clock_gettime = lambda clock: ticks(clock) + (slept[0] if clock == time.CLOCK_BOOTTIME else 0.0)
    time.time = lambda: wall() + slept[0]
    on_signal(lambda: slept.append(slept.pop() + 3600.0))


def jump() -> None:
    """At each SIGUSR1 somebody sets the machine's clock: an hour on, at the second one two hours back."""
    wall, ahead = time.time, [0.0]
    time.time = lambda: wall() + ahead[0]
    on_signal(lambda: ahead.append(-3600.0 if ahead.pop() > 0 else 3600.0))


def bug() -> None:
    """A request that says so meets a bug of the code that prepares it."""
    asked = Asking.asked

    async def failing(self: Asking, call: Call, attempt: Attempt) -> Any:
        if b"a bug, please" in bytes(call.envelope.members["messages"]):
            raise KeyError("the bug")
        return await asked(self, call, attempt)

    Asking.asked = failing  # type: ignore[method-assign]


def tasks() -> None:
    """Not broken: it says at SIGUSR1 how many tasks there are."""
    on_signal(lambda: print(f"tasks: {len(asyncio.all_tasks())}", flush=True))


def on_signal(act: Callable[[], None]) -> None:
    """Acts in the event loop, at SIGUSR1."""
    start = Proxy.start

    async def starting(self: Proxy) -> None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, act)
        await start(self)

    Proxy.start = starting  # type: ignore[method-assign]


if __name__ == "__main__":
    {"leak": leak, "double": double, "block": block, "sleep": sleep, "jump": jump, "bug": bug, "tasks": tasks}[
        sys.argv.pop(1)
    ]()
    main()
