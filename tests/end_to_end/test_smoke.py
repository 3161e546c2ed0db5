"""The thin path: both client protocols, streamed and not, against all three model families."""

from __future__ import annotations

import time

import pytest
from tests.end_to_end.asking import (
    CLAUDE,
    GEMINI,
    GPT,
    MODELS,
    PATHS,
    PROTOCOLS,
    body,
    error_of,
    events,
    said,
    simulate,
)
from tests.end_to_end.conftest import Proxy, Simulator


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_reaches_every_family(proxy: Proxy, protocol: str, model: str, stream: bool) -> None:
    asked = body(protocol, model, simulate(text="The answer is 42."), stream=stream)

    answer = proxy.http.post(PATHS[protocol], json=asked)

    assert said(protocol, answer) == "The answer is 42."
    assert answer.headers["x-aicore-proxy-attempts"] == "1"


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_usage_is_told_in_full(proxy: Proxy, protocol: str, model: str) -> None:
    usage = proxy.http.post(PATHS[protocol], json=body(protocol, model, "Hello!")).json()["usage"]

    if protocol == "chat":
        assert usage["prompt_tokens"] > 0
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    else:
        assert usage["input_tokens"] > 0
        assert usage["output_tokens"] > 0


def test_the_model_list_has_openai_s_shape_and_anthropic_s(proxy: Proxy) -> None:
    openai = proxy.http.get("/v1/models").json()
    anthropic = proxy.http.get("/v1/models?limit=1000", headers={"anthropic-version": "2026-10-21"}).json()

    ids = [model["id"] for model in openai["data"]]
    assert {"gpt-5", "claude-sonnet-4-5", "anthropic--claude-4.5-sonnet", "gemini-2.5-pro"} <= set(ids)
    assert openai["object"] == "list"
    assert [model["id"] for model in anthropic["data"]] == ids
    assert {model["type"] for model in anthropic["data"]} == {"model"}
    assert "Claude Sonnet 4.5" in {model["display_name"] for model in anthropic["data"]}
    assert anthropic["has_more"] is False
    assert proxy.http.get("/v1/models/claude-sonnet-4-5").json()["owned_by"] == "anthropic"
    assert "gpt-5.3-codex" not in ids  # only through Responses


def test_anthropic_s_list_is_paged(proxy: Proxy) -> None:
    headers = {"anthropic-version": "2026-10-21"}
    whole = [m["id"] for m in proxy.http.get("/v1/models", headers=headers).json()["data"]]
    seen: list[str] = []
    after = ""
    for _ in range(len(whole)):
        page = proxy.http.get(f"/v1/models?limit=3{after}", headers=headers).json()
        seen += [m["id"] for m in page["data"]]
        after = f"&after_id={page['last_id']}"
        if not page["has_more"]:
            break

    assert seen == whole
    assert proxy.http.get("/v1/models?limit=0", headers=headers).status_code == 400


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_unknown_model_is_a_404_with_near_names(proxy: Proxy, protocol: str) -> None:
    answer = proxy.http.post(PATHS[protocol], json=body(protocol, "gpt-5-mni", "Hello!"))

    assert answer.status_code == 404
    error = error_of(protocol, answer)
    assert "gpt-5-mini" in error["message"]
    assert error.get("code", "model_not_found") == "model_not_found"
    assert error["type"] == {"chat": "invalid_request_error", "messages": "not_found_error"}[protocol]


def test_embeddings_reach_azure(proxy: Proxy, simulator: Simulator) -> None:
    asked = {"model": "text-embedding-3-small", "input": ["a", "b"], "dimensions": 8}

    answer = proxy.http.post("/v1/embeddings", json=asked).json()

    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert len(answer["data"][0]["embedding"]) == 8
    assert answer["usage"]["prompt_tokens"] > 0
    assert simulator.requests()[-1]["body"]["input"] == ["a", "b"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("stream", [False, True])
def test_a_model_for_embeddings_gives_no_answers_and_the_other_way_round(
    proxy: Proxy, simulator: Simulator, protocol: str, stream: bool
) -> None:
    before = simulator.received()
    asked = body(protocol, "text-embedding-3-small", "Hello!", stream=stream)
    refused = proxy.http.post(PATHS[protocol], json=asked)
    assert refused.status_code == 400
    assert "/v1/embeddings" in error_of(protocol, refused)["message"]
    refused = proxy.http.post("/v1/embeddings", json={"model": GPT, "input": "Hello!"})
    assert refused.status_code == 400
    assert "makes no embeddings" in error_of("chat", refused)["message"]
    assert simulator.received() == before


def test_tokens_are_counted_as_an_estimate(proxy: Proxy) -> None:
    asked = body("messages", CLAUDE, "How many tokens may this be?")
    del asked["max_tokens"]

    answer = proxy.http.post("/v1/messages/count_tokens?beta=true", json=asked)

    assert answer.headers["x-aicore-proxy-estimate"] == "true"
    assert 5 < answer.json()["input_tokens"] < 40


@pytest.mark.parametrize(
    "path",
    ["/health", "/health/live", "/health/liveliness", "/health/ready", "/health/readiness", "/healthz", "/readyz"],
)
def test_i21_health_needs_no_key_and_tells_no_more_than_the_status(proxy: Proxy, path: str) -> None:
    answer = proxy.http.get(path, headers={"Authorization": ""})

    assert answer.status_code == 200
    assert list(answer.json()) == ["status"]


def test_probes_of_coding_tools_are_answered(proxy: Proxy) -> None:
    assert proxy.http.head("/").status_code == 200
    assert proxy.http.head("/api/hello").status_code == 200


@pytest.mark.parametrize(
    "path", ["/v1/v1/chat/completions", "/chat/completions", "/openai/v1/chat/completions", "//v1/chat/completions/"]
)
def test_a_base_url_with_a_version_too_many_or_too_few_is_understood(proxy: Proxy, path: str) -> None:
    assert proxy.http.post(path, json=body("chat", GPT, "Hello!")).status_code == 200


def test_an_unknown_path_and_a_wrong_method_are_told_in_the_protocol(proxy: Proxy) -> None:
    unknown = proxy.http.get("/v1/nothing")
    wrong = proxy.http.get("/v1/messages")

    assert unknown.status_code == 404
    assert error_of("chat", unknown)["code"] == "not_found"
    assert wrong.status_code == 405
    assert wrong.headers["allow"] == "POST"
    assert "POST" in error_of("messages", wrong)["message"]


def test_the_openapi_page_shows_every_endpoint(proxy: Proxy) -> None:
    paths = proxy.http.get("/openapi.json").json()["paths"]

    assert {*PATHS.values(), "/v1/models", "/v1/models/{model}", "/v1/embeddings", "/health", "/metrics"} <= set(paths)
    assert proxy.http.get("/docs").status_code == 200


def test_metrics_show_loop_lag_and_requests_in_flight(proxy: Proxy) -> None:
    proxy.http.post(PATHS["chat"], json=body("chat", GPT, "Hello!"))
    deadline = time.monotonic() + 2
    while "aicore_proxy_in_flight_requests 0.0" not in (text := proxy.http.get("/metrics").text):
        assert time.monotonic() < deadline
        time.sleep(0.01)

    assert "aicore_proxy_loop_lag_seconds " in text
    assert 'aicore_proxy_requests_total{endpoint="/v1/chat/completions",protocol="openai_chat",status="200"}' in text


@pytest.mark.parametrize("model", [CLAUDE, GEMINI])
def test_a_stream_is_told_piece_by_piece(proxy: Proxy, model: str) -> None:
    asked = body("chat", model, simulate(text="one two three", events=3), stream=True)

    answer = proxy.http.post(PATHS["chat"], json=asked)

    pieces = [data for _, data in events(answer.text) if data != "[DONE]"]
    assert len([p for p in pieces if p["choices"] and p["choices"][0]["delta"].get("content")]) >= 2
