"""Another deployment answers when one fails, whatever the fault, until the first content; turns are exact."""

from __future__ import annotations

import asyncio
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PATHS, PROTOCOLS, body, error_of, said, simulate
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator

FAULTS: list[dict[str, Any]] = [
    {"status": 408},
    {"status": 429},
    {"status": 500},
    {"status": 502},
    {"status": 503},
    {"status": 529},
    {"status": 403},
    {"status": 404},
    {"status": 401},
    {"empty": True},
    {"garbage": "html"},
    {"reset": True},
    {"error_after": 0},
    {"cut_after": 0},
]


CASES = [
    (stream, fault)
    for stream in (False, True)
    for fault in FAULTS
    if stream or not {"error_after", "cut_after"} & fault.keys()  # these are faults of streams
]


@pytest.mark.parametrize(("stream", "fault"), CASES, ids=str)
@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_d05_d18_d21_d23_a_fault_of_one_subaccount_is_none_of_the_client_s(
    proxy: Proxy, simulator: Simulator, protocol: str, model: str, stream: bool, fault: dict[str, Any]
) -> None:
    prompt = simulate(text="fine", at=["demo-eu"], **fault)
    answers = [proxy.http.post(PATHS[protocol], json=body(protocol, model, prompt, stream=stream)) for _ in range(4)]

    assert [said(protocol, answer) for answer in answers] == ["fine"] * 4
    assert {answer.headers["x-aicore-proxy-subaccount"] for answer in answers} == {"demo-us"}
    assert "2" in {answer.headers["x-aicore-proxy-attempts"] for answer in answers}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_d14_a_client_s_own_mistake_is_asked_once(proxy: Proxy, simulator: Simulator, protocol: str) -> None:
    before = sum(simulator.received().values())

    answer = proxy.http.post(
        PATHS[protocol], json=body(protocol, CLAUDE, simulate(status=400, message="No such thing"))
    )

    assert answer.status_code == 400
    assert "No such thing" in error_of(protocol, answer)["message"]
    assert sum(simulator.received().values()) == before + 1


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_d23_a_page_in_place_of_an_answer_is_called_so(proxy: Proxy, protocol: str, model: str, stream: bool) -> None:
    answer = proxy.http.post(PATHS[protocol], json=body(protocol, model, simulate(garbage="html"), stream=stream))

    assert answer.status_code == 502
    assert error_of(protocol, answer)["message"] == "SAP AI Core answered with an HTML page."


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (429, {"chat": 429, "messages": 429}),
        (500, {"chat": 500, "messages": 500}),
        (503, {"chat": 503, "messages": 529}),
        (529, {"chat": 503, "messages": 529}),
        (403, {"chat": 502, "messages": 502}),
        (404, {"chat": 502, "messages": 502}),
        (401, {"chat": 502, "messages": 502}),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_when_all_fail_the_client_is_told_in_its_protocol(
    proxy: Proxy, simulator: Simulator, protocol: str, stream: bool, status: int, told: dict[str, int]
) -> None:
    before = simulator.received()
    prompt = simulate(status=status, retry_after=7, message="the upstream's own words")

    answer = proxy.http.post(PATHS[protocol], json=body(protocol, GEMINI, prompt, stream=stream))

    assert answer.status_code == told[protocol]
    assert error_of(protocol, answer)["message"]
    if status in (429, 503, 529):
        assert answer.headers["retry-after"] == "7"
        assert answer.headers["retry-after-ms"] == "7000"
    asked = {id_: count - before[id_] for id_, count in simulator.received().items() if count != before[id_]}
    # each of the plan once; a 401 twice: once more with a fresh token
    assert set(asked.values()) == ({2} if status == 401 else {1})
    assert len(asked) >= 2


@pytest.mark.parametrize("stream", [False, True])
def test_an_error_says_whom_it_was_asked_of(proxy: Proxy, stream: bool) -> None:
    asked = body("chat", GPT, simulate(status=500), stream=stream)
    answer = proxy.http.post(PATHS["chat"], json=asked)

    assert answer.status_code == 500
    assert int(answer.headers["x-aicore-proxy-attempts"]) >= 2
    assert answer.headers["x-aicore-proxy-subaccount"] in ("demo-eu", "demo-us")


def test_d12_a_revoked_token_is_renewed_once_for_all(tmp_path: Path) -> None:
    # A simulator of its own: others' proxies, which have just renewed theirs for a scripted 401, would wait for 5 s
    with running_simulator(tmp_path) as simulator, running_proxy(tmp_path, simulator) as proxy:
        asked = simulator.state()["subaccounts"]["demo-eu"]["token_requests"]
        simulator.revoke_tokens()
        with ThreadPoolExecutor(20) as pool:
            answers = pool.map(
                lambda _: proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!")).status_code, range(40)
            )
        assert Counter(answers) == {200: 40}
        assert simulator.state()["subaccounts"]["demo-eu"]["token_requests"] == asked + 1


async def test_turns_are_exact_under_concurrency_through_every_endpoint(
    four: tuple[Simulator, Proxy],
) -> None:
    simulator, proxy = four
    headers = {"Authorization": f"Bearer {proxy.key}"}
    requests = [
        ("/v1/chat/completions", "gpt-5", body("chat", "gpt-5", "Hello!")),
        ("/v1/messages", "anthropic--claude-4.5-sonnet", body("messages", CLAUDE, "Hello!")),
        ("/v1/messages", "gemini-2.5-pro", body("messages", GEMINI, "Hello!", stream=True)),
        ("/v1/embeddings", "text-embedding-3-small", {"model": "text-embedding-3-small", "input": "a"}),
    ]
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(proxy.url, connector=connector, headers=headers) as http:
        for path, model, asked in requests:
            before = simulator.received_by_subaccount(model)

            async def once(path: str = path, asked: dict[str, Any] = asked) -> int:
                async with http.post(path, json=asked) as answer:
                    await answer.read()
                    return answer.status

            statuses = await asyncio.gather(*(once() for _ in range(1000)))

            assert Counter(statuses) == {200: 1000}
            after = simulator.received_by_subaccount(model)
            assert {place: after[place] - before[place] for place in after} == dict.fromkeys(after, 250)


def test_answers_explain_themselves_unless_they_are_not_to(tmp_path: Path, simulator: Simulator) -> None:
    with running_proxy(tmp_path, simulator, explain="false") as proxy:
        asked = body("messages", GPT, "Hello!", top_k=5)
        answer = proxy.http.post(PATHS["messages"], json=asked)

    assert answer.status_code == 200
    assert [name for name in answer.headers if name.startswith("x-aicore-proxy-")] == ["x-aicore-proxy-dropped"]
