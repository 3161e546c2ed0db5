"""Bedrock's Converse API, and Nova's native body, which is nearly the same (SAP AI Core wire facts, 4.2 and 4.5)."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from aicore_proxy.simulator import eventstream
from aicore_proxy.simulator.answers import Answer, Block, Prompt, ToolSpec, joined, pieces, tokens, whole
from aicore_proxy.simulator.claude import MEDIA_TOKENS, aws_error, aws_exception, aws_failed
from aicore_proxy.simulator.converse_rules import ConverseRules
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import SSE, Frame, Setting, encode, objects, sse

_STOP = {"stop": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens", "calls": "tool_use",
         "content_filter": "content_filtered", "refusal": "content_filtered"}  # fmt: skip


class Converse:
    """One ``POST /converse`` or ``/converse-stream``; ``native``: Nova's own body on the invoke paths."""

    def __init__(self, body: Mapping[str, Any], setting: Setting, *, stream: bool, binary: bool, native: bool) -> None:
        self._body = body
        self._setting = setting
        self._binary = binary
        self._native = native
        self._started = time.monotonic()
        self.stream_type = eventstream.CONTENT_TYPE if binary else SSE
        self.prompt = Prompt(setting.deployment.model, stream)

    def last_user(self) -> str:
        for message in reversed(objects(self._body.get("messages"))):
            if message.get("role") == "user":
                text = _text(message.get("content"))
                if text:
                    return text
        return ""

    def check(self) -> None:
        body = self._body
        ConverseRules(body, self._setting, stream=self.prompt.stream, native=self._native).check()
        self.prompt = prompt = Prompt(self._setting.deployment.model, self.prompt.stream, self.last_user())
        last = objects(body["messages"])[-1]
        results = [block["toolResult"] for block in objects(last.get("content")) if "toolResult" in block]
        prompt.results = [_result_text(result) for result in results]
        tool_config = body.get("toolConfig") or {}
        prompt.tools = [
            ToolSpec(str(tool["toolSpec"]["name"]), (tool["toolSpec"].get("inputSchema") or {}).get("json"))
            for tool in objects(tool_config.get("tools"))
            if "toolSpec" in tool
        ]
        chosen = tool_config.get("toolChoice") or {}
        prompt.choice = chosen["tool"]["name"] if "tool" in chosen else "any" if "any" in chosen else "auto"
        inference = body.get("inferenceConfig") or {}
        extra = body.get("additionalModelRequestFields") or {}
        prompt.thinking = (extra.get("thinking") or {}).get("type") in ("enabled", "adaptive")
        prompt.max_tokens = inference.get("maxTokens") or inference.get("max_new_tokens")
        prompt.stop = list(inference.get("stopSequences") or [])
        prompt.input_tokens = _input_tokens(body)

    def reveals_reasoning(self) -> bool:
        return True

    # --- whole

    def whole(self, answer: Answer) -> bytes:
        value: dict[str, Any] = {
            "output": {"message": {"role": "assistant", "content": [self._block(block) for block in answer.blocks]}},
            "stopReason": _STOP[answer.finish],
        }
        if answer.usage:
            value["usage"] = self._usage(answer)
        if not self._native:
            value["metrics"] = {"latencyMs": self._spent()}
        return encode(value)

    def _spent(self) -> int:
        return int((time.monotonic() - self._started) * 1000) + 1

    def _usage(self, answer: Answer) -> dict[str, int]:
        return {
            "inputTokens": self.prompt.input_tokens,
            "outputTokens": answer.output_tokens,
            "totalTokens": self.prompt.input_tokens + answer.output_tokens,
            "cacheReadInputTokens": self.prompt.cache_read,
            "cacheWriteInputTokens": self.prompt.cache_write,
        }

    def _block(self, block: Block) -> dict[str, Any]:
        text = whole(block)
        if block.kind == "think":
            signature = self._setting.signer.mint("claude", text)
            return {"reasoningContent": {"reasoningText": {"text": text, "signature": signature}}}
        if block.kind == "text":
            return {"text": text}
        try:
            arguments = msgspec.json.decode(text or "{}")
        except msgspec.DecodeError:
            arguments = {}
        return {"toolUse": {"toolUseId": self._call_id(block), "name": block.name, "input": arguments}}

    def _call_id(self, block: Block) -> str:
        return block.id or f"tooluse_{self._setting.serial(22)}"

    # --- stream

    def frames(self, answer: Answer) -> Iterator[Frame]:
        yield False, self._frame("messageStart", {"role": "assistant"})
        for index, block in enumerate(answer.blocks):
            if block.kind == "call":
                opened = {"toolUse": {"toolUseId": self._call_id(block), "name": block.name}}
                yield False, self._frame("contentBlockStart", {"start": opened, "contentBlockIndex": index})
            last: tuple[str, bytes] = ("", b"")
            for piece in pieces(block):
                if piece is not last[0]:
                    last = piece, self._delta(index, _delta(block.kind, piece))
                yield True, last[1]
            if block.kind == "think":
                signature = self._setting.signer.mint("claude", whole(block))
                yield True, self._delta(index, {"reasoningContent": {"signature": signature}})
            yield False, self._frame("contentBlockStop", {"contentBlockIndex": index})
        yield False, self._frame("messageStop", {"stopReason": _STOP[answer.finish]})
        metadata: dict[str, Any] = {"metrics": {"latencyMs": self._spent()}}
        if answer.usage:
            metadata = {"usage": self._usage(answer), **metadata}
        yield False, self._frame("metadata", metadata)

    def _delta(self, index: int, delta: dict[str, Any]) -> bytes:
        return self._frame("contentBlockDelta", {"delta": delta, "contentBlockIndex": index})

    def _frame(self, kind: str, inner: dict[str, Any]) -> bytes:
        if self._binary and self._native:
            payload = base64.b64encode(encode({kind: inner})).decode()
            return eventstream.event("chunk", encode({"bytes": payload, "p": "abcdef"}))
        if self._binary:
            return eventstream.event(kind, encode({**inner, "p": "abcdefgh"[: self._setting.random.randint(1, 8)]}))
        return sse(self._written({kind: inner}))

    def _written(self, value: dict[str, Any]) -> bytes:
        if self._native or self._setting.switches.converse_stream == "json":
            return encode(value)
        return repr(value).encode()

    # --- failing

    def failed(self, status: int, message: str, code: str) -> Refusal:
        return aws_failed(status, message, code)

    def refused(self, why: str) -> Refusal:
        if why == "content_filter":
            return aws_error(400, "Output blocked by content filtering policy")
        return aws_error(400, "Input is too long for requested model.")

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        if self._binary:
            return aws_exception(status, message, code)
        kind = code or ("rate_limit_error" if status == 429 else "api_error")
        text = message or "Too many tokens, please wait before trying again."
        return sse(self._written({"type": "error", "error": {"type": kind, "message": text}}))


def _delta(kind: str, piece: str) -> dict[str, Any]:
    if kind == "think":
        return {"reasoningContent": {"text": piece}}
    return {"text": piece} if kind == "text" else {"toolUse": {"input": piece}}


def _text(content: Any) -> str:
    return joined([str(block["text"]) for block in objects(content) if isinstance(block.get("text"), str)])


def _result_text(result: Mapping[str, Any]) -> str:
    return joined(
        [
            str(part["text"]) if "text" in part else encode(part.get("json")).decode()
            for part in objects(result.get("content"))
            if "text" in part or "json" in part
        ]
    )


def _input_tokens(body: Mapping[str, Any]) -> int:
    total = sum(tokens(encode(tool).decode()) for tool in objects((body.get("toolConfig") or {}).get("tools")))
    for holder in [{"content": body.get("system")}, *objects(body.get("messages"))]:
        total += 2
        for block in objects(holder.get("content")):
            if isinstance(block.get("text"), str):
                total += tokens(block["text"])
            elif block.keys() & {"image", "document", "video"}:
                total += MEDIA_TOKENS
            elif "cachePoint" not in block:
                total += tokens(encode(block).decode())
    return total
