"""Strategies: answers, conversations and the ways in which a network and other dialects take them apart."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from aicore_proxy.protocol.fold import unfold
from aicore_proxy.protocol.neutral import (
    Candidate,
    Close,
    Delta,
    Event,
    Foreign,
    Media,
    Open,
    Part,
    Reasoning,
    Refusal,
    Request,
    Response,
    Sampling,
    Seal,
    Sealed,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)

PNG = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="

characters = st.characters(exclude_categories=["Cs", "Cc"]) | st.sampled_from("\n\"\\'{}:é漢🙂\u2028")
words = st.text(characters, min_size=1, max_size=30).filter(lambda text: bool(text.strip()))
names = st.from_regex(r"[a-z][a-z_]{2,20}", fullmatch=True)
scalars = st.none() | st.booleans() | st.integers(-(2**40), 2**40) | st.text(characters, max_size=8)
objects: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    names, st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3)),
    max_size=3,
)  # fmt: skip
arguments = objects.map(lambda value: json.dumps(value, ensure_ascii=False, separators=(",", ":")))
seal_values = st.binary(min_size=1, max_size=40).map(lambda data: base64.b64encode(data).decode())
FAMILIES = ("claude", "gpt", "gemini", "mistral")
seals = st.builds(Seal, st.sampled_from(FAMILIES), seal_values)


@st.composite
def usages(draw: st.DrawFn) -> Usage:
    read, written, output = (draw(st.integers(0, 5000)) for _ in range(3))
    fresh = draw(st.integers(1, 5000))
    return Usage(fresh + read + written, read, written, output, draw(st.integers(0, output)))


@st.composite
def answer_parts(draw: st.DrawFn, family: str | None = None) -> tuple[Part, ...]:
    """Parts as a model answers: thoughts, texts, then calls with ids of their own."""
    minted = seals if family is None else st.builds(Seal, st.just(family), seal_values)
    thoughts: st.SearchStrategy[Part] = st.builds(Reasoning, words, st.none() | minted)
    parts: list[Part] = draw(st.lists(thoughts, max_size=1))
    parts += draw(st.lists(st.builds(Text, words), max_size=1))
    calls = draw(st.lists(st.tuples(names, arguments), min_size=0 if parts else 1, max_size=3))
    parts += [ToolCall(f"call_{number}", name, text) for number, (name, text) in enumerate(calls)]
    return tuple(parts)


@st.composite
def responses(draw: st.DrawFn, family: str | None = None) -> Response:
    parts = draw(answer_parts(family))
    stop = None
    if any(isinstance(part, ToolCall) for part in parts):
        finish = "tool_calls"
    else:
        finish = draw(st.sampled_from(["stop", "length", "content_filter"]))
    candidate = Candidate(parts, finish, stop)  # type: ignore[arg-type]
    return Response("answer1", "a-model", (candidate,), draw(usages()), 1764000000)


any_parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, st.text(characters, max_size=20), extras=objects),
    st.builds(Reasoning, st.text(characters, max_size=20), st.none() | seals, st.booleans(), objects),
    st.builds(
        ToolCall, names, names, arguments | st.just(""), st.sampled_from(["function", "custom"]), st.none() | seals
    ),
    st.builds(Refusal, words),
    st.builds(Media, st.just("image"), st.just("image/png"), st.just(PNG)),
    st.builds(Foreign, names, objects),
)
any_responses = st.builds(
    Response,
    names,
    names,
    st.lists(
        st.builds(
            Candidate,
            st.lists(any_parts, max_size=4).map(tuple),
            st.sampled_from(["stop", "length", "tool_calls", "pause"]),
            st.none() | words,
            objects,
        ),
        max_size=3,
    ).map(tuple),
    st.none() | usages(),
    st.integers(0, 2**31),
    objects,
)


@st.composite
def tellings(draw: st.DrawFn, response: Response) -> list[Event]:
    """The events of ``response`` as another dialect may send them: texts in any pieces, parts interleaved (each after
    the Open of the one before it), seals before or after the text, parts left open until the finish."""
    head, *rest = unfold(response)
    lanes: dict[int, list[Event]] = {}
    tail: list[Event] = []
    for event in rest:
        match event:
            case Open(index=index) | Sealed(index=index) | Close(index=index):
                lanes.setdefault(index, []).append(event)
            case Delta(index=index, text=text):
                cuts = sorted(draw(st.lists(st.integers(0, len(text)), max_size=3)))
                pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
                lanes[index] += [Delta(index, piece) for piece in pieces]
            case _:
                tail.append(event)
    told: list[Event] = [head]
    waiting = [lanes[index] for index in sorted(lanes)]
    while any(waiting):
        ready = [n for n, lane in enumerate(waiting) if lane and (not isinstance(lane[0], Open) or _opened(waiting, n))]
        lane = waiting[draw(st.sampled_from(ready))]
        event = lane.pop(0)
        if not (isinstance(event, Close) and draw(st.booleans())):
            told.append(event)
    return told + tail


def _opened(waiting: Sequence[Sequence[Event]], number: int) -> bool:
    """Whether all parts before this one have been opened."""
    return not any(lane and isinstance(lane[0], Open) for lane in waiting[:number])


@st.composite
def conversations(draw: st.DrawFn, source: str = "rosetta") -> Request:
    """A system text, turns that alternate, calls that are all answered in the next turn, in any order."""
    turns: list[Turn] = []
    if draw(st.booleans()):
        turns.append(Turn("system", (Text(draw(words)),)))
    number = 0
    for _ in range(draw(st.integers(0, 3))):
        turns.append(Turn("user", (Text(draw(words)),)))
        said: list[Part] = [Text(draw(words))] if draw(st.booleans()) else []
        calls = []
        for name, text in draw(st.lists(st.tuples(names, arguments), min_size=0 if said else 1, max_size=3)):
            calls.append(ToolCall(f"call_{number}", name, text))
            number += 1
        turns.append(Turn("assistant", (*said, *calls)))
        if calls:
            results = [
                ToolResult(call.id, (Text(draw(words)),), draw(st.booleans())) for call in draw(st.permutations(calls))
            ]
            turns.append(Turn("user", tuple(results)))
            turns.append(Turn("assistant", (Text(draw(words)),)))
    closing: list[Part] = [Text(draw(words))]
    if draw(st.booleans()):
        closing.append(Media("image", "image/png", PNG))
    turns.append(Turn("user", tuple(closing)))
    called = {part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}
    tools = tuple(Tool(name, "A tool.", {"type": "object", "properties": {}}) for name in sorted(called))
    return Request(source, "a-model", tuple(turns), tools, sampling=Sampling(max_tokens=1000))


def pieces(wire: bytes, cuts: Sequence[int]) -> list[bytes]:
    places = sorted({cut % (len(wire) + 1) for cut in cuts})
    return [wire[a:b] for a, b in zip([0, *places], [*places, len(wire)], strict=True)]


cuts = st.lists(st.integers(0, 2**20), max_size=12)


odd_ids = st.sampled_from(["call_1", "call_2", "toolu_bdrk_01", "functions.f:0", "ü|x", "a" * 80, "", "call_1 "])
odd_names = st.sampled_from(["f", "get_weather", "files.read/v2", "n" * 90, "1st", "ü", "a b", "mcp__s__t"])
odd_texts = st.sampled_from(["", " ", "\n", "hello", "Grüße", "{}"])
odd_arguments = st.sampled_from(["", "{}", '{"a":1}', "[1]", "null", "{broken", '"text"'])
odd_parts: st.SearchStrategy[Part] = st.one_of(
    st.builds(Text, odd_texts),
    st.builds(Reasoning, odd_texts, st.none() | seals, st.booleans()),
    st.builds(ToolCall, odd_ids, odd_names, odd_arguments, st.sampled_from(["function", "custom"]), st.none() | seals),
    st.builds(
        ToolResult,
        odd_ids,
        st.lists(st.builds(Text, odd_texts) | st.just(Media("image", "image/png", PNG)), max_size=2).map(tuple),
        st.booleans(),
    ),
    st.builds(Refusal, odd_texts),
    st.just(Media("image", "image/png", PNG)),
    st.builds(Foreign, st.just("elsewhere"), objects),
)


@st.composite
def odd_conversations(draw: st.DrawFn) -> Request:
    """Whatever a client may have made of a history: roles in any order, calls answered late, twice, or never, results
    of unknown calls, empty and blank texts, ids and names of any alphabet."""
    turns = []
    for role in draw(st.lists(st.sampled_from(["user", "assistant", "system", "developer"]), max_size=6)):
        parts = draw(st.lists(odd_parts, max_size=4))
        if role != "assistant":
            parts = [p for p in parts if not isinstance(p, ToolCall | Reasoning | Refusal)]
        if role != "user":
            parts = [p for p in parts if not isinstance(p, ToolResult | Media)]
        if role in ("system", "developer"):
            parts = [p for p in parts if isinstance(p, Text)]
        turns.append(Turn(role, tuple(parts)))  # type: ignore[arg-type]
    turns.append(Turn("user", (Text("go on"),)))
    called = {part.name for turn in turns for part in turn.parts if isinstance(part, ToolCall)}
    tools = tuple(Tool(name, None, draw(st.none() | st.just({"type": "object", "properties": {}}))) for name in called)
    return Request("elsewhere", "a-model", tuple(turns), tools, sampling=Sampling(max_tokens=100))
