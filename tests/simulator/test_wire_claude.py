"""Claude on Bedrock's invoke paths (SAP AI Core wire facts, sections 4.1 to 4.4)."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from tests.simulator.conftest import Tenant, assistant, events, user

from aicore_proxy.simulator import Running, in_thread, simple

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOL = {"name": "weather", "description": "The weather", "input_schema": SCHEMA}
USE = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Berlin"}}
RESULT = {"type": "tool_result", "tool_use_id": "toolu_1", "content": [{"type": "text", "text": "sunny"}]}
BUDGET = {"type": "enabled", "budget_tokens": 1024}
ADAPTIVE = {"type": "adaptive"}
TEXT = {"type": "text", "text": "Hello"}
SYSTEM_BETA = "mid-conversation-system-2026-04-07"


def message(answer: Any) -> str:
    assert answer.status_code == 400, answer.text
    body = answer.json()
    return str(body["error"]["message"] if "error" in body else body["message"])


def test_wire_claude_whole_answer(tenant: Tenant) -> None:
    answer = tenant.claude("4.5-sonnet").json()

    assert list(answer) == ["model", "id", "type", "role", "content", "stop_reason", "stop_sequence", "usage"]
    assert answer["model"] == "claude-sonnet-4-5-20250929"
    assert answer["id"].startswith("msg_bdrk_")
    assert answer["content"][0]["type"] == "text"
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    usage = answer["usage"]
    assert list(usage) == [
        "input_tokens",
        "cache_creation_input_tokens",
        "cache_read_input_tokens",
        "cache_creation",
        "output_tokens",
    ]
    assert usage["input_tokens"] > 0 < usage["output_tokens"]


def test_wire_claude_stream_without_event_lines_or_done(tenant: Tenant) -> None:
    answer = tenant.claude("4.5-sonnet", streamed=True)

    assert "event:" not in answer.text
    start, opened, *deltas, closed, delta, stop = events(answer)
    assert list(start["message"]) == ["model", "id", "type", "role", "content", "stop_reason", "stop_sequence", "usage"]
    assert opened == {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    assert all(list(event) == ["type", "index", "delta"] and event["delta"]["type"] == "text_delta" for event in deltas)
    assert closed == {"type": "content_block_stop", "index": 0}
    assert delta["delta"] == {"stop_reason": "end_turn", "stop_sequence": None}
    metrics = stop["amazon-bedrock-invocationMetrics"]
    assert metrics["outputTokenCount"] == delta["usage"]["output_tokens"]
    assert metrics["inputTokenCount"] == start["message"]["usage"]["input_tokens"]


def test_wire_claude_event_lines_can_be_switched_on(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(invoke_event_lines=True)

    lines = tenant.claude("4.5-sonnet", streamed=True).text.splitlines()

    assert lines[0] == "event: message_start"
    assert lines[1].startswith('data: {"type":"message_start"')


def test_wire_claude_tool_use_whole_and_streamed(tenant: Tenant) -> None:
    body = {"tools": [TOOL], "tool_choice": {"type": "any"}}
    whole = tenant.claude("4.5-haiku", **body).json()
    assert whole["stop_reason"] == "tool_use"
    assert whole["content"][0]["id"].startswith("toolu_bdrk_")
    assert whole["content"][0]["input"] == {"city": "Berlin"}

    frames = events(tenant.claude("4.5-haiku", streamed=True, **body))
    opened = next(frame for frame in frames if frame["type"] == "content_block_start")["content_block"]
    assert (opened["type"], opened["name"], opened["input"]) == ("tool_use", "weather", {})
    pieces = [frame["delta"]["partial_json"] for frame in frames if frame["type"] == "content_block_delta"]
    assert json.loads("".join(pieces)) == {"city": "Berlin"}


def test_wire_claude_tool_result_is_quoted(tenant: Tenant) -> None:
    said = [user("Weather?"), assistant([USE]), user([RESULT, {"type": "text", "text": "Well?"}])]

    answer = tenant.claude("4.5-sonnet", messages=said, tools=[TOOL], tool_choice={"type": "any"}).json()

    assert answer["content"] == [{"type": "text", "text": "The tool answered: sunny"}]


@pytest.mark.parametrize(
    ("case", "model", "body", "part"),
    [
        ("model", "4.5-sonnet", {"model": "claude"}, "model: Extra inputs are not permitted"),
        ("stream", "4.5-sonnet", {"stream": True}, "stream: Extra inputs are not permitted"),
        ("unknown key", "4.5-sonnet", {"speed": "fast"}, "speed: Extra inputs are not permitted"),
        ("thread", "4.5-sonnet", {"thread": {}}, "thread: Extra inputs are not permitted"),
        ("no version", "4.5-sonnet", {"anthropic_version": ...}, "anthropic_version: Field required"),
        ("no max_tokens", "4.5-sonnet", {"max_tokens": ...}, "max_tokens: Field required"),
        ("context_management", "4.6-opus", {"context_management": {"edits": []}}, "context_management: Extra inputs"),
        ("effort", "4.8-opus", {"output_config": {"effort": "high"}}, "output_config.effort: Extra inputs"),
        (
            "cache_control.scope",
            "4.5-sonnet",
            {"system": [{**TEXT, "cache_control": {"type": "ephemeral", "scope": "global"}}]},
            "cache_control.ephemeral.scope: Extra inputs",
        ),
        (
            "five marks",
            "4.5-sonnet",
            {"system": [{**TEXT, "cache_control": {"type": "ephemeral"}}] * 5},
            "A maximum of 4 blocks",
        ),
        (
            "web_search",
            "4.5-sonnet",
            {"tools": [{"type": "web_search_20250305", "name": "web_search"}]},
            "Input tag 'web_search_20250305'",
        ),
        ("bash", "4.5-sonnet", {"tools": [{"type": "bash_20250124", "name": "bash"}]}, "Input tag 'bash_20250124'"),
        (
            "input_schema.type",
            "4.5-sonnet",
            {"tools": [{"name": "f", "input_schema": {}}]},
            "tools.0.custom.input_schema.type: Input should be 'object'",
        ),
        ("tool keys", "4.5-sonnet", {"tools": [{**TOOL, "strict": True}]}, "tools.0.custom.strict: Extra inputs"),
        (
            "defer_loading",
            "4.5-sonnet",
            {"tools": [{**TOOL, "defer_loading": True}]},
            "tools.0.custom.defer_loading: Extra inputs",
        ),
        ("tool twice", "4.5-sonnet", {"tools": [TOOL, TOOL]}, "Tool names must be unique"),
        (
            "empty text",
            "4.5-sonnet",
            {"messages": [user([{"type": "text", "text": " \n"}])]},
            "text content blocks must contain non-whitespace text",
        ),
        ("empty content", "4.5-sonnet", {"messages": [user("")]}, "must have non-empty content"),
        (
            "result without use",
            "4.5-sonnet",
            {"messages": [user("x"), assistant("y"), user([RESULT])]},
            "unexpected `tool_use_id`",
        ),
        (
            "use without result",
            "4.5-sonnet",
            {"messages": [user("x"), assistant([USE]), user("y")]},
            "were found without `tool_result` blocks",
        ),
        (
            "result after text",
            "4.5-sonnet",
            {"messages": [user("x"), assistant([USE]), user([TEXT, RESULT])]},
            "were found without `tool_result` blocks",
        ),
        (
            "block keys",
            "4.5-sonnet",
            {"messages": [user([{**TEXT, "id": "1"}])]},
            "messages.0.content.0.text.id: Extra inputs",
        ),
        (
            "tool_reference",
            "4.5-sonnet",
            {
                "messages": [
                    user("x"),
                    assistant([USE]),
                    user([{**RESULT, "content": [{"type": "tool_reference", "tool_name": "f"}]}]),
                ]
            },
            "Input tag 'tool_reference'",
        ),
        (
            "system role",
            "4.5-sonnet",
            {"messages": [user("x"), {"role": "system", "content": "y"}]},
            "role 'system' is not supported on this model",
        ),
        (
            "system role without beta",
            "4.8-opus",
            {"messages": [user("x"), {"role": "system", "content": "y"}]},
            "role 'system' is not supported on this model",
        ),
        (
            "temperature 3",
            "4.5-sonnet",
            {"temperature": 3},
            "temperature: 3 is not less or equal to 1.0, please reformat your input",
        ),
        (
            "temperature and top_p",
            "4.5-haiku",
            {"temperature": 0.5, "top_p": 0.5},
            "`temperature` and `top_p` cannot both be specified",
        ),
        ("4.7 temperature", "4.7-opus", {"temperature": 0.5}, "`temperature` is deprecated"),
        ("4.8 top_p", "4.8-opus", {"top_p": 0.5}, "`top_p` is deprecated"),
        ("5 top_k", "5-sonnet", {"top_k": 5}, "`top_k` is deprecated"),
        ("5.5 temperature", "5.5-haiku", {"temperature": 0}, "`temperature` is deprecated"),
        ("4.7 budget", "4.7-opus", {"thinking": BUDGET}, '"thinking.type.enabled" is not supported'),
        ("5.5 budget", "5.5-opus", {"thinking": BUDGET}, '"thinking.type.enabled" is not supported'),
        ("4.5 adaptive", "4.5-sonnet", {"thinking": ADAPTIVE}, "adaptive thinking is not supported on this model"),
        (
            "small budget",
            "4.5-sonnet",
            {"thinking": {"type": "enabled", "budget_tokens": 1000}},
            "greater than or equal to 1024",
        ),
        (
            "large budget",
            "4.5-sonnet",
            {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            "`max_tokens` must be greater than",
        ),
        (
            "thinking and force",
            "4.5-sonnet",
            {"thinking": BUDGET, "tools": [TOOL], "tool_choice": {"type": "any"}},
            "Thinking may not be enabled when tool_choice forces",
        ),
        (
            "thinking and temperature",
            "4.5-sonnet",
            {"thinking": BUDGET, "temperature": 0.5},
            "may only be set to 1 when thinking is enabled",
        ),
        (
            "no thoughts in the loop",
            "4.5-sonnet",
            {"thinking": BUDGET, "tools": [TOOL], "messages": [user("x"), assistant([USE]), user([RESULT])]},
            "Expected `thinking` or `redacted_thinking`, but found `tool_use`",
        ),
        (
            "unknown tool chosen",
            "4.5-sonnet",
            {"tools": [TOOL], "tool_choice": {"type": "tool", "name": "nope"}},
            "Tool 'nope' not found",
        ),
    ],
)
def test_wire_claude_refuses(tenant: Tenant, case: str, model: str, body: dict[str, Any], part: str) -> None:
    for stream in (False, True):
        answer = tenant.claude(model, streamed=stream, **body)
        assert part in message(answer), case
        assert answer.headers["x-amzn-errortype"] == "ValidationException"


@pytest.mark.parametrize(
    ("case", "model", "body"),
    [
        (
            "cache marks",
            "4.5-sonnet",
            {
                "system": [{**TEXT, "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
                "tools": [{**TOOL, "cache_control": {"type": "ephemeral"}}],
            },
        ),
        ("metadata", "4.5-sonnet", {"metadata": {"user_id": "u"}}),
        (
            "context_management",
            "4.6-opus",
            {"anthropic_beta": ["context-management-2025-06-27"], "context_management": {"edits": []}},
        ),
        ("effort", "4.8-opus", {"anthropic_beta": ["effort-2025-11-24"], "output_config": {"effort": "high"}}),
        (
            "defer_loading",
            "5.5-sonnet",
            {"anthropic_beta": ["tool-search-tool-2025-10-19"], "tools": [{**TOOL, "defer_loading": True}]},
        ),
        (
            "system role",
            "4.8-opus",
            {"anthropic_beta": [SYSTEM_BETA], "messages": [user("x"), {"role": "system", "content": "y"}]},
        ),
        (
            "system role by turn",
            "5.5-haiku",
            {
                "anthropic_beta": ["per-turn-control-2026-07-01"],
                "messages": [user("x"), {"role": "system", "content": [TEXT]}],
            },
        ),
        ("4.6 budget", "4.6-opus", {"thinking": BUDGET}),
        ("4.6 adaptive", "4.6-sonnet", {"thinking": ADAPTIVE}),
        ("4.8 adaptive", "4.8-opus", {"thinking": ADAPTIVE, "temperature": 1}),
        ("4 both", "4-sonnet", {"temperature": 0.5, "top_p": 0.5}),
        ("4.5 top_k", "4.5-opus", {"temperature": 0.5, "top_k": 5}),
        ("consecutive users", "4.5-sonnet", {"messages": [user("x"), user("y")]}),
        ("custom type", "4.5-sonnet", {"tools": [{**TOOL, "type": "custom"}]}),
    ],
)
def test_wire_claude_accepts(tenant: Tenant, case: str, model: str, body: dict[str, Any]) -> None:
    answer = tenant.claude(model, **body)

    assert answer.status_code == 200, (case, answer.text)


ACCEPTED = [
    "claude-code-20250219",
    "context-1m-2025-08-07",
    "interleaved-thinking-2025-05-14",
    "context-management-2025-06-27",
    "effort-2025-11-24",
    SYSTEM_BETA,
    "afk-mode-2026-01-31",
    "fine-grained-tool-streaming-2025-05-14",
    "tool-search-tool-2025-10-19",
]
REFUSED = [
    "prompt-caching-2024-07-31",
    "prompt-caching-scope-2026-01-05",
    "extended-cache-ttl-2025-04-11",
    "redact-thinking-2026-02-12",
    "structured-outputs-2025-12-15",
    "mcp-servers-2025-12-04",
    "skills-2025-10-02",
    "files-api-2025-04-14",
    "message-batches-2024-09-24",
    "managed-agents-2026-04-01",
    "code-execution-2025-05-22",
    "fast-mode-2026-02-01",
    "output-300k-2026-03-24",
    "user-profiles-2026-03-24",
    "advisor-tool-2026-03-01",
    "cache-diagnosis-2026-04-07",
    "thinking-token-count-2026-05-13",
    "server-side-fallback-2026-06-01",
    "fallback-credit-2026-06-01",
    "advanced-tool-use-2025-11-20",
    "never-heard-of-2030-01-01",
]


def test_wire_claude_beta_flags(tenant: Tenant, simulator: Running) -> None:
    assert tenant.claude("4.8-opus", anthropic_beta=ACCEPTED).status_code == 200
    for flag in REFUSED:
        answer = tenant.claude("4.8-opus", anthropic_beta=["claude-code-20250219", flag])
        assert answer.status_code == 400, flag
        assert answer.json() == {
            "type": "error",
            "error": {"type": "invalid_request_error", "message": "invalid beta flag"},
        }
    assert message(tenant.claude("4.5-sonnet", anthropic_beta=[SYSTEM_BETA])) == "invalid beta flag", (
        "acceptance is per model"
    )

    simulator.switch(beta_envelope="bare")
    assert tenant.claude("4.8-opus", anthropic_beta=REFUSED).json() == {"message": "invalid beta flag"}


def test_wire_claude_the_beta_header_has_no_effect(tenant: Tenant) -> None:
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 10, "messages": [user("x")]}

    answer = tenant.post("anthropic--claude-4.5-sonnet", "invoke", body, anthropic_beta="never-heard-of")
    assert answer.status_code == 200
    effort = {**body, "output_config": {"effort": "low"}}
    assert (
        tenant.post("anthropic--claude-4.8-opus", "invoke", effort, anthropic_beta="effort-2025-11-24").status_code
        == 400
    )


def test_wire_claude_content_type_is_not_required(tenant: Tenant) -> None:
    body = {"anthropic_version": "bedrock-2023-05-31", "max_tokens": 10, "messages": [user("x")]}

    assert tenant.post("anthropic--claude-4.5-sonnet", "invoke", body, content_type=None).status_code == 200


def test_wire_claude_metadata_is_refused_in_strict_mode(tenant: Tenant, simulator: Running) -> None:
    simulator.switch(strict=True)

    assert (
        message(tenant.claude("4.5-sonnet", metadata={"user_id": "u"}))
        == "role 'system' is not supported on this model"
    )


def test_wire_claude_usage_excludes_what_was_cached(tenant: Tenant) -> None:
    marked = [{"type": "text", "text": "You are terse. " * 100, "cache_control": {"type": "ephemeral", "ttl": "1h"}}]

    plain = tenant.claude("4.5-sonnet", system=marked[0]["text"], said="cached?").json()["usage"]
    first = tenant.claude("4.5-sonnet", system=marked, said="cached?").json()["usage"]
    second = tenant.claude("4.5-sonnet", system=marked, said="cached?").json()["usage"]

    assert plain["cache_creation_input_tokens"] == plain["cache_read_input_tokens"] == 0
    written = first["cache_creation_input_tokens"]
    assert first["cache_creation"] == {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": written}
    assert (second["cache_read_input_tokens"], second["cache_creation_input_tokens"]) == (written, 0)
    assert first["input_tokens"] == second["input_tokens"] == plain["input_tokens"] - written > 0


def test_wire_claude_thinking_has_signatures_that_must_come_back(tenant: Tenant, simulator: Running) -> None:
    body: dict[str, Any] = {"thinking": BUDGET, "tools": [TOOL]}
    first = tenant.claude("4.5-sonnet", said='simulate: {"calls": "auto"}', **body).json()
    thinking, use = first["content"]
    assert thinking["thinking"]
    assert thinking["signature"]

    def go_on(block: dict[str, Any], on: Running | None = None) -> Any:
        result = {"type": "tool_result", "tool_use_id": use["id"], "content": "sunny"}
        said = [user("x"), assistant([block, use]), user([result])]
        return (Tenant(on, "sub-1") if on else tenant).claude("4.5-sonnet", messages=said, **body)

    assert go_on(thinking).status_code == 200
    minted = thinking["signature"]
    wrapped = base64.b64encode(b"marked.gemini." + minted.encode()).decode()
    for wrong in ("Zm9yZWlnbg==", "no base64", f"{minted[:-8]}AAAAAAA=", f"{'A' * 8}{minted[8:]}", wrapped):
        assert "Invalid `signature` in `thinking` block" in message(go_on({**thinking, "signature": wrong}))
    recorded = base64.b64encode(b"minted on another platform").decode()
    assert go_on({**thinking, "signature": recorded}).status_code == 200
    assert "Invalid `signature` in `thinking` block" in message(go_on({**thinking, "thinking": "Something else"}))
    assert "Invalid `data` in `redacted_thinking` block" in message(go_on({"type": "redacted_thinking", "data": "abc"}))
    with in_thread(simple(["anthropic--claude-4.5-sonnet"])) as other:
        assert go_on(thinking, other).status_code == 200, "a signature is good at every Claude, after a restart too"
    simulator.switch(check_signatures=False)
    assert go_on({**thinking, "signature": "anything"}).status_code == 200
    assert go_on({**thinking, "signature": ""}).status_code == 400


def test_wire_claude_streams_thoughts_and_signature(tenant: Tenant) -> None:
    frames = events(tenant.claude("4.8-opus", streamed=True, thinking=ADAPTIVE))

    kinds = [frame["delta"]["type"] for frame in frames if frame["type"] == "content_block_delta"]
    assert kinds[0] == "thinking_delta"
    assert kinds[kinds.index("text_delta") - 1] == "signature_delta"
    omitted = events(tenant.claude("4.8-opus", streamed=True, thinking={**ADAPTIVE, "display": "omitted"}))
    assert "thinking_delta" not in [frame.get("delta", {}).get("type") for frame in omitted]


def test_wire_claude_structured_output_and_limits(tenant: Tenant) -> None:
    wanted = {"output_config": {"format": {"type": "json_schema", "schema": SCHEMA}}}
    assert json.loads(tenant.claude("4.5-sonnet", **wanted).json()["content"][0]["text"]) == {"city": "Berlin"}

    short = tenant.claude("4.5-sonnet", max_tokens=3).json()
    assert (short["stop_reason"], short["usage"]["output_tokens"]) == ("max_tokens", 3)
    stopped = tenant.claude("4.5-sonnet", stop_sequences=["simulated"]).json()
    assert (stopped["stop_reason"], stopped["stop_sequence"]) == ("stop_sequence", "simulated")


def test_wire_claude_errors_inside_a_stream(tenant: Tenant) -> None:
    frames = events(tenant.claude("4.5-sonnet", streamed=True, said='simulate: {"error_after": 1, "status": 529}'))

    assert frames[-1]["type"] == "error"
    assert frames[-1]["error"]["type"] == "overloaded_error"
    assert [frame["type"] for frame in frames].count("content_block_delta") == 1


def test_wire_claude_images_and_documents(tenant: Tenant) -> None:
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    pdf = {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "aGk="}}

    assert tenant.claude("4.5-sonnet", messages=[user([image, pdf, TEXT])]).json()["usage"]["input_tokens"] > 3_000
    wrong = {"type": "image", "source": {**image["source"], "media_type": "image/tiff"}}  # type: ignore[dict-item]
    assert "media_type" in message(tenant.claude("4.5-sonnet", messages=[user([wrong])]))


def test_wire_claude_context_and_filter_errors(tenant: Tenant) -> None:
    assert "prompt is too long" in message(tenant.claude("4.5-sonnet", said='simulate: {"refuse": "context_length"}'))
    assert "content filtering" in message(tenant.claude("4.5-sonnet", said='simulate: {"refuse": "content_filter"}'))


def test_new_claude_models_are_known_by_their_version() -> None:
    with in_thread(simple(["anthropic--claude-7.2-epic"])) as simulator:
        tenant = Tenant(simulator, "sub-1")

        assert tenant.claude("7.2-epic").json()["model"] == "claude-epic-7-2"
        assert "adaptive" in message(tenant.claude("7.2-epic", thinking=BUDGET))
