"""What is asked, and the bytes it is asked with. Pure."""

from __future__ import annotations

import json
import re
from urllib.parse import urlsplit

from msgspec import Struct

PATHS = {"chat": "/chat/completions", "messages": "/messages"}
CONTENT = {
    "chat": rb'"(?:content|reasoning_content|arguments)"\s*:\s*"[^"]',
    "messages": rb'"(?:text|thinking|partial_json)"\s*:\s*"[^"]',
}
"""What a frame of a stream holds if it holds content."""
LAST = {"chat": b"data: [DONE]", "messages": b"message_stop"}
"""What the last frame of a whole stream holds."""
WORDS = "The quick brown fox jumps over the lazy dog while the benchmark goes on and on. "


class Target(Struct, frozen=True):
    """Where to. ``authority``: as the field Host has it."""

    tls: bool
    host: str
    port: int
    path: str
    authority: str


def target_of(url: str, protocol: str) -> Target:
    """The endpoint behind a URL or base URL: ``http://host``, ``http://host/v1`` and the full path are the same.

    Raises ValueError.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is not an HTTP URL.")
    path = parts.path.rstrip("/")
    if not path.endswith(PATHS[protocol]):
        path = (path or "/v1") + PATHS[protocol]
    if parts.query:
        path += f"?{parts.query}"
    tls = parts.scheme == "https"
    authority = parts.netloc.rpartition("@")[2]
    if re.fullmatch(r"[\x21-\x7e]+", path + authority) is None:
        raise ValueError(f"{url!r} is not an encoded URL.")
    try:
        port = parts.port or (443 if tls else 80)
    except ValueError:
        raise ValueError(f"The port of the URL {url!r} is none.") from None
    return Target(tls, parts.hostname, port, path, authority)


def body_of(protocol: str, model: str, size: int, *, stream: bool, max_tokens: int = 256, note: str = "") -> bytes:
    """A request's JSON, of ``size`` bytes where it is not longer already. ``note`` leads the prompt."""
    content: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": ""}], "stream": stream}
    if protocol == "messages":
        content["max_tokens"] = max_tokens
    elif stream:
        content["stream_options"] = {"include_usage": True}
    room = max(0, size - len(json.dumps(content, separators=(",", ":"))) - len(note))
    prompt = note + (WORDS * (room // len(WORDS) + 1))[:room]
    content["messages"] = [{"role": "user", "content": prompt or "Hello!"}]
    return json.dumps(content, separators=(",", ":")).encode()


def request_of(target: Target, key: str, body: bytes, *, close: bool = False) -> bytes:
    """A whole POST. Raises ValueError for a key that fits no header."""
    if key and not re.fullmatch(r"[\x21-\x7e]+", key):
        raise ValueError("The key has characters that no header takes.")
    lines = [
        f"POST {target.path} HTTP/1.1",
        f"host: {target.authority}",
        "content-type: application/json",
        "accept: application/json, text/event-stream",
        "user-agent: aicore-proxy-bench",
        "anthropic-version: 2023-06-01",
        f"content-length: {len(body)}",
    ]
    if key:
        lines += [f"authorization: Bearer {key}", f"x-api-key: {key}"]
    if close:
        lines.append("connection: close")
    return "\r\n".join([*lines, "", ""]).encode() + body
