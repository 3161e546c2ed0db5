"""Gemini on Vertex: generateContent, its stream, and embeddings (SAP AI Core wire facts, section 5)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from aicore_proxy.simulator.answers import Answer, Block, Prompt, ToolSpec, joined, pieces, tokens, whole
from aicore_proxy.simulator.azure import vector
from aicore_proxy.simulator.families import dimensions
from aicore_proxy.simulator.faults import JSON, Refusal
from aicore_proxy.simulator.gemini_rules import Rules, as_list, error, get
from aicore_proxy.simulator.operation import SSE, Frame, Setting, encode, objects, sse

_FINISH = {"stop": "STOP", "stop_sequence": "STOP", "length": "MAX_TOKENS", "calls": "STOP", "content_filter": "SAFETY",
           "refusal": "PROHIBITED_CONTENT"}  # fmt: skip
_THROTTLED = "Resource exhausted. Please try again later."
MEDIA_TOKENS = 258


class Generate:
    """One ``POST /models/{m}:generateContent`` or ``:streamGenerateContent``."""

    stream_type = SSE

    def __init__(self, body: Mapping[str, Any], setting: Setting, *, stream: bool) -> None:
        self._body = body
        self._setting = setting
        self._config: Any = get(body, "generationConfig")
        self._thinking: Any = get(self._config, "thinkingConfig")
        self._id = setting.serial(22)
        self.prompt = Prompt(setting.deployment.model, stream)

    def last_user(self) -> str:
        for content in reversed(objects(as_list(self._body.get("contents")))):
            if content.get("role", "user") == "user":
                text = _text(content)
                if text:
                    return text
        return ""

    def check(self) -> None:
        Rules(self._body, self._setting).check()
        self.prompt = prompt = Prompt(self._setting.deployment.model, self.prompt.stream, self.last_user())
        contents = objects(as_list(self._body["contents"]))
        prompt.results = _results(contents)
        prompt.tools = [
            ToolSpec(
                str(declared["name"]),
                get(declared, "parametersJsonSchema") or declared.get("parameters") or {"type": "object"},
            )
            for tool in objects(as_list(self._body.get("tools")))
            for declared in objects(get(tool, "functionDeclarations"))
        ]
        self._choose(prompt)
        if get(self._config, "responseMimeType") == "application/json":
            schema = get(self._config, "responseJsonSchema") or get(self._config, "responseSchema")
            prompt.schema = schema or {"type": "object"}
        prompt.candidates = get(self._config, "candidateCount") or 1
        prompt.thinking = self._setting.deployment.family.reasons and get(self._thinking, "thinkingBudget") != 0
        prompt.max_tokens = get(self._config, "maxOutputTokens")
        prompt.stop = list(get(self._config, "stopSequences") or [])
        prompt.input_tokens = _input_tokens(self._body)

    def _choose(self, prompt: Prompt) -> None:
        calling = get(get(self._body, "toolConfig") or {}, "functionCallingConfig") or {}
        mode = str(calling.get("mode") or "AUTO").upper()
        prompt.choice = {"ANY": "any", "NONE": "none"}.get(mode, "auto")
        allowed = get(calling, "allowedFunctionNames")
        if allowed:
            prompt.tools = [tool for tool in prompt.tools if tool.name in allowed]

    def reveals_reasoning(self) -> bool:
        return bool(get(self._thinking, "includeThoughts"))

    # --- writing

    def _frame(
        self,
        parts: list[dict[str, Any]],
        finish: str | None,
        answer: Answer,
        *,
        usage: bool,
        indices: Sequence[int] = (0,),
    ) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}}
        if finish is not None:
            candidate["finishReason"] = finish
            if not self.prompt.stream:
                candidate["avgLogprobs"] = -0.1
        # Protobuf leaves out a zero
        candidates = [{**candidate, "index": index} if index else candidate for index in indices]
        value: dict[str, Any] = {"candidates": candidates}
        if usage and answer.usage:
            value["usageMetadata"] = self._usage(answer, whole=finish is not None)
        return value | {"modelVersion": self._setting.deployment.model, "responseId": self._id}

    def _usage(self, answer: Answer, *, whole: bool) -> dict[str, Any]:
        prompt = self.prompt.input_tokens
        if not whole:
            return {"promptTokenCount": prompt, "totalTokenCount": prompt, "trafficType": "ON_DEMAND"}
        thoughts = answer.reasoning_tokens
        shown = (answer.output_tokens - thoughts) * self.prompt.candidates
        return {
            "promptTokenCount": prompt,
            "candidatesTokenCount": shown,
            "totalTokenCount": prompt + shown + thoughts,
            "thoughtsTokenCount": thoughts,
            "cachedContentTokenCount": 0,
            "trafficType": "ON_DEMAND",
        }

    def _parts(self, answer: Answer, *, sliced: bool) -> Iterator[dict[str, Any]]:
        signed = False
        for block in answer.blocks:
            if block.kind == "call":
                part = self._call(block)
                if self._signs and not signed:
                    part["thoughtSignature"] = self._setting.signer.seal("gemini")
                    signed = True
                yield part
                continue
            thought = {"thought": True} if block.kind == "think" else {}
            for piece in pieces(block) if sliced else iter([whole(block)]):
                yield {"text": piece, **thought}

    @property
    def _signs(self) -> bool:
        return self.prompt.thinking

    def _call(self, block: Block) -> dict[str, Any]:
        try:
            arguments = msgspec.json.decode(block.text or "{}")
        except msgspec.DecodeError:
            arguments = {}
        name = self._setting.switches.gemini_function_prefix + block.name
        return {"functionCall": {"name": name, "args": arguments}}

    def whole(self, answer: Answer) -> bytes:
        parts = list(self._parts(answer, sliced=False))
        if self._signs_text(answer) and parts:
            parts[-1]["thoughtSignature"] = self._setting.signer.seal("gemini")
        every = range(self.prompt.candidates)
        return encode(self._frame(parts, _FINISH[answer.finish], answer, usage=True, indices=every))

    def _signs_text(self, answer: Answer) -> bool:
        """Since Gemini 3 a text answer is signed too."""
        calls = any(block.kind == "call" for block in answer.blocks)
        return self._signs and not calls and self._setting.deployment.family.version >= (3, 0)

    def frames(self, answer: Answer) -> Iterator[Frame]:
        every = self._setting.switches.gemini_usage == "every"
        last: tuple[Any, bytes] = (None, b"")
        for part in self._parts(answer, sliced=True):
            text = part.get("text") if len(part) == 1 else None
            if text is None or text is not last[0]:
                last = text, sse(encode(self._frame([part], None, answer, usage=every)))
            yield True, last[1]
            for index in range(1, self.prompt.candidates):
                yield True, sse(encode(self._frame([part], None, answer, usage=every, indices=(index,))))
        end: dict[str, Any] = {"text": ""}
        if self._signs_text(answer):
            end["thoughtSignature"] = self._setting.signer.seal("gemini")
        indices = range(self.prompt.candidates)
        yield False, sse(encode(self._frame([end], _FINISH[answer.finish], answer, usage=True, indices=indices)))

    # --- failing

    def failed(self, status: int, message: str, code: str) -> Refusal:
        return error(status, message or (_THROTTLED if status == 429 else "Internal error encountered."), code)

    def refused(self, why: str) -> Refusal:
        if why == "context_length":
            return error(400, "The input token count (1100000) exceeds the maximum number of tokens allowed (1048576).")
        # Google answers a filtered prompt with 200, without a candidate.
        value = {
            "promptFeedback": {"blockReason": "SAFETY", "blockReasonMessage": "The prompt was blocked."},
            "usageMetadata": {
                "promptTokenCount": self.prompt.input_tokens,
                "totalTokenCount": self.prompt.input_tokens,
            },
            "modelVersion": self._setting.deployment.model,
            "responseId": self._id,
        }
        body = encode(value)
        return Refusal(200, sse(body), SSE) if self.prompt.stream else Refusal(200, body, JSON)

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        return sse(self.failed(status, message, code).body)


class Embed:
    """One ``:embedContent`` or ``:predict`` of an embedding model."""

    stream_type = SSE

    def __init__(self, body: Mapping[str, Any], setting: Setting, *, verb: str) -> None:
        self._body = body
        self._setting = setting
        self._verb = verb
        self.prompt = Prompt(setting.deployment.model, stream=False)
        self._texts: list[str] = []

    def last_user(self) -> str:
        self._read()
        return self._texts[-1] if self._texts else ""

    def _read(self) -> None:
        if self._verb == "predict":
            self._texts = [str(item.get("content", "")) for item in objects(self._body.get("instances"))]
        else:
            content = self._body.get("content")
            self._texts = [_text(content)] if isinstance(content, Mapping) else []

    def check(self) -> None:
        self._read()
        if not self._texts or not all(self._texts):
            raise error(400, "The text content is empty.")
        longest = dimensions(self._setting.deployment.model)
        size = get(self._body.get("parameters") or self._body, "outputDimensionality") or longest
        if not isinstance(size, int) or not 1 <= size <= longest:
            raise error(400, f"The output dimensionality must be between 1 and {longest}.")
        self._size = size
        self.prompt.input_tokens = sum(tokens(text) for text in self._texts)

    def reveals_reasoning(self) -> bool:
        return False

    def whole(self, answer: Answer) -> bytes:
        if self._verb == "embedContent":
            return encode({"embedding": {"values": vector(self._texts[0], self._size)}})
        predictions = [
            {
                "embeddings": {
                    "values": vector(text, self._size),
                    "statistics": {"token_count": tokens(text), "truncated": False},
                }
            }
            for text in self._texts
        ]
        return encode(
            {"predictions": predictions, "metadata": {"billableCharacterCount": sum(len(text) for text in self._texts)}}
        )

    def frames(self, answer: Answer) -> Iterator[Frame]:
        return iter(())

    def failed(self, status: int, message: str, code: str) -> Refusal:
        return error(status, message or "Internal error encountered.", code)

    def refused(self, why: str) -> Refusal:
        return error(400, "The input token count (9001) exceeds the maximum number of tokens allowed (2048).")

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        return sse(self.failed(status, message, code).body)


def _text(content: Mapping[str, Any]) -> str:
    return joined(
        [str(part["text"]) for part in objects(as_list(content.get("parts"))) if isinstance(part.get("text"), str)]
    )


def _results(contents: list[Mapping[str, Any]]) -> list[str]:
    found: list[str] = []
    for content in reversed(contents):
        if content.get("role") == "model":
            break
        parts = objects(as_list(content.get("parts")))
        results = [response for part in parts if (response := get(part, "functionResponse"))]
        found = [encode(response.get("response")).decode() for response in results] + found
    return found


def _input_tokens(body: Mapping[str, Any]) -> int:
    system = get(body, "systemInstruction")
    contents = objects(as_list(body["contents"])) + ([system] if isinstance(system, Mapping) else [])
    total = sum(tokens(encode(tool).decode()) for tool in objects(as_list(body.get("tools"))))
    for content in contents:
        for part in objects(as_list(content.get("parts"))):
            if isinstance(part.get("text"), str):
                total += tokens(part["text"])
            elif get(part, "inlineData") or get(part, "fileData"):
                total += MEDIA_TOKENS
            else:
                total += tokens(encode(part).decode())
        total += 1
    return total
