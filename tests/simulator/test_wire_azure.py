"""Azure OpenAI deployments (SAP AI Core wire facts, section 3)."""

from __future__ import annotations

import base64
import json
import struct
from typing import Any

import pytest
from tests.simulator.conftest import API, Tenant, assistant, events, user

from aicore_proxy.simulator import Running

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"type": "function", "function": {"name": "weather", "parameters": WEATHER}}


def call(call_id: str = "call_1") -> dict[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": "weather", "arguments": '{"city":"Berlin"}'}}


def error(answer: Any) -> dict[str, Any]:
    assert answer.status_code == 400, answer.text
    return dict(answer.json()["error"])


def test_wire_azure_whole_answer(tenant: Tenant) -> None:
    answer = tenant.chat("gpt-4o").json()

    assert list(answer) == sorted(answer), "keys arrive in alphabetical order"
    assert set(answer) == {
        "choices",
        "created",
        "id",
        "model",
        "object",
        "prompt_filter_results",
        "system_fingerprint",
        "usage",
    }
    assert answer["id"].startswith("chatcmpl-")
    assert (answer["model"], answer["object"]) == ("gpt-4o-2024-08-06", "chat.completion")
    choice = answer["choices"][0]
    assert list(choice) == ["content_filter_results", "finish_reason", "index", "logprobs", "message"]
    assert choice["content_filter_results"]["hate"] == {"filtered": False, "severity": "safe"}
    assert (choice["finish_reason"], list(choice["message"])) == ("stop", ["content", "refusal", "role"])
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0


def test_wire_azure_stream(tenant: Tenant) -> None:
    frames = events(tenant.chat("gpt-4o", stream=True, stream_options={"include_usage": True}))

    first, opened, *deltas, finish, usage, done = frames
    assert done == "[DONE]"
    assert (first["choices"], first["id"], first["model"], first["object"]) == ([], "", "", "")
    assert set(first["prompt_filter_results"][0]) == {"prompt_index", "content_filter_results"}
    assert opened["choices"][0]["delta"] == {"content": "", "refusal": None, "role": "assistant"}
    assert opened["usage"] is None
    assert "".join(delta["choices"][0]["delta"]["content"] for delta in deltas).startswith("This is gpt-4o, simulated.")
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []
    assert usage["usage"]["total_tokens"] > 0
    assert len({frame["id"] for frame in frames[1:-1]}) == 1


def test_wire_azure_usage_frame_only_when_asked(tenant: Tenant, simulator: Running) -> None:
    frames = events(tenant.chat("gpt-4o", stream=True))
    assert not any(frame.get("usage") for frame in frames[:-1])

    simulator.switch(azure_usage="finish")
    assert events(tenant.chat("gpt-4o", stream=True))[-2]["usage"]["total_tokens"] > 0


def test_wire_azure_the_deployment_decides_the_model(tenant: Tenant) -> None:
    assert tenant.chat("gpt-4o", model="gpt-5").json()["model"] == "gpt-4o-2024-08-06"
    assert tenant.chat("gpt-4o").status_code == 200


@pytest.mark.parametrize(
    ("version", "status"), [("2024-02-01", 200), ("2025-04-01-preview", 200), ("", 404), ("latest", 404)]
)
def test_wire_azure_api_version_is_required(tenant: Tenant, version: str, status: int) -> None:
    answer = tenant.post("gpt-4o", f"chat/completions?api-version={version}", {"messages": [user("hi")]})

    assert answer.status_code == status


def test_wire_azure_tool_calls(tenant: Tenant) -> None:
    choice = tenant.chat("gpt-4o", tools=[TOOL], tool_choice="required").json()["choices"][0]

    assert (choice["finish_reason"], choice["message"]["content"], choice["content_filter_results"]) == (
        "tool_calls",
        None,
        {},
    )
    made = choice["message"]["tool_calls"][0]
    assert list(made) == ["function", "id", "type"]
    assert (made["function"]["name"], json.loads(made["function"]["arguments"])) == ("weather", {"city": "Berlin"})


def test_wire_azure_streamed_tool_calls(tenant: Tenant) -> None:
    other = {"type": "function", "function": {"name": "time"}}
    script = 'simulate: {"calls": [{"name": "weather", "arguments": {"city": "Oslo"}}, {"name": "time"}]}'

    frames = events(tenant.chat("gpt-4o", said=script, stream=True, tools=[TOOL, other]))

    deltas = [call for frame in frames[2:-2] for call in frame["choices"][0]["delta"]["tool_calls"]]
    opened = [delta for delta in deltas if "id" in delta]
    assert [(delta["index"], delta["type"], delta["function"]) for delta in opened] == [
        (0, "function", {"arguments": "", "name": "weather"}),
        (1, "function", {"arguments": "", "name": "time"}),
    ]
    assert all(set(delta) == {"function", "index"} for delta in deltas if "id" not in delta)
    arguments = ["".join(d["function"]["arguments"] for d in deltas if d["index"] == index) for index in (0, 1)]
    assert [json.loads(text) for text in arguments] == [{"city": "Oslo"}, {}]
    assert frames[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_wire_azure_details_of_usage_on_newer_models(tenant: Tenant) -> None:
    usage = tenant.chat("gpt-5").json()["usage"]
    assert usage["prompt_tokens_details"]["cached_tokens"] == 0
    assert 0 < usage["completion_tokens_details"]["reasoning_tokens"] < usage["completion_tokens"]
    assert (
        tenant.chat("gpt-5", reasoning_effort="minimal").json()["usage"]["completion_tokens_details"][
            "reasoning_tokens"
        ]
        == 0
    )


def test_wire_azure_error_in_a_stream_ends_it_without_done(tenant: Tenant) -> None:
    frames = events(tenant.chat("gpt-4o", said='simulate: {"error_after": 2}', stream=True))

    assert frames[-1] == {"error": {"code": "429", "message": "exceeded token rate limit"}}
    assert len(frames) == 5
    assert events(tenant.chat("gpt-4o", said='simulate: {"error_after": 0}', stream=True)) == [frames[-1]]


@pytest.mark.parametrize("model", ["o3", "o4-mini", "gpt-5", "gpt-5-nano", "gpt-5.2", "gpt-5.5"])
@pytest.mark.parametrize(
    ("parameters", "code", "param"),
    [
        ({"max_tokens": 100}, "unsupported_parameter", "max_tokens"),
        ({"temperature": 0}, "unsupported_value", "temperature"),
        ({"top_p": 0.5}, "unsupported_parameter", "top_p"),
        ({"presence_penalty": 1}, "unsupported_parameter", "presence_penalty"),
        ({"frequency_penalty": 1}, "unsupported_parameter", "frequency_penalty"),
    ],
)
def test_wire_azure_reasoning_models_refuse_sampling(
    tenant: Tenant, model: str, parameters: dict[str, Any], code: str, param: str
) -> None:
    refused = error(tenant.chat(model, **parameters))

    assert (refused["code"], refused["param"], refused["type"]) == (code, param, "invalid_request_error")
    assert tenant.chat("gpt-4.1", **parameters).status_code == 200, "classic models take them"
    assert tenant.chat(model, max_completion_tokens=100, temperature=1).status_code == 200


def test_wire_azure_the_help_pages_sample_can_be_switched_on(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(refuse_parameters=False)

    assert tenant.chat("gpt-5", max_tokens=100, temperature=0).status_code == 200


def test_wire_azure_tools_and_effort_together_belong_to_responses(tenant: Tenant) -> None:
    for model in ("gpt-5.2", "gpt-5.4", "gpt-5.5"):
        message = error(tenant.chat(model, tools=[TOOL], reasoning_effort="low"))["message"]
        assert "/v1/responses" in message
        assert f"{model}-" in message
        assert "-dz-std" in message
        assert tenant.chat(model, tools=[TOOL]).status_code == 200
        assert tenant.chat(model, reasoning_effort="low").status_code == 200
    assert tenant.chat("gpt-5", tools=[TOOL], reasoning_effort="low").status_code == 200


def test_wire_azure_only_function_tools_are_let_through(tenant: Tenant) -> None:
    one = tenant.chat("gpt-5.5", tools=[{"type": "custom", "custom": {"name": "x"}}])
    assert (one.status_code, one.json()["error"]) == (400, "BadRequest")
    assert one.json()["message"] == "The following tool is not allowed for model 'gpt-5.5': custom."
    two = tenant.chat("gpt-5.5", tools=[{"type": "namespace"}, {"type": "web_search"}])
    assert two.json()["message"] == "The following tools are not allowed for model 'gpt-5.5': namespace and web_search."


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({"messages": []}, "empty array"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "Invalid value: 'robot'"),
        ({"messages": [{"role": "user", "content": None}]}, "got null"),
        ({"messages": [user([{"type": "image", "source": {}}])]}, "Invalid value: 'image'"),
        ({"top_k": 3}, "Unrecognized request argument supplied: top_k"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "maximum length 4"),
        ({"n": 2**70}, "Expected a value <= 128"),
        ({"tools": []}, "empty array"),
        ({"tool_choice": "auto"}, "only allowed when 'tools' are specified"),
        ({"parallel_tool_calls": False}, "only allowed when 'tools' are specified"),
        (
            {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "nope"}}},
            "no function named 'nope'",
        ),
        ({"tools": [{"type": "function", "function": {"name": "a.b"}}]}, "does not match pattern"),
        ({"stream_options": {"include_usage": True}}, "only allowed when 'stream' is enabled"),
        ({"response_format": {"type": "json_object"}}, "must contain the word 'json'"),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "r", "strict": True, "schema": {"type": "object"}},
                }
            },
            "'additionalProperties' is required",
        ),
        ({"reasoning_effort": "low"}, "Unrecognized request argument supplied: reasoning_effort"),
        ({"temperature": 3}, "out of range"),
        ({"max_tokens": 0}, "below minimum"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "at the same time"),
    ],
)
def test_wire_azure_refuses_what_azure_refuses(tenant: Tenant, body: dict[str, Any], part: str) -> None:
    refused = error(tenant.post("gpt-4o", f"chat/completions{API}", {"messages": [user("hi")], **body}))

    assert part in refused["message"]
    assert refused["type"] == "invalid_request_error"


def test_wire_azure_tool_results_answer_their_calls(tenant: Tenant) -> None:
    asked = [user("Weather?"), {"role": "assistant", "content": None, "tool_calls": [call("a"), call("b")]}]
    results = [{"role": "tool", "tool_call_id": name, "content": f"{name} is sunny"} for name in ("b", "a")]

    answer = tenant.post("gpt-4o", f"chat/completions{API}", {"messages": [*asked, *results], "tools": [TOOL]}).json()
    assert answer["choices"][0]["message"]["content"] == "The tool answered: b is sunny\na is sunny"

    missing = tenant.post("gpt-4o", f"chat/completions{API}", {"messages": [*asked, results[0]], "tools": [TOOL]})
    assert "did not have response messages: a" in error(missing)["message"]
    early = tenant.post("gpt-4o", f"chat/completions{API}", {"messages": [user("x"), results[0]]})
    assert "must be a response to a preceeding message" in error(early)["message"]
    long = [user("x"), {"role": "assistant", "tool_calls": [call("x" * 41)]}]
    assert "maximum length 40" in error(tenant.post("gpt-4o", f"chat/completions{API}", {"messages": long}))["message"]


def test_wire_azure_content_filter_and_context_errors(tenant: Tenant) -> None:
    filtered = error(tenant.chat("gpt-4o", said='simulate: {"refuse": "content_filter"}'))
    assert filtered["code"] == "content_filter"
    assert filtered["innererror"]["content_filter_result"]["hate"]["filtered"] is True
    long = error(tenant.chat("gpt-4o", said='simulate: {"refuse": "context_length"}'))
    assert long["code"] == "context_length_exceeded"


def test_wire_azure_structured_output_and_limits(tenant: Tenant) -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "r", "strict": True, "schema": WEATHER}}
    content = tenant.chat("gpt-4o", response_format=wanted).json()["choices"][0]["message"]["content"]
    assert json.loads(content) == {"city": "Berlin"}

    short = tenant.chat("gpt-4o", max_tokens=3).json()
    assert (short["choices"][0]["finish_reason"], short["usage"]["completion_tokens"]) == ("length", 3)
    stopped = tenant.chat("gpt-4o", stop=["simulated"]).json()["choices"][0]
    assert (stopped["message"]["content"], stopped["finish_reason"]) == ("This is gpt-4o, ", "stop")
    assert len(tenant.chat("gpt-4o", n=2).json()["choices"]) == 2


def test_wire_azure_legacy_functions(tenant: Tenant) -> None:
    body = {"functions": [TOOL["function"]], "function_call": {"name": "weather"}}

    choice = tenant.chat("gpt-4o", **body).json()["choices"][0]

    assert (choice["finish_reason"], choice["message"]["function_call"]["name"]) == ("function_call", "weather")
    assert events(tenant.chat("gpt-4o", stream=True, **body))[-2]["choices"][0]["finish_reason"] == "function_call"


def test_wire_azure_embeddings(tenant: Tenant) -> None:
    def embed(model: str = "text-embedding-3-small", **body: Any) -> Any:
        return tenant.post(model, f"embeddings{API}", body)

    one = embed(input="hello").json()
    assert (one["object"], one["model"], len(one["data"][0]["embedding"])) == ("list", "text-embedding-3-small", 1536)
    assert one["usage"] == {"prompt_tokens": 2, "total_tokens": 2}
    assert len(embed("text-embedding-3-large", input="x").json()["data"][0]["embedding"]) == 3072
    packed = embed(input=["hello", "there"], encoding_format="base64", dimensions=256).json()
    assert [entry["index"] for entry in packed["data"]] == [0, 1]
    values = struct.unpack("<256f", base64.b64decode(packed["data"][0]["embedding"]))
    assert list(values) == embed(input="hello", dimensions=256).json()["data"][0]["embedding"]
    assert (
        embed(input="").status_code
        == embed(input=[]).status_code
        == embed(input="x", dimensions=9999).status_code
        == 400
    )
    assert embed(input=[[1, 2, 3]]).json()["usage"]["prompt_tokens"] == 3


def test_azure_history_may_hold_text_parts_and_refusals(tenant: Tenant) -> None:
    said = [
        user([{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "data:,"}}]),
        assistant("b"),
        user("c"),
    ]

    answer = tenant.post("gpt-4o", f"chat/completions{API}", {"messages": said}).json()

    assert answer["usage"]["prompt_tokens"] > 765, "an image counts"
