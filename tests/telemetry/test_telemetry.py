"""The observer by itself: what it costs, what it does with its own bugs, how many names it takes."""

from __future__ import annotations

import logging
import time
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.telemetry.reading import Numbers

from aicore_proxy.gateway.call import Attempt
from aicore_proxy.gateway.record import Record
from aicore_proxy.landscape import Deployment
from aicore_proxy.protocol.neutral import Usage
from aicore_proxy.routing.outcome import Outcome
from aicore_proxy.telemetry.metrics import MOST_NAMES, Metrics
from aicore_proxy.telemetry.observer import Telemetry

DEPLOYMENT = Deployment("d1", "sub-a", "default", "aws-bedrock", "anthropic--claude-4.5-sonnet", "http://x")
ATTEMPT = Attempt(
    DEPLOYMENT,
    1,
    1.0,
    first_byte=1.2,
    outcome=Outcome.OK,
    usage=Usage(1000, 500, 100, 301, 50),
    first_content=1.3,
    last_content=4.3,
    ended=4.3,
    warm=True,
)
RECORD = Record(
    "req_1",
    "/v1/messages",
    "anthropic_messages",
    200,
    3.0,
    "default",
    DEPLOYMENT.model,
    stream=True,
    attempts=(ATTEMPT,),
    first_content=0.3,
    content=3.0,
    overhead=0.0003,
)


def read(metrics: Metrics) -> Numbers:
    return Numbers(metrics.exposition()[0].decode())


def test_times_and_tokens_go_where_they_belong() -> None:
    metrics = Metrics()
    Telemetry(metrics).finished(RECORD)
    seen = read(metrics)

    assert seen.total("gen_ai_server_time_per_output_token_seconds_sum") == pytest.approx(0.01)
    assert seen.total("gen_ai_server_time_per_output_token_seconds_bucket", le="0.01") == 1
    assert seen.total("gen_ai_server_time_per_output_token_seconds_bucket", le="0.005") == 0
    assert seen.total("overhead_seconds_bucket", le="0.0005") == seen.total("overhead_seconds_bucket", le="+Inf") == 1
    assert seen.total("overhead_seconds_bucket", le="0.00025") == 0
    kinds = {"input": 1000, "output": 301, "cache_read": 500, "cache_write": 100, "reasoning": 50}
    assert {kind: seen.total("tokens_total", type=kind) for kind in kinds} == kinds
    assert seen.total("gen_ai_client_token_usage_bucket", gen_ai_token_type="input", le="1024.0") == 1
    assert seen.total("affinity_total", result="hit") == 1
    assert seen.values("gen_ai_server_request_duration_seconds_count", "gen_ai_provider_name") == {"aws.bedrock"}


def test_names_of_keys_are_bounded() -> None:
    metrics = Metrics()
    telemetry = Telemetry(metrics)
    for number in range(MOST_NAMES + 50):
        telemetry.finished(msgspec.structs.replace(RECORD, key_name=f"key-{number}"))

    seen = read(metrics)
    assert len(seen.values("key_requests_total", "key")) == MOST_NAMES + 1
    assert seen.total("key_requests_total", key="other") == 50
    assert seen.total("key_requests_total") == MOST_NAMES + 50


def test_a_bug_of_its_own_is_logged_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    broken: Any = SimpleNamespace()
    with caplog.at_level(logging.ERROR):
        Telemetry(broken).finished(RECORD)
        Telemetry(broken).streaming(1)

    assert [line.message for line in caplog.records] == ["Telemetry failed"] * 2
    assert all(line.exc_info for line in caplog.records)


@pytest.mark.timed
def test_a_request_costs_next_to_nothing() -> None:
    """6 µs on the machine it was written on; there is room for a slow and busy one."""
    telemetry = Telemetry(Metrics())
    logging.getLogger("aicore_proxy.access").setLevel(logging.WARNING)
    best = float("inf")
    for _ in range(20):
        began = time.process_time()
        for _ in range(1000):
            telemetry.finished(RECORD)
        best = min(best, (time.process_time() - began) / 1000)
    logging.getLogger("aicore_proxy.access").setLevel(logging.NOTSET)
    assert best < 40e-6
