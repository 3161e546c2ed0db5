"""Where requests go up: to the deployments that SAP lists, at their paths, whatever a client asks for."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from tests.edge.raw import Raw
from tests.end_to_end.asking import PATHS, PROTOCOLS, body, error_of
from tests.end_to_end.conftest import KEY, Proxy, Simulator, running_proxy, running_simulator
from tests.reliability.forwarder import Nat, natted

DEPLOYMENTS = {"gpt-5": "d00000000000000a", "anthropic--claude-4.5-sonnet": "d00000000000000b"}
BASE = "POST /v2/inference/deployments/"
GPT_PATH = f"{BASE}{DEPLOYMENTS['gpt-5']}/chat/completions?api-version=2025-04-01-preview"
KNOWN = {GPT_PATH, f"{BASE}{DEPLOYMENTS['anthropic--claude-4.5-sonnet']}/invoke"}


class Elsewhere:
    """A place where nothing may connect to."""

    def __init__(self) -> None:
        self.connections = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = f"http://{self.host}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                self._listener.accept()[0].close()
            except OSError:
                return
            self.connections += 1

    def close(self) -> None:
        self._listener.close()


class Place(NamedTuple):
    """A proxy whose way to its deployments is seen."""

    simulator: Simulator
    proxy: Proxy
    way: Nat
    elsewhere: Elsewhere

    def went(self) -> list[str]:
        """What was asked up there since the last look."""
        asked = list(self.way.asked)
        del self.way.asked[: len(asked)]
        return asked


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    home = tmp_path_factory.mktemp("addresses")
    with natted(0) as way, closing(Elsewhere()) as elsewhere:
        base = f"http://127.0.0.1:{way.port}/v2/inference/deployments/"
        listed = [{"model": model, "id": each, "url": base + each} for model, each in DEPLOYMENTS.items()]
        landscape = {"subaccounts": [{"name": "eu", "deployments": listed}]}
        with running_simulator(home, landscape=landscape) as simulator, running_proxy(home, simulator) as proxy:
            way.target = int(simulator.url.rpartition(":")[2])
            yield Place(simulator, proxy, way, elsewhere)


@pytest.fixture
def place(seen: Place) -> Iterator[Place]:
    seen.went()
    connections = seen.elsewhere.connections
    yield seen
    seen.simulator.clear()
    assert set(seen.went()) <= KNOWN
    assert seen.elsewhere.connections == connections


@pytest.mark.parametrize("model", DEPLOYMENTS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_i12_no_member_and_no_header_of_a_client_leads_elsewhere(place: Place, protocol: str, model: str) -> None:
    url = place.elsewhere.url
    headers = {"Host": place.elsewhere.host, "X-Forwarded-Host": place.elsewhere.host, "X-Original-URL": url}
    headers |= {"X-Rewrite-URL": "/v2/x", "Forwarded": f"host={place.elsewhere.host}", "Base-Url": url, "Api-Base": url}
    assert place.proxy.http.post(PATHS[protocol], json=body(protocol, model, "Hello!"), headers=headers).is_success
    assert len(place.went()) == 1

    for name in ("api_base", "base_url", "baseUrl", "api_url", "url", "endpoint", "host", "proxy", "deployment_url"):
        asked = body(protocol, model, "Hello!", **{name: url, "extra_body": {name: url}, "metadata": {name: url}})
        answer = place.proxy.http.post(PATHS[protocol], json=asked)
        assert answer.is_success or 400 <= answer.status_code < 500
    assert set(place.went()) <= KNOWN


def test_i12_an_absolute_target_and_a_url_as_a_model_lead_nowhere_else(place: Place) -> None:
    content = json.dumps(body("chat", "gpt-5", "Hello!")).encode()
    key = f"Authorization: Bearer {KEY}\r\n"
    for target in (f"{place.elsewhere.url}{PATHS['chat']}", f"//{place.elsewhere.host}{PATHS['chat']}"):
        with Raw(place.proxy.port) as client:
            assert client.get(target, content, fields=key).status in (200, 400, 404)
    with Raw(place.proxy.port) as client:
        assert client.get(place.elsewhere.host, method="CONNECT", fields=key).status in (400, 404, 405)
    assert len(place.went()) <= 1

    for model in (f"{place.elsewhere.url}/gpt-5", f"{place.elsewhere.url}/v1", f"{place.elsewhere.host}/gpt-6"):
        for protocol in PROTOCOLS:
            answer = place.proxy.http.post(PATHS[protocol], json=body(protocol, model, "Hello!"))
            assert answer.status_code == 404
            error_of(protocol, answer)
    assert place.went() == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("stream", [False, True])
def test_i12_d24_a_redirect_is_not_followed(place: Place, status: int, stream: bool) -> None:
    place.simulator.script({"status": status, "headers": {"location": f"{place.elsewhere.url}/x"}})
    answer = place.proxy.http.post(PATHS["chat"], json=body("chat", "gpt-5", "Hello!", stream=stream))
    assert answer.status_code == 502
    assert f"unexpected status {status}" in error_of("chat", answer)["message"]
    assert "location" not in answer.headers
    assert place.went() == [GPT_PATH]


TRICKS = ["..", "../x", "x/../gpt-5", "../gpt-5", "..%2fgpt-5", "%2e%2e%2fgpt-5", "gpt-5/..", "gpt-5%2f..", "gpt-5?x=1",
          "gpt-5#x", "gpt-5\\..\\x", "..\\gpt-5", "gpt-5/../../v2/lm/deployments", "gpt-5%00", "gpt-5;x", "./gpt-5",
          "gpt-5:streamGenerateContent", "gpt-5\r\nX: y", "models/../gpt-5", "gpt-5" + "x" * 300]  # fmt: skip


@pytest.mark.parametrize("model", TRICKS, ids=ascii)
def test_i14_a_name_that_is_a_path_is_no_model(place: Place, model: str) -> None:
    asked: list[tuple[str, dict[str, Any]]] = [
        *((PATHS[protocol], body(protocol, model, "Hello!")) for protocol in PROTOCOLS),
        ("/v1/embeddings", {"model": model, "input": "Hello!"}),
        ("/v1/messages/count_tokens", body("messages", model, "Hello!")),
    ]
    for path, content in asked:
        answer = place.proxy.http.post(path, json=content)
        assert answer.status_code in (400, 404), (path, answer.text)
        error_of("messages" if "messages" in path else "chat", answer)
    assert place.went() == []


ELSEWHERE = "..%2f..%2f..%2flm%2fdeployments"
PATH_TRICKS = [
    *(f"/v1/models/{name}" for name in ("..", "../metrics", "..%2f..%2fmetrics", "gpt-5%2f..", "%2e%2e/gpt-5")),
    *(f"/v1/responses/{each}" for each in (ELSEWHERE, "resp_1%2f..", "resp_1?x", "..", "%5c..", "a" * 300)),
    *(f"/v1/messages/batches/{each}" for each in (ELSEWHERE, "..", "x%3fy")),
    *(f"/openai/deployments/{each}/chat/completions?api-version=2024-10-21" for each in (ELSEWHERE, "..", "gpt-5%23")),
    *(f"/v2/inference/deployments/{each}/chat/completions" for each in (*DEPLOYMENTS.values(), "..")),
    "/v1/../v2/lm/deployments", "/v1/chat/completions/../../../v2/lm/deployments", "/v1/chat%2fcompletions%2f..%2f..",
    "/v1/messages/..%2f..%2fmetrics", "/v1beta/models/../x:generateContent", "/v1/chat/completions#x", "/v1\\..\\x",
    "/why/..%2fmetrics", "/why/../metrics",
]  # fmt: skip


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_i14_a_path_with_tricks_is_found_nowhere(place: Place, method: str) -> None:
    content = json.dumps(body("chat", "gpt-5", "Hello!")).encode()
    for target in PATH_TRICKS:
        with Raw(place.proxy.port) as client:
            answer = client.get(target, content, method=method, fields=f"Authorization: Bearer {KEY}\r\n")
        assert answer.status in (400, 404, 405), (target, answer.status, answer.body)
        assert b"aicore_proxy_" not in answer.body
    assert place.went() == []


@pytest.mark.parametrize(
    "version", ["..%2f..%2fx", "2024-10-21%26x%3d1", "x%23y", "%5c", "%3f", "1&api-version=..%2f.."]
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_i14_a_client_s_api_version_goes_nowhere(place: Place, protocol: str, version: str) -> None:
    path = f"{PATHS[protocol]}?api-version={version}&deployment=..%2fx"
    assert place.proxy.http.post(path, json=body(protocol, "gpt-5", "Hello!")).is_success
    assert place.went() == [GPT_PATH]
