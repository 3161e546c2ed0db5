"""Requests: one dialect reads what it wrote, and a detour over another dialect keeps what was said."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from msgspec.structs import replace
from tests.properties.acceptable import acceptable
from tests.properties.values import conversations, odd_conversations
from tests.rosetta.folders import DIALECTS, MODELS

from aicore_proxy.protocol.dialects import Decoding, Dialect, Target
from aicore_proxy.protocol.neutral import Json, Media, Request, Text, ToolCall, ToolResult
from aicore_proxy.protocol.profiles import profile_of
from aicore_proxy.protocol.seal import native

PAIRS = [(one, other) for one in DIALECTS.values() for other in DIALECTS.values() if one is not other]
each_pair = pytest.mark.parametrize(("one", "other"), PAIRS, ids=[f"{a.name}-{b.name}" for a, b in PAIRS])
each_dialect = pytest.mark.parametrize("dialect", DIALECTS.values(), ids=lambda dialect: dialect.name)


def write(dialect: Dialect, request: Request) -> dict[str, Json]:
    profile = profile_of(MODELS[dialect.name])
    encoded = dialect.encode_request(request, Target("a-model", profile, native(profile.family)))
    assert all(loss.harmless for loss in encoded.losses)
    return encoded.body


def read(dialect: Dialect, body: dict[str, Json]) -> Request:
    return dialect.decode_request(json.loads(json.dumps(body)), Decoding(model="a-model", stream=False))


def gist(request: Request) -> list[tuple[str, str, list[tuple[str, Json]], list[str]]]:
    """What was said, per run of one speaker: texts, calls, media. Results stand with their calls, whatever turn they
    came in."""
    results = {
        part.call_id: "".join(piece.text for piece in part.content if isinstance(piece, Text))
        for turn in request.turns
        for part in turn.parts
        if isinstance(part, ToolResult)
    }
    runs: list[tuple[str, str, list[tuple[str, Json]], list[str]]] = []
    for turn in request.turns:
        texts = "".join(part.text for part in turn.parts if isinstance(part, Text))
        calls = [
            (f"{part.name} gave {results.get(part.id)}", json.loads(part.arguments or "{}"))
            for part in turn.parts
            if isinstance(part, ToolCall)
        ]
        media = [part.data or "" for part in turn.parts if isinstance(part, Media)]
        if not (texts or calls or media):
            continue
        if runs and runs[-1][0] == turn.role:
            role, before, asked, shown = runs[-1]
            runs[-1] = (role, before + texts, asked + calls, shown + media)
        else:
            runs.append((turn.role, texts, calls, media))
    return runs


def without_failures(request: Request) -> Request:
    """A dialect that cannot say that a result is an error says it in words: so none is one here."""
    return replace(
        request,
        turns=tuple(
            replace(
                turn,
                parts=tuple(replace(p, is_error=False) if isinstance(p, ToolResult) else p for p in turn.parts),
            )
            for turn in request.turns
        ),
    )


@each_dialect
@given(request=conversations())
def test_a_dialect_reads_what_it_wrote_and_writes_it_again(dialect: Dialect, request: Request) -> None:
    body = write(dialect, request)
    once = read(dialect, body)
    assert write(dialect, once) == body
    assert read(dialect, write(dialect, once)) == once


@each_dialect
@given(request=conversations())
def test_a_dialect_says_what_was_said(dialect: Dialect, request: Request) -> None:
    request = without_failures(request)
    assert gist(read(dialect, write(dialect, request))) == gist(request)


@each_pair
@given(request=conversations())
def test_a_detour_keeps_the_gist(one: Dialect, other: Dialect, request: Request) -> None:
    first = read(one, write(one, without_failures(request)))
    back = read(one, write(one, read(other, write(other, first))))
    assert gist(back) == gist(first)
    assert [tool.name for tool in back.tools] == [tool.name for tool in first.tools]
    assert back.sampling.max_tokens == first.sampling.max_tokens


@each_dialect
@pytest.mark.parametrize("model", ["usual", "newest"])
@given(request=odd_conversations())
def test_whatever_the_history_the_upstream_can_take_it(dialect: Dialect, model: str, request: Request) -> None:
    newest = {"openai_chat": "gpt-5.2", "anthropic_messages": "anthropic--claude-4.6-opus", "gemini": "gemini-3-pro"}
    profile = profile_of((MODELS if model == "usual" else newest)[dialect.name])
    encoded = dialect.encode_request(request, Target("a-model", profile, native(profile.family)))
    acceptable(dialect.name, encoded.body)
    for sent, name in encoded.undo.tool_names.items():
        assert sent != name
    # And again: what the codec wrote it can read
    dialect.decode_request(json.loads(json.dumps(encoded.body)), Decoding(model="a-model", stream=False))
