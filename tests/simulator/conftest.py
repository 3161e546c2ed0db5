"""A simulator in a thread of its own, and a tenant that calls it over real sockets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from aicore_proxy.simulator import Running, Switches, demo, in_thread

API = "?api-version=2024-10-21"


class Tenant:
    """A caller with the service key of one subaccount."""

    def __init__(self, simulator: Running, subaccount: str = "demo-eu") -> None:
        self.simulator = simulator
        self.name = subaccount
        self.key = simulator.service_keys()[subaccount]
        self.http = httpx2.Client(trust_env=False, timeout=30)
        self.token = self.new_token()
        self._urls: dict[str, str] = {}

    def new_token(self) -> str:
        form = {
            "grant_type": "client_credentials",
            "client_id": self.key["clientid"],
            "client_secret": self.key["clientsecret"],
        }
        return str(self.http.post(f"{self.key['url']}/oauth/token", data=form).json()["access_token"])

    def headers(self, **more: str | None) -> dict[str, str]:
        made: dict[str, str | None] = {"authorization": f"Bearer {self.token}", "ai-resource-group": "default"}
        made |= {name.replace("_", "-"): value for name, value in more.items()}
        return {name: value for name, value in made.items() if value is not None}

    def get(self, path: str, **headers: str | None) -> httpx2.Response:
        """An AI API call."""
        return self.http.get(f"{self.key['serviceurls']['AI_API_URL']}/v2{path}", headers=self.headers(**headers))

    def id(self, model: str) -> str:
        """The first running deployment of a model."""
        found = self.simulator.deployments(model, self.name)
        return next(str(deployment["id"]) for deployment in found if deployment["status"] == "RUNNING")

    def url(self, model: str) -> str:
        if model not in self._urls:
            self._urls[model] = f"{self.simulator.url}/v2/inference/deployments/{self.id(model)}"
        return self._urls[model]

    def post(self, model: str, path: str, body: Any, **headers: str | None) -> httpx2.Response:
        """An inference call; ``body`` bytes go as they are."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        sent = self.headers(**{"content_type": "application/json", **headers})
        return self.http.post(f"{self.url(model)}/{path}", content=content, headers=sent)

    def chat(self, model: str, /, *, said: str = "Hello", **body: Any) -> httpx2.Response:
        return self.post(model, f"chat/completions{API}", {"messages": [{"role": "user", "content": said}], **body})

    def claude(self, model: str, /, *, said: str = "Hello", streamed: bool = False, **body: Any) -> httpx2.Response:
        sent = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 2_000, "messages": [user(said)], **body}
        sent = {name: value for name, value in sent.items() if value is not ...}
        return self.post(f"anthropic--claude-{model}", "invoke-with-response-stream" if streamed else "invoke", sent)

    def gemini(self, model: str, /, *, said: str = "Hello", streamed: bool = False, **body: Any) -> httpx2.Response:
        sent = {"contents": [{"role": "user", "parts": [{"text": said}]}], **body}
        verb = "streamGenerateContent?alt=sse" if streamed else "generateContent"
        return self.post(model, f"models/{model}:{verb}", sent)


def user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


def events(answer: httpx2.Response) -> list[Any]:
    """The JSON of a stream's frames; ``[DONE]`` as it is."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.text.endswith("\n\n")
    frames = answer.text.removesuffix("\n\n").split("\n\n")
    assert all(frame.startswith("data: ") for frame in frames)
    payloads = [frame.removeprefix("data: ") for frame in frames]
    return [payload if payload == "[DONE]" else json.loads(payload) for payload in payloads]


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with in_thread(demo()) as simulator:
        yield simulator


@pytest.fixture
def simulator(running: Running) -> Iterator[Running]:
    """The demo landscape, without scripts and with every switch as it is by default."""
    defaults = Switches()
    yield running
    running.clear()
    running.call("PATCH", "switches", {name: getattr(defaults, name) for name in Switches.__struct_fields__})


@pytest.fixture(scope="module")
def tenants(running: Running) -> dict[str, Tenant]:
    return {name: Tenant(running, name) for name in ("demo-eu", "demo-us")}


@pytest.fixture
def tenant(simulator: Running, tenants: dict[str, Tenant]) -> Tenant:
    return tenants["demo-eu"]
