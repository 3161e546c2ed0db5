"""What clients send wrong: a 4xx in their protocol with a sentence that helps, never a 5xx. And what never goes up."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, PATHS, PROTOCOLS, body, error_of, said
from tests.end_to_end.conftest import KEY, Proxy, Simulator, running_proxy

BAD_BODIES: list[tuple[str, bytes, str]] = [
    ("nothing", b"", "JSON"),
    ("no JSON", b"hello", "JSON"),
    ("cut", b'{"model": "gpt-5", "messages": [', "JSON"),
    ("an array", b"[]", "object"),
    ("a string", b'"gpt-5"', "object"),
    ("NaN", b'{"model": "gpt-5", "temperature": NaN}', "JSON"),
    ("invalid UTF-8", b'{"model": "gpt-5\xff"}', "UTF-8"),
    ("a bomb", b'{"model": "gpt-5", "messages": ' + b"[" * 100_000, "nested"),
    ("no model", b'{"messages": []}', "model"),
    ("a model that is no string", b'{"model": 5, "messages": []}', "model"),
    ("a stream that is no flag", b'{"model": "gpt-5", "stream": "yes", "messages": []}', "stream"),
    ("an empty model", b'{"model": "", "messages": []}', "model"),
]


BAD_REQUESTS = [
    pytest.param(path, content, hint, id=f"{name} to {path}")
    for path in (*PATHS.values(), "/v1/messages/count_tokens", "/v1/embeddings")
    for name, content, hint in BAD_BODIES
    if path in PATHS.values() or b"stream" not in content
]


@pytest.mark.parametrize(("path", "content", "hint"), BAD_REQUESTS)
def test_i01_i03_a_bad_body_is_told_in_the_protocol(proxy: Proxy, path: str, content: bytes, hint: str) -> None:
    answer = proxy.http.post(path, content=content, headers={"content-type": "application/json"})

    assert answer.status_code == 400
    assert hint in error_of("messages" if "/messages" in path else "chat", answer)["message"]


WRONG_SHAPES: list[dict[str, Any]] = [
    {"messages": "hello"},
    {"messages": None},
    {"messages": [None]},
    {"messages": [{"role": "user"}]},
    {"messages": [{"role": 5, "content": "x"}]},
    {"messages": [{"role": "user", "content": [{"type": "text"}]}]},
    {"messages": [{"role": "user", "content": 12345678901234567890123}]},
    {"max_tokens": "many"},
    {"max_tokens": 1e400 if False else -1},
    {"temperature": "hot"},
    {"tools": {}},
    {"tools": [5]},
    {"tools": [{"type": "function"}]},
    {"tool_choice": 7},
    {"stop": 5, "stop_sequences": 5},
    {"response_format": "json", "output_config": "json"},
]


@pytest.mark.parametrize("wrong", WRONG_SHAPES, ids=str)
@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_wrong_type_is_a_4xx_whoever_finds_it(proxy: Proxy, protocol: str, model: str, wrong: dict[str, Any]) -> None:
    answer = proxy.http.post(PATHS[protocol], json={**body(protocol, model, "Hello!"), **wrong})

    assert answer.status_code in (200, 400, 404, 422), answer.text
    if answer.status_code != 200:
        assert len(error_of(protocol, answer)["message"]) > 10


def test_a_member_that_stands_twice_means_one_thing(proxy: Proxy, simulator: Simulator) -> None:
    content = b'{"model": "gpt-4o", "model": "gpt-5", "messages": [], "messages": [{"role": "user", "content": "x"}]}'

    answer = proxy.http.post(PATHS["chat"], content=content)

    assert answer.headers["x-aicore-proxy-model"] == "gpt-5"
    assert simulator.requests()[-1]["body"]["messages"] == [{"role": "user", "content": "x"}]


@pytest.mark.parametrize(
    ("encoding", "pack"),
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("identity", bytes)],
)
def test_compressed_bodies_are_read(proxy: Proxy, encoding: str, pack: Any) -> None:
    content = pack(json.dumps(body("chat", GPT, "Hello!")).encode())

    answer = proxy.http.post(PATHS["chat"], content=content, headers={"content-encoding": encoding})

    assert said("chat", answer)


def test_zstd_is_read_and_what_is_not_read_is_a_415(proxy: Proxy) -> None:
    try:
        from compression import zstd
    except ImportError:
        from backports import zstd
    content = zstd.compress(json.dumps(body("messages", GPT, "Hello!")).encode())

    assert said("messages", proxy.http.post(PATHS["messages"], content=content, headers={"content-encoding": "zstd"}))
    refused = proxy.http.post(PATHS["messages"], content=content, headers={"content-encoding": "br"})
    assert refused.status_code == 415
    assert "gzip" in error_of("messages", refused)["message"]


def test_i02_a_bomb_is_stopped_while_it_inflates(proxy: Proxy) -> None:
    content = gzip.compress(b" " * (80 * 1024 * 1024))

    answer = proxy.http.post(PATHS["chat"], content=content, headers={"content-encoding": "gzip"})

    assert answer.status_code == 413
    assert error_of("chat", answer)["code"] == "request_too_large"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_keys_are_taken_from_all_the_usual_places(proxy: Proxy, protocol: str) -> None:
    ways: list[tuple[dict[str, str], str]] = [
        ({"Authorization": f"Bearer {KEY}"}, ""),
        ({"Authorization": f"bearer {KEY}"}, ""),
        ({"x-api-key": KEY}, ""),
        ({"api-key": KEY}, ""),
        ({"x-goog-api-key": KEY}, ""),
        ({}, f"?key={KEY}"),
        ({"Authorization": f"Bearer {KEY}", "x-api-key": KEY}, ""),
    ]
    for headers, query in ways:
        headers = {"Authorization": "", **headers}
        answer = proxy.http.post(PATHS[protocol] + query, json=body(protocol, GPT, "Hello!"), headers=headers)
        assert answer.status_code == 200, (headers, query, answer.text)


@pytest.fixture(scope="module")
def guarded(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    """A proxy of its own for wrong keys: too many of them are slowed."""
    with running_proxy(tmp_path_factory.mktemp("guarded"), simulator) as proxy:
        yield proxy


def test_i05_i06_without_the_right_key_nothing_is_served_and_guessers_are_slowed(guarded: Proxy) -> None:
    wrongs = [
        {"Authorization": ""},
        {"Authorization": f"Bearer {KEY[:-1]}"},
        {"Authorization": "", "cookie": f"key={KEY}"},
    ]
    for path in [*PATHS.values(), "/v1/models", "/v1/embeddings", "/v1/messages/count_tokens", "/v1/models/gpt-5"]:
        for wrong in wrongs:
            answer = guarded.http.request("GET" if "models" in path else "POST", path, headers=wrong)
            assert answer.status_code == 401
            error = error_of("messages" if "/messages" in path else "chat", answer)
            assert KEY[:-1] not in answer.text
            assert error["type"] in ("authentication_error", "invalid_request_error")

    statuses = [
        guarded.http.get(
            "/v1/models", headers={"x-api-key": f"guess-{n}", "X-Forwarded-For": f"10.0.0.{n}"}
        ).status_code
        for n in range(20)
    ]
    assert statuses[0] == 401
    assert statuses[-1] == 429
    assert guarded.http.get("/v1/models").status_code == 200


ALLOWED = {"authorization", "ai-resource-group", "ai-client-type", "content-type", "content-length", "accept",
           "accept-encoding", "host", "user-agent", "connection", "x-aicore-proxy-hop"}  # fmt: skip


@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_i11_only_known_headers_go_up(proxy: Proxy, simulator: Simulator, protocol: str, model: str) -> None:
    headers = {
        "Accept": "application/vnd.amazon.eventstream",
        "Accept-Encoding": "gzip, br",
        "Cookie": "session=1",
        "AI-Resource-Group": "another",
        "AI-Tenant-Id": "t",
        "AI-Object-Store-Secret-Name": "s",
        "X-Forwarded-For": "10.0.0.1",
        "Proxy-Authorization": "Basic x",
        "TE": "trailers",
        "anthropic-beta": "claude-code-20250219,unknown-2030-01-01",
        "anthropic-version": "2026-10-21",
        "x-stainless-lang": "python",
        "traceparent": "00-00000000000000000000000000000001-0000000000000001-01",
    }
    asked = body(protocol, model, "Hello!", stream=True)

    assert said(protocol, proxy.http.post(PATHS[protocol], json=asked, headers=headers))

    up = {name.lower(): value for name, value in simulator.requests()[-1]["headers"].items()}
    assert set(up) <= ALLOWED
    assert up["ai-resource-group"] == "default"
    assert "eventstream" not in up.get("accept", "")
    assert KEY not in json.dumps(up)


def test_request_ids_are_taken_if_they_are_fit_and_made_else(proxy: Proxy) -> None:
    fit = proxy.http.get("/v1/models", headers={"x-request-id": "my.id-1_A"})
    unfit = proxy.http.get("/v1/models", headers={"x-request-id": "no spaces"})

    assert fit.headers["x-request-id"] == "my.id-1_A"
    assert unfit.headers["x-request-id"].startswith("req_")


def test_cors_is_off(proxy: Proxy) -> None:
    answer = proxy.http.options(
        PATHS["chat"], headers={"origin": "https://x.example", "access-control-request-method": "POST"}
    )

    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_i20_logs_name_the_route_and_no_secret(proxy: Proxy, simulator: Simulator) -> None:
    secret = "a-very-private-prompt"
    proxy.http.post(f"{PATHS['chat']}?key={KEY}&x={secret}", json=body("chat", GPT, secret))
    proxy.http.post(f"/v1/{secret}")

    text = "".join(proxy.lines)
    secrets = [KEY, secret, *(key["clientsecret"] for key in simulator.service_keys().values())]
    assert '"endpoint":"/v1/chat/completions","status":200' in text
    assert not [s for s in secrets if s in text.replace(KEY, "", 0)]
