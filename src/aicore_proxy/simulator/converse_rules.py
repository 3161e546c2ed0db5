"""What Converse refuses (SAP AI Core wire facts, section 4.5; AWS's field names and wordings)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.simulator.claude_rules import Rules
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import Setting, encode, objects

_KNOWN = frozenset(
    {
        "messages",
        "system",
        "inferenceConfig",
        "toolConfig",
        "guardrailConfig",
        "additionalModelRequestFields",
        "additionalModelResponseFieldPaths",
        "promptVariables",
        "requestMetadata",
        "performanceConfig",
    }
)
_NATIVE = frozenset(
    {"schemaVersion", "messages", "system", "inferenceConfig", "toolConfig", "additionalModelRequestFields"}
)
_INFERENCE = frozenset({"maxTokens", "temperature", "topP", "stopSequences"})
_NATIVE_INFERENCE = _INFERENCE | {"topK", "max_new_tokens"}
_BLOCKS = frozenset(
    {
        "text",
        "image",
        "document",
        "video",
        "audio",
        "toolUse",
        "toolResult",
        "guardContent",
        "cachePoint",
        "reasoningContent",
        "citationsContent",
        "searchResult",
    }
)
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


class ConverseRules:
    """The check of one request body. Raises Refusal."""

    def __init__(self, body: Mapping[str, Any], setting: Setting, *, stream: bool, native: bool) -> None:
        self._body = body
        self._setting = setting
        self._stream = stream
        self._native = native

    def check(self) -> None:
        body = self._body
        known = _NATIVE if self._native else _KNOWN
        for name in body:
            if name not in known:
                raise _error(
                    f"Malformed input request: #: extraneous key [{name}] is not permitted, please reformat "
                    "your input and try again."
                )
        self._check_inference()
        names = self._check_tools()
        for number, block in enumerate(objects(body.get("system"))):
            self._check_block(block, f"system.{number}", "system")
        self._check_messages(names)
        if self._setting.deployment.family.vendor == "claude":
            self._check_claude()

    def _check_inference(self) -> None:
        inference = self._body.get("inferenceConfig")
        if inference is None:
            return
        if not isinstance(inference, Mapping):
            raise _error("Invalid type for inferenceConfig")
        for name in inference:
            if name not in (_NATIVE_INFERENCE if self._native else _INFERENCE):
                raise _error(
                    f"Malformed input request: #/inferenceConfig: extraneous key [{name}] is not permitted, "
                    "please reformat your input and try again."
                )
        if inference.get("maxTokens") is not None and inference["maxTokens"] < 1:
            raise _error(
                "Value at 'inferenceConfig.maxTokens' failed to satisfy constraint: Member must have value "
                "greater than or equal to 1"
            )
        temperature = inference.get("temperature")
        if temperature is not None and not 0 <= temperature <= 1:
            raise _error(f"temperature: {temperature:g} is not less or equal to 1.0, please reformat your input")

    def _check_tools(self) -> list[str]:
        config = self._body.get("toolConfig")
        if config is None:
            return []
        tools = objects(config.get("tools"))
        if not tools:
            raise _error("The toolConfig.tools field must hold at least one tool.")
        names: list[str] = []
        for number, tool in enumerate(tools):
            if tool.keys() == {"cachePoint"}:
                continue
            spec = tool.get("toolSpec")
            if tool.keys() != {"toolSpec"} or not isinstance(spec, Mapping):
                raise _error(f"Unknown tool at toolConfig.tools.{number}.")
            if not isinstance(spec.get("name"), str) or not _NAME.fullmatch(spec["name"]):
                raise _error(
                    f"Value at 'toolConfig.tools.{number}.member.toolSpec.name' failed to satisfy constraint: "
                    "Member must satisfy regular expression pattern: [a-zA-Z0-9_-]+"
                )
            schema = (spec.get("inputSchema") or {}).get("json")
            if not isinstance(schema, Mapping) or schema.get("type") != "object":
                raise _error(
                    f"The value at toolConfig.tools.{number}.toolSpec.inputSchema.json.type must be one of the "
                    "following: object."
                )
            names.append(spec["name"])
        chosen = config.get("toolChoice")
        if chosen is not None and (len(chosen) != 1 or not chosen.keys() <= {"auto", "any", "tool"}):
            raise _error("toolConfig.toolChoice must hold exactly one of auto, any and tool.")
        if chosen is not None and "tool" in chosen and chosen["tool"].get("name") not in names:
            raise _error(f"The tool {chosen['tool'].get('name')} of toolChoice is not in toolConfig.tools.")
        return names

    def _check_messages(self, names: list[str]) -> None:
        messages = self._body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise _error("A conversation must have at least one message.")
        pending: list[str] = []
        for number, message in enumerate(messages):
            role = message.get("role") if isinstance(message, Mapping) else None
            if role not in ("user", "assistant"):
                raise _error(
                    f"Value '{role}' at 'messages.{number}.member.role' failed to satisfy constraint: Member "
                    "must satisfy enum value set: [user, assistant]"
                )
            if number == 0 and role != "user":
                raise _error(
                    "A conversation must start with a user message. Try again with a conversation that starts "
                    "with a user message."
                )
            content = message.get("content")
            if not isinstance(content, list) or not content:
                raise _error(
                    f"The content field in the Message object at messages.{number} is empty. Add a ContentBlock "
                    "object to the content field and try again."
                )
            for position, block in enumerate(content):
                self._check_block(block, f"messages.{number}.content.{position}", role)
            uses = [block["toolUse"].get("toolUseId") for block in content if "toolUse" in block]
            results = [block["toolResult"].get("toolUseId") for block in content if "toolResult" in block]
            if (uses or results) and not names:
                raise _error("The toolConfig field must be defined when using toolUse and toolResult content blocks.")
            if sorted(map(str, results)) != sorted(map(str, pending)):
                if len(results) > len(pending):
                    raise _error(
                        f"The number of toolResult blocks at messages.{number}.content exceeds the number of "
                        "toolUse blocks of previous turn."
                    )
                raise _error(
                    f"Expected toolResult blocks at messages.{number}.content for the following Ids: "
                    f"{', '.join(map(str, pending))}"
                )
            pending = uses

    def _check_block(self, block: Any, where: str, role: str) -> None:
        if not isinstance(block, Mapping) or len(block) != 1 or not block.keys() <= _BLOCKS:
            # On the stream path this was met with an empty object (section 4.5).
            if self._stream:
                raise Refusal(400, b"{}", headers={"x-amzn-errortype": "ValidationException"})
            raise _error(
                f"Malformed input request: the ContentBlock at {where} must hold exactly one known member, "
                "please reformat your input and try again."
            )
        if "text" in block and (not isinstance(block["text"], str) or not block["text"].strip()):
            raise _error(
                f"The text field in the ContentBlock object at {where} is blank. Add text to the text "
                "field, and try again."
            )
        if "reasoningContent" in block and self._setting.deployment.family.vendor == "claude":
            inner = block["reasoningContent"].get("reasoningText")
            if inner is not None and not self._setting.signer.valid(
                "claude", str(inner.get("text", "")), inner.get("signature")
            ):
                raise _error(f"{where}: Invalid `signature` in `thinking` block")
        if "image" in block:
            source = block["image"].get("source") or {}
            if block["image"].get("format") not in ("png", "jpeg", "gif", "webp") or not source.keys() & {
                "bytes",
                "s3Location",
            }:
                raise _error(f"The image at {where} needs a format (png, jpeg, gif, webp) and a source.")

    def _check_claude(self) -> None:
        """Thinking, sampling and betas are Claude's own rules, whichever way they come."""
        inference = self._body.get("inferenceConfig") or {}
        extra = dict(self._body.get("additionalModelRequestFields") or {})
        chosen = (self._body.get("toolConfig") or {}).get("toolChoice") or {}
        anthropic = {
            **extra,
            "anthropic_version": "bedrock-2023-05-31",
            "max_tokens": inference.get("maxTokens") or 4096,
            "messages": [],
            **{
                theirs: inference[ours]
                for ours, theirs in (("temperature", "temperature"), ("topP", "top_p"))
                if ours in inference
            },
        }
        if chosen:
            anthropic["tool_choice"] = {"type": next(iter(chosen))}
        Rules(anthropic, self._setting).check_settings()


def _error(message: str) -> Refusal:
    return Refusal(400, encode({"message": message}), headers={"x-amzn-errortype": "ValidationException"})
