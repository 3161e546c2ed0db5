"""Claude on Bedrock's ``invoke`` and ``invoke-with-response-stream`` (SAP AI Core wire facts, sections 4.2 to 4.4)."""

from __future__ import annotations

import base64
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from aicore_proxy.simulator import eventstream
from aicore_proxy.simulator.answers import Answer, Block, Prompt, ToolSpec, joined, pieces, tokens, whole
from aicore_proxy.simulator.claude_rules import Rules
from aicore_proxy.simulator.families import upstream_name
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import SSE, Frame, Setting, encode, objects, sse

THROTTLED = "Too many tokens, please wait before trying again."
CACHE_LIFE = 300.0
LOOK_BACK = 20
MEDIA_TOKENS = 1_500
TELLS_JSON = re.compile(r"(?i)\b(?:answer|reply|respond) (?:only )?with [\w ]*\bJSON object\b")
_STOP = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "calls": "tool_use",
         "content_filter": "refusal", "refusal": "refusal"}  # fmt: skip
ERROR_TYPES = {400: "ValidationException", 403: "AccessDeniedException", 404: "ResourceNotFoundException",
               408: "ModelTimeoutException", 424: "ModelErrorException", 429: "ThrottlingException",
               500: "InternalServerException", 503: "ServiceUnavailableException"}  # fmt: skip
_EVENT_ERRORS = {
    429: "rate_limit_error",
    529: "overloaded_error",
    503: "overloaded_error",
    400: "invalid_request_error",
}


def aws_error(status: int, message: str, code: str = "") -> Refusal:
    """An AWS error as SAP passes it on: the body, and the type in a header."""
    kind = code or ERROR_TYPES.get(status, "ModelErrorException")
    return Refusal(status, encode({"message": message}), headers={"x-amzn-errortype": kind})


def aws_failed(status: int, message: str, code: str) -> Refusal:
    """The usual words for a status."""
    usual = (
        THROTTLED
        if status == 429
        else "The system encountered an unexpected error during processing. Try your request again."
    )
    return aws_error(status, message or usual, code)


def aws_exception(status: int, message: str, code: str) -> bytes:
    """The same inside a binary stream."""
    kind = code or ERROR_TYPES.get(status, "modelStreamErrorException")
    return eventstream.exception(kind[0].lower() + kind[1:], encode({"message": message or THROTTLED}))


class Invoke:
    """One ``POST /invoke`` or ``/invoke-with-response-stream`` with an Anthropic body."""

    def __init__(self, body: Mapping[str, Any], setting: Setting, *, stream: bool, binary: bool) -> None:
        self._body = body
        self._setting = setting
        self._binary = binary
        self.stream_type = eventstream.CONTENT_TYPE if binary else SSE
        self.prompt = Prompt(setting.deployment.model, stream)
        self._cache_5m = self._cache_1h = 0
        self._started = time.monotonic()

    def last_user(self) -> str:
        for message in reversed(objects(self._body.get("messages"))):
            if message.get("role") == "user":
                text = text_of(message.get("content"))
                if text:
                    return text
        return ""

    def check(self) -> None:
        body = self._body
        Rules(body, self._setting).check()
        self.prompt = prompt = Prompt(self._setting.deployment.model, self.prompt.stream, self.last_user())
        prompt.results = _results(body["messages"])
        prompt.tools = [ToolSpec(str(tool["name"]), tool.get("input_schema")) for tool in body.get("tools") or []]
        chosen = body.get("tool_choice") or {}
        prompt.choice = chosen["name"] if chosen.get("type") == "tool" else chosen.get("type", "auto")
        form = (body.get("output_config") or {}).get("format")
        prompt.schema = form.get("schema") or {"type": "object"} if form else None
        if form is None and _told_json(body.get("system")):
            prompt.schema = {"type": "object"}
        prompt.thinking = (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")
        prompt.max_tokens = body["max_tokens"]
        prompt.stop = list(body.get("stop_sequences") or [])
        self._count()

    def reveals_reasoning(self) -> bool:
        return True

    # --- tokens

    def _count(self) -> None:
        """Input tokens, and what of them is read from or written to the prompt cache: written is the prefix up to the
        last mark, kept for five minutes (or the hour that ``ttl`` says); read is the longest prefix that was written
        before and ends at a mark or up to 20 blocks ahead of one (Anthropic, "Prompt caching")."""
        total = 0
        digest = hashlib.sha256()
        ends: list[tuple[Any, int]] = []
        marks: list[tuple[int, bool]] = []
        for (raw, count), mark in _prompt_pieces(self._body):
            total += count
            digest.update(raw)
            ends.append((digest.copy(), total))
            if mark:
                marks.append((len(ends) - 1, mark.get("ttl") == "1h"))
        prompt = self.prompt
        prompt.input_tokens = total - (ends[marks[-1][0]][1] if marks else 0)
        caches, place, now = self._setting.caches, self._setting.deployment.id, time.monotonic()
        for end in sorted({n for at, _ in marks for n in range(max(0, at - LOOK_BACK), at + 1)}, reverse=True):
            if caches.get((place, ends[end][0].hexdigest()), 0.0) > now:
                prompt.cache_read = ends[end][1]
                break
        if marks:
            prompt.cache_write = max(0, ends[marks[-1][0]][1] - prompt.cache_read)
            self._cache_5m, self._cache_1h = (0, prompt.cache_write) if marks[-1][1] else (prompt.cache_write, 0)
        for at, long in marks:
            caches[place, ends[at][0].hexdigest()] = now + (3600.0 if long else CACHE_LIFE)

    def _usage(self, output: int) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt.input_tokens,
            "cache_creation_input_tokens": self.prompt.cache_write,
            "cache_read_input_tokens": self.prompt.cache_read,
            "cache_creation": {
                "ephemeral_5m_input_tokens": self._cache_5m,
                "ephemeral_1h_input_tokens": self._cache_1h,
            },
            "output_tokens": output,
        }

    # --- whole

    def _message(self) -> dict[str, Any]:
        return {
            "model": upstream_name(self._setting.deployment.model),
            "id": f"msg_bdrk_01{self._setting.serial(22)}",
            "type": "message",
            "role": "assistant",
        }

    def whole(self, answer: Answer) -> bytes:
        value: dict[str, Any] = {
            **self._message(),
            "content": [self._block(block) for block in answer.blocks],
            "stop_reason": _STOP[answer.finish],
            "stop_sequence": answer.stop_sequence,
        }
        if answer.usage:
            value["usage"] = self._usage(answer.output_tokens)
        return encode(value)

    def _block(self, block: Block) -> dict[str, Any]:
        text = whole(block)
        if block.kind == "think":
            shown = "" if self._omits() else text
            return {"type": "thinking", "thinking": shown, "signature": self._setting.signer.mint("claude", shown)}
        if block.kind == "text":
            return {"type": "text", "text": text}
        try:
            arguments = msgspec.json.decode(text or "{}")
        except msgspec.DecodeError:
            arguments = {}
        return {"type": "tool_use", "id": self._call_id(block), "name": block.name, "input": arguments}

    def _omits(self) -> bool:
        return bool((self._body.get("thinking") or {}).get("display") == "omitted")

    def _call_id(self, block: Block) -> str:
        return block.id or f"toolu_bdrk_01{self._setting.serial(22)}"

    # --- stream

    def frames(self, answer: Answer) -> Iterator[Frame]:
        start = {**self._message(), "content": [], "stop_reason": None, "stop_sequence": None, "usage": self._usage(1)}
        yield False, self._frame({"type": "message_start", "message": start})
        for index, block in enumerate(answer.blocks):
            yield (
                False,
                self._frame({"type": "content_block_start", "index": index, "content_block": self._opened(block)}),
            )
            last: tuple[str, bytes] = ("", b"")
            shown = pieces(block) if not (block.kind == "think" and self._omits()) else iter(())
            for piece in shown:
                if piece is not last[0]:
                    last = piece, self._delta(index, _delta(block.kind, piece))
                yield True, last[1]
            if block.kind == "think":
                text = "" if self._omits() else whole(block)
                signature = self._setting.signer.mint("claude", text)
                yield True, self._delta(index, {"type": "signature_delta", "signature": signature})
            yield False, self._frame({"type": "content_block_stop", "index": index})
        delta = {"stop_reason": _STOP[answer.finish], "stop_sequence": answer.stop_sequence}
        ended: dict[str, Any] = {"type": "message_delta", "delta": delta}
        if answer.usage:
            ended["usage"] = {"output_tokens": answer.output_tokens}
        yield False, self._frame(ended)
        yield False, self._frame({"type": "message_stop", "amazon-bedrock-invocationMetrics": self._metrics(answer)})

    def _metrics(self, answer: Answer) -> dict[str, int]:
        spent = int((time.monotonic() - self._started) * 1000) + 1
        return {
            "inputTokenCount": self.prompt.input_tokens,
            "outputTokenCount": answer.output_tokens,
            "invocationLatency": spent,
            "firstByteLatency": spent,
            "cacheReadInputTokenCount": self.prompt.cache_read,
            "cacheWriteInputTokenCount": self.prompt.cache_write,
        }

    def _opened(self, block: Block) -> dict[str, Any]:
        if block.kind == "think":
            return {"type": "thinking", "thinking": "", "signature": ""}
        if block.kind == "text":
            return {"type": "text", "text": ""}
        return {"type": "tool_use", "id": self._call_id(block), "name": block.name, "input": {}}

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return self._frame({"type": "content_block_delta", "index": index, "delta": delta})

    def _frame(self, event: dict[str, Any]) -> bytes:
        payload = encode(event)
        if self._binary:
            padding = "abcdefghijklmnopqrstuvwxyz"[: self._setting.random.randint(1, 26)]
            return eventstream.event("chunk", encode({"bytes": base64.b64encode(payload).decode(), "p": padding}))
        if self._setting.switches.invoke_event_lines:
            return b"event: " + str(event["type"]).encode() + b"\n" + sse(payload)
        return sse(payload)

    # --- failing

    def failed(self, status: int, message: str, code: str) -> Refusal:
        return aws_failed(status, message, code)

    def refused(self, why: str) -> Refusal:
        if why == "content_filter":
            return aws_error(400, "Output blocked by content filtering policy")
        return aws_error(400, "prompt is too long: 214038 tokens > 200000 maximum")

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        if self._binary:
            return aws_exception(status, message, code)
        kind = code or _EVENT_ERRORS.get(status, "api_error")
        return sse(encode({"type": "error", "error": {"type": kind, "message": message or THROTTLED}}))


def _delta(kind: str, piece: str) -> dict[str, Any]:
    if kind == "think":
        return {"type": "thinking_delta", "thinking": piece}
    if kind == "text":
        return {"type": "text_delta", "text": piece}
    return {"type": "input_json_delta", "partial_json": piece}


def _told_json(system: Any) -> bool:
    """Whether the last words of the system prompt demand JSON: there is no mode for it, and the model obeys."""
    blocks = _blocks(system or [])
    return bool(blocks) and re.search(TELLS_JSON, str(blocks[-1].get("text", ""))) is not None


def text_of(content: Any) -> str:
    """The texts of a turn's content, without those of tool results."""
    if isinstance(content, str):
        return content
    return joined([str(block["text"]) for block in objects(content) if isinstance(block.get("text"), str)])


def _results(messages: list[Mapping[str, Any]]) -> list[str]:
    """The texts of the tool results of the last user turn (which may be several messages), if it has some."""
    found: list[str] = []
    for message in reversed(messages):
        if message["role"] == "system":
            continue
        if message["role"] == "assistant":
            break
        results = [block for block in objects(message.get("content")) if block.get("type") == "tool_result"]
        found = [text_of(block.get("content")) for block in results] + found
    return found


def _prompt_pieces(body: Mapping[str, Any]) -> Iterator[tuple[tuple[bytes, int], Mapping[str, Any] | None]]:
    """The prompt in the order of its cache prefix: (bytes, tokens) and the cache mark behind it."""
    for tool in objects(body.get("tools")):
        yield _piece(tool), tool.get("cache_control")
    system = body.get("system") or []
    for block in _blocks(system):
        yield _piece(block), block.get("cache_control")
    for message in objects(body.get("messages")):
        content = message.get("content")
        yield (str(message.get("role")).encode(), 3), None
        for block in _blocks(content):
            yield _piece(block), block.get("cache_control")


def _blocks(content: Any) -> list[Mapping[str, Any]]:
    return [{"text": content}] if isinstance(content, str) else objects(content)


def _piece(block: Mapping[str, Any]) -> tuple[bytes, int]:
    bare = {name: value for name, value in block.items() if name != "cache_control"}
    raw = encode(bare)
    if bare.keys() <= {"type", "text"}:
        return raw, tokens(str(bare.get("text", "")))
    return raw, MEDIA_TOKENS if block.get("type") in ("image", "document") else (len(raw) + 3) // 4
