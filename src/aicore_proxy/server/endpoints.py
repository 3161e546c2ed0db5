"""Which path is which endpoint. Forgiving about what users get wrong in base URLs: a version too many or too few."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import Struct

from aicore_proxy.gateway.exchange import ClientRequest, Reply, StreamReply
from aicore_proxy.gateway.gateway import Endpoint, Gateway
from aicore_proxy.protocol.dialects import Dialect
from aicore_proxy.protocol.envelope import Envelope
from aicore_proxy.protocol.fault import Fault, Kind

Refusing = Callable[[Envelope], Fault | None]
Operation = Callable[[ClientRequest, Endpoint], Awaitable[Reply | StreamReply]]


class Route(Struct, frozen=True):
    """One documented endpoint of the model API: for the dispatch and for the OpenAPI page."""

    method: str
    path: str
    dialect: str
    summary: str


ROUTES = (
    Route("GET", "/v1/models", "openai_chat", "List models (Anthropic's shape with an anthropic-version header)"),
    Route("GET", "/v1/models/{model}", "openai_chat", "Describe a model"),
    Route("POST", "/v1/chat/completions", "openai_chat", "OpenAI Chat Completions"),
    Route("POST", "/v1/embeddings", "openai_chat", "OpenAI Embeddings"),
    Route("POST", "/v1/messages", "anthropic_messages", "Anthropic Messages"),
    Route("POST", "/v1/messages/count_tokens", "anthropic_messages", "Anthropic token counting (an estimate)"),
)

# Prefixes that clients of several gateways put before the version, and versions doubled or left out
_PREFIX = re.compile(r"^(?:/(?:openai|anthropic))?(?:/v1)*(?=/)")
_SLASHES = re.compile(r"/{2,}")


def canonical(path: str) -> str:
    """The path as documented: ``/v1/v1/messages``, ``/anthropic/messages`` and ``/messages/`` are ``/v1/messages``."""
    path = _SLASHES.sub("/", path)
    return "/v1" + _PREFIX.sub("", path.rstrip("/") + "/").rstrip("/")


class Endpoints:
    """Dispatches a client's request to the gateway's operation for its path. Immutable."""

    def __init__(self, gateway: Gateway, dialects: Mapping[str, Dialect], refusals: Mapping[str, Refusing]) -> None:
        self._gateway = gateway
        self._dialects = dialects
        self._posts: dict[str, tuple[Operation, Endpoint]] = {}
        operations: dict[str, Operation] = {
            "/v1/chat/completions": gateway.generate,
            "/v1/messages": gateway.generate,
            "/v1/messages/count_tokens": gateway.count,
            "/v1/embeddings": gateway.embed,
        }
        for route in ROUTES:
            if route.method == "POST":
                refused = refusals.get(route.path)
                endpoint = Endpoint(route.path, dialects[route.dialect], refused or (lambda _: None))
                self._posts[route.path] = (operations[route.path], endpoint)

    def serves(self, path: str) -> bool:
        """Whether a path belongs to the model API (whatever the method): all others are the application's own."""
        path = canonical(path)
        return path in self._posts or path == "/v1/models" or path.startswith("/v1/models/")

    async def __call__(self, request: ClientRequest) -> Reply | StreamReply:
        """The answer to any request to the model API; an unknown path's 404 and a wrong method's 405 included."""
        path = canonical(request.path)
        if (found := self._posts.get(path)) is not None:
            operation, endpoint = found
            if request.method == "POST":
                return await operation(request, endpoint)
            return self._wrong_method(request, endpoint, "POST")
        dialect = self._spoken(request, path)
        if path == "/v1/models" or path.startswith("/v1/models/"):
            name = path.removeprefix("/v1/models").removeprefix("/") or None
            endpoint = Endpoint("/v1/models/{model}" if name else "/v1/models", dialect)
            if request.method in ("GET", "HEAD"):
                return await self._gateway.models(request, endpoint, name)
            return self._wrong_method(request, endpoint, "GET, HEAD")
        return self.unknown(request)

    def unknown(self, request: ClientRequest) -> Reply:
        """The 404 of a path that is nothing here."""
        endpoint = Endpoint("unknown", self._spoken(request, request.path))
        words = f"There is no endpoint {request.method} {request.path[:128]} here. See /docs for what is served."
        fault = Fault(Kind.MODEL_NOT_FOUND, words, code="not_found")
        return self._gateway.refused(request, endpoint, fault)

    def refused(self, request: ClientRequest, fault: Fault) -> Reply:
        """A Fault as an answer to a request that nobody handles any more."""
        path = canonical(request.path)
        endpoint = self._posts[path][1] if path in self._posts else Endpoint("unknown", self._spoken(request, path))
        return self._gateway.refused(request, endpoint, fault)

    def _wrong_method(self, request: ClientRequest, endpoint: Endpoint, allowed: str) -> Reply:
        words = f"{endpoint.route} takes {allowed}, not {request.method}."
        fault = Fault(Kind.MALFORMED, words, status=405, code="method_not_allowed", headers=(("allow", allowed),))
        return self._gateway.refused(request, endpoint, fault)

    def _spoken(self, request: ClientRequest, path: str) -> Dialect:
        """The dialect a client speaks, on a path that several share."""
        anthropic = request.header("anthropic-version") is not None or "/messages" in path
        return self._dialects["anthropic_messages" if anthropic else "openai_chat"]


def openapi_paths() -> dict[str, Any]:
    """The model API for the OpenAPI page; bodies are the vendors' own and described by them."""
    docs = {
        "/v1/chat/completions": "https://platform.openai.com/docs/api-reference/chat/create",
        "/v1/embeddings": "https://platform.openai.com/docs/api-reference/embeddings/create",
        "/v1/messages": "https://docs.claude.com/en/api/messages",
        "/v1/messages/count_tokens": "https://docs.claude.com/en/api/messages-count-tokens",
    }
    body = {"required": True, "content": {"application/json": {"schema": {"type": "object", "required": ["model"]}}}}
    paths: dict[str, Any] = {}
    for route in ROUTES:
        operation: dict[str, Any] = {
            "tags": ["models"],
            "summary": route.summary,
            "security": [{"bearer": []}, {"x-api-key": []}],
            "responses": {"200": {"description": "The answer"}, "4XX": {"description": "An error"}},
        }
        if route.method == "POST":
            operation |= {"requestBody": body, "externalDocs": {"url": docs[route.path]}}
            operation["responses"]["200"]["content"] = {"application/json": {}, "text/event-stream": {}}
        if "{model}" in route.path:
            operation["parameters"] = [{"name": "model", "in": "path", "required": True, "schema": {"type": "string"}}]
        paths.setdefault(route.path, {})[route.method.lower()] = operation
    return paths
