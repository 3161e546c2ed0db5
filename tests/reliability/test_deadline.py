"""C07: a client that says for how long it waits."""

from __future__ import annotations

import time
from typing import Any

import pytest
from tests.end_to_end.asking import PATHS, PROTOCOLS, body, error_of, said, simulate
from tests.reliability.conftest import House, until

pytestmark = pytest.mark.timed

SLOW: dict[str, Any] = {"delay": 4.0}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_c07_a_client_s_own_deadline_is_kept_and_held_against_nobody(house: House, protocol: str, stream: bool) -> None:
    began = time.monotonic()
    for _ in range(6):  # as many failures in a row would open a breaker
        asked = body(protocol, "gpt-5", simulate(**SLOW), stream=stream)
        answer = house.proxy.http.post(PATHS[protocol], json=asked, headers={"x-aicore-proxy-timeout": "0.5"})
        assert answer.status_code == 504
        assert "did not answer within 0." in error_of(protocol, answer)["message"]
    assert 2.9 < time.monotonic() - began < 5.5
    until(lambda: house.simulator.state()["open"] == 0, 1.0)
    for _ in range(4):
        assert said(protocol, house.ask(protocol))
    metrics = house.proxy.http.get("/metrics").text
    assert 'outcome="timeout"' not in metrics


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_c07_what_an_sdk_tells_counts_where_nothing_is_streamed(house: House, protocol: str) -> None:
    headers = {"x-stainless-timeout": "1"}
    asked = body(protocol, "gpt-5", simulate(delay=1.6))
    began = time.monotonic()
    assert house.proxy.http.post(PATHS[protocol], json=asked, headers=headers).status_code == 504
    assert 0.9 < time.monotonic() - began < 1.5
    streamed = house.proxy.http.post(PATHS[protocol], json={**asked, "stream": True}, headers=headers)
    assert streamed.status_code == 200
    for told in ("600", "not given", "-1", "nan", ""):
        answer = house.proxy.http.post(PATHS[protocol], json=asked, headers={"x-stainless-timeout": told})
        assert said(protocol, answer)


@pytest.mark.parametrize("told", ["soon", "0", "-1", "nan", ""])
def test_c07_a_deadline_that_is_none_is_named(house: House, told: str) -> None:
    answer = house.proxy.http.post(
        PATHS["chat"], json=body("chat", "gpt-5", "Hello!"), headers={"x-aicore-proxy-timeout": told}
    )
    assert answer.status_code == 400
    assert "x-aicore-proxy-timeout" in error_of("chat", answer)["message"]
