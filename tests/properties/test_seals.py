"""Seals: a token that one model family minted comes back to it, through a client of any dialect, whole."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.properties.values import arguments, names, seal_values, seals, words
from tests.rosetta.folders import DIALECTS, events_of

from aicore_proxy.gateway.seals import SealKeeper
from aicore_proxy.protocol.dialects import Answering, Decoding, Dialect, Target
from aicore_proxy.protocol.fold import fold, unfold
from aicore_proxy.protocol.framing import SseDecoder
from aicore_proxy.protocol.neutral import (
    Candidate,
    Json,
    Part,
    Reasoning,
    Request,
    Response,
    Seal,
    Text,
    ToolCall,
    ToolResult,
    Turn,
    Usage,
)
from aicore_proxy.protocol.profiles import Profile
from aicore_proxy.protocol.seal import carried, native, restore, wrap

MESSAGES, GEMINI, CHAT = (DIALECTS[name] for name in ("anthropic_messages", "gemini", "openai_chat"))
WITH_SLOTS = [MESSAGES, GEMINI]
each_slot = pytest.mark.parametrize("client", WITH_SLOTS, ids=lambda dialect: dialect.name)


def answering(client: Dialect) -> Answering:
    return Answering(Request(client.name, "a-model", ()), carried(client.home), fresh_id="fresh", now=1)


@st.composite
def sealed_answers(draw: st.DrawFn) -> Response:
    """Thoughts with a seal, or a call that bears one; then a call or a text."""
    call = ToolCall("call_1", draw(names), draw(arguments))
    seal = draw(seals)
    parts: tuple[Part, ...] = draw(
        st.sampled_from(
            [
                (Reasoning(draw(words), seal), Text("so")),
                (Reasoning(draw(words), seal), Text("so"), call),
                (Reasoning("", seal, redacted=True), call),
                (ToolCall("call_1", call.name, call.arguments, seal=seal),),
            ]
        )
    )
    finish = "tool_calls" if any(isinstance(part, ToolCall) for part in parts) else "stop"
    return Response("1", "m", (Candidate(parts, finish),), Usage(1, output=1), 1)  # type: ignore[arg-type]


def next_request(client: Dialect, answer: dict[str, Json], *, url_safe: bool = False) -> Request:
    """What the client sends next: the answer as it came, and the results of its calls."""
    if client is MESSAGES:
        calls = [block["id"] for block in answer["content"] if block["type"] == "tool_use"]
        results: list[Json] = [{"type": "tool_result", "tool_use_id": call, "content": "r"} for call in calls]
        body: dict[str, Json] = {
            "model": "a-model", "max_tokens": 9,
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": answer["content"]},
                {"role": "user", "content": [*results, {"type": "text", "text": "go on"}]},
            ],
        }  # fmt: skip
    else:
        content = answer["candidates"][0]["content"]
        if url_safe:
            content = json.loads(json.dumps(content), object_hook=as_google_genai_returns_it)
        named = [part["functionCall"]["name"] for part in content["parts"] if "functionCall" in part]
        results = [{"functionResponse": {"name": name, "response": {"output": "r"}}} for name in named]
        body = {
            "contents": [
                {"role": "user", "parts": [{"text": "q"}]},
                content,
                {"role": "user", "parts": results or [{"text": "go on"}]},
            ]
        }
    return client.decode_request(json.loads(json.dumps(body)), Decoding(model="a-model", stream=False))


def as_google_genai_returns_it(node: dict[str, Any]) -> dict[str, Any]:
    """google-genai decodes the signature to bytes and writes it in the URL-safe alphabet, padded."""
    if "thoughtSignature" in node:
        data = base64.b64decode(node["thoughtSignature"], validate=True)
        node["thoughtSignature"] = base64.urlsafe_b64encode(data).decode()
    return node


def seals_in(request: Request) -> set[Seal]:
    return {
        part.seal
        for turn in request.turns
        for part in turn.parts
        if isinstance(part, Reasoning | ToolCall) and part.seal is not None
    }


@each_slot
@pytest.mark.parametrize("url_safe", [False, True])
@pytest.mark.parametrize("streamed", [False, True])
@given(response=sealed_answers())
def test_a_seal_comes_back_through_a_client(
    client: Dialect, url_safe: bool, streamed: bool, response: Response
) -> None:
    answer = client.encode_response(response, answering(client))
    if streamed:
        answer = streamed_answer(client, response)
    assert seals_in(next_request(client, answer, url_safe=url_safe)) == seals_in(
        Request("x", "m", (Turn("assistant", response.candidates[0].parts),))
    )


def streamed_answer(client: Dialect, response: Response) -> dict[str, Json]:
    """The answer that a client puts together from the stream."""
    encoder = client.stream_encoder(answering(client))
    payloads = SseDecoder().feed(b"".join(encoder.feed(event) for event in unfold(response)))
    frames = [json.loads(frame.data) for frame in payloads]
    if client is GEMINI:
        parts = [
            p for frame in frames for c in frame.get("candidates", []) for p in c.get("content", {}).get("parts", [])
        ]
        return {"candidates": [{"content": {"role": "model", "parts": parts}}]}
    blocks: list[dict[str, Any]] = []
    for frame in frames:
        match frame:
            case {"type": "content_block_start", "content_block": block}:
                blocks.append(dict(block))
            case {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": text}}:
                blocks[-1]["json"] = blocks[-1].get("json", "") + text
            case {"type": "content_block_delta", "delta": {"type": kind, **rest}}:
                name = kind.removesuffix("_delta")
                blocks[-1][name] = blocks[-1].get(name, "") + rest[name]
    for block in blocks:
        if block["type"] == "tool_use":
            block["input"] = json.loads(block.pop("json", "") or "{}")
    return {"content": blocks}


@each_slot
@given(response=sealed_answers())
def test_a_seal_goes_up_only_to_its_own_family(client: Dialect, response: Response) -> None:
    """For each upstream dialect: the family's own seal is on the wire as it was minted, a foreign one is not."""
    request = next_request(client, client.encode_response(response, answering(client)))
    minted = seals_in(request)
    for upstream, family in ((MESSAGES, "claude"), (GEMINI, "gemini"), (CHAT, "gpt")):
        profile = Profile(family=family, thinking="budget")
        target = Target("m", profile, native(family))
        text = json.dumps(upstream.encode_request(request, target).body, ensure_ascii=False)
        assert "YWljcDEu" not in text
        for seal in minted:
            if seal.family != family:
                assert json.dumps(seal.value)[1:-1] not in text or len(seal.value) < 12
            elif upstream is not CHAT:
                assert seal.value in text


@given(seals, st.sampled_from(["claude", "gemini", "gpt"]))
def test_wrapping_survives_both_alphabets(seal: Seal, home: str) -> None:
    sent = carried(home)(seal)
    assert sent is not None
    if seal.family == home:
        assert restore(sent, home) == seal
        return
    assert sent == wrap(seal)
    assert sent.startswith("YWljcDEu")
    safe = base64.urlsafe_b64encode(base64.b64decode(sent, validate=True)).decode()
    for variant in (sent, safe, safe.rstrip("=")):
        assert restore(variant, home) == seal


@given(response=sealed_answers())
def test_a_chat_client_has_no_slot_so_the_keeper_has_it(response: Response) -> None:
    keeper = SealKeeper()
    watch = keeper.watcher("key")
    for event in unfold(response):
        watch(event)
    told = fold(events_of(CHAT, b"".join(CHAT.stream_encoder(answering(CHAT)).feed(e) for e in unfold(response))))
    spoken = tuple(p for p in told.candidates[0].parts if not isinstance(p, Reasoning))
    calls = [p for p in spoken if isinstance(p, ToolCall)]
    turns = (Turn("assistant", spoken), Turn("user", tuple(ToolResult(call.id, (Text("r"),)) for call in calls)))
    recalled = keeper.recalled(Request("openai_chat", "m", turns), "key")
    meant = seals_in(Request("x", "m", (Turn("assistant", response.candidates[0].parts),)))
    assert seals_in(recalled) == (meant if calls else set())
    assert seals_in(keeper.recalled(Request("openai_chat", "m", turns), "another key")) == set()


@given(seal_values)
def test_a_signature_that_only_looks_wrapped_is_the_familys_own(value: str) -> None:
    assert restore(value, "claude") == Seal("claude", value)
