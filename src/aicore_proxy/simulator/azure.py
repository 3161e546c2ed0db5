"""Azure OpenAI chat completions as SAP serves them (SAP AI Core wire facts, section 3)."""

from __future__ import annotations

import base64
import re
import struct
from collections.abc import Iterator, Mapping
from typing import Any

from aicore_proxy.simulator.answers import Answer, Block, Prompt, ToolSpec, joined, pieces, tokens, whole
from aicore_proxy.simulator.azure_rules import check_chat, error
from aicore_proxy.simulator.families import dimensions, upstream_name
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import SSE, Frame, Setting, objects, ordered, seconds, sse

SAFE = {name: {"filtered": False, "severity": "safe"} for name in ("hate", "self_harm", "sexual", "violence")}
_FINISH = {"stop": "stop", "stop_sequence": "stop", "length": "length", "calls": "tool_calls",
           "content_filter": "content_filter", "refusal": "stop"}  # fmt: skip
_THROTTLED = "exceeded token rate limit"
IMAGE_TOKENS = 765


class Chat:
    """One ``POST /chat/completions``."""

    stream_type = SSE

    def __init__(self, body: Mapping[str, Any], setting: Setting) -> None:
        self._body = body
        self._setting = setting
        self._legacy = "functions" in body and "tools" not in body
        self._base = {
            "created": seconds(),
            "id": f"chatcmpl-{setting.serial(29)}",
            "model": upstream_name(setting.deployment.model),
            "system_fingerprint": "fp_5d3a1c7e90",
        }
        self.prompt = Prompt(setting.deployment.model, body.get("stream") is True)

    def last_user(self) -> str:
        users = [message for message in objects(self._body.get("messages")) if message.get("role") == "user"]
        return text_of(users[-1].get("content")) if users else ""

    def check(self) -> None:
        body = self._body
        check_chat(body, self._setting.deployment, self._setting.switches)
        self.prompt = prompt = Prompt(self._setting.deployment.model, body.get("stream") is True, self.last_user())
        prompt.results = _results(body["messages"])
        prompt.tools = [
            ToolSpec(str(f.get("name")), f.get("parameters") or {"type": "object"})
            for f in (body["functions"] if self._legacy else [tool["function"] for tool in body.get("tools") or []])
        ]
        prompt.choice = _choice(body.get("function_call" if self._legacy else "tool_choice"))
        chosen = body.get("tool_choice")
        if isinstance(chosen, dict) and chosen.get("type") == "allowed_tools":
            _allow(prompt, chosen)
        prompt.schema = _schema(body.get("response_format"))
        prompt.thinking = self._setting.deployment.family.reasons and body.get("reasoning_effort") not in (
            "none",
            "minimal",
        )
        prompt.max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
        stop = body.get("stop")
        prompt.stop = [stop] if isinstance(stop, str) else list(stop or [])
        prompt.input_tokens = _input_tokens(body)
        prompt.candidates = body.get("n") or 1
        prompt.include_usage = (body.get("stream_options") or {}).get("include_usage") is True

    def reveals_reasoning(self) -> bool:
        return False

    # --- whole

    def whole(self, answer: Answer) -> bytes:
        message: dict[str, Any] = {"content": None, "refusal": None, "role": "assistant"}
        texts = [whole(block) for block in answer.blocks if block.kind == "text"]
        message["content"] = "".join(texts) if texts else None
        calls = [block for block in answer.blocks if block.kind == "call"]
        if not texts and not calls:
            message["content"] = ""
        if answer.finish == "refusal":
            message["content"], message["refusal"] = None, "".join(texts) or "I can't help with that."
        if calls and self._legacy:
            message["function_call"] = {"arguments": calls[0].text, "name": calls[0].name}
        elif calls:
            message["tool_calls"] = [self._call(block) for block in calls]
        choices = [
            {
                "content_filter_results": {} if calls and not texts else SAFE,
                "finish_reason": self._finish(answer),
                "index": index,
                "logprobs": self._logprobs(message["content"]),
                "message": message,
            }
            for index in range(self.prompt.candidates)
        ]
        value = {
            **self._base,
            "choices": choices,
            "object": "chat.completion",
            "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}],
        }
        if answer.usage:
            value["usage"] = self._usage(answer)
        return ordered(value)

    def _call(self, block: Block) -> dict[str, Any]:
        return {
            "function": {"arguments": block.text, "name": block.name},
            "id": block.id or f"call_{self._setting.serial(24)}",
            "type": "function",
        }

    def _finish(self, answer: Answer) -> str:
        return "function_call" if answer.finish == "calls" and self._legacy else _FINISH[answer.finish]

    def _logprobs(self, text: Any) -> dict[str, Any] | None:
        if not self._body.get("logprobs") or not isinstance(text, str):
            return None
        return {
            "content": [
                {"bytes": list(part.encode()), "logprob": -0.01, "token": part, "top_logprobs": []}
                for part in re.findall(r"\s*\S+", text)
            ],
            "refusal": None,
        }

    def _usage(self, answer: Answer) -> dict[str, Any]:
        output = answer.output_tokens * self.prompt.candidates
        usage: dict[str, Any] = {
            "completion_tokens": output,
            "prompt_tokens": self.prompt.input_tokens,
            "total_tokens": self.prompt.input_tokens + output,
        }
        if self._setting.deployment.model != "gpt-4o":
            usage["completion_tokens_details"] = {
                "accepted_prediction_tokens": 0,
                "audio_tokens": 0,
                "reasoning_tokens": answer.reasoning_tokens,
                "rejected_prediction_tokens": 0,
            }
            usage["prompt_tokens_details"] = {"audio_tokens": 0, "cached_tokens": self.prompt.cache_read}
        return usage

    # --- stream

    def frames(self, answer: Answer) -> Iterator[Frame]:
        first = {"choices": [], "created": 0, "id": "", "model": "", "object": "",
                 "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": SAFE}]}  # fmt: skip
        yield False, sse(ordered(first))
        for index in range(self.prompt.candidates):
            yield False, self._chunk({"content": "", "refusal": None, "role": "assistant"}, index)
            yield from self._deltas(answer, index)
        for index in range(self.prompt.candidates):
            usage = self._usage(answer) if self._setting.switches.azure_usage == "finish" and answer.usage else None
            yield False, self._chunk({}, index, finish=self._finish(answer), usage=usage)
        if self.prompt.include_usage and answer.usage and self._setting.switches.azure_usage == "frame":
            value = {**self._base, "choices": [], "object": "chat.completion.chunk", "usage": self._usage(answer)}
            yield False, sse(ordered(value))
        yield False, sse(b"[DONE]")

    def _deltas(self, answer: Answer, index: int) -> Iterator[Frame]:
        number = 0
        last: tuple[str, bytes] = ("", b"")
        for block in answer.blocks:
            if block.kind == "text":
                for piece in pieces(block):
                    if piece is not last[0]:
                        key = "refusal" if answer.finish == "refusal" else "content"
                        last = piece, self._chunk({key: piece}, index, text=piece)
                    yield True, last[1]
            elif block.kind == "call" and self._legacy:
                yield True, self._chunk({"function_call": {"arguments": "", "name": block.name}}, index)
                for piece in pieces(block):
                    yield True, self._chunk({"function_call": {"arguments": piece}}, index)
            elif block.kind == "call":
                opened = {**self._call(block), "function": {"arguments": "", "name": block.name}, "index": number}
                yield True, self._chunk({"tool_calls": [opened]}, index)
                for piece in pieces(block):
                    yield (
                        True,
                        self._chunk({"tool_calls": [{"function": {"arguments": piece}, "index": number}]}, index),
                    )
                number += 1

    def _chunk(
        self, delta: dict[str, Any], index: int, *, finish: str | None = None, text: str = "", usage: Any = None
    ) -> bytes:
        choice = {
            "content_filter_results": SAFE if text else {},
            "delta": delta,
            "finish_reason": finish,
            "index": index,
            "logprobs": self._logprobs(text) if text else None,
        }
        return sse(ordered({**self._base, "choices": [choice], "object": "chat.completion.chunk", "usage": usage}))

    # --- failing

    def failed(self, status: int, message: str, code: str) -> Refusal:
        if status == 429:
            return error(429, message or _THROTTLED, code or "429", None, "rate_limit_error")
        kind = "invalid_request_error" if status < 500 else "server_error"
        return error(status, message or "The server had an error processing your request.", code or None, None, kind)

    def refused(self, why: str) -> Refusal:
        if why == "content_filter":
            text = (
                "The response was filtered due to the prompt triggering Azure OpenAI's content management policy. "
                "Please modify your prompt and retry."
            )
            hate = {**SAFE, "hate": {"filtered": True, "severity": "high"}}
            inner = {"code": "ResponsibleAIPolicyViolation", "content_filter_result": hate}
            return error(400, text, "content_filter", "prompt", None, innererror=inner, status=400)
        text = (
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 214038 tokens. "
            "Please reduce the length of the messages."
        )
        return error(400, text, "context_length_exceeded", "messages", "invalid_request_error")

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        return sse(ordered({"error": {"code": code or str(status), "message": message or _THROTTLED}}))


class Embeddings:
    """One ``POST /embeddings``."""

    stream_type = SSE

    def __init__(self, body: Mapping[str, Any], setting: Setting) -> None:
        self._body = body
        self._setting = setting
        self.prompt = Prompt(setting.deployment.model, stream=False)
        self._inputs: list[Any] = []

    def last_user(self) -> str:
        given = self._body.get("input")
        if isinstance(given, str):
            return given
        return given[-1] if isinstance(given, list) and given and isinstance(given[-1], str) else ""

    def check(self) -> None:
        given = self._body.get("input")
        if isinstance(given, str) or (isinstance(given, list) and given and isinstance(given[0], int)):
            self._inputs = [given]
        elif isinstance(given, list) and given:
            self._inputs = given
        if not self._inputs or any(item in ("", []) for item in self._inputs):
            raise error(
                400, "'$.input' is invalid. Please check the API reference: it must not be empty.", None, "input"
            )
        if len(self._inputs) > 2048:
            raise error(
                400, "Invalid 'input': array too long. Expected an array with maximum length 2048.", None, "input"
            )
        if self._body.get("encoding_format", "float") not in ("float", "base64"):
            raise error(400, "'encoding_format' must be float or base64.", None, "encoding_format")
        wanted = self._body.get("dimensions")
        longest = dimensions(self._setting.deployment.model)
        if wanted is not None and not (isinstance(wanted, int) and 1 <= wanted <= longest):
            raise error(
                400, f"Invalid value for 'dimensions' = {wanted}. Must be less than or equal to {longest}.", None, None
            )
        counts = (tokens(item) if isinstance(item, str) else len(item) for item in self._inputs)
        self.prompt.input_tokens = sum(max(count, 1) for count in counts)

    def reveals_reasoning(self) -> bool:
        return False

    def whole(self, answer: Answer) -> bytes:
        size = self._body.get("dimensions") or dimensions(self._setting.deployment.model)
        packed = self._body.get("encoding_format") == "base64"
        data = []
        for index, item in enumerate(self._inputs):
            values: Any = vector(str(item), size)
            if packed:
                values = base64.b64encode(struct.pack(f"<{size}f", *values)).decode()
            data.append({"embedding": values, "index": index, "object": "embedding"})
        usage = {"prompt_tokens": self.prompt.input_tokens, "total_tokens": self.prompt.input_tokens}
        return ordered({"data": data, "model": self._setting.deployment.model, "object": "list", "usage": usage})

    def frames(self, answer: Answer) -> Iterator[Frame]:
        return iter(())

    def failed(self, status: int, message: str, code: str) -> Refusal:
        return error(status, message or "The request failed.", code or str(status), None)

    def refused(self, why: str) -> Refusal:
        text = "This model's maximum context length is 8192 tokens, however you requested 9001 tokens."
        return error(400, text, None if why == "context_length" else why, None)

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        return sse(ordered({"error": {"code": code or str(status), "message": message or _THROTTLED}}))


def vector(text: str, size: int) -> list[float]:
    """A made-up unit vector, the same for the same text; its values are exact in 32 bits."""
    seed = sum(text.encode("utf-8", "surrogatepass")) + len(text)
    raw = [((seed * 7919 + i * 104_729) % 2048 - 1024) / 1024 or 0.5 for i in range(size)]
    length = sum(value * value for value in raw) ** 0.5
    return list(struct.unpack(f"<{size}f", struct.pack(f"<{size}f", *(value / length for value in raw))))


def text_of(content: Any) -> str:
    """The texts of a message's content."""
    if isinstance(content, str):
        return content
    return joined([str(part["text"]) for part in objects(content) if isinstance(part.get("text"), str)])


def _results(messages: Any) -> list[str]:
    found: list[str] = []
    for message in reversed(objects(messages)):
        if message.get("role") not in ("tool", "function"):
            break
        found.append(text_of(message.get("content")))
    return found[::-1]


def _choice(value: Any) -> str:
    if isinstance(value, Mapping):
        return str((value.get("function") or value).get("name") or "auto")
    return "any" if value == "required" else value if value in ("none", "auto") else "auto"


def _allow(prompt: Prompt, chosen: Mapping[str, Any]) -> None:
    allowed = chosen.get("allowed_tools") or chosen
    names = [(tool.get("function") or tool).get("name") for tool in objects(allowed.get("tools"))]
    prompt.tools = [tool for tool in prompt.tools if tool.name in names]
    prompt.choice = "any" if allowed.get("mode") == "required" else "auto"


def _schema(value: Any) -> Any:
    if not isinstance(value, Mapping) or value.get("type") == "text":
        return None
    return (value.get("json_schema") or {}).get("schema") or {"type": "object"}


def _input_tokens(body: Mapping[str, Any]) -> int:
    total = 3
    for message in objects(body["messages"]):
        total += 3 + tokens(text_of(message.get("content")))
        parts = message.get("content")
        total += IMAGE_TOKENS * sum(
            1 for part in objects(parts) if part.get("type") in ("image_url", "file", "input_audio")
        )
        for call in objects(message.get("tool_calls")):
            inner = call.get("function") or {}
            total += tokens(str(inner.get("name"))) + tokens(str(inner.get("arguments")))
    for tool in objects(body.get("tools")) + objects(body.get("functions")):
        total += tokens(ordered(tool).decode())
    return total
