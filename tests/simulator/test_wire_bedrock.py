"""Bedrock's stream framing, Converse, Nova and Titan (SAP AI Core wire facts, sections 4.2, 4.5 and 4.6)."""

from __future__ import annotations

import ast
import base64
import json
import struct
import zlib
from typing import Any

import httpx2
import pytest
from tests.simulator.conftest import Tenant, user

from aicore_proxy.simulator import Running, in_thread, simple

EVENT_STREAM = "application/vnd.amazon.eventstream"
SONNET, NOVA = "anthropic--claude-4.5-sonnet", "amazon--nova-lite"
SAID = [{"role": "user", "content": [{"text": "it's me"}]}]
TOOLS = {
    "tools": [
        {
            "toolSpec": {
                "name": "weather",
                "inputSchema": {"json": {"type": "object", "properties": {"city": {"type": "string"}}}},
            }
        }
    ]
}


def frames(data: bytes) -> list[tuple[dict[str, str], bytes]]:
    """Binary frames, with every length and checksum looked at."""
    found = []
    while data:
        total, head = struct.unpack(">II", data[:8])
        assert struct.unpack(">I", data[8:12])[0] == zlib.crc32(data[:8])
        assert struct.unpack(">I", data[total - 4 : total])[0] == zlib.crc32(data[: total - 4])
        headers, position = {}, 12
        while position < 12 + head:
            length = data[position]
            name = data[position + 1 : position + 1 + length].decode()
            position += 1 + length
            assert data[position] == 7
            (size,) = struct.unpack(">H", data[position + 1 : position + 3])
            headers[name] = data[position + 3 : position + 3 + size].decode()
            position += 3 + size
        found.append((headers, data[12 + head : total - 4]))
        data = data[total:]
    return found


def python_frames(answer: httpx2.Response) -> list[Any]:
    assert answer.status_code == 200, answer.text
    return [ast.literal_eval(frame.removeprefix("data: ")) for frame in answer.text.removesuffix("\n\n").split("\n\n")]


def claude(**body: Any) -> dict[str, Any]:
    return {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 2000, "messages": [user("Hi")], **body}


def test_wire_binary_frames_when_accept_asks_for_them(tenant: Tenant) -> None:
    answer = tenant.post(SONNET, "invoke-with-response-stream", claude(), accept=EVENT_STREAM)

    assert answer.headers["content-type"] == EVENT_STREAM
    found = frames(answer.content)
    assert {tuple(sorted(headers.items())) for headers, _ in found} == {
        ((":content-type", "application/json"), (":event-type", "chunk"), (":message-type", "event"))
    }
    payloads = [json.loads(payload) for _, payload in found]
    assert all(set(payload) == {"bytes", "p"} for payload in payloads)
    kinds = [json.loads(base64.b64decode(payload["bytes"]))["type"] for payload in payloads]
    assert (kinds[0], kinds[-1]) == ("message_start", "message_stop")


@pytest.mark.parametrize("accept", [None, "application/json", "*/*", "text/event-stream"])
def test_wire_server_sent_events_for_any_other_accept(tenant: Tenant, accept: str | None) -> None:
    answer = tenant.post(SONNET, "invoke-with-response-stream", claude(), accept=accept)

    assert answer.headers["content-type"] == "text/event-stream"
    assert answer.text.startswith('data: {"type":"message_start"')


@pytest.mark.parametrize(("path", "body"), [("invoke", claude()), ("converse", {"messages": SAID})])
def test_wire_whole_answers_ignore_accept(tenant: Tenant, path: str, body: Any) -> None:
    answer = tenant.post(SONNET, path, body, accept=EVENT_STREAM, content_type=None)

    assert answer.headers["content-type"] == "application/json"
    assert answer.json()


def test_wire_binary_converse_stream(tenant: Tenant) -> None:
    found = frames(tenant.post(SONNET, "converse-stream", {"messages": SAID}, accept=EVENT_STREAM).content)

    kinds = [headers[":event-type"] for headers, _ in found]
    assert kinds[0] == "messageStart"
    assert kinds[-3:] == ["contentBlockStop", "messageStop", "metadata"]
    assert set(kinds[1:-3]) == {"contentBlockDelta"}, "no contentBlockStart for text"
    assert json.loads(found[0][1])["role"] == "assistant"


@pytest.mark.parametrize("path", ["invoke-with-response-stream", "converse-stream"])
def test_wire_binary_exception_frame(tenant: Tenant, simulator: Running, path: str) -> None:
    simulator.script({"error_after": 1})
    body = claude() if path.startswith("invoke") else {"messages": SAID}

    headers, payload = frames(tenant.post(SONNET, path, body, accept=EVENT_STREAM).content)[-1]

    assert (headers[":message-type"], headers[":exception-type"]) == ("exception", "throttlingException")
    assert json.loads(payload) == {"message": "Too many tokens, please wait before trying again."}


def test_wire_converse_stream_is_python_not_json(tenant: Tenant) -> None:
    answer = tenant.post(SONNET, "converse-stream", {"messages": SAID})

    assert answer.text.startswith("data: {'messageStart': {'role': 'assistant'}}\n\n")
    assert '"it\'s me"' in answer.text, "text with an apostrophe is quoted the other way"
    found = python_frames(answer)
    assert found[-2] == {"messageStop": {"stopReason": "end_turn"}}
    usage = found[-1]["metadata"]["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert {"cacheReadInputTokens", "cacheWriteInputTokens"} <= set(usage)


def test_wire_converse_stream_can_be_json(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(converse_stream="json")

    text = tenant.post(SONNET, "converse-stream", {"messages": SAID}).text

    assert json.loads(text.split("\n\n")[0].removeprefix("data: ")) == {"messageStart": {"role": "assistant"}}


def test_wire_converse_streams_tools_and_reasoning(tenant: Tenant) -> None:
    thinking = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    said = [
        {
            "role": "user",
            "content": [{"text": 'simulate: {"calls": [{"name": "weather", "arguments": {"city": "Oslo"}}]}'}],
        }
    ]
    body = {"messages": said, "toolConfig": TOOLS, "additionalModelRequestFields": thinking}

    found = python_frames(tenant.post(SONNET, "converse-stream", body))

    deltas = [frame["contentBlockDelta"]["delta"] for frame in found if "contentBlockDelta" in frame]
    assert "text" in deltas[0]["reasoningContent"]
    assert any("signature" in delta.get("reasoningContent", {}) for delta in deltas)
    (start,) = [frame["contentBlockStart"] for frame in found if "contentBlockStart" in frame]
    assert start["start"]["toolUse"]["toolUseId"].startswith("tooluse_")
    assert (start["start"]["toolUse"]["name"], start["contentBlockIndex"]) == ("weather", 1)
    assert json.loads("".join(d["toolUse"]["input"] for d in deltas if "toolUse" in d)) == {"city": "Oslo"}
    assert {"messageStop": {"stopReason": "tool_use"}} in found


def test_wire_converse_whole_answer(tenant: Tenant) -> None:
    body = {"messages": SAID, "system": [{"text": "Be terse"}, {"cachePoint": {"type": "default"}}],
            "inferenceConfig": {"maxTokens": 100, "temperature": 0.7, "stopSequences": ["xyz"]}}  # fmt: skip

    answer = tenant.post(NOVA, "converse", body).json()

    assert list(answer) == ["output", "stopReason", "usage", "metrics"]
    assert answer["output"]["message"]["role"] == "assistant"
    assert answer["output"]["message"]["content"][0]["text"].startswith("This is amazon--nova-lite, simulated.")
    assert answer["stopReason"] == "end_turn"


def test_wire_converse_tool_round_trip(tenant: Tenant) -> None:
    forced = {**TOOLS, "toolChoice": {"any": {}}}
    first = tenant.post(SONNET, "converse", {"messages": SAID, "toolConfig": forced}).json()
    use = first["output"]["message"]["content"][0]["toolUse"]
    assert (use["name"], use["input"], first["stopReason"]) == ("weather", {"city": "Berlin"}, "tool_use")

    result = {"toolResult": {"toolUseId": use["toolUseId"], "content": [{"text": "sunny"}]}}
    said = [*SAID, first["output"]["message"], {"role": "user", "content": [result]}]
    second = tenant.post(SONNET, "converse", {"messages": said, "toolConfig": TOOLS}).json()
    assert second["output"]["message"]["content"] == [{"text": "The tool answered: sunny"}]
    missing = [*said[:2], {"role": "user", "content": [{"text": "?"}]}]
    assert tenant.post(SONNET, "converse", {"messages": missing, "toolConfig": TOOLS}).status_code == 400


@pytest.mark.parametrize(
    ("model", "body", "part"),
    [
        (NOVA, {"messages": []}, "at least one message"),
        (NOVA, {"messages": SAID, "model": "x"}, "extraneous key [model]"),
        (
            NOVA,
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}]}]},
            "exactly one known member",
        ),
        (NOVA, {"messages": [{"role": "user", "content": [{"text": " "}]}]}, "is blank"),
        (NOVA, {"messages": [{"role": "system", "content": [{"text": "x"}]}]}, "enum value set"),
        (NOVA, {"messages": SAID, "inferenceConfig": {"maxTokens": 0}}, "greater than or equal to 1"),
        (NOVA, {"messages": SAID, "inferenceConfig": {"temperature": 3}}, "temperature: 3 is not less or equal to 1.0"),
        (NOVA, {"messages": SAID, "inferenceConfig": {"top_p": 1}}, "extraneous key [top_p]"),
        (SONNET, {"messages": SAID, "inferenceConfig": {"temperature": 0.5, "topP": 0.5}}, "cannot both be specified"),
        (
            "anthropic--claude-4.8-opus",
            {"messages": SAID, "inferenceConfig": {"temperature": 0.5}},
            "`temperature` is deprecated",
        ),
        (
            SONNET,
            {"messages": SAID, "additionalModelRequestFields": {"thinking": {"type": "adaptive"}}},
            "adaptive thinking",
        ),
    ],
)
def test_wire_converse_refuses(tenant: Tenant, model: str, body: Any, part: str) -> None:
    answer = tenant.post(model, "converse", body)

    assert (answer.status_code, part in answer.json()["message"]) == (400, True), answer.text


def test_wire_converse_stream_met_foreign_keys_with_an_empty_object(tenant: Tenant) -> None:
    foreign = [{"role": "user", "content": [{"text": "x", "cache_control": {"type": "ephemeral"}}]}]

    answer = tenant.post(SONNET, "converse-stream", {"messages": foreign})

    assert (answer.status_code, answer.text) == (400, "{}")


def test_wire_nova_takes_its_native_body_on_invoke(tenant: Tenant) -> None:
    body = {"schemaVersion": "messages-v1", "messages": SAID, "inferenceConfig": {"max_new_tokens": 50}}

    assert tenant.post(NOVA, "invoke", body).json()["output"]["message"]["role"] == "assistant"
    stream = tenant.post(NOVA, "invoke-with-response-stream", body).text
    assert json.loads(stream.split("\n\n")[0].removeprefix("data: ")) == {"messageStart": {"role": "assistant"}}


def test_wire_titan_embeds_and_claude_3_only_invokes() -> None:
    with in_thread(simple(["amazon--titan-embed-text", "anthropic--claude-3-haiku"])) as simulator:
        tenant = Tenant(simulator, "sub-1")

        answer = tenant.post("amazon--titan-embed-text", "invoke", {"inputText": "hello", "dimensions": 256}).json()
        assert (len(answer["embedding"]), answer["inputTextTokenCount"]) == (256, 2)
        assert tenant.post("amazon--titan-embed-text", "converse", {}).json()["error"] == "BadRequest"
        assert tenant.post("anthropic--claude-3-haiku", "converse", {}).json()["error"] == "BadRequest"
        assert tenant.claude("3-haiku").status_code == 200
