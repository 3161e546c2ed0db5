"""Faults within a stream, after its content has begun: ends that are missing, and neighbours that flood."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise, product
from typing import Any

import httpx2
import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PROTOCOLS, body, events, said, simulate
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator
from tests.end_to_end.test_streams import assert_ends_with_an_error, connected, request_bytes
from tests.reliability.conftest import House
from tests.telemetry.reading import changed, look
from tests.telemetry.test_counts import usage_of

SAP_NAMES = {GPT: GPT, CLAUDE: "anthropic--claude-4.5-sonnet", GEMINI: GEMINI}


@pytest.mark.parametrize("model", SAP_NAMES)
def test_s03_an_orderly_end_without_a_terminal_event_counts_by_whether_the_answer_was_finished(
    house: House, model: str
) -> None:
    """A reason why it ended makes the answer whole, and its deployment healthy; without one it broke off."""
    sap_name = SAP_NAMES[model]

    def answers(garbage: str) -> list[tuple[str, httpx2.Response]]:
        """Of 40 requests; every fourth meets the fault, of these in turns of either protocol."""
        prompt = simulate(text="one two three four", garbage=garbage, at=["sub-0"])
        protocols = [PROTOCOLS[number // 4 % 2] for number in range(40)]
        return [(protocol, house.ask(protocol, model, prompt, stream=True)) for protocol in protocols]

    counted, before = look(house.proxy.http), house.received(sap_name)
    assert {said(protocol, answer) for protocol, answer in answers("unmarked")} == {"one two three four"}
    assert set(house.since(before, sap_name).values()) == {10}
    change = changed(house.proxy.http, counted, 40)
    assert change("upstream_attempts_total", outcome="ok") == change("upstream_attempts_total") == 40
    assert change("stream_errors_total") == 0

    counted, before, broken = look(house.proxy.http), house.received(sap_name), []
    for protocol, answer in answers("unended"):
        if "error" not in answer.text:
            assert said(protocol, answer) == "one two three four"
            continue
        assert answer.status_code == 200
        assert "one " in answer.text  # what came before is kept
        assert_ends_with_an_error(protocol, list(events(answer.text)))
        broken.append(protocol)
    assert set(broken) == set(PROTOCOLS)
    # five open its breaker; with the open time of a second a probe or two may follow
    assert 5 <= len(broken) == house.since(before, sap_name)["sub-0"] <= 7
    change = changed(house.proxy.http, counted, 40)
    assert change("stream_errors_total", reason="upstream_failed") == len(broken)
    assert change("upstream_attempts_total", outcome="unavailable") == len(broken)


@pytest.mark.parametrize("stream", [False, True])
def test_s11_an_answer_whose_tokens_nobody_told_is_whole_and_says_that_they_are_estimated(
    house: House, stream: bool
) -> None:
    """A relayed Chat answer tells none, which its protocol allows. Of Claude's streams Bedrock itself counts the tokens
    in the very last event."""
    text = "one two three four five six seven eight nine ten"
    counted_later = ("chat", CLAUDE) if stream else ()
    counted = look(house.proxy.http)
    for protocol, model in product(PROTOCOLS, SAP_NAMES):

        def ask(usage: bool, protocol: str = protocol, model: str = model) -> httpx2.Response:
            more = {"stream_options": {"include_usage": True}} if stream and protocol == "chat" else {}
            prompt = "Tell me. " * 40 + simulate("." if usage else "", text=text, usage=usage)
            return house.ask(protocol, model, prompt, stream=stream, **more)

        true, answer = usage_of(protocol, ask(True)), ask(False)
        assert said(protocol, answer) == text
        assert ('"estimated":true' in answer.text) == ((protocol, model) not in (counted_later, ("chat", GPT)))
        if (protocol, model) == ("chat", GPT):
            assert "_tokens" not in answer.text
        elif (protocol, model) == counted_later:
            assert usage_of(protocol, answer) == true
        else:
            given, made = usage_of(protocol, answer)
            assert true[0] / 2 < given < true[0] * 2
            assert 6 <= made <= 24
    change = changed(house.proxy.http, counted, 12)
    assert change("answers_without_usage_total") == (4 if stream else 6)


FLOODS = [("chat", GPT), ("messages", GPT), ("messages", GEMINI)]
PACE = 0.05


class Both(Simulator):
    """Two simulators as one landscape."""

    def __init__(self, one: Simulator, other: Simulator) -> None:
        super().__init__(one.url, one.process)
        self._other = other

    def service_keys(self) -> dict[str, Any]:
        return {**super().service_keys(), **self._other.service_keys()}


@pytest.fixture(scope="module")
def neighbours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """One worker. Claude has a simulator for itself: the one that floods is not fair to its own other streams."""
    home, apart = tmp_path_factory.mktemp("flooding"), tmp_path_factory.mktemp("pacing")
    flooding = {"subaccounts": [{"name": "flooding", "models": [GPT, GEMINI]}]}
    pacing = {"subaccounts": [{"name": "pacing", "models": [SAP_NAMES[CLAUDE]]}]}
    with (
        running_simulator(home, "--fast", landscape=flooding) as one,
        running_simulator(apart, "--fast", landscape=pacing) as other,
        running_proxy(home, Both(one, other), workers="1", log_level="error") as proxy,
    ):
        yield proxy


@contextmanager
def flooded(proxy: Proxy, protocol: str, model: str) -> Iterator[list[int]]:
    """A stream of another client, as fast as it can be; its events so far."""
    count = [0]
    with connected(proxy) as connection:
        endless = simulate(events=1_000_000_000, rate=1_000_000_000)
        connection.sendall(request_bytes(proxy, protocol, body(protocol, model, endless, stream=True)))
        over = threading.Event()

        def drink() -> None:
            while not over.is_set():
                count[0] += connection.recv(2**20).count(b"data: ")

        drinking = threading.Thread(target=drink)
        drinking.start()
        try:
            deadline = time.monotonic() + 5
            while count[0] < 10_000:
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield count
        finally:
            over.set()
            drinking.join()


@pytest.mark.timed
@pytest.mark.parametrize(("protocol", "model"), FLOODS)
def test_s12_a_stream_that_floods_leaves_its_neighbour_s_pace_alone(
    neighbours: Proxy, protocol: str, model: str
) -> None:
    with flooded(neighbours, protocol, model) as count, connected(neighbours) as connection:
        before, began = count[0], time.monotonic()
        paced = body("chat", CLAUDE, simulate(events=40, rate=1 / PACE), stream=True)
        connection.sendall(request_bytes(neighbours, "chat", paced))
        came, text = [began], b""
        while b"data: [DONE]" not in text:
            piece = connection.recv(65536)
            assert piece
            text += piece
            came.append(time.monotonic())
        took = time.monotonic() - began
        flood = (count[0] - before) / took

    assert flood > 10_000, f"{flood:.0f} events a second are no flood"
    assert took > 39 * PACE - 0.1
    assert max(later - earlier for earlier, later in pairwise(came)) < 10 * PACE
