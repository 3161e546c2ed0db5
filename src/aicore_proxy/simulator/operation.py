"""What every model operation has in common: reading, writing whole, writing as frames, failing."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from random import Random
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from aicore_proxy.simulator.answers import Answer, Prompt
from aicore_proxy.simulator.landscape import Deployment, Switches
from aicore_proxy.simulator.signatures import Signer

SSE = "text/event-stream"

Frame = tuple[bool, bytes]
"""Whether it is a content event, and its bytes as they go out."""


class Setting(Struct, frozen=True):
    """What an operation works with: where it runs and what it shares with all others."""

    deployment: Deployment
    switches: Switches
    signer: Signer
    random: Random
    caches: dict[tuple[str, str], float]
    """Prompt caches: (deployment, digest of the prefix) -> until when."""

    def serial(self, length: int, alphabet: str = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz23456789") -> str:
        """A made-up id's random part."""
        return "".join(self.random.choices(alphabet, k=length))


class Operation(Protocol):
    """One request to one path of a deployment."""

    stream_type: str
    """Content type of a stream."""
    prompt: Prompt

    def last_user(self) -> str:
        """The text of the last user turn, without any check of the request."""

    def check(self) -> None:
        """Raises Refusal for what the real one refuses; fills ``prompt``."""

    def reveals_reasoning(self) -> bool:
        """Whether thoughts are shown in the answer."""

    def whole(self, answer: Answer) -> bytes:
        """The answer as one body."""

    def frames(self, answer: Answer) -> Iterator[Frame]:
        """The answer as a stream."""

    def failed(self, status: int, message: str, code: str) -> Exception:
        """The provider's own error as a Refusal; empty texts: the provider's usual ones."""

    def refused(self, why: str) -> Exception:
        """The provider's words for ``context_length`` or ``content_filter``, as a Refusal."""

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        """The provider's error inside a stream."""


def sse(payload: bytes) -> bytes:
    """One server-sent event."""
    return b"data: " + payload + b"\n\n"


def ordered(value: Any) -> bytes:
    """JSON with its keys in alphabetical order, as Azure writes it."""
    return msgspec.json.encode(value, order="deterministic")


def encode(value: Any) -> bytes:
    """JSON with its keys as they stand."""
    return msgspec.json.encode(value)


def parsed(body: bytes) -> dict[str, Any] | str:
    """The body as an object, or what is wrong with it."""
    try:
        value = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return f"The request body is not valid JSON: {error}"
    return value if isinstance(value, dict) else "The request body must be a JSON object."


def objects(value: Any) -> list[Mapping[str, Any]]:
    """The objects of a list; of anything else none."""
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def seconds() -> int:
    """Wall clock, for ``created``."""
    return int(time.time())
