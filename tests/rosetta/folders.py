"""The folders of this directory: one conversation each, as every dialect says it.

``neutral.json`` is written by hand: ``about``, ``request``, ``response``, ``fault`` (neutral values, members with
defaults left out) and ``models`` (the model that each dialect writes for, where the usual one does not show the point).
All other files are made from it; ``losses.json`` lists what an encoder could not take, and where a file read back
differs from the neutral form, as path: [neutral, read back]; under ``client`` the same for what a client of the
dialect can say, where that is something else than what the model takes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from aicore_proxy.protocol.dialects import Answering, Decoding, Dialect, Target
from aicore_proxy.protocol.dialects.anthropic_messages import DIALECT as MESSAGES
from aicore_proxy.protocol.dialects.gemini import DIALECT as GEMINI
from aicore_proxy.protocol.dialects.openai_chat import DIALECT as CHAT
from aicore_proxy.protocol.estimate import estimated, spoken
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import Delta, Encoded, Event, Failure, Loss, Open, Request, Response, Text
from aicore_proxy.protocol.profiles import EFFORTS, Profile, profile_of
from aicore_proxy.protocol.seal import carried, native

ROOT = Path(__file__).parent
DIALECTS = {dialect.name: dialect for dialect in (CHAT, MESSAGES, GEMINI)}
MODELS = {
    "openai_chat": "gpt-4.1",
    "anthropic_messages": "anthropic--claude-4.5-sonnet",
    "gemini": "gemini-2.5-pro",
}
NOW = 1764000000


class Folder:
    """One conversation."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.name = path.name
        neutral = json.loads((path / "neutral.json").read_text())
        self.about: str = neutral["about"]
        self.neutral: dict[str, Any] = neutral
        self.request = msgspec.convert(neutral["request"], Request)
        self.response = msgspec.convert(neutral["response"], Response) if "response" in neutral else None
        self.fault = Fault(Kind(neutral["fault"].pop("kind")), **neutral["fault"]) if "fault" in neutral else None
        self.models: dict[str, str] = {**MODELS, **neutral.get("models", {})}

    @property
    def answer(self) -> Response | None:
        """``response`` as a client is told it: with an estimate where it counts no tokens."""
        if self.response is None or self.response.usage is not None:
            return self.response
        return replace(self.response, usage=estimated(self.request, spoken(unfold(self.response))))

    def file(self, name: str) -> Path:
        return self.path / name

    def json(self, name: str) -> Any:
        return json.loads(self.file(name).read_text())

    @property
    def losses(self) -> dict[str, dict[str, Any]]:
        return self.json("losses.json") if self.file("losses.json").exists() else {}


def folders() -> list[Folder]:
    return [Folder(path.parent) for path in sorted(ROOT.glob("*/neutral.json"))]


def encoded(folder: Folder, dialect: Dialect, request: Request | None = None) -> Encoded:
    model = folder.models[dialect.name]
    profile = profile_of(model)
    return dialect.encode_request(request or folder.request, Target(model, profile, native(profile.family)))


GENEROUS = {
    "openai_chat": Profile(
        "gpt", version=(5,), thinking="effort", efforts=EFFORTS, mid_system=True, max_output=128_000
    ),
    "anthropic_messages": Profile("claude", thinking="either", efforts=EFFORTS, mid_system=True),
    "gemini": Profile("gemini", thinking="budget"),
}


def as_a_client_asks(folder: Folder, dialect: Dialect) -> Request:
    """The request as a client of ``dialect`` could say it: for a model that refuses nothing, with the seals that it
    was given."""
    target = Target("a-model", GENEROUS[dialect.name], carried(dialect.home))
    return decoded(folder, dialect, dialect.encode_request(folder.request, target).body)


def decoded(folder: Folder, dialect: Dialect, body: Mapping[str, Any]) -> Request:
    return dialect.decode_request(body, Decoding(model=folder.models[dialect.name], stream=folder.request.stream))


def answering(folder: Folder, dialect: Dialect) -> Answering:
    return Answering(
        replace(folder.request, source=dialect.name, stream_usage=True),
        carried(dialect.home),
        fresh_id="fresh0id",
        now=NOW,
        request_id="req_1",
    )


def told(response: Response) -> list[Event]:
    """The events of ``response``, its texts in two halves."""
    events: list[Event] = []
    for event in unfold(response):
        match event:
            case Delta(text=text) if len(text) > 1:
                half = len(text) // 2
                events += [replace(event, text=text[:half]), replace(event, text=text[half:])]
            case _:
                events.append(event)
    return events


def stream_of(folder: Folder, dialect: Dialect) -> bytes:
    """The stream as a client gets it: the answer, or a text that a fault interrupts."""
    asked = answering(folder, dialect)
    encoder = dialect.stream_encoder(asked)
    if folder.fault is not None:
        begun = unfold(Response("answer1", "a-model", (), created=NOW))[:1]
        events: list[Event] = [*begun, Open(0, Text("")), Delta(0, "So f")]
        return b"".join(encoder.feed(event) for event in events) + encoder.fail(folder.fault, "req_1")
    assert folder.answer is not None
    return b"".join(encoder.feed(event) for event in told(folder.answer))


def events_of(dialect: Dialect, wire: bytes) -> list[Event]:
    decoder = dialect.stream_decoder()
    framer = SseDecoder()
    frames = [*framer.feed(wire), *framer.end()]
    events = [event for frame in frames for event in decoder.feed(frame.data)]
    return events if any(isinstance(event, Failure) for event in events) else [*events, *decoder.end()]


def read_back(dialect: Dialect, wire: bytes) -> Response:
    return fold(events_of(dialect, wire))


def loss_line(loss: Loss) -> str:
    """``field: reason``; with ``400`` before it where the loss refuses the request."""
    return ("" if loss.harmless else "400 ") + loss.field + (f": {loss.reason}" if loss.reason else "")


UNCOMPARED = {"source", "model", "id", "created", "stream_usage"}
"""Members that say how and where, not what."""


def differences(neutral: Request | Response, back: Request | Response) -> dict[str, list[Any]]:
    """Where two neutral values differ: dotted path -> [neutral, read back]."""
    return dict(_unequal(_plain(neutral), _plain(back), ""))


def _plain(value: Request | Response) -> Any:
    return json.loads(msgspec.json.encode(value))


def _unequal(left: Any, right: Any, path: str) -> Iterator[tuple[str, list[Any]]]:
    if isinstance(left, dict) and isinstance(right, dict):
        for name in {**left, **right}:
            if path or name not in UNCOMPARED:
                yield from _unequal(left.get(name), right.get(name), f"{path}.{name}" if path else name)
    elif isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        for number, (one, other) in enumerate(zip(left, right, strict=True)):
            yield from _unequal(one, other, f"{path}.{number}")
    elif left != right:
        yield path, [_without_defaults(left), _without_defaults(right)]


def _without_defaults(value: Any) -> Any:
    """For reading: members that say nothing left out."""
    match value:
        case dict():
            return {name: _without_defaults(v) for name, v in value.items() if v not in (None, {}, [], False)}
        case list():
            return [_without_defaults(item) for item in value]
        case _:
            return value
