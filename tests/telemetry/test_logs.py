"""Log lines: one of JSON per request, with what an operator asks for, and nothing that is secret or said."""

from __future__ import annotations

import base64
import io
import json
import logging
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.end_to_end.asking import PATHS, body, simulate
from tests.end_to_end.conftest import KEY, Proxy, Simulator, running_proxy
from tests.telemetry.conftest import CLAUDE, GPT

from aicore_proxy.telemetry.logs import JsonLines, OneLine

MEMBERS = {
    *("time", "level", "logger", "message", "id", "key", "protocol", "endpoint", "stream", "status", "outcome"),
    *("duration_ms", "overhead_ms", "first_token_ms", "model", "deployment", "subaccount", "relayed", "affinity"),
    *("dropped", "attempts", "tokens", "traceback", "fallback", "bodies"),
}


def lines_of(proxy: Proxy, wanted: str) -> list[dict[str, Any]]:
    """Every line of the request with that id, once there is one."""
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        found = [json.loads(line) for line in proxy.lines if wanted in line]
        if any(line["message"] == "request" for line in found):
            return found
        time.sleep(0.02)
    raise AssertionError(f"no line of {wanted}:\n{''.join(proxy.lines[-20:])}")


def line_of(proxy: Proxy, wanted: str) -> dict[str, Any]:
    time.sleep(0.05)
    [line] = [line for line in lines_of(proxy, wanted) if line["message"] == "request"]
    assert set(line) <= MEMBERS
    return line


def test_a_request_is_one_line_with_the_id_that_the_client_got(lived: tuple[Simulator, Proxy]) -> None:
    _, proxy = lived
    asked = body("messages", GPT, simulate(text="fine words"), stream=True, top_k=5)
    answer = proxy.http.post(PATHS["messages"], json=asked)
    line = line_of(proxy, answer.headers["x-request-id"])

    assert line["id"] == answer.headers["request-id"]
    assert (line["level"], line["logger"]) == ("info", "aicore_proxy.access")
    assert (line["key"], line["status"], line["outcome"]) == ("default", 200, "ok")
    assert (line["protocol"], line["endpoint"], line["stream"]) == ("anthropic_messages", "/v1/messages", True)
    assert (line["model"], line["relayed"], line["dropped"]) == (GPT, False, ["top_k"])
    assert line["subaccount"] == answer.headers["x-aicore-proxy-subaccount"]
    assert line["deployment"] == answer.headers["x-aicore-proxy-deployment"]
    assert [attempt["outcome"] for attempt in line["attempts"]] == ["ok"]
    assert line["tokens"]["input"] > 0
    assert line["tokens"]["output"] > 0
    assert 0 < line["overhead_ms"] < line["first_token_ms"] <= line["duration_ms"] < 10_000


def test_at_debug_level_bodies_are_told_by_their_shape(lived: tuple[Simulator, Proxy]) -> None:
    _, proxy = lived
    asked = body("messages", GPT, "Hello!", stream=True, metadata={"user_id": "somebody"}, a_member_of_mine=[1, None])
    answer = proxy.http.post(PATHS["messages"], json=asked)
    lines_of(proxy, answer.headers["x-request-id"])
    time.sleep(0.2)
    [told] = [one["bodies"] for one in lines_of(proxy, answer.headers["x-request-id"]) if "bodies" in one]

    assert told["asked"] == {
        "model": "5 characters",
        "messages": [{"role": "user", "content": "6 characters"}],
        "stream": True,
        "max_tokens": "number",
        "metadata": {"user_id": "8 characters"},
        "other members": [["number", None]],
    }
    [attempt] = told["attempts"]
    assert attempt["status"] == 200
    assert attempt["sent"]["messages"] == [{"role": "user", "content": "6 characters"}]
    assert attempt["got"]["events"] > 3
    assert attempt["got"]["last"] == "[DONE]"
    assert told["answered"]["last"] == "message_stop"


def test_debug_is_an_option_of_the_command(lived: tuple[Simulator, Proxy], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "aicore_proxy", "serve", "--debug"]
    with running_proxy(tmp_path, lived[0], command=command, log_level="error") as proxy:
        answer = proxy.http.post(PATHS["chat"], json=body("chat", GPT, "private words"))
        lines_of(proxy, answer.headers["x-request-id"])
        time.sleep(0.2)
        told = lines_of(proxy, answer.headers["x-request-id"])
    assert [one["bodies"]["asked"]["model"] for one in told if "bodies" in one] == ["5 characters"]
    assert "private" not in "".join(proxy.lines)


def test_a_failed_request_says_what_each_attempt_came_to(lived: tuple[Simulator, Proxy]) -> None:
    simulator, proxy = lived
    simulator.script({"status": 400, "code": "a_code"})
    answer = proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
    simulator.clear()
    line = line_of(proxy, answer.headers["x-request-id"])

    assert (line["status"], line["outcome"]) == (400, "malformed")
    assert [attempt["outcome"] for attempt in line["attempts"]] == ["client_fault"]

    answer = proxy.http.post(PATHS["chat"], json=body("chat", "nothing", "Hello!"))
    line = line_of(proxy, answer.headers["x-request-id"])
    assert (line["status"], line["outcome"], line["key"]) == (404, "model_not_found", "default")
    assert "model" not in line


def test_at_debug_level_nothing_is_told_that_is_secret_or_said(lived: tuple[Simulator, Proxy]) -> None:
    """What was planted in every place of a request and an answer is in no line, whatever became of the request."""
    simulator, proxy = lived
    planted = "zq7-planted"
    text = simulate(f"{planted}-prompt", text=f"{planted}-answer", think=f"{planted}-thought")
    parameters = {"type": "object", "properties": {f"{planted}-argument": {"type": "string", "enum": [planted]}}}
    tools = [{"type": "function", "function": {"name": f"{planted}-tool", "parameters": parameters}}]
    for status in (None, 400, 429, 500):
        if status is not None:
            simulator.script({"status": status, "message": f"{planted}-words"})
        for protocol, model in (
            ("chat", GPT),
            ("messages", CLAUDE),
            ("chat", CLAUDE),
            ("messages", f"{planted}-model"),
        ):
            for stream in (False, True):
                asked = body(protocol, model, text, stream=stream, user=f"{planted}-user", unknown=f"{planted}-member")
                asked[f"{planted}-name"] = {planted: planted}
                if protocol == "chat":
                    asked["tools"] = tools
                headers = {"user-agent": f"{planted}-agent", "x-session-id": f"{planted}-session"}
                proxy.http.post(f"{PATHS[protocol]}?q={planted}-query", json=asked, headers=headers)
        simulator.clear()
    proxy.http.post(PATHS["chat"], json=body("chat", GPT, text), headers={"authorization": f"Bearer {planted}-key"})
    proxy.http.post(f"/v1/{planted}-path", json={})
    proxy.http.post(PATHS["chat"], content=f'{{"{planted}-broken'.encode())
    last = proxy.http.get("/v1/models")
    lines_of(proxy, last.headers["x-request-id"])

    told = "".join(proxy.lines) + proxy.http.get("/metrics").text
    secrets = [KEY, *(key["clientsecret"] for key in simulator.service_keys().values())]
    secrets += [base64.b64encode(secret.encode()).decode().rstrip("=") for secret in secrets]
    secrets += [secret[: len(secret) // 2 + 1] for secret in secrets]
    tokens = [e["headers"].get("authorization", "").partition(" ")[2] for e in simulator.requests()]
    secrets += [token for token in tokens if token]
    assert '"level":"debug"' in told
    assert [word for word in (planted, *secrets) if word in told] == []


def test_every_line_is_json_and_the_docs_name_its_members(lived: tuple[Simulator, Proxy]) -> None:
    _, proxy = lived
    logged = [json.loads(line) for line in proxy.lines if line.startswith("{")]
    assert len(logged) > 20
    assert {"time", "level", "logger", "message"} <= set.intersection(*(set(line) for line in logged))
    docs = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    assert [member for member in MEMBERS if f"`{member}`" not in docs] == []


def test_text_is_for_people(lived: tuple[Simulator, Proxy], tmp_path: Path) -> None:
    simulator, _ = lived
    with running_proxy(tmp_path, simulator, log_format="text") as proxy:
        answer = proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
        wanted = answer.headers["x-request-id"]
        deadline = time.monotonic() + 5
        while not (found := [line for line in proxy.lines if wanted in line]):
            assert time.monotonic() < deadline
            time.sleep(0.02)

    assert len(found) == 1
    assert " /v1/chat/completions 200 " in found[0]
    assert f"model={GPT} key=default" in found[0]
    assert "tokens=" in found[0]


@pytest.mark.parametrize("form", [JsonLines(), OneLine("%(levelname)s %(message)s")], ids=["json", "text"])
def test_a_line_is_a_line_whatever_it_says(form: logging.Formatter) -> None:
    out = io.StringIO()
    writer = logging.StreamHandler(out)
    writer.setFormatter(form)
    writer.handle(logging.makeLogRecord({"msg": "one\ntwo\u2028three %s \ud800", "args": ("\x1b[31m",)}))
    assert len(out.getvalue().splitlines()) == 1
    assert "\x1b" not in out.getvalue()
