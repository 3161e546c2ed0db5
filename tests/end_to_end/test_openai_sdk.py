"""OpenAI's official SDK, sync and async, with a model of every family: what came back, and what went up for it."""

from __future__ import annotations

import asyncio
import base64
import gc
import json
import math
import time
from collections.abc import AsyncIterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel
from tests.end_to_end.conftest import KEY, Proxy, Simulator
from tests.end_to_end.driving import (
    BEDROCK,
    FAMILIES,
    KINDS,
    MODELS,
    NEWEST,
    Talk,
    by_family,
    done,
    each,
    entered,
    limit,
    listed,
)

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
PDF = base64.b64encode(b"%PDF-1.4\n%%EOF\n").decode()
THOUGHT = "The request is simulated, so a short answer is enough."
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
    "required": ["city"],
}
WEATHER = {"name": "get_weather", "description": "Weather of a city", "parameters": CITY}
NOW = {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}
TOOLS: list[Any] = [{"type": "function", "function": WEATHER}, {"type": "function", "function": NOW}]
CALLS = [
    {"name": "get_weather", "arguments": {"city": "Berlin"}},
    {"name": "now", "arguments": {}},
    {"name": "get_weather", "arguments": {"city": "São Paulo", "unit": "c"}},
]
RESULTS = ["18 C, sunny", "noon", "24 C"]


def opened(proxy: Proxy, kind: str, **options: Any) -> Any:
    """A client of this kind: no proxies of the environment, no retries of its own."""
    options = {"api_key": KEY, "base_url": f"{proxy.url}/v1", "max_retries": 0, **options}
    if kind == "sync":
        return openai.OpenAI(http_client=httpx2.Client(trust_env=False, verify=False), **options)
    return openai.AsyncOpenAI(http_client=httpx2.AsyncClient(trust_env=False, verify=False), **options)


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, proxy: Proxy) -> AsyncIterator[Any]:
    client = opened(proxy, request.param)
    yield client
    await done(client.close())


def offered(model: str, *functions: dict[str, Any]) -> Any:
    """``tools`` as a family gets them."""
    return by_family(
        model,
        gpt=[{"type": "function", "function": function} for function in functions],
        claude=[
            {"name": f["name"], "description": f["description"], "input_schema": f["parameters"]} for f in functions
        ],
        gemini=[
            {
                "functionDeclarations": [
                    # a schema without properties is left out: Vertex refuses an empty object
                    {"name": f["name"], "description": f["description"]}
                    | ({"parametersJsonSchema": f["parameters"]} if f["parameters"]["properties"] else {})
                    for f in functions
                ]
            }
        ],
    )


# --- text


@pytest.mark.parametrize("model", MODELS)
async def test_a_conversation_with_every_setting(client: Any, talk: Talk, model: str) -> None:
    asked = talk.prompt(text="one END two")
    messages = [
        {"role": "system", "content": "Be terse."},
        {"role": "developer", "content": "Speak English."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": asked},
    ]

    raw = await done(
        client.chat.completions.with_raw_response.create(
            model=model, messages=messages, max_tokens=200, temperature=0.5, stop=["END"], seed=7, user="u-1"
        )
    )
    answer = await done(raw.parse())

    assert isinstance(answer, ChatCompletion)
    assert answer.choices[0].message.content == "one "
    assert answer.choices[0].message.role == "assistant"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.id.startswith("chatcmpl-")
    assert answer.object == "chat.completion"
    assert abs(answer.created - time.time()) < 60
    assert answer.model.startswith(model)
    assert answer.usage.prompt_tokens > 0
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert raw.headers["x-request-id"].startswith("req_")
    dropped = set(filter(None, raw.headers.get("x-aicore-proxy-dropped", "").replace(" ", "").split(",")))
    no_temperature = {"temperature"} if model in ("gpt-5", "claude-opus-5-5") else set()
    assert dropped == no_temperature | by_family(model, gpt=set(), claude={"seed", "user"}, gemini={"user"})
    temperature = {} if no_temperature else {"temperature": 0.5}
    assert talk.last(model) == by_family(
        model,
        gpt={
            "model": model, "messages": messages, "stop": ["END"], "seed": 7, "user": "u-1", **limit(model, 200),
            **temperature,
        },
        claude={
            **BEDROCK,
            "max_tokens": 200,
            "system": [{"type": "text", "text": "Be terse."}, {"type": "text", "text": "Speak English."}],
            "messages": messages[2:],
            "stop_sequences": ["END"],
            **temperature,
        },
        gemini={
            "systemInstruction": {"parts": [{"text": "Be terse."}, {"text": "Speak English."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Hello"}]},
                {"role": "model", "parts": [{"text": "Hello!"}]},
                {"role": "user", "parts": [{"text": asked}]},
            ],
            "generationConfig": {"maxOutputTokens": 200, "stopSequences": ["END"], "seed": 7, **temperature},
        },
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
async def test_a_raw_stream(client: Any, talk: Talk, model: str) -> None:
    messages = [{"role": "user", "content": talk.prompt(text="one two three four five six seven")}]

    chunks: list[ChatCompletionChunk] = await listed(
        await done(
            client.chat.completions.create(
                model=model, messages=messages, stream=True, stream_options={"include_usage": True}
            )
        )
    )

    told = chunks[:-1]
    assert all(chunk.choices for chunk in told), "programs read choices[0] of every chunk but that of the usage"
    assert told[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in told) == "one two three four five six seven"
    assert len([c for c in told if c.choices[0].delta.content]) >= 3
    assert [c.choices[0].finish_reason for c in told if c.choices[0].finish_reason] == ["stop"]
    assert {c.object for c in told} == {"chat.completion.chunk"}
    assert len({c.id for c in told}) == 1
    assert [bool(c.usage) for c in chunks] == [False] * (len(chunks) - 1) + [True]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens >= 7
    assert chunks[-1].usage.total_tokens == chunks[-1].usage.prompt_tokens + chunks[-1].usage.completion_tokens
    body = talk.last(model, stream=True)
    if FAMILIES[model] == "gpt":
        assert body["stream"] is True
        assert body["stream_options"] == {"include_usage": True}
    else:
        assert not {"stream", "stream_options", "model"} & set(body)


@pytest.mark.parametrize("model", NEWEST)
async def test_no_usage_chunk_unless_asked_for(client: Any, talk: Talk, model: str) -> None:
    messages = [{"role": "user", "content": talk.prompt()}]

    chunks = await listed(await done(client.chat.completions.create(model=model, messages=messages, stream=True)))

    assert not [chunk for chunk in chunks if chunk.usage]
    talk.last(model, stream=True)


@pytest.mark.parametrize("model", MODELS)
async def test_the_stream_helper(client: Any, talk: Talk, model: str) -> None:
    messages = [{"role": "user", "content": talk.prompt(text="one two three four five six")}]

    async with entered(client.chat.completions.stream(model=model, messages=messages)) as stream:
        events = await listed(stream)
        final = await done(stream.get_final_completion())

    assert "".join(event.delta for event in events if event.type == "content.delta") == "one two three four five six"
    assert [event.content for event in events if event.type == "content.done"] == ["one two three four five six"]
    assert final.choices[0].message.content == "one two three four five six"
    assert final.choices[0].finish_reason == "stop"
    talk.last(model, stream=True)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_limit_of_tokens_ends_the_answer(client: Any, talk: Talk, model: str, stream: bool) -> None:
    # the simulator echoes the prompt; what a script tells it does not cut
    messages = [{"role": "user", "content": talk.prompt("word " * 200)}]

    if stream:
        async with entered(
            client.chat.completions.stream(model=model, messages=messages, max_completion_tokens=30)
        ) as s:
            finish = [e.chunk.choices[0].finish_reason async for e in each(s) if e.type == "chunk" and e.chunk.choices]
    else:
        answer = await done(client.chat.completions.create(model=model, messages=messages, max_completion_tokens=30))
        finish = [answer.choices[0].finish_reason]
        assert answer.usage.completion_tokens <= 30

    assert finish[-1] == "length"
    body = talk.last(model, stream=stream)
    assert by_family(
        model,
        gpt=body.get("max_completion_tokens"),
        claude=body.get("max_tokens"),
        gemini=body.get("generationConfig", {}).get("maxOutputTokens"),
    ) == 30  # fmt: skip


# --- tools


def history(model: str, asked: str, call_ids: list[str]) -> Any:
    """A question, three calls and their results as a family gets them."""
    calls = list(zip(call_ids, CALLS, RESULTS, strict=True))
    return by_family(
        model,
        gpt=[
            {"role": "user", "content": asked},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": i,
                        "type": "function",
                        "function": {"name": c["name"], "arguments": json.dumps(c["arguments"], ensure_ascii=False)},
                    }
                    for i, c, _ in calls
                ],
            },
            *({"role": "tool", "tool_call_id": i, "content": result} for i, _, result in calls),
        ],
        claude=[
            {"role": "user", "content": asked},
            {
                "role": "assistant",
                "content": [
                    {"type": "tool_use", "id": i, "name": c["name"], "input": c["arguments"]} for i, c, _ in calls
                ],
            },
            {
                "role": "user",
                "content": [{"type": "tool_result", "tool_use_id": i, "content": result} for i, _, result in calls],
            },
        ],
        gemini=[
            {"role": "user", "parts": [{"text": asked}]},
            {
                "role": "model",
                "parts": [{"functionCall": {"name": c["name"], "args": c["arguments"]}} for _, c, _ in calls],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": c["name"], "response": {"output": result}}} for _, c, result in calls
                ],
            },
        ],
    )  # fmt: skip


def plain_history(model: str, body: dict[str, Any]) -> tuple[Any, list[str]]:
    """The history that went up, with what may differ in form made equal, and its Gemini signatures."""
    if FAMILIES[model] == "gemini":
        parts = [part for content in body["contents"] for part in content["parts"]]
        signatures = [part.pop("thoughtSignature") for part in parts if "thoughtSignature" in part]
        return body["contents"], signatures
    for message in body["messages"]:
        if message["role"] == "assistant":
            # what the SDK's own message object writes beside what it was given
            for name in ("refusal", "annotations", "audio", "function_call", "parsed"):
                message.pop(name, None)
            message["content"] = message.get("content") or None
            for call in message.get("tool_calls", []):
                call.pop("index", None)
                call["function"].pop("parsed_arguments", None)
                call["function"]["arguments"] = json.dumps(
                    json.loads(call["function"]["arguments"]), ensure_ascii=False
                )
    return body["messages"], []


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_round_trip_with_parallel_calls_and_empty_arguments(
    client: Any, talk: Talk, model: str, stream: bool
) -> None:
    asked = talk.prompt(calls=CALLS)
    messages: list[Any] = [{"role": "user", "content": asked}]
    chat = client.chat.completions
    settings = {"model": model, "tools": TOOLS, "parallel_tool_calls": True}

    if stream:
        async with entered(chat.stream(messages=messages, **settings)) as s:
            events = await listed(s)
            answer = await done(s.get_final_completion())
        told = [e for e in events if e.type == "tool_calls.function.arguments.done"]
        assert [(e.name, json.loads(e.arguments)) for e in told] == [(c["name"], c["arguments"]) for c in CALLS]
        assert [e.index for e in told] == [0, 1, 2]
    else:
        answer = await done(chat.create(messages=messages, **settings))

    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    calls = choice.message.tool_calls
    assert [(c.function.name, json.loads(c.function.arguments)) for c in calls] == [
        (c["name"], c["arguments"]) for c in CALLS
    ]
    assert {c.type for c in calls} == {"function"}
    assert len({c.id for c in calls}) == 3
    body = talk.last(model, stream=stream)
    assert body["tools"] == offered(model, WEATHER, NOW)
    assert by_family(
        model,
        gpt=body.get("parallel_tool_calls"),
        claude=body.get("tool_choice", {"type": "auto", "disable_parallel_tool_use": False}),
        gemini=body.get("toolConfig"),
    ) == by_family(model, gpt=True, claude={"type": "auto", "disable_parallel_tool_use": False}, gemini=None)

    messages.append(choice.message)
    messages += [
        {"role": "tool", "tool_call_id": call.id, "content": result}
        for call, result in zip(calls, RESULTS, strict=True)
    ]
    if stream:
        async with entered(chat.stream(messages=messages, **settings)) as s:
            final = await done(s.get_final_completion())
    else:
        final = await done(chat.create(messages=messages, **settings))

    assert all(result in final.choices[0].message.content for result in RESULTS)
    assert final.choices[0].message.tool_calls is None or stream
    told_up, signatures = plain_history(model, talk.last(model, stream=stream, count=2))
    assert told_up == history(model, asked, [call.id for call in calls])
    assert len(signatures) == (FAMILIES[model] == "gemini"), "the first call of a Gemini step keeps its signature"


@pytest.mark.parametrize(
    ("choice", "up"),
    [
        ("required", {"gpt": "required", "claude": {"type": "any"}, "gemini": {"mode": "ANY"}}),
        (
            {"type": "function", "function": {"name": "now"}},
            {
                "gpt": {"type": "function", "function": {"name": "now"}},
                "claude": {"type": "tool", "name": "now"},
                "gemini": {"mode": "ANY", "allowedFunctionNames": ["now"]},
            },
        ),
        ("none", {"gpt": "none", "claude": {"type": "none"}, "gemini": {"mode": "NONE"}}),
    ],
    ids=["required", "named", "none"],
)
@pytest.mark.parametrize("model", MODELS)
async def test_a_forced_choice(client: Any, talk: Talk, model: str, choice: Any, up: dict[str, Any]) -> None:
    messages = [{"role": "user", "content": talk.prompt()}]

    answer = await done(
        client.chat.completions.create(
            model=model, messages=messages, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False
        )
    )

    calls = answer.choices[0].message.tool_calls or []
    expected = {"required": ["get_weather"], "none": []}.get(choice if isinstance(choice, str) else "", ["now"])
    assert [call.function.name for call in calls] == expected
    assert answer.choices[0].finish_reason == ("tool_calls" if expected else "stop")
    body = talk.last(model)
    one_at_a_time = {} if choice == "none" else {"disable_parallel_tool_use": True}
    assert by_family(
        model,
        gpt=(body.get("tool_choice"), body.get("parallel_tool_calls")),
        claude=body.get("tool_choice"),
        gemini=body.get("toolConfig"),
    ) == by_family(
        model,
        gpt=(up["gpt"], False),
        claude={**up["claude"], **one_at_a_time},
        gemini={"functionCallingConfig": up["gemini"]},
    )


class Weather(BaseModel):
    """Weather of a city."""

    city: str
    unit: str | None


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_pydantic_tools_are_parsed(client: Any, talk: Talk, model: str, stream: bool) -> None:
    messages = [{"role": "user", "content": talk.prompt()}]
    tool = openai.pydantic_function_tool(Weather, name="weather")
    settings: dict[str, Any] = {"model": model, "messages": messages, "tools": [tool], "tool_choice": "required"}

    if stream:
        async with entered(client.chat.completions.stream(**settings)) as s:
            answer = await done(s.get_final_completion())
    else:
        answer = await done(client.chat.completions.parse(**settings))

    call = answer.choices[0].message.tool_calls[0]
    assert isinstance(call.function.parsed_arguments, Weather)
    assert call.function.parsed_arguments.city
    function = tool["function"]
    body = talk.last(model, stream=stream)
    schemas = by_family(
        model,
        gpt=lambda: [t["function"]["parameters"] for t in body["tools"]],
        claude=lambda: [t["input_schema"] for t in body["tools"]],
        gemini=lambda: [d["parametersJsonSchema"] for t in body["tools"] for d in t["functionDeclarations"]],
    )()
    assert schemas == [function["parameters"]]
    if FAMILIES[model] == "gpt":
        assert body["tools"][0]["function"]["strict"] is True


# --- structured output


class Step(BaseModel):
    thought: str


class Solution(BaseModel):
    steps: list[Step]
    answer: int
    remark: str | None


def resolved(schema: Any, defs: Any) -> Any:
    """A schema without references."""
    if isinstance(schema, list):
        return [resolved(item, defs) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema:
        return resolved(defs[schema["$ref"].rsplit("/", 1)[1]], defs)
    return {name: resolved(value, defs) for name, value in schema.items() if name != "$defs"}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_is_parsed_into_a_model(client: Any, talk: Talk, model: str, stream: bool) -> None:
    messages = [{"role": "user", "content": talk.prompt()}]

    if stream:
        async with entered(
            client.chat.completions.stream(model=model, messages=messages, response_format=Solution)
        ) as s:
            answer = await done(s.get_final_completion())
    else:
        answer = await done(client.chat.completions.parse(model=model, messages=messages, response_format=Solution))

    parsed = answer.choices[0].message.parsed
    assert isinstance(parsed, Solution)
    assert isinstance(parsed.steps[0], Step)
    body = talk.last(model, stream=stream)
    schema = by_family(
        model,
        gpt=lambda: body["response_format"]["json_schema"]["schema"],
        claude=lambda: body["output_config"]["format"]["schema"],
        gemini=lambda: body["generationConfig"]["responseJsonSchema"],
    )()
    plain = resolved(schema, schema.get("$defs"))
    assert list(plain["properties"]) == plain["required"] == ["steps", "answer", "remark"]
    assert plain["additionalProperties"] is False
    assert plain["properties"]["steps"]["items"]["properties"]["thought"]["type"] == "string"
    assert plain["properties"]["remark"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    if FAMILIES[model] == "gpt":
        assert body["response_format"]["json_schema"]["strict"] is True
    if FAMILIES[model] == "gemini":
        assert body["generationConfig"]["responseMimeType"] == "application/json"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("told", [None, '{"city": "Rome"}', '```json\n{"city": "Rome"}\n```'])
@pytest.mark.parametrize("model", [*MODELS, "gemini-2.5-pro"])
async def test_json_without_a_schema(client: Any, talk: Talk, model: str, told: str | None, stream: bool) -> None:
    if told is not None and told.startswith("`") and FAMILIES[model] != "claude":
        told = None  # a model in JSON mode fences nothing
    script = {"text": told} if told else {}
    request: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": talk.prompt("Where? As JSON.", **script)}],
        "response_format": {"type": "json_object"},
    }

    if stream:
        async with entered(client.chat.completions.stream(**request)) as s:
            answer = await done(s.get_final_completion())
    else:
        answer = await done(client.chat.completions.create(**request))

    content = json.loads(answer.choices[0].message.content)
    assert content == {"city": "Rome"} if told else content["answer"].startswith("This is ")
    body = talk.last(model, stream=stream)
    match FAMILIES[model]:
        case "gpt":
            assert body["response_format"] == {"type": "json_object"}
        case "claude":
            assert "single JSON object" in str(body["system"])
        case _:
            assert body["generationConfig"]["responseMimeType"] == "application/json"


# --- images and files


@pytest.mark.parametrize("model", MODELS)
async def test_images_and_pdfs(client: Any, talk: Talk, model: str) -> None:
    asked = talk.prompt()
    content = [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "high"}},
        {"type": "file", "file": {"filename": "facts.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
        {"type": "text", "text": asked},
    ]

    answer = await done(client.chat.completions.create(model=model, messages=[{"role": "user", "content": content}]))

    assert talk.mark in answer.choices[0].message.content
    body = talk.last(model)
    assert body[by_family(model, gpt="messages", claude="messages", gemini="contents")] == [
        by_family(
            model,
            gpt={"role": "user", "content": content},
            claude={
                "role": "user",
                "content": [
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                    {
                        "type": "document",
                        "title": "facts.pdf",
                        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                    },
                    {"type": "text", "text": asked},
                ],
            },
            gemini={
                "role": "user",
                "parts": [
                    {"inlineData": {"mimeType": "image/png", "data": PNG}},
                    {"inlineData": {"mimeType": "application/pdf", "data": PDF, "displayName": "facts.pdf"}},
                    {"text": asked},
                ],
            },
        )
    ]


# --- reasoning

THINKING: dict[str, dict[str, Any]] = {
    "gpt-5": {"reasoning_effort": "high"},
    "gpt-4.1": {},
    "claude-sonnet-4-5": {"thinking": {"type": "enabled", "budget_tokens": 24576}},
    "claude-opus-5-5": {"thinking": {"type": "adaptive"}, "output_config": {"effort": "high"}},
    "gemini-2.5-pro": {"thinkingBudget": 24576},
    "gemini-3.5-flash": {"thinkingLevel": "HIGH"},
}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_reasoning_effort(client: Any, talk: Talk, model: str, stream: bool) -> None:
    settings: dict[str, Any] = {
        "model": model, "messages": [{"role": "user", "content": talk.prompt()}], "reasoning_effort": "high",
        "max_completion_tokens": 40_000,
    }  # fmt: skip

    if stream:
        async with entered(client.chat.completions.stream(stream_options={"include_usage": True}, **settings)) as s:
            answer = await done(s.get_final_completion())
    else:
        answer = await done(client.chat.completions.create(**settings))

    assert talk.mark in answer.choices[0].message.content
    reasoning = answer.usage.completion_tokens_details.reasoning_tokens
    if FAMILIES[model] == "claude":
        assert answer.choices[0].message.reasoning_content == THOUGHT
    else:
        assert bool(reasoning) == (model != "gpt-4.1")
        assert reasoning < answer.usage.completion_tokens
    body = talk.last(model, stream=stream)
    if FAMILIES[model] == "gemini":
        thinking = dict(body["generationConfig"]["thinkingConfig"])
        thinking.pop("includeThoughts", None)
    else:
        thinking = {n: v for n, v in body.items() if n in ("reasoning_effort", "thinking", "output_config")}
    assert thinking == THINKING[model]
    assert body.get("anthropic_beta") == (["effort-2025-11-24"] if model == "claude-opus-5-5" else None)


async def test_effort_goes_where_tools_are_refused_with_it(client: Any, talk: Talk) -> None:
    messages = [{"role": "user", "content": talk.prompt()}]

    raw = await done(
        client.chat.completions.with_raw_response.create(
            model="gpt-5.2", messages=messages, tools=TOOLS, reasoning_effort="high"
        )
    )

    assert raw.headers["x-aicore-proxy-dropped"] == "reasoning_effort"
    body = talk.received(1)[0].body
    assert "reasoning_effort" not in body
    assert len(body["tools"]) == 2


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", ["claude-sonnet-4-5", "claude-opus-5-5", "gemini-2.5-pro", "gemini-3.5-flash"])
async def test_thoughts_come_back_with_their_signature_in_a_tool_loop(
    client: Any, talk: Talk, model: str, stream: bool
) -> None:
    """Chat has no slot for a signature: the proxy keeps it and puts it back."""
    messages: list[Any] = [{"role": "user", "content": talk.prompt(calls=CALLS[:1])}]
    settings = {"model": model, "tools": TOOLS, "reasoning_effort": "low", "max_completion_tokens": 8000}

    async def ask() -> Any:
        if not stream:
            return await done(client.chat.completions.create(messages=messages, **settings))
        async with entered(client.chat.completions.stream(messages=messages, **settings)) as s:
            return await done(s.get_final_completion())

    message = (await ask()).choices[0].message
    messages += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": RESULTS[0]}]
    final = await ask()

    assert RESULTS[0] in final.choices[0].message.content
    body = talk.last(model, stream=stream, count=2)
    if FAMILIES[model] == "claude":
        thinking, call = body["messages"][1]["content"]
        assert thinking["type"] == "thinking"
        assert thinking["thinking"] == THOUGHT
        assert len(thinking["signature"]) > 40
        assert call["type"] == "tool_use"
        assert body["thinking"]["type"] in ("enabled", "adaptive")
    else:
        calls = [part for part in body["contents"][1]["parts"] if "functionCall" in part]
        assert [len(part["thoughtSignature"]) > 40 for part in calls] == [True]


# --- embeddings, models


async def test_embeddings_come_as_base64_and_are_decoded(client: Any, talk: Talk) -> None:
    answer = await done(
        client.embeddings.create(model="text-embedding-3-small", input=[talk.mark, "second"], dimensions=16)
    )

    assert [item.index for item in answer.data] == [0, 1]
    for item in answer.data:
        assert len(item.embedding) == 16
        assert math.isclose(sum(value * value for value in item.embedding), 1, rel_tol=0.01)
    assert answer.usage.prompt_tokens > 0
    upstream = talk.received(1)[0]
    assert upstream.path == "embeddings"
    assert "api-version" in upstream.query
    assert upstream.body["input"] == [talk.mark, "second"]
    assert upstream.body["dimensions"] == 16
    assert upstream.body["encoding_format"] == "base64"


async def test_embeddings_as_floats_are_the_same(client: Any, talk: Talk) -> None:
    settings = {"model": "text-embedding-3-large", "input": talk.mark, "dimensions": 8}

    packed = await done(client.embeddings.create(**settings))
    plain = await done(client.embeddings.create(**settings, encoding_format="float"))

    assert plain.data[0].embedding == pytest.approx(packed.data[0].embedding)
    assert [upstream.body["encoding_format"] for upstream in talk.received(2)] == ["base64", "float"]


async def test_models_are_listed_and_retrieved(client: Any) -> None:
    ids = [model.id async for model in each(client.models.list())] if hasattr(client, "__aenter__") else [
        model.id for model in client.models.list()
    ]  # fmt: skip
    model = await done(client.models.retrieve("claude-opus-5-5"))

    assert set(MODELS) <= set(ids)
    assert len(ids) == len(set(ids))
    assert model.id == "claude-opus-5-5"
    assert model.object == "model"
    assert model.owned_by == "anthropic"
    with pytest.raises(openai.NotFoundError) as caught:
        await done(client.models.retrieve("gpt-5-mni"))
    assert caught.value.code == "model_not_found"
    assert "gpt-5-mini" in caught.value.message


# --- errors


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", NEWEST)
@pytest.mark.parametrize(
    ("script", "error", "status"),
    [
        ({"status": 400}, openai.BadRequestError, 400),
        ({"status": 429, "retry_after": 7}, openai.RateLimitError, 429),
        ({"status": 500}, openai.InternalServerError, 500),
        ({"status": 529}, openai.InternalServerError, 503),
        ({"status": 403}, openai.InternalServerError, 502),
    ],
    ids=["400", "429", "500", "529", "403"],
)
async def test_an_upstream_s_refusal_is_the_sdk_s_error(
    client: Any, talk: Talk, model: str, stream: bool, script: dict[str, Any], error: type[openai.APIStatusError],
    status: int,
) -> None:  # fmt: skip
    messages = [{"role": "user", "content": talk.prompt(message="the upstream's own words", **script)}]

    with pytest.raises(error) as caught:
        await done(client.chat.completions.create(model=model, messages=messages, stream=stream))

    assert caught.value.status_code == status
    assert "the upstream's own words" in caught.value.message
    assert caught.value.request_id == caught.value.response.headers["x-request-id"]
    assert caught.value.type
    assert caught.value.response.headers.get("retry-after") == {429: "7", 529: "5"}.get(script["status"])
    assert len(talk.received()) == (1 if status == 400 else 3 if model == "gpt-5" else 2), "every deployment, once"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_too_long_a_conversation_has_its_code(client: Any, talk: Talk, model: str, stream: bool) -> None:
    messages = [{"role": "user", "content": talk.prompt(refuse="context_length")}]

    with pytest.raises(openai.BadRequestError) as caught:
        await done(client.chat.completions.create(model=model, messages=messages, stream=stream))

    assert caught.value.code == "context_length_exceeded"
    assert caught.value.type == "invalid_request_error"
    assert "maximum" in caught.value.message
    talk.last(model, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_content_filter_has_its_code(client: Any, talk: Talk, model: str, stream: bool) -> None:
    messages = [{"role": "user", "content": talk.prompt(refuse="content_filter")}]

    async def ask() -> Any:
        return await done(client.chat.completions.create(model=model, messages=messages, stream=stream))

    if FAMILIES[model] == "gemini":  # whose answer to a blocked prompt is an answer without a candidate
        answer = await ask()
        reasons = [c.choices[0].finish_reason async for c in each(answer) if c.choices] if stream else [
            answer.choices[0].finish_reason
        ]  # fmt: skip
        assert reasons[-1] == "content_filter"
    else:
        with pytest.raises(openai.BadRequestError) as caught:
            await ask()
        assert caught.value.code == "content_filter"
        if FAMILIES[model] == "gpt":
            assert caught.value.body["innererror"]["code"] == "ResponsibleAIPolicyViolation"
    talk.last(model, stream=stream)


async def test_a_wrong_key_is_an_authentication_error(client: Any, talk: Talk) -> None:
    stranger = client.with_options(api_key="sk-wrong")

    with pytest.raises(openai.AuthenticationError) as caught:
        await done(
            stranger.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": talk.prompt()}])
        )

    assert caught.value.code == "invalid_api_key"
    talk.received(0)


async def test_an_unknown_model_is_not_found(client: Any, talk: Talk) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        await done(
            client.chat.completions.create(
                model="claude-sonet-4-5", messages=[{"role": "user", "content": talk.prompt()}]
            )
        )

    assert caught.value.code == "model_not_found"
    assert "claude-sonnet-4-5" in caught.value.message
    talk.received(0)


@pytest.mark.parametrize("model", ["gpt-5"])
async def test_a_mistake_in_the_request_names_its_place(client: Any, talk: Talk, model: str) -> None:
    messages = [{"role": "wizard", "content": talk.prompt()}]

    with pytest.raises(openai.BadRequestError) as caught:
        await done(client.chat.completions.create(model=model, messages=messages))

    assert "wizard" in caught.value.message


@pytest.mark.parametrize("model", MODELS)
async def test_an_error_in_mid_stream_is_raised(client: Any, talk: Talk, model: str) -> None:
    messages = [{"role": "user", "content": talk.prompt(events=6, error_after=3, message="broken in the middle")}]
    told: list[str] = []

    with pytest.raises(openai.APIError) as caught:
        async for chunk in each(
            await done(client.chat.completions.create(model=model, messages=messages, stream=True))
        ):
            told += [choice.delta.content for choice in chunk.choices if choice.delta.content]

    assert "".join(told).startswith("e0 ")
    assert not isinstance(caught.value, openai.APIConnectionError)
    assert "broken in the middle" in caught.value.message
    talk.last(model, stream=True)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", NEWEST)
async def test_c05_the_sdk_s_own_retry_follows_when_all_deployments_refuse(
    proxy: Proxy, talk: Talk, model: str, kind: str
) -> None:
    deployments = 3 if model == "gpt-5" else 2
    messages = [{"role": "user", "content": talk.prompt(text="fine", status=429, retry_after=0.05, times=deployments)}]
    client = opened(proxy, kind, max_retries=1)

    answer = await done(client.chat.completions.create(model=model, messages=messages))
    await done(client.close())

    assert answer.choices[0].message.content == "fine"
    talk.last(model, count=deployments + 1)


# --- leaving


async def free(simulator: Simulator, seconds: float = 1.0) -> None:
    """Fails unless no request is in progress at the simulator within ``seconds``."""
    started = time.monotonic()
    while simulator.state()["open"]:
        assert time.monotonic() - started < seconds, "the upstream was not freed"
        gc.collect()  # a stream of the SDK refers to itself: one that is dropped ends when it is collected
        await asyncio.sleep(0.01)


async def busy(simulator: Simulator) -> None:
    deadline = time.monotonic() + 10
    while not simulator.state()["open"]:
        assert time.monotonic() < deadline, "no request came up"
        await asyncio.sleep(0.01)


ENDLESS: dict[str, Any] = {"events": 5000, "rate": 50}


@pytest.mark.timed
@pytest.mark.parametrize("how", ["close", "leave the block"])
@pytest.mark.parametrize("model", NEWEST)
async def test_a_stream_that_is_left_frees_the_upstream(
    client: Any, talk: Talk, simulator: Simulator, model: str, how: str
) -> None:
    messages = [{"role": "user", "content": talk.prompt(**ENDLESS)}]
    stream = await done(client.chat.completions.create(model=model, messages=messages, stream=True))

    if how == "leave the block":
        async with entered(stream):
            async for chunk in each(stream):
                if chunk.choices and chunk.choices[0].delta.content:
                    break
            assert simulator.state()["open"] == 1
    else:
        items = each(stream)
        async for chunk in items:
            if chunk.choices and chunk.choices[0].delta.content:
                break
        assert simulator.state()["open"] == 1
        await done(stream.close())

    await free(simulator)
    talk.last(model, stream=True)


@pytest.mark.timed
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", NEWEST)
async def test_a_cancelled_task_frees_the_upstream(
    proxy: Proxy, talk: Talk, simulator: Simulator, model: str, stream: bool
) -> None:
    client = opened(proxy, "async")
    messages: Any = [{"role": "user", "content": talk.prompt(delay=60)}]
    task = asyncio.create_task(client.chat.completions.create(model=model, messages=messages, stream=stream))
    await busy(simulator)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await free(simulator)
    await client.close()
    talk.last(model, stream=stream)


@pytest.mark.timed
@pytest.mark.parametrize("model", NEWEST)
async def test_a_timeout_of_the_client_frees_the_upstream(
    client: Any, talk: Talk, simulator: Simulator, model: str
) -> None:
    messages = [{"role": "user", "content": talk.prompt(delay=60)}]
    started = time.monotonic()

    with pytest.raises(openai.APITimeoutError):
        await done(client.chat.completions.create(model=model, messages=messages, timeout=0.5))

    assert 0.4 < time.monotonic() - started < 3
    await free(simulator)
    talk.last(model)
