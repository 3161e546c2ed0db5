"""Scripts, from the control endpoint and from the prompt; state and requests (docs/simulator.md)."""

from __future__ import annotations

import asyncio
import json
import threading
import time
import urllib.error
from typing import Any

import httpx2
import pytest
from tests.simulator.conftest import API, Tenant, events, user

from aicore_proxy.simulator import Running

SONNET = "anthropic--claude-4.5-sonnet"
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}


def texts(tenant: Tenant, line: str, **more: Any) -> list[str]:
    """The text that each dialect answers to a prompt."""
    chat = tenant.chat("gpt-4o", said=line, **more).json()["choices"][0]["message"]["content"]
    claude = tenant.claude("4.5-sonnet", said=line).json()["content"]
    gemini = tenant.gemini("gemini-2.5-flash", said=line).json()["candidates"][0]["content"]["parts"]
    nova = tenant.post("amazon--nova-lite", "converse", {"messages": [user([{"text": line}])]}).json()
    return [chat, claude[-1]["text"], gemini[-1]["text"], nova["output"]["message"]["content"][-1]["text"]]


def test_the_prompt_drives_every_dialect(tenant: Tenant) -> None:
    assert texts(tenant, 'Please:\nsimulate: {"text": "Hällo"}\nthanks') == ["Hällo"] * 4


def test_the_prompt_is_found_in_nested_parts_of_the_last_user_turn(tenant: Tenant) -> None:
    parts = [{"type": "text", "text": "Look"}, {"type": "text", "text": '  simulate: {"text": "nested"}'}]
    body = {"messages": [user('simulate: {"text": "old"}'), {"role": "assistant", "content": "x"}, user(parts)]}

    answer = tenant.post("gpt-4o", f"chat/completions{API}", body).json()

    assert answer["choices"][0]["message"]["content"] == "nested"


def test_a_script_holds_where_it_is_set_until_cleared(tenants: dict[str, Tenant], simulator: Running) -> None:
    eu, us = tenants["demo-eu"], tenants["demo-us"]
    simulator.script({"text": "everywhere"})
    simulator.script({"text": "model"}, SONNET)
    simulator.script({"text": "subaccount"}, "demo-us")
    simulator.script({"text": "deployment"}, eu.id("gpt-4o"))

    def said(tenant: Tenant, model: str) -> str:
        return str(tenant.chat(model).json()["choices"][0]["message"]["content"])

    assert said(eu, "gpt-4.1") == "everywhere"
    assert eu.claude("4.5-sonnet").json()["content"][0]["text"] == "model"
    assert said(us, "gpt-4.1") == "subaccount"
    assert said(eu, "gpt-4o") == "deployment"
    assert len(simulator.call("GET", "scripts")) == 4
    simulator.clear()
    assert said(us, "gpt-4.1").startswith("This is gpt-4.1")


def test_a_fault_at_one_subaccount_leaves_the_other_normal(tenants: dict[str, Tenant]) -> None:
    line = 'simulate: {"status": 429, "at": ["demo-eu"], "text": "fine", "message": "Busy here"}'

    there = tenants["demo-eu"].chat("gpt-4o", said=line)
    here = tenants["demo-us"].chat("gpt-4o", said=line)

    assert (there.status_code, there.json()["message"]) == (429, "Busy here")
    assert here.json()["choices"][0]["message"]["content"] == "fine"


def test_times_counts_over_deployments_and_dialects_by_the_last_user_text(tenants: dict[str, Tenant]) -> None:
    line = f'simulate: {{"status": 500, "times": 3}}\n{time.time_ns()}'
    eu, us = tenants["demo-eu"], tenants["demo-us"]

    statuses = [
        eu.chat("gpt-4o", said=line).status_code,
        us.claude("4.5-sonnet", said=line).status_code,
        eu.gemini("gemini-2.5-flash", said=line).status_code,
        eu.chat("gpt-4o", said=line).status_code,
        us.chat("gpt-4o", said=line).status_code,
    ]

    assert statuses == [500, 500, 500, 200, 200]
    assert eu.chat("gpt-4o", said=line + " ").status_code == 500, "another text counts anew"


@pytest.mark.parametrize(
    ("script", "part"),
    [
        ({"statuss": 1}, "statuss"),
        ({"status": "x"}, "status"),
        ({"status": 99}, "`status` must be an HTTP status"),
        ({"rate": 0}, "`rate` must be above 0"),
        ({"delay": -1}, "`delay` must not be negative"),
        ({"times": 0}, "`times` must be at least 1"),
        ({"share": 2}, "`share` must be between 0 and 1"),
        ({"calls": [{"arguments": {}}]}, "name"),
        ({"garbage": "sweet"}, "sweet"),
    ],
)
def test_an_invalid_script_is_a_400_that_says_why(tenant: Tenant, simulator: Running, script: Any, part: str) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        simulator.script(script)
    assert refused.value.code == 400
    assert part in json.load(refused.value)["error"]

    answer = tenant.chat("gpt-4o", said=f"simulate: {json.dumps(script)}")
    assert answer.status_code == 400
    assert part in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    "body", [{"script": {}, "on": []}, {}, {"script": {}, "at": 3}, {"script": {}, "endpoint": "x"}]
)
def test_a_script_that_is_set_wrongly_is_a_400(simulator: Running, body: Any) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        simulator.call("POST", "scripts", body)
    assert refused.value.code == 400


def test_a_line_that_is_not_json_is_a_400(tenant: Tenant) -> None:
    assert "does not hold valid JSON" in tenant.chat("gpt-4o", said='simulate: {"a": }').json()["error"]["message"]


def test_calls_are_made_as_told_or_of_the_first_tool(tenant: Tenant) -> None:
    def calls(line: str, **more: Any) -> Any:
        return tenant.chat("gpt-4o", said=line, **more).json()["choices"][0]["message"].get("tool_calls")

    (told,) = calls('simulate: {"calls": [{"name": "f", "arguments": {"a": 1}, "id": "call_x"}]}')
    assert told == {"function": {"arguments": '{"a":1}', "name": "f"}, "id": "call_x", "type": "function"}
    (auto,) = calls('simulate: {"calls": "auto"}', tools=[TOOL])
    assert auto["function"] == {"arguments": '{"city":"Berlin"}', "name": "weather"}
    assert calls('simulate: {"calls": "auto"}') is None, "without tools a text"
    assert calls('simulate: {"calls": "auto"}', tools=[TOOL], tool_choice="none") is None
    (raw,) = calls('simulate: {"calls": [{"name": "f", "arguments": "{broken"}]}')
    assert raw["function"]["arguments"] == "{broken"


def test_a_tool_result_ends_the_loop(tenant: Tenant) -> None:
    line = 'simulate: {"calls": "auto", "text": "Let me see"}'
    first = tenant.chat("gpt-4o", said=line, tools=[TOOL]).json()["choices"][0]["message"]
    assert (first["content"], len(first["tool_calls"])) == ("Let me see", 1)

    result = {"role": "tool", "tool_call_id": first["tool_calls"][0]["id"], "content": "12 degrees"}
    said = {"messages": [user(line), first, result], "tools": [TOOL], "tool_choice": "required"}
    second = tenant.post("gpt-4o", f"chat/completions{API}", said).json()["choices"][0]
    assert (second["message"]["content"], second["finish_reason"]) == ("The tool answered: 12 degrees", "stop")


def test_think_is_shown_where_the_dialect_shows_thoughts(tenant: Tenant) -> None:
    line = 'simulate: {"think": "Deep thought", "text": "42"}'

    claude = tenant.claude("4.5-sonnet", said=line).json()["content"]
    assert [block["type"] for block in claude] == ["thinking", "text"]
    gemini = tenant.gemini("gemini-2.5-flash", said=line).json()["candidates"][0]["content"]["parts"]
    assert gemini[0] == {"text": "Deep thought", "thought": True}
    chat = tenant.chat("gpt-5", said=line).json()
    assert chat["choices"][0]["message"]["content"] == "42"
    assert chat["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3


@pytest.mark.parametrize(
    ("script", "chat", "claude"),
    [
        ({"finish": "length"}, "length", "max_tokens"),
        ({"finish": "content_filter"}, "content_filter", "refusal"),
    ],
)
def test_finish_reasons_as_told(tenant: Tenant, script: Any, chat: str, claude: str) -> None:
    line = f"simulate: {json.dumps(script)}"

    assert tenant.chat("gpt-4o", said=line).json()["choices"][0]["finish_reason"] == chat
    assert tenant.claude("4.5-sonnet", said=line).json()["stop_reason"] == claude


def test_events_are_numbered_or_of_a_size(tenant: Tenant) -> None:
    frames = events(tenant.chat("gpt-4o", said='simulate: {"events": 5}', stream=True))
    assert "".join(frame["choices"][0]["delta"].get("content", "") for frame in frames[1:-1]) == "e0 e1 e2 e3 e4 "

    frames = events(tenant.claude("4.5-sonnet", said='simulate: {"events": 3, "event_bytes": 5000}', streamed=True))
    deltas = [frame["delta"]["text"] for frame in frames if frame["type"] == "content_block_delta"]
    assert [len(delta) for delta in deltas] == [5000] * 3
    usage = tenant.claude("4.5-sonnet", said='simulate: {"usage": false}').json()
    assert "usage" not in usage


@pytest.mark.timed
def test_rate_delay_and_stall_take_their_time(tenant: Tenant) -> None:
    def timed(script: dict[str, Any], stream: bool = True) -> tuple[float, float]:
        """Seconds until the first event and until the end."""
        began = time.monotonic()
        said = {"messages": [user(f"simulate: {json.dumps(script)}")], "stream": stream}
        url = f"{tenant.url('gpt-4o')}/chat/completions{API}"
        first = 0.0
        with tenant.http.stream("POST", url, json=said, headers=tenant.headers()) as answer:
            for _ in answer.iter_raw():
                first = first or time.monotonic() - began
        return first, time.monotonic() - began

    first, end = timed({"events": 11, "rate": 20})
    assert first < 0.4
    assert 0.5 <= end < 1.5, "10 gaps of 50 ms"
    first, end = timed({"delay": 0.4})
    assert 0.4 <= first <= end < 1.4
    first, end = timed({"stall": 0.4})
    assert first < 0.4 <= end < 1.4
    first, end = timed({"stall": 0.4}, stream=False)
    assert first < 0.4 <= end < 1.4


def test_each_event_leaves_before_the_next_is_made(tenant: Tenant) -> None:
    said = {"messages": [user('simulate: {"events": 4, "rate": 5}')], "stream": True}
    url = f"{tenant.url('gpt-4o')}/chat/completions{API}"
    seen, whole = [], b""
    with tenant.http.stream("POST", url, json=said, headers=tenant.headers()) as answer:
        for chunk in answer.iter_raw():
            whole += chunk
            seen.append(whole.count(b'"content":"e') if whole.endswith(b"\n\n") else -1)

    assert {1, 2, 3} <= set(seen)


@pytest.mark.parametrize(
    "script", [{"cut_after": 2}, {"cut_after": 0}, {"cut_bytes": 300}, {"cut_after": 1, "reset": True}, {"reset": True}]
)
@pytest.mark.parametrize("streamed", [True, False])
def test_a_cut_is_seen_as_one(tenant: Tenant, script: dict[str, Any], streamed: bool) -> None:
    line = f"simulate: {json.dumps(script)}"

    with pytest.raises(httpx2.TransportError):
        tenant.chat("gpt-4o", said=line, stream=streamed)
    with pytest.raises(httpx2.TransportError):
        tenant.claude("4.5-sonnet", said=line, streamed=streamed)


def test_cut_bytes_cuts_after_exactly_so_many(tenant: Tenant) -> None:
    said = {"messages": [user('simulate: {"cut_bytes": 333}')], "stream": True}
    got = b""
    with (
        pytest.raises(httpx2.TransportError),
        tenant.http.stream(
            "POST", f"{tenant.url('gpt-4o')}/chat/completions{API}", json=said, headers=tenant.headers()
        ) as answer,
    ):
        for chunk in answer.iter_raw():
            got += chunk
    assert len(got) == 333


@pytest.mark.parametrize(
    ("garbage", "part"),
    [
        ("json", '{"broken"'),
        ("unknown", "simulated_unknown"),
        ("nul", "\0"),
        ("after", "simulated_afterwards"),
        ("html", "<html>"),
        ("foreign", '{"hello": "world"}'),
    ],
)
def test_garbage_in_a_stream(tenant: Tenant, garbage: str, part: str) -> None:
    answer = tenant.chat("gpt-4o", said=f'simulate: {{"garbage": "{garbage}"}}', stream=True)

    assert answer.status_code == 200
    assert part in answer.text


def test_garbage_of_other_kinds(tenant: Tenant) -> None:
    unended = tenant.chat("gpt-4o", said='simulate: {"garbage": "unended"}', stream=True).text
    assert "[DONE]" not in unended
    assert '"finish_reason":"stop"' not in unended
    unmarked = tenant.chat("gpt-4o", said='simulate: {"garbage": "unmarked"}', stream=True).text
    assert "[DONE]" not in unmarked
    assert '"finish_reason":"stop"' in unmarked
    claude = tenant.claude("4.5-sonnet", said='simulate: {"garbage": "unmarked"}', streamed=True).text
    assert claude.rstrip().rpartition("\n")[2].startswith('data: {"type":"message_delta"')
    long = tenant.chat("gpt-4o", said='simulate: {"garbage": "long"}', stream=True).content
    assert max(len(line) for line in long.splitlines()) >= 10 * 1024 * 1024
    with pytest.raises(json.JSONDecodeError):
        tenant.chat("gpt-4o", said='simulate: {"garbage": true}').json()
    html = tenant.chat("gpt-4o", said='simulate: {"garbage": "html", "status": 502}')
    assert (html.status_code, html.headers["content-type"]) == (502, "text/html")
    assert tenant.chat("gpt-4o", said='simulate: {"empty": true}').content == b""
    assert tenant.chat("gpt-4o", said='simulate: {"empty": true}', stream=True).content == b""


@pytest.mark.parametrize("framing", ["crlf", "cr", "no_space", "comments", "events", "blank", "bytes"])
def test_other_spellings_of_the_same_stream(tenant: Tenant, framing: str) -> None:
    answer = tenant.chat("gpt-4o", said=f'simulate: {{"framing": "{framing}", "text": "same"}}', stream=True)

    lines = answer.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    data = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    assert data[-1] == "[DONE]"
    assert [json.loads(payload)["choices"][0]["delta"]["content"] for payload in data[2:-2]] == ["same"]
    marks = {"crlf": "\r\n", "cr": "\r", "no_space": "data:{", "comments": ": ", "events": "event: ", "blank": "\n\n\n"}
    assert marks.get(framing, "data: ") in answer.text


def test_own_bodies_headers_and_raw_bytes(tenant: Tenant) -> None:
    script = {
        "status": 418,
        "body": {"own": 1},
        "headers": {"x-own": "yes"},
        "content_type": "application/problem+json",
    }
    answer = tenant.chat("gpt-4o", said=f"simulate: {json.dumps(script)}")
    assert (answer.status_code, answer.json(), answer.headers["x-own"]) == (418, {"own": 1}, "yes")
    assert answer.headers["content-type"] == "application/problem+json"

    large = tenant.chat("gpt-4o", said='simulate: {"status": 500, "body": "", "body_bytes": 1000000}')
    assert len(large.content) == 1_000_000
    moved = tenant.chat(
        "gpt-4o", said='simulate: {"status": 307, "body": "", "headers": {"location": "http://127.0.0.1:1/"}}'
    )
    assert (moved.status_code, moved.headers["location"]) == (307, "http://127.0.0.1:1/")
    raw = r'simulate: {"raw": "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nshort"}'
    with pytest.raises(httpx2.TransportError):
        tenant.chat("gpt-4o", said=raw)


def test_silent_close_ends_the_connection_after_the_answer(tenant: Tenant, simulator: Running) -> None:
    simulator.script({"silent_close": True})

    answer = tenant.chat("gpt-4o")

    assert answer.status_code == 200
    assert "connection" not in answer.headers


def test_every_share_and_concurrency_choose_requests(tenant: Tenant, simulator: Running) -> None:
    simulator.script({"status": 500, "every": 2}, "gpt-4o")
    assert [tenant.chat("gpt-4o").status_code for _ in range(6)] == [200, 500] * 3

    simulator.script({"status": 500, "share": 0.5}, "gpt-4o")
    failed = sum(tenant.chat("gpt-4o").status_code == 500 for _ in range(40))
    assert 5 < failed < 35

    simulator.script({"status": 429, "concurrency": 2, "events": 3, "rate": 5}, "gpt-4o")
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(tenant.chat("gpt-4o", stream=True).status_code))
        for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, 200, 429, 429, 429]


def test_an_early_answer_does_not_wait_for_the_body(tenant: Tenant, simulator: Running) -> None:
    simulator.script({"early": True, "status": 429, "retry_after": 1}, "gpt-4o")
    received: list[bytes] = []

    async def ask() -> None:
        host, port = simulator.url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = f"POST /v2/inference/deployments/{tenant.id('gpt-4o')}/chat/completions{API} HTTP/1.1\r\nhost: x\r\n"
        writer.write(
            f"{head}authorization: Bearer {tenant.token}\r\nai-resource-group: "
            "default\r\ncontent-length: 20000000\r\n\r\n".encode()
        )
        received.append(await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5))
        writer.close()

    asyncio.run(ask())
    assert received[0].startswith(b"HTTP/1.1 429 ")
    assert b"retry-after: 1\r\n" in received[0]


def test_state_and_requests_show_what_came(tenant: Tenant, simulator: Running) -> None:
    def counted() -> int:
        return int(simulator.deployments("gpt-4.1", "demo-eu")[0]["received"])

    before = counted()
    simulator.call("DELETE", "requests")
    tenant.chat("gpt-4.1", said="One")
    tenant.chat("gpt-4.1", said='simulate: {"status": 500}')
    tenant.post("gpt-4.1", f"chat/completions{API}", b"not json", authorization=None)

    assert counted() == before + 3, "failed ones count, too"
    state = simulator.state()
    assert next(iter(state)) == "open"
    assert state["open"] == 0
    assert set(state["subaccounts"]) == {"demo-eu", "demo-us"}
    one, two, three = simulator.requests()
    assert (one["subaccount"], one["deployment"], one["method"]) == ("demo-eu", tenant.id("gpt-4.1"), "POST")
    assert one["path"] == f"/v2/inference/deployments/{tenant.id('gpt-4.1')}/chat/completions"
    assert one["query"] == {"api-version": "2024-10-21"}
    assert one["body"] == {"messages": [user("One")]}
    assert one["headers"]["ai-resource-group"] == "default"
    assert three["body"] == "not json"
    assert abs(time.time() - two["at"]) < 60


def test_what_there_is_not_is_a_404(simulator: Running) -> None:
    for method, path in (
        ("GET", "nothing"),
        ("DELETE", "deployments/d0"),
        ("PATCH", "subaccounts/none"),
        ("DELETE", "tokens?at=none"),
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            simulator.call(method, path, {})
        assert refused.value.code == 404


def test_switches_are_shown_and_checked(simulator: Running) -> None:
    assert simulator.call("GET", "switches")["strict"] is False
    with pytest.raises(urllib.error.HTTPError) as refused:
        simulator.call("PATCH", "switches", {"converse_stream": "yaml"})
    assert refused.value.code == 400
