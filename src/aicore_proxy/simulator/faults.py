"""Error answers by the layer that makes them (SAP AI Core wire facts, section 8.2)."""

from __future__ import annotations

import uuid
from typing import Any

import msgspec

from aicore_proxy.simulator.landscape import Switches
from aicore_proxy.simulator.scripts import Script

JSON = "application/json"
PLAIN = "text/plain"


class Refusal(Exception):
    """An answer that is an error: status, body and headers as they go out."""

    def __init__(
        self, status: int, body: bytes, content_type: str = JSON, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{status} {body[:200]!r}")
        self.status = status
        self.body = body
        self.headers = {"content-type": content_type, **(headers or {})}


EDGE_TEXTS = {
    401: "Jwt is expired",
    403: "RBAC: access denied",
    503: "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
    504: "upstream request timeout",
}
PROXY_LABELS = {
    400: "BadRequest",
    404: "NotFound",
    408: "RequestTimeout",
    429: "TooManyRequests",
    500: "InternalServerError",
    502: "BadGateway",
    503: "ServiceUnavailable",
}
PROXY_TEXTS = {
    404: "Deployment not found.",
    429: "Too many requests. Please retry later.",
    500: "Internal server error.",
}


def edge(status: int, text: str = "") -> Refusal:
    """The mesh: plain text."""
    headers = {"www-authenticate": 'Bearer error="invalid_token"'} if status == 401 else {}
    return Refusal(status, (text or EDGE_TEXTS.get(status, "upstream error")).encode(), PLAIN, headers)


def proxy(status: int, message: str = "", label: str = "") -> Refusal:
    """SAP's model-access proxy: ``error`` is a string."""
    body = {
        "error": label or PROXY_LABELS.get(status, "Error"),
        "message": message or PROXY_TEXTS.get(status, "The request failed."),
    }
    return Refusal(status, msgspec.json.encode(body))


def subpath(path: str, model: str) -> Refusal:
    """A path that the proxy layer does not let through."""
    return proxy(400, f"Subpath '{path}' is not allowed for model '{model}'.")


def deployment_not_found(deployment_id: str) -> Refusal:
    """Unknown, of another resource group or subaccount, or just created."""
    return proxy(404, f"Deployment ID {deployment_id} not found.")


def ai_api(status: int, code: str, message: str, target: str) -> Refusal:
    """The management plane: ``error`` is an object, its code a number of SAP's."""
    error: dict[str, Any] = {
        "code": code,
        "message": message,
        "requestId": str(uuid.uuid4()),
        "target": target,
        "details": {},
    }
    return Refusal(status, msgspec.json.encode({"error": error}))


def retry_headers(script: Script, status: int, switches: Switches) -> dict[str, str]:
    """``retry-after`` and ``x-retry-after``, each where it is switched on (section 10, item 18)."""
    if script.retry_after is None:
        return {}
    value = script.retry_after
    text = value if isinstance(value, str) else f"{value:g}"
    names = [
        name for name, on in (("retry-after", switches.retry_after), ("x-retry-after", switches.x_retry_after)) if on
    ]
    return dict.fromkeys(names, text)
