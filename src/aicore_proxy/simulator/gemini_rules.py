"""What Gemini on Vertex refuses (SAP AI Core wire facts, section 5; Google's field names and wordings)."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import Setting, encode, objects

STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
MOST_CANDIDATES = 8

_BODY = frozenset(
    {
        "contents",
        "systemInstruction",
        "generationConfig",
        "safetySettings",
        "tools",
        "toolConfig",
        "labels",
        "cachedContent",
        "model",
    }
)
_CONFIG = frozenset(
    {
        "temperature",
        "topP",
        "topK",
        "candidateCount",
        "maxOutputTokens",
        "stopSequences",
        "presencePenalty",
        "frequencyPenalty",
        "responseMimeType",
        "responseSchema",
        "responseJsonSchema",
        "responseModalities",
        "thinkingConfig",
        "seed",
        "responseLogprobs",
        "logprobs",
        "audioTimestamp",
        "mediaResolution",
        "routingConfig",
        "modelConfig",
        "speechConfig",
        "imageConfig",
        "enableEnhancedCivicAnswers",
    }
)
_PART = frozenset(
    {
        "text",
        "thought",
        "thoughtSignature",
        "inlineData",
        "fileData",
        "functionCall",
        "functionResponse",
        "executableCode",
        "codeExecutionResult",
        "videoMetadata",
        "mediaResolution",
    }
)
_CALL = frozenset({"name", "args", "id", "partialArgs", "willContinue"})
_RESPONSE = frozenset({"name", "response", "parts", "willContinue", "scheduling"})
_DECLARATION = frozenset(
    {"name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema", "behavior"}
)
_TOOL = frozenset(
    {
        "functionDeclarations",
        "googleSearch",
        "googleSearchRetrieval",
        "codeExecution",
        "urlContext",
        "retrieval",
        "enterpriseWebSearch",
        "googleMaps",
        "computerUse",
    }
)
_SCHEMA = frozenset(
    {
        "type",
        "format",
        "title",
        "description",
        "nullable",
        "enum",
        "items",
        "maxItems",
        "minItems",
        "properties",
        "required",
        "minProperties",
        "maxProperties",
        "minimum",
        "maximum",
        "minLength",
        "maxLength",
        "pattern",
        "example",
        "anyOf",
        "propertyOrdering",
        "default",
    }
)
_TYPES = frozenset({"STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL", "TYPE_UNSPECIFIED"})
_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_.:-]{0,63}")
SKIP_SIGNATURES = ("skip_thought_signature_validator", "context_engineering_is_the_way_to_go")


def error(status: int, message: str, code: str = "") -> Refusal:
    """Google's error body."""
    inner: dict[str, Any] = {"code": status, "message": message, "status": code or STATUSES.get(status, "UNKNOWN")}
    return Refusal(status, encode({"error": inner}))


def get(value: Any, name: str) -> Any:
    """A member by its camelCase or snake_case name; None of what is no object."""
    if not isinstance(value, Mapping):
        return None
    return value[name] if name in value else value.get(_snake(name))


def as_list(value: Any) -> Any:
    """Where Google's proto has a list, one object is taken too."""
    return [value] if isinstance(value, Mapping) else value


def _snake(name: str) -> str:
    return re.sub(r"[A-Z]", lambda found: "_" + found.group().lower(), name)


def _camel(name: str) -> str:
    return re.sub(r"_([a-z])", lambda found: found.group(1).upper(), name)


class Rules:
    """The check of one request body. Raises Refusal."""

    def __init__(self, body: Mapping[str, Any], setting: Setting) -> None:
        self._body = body
        self._switches = setting.switches
        self._signer = setting.signer
        self._family = setting.deployment.family
        self._model = setting.deployment.model
        self._names: list[str] = []

    def check(self) -> None:
        _known(self._body, _BODY, "")
        self._check_config()
        self._check_tools()
        self._check_contents()

    def _check_config(self) -> None:
        config = get(self._body, "generationConfig")
        if config is None:
            return
        if not isinstance(config, Mapping):
            raise _invalid("generation_config", config)
        _known(config, _CONFIG, "generation_config")
        for name in ("temperature", "topP", "topK", "maxOutputTokens", "candidateCount"):
            value = get(config, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise _invalid(f"generation_config.{_snake(name)}", value)
        temperature = get(config, "temperature")
        if temperature is not None and not 0 <= temperature <= 2:
            raise error(
                400,
                f"Unable to submit request because it has a temperature value of {temperature} but the "
                "supported range is from 0 (inclusive) to 2.0001 (exclusive). Update the value and try "
                "again.",
            )
        count = get(config, "candidateCount")
        if count is not None and not 1 <= count <= MOST_CANDIDATES:
            raise error(
                400,
                f"Unable to submit request because it has a candidateCount value of {count} but the supported range is "
                f"from 1 (inclusive) to {MOST_CANDIDATES + 1} (exclusive). Update the value and try again.",
            )
        limit = get(config, "maxOutputTokens")
        if limit is not None and limit < 1:
            raise error(
                400,
                f"Unable to submit request because it has a maxOutputTokens value of {limit} but the "
                "supported range is from 1 (inclusive) to 65537 (exclusive). Update the value and try "
                "again.",
            )
        stops = get(config, "stopSequences") or []
        if not isinstance(stops, list) or not all(isinstance(text, str) for text in stops):
            raise _invalid("generation_config.stop_sequences", stops)
        if len(stops) > 5:
            raise error(400, "The number of stop sequences must not be over 5.")
        self._check_thinking(get(config, "thinkingConfig"))
        if get(config, "responseSchema") is not None:
            _check_schema(get(config, "responseSchema"), "generation_config.response_schema")
        wants_json = get(config, "responseMimeType") == "application/json"
        if (get(config, "responseSchema") or get(config, "responseJsonSchema")) and not wants_json:
            raise error(400, "responseSchema is only supported with the response mime type: 'application/json'.")
        if get(config, "responseSchema") and get(config, "responseJsonSchema"):
            raise error(400, "Only one of response_schema and response_json_schema may be set.")
        declared = any(get(tool, "functionDeclarations") for tool in objects(as_list(self._body.get("tools"))))
        if wants_json and declared and self._family.version < (3, 0):
            raise error(400, "Function calling with a response mime type: 'application/json' is unsupported")

    def _check_thinking(self, thinking: Any) -> None:
        if thinking is None:
            return
        if self._switches.strict or not self._family.reasons:
            raise error(400, "Unable to submit request because thinking is not supported by this model.")
        if not isinstance(thinking, Mapping):
            raise _invalid("generation_config.thinking_config", thinking)
        _known(
            thinking,
            frozenset({"thinkingBudget", "includeThoughts", "thinkingLevel"}),
            "generation_config.thinking_config",
        )
        budget, level = get(thinking, "thinkingBudget"), get(thinking, "thinkingLevel")
        if budget is not None and (isinstance(budget, bool) or not isinstance(budget, int)):
            raise _invalid("generation_config.thinking_config.thinking_budget", budget)
        if budget is not None and level is not None:
            raise error(400, "You can only set only one of thinking budget and thinking level.")
        if level is not None and self._family.version < (3, 0):
            raise error(400, "Thinking level is not supported for this model.")
        if budget == 0 and "-pro" in self._model:
            raise error(400, "Budget 0 is invalid. This model only works in thinking mode.")

    # --- tools

    def _check_tools(self) -> None:
        tools = as_list(self._body.get("tools"))
        if tools is not None and not isinstance(tools, list):
            raise _invalid("tools", tools)
        for number, tool in enumerate(tools or []):
            if not isinstance(tool, Mapping):
                raise _invalid(f"tools[{number}]", tool)
            _known(tool, _TOOL, f"tools[{number}]")
            for position, declared in enumerate(get(tool, "functionDeclarations") or []):
                self._check_declaration(declared, f"tools[{number}].function_declarations[{position}]")
        config = get(self._body, "toolConfig")
        calling = get(config, "functionCallingConfig") if isinstance(config, Mapping) else None
        if not isinstance(calling, Mapping):
            return
        mode = str(calling.get("mode") or "AUTO").upper()
        allowed = get(calling, "allowedFunctionNames") or []
        if mode not in ("AUTO", "ANY", "NONE", "VALIDATED", "MODE_UNSPECIFIED"):
            raise _invalid("tool_config.function_calling_config.mode", mode)
        if mode == "ANY" and not self._names:
            raise error(400, "Function calling config is set without function_declarations.")
        if allowed and mode not in ("ANY", "VALIDATED"):
            raise error(400, "allowed_function_names should only be set when the function calling mode is ANY.")
        for name in allowed:
            if name not in self._names:
                raise error(400, f"allowed_function_names contains {name}, which is not a declared function.")

    def _check_declaration(self, declared: Any, where: str) -> None:
        if not isinstance(declared, Mapping):
            raise _invalid(where, declared)
        _known(declared, _DECLARATION, where)
        name = declared.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise error(
                400,
                f"Invalid function name: {name}. Must start with a letter or an underscore. Must be "
                "alphameric (a-z, A-Z, 0-9), underscores (_), dots (.), colons (:) or dashes (-), with a "
                "maximum length of 64.",
            )
        if name in self._names:
            raise error(400, f"Duplicate function declaration found: {name}")
        self._names.append(name)
        if declared.get("parameters") is not None and get(declared, "parametersJsonSchema") is not None:
            raise error(400, f"{where}: only one of parameters and parameters_json_schema may be set.")
        if declared.get("parameters") is not None:
            _check_schema(declared["parameters"], f"{where}.parameters")

    # --- contents

    def _check_contents(self) -> None:
        contents = as_list(self._body.get("contents"))
        if not isinstance(contents, list) or not contents:
            raise error(400, "Unable to submit request because at least one contents field is required.")
        system = get(self._body, "systemInstruction")
        if system is not None and not isinstance(system, Mapping):
            raise _invalid("system_instruction", system)
        calls = results = 0
        for number, content in enumerate(contents):
            role = content.get("role", "user") if isinstance(content, Mapping) else None
            if not isinstance(content, Mapping) or role not in ("user", "model", "function"):
                raise error(400, "Please use a valid role: user, model.")
            _known(content, frozenset({"role", "parts"}), f"contents[{number}]")
            parts = as_list(content.get("parts"))
            if not isinstance(parts, list) or not parts:
                raise error(
                    400,
                    "Unable to submit request because it must have at least one parts field, which describes "
                    "the prompt input.",
                )
            for position, part in enumerate(parts):
                self._check_part(part, f"contents[{number}].parts[{position}]")
            if role == "model":
                _check_counts(calls, results)
                calls, results = sum(1 for part in parts if get(part, "functionCall")), 0
            else:
                results += sum(1 for part in parts if get(part, "functionResponse"))
        _check_counts(calls, results)
        if self._family.version >= (3, 0):
            self._check_signatures(contents)

    def _check_part(self, part: Any, where: str) -> None:
        if not isinstance(part, Mapping):
            raise _invalid(where, part)
        _known(part, _PART, where)
        for name, known in (("functionCall", _CALL), ("functionResponse", _RESPONSE)):
            inner = get(part, name)
            if inner is not None:
                if not isinstance(inner, Mapping) or not isinstance(inner.get("name"), str):
                    raise error(400, f"{where}.{_snake(name)}.name: must not be empty.")
                _known(inner, known, f"{where}.{_snake(name)}")
        for name in ("functionCall.args", "functionResponse.response"):
            outer, _, member = name.partition(".")
            value = (get(part, outer) or {}).get(member)
            if value is not None and not isinstance(value, Mapping):
                raise _invalid(f"{where}.{_snake(outer)}.{member}", value)
        if "text" in part and not isinstance(part["text"], str):
            raise _invalid(f"{where}.text", part["text"])
        if part.get("text") == "" and get(part, "thoughtSignature") is None:
            raise error(
                400,
                "Unable to submit request because it has an empty text parameter. Add a value to the "
                "parameter and try again.",
            )
        data = get(part, "inlineData")
        if data is not None and not (isinstance(data, Mapping) and get(data, "mimeType") and data.get("data")):
            raise error(
                400, "Unable to submit request because it has an inline_data parameter without mime_type or data."
            )
        signature = get(part, "thoughtSignature")
        if signature is not None and not self._signed(signature):
            raise error(400, "Thought signature is not valid.")

    def _signed(self, signature: Any) -> bool:
        return self._signer.valid("gemini", "", signature) or _skips(signature)

    def _check_signatures(self, contents: list[Mapping[str, Any]]) -> None:
        """In the current turn the first call of every step must carry its signature."""
        start = max((n for n, content in enumerate(contents) if _begins(content)), default=-1)
        for number in range(start + 1, len(contents)):
            if contents[number].get("role") != "model":
                continue
            calls = [part for part in objects(as_list(contents[number].get("parts"))) if get(part, "functionCall")]
            if calls and get(calls[0], "thoughtSignature") is None:
                name = get(calls[0], "functionCall")["name"]
                raise error(
                    400,
                    "Function call is missing a thought_signature in functionCall parts. This is required for "
                    "tools to work correctly, and missing thought_signature may lead to degraded model "
                    f"performance. Additional data, function call `default_api:{name}` , position {number + 1}.",
                )


def _begins(content: Mapping[str, Any]) -> bool:
    """Whether this begins a turn: what a user says, not a function's result."""
    parts = objects(as_list(content.get("parts")))
    return content.get("role", "user") == "user" and any(not get(part, "functionResponse") for part in parts)


def _skips(signature: Any) -> bool:
    if signature in SKIP_SIGNATURES:
        return True
    try:
        return base64.b64decode(str(signature), validate=True).decode() in SKIP_SIGNATURES
    except (binascii.Error, ValueError):
        return False


def _check_counts(calls: int, results: int) -> None:
    if calls != results:
        raise error(
            400,
            "Please ensure that the number of function response parts is equal to the number of "
            "function call parts of the function call turn.",
        )


def _check_schema(schema: Any, where: str) -> None:
    """Google's Schema proto, which is not JSON Schema."""
    if not isinstance(schema, Mapping):
        raise _invalid(where, schema)
    _known(schema, _SCHEMA, where)
    kind = schema.get("type")
    if isinstance(kind, list):
        raise error(
            400,
            f"Invalid JSON payload received. Unknown name \"type\" at '{where}': Proto field is not "
            "repeating, cannot start list.",
        )
    if kind is not None and str(kind).upper() not in _TYPES:
        raise _invalid(f"{where}.type", kind)
    for number, value in enumerate(schema.get("enum") or []):
        if not isinstance(value, str):
            raise error(400, f"Invalid value at '{where}.enum[{number}]' (TYPE_STRING), {value}")
    if str(kind).upper() == "ARRAY" and "items" not in schema:
        raise error(400, f"{where}.items: missing field.")
    for name, inner in (schema.get("properties") or {}).items():
        _check_schema(inner, f"{where}.properties[{name}]")
    if "items" in schema:
        _check_schema(schema["items"], f"{where}.items")
    for number, inner in enumerate(get(schema, "anyOf") or []):
        _check_schema(inner, f"{where}.any_of[{number}]")


def _known(value: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    for name in value:
        if _camel(name) not in known:
            place = f" at '{where}'" if where else ""
            raise error(400, f'Invalid JSON payload received. Unknown name "{name}"{place}: Cannot find field.')


def _invalid(where: str, value: Any) -> Refusal:
    return error(400, f"Invalid value at '{where}', {str(value)[:100]}")
