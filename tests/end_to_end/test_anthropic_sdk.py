"""Anthropic's official SDK, sync and async, with a model of every family: what came back, and what went up for it."""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import AsyncIterator
from typing import Any

import anthropic
import httpx2
import pytest
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

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(16)).decode()
PDF = base64.b64encode(b"%PDF-1.4\n%%EOF\n").decode()
IMAGE: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}}
THOUGHT = "The request is simulated, so a short answer is enough."
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL: Any = {"name": "get_weather", "description": "Weather of a city", "input_schema": CITY}
CALLS = [{"name": "get_weather", "arguments": {"city": "Berlin"}}, {"name": "get_weather", "arguments": {}}]


def opened(proxy: Proxy, kind: str, **options: Any) -> Any:
    """A client of this kind: no proxies of the environment, no retries of its own."""
    options = {"api_key": KEY, "base_url": proxy.url, "max_retries": 0, **options}
    if kind == "sync":
        return anthropic.Anthropic(http_client=httpx2.Client(trust_env=False, verify=False), **options)
    return anthropic.AsyncAnthropic(http_client=httpx2.AsyncClient(trust_env=False, verify=False), **options)


@pytest.fixture(params=KINDS)
async def client(request: pytest.FixtureRequest, proxy: Proxy) -> AsyncIterator[Any]:
    client = opened(proxy, request.param)
    yield client
    await done(client.close())


def user(content: Any) -> list[Any]:
    return [{"role": "user", "content": content}]


# --- text


@pytest.mark.parametrize("model", MODELS)
async def test_marked_system_blocks_and_a_system_message_in_the_middle(client: Any, talk: Talk, model: str) -> None:
    marked: Any = {"type": "text", "text": "Be terse.", "cache_control": {"type": "ephemeral"}}
    asked = talk.prompt()
    messages: Any = [
        *user("Hello"), {"role": "assistant", "content": "Hello!"}, *user(asked),
        {"role": "system", "content": "The user is in a hurry."},
    ]  # fmt: skip

    answer = await done(
        client.messages.create(
            model=model, max_tokens=200, messages=messages,
            system=[{"type": "text", "text": "You are an agent."}, marked],
        )
    )  # fmt: skip

    assert any(block.type == "text" and block.text for block in answer.content)
    body = talk.last(model)
    match FAMILIES[model]:
        case "claude":
            assert body["system"] == [{"type": "text", "text": "You are an agent."}, marked]
            told = body["messages"]
        case "gpt":
            first = body["messages"][0]
            told = body["messages"]
            assert (first["role"], first["content"]) in (
                ("system", "You are an agent.\nBe terse."),
                ("system", [{"type": "text", "text": "You are an agent."}, {"type": "text", "text": "Be terse."}]),
            )
        case _:
            assert [part["text"] for part in body["systemInstruction"]["parts"]] == ["You are an agent.", "Be terse."]
            told = body["contents"]
    # At its place, after the question: not hoisted to the front, where it would break prompt caches
    last = str(told[-1])
    assert "The user is in a hurry." in last
    assert talk.mark in str(told[-2:])
    assert "hurry" not in str(told[:-1])
    assert "cache_control" not in str(body) or FAMILIES[model] == "claude"


@pytest.mark.parametrize("model", MODELS)
async def test_a_conversation_with_system_and_stop(client: Any, talk: Talk, model: str) -> None:
    asked = talk.prompt(text="one END two")
    messages = [*user("Hello"), {"role": "assistant", "content": "Hello!"}, *user(asked)]

    answer = await done(
        client.messages.create(
            model=model, max_tokens=200, system="Be terse.", messages=messages, stop_sequences=["END"],
            metadata={"user_id": "u-1"},
        )
    )  # fmt: skip

    assert [block.text for block in answer.content if block.type == "text"] == ["one "]
    assert (answer.type, answer.role) == ("message", "assistant")
    told_which = FAMILIES[model] == "claude"
    assert answer.stop_reason == ("stop_sequence" if told_which else "end_turn")
    assert answer.stop_sequence == ("END" if told_which else None)
    assert answer.usage.input_tokens > 0
    assert answer.usage.output_tokens > 0
    body = talk.last(model)
    assert body == by_family(
        model,
        gpt={
            "model": model, "messages": [{"role": "system", "content": "Be terse."}, *messages], "stop": ["END"],
            "user": "u-1", **limit(model, 200),
        },
        claude={**BEDROCK, "max_tokens": 200, "system": "Be terse.", "messages": messages, "stop_sequences": ["END"]},
        gemini={
            "systemInstruction": {"parts": [{"text": "Be terse."}]},
            "contents": [
                {"role": "user", "parts": [{"text": "Hello"}]},
                {"role": "model", "parts": [{"text": "Hello!"}]},
                {"role": "user", "parts": [{"text": asked}]},
            ],
            "generationConfig": {"maxOutputTokens": 200, "stopSequences": ["END"]},
        },
    )  # fmt: skip


@pytest.mark.parametrize("model", MODELS)
async def test_raw_events_of_a_stream(client: Any, talk: Talk, model: str) -> None:
    stream = await done(
        client.messages.create(
            model=model, max_tokens=500, messages=user(talk.prompt(text="one two three four five six")), stream=True
        )
    )

    events = await listed(stream)

    kinds = [event.type for event in events]
    assert kinds[0] == "message_start"
    assert kinds[-2:] == ["message_delta", "message_stop"]
    assert kinds.count("content_block_start") == kinds.count("content_block_stop")
    texts = [e.delta.text for e in events if e.type == "content_block_delta" and e.delta.type == "text_delta"]
    assert "".join(texts) == "one two three four five six"
    assert len(texts) >= 3
    assert events[0].message.content == []
    assert events[-2].delta.stop_reason == "end_turn"
    assert events[-2].usage.output_tokens >= 6
    assert not {"stream"} & set(talk.last(model, stream=True)) or FAMILIES[model] == "gpt"


@pytest.mark.parametrize("model", MODELS)
async def test_the_stream_helper(client: Any, talk: Talk, model: str) -> None:
    async with entered(
        client.messages.stream(model=model, max_tokens=500, messages=user(talk.prompt(text="one two three four")))
    ) as stream:
        texts = await listed(stream.text_stream)
        final = await done(stream.get_final_message())

    assert "".join(texts) == "one two three four"
    assert [block.text for block in final.content if block.type == "text"] == ["one two three four"]
    assert final.stop_reason == "end_turn"
    talk.last(model, stream=True)


@pytest.mark.parametrize("model", NEWEST)
async def test_a_limit_of_tokens_ends_the_answer(client: Any, talk: Talk, model: str) -> None:
    # the simulator echoes the prompt; what a script tells it does not cut
    answer = await done(client.messages.create(model=model, max_tokens=30, messages=user(talk.prompt("word " * 200))))

    assert answer.stop_reason == "max_tokens"
    assert answer.usage.output_tokens <= 30
    body = talk.last(model)
    told = by_family(
        model, gpt=body, claude=body, gemini={"max_tokens": body.get("generationConfig", {}).get("maxOutputTokens")}
    )
    assert told.get("max_completion_tokens", told.get("max_tokens")) == 30


# --- tools, with thoughts


THINKING: dict[str, dict[str, Any]] = {"claude-sonnet-4-5": {"type": "enabled", "budget_tokens": 2048}}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", NEWEST)
async def test_s11_an_answer_without_counts_is_whole_and_has_an_estimate(
    client: Any, talk: Talk, model: str, stream: bool
) -> None:
    text = "one two three four five six seven eight nine ten"
    asked: dict[str, Any] = {
        "model": model, "max_tokens": 500, "messages": user(talk.prompt(text=text, usage=False)),
    }  # fmt: skip
    if stream:
        async with entered(client.messages.stream(**asked)) as s:
            final = await done(s.get_final_message())
    else:
        final = await done(client.messages.create(**asked))

    assert final.content[0].text == text
    assert final.stop_reason == "end_turn"
    assert 10 <= final.usage.input_tokens <= 100
    assert 6 <= final.usage.output_tokens <= 24
    assert stream or final.usage.estimated is True


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_tool_loop_with_thoughts_images_and_errors(client: Any, talk: Talk, model: str, stream: bool) -> None:
    messages: list[Any] = user(talk.prompt(calls=CALLS))
    settings: dict[str, Any] = {
        "model": model, "max_tokens": 8000, "tools": [TOOL], "thinking": THINKING.get(model, {"type": "adaptive"}),
    }  # fmt: skip

    async def ask() -> Any:
        if not stream:
            return await done(client.messages.create(messages=messages, **settings))
        async with entered(client.messages.stream(messages=messages, **settings)) as s:
            return await done(s.get_final_message())

    answer = await ask()
    calls = [block for block in answer.content if block.type == "tool_use"]
    assert answer.stop_reason == "tool_use"
    assert [(call.name, call.input) for call in calls] == [(c["name"], c["arguments"]) for c in CALLS]
    thoughts = [block.thinking for block in answer.content if block.type == "thinking"]
    assert thoughts == ([] if FAMILIES[model] == "gpt" else [THOUGHT])
    results = [
        {"type": "tool_result", "tool_use_id": calls[0].id, "content": [{"type": "text", "text": "18 C"}, IMAGE]},
        {"type": "tool_result", "tool_use_id": calls[1].id, "content": "no city", "is_error": True},
    ]
    messages += [{"role": "assistant", "content": answer.content}, *user(results)]
    final = await ask()

    assert final.stop_reason == "end_turn"
    body = talk.last(model, stream=stream, count=2)
    by_family(model, gpt=went_up_to_gpt, claude=went_up_to_claude, gemini=went_up_to_gemini)(body, calls, results)


def went_up_to_gpt(body: dict[str, Any], calls: list[Any], results: list[Any]) -> None:
    _, assistant, first, second, shown = body["messages"]
    assert [call["id"] for call in assistant["tool_calls"]] == [call.id for call in calls]
    assert [call["function"]["arguments"] for call in assistant["tool_calls"]] == ['{"city":"Berlin"}', "{}"]
    assert first == {"role": "tool", "tool_call_id": calls[0].id, "content": "18 C"}
    assert (second["tool_call_id"], second["content"]) == (calls[1].id, "Error: no city")
    assert shown["content"][-1] == {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
    assert "think" not in str(body["messages"])


def went_up_to_claude(body: dict[str, Any], calls: list[Any], results: list[Any]) -> None:
    thinking, *uses = body["messages"][1]["content"]
    assert thinking["thinking"] == THOUGHT
    assert len(thinking["signature"]) > 40
    assert [(use["id"], use["name"], use["input"]) for use in uses] == [(c.id, c.name, c.input) for c in calls]
    assert body["messages"][2]["content"] == results
    assert body["thinking"] == THINKING["claude-sonnet-4-5"] or body["thinking"] == {"type": "adaptive"}
    assert body["tools"] == [TOOL]


def went_up_to_gemini(body: dict[str, Any], calls: list[Any], results: list[Any]) -> None:
    parts = body["contents"][1]["parts"]
    made = [part for part in parts if "functionCall" in part]
    assert [part["functionCall"]["args"] for part in made] == [{"city": "Berlin"}, {}]
    assert len(made[0]["thoughtSignature"]) > 40
    assert not made[0]["thoughtSignature"].startswith("YWljcDEu"), "a carried seal goes up unwrapped"
    answered = [p["functionResponse"]["response"] for p in body["contents"][2]["parts"] if "functionResponse" in p]
    assert answered == [{"output": "18 C"}, {"error": "no city"}]
    assert PNG in str(body["contents"])
    assert body["generationConfig"]["thinkingConfig"]["includeThoughts"] is True


@pytest.mark.parametrize("then", NEWEST)
@pytest.mark.parametrize("first", NEWEST)
async def test_another_family_takes_over_in_a_tool_loop(client: Any, talk: Talk, first: str, then: str) -> None:
    messages: list[Any] = user(talk.prompt(calls=CALLS[:1]))
    settings: dict[str, Any] = {"max_tokens": 8000, "tools": [TOOL], "thinking": {"type": "adaptive"}}

    answer = await done(client.messages.create(model=first, messages=messages, **settings))
    call = next(block for block in answer.content if block.type == "tool_use")
    messages += [
        {"role": "assistant", "content": answer.content},
        *user([{"type": "tool_result", "tool_use_id": call.id, "content": "18 C"}]),
    ]
    final = await done(client.messages.create(model=then, messages=messages, **settings))

    assert "18 C" in "".join(block.text for block in final.content if block.type == "text")
    body = talk.received(2)[-1].body
    assert "YWljcDEu" not in str(body), "no wrapped seal goes up"
    assert ("signature" in str(body).lower()) == (
        (first == then and FAMILIES[then] != "gpt") or FAMILIES[then] == "gemini"
    )


@pytest.mark.parametrize(
    ("choice", "up"),
    [
        ({"type": "any"}, {"gpt": "required", "gemini": {"mode": "ANY"}}),
        (
            {"type": "tool", "name": "get_weather"},
            {
                "gpt": {"type": "function", "function": {"name": "get_weather"}},
                "gemini": {"mode": "ANY", "allowedFunctionNames": ["get_weather"]},
            },
        ),
        ({"type": "none"}, {"gpt": "none", "gemini": {"mode": "NONE"}}),
    ],
    ids=["any", "tool", "none"],
)
@pytest.mark.parametrize("model", NEWEST)
async def test_a_forced_choice(client: Any, talk: Talk, model: str, choice: Any, up: dict[str, Any]) -> None:
    answer = await done(
        client.messages.create(
            model=model, max_tokens=500, messages=user(talk.prompt()), tools=[TOOL], tool_choice=choice
        )
    )

    called = [block.name for block in answer.content if block.type == "tool_use"]
    assert called == ([] if choice["type"] == "none" else ["get_weather"])
    body = talk.last(model)
    assert by_family(
        model, gpt=body.get("tool_choice"), claude=body.get("tool_choice"), gemini=body.get("toolConfig")
    ) == by_family(model, gpt=up["gpt"], claude=choice, gemini={"functionCallingConfig": up["gemini"]})


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
async def test_the_tool_runner(proxy: Proxy, talk: Talk, model: str, kind: str, stream: bool) -> None:
    """It asks for a thread, gets the 400 that it understands, and goes on with the whole conversation."""
    asked: list[str] = []

    def get_weather(city: str) -> str:
        """Weather of a city."""
        asked.append(city)
        return f"18 C in {city}"

    async def get_weather_async(city: str) -> str:
        """Weather of a city."""
        return get_weather(city)

    tool: Any = (
        anthropic.beta_tool(get_weather)
        if kind == "sync"
        else anthropic.beta_async_tool(get_weather_async, name="get_weather")
    )
    client = opened(proxy, kind)
    runner = client.beta.messages.tool_runner(
        model=model, max_tokens=500, messages=user(talk.prompt(calls=CALLS[:1])), tools=[tool], stream=stream
    )

    final = await done(runner.until_done())
    await done(client.close())

    assert asked == ["Berlin"]
    assert "18 C in Berlin" in str(final.content)
    body = talk.last(model, stream=stream, count=2)
    assert "thread" not in body
    assert "message-threads-2026-08-12" not in str(body)
    assert len(body["contents" if FAMILIES[model] == "gemini" else "messages"]) == 3
    assert body["tools"]


# --- structured output, images, reasoning


class Step(BaseModel):
    thought: str


class Solution(BaseModel):
    steps: list[Step]
    answer: int


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_an_answer_is_parsed_into_a_model(client: Any, talk: Talk, model: str, stream: bool) -> None:
    settings: dict[str, Any] = {
        "model": model, "max_tokens": 500, "messages": user(talk.prompt()), "output_format": Solution,
    }  # fmt: skip

    if stream:
        async with entered(client.messages.stream(**settings)) as s:
            answer = await done(s.get_final_message())
    else:
        answer = await done(client.messages.parse(**settings))

    assert isinstance(answer.parsed_output, Solution)
    body = talk.last(model, stream=stream)
    schema = by_family(
        model,
        gpt=lambda: body["response_format"]["json_schema"]["schema"],
        claude=lambda: body["output_config"]["format"]["schema"],
        gemini=lambda: body["generationConfig"]["responseJsonSchema"],
    )()
    assert sorted(schema["properties"]) == ["answer", "steps"]
    assert sorted(schema["required"]) == ["answer", "steps"]


@pytest.mark.parametrize("model", MODELS)
async def test_images_and_pdfs(client: Any, talk: Talk, model: str) -> None:
    pdf = {
        "type": "document", "title": "facts.pdf",
        "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
    }  # fmt: skip
    words = {"type": "text", "text": talk.prompt()}

    answer = await done(client.messages.create(model=model, max_tokens=500, messages=user([IMAGE, pdf, words])))

    assert talk.mark in str(answer.content)
    body = talk.last(model)
    assert body[by_family(model, gpt="messages", claude="messages", gemini="contents")][0] == by_family(
        model,
        gpt={
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}},
                {"type": "file", "file": {"filename": "facts.pdf", "file_data": f"data:application/pdf;base64,{PDF}"}},
                words,
            ],
        },
        claude={"role": "user", "content": [IMAGE, pdf, words]},
        gemini={
            "role": "user",
            "parts": [
                {"inlineData": {"mimeType": "image/png", "data": PNG}},
                {"inlineData": {"mimeType": "application/pdf", "data": PDF, "displayName": "facts.pdf"}},
                {"text": words["text"]},
            ],
        },
    )


EFFORT: dict[str, Any] = {
    "gpt-5": "high",
    "gpt-4.1": None,
    "claude-sonnet-4-5": {"type": "enabled", "budget_tokens": 24576},
    "claude-opus-5-5": {"type": "adaptive"},
    "gemini-2.5-pro": {"thinkingBudget": 24576, "includeThoughts": True},
    "gemini-3.5-flash": {"thinkingLevel": "HIGH", "includeThoughts": True},
}


@pytest.mark.parametrize("model", MODELS)
async def test_adaptive_thinking_with_an_effort(proxy: Proxy, talk: Talk, model: str) -> None:
    client = opened(proxy, "sync", timeout=60)
    answer = client.messages.create(
        model=model, max_tokens=40_000, messages=user(talk.prompt()), thinking={"type": "adaptive"},
        output_config={"effort": "high"},
    )  # fmt: skip
    client.close()

    assert talk.mark in str(answer.content)
    body = talk.last(model)
    assert by_family(
        model,
        gpt=body.get("reasoning_effort"),
        claude=body.get("thinking"),
        gemini=body.get("generationConfig", {}).get("thinkingConfig"),
    ) == EFFORT[model]  # fmt: skip
    assert body.get("anthropic_beta") == (["effort-2025-11-24"] if model == "claude-opus-5-5" else None)


# --- counting, models, errors


async def test_tokens_are_counted_without_asking_upstream(client: Any, talk: Talk) -> None:
    counted = await done(
        client.messages.count_tokens(model="claude-opus-5-5", messages=user(talk.prompt("one two three")))
    )

    assert 5 < counted.input_tokens < 60
    talk.received(0)


async def test_models_are_listed_and_retrieved(client: Any) -> None:
    page = await done(client.models.list(limit=5))
    ids = [model.id async for model in each(client.models.list(limit=5))]
    model = await done(client.models.retrieve("claude-opus-5-5"))

    assert len(page.data) == 5
    assert set(MODELS) <= set(ids)
    assert len(ids) == len(set(ids)) > 5
    assert (model.id, model.type, model.display_name) == ("claude-opus-5-5", "model", "Claude Opus 5.5")


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", NEWEST)
@pytest.mark.parametrize(
    ("script", "error", "kind"),
    [
        ({"status": 400}, anthropic.BadRequestError, "invalid_request_error"),
        ({"status": 429, "retry_after": 7}, anthropic.RateLimitError, "rate_limit_error"),
        ({"status": 500}, anthropic.InternalServerError, "api_error"),
        ({"status": 529}, anthropic.APIStatusError, "overloaded_error"),
    ],
    ids=["400", "429", "500", "529"],
)
async def test_an_upstream_s_refusal_is_the_sdk_s_error(
    client: Any, talk: Talk, model: str, stream: bool, script: dict[str, Any], error: type[anthropic.APIStatusError],
    kind: str,
) -> None:  # fmt: skip
    messages = user(talk.prompt(message="the upstream's own words", **script))

    with pytest.raises(error) as caught:
        await done(client.messages.create(model=model, max_tokens=50, messages=messages, stream=stream))

    assert caught.value.status_code == script["status"]
    assert caught.value.type == kind
    assert "the upstream's own words" in caught.value.message
    assert caught.value.request_id == caught.value.response.headers["request-id"]
    assert script["status"] != 429 or caught.value.response.headers["retry-after"] == "7"
    assert len(talk.received()) == (1 if script["status"] == 400 else 3 if model == "gpt-5" else 2)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_too_long_a_conversation_is_what_clients_compact_on(
    client: Any, talk: Talk, model: str, stream: bool
) -> None:
    messages = user(talk.prompt(refuse="context_length"))

    with pytest.raises(anthropic.BadRequestError) as caught:
        await done(client.messages.create(model=model, max_tokens=50, messages=messages, stream=stream))

    assert caught.value.type == "invalid_request_error"
    assert "prompt is too long" in caught.value.message
    talk.last(model, stream=stream)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", MODELS)
async def test_a_filtered_prompt_is_refused_in_the_filter_s_words(
    client: Any, talk: Talk, model: str, stream: bool
) -> None:
    messages = user(talk.prompt(refuse="content_filter"))

    async def ask() -> Any:
        return await done(client.messages.create(model=model, max_tokens=50, messages=messages, stream=stream))

    if FAMILIES[model] == "gemini":  # whose answer to a blocked prompt is an answer without a candidate
        answer = await ask()
        events = await listed(answer) if stream else []
        deltas = [event.delta.stop_reason for event in events if event.type == "message_delta"]
        assert (deltas if stream else [answer.stop_reason]) == ["refusal"]
    else:
        with pytest.raises(anthropic.BadRequestError, match=r"content (management|filtering) policy") as caught:
            await ask()
        assert caught.value.type == "invalid_request_error"
    talk.last(model, stream=stream)


async def test_wrong_keys_unknown_models_and_threads(client: Any, talk: Talk) -> None:
    asked: dict[str, Any] = {"max_tokens": 50, "messages": user(talk.prompt())}

    with pytest.raises(anthropic.AuthenticationError) as wrong:
        await done(client.with_options(api_key="sk-wrong").messages.create(model="gpt-5", **asked))
    with pytest.raises(anthropic.NotFoundError) as unknown:
        await done(client.messages.create(model="claude-sonet-4-5", **asked))
    with pytest.raises(anthropic.BadRequestError) as thread:
        await done(client.messages.create(model="gpt-5", **asked, extra_body={"thread": {"type": "create"}}))

    assert wrong.value.type == "authentication_error"
    assert unknown.value.type == "not_found_error"
    assert "claude-sonnet-4-5" in unknown.value.message
    assert thread.value.error_code == "thread_unsupported_request"
    talk.received(0)


@pytest.mark.parametrize("model", MODELS)
async def test_an_error_in_mid_stream_is_raised(client: Any, talk: Talk, model: str) -> None:
    messages = user(talk.prompt(events=6, error_after=3, message="broken in the middle"))
    told: list[str] = []

    with pytest.raises(anthropic.APIStatusError, match="broken in the middle"):
        async with entered(client.messages.stream(model=model, max_tokens=500, messages=messages)) as stream:
            async for text in each(stream.text_stream):
                told.append(text)

    assert "".join(told).startswith("e0 ")
    talk.last(model, stream=True)


# --- leaving


async def until(simulator: Simulator, count: int, seconds: float) -> None:
    """Fails unless so many requests are in progress at the simulator within ``seconds``."""
    started = time.monotonic()
    while simulator.state()["open"] != count:
        assert time.monotonic() - started < seconds
        await asyncio.sleep(0.01)


@pytest.mark.timed
@pytest.mark.parametrize("how", ["close", "leave the block"])
@pytest.mark.parametrize("model", NEWEST)
async def test_a_stream_that_is_left_frees_the_upstream(
    client: Any, talk: Talk, simulator: Simulator, model: str, how: str
) -> None:
    messages = user(talk.prompt(events=5000, rate=50))
    async with entered(client.messages.stream(model=model, max_tokens=20_000, messages=messages)) as stream:
        async for text in each(stream.text_stream):
            if text:
                break
        assert simulator.state()["open"] == 1
        if how == "close":
            await done(stream.close())
            await until(simulator, 0, 1)

    await until(simulator, 0, 1)
    talk.last(model, stream=True)


@pytest.mark.timed
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", NEWEST)
async def test_a_cancelled_task_frees_the_upstream(
    proxy: Proxy, talk: Talk, simulator: Simulator, model: str, stream: bool
) -> None:
    client = opened(proxy, "async")
    messages = user(talk.prompt(delay=60))
    task = asyncio.create_task(client.messages.create(model=model, max_tokens=50, messages=messages, stream=stream))
    await until(simulator, 1, 10)

    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    await until(simulator, 0, 1)
    await client.close()
    talk.last(model, stream=stream)
