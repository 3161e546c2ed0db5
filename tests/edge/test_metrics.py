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


def test_the_exposition_names_every_metric() -> None:
    metrics = Metrics()
    metrics.requests.labels("openai_chat", "2xx").inc()
    metrics.upstream_attempts.labels("ok").inc(2)
    metrics.failovers.labels("throttled").inc()
    metrics.token_refresh.labels("ok").inc()
    metrics.client_disconnects.inc()
    metrics.in_flight.inc()
    assert value(metrics, 'aicore_proxy_requests_total{protocol="openai_chat",status_class="2xx"}') == 1
    assert value(metrics, 'aicore_proxy_upstream_attempts_total{outcome="ok"}') == 2
    assert value(metrics, 'aicore_proxy_failovers_total{reason="throttled"}') == 1
    assert value(metrics, 'aicore_proxy_token_refresh_total{result="ok"}') == 1
    assert value(metrics, "aicore_proxy_client_disconnects_total") == 1
    assert value(metrics, "aicore_proxy_in_flight_requests") == 1
    assert "aicore_proxy_build_info{" in metrics.exposition()[0].decode()
    assert value(Metrics(), "aicore_proxy_client_disconnects_total") == 0  # each its own registry


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
