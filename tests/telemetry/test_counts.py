"""Each request is counted once, whatever its end, with the tokens that the upstream counted."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from tests.end_to_end.asking import PATHS, body, events, simulate
from tests.end_to_end.conftest import Proxy, Simulator, running_proxy, running_simulator
from tests.telemetry.reading import changed, look

GPT, CLAUDE, GEMINI = "gpt-5", "anthropic--claude-4.5-sonnet", "gemini-2.5-pro"
CHAT = {"protocol": "openai_chat", "endpoint": "/v1/chat/completions"}
MESSAGES = {"protocol": "anthropic_messages", "endpoint": "/v1/messages"}
OF = {"chat": CHAT, "messages": MESSAGES}


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Simulator, Proxy]]:
    models = [GPT, CLAUDE, GEMINI, "text-embedding-3-small"]
    landscape = {"subaccounts": [{"name": f"sub-{n}", "models": models} for n in range(2)]}
    home = tmp_path_factory.mktemp("telemetry")
    with (
        running_simulator(home, "--fast", landscape=landscape) as simulator,
        running_proxy(home, simulator, log_level="error") as proxy,
    ):
        yield simulator, proxy


@pytest.fixture
def simulator(house: tuple[Simulator, Proxy]) -> Iterator[Simulator]:
    yield house[0]
    house[0].clear()


@pytest.fixture
def proxy(house: tuple[Simulator, Proxy]) -> Proxy:
    return house[1]


def usage_of(protocol: str, answer: httpx2.Response) -> tuple[int, int]:
    """Input, all of it, and output tokens, as the client is told."""
    if answer.headers["content-type"].startswith("text/event-stream"):
        told = [data for _, data in events(answer.text) if isinstance(data, dict)]
        usage: dict[str, Any] = {}
        for event in told:
            usage |= (event.get("message") or event).get("usage") or {}
    else:
        usage = answer.json()["usage"]
    if protocol == "chat":
        return usage["prompt_tokens"], usage["completion_tokens"]
    cached = usage["cache_read_input_tokens"] + usage["cache_creation_input_tokens"]
    return usage["input_tokens"] + cached, usage["output_tokens"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", ["chat", "messages"])
def test_an_answer_is_counted_once_with_its_tokens(proxy: Proxy, protocol: str, model: str, stream: bool) -> None:
    before = look(proxy.http)
    asked = body(protocol, model, simulate(text="some words of an answer", events=5), stream=stream)
    if stream and protocol == "chat":
        asked["stream_options"] = {"include_usage": True}
    answer = proxy.http.post(PATHS[protocol], json=asked)
    given, made = usage_of(protocol, answer)

    change = changed(proxy.http, before, 1)

    assert change("requests_total", status="200", **OF[protocol]) == 1
    assert change("request_duration_seconds_count", **OF[protocol]) == 1
    assert change("overhead_seconds_count", protocol=OF[protocol]["protocol"]) == 1
    assert change("overhead_seconds_sum") * 1000 >= float(answer.headers["x-aicore-proxy-overhead-ms"]) - 0.01
    assert change("upstream_attempts_total", model=model, outcome="ok") == change("upstream_attempts_total") == 1
    assert given > 0
    assert made > 0
    assert change("tokens_total", model=model, type="input") == given
    assert change("tokens_total", model=model, type="output") == made
    assert change("key_tokens_total", key="default", type="output") == made
    assert change("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == given
    assert change("gen_ai_server_request_duration_seconds_count", gen_ai_request_model=model, error_type="") == 1
    assert change("gen_ai_server_time_to_first_token_seconds_count", gen_ai_request_model=model) == stream
    assert change("gen_ai_server_time_per_output_token_seconds_count", gen_ai_request_model=model) == stream
    assert change.after.total("open_streams") == 0


def test_embeddings_lists_and_counts_are_counted(proxy: Proxy) -> None:
    before = look(proxy.http)
    proxy.http.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "words"}).raise_for_status()
    proxy.http.get("/v1/models").raise_for_status()
    proxy.http.post("/v1/messages/count_tokens", json=body("messages", CLAUDE, "Hello!")).raise_for_status()

    change = changed(proxy.http, before, 3)

    assert change("requests_total", endpoint="/v1/embeddings", status="200") == 1
    assert change("requests_total", endpoint="/v1/models", status="200") == 1
    assert change("requests_total", endpoint="/v1/messages/count_tokens", status="200") == 1
    assert change("gen_ai_client_operation_duration_seconds_count", gen_ai_operation_name="embeddings") == 1
    assert change("tokens_total", type="input", model="text-embedding-3-small") > 0


def test_refusals_are_counted_by_reason_and_name_nothing_that_a_client_sent(proxy: Proxy) -> None:
    before = look(proxy.http)
    proxy.http.post(PATHS["chat"], json=body("chat", "no-such-model-9", "Hello!"))
    proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"), headers={"authorization": "Bearer wrong"})
    proxy.http.post(PATHS["chat"], content=b"{")
    proxy.http.post("/v1/no-such-path-9", json={})
    proxy.http.get(PATHS["messages"])

    change = changed(proxy.http, before, 5)

    refused = {"model_not_found": 2, "unauthenticated": 1, "malformed": 2}
    assert {reason: change("rejected_total", reason=reason) for reason in refused} == refused
    assert change("requests_total", endpoint="unknown", status="404") == 1
    assert change("requests_total", status="405", **MESSAGES) == 1
    assert change("requests_total", status="401", **CHAT) == 1
    assert change("upstream_attempts_total") == 0
    assert "such" not in proxy.http.get("/metrics").text


@pytest.mark.parametrize("stream", [False, True])
def test_a_failover_is_one_request_of_two_attempts(proxy: Proxy, simulator: Simulator, stream: bool) -> None:
    simulator.script({"status": 503}, "sub-0")
    before = look(proxy.http)
    answers = [proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!", stream=stream)) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [200, 200]

    change = changed(proxy.http, before, 2)

    assert change("upstream_attempts_total", outcome="ok", subaccount="sub-1") == 2
    assert change("upstream_attempts_total", outcome="unavailable", subaccount="sub-0") == 1
    assert change("failovers_total", reason="unavailable") == change("failovers_total") == 1
    assert change("requests_total", status="200", **CHAT) == 2
    assert change("gen_ai_client_operation_duration_seconds_count", error_type="overloaded") == 1


@pytest.mark.parametrize(("status", "reason"), [(429, "throttled"), (500, "unavailable"), (504, "timeout")])
def test_a_request_that_fails_everywhere_is_counted_with_its_status(
    proxy: Proxy, simulator: Simulator, status: int, reason: str
) -> None:
    simulator.script({"status": status, "code": "a-code-of-the-upstream"})
    before = look(proxy.http)
    answer = proxy.http.post(PATHS["messages"], json=body("messages", CLAUDE, "Hello!"))
    assert answer.status_code == status

    change = changed(proxy.http, before, 1)

    assert change("requests_total", status=str(status), **MESSAGES) == 1
    assert change("failovers_total", reason=reason) == 1
    assert change("upstream_attempts_total", outcome=reason) == 2
    assert change("rejected_total") == 0
    assert change.after.values("failovers_total", "reason") <= {"throttled", "unavailable", "timeout"}


@pytest.mark.parametrize(("protocol", "model"), [("chat", GPT), ("chat", CLAUDE), ("messages", CLAUDE)])
def test_a_stream_that_is_cut_is_a_stream_error(proxy: Proxy, simulator: Simulator, protocol: str, model: str) -> None:
    simulator.script({"events": 20, "cut_after": 3})
    before = look(proxy.http)
    answer = proxy.http.post(PATHS[protocol], json=body(protocol, model, "Hello!", stream=True))
    assert "error" in answer.text

    change = changed(proxy.http, before, 1)

    assert change("requests_total", status="200", **OF[protocol]) == 1
    assert change("stream_errors_total", reason="upstream_failed") == change("stream_errors_total") == 1
    assert change("upstream_attempts_total", outcome="unavailable") == change("upstream_attempts_total") == 1


CASES = [
    ("upload", None, {}),
    ("waiting", False, {"delay": 30}),
    ("waiting", True, {"delay": 30}),
    ("streaming", True, {"events": 2000, "rate": 50}),
]


@pytest.mark.timed
@pytest.mark.parametrize(("phase", "stream", "script"), CASES)
@pytest.mark.parametrize(("protocol", "model"), [("messages", CLAUDE), ("chat", CLAUDE), ("chat", GPT)])
def test_a_client_that_leaves_is_counted_once_with_where_and_how_much_it_had(
    proxy: Proxy, phase: str, stream: bool | None, script: dict[str, Any], protocol: str, model: str
) -> None:
    before = look(proxy.http)
    content = json.dumps(body(protocol, model, simulate(**script), stream=bool(stream))).encode()
    head = (
        f"POST {PATHS[protocol]} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {proxy.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", proxy.port)) as connection:
        connection.settimeout(10)
        connection.sendall(head.encode() + (content if stream is not None else content[:20]))
        if phase == "streaming":
            got = b""
            while got.count(b"data: ") < 10:
                got += connection.recv(65536)
        else:
            time.sleep(0.3)
        assert look(proxy.http).total("in_flight_requests") == 1
        assert look(proxy.http).total("open_streams") == (1 if stream else 0)

    change = changed(proxy.http, before, 1)

    assert change("requests_total", status="499", **OF[protocol]) == 1
    assert change("client_disconnects_total", phase=phase) == change("client_disconnects_total") == 1
    assert change("upstream_attempts_total", outcome="cancelled") == change("upstream_attempts_total")
    assert change.after.total("open_streams") == 0
    if phase == "streaming":
        assert change("disconnect_output_tokens_count") == 1
        assert 10 <= change("disconnect_output_tokens_sum") <= 200


@pytest.mark.timed
def test_a_client_that_leaves_while_a_whole_answer_is_written_is_counted_once(
    proxy: Proxy, simulator: Simulator
) -> None:
    before = look(proxy.http)
    content = json.dumps(body("chat", GPT, simulate(events=1, event_bytes=12_000_000))).encode()
    head = (
        f"POST {PATHS['chat']} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {proxy.key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n"
    )
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", proxy.port))
        connection.settimeout(10)
        connection.sendall(head.encode() + content)
        assert b" 200 " in connection.recv(100)
        assert look(proxy.http).total("in_flight_requests") == 1

    change = changed(proxy.http, before, 1)

    assert change("requests_total", status="499", **CHAT) == 1
    assert change("client_disconnects_total", phase="writing") == change("client_disconnects_total") == 1
    assert change("upstream_attempts_total", outcome="ok") == change("upstream_attempts_total") == 1


async def test_200_at_once_are_200(proxy: Proxy, simulator: Simulator) -> None:
    simulator.script({"status": 500, "share": 0.3}, "sub-0")
    before = look(proxy.http)
    started = simulator.received()

    async with httpx2.AsyncClient(
        base_url=proxy.url,
        trust_env=False,
        timeout=60,
        headers=dict(proxy.http.headers),
        limits=httpx2.Limits(max_connections=None),
    ) as http:

        async def ask(number: int) -> int:
            model = (GPT, CLAUDE, GEMINI, "no-such-model")[number % 4]
            protocol = ("chat", "messages")[number // 4 % 2]
            asked = body(protocol, model, f"Request {number}", stream=number % 3 == 0)
            return (await http.post(PATHS[protocol], json=asked)).status_code

        statuses = await asyncio.gather(*(ask(number) for number in range(200)))

    change = changed(proxy.http, before, 200)
    assert change("requests_total", status="404") == statuses.count(404) == 50
    assert change("requests_total", status="200") == statuses.count(200) == 150
    received = {name: count - started[name] for name, count in simulator.received().items()}
    assert change("upstream_attempts_total") == sum(received.values()) >= 150
    assert change("failovers_total") == change("upstream_attempts_total") - 150
