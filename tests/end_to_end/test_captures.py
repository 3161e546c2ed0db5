"""What real clients sent gets a 200 in their protocol: as they sent it, and from the other families' models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest
from tests.end_to_end.asking import CLAUDE, GEMINI, GPT, error_of, said
from tests.end_to_end.conftest import Proxy

FOLDER = Path(__file__).parents[1] / "captures"
SERVED = (
    "/v1/chat/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/models",
    "/api/hello",
)
CAPTURES = {
    str(path.relative_to(FOLDER).with_suffix("")): capture
    for path in sorted(FOLDER.glob("*/*.json"))
    if (capture := json.loads(path.read_text()))["path"].split("?")[0] in SERVED
}
NOT_SENT = (
    "host",
    "content-length",
    "connection",
    "authorization",
    "x-api-key",
    "transfer-encoding",
    "accept-encoding",
)

# Exceptions, by name: what is answered with a 400, and what its message names
THREADS = {
    "anthropic-python/12-tool-runner-turn1",
    "anthropic-python/13-tool-runner-turn2",
    "anthropic-python/29-message-thread-turn1",
    "anthropic-python/30-message-thread-turn2",
}
REFUSED: dict[str, str] = {
    "claude-code/14-web-search-server-tool": "web_search",
}
# The same, only where the model is another family's
REFUSED_ELSEWHERE: dict[str, dict[str, str]] = {
    CLAUDE: {"openai-python/17-n-two": "'n'", "openai-python/29-n2-stream-logprobs": "'n'"},
    GPT: {"anthropic-python/26-image-url-and-document-url": "document"},
}


def test_all_clients_are_there() -> None:
    assert len(CAPTURES) > 190
    assert len({name.split("/")[0] for name in CAPTURES}) >= 15


def sent(proxy: Proxy, capture: dict[str, Any], model: str | None = None) -> httpx2.Response:
    headers = {name: value for name, value in capture["headers"].items() if name.lower() not in NOT_SENT}
    path = capture["path"] + (f"?{capture['query']}" if capture.get("query") else "")
    content = capture["body"]
    if model is not None:
        content = {**content, "model": model}
    return proxy.http.request(capture["method"], path, headers=headers, json=content)


def protocol_of(capture: dict[str, Any]) -> str:
    return "messages" if "/messages" in capture["path"] else "chat"


def checked(name: str, capture: dict[str, Any], answer: httpx2.Response, refused: dict[str, str]) -> None:
    """The answer is what this client can take."""
    protocol = protocol_of(capture)
    if name in THREADS:
        assert answer.status_code == 400
        details = error_of(protocol, answer)["details"]
        assert details == {"error_code": "thread_unsupported_request", "unsupported": []}
        return
    if name in refused:
        assert answer.status_code == 400, answer.text
        assert refused[name] in error_of(protocol, answer)["message"]
        return
    assert answer.status_code == 200, answer.text
    path = capture["path"].split("?")[0]
    if path == "/v1/messages/count_tokens":
        assert answer.json()["input_tokens"] > 0
    elif path == "/v1/embeddings":
        asked = capture["body"]["input"]
        assert len(answer.json()["data"]) == (1 if isinstance(asked, str) else len(asked))
        kind = str if capture["body"].get("encoding_format") == "base64" else list
        assert all(isinstance(entry["embedding"], kind) for entry in answer.json()["data"])
    elif path == "/v1/models":
        assert answer.json()["data"]
    elif path != "/api/hello":
        said(protocol, answer)
        streamed = answer.headers["content-type"].startswith("text/event-stream")
        assert streamed == bool(capture["body"].get("stream"))


@pytest.mark.parametrize("name", CAPTURES)
def test_a_captured_request_is_answered(proxy: Proxy, name: str) -> None:
    checked(name, CAPTURES[name], sent(proxy, CAPTURES[name]), REFUSED)


GENERATING = [name for name in CAPTURES if CAPTURES[name]["path"].split("?")[0] in SERVED[:2]]


@pytest.mark.parametrize("model", [GPT, CLAUDE, GEMINI])
@pytest.mark.parametrize("name", GENERATING)
def test_a_captured_request_is_answered_by_the_other_families_too(proxy: Proxy, name: str, model: str) -> None:
    checked(name, CAPTURES[name], sent(proxy, CAPTURES[name], model), REFUSED | REFUSED_ELSEWHERE.get(model, {}))
