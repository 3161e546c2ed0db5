"""The numbers, and the one that watches the event loop."""

from __future__ import annotations

import asyncio
import re
import time

import pytest

from aicore_proxy.tasks import Supervisor
from aicore_proxy.telemetry.metrics import Metrics


def value(metrics: Metrics, name: str) -> float:
    text = metrics.exposition()[0].decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found is not None, text
    return float(found[1])


@pytest.mark.timed
async def test_a_blocked_loop_shows_and_is_forgotten() -> None:
    metrics, tasks = Metrics(), Supervisor()
    tasks.start("loop lag", metrics.watch_loop_lag(interval=0.02, window=1.0))
    await asyncio.sleep(0.2)
    time.sleep(0.4)  # what must never happen
    await asyncio.sleep(0.1)
    assert 0.37 <= value(metrics, "aicore_proxy_loop_lag_seconds") <= 1.0
    await asyncio.sleep(1.3)
    assert value(metrics, "aicore_proxy_loop_lag_seconds") < 0.35
    await tasks.aclose()
