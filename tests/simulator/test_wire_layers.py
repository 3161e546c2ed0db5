"""Which layer refuses, and in which shape (SAP AI Core wire facts, sections 8.2 and 8.3)."""

from __future__ import annotations

import re
from typing import Any

import pytest
from tests.simulator.conftest import API, Tenant

from aicore_proxy.simulator import Running, SubaccountSpec, in_thread
from aicore_proxy.simulator.landscape import Landscape


@pytest.mark.parametrize("case", ["unknown", "bare", "other_subaccount", "other_group"])
def test_wire_a_deployment_that_is_not_yours_is_404(tenants: dict[str, Tenant], simulator: Running, case: str) -> None:
    tenant = tenants["demo-eu"]
    base = f"{simulator.url}/v2/inference/deployments"
    url, group = f"{base}/{tenant.id('gpt-5')}/chat/completions{API}", "default"
    if case == "unknown":
        url = f"{base}/d00000000000000a/chat/completions{API}"
    if case == "bare":
        url = f"{base}/{tenant.id('gpt-5')}"
    if case == "other_subaccount":
        url = f"{base}/{tenants['demo-us'].id('gpt-5')}/chat/completions{API}"
    if case == "other_group":
        made = simulator.call(
            "POST", "deployments", {"subaccount": "demo-eu", "model": "gpt-5", "resource_group": "team-b"}
        )
        url = f"{base}/{made['id']}/chat/completions{API}"

    answer = tenant.http.post(url, json={"messages": []}, headers=tenant.headers(ai_resource_group=group))

    assert (answer.status_code, answer.json()["error"]) == (404, "NotFound")


def test_wire_a_stopped_deployment_is_404_or_503(tenant: Tenant, simulator: Running) -> None:
    stopped = next(d for d in simulator.deployments("gpt-4.1", "demo-eu") if d["status"] == "STOPPED")
    url = f"{simulator.url}/v2/inference/deployments/{stopped['id']}/chat/completions{API}"

    assert tenant.http.post(url, json={}, headers=tenant.headers()).status_code == 404
    simulator.switch(stopped_deployment=503)
    answer = tenant.http.post(url, json={}, headers=tenant.headers())
    assert (answer.status_code, answer.text) == (503, "no healthy upstream")


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("anthropic--claude-4.5-sonnet", "count-tokens"),
        ("anthropic--claude-4.5-sonnet", "apply-guardrail"),
        ("gpt-5", "completions"),
        ("gpt-5", "embeddings"),
        ("gpt-5.3-codex", "chat/completions"),
        ("text-embedding-3-small", "chat/completions"),
        ("gemini-2.5-flash", "models/gemini-2.5-flash:countTokens"),
        ("gemini-2.5-flash", "models/gemini-2.5-flash:embedContent"),
        ("gemini-embedding", "models/gemini-embedding:batchEmbedContents"),
    ],
)
def test_wire_subpaths_are_allowed_by_a_list(tenant: Tenant, model: str, path: str) -> None:
    answer = tenant.post(model, path, {})

    assert answer.status_code == 400
    assert answer.json() == {"error": "BadRequest", "message": f"Subpath '{path}' is not allowed for model '{model}'."}


def test_wire_answers_carry_the_request_ids(tenant: Tenant) -> None:
    answer = tenant.chat("gpt-4o")

    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])
    assert answer.headers["ai-inference-id"] == answer.headers["x-request-id"]
    assert answer.headers["x-upstream-service-time"].isdigit()


@pytest.mark.parametrize(
    ("status", "kind", "body"),
    [
        (401, "text/plain", "Jwt is expired"),
        (403, "text/plain", "RBAC: access denied"),
        (503, "text/plain", "upstream connect error"),
        (504, "text/plain", "upstream request timeout"),
        (429, "application/json", '{"error":"TooManyRequests"'),
        (404, "application/json", '{"error":"NotFound"'),
        (500, "application/json", '{"error":{"code":null'),
    ],
)
def test_wire_each_status_comes_from_its_layer(
    tenant: Tenant, simulator: Running, status: int, kind: str, body: str
) -> None:
    simulator.script({"status": status})

    answer = tenant.chat("gpt-4o")

    assert (answer.status_code, answer.headers["content-type"]) == (status, kind)
    assert answer.text.startswith(body)


@pytest.mark.parametrize(
    ("layer", "expected"),
    [
        ("edge", "Too busy"),
        ("proxy", {"error": "Busy", "message": "Too busy"}),
        ("provider", {"error": {"code": "Busy", "message": "Too busy", "param": None, "type": "rate_limit_error"}}),
    ],
)
def test_wire_the_shape_trap(tenant: Tenant, simulator: Running, layer: str, expected: Any) -> None:
    simulator.script({"status": 429, "layer": layer, "message": "Too busy", "code": "Busy"})

    answer = tenant.chat("gpt-4o")

    assert (answer.text if layer == "edge" else answer.json()) == expected


@pytest.mark.parametrize(
    ("on", "names"),
    [
        ((True, True), {"retry-after", "x-retry-after"}),
        ((True, False), {"retry-after"}),
        ((False, True), {"x-retry-after"}),
        ((False, False), set()),
    ],
)
def test_wire_throttling_names_when_to_come_back(
    tenant: Tenant, simulator: Running, on: tuple[bool, bool], names: set[str]
) -> None:
    simulator.switch(retry_after=on[0], x_retry_after=on[1])
    simulator.script({"status": 429, "retry_after": 7})

    answer = tenant.chat("gpt-4o")

    assert {name for name in ("retry-after", "x-retry-after") if answer.headers.get(name) == "7"} == names


def test_wire_throttling_of_bedrock_has_the_type_in_a_header(tenant: Tenant, simulator: Running) -> None:
    simulator.script({"status": 429, "layer": "provider"})

    answer = tenant.claude("4.5-sonnet")

    assert answer.headers["x-amzn-errortype"] == "ThrottlingException"
    assert answer.json() == {"message": "Too many tokens, please wait before trying again."}


def test_wire_throttling_of_gemini_is_googles(tenant: Tenant, simulator: Running) -> None:
    simulator.script({"status": 429, "layer": "provider"})

    error = tenant.gemini("gemini-2.5-flash").json()["error"]

    assert (error["code"], error["status"]) == (429, "RESOURCE_EXHAUSTED")


def test_wire_requests_a_minute_count_per_model_and_tenant() -> None:
    landscape = Landscape((SubaccountSpec("one", ("gpt-5", "gpt-5", "gpt-4o"), quota=3),))
    with in_thread(landscape) as simulator:
        tenant = Tenant(simulator, "one")
        ids = [deployment["id"] for deployment in simulator.deployments("gpt-5")]

        def ask(deployment: str) -> Any:
            url = f"{simulator.url}/v2/inference/deployments/{deployment}/chat/completions{API}"
            return tenant.http.post(
                url, json={"messages": [{"role": "user", "content": "hi"}]}, headers=tenant.headers()
            )

        statuses = [ask(ids[number % 2]).status_code for number in range(4)]
        # A minute may end in between: then the last one is let through, and the one after that meets the limit.
        assert statuses[:3] == [200] * 3
        last = [ask(ids[0]) for _ in range(4)][-1]
        assert (last.status_code, last.json()["error"]) == (429, "TooManyRequests")
        assert 1 <= int(last.headers["retry-after"]) <= 60
        assert tenant.chat("gpt-4o").status_code == 200, "another model has its own allowance"
        assert tenant.get("/admin/quota/model").json()[0]["quotaDetails"][0]["limit"] == 3


def test_malformed_bodies_are_refused_in_the_providers_shape(tenant: Tenant) -> None:
    for body in (b"", b"[]", b"{", b'{"a": NaN}', b"\xff", b"[" * 100_000):
        assert tenant.post("gpt-4o", f"chat/completions{API}", body).json()["error"]["type"] == "invalid_request_error"
        assert set(tenant.post("anthropic--claude-4.5-sonnet", "invoke", body).json()) == {"message"}
        gemini = tenant.post("gemini-2.5-flash", "models/gemini-2.5-flash:generateContent", body)
        assert gemini.json()["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize("value", [1, "x", [1], ["x"], {"x": 1}, [{"x": 1}], [[]], None, True])
def test_wrong_types_anywhere_are_a_400_not_a_crash(tenant: Tenant, value: Any) -> None:
    for name in ("messages", "tools", "tool_choice", "stop", "response_format", "stream_options", "temperature"):
        sent = {"messages": [{"role": "user", "content": "hi"}], name: value}
        assert tenant.post("gpt-4o", f"chat/completions{API}", sent).status_code in (200, 400), name
    for name in (
        "messages",
        "tools",
        "tool_choice",
        "system",
        "thinking",
        "stop_sequences",
        "output_config",
        "anthropic_beta",
    ):
        assert tenant.claude("4.5-sonnet", **{name: value}).status_code in (200, 400), name
    for name in ("contents", "tools", "toolConfig", "generationConfig", "systemInstruction"):
        assert tenant.gemini("gemini-2.5-flash", **{name: value}).status_code in (200, 400), name
    for name in ("messages", "system", "toolConfig", "inferenceConfig", "additionalModelRequestFields"):
        sent = {"messages": [{"role": "user", "content": [{"text": "hi"}]}], name: value}
        assert tenant.post("amazon--nova-lite", "converse", sent).status_code in (200, 400), name
