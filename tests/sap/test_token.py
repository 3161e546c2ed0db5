"""Tokens: one request however many wait, renewed ahead, and never a storm. Names carry the reliability row."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

import pytest
from tests.sap.peer import Core, Request, answer, in_turn, late

from aicore_proxy.sap.token import TokenError, TokenProvider, TokenTimes
from aicore_proxy.tasks import Supervisor
from aicore_proxy.upstream import PooledUpstream

pytestmark = pytest.mark.timed


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


Make = Callable[..., TokenProvider]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def provider(sap: Core, upstream: PooledUpstream, supervisor: Supervisor, clock: Clock) -> TokenProvider:
    return TokenProvider(sap.key(), upstream, supervisor, clock=clock, chance=lambda: 0.5)


async def test_credentials_go_in_the_form_and_nowhere_else(sap: Core, provider: TokenProvider) -> None:
    assert await provider.token() == "token-1"
    (request,) = sap.requests
    assert (request.method, request.path, request.query) == ("POST", "/oauth/token", {})
    assert request.headers["content-type"] == "application/x-www-form-urlencoded"
    assert request.body == "grant_type=client_credentials&client_id=sb-1&client_secret=s3cr3t%24%3D"
    assert "authorization" not in request.headers


async def test_t09_a_thousand_that_wait_make_one_request(sap: Core, provider: TokenProvider) -> None:
    sap.routes["/oauth/token"] = late(0.3, sap.new_token)
    started = time.monotonic()
    tokens = await asyncio.gather(*(provider.token() for _ in range(1000)))
    assert set(tokens) == {"token-1"}
    assert len(sap.requests) == 1
    assert 0.3 <= time.monotonic() - started < 1.5


async def test_one_of_the_waiters_leaves_and_the_others_get_their_token(sap: Core, provider: TokenProvider) -> None:
    sap.routes["/oauth/token"] = late(0.3, sap.new_token)
    first = asyncio.create_task(provider.token())
    others = [asyncio.create_task(provider.token()) for _ in range(3)]
    await asyncio.sleep(0.1)
    first.cancel()
    assert await asyncio.gather(*others) == ["token-1"] * 3
    assert first.cancelled()
    assert len(sap.requests) == 1


@pytest.mark.parametrize(
    ("expires_in", "life"),
    [(60, 60), ("120", 120), (43199.0, 43199), (0, 300), (-5, 300), (None, 300), ("soon", 300), (True, 300), ({}, 300)],
)
async def test_t07_a_life_is_read_leniently(
    sap: Core, provider: TokenProvider, clock: Clock, expires_in: object, life: float
) -> None:
    sap.routes["/oauth/token"] = in_turn(
        answer({"access_token": "first", "expires_in": expires_in}), answer({"access_token": "second"})
    )
    await provider.token()
    clock.now += life - min(600, life / 4) - 1
    assert await provider.token() == "first"
    await asyncio.sleep(0.05)
    assert len(sap.requests) == 1, "renewed too early"
    clock.now += 2
    assert await provider.token() == "first", "the old one serves while the new one is asked for"
    await asyncio.sleep(0.1)
    assert await provider.token() == "second"
    assert len(sap.requests) == 2


async def test_t12_only_the_time_since_the_receipt_counts(sap: Core, provider: TokenProvider, clock: Clock) -> None:
    """An ``exp`` of long ago in the token itself, and a machine whose wall clock is wrong, change nothing."""
    sap.routes["/oauth/token"] = in_turn(answer({"access_token": "e30.eyJleHAiOjF9.e30", "expires_in": 43199}))
    for _ in range(10):
        assert await provider.token() == "e30.eyJleHAiOjF9.e30"
        clock.now += 4000
    assert len(sap.requests) == 1


async def test_t01_a_token_outlives_its_service(sap: Core, provider: TokenProvider, clock: Clock) -> None:
    sap.routes["/oauth/token"] = in_turn(
        answer({"access_token": "first", "expires_in": 100}), answer({}, "503 Service Unavailable")
    )
    await provider.token()
    for _ in range(90):
        clock.now += 1
        assert await provider.token() == "first"
        await asyncio.sleep(0.002)
    assert provider.error is not None
    clock.now += 10
    with pytest.raises(TokenError, match="503"):
        await provider.token()


async def test_t03_the_first_success_comes_soon_after_the_service_is_back(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    provider = TokenProvider(sap.key(), upstream, supervisor)
    working = sap.routes["/oauth/token"]
    sap.routes["/oauth/token"] = in_turn(answer(b"upstream connect error", "503 Service Unavailable"))
    provider.start()
    await asyncio.sleep(2.5)
    with pytest.raises(TokenError):
        await provider.token()
    sap.routes["/oauth/token"] = working
    back = time.monotonic()
    while True:
        try:
            await provider.token()
            break
        except TokenError:
            await asyncio.sleep(0.05)
    assert time.monotonic() - back < 2.0
    assert len(sap.requests) < 20


async def test_t04_wrong_credentials_are_tried_once_a_minute(
    sap: Core, provider: TokenProvider, clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    refusal = {"error": "unauthorized", "error_description": "Bad credentials: s3cr3t$="}
    sap.routes["/oauth/token"] = in_turn(answer(refusal, "401 Unauthorized"))
    for _ in range(59):
        with pytest.raises(TokenError, match="unauthorized: Bad credentials") as caught:
            await provider.token()
        assert caught.value.refused
        clock.now += 1
    assert len(sap.requests) == 1
    clock.now += 2
    with pytest.raises(TokenError):
        await provider.token()
    assert len(sap.requests) == 2
    assert "s3cr3t" not in caplog.text + str(caught.value) + repr(provider)


@pytest.mark.parametrize(("status", "seconds"), [("429 Too Many Requests", 30), ("503 Service Unavailable", 20)])
async def test_t05_retry_after_is_kept(
    sap: Core, provider: TokenProvider, clock: Clock, status: str, seconds: int
) -> None:
    sap.routes["/oauth/token"] = in_turn(
        answer({}, status, f"Retry-After: {seconds}\r\n"), sap.new_token(sap_request())
    )
    for _ in range(seconds - 1):
        with pytest.raises(TokenError):
            await provider.token()
        clock.now += 1
    assert len(sap.requests) == 1
    clock.now += 2
    assert await provider.token() == "token-1"


def sap_request() -> Request:
    return Request("POST / HTTP/1.1", b"")


async def test_t06_a_service_that_hangs_is_cut_and_later_requests_wait_less(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    times = TokenTimes(timeout=1.0, patience=0.2, on_demand=0.0, backoff=0.0)
    provider = TokenProvider(sap.key(), upstream, supervisor, times=times)
    sap.routes["/oauth/token"] = in_turn(None)
    started = time.monotonic()
    with pytest.raises(TokenError, match="did not answer within 1 s"):
        await provider.token()
    assert 0.9 < time.monotonic() - started < 2.0
    started = time.monotonic()
    with pytest.raises(TokenError):
        await provider.token()
    assert 0.1 < time.monotonic() - started < 0.8


@pytest.mark.parametrize(
    "reply",
    [
        answer(b"<html>"), answer(b""), answer([]), answer({}), answer({"access_token": 7}),
        answer({"access_token": ""}),
        answer({"access_token": "a\r\nX: y"}), answer(b"\xff"), answer({}, "204 No Content"), answer(b"[" * 100_000),
    ],
)  # fmt: skip
async def test_t07_garbage_is_no_token_and_no_traceback(
    sap: Core, provider: TokenProvider, reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    sap.routes["/oauth/token"] = in_turn(reply)
    with caplog.at_level(logging.INFO), pytest.raises(TokenError):
        await provider.token()
    assert "Traceback" not in caplog.text


async def test_t08_a_short_life_is_renewed_in_the_background(
    sap: Core, upstream: PooledUpstream, supervisor: Supervisor
) -> None:
    """A life of 4 s instead of 60: renewed with 1 s left, nobody waits."""
    reply = answer({"access_token": "short", "expires_in": 4})
    sap.routes["/oauth/token"] = late(0.2, in_turn(reply))
    provider = TokenProvider(sap.key(), upstream, supervisor)
    provider.start()
    await provider.token()
    waits: list[float] = []
    until = time.monotonic() + 7
    while time.monotonic() < until:
        started = time.monotonic()
        await provider.token()
        waits.append(time.monotonic() - started)
        await asyncio.sleep(0.01)
    assert max(waits) < 0.1
    assert 3 <= provider.requests <= 4


async def test_t10_two_hundred_401s_make_one_token_request(sap: Core, provider: TokenProvider) -> None:
    old = await provider.token()
    sap.routes["/oauth/token"] = late(0.1, sap.new_token)

    async def refused() -> str:
        assert provider.refused(old)
        return await provider.token()

    assert set(await asyncio.gather(*(refused() for _ in range(200)))) == {"token-2"}
    assert len(sap.requests) == 2


async def test_t11_a_401_that_goes_on_asks_once_in_five_seconds(
    sap: Core, provider: TokenProvider, clock: Clock
) -> None:
    token = await provider.token()
    worth_it = 0
    for _ in range(100):
        if provider.refused(token):
            worth_it += 1
            token = await provider.token()
        clock.now += 0.1
    assert worth_it == 2
    assert len(sap.requests) == 3
