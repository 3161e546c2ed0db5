"""One request as it passes: what the client sent, what was sent to SAP and came back, what the client got.

Unlike everything else in this room a tape holds content. It never holds a credential: fields that carry one are
replaced, whatever they hold.
"""

from __future__ import annotations

import base64
import re
import time
from collections.abc import Iterable

from msgspec import Struct, field

from aicore_proxy.gateway.exchange import ClientRequest
from aicore_proxy.upstream import UpstreamRequest

LIMIT = 4 * 1024 * 1024
"""Bytes of a body that are kept."""
HIDDEN = "****"
SECRETS = re.compile(r"authorization|cookie|api-?key|token(?!s)|secret|password|credential", re.IGNORECASE)
"""Fields whose names say that they hold a credential."""
_KEY_IN_QUERY = re.compile(r"(?i)((?:^|&)[^=&]*(?:key|token|secret|password)[^=&]*=)[^&]*")


class Body(Struct):
    """A body, in the pieces that it came in. ``text``, or ``base64`` where that is no UTF-8. ``pieces``: for each its
    seconds since the request came in, and its bytes. ``size``: all bytes; more than what is kept where it was cut."""

    text: str = ""
    base64: str = ""
    size: int = 0
    pieces: list[tuple[float, int]] = field(default_factory=list)


class Message(Struct):
    """A request or an answer. ``status`` 0: a request, or no answer came; ``error``: why."""

    method: str = ""
    target: str = ""
    status: int = 0
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: Body = field(default_factory=Body)
    error: str = ""


class Attempt(Struct):
    """What one deployment was asked, and answered."""

    request: Message
    response: Message


class Recorded(Struct):
    """A file of a recording. ``time``: Unix seconds; ``key``: the client key's name."""

    id: str
    time: float
    key: str
    status: int
    model: str
    client_request: Message
    attempts: list[Attempt]
    client_response: Message


class Stage:
    """A message that is being heard. Owned by its Tape."""

    __slots__ = ("_began", "_content", "_pieces", "_size", "message")

    def __init__(self, began: float, message: Message) -> None:
        self.message = message
        self._began = began
        self._content = bytearray()
        self._pieces: list[tuple[float, int]] = []
        self._size = 0

    def hear(self, piece: bytes) -> None:
        """A piece of the body."""
        self._size += len(piece)
        if (room := LIMIT - len(self._content)) > 0:
            self._content += piece[:room]
            self._pieces.append((round(time.monotonic() - self._began, 6), len(piece)))

    def whole(self) -> Message:
        """With what was heard so far."""
        body = Body(size=self._size, pieces=self._pieces)
        try:
            body.text = self._content.decode()
        except UnicodeDecodeError:
            body.base64 = base64.b64encode(self._content).decode()
        self.message.body = body
        return self.message


class Tape:
    """What is heard of one request. Owned by the task that serves it."""

    __slots__ = ("_attempts", "_request", "answer", "began", "client", "time")

    def __init__(self, request: ClientRequest) -> None:
        self.time = time.time()
        self.began = request.received
        self._request = request
        target = request.path + (f"?{query}" if (query := hidden_query(request.query)) else "")
        fields = hidden(request.fields())
        self.client = Stage(self.began, Message(request.method, target, headers=fields))
        self.answer = Stage(self.began, Message())
        self._attempts: list[tuple[Stage, Stage]] = []

    def sent(self, request: UpstreamRequest) -> Stage:
        """A deployment is asked; gives the stage of its answer."""
        asked = Stage(self.began, Message(request.method, request.url, headers=hidden(request.headers)))
        asked.hear(request.body or b"")
        answer = Stage(self.began, Message())
        self._attempts.append((asked, answer))
        return answer

    def recorded(self, key: str, status: int, model: str) -> Recorded:
        """All of it, at the request's end."""
        if self._request.content is not None:
            self.client.hear(self._request.content)
        return Recorded(
            self._request.request_id,
            self.time,
            key,
            status,
            model,
            self.client.whole(),
            [Attempt(asked.whole(), answer.whole()) for asked, answer in self._attempts],
            self.answer.whole(),
        )


def hidden(fields: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Header fields without credentials."""
    return [(str(name), HIDDEN if SECRETS.search(name) else str(value)) for name, value in fields]


def hidden_query(query: bytes) -> str:
    return _KEY_IN_QUERY.sub(rf"\g<1>{HIDDEN}", query.decode("latin-1"))
