"""What Claude on Bedrock refuses, by the model's version (SAP AI Core wire facts, section 4.3).

A version above 4.8 behaves like 4.8.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import Setting, encode

# Beta flag -> first version that takes it. All others are refused.
BETAS = {
    "claude-code-20250219": (3, 0),
    "interleaved-thinking-2025-05-14": (3, 0),
    "context-1m-2025-08-07": (4, 0),
    "context-management-2025-06-27": (4, 0),
    "fine-grained-tool-streaming-2025-05-14": (3, 0),
    "effort-2025-11-24": (4, 5),
    "tool-search-tool-2025-10-19": (4, 5),
    "afk-mode-2026-01-31": (4, 5),
    "mid-conversation-system-2026-04-07": (4, 8),
    "per-turn-control-2026-07-01": (4, 8),
}
SYSTEM_BETAS = frozenset({"mid-conversation-system-2026-04-07", "per-turn-control-2026-07-01"})
NO_SYSTEM = "role 'system' is not supported on this model"
_KNOWN = frozenset(
    {
        "anthropic_version",
        "anthropic_beta",
        "max_tokens",
        "messages",
        "system",
        "temperature",
        "top_p",
        "top_k",
        "tools",
        "tool_choice",
        "stop_sequences",
        "thinking",
        "output_config",
        "context_management",
        "metadata",
    }
)
_BLOCK_KEYS = {
    "text": {"text", "citations"},
    "image": {"source"},
    "document": {"source", "title", "context", "citations"},
    "search_result": {"source", "title", "content", "citations"},
    "tool_use": {"id", "name", "input"},
    "tool_result": {"tool_use_id", "content", "is_error"},
    "tool_reference": {"tool_name"},
    "thinking": {"thinking", "signature"},
    "redacted_thinking": {"data"},
}
_PLACES = {
    "user": {"text", "image", "document", "search_result", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
    "system": {"text"},
}
_RESULT = {"text", "image", "document", "search_result"}
_TOOL_KEYS = {"name", "description", "input_schema", "type", "cache_control"}
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_ID = re.compile(r"[a-zA-Z0-9_-]+")
CACHE_MARKS = 4


class Rules:
    """The check of one request body. Raises Refusal with what the real one says."""

    def __init__(self, body: Mapping[str, Any], setting: Setting) -> None:
        self._body = body
        self._switches = setting.switches
        self._signer = setting.signer
        self._version = setting.deployment.family.version
        given = body.get("anthropic_beta")
        self._betas = [str(flag) for flag in given] if isinstance(given, list) else []
        self._marks = 0

    def check(self) -> None:
        """All of it."""
        self.check_settings()
        self._check_tools()
        self._check_system()
        self._check_messages()
        if self._marks > CACHE_MARKS:
            raise _error(f"A maximum of {CACHE_MARKS} blocks with cache_control may be provided. Found {self._marks}.")

    def check_settings(self) -> None:
        """All but tools, system and messages."""
        self._check_members()
        self._check_betas()
        self._check_limits()
        self._check_thinking()
        self._check_sampling()
        self._check_output_config()

    # --- the top level

    def _check_members(self) -> None:
        body = self._body
        for name in body:
            if name not in _KNOWN or (name == "context_management" and not self._has("context-management-2025-06-27")):
                raise _error(f"{name}: Extra inputs are not permitted")
        if "metadata" in body and self._switches.strict:
            raise _error(NO_SYSTEM)  # The misleading text is the recorded one.
        for name in ("anthropic_version", "max_tokens", "messages"):
            if body.get(name) is None:
                raise _error(f"{name}: Field required")
        if body["anthropic_version"] != "bedrock-2023-05-31":
            raise _error("anthropic_version: Input should be 'bedrock-2023-05-31'")
        if body.get("anthropic_beta") is not None and not isinstance(body["anthropic_beta"], list):
            raise _error("anthropic_beta: Input should be a valid list")

    def _has(self, *flags: str) -> bool:
        return any(flag in self._betas for flag in flags)

    def _check_betas(self) -> None:
        for flag in self._betas:
            since = BETAS.get(flag)
            if since is None or self._version < since:
                if self._switches.beta_envelope == "bare":
                    raise _error("invalid beta flag")
                inner = {"type": "invalid_request_error", "message": "invalid beta flag"}
                headers = {"x-amzn-errortype": "ValidationException"}
                raise Refusal(400, encode({"type": "error", "error": inner}), headers=headers)

    def _check_limits(self) -> None:
        limit = self._body["max_tokens"]
        if isinstance(limit, bool) or not isinstance(limit, int):
            raise _error("max_tokens: Input should be a valid integer")
        if limit < 1:
            raise _error("max_tokens: Input should be greater than or equal to 1")
        stops = self._body.get("stop_sequences")
        if stops is not None and not (isinstance(stops, list) and all(isinstance(text, str) for text in stops)):
            raise _error("stop_sequences: Input should be a valid list")
        if any(not text.strip() for text in stops or []):
            raise _error("stop_sequences: each stop sequence must contain non-whitespace")

    # --- sampling and thinking

    def _check_sampling(self) -> None:
        body = self._body
        temperature, top_p, top_k = body.get("temperature"), body.get("top_p"), body.get("top_k")
        for name, value in (("temperature", temperature), ("top_p", top_p)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise _error(f"{name}: Input should be a valid number")
        if temperature is not None and temperature > 1:
            raise _error(f"temperature: {temperature:g} is not less or equal to 1.0, please reformat your input")
        if temperature is not None and top_p is not None and self._version >= (4, 5):
            raise _error("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")
        if self._version >= (4, 7):
            refused = {
                "temperature": temperature not in (None, 1),
                "top_p": top_p is not None,
                "top_k": top_k is not None,
            }
            for name, given in refused.items():
                if given:
                    raise _error(f"`{name}` is deprecated for this model.")
        if (body.get("thinking") or {}).get("type") in ("enabled", "adaptive"):
            if temperature not in (None, 1):
                raise _error("`temperature` may only be set to 1 when thinking is enabled.")
            if top_k is not None:
                raise _error("`top_k` must be unset when thinking is enabled.")
            if top_p is not None and top_p < 0.95:
                raise _error("`top_p` must be greater than or equal to 0.95 or unset when thinking is enabled.")

    def _check_thinking(self) -> None:
        thinking = self._body.get("thinking")
        if thinking is None:
            return
        kind = thinking.get("type") if isinstance(thinking, Mapping) else None
        known = {"enabled": {"type", "budget_tokens", "display"}, "adaptive": {"type", "display"}, "disabled": {"type"}}
        if kind not in known:
            raise _error(
                f"thinking: Input tag '{kind}' found using 'type' does not match any of the expected tags: "
                "'adaptive', 'disabled', 'enabled'"
            )
        for name in thinking:
            if name not in known[kind] or (name == "display" and self._version < (4, 6)):
                raise _error(f"thinking.{kind}.{name}: Extra inputs are not permitted")
        if kind == "adaptive" and self._version < (4, 6):
            raise _error("thinking.adaptive: adaptive thinking is not supported on this model")
        if kind == "enabled":
            self._check_budget(thinking.get("budget_tokens"))
        forced = (self._body.get("tool_choice") or {}).get("type") in ("any", "tool")
        if kind != "disabled" and forced:
            raise _error("Thinking may not be enabled when tool_choice forces tool use.")

    def _check_budget(self, budget: Any) -> None:
        if self._version >= (4, 7):
            raise _error(
                '"thinking.type.enabled" is not supported for this model. Use "thinking.type.adaptive" and '
                '"output_config.effort" to control thinking behavior.'
            )
        if self._version < (3, 7):
            raise _error("thinking: Extra inputs are not permitted")
        if isinstance(budget, bool) or not isinstance(budget, int):
            raise _error(
                "thinking.enabled.budget_tokens: Field required"
                if budget is None
                else "thinking.enabled.budget_tokens: Input should be a valid integer"
            )
        if budget < 1024:
            raise _error("thinking.enabled.budget_tokens: Input should be greater than or equal to 1024")
        if budget >= self._body["max_tokens"] and not self._has("interleaved-thinking-2025-05-14"):
            raise _error(
                "`max_tokens` must be greater than `thinking.budget_tokens`. Please consult our "
                "documentation at "
                "https://docs.claude.com/en/docs/build-with-claude/extended-thinking#max-tokens-and-context-window-size"
            )

    def _check_output_config(self) -> None:
        config = self._body.get("output_config")
        if config is None:
            return
        for name in config if isinstance(config, Mapping) else []:
            effort = name == "effort" and self._has("effort-2025-11-24")
            form = name == "format" and self._version >= (4, 5) and not self._switches.strict
            if not (effort or form):
                raise _error(f"output_config.{name}: Extra inputs are not permitted")
        if config.get("effort") not in (None, "low", "medium", "high", "xhigh", "max"):
            raise _error("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
        form = config.get("format")
        if form is not None and not (
            isinstance(form, Mapping) and form.get("type") == "json_schema" and form.get("schema")
        ):
            raise _error("output_config.format: Input should be a json_schema with a schema")

    # --- tools

    def _check_tools(self) -> None:
        offered = self._body.get("tools")
        chosen = self._body.get("tool_choice")
        if offered is not None and not isinstance(offered, list):
            raise _error("tools: Input should be a valid list")
        names: list[str] = []
        for number, tool in enumerate(offered or []):
            self._check_tool(tool, f"tools.{number}")
            if tool["name"] in names:
                raise _error("tools: Tool names must be unique.")
            names.append(tool["name"])
        if chosen is None:
            return
        kind = chosen.get("type") if isinstance(chosen, Mapping) else None
        if kind not in ("auto", "any", "tool", "none"):
            raise _error(
                f"tool_choice: Input tag '{kind}' found using 'type' does not match any of the expected "
                "tags: 'auto', 'any', 'tool', 'none'"
            )
        if not names:
            raise _error("tool_choice: may only be specified while providing tools")
        if kind == "tool" and chosen.get("name") not in names:
            raise _error(f"tool_choice.tool.name: Tool '{chosen.get('name')}' not found in provided tools")

    def _check_tool(self, tool: Any, where: str) -> None:
        if not isinstance(tool, Mapping):
            raise _error(f"{where}: Input should be a valid dictionary")
        if tool.get("type", "custom") not in ("custom", None):
            raise _error(
                f"{where}: Input tag '{tool['type']}' found using 'type' does not match any of the expected "
                "tags: 'custom'"
            )
        where = f"{where}.custom"
        for name in ("name", "input_schema"):
            if tool.get(name) is None:
                raise _error(f"{where}.{name}: Field required")
        allowed = _TOOL_KEYS | ({"defer_loading"} if self._has("tool-search-tool-2025-10-19") else set())
        for name in tool:
            if name not in allowed:
                raise _error(f"{where}.{name}: Extra inputs are not permitted")
        if not isinstance(tool["name"], str) or not _TOOL_NAME.fullmatch(tool["name"]):
            raise _error(f"{where}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
        schema = tool["input_schema"]
        if not isinstance(schema, Mapping) or schema.get("type") != "object":
            raise _error(f"{where}.input_schema.type: Input should be 'object'")
        self._check_mark(tool, where)

    def _check_mark(self, block: Mapping[str, Any], where: str) -> None:
        mark = block.get("cache_control")
        if mark is None:
            return
        self._marks += 1
        if not isinstance(mark, Mapping) or mark.get("type") != "ephemeral":
            raise _error(f"{where}.cache_control: Input should be an object with type 'ephemeral'")
        for name in mark:
            if name not in ("type", "ttl"):
                raise _error(f"{where}.cache_control.ephemeral.{name}: Extra inputs are not permitted")
        if mark.get("ttl") not in (None, "5m", "1h"):
            raise _error(f"{where}.cache_control.ephemeral.ttl: Input should be '5m' or '1h'")

    # --- messages

    def _check_system(self) -> None:
        system = self._body.get("system")
        if system is None or isinstance(system, str):
            return
        if not isinstance(system, list):
            raise _error("system: Input should be a valid list")
        for number, block in enumerate(system):
            if not isinstance(block, Mapping) or block.get("type") != "text":
                raise _error(f"system.{number}: Input should be a text block")
            self._check_block(block, f"system.{number}", {"text"})

    def _check_messages(self) -> None:
        messages = self._body["messages"]
        if not isinstance(messages, list) or not messages:
            raise _error("messages: at least one message is required")
        pending: list[str] = []
        pending_at = 0
        for number, message in enumerate(messages):
            role = message.get("role") if isinstance(message, Mapping) else None
            self._check_role(message, role, number)
            content = message.get("content")
            last = number == len(messages) - 1
            if not content and not (last and role == "assistant"):
                raise _error(
                    f"messages.{number}: all messages must have non-empty content except for the optional final "
                    "assistant message"
                )
            blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
            if not isinstance(blocks, list):
                raise _error(f"messages.{number}.content: Input should be a valid list")
            for position, block in enumerate(blocks):
                self._check_block(block, f"messages.{number}.content.{position}", _PLACES[role or ""])
            if role == "user":
                pending = _answered(blocks, pending, number, pending_at)
            elif role == "assistant":
                _all_answered(pending, pending_at)
                self._check_order(blocks, number, messages)
                pending = [str(block["id"]) for block in blocks if block["type"] == "tool_use"]
                pending_at = number
        _all_answered(pending, pending_at)

    def _check_role(self, message: Any, role: Any, number: int) -> None:
        if role == "system":
            if self._version < (4, 8) or not self._has(*SYSTEM_BETAS):
                raise _error(NO_SYSTEM)
        elif role not in ("user", "assistant"):
            raise _error(f"messages.{number}.role: Input should be 'user' or 'assistant'")
        for name in message:
            if name not in ("role", "content") and not (
                role == "system" and name in ("output_config", "cache_control")
            ):
                raise _error(f"messages.{number}.{name}: Extra inputs are not permitted")
        if number == 0 and role == "assistant":
            raise _error('messages: first message must use the "user" role')

    def _check_order(self, blocks: list[Any], number: int, messages: list[Any]) -> None:
        """With a thinking budget the assistant turn of the current tool loop must begin with its thoughts."""
        if (self._body.get("thinking") or {}).get("type") != "enabled":
            return
        later = [message for message in messages[number + 1 :] if message.get("role") == "assistant"]
        used = any(block["type"] == "tool_use" for block in blocks)
        if not later and used and blocks[0]["type"] not in ("thinking", "redacted_thinking"):
            kind = blocks[0]["type"]
            raise _error(
                f"messages.{number}.content.0.type: Expected `thinking` or `redacted_thinking`, but found "
                f"`{kind}`. When `thinking` is enabled, a final `assistant` message must start with a "
                "thinking block (preceeding the lastmost set of `tool_use` and `tool_result` blocks)."
            )

    def _check_block(self, block: Any, where: str, allowed: set[str]) -> None:
        kind = block.get("type") if isinstance(block, Mapping) else None
        if kind == "tool_reference" and "tool_reference" in allowed and not self._has("tool-search-tool-2025-10-19"):
            allowed = allowed - {"tool_reference"}
        if not isinstance(block, Mapping) or kind not in allowed:
            tags = ", ".join(f"'{name}'" for name in sorted(allowed))
            raise _error(
                f"{where}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}"
            )
        for name in block:
            if name not in _BLOCK_KEYS[kind] and name not in ("type", "cache_control"):
                raise _error(f"{where}.{kind}.{name}: Extra inputs are not permitted")
        self._check_mark(block, f"{where}.{kind}")
        match kind:
            case "text" if not isinstance(block.get("text"), str):
                raise _error(f"{where}.text.text: Field required")
            case "text" if not block["text"].strip():
                raise _error(f"{where.partition('.')[0]}: text content blocks must contain non-whitespace text")
            case "image" | "document":
                _check_source(block, f"{where}.{kind}")
            case "tool_use":
                _check_use(block, f"{where}.tool_use")
            case "tool_result":
                self._check_result(block, where)
            case "thinking" if not self._signer.valid("claude", str(block.get("thinking", "")), block.get("signature")):
                raise _error(f"{where}: Invalid `signature` in `thinking` block")
            case "redacted_thinking" if not self._signer.valid("claude", "", block.get("data")):
                raise _error(f"{where}: Invalid `data` in `redacted_thinking` block")

    def _check_result(self, block: Mapping[str, Any], where: str) -> None:
        if not isinstance(block.get("tool_use_id"), str):
            raise _error(f"{where}.tool_result.tool_use_id: Field required")
        content = block.get("content")
        if content is None or isinstance(content, str):
            return
        if not isinstance(content, list):
            raise _error(f"{where}.tool_result.content: Input should be a valid list")
        for number, inner in enumerate(content):
            self._check_block(inner, f"{where}.tool_result.content.{number}", _RESULT | {"tool_reference"})


def _check_source(block: Mapping[str, Any], where: str) -> None:
    source = block.get("source")
    kind = source.get("type") if isinstance(source, Mapping) else None
    allowed = ("base64", "url") if block["type"] == "image" else ("base64", "url", "text", "content")
    if not isinstance(source, Mapping) or kind not in allowed:
        tags = ", ".join(f"'{name}'" for name in allowed)
        raise _error(
            f"{where}.source: Input tag '{kind}' found using 'type' does not match any of the expected tags: {tags}"
        )
    if kind == "base64":
        media = source.get("media_type")
        images = ("image/jpeg", "image/png", "image/gif", "image/webp")
        good = images if block["type"] == "image" else ("application/pdf",)
        if media not in good:
            names = ", ".join(f"'{name}'" for name in good)
            raise _error(f"{where}.source.base64.media_type: Input should be {names}")
        if not isinstance(source.get("data"), str) or not source["data"]:
            raise _error(f"{where}.source.base64.data: Field required")


def _check_use(block: Mapping[str, Any], where: str) -> None:
    if not isinstance(block.get("id"), str) or not _ID.fullmatch(block["id"]):
        raise _error(f"{where}.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not isinstance(block.get("name"), str) or not 1 <= len(block["name"]) <= 200:
        raise _error(f"{where}.name: String should have at most 200 characters")
    if not isinstance(block.get("input"), Mapping):
        raise _error(f"{where}.input: Input should be a valid dictionary")


def _answered(blocks: list[Any], pending: list[str], number: int, asked_at: int) -> list[str]:
    """The tool uses still open after a user message; its results must come first and belong to the turn before."""
    left = list(pending)
    others = False
    for position, block in enumerate(blocks):
        if block["type"] != "tool_result":
            others = True
            continue
        if block["tool_use_id"] not in left:
            raise _error(
                f"messages.{number}.content.{position}: unexpected `tool_use_id` found in `tool_result` "
                f"blocks: {block['tool_use_id']}. Each `tool_result` block must have a corresponding "
                "`tool_use` block in the previous message."
            )
        if others:
            _all_answered(left, asked_at)
        left.remove(block["tool_use_id"])
    # Several user messages in a row are one turn, but nothing may come between a use and its result.
    if others:
        _all_answered(left, asked_at)
    return left


def _all_answered(pending: list[str], number: int) -> None:
    if pending:
        raise _error(
            f"messages.{number}: `tool_use` ids were found without `tool_result` blocks immediately "
            f"after: {', '.join(pending)}. Each `tool_use` block must have a corresponding "
            "`tool_result` block in the next message."
        )


def _error(message: str) -> Refusal:
    return Refusal(400, encode({"message": message}), headers={"x-amzn-errortype": "ValidationException"})
