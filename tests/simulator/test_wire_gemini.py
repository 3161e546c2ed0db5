"""Vertex Gemini deployments (SAP AI Core wire facts, section 5)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.simulator.conftest import Tenant, events

from aicore_proxy.simulator import Running

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
DECLARED = {"name": "weather", "parametersJsonSchema": SCHEMA}
TOOLS = [{"functionDeclarations": [DECLARED]}]
ANY = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["weather"]}}
CALL = {"functionCall": {"name": "weather", "args": {"city": "Berlin"}}}
RESPONSE = {"functionResponse": {"name": "weather", "response": {"output": "sunny"}}}


def said(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "parts": [{"text": part} if isinstance(part, str) else part for part in parts]}


def error(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


def test_wire_gemini_whole_answer(tenant: Tenant) -> None:
    answer = tenant.gemini("gemini-2.5-flash").json()

    assert list(answer) == ["candidates", "usageMetadata", "modelVersion", "responseId"]
    candidate = answer["candidates"][0]
    assert (candidate["content"]["role"], candidate["finishReason"]) == ("model", "STOP")
    assert candidate["content"]["parts"][0]["text"].startswith("This is gemini-2.5-flash, simulated.")
    usage = answer["usageMetadata"]
    assert (
        usage["totalTokenCount"]
        == usage["promptTokenCount"] + usage["candidatesTokenCount"] + usage["thoughtsTokenCount"]
    )
    assert (usage["cachedContentTokenCount"], usage["trafficType"]) == (0, "ON_DEMAND")


@pytest.mark.parametrize("query", ["", "?alt=sse", "?$alt=json;enum-encoding=int"])
def test_wire_gemini_stream_is_sse_with_lf_whatever_the_query(tenant: Tenant, query: str) -> None:
    model = "gemini-2.5-flash"
    answer = tenant.post(model, f"models/{model}:streamGenerateContent{query}", {"contents": [said("Hi")]})

    assert "\r" not in answer.text
    assert "[DONE]" not in answer.text
    frames = events(answer)
    assert [frame["candidates"][0].get("finishReason") for frame in frames][-2:] == [None, "STOP"]
    assert all("usageMetadata" in frame for frame in frames)
    assert "thoughtsTokenCount" in frames[-1]["usageMetadata"]
    assert len({frame["responseId"] for frame in frames}) == 1


def test_wire_gemini_candidates(tenant: Tenant) -> None:
    config = {"candidateCount": 2}

    whole = tenant.gemini("gemini-2.5-flash", generationConfig=config).json()
    assert [candidate.get("index", 0) for candidate in whole["candidates"]] == [0, 1]
    text = whole["candidates"][0]["content"]["parts"][0]["text"]

    frames = events(tenant.gemini("gemini-2.5-flash", streamed=True, generationConfig=config))
    told = ["", ""]
    for candidate in (candidate for frame in frames for candidate in frame["candidates"]):
        told[candidate.get("index", 0)] += candidate["content"]["parts"][0]["text"]
    assert told == [text, text]
    assert [candidate["finishReason"] for candidate in frames[-1]["candidates"]] == ["STOP", "STOP"]

    refused = tenant.gemini("gemini-2.5-flash", generationConfig={"candidateCount": 9})
    assert refused.status_code == 400
    assert "candidateCount" in refused.json()["error"]["message"]


def test_wire_gemini_usage_may_come_at_the_end_only(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(gemini_usage="last")

    frames = events(tenant.gemini("gemini-2.5-flash", streamed=True))

    assert ["usageMetadata" in frame for frame in frames] == [False] * (len(frames) - 1) + [True]


def test_wire_gemini_the_model_in_the_path_may_be_a_version(tenant: Tenant) -> None:
    body = {"contents": [said("Hi")]}

    assert tenant.post("gemini-2.5-flash", "models/gemini-2.5-flash-001:generateContent", body).status_code == 200
    assert tenant.post("gemini-2.5-flash", "models/gemini-2.5-pro:generateContent", body).status_code == 404
    assert tenant.post("gemini-2.5-flash", "v1beta/models/gemini-2.5-flash:generateContent", body).status_code == 400


def test_wire_gemini_reads_camel_and_snake_case_and_single_objects(tenant: Tenant) -> None:
    body = {
        "contents": {"role": "user", "parts": {"text": "Hi"}},
        "system_instruction": {"parts": [{"text": "Be terse"}]},
        "generation_config": {
            "max_output_tokens": 500,
            "stop_sequences": ["simulated"],
            "thinking_config": {"thinking_budget": 0},
        },
        "safety_settings": {"category": "HARM_CATEGORY_HATE_SPEECH", "threshold": "BLOCK_NONE"},
    }

    answer = tenant.post("gemini-2.5-flash", "models/gemini-2.5-flash:generateContent", body).json()

    assert answer["candidates"][0]["content"]["parts"] == [{"text": "This is gemini-2.5-flash, "}]
    assert answer["usageMetadata"]["thoughtsTokenCount"] == 0


def test_wire_gemini_thinking(tenant: Tenant, simulator: Running) -> None:
    shown = {"thinkingConfig": {"includeThoughts": True, "thinkingBudget": 1024}}
    answer = tenant.gemini("gemini-2.5-flash", generationConfig=shown).json()
    assert answer["candidates"][0]["content"]["parts"][0]["thought"] is True
    assert answer["usageMetadata"]["thoughtsTokenCount"] > 0
    level = {"thinkingConfig": {"thinkingLevel": "HIGH", "includeThoughts": True}}
    assert tenant.gemini("gemini-3.5-flash", generationConfig=level).status_code == 200
    assert "Thinking level" in error(tenant.gemini("gemini-2.5-flash", generationConfig=level))["message"]
    off = {"thinkingConfig": {"thinkingBudget": 0}}
    assert tenant.gemini("gemini-2.5-flash", generationConfig=off).status_code == 200
    assert "Budget 0 is invalid" in error(tenant.gemini("gemini-2.5-pro", generationConfig=off))["message"]

    simulator.switch(strict=True)
    assert "not supported" in error(tenant.gemini("gemini-2.5-flash", generationConfig=shown))["message"]


@pytest.mark.parametrize(
    ("case", "body", "part"),
    [
        ("role system", {"contents": [said("x", role="system")]}, "Please use a valid role: user, model."),
        ("role assistant", {"contents": [said("x"), said("y", role="assistant")]}, "Please use a valid role"),
        ("no contents", {"contents": []}, "at least one contents field"),
        ("no parts", {"contents": [{"role": "user", "parts": []}]}, "at least one parts field"),
        ("empty text", {"contents": [said("")]}, "empty text parameter"),
        ("unknown key", {"stream": True}, 'Unknown name "stream"'),
        (
            "functionResponse.id",
            {
                "contents": [
                    said("x"),
                    said(CALL, role="model"),
                    said({"functionResponse": {**RESPONSE["functionResponse"], "id": "1"}}),
                ],
                "tools": TOOLS,
            },
            "Unknown name \"id\" at 'contents[2].parts[0].function_response'",
        ),
        (
            "const",
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {"name": "f", "parameters": {"type": "object", "properties": {"a": {"const": 1}}}}
                        ]
                    }
                ]
            },
            'Unknown name "const"',
        ),
        (
            "number enum",
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {
                                "name": "f",
                                "parameters": {
                                    "type": "object",
                                    "properties": {"a": {"type": "integer", "enum": [1, 2]}},
                                },
                            }
                        ]
                    }
                ]
            },
            "(TYPE_STRING), 1",
        ),
        (
            "$schema",
            {"tools": [{"functionDeclarations": [{"name": "f", "parameters": {"type": "object", "$schema": "x"}}]}]},
            'Unknown name "$schema"',
        ),
        (
            "additionalProperties",
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {"name": "f", "parameters": {"type": "object", "additionalProperties": False}}
                        ]
                    }
                ]
            },
            'Unknown name "additionalProperties"',
        ),
        (
            "type list",
            {
                "tools": [
                    {
                        "functionDeclarations": [
                            {
                                "name": "f",
                                "parameters": {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
                            }
                        ]
                    }
                ]
            },
            "Proto field is not repeating",
        ),
        (
            "responseSchema",
            {
                "generationConfig": {
                    "responseMimeType": "application/json",
                    "responseSchema": {"type": "object", "oneOf": []},
                }
            },
            'Unknown name "oneOf"',
        ),
        (
            "schema without mime",
            {"generationConfig": {"responseJsonSchema": SCHEMA}},
            "only supported with the response mime type",
        ),
        ("function name", {"tools": [{"functionDeclarations": [{"name": "1 f"}]}]}, "Invalid function name"),
        (
            "function twice",
            {"tools": [{"functionDeclarations": [DECLARED, DECLARED]}]},
            "Duplicate function declaration",
        ),
        (
            "any without tools",
            {"toolConfig": {"functionCallingConfig": {"mode": "ANY"}}},
            "without function_declarations",
        ),
        (
            "allowed with auto",
            {
                "tools": TOOLS,
                "toolConfig": {"functionCallingConfig": {"mode": "AUTO", "allowedFunctionNames": ["weather"]}},
            },
            "allowed_function_names",
        ),
        (
            "missing response",
            {"contents": [said("x"), said(CALL, CALL, role="model"), said(RESPONSE)], "tools": TOOLS},
            "number of function response parts",
        ),
        ("temperature", {"generationConfig": {"temperature": 5}}, "supported range"),
        (
            "json and tools",
            {"tools": TOOLS, "generationConfig": {"responseMimeType": "application/json"}},
            "is unsupported",
        ),
    ],
)
def test_wire_gemini_refuses(tenant: Tenant, case: str, body: dict[str, Any], part: str) -> None:
    for stream in (False, True):
        refused = error(tenant.gemini("gemini-2.5-flash", streamed=stream, **body))
        assert part in refused["message"], case
        assert (refused["code"], refused["status"]) == (400, "INVALID_ARGUMENT")


def test_wire_gemini_parameters_json_schema_takes_everything(tenant: Tenant) -> None:
    schema = {
        "$schema": "x",
        "type": "object",
        "additionalProperties": False,
        "properties": {"a": {"const": 1}, "b": {"enum": [1, 2]}},
    }
    tools = [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": schema}]}]

    answer = tenant.gemini(
        "gemini-2.5-flash", tools=tools, toolConfig={"functionCallingConfig": {"mode": "ANY"}}
    ).json()

    assert answer["candidates"][0]["content"]["parts"][0]["functionCall"] == {"name": "f", "args": {"a": 1, "b": 1}}


@pytest.mark.parametrize("stream", [False, True])
def test_wire_gemini_signatures_must_come_back(tenant: Tenant, stream: bool) -> None:
    model = "gemini-3.5-flash"
    answer = tenant.gemini(model, streamed=stream, tools=TOOLS, toolConfig=ANY)
    frames = events(answer) if stream else [answer.json()]
    part = next(p for frame in frames for p in frame["candidates"][0]["content"]["parts"] if "functionCall" in p)
    signature = base64.b64decode(part["thoughtSignature"], validate=True)

    def go_on(call: dict[str, Any], model: str = model) -> Any:
        return tenant.gemini(model, contents=[said("x"), said(call, role="model"), said(RESPONSE)], tools=TOOLS)

    done = go_on(part).json()
    assert done["candidates"][0]["content"]["parts"][0]["text"] == 'The tool answered: {"output":"sunny"}'
    assert go_on({**CALL, "thoughtSignature": base64.urlsafe_b64encode(signature).decode()}).status_code == 200
    assert "missing a thought_signature" in error(go_on(CALL))["message"]
    assert "Thought signature is not valid" in error(go_on({**CALL, "thoughtSignature": "Zm9yZWlnbg=="}))["message"]
    assert go_on(CALL, "gemini-2.5-flash").status_code == 200, "before Gemini 3 they may be left out"


def test_wire_gemini_signatures_count_in_the_current_turn_only(tenant: Tenant) -> None:
    before = [said("x"), said(CALL, role="model"), said(RESPONSE), said("ok", role="model"), said("and now?")]

    assert tenant.gemini("gemini-3.5-flash", contents=before, tools=TOOLS).status_code == 200


def test_wire_gemini_function_names_may_come_with_a_prefix(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(gemini_function_prefix="default_api:")

    answer = tenant.gemini("gemini-2.5-flash", tools=TOOLS, toolConfig=ANY).json()

    assert answer["candidates"][0]["content"]["parts"][0]["functionCall"]["name"] == "default_api:weather"


def test_wire_gemini_structured_output_and_limits(tenant: Tenant) -> None:
    for key, schema in (
        ("responseJsonSchema", SCHEMA),
        ("responseSchema", {"type": "OBJECT", "properties": {"city": {"type": "STRING"}}}),
    ):
        config = {"responseMimeType": "application/json", key: schema}
        answer = tenant.gemini("gemini-2.5-flash", generationConfig=config).json()
        assert json.loads(answer["candidates"][0]["content"]["parts"][0]["text"]) == {"city": "Berlin"}
    config = {"maxOutputTokens": 3, "thinkingConfig": {"thinkingBudget": 0}}
    short = tenant.gemini("gemini-2.5-flash", generationConfig=config).json()
    assert short["candidates"][0]["finishReason"] == "MAX_TOKENS"
    assert short["usageMetadata"]["candidatesTokenCount"] == 3


def test_wire_gemini_blocked_prompts_are_a_200_without_candidates(tenant: Tenant) -> None:
    text = 'simulate: {"refuse": "content_filter"}'

    assert tenant.gemini("gemini-2.5-flash", said=text).json()["promptFeedback"]["blockReason"] == "SAFETY"
    (frame,) = events(tenant.gemini("gemini-2.5-flash", said=text, streamed=True))
    assert "candidates" not in frame
    long = error(tenant.gemini("gemini-2.5-flash", said='simulate: {"refuse": "context_length"}'))
    assert "exceeds the maximum number of tokens" in long["message"]


@pytest.mark.parametrize("name", ["gemini-embedding", "gemini-embedding-001"])
def test_wire_gemini_embeddings_by_both_verbs_and_names(tenant: Tenant, name: str) -> None:
    instances = [{"task_type": "RETRIEVAL_QUERY", "title": "t", "content": text} for text in ("hello", "there")]
    predicted = tenant.post("gemini-embedding", f"models/{name}:predict", {"instances": instances}).json()
    assert [prediction["embeddings"]["statistics"]["token_count"] for prediction in predicted["predictions"]] == [2, 2]
    embedded = tenant.post(
        "gemini-embedding", f"models/{name}:embedContent", {"content": said("hello"), "outputDimensionality": 8}
    )
    assert list(embedded.json()) == ["embedding"]
    assert len(embedded.json()["embedding"]["values"]) == 8
