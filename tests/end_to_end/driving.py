"""One test for an SDK's sync and its async client, and a test's own requests as the simulator received them.

An async test drives either client: ``done`` a call, ``each`` a stream, ``entered`` a context manager.
"""

from __future__ import annotations

import inspect
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from tests.end_to_end.conftest import Simulator

FAMILIES = {
    "gpt-5": "gpt",
    "gpt-4.1": "gpt",
    "claude-sonnet-4-5": "claude",
    "claude-opus-5-5": "claude",
    "gemini-2.5-pro": "gemini",
    "gemini-3.5-flash": "gemini",
}
MODELS = tuple(FAMILIES)
NEWEST = ("gpt-5", "claude-opus-5-5", "gemini-3.5-flash")
KINDS = ("sync", "async")
SAP_NAMES = {"claude-sonnet-4-5": "anthropic--claude-4.5-sonnet", "claude-opus-5-5": "anthropic--claude-5.5-opus"}
PATHS = {
    ("gpt", False): "chat/completions",
    ("gpt", True): "chat/completions",
    ("claude", False): "invoke",
    ("claude", True): "invoke-with-response-stream",
    ("gemini", False): "models/{model}:generateContent",
    ("gemini", True): "models/{model}:streamGenerateContent",
}
BEDROCK = {"anthropic_version": "bedrock-2023-05-31"}
SENT_UP = {
    "host", "authorization", "ai-resource-group", "content-type", "content-length", "accept", "accept-encoding",
    "user-agent", "ai-client-type", "connection", "x-aicore-proxy-hop",
}  # fmt: skip


async def done(value: Any) -> Any:
    """The result of a call, awaited where the client is async."""
    return await value if inspect.isawaitable(value) else value


async def each(items: Any) -> AsyncIterator[Any]:
    if hasattr(items, "__aiter__"):
        async for item in items:
            yield item
    else:
        for item in items:
            yield item


async def listed(items: Any) -> list[Any]:
    return [item async for item in each(items)]


@asynccontextmanager
async def entered(manager: Any) -> AsyncIterator[Any]:
    if hasattr(manager, "__aenter__"):
        async with manager as value:
            yield value
    else:
        with manager as value:
            yield value


class Upstream(NamedTuple):
    """A request as a deployment received it."""

    subaccount: str
    model: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


class Talk:
    """One test's conversation: its prompts hold a mark, by which its requests are found at the simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.mark = f"mark-{secrets.token_hex(8)}"

    def prompt(self, text: str = "Go on.", /, **script: Any) -> str:
        """A prompt with the mark, and with a script if one is given."""
        marked = f"{text} ({self.mark})"
        return f"{marked}\nsimulate: {json.dumps(script)}" if script else marked

    def received(self, count: int | None = None) -> list[Upstream]:
        """What came up, oldest first; ``count``: so many, or the test fails."""
        found = list(self._received())
        assert count is None or len(found) == count, f"{len(found)} requests came up"
        return found

    def _received(self) -> Iterator[Upstream]:
        places = self.simulator.state()["subaccounts"].values()
        models = {d["id"]: d["model"] for place in places for d in place["deployments"]}
        for entry in self.simulator.requests():
            if self.mark in json.dumps(entry["body"]):
                path = entry["path"].partition(f"/deployments/{entry['deployment']}/")[2]
                yield Upstream(
                    entry["subaccount"],
                    models[entry["deployment"]],
                    path,
                    entry["query"],
                    entry["headers"],
                    entry["body"],
                )

    def last(self, model: str, *, stream: bool = False, count: int = 1) -> dict[str, Any]:
        """The body of the last of ``count`` requests: all went to a deployment of ``model``, by the path of its family,
        with no header but those that belong there."""
        found = self.received(count)
        sap_name = SAP_NAMES.get(model, model)
        for upstream in found:
            assert upstream.model == sap_name
            assert upstream.headers["ai-resource-group"] == "default"
            assert set(upstream.headers) <= SENT_UP
        upstream = found[-1]
        assert upstream.path == PATHS[FAMILIES[model], stream].format(model=model)
        assert upstream.query.get("alt") == (
            "sse" if "stream" in upstream.path and FAMILIES[model] == "gemini" else None
        )
        assert ("api-version" in upstream.query) == (FAMILIES[model] == "gpt")
        return upstream.body


def by_family(model: str, **expected: Any) -> Any:
    """The value for a model's family."""
    return expected[FAMILIES[model]]


def limit(model: str, tokens: int) -> dict[str, int]:
    """A limit of output tokens, as OpenAI's models of two generations want it."""
    return {"max_completion_tokens" if model == "gpt-5" else "max_tokens": tokens}
