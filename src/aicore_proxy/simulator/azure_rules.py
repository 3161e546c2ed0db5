"""What Azure OpenAI's chat completions refuse, and SAP's proxy layer in front of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.simulator import faults
from aicore_proxy.simulator.families import upstream_name
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.landscape import Deployment, Switches
from aicore_proxy.simulator.operation import objects, ordered

_KNOWN = frozenset(
    {
        "messages",
        "model",
        "frequency_penalty",
        "presence_penalty",
        "logit_bias",
        "max_tokens",
        "max_completion_tokens",
        "n",
        "response_format",
        "stop",
        "stream",
        "temperature",
        "top_p",
        "logprobs",
        "top_logprobs",
        "tools",
        "tool_choice",
        "stream_options",
        "seed",
        "reasoning_effort",
        "parallel_tool_calls",
        "user",
        "prediction",
        "functions",
        "function_call",
        "metadata",
        "store",
        "modalities",
        "audio",
        "service_tier",
        "prompt_cache_key",
        "prompt_cache_retention",
        "safety_identifier",
        "verbosity",
        "web_search_options",
        "data_sources",
    }
)
_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PARTS = frozenset({"text", "image_url", "input_audio", "file", "refusal"})
MOST_CHOICES = 128
CALL_ID_LIMIT = 40


def error(
    status_code: int,
    message: str,
    code: str | None,
    param: str | None,
    kind: str | None = "invalid_request_error",
    **extra: Any,
) -> Refusal:
    """Azure's error body."""
    return Refusal(
        status_code, ordered({"error": {"code": code, "message": message, "param": param, "type": kind, **extra}})
    )


def check_chat(body: Mapping[str, Any], deployment: Deployment, switches: Switches) -> None:
    """Raises Refusal."""
    unknown = [name for name in body if name not in _KNOWN]
    if unknown:
        plural = "s" if len(unknown) > 1 else ""
        raise error(400, f"Unrecognized request argument{plural} supplied: {', '.join(unknown)}", None, None)
    _check_tools(body, deployment)
    _check_parameters(body, deployment, switches)
    _check_messages(body.get("messages"))
    _check_format(body)


def _check_parameters(body: Mapping[str, Any], deployment: Deployment, switches: Switches) -> None:
    if deployment.family.reasons and switches.refuse_parameters:
        _check_reasoning_parameters(body)
    if body.get("reasoning_effort") is not None and not deployment.family.reasons:
        raise error(400, "Unrecognized request argument supplied: reasoning_effort", None, None)
    if body.get("reasoning_effort") is not None and body.get("tools") and deployment.family.version > (5, 0):
        name = f"{upstream_name(deployment.model)}-dz-std"
        text = (
            f"Function tools with reasoning_effort are not supported for {name} in "
            "/v1/chat/completions. Please use /v1/responses instead."
        )
        raise error(400, text, None, "reasoning_effort")
    if body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None:
        raise error(
            400,
            "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.",
            "invalid_parameter_combination",
            None,
        )
    _check_decimals(body)
    _check_integers(body)
    _check_stop(body.get("stop"))
    if body.get("stream_options") is not None and body.get("stream") is not True:
        raise error(
            400, "The 'stream_options' parameter is only allowed when 'stream' is enabled.", None, "stream_options"
        )
    if body.get("stream") not in (None, True, False):
        raise error(
            400,
            f"Invalid type for 'stream': expected a boolean, but got {_type(body['stream'])} instead.",
            "invalid_type",
            "stream",
        )


def _check_decimals(body: Mapping[str, Any]) -> None:
    for name, low, high in (
        ("temperature", 0, 2),
        ("top_p", 0, 1),
        ("frequency_penalty", -2, 2),
        ("presence_penalty", -2, 2),
    ):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise error(
                400,
                f"Invalid type for '{name}': expected a decimal, but got {_type(value)} instead.",
                "invalid_type",
                name,
            )
        if not low <= value <= high:
            raise error(
                400,
                f"Invalid '{name}': decimal out of range. Expected a value between {low} and {high}, but "
                f"got {value} instead.",
                "decimal_out_of_range",
                name,
            )


def _check_integers(body: Mapping[str, Any]) -> None:
    for name, most in (("max_tokens", None), ("max_completion_tokens", None), ("n", MOST_CHOICES)):
        value = body.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int):
            raise error(
                400,
                f"Invalid type for '{name}': expected an integer, but got {_type(value)} instead.",
                "invalid_type",
                name,
            )
        if value < 1:
            raise error(
                400,
                f"Invalid '{name}': integer below minimum value. Expected a value >= 1, but got {value} instead.",
                "integer_below_min_value",
                name,
            )
        if most is not None and value > most:
            raise error(
                400,
                f"Invalid '{name}': integer above maximum value. Expected a value <= {most}, but got {value} instead.",
                "integer_above_max_value",
                name,
            )


def _check_stop(stop: Any) -> None:
    if stop is not None and not all(isinstance(text, str) for text in (stop if isinstance(stop, list) else [stop])):
        raise error(400, "Invalid type for 'stop': expected a string or an array of strings.", "invalid_type", "stop")
    if isinstance(stop, list) and len(stop) > 4:
        raise error(
            400,
            "Invalid 'stop': array too long. Expected an array with maximum length 4, but got an array "
            f"with length {len(stop)} instead.",
            "array_above_max_length",
            "stop",
        )


def _check_reasoning_parameters(body: Mapping[str, Any]) -> None:
    if body.get("max_tokens") is not None:
        text = (
            "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' instead."
        )
        raise error(400, text, "unsupported_parameter", "max_tokens")
    if body.get("temperature") not in (None, 1):
        text = (
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this model. "
            "Only the default (1) value is supported."
        )
        raise error(400, text, "unsupported_value", "temperature")
    for name, harmless in (("top_p", (None,)), ("frequency_penalty", (None, 0)), ("presence_penalty", (None, 0))):
        if body.get(name) not in harmless:
            raise error(
                400, f"Unsupported parameter: '{name}' is not supported with this model.", "unsupported_parameter", name
            )


def _check_tools(body: Mapping[str, Any], deployment: Deployment) -> None:
    offered = body.get("tools")
    if offered is None:
        for name in ("tool_choice", "parallel_tool_calls"):
            if body.get(name) is not None:
                raise error(
                    400, f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", None, name
                )
        return
    if not isinstance(offered, list) or not offered:
        raise error(
            400,
            "Invalid 'tools': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "empty_array",
            "tools",
        )
    refused = [str(tool.get("type")) for tool in objects(offered) if tool.get("type") != "function"]
    if refused:
        word, verb = ("tools", "are") if len(refused) > 1 else ("tool", "is")
        names = ", ".join(refused[:-1]) + " and " + refused[-1] if len(refused) > 1 else refused[0]
        raise faults.proxy(400, f"The following {word} {verb} not allowed for model '{deployment.model}': {names}.")
    names_seen: list[str] = []
    for number, tool in enumerate(objects(offered)):
        function = tool.get("function")
        name = str(function.get("name", "")) if isinstance(function, Mapping) else ""
        if not isinstance(function, Mapping) or not name:
            raise error(
                400,
                f"Missing required parameter: 'tools[{number}].function.name'.",
                "missing_required_parameter",
                f"tools[{number}].function.name",
            )
        if not _NAME.fullmatch(name):
            text = (
                f"Invalid 'tools[{number}].function.name': string does not match pattern. Expected a string "
                "that matches the pattern '^[a-zA-Z0-9_-]+$'."
            )
            raise error(400, text, "invalid_value", f"tools[{number}].function.name")
        parameters = function.get("parameters")
        if parameters is not None and not (
            isinstance(parameters, Mapping) and parameters.get("type", "object") == "object"
        ):
            text = f"Invalid schema for function '{name}': schema must be a JSON Schema of 'type: \"object\"'."
            raise error(400, text, "invalid_function_parameters", f"tools[{number}].function.parameters")
        if function.get("strict") is True:
            _check_strict(
                parameters, f"function '{name}'", "invalid_function_parameters", f"tools[{number}].function.parameters"
            )
        names_seen.append(name)
    chosen = body.get("tool_choice")
    if isinstance(chosen, Mapping) and chosen.get("type") == "function":
        wanted = (chosen.get("function") or {}).get("name")
        if wanted not in names_seen:
            raise error(
                400,
                f"Invalid value for 'tool_choice': no function named '{wanted}' was specified in 'tools'.",
                None,
                "tool_choice",
            )


def _check_messages(messages: Any) -> None:
    if messages is None:
        raise error(400, "Missing required parameter: 'messages'.", "missing_required_parameter", "messages")
    if not isinstance(messages, list) or not messages:
        raise error(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            "empty_array",
            "messages",
        )
    pending: list[str] = []
    for number, message in enumerate(messages):
        role = message.get("role") if isinstance(message, Mapping) else None
        if not isinstance(message, Mapping) or role not in _ROLES:
            text = (
                f"Invalid value: '{role}'. Supported values are: 'system', 'assistant', 'user', 'function', "
                "'tool', and 'developer'."
            )
            raise error(400, text, "invalid_value", f"messages[{number}].role")
        if role == "tool":
            if message.get("tool_call_id") not in pending:
                text = (
                    "Invalid parameter: messages with role 'tool' must be a response to a preceeding message "
                    "with 'tool_calls'."
                )
                raise error(400, text, None, f"messages.[{number}].role")
            pending.remove(message["tool_call_id"])
        else:
            _check_answered(pending, number)
        _check_content(message, number)
        if role == "assistant":
            pending = _call_ids(message, number)
    _check_answered(pending, len(messages))


def _check_answered(pending: list[str], number: int) -> None:
    if pending:
        text = (
            "An assistant message with 'tool_calls' must be followed by tool messages responding to "
            "each 'tool_call_id'. The following tool_call_ids did not have response messages: "
            f"{', '.join(pending)}"
        )
        raise error(400, text, None, f"messages.[{number}].role")


def _call_ids(message: Mapping[str, Any], number: int) -> list[str]:
    ids: list[str] = []
    for position, call in enumerate(objects(message.get("tool_calls"))):
        call_id, where = str(call.get("id", "")), f"messages[{number}].tool_calls[{position}]"
        if len(call_id) > CALL_ID_LIMIT:
            text = (
                f"Invalid '{where}.id': string too long. Expected a string with maximum length "
                f"{CALL_ID_LIMIT}, but got a string with length {len(call_id)} instead."
            )
            raise error(400, text, "string_above_max_length", f"{where}.id")
        name = (call.get("function") or {}).get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            text = (
                f"Invalid '{where}.function.name': string does not match pattern. Expected a string that "
                "matches the pattern '^[a-zA-Z0-9_-]+$'."
            )
            raise error(400, text, "invalid_value", f"{where}.function.name")
        ids.append(call_id)
    return ids


def _check_content(message: Mapping[str, Any], number: int) -> None:
    content = message.get("content")
    where = f"messages[{number}].content"
    if content is None:
        if message["role"] == "assistant" and (
            message.get("tool_calls") or message.get("function_call") or message.get("refusal")
        ):
            return
        raise error(400, f"Invalid value for 'content': expected a string, got null. ({where})", None, where)
    if isinstance(content, str):
        return
    if not isinstance(content, list):
        raise error(
            400,
            f"Invalid type for '{where}': expected one of a string or array of objects, but got "
            f"{_type(content)} instead.",
            "invalid_type",
            where,
        )
    for position, part in enumerate(content):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind not in _PARTS:
            text = (
                f"Invalid value: '{kind}'. Supported values are: 'text', 'image_url', 'input_audio', "
                "'refusal', and 'file'."
            )
            raise error(400, text, "invalid_value", f"{where}[{position}]")
        if kind == "image_url" and message["role"] in ("tool", "system", "developer"):
            text = (
                "Image URLs are only allowed for messages with role 'user', but this message with role "
                f"'{message['role']}' contains an image URL."
            )
            raise error(400, text, "invalid_value", f"{where}[{position}]")


def _check_format(body: Mapping[str, Any]) -> None:
    wanted = body.get("response_format")
    if wanted is None:
        return
    kind = wanted.get("type") if isinstance(wanted, Mapping) else None
    if kind == "json_object" and "json" not in ordered(body["messages"]).decode().lower():
        text = "'messages' must contain the word 'json' in some form, to use 'response_format' of type 'json_object'."
        raise error(400, text, None, "messages")
    if kind == "json_schema":
        inner = wanted.get("json_schema")
        name = inner.get("name") if isinstance(inner, Mapping) else None
        if not isinstance(inner, Mapping) or not isinstance(name, str):
            raise error(
                400,
                "Missing required parameter: 'response_format.json_schema.name'.",
                "missing_required_parameter",
                "response_format.json_schema.name",
            )
        if not _NAME.fullmatch(name):
            text = (
                "Invalid 'response_format.json_schema.name': string does not match pattern. Expected a "
                "string that matches the pattern '^[a-zA-Z0-9_-]+$'."
            )
            raise error(400, text, "invalid_value", "response_format.json_schema.name")
        if inner.get("strict") is True:
            _check_strict(inner.get("schema"), f"response_format '{name}'", None, "response_format")
    elif kind not in ("text", "json_object"):
        raise error(
            400,
            f"Invalid value: '{kind}'. Supported values are: 'json_object', 'json_schema', and 'text'.",
            "invalid_value",
            "response_format.type",
        )


def _check_strict(schema: Any, what: str, code: str | None, param: str) -> None:
    if isinstance(schema, list):
        for inner in schema:
            _check_strict(inner, what, code, param)
    if not isinstance(schema, Mapping):
        return
    properties = schema.get("properties")
    if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
        text = (
            f"Invalid schema for {what}: In context=(), 'additionalProperties' is required to be "
            "supplied and to be false."
        )
        raise error(400, text, code, param)
    if isinstance(properties, Mapping):
        missing = [name for name in properties if name not in (schema.get("required") or [])]
        if missing:
            text = (
                f"Invalid schema for {what}: In context=(), 'required' is required to be supplied and to be "
                f"an array including every key in properties. Missing '{missing[0]}'."
            )
            raise error(400, text, code, param)
    for key, inner in schema.items():
        for part in (
            inner.values() if key in ("properties", "$defs", "definitions") and isinstance(inner, Mapping) else [inner]
        ):
            if key in ("properties", "$defs", "definitions", "items", "anyOf", "allOf", "oneOf"):
                _check_strict(part, what, code, param)


def _type(value: Any) -> str:
    names = {
        bool: "a boolean",
        str: "a string",
        int: "an integer",
        float: "a decimal",
        list: "an array",
        dict: "an object",
    }
    return "null" if value is None else names.get(type(value), "another type")
