"""Gemini requests, read and written."""

from __future__ import annotations

import base64
import copy
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aicore_proxy.protocol.dialects import Decoding, Target
from aicore_proxy.protocol.dialects.gemini import DIALECT
from aicore_proxy.protocol.dialects.gemini.offer import legal_name
from aicore_proxy.protocol.dialects.gemini.parts import BYPASS
from aicore_proxy.protocol.fault import Fault, Kind
from aicore_proxy.protocol.neutral import (
    CacheMark,
    Encoded,
    Media,
    Output,
    Part,
    Reasoning,
    ReasoningAsk,
    Request,
    Sampling,
    Seal,
    Text,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
    Turn,
)
from aicore_proxy.protocol.profiles import Profile, profile_of
from aicore_proxy.protocol.schema import from_openapi
from aicore_proxy.protocol.seal import native

CAPTURES = Path(__file__).parent.parent / "captures"
PERMISSIVE = Profile("gemini")
PNG = base64.b64encode(b"\x89PNG").decode()


def captures() -> list[Path]:
    found = [path for path in CAPTURES.glob("*/*.json") if "enerateContent" in json.loads(path.read_bytes())["path"]]
    return sorted(found)


def decoded(body: Any, model: str = "gemini-2.5-pro", *, stream: bool = False) -> Request:
    return DIALECT.decode_request(body, Decoding(model, stream))


def encoded(request: Request, model: str | None = "gemini-2.5-pro") -> Encoded:
    profile = profile_of(model) if model else PERMISSIVE
    return DIALECT.encode_request(request, Target(model or "gemini", profile, native("gemini")))


def asked(*turns: Turn, source: str = "openai_chat", **others: Any) -> Request:
    return Request(source, "m", turns, **others)


def user(*parts: Part | str) -> Turn:
    return Turn("user", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def assistant(*parts: Part | str) -> Turn:
    return Turn("assistant", tuple(Text(part) if isinstance(part, str) else part for part in parts))


def lost(result: Encoded, *, harmless: bool | None = None) -> list[str]:
    return [loss.field for loss in result.losses if harmless is None or loss.harmless is harmless]


# Requests of real clients


def camel(value: Any, *, deep: bool = True) -> Any:
    """``value`` with camelCase keys, down to where keys are the user's own."""
    if isinstance(value, list):
        return [camel(item) for item in value]
    if not isinstance(value, dict):
        return value
    own = {"args", "response", "parameters", "parametersJsonSchema", "responseSchema", "responseJsonSchema"}
    told = {}
    for name, item in value.items():
        key = re.sub(r"_([a-z])", lambda match: match[1].upper(), name)
        told[key] = item if key in own else camel(item)
    return told


def as_list(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


def canonical(body: Any) -> Any:
    """A request as the documented normalisations leave it."""
    body = camel(copy.deepcopy(body))
    if isinstance(instruction := body.get("systemInstruction"), dict):
        instruction.pop("role", None)
    for content in as_list(body["contents"]):
        content.setdefault("role", "user")
        for part in as_list(content["parts"]):
            for name in ("functionCall", "functionResponse"):
                part.get(name, {}).pop("id", None)
            if inline := part.get("inlineData"):
                inline["data"] = inline["data"].replace("-", "+").replace("_", "/")
            if signature := part.get("thoughtSignature"):
                part["thoughtSignature"] = signature.replace("-", "+").replace("_", "/")
    functions: list[Any] = []
    others: list[Any] = []
    for tool in body.pop("tools", []):
        for declaration in tool.pop("functionDeclarations", []):
            schema = declaration.pop("parameters", None) or declaration.get("parametersJsonSchema")
            if schema:
                declaration["parametersJsonSchema"] = from_openapi(schema)
            functions.append(declaration)
        others += [{name: value} for name, value in tool.items()]
    if functions or others:
        body["tools"] = [*([{"functionDeclarations": functions}] if functions else []), *others]
    config = body.pop("generationConfig", {})
    if schema := config.pop("responseSchema", None) or config.get("responseJsonSchema"):
        config["responseJsonSchema"] = from_openapi(schema)
    if config.get("stopSequences") == []:
        del config["stopSequences"]
    return body | ({"generationConfig": config} if config else {})


def test_there_are_captures() -> None:
    assert len(captures()) >= 70


@pytest.mark.parametrize("path", captures(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_real_clients_send_comes_back_the_same(path: Path) -> None:
    capture = json.loads(path.read_bytes())
    model, _, verb = capture["path"].rpartition("/")[2].partition(":")
    request = decoded(capture["body"], model, stream=verb.startswith("stream"))
    assert (request.model, request.stream, request.source) == (model, "stream" in verb, "gemini")
    result = encoded(request, None)
    assert result.body == canonical(capture["body"])
    assert result.losses == ()
    again = encoded(decoded(result.body), None)
    assert again.body == result.body


@pytest.mark.parametrize("path", captures(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_what_real_clients_send_can_go_to_every_gemini(path: Path) -> None:
    body = json.loads(path.read_bytes())["body"]
    for model in ("gemini-2.5-pro", "gemini-2.5-flash-lite", "gemini-3.5-flash", "gemini-3-pro"):
        result = encoded(decoded(body), model)
        assert lost(result, harmless=False) == []
        assert '"id"' not in json.dumps([part for content in result.body["contents"] for part in content["parts"]])


EVERYTHING: dict[str, Any] = {
    "contents": [
        {"role": "user", "parts": [
            {"text": "look"},
            {"inlineData": {"mimeType": "image/png", "data": PNG, "displayName": "dot.png"}},
            {"fileData": {"mimeType": "video/mp4", "fileUri": "gs://b/v.mp4"}, "videoMetadata": {"fps": 1}},
            {"inlineData": {"mimeType": "text/plain", "data": base64.b64encode(b"hi").decode()}},
        ]},
        {"role": "model", "parts": [
            {"text": "Hm.", "thought": True},
            {"text": "Sure.", "thoughtSignature": "c2lnMQ=="},
            {"functionCall": {"name": "a", "args": {"x": [1, {"y": None}], "z": 1.5}}, "thoughtSignature": "c2lnMg=="},
            {"functionCall": {"name": "b", "args": {}}},
            {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "c2lnMw=="},
            {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}},
            {"text": "", "thoughtSignature": "c2lnNA=="},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": "a", "response": {"output": "ok"}}},
            {"functionResponse": {"name": "b", "response": {"result": [1], "error": {"code": 1}},
                                  "parts": [{"inlineData": {"mimeType": "image/png", "data": PNG}}]}},
            {"functionResponse": {"name": "b", "response": {"error": "no"}, "willContinue": True}},
            {"functionResponse": {"name": "b", "response": {}}},
            {"text": "and?"},
        ]},
    ],
    "systemInstruction": {"parts": [{"text": "one"}, {"text": "two"}]},
    "tools": [
        {"functionDeclarations": [
            {"name": "a", "description": "does a", "parametersJsonSchema": {"type": "object", "properties": {"x": {}}},
             "responseJsonSchema": {"type": "string"}, "behavior": "BLOCKING"},
            {"name": "b"},
        ]},
        {"googleSearch": {}},
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED", "allowedFunctionNames": ["a"]},
                   "retrievalConfig": {"languageCode": "de"}},
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "cachedContent": "projects/p/cachedContents/1",
    "labels": {"team": "x"},
    "generationConfig": {
        "temperature": 0.0, "topP": 0.9, "topK": 20, "candidateCount": 1, "maxOutputTokens": 99, "seed": 7,
        "stopSequences": ["END"], "presencePenalty": 0.1, "frequencyPenalty": -0.1, "responseLogprobs": True,
        "logprobs": 3, "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"},
        "thinkingConfig": {"includeThoughts": True, "thinkingBudget": -1}, "mediaResolution": "MEDIA_RESOLUTION_LOW",
        "responseModalities": ["TEXT"], "speechConfig": {"languageCode": "de-DE"},
    },
}  # fmt: skip


def test_nothing_of_a_full_request_is_lost_or_changed() -> None:
    result = encoded(decoded(EVERYTHING), None)
    assert result.body == EVERYTHING
    assert result.losses == ()


def test_a_full_request_in_neutral_terms() -> None:
    request = decoded(EVERYTHING)
    system, first, second, third = request.turns
    assert (system.role, [p.text for p in system.parts if isinstance(p, Text)]) == ("system", ["one", "two"])
    assert first.parts[1] == Media("image", "image/png", data=PNG, name="dot.png")
    assert first.parts[2] == Media("video", "video/mp4", url="gs://b/v.mp4", extras={"videoMetadata": {"fps": 1}})
    assert first.parts[3] == Media("document", "text/plain", text="hi")
    calls = [part for part in second.parts if isinstance(part, ToolCall)]
    assert calls[0] == ToolCall("call_1", "a", '{"x":[1,{"y":null}],"z":1.5}', seal=Seal("gemini", "c2lnMg=="))
    assert second.parts[:3] == (Reasoning("Hm."), Text("Sure."), Reasoning("", Seal("gemini", "c2lnMQ==")))
    assert second.parts[-1] == Reasoning("", Seal("gemini", "c2lnNA=="), redacted=True)
    results = [part for part in third.parts if isinstance(part, ToolResult)]
    assert [(r.call_id, r.is_error) for r in results[:3]] == [("call_1", False), ("call_2", True), ("call_3", True)]
    assert results[0].content == (Text("ok"),)
    assert results[2].content == (Text("no"),)
    assert request.tool_choice is not None
    assert request.tool_choice.allowed == ("a",)
    assert request.reasoning == ReasoningAsk("adaptive", visible=True)
    assert request.sampling.logprobs == 3
    assert set(request.extras) == {
        "safetySettings", "cachedContent", "labels", "generationConfig.mediaResolution",
        "generationConfig.responseModalities", "generationConfig.speechConfig",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "standard"), [("aGk=", "aGk="), ("aGk", "aGk="), ("YQ", "YQ=="), ("_-8", "/+8="), ("YWJj", "YWJj")]
)
def test_base64_of_any_kind_is_read_as_the_standard_one(data: str, standard: str) -> None:
    part = {"inlineData": {"mimeType": "image/png", "data": data}}
    [turn] = decoded({"contents": [{"parts": [part]}]}).turns
    assert turn.parts == (Media("image", "image/png", data=standard),)


def test_snake_case_objects_for_arrays_and_texts_for_contents_are_read() -> None:
    request = decoded({
        "contents": {"parts": {"text": "hi"}},
        "system_instruction": "be brief",
        "tools": {"function_declarations": {"name": "f", "parameters_json_schema": {"type": "OBJECT"}}},
        "tool_config": {"function_calling_config": {"mode": "any", "allowed_function_names": ["f"]}},
        "generation_config": {"max_output_tokens": "20", "top_k": 3.0, "stop_sequences": "x",
                              "response_mime_type": "application/json", "response_json_schema": {"type": "object"},
                              "thinking_config": {"thinking_level": "low", "include_thoughts": True}},
        "safety_settings": {"category": "c"},
        "model": "models/gemini-x",
        "stream": True,
    })  # fmt: skip
    assert request.turns == (Turn("system", (Text("be brief"),)), user("hi"))
    assert request.tools == (Tool("f", schema={"type": "object"}),)
    assert request.tool_choice == ToolChoice("tool", "f")
    assert request.sampling == Sampling(max_tokens=20, top_k=3, stop=("x",))
    assert request.output == Output("schema", {"type": "object"})
    assert request.reasoning == ReasoningAsk(effort="low", visible=True)
    assert request.extras == {"safetySettings": {"category": "c"}}
    assert request.model == "gemini-2.5-pro"
    assert not request.stream, "the path says so"
    assert DIALECT.decode_request({"contents": {"parts": []}, "model": "models/x", "stream": True}, Decoding()).stream


def test_calls_without_ids_are_matched_by_name_and_order() -> None:
    def call(name: str, call_id: str | None = None) -> Any:
        return {"functionCall": {"name": name, "args": {}} | ({"id": call_id} if call_id else {})}

    def result(name: str, call_id: str | None = None) -> Any:
        return {"functionResponse": {"name": name, "response": {}} | ({"id": call_id} if call_id else {})}

    request = decoded({"contents": [
        {"role": "user", "parts": [{"text": "go"}]},
        {"role": "model", "parts": [call("a"), call("b", "call_2"), call("a"), call("c", "x")]},
        {"role": "user", "parts": [result("a"), result("c")]},
        {"role": "user", "parts": [result("b", "call_2")]},
        {"role": "function", "parts": [result("a"), result("zzz"), result("a", "odd")]},
        {"role": "model", "parts": [call("a")]},
        {"role": "user", "parts": [result("a", "odd")]},
    ]})  # fmt: skip
    ids = [(type(p).__name__, p.id if isinstance(p, ToolCall) else p.call_id)
           for turn in request.turns for p in turn.parts if isinstance(p, ToolCall | ToolResult)]  # fmt: skip
    assert ids == [
        ("ToolCall", "call_1"), ("ToolCall", "call_2"), ("ToolCall", "call_3"), ("ToolCall", "x"),
        ("ToolResult", "call_1"), ("ToolResult", "x"), ("ToolResult", "call_2"), ("ToolResult", "call_3"),
        ("ToolResult", "call_4"), ("ToolResult", "odd"), ("ToolCall", "call_5"), ("ToolResult", "call_5"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"contents": None}, "contents"),
        ({"contents": []}, "contents"),
        ({"contents": "hi"}, "contents"),
        ({"contents": ["hi"]}, "contents[0]"),
        ({"contents": [{"parts": "hi"}]}, "contents[0].parts"),
        ({"contents": [{"parts": [{"text": 1}]}]}, "contents[0].parts[0].text"),
        ({"contents": [{"parts": [{"text": "a"}, 7]}]}, "contents[0].parts[1]"),
        ({"contents": [{"role": "robot", "parts": []}]}, "contents[0].role"),
        ({"contents": [{"parts": [{"functionCall": {"args": {}}}]}]}, "contents[0].parts[0].functionCall.name"),
        ({"contents": [{"parts": [{"functionCall": {"name": "f", "args": []}}]}]},
         "contents[0].parts[0].functionCall.args"),
        ({"contents": [{"parts": [{"inlineData": {"data": "*"}}]}]}, "contents[0].parts[0].inlineData.data"),
        ({"contents": [{"parts": [{"fileData": {}}]}]}, "contents[0].parts[0].fileData.fileUri"),
        ({"contents": [{"parts": [{"text": "a", "thought": "yes"}]}]}, "contents[0].parts[0].thought"),
        ({"systemInstruction": 3}, "systemInstruction"),
        ({"tools": [{"functionDeclarations": [{}]}]}, "tools[0].functionDeclarations[0].name"),
        ({"tools": [3]}, "tools[0]"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "SOMETIMES"}}}, "toolConfig.functionCallingConfig.mode"),
        ({"toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [1]}}},
         "toolConfig.functionCallingConfig.allowedFunctionNames[0]"),
        ({"generationConfig": {"temperature": "hot"}}, "generationConfig.temperature"),
        ({"generationConfig": {"maxOutputTokens": 1.5}}, "generationConfig.maxOutputTokens"),
        ({"generationConfig": {"topK": True}}, "generationConfig.topK"),
        ({"generationConfig": {"responseJsonSchema": "x"}}, "generationConfig.responseJsonSchema"),
        ({"generationConfig": {"thinkingConfig": {"thinkingBudget": "lots"}}},
         "generationConfig.thinkingConfig.thinkingBudget"),
        ({"generationConfig": []}, "generationConfig"),
    ],
)  # fmt: skip
def test_a_wrong_type_is_named(change: dict[str, Any], path: str) -> None:
    with pytest.raises(Fault) as caught:
        decoded({"contents": [{"parts": [{"text": "hi"}]}]} | change)
    assert (caught.value.kind, caught.value.param) == (Kind.MALFORMED, path)
    assert f"'{path}'" in caught.value.message


odd = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3) | st.just([]) | (
    st.just({}) | st.just([3]) | st.just({"text": 3}) | st.just({"": None})
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


@given(st.sampled_from([path for path in places(EVERYTHING) if path]), odd)
def test_whatever_stands_anywhere_is_read_or_refused_and_can_be_written(path: tuple[Any, ...], value: Any) -> None:
    body = copy.deepcopy(EVERYTHING)
    node = body
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    try:
        request = decoded(body)
    except Fault as fault:
        refused = fault.kind is Kind.MALFORMED and fault.param is not None
        assert refused, fault  # noqa: PT017
        return
    for model in (None, "gemini-2.5-flash", "gemini-3-pro"):
        json.dumps(encoded(request, model).body)


# Requests of other dialects' clients


def test_leading_system_turns_are_the_instruction_and_later_ones_stay_at_their_place() -> None:
    result = encoded(asked(
        Turn("system", (Text("S"),)), Turn("developer", (Text("D"),)), user("a"), assistant("b"),
        Turn("system", (Text("later"),)), user("c"),
    ))  # fmt: skip
    assert result.body["systemInstruction"] == {"parts": [{"text": "S"}, {"text": "D"}]}
    assert result.body["contents"] == [
        {"role": "user", "parts": [{"text": "a"}]},
        {"role": "model", "parts": [{"text": "b"}]},
        {"role": "user", "parts": [{"text": "<system-reminder>\nlater\n</system-reminder>"}, {"text": "c"}]},
    ]


@pytest.mark.parametrize(
    ("turns", "parts"),
    [
        ((Turn("system", (Text("S"),)),), [{"text": "S"}]),
        ((user(""),), [{"text": " "}]),
        ((user("", "a"),), [{"text": "a"}]),
    ],
)
def test_contents_are_never_empty(turns: tuple[Turn, ...], parts: Any) -> None:
    body = encoded(asked(*turns)).body
    assert body["contents"] == [{"role": "user", "parts": parts}]
    assert "systemInstruction" not in body


def test_turns_of_one_role_are_merged() -> None:
    contents = encoded(asked(user("a"), user("b"), assistant("c"), assistant("d"), user("e"))).body["contents"]
    assert [(c["role"], len(c["parts"])) for c in contents] == [("user", 2), ("model", 2), ("user", 1)]


def test_results_follow_their_calls_at_once_in_their_order() -> None:
    result = encoded(asked(
        user("go"),
        assistant("on it", ToolCall("1", "a", '{"x":1}'), ToolCall("2", "b"), ToolCall("3", "c", "{}")),
        user(ToolResult("3", (Text("three"),))),
        user("by the way"),
        assistant("yes?"),
        user(ToolResult("1", (Text('{"one":1}'),)), ToolResult("2", (Text("bad"),), is_error=True), "next"),
    ))  # fmt: skip
    assert result.body["contents"] == [
        {"role": "user", "parts": [{"text": "go"}]},
        {"role": "model", "parts": [
            {"text": "on it"},
            {"functionCall": {"name": "a", "args": {"x": 1}}},
            {"functionCall": {"name": "b", "args": {}}},
            {"functionCall": {"name": "c", "args": {}}},
        ]},
        {"role": "user", "parts": [
            {"functionResponse": {"name": "a", "response": {"output": '{"one":1}'}}},
            {"functionResponse": {"name": "b", "response": {"error": "bad"}}},
            {"functionResponse": {"name": "c", "response": {"output": "three"}}},
        ]},
        {"role": "user", "parts": [{"text": "by the way"}]},
        {"role": "model", "parts": [{"text": "yes?"}]},
        {"role": "user", "parts": [{"text": "next"}]},
    ]  # fmt: skip
    assert result.losses == ()


def test_calls_without_a_result_and_results_without_a_call_are_told() -> None:
    contents = encoded(asked(
        user("go"), assistant(ToolCall("1", "a"), ToolCall("2", "b")), user(ToolResult("1", (Text("x"),))),
        user(ToolResult("9", (Text("y"),)), ToolResult("1", (Text("z"),), is_error=True)),
    )).body["contents"]  # fmt: skip
    assert contents[2]["parts"] == [
        {"functionResponse": {"name": "a", "response": {"output": "x"}}},
        {"functionResponse": {"name": "b", "response": {"error": "The call was not answered."}}},
    ]
    assert contents[3] == {"role": "user", "parts": [
        {"text": "Result of an earlier call of a tool:\ny"},
        {"text": "Result of an earlier call of a (it failed):\nz"},
    ]}  # fmt: skip
    open_end = encoded(asked(user("go"), assistant(ToolCall("1", "a")))).body["contents"]
    assert len(open_end) == 2, "a call at the very end is nobody's to answer yet"


def test_ids_that_come_again_belong_to_the_call_before_them() -> None:
    contents = encoded(asked(
        user("go"), assistant(ToolCall("1", "a")), user(ToolResult("1", (Text("first"),))),
        assistant(ToolCall("1", "a")), user(ToolResult("1", (Text("second"),))),
    )).body["contents"]  # fmt: skip
    said = [part["functionResponse"]["response"] for c in contents for part in c["parts"] if "functionResponse" in part]
    assert said == [{"output": "first"}, {"output": "second"}]


@pytest.mark.parametrize(
    ("model", "inside", "behind"),
    [
        ("gemini-3.5-flash", True, 1),
        ("gemini-2.5-flash", False, 2),
    ],
)
def test_images_of_a_tool_stand_where_the_model_takes_them(model: str, inside: bool, behind: int) -> None:
    image = Media("image", "image/png", data=PNG)
    sound = Media("audio", "audio/wav", data=PNG)
    result = encoded(asked(
        user("go"), assistant(ToolCall("1", "shot")), user(ToolResult("1", (Text("see"), image, sound)), "well?"),
    ), model)  # fmt: skip
    response, beside = result.body["contents"][2:]
    assert len(response["parts"]) == 1, "as many responses as calls, and nothing else"
    told = response["parts"][0]["functionResponse"]
    wire = {"inlineData": {"mimeType": "image/png", "data": PNG}}
    assert told.get("parts") == ([wire] if inside else None)
    assert told["response"] == {"output": "see"}
    assert beside["parts"][0] == {"text": "Returned by shot:"}
    assert len(beside["parts"]) == 2 + behind
    assert beside["parts"][-1] == {"text": "well?"}


def test_media() -> None:
    result = encoded(asked(user(
        Media("image", url="data:image/gif;base64,R0lG"),
        Media("image", url="https://x/y.webp?z=1", detail="high"),
        Media("document", url="https://x/y"),
        Media("document", "application/pdf", data="JVBE", name="a.pdf"),
        Media("document", text="plain", name="n.txt"),
        Media("audio", "audio/wav", data="UklG"),
        Media("image", "image/jpg", data="/9j/"),
        Media("image", url="data:image/jpg;base64,/9j/"),
    )))  # fmt: skip
    assert result.body["contents"][0]["parts"] == [
        {"inlineData": {"mimeType": "image/gif", "data": "R0lG"}},
        {"fileData": {"mimeType": "image/webp", "fileUri": "https://x/y.webp?z=1"}},
        {"fileData": {"mimeType": "application/pdf", "fileUri": "https://x/y"}},
        {"inlineData": {"mimeType": "application/pdf", "data": "JVBE", "displayName": "a.pdf"}},
        {"inlineData": {"mimeType": "text/plain", "data": "cGxhaW4=", "displayName": "n.txt"}},
        {"inlineData": {"mimeType": "audio/wav", "data": "UklG"}},
        {"inlineData": {"mimeType": "image/jpeg", "data": "/9j/"}},
        {"inlineData": {"mimeType": "image/jpeg", "data": "/9j/"}},
    ]
    assert lost(result) == ["content.image.detail"]
    refused = encoded(asked(user("a", Media("image", file_id="file-1"))))
    assert lost(refused, harmless=False) == ["content.image.file_id"]


@pytest.mark.parametrize(
    ("name", "legal"),
    [
        ("get_weather", True),
        ("mcp__a.b-c", True),
        ("_x", True),
        ("a:b", False),
        ("7up", False),
        ("grüße", False),
        ("x" * 65, False),
        ("", False),
    ],
)
def test_names_of_tools(name: str, legal: bool) -> None:
    sent = legal_name(name)
    assert (sent == name) is legal
    assert re.fullmatch(r"[a-zA-Z_][a-zA-Z0-9_.-]{0,63}", sent)
    assert sent == legal_name(name)


def test_probabilities_that_cannot_be_told_are_not_asked_for() -> None:
    result = encoded(asked(user("a"), sampling=Sampling(logprobs=2)))
    assert "generationConfig" not in result.body
    assert lost(result) == ["logprobs"]


def test_a_tool_that_is_named_twice_is_offered_once() -> None:
    tools = (Tool("f", description="first"), Tool("f", description="second"), Tool("g"))
    result = encoded(asked(user("a"), tools=tools))
    assert result.body["tools"] == [{"functionDeclarations": [{"name": "f", "description": "first"}, {"name": "g"}]}]
    assert lost(result) == ["tools.f"]


def test_renamed_tools_are_renamed_everywhere_and_turned_back() -> None:
    result = encoded(asked(
        user("go"), assistant(ToolCall("1", "a b")), user(ToolResult("1", (Text("x"),))),
        tools=(Tool("a b"), Tool("a:b"), Tool("ok")), tool_choice=ToolChoice("required", allowed=("a b", "ok")),
    ))  # fmt: skip
    declared = [d["name"] for d in result.body["tools"][0]["functionDeclarations"]]
    assert result.undo.tool_names == {declared[0]: "a b", declared[1]: "a:b"}
    assert declared[2] == "ok"
    parts = [part for content in result.body["contents"] for part in content["parts"]]
    assert [p["functionCall"]["name"] for p in parts if "functionCall" in p] == [declared[0]]
    assert [p["functionResponse"]["name"] for p in parts if "functionResponse" in p] == [declared[0]]
    config = result.body["toolConfig"]["functionCallingConfig"]
    assert config == {"mode": "ANY", "allowedFunctionNames": [declared[0], "ok"]}


TOOL = Tool("f", "does f", {"type": "object", "properties": {"x": {"type": "string"}}, "$schema": "s"})
SEARCH = Tool("web_search", kind="foreign", dialect="anthropic_messages", block={"type": "web_search_1"})


@pytest.mark.parametrize(
    ("choice", "tools", "config", "losses"),
    [
        (None, (TOOL,), None, []),
        (ToolChoice("auto"), (TOOL,), {"mode": "AUTO"}, []),
        (ToolChoice("auto", allowed=("f",)), (TOOL,), {"mode": "VALIDATED", "allowedFunctionNames": ["f"]}, []),
        (ToolChoice("none"), (TOOL,), {"mode": "NONE"}, []),
        (ToolChoice("required"), (TOOL,), {"mode": "ANY"}, []),
        (ToolChoice("tool", "f"), (TOOL,), {"mode": "ANY", "allowedFunctionNames": ["f"]}, []),
        (ToolChoice("auto", parallel=False), (TOOL,), {"mode": "AUTO"}, [("tool_choice.parallel", True)]),
        (ToolChoice("auto"), (TOOL, SEARCH), {"mode": "AUTO"}, [("tools.web_search", True)]),
        (ToolChoice("tool", "web_search"), (TOOL, SEARCH), None,
         [("tools.web_search", True), ("tool_choice.web_search", False)]),
        (ToolChoice("required"), (SEARCH,), None, [("tools.web_search", True), ("tool_choice.web_search", False)]),
        (ToolChoice("required"), (), None, [("tool_choice", True)]),
        (ToolChoice("none"), (), None, []),
    ],
)  # fmt: skip
def test_tool_choice(choice: ToolChoice | None, tools: tuple[Tool, ...], config: Any, losses: Any) -> None:
    result = encoded(asked(user("go"), tools=tools, tool_choice=choice))
    assert result.body.get("toolConfig") == (config and {"functionCallingConfig": config})
    assert [(loss.field, loss.harmless) for loss in result.losses] == losses


def test_schemas_of_tools() -> None:
    tools = (
        TOOL,
        Tool("none", schema={"type": "object", "properties": {}, "additionalProperties": False}),
        Tool("open", schema={"type": "object"}),
        Tool("map", schema={"type": "object", "additionalProperties": {"type": "string"}}),
        Tool("cycle", strict=True, schema={"$ref": "#/$defs/N", "$defs": {
            "N": {"type": "object", "properties": {"n": {"$ref": "#/$defs/N"}}}}}),
        Tool("free", "text", kind="custom"),
    )  # fmt: skip
    result = encoded(asked(user("go"), tools=tools))
    schemas = [d.get("parametersJsonSchema") for d in result.body["tools"][0]["functionDeclarations"]]
    assert schemas == [
        {"type": "object", "properties": {"x": {"type": "string"}}},
        None,
        None,
        {"type": "object", "additionalProperties": {"type": "string"}},
        {"type": "object", "properties": {"n": {"type": "object", "properties": {"n": {"type": "object"}}}}},
        {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]},
    ]
    assert lost(result) == ["tools.strict", "tools.cycle.$ref (cycle)"]
    assert result.undo.custom_tools == {"free"}
    older = encoded(asked(user("go"), tools=(TOOL,)), "gemini-2.0-flash").body["tools"][0]["functionDeclarations"]
    assert older[0]["parameters"] == {"type": "OBJECT", "properties": {"x": {"type": "STRING"}}}


SCHEMA = {"type": "object", "properties": {"a": {"$ref": "#/$defs/A"}}, "$defs": {"A": {"const": "x"}}}


def test_structured_output() -> None:
    plain = encoded(asked(user("go"), output=Output("schema", SCHEMA, name="n", verbosity="low")))
    assert plain.body["generationConfig"] == {
        "responseMimeType": "application/json",
        "responseJsonSchema": {"type": "object", "properties": {"a": {"enum": ["x"]}}},
    }
    assert lost(plain) == ["verbosity"]
    told = encoded(asked(user("go"), output=Output("schema", {"type": "object"}, description="d"))).body
    assert told["generationConfig"]["responseJsonSchema"] == {"description": "d", "type": "object"}
    beside = encoded(asked(user("go"), output=Output("schema", SCHEMA), tools=(TOOL,)), "gemini-3.5-flash")
    assert "responseJsonSchema" in beside.body["generationConfig"]
    assert beside.undo.output_tool is None
    as_tool = encoded(asked(user("go"), output=Output("schema", SCHEMA), tools=(TOOL,)))
    assert "generationConfig" not in as_tool.body
    names = [d["name"] for d in as_tool.body["tools"][0]["functionDeclarations"]]
    assert names == ["f", as_tool.undo.output_tool]
    assert as_tool.body["toolConfig"] == {"functionCallingConfig": {"mode": "ANY"}}
    last = encoded(asked(user("go"), output=Output("schema", SCHEMA), tools=(TOOL,), tool_choice=ToolChoice("none")))
    config = last.body["toolConfig"]["functionCallingConfig"]
    assert config == {"mode": "ANY", "allowedFunctionNames": [last.undo.output_tool]}
    as_json = encoded(asked(user("go"), output=Output("json"), tools=(TOOL,)))
    assert lost(as_json, harmless=True) == ["response_format"]
    assert encoded(asked(user("go"), output=Output("json"))).body["generationConfig"] == {
        "responseMimeType": "application/json"
    }


def test_forms_of_output_that_only_gemini_knows_stay_as_they_are() -> None:
    body = {"contents": [{"role": "user", "parts": []}],
            "generationConfig": {"responseMimeType": "text/x.enum",
                                 "responseSchema": {"type": "STRING", "enum": ["a"]}}}  # fmt: skip
    assert decoded(body).output is None
    assert encoded(decoded(body), None).body == body


@pytest.mark.parametrize(
    ("model", "ask", "max_tokens", "config", "losses"),
    [
        ("gemini-2.5-flash", ReasoningAsk("off"), None, {"thinkingBudget": 0}, []),
        ("gemini-2.5-flash", ReasoningAsk(effort="none"), None, {"thinkingBudget": 0}, []),
        ("gemini-2.5-pro", ReasoningAsk("off"), None, {"thinkingBudget": 128}, ["reasoning"]),
        ("gemini-2.5-pro", ReasoningAsk("on", budget=1024, visible=True), None,
         {"thinkingBudget": 1024, "includeThoughts": True}, []),
        ("gemini-2.5-flash", ReasoningAsk("on", budget=99999, visible=False), None,
         {"thinkingBudget": 24576, "includeThoughts": False}, []),
        ("gemini-2.5-flash-lite", ReasoningAsk("on", budget=100), None,
         {"thinkingBudget": 512, "includeThoughts": True}, []),
        ("gemini-2.5-pro", ReasoningAsk("adaptive"), None,
         {"thinkingBudget": -1, "includeThoughts": True}, []),
        ("gemini-2.5-pro", ReasoningAsk(effort="high"), None, {"thinkingBudget": 24576}, []),
        ("gemini-2.5-pro", ReasoningAsk(effort="max"), None, {"thinkingBudget": 32768}, []),
        ("gemini-2.5-pro", ReasoningAsk(effort="high"), 8000, {"thinkingBudget": 6000}, []),
        ("gemini-2.5-pro", ReasoningAsk(visible=False), None, {"includeThoughts": False}, []),
        ("gemini-3.5-flash", ReasoningAsk("off"), None, {"thinkingLevel": "MINIMAL"}, ["reasoning"]),
        ("gemini-3-pro", ReasoningAsk(effort="none", visible=True), None, {"thinkingLevel": "LOW"}, ["reasoning"]),
        ("gemini-3-pro", ReasoningAsk(effort="medium"), None, {"thinkingLevel": "LOW"}, []),
        ("gemini-3.1-pro", ReasoningAsk(effort="medium"), None, {"thinkingLevel": "MEDIUM"}, []),
        ("gemini-3.5-flash", ReasoningAsk("adaptive", effort="xhigh"), None,
         {"thinkingLevel": "HIGH", "includeThoughts": True}, []),
        ("gemini-3.5-flash", ReasoningAsk("on", budget=31999, visible=True), None,
         {"thinkingLevel": "HIGH", "includeThoughts": True}, []),
        ("gemini-3.5-flash", ReasoningAsk("adaptive"), None, {"includeThoughts": True}, []),
        ("gemini-2.0-flash", ReasoningAsk(effort="high", visible=True), None, None, ["reasoning"]),
        ("gemini-2.0-flash", ReasoningAsk("off"), None, None, []),
    ],
)  # fmt: skip
def test_thinking(model: str, ask: ReasoningAsk, max_tokens: int | None, config: Any, losses: list[str]) -> None:
    result = encoded(asked(user("go"), reasoning=ask, sampling=Sampling(max_tokens=max_tokens)), model)
    assert result.body.get("generationConfig", {}).get("thinkingConfig") == config
    assert lost(result) == losses


def test_a_gemini_clients_level_becomes_a_budget_where_the_model_has_no_levels() -> None:
    body = {"contents": [{"parts": [{"text": "a"}]}],
            "generationConfig": {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}}}  # fmt: skip
    config = encoded(decoded(body), "gemini-2.5-flash").body["generationConfig"]
    assert config == {"thinkingConfig": {"thinkingBudget": 24576, "includeThoughts": True}}
    config = encoded(decoded(body), "gemini-3.5-flash").body["generationConfig"]
    assert config == body["generationConfig"]


@pytest.mark.parametrize(
    ("model", "max_tokens"),
    [("gemini-2.5-pro", 192), ("gemini-2.5-flash", 64), ("gemini-3.5-flash", 1088)],
)
def test_a_bound_for_the_answer_leaves_room_for_thoughts_that_cannot_be_turned_off(model: str, max_tokens: int) -> None:
    ask = asked(user("go"), reasoning=ReasoningAsk("off"), sampling=Sampling(max_tokens=64))
    assert encoded(ask, model).body["generationConfig"]["maxOutputTokens"] == max_tokens


def test_sampling_is_kept_or_named() -> None:
    sampling = Sampling(100_000, 0.5, 0.9, 40, tuple("abcdef"), 1, 0.0, 0.3, 0, {"1": 2.0}, 2)
    result = encoded(asked(user("go"), sampling=sampling, user="u", cache=CacheMark()))
    assert result.body["generationConfig"] == {
        "maxOutputTokens": 65536, "temperature": 0.5, "topP": 0.9, "topK": 40, "stopSequences": list("abcde"),
        "seed": 1, "candidateCount": 2,
    }  # fmt: skip
    assert set(lost(result)) == {
        "logit_bias", "frequency_penalty", "stop", "max_tokens", "user", "cache_control", "logprobs",
    }  # fmt: skip
    assert lost(result, harmless=False) == []
    older = encoded(asked(user("go"), sampling=Sampling(presence_penalty=0.1)), "gemini-2.0-flash")
    assert older.body["generationConfig"] == {"presencePenalty": 0.1}


@pytest.mark.parametrize(
    ("sampling", "config", "losses"),
    [
        (Sampling(top_k=250), {"topK": 64}, ["top_k"]),
        (Sampling(top_k=0), None, ["top_k"]),
        (Sampling(seed=2**40 + 5), {"seed": 5}, []),
        (Sampling(seed=-7), {"seed": -7}, []),
    ],
)
def test_numbers_out_of_bounds(sampling: Sampling, config: Any, losses: list[str]) -> None:
    result = encoded(asked(user("go"), sampling=sampling))
    assert (result.body.get("generationConfig"), lost(result)) == (config, losses)


def test_zero_is_not_nothing() -> None:
    body = encoded(asked(user("go"), sampling=Sampling(temperature=0, seed=0, top_p=0))).body
    assert body["generationConfig"] == {"temperature": 0, "topP": 0, "seed": 0}


# Signatures


def test_seals_return_on_the_part_they_came_on() -> None:
    for turn in (EVERYTHING["contents"][1],):
        request = decoded({"contents": [{"parts": [{"text": "a"}]}, turn]})
        assert encoded(request, "gemini-3-pro").body["contents"][1] == turn


def test_signatures_in_the_url_safe_alphabet_are_turned_back() -> None:
    value = base64.b64encode(bytes(range(190, 256))).decode()
    assert "+" in value
    assert "/" in value
    url_safe = value.replace("+", "-").replace("/", "_").rstrip("=")
    for key in ("thoughtSignature", "thought_signature"):
        call = {"functionCall": {"name": "f"}, key: url_safe}
        request = decoded({"contents": [{"role": "model", "parts": [call]}]})
        assert encoded(request).body["contents"][0]["parts"][0]["thoughtSignature"] == value
    words = {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "skip_thought_signature_validator"}
    assert encoded(decoded({"contents": [{"role": "model", "parts": [words]}]})).body["contents"][0]["parts"] == [words]


def test_unsigned_calls_of_gemini_3_skip_the_check_in_every_turn() -> None:
    turns = (
        user("go"), assistant(ToolCall("1", "a"), ToolCall("2", "b")),
        user(ToolResult("1", ()), ToolResult("2", ())),
        assistant(ToolCall("3", "a", seal=Seal("gemini", "c2ln")), ToolCall("4", "b")),
        user(ToolResult("3", ()), ToolResult("4", ())),
        assistant(Reasoning("hm", Seal("claude", "S")), ToolCall("5", "a", seal=Seal("claude", "S"))),
        user(ToolResult("5", ())),
    )  # fmt: skip
    result = encoded(asked(*turns), "gemini-3.5-flash")
    signatures = [part.get("thoughtSignature") for content in result.body["contents"] for part in content["parts"]
                  if "functionCall" in part]  # fmt: skip
    assert signatures == [BYPASS, None, "c2ln", None, BYPASS]
    assert base64.b64decode(BYPASS) == b"skip_thought_signature_validator"
    assert lost(result) == ["content.reasoning"]
    assert "hm" not in json.dumps(result.body), "another model's thoughts"
    longer = encoded(asked(*turns, user("more")), "gemini-3.5-flash").body["contents"]
    assert longer[: len(result.body["contents"])] == result.body["contents"], "a longer history moves nothing"
    older = json.dumps(encoded(asked(*turns), "gemini-2.5-pro").body)
    assert BYPASS not in older


def test_thoughts_stay_thoughts() -> None:
    contents = encoded(asked(user("go"), assistant(
        Reasoning("mine", Seal("gemini", "c2ln")), Reasoning("nobody's"), Text("out"), Reasoning("", Seal("gpt", "x")),
    ))).body["contents"]  # fmt: skip
    assert contents[1]["parts"] == [
        {"text": "mine", "thought": True, "thoughtSignature": "c2ln"},
        {"text": "nobody's", "thought": True},
        {"text": "out"},
    ]


def test_a_seal_alone_goes_on_the_call_behind_it() -> None:
    sealed = Reasoning("", Seal("gemini", "c2ln"))
    contents = encoded(asked(user("go"), assistant(sealed, ToolCall("1", "a")))).body["contents"]
    assert contents[1]["parts"] == [{"functionCall": {"name": "a", "args": {}}, "thoughtSignature": "c2ln"}]


# Whatever the history, what goes up is well formed

names = st.sampled_from(["f", "g", "a b"])
ids = st.sampled_from(["1", "2", "3", ""])
contents = st.lists(
    st.builds(Text, st.sampled_from(["", "x"])) | st.just(Media("image", "image/png", data=PNG)), max_size=2
)
user_parts = st.builds(Text, st.sampled_from(["", "hello"])) | st.builds(
    lambda call_id, content, failed: ToolResult(call_id, tuple(content), failed), ids, contents, st.booleans()
)
assistant_parts = (
    st.builds(Text, st.sampled_from(["", "sure"]))
    | st.builds(ToolCall, ids, names, st.sampled_from(["", "{}", '{"x":1}', "[1]", "{"]))
    | st.builds(
        Reasoning, st.sampled_from(["", "hm"]), st.none() | st.sampled_from([Seal("gemini", "c2ln"), Seal("c", "x")])
    )
)
histories = st.lists(
    st.builds(lambda parts: Turn("user", tuple(parts)), st.lists(user_parts, max_size=3))
    | st.builds(lambda parts: Turn("assistant", tuple(parts)), st.lists(assistant_parts, max_size=3))
    | st.just(Turn("system", (Text("mind"),))),
    max_size=8,
)


@given(histories, st.sampled_from(["gemini-2.5-flash", "gemini-3.5-flash"]))
def test_every_history_is_written_as_gemini_demands_it(turns: list[Turn], model: str) -> None:
    body = encoded(asked(*turns), model).body
    before: list[Any] = []
    assert body["contents"]
    for position, content in enumerate(body["contents"]):
        parts = content["parts"]
        assert parts
        assert content["role"] in ("user", "model")
        assert all(part.get("text") != "" or "thoughtSignature" in part for part in parts)
        called = [part["functionCall"]["name"] for part in before if "functionCall" in part]
        answered = [part["functionResponse"]["name"] for part in parts if "functionResponse" in part]
        assert answered == called, "as many results as calls, at once, in their order"
        assert not answered or len(parts) == len(answered), "and nothing beside them"
        calls = [part for part in parts if "functionCall" in part]
        assert not calls or content["role"] == "model"
        if calls and model.startswith("gemini-3"):
            assert "thoughtSignature" in calls[0]
        before = parts if position + 1 < len(body["contents"]) else []
    said = json.dumps(body)
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Text) and part.text:
                assert part.text in said


@pytest.mark.parametrize(
    ("config", "choice"),
    [
        ({"functionCallingConfig": {"mode": "MODE_UNSPECIFIED"}}, None),
        ({"functionCallingConfig": {}}, None),
        ({"functionCallingConfig": {"allowedFunctionNames": ["f"]}}, ToolChoice(allowed=("f",))),
        ({"functionCallingConfig": {"odd": 1}}, ToolChoice(extras={"functionCallingConfig.odd": 1})),
        ({"retrievalConfig": {"a": 1}}, ToolChoice(extras={"retrievalConfig": {"a": 1}})),
        ({"functionCallingConfig": {"mode": "NONE"}}, ToolChoice("none")),
        ({"functionCallingConfig": {"mode": "auto"}}, ToolChoice("auto")),
        ({"functionCallingConfig": {"mode": "ANY"}}, ToolChoice("required")),
        ({"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f", "g"]}},
         ToolChoice("required", allowed=("f", "g"))),
    ],
)  # fmt: skip
def test_which_functions_may_be_called(config: Any, choice: ToolChoice | None) -> None:
    body = {"contents": [{"parts": [{"text": "x"}]}], "toolConfig": config}
    assert decoded(body).tool_choice == choice


@pytest.mark.parametrize(
    ("schema", "declared"),
    [
        ({"type": "string"}, {"type": "string"}),
        ({"type": "object"}, None),
        ({}, None),
        ({"type": "object", "properties": {}, "additionalProperties": False}, None),
        ({"type": "object", "additionalProperties": True}, {"type": "object", "additionalProperties": True}),
        ({"type": "object", "minProperties": 1}, {"type": "object", "minProperties": 1}),
        ({"properties": {"a": {}}}, {"properties": {"a": {}}}),
    ],
)
def test_a_tool_that_takes_nothing_has_no_parameters(schema: Any, declared: Any) -> None:
    told = encoded(asked(user("x"), tools=(Tool("f", schema=schema),)))
    assert told.body["tools"][0]["functionDeclarations"][0].get("parametersJsonSchema") == declared
