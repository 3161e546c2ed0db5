"""Deployments with a limit: a bounded, fair queue with a deadline in front of them."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import httpx2
import pytest
from tests.end_to_end.asking import PROTOCOLS, error_of
from tests.reliability.conftest import running_house
from tests.telemetry.reading import changed, look

from aicore_proxy.gateway.queues import QueueLimits, Queues
from aicore_proxy.protocol.fault import Fault, Kind


@pytest.mark.timed
@pytest.mark.parametrize("workers", [1, 3])
def test_o02_no_deployment_gets_more_than_its_limit_and_who_waits_is_served(tmp_path: Path, workers: int) -> None:
    """Be it one worker's, or shared out over several."""
    with running_house(tmp_path, 2, deployment_limit="3", workers=str(workers)) as house:
        house.simulator.script({"delay": 0.2})
        most: Counter[str] = Counter()
        done = threading.Event()

        def look() -> None:
            while not done.is_set():
                for place in house.simulator.state()["subaccounts"].values():
                    for deployment in place["deployments"]:
                        most[deployment["id"]] = max(most[deployment["id"]], deployment["open"])
                time.sleep(0.02)

        looking = threading.Thread(target=look)
        looking.start()
        began = time.monotonic()
        with ThreadPoolExecutor(60) as pool:
            statuses = Counter(pool.map(lambda _: house.ask().status_code, range(60)))
        took = time.monotonic() - began
        done.set()
        looking.join()

        assert statuses == {200: 60}
        assert max(most.values()) <= 3
        assert took >= 60 / 6 * 0.2 * 0.9
        assert took <= 60 / 6 * 0.2 * workers + 3  # the kernel may give one worker all


@pytest.mark.timed
def test_o02_o03_a_full_queue_and_a_long_wait_end_in_an_overload(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, deployment_limit="1", queue_length="2", queue_wait="1") as house:
        house.simulator.script({"delay": 3, "at": ["sub-0"]})
        before, counted = house.received(), look(house.proxy.http)
        with ThreadPoolExecutor(10) as pool:
            first = pool.submit(house.ask)
            while house.simulator.state()["open"] == 0:
                time.sleep(0.01)
            began = time.monotonic()
            waiting = [pool.submit(house.ask) for _ in range(2)]
            time.sleep(0.2)
            for protocol, stream in product(PROTOCOLS, (False, True)):
                asked = time.monotonic()
                answer = house.ask(protocol, stream=stream)
                assert time.monotonic() - asked < 0.5
                assert answer.status_code == (503 if protocol == "chat" else 529)
                assert 1 <= int(answer.headers["retry-after"]) <= 30
                assert "as many requests as it may" in error_of(protocol, answer)["message"]
            assert [w.result().status_code for w in waiting] == [503, 503]
            assert 0.9 <= time.monotonic() - began <= 2.5
            assert first.result().status_code == 200
        assert house.since(before)["sub-0"] == 1
        change = changed(house.proxy.http, counted, 2 * len(PROTOCOLS) + 3)
        assert change("rejected_total", reason="queue") == 2 * len(PROTOCOLS) + 2
        assert change("rejected_total") == change("rejected_total", reason="queue")


@pytest.mark.timed
def test_a_client_that_leaves_the_queue_frees_its_place(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, deployment_limit="1", queue_length="1") as house:
        house.simulator.script({"delay": 2})
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(house.ask)
            while house.simulator.state()["open"] == 0:
                time.sleep(0.01)
            with pytest.raises(httpx2.TimeoutException):
                house.proxy.http.post(
                    "/v1/chat/completions",
                    json={"model": "gpt-5", "messages": [{"role": "user", "content": "Hello!"}]},
                    timeout=0.3,
                )
            second = pool.submit(house.ask)
            assert first.result().status_code == 200
            assert second.result().status_code == 200


@pytest.mark.timed
def test_a_fallback_without_room_is_refused_by_the_queue_too(tmp_path: Path) -> None:
    (tmp_path / "proxy.yaml").write_text("routing: {fallbacks: {gpt-5: [gemini-2.5-pro]}}\n")
    settings = {"config": str(tmp_path / "proxy.yaml"), "deployment_limit": "1", "queue_wait": "0.3"}
    with running_house(tmp_path, 1, **settings) as house:
        house.simulator.script({"delay": 2})
        counted = look(house.proxy.http)
        with ThreadPoolExecutor(2) as pool:
            served = [pool.submit(house.ask, model=model) for model in ("gpt-5", "gemini-2.5-pro")]
            while house.simulator.state()["open"] < 2:
                time.sleep(0.01)
            assert house.ask().status_code == 503
            assert [answer.result().status_code for answer in served] == [200, 200]
        change = changed(house.proxy.http, counted, 3)
        assert change("rejected_total", reason="queue") == change("rejected_total") == 1


def test_a_throttled_model_with_a_limit_still_ends_in_a_throttle(tmp_path: Path) -> None:
    with running_house(tmp_path, 2, deployment_limit="5", recovery_wait="0") as house:
        house.simulator.script({"status": 429, "retry_after": 45})
        assert {house.ask().status_code for _ in range(3)} == {429}


@pytest.mark.timed
def test_d32_whose_way_fails_waits_for_the_one_that_is_full(tmp_path: Path) -> None:
    with running_house(tmp_path, 2, deployment_limit="1") as house:
        house.simulator.script({"status": 500}, "sub-0")
        house.simulator.script({"delay": 0.5}, "sub-1")
        with ThreadPoolExecutor(4) as pool:
            first = pool.submit(house.ask)
            while house.simulator.state()["open"] == 0:
                time.sleep(0.01)
            others = [pool.submit(house.ask) for _ in range(3)]
            assert {answer.result().status_code for answer in (first, *others)} == {200}


# The queue itself, with a clock that the test owns


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


async def woken(places: dict[str, object], queues: Queues, count: int) -> list[str]:
    """Who has a turn, in order, each leaving with it."""
    order = []
    for _ in range(count):
        queues.freed("m")
        name = next(name for name, place in places.items() if place._woken.is_set())  # type: ignore[attr-defined]
        order.append(name)
        place = places.pop(name)
        place._woken.clear()  # type: ignore[attr-defined]
        place.leave()  # type: ignore[attr-defined]
    return order


async def test_p10_turns_go_over_the_keys() -> None:
    queues = Queues(QueueLimits(), Clock())
    places: dict[str, object] = {f"loud-{n}": queues.enter("m", "loud", 100.0) for n in range(20)}
    places |= {f"quiet-{n}": queues.enter("m", "quiet", 100.0) for n in range(2)}

    order = await woken(places, queues, 6)

    assert order == ["loud-0", "quiet-0", "loud-1", "quiet-1", "loud-2", "loud-3"]
    assert queues.waiting("m") == 16


async def test_once_the_oldest_waits_long_the_newest_goes_first() -> None:
    clock = Clock()
    queues = Queues(QueueLimits(), clock)
    places: dict[str, object] = {}
    for n in range(4):
        clock.now = float(n)
        places[f"{n}"] = queues.enter("m", "one", 100.0)
    clock.now = 6.0

    assert await woken(places, queues, 1) == ["3"]
    clock.now = 100.0
    rest = places["0"]
    with pytest.raises(Fault) as refused:
        await rest.turn()  # type: ignore[attr-defined]
    assert refused.value.kind is Kind.OVERLOADED


async def test_a_turn_that_is_not_used_goes_to_the_next() -> None:
    queues = Queues(QueueLimits(), Clock())
    first, second = queues.enter("m", "a", 100.0), queues.enter("m", "b", 100.0)
    queues.freed("m")

    first.leave()

    await asyncio.wait_for(second.turn(), 0.5)
    second.leave()
    assert queues.waiting("m") == 0
    with pytest.raises(Fault):
        for _ in range(1000):
            queues.enter("m", "c", 100.0)
    assert queues.waiting("m") == 256


def told(queues: Queues, clock: Clock) -> float | None:
    """When who is refused by the full queue is to come back, in seconds."""
    with pytest.raises(Fault) as refused:
        queues.enter("m", "one", clock.now + 100.0)
    return refused.value.retry_after


async def test_who_is_refused_is_told_the_wait_that_was_measured_while_others_waited() -> None:
    clock = Clock()
    queues = Queues(QueueLimits(length=6), clock)

    def fill() -> dict[str, object]:
        return {f"{n}": queues.enter("m", "one", clock.now + 100.0) for n in range(6 - queues.waiting("m"))}

    places = fill()
    assert told(queues, clock) == 1.0  # nothing is known yet
    clock.now = 7.0
    await woken(places, queues, 1)
    places |= fill()
    assert told(queues, clock) == 1.0  # one that was freed is no interval
    for _ in range(3):
        clock.now += 0.5
        await woken(places, queues, 1)
    fill()
    assert told(queues, clock) == pytest.approx(6 * 0.5)


async def test_a_time_in_which_nobody_waited_makes_nobody_wait_longer() -> None:
    clock = Clock()
    queues = Queues(QueueLimits(length=2), clock)
    for _ in range(20):
        places: dict[str, object] = {f"{n}": queues.enter("m", "one", clock.now + 100.0) for n in range(2)}
        clock.now += 0.75
        await woken(places, queues, 1)
        clock.now += 0.75
        await woken(places, queues, 1)
        clock.now += 1000.0
    for _ in range(2):
        queues.enter("m", "one", clock.now + 100.0)

    assert told(queues, clock) == pytest.approx(2 * 0.75)


# The proxy's own limits


@pytest.mark.timed
def test_o01_beyond_what_it_bears_requests_are_refused_at_once_in_the_client_s_protocol(tmp_path: Path) -> None:
    with running_house(tmp_path, 1, max_requests="5") as house:
        house.simulator.script({"delay": 1.5})
        before = house.received()
        with ThreadPoolExecutor(10) as pool:
            served = [pool.submit(house.ask) for _ in range(5)]
            while house.simulator.state()["open"] < 5:
                time.sleep(0.01)
            for protocol, status in (("chat", 503), ("messages", 529)):
                began = time.monotonic()
                answer = house.ask(protocol)
                assert time.monotonic() - began < 0.5
                assert answer.status_code == status
                assert answer.headers["retry-after"] == "1"
                assert "as many requests as it can bear" in error_of(protocol, answer)["message"]
            assert house.proxy.http.get("/health/live").status_code == 200
            assert {answer.result().status_code for answer in served} == {200}
        assert house.since(before)["sub-0"] == 5
        assert house.ask().status_code == 200


@pytest.mark.timed
@pytest.mark.parametrize("chunked", [False, True])
def test_o06_bodies_take_no_more_memory_than_they_may(tmp_path: Path, chunked: bool) -> None:
    with running_house(tmp_path, 1, body_memory=str(4 * 2**20)) as house:
        house.simulator.script({"delay": 1.0})
        text = "x" * (3 * 2**19)  # 1.5 MiB: two fit

        def ask() -> int:
            content = json.dumps({"model": "gpt-5", "messages": [{"role": "user", "content": text}]}).encode()
            pieces = (content[at : at + 65536] for at in range(0, len(content), 65536))
            return house.proxy.http.post("/v1/chat/completions", content=pieces if chunked else content).status_code

        with ThreadPoolExecutor(8) as pool:
            statuses = Counter(pool.map(lambda _: ask(), range(8)))
        assert statuses[200] == 2
        assert statuses[503] == 6
        house.simulator.clear()
        assert [ask() for _ in range(4)] == [200] * 4
