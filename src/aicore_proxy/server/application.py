"""The ASGI application: FastAPI holds and describes everything; model calls are raw ASGI inside it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from aicore_proxy import __version__
from aicore_proxy.server.asgi import GUARDS
from aicore_proxy.server.endpoints import openapi_paths

WHY = "/why/"
LIVE = ("/health", "/health/live", "/health/liveness", "/health/liveliness", "/livez", "/healthz")
READY = ("/health/ready", "/health/readiness", "/readyz")
HELLO = ("/", "/api/hello")
DESCRIBED = ("/health", "/health/live", "/health/ready")
KEY_WAYS = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "x-api-key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}


def build_application(
    *,
    model_api: ASGIApp,
    ready: Callable[[], bool],
    exposition: Callable[[], Awaitable[tuple[bytes, str]]],
    may_see_metrics: Callable[[Request], bool],
    explain: Callable[[Request, str], Awaitable[Any]],
    openapi: bool,
    cors_origins: tuple[str, ...],
) -> ASGIApp:
    """The whole application. Paths that FastAPI does not know go to ``model_api``, which answers 404 itself and guards
    its own answers."""
    app = FastAPI(
        title="SAP AI Core LLM proxy",
        version=__version__,
        openapi_url="/openapi.json" if openapi else None,
        docs_url="/docs" if openapi else None,
        redoc_url=None,
    )

    async def live() -> dict[str, str]:
        return {"status": "ok"}

    async def readiness(response: Response) -> dict[str, str]:
        response.status_code = 200 if ready() else 503
        return {"status": "ready" if ready() else "not ready"}

    async def metrics(request: Request) -> Response:
        if not may_see_metrics(request):
            return Response("A key is needed.\n", 401, media_type="text/plain")
        body, content_type = await exposition()
        return Response(body, headers={"content-type": content_type})

    async def why(request: Request, request_id: str) -> Response:
        told = await explain(request, request_id)
        if told is None:
            error = {"message": "No request of that id is remembered for this key.", "type": "not_found"}
            return Response(msgspec.json.encode({"error": error}), 404, media_type="application/json")
        return Response(msgspec.json.encode(told), media_type="application/json")

    for path in (*LIVE, *HELLO):
        app.add_api_route(path, live, methods=["GET", "HEAD"], tags=["health"], include_in_schema=path in DESCRIBED)
    for path in READY:
        shown = path in DESCRIBED
        app.add_api_route(path, readiness, methods=["GET", "HEAD"], tags=["health"], include_in_schema=shown)
    app.add_api_route(WHY + "{request_id}", why, methods=["GET"], tags=["metrics"], response_class=Response)
    app.add_api_route("/metrics", metrics, methods=["GET"], tags=["metrics"], response_class=Response)
    describe = app.openapi

    def described() -> dict[str, Any]:
        schema = describe()
        schema["paths"] |= openapi_paths()
        schema.setdefault("components", {})["securitySchemes"] = KEY_WAYS
        return schema

    app.openapi = described  # type: ignore[method-assign]  # FastAPI's documented way to extend the page
    own = {str(getattr(route, "path", "")) for route in app.routes}

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (scope["path"] in own or scope["path"].startswith(WHY)):
            await app(scope, receive, guarded(send))
        else:
            await model_api(scope, receive, send)

    if not cors_origins:
        return application
    exposed = ["x-request-id", "request-id", "retry-after", "x-aicore-proxy-dropped", "x-aicore-proxy-model"]
    return CORSMiddleware(
        application, allow_origins=cors_origins, allow_methods=["*"], allow_headers=["*"], expose_headers=exposed
    )


def guarded(send: Send) -> Send:
    """What every answer carries: nobody keeps it, and it is what it says it is."""

    async def guard(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message["headers"], *GUARDS]
        await send(message)

    return guard
