"""The four paths of a Bedrock deployment, and Titan's embeddings (SAP AI Core wire facts, sections 4.1 and 4.6)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from aicore_proxy.simulator.answers import Answer, Prompt, tokens
from aicore_proxy.simulator.azure import vector
from aicore_proxy.simulator.claude import Invoke, aws_error, aws_exception, aws_failed
from aicore_proxy.simulator.converse import Converse
from aicore_proxy.simulator.faults import Refusal
from aicore_proxy.simulator.operation import SSE, Frame, Operation, Setting, encode
from aicore_proxy.simulator.server import Request


def operation(request: Request, rest: str, body: Mapping[str, Any], setting: Setting) -> Operation | None:
    """The operation of a path, or None where the proxy layer lets nothing through. Only the two streaming paths look
    at ``Accept``: binary frames for the event stream's type, else server-sent events."""
    family = setting.deployment.family
    binary = "vnd.amazon.eventstream" in request.headers.get("accept", "")
    if family.vendor == "titan":
        return Titan(body, setting) if rest == "invoke" else None
    match rest:
        case "invoke" | "invoke-with-response-stream":
            stream = rest != "invoke"
            if family.vendor == "claude":
                return Invoke(body, setting, stream=stream, binary=binary)
            return Converse(body, setting, stream=stream, binary=binary, native=True)
        case "converse" | "converse-stream" if family.vendor != "claude" or family.version >= (3, 5):
            return Converse(body, setting, stream=rest != "converse", binary=binary, native=False)
        case _:
            return None


LONGEST_VECTOR = 1024


class Titan:
    """One ``POST /invoke`` of a Titan embedding model."""

    stream_type = SSE

    def __init__(self, body: Mapping[str, Any], setting: Setting) -> None:
        self._body = body
        self._setting = setting
        self.prompt = Prompt(setting.deployment.model, stream=False)

    def last_user(self) -> str:
        return str(self._body.get("inputText") or "")

    def check(self) -> None:
        for name in self._body:
            if name not in ("inputText", "inputImage", "dimensions", "normalize", "embeddingTypes", "embeddingConfig"):
                raise aws_error(
                    400,
                    f"Malformed input request: #: extraneous key [{name}] is not permitted, please reformat "
                    "your input and try again.",
                )
        if not isinstance(self._body.get("inputText"), str) or not self._body["inputText"]:
            raise aws_error(
                400,
                "Malformed input request: expected minLength: 1, actual: 0, please reformat your input and try again.",
            )
        self._size = self._body.get("dimensions") or (self._body.get("embeddingConfig") or {}).get(
            "outputEmbeddingLength", LONGEST_VECTOR
        )
        if not isinstance(self._size, int) or not 1 <= self._size <= LONGEST_VECTOR:
            raise aws_error(400, f"Malformed input request: {self._size} is not a valid size of an embedding.")
        self.prompt.input_tokens = tokens(self._body["inputText"])

    def reveals_reasoning(self) -> bool:
        return False

    def whole(self, answer: Answer) -> bytes:
        values = vector(self._body["inputText"], self._size)
        return encode({"embedding": values, "inputTextTokenCount": self.prompt.input_tokens})

    def frames(self, answer: Answer) -> Iterator[Frame]:
        return iter(())

    def failed(self, status: int, message: str, code: str) -> Refusal:
        return aws_failed(status, message, code)

    def refused(self, why: str) -> Refusal:
        return aws_error(400, "Too many input tokens. Max input tokens: 8192, request input token count: 9001")

    def error_frame(self, status: int, message: str, code: str) -> bytes:
        return aws_exception(status, message, code)
